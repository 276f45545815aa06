"""Which ground truth does each anchor or proposal answer for, and which of them are learned from.

Labels: 1 positive, 0 background, -1 ignored (Faster R-CNN, arXiv 1506.01497, sec. 3.1.2).
"""

import torch
from torch import Tensor

from fbnet_lesson.detection.boxes import box_area, box_iou, intersections

CROWDED = 0.5  # of a box's area: where crowds cover so much of it, it is not background


def match(
    iou: Tensor, low: float, high: float, allow_low_quality: bool = False
) -> tuple[Tensor, Tensor]:
    """Match every column (anchor) to its best row (ground truth).

    ``iou >= high`` is positive (1), ``iou < low`` background (0), between them ignored (-1).
    With ``allow_low_quality`` each ground truth's best anchors are positive, whatever their IoU,
    as long as it is over zero: a ground truth that overlaps nothing must not claim every anchor
    of IoU 0, as ``iou == best`` alone would.

    Args: ``iou`` [G, A], also with G or A equal to 0; without ground truth all is background.
    Returns ``matched`` [A] int64, the row of highest IoU (the first of equals; 0 if G is 0), and
    ``labels`` [A] int64. ValueError unless ``0 <= low <= high``.
    """
    if not 0 <= low <= high:
        raise ValueError(f"IoU thresholds ({low}, {high}): expected 0 <= low <= high")
    gt_count, anchor_count = iou.shape
    if gt_count == 0:
        zeros = torch.zeros(anchor_count, dtype=torch.int64, device=iou.device)
        return zeros, zeros.clone()
    best, matched = iou.max(0)  # (A,), (A,)
    labels = torch.full_like(matched, -1)
    labels[best < low] = 0
    labels[best >= high] = 1
    if allow_low_quality and anchor_count:
        best_of_gt = iou.max(1, keepdim=True).values  # (G, 1)
        labels[((iou == best_of_gt) & (best_of_gt > 0)).any(0)] = 1
    return matched, labels


def spare_crowds(
    labels: Tensor,
    boxes: Tensor,
    crowds: Tensor,
    low: float,
    high: float,
    allow_low_quality: bool = False,
) -> Tensor:
    """Take the regions of crowds out of training: background becomes ignored (-1) where a crowd
    covers half of the box or more, or where the box would not be background if the crowd were an
    object. So what could not be annotated one by one is never taught as background.

    ``labels`` [A] as from ``match`` for ``boxes`` [A, 4]; ``crowds`` [C, 4]; the rest as there.
    """
    if len(crowds) == 0:
        return labels
    overlap = intersections(crowds, boxes)  # (C, A)
    covered = (overlap >= CROWDED * box_area(boxes)).any(0)
    _, as_objects = match(box_iou(crowds, boxes), low, high, allow_low_quality)
    return torch.where((labels == 0) & (covered | (as_objects != 0)), -1, labels)


def sample(
    labels: Tensor,
    batch_size: int,
    positive_fraction: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw at most ``batch_size`` of the labelled entries, at most ``positive_fraction`` positive.

    ``labels`` [A] of 1, 0, -1. Where positives are few, background fills up. Returns the indices
    of the drawn positives and of the drawn background, each ascending.
    """
    # One random key an entry, whatever its label: if rounding moves one label, one draw changes.
    keys = torch.rand(len(labels), generator=generator).to(labels.device)
    positive = _smallest(keys, labels == 1, int(batch_size * positive_fraction))
    return positive, _smallest(keys, labels == 0, batch_size - len(positive))


def _smallest(keys: Tensor, among: Tensor, count: int) -> Tensor:
    """The indices of the ``count`` smallest ``keys`` where ``among`` is true, ascending."""
    indices = among.nonzero().flatten()
    if len(indices) > count:
        indices = indices[keys[indices].topk(count, largest=False).indices].sort().values
    return indices
