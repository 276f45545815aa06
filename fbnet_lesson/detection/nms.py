"""Non-maximum suppression: of boxes that overlap too much, the one with the best score stays."""

import math

import torch
from torch import Tensor

from fbnet_lesson.detection.boxes import box_area

BLOCK = 256  # boxes decided together: their IoU matrix stays in the cache
PAIRS = 2**16  # pairs compared in one step: matrices of 256 KB


def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_output_size: int | None = None
) -> Tensor:
    """Greedy non-maximum suppression.

    Go through the boxes by falling score (equals in the order given); keep a box unless its IoU
    with one already kept is over ``iou_threshold``. IoU exactly at the threshold is kept.
    ``[N, 4], [N] -> [K]`` int64, indices of the kept boxes by falling score; the first
    ``max_output_size`` of them, if that is given.
    """
    one_group = torch.zeros_like(scores, dtype=torch.int64)
    return batched_nms(boxes, scores, one_group, iou_threshold, max_output_size)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    max_output_size: int | None = None,
) -> Tensor:
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
    if max_output_size is None:
        return _suppress(boxes, groups, order, threshold)
    # What becomes of the best boxes does not depend on the others: mostly a few are enough.
    best = order[: 4 * max_output_size]
    kept = _suppress(boxes, groups, best, threshold)
    if len(kept) < max_output_size and len(best) < len(order):
        kept = _suppress(boxes, groups, order, threshold)
    return kept[:max_output_size]


def _suppress(boxes: Tensor, groups: Tensor, order: Tensor, threshold: float) -> Tensor:
    """Those of ``order`` [N], indices by falling score, that are kept, in that order."""
    tiny = torch.finfo(boxes.dtype).tiny  # two boxes without area: 0 / tiny, not 0 / 0
    columns = torch.cat([boxes.t(), box_area(boxes).clamp(min=tiny)[None]])  # (5, N)
    ordered = order[groups[order].argsort(stable=True)]  # group by group, each by falling score
    sizes = groups[ordered].unique_consecutive(return_counts=True)[1]
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if len(order) and len(sizes) * int(sizes.max()) ** 2 <= 2 * BLOCK * len(order):
        _keep_by_groups(keep, columns, sizes, ordered, threshold)
    else:
        _keep_by_blocks(keep, columns, groups, ordered, threshold)
    return order[keep[order]]


def _keep_by_groups(
    keep: Tensor, columns: Tensor, sizes: Tensor, ordered: Tensor, threshold: float
) -> None:
    """Set ``keep`` for many small groups side by side, each padded to the size of the largest."""
    group = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)  # (N,)
    before = sizes.cumsum(0) - sizes  # (G,) how many are in the groups before
    place = torch.arange(len(ordered), device=sizes.device) - before[group]  # (N,) in its group
    largest = int(sizes.max())
    padded = columns.new_zeros(5, len(sizes), largest)
    padded[:, group, place] = columns[:, ordered]
    parts = padded.split(max(1, PAIRS // largest**2), dim=1)
    kept = torch.cat([_greedy(_iou(part, part).gt_(threshold)) for part in parts])  # (G, largest)
    keep[ordered] = kept[group, place]


def _keep_by_blocks(
    keep: Tensor, columns: Tensor, groups: Tensor, ordered: Tensor, threshold: float
) -> None:
    """Set ``keep`` block after block; whom a block suppresses is in none of the next."""
    while len(ordered):
        block, rest = ordered[:BLOCK], ordered[BLOCK:]
        own, group = columns[:, block], groups[block]
        overlaps = _iou(own, own).gt_(threshold)
        if group[0] != group[-1]:
            overlaps.mul_(group[:, None] == group)
        kept = _greedy(overlaps)
        keep[block[kept]] = True
        # Of the block's groups only the last can go on behind it.
        goes_on = int((groups[rest] == group[-1]).sum())
        suppressors = own[:, kept & (group == group[-1])]
        alive = [
            part[_iou(suppressors, columns[:, part]).amax(0) <= threshold]
            for part in rest[:goes_on].split(PAIRS // BLOCK)
        ]
        ordered = torch.cat([*alive, rest[goes_on:]])


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """``box_iou`` of columns x1, y1, x2, y2, area: ``[5, ..., A], [5, ..., B] -> [..., A, B]``.

    In half the passes over memory: x and y in one operation, and in place. Not over 0, perhaps
    below, where the boxes do not meet.
    """
    a, b = a[..., None], b[..., None, :]  # (5, ..., A, 1) and (5, ..., 1, B)
    sides = torch.minimum(a[2:4], b[2:4]).sub_(torch.maximum(a[:2], b[:2]))  # (2, ..., A, B)
    intersection = sides[0].clamp_(min=0).mul_(sides[1])  # (..., A, B)
    return intersection.div_((a[4] + b[4]).sub_(intersection))


def _greedy(suppresses: Tensor) -> Tensor:
    """The greedy answer from all pairs at once. ``[..., B, B]`` of 1 and 0, used up, -> bool.

    A box is kept unless a kept box before it suppresses it. Repeating that rule from "all kept"
    settles box 0, then every box that depends on settled ones only, and so on: when nothing
    changes, all are settled, usually after three or four rounds. Returns ``[..., B]``.
    """
    before = suppresses.triu_(diagonal=1)  # row suppresses column
    keep = torch.ones_like(before[..., :1, :])  # (..., 1, B)
    while True:
        settled = ((keep @ before) == 0).to(keep.dtype)
        if torch.equal(settled, keep):
            return keep.squeeze(-2) > 0
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
