"""COCO average precision of results against the ground truth of a data set, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

MAX_DETS = 100  # of one class in one image: what COCO scores
SUMMARY = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip


def score(
    dataset: Any, found: list[dict[str, Any]], with_masks: bool, max_dets: int = MAX_DETS
) -> dict[str, Any]:
    """Compare COCO results with the ground truth of the data set; see ``evaluation.evaluate``."""
    truth = dataset.coco_ground_truth()
    mask_truth = {**truth, "annotations": [_with_mask(a) for a in truth["annotations"]]}
    with_masks &= getattr(dataset, "has_masks", True)  # boxes alone are no truth about masks
    names = class_names(truth)
    objects = Counter(a["category_id"] for a in truth["annotations"] if not a.get("iscrowd"))
    return {
        "images": len(truth["images"]),
        "detections": len(found),
        "objects": {name: objects[number] for number, name in names.items()},
        "box": average_precision(truth, found, "bbox", max_dets),
        "mask": average_precision(mask_truth, found, "segm", max_dets) if with_masks else None,
        "limits": _what_is_not_scored(truth, found, max_dets),
    }


def _with_mask(annotation: dict[str, Any]) -> dict[str, Any]:
    """An object of which only the box is known is a place where masks are not scored: a crowd."""
    return annotation if annotation.get("has_mask", True) else {**annotation, "iscrowd": 1}


def class_names(truth: dict[str, Any]) -> dict[int, str]:
    """The name of each category id; with the id beside it where two have one name."""
    often = Counter(category["name"] for category in truth["categories"])
    return {
        c["id"]: c["name"] if often[c["name"]] == 1 else f"{c['name']} (id {c['id']})"
        for c in truth["categories"]
    }


def _what_is_not_scored(truth: dict, found: list[dict], max_dets: int) -> list[str]:
    """A sentence where an image has more objects or detections of a class than are scored."""
    groups = (
        Counter((d["image_id"], d["category_id"]) for d in records)
        for records in (truth["annotations"], found)
    )
    most = {}
    for what, counts in zip(("objects", "detections"), groups, strict=True):
        if counts and max(counts.values()) > max_dets:
            most[what] = max(counts.items(), key=lambda item: item[1])
    if not most:
        return []
    what, ((image_id, category_id), count) = max(most.items(), key=lambda item: item[1][1])
    name = class_names(truth)[category_id]
    return [
        f"image {image_id} has {count} {what} of {name}: only the best {max_dets} detections of a "
        f"class in an image are scored; --max-dets {count} scores all"
    ]


def average_precision(
    truth: dict[str, Any], found: list[dict[str, Any]], iou_type: str, max_dets: int = MAX_DETS
) -> dict[str, Any]:
    """The numbers of ``SUMMARY`` and ``per_class`` for boxes (``"bbox"``) or masks (``"segm"``).

    ``max_dets``: of each class in an image the best so many count; AR100 is named after it.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            indexed(truth), indexed(_as_annotations(truth, found, iou_type)), iou_type
        )
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # [IoU, recall, class, area, most detections]
    recall = evaluation.eval["recall"]  # [IoU, class, area, most detections]
    best = precision[..., -1]
    parts = (
        *(best[..., 0], best[0, ..., 0], best[5, ..., 0]),  # IoU 0.50 : 0.05 : 0.95, 0.50, 0.75
        *(best[..., area] for area in (1, 2, 3)),
        *(recall[..., 0, most] for most in (0, 1, 2)),
        *(recall[..., area, -1] for area in (1, 2, 3)),
    )
    summary_names = (name.replace("AR100", f"AR{max_dets}") for name in SUMMARY)
    names = class_names(truth)
    summary = {name: _mean(part) for name, part in zip(summary_names, parts, strict=True)}
    for fewer in (1, 10):
        if fewer > max_dets:  # so many are not scored
            del summary[f"AR{fewer}"]
    return {
        **summary,
        "per_class": {
            names[category_id]: _mean(best[:, :, k, 0])
            for k, category_id in enumerate(evaluation.params.catIds)
        },
    }


def _mean(values: np.ndarray) -> float:
    """The mean of those that there are: pycocotools has -1 where there is no truth to find."""
    there = values[values > -1]
    return float(there.mean()) if there.size else float("nan")


def _as_annotations(truth: dict, found: list[dict], iou_type: str) -> dict[str, Any]:
    """Results as a COCO data set: what ``COCO.loadRes`` makes, which fails for no results."""
    annotations = []
    for number, detection in enumerate(found, start=1):
        width, height = detection["bbox"][2:]
        area = rle.area(detection["segmentation"]) if iou_type == "segm" else width * height
        extra = {"id": number, "iscrowd": 0, "area": float(area)}
        annotations.append({**detection, **extra})
    return {**truth, "annotations": annotations}


def indexed(dataset: dict[str, Any]) -> COCO:
    """A COCO data set with its index, made without a word; the annotations are copies."""
    coco = COCO()  # which writes into them
    coco.dataset = {**dataset, "annotations": [dict(a) for a in dataset["annotations"]]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
