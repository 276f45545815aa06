"""What the detectors learn from: procedural scenes, any COCO-format set, and augmentation."""

from .check import check_dataset
from .coco import CocoDataset
from .report import DatasetReport, Defect
from .shapes import CATEGORIES, Scene, ShapesDataset, render_scene, write_coco
from .transforms import eval_transform, train_transform

__all__ = [
    "CATEGORIES",
    "CocoDataset",
    "DatasetReport",
    "Defect",
    "Scene",
    "ShapesDataset",
    "check_dataset",
    "eval_transform",
    "render_scene",
    "train_transform",
    "write_coco",
]
