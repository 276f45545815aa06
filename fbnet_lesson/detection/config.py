"""The knobs of FBNetV3OD and FBNetV3IS, in the words of the field."""

import math
from dataclasses import dataclass

from fbnet_lesson.norms import NORMS
from fbnet_lesson.overrides import impossible, override


@dataclass(frozen=True)
class DetectorConfig:
    """Every field is an override of ``create_model``; pixels are those of the network's input.

    The defaults are the values in force in d2go's ``mask_rcnn_fbnetv3a_dsmask_C4``.
    """

    num_classes: int = 80  # without the background, which is the last logit
    norm: str = "BN"  # one of NORMS
    freeze_stages: int = 0  # the first stages of the trunk that training leaves alone
    # sqrt of the area, in pixels: one tuple a feature map
    anchor_sizes: tuple[tuple[float, ...], ...] = ((32, 64, 96, 128, 160),)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    rpn_iou_thresholds: tuple[float, float] = (0.3, 0.7)  # background below, object from; between
    rpn_batch_size_per_image: int = 256  # anchors in the loss                      # is ignored
    rpn_positive_fraction: float = 0.5  # of them, at most
    rpn_nms_threshold: float = 0.7
    pre_nms_topk: tuple[int, int] = (2000, 1000)  # (train, test), a feature map
    post_nms_topk: tuple[int, int] = (2000, 30)  # (train, test), an image
    roi_iou_threshold: float = 0.5  # object from here, background below
    roi_batch_size_per_image: int = 512  # proposals in the loss
    roi_positive_fraction: float = 0.25
    box_pooler_resolution: int = 6
    mask_pooler_resolution: int = 14
    box_class_agnostic: bool = False  # True: one box a proposal for all classes, not one for each
    mask_class_agnostic: bool = False  # the same of the masks
    pooler_sampling_ratio: int = 0  # samples a bin and axis; 0 = one a cell it covers
    score_threshold: float = 0.05
    nms_threshold: float = 0.5  # of the detections, per class
    detections_per_image: int = 100
    min_size: int = 224  # the short edge after resizing ...
    max_size: int = 320  # ... unless the long edge would be longer than this
    resize: bool = True  # False: images go in as they are

    def __post_init__(self) -> None:
        sizes = self.anchor_sizes
        if not isinstance(sizes, tuple | list):
            raise impossible("anchor_sizes", sizes, _RULES["anchor_sizes"][1])
        if sizes and not isinstance(sizes[0], tuple | list):
            sizes = (sizes,)  # one feature map: the inner tuple may be left out
        levels = tuple(tuple(v) if isinstance(v, tuple | list) else v for v in sizes)
        object.__setattr__(self, "anchor_sizes", levels)
        for name in ("anchor_ratios", "rpn_iou_thresholds", "pre_nms_topk", "post_nms_topk"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list):
                raise impossible(name, value, "a tuple of numbers")
            object.__setattr__(self, name, tuple(value))
        for name, (is_allowed, allowed) in _RULES.items():
            value = getattr(self, name)
            try:
                good = is_allowed(value)
            except (TypeError, ValueError):
                good = False
            if not good:
                raise impossible(name, value, allowed)
        if self.max_size < self.min_size:
            raise impossible("max_size", self.max_size, f"at least min_size, {self.min_size}")

    def override(self, /, **changes) -> "DetectorConfig":
        """A copy with some fields changed; ValueError names a field that does not exist."""
        return override(self, **changes)


def _is_int(value, low: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**31


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_fraction(value) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _are_anchor_sizes(levels) -> bool:
    positive = all(_is_number(size) and size > 0 for level in levels for size in level)
    return positive and len({len(level) for level in levels}) == 1 and len(levels[0]) > 0


POSITIVE_INT = (_is_int, "a whole number, 1 or more, below 2**31")
INT_FROM_0 = (lambda v: _is_int(v, 0), "a whole number, 0 or more, below 2**31")
BOOL = (lambda v: isinstance(v, bool), "True or False")
FRACTION = (_is_fraction, "a number from 0 to 1")
TRAIN_TEST = (
    lambda v: len(v) == 2 and all(_is_int(k) for k in v),
    "two whole numbers, (train, test), each 1 or more",
)
_RULES = {
    "num_classes": POSITIVE_INT,
    "norm": (lambda v: v in NORMS, ", ".join(NORMS)),
    "freeze_stages": INT_FROM_0,
    "anchor_sizes": (
        _are_anchor_sizes,
        "one tuple of positive sizes a feature map, all of one length",
    ),
    "anchor_ratios": (
        lambda v: len(v) > 0 and all(_is_number(r) and r > 0 for r in v),
        "positive numbers, height / width",
    ),
    "rpn_iou_thresholds": (
        lambda v: len(v) == 2 and all(map(_is_fraction, v)) and v[0] <= v[1],
        "two numbers (low, high) with 0 <= low <= high <= 1",
    ),
    "rpn_batch_size_per_image": POSITIVE_INT,
    "rpn_positive_fraction": FRACTION,
    "rpn_nms_threshold": FRACTION,
    "pre_nms_topk": TRAIN_TEST,
    "post_nms_topk": TRAIN_TEST,
    "roi_iou_threshold": FRACTION,
    "roi_batch_size_per_image": POSITIVE_INT,
    "roi_positive_fraction": FRACTION,
    "box_pooler_resolution": POSITIVE_INT,
    "mask_pooler_resolution": POSITIVE_INT,
    "box_class_agnostic": BOOL,
    "mask_class_agnostic": BOOL,
    "pooler_sampling_ratio": INT_FROM_0,
    "score_threshold": FRACTION,
    "nms_threshold": FRACTION,
    "detections_per_image": POSITIVE_INT,
    "min_size": POSITIVE_INT,
    "max_size": POSITIVE_INT,
    "resize": BOOL,
}
