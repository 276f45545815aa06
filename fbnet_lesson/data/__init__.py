"""What the detectors learn from: procedural scenes, any COCO-format set, and augmentation."""

from .shapes import CATEGORIES, Scene, ShapesDataset, render_scene, write_coco

__all__ = ["CATEGORIES", "Scene", "ShapesDataset", "render_scene", "write_coco"]
