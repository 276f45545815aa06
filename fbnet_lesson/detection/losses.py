"""The five losses. Each is a sum over what was sampled, divided by a count that does not shrink
when few objects are there, so that a picture with one object does not shout."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def average_over_workers(count: float, device: torch.device) -> float:
    """The mean of ``count`` over all workers; ``count`` itself in one process.

    DistributedDataParallel averages the workers' gradients. A sum of losses divided by this mean
    count then gives, on any number of workers, what one process gets from all images at once.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return count
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def rpn_losses(
    logits: Tensor, labels: Tensor, deltas: Tensor, target_deltas: Tensor, normalizer: float
) -> dict[str, Tensor]:
    """Is there an object, and where exactly (arXiv 1506.01497, eq. 1).

    Args:
        logits, labels: [S] of the sampled anchors; labels 1 or 0.
        deltas, target_deltas: [P, 4] of the positive ones.
        normalizer: sampled anchors an image times images.

    Returns ``loss_rpn_cls``, the binary cross-entropy of the logits, and ``loss_rpn_loc``, the L1
    distance of the deltas: both summed over all that is given, and divided by the normalizer.
    """
    objectness = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")
    location = F.l1_loss(deltas, target_deltas, reduction="sum")
    return {"loss_rpn_cls": objectness / normalizer, "loss_rpn_loc": location / normalizer}


def box_losses(
    class_logits: Tensor, labels: Tensor, deltas: Tensor, target_deltas: Tensor
) -> dict[str, Tensor]:
    """Which class, and the box of that class (arXiv 1504.08083, eq. 1).

    Args:
        class_logits, labels: [R, K + 1] and [R] of the sampled ROIs; K is the background.
        deltas, target_deltas: [P, 4] of the foreground ROIs, in the order of the ROIs.

    The box loss, too, is divided by *all* sampled ROIs: an image of few objects weighs less.
    """
    count = max(average_over_workers(len(labels), labels.device), 1.0)
    classes = F.cross_entropy(class_logits, labels, reduction="sum")
    location = F.l1_loss(deltas, target_deltas, reduction="sum")
    return {"loss_cls": classes / count, "loss_box_reg": location / count}


def mask_loss(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Mean binary cross-entropy of the true class's mask (arXiv 1703.06870, sec. 3).

    ``logits``, ``targets`` [P, M, M] of the foreground ROIs; 0 where there is none.
    """
    count = max(average_over_workers(targets.numel(), targets.device), 1.0)
    total = F.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="sum")
    return {"loss_mask": total / count}
