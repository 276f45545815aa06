"""Non-maximum suppression: of boxes that overlap too much, the one with the best score stays."""

import math

import torch
from torch import Tensor

from fbnet_lesson.detection.boxes import box_iou

BLOCK = 256  # boxes decided together: their IoU matrix stays in the cache


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression.

    Go through the boxes by falling score (equals in the order given); keep a box unless its IoU
    with one already kept is over ``iou_threshold``. IoU exactly at the threshold is kept.
    ``[N, 4], [N] -> [K]`` int64, indices of the kept boxes by falling score.
    """
    return batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """``nms`` in which only boxes of the same group (class, or feature level) suppress each other.

    ``[N, 4], [N], [N] -> [K]``, one list for all groups, by falling score.
    """
    if boxes.shape != (len(scores), 4) or groups.shape != scores.shape:
        raise ValueError(
            f"nms: boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)} and groups "
            f"{tuple(groups.shape)} do not fit; expected [N, 4], [N] and [N]"
        )
    threshold = _round_down(iou_threshold, boxes.dtype)
    order = scores.argsort(descending=True, stable=True)
    boxes, groups = boxes[order], groups[order]
    kept = []
    while len(order):
        block, rest = slice(0, BLOCK), slice(BLOCK, None)
        suppresses = _overlaps(boxes[block], boxes[block], groups[block], groups[block], threshold)
        keep = _greedy(suppresses)
        kept.append(order[block][keep])
        hit = _overlaps(
            boxes[block][keep], boxes[rest], groups[block][keep], groups[rest], threshold
        )
        alive = ~hit.any(0)
        boxes, groups, order = boxes[rest][alive], groups[rest][alive], order[rest][alive]
    return torch.cat(kept) if kept else order


def _overlaps(a: Tensor, b: Tensor, a_groups: Tensor, b_groups: Tensor, threshold: float) -> Tensor:
    """Which pairs are of one group and over the threshold. ``-> [len(a), len(b)]`` bool."""
    return (box_iou(a, b) > threshold) & (a_groups[:, None] == b_groups)


def _greedy(suppresses: Tensor) -> Tensor:
    """The greedy answer from all pairs at once. ``[B, B]`` bool -> ``[B]`` bool.

    A box is kept unless a kept box before it suppresses it. Repeating that rule from "all kept"
    settles box 0, then every box that depends on settled ones only, and so on: when nothing
    changes, all are settled, usually after three or four rounds.
    """
    before = suppresses.triu(diagonal=1).float()  # row suppresses column
    keep = torch.ones(len(before), dtype=torch.bool, device=before.device)
    while True:
        settled = (keep.float() @ before) == 0
        if torch.equal(settled, keep):
            return keep
        keep = settled


def _round_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not over ``threshold``.

    ``iou > 0.3`` in float32 would compare with 0.3 rounded *up* to 0.3000000119, and an IoU of
    just that value, which is over 0.3, would survive.
    """
    rounded = torch.tensor(threshold, dtype=dtype)
    if float(rounded) > threshold:
        rounded = torch.nextafter(rounded, rounded.new_tensor(-math.inf))
    return float(rounded)
