"""The detector that lesson 08 puts together from the functions of lessons 04 to 08 finds what the
package's finds; with one of them wrong, it does not. The layers have the shipped weights."""

from functools import cache

import jupytext
import pytest
import torch
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.course.build import ROOT
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.boxes import clip_boxes

PARTS = (
    "cell_anchors", "grid_anchors", "flatten_predictions", "decode_boxes", "batched_nms",
    "roi_align", "detections_from",
)  # fmt: skip


@cache
def model_and_images():
    model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
    return model, [image for image, _ in ShapesDataset(50, 0, transform=eval_transform())]


@cache
def lesson_cells() -> str:
    """The cells of the lesson that define its detector."""
    lesson = jupytext.read(ROOT / "solutions" / "08_box_head.py", fmt="py:percent")
    sources = [cell.source for cell in lesson.cells if cell.cell_type == "code"]
    return "\n".join(s for s in sources if "def own_proposals" in s or "def own_detector" in s)


def own_detector(image, part):
    """Boxes, labels and scores of one image; ``part`` is the exercise's function by its name."""
    namespace = {
        "torch": torch,
        "Tensor": Tensor,
        "clip_boxes": clip_boxes,
        "detector": model_and_images()[0],
        "detections_from": EXERCISES["detections_from"].solution,
        "mine": lambda known: part[known if isinstance(known, str) else known.__name__],
    }
    exec(lesson_cells(), namespace)
    boxes, scores, labels = namespace["own_detector"](image)
    return boxes, labels, scores


def agrees(image, part) -> bool:
    model, _ = model_and_images()
    with torch.no_grad():
        (theirs,) = model([image])
    boxes, labels, scores = own_detector(image, part)
    return (
        torch.equal(labels, theirs["labels"])
        and torch.allclose(scores, theirs["scores"], 0, 1e-5)
        and torch.allclose(boxes / 128, theirs["boxes"] / 128, 0, 1e-5)  # of the picture's edge
    )


def solutions():
    return {name: EXERCISES[name].solution for name in PARTS}


def test_the_detector_of_the_exercises_finds_the_same_on_fifty_scenes():
    _, images = model_and_images()
    assert len(images) == 50 and all(agrees(image, solutions()) for image in images)


@pytest.mark.parametrize("name", PARTS)
def test_with_one_of_them_wrong_it_does_not(name):
    exercise, (_, images) = EXERCISES[name], model_and_images()
    # The first of grid_anchors shows on maps that are not square, that of batched_nms on classes;
    # but in detections_from the package's NMS is at work.
    index = 1 if name in ("grid_anchors", "batched_nms") else 0
    wrong = exercise.mistakes[index].function(exercise.solution)
    assert not all(agrees(image, solutions() | {name: wrong}) for image in images[:10])
