"""Fields of a detector's config that let it find fewer objects than a picture has."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from fbnet_lesson.detection.config import DetectorConfig


def limits_in_the_way(model: nn.Module, *datasets: Any) -> list[str]:
    """A sentence for each limit below the number of objects in some picture, with what raises it.

    datasets: those that have ``places``, ``objects`` and ``file_names``, as a ``CocoDataset``;
    others, and None, are passed over. Crowds do not count.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, DetectorConfig):
        return []
    fullest = max(filter(None, map(_fullest, datasets)), default=(0, ""))
    lines = []
    for name in ("pre_nms_topk", "post_nms_topk", "detections_per_image"):
        value = getattr(config, name)
        most = value[1] if isinstance(value, tuple) else value
        maps = len(config.anchor_sizes) if name == "pre_nms_topk" else 1
        if most * maps >= fullest[0]:
            continue
        wanted = 2 * fullest[0]  # room for boxes that are wrong
        higher = f'"{name}=({value[0]}, {wanted})"' if value != most else f"{name}={wanted}"
        lines.append(
            f"{fullest[1]} has {fullest[0]} objects and the model keeps at most {name}={most} in a "
            f"picture: it cannot find all; --set {higher} raises it"
        )
    return lines


def _fullest(dataset: Any) -> tuple[int, str] | None:
    """The number of objects in the picture that has most, and its file name."""
    if not hasattr(dataset, "places"):
        return None
    counts = np.bincount(dataset.places[~dataset.objects.iscrowd], minlength=1)
    index = int(counts.argmax())
    return int(counts[index]), dataset.file_names[index]
