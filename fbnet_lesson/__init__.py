"""fbnet_lesson: FBNet object detection and instance segmentation, small enough to read."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fbnet_lesson.classification.preprocessing import preprocess
    from fbnet_lesson.deploy.fuse import fuse
    from fbnet_lesson.detection.config import DetectorConfig
    from fbnet_lesson.zoo import create_model, list_models, load_weights, save_weights

__all__ = [
    "DetectorConfig",
    "create_model",
    "fuse",
    "list_models",
    "load_weights",
    "preprocess",
    "save_weights",
]

_HOMES = {
    "DetectorConfig": "fbnet_lesson.detection.config",
    "create_model": "fbnet_lesson.zoo",
    "fuse": "fbnet_lesson.deploy.fuse",
    "list_models": "fbnet_lesson.zoo",
    "load_weights": "fbnet_lesson.zoo",
    "preprocess": "fbnet_lesson.classification.preprocessing",
    "save_weights": "fbnet_lesson.zoo",
}


def __getattr__(name: str):
    """Import a name's module when it is first asked for: ``fbnet-lesson --help`` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fbnet_lesson' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
