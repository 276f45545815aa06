"""``create_model`` and ``list_models``: every network by its name, ``ORIGIN/UPSTREAM_NAME``."""

import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn

from fbnet_lesson.architectures import DETECTION_ARCHS
from fbnet_lesson.checkpoints import load_weights
from fbnet_lesson.classification_archs import CLASSIFICATION_ARCHS
from fbnet_lesson.classifier import Classifier, ClassifierConfig
from fbnet_lesson.detection.config import DetectorConfig
from fbnet_lesson.detection.detector import Detector

PACKAGE = Path(__file__).resolve().parent
# An installed wheel carries data/ as fbnet_lesson/shipped; in a clone it lies beside the package.
SHIPPED = next(p for p in (PACKAGE / "shipped", PACKAGE.parent / "data") if p.is_dir()) / "weights"


@dataclass(frozen=True)
class DetectorSpec:
    """What a name stands for: an architecture, and what differs from ``DetectorConfig()``."""

    arch: str
    masks: bool
    fpn: bool = False
    overrides: dict = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)  # name -> file in data/weights


C4 = {"norm": "naiveSyncBN"}
FPN = {
    "norm": "naiveSyncBN",
    "anchor_sizes": ((32,), (64,), (128,), (256,), (512,)),
    "post_nms_topk": (2000, 1000),
    "min_size": 800,
    "max_size": 1333,
}
TINY = {
    "num_classes": 6,
    "anchor_sizes": ((16, 24, 36, 54, 80),),
    "rpn_batch_size_per_image": 128,
    "pre_nms_topk": (400, 300),
    "post_nms_topk": (100, 50),
    "roi_batch_size_per_image": 48,
    "min_size": 128,
    "max_size": 256,
}
DETECTORS = {
    "d2go/faster_rcnn_fbnetv3a_C4": DetectorSpec("FBNetV3_A", masks=False, overrides=C4),
    "d2go/faster_rcnn_fbnetv3a_dsmask_C4": DetectorSpec(
        "FBNetV3_A_dsmask", masks=False, overrides=C4
    ),
    "d2go/faster_rcnn_fbnetv3g_fpn": DetectorSpec(
        "FBNetV3_G_fpn", masks=False, fpn=True, overrides=FPN
    ),
    "d2go/mask_rcnn_fbnetv3a_C4": DetectorSpec("FBNetV3_A", masks=True, overrides=C4),
    "d2go/mask_rcnn_fbnetv3a_dsmask_C4": DetectorSpec("FBNetV3_A_dsmask", masks=True, overrides=C4),
    "d2go/mask_rcnn_fbnetv3g_fpn": DetectorSpec(
        "FBNetV3_G_fpn", masks=True, fpn=True, overrides=FPN
    ),
    "lesson/faster_rcnn_tiny": DetectorSpec("lesson_tiny", masks=False, overrides=TINY),
    "lesson/mask_rcnn_tiny": DetectorSpec(
        "lesson_tiny",
        masks=True,
        overrides=TINY,
        weights={"shapes": "mask_rcnn_tiny_shapes.safetensors"},
    ),
}


def list_models(pattern: str = "*") -> list[str]:
    """The names that match a shell pattern, sorted: ``list_models("d2go/*")``."""
    return sorted(
        name for name in [*DETECTORS, *CLASSIFICATION_ARCHS] if fnmatchcase(name, pattern)
    )


def create_model(
    name: str,
    num_classes: int | None = None,
    weights: str | os.PathLike | dict[str, Tensor] | None = None,
    **overrides,
) -> nn.Module:
    """A network by its name, with random weights unless ``weights`` says otherwise.

    Args:
        name: one of ``list_models()``; ``mobile_cv/`` and ``timm/`` are classifiers, the others
            detectors.
        num_classes: of a detector without the background; None keeps the model's own.
        weights: None; the name of weights we ship (``"shapes"``); a file; or a state dict. Where
            ``num_classes`` differs from theirs, the predictors stay random, and that is printed.
        overrides: fields of ``DetectorConfig`` or ``ClassifierConfig``.

    Raises ValueError that names an unknown model, field or weights and what is there instead.
    """
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    if name in CLASSIFICATION_ARCHS:
        config = ClassifierConfig().override(**overrides)
        model = Classifier(CLASSIFICATION_ARCHS[name], config, name)
    elif name in DETECTORS:
        spec = DETECTORS[name]
        config = DetectorConfig().override(**(spec.overrides | overrides))
        model = Detector(DETECTION_ARCHS[spec.arch], config, spec.masks, spec.fpn, name)
    else:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(list_models())}")
    if weights is not None:
        load_weights(model, _find_weights(name, weights))
    if isinstance(model, Detector) and config.freeze_stages:
        from fbnet_lesson.training.freezing import freeze_stages

        freeze_stages(model, config.freeze_stages)
    return model


def _find_weights(name: str, weights):
    """The file of shipped weights by their name; anything else as it is."""
    shipped = DETECTORS[name].weights if name in DETECTORS else {}
    if isinstance(weights, str) and weights in shipped:
        return SHIPPED / shipped[weights]
    if isinstance(weights, str) and not Path(weights).exists():
        names = ", ".join(map(repr, shipped)) or "none"
        raise ValueError(f"weights={weights!r}: no such file; shipped for {name}: {names}")
    return weights
