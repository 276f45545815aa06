"""Anybody's predictions: COCO results read from a file, and scored against an annotation file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as rle

from fbnet_lesson.training.scoring import MAX_DETS, score

KEYS = ("image_id", "category_id", "score")


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """The detections of a file in COCO's results format, each with a ``bbox``.

    Where a result has only a ``segmentation`` (run-length encoded), its bbox is taken from that.

    Raises:
        ValueError: names the file, the result and what is wrong with it.
    """
    found = _json(path)
    if isinstance(found, dict) and isinstance(found.get("annotations"), list):
        found = found["annotations"]  # a whole data set, as some tools write it
    if not isinstance(found, list):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a list of detections")
    for n, result in enumerate(found):
        where = f"{path}: detection {n}"
        if not isinstance(result, dict):
            raise ValueError(f"{where} is {result!r}; expected image_id, category_id, bbox, score")
        missing = [key for key in KEYS if key not in result]
        if missing:
            raise ValueError(f"{where} has no {missing[0]}; it has {', '.join(result)}")
        segmentation = result.get("segmentation")
        if segmentation is not None and not _is_rle(segmentation):
            raise ValueError(
                f"{where}: segmentation is no run-length encoding; expected "
                "{'size': [height, width], 'counts': …} with the counts compressed to a string"
            )
        if "bbox" not in result and segmentation is not None:
            result["bbox"] = rle.toBbox(segmentation).tolist()
        box = result.get("bbox")
        numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
        if not numbers or not _is_number(result["score"]):
            raise ValueError(
                f"{where}: bbox {box!r}, score {result['score']!r}; expected four numbers "
                "[x, y, width, height], and one"
            )
    return found


def read_truth(path: str | Path) -> dict[str, Any]:
    """An annotation file as the truth to score against; pictures are not needed.

    Raises:
        ValueError: names the file and what it lacks.
    """
    truth = _json(path)
    lacking = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(truth, dict) or not isinstance(truth.get(key), list)
    ]
    if lacking:
        raise ValueError(f"{path} has no list {lacking[0]!r}: it is no COCO annotation file")
    for annotation in truth["annotations"]:
        _, _, width, height = annotation.get("bbox") or (0, 0, 0, 0)
        annotation.setdefault("area", width * height)
        annotation.setdefault("iscrowd", 0)
    return truth


def score_results(
    truth: dict[str, Any], found: list[dict[str, Any]], max_dets: int = MAX_DETS
) -> dict[str, Any]:
    """What ``scoring.score`` says of a model's detections, of anybody's; masks where all have
    one."""
    has_truth = any(a.get("segmentation") for a in truth["annotations"])
    masks = has_truth and bool(found) and all(r.get("segmentation") for r in found)
    return score(_Truth(truth, has_truth), found, masks, max_dets)


@dataclass
class _Truth:
    """What ``score`` asks of a data set."""

    truth: dict[str, Any]
    has_masks: bool

    def coco_ground_truth(self) -> dict[str, Any]:
        return self.truth


def _json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _is_rle(value: Any) -> bool:
    return isinstance(value, dict) and "size" in value and isinstance(value.get("counts"), str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
