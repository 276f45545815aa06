"""fbnet_lesson: FBNet object detection and instance segmentation, small enough to read."""

from fbnet_lesson.checkpoints import load_weights, save_weights
from fbnet_lesson.detection.config import DetectorConfig
from fbnet_lesson.zoo import create_model, list_models

__all__ = ["DetectorConfig", "create_model", "list_models", "load_weights", "save_weights"]
