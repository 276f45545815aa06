"""How many objects of a set reach a model, once a transform has scaled their pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .transforms import MIN_PIXELS


@dataclass(frozen=True)
class Reach:
    """Of ``total`` objects (crowds apart), how many ``train_transform`` leaves in a picture.

    never: too small at the largest scale. expected: the mean number that are large enough at a
    random scale; what a crop cuts off is not counted. worst: {class: never}, the most first.
    size: the edge in pixels of a canvas on which 95 of 100 objects are large enough.
    """

    total: int
    never: int
    expected: float
    worst: dict[str, int]
    size: int

    def sentence(self, canvas):
        """What to tell, with the remedy; None where nearly all objects reach the model."""
        if self.total == 0 or self.expected >= 0.95 * self.total:
            return None
        where = f"fitted to {canvas[1]} x {canvas[0]} pixels"
        remedy = f"--image-size {self.size} keeps 95 of 100"
        if not self.never:
            return (
                f"of {self.total} objects, {self.expected:.0f} on average are large enough to be "
                f"learned from once their picture is {where} and scaled at random: {remedy}"
            )
        classes = ", ".join(f"{name} {count}" for name, count in list(self.worst.items())[:5])
        return (
            f"{self.never} of {self.total} objects are left out as too small (fewer than "
            f"{MIN_PIXELS} pixels) once their picture is {where}, at any scale: {classes}; {remedy}"
        )


def reach(dataset, canvas, scale_range):
    """The ``Reach`` of a ``CocoDataset`` through ``train_transform(canvas, scale_range)``."""
    objects = dataset.objects
    single = ~objects.iscrowd
    sizes = np.array(dataset.image_sizes, float)[dataset.places]
    factor = (np.array(canvas) / sizes).min(1)[single]
    low, high = scale_range or (1.0, 1.0)
    # An object of A pixels has A (factor scale)^2 of them on the canvas.
    needed = np.sqrt(MIN_PIXELS / objects.pixels[single].clip(1e-9)) / factor
    if high > low:
        share = ((high - needed) / (high - low)).clip(0, 1)
    else:
        share = (needed <= high).astype(float)
    never = dataset.labels[single][needed > high]
    counts = np.bincount(never, minlength=len(dataset.categories))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    enough = np.quantile(needed / low, 0.95) if len(needed) else 1.0
    return Reach(
        total=len(needed),
        never=len(never),
        expected=float(share.sum()),
        worst={dataset.categories[i]: int(counts[i]) for i in order},
        size=32 * math.ceil(min(max(canvas) * enough, 1e6) / 32),
    )
