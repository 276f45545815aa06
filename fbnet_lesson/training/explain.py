"""Why an average precision is 0, or undefined: sentences that a person can act on.

Predictions that are spoiled in one of the usual ways become good again when the damage is undone.
So each is undone in turn, and the one that lifts AP50 by far is named. Nothing that an honest
detector does, however badly it was trained, is mended by any of them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval

from fbnet_lesson.training.scoring import indexed

IMAGES = 300  # so many are enough to tell; a set may have a hundred thousand
FAR_BETTER = 2.0  # AP50 without the damage is more than twice that with it, and ...
BY_AT_LEAST = 0.1  # ... so much more at least
HARDLY = 0.005  # what an AP50 of "0.00" may be
AREAS = {"APs": "under 32² pixels", "APm": "from 32² to 96² pixels", "APl": "over 96² pixels"}

Result = dict[str, Any]


def explain(truth: dict[str, Any], found: list[Result], metrics: dict[str, Any]) -> list[str]:
    """What stands behind odd numbers, one sentence each; nothing, where there is nothing odd.

    Args:
        truth: the ground truth in COCO's format: ``images``, ``annotations``, ``categories``.
        found: COCO results, ``image_id, category_id, bbox [x, y, w, h], score`` each; instead of
            ``bbox`` they may have a ``segmentation``.
        metrics: what ``scoring.score`` says of them.
    """
    said = list(_undefined(truth, metrics))
    if not truth["annotations"]:
        return said
    if not found:
        return [*said, "There is no detection at all: nothing scored over the score threshold."]
    known = {image["id"] for image in truth["images"]}
    categories = [category["id"] for category in truth["categories"]]
    strangers = _strangers(found, "image_id", known), _strangers(found, "category_id", categories)
    said += [
        f"{count} of {len(found)} detections have {what} that the set has not, such as {example}"
        f" (it has {_some(ids)}): they count for nothing."
        for (count, example), what, ids in zip(
            strangers, ("an image_id", "a category_id"), (known, categories), strict=True
        )
        if count
    ]
    sample = _Sample(truth, found)
    spoiled = sample.diagnose()
    if spoiled:
        return [*said, spoiled]
    missing = sample.missing_images()
    if missing:
        said.append(missing)
    if metrics["box"]["AP50"] < HARDLY and not any(count for count, _ in strangers):
        said.append(
            f"{len(found)} detections, and hardly one covers an object of its class with an IoU of "
            f"0.5; the best IoU is {sample.best_iou():.2f}. Has the model learned for long enough?"
        )
    return said


def _undefined(truth: dict, metrics: dict) -> Iterator[str]:
    """AP is the mean over the classes and sizes that occur; without any it is no number."""
    if not truth["annotations"]:
        yield "AP is undefined: the images that were evaluated have no object."
        return
    counted = [a for a in truth["annotations"] if not a.get("iscrowd")]
    if not counted:
        yield "AP is undefined: all objects of the images that were evaluated are crowds."
        return
    box = metrics["box"]
    for name, area in AREAS.items():
        if np.isnan(box[name]):
            yield f"{name} is undefined: no object has an area {area}."
    absent = [name for name, value in box["per_class"].items() if np.isnan(value)]
    if absent:
        yield f"AP of {', '.join(absent)} is undefined: no such object, so AP is over the others."


def _strangers(found: list[Result], key: str, known) -> tuple[int, Any]:
    """How many results name an id that is not known, and one of those."""
    odd = [result[key] for result in found if result[key] not in set(known)]
    return len(odd), odd[0] if odd else None


def _some(ids) -> str:
    ids = sorted(ids)
    return ", ".join(map(str, ids)) if len(ids) <= 5 else f"{ids[0]}, {ids[1]}, … {ids[-1]}"


class _Sample:
    """Some of the images, with their boxes as arrays: enough to try many repairs on."""

    def __init__(self, truth: dict, found: list[Result]):
        ids = [image["id"] for image in truth["images"]]
        step = max(1, len(ids) // IMAGES)
        chosen = ids[::step]
        self.images = [image for image in truth["images"] if image["id"] in set(chosen)]
        self.sizes = {i["id"]: (i["width"], i["height"]) for i in self.images}
        self.categories = sorted(category["id"] for category in truth["categories"])
        self.names = {c["id"]: c["name"] for c in truth["categories"]}
        keep = {*chosen}
        self.truth = {
            "images": self.images,
            "categories": truth["categories"],
            "annotations": [
                {**a, "iscrowd": a.get("iscrowd", 0)}
                for a in truth["annotations"]
                if a["image_id"] in keep
            ],
        }
        self.ids, self.all_found = ids, found
        self.found = [r for r in found if r["image_id"] in keep]
        self.boxes = _boxes(self.found)  # (D, 4) x, y, w, h
        self.target = indexed(self.truth)

    # ------------------------------------------------------------------------------ the repairs

    def diagnose(self) -> str | None:
        """The sentence of the repair that lifts AP50 the most, if one lifts it by far."""
        before = self.ap50(self.found)
        best, sentence = before, None
        for text, repaired in self.repairs():
            after = self.ap50(repaired)
            # Of two that mend it equally well, the first is the simpler.
            if after > best + 0.01 and after > max(FAR_BETTER * before, before + BY_AT_LEAST):
                best, sentence = after, text
        reversed_ = self.ap50([{**r, "score": -r["score"]} for r in self.found])
        if reversed_ > max(best, before + BY_AT_LEAST):  # no honest score is worse than its reverse
            best = reversed_
            sentence = "The scores look reversed: the best detections have the lowest."
        if sentence is None:
            return None
        return f"{sentence} (AP50 of the boxes is {before:.2f}, and {best:.2f} with that undone.)"

    def repairs(self) -> Iterator[tuple[str, list[Result]]]:
        """(what was done to the predictions, they with that undone)."""
        yield (
            "The boxes look like [x1, y1, x2, y2]; COCO's bbox is [x, y, width, height].",
            self.with_boxes(np.c_[self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]]),
        )
        if len(self.boxes) and self.boxes.max() <= 2:
            edges = np.array([self.sizes[r["image_id"]] * 2 for r in self.found], float)
            yield (
                "The boxes look like shares of the picture, 0..1; COCO's are in pixels.",
                self.with_boxes(self.boxes * edges),
            )
            corners = np.c_[self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]]
            yield (
                "The boxes look like [x1, y1, x2, y2] in shares of the picture, 0..1; COCO's bbox "
                "is [x, y, width, height] in pixels.",
                self.with_boxes(corners * edges),
            )
        for by in (-1, 1):
            yield (
                f"The image_ids look shifted by {-by:+d}: those of the set are {_some(self.ids)}.",
                self.with_image_ids(by),
            )
        yield from self.scaled()
        yield from self.relabelled()

    def with_boxes(self, boxes: np.ndarray) -> list[Result]:
        return [{**r, "bbox": list(b)} for r, b in zip(self.found, boxes, strict=True)]

    def with_image_ids(self, by: int) -> list[Result]:
        """The results whose images are in the sample once ``by`` was added to the id, or to the
        image's place in the list."""
        moved = [{**r, "image_id": r["image_id"] + by} for r in self.all_found]
        inside = [r for r in moved if r["image_id"] in self.sizes]
        places = {image_id: n for n, image_id in enumerate(self.ids)}
        follow = {i: self.ids[(n + by) % len(self.ids)] for i, n in places.items()}
        in_list = [
            {**r, "image_id": follow[r["image_id"]]}
            for r in self.all_found
            if r["image_id"] in follow and follow[r["image_id"]] in self.sizes
        ]
        return max(inside, in_list, key=self.ap50)

    def scaled(self) -> Iterator[tuple[str, list[Result]]]:
        """Boxes of a picture that was resized: by one factor, to one short edge, or to a square.

        The factor is the typical one between a class's best detection and its only object.
        """
        ratios, where = [], []
        for r, truth in self.single_pairs():
            if min(r["bbox"][2:]) > 0:
                ratios.append([truth[2] / r["bbox"][2], truth[3] / r["bbox"][3]])
                where.append(self.sizes[r["image_id"]])
        if len(ratios) < 3:
            return
        ratios, where = np.array(ratios), np.array(where, float)  # (P, 2) along x and y
        edges = np.array([self.sizes[r["image_id"]] for r in self.found], float)
        short, of_pairs = edges.min(1, keepdims=True), where.min(1, keepdims=True)
        one = np.median(ratios)
        edge = np.median(of_pairs / ratios)  # of the resized picture
        square = np.median(where / ratios, axis=0)  # its width and height
        for factors in (
            np.full((len(edges), 2), one),
            np.repeat(short / edge, 2, axis=1),
            edges / square,
        ):
            # The estimate is from boxes that differ a little: a round number nearby may be meant.
            yield (
                f"The boxes look like those of another image size: they fit when multiplied by "
                f"about {np.median(factors):.2f}.",
                self.with_boxes(self.boxes * np.tile(factors, 2)),
            )

    def single_pairs(self) -> Iterator[tuple[Result, list[float]]]:
        """The best detection of a class and the object, where the image has one of that class."""
        objects: dict[tuple, list] = {}
        for a in self.truth["annotations"]:
            objects.setdefault((a["image_id"], a["category_id"]), []).append(a["bbox"])
        best: dict[tuple, Result] = {}
        for r, box in zip(self.found, self.boxes.tolist(), strict=True):
            key = (r["image_id"], r["category_id"])
            if key not in best or r["score"] > best[key]["score"]:
                best[key] = {**r, "bbox": box}
        for key, boxes in objects.items():
            if len(boxes) == 1 and key in best:
                yield best[key], boxes[0]

    def relabelled(self) -> Iterator[tuple[str, list[Result]]]:
        """Labels by the next category, and in the order that fits what lies under the boxes."""
        for by in (-1, 1):
            ids = self.categories
            follow = {i: ids[(n + by) % len(ids)] for n, i in enumerate(ids)}
            plus = {i: i + by for i in {r["category_id"] for r in self.found}}
            for mapping in (follow, plus):
                yield (
                    f"The category_ids look shifted by {-by:+d}: {self.example(mapping)}.",
                    self.with_labels(mapping),
                )
        mapping = self.likeliest_labels()
        wrong = {a: b for a, b in mapping.items() if a != b}
        if wrong:
            yield (
                f"The categories look as if they were in another order: {self.example(wrong)}.",
                self.with_labels(mapping),
            )

    def example(self, mapping: dict) -> str:
        common = max(
            (r["category_id"] for r in self.found if r["category_id"] in mapping),
            key=[r["category_id"] for r in self.found].count,
            default=None,
        )
        if common is None:
            return "no id of them is known"
        named = self.names.get(common, "unknown")
        meant = self.names.get(mapping[common], "unknown")
        return f"what is called {common} ({named}) lies on {mapping[common]} ({meant})"

    def with_labels(self, mapping: dict) -> list[Result]:
        return [
            {**r, "category_id": mapping[r["category_id"]]}
            for r in self.found
            if r["category_id"] in mapping
        ]

    def likeliest_labels(self) -> dict[int, int]:
        """Each label's category by what lies under its boxes, the clearest first, none twice."""
        index = {c: n for n, c in enumerate(self.categories)}
        seen: dict[int, np.ndarray] = {}
        for image_id in self.sizes:
            rows = [n for n, r in enumerate(self.found) if r["image_id"] == image_id]
            objects = [a for a in self.truth["annotations"] if a["image_id"] == image_id]
            if not rows or not objects:
                continue
            ious = _ious(self.boxes[rows], np.array([a["bbox"] for a in objects], float))
            for n, row in zip(rows, ious, strict=True):
                if row.max() >= 0.5:
                    result = self.found[n]
                    count = seen.setdefault(result["category_id"], np.zeros(len(index)))
                    count[index[objects[int(row.argmax())]["category_id"]]] += result["score"]
        mapping: dict[int, int] = {}
        votes = [(v, label, k) for label, row in seen.items() for k, v in enumerate(row) if v > 0]
        for _, label, k in sorted(votes, reverse=True):
            if label not in mapping and self.categories[k] not in mapping.values():
                mapping[label] = self.categories[k]
        return mapping

    # ----------------------------------------------------------------------- what cannot be undone

    def missing_images(self) -> str | None:
        """Whether images were left out, rather than looked at in vain.

        If a share r of the objects is found in the images that have detections, then of an image
        with n objects nothing is found with a chance of (1 - r)^n. Many more empty images than
        that were not looked at.
        """
        objects: dict[int, list] = {}
        for a in self.truth["annotations"]:
            objects.setdefault(a["image_id"], []).append(a["bbox"])
        rows: dict[int, list[int]] = {}
        for n, r in enumerate(self.found):
            rows.setdefault(r["image_id"], []).append(n)
        empty = [i for i in objects if i not in rows]
        seen = [i for i in objects if i in rows]
        if not empty or not seen:
            return None
        covered = [
            (_ious(self.boxes[rows[i]], np.array(objects[i], float)).max(0) >= 0.5) for i in seen
        ]
        recall = float(np.concatenate(covered).mean())
        expected = sum((1 - recall) ** len(boxes) for boxes in objects.values())
        if len(empty) <= 3 * expected + 2:  # images that are hard are so for all their objects
            return None
        return (
            f"{len(empty)} of {len(objects)} images with objects have no detection at all, such as "
            f"image {empty[0]}, though {recall:.0%} of the objects of the others are found: were "
            "all images given to the model?"
        )

    def best_iou(self) -> float:
        best = 0.0
        for a in self.truth["annotations"]:
            key = a["image_id"], a["category_id"]
            rows = [n for n, r in enumerate(self.found) if (r["image_id"], r["category_id"]) == key]
            if rows:
                best = max(best, _ious(self.boxes[rows], np.array([a["bbox"]], float)).max())
        return best

    def ap50(self, results: list[Result]) -> float:
        """Box AP at IoU 0.5 on the sample, 0 where there is none."""
        boxes = _boxes(results)
        annotations = [
            {
                "id": n,
                "image_id": r["image_id"],
                "category_id": r["category_id"],
                "score": r["score"],
                "bbox": box,
                "area": max(box[2], 0) * max(box[3], 0),
                "iscrowd": 0,
            }
            for n, (r, box) in enumerate(zip(results, boxes.tolist(), strict=True), start=1)
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(
                self.target, indexed({**self.truth, "annotations": annotations}), "bbox"
            )
            evaluation.params.iouThrs = np.array([0.5])
            evaluation.params.areaRng = [[0, 1e10]]
            evaluation.params.areaRngLbl = ["all"]
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"]
        valid = precision[precision > -1]
        return float(valid.mean()) if valid.size else 0.0


def _boxes(results: list[Result]) -> np.ndarray:
    """[D, 4] x, y, width, height; of a segmentation where there is no bbox."""
    found = [
        r["bbox"] if "bbox" in r else list(rle.toBbox(_bytes(r["segmentation"]))) for r in results
    ]
    return np.array(found, float).reshape(len(found), 4)


def _bytes(encoded: dict) -> dict:
    counts = encoded["counts"]
    return {**encoded, "counts": counts.encode() if isinstance(counts, str) else counts}


def _ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[A, 4] and [B, 4] x, y, width, height -> [A, B]; pycocotools'."""
    return np.asarray(rle.iou(np.maximum(a, 0), b, [0] * len(b))).reshape(len(a), len(b))
