"""Lesson 08, the box head: labels for proposals, its losses, detections, levels of the pyramid."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Case, Exercise, Mistake
from fbnet_lesson.detection.box_head import WEIGHTS, Detections
from fbnet_lesson.detection.boxes import box_iou, clip_boxes, decode_boxes
from fbnet_lesson.detection.matching import sample, spare_crowds
from fbnet_lesson.detection.nms import batched_nms
from fbnet_lesson.detection.roi_align import assign_levels

# ------------------------------------------------------------------------------------- plain forms


def label_proposals(
    proposals: Tensor, truth: Tensor, labels: Tensor, num_classes: int, iou_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What the box head is to say of each proposal of one picture.

    The objects' own boxes are appended to the proposals. Each of these boxes belongs to the object
    that it overlaps most, the first of equals. If their IoU is ``iou_threshold`` or more, its class
    is the object's; if not, it is background, and its class is ``num_classes``.

    ``proposals`` [R, 4]; ``truth`` [G, 4] with area, their classes ``labels`` [G] int64. R and G
    may be 0. Returns the boxes [R + G, 4], their classes [R + G] int64, and [R + G] int64 the
    object that each belongs to, 0 where there is none at all.
    """
    boxes = torch.cat([proposals, truth])  # (R + G, 4)
    classes = torch.full((len(boxes),), num_classes)
    if len(truth) == 0:
        return boxes, classes, torch.zeros_like(classes)
    best, matched = box_iou(truth, boxes).max(0)  # (R + G,) each
    return boxes, torch.where(best >= iou_threshold, labels[matched], classes), matched


def box_head_losses(
    class_logits: Tensor, deltas: Tensor, labels: Tensor, target_deltas: Tensor
) -> dict[str, Tensor]:
    """Which class, and the box of that class (arXiv 1504.08083, eq. 1).

    Both losses are sums, divided by R, the number of all sampled proposals; 0 if R is 0.

    - ``loss_cls``: the cross-entropy of the logits, of every proposal.
    - ``loss_box_reg``: the L1 distance between the deltas of a proposal's own class and its target
      deltas, summed over the four of them, of every proposal that is not background.

    Args:
        class_logits: [R, K + 1], the background last; ``deltas`` [R, K, 4], one row a class.
        labels: [R] int64, 0 .. K - 1 an object's class, K background.
        target_deltas: [R, 4]; those of background proposals mean nothing.

    Returns a dict of the two, tensors without dimensions.
    """
    count = max(len(labels), 1)
    (objects,) = (labels < deltas.shape[1]).nonzero(as_tuple=True)  # (P,)
    own = deltas[objects, labels[objects]]  # (P, 4)
    classes = F.cross_entropy(class_logits, labels, reduction="sum")
    location = F.l1_loss(own, target_deltas[objects], reduction="sum")
    return {"loss_cls": classes / count, "loss_box_reg": location / count}


def detections_from(
    class_logits: Tensor,
    deltas: Tensor,
    proposals: Tensor,
    size: tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    most: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """From the box head's output on one picture to its detections.

    Scores are the softmax over all K + 1 logits. Every pair of a proposal and a class, background
    left out, whose score is over ``score_threshold`` is a candidate. Its box is the proposal moved
    by the deltas of that class, with the weights (10, 10, 5, 5), then clipped to the picture. NMS
    at ``nms_threshold`` goes class by class. The ``most`` best of what is left, of all classes
    together, are the detections; of equal scores the first proposal is first, then the first class.

    Args:
        class_logits: [R, K + 1], the background last; ``deltas`` [R, K, 4]; ``proposals`` [R, 4].
        size: (height, width) of the picture.

    Returns boxes [D, 4], scores [D] and labels [D] int64, by falling score.
    """
    scores = class_logits.softmax(-1)[:, :-1]  # (R, K)
    boxes = clip_boxes(decode_boxes(deltas, proposals[:, None], WEIGHTS), size)  # (R, K, 4)
    row, label = (scores > score_threshold).nonzero(as_tuple=True)  # (C,) each
    boxes, scores = boxes[row, label], scores[row, label]
    keep = batched_nms(boxes, scores, label, nms_threshold, most)
    return boxes[keep], scores[keep], label[keep]


# ----------------------------------------------------------- the learner's function in the detector


def _in_the_sampling(label: Callable) -> dict[str, Callable]:
    """``ROIHeads.sample``, which also draws a sample and leaves crowds out."""

    def sample_proposals(heads, proposals: list[Tensor], targets: list[dict]) -> list[dict]:
        config, threshold = heads.config, heads.config.roi_iou_threshold
        labelled = [  # of all pictures, before the first random number is drawn
            label(boxes, target["boxes"], target["labels"], config.num_classes, threshold)
            for boxes, target in zip(proposals, targets, strict=True)
        ]
        samples = []
        for (boxes, classes, matched), target in zip(labelled, targets, strict=True):
            is_object = (classes < config.num_classes).long()
            if "crowds" in target:
                is_object = spare_crowds(is_object, boxes, target["crowds"], threshold, threshold)
            positive, background = sample(
                is_object,
                config.roi_batch_size_per_image,
                config.roi_positive_fraction,
                target.get("generator"),
            )
            chosen = torch.cat([positive, background])
            samples.append(
                {
                    "boxes": boxes[chosen],
                    "labels": classes[chosen],
                    "matched": matched[chosen],
                    "positives": len(positive),
                }
            )
        return samples

    return {"detection.detector.ROIHeads.sample": sample_proposals}


def _in_the_training(losses_of: Callable) -> dict[str, Callable]:
    """The package's ``box_losses`` is given only the deltas of objects, of their own class."""

    def box_losses(class_logits, labels, deltas, target_deltas):
        count, classes = len(labels), class_logits.shape[1] - 1
        (objects,) = (labels < classes).nonzero(as_tuple=True)
        every, targets = deltas.new_zeros(count, classes, 4), deltas.new_zeros(count, 4)
        every[objects, labels[objects]] = deltas
        targets[objects] = target_deltas
        return losses_of(class_logits, every, labels, targets)

    return {"detection.losses.box_losses": box_losses}


def _behind_the_head(detections_of: Callable) -> dict[str, Callable]:
    """``select_detections``, which also says from which proposal a detection comes: here -1."""

    def select_detections(class_logits, deltas, proposals, size, config):
        deltas = deltas.expand(-1, config.num_classes, -1)
        boxes, scores, labels = detections_of(
            class_logits,
            deltas,
            proposals,
            size,
            config.score_threshold,
            config.nms_threshold,
            config.detections_per_image,
        )
        return Detections(boxes, scores, labels, torch.full_like(labels, -1))

    return {"detection.box_head.select_detections": select_detections}


# ---------------------------------------------------------------------------- wrong whole functions


def _truth_first(proposals, truth, labels, num_classes, iou_threshold):
    boxes, classes, matched = label_proposals(proposals, truth, labels, num_classes, iou_threshold)
    order = torch.arange(len(boxes)).roll(len(truth))
    return boxes[order], classes[order], matched[order]


def _one_object_one_proposal(proposals, truth, labels, num_classes, iou_threshold):
    boxes, classes, matched = label_proposals(proposals, truth, labels, num_classes, iou_threshold)
    best = torch.zeros(len(boxes), dtype=torch.bool)
    if len(truth):
        best[box_iou(truth, boxes).argmax(1)] = True
    return boxes, torch.where(best, classes, num_classes), matched


def _last_of_equals(proposals, truth, labels, num_classes, iou_threshold):
    boxes, classes, matched = label_proposals(
        proposals, truth.flip(0), labels.flip(0), num_classes, iou_threshold
    )
    boxes = torch.cat([proposals, truth])
    order = torch.arange(len(boxes))
    order[len(proposals) :] = order[len(proposals) :].flip(0)
    if len(truth):
        matched = len(truth) - 1 - matched
    return boxes, classes[order], matched[order]


def _candidates_best_class_only(
    class_logits, deltas, proposals, size, score_threshold, nms_threshold, most
):
    scores, label = class_logits.softmax(-1)[:, :-1].max(-1)
    keep = scores > score_threshold
    boxes = decode_boxes(deltas[torch.arange(len(label)), label], proposals, WEIGHTS)
    boxes, scores, label = clip_boxes(boxes, size)[keep], scores[keep], label[keep]
    keep = batched_nms(boxes, scores, label, nms_threshold, most)
    return boxes[keep], scores[keep], label[keep]


def _most_of_each_class(
    class_logits, deltas, proposals, size, score_threshold, nms_threshold, most
):
    found = detections_from(
        class_logits, deltas, proposals, size, score_threshold, nms_threshold, 10_000
    )
    same = found[2][:, None] == found[2]  # (D, D)
    keep = same.tril().sum(1) <= most
    return tuple(value[keep] for value in found)


def _halves_rounded(boxes: Tensor, first: int, last: int) -> Tensor:
    level = torch.round(4 + torch.log2(_edge(boxes) / 224 + 1e-8))
    return level.clamp(first, last).to(torch.int64) - first


def _edge(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()


def _longer_edge(boxes: Tensor, first: int, last: int) -> Tensor:
    edge = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    level = torch.floor(4 + torch.log2(edge / 224 + 1e-8))
    return level.clamp(first, last).to(torch.int64) - first


# ------------------------------------------------------------------------------------------- cases


def _rows(rows, width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, width)


def _label_case(proposals, truth, labels, num_classes=3, iou_threshold=0.5) -> Case:
    return {
        "proposals": _rows(proposals, 4),
        "truth": _rows(truth, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "num_classes": num_classes,
        "iou_threshold": iou_threshold,
    }


@st.composite
def _label_cases(draw) -> Case:
    truth = draw(some.boxes(0, 3, edge=4, empty=False))
    return {
        "proposals": draw(some.boxes(0, 4, edge=4)),
        "truth": truth,
        "labels": draw(some.labels(len(truth), 0, 2)),
        "num_classes": draw(st.sampled_from([3, 4])),
        "iou_threshold": draw(st.sampled_from([0.5, 0.25, 0.75])),
    }


A, HALF, THIRD, FAR = (0, 0, 4, 4), (0, 0, 4, 2), (2, 0, 6, 4), (8, 0, 12, 4)
LABEL_EDGES = {
    "an object's own box is a proposal of its class": [_label_case([], [A], [1])],
    "the objects come behind the proposals": [_label_case([FAR], [A], [1])],
    "a good proposal has the class of its object": [_label_case([(0, 0, 4, 3)], [A], [2])],
    "exactly at the threshold it is an object": [_label_case([HALF], [A], [0])],
    "below it is background, the class behind the last": [
        _label_case([THIRD], [A], [0]),
        _label_case([FAR], [A], [1], num_classes=4),
    ],
    "several proposals may belong to one object": [_label_case([(0, 0, 4, 3), A], [A], [1])],
    "it belongs to the object that it overlaps most": [
        _label_case([(0, 0, 4, 3)], [HALF, A], [0, 2])
    ],
    "of equals to the first": [_label_case([A], [A, A], [2, 1])],
    "background, too, says which object is nearest": [_label_case([THIRD], [FAR, A], [0, 1])],
    "without objects all is background": [_label_case([A, FAR], [], [])],
    "nothing at all": [_label_case([], [], [])],
    "another threshold": [_label_case([HALF], [A], [0], iou_threshold=0.75)],
}


def _loss_case(class_logits, deltas, labels, target_deltas, classes=2) -> Case:
    deltas = torch.tensor(deltas, dtype=torch.float32).reshape(-1, classes, 4)
    return {
        "class_logits": _rows(class_logits, classes + 1),
        "deltas": deltas,
        "labels": torch.tensor(labels, dtype=torch.int64),
        "target_deltas": _rows(target_deltas, 4),
    }


@st.composite
def _loss_cases(draw) -> Case:
    count, classes = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    return {
        "class_logits": draw(some.tensors(count, classes + 1, low=-3, high=3)),
        "deltas": draw(some.tensors(count, classes, 4, low=-2, high=2, step=0.5)),
        "labels": draw(some.labels(count, 0, classes)),
        "target_deltas": draw(some.tensors(count, 4, low=-2, high=2, step=0.5)),
    }


ZERO, TWO = [0, 0, 0, 0], [2, 0, 0, 0]
LOSS_EDGES = {
    "undecided between three costs log 3": [_loss_case([[0, 0, 0]], [[ZERO, ZERO]], [0], [ZERO])],
    "background is a class to be learned, the last": [
        _loss_case([[0, 0, 4]], [[ZERO, ZERO]], [2], [ZERO])
    ],
    "only the box of its own class counts": [_loss_case([[0, 0, 0]], [[ZERO, TWO]], [1], [ZERO])],
    "the four distances are added": [
        _loss_case([[0, 0, 0]], [[[1, 1, 1, 1], ZERO]], [0], [ZERO]),
        _loss_case([[0, 0, 0]], [[[0.5, 0, 0, -2], ZERO]], [0], [ZERO]),
    ],
    "the box of background means nothing": [_loss_case([[0, 0, 0]], [[TWO, TWO]], [2], [ZERO])],
    "both sums are divided by all proposals": [
        _loss_case([[0, 0, 0]] * 2, [[TWO, ZERO]] * 2, [0, 2], [ZERO] * 2)
    ],
    "an object behind a background": [
        _loss_case([[0, 0, 0]] * 2, [[ZERO, ZERO]] * 2, [2, 1], [[9, 9, 9, 9], TWO])
    ],
    "very sure, and wrong": [_loss_case([[128, 0, 0]], [[ZERO, ZERO]], [2], [ZERO])],
    "no proposals": [_loss_case([], [], [], [])],
}


def _found_case(
    class_logits, proposals, deltas=None, size=(16, 16), score=0.05, nms=0.5, most=100
) -> Case:
    logits = torch.tensor(class_logits, dtype=torch.float32)
    logits = logits.reshape(len(proposals), -1) if len(proposals) else logits.reshape(0, 3)
    count, classes = logits.shape[0], logits.shape[1] - 1
    if deltas is None:
        deltas = [[[0] * 4] * classes] * count
    return {
        "class_logits": logits,
        "deltas": torch.tensor(deltas, dtype=torch.float32).reshape(count, classes, 4),
        "proposals": _rows(proposals, 4),
        "size": size,
        "score_threshold": score,
        "nms_threshold": nms,
        "most": most,
    }


@st.composite
def _found_cases(draw) -> Case:
    proposals = draw(some.boxes(0, 4, edge=8, empty=False))
    count, classes = len(proposals), draw(st.integers(1, 2))
    logits = draw(some.tensors(count, classes + 1, low=-2, high=2))
    # No two scores are equal: rounding would decide which is first.
    logits += torch.arange(logits.numel()).reshape(logits.shape) / 64
    return {
        "class_logits": logits,
        "deltas": draw(some.tensors(count, classes, 4, low=-5, high=5, step=2.5)),
        "proposals": proposals,
        "size": draw(st.sampled_from([(8, 8), (6, 10)])),
        "score_threshold": draw(st.sampled_from([0.05, 0.3])),
        "nms_threshold": draw(st.sampled_from([0.45, 0.7])),
        "most": draw(st.sampled_from([1, 2, 100])),
    }


SURE = [4, 0, 0]  # of class 0
FOUND_EDGES = {
    "a sure proposal is a detection": [_found_case([SURE], [A])],
    "background is no detection": [_found_case([[-8, -8, 8]], [A])],
    "the score is a share of all classes and background": [_found_case([[1, 0, 1]], [A])],
    "one proposal may be two detections": [_found_case([[2, 2, 0]], [A])],
    "exactly at the score threshold is not over it": [
        _found_case([[0, 0]], [A], score=0.5),
        _found_case([[0, 0, 0, 0]], [A], score=0.25),
    ],
    "each class moves the proposal in its own way": [
        _found_case([[2, 1, 0]], [(4, 4, 8, 8)], [[[0] * 4, [10, 0, 0, 0]]])
    ],
    "deltas are divided by 10, 10, 5 and 5": [
        _found_case([SURE], [(4, 4, 8, 8)], [[[5, 0, 0, 0]] * 2]),
        _found_case([SURE], [(4, 4, 8, 8)], [[[0, 0, 2.5, 0]] * 2]),
    ],
    "boxes are clipped to (height, width)": [
        _found_case([SURE], [A], [[[-5, 0, 0, 0]] * 2]),
        _found_case([SURE], [(0, 0, 12, 12)], size=(8, 16)),
    ],
    "they are clipped before NMS": [
        _found_case([SURE, [3, 0, 0]], [(0, 0, 8, 4), (0, 0, 8, 12)], size=(6, 16)),
    ],
    "of two on one object the better stays": [_found_case([[3, 0, 0], SURE], [A, A])],
    "a removed one leaves room for the next": [
        _found_case([SURE, [3, 0, 0], [2, 0, 0]], [A, A, FAR], most=2, score=0.3)
    ],
    "two classes do not remove each other": [
        _found_case([SURE, [0, 4, 0]], [A, A], score=0.3),
    ],
    "the best of all classes, not of each": [
        _found_case([SURE, [0, 3, 0]], [A, FAR], score=0.3, most=1)
    ],
    "the best comes first": [_found_case([[2, 0, 0], SURE], [A, FAR], score=0.3)],
    "of equal scores the first proposal is first": [
        _found_case([[2, 0, 0], [2, 0, 0]], [A, FAR], score=0.3)
    ],
    "no proposals": [_found_case([], [])],
    "nothing over the threshold": [_found_case([[0, 0, 0]], [A], score=0.5)],
}


def _levels_case(*sides: tuple[float, float], first=2, last=6, corner=(8, 8)) -> Case:
    x, y = corner
    return {"boxes": _rows([(x, y, x + w, y + h) for w, h in sides], 4), "first": first,
            "last": last}  # fmt: skip


@st.composite
def _levels_cases(draw) -> Case:
    side = st.sampled_from([16, 40, 100, 112, 200, 300, 448, 900, 0])
    sides = draw(st.lists(st.tuples(side, side), max_size=3))
    first = draw(st.integers(2, 4))
    corner = draw(st.sampled_from([(0, 0), (8, 4)]))
    return _levels_case(*sides, first=first, last=draw(st.integers(first, 6)), corner=corner)


LEVEL_EDGES = {
    "224 pixels belong to level 4": [_levels_case((224, 224))],
    "half of that is one level less": [_levels_case((112, 112))],
    "twice that is one level more": [_levels_case((448, 448))],
    "between two levels the lower": [_levels_case((223, 223)), _levels_case((400, 400))],
    "the area decides, not one edge": [_levels_case((112, 448)), _levels_case((448, 112))],
    "where the box stands does not matter": [_levels_case((100, 100), corner=(512, 300))],
    "no level below the first, none above the last": [
        _levels_case((16, 16), first=3),
        _levels_case((2000, 2000), first=3, last=5),
    ],
    "counted from the first": [_levels_case((224, 224), first=3)],
    "a box without area belongs to the first": [_levels_case((0, 16))],
    "no boxes": [_levels_case()],
}


def _draw_found(case: Case, expected, got) -> None:
    """The proposals, and the boxes of both answers with class and score."""
    height, width = case["size"]
    left, *others = drawing.panels(3, height=2.4)
    drawing.draw_boxes(left, case["proposals"], style="--")
    left.set_title("proposals", fontsize=9)
    for ax, answer, title in zip(others, (expected, got), ("expected", "got"), strict=True):
        boxes, scores, labels = answer
        drawing.draw_boxes(ax, boxes)
        for box, score, label in zip(boxes, scores.tolist(), labels.tolist(), strict=True):
            ax.text(float(box[0]), float(box[1]), f"{label}: {score:.2f}", fontsize=7)
        ax.set_title(title, fontsize=9)
    for ax in (left, *others):
        ax.set(xlim=(-1, width + 1), ylim=(height + 1, -1), aspect="equal")


EXERCISES = (
    Exercise(
        solution=label_proposals,
        cases=_label_cases(),
        edges=LABEL_EDGES,
        mistakes=(
            Mistake(
                "does not append the objects' own boxes",
                "torch.cat([proposals, truth]) is what is labelled, not proposals alone.",
                edits={"torch.cat([proposals, truth])": "proposals"},
            ),
            Mistake(
                "puts the objects before the proposals",
                "They are appended: the proposals keep their places.",
                wrong=_truth_first,
            ),
            Mistake(
                "takes a box exactly at the threshold for background",
                "The threshold itself is enough: >=.",
                edits={">= iou_threshold": "> iou_threshold"},
            ),
            Mistake(
                "calls background class 0",
                "Class 0 is an object's. Background is the number behind the last class.",
                edits={"torch.full((len(boxes),), num_classes)": "torch.full((len(boxes),), 0)"},
            ),
            Mistake(
                "calls background -1",
                "-1 would be ignored, or the last column; here background is num_classes.",
                edits={"torch.full((len(boxes),), num_classes)": "torch.full((len(boxes),), -1)"},
            ),
            Mistake(
                "calls background by the number of the last class",
                "Classes are 0 to num_classes - 1, and background comes behind them.",
                edits={"(len(boxes),), num_classes)": "(len(boxes),), num_classes - 1)"},
            ),
            Mistake(
                "says which object it is instead of its class",
                "Look the object's class up: labels[matched].",
                edits={"labels[matched], classes)": "matched, classes)"},
            ),
            Mistake(
                "lets only the best proposal of an object be one",
                "Every box over the threshold is an object; the loss looks at them one by one.",
                wrong=_one_object_one_proposal,
            ),
            Mistake(
                "gives a box to the last of equally good objects",
                "Of equals the first; torch's max over the objects does that.",
                wrong=_last_of_equals,
            ),
            Mistake(
                "gives a background box to no object",
                "Its class says that it is background; the third answer is still the object that "
                "it overlaps most.",
                edits={"classes), matched": "classes), matched.where(best >= iou_threshold, 0)"},
            ),
        ),
        hint="Append, IoU of objects and boxes [G, R + G], the maximum over the objects, where.",
        difficulty=1,
        minutes=10,
        plug=_in_the_sampling,
    ),
    Exercise(
        solution=box_head_losses,
        cases=_loss_cases(),
        edges=LOSS_EDGES,
        mistakes=(
            Mistake(
                "divides the box loss by the number of objects",
                "Both losses have one divisor, all sampled proposals.",
                edits={"location / count": "location / max(len(objects), 1)"},
            ),
            Mistake(
                "averages the four distances",
                "The distances of x, y, width and height are added up.",
                edits={"location / count": "location / 4 / count"},
            ),
            Mistake(
                "adds up without dividing",
                "Divide both sums by the number of proposals.",
                edits={"classes / count": "classes", "location / count": "location"},
            ),
            Mistake(
                "leaves background out of the class loss",
                "Most of what the head sees is background; it has to learn to say so.",
                edits={
                    "F.cross_entropy(class_logits, labels, ": (
                        "F.cross_entropy(class_logits[objects], labels[objects], "
                    )
                },
            ),
            Mistake(
                "squares small distances (smooth L1)",
                "The plain absolute difference is asked for.",
                edits={"F.l1_loss": "F.smooth_l1_loss"},
            ),
            Mistake(
                "squares the distances",
                "L1 is the absolute difference, not its square.",
                edits={"F.l1_loss": "F.mse_loss"},
            ),
            Mistake(
                "applies softmax before the cross-entropy",
                "F.cross_entropy has the softmax inside: give it the logits.",
                edits={"(class_logits, labels": "(class_logits.softmax(-1), labels"},
            ),
            Mistake(
                "compares the box of class 0 whatever the class",
                "Row labels[r] of the K boxes of proposal r.",
                edits={"labels[objects]]": "0]"},
            ),
            Mistake(
                "takes class 0 for background",
                "Here the background is the last class, K, and 0 an object like the others.",
                edits={
                    "(labels < deltas.shape[1])": ("((labels > 0) & (labels < deltas.shape[1]))")
                },
            ),
            Mistake(
                "compares the first targets instead of the objects'",
                "target_deltas has a row for each proposal: take those of the objects.",
                edits={"target_deltas[objects]": "target_deltas[: len(objects)]"},
            ),
            Mistake(
                "is nan without proposals",
                "0 / 0: let the divisor be at least 1.",
                edits={"max(len(labels), 1)": "torch.tensor(float(len(labels)))"},
            ),
            Mistake(
                "swaps the two losses",
                "loss_cls is the cross-entropy, loss_box_reg the distance.",
                edits={
                    '"loss_cls": classes': '"loss_cls": location',
                    '"loss_box_reg": location': '"loss_box_reg": classes',
                },
            ),
        ),
        hint="deltas[objects, labels[objects]] are the own class's; two sums, both divided by R.",
        difficulty=2,
        minutes=12,
        plug=_in_the_training,
    ),
    Exercise(
        solution=detections_from,
        cases=_found_cases(),
        edges=FOUND_EDGES,
        mistakes=(
            Mistake(
                "leaves the background out of the softmax",
                "Softmax first, over K + 1 logits, then drop the last column.",
                edits={"class_logits.softmax(-1)[:, :-1]": "class_logits[:, :-1].softmax(-1)"},
            ),
            Mistake(
                "takes the first column for background",
                "The background is the last logit: [:, :-1].",
                edits={"[:, :-1]": "[:, 1:]"},
            ),
            Mistake(
                "takes a sigmoid of each logit",
                "The classes compete: softmax over the last dimension.",
                edits={"softmax(-1)": "sigmoid()"},
            ),
            Mistake(
                "takes scores exactly at the threshold",
                "Over the threshold means >.",
                edits={"> score_threshold": ">= score_threshold"},
            ),
            Mistake(
                "takes only the best class of each proposal",
                "Every class over the threshold is a candidate: nonzero of [R, K].",
                wrong=_candidates_best_class_only,
            ),
            Mistake(
                "moves the proposals by undivided deltas",
                "The head's deltas are ten, ten, five and five times as large: WEIGHTS.",
                edits={"WEIGHTS": "(1.0, 1.0, 1.0, 1.0)"},
            ),
            Mistake(
                "moves every class by the deltas of class 0",
                "boxes[row, label]: of each pair its own.",
                edits={"boxes[row, label]": "boxes[row, 0]"},
            ),
            Mistake(
                "does not move the proposals",
                "decode_boxes moves each proposal by the deltas of the class.",
                edits={
                    "decode_boxes(deltas, proposals[:, None], WEIGHTS)": (
                        "proposals[:, None].expand(deltas.shape)"
                    )
                },
            ),
            Mistake(
                "does not clip the boxes",
                "clip_boxes(boxes, size), before NMS.",
                edits={
                    "clip_boxes(decode_boxes(deltas, proposals[:, None], WEIGHTS), size)": (
                        "decode_boxes(deltas, proposals[:, None], WEIGHTS)"
                    )
                },
            ),
            Mistake(
                "clips after NMS",
                "What is cut off no longer counts in the IoU: clip first.",
                edits={
                    "clip_boxes(decode_boxes(deltas, proposals[:, None], WEIGHTS), size)": (
                        "decode_boxes(deltas, proposals[:, None], WEIGHTS)"
                    ),
                    "return boxes[keep]": "return clip_boxes(boxes[keep], size)",
                },
            ),
            Mistake(
                "takes size for (width, height)",
                "Height comes first, as in a tensor's shape.",
                edits={"WEIGHTS), size)": "WEIGHTS), size[::-1])"},
            ),
            Mistake(
                "lets classes suppress each other",
                "Two classes are two findings: batched_nms with the labels as groups.",
                edits={"scores, label, nms": "scores, torch.zeros_like(label), nms"},
            ),
            Mistake(
                "keeps the best of each class",
                "One limit for all classes together.",
                wrong=_most_of_each_class,
            ),
            Mistake(
                "keeps all that NMS leaves",
                "Only the most best of them.",
                edits={"nms_threshold, most)": "nms_threshold)"},
            ),
            Mistake(
                "cuts to the limit before NMS",
                "A removed box must not take a place: cut last.",
                edits={
                    "    keep = ": "    order = scores.argsort(descending=True, stable=True)\n"
                    "    order = order[:most]\n"
                    "    boxes, scores, label = boxes[order], scores[order], label[order]\n"
                    "    keep = "
                },
            ),
            Mistake(
                "does not suppress anything",
                "NMS class by class comes before the limit.",
                edits={
                    "batched_nms(boxes, scores, label, nms_threshold, most)": (
                        "scores.argsort(descending=True, stable=True)[:most]"
                    )
                },
            ),
        ),
        hint="softmax, decode, clip, nonzero of the scores over the threshold, batched_nms.",
        difficulty=3,
        minutes=20,
        draw=_draw_found,
        plug=_behind_the_head,
    ),
    Exercise(
        solution=assign_levels,
        cases=_levels_cases(),
        edges=LEVEL_EDGES,
        mistakes=(
            Mistake(
                "rounds to the nearest level",
                "floor: a box belongs to the lower level until it is twice as large.",
                wrong=_halves_rounded,
            ),
            Mistake(
                "rounds up",
                "floor, not ceil.",
                edits={"torch.floor": "torch.ceil"},
            ),
            Mistake(
                "does not count from the first level",
                "The answer is an index into the list of maps: subtract first.",
                edits={".to(torch.int64) - first": ".to(torch.int64)"},
            ),
            Mistake(
                "takes the area for a length",
                "224 is a length: take the square root of the area.",
                edits={"box_area(boxes).sqrt()": "box_area(boxes)"},
            ),
            Mistake(
                "measures the longer edge",
                "The square root of the area: a long thin box is small.",
                wrong=_longer_edge,
            ),
            Mistake(
                "takes the natural logarithm",
                "Twice as large is one level more: log2.",
                edits={"torch.log2": "torch.log"},
            ),
            Mistake(
                "starts at level 0 instead of 4",
                "A box of 224 pixels belongs to level 4.",
                edits={"torch.floor(4 + ": "torch.floor("},
            ),
            Mistake(
                "sends small boxes to the coarse levels",
                "Small boxes need the fine maps: larger is more.",
                edits={"4 + torch": "4 - torch"},
            ),
            Mistake(
                "does not stop at the last level",
                "There are no maps behind the last: clamp to first and last.",
                edits={"clamp(first, last)": "clamp(min=first)"},
            ),
            Mistake(
                "does not stop at the first level",
                "Before the first there is no map, and -1 would be the last: clamp.",
                edits={"clamp(first, last)": "clamp(max=last)"},
            ),
        ),
        hint="Square root of the area, over 224, log2, plus 4, floor, clamp, minus first.",
        difficulty=2,
        minutes=8,
    ),
)
