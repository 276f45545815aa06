"""Every network by its name, and its weights: made, found, read, written."""

from fbnet_lesson.zoo.checkpoints import load_weights, save_weights
from fbnet_lesson.zoo.models import create_model, list_models

__all__ = ["create_model", "list_models", "load_weights", "save_weights"]
