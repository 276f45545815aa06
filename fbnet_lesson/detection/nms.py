"""Non-maximum suppression: of boxes that overlap too much, the one with the best score stays."""

import math

import torch
from torch import Tensor

BLOCK = 256  # boxes decided together: their IoU matrix stays in the cache
PAIRS = 2**17  # pairs compared in one step: matrices of 0.5 MB


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
    corners = boxes.t().reshape(2, 2, -1).contiguous()  # (N, 4) -> (low or high, x or y, N)
    ordered = order[groups[order].argsort(stable=True)]  # group by group, each by falling score
    sizes = groups[ordered].unique_consecutive(return_counts=True)[1]
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if len(order) and len(sizes) * int(sizes.max()) ** 2 <= 2 * BLOCK * len(order):
        _keep_by_groups(keep, corners, sizes, ordered, threshold)
    else:
        _keep_by_blocks(keep, corners, groups, ordered, threshold)
    return order[keep[order]]


def _keep_by_groups(
    keep: Tensor, corners: Tensor, sizes: Tensor, ordered: Tensor, threshold: float
) -> None:
    """Set ``keep`` for many small groups side by side, each padded to the size of the largest."""
    group = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)  # (N,)
    before = sizes.cumsum(0) - sizes  # (G,) how many are in the groups before
    place = torch.arange(len(ordered), device=sizes.device) - before[group]  # (N,) in its group
    largest = int(sizes.max())
    padded = corners.new_zeros(2, 2, len(sizes), largest)
    padded[..., group, place] = corners[..., ordered]
    parts = padded.split(max(1, PAIRS // largest**2), dim=2)
    kept = torch.cat([_greedy(_overlaps(part, part, threshold)) for part in parts])  # (G, largest)
    keep[ordered] = kept[group, place]


def _keep_by_blocks(
    keep: Tensor, corners: Tensor, groups: Tensor, ordered: Tensor, threshold: float
) -> None:
    """Set ``keep`` block after block; whom a block suppresses is in none of the next."""
    while len(ordered):
        block, rest = ordered[:BLOCK], ordered[BLOCK:]
        overlaps = _overlaps(corners[..., block], corners[..., block], threshold)
        kept = block[_greedy(overlaps & (groups[block][:, None] == groups[block]))]
        keep[kept] = True
        # Of the block's groups only the last can go on behind it.
        goes_on = groups[rest] == groups[block[-1]]
        suppressors = corners[..., kept[groups[kept] == groups[block[-1]]]]
        alive = [
            part[~_overlaps(suppressors, corners[..., part], threshold).any(0)]
            for part in rest[goes_on].split(PAIRS // BLOCK)
        ]
        ordered = torch.cat([*alive, rest[~goes_on]])


def _overlaps(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    """Which pairs have an IoU over the threshold: corners ``[2, 2, ..., A]`` -> ``[..., A, B]``.

    ``box_iou(a, b) > threshold`` in half the passes over memory: x and y in one operation, and in
    place; a pair without any area is 0 / 0, which is not over anything.
    """
    (a_low, a_high), (b_low, b_high) = a, b  # (2, ..., A) and (2, ..., B) each
    sides = torch.minimum(a_high[..., None], b_high[..., None, :])  # (2, ..., A, B)
    sides = sides.sub_(torch.maximum(a_low[..., None], b_low[..., None, :]))
    intersection = sides[0].clamp_(min=0).mul_(sides[1])  # (..., A, B), not over 0 where empty
    a_area, b_area = (a_high - a_low).prod(0), (b_high - b_low).prod(0)
    union = (a_area[..., None] + b_area[..., None, :]).sub_(intersection)
    return intersection.div_(union) > threshold


def _greedy(suppresses: Tensor) -> Tensor:
    """The greedy answer from all pairs at once. ``[..., B, B]`` bool, used up, -> ``[..., B]``.

    A box is kept unless a kept box before it suppresses it. Repeating that rule from "all kept"
    settles box 0, then every box that depends on settled ones only, and so on: when nothing
    changes, all are settled, usually after three or four rounds.
    """
    before = suppresses.triu_(diagonal=1).float()  # row suppresses column
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
