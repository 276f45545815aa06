"""What is trained for: the loss, the score and its words, of a detector and of a classifier.

The loop knows nothing of either. Which task it is, the model says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fbnet_lesson.classification.classifier import Classifier
from fbnet_lesson.classification.published import IMAGENET_MEAN, IMAGENET_STD
from fbnet_lesson.training import distributed, evaluation
from fbnet_lesson.training.detecting import eval_mode

if TYPE_CHECKING:
    from PIL import Image


class Detection:
    """Boxes, and masks if the model has them, by COCO's average precision."""

    columns = ("box_AP", "box_AP50", "mask_AP", "mask_AP50")  # of metrics.csv
    fewest = 1  # images that losses can be computed of

    def losses(self, model: nn.Module, images: list[Tensor], targets: list[dict]) -> dict:
        return model(images, targets)

    def evaluate(self, model: nn.Module, dataset: Any, batch_size: int) -> dict[str, Any]:
        return evaluation.evaluate(model, dataset, batch_size=batch_size)

    def values(self, metrics: dict[str, Any]) -> dict[str, float]:
        """The numbers for ``columns``, as far as there are any."""
        kinds = [kind for kind in ("box", "mask") if metrics.get(kind)]
        return {f"{kind}_{name}": metrics[kind][name] for kind in kinds for name in ("AP", "AP50")}

    def headline(self, metrics: dict[str, Any]) -> str:
        return evaluation.headline(metrics)

    def table(self, metrics: dict[str, Any]) -> str:
        return evaluation.table(metrics)

    def best(self, metrics: dict[str, Any]) -> tuple[str, float]:
        """What the best checkpoint is best in, in words, and how good it is."""
        kind = "mask" if metrics.get("mask") else "box"
        return f"{kind} AP", metrics[kind]["AP"]


class Classification:
    """One class of each picture, by cross-entropy; top-1 and top-5 accuracy."""

    columns = ("top1", "top5")
    fewest = 2  # the last map may be one cell, and BN takes no statistics of one value

    def losses(self, model: nn.Module, images: list[Tensor], targets: list[dict]) -> dict:
        """Images of one size; a target's ``label`` is the class."""
        labels = torch.tensor([target["label"] for target in targets], device=images[0].device)
        return {"loss_cls": F.cross_entropy(model(normalised(images)), labels)}

    def evaluate(self, model: nn.Module, dataset: Any, batch_size: int) -> dict[str, Any]:
        return accuracy(model, dataset, batch_size)

    def values(self, metrics: dict[str, Any]) -> dict[str, float]:
        return {name: metrics[name] for name in self.columns}

    def headline(self, metrics: dict[str, Any]) -> str:
        return f"top-1 {metrics['top1']:.3f}, top-5 {metrics['top5']:.3f}"

    def table(self, metrics: dict[str, Any]) -> str:
        lines = [f"{self.headline(metrics)} of {metrics['images']:,} pictures"]
        for name, share in metrics["per_class"].items():
            lines.append(f"{name}: {share:.3f} of {metrics['objects'][name]:,}")
        return "\n".join(lines)

    def best(self, metrics: dict[str, Any]) -> tuple[str, float]:
        return "top-1 accuracy", metrics["top1"]


def task_of(model: nn.Module) -> Detection | Classification:
    return Classification() if isinstance(model, Classifier) else Detection()


def normalised(images: list[Tensor]) -> Tensor:
    """RGB images ``[3, S, S]`` in 0..1 as a batch ``[N, 3, S, S]`` for a classifier."""
    batch = torch.stack(images)
    mean, std = (batch.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (batch - mean) / std


def prepare_middle(edge: int) -> Callable[[Image.Image], Tensor]:
    """A PIL picture as a trained classifier is evaluated on it: ``[3, edge, edge]``, normalised."""
    # In here: torchvision costs each process of a training 90 MB, and only pictures need it.
    from torchvision.transforms.v2.functional import pil_to_tensor

    from fbnet_lesson.data.classes import middle_crop

    crop = middle_crop(edge)
    return lambda image: normalised([pil_to_tensor(crop(image)).float() / 255])[0]


def accuracy(model: nn.Module, dataset: Any, batch_size: int = 32) -> dict[str, Any]:
    """How many pictures of a data set a classifier names rightly.

    The data set gives ``(uint8 image [3, S, S], {"label": int})`` and has ``categories``. With
    several processes each picture is seen by one of them, and all get the same result. The
    model's mode is restored.

    Returns:
        ``{"images": n, "top1": share, "top5": share, "objects": {class: pictures}, "per_class":
        {class: share of them that are right}}``; top5 counts a picture whose class is among the
        five likeliest, or of fewer classes among all.

    Raises:
        ValueError: for a data set without images.
    """
    if len(dataset) == 0:
        raise ValueError("nothing to evaluate: the data set has no images")
    device = next(model.parameters()).device
    mine = range(distributed.rank(), len(dataset), distributed.world_size())
    rows = []
    with eval_mode(model), torch.inference_mode():
        for first in range(0, len(mine), batch_size):
            samples = [dataset[i] for i in mine[first : first + batch_size]]
            images = [image.to(device).float() / 255 for image, _ in samples]
            logits = model(normalised(images))  # (N, K)
            ranked = logits.topk(min(5, logits.shape[1])).indices.cpu()  # (N, 5)
            labels = torch.tensor([target["label"] for _, target in samples])
            hits = ranked == labels[:, None]
            rows += zip(labels.tolist(), hits[:, 0].tolist(), hits.any(1).tolist(), strict=True)
    rows = [row for part in distributed.gather(rows) for row in part]
    return _accuracy_of(rows, dataset.categories)


def _accuracy_of(rows: list[tuple[int, bool, bool]], names: list[str]) -> dict[str, Any]:
    """The metrics of pictures as (label, right at once, right among five)."""
    of_class = {name: [top1 for k, top1, _ in rows if names[k] == name] for name in names}
    return {
        "images": len(rows),
        "top1": sum(top1 for _, top1, _ in rows) / len(rows),
        "top5": sum(top5 for _, _, top5 in rows) / len(rows),
        "objects": {name: len(right) for name, right in of_class.items()},
        "per_class": {n: sum(right) / len(right) for n, right in of_class.items() if right},
    }
