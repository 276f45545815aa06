"""Anybody's predictions: COCO results read from a file, and scored against an annotation file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as rle

from fbnet_lesson.data.outlines import (
    box_rle,
    compress,
    has_outline,
    number,
    read_rle,
    show,
    whole,
)
from fbnet_lesson.training.scoring import MAX_DETS, score

KEYS = ("image_id", "category_id", "score")
RECORDS = {  # what each record of an annotation file has to have, and which are whole numbers
    "images": ("id", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
FIX = "data check --fix repairs it"
WHOLE = {"id", "width", "height", "image_id", "category_id"}


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
            raise ValueError(
                f"{where} is {show(result)}; expected image_id, category_id, bbox, score"
            )
        _check_keys(where, result, KEYS)
        segmentation = result.get("segmentation")
        if segmentation is not None:
            _check_rle(where, segmentation)
        if "bbox" not in result and segmentation is not None:
            result["bbox"] = rle.toBbox(segmentation).tolist()
        box = result.get("bbox")
        if not _is_box(box) or not number(result["score"]):
            raise ValueError(
                f"{where}: bbox {show(box)}, score {show(result['score'])}; expected four numbers "
                "[x, y, width, height], and one"
            )
    return found


def read_truth(path: str | Path) -> dict[str, Any]:
    """An annotation file as the truth to score against; pictures are not needed.

    Annotations are numbered anew from 1: pycocotools takes a match with the annotation 0 for none.
    Where some have an outline, the others, boxes alone, get ``has_mask`` False and the filled box,
    as ``CocoDataset.coco_ground_truth`` has it.

    Raises:
        ValueError: names the file and what it lacks, or the record and what is wrong with it.
    """
    truth = _json(path)
    lacking = [
        key
        for key in RECORDS
        if not isinstance(truth, dict) or not isinstance(truth.get(key), list)
    ]
    if lacking:
        raise ValueError(f"{path} has no list {lacking[0]!r}: it is no COCO annotation file")
    for key, needed in RECORDS.items():
        for n, record in enumerate(truth[key]):
            where = f"{path}: {key}[{n}]"
            if not isinstance(record, dict):
                raise ValueError(f"{where} is {show(record)}; expected {', '.join(needed)}")
            _check_keys(where, record, needed)
    for key in ("images", "categories"):
        for its_id, count in Counter(record["id"] for record in truth[key]).items():
            if count > 1:
                raise ValueError(f"{path}: {count} of its {key} have the id {its_id}; {FIX}")
    for n, category in enumerate(truth["categories"]):
        if not isinstance(category["name"], str):
            raise ValueError(f"{path}: categories[{n}]: name {show(category['name'])}; {FIX}")
    for n, image in enumerate(truth["images"]):
        if min(image["height"], image["width"]) < 1:
            size = f"{image['width']} x {image['height']}"
            raise ValueError(f"{path}: images[{n}] is of {size} pixels; {FIX}")
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    known = ids_of(truth)
    for n, annotation in enumerate(truth["annotations"]):
        where = f"{path}: annotations[{n}]"
        check_ids(where, annotation, known, f"the file has none; {FIX}")
        if not _is_box(box := annotation["bbox"]):
            raise ValueError(f"{where}: bbox {show(box)}; expected [x, y, width, height]")
        if (crowd := annotation.get("iscrowd") or 0) not in (0, 1):
            raise ValueError(f"{where}: iscrowd {show(crowd)}; expected 0 or 1")
        annotation |= {"id": n + 1, "iscrowd": int(crowd)}
        if not number(annotation.get("area")):
            annotation["area"] = box[2] * box[3]
        _check_outline(where, annotation.get("segmentation"), sizes[annotation["image_id"]])
    bare = [a for a in truth["annotations"] if not has_outline(a.get("segmentation"))]
    mixed = len(bare) < len(truth["annotations"])
    for annotation in bare:
        height, width = size = sizes[annotation["image_id"]]
        filled = box_rle(annotation["bbox"], size) or compress([height * width], size)
        annotation |= {"has_mask": False, "segmentation": filled if mixed else None}
    return truth


def check_ids(
    where: str, record: dict[str, Any], known: dict[str, set[int]], otherwise: str
) -> None:
    """ValueError unless the image and the category of a record are ``known``."""
    for key, ids in known.items():
        if record[key] not in ids:
            raise ValueError(f"{where}: {key} {record[key]}; {otherwise}")


def ids_of(truth: dict[str, Any]) -> dict[str, set[int]]:
    """The ids that an annotation or a result may name: ``{"image_id": …, "category_id": …}``."""
    sections = {"image_id": "images", "category_id": "categories"}
    return {key: {record["id"] for record in truth[name]} for key, name in sections.items()}


def check_match(found: list[dict[str, Any]], truth: dict[str, Any]) -> None:
    """ValueError for a detection of an image or a category that the truth has not, and for a mask
    of another size than its image: pycocotools would take none of them into account."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    known = ids_of(truth)
    for n, result in enumerate(found):
        check_ids(f"detection {n}", result, known, "the annotations are of another set")
        size = (result.get("segmentation") or {}).get("size")
        expected = sizes[result["image_id"]]
        if size is not None and size != expected:
            raise ValueError(
                f"detection {n} has a mask of {size}; its image {result['image_id']} is of "
                f"{expected} (height, width)"
            )


def _check_keys(where: str, record: dict[str, Any], needed: tuple[str, ...]) -> None:
    for key in needed:
        if key not in record:
            raise ValueError(f"{where} has no {key}; it has {', '.join(record) or 'nothing'}")
        if key in WHOLE and not whole(record[key]):
            raise ValueError(f"{where}: {key} is {show(record[key])}; expected a whole number")


def _check_rle(where: str, segmentation: Any) -> None:
    """ValueError unless pycocotools, whose C code trusts it, can take the encoding."""
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str):
        raise ValueError(
            f"{where}: segmentation is no run-length encoding; expected "
            "{'size': [height, width], 'counts': …} with the counts compressed to a string"
        )
    _, problem = read_rle(segmentation, None)
    if problem:
        raise ValueError(f"{where}: segmentation has {problem[0]}; expected {problem[1]}")


def _check_outline(where: str, outline: Any, size: tuple[int, int] | None) -> None:
    """ValueError unless it is nothing, polygons, or a run-length encoding of this size."""
    if not has_outline(outline):
        return
    if isinstance(outline, dict):
        _, problem = read_rle(outline, size)
        if problem:
            raise ValueError(f"{where}: segmentation has {problem[0]}; expected {problem[1]}")
    elif not isinstance(outline, list) or not all(map(_is_polygon, outline)):
        raise ValueError(
            f"{where}: segmentation {show(outline)}; expected polygons [[x1, y1, x2, y2, x3, y3, "
            f"…], …] of three points or more, or a run-length encoding; {FIX}"
        )


def _is_polygon(value: Any) -> bool:
    even = isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0
    return even and all(map(number, value))


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(number, value))


def score_results(
    truth: dict[str, Any], found: list[dict[str, Any]], max_dets: int = MAX_DETS
) -> dict[str, Any]:
    """What ``scoring.score`` says of a model's detections, of anybody's; masks where all have
    one."""
    has_truth = any(a.get("has_mask", True) for a in truth["annotations"])
    masks = has_truth and bool(found) and all(r.get("segmentation") for r in found)
    return score(Truth(truth, has_truth), found, masks, max_dets)


@dataclass
class Truth:
    """What ``score`` asks of a data set."""

    truth: dict[str, Any]
    has_masks: bool

    def coco_ground_truth(self) -> dict[str, Any]:
        return self.truth

    def __len__(self) -> int:
        return len(self.truth["images"])


def _json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
