"""FBNetV3IS out of the functions of the lessons is the package's, and really made of them."""

from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.blocks import UpsampledDepthwise
from fbnet_lesson.course import mine as course_mine
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform

PARTS = (
    "cell_anchors", "grid_anchors", "flatten_predictions", "decode_boxes", "nms", "roi_align",
    "batched_nms", "widened_kernel", "class_masks", "paste_masks",
)  # fmt: skip


# ------------------------------------------- as the lesson has it: to go there, under 40 lines


def block(part, x: Tensor, mine) -> Tensor:
    if not hasattr(part, "pwl"):
        return part(x)  # the stem
    y = part.pw(x) if part.pw is not None else x
    if isinstance(part.dw.conv, UpsampledDepthwise):
        wide = mine("widened_kernel")(part.dw.conv.weight)
        y = F.conv_transpose2d(y, wide, stride=2, padding=part.dw.conv.padding, groups=len(wide))
    else:
        y = part.dw(y)
    return x + part.pwl(y) if part.residual else part.pwl(y)


def run(stages, x: Tensor, mine) -> Tensor:
    for part in stages:
        x = block(part, x, mine)
    return x


@torch.no_grad()
def fbnetv3is(net, image: Tensor, mine) -> dict[str, Tensor]:
    config, (height, width) = net.config, image.shape[1:]
    rpn, box_head, mask_head = net.rpn.head, net.roi_heads.box_head, net.roi_heads.mask_head
    limit = torch.tensor([width, height, width, height])
    x = (image.flip(0) * 255 - net.pixel_mean)[None]
    for stage in net.backbone.stages:
        x = run(stage, x, mine)
    y = run(rpn.feature, x, mine)
    logits, deltas = mine("flatten_predictions")(rpn.cls_logits(y), rpn.bbox_pred(y))
    cells = mine("cell_anchors")(config.anchor_sizes[0], config.anchor_ratios)
    anchors = mine("grid_anchors")(cells, tuple(x.shape[2:]), 8)
    best, order = logits[0].topk(config.pre_nms_topk[1])
    boxes = mine("decode_boxes")(deltas[0, order], anchors[order], (1.0, 1.0, 1.0, 1.0))
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    there = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, best = boxes[there], best[there]
    kept = mine("nms")(boxes, best, config.rpn_nms_threshold, config.post_nms_topk[1])
    proposals = boxes[kept]
    y = run(box_head.body, mine("roi_align")(x[0], proposals, 6, 1 / 8), mine).mean((2, 3))
    scores = box_head.cls_score(y).softmax(1)[:, :-1]
    deltas = box_head.bbox_pred(y).reshape(len(y), -1, 4)
    boxes = mine("decode_boxes")(deltas, proposals[:, None], (10.0, 10.0, 5.0, 5.0))
    row, labels = (scores > config.score_threshold).nonzero(as_tuple=True)
    boxes, scores = torch.minimum(boxes[row, labels].clamp(min=0), limit), scores[row, labels]
    kept = mine("batched_nms")(boxes, scores, labels, config.nms_threshold, 100)
    boxes, labels, scores = boxes[kept], labels[kept], scores[kept]
    y = run(mask_head.body, mine("roi_align")(x[0], boxes, 14, 1 / 8), mine)
    last = mask_head.mask_logits
    masks = mine("class_masks")(y, last.weight, last.bias, labels).sigmoid()
    masks = mine("paste_masks")(masks, boxes, (height, width))
    return {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks >= 0.5}


@pytest.fixture(scope="module")
def model():
    return fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()


@pytest.fixture(scope="module")
def images():
    return [
        image.as_subclass(Tensor) for image, _ in ShapesDataset(50, 0, transform=eval_transform())
    ]


@contextmanager
def passed(name, function):
    """As if the learner's ``function`` had passed its check in this kernel."""
    from importlib import import_module

    with patch.dict(import_module("fbnet_lesson.course.mine")._passed, {name: function}):
        yield


def same(a, b) -> bool:
    return (
        torch.equal(a["labels"], b["labels"])
        and torch.allclose(a["boxes"], b["boxes"], atol=1e-3)
        and torch.allclose(a["scores"], b["scores"], atol=1e-5)
        and torch.equal(a["masks"], b["masks"])
    )


def test_it_finds_what_the_package_finds_on_50_scenes(model, images):
    found = 0
    for image in images:
        with torch.no_grad():
            (expected,) = model([image])
        got = fbnetv3is(model, image, course_mine)
        found += len(got["labels"])
        assert same(expected, got)
    assert found > 100


@pytest.mark.parametrize("name", PARTS)
def test_with_one_part_broken_it_finds_something_else(model, images, name):
    right = fbnetv3is(model, images[48], course_mine)
    exercise = EXERCISES[name]
    differs = []
    for mistake in exercise.mistakes[:8]:
        with passed(name, mistake.function(exercise.solution)):
            try:
                differs.append(not same(right, fbnetv3is(model, images[48], course_mine)))
            except Exception:
                differs.append(True)
    assert any(differs)
