"""COCO average precision of boxes and masks, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from fbnet_lesson.training import distributed
from fbnet_lesson.training.sampling import as_lists, to_device

SUMMARY = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip


def evaluate(
    model: nn.Module, dataset: Any, *, batch_size: int = 8, num_workers: int = 0
) -> dict[str, Any]:
    """COCO AP of the model on a data set, in 0..1; NaN where there is no ground truth to find.

    Returns:
        ``{"images": n, "detections": n, "box": {"AP": …, "AP50": …, …, "per_class": {name: AP}},
        "mask": the same or None}`` with the names of ``SUMMARY``. With several processes each
        image is seen by one of them, and all get the same result. The model's mode is restored.

    Raises:
        ValueError: for a data set without images.
    """
    if len(dataset) == 0:
        raise ValueError("nothing to evaluate: the data set has no images")
    found, with_masks = detect(model, dataset, batch_size=batch_size, num_workers=num_workers)
    return distributed.on_first(lambda: score(dataset, found, with_masks))


def detect(
    model: nn.Module, dataset: Any, *, batch_size: int = 8, num_workers: int = 0
) -> tuple[list[dict[str, Any]], bool]:
    """All detections on a data set as COCO results, and whether the model gives masks.

    The images are divided among the processes, the list is the same on all.
    """
    mine = range(distributed.rank(), len(dataset), distributed.world_size())
    loader = DataLoader(
        Subset(dataset, mine), batch_size, num_workers=num_workers, collate_fn=as_lists
    )
    device = next(model.parameters()).device
    bar = tqdm(total=len(mine), desc="evaluate", unit="image", leave=False, disable=_bar_off())
    found: list[dict[str, Any]] = []
    with_masks, position = False, 0
    with eval_mode(model), torch.inference_mode(), bar:
        for images, targets in loader:
            detections = model(to_device(images, targets, device)[0])
            image_ids = [dataset.image_ids[i] for i in mine[position : position + len(images)]]
            found += detections_to_coco(detections, image_ids, dataset.category_ids)
            with_masks |= "masks" in detections[0]
            position += len(images)
            bar.update(len(images))
    parts = distributed.gather((found, with_masks))
    return [d for part, _ in parts for d in part], any(masks for _, masks in parts)


def _bar_off() -> bool | None:
    return None if distributed.is_first() else True  # None: where there is no terminal


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode within; afterwards each module is in the mode it was in, frozen ones included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def detections_to_coco(
    detections: Sequence[dict[str, Tensor]],
    image_ids: Sequence[int],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """Detections of some images as COCO results, ready for JSON.

    Args:
        detections: for each image ``boxes [N,4] xyxy``, ``scores [N]``, ``labels [N]``, and for
            instance segmentation ``masks [N,H,W] bool``.
        image_ids: one for each image.
        category_ids: the COCO category of label 0, 1, …

    Returns:
        dicts ``image_id, category_id, bbox [x,y,w,h], score`` and, with masks, ``segmentation``
        (run-length encoded).
    """
    results = []
    for detection, image_id in zip(detections, image_ids, strict=True):
        boxes, scores = detection["boxes"].detach().cpu(), detection["scores"].detach().cpu()
        sizes = boxes[:, 2:] - boxes[:, :2]
        bboxes = torch.cat([boxes[:, :2], sizes], dim=1).tolist()
        labels = detection["labels"].tolist()
        masks = encode_masks(detection["masks"]) if "masks" in detection else [None] * len(labels)
        for bbox, score_, label, mask in zip(bboxes, scores.tolist(), labels, masks, strict=True):
            result = {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": bbox,
                "score": score_,
            }
            if mask is not None:
                result["segmentation"] = mask
            results.append(result)
    return results


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Masks ``[N,H,W] bool`` as COCO run-length encodings ``{"size": [H,W], "counts": str}``."""
    if len(masks) == 0:
        return []
    columns = masks.detach().to("cpu", torch.uint8).transpose(1, 2).contiguous()  # [N,W,H]
    encoded = rle.encode(columns.numpy().T)  # [H,W,N], column-major as pycocotools wants it
    return [{"size": list(e["size"]), "counts": e["counts"].decode()} for e in encoded]


def score(dataset: Any, found: list[dict[str, Any]], with_masks: bool) -> dict[str, Any]:
    """Compare COCO results with the ground truth of the data set; see ``evaluate``."""
    truth = dataset.coco_ground_truth()
    with_masks &= getattr(dataset, "has_masks", True)  # boxes alone are no truth about masks
    return {
        "images": len(truth["images"]),
        "detections": len(found),
        "box": average_precision(truth, found, "bbox"),
        "mask": average_precision(truth, found, "segm") if with_masks else None,
    }


def average_precision(
    truth: dict[str, Any], found: list[dict[str, Any]], iou_type: str
) -> dict[str, Any]:
    """The numbers of ``SUMMARY`` and ``per_class`` for boxes (``"bbox"``) or masks (``"segm"``)."""
    names = {category["id"]: category["name"] for category in truth["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _indexed(truth), _indexed(_as_annotations(truth, found, iou_type)), iou_type
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    summary = {
        name: float(value) if value >= 0 else float("nan")
        for name, value in zip(SUMMARY, evaluation.stats, strict=True)
    }
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], all areas
    per_class = {}
    for k, category_id in enumerate(evaluation.params.catIds):
        valid = precision[:, :, k][precision[:, :, k] > -1]
        per_class[names[category_id]] = float(np.mean(valid)) if len(valid) else float("nan")
    return {**summary, "per_class": per_class}


def _as_annotations(truth: dict, found: list[dict], iou_type: str) -> dict[str, Any]:
    """Results as a COCO data set: what ``COCO.loadRes`` makes, which fails for no results."""
    annotations = []
    for number, detection in enumerate(found, start=1):
        width, height = detection["bbox"][2:]
        area = rle.area(detection["segmentation"]) if iou_type == "segm" else width * height
        extra = {"id": number, "iscrowd": 0, "area": float(area)}
        annotations.append({**detection, **extra})
    return {**truth, "annotations": annotations}


def _indexed(dataset: dict[str, Any]) -> COCO:
    coco = COCO()  # which writes into its annotations: ours are a copy
    coco.dataset = {**dataset, "annotations": [dict(a) for a in dataset["annotations"]]}
    coco.createIndex()
    return coco


def headline(metrics: dict[str, Any]) -> str:
    """One line: ``box AP 0.312 (AP50 0.540), mask AP …``."""
    parts = [
        f"{kind} AP {metrics[kind]['AP']:.3f} (AP50 {metrics[kind]['AP50']:.3f})"
        for kind in ("box", "mask")
        if metrics.get(kind)
    ]
    return ", ".join(parts)


def table(metrics: dict[str, Any]) -> str:
    """The metrics as a table for people: one row for boxes, one for masks, then the classes."""
    columns = SUMMARY[:6] + ("AR100",)
    lines = ["      " + "".join(f"{name:>8}" for name in columns)]
    for kind in ("box", "mask"):
        if metrics.get(kind):
            lines.append(f"{kind:6}" + "".join(f"{metrics[kind][name]:8.3f}" for name in columns))
    kind = "mask" if metrics.get("mask") else "box"
    for name, value in metrics[kind]["per_class"].items():
        lines.append(f"{name}: {kind} AP {value:.3f}")
    return "\n".join(lines)
