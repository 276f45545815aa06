"""``preprocess``: pictures as a published classifier saw them when its accuracy was measured."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS
from fbnet_lesson.classification.published import IMAGENET_MEAN, IMAGENET_STD, pretrained


@dataclass(frozen=True)
class Preprocess:
    """Resize the short edge, crop the centre, scale to 0..1, normalise; call it on a picture."""

    resize: int  # short edge in pixels; the long one in proportion, rounded down
    resolution: int  # side of the crop
    interpolation: str  # one of torchvision's InterpolationMode; downscaling averages (antialias)
    mean: tuple[float, float, float]  # of red, green and blue in 0..1
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> Tensor:
        """A PIL image of any mode and size as float RGB ``[3, S, S]``, S the resolution.

        Transparency is dropped, as the published evaluations do.
        """
        if not isinstance(image, Image.Image):
            raise ValueError(f"cannot preprocess a {type(image).__name__}; expected a PIL image")
        image = image.convert("RGB")
        image = F.resize(image, [self.resize], InterpolationMode(self.interpolation))
        image = F.center_crop(image, [self.resolution, self.resolution])
        pixels = F.pil_to_tensor(image).float() / 255  # [3, S, S]
        return F.normalize(pixels, list(self.mean), list(self.std))


def preprocess(model_or_name: str | object) -> Preprocess:
    """The published evaluation transform of a classifier, given by its name or as a model.

    timm: its ``create_transform``. mobile_cv: its ``get_preprocess``; its zoo states another resize
    beside the accuracies, to be had with
    ``dataclasses.replace(preprocess(name), resize=PRETRAINED[name].zoo_resize)``.

    The lesson's classifiers see the whole of a square picture, normalised as the published ones.

    Raises ValueError for what has no published weights, detectors too: they prepare their images
    themselves.
    """
    name = getattr(model_or_name, "name", model_or_name)
    if isinstance(name, str) and name.startswith("lesson/") and name in CLASSIFICATION_ARCHS:
        side = CLASSIFICATION_ARCHS[name].input_size
        return Preprocess(side, side, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
    weights = pretrained(model_or_name)
    return Preprocess(
        weights.resize, weights.resolution, weights.interpolation, weights.mean, weights.std
    )
