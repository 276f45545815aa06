"""The detector that is put together from the exercises of lessons 04 to 07 finds what the package's
finds; with one of them wrong, it does not. Trunk and heads have the shipped weights."""

from functools import cache

import pytest
import torch

import fbnet_lesson as fl
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection import box_head, rpn
from fbnet_lesson.detection.boxes import clip_boxes, nonempty

PARTS = (
    "cell_anchors", "grid_anchors", "flatten_predictions", "decode_boxes", "batched_nms",
    "roi_align",
)  # fmt: skip


@cache
def model_and_images():
    model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
    return model, [image for image, _ in ShapesDataset(50, 0, transform=eval_transform())]


@torch.no_grad()
def own_detector(image, part):
    """Boxes, labels and scores of one image; ``part`` is the exercise's function by its name."""
    model, _ = model_and_images()
    config, head = model.config, model.roi_heads.box_head
    batch, (size,) = model.preprocess([image])
    (features,), _ = model.features(batch)
    logits, deltas = part["flatten_predictions"](*(m[0] for m in model.rpn.head([features])))
    cells = part["cell_anchors"](config.anchor_sizes[0], config.anchor_ratios)
    anchors = part["grid_anchors"](cells, tuple(features.shape[2:]), 8)
    best, index = logits[0].topk(config.pre_nms_topk[1])
    found = part["decode_boxes"](deltas[0, index], anchors[index], rpn.WEIGHTS)
    found = clip_boxes(found, size)
    found, best = found[nonempty(found)], best[nonempty(found)]
    one_level, most = torch.zeros(len(best), dtype=torch.int64), config.post_nms_topk[1]
    kept = part["batched_nms"](found, best, one_level, config.rpn_nms_threshold, most)
    proposals = found[kept]
    pooled = part["roi_align"](features[0], proposals, config.box_pooler_resolution, 1 / 8)
    x = head.body(pooled).mean((2, 3))
    deltas = head.bbox_pred(x).unflatten(1, (-1, 4))  # (R, K, 4)
    scores = head.cls_score(x).softmax(-1)[:, :-1]  # the background is the last
    found = part["decode_boxes"](deltas, proposals[:, None], box_head.WEIGHTS)
    row, label = (scores > config.score_threshold).nonzero(as_tuple=True)
    found, scores = clip_boxes(found, size)[row, label], scores[row, label]
    most = config.detections_per_image
    kept = part["batched_nms"](found, scores, label, config.nms_threshold, most)
    return found[kept], label[kept], scores[kept]


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
    index = 1 if name == "grid_anchors" else 0  # its first one shows on maps that are not square
    wrong = exercise.mistakes[index].function(exercise.solution)
    assert not all(agrees(image, solutions() | {name: wrong}) for image in images[:10])
