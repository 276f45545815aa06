"""The exercises of lesson 09: what COCO's average precision computes, in its plain form.

The package asks pycocotools; here is what that computes, in functions short enough to write. The
tests hold all twelve numbers equal, for boxes and for masks.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from hypothesis import strategies as st
from pycocotools import mask as rle
from torch import Tensor

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Case, Exercise, Mistake
from fbnet_lesson.training.scoring import SUMMARY


def match_detections(ious: Tensor, ignored: Tensor, crowd: Tensor, iou_threshold: float) -> Tensor:
    """Which object each detection of one image and one class has found.

    The rows of ``ious`` are the detections by falling score, and take their turns in that order. A
    detection takes the object that it overlaps most, of those with an IoU of ``iou_threshold`` or
    more that nobody took before. Objects that are not ``ignored`` come first: an ignored one is
    taken only where no other is left. A ``crowd`` can be taken by any number of detections.

    ``ious`` [D, G], no two values of a row alike; ``ignored`` and ``crowd`` [G] bool, a crowd
    being always ignored. Returns [D] int64: the index of the object, or -1.
    """
    free = torch.ones(ious.shape[1], dtype=torch.bool)
    matched = torch.full((len(ious),), -1)
    for d, row in enumerate(ious):
        possible = (free | crowd) & (row >= iou_threshold)  # (G,)
        counted = possible & ~ignored
        if counted.any():
            possible = counted
        if possible.any():
            best = row.masked_fill(~possible, -1).argmax()
            matched[d], free[best] = best, False
    return matched


def which_count(matched: Tensor, ignored: Tensor, areas: Tensor, low: float, high: float) -> Tensor:
    """Which detections count, as right or as wrong; the others are as if they had not been made.

    One that took an ignored object does not count. Nor does one that took none and whose own area
    is under ``low`` or over ``high``.

    ``matched`` [D] int64, index of an object or -1; ``ignored`` [G] bool; ``areas`` [D] of the
    detections. Returns [D] bool.
    """
    of_none = ignored.new_zeros(1)  # where index -1 looks
    inside = (areas >= low) & (areas <= high)
    return torch.where(matched < 0, inside, ~torch.cat([ignored, of_none])[matched])


def precision_recall(correct: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    """Precision and recall of the best 1, 2, …, D detections.

    Precision is the share of the detections that are right; recall the share of the objects that
    are found.

    ``correct`` [D] bool by falling score; ``objects``, 1 or more, how many there are to find.
    Returns two float64 tensors [D].
    """
    hits = correct.double().cumsum(0)  # (D,)
    return hits / torch.arange(1, len(correct) + 1), hits / objects


def average_precision(precision: Tensor, recall: Tensor, points: Tensor) -> Tensor:
    """The mean, over recall levels, of the best precision that is had at that recall or more.

    ``precision`` and ``recall`` [D] float64, as ``precision_recall`` gives them; ``points`` [P]
    float64, the levels. A level that is never reached counts 0. Returns a float64 tensor without
    dimensions.
    """
    envelope = precision.flip(0).cummax(0).values.flip(0)  # (D,) the best from here on
    first = torch.searchsorted(recall, points)  # (P,) where recall is a level or more
    return torch.cat([envelope, envelope.new_zeros(1)])[first].mean()


def class_ap(
    images: list[dict[str, Tensor]], iou_threshold: float, low: float, high: float, points: Tensor
) -> Tensor:
    """Average precision of one class over all images, at one IoU threshold.

    Each image is a dict: ``ious`` [D, G], ``scores`` [D] falling, ``areas`` [D] of its detections,
    ``ignored`` and ``crowd`` [G] bool of its objects. In each, detections are matched, and those
    that do not count are left out, see ``match_detections`` and ``which_count``. The rest of all
    images together, by falling score (equal ones in the order of the images), gives one curve.

    ``points`` [P] float64, see ``average_precision``. Returns a float64 tensor without dimensions;
    nan where no image has an object that is not ignored.
    """
    correct, scores, objects = [], [], 0
    for image in images:
        matched = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        count = which_count(matched, image["ignored"], image["areas"], low, high)
        correct.append(matched[count] >= 0)
        scores.append(image["scores"][count])
        objects += int((~image["ignored"]).sum())
    if objects == 0:
        return torch.tensor(torch.nan, dtype=torch.float64)
    order = torch.cat(scores).argsort(descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(correct)[order], objects), points)


# From COCO's files to the inputs of these functions, and to its twelve numbers.

POINTS = torch.from_numpy(np.linspace(0, 1, 101))  # as pycocotools makes them, to the last bit
THRESHOLDS = np.linspace(0.5, 0.95, 10).tolist()
AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def images_of_class(
    truth: dict, found: list[dict], category_id: int, iou_type: str = "bbox", limit: int = 100
) -> list[dict[str, Tensor]]:
    """What ``class_ap`` takes, of COCO's ground truth and results.

    ``ious`` are pycocotools' own, in float64: of a crowd, the share of the detection that is in
    it. ``truth_areas`` [G] are those of the objects, which say whether a size ignores them.
    """
    objects = {image["id"]: [] for image in truth["images"]}
    results = {image["id"]: [] for image in truth["images"]}
    for kind, rows in ((objects, truth["annotations"]), (results, found)):
        for row in rows:
            if row["category_id"] == category_id:
                kind[row["image_id"]].append(row)
    images = []
    for image_id in objects:
        rows = sorted(results[image_id], key=lambda r: -r["score"])[:limit]
        crowd = [int(a.get("iscrowd", 0)) for a in objects[image_id]]
        forms = [[_form(row, iou_type) for row in side] for side in (rows, objects[image_id])]
        ious = rle.iou(*forms, crowd) if rows and crowd else np.zeros((len(rows), len(crowd)))
        boxes = torch.tensor([r["bbox"] for r in rows], dtype=torch.float64).reshape(-1, 4)
        areas = boxes[:, 2] * boxes[:, 3]
        if iou_type == "segm" and rows:
            areas = torch.from_numpy(rle.area(forms[0]).astype(float))
        images.append(
            {
                "ious": torch.from_numpy(np.asarray(ious, float).reshape(len(rows), len(crowd))),
                "scores": torch.tensor([r["score"] for r in rows], dtype=torch.float64),
                "areas": areas,
                "crowd": torch.tensor(crowd, dtype=torch.bool),
                "truth_areas": torch.tensor(
                    [a["area"] for a in objects[image_id]], dtype=torch.float64
                ),
            }
        )
    return images


def _form(row: dict, iou_type: str):
    """What pycocotools compares: a bbox, or a compressed mask."""
    if iou_type == "bbox":
        return row["bbox"]
    form = row["segmentation"]
    if isinstance(form["counts"], list):
        return rle.frPyObjects(form, *form["size"])
    return form


def of_size(images: list[dict], low: float, high: float, limit: int = 100) -> list[dict]:
    """The images with objects of other sizes ignored, and at most ``limit`` detections each."""
    sized = []
    for image in images:
        other = (image["truth_areas"] < low) | (image["truth_areas"] > high)
        top = {name: image[name][:limit] for name in ("ious", "scores", "areas")}
        sized.append(image | top | {"ignored": image["crowd"] | other})
    return sized


def recall_of(images: list[dict], iou_threshold: float, match=match_detections) -> float:
    """The share of the objects that are found at all; nan without an object."""
    objects = sum(int((~image["ignored"]).sum()) for image in images)
    if objects == 0:
        return math.nan
    hits = 0
    for image in images:
        matched = match(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        taken = matched[matched >= 0]
        hits += int((~image["ignored"][taken]).sum())
    return hits / objects


def summary(
    truth: dict, found: list[dict], iou_type: str = "bbox", ap=class_ap, match=match_detections
) -> dict[str, float]:
    """COCO's twelve numbers by the names of ``training.scoring.SUMMARY``, and ``per_class``."""
    classes = {
        c["name"]: [  # others add nothing to any sum
            image
            for image in images_of_class(truth, found, c["id"], iou_type)
            if len(image["scores"]) or len(image["crowd"])
        ]
        for c in truth["categories"]
    }

    def precisions(images, size: str, thresholds=THRESHOLDS) -> list[float]:
        sized = of_size(images, *AREAS[size])
        return [float(ap(sized, t, *AREAS[size], POINTS)) for t in thresholds]

    def over_classes(values) -> float:
        flat = [v for row in values for v in row if not math.isnan(v)]
        return sum(flat) / len(flat) if flat else math.nan

    every = {name: precisions(images, "") for name, images in classes.items()}
    result = {
        "AP": over_classes(every.values()),
        "AP50": over_classes(row[:1] for row in every.values()),
        "AP75": over_classes(row[5:6] for row in every.values()),
    }
    for size in "sml":
        result[f"AP{size}"] = over_classes(precisions(i, size) for i in classes.values())
    for name, size, limit in (
        ("AR1", "", 1), ("AR10", "", 10), ("AR100", "", 100),
        ("ARs", "s", 100), ("ARm", "m", 100), ("ARl", "l", 100),
    ):  # fmt: skip
        sized = [of_size(images, *AREAS[size], limit) for images in classes.values()]
        result[name] = over_classes([recall_of(i, t, match) for t in THRESHOLDS] for i in sized)
    per_class = {name: over_classes([row]) for name, row in every.items()}
    return {name: result[name] for name in SUMMARY} | {"per_class": per_class}


# Wrong answers that are no edit of the right one.


def _from_the_objects(ious, ignored, crowd, iou_threshold):
    matched = torch.full((len(ious),), -1)
    for g in range(ious.shape[1]):
        if len(ious) and ious[:, g].max() >= iou_threshold:
            matched[ious[:, g].argmax()] = g
    return matched


def _worst_first(ious, ignored, crowd, iou_threshold):
    return match_detections(ious.flip(0), ignored, crowd, iou_threshold).flip(0)


def _only_the_first_choice(ious, ignored, crowd, iou_threshold):
    free = torch.ones(ious.shape[1], dtype=torch.bool)
    matched = torch.full((len(ious),), -1)
    for d, row in enumerate(ious):
        if len(row) and row.max() >= iou_threshold:
            best = row.argmax()
            if free[best] or crowd[best]:
                matched[d], free[best] = best, False
    return matched


def _only_the_first_choice_of_those_that_count(ious, ignored, crowd, iou_threshold):
    free = torch.ones(ious.shape[1], dtype=torch.bool)
    matched = torch.full((len(ious),), -1)
    for d, row in enumerate(ious):
        possible = row >= iou_threshold
        if (possible & ~ignored).any():
            possible = possible & ~ignored
        if possible.any():
            best = row.masked_fill(~possible, -1).argmax()
            if free[best] or crowd[best]:
                matched[d], free[best] = best, False
    return matched


def _closest_pairs_first(ious, ignored, crowd, iou_threshold):
    matched = torch.full((len(ious),), -1)
    pairs = [(bool(ignored[g]), -float(ious[d, g]), d, g) for d, g in np.ndindex(*ious.shape)]
    for _, negative, d, g in sorted(pairs):
        free = crowd[g] or g not in matched
        if -negative >= iou_threshold and matched[d] < 0 and free:
            matched[d] = g
    return matched


def _asks_the_last_object(matched, ignored, areas, low, high):
    count = which_count(matched, ignored, areas, low, high)
    return count & ~ignored[matched] if len(ignored) else count


def _last_values(correct, objects):
    hits = correct.double().sum().reshape(1)
    return hits / max(len(correct), 1), hits / objects


def _with_a_point_in_front(correct, objects):
    precision, recall = precision_recall(correct, objects)
    return torch.cat([precision.new_ones(1), precision]), torch.cat([recall.new_zeros(1), recall])


def _from_the_worst(correct, objects):
    hits = correct.flip(0).double().cumsum(0).flip(0)
    return hits / torch.arange(len(correct), 0, -1), hits / objects


def _of_reached_levels(precision, recall, points):
    envelope = precision.flip(0).cummax(0).values.flip(0)
    first = torch.searchsorted(recall, points)
    reached = first < len(recall)
    return envelope[first[reached]].mean() if reached.any() else points.new_tensor(0.0)


def _last_for_unreached(precision, recall, points):
    if len(precision) == 0:
        return points.new_tensor(0.0)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return envelope[torch.searchsorted(recall, points).clamp(max=len(recall) - 1)].mean()


def _best_until_there(precision, recall, points):
    until = recall <= points[:, None]  # (P, D)
    best = torch.cat([precision.expand(until.shape) * until, points.new_zeros(len(points), 1)], 1)
    return best.amax(1).mean()


def _rectangles(precision, recall, points):
    return (precision * recall.diff(prepend=recall.new_zeros(1))).sum()


def _rectangles_under_the_envelope(precision, recall, points):
    return _rectangles(precision.flip(0).cummax(0).values.flip(0), recall, points)


def _trapezoids(precision, recall, points):
    return torch.trapezoid(precision, recall)


def _mean_of_detections(precision, recall, points):
    return precision.mean() if len(precision) else points.new_tensor(0.0)


def _between_detections(precision, recall, points):
    if len(precision) == 0:
        return points.new_tensor(0.0)
    curve = np.interp(points.numpy(), recall.numpy(), precision.numpy(), right=0.0)
    return torch.from_numpy(curve).mean()


def _mean_over_images(images, iou_threshold, low, high, points):
    values = [class_ap([image], iou_threshold, low, high, points) for image in images]
    values = [v for v in values if not v.isnan()]
    return torch.stack(values).mean() if values else torch.tensor(torch.nan, dtype=torch.float64)


def _without_empty_images(images, iou_threshold, low, high, points):
    seen = [image for image in images if len(image["scores"])]
    return class_ap(seen, iou_threshold, low, high, points)


def _nan_without_detections(images, iou_threshold, low, high, points):
    value = class_ap(images, iou_threshold, low, high, points)
    counted = [
        which_count(
            match_detections(i["ious"], i["ignored"], i["crowd"], iou_threshold),
            i["ignored"], i["areas"], low, high,
        ).any()
        for i in images
    ]  # fmt: skip
    return value if any(counted) else value * torch.nan


def _everything_known(ious, ignored, crowd, iou_threshold):
    """As if no object were ignored, but crowds."""
    return match_detections(ious, crowd, crowd, iou_threshold)


def _only_counted_objects(images, iou_threshold, low, high, points):
    """Drops ignored objects beforehand, so that detections of them are wrong."""
    kept = [
        image
        | {
            "ious": image["ious"][:, ~image["ignored"]],
            "ignored": image["ignored"][~image["ignored"]],
            "crowd": image["crowd"][~image["ignored"]],
        }
        for image in images
    ]
    return class_ap(kept, iou_threshold, low, high, points)


# How a learner's function gets into ``evaluate``: the plain form takes pycocotools' place.


def _evaluation(**parts) -> dict:
    def average(truth, found, iou_type, max_dets=100):
        return summary(truth, found, iou_type, **parts)

    return {"training.scoring.average_precision": average}


def _in_the_evaluation(name: str):
    def replacements(function):
        return _evaluation() | {f"course.exercises.lesson09.{name}": function}

    return replacements


def _whole_ap(function):
    return _evaluation(ap=function)


def _matching(function):
    return _in_the_evaluation("match_detections")(function) | _evaluation(match=function)


# Cases.


@st.composite
def _ious(draw, most: int = 4) -> dict:
    """Detections by objects; no two IoUs of a detection are alike, 1/2 among them."""
    rows, columns = draw(st.integers(0, most)), draw(st.integers(0, 3))
    values = [k / 16 for k in (0, 4, 6, 8, 10, 12, 14)]
    ious = [draw(st.permutations(values))[:columns] for _ in range(rows)]
    crowd = [draw(st.sampled_from([False, False, False, True])) for _ in range(columns)]
    ignored = [c or draw(st.sampled_from([False, False, True])) for c in crowd]
    return {
        "ious": torch.tensor(ious, dtype=torch.float64).reshape(rows, columns),
        "ignored": torch.tensor(ignored, dtype=torch.bool),
        "crowd": torch.tensor(crowd, dtype=torch.bool),
    }


@st.composite
def _matching_case(draw) -> Case:
    return draw(_ious()) | {"iou_threshold": draw(st.sampled_from([0.5, 0.25, 0.75]))}


@st.composite
def _counting_case(draw) -> Case:
    case = draw(_ious())
    d, g = case["ious"].shape
    matched = [draw(st.integers(-1, g - 1)) for _ in range(d)]
    return {
        "matched": torch.tensor(matched, dtype=torch.int64),
        "ignored": case["ignored"],
        "areas": draw(some.tensors(d, low=0, high=6)).double(),
        "low": 2.0,
        "high": 4.0,
    }


@st.composite
def _curve_case(draw) -> Case:
    correct = draw(some.tensors(draw(st.integers(0, 6)), low=0, high=1)).bool()
    more = draw(st.integers(0, 3))
    return {"correct": correct, "objects": max(1, int(correct.sum()) + more)}


LEVELS = torch.linspace(0, 1, 5, dtype=torch.float64)  # 0, 1/4, ..., 1: exact in floats


@st.composite
def _average_case(draw) -> Case:
    correct = torch.tensor(draw(st.lists(st.booleans(), max_size=6)), dtype=torch.bool)
    least = max(1, int(correct.sum()))
    objects = draw(st.sampled_from([n for n in (1, 2, 4, 8) if n >= least]))
    precision, recall = precision_recall(correct, objects)
    return {"precision": precision, "recall": recall, "points": LEVELS}


@st.composite
def _images_case(draw) -> Case:
    images = []
    for _ in range(draw(st.integers(1, 3))):
        image = draw(_ious(3))
        d = len(image["ious"])
        scores = sorted((draw(some.numbers(0, 1, 0.125)) for _ in range(d)), reverse=True)
        areas = draw(some.tensors(d, low=0, high=6)).double()
        images.append(image | {"scores": torch.tensor(scores, dtype=torch.float64), "areas": areas})
    return {"images": images, "iou_threshold": 0.5, "low": 2.0, "high": 4.0, "points": LEVELS}


def _pairs(*rows: tuple[float, ...], ignored=(), crowd=(), threshold: float = 0.5) -> Case:
    """Rows of IoUs; ``ignored`` and ``crowd`` name columns, a crowd being ignored."""
    ious = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), -1)
    columns = range(ious.shape[1])
    return {
        "ious": ious,
        "ignored": torch.tensor([g in ignored or g in crowd for g in columns], dtype=torch.bool),
        "crowd": torch.tensor([g in crowd for g in columns], dtype=torch.bool),
        "iou_threshold": threshold,
    }


def _none(detections: int, objects: int) -> Case:
    case = _pairs((0.0,))
    return case | {
        "ious": torch.zeros(detections, objects, dtype=torch.float64),
        "ignored": torch.zeros(objects, dtype=torch.bool),
        "crowd": torch.zeros(objects, dtype=torch.bool),
    }


def _areas(matched, ignored, areas) -> Case:
    return {
        "matched": torch.tensor(matched, dtype=torch.int64),
        "ignored": torch.tensor(ignored, dtype=torch.bool),
        "areas": torch.tensor(areas, dtype=torch.float64),
        "low": 2.0,
        "high": 4.0,
    }


def _flags(*correct: int, objects: int) -> Case:
    return {"correct": torch.tensor(correct, dtype=torch.bool), "objects": objects}


def _curve(*correct: int, objects: int) -> Case:
    precision, recall = precision_recall(torch.tensor(correct, dtype=torch.bool), objects)
    return {"precision": precision, "recall": recall, "points": LEVELS}


def _image(*rows, scores, areas=None, ignored=(), crowd=(), objects: int | None = None) -> dict:
    case = _pairs(*rows, ignored=ignored, crowd=crowd) if rows else _none(0, objects)
    areas = [3.0] * len(scores) if areas is None else areas
    return {
        "ious": case["ious"],
        "ignored": case["ignored"],
        "crowd": case["crowd"],
        "scores": torch.tensor(scores, dtype=torch.float64),
        "areas": torch.tensor(areas, dtype=torch.float64),
    }


def _set(*images: dict) -> Case:
    return {
        "images": list(images), "iou_threshold": 0.5, "low": 2.0, "high": 4.0, "points": LEVELS
    }  # fmt: skip


MATCH_EDGES = {
    "a detection takes the object it overlaps": [_pairs((0.75,)), _pairs((0.25, 0.75))],
    "IoU exactly at the threshold is enough": [_pairs((0.5,))],
    "IoU under the threshold is not": [_pairs((0.375,))],
    "an object is taken once": [_pairs((0.75,), (0.875,))],
    "the next best object, where the best is taken": [_pairs((0.875, 0.25), (0.75, 0.625))],
    "the object with the largest IoU": [_pairs((0.625, 0.75))],
    "the better score goes first": [_pairs((0.625, 0.25), (0.875, 0.75))],
    "an ignored object can be taken": [_pairs((0.75,), ignored=[0])],
    "an object that counts comes before an ignored one": [_pairs((0.875, 0.625), ignored=[0])],
    "the ignored one where the other is taken": [_pairs((0.25, 0.75), (0.625, 0.875), ignored=[0])],
    "an ignored object is taken once": [_pairs((0.75,), (0.625,), ignored=[0])],
    "a crowd is taken by many": [_pairs((0.75,), (0.625,), (0.875,), crowd=[0])],
    "no detections, or no objects": [_none(0, 2), _none(2, 0), _none(0, 0)],
}
COUNT_EDGES = {
    "a found object counts": [_areas([0], [False], [3.0])],
    "an ignored object does not": [_areas([0], [True], [3.0])],
    "a detection of nothing counts, if its size does": [_areas([-1], [False], [3.0])],
    "of another size it does not": [
        _areas([-1], [False], [1.0]),
        _areas([-1], [False], [5.0]),
    ],
    "the size does not matter where an object was found": [
        _areas([0], [False], [1.0]),
        _areas([0], [False], [5.0]),
    ],
    "exactly at a limit is inside": [_areas([-1], [False], [2.0]), _areas([-1], [False], [4.0])],
    "each looks at its own object": [_areas([1, 0], [True, False], [3.0, 3.0])],
    "the last object says nothing about a detection of nothing": [
        _areas([-1], [False, True], [3.0])
    ],
    "no objects, or no detections": [
        _areas([-1, -1], [], [3.0, 1.0]),
        _areas([], [True], []),
    ],
}
CURVE_EDGES = {
    "one right detection": [_flags(1, objects=1), _flags(1, objects=2)],
    "one wrong detection": [_flags(0, objects=1)],
    "both go on from detection to detection": [_flags(1, 0, 1, objects=2)],
    "recall is about the objects": [_flags(1, 1, objects=4)],
    "no detections": [_flags(objects=3)],
}
AVERAGE_EDGES = {
    "everything found, nothing wrong": [_curve(1, 1, objects=2)],
    "half of the objects found": [_curve(1, objects=2)],
    "a wrong one in between": [_curve(1, 0, 1, objects=2)],
    "a wrong one behind everything costs nothing": [_curve(1, 1, 0, 0, objects=2)],
    "a later precision may be better": [_curve(0, 1, objects=1), _curve(0, 1, 1, 1, objects=4)],
    "a level that is just reached": [_curve(1, 0, 0, 1, objects=4)],
    "nothing right": [_curve(0, 0, objects=2)],
    "no detections": [_curve(objects=2)],
}
CLASS_EDGES = {
    "one image": [_set(_image((0.75,), scores=[0.5]))],
    "one list for all images": [
        _set(
            _image((0.75,), (0.625,), scores=[0.5, 0.25]),
            _image((0.75,), scores=[0.75]),
        ),
        _set(_image((0.25,), scores=[0.75]), _image((0.75,), scores=[0.5])),
        _set(_image((0.25,), scores=[0.25]), _image((0.75,), scores=[0.5])),
    ],
    "objects of an image without detections are missed": [
        _set(_image(scores=[], objects=1), _image((0.75,), scores=[0.5]))
    ],
    "ignored objects need not be found": [_set(_image((0.75, 0.25), scores=[0.5], ignored=[1]))],
    "a detection of an ignored object is not wrong": [
        _set(_image((0.25, 0.75), (0.75, 0.25), scores=[0.75, 0.5], ignored=[1]))
    ],
    "an ignored object that is no crowd is taken once": [
        _set(_image((0, 0.75), (0, 0.625), (0.75, 0), scores=[0.75, 0.5, 0.25], ignored=[1]))
    ],
    "nor is one of another size": [
        _set(_image((0.25,), (0.75,), scores=[0.75, 0.5], areas=[9.0, 3.0]))
    ],
    "equal scores in the order of the images": [
        _set(_image((0.25,), scores=[0.5]), _image((0.75,), scores=[0.5])),
        _set(*[_image((0.25 + 0.5 * (n % 3 == 0),), scores=[0.5]) for n in range(25)]),
    ],
    "no object that counts gives nan": [
        _set(_image((0.75,), scores=[0.5], crowd=[0])),
        _set(_image((), scores=[0.5])),
    ],
    "no detections at all": [_set(_image(scores=[], objects=2))],
}


def _draw_curve(case: Case, expected: Tensor, got: Tensor) -> None:
    """Precision over recall with the levels; what each answer is, in the title."""
    (ax,) = drawing.panels(1, height=2.4)
    ax.plot(case["recall"], case["precision"], "ko-", label="the detections")
    envelope = case["precision"].flip(0).cummax(0).values.flip(0)
    ax.step(case["recall"], envelope, color="0.6", where="pre", label="best from here on")
    for level in case["points"].tolist():
        ax.axvline(level, color="0.8", linewidth=0.8, linestyle=":")
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.1), xlabel="recall", ylabel="precision")
    ax.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    ax.set_title(f"expected {float(expected):.3g}, got {float(got):.3g}", fontsize=9)
    ax.legend(fontsize=7)


def _draw_pairs(case: Case, expected: Tensor, got: Tensor) -> None:
    """The IoUs as a grid, once framed where the expected answer says, once where it was got."""
    ious = case["ious"]
    if ious.numel() == 0:
        return
    kinds = ["crowd" if c else "ignored" if i else "" for i, c in
             zip(case["ignored"].tolist(), case["crowd"].tolist(), strict=True)]  # fmt: skip
    for ax, (title, answer) in zip(
        drawing.panels(2, height=2.2), {"expected": expected, "got": got}.items(), strict=True
    ):
        frame = torch.zeros_like(ious, dtype=torch.bool)
        for d, g in enumerate(answer.tolist()):
            if 0 <= g < ious.shape[1]:
                frame[d, g] = True
        drawing.value_grid(ax, ious, f"{title}: rows detections, columns objects", mark=frame)
        for g, kind in enumerate(kinds):
            ax.text(g + 0.5, -0.05, kind, ha="center", va="bottom", fontsize=7)
        ax.title.set_y(1.08 if any(kinds) else 1.0)
    plt.gcf().set_layout_engine("constrained")


EXERCISES = (
    Exercise(
        solution=precision_recall,
        cases=_curve_case(),
        edges=CURVE_EDGES,
        mistakes=(
            Mistake(
                "does not accumulate",
                "The k-th value is about the best k detections: cumsum.",
                edits={"correct.double().cumsum(0)": "correct.double()"},
            ),
            Mistake(
                "divides both by the number of objects",
                "Precision is a share of the detections so far: 1, 2, …, D.",
                edits={"hits / torch.arange(1, len(correct) + 1)": "hits / objects"},
            ),
            Mistake(
                "divides recall by the number of detections",
                "Recall is a share of the objects.",
                edits={"hits / objects": "hits / len(correct)"},
            ),
            Mistake(
                "divides precision by all detections",
                "After k detections, precision is a share of those k.",
                edits={"torch.arange(1, len(correct) + 1)": "len(correct)"},
            ),
            Mistake(
                "counts the detections from 0",
                "The first detection is one detection: divide by 1, 2, …, D.",
                edits={"torch.arange(1, len(correct) + 1)": "torch.arange(len(correct))"},
            ),
            Mistake(
                "counts the wrong ones",
                "True stands for right.",
                edits={"correct.double()": "(~correct).double()"},
            ),
            Mistake(
                "returns recall first",
                "Precision, then recall.",
                edits={
                    "return hits / torch.arange(1, len(correct) + 1), hits / objects": (
                        "return hits / objects, hits / torch.arange(1, len(correct) + 1)"
                    )
                },
            ),
            Mistake(
                "gives the last value only",
                "One value for each detection: the curve, not its end.",
                wrong=_last_values,
            ),
            Mistake(
                "gives one number for the whole list",
                "A value for each of the best 1, 2, …, D detections: cumsum in place of sum.",
                wrong=lambda correct, objects: tuple(v[0] for v in _last_values(correct, objects)),
            ),
            Mistake(
                "divides recall by the objects that were found",
                "Objects that no detection found are missed as well: divide by objects.",
                edits={"hits / objects": "hits / correct.sum()"},
            ),
            Mistake(
                "puts the point (recall 0, precision 1) in front",
                "D values for D detections; before the first one there is no precision.",
                wrong=_with_a_point_in_front,
            ),
            Mistake(
                "leaves the wrong detections out of the curve",
                "A wrong one has its point too: there precision falls, and recall stays.",
                edits={
                    "return hits / torch.arange(1, len(correct) + 1), hits / objects": (
                        "return (hits / torch.arange(1, len(correct) + 1))[correct], "
                        "(hits / objects)[correct]"
                    )
                },
            ),
            Mistake(
                "accumulates from the worst detection",
                "The best detection comes first, and is alone at first.",
                wrong=_from_the_worst,
            ),
        ),
        hint="cumsum counts the right ones among the first k; divide it twice.",
        plug=_in_the_evaluation("precision_recall"),
        difficulty=1,
        minutes=5,
    ),
    Exercise(
        solution=match_detections,
        cases=_matching_case(),
        edges=MATCH_EDGES,
        mistakes=(
            Mistake(
                "asks for more than the threshold",
                "COCO counts from the threshold on: >=.",
                edits={"row >= iou_threshold": "row > iou_threshold"},
            ),
            Mistake(
                "lets two detections take one object",
                "An object is found once; the second detection of it is wrong. Remember who is "
                "taken.",
                edits={"(free | crowd) & (row >= iou_threshold)": "row >= iou_threshold"},
            ),
            Mistake(
                "takes the first object that overlaps enough",
                "Of those that are left, the one with the largest IoU.",
                edits={"row.masked_fill(~possible, -1).argmax()": "possible.int().argmax()"},
            ),
            Mistake(
                "gives up where its best object is taken",
                "Look for the largest IoU among those that are still free.",
                wrong=_only_the_first_choice_of_those_that_count,
            ),
            Mistake(
                "gives up where its best object is taken, and knows no ignored ones",
                "Choose among those that are free, and first among those that count.",
                wrong=_only_the_first_choice,
            ),
            Mistake(
                "lets a crowd be taken only once",
                "A crowd stands for any number of objects: free or crowd.",
                edits={"(free | crowd)": "free"},
            ),
            Mistake(
                "lets every ignored object be taken again and again",
                "Only a crowd can be taken twice; other ignored objects are single ones.",
                edits={"free | crowd": "free | ignored"},
            ),
            Mistake(
                "takes an ignored object that overlaps more",
                "Objects that count come first, however much an ignored one overlaps.",
                edits={"if counted.any():": "if False:"},
            ),
            Mistake(
                "never takes an ignored object",
                "An ignored object is taken where no other is left, so that the detection is not "
                "called wrong.",
                edits={"(free | crowd) &": "(free | crowd) & ~ignored &"},
            ),
            Mistake(
                "forgets the threshold",
                "An IoU under the threshold finds nothing.",
                edits={" & (row >= iou_threshold)": " & (row > 0)"},
            ),
            Mistake(
                "lets each object choose its detection",
                "The detections choose, one after the other, the best score first.",
                wrong=_from_the_objects,
            ),
            Mistake(
                "lets the worst detection choose first",
                "Row 0 is the best score: begin there.",
                wrong=_worst_first,
            ),
            Mistake(
                "lets the pair with the largest IoU choose first",
                "The detections take turns by score, whatever their IoU: one loop over the rows.",
                wrong=_closest_pairs_first,
            ),
            Mistake(
                "counts the places of the possible objects only",
                "row[possible] is shorter than row, and its places are others: masked_fill the "
                "impossible ones.",
                edits={"row.masked_fill(~possible, -1).argmax()": "row[possible].argmax()"},
            ),
            Mistake(
                "says whether, not which",
                "The index of the object is asked for, and -1 for none.",
                edits={"return matched": "return (matched >= 0).long()"},
            ),
        ),
        hint="One loop over the rows; a bool tensor of who is free; argmax over those possible.",
        draw=_draw_pairs,
        plug=_matching,
        difficulty=3,
        minutes=15,
    ),
    Exercise(
        solution=which_count,
        cases=_counting_case(),
        edges=COUNT_EDGES,
        mistakes=(
            Mistake(
                "counts detections of ignored objects",
                "A detection that took an ignored object is neither right nor wrong.",
                edits={"~torch.cat([ignored, of_none])[matched])": "matched >= 0)"},
            ),
            Mistake(
                "asks for the size of every detection",
                "Who found an object counts: there the size of the object has decided already.",
                edits={
                    "torch.where(matched < 0, inside, ~torch.cat([ignored, of_none])[matched])": (
                        "inside & ~torch.cat([ignored, of_none])[matched]"
                    )
                },
            ),
            Mistake(
                "counts every detection of nothing",
                "One of nothing, and of another size, would be wrong for objects nobody asks for.",
                edits={"matched < 0, inside,": "matched < 0, True,"},
            ),
            Mistake(
                "counts no detection of nothing",
                "Those of the right size are the wrong ones that precision is about.",
                edits={"matched < 0, inside,": "matched < 0, False,"},
            ),
            Mistake(
                "leaves out an area of exactly low",
                "Under low is out; low itself is inside.",
                edits={"areas >= low": "areas > low"},
            ),
            Mistake(
                "leaves out an area of exactly high",
                "Over high is out; high itself is inside.",
                edits={"areas <= high": "areas < high"},
            ),
            Mistake(
                "has no lower limit",
                "Inside is low <= area <= high; low is missing.",
                edits={"(areas >= low) & ": ""},
            ),
            Mistake(
                "has no upper limit",
                "Inside is low <= area <= high; high is missing.",
                edits={" & (areas <= high)": ""},
            ),
            Mistake(
                "takes object 0 for nothing",
                "-1 stands for nothing; 0 is the first object: matched < 0.",
                edits={"matched < 0": "matched <= 0"},
            ),
            Mistake(
                "lets the last object speak for a detection of nothing",
                "ignored[-1] is the last object's: where matched is -1, the area alone decides.",
                wrong=_asks_the_last_object,
            ),
            Mistake(
                "counts a detection of an ignored object if its own size is right",
                "The detection's area is asked only where it took nothing.",
                edits={
                    "~torch.cat([ignored, of_none])[matched])": (
                        "inside | ~torch.cat([ignored, of_none])[matched])"
                    )
                },
            ),
            Mistake(
                "fails where there is no object",
                "Index -1 looks at the last object, and without one there is nothing to look at: "
                "append a False, or treat the two kinds apart.",
                edits={"torch.cat([ignored, of_none])": "ignored"},
            ),
            Mistake(
                "says which do not count",
                "True stands for those that count.",
                edits={"return torch.where(": "return ~torch.where("},
            ),
        ),
        hint="Two questions: is matched -1? Then the area decides, else ignored[matched].",
        plug=_in_the_evaluation("which_count"),
        difficulty=2,
        minutes=8,
    ),
    Exercise(
        solution=average_precision,
        cases=_average_case(),
        edges=AVERAGE_EDGES,
        mistakes=(
            Mistake(
                "takes the precision as it is",
                "At a recall of r, the best precision that is had at r or at more counts.",
                edits={"precision.flip(0).cummax(0).values.flip(0)": "precision"},
            ),
            Mistake(
                "takes the best precision up to there",
                "At that recall or more: the maximum runs from the end.",
                edits={"precision.flip(0).cummax(0).values.flip(0)": "precision.cummax(0).values"},
            ),
            Mistake(
                "looks behind a level that is just reached",
                "The first place where recall is the level or more: searchsorted's default.",
                edits={
                    "torch.searchsorted(recall, points)": (
                        "torch.searchsorted(recall, points, right=True)"
                    )
                },
            ),
            Mistake(
                "leaves out levels that are never reached",
                "A level that is never reached counts 0, and is counted.",
                wrong=_of_reached_levels,
            ),
            Mistake(
                "gives levels that are never reached the last precision",
                "Nothing is had there: 0.",
                wrong=_last_for_unreached,
            ),
            Mistake(
                "averages over the detections",
                "The mean is over the recall levels, however many detections there are.",
                wrong=_mean_of_detections,
            ),
            Mistake(
                "takes 101 levels whatever points says",
                "The levels are an argument: points.",
                wrong=lambda precision, recall, _: average_precision(precision, recall, POINTS),
            ),
            Mistake(
                "takes the best precision that is had at that recall or less",
                "recall >= level, not <=: what is had further on can be had here too.",
                wrong=_best_until_there,
            ),
            Mistake(
                "adds up rectangles under the curve",
                "That is the area; COCO takes the mean at the levels.",
                wrong=_rectangles,
            ),
            Mistake(
                "adds up rectangles under the envelope",
                "That is VOC's area since 2010; COCO takes the mean at the levels.",
                wrong=_rectangles_under_the_envelope,
            ),
            Mistake(
                "adds up trapezoids",
                "That is the area under straight lines; COCO takes the mean at the levels.",
                wrong=_trapezoids,
            ),
            Mistake(
                "draws lines between the detections",
                "Between two detections the better one further on counts, not a mixture.",
                wrong=_between_detections,
            ),
        ),
        hint="flip, cummax, flip; then searchsorted; and something for levels beyond the end.",
        draw=_draw_curve,
        plug=_in_the_evaluation("average_precision"),
        difficulty=3,
        minutes=15,
    ),
    Exercise(
        solution=class_ap,
        cases=_images_case(),
        edges=CLASS_EDGES,
        mistakes=(
            Mistake(
                "averages the images",
                "One curve of all images: their detections in one list, their objects in one sum.",
                wrong=_mean_over_images,
            ),
            Mistake(
                "does not sort the images' detections together",
                "The best detection of the last image may be the best of all: argsort the scores.",
                edits={
                    "torch.cat(scores).argsort(descending=True, stable=True)": (
                        "torch.arange(len(torch.cat(scores)))"
                    )
                },
            ),
            Mistake(
                "begins with the lowest score",
                "argsort sorts upwards unless it is told descending=True.",
                edits={"descending=True": "descending=False"},
            ),
            Mistake(
                "leaves the order of equal scores to chance",
                "argsort promises an order of equals only with stable=True.",
                edits={"descending=True, stable=True)": "descending=True).flip(0).flip(0)"},
            ),
            Mistake(
                "turns equal scores round",
                "An upward order read backwards is stable backwards: stable=True and "
                "descending=True together.",
                edits={"descending=True, stable=True)": "stable=True).flip(0)"},
            ),
            Mistake(
                "expects ignored objects to be found",
                "objects is how many there are to find: those that are not ignored.",
                edits={'int((~image["ignored"]).sum())': 'len(image["ignored"])'},
            ),
            Mistake(
                "throws ignored objects away beforehand",
                "A detection of one would then be wrong. They have to be there to be taken.",
                wrong=_only_counted_objects,
            ),
            Mistake(
                "hands over every ignored object as a crowd",
                "An ignored object that is no crowd is taken once; the second detection of it is a "
                'false alarm: image["crowd"].',
                edits={'image["crowd"], iou_threshold': 'image["ignored"], iou_threshold'},
            ),
            Mistake(
                "counts every detection",
                "which_count says which are left out.",
                edits={
                    'which_count(matched, image["ignored"], image["areas"], low, high)': (
                        "torch.ones(len(matched), dtype=torch.bool)"
                    )
                },
            ),
            Mistake(
                "passes over images without detections",
                "Their objects are missed all the same.",
                wrong=_without_empty_images,
            ),
            Mistake(
                "counts the objects of the last image only",
                "Add them up: +=.",
                edits={"objects += int": "objects = int"},
            ),
            Mistake(
                "is 0 where there is no object",
                "Without an object nothing was missed: nan, which means are taken without.",
                edits={"torch.tensor(torch.nan, dtype=": "torch.tensor(0.0, dtype="},
            ),
            Mistake(
                "is nan where nothing was detected",
                "Objects are there, and none was found: that is 0, not nan.",
                wrong=_nan_without_detections,
            ),
        ),
        hint="Collect flags and scores of each image in lists; then cat, argsort, and two calls.",
        plug=_whole_ap,
        difficulty=2,
        minutes=15,
    ),
)
