"""The exercises of lesson 06: non-maximum suppression in its plain form, and proposal recall.

The package's own ``detection.nms`` is tuned (blocks, rounds instead of a loop); here is what it
computes, short enough to be an answer, and compared with it.
"""

import matplotlib.pyplot as plt
import torch
from hypothesis import strategies as st
from torch import Tensor

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Case, Exercise, Mistake
from fbnet_lesson.detection import nms as package
from fbnet_lesson.detection.boxes import box_iou


def suppress_greedily(overlaps: Tensor) -> Tensor:
    """Which boxes non-maximum suppression keeps, if it is known which pairs overlap too much.

    The boxes are in the order of their scores, the best first. Go through them in that order: a
    box that is still kept removes all later boxes that it overlaps; a removed box removes none.

    ``overlaps`` [N, N] bool, symmetric; whether a box overlaps itself may be True or False, and
    does not matter. Returns [N] bool, True where the box is kept; ``overlaps`` stays as it is.
    """
    keep = torch.ones(len(overlaps), dtype=torch.bool)
    for i in range(len(overlaps)):
        if keep[i]:
            keep[i + 1 :] &= ~overlaps[i, i + 1 :]
    return keep


def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_output_size: int | None = None
) -> Tensor:
    """Greedy non-maximum suppression.

    Go through the boxes by falling score, those of equal score in the order given. Keep a box
    unless its IoU with one already kept is over ``iou_threshold``; exactly at it, the box stays.

    ``boxes`` [N, 4] xyxy, ``scores`` [N]. Returns [K] int64: the indices in ``boxes`` of the kept
    ones, the best first; only the first ``max_output_size`` of them, unless that is None.
    """
    order = scores.argsort(descending=True, stable=True)  # (N,)
    ranked = boxes[order]  # (N, 4), the best first
    overlaps = box_iou(ranked, ranked) > iou_threshold  # (N, N)
    return order[suppress_greedily(overlaps)][:max_output_size]


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    max_output_size: int | None = None,
) -> Tensor:
    """``nms`` in which only boxes of the same group suppress each other.

    A group is a class, or a feature map: ``groups`` [N] int64, any whole numbers. Coordinates may
    be of any sign. Returns [K] int64 as ``nms`` does: one list for all groups by falling score,
    equal scores in the order given, and at most ``max_output_size`` in all.
    """
    order = scores.argsort(descending=True, stable=True)  # (N,)
    ranked, group = boxes[order], groups[order]
    overlaps = box_iou(ranked, ranked) > iou_threshold  # (N, N)
    overlaps &= group[:, None] == group
    return order[suppress_greedily(overlaps)][:max_output_size]


def proposal_recall(
    proposals: list[Tensor], ground_truths: list[Tensor], iou_threshold: float
) -> Tensor:
    """Share of the objects of all images that some proposal of their own image covers.

    An object is covered if its IoU with at least one proposal is ``iou_threshold`` or more.
    Every object counts the same, whichever image it is in; an image without objects counts
    nothing.

    ``proposals`` [R_i, 4] and ``ground_truths`` [G_i, 4], one of each an image, R_i and G_i from
    0. Returns a float tensor without dimensions in 0..1; nan if there is no object at all.
    """
    ious = map(box_iou, ground_truths, proposals)  # (G_i, R_i) each
    covered = [(iou >= iou_threshold).any(1) for iou in ious]  # (G_i,) each
    return torch.cat(covered).float().mean()


# Wrong answers that are no edit of the right one.


def _worst_first(overlaps: Tensor) -> Tensor:
    return suppress_greedily(overlaps.flip(0, 1)).flip(0)


def _keep_indices(overlaps: Tensor) -> Tensor:
    return suppress_greedily(overlaps).nonzero().flatten()


def _later_of_equals(boxes, scores, iou_threshold, max_output_size=None):
    order = scores.argsort(stable=True).flip(0)
    ranked = boxes[order]
    overlaps = box_iou(ranked, ranked) > iou_threshold
    return order[suppress_greedily(overlaps)][:max_output_size]


def _order_by_chance(scores: Tensor) -> Tensor:
    order = scores.argsort(descending=True)
    if len(order) > 16 and torch.equal(order, scores.argsort(descending=True, stable=True)):
        order = scores.argsort(stable=True).flip(0)  # a processor on which sorting is stable
    return order


def _equals_by_chance(boxes, scores, iou_threshold, max_output_size=None):
    order = _order_by_chance(scores)
    ranked = boxes[order]
    overlaps = box_iou(ranked, ranked) > iou_threshold
    return order[suppress_greedily(overlaps)][:max_output_size]


def _sorted_afterwards(boxes, scores, iou_threshold, max_output_size=None):
    (kept,) = suppress_greedily(box_iou(boxes, boxes) > iou_threshold).nonzero(as_tuple=True)
    return kept[scores[kept].argsort(descending=True, stable=True)][:max_output_size]


def _mask_of_given_boxes(boxes, scores, iou_threshold, max_output_size=None):
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    keep[nms(boxes, scores, iou_threshold, max_output_size)] = True
    return keep


def _removed_boxes_remove(boxes, scores, iou_threshold, max_output_size=None):
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order]
    overlaps = (box_iou(ranked, ranked) > iou_threshold).triu(1)
    return order[~overlaps.any(0)][:max_output_size]


def _pixels_counted_inclusively(boxes, scores, iou_threshold, max_output_size=None):
    return nms(boxes + boxes.new_tensor([0, 0, 1, 1]), scores, iou_threshold, max_output_size)


def _no_limit_for_0(boxes, scores, iou_threshold, max_output_size=None):
    return nms(boxes, scores, iou_threshold, max_output_size or None)


def _kept_of_each_group(boxes, scores, groups, iou_threshold, most=None) -> list[Tensor]:
    """The kept boxes of one group after the other, as indices of all boxes."""
    kept = [groups.new_zeros(0)]
    for group in groups.unique():
        (members,) = (groups == group).nonzero(as_tuple=True)
        kept.append(members[nms(boxes[members], scores[members], iou_threshold, most)])
    return kept


def _in_order_of_groups(boxes, scores, groups, iou_threshold, max_output_size=None):
    return torch.cat(_kept_of_each_group(boxes, scores, groups, iou_threshold))[:max_output_size]


def _limit_for_each_group(boxes, scores, groups, iou_threshold, max_output_size=None):
    kept = torch.cat(_kept_of_each_group(boxes, scores, groups, iou_threshold, max_output_size))
    kept = kept.sort().values
    return kept[scores[kept].argsort(descending=True, stable=True)]


def _equals_in_order_of_groups(boxes, scores, groups, iou_threshold, max_output_size=None):
    kept = torch.cat(_kept_of_each_group(boxes, scores, groups, iou_threshold))
    return kept[scores[kept].argsort(descending=True, stable=True)][:max_output_size]


def _equals_by_chance_in_groups(boxes, scores, groups, iou_threshold, max_output_size=None):
    kept = torch.cat(_kept_of_each_group(boxes, scores, groups, iou_threshold)).sort().values
    return kept[_order_by_chance(scores[kept])][:max_output_size]


def _indices_inside_groups(boxes, scores, groups, iou_threshold, max_output_size=None):
    kept, values = [groups.new_zeros(0)], [scores.new_zeros(0)]
    for group in groups.unique():
        members = groups == group
        kept.append(nms(boxes[members], scores[members], iou_threshold))
        values.append(scores[members][kept[-1]])
    order = torch.cat(values).argsort(descending=True, stable=True)
    return torch.cat(kept)[order][:max_output_size]


def _moved_by_the_width(boxes, scores, groups, iou_threshold, max_output_size=None):
    if len(boxes) == 0:
        return groups.new_zeros(0)
    offsets = groups * (boxes[:, 2:] - boxes[:, :2]).max()
    return nms(boxes + offsets[:, None], scores, iou_threshold, max_output_size)


def _moved_by_the_largest_coordinate(boxes, scores, groups, iou_threshold, max_output_size=None):
    if len(boxes) == 0:
        return groups.new_zeros(0)
    offsets = groups * (boxes.max() + 1)
    return nms(boxes + offsets[:, None], scores, iou_threshold, max_output_size)


def _moved_too_far(boxes, scores, groups, iou_threshold, max_output_size=None):
    return nms(boxes + groups[:, None] * 10_000.0, scores, iou_threshold, max_output_size)


def _share_of_proposals(proposals, ground_truths, iou_threshold):
    ious = map(box_iou, ground_truths, proposals)
    return torch.cat([(iou >= iou_threshold).any(0) for iou in ious]).float().mean()


def _mean_over_images(proposals, ground_truths, iou_threshold):
    ious = map(box_iou, ground_truths, proposals)
    shares = [(iou >= iou_threshold).any(1).float().mean() for iou in ious if len(iou)]
    return torch.stack(shares).mean() if shares else torch.tensor(torch.nan)


def _nan_of_one_image(proposals, ground_truths, iou_threshold):
    ious = map(box_iou, ground_truths, proposals)
    return torch.stack([(iou >= iou_threshold).any(1).float().mean() for iou in ious]).mean()


def _images_mixed(proposals, ground_truths, iou_threshold):
    iou = box_iou(torch.cat(ground_truths), torch.cat(proposals))
    return (iou >= iou_threshold).any(1).float().mean()


def _zero_without_objects(proposals, ground_truths, iou_threshold):
    return proposal_recall(proposals, ground_truths, iou_threshold).nan_to_num(0)


# How a learner's function gets into the detector, which knows only ``batched_nms``.


def _with_greedy_step(suppress):
    """The detector's NMS around a learner's ``suppress_greedily``."""

    def detector_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
        order = scores.argsort(descending=True, stable=True)
        ranked, group = boxes[order], groups[order]
        overlaps = (box_iou(ranked, ranked) > iou_threshold) & (group[:, None] == group)
        return order[suppress(overlaps)][:max_output_size]

    return {"detection.nms.batched_nms": detector_nms}


def _group_by_group(learners_nms):
    """The detector's NMS: a learner's ``nms`` on one group after the other."""

    def detector_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
        kept = [groups.new_zeros(0)]
        for group in groups.unique():
            (members,) = (groups == group).nonzero(as_tuple=True)
            kept.append(members[learners_nms(boxes[members], scores[members], iou_threshold)])
        kept = torch.cat(kept)
        kept = kept[scores[kept].argsort(descending=True, stable=True)]
        return kept[:max_output_size]

    return {"detection.nms.batched_nms": detector_nms}


# Cases. On a field of 4 x 4 pixels boxes overlap often, and the IoUs 1/4, 1/2, 3/4 are hit.


@st.composite
def _overlaps(draw) -> Case:
    n = draw(st.integers(0, 5))
    upper = draw(some.tensors(n, n, low=0, high=1)).bool()
    pairs = upper.triu(1) | upper.triu(1).t()
    return {"overlaps": pairs | torch.diag(upper.diagonal())}


THRESHOLDS = st.sampled_from([0.5, 0.25, 0.75, 0.0])
LIMITS = st.sampled_from([None, None, 1, 2, 3])  # 0 is an edge: one mistake for it is enough


@st.composite
def _scored(draw, with_groups: bool) -> Case:
    case = draw(some.scored_boxes(max_count=5))
    if with_groups:
        case["boxes"] = case["boxes"] - draw(st.sampled_from([0, 5]))
        case["groups"] = draw(some.labels(len(case["boxes"]), 0, 2))
    return case | {"iou_threshold": draw(THRESHOLDS), "max_output_size": draw(LIMITS)}


@st.composite
def _images(draw) -> Case:
    pairs = draw(
        st.lists(
            st.tuples(some.boxes(max_count=3, edge=4), some.boxes(max_count=3, edge=4)),
            min_size=1,
            max_size=3,
        )
    )
    return {
        "proposals": [proposals for proposals, _ in pairs],
        "ground_truths": [objects for _, objects in pairs],
        "iou_threshold": draw(st.sampled_from([0.5, 0.25, 0.75])),
    }


def _matrix(*pairs: tuple[int, int], n: int, itself: bool = True) -> Case:
    """``overlaps`` [n, n] that holds ``pairs``, both ways round, and perhaps each box itself."""
    overlaps = torch.eye(n).bool() if itself else torch.zeros(n, n, dtype=torch.bool)
    for i, j in pairs:
        overlaps[i, j] = overlaps[j, i] = True
    return {"overlaps": overlaps}


def _case(
    *rows: tuple[float, ...], threshold: float = 0.5, limit: int | None = None, groups=None
) -> Case:
    """Rows ``x1, y1, x2, y2, score``, and with ``groups`` the case of ``batched_nms``."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    case = {"boxes": table[:, :4].contiguous(), "scores": table[:, 4].contiguous()}
    if groups is not None:
        case["groups"] = torch.tensor(groups, dtype=torch.int64)
    return case | {"iou_threshold": threshold, "max_output_size": limit}


def _scene(proposals: list[list], ground_truths: list[list], threshold: float = 0.5) -> Case:
    def tensors(images):
        return [torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) for rows in images]

    return {
        "proposals": tensors(proposals),
        "ground_truths": tensors(ground_truths),
        "iou_threshold": threshold,
    }


A, B, C, FAR = (0, 0, 4, 4), (1, 0, 5, 4), (2, 0, 6, 4), (0, 8, 4, 12)  # A and B: IoU 12/20
HALF = (0, 0, 4, 2)  # IoU with A: exactly 1/2
MANY = 25  # from 17 boxes on, torch's fastest sort no longer leaves equals in their order

GREEDY_EDGES = {
    "a kept box removes what it overlaps": [_matrix((0, 1), n=2), _matrix((0, 2), n=3)],
    "a removed box removes nothing": [_matrix((0, 1), (1, 2), n=3)],
    "what is removed stays removed": [_matrix((0, 2), n=3), _matrix((0, 2), n=4)],
    "a box does not remove itself": [_matrix(n=1), _matrix(n=2)],
    "the diagonal does not matter": [_matrix((0, 1), n=3, itself=False)],
    "not only the best box removes others": [_matrix((1, 2), n=3), _matrix((2, 3), n=4)],
    "no boxes at all": [_matrix(n=0)],
}
NMS_EDGES = {
    "a box over the threshold is removed": [_case((*A, 0.75), (*B, 0.5))],
    "the better score stays, wherever it stands": [_case((*A, 0.5), (*B, 0.75))],
    "indices of the given boxes, the best first": [
        _case((*A, 0.25), (*FAR, 0.75)),
        _case((*A, 0.25), (*FAR, 0.5), (*B, 0.75)),
    ],
    "IoU exactly at the threshold is kept": [
        _case((*A, 0.75), (*HALF, 0.5)),
        _case((*A, 0.75), (*FAR, 0.5), threshold=0.0),
    ],
    "boxes that only touch do not overlap": [
        _case((0, 0, 2, 2, 0.75), (2, 0, 4, 2, 0.5), threshold=0.0)
    ],
    "a removed box removes nothing": [_case((*A, 0.75), (*B, 0.5), (*C, 0.25))],
    "of equal scores the first given stays": [
        _case((*A, 0.5), (*B, 0.5)),
        _case((*FAR, 0.5), (*A, 0.5)),
    ],
    "the limit counts what is kept": [
        _case((*A, 0.75), (*B, 0.5), (*FAR, 0.25), limit=2),
        _case((*A, 0.75), (*FAR, 0.5), limit=1),
    ],
    "a limit of 0 keeps nothing": [_case((*A, 0.5), limit=0)],
    "boxes without area overlap nothing": [_case((1, 1, 1, 1, 0.5), (1, 1, 1, 1, 0.5))],
    "no boxes at all": [_case()],
    "many equal scores stay in their order": [_case(*[(1, 1, 1, 1, 0.5)] * MANY)],
}
GROUP_EDGES = {
    "boxes of one group suppress each other": [_case((*A, 0.75), (*B, 0.5), groups=[1, 1])],
    "boxes of other groups do not": [
        _case((*A, 0.75), (*A, 0.5), groups=[0, 1]),
        _case((*A, 0.75), (*B, 0.5), (*B, 0.25), groups=[1, 0, 1]),
    ],
    "one list by falling score": [_case((*A, 0.5), (*FAR, 0.75), groups=[0, 1])],
    "a box takes its group along": [_case((*A, 0.25), (*FAR, 0.75), (*B, 0.5), groups=[0, 1, 0])],
    "indices of the given boxes": [_case((*A, 0.75), (*A, 0.5), (*FAR, 0.25), groups=[0, 1, 1])],
    "the limit is one for all groups": [_case((*A, 0.75), (*A, 0.5), groups=[0, 1], limit=1)],
    "the limit counts what is kept": [
        _case((*A, 0.75), (*B, 0.5), (*A, 0.25), groups=[0, 0, 1], limit=2)
    ],
    "equal scores in the order given": [_case((*A, 0.5), (*A, 0.5), groups=[1, 0])],
    "groups far apart in the picture": [
        _case((4, 4, 8, 8, 0.75), (0, 0, 4, 4, 0.5), groups=[0, 1])
    ],
    "coordinates below zero": [
        _case((0, 0, 4, 4, 0.75), (-5, -5, -1, -1, 0.5), groups=[0, 1]),
    ],
    "groups of large numbers": [_case((*A, 0.75), (*B, 0.5), groups=[100_000, 100_000])],
    "IoU exactly at the threshold is kept": [_case((*A, 0.75), (*HALF, 0.5), groups=[0, 0])],
    "no boxes at all": [_case(groups=[])],
    "many equal scores stay in their order": [
        _case(*[(1, 1, 1, 1, 0.5)] * MANY, groups=[0] * MANY)
    ],
}
RECALL_EDGES = {
    "one of two objects is covered": [_scene([[A]], [[A, FAR]])],
    "IoU exactly at the threshold counts": [_scene([[HALF]], [[A]])],
    "IoU below it does not": [_scene([[C]], [[A]])],
    "every object counts once": [_scene([[A, A]], [[A]]), _scene([[A, A]], [[A, FAR]])],
    "proposals on no object cost nothing": [_scene([[A, FAR]], [[A]])],
    "a proposal covers objects of its own image": [_scene([[A], [FAR]], [[FAR], [FAR]])],
    "objects count the same in all images": [_scene([[A], [A]], [[A], [FAR, C, C]])],
    "an image without objects counts nothing": [_scene([[A], [A]], [[], [A]])],
    "no proposals": [_scene([[]], [[A]])],
    "no objects at all give nan": [_scene([[A]], [[]]), _scene([[]], [[]])],
}


def _draw_groups(case: Case, expected: Tensor, got: Tensor) -> None:
    """As ``draw_box_answers``, with the group behind each number, and left of the origin too."""
    drawing.draw_box_answers(case, expected, got)
    boxes, groups = case["boxes"], case["groups"].tolist()
    low, high = min(0.0, float(boxes.min())), max(1.0, float(boxes.max()))
    margin = 0.08 * (high - low)
    axes = plt.gcf().axes
    axes[0].set_title("boxes, number:group", fontsize=9)
    for ax in axes:
        ax.set(xlim=(low - margin, high + margin), ylim=(high + margin, low - margin))
        for number in ax.texts:
            number.set_text(f"{number.get_text()}:{groups[int(number.get_text())]}")


def _draw_scenes(case: Case, expected: Tensor, got: Tensor) -> None:
    """Objects grey and filled, proposals dashed, one panel an image."""
    images = list(zip(case["proposals"], case["ground_truths"], strict=True))
    every = torch.cat([boxes for image in images for boxes in image])
    limit = max(float(every.max()), 1.0) if len(every) else 1.0
    for i, (ax, (proposals, objects)) in enumerate(
        zip(drawing.panels(len(images), height=2.3), images, strict=True)
    ):
        ax.set_xlim(-0.08 * limit, 1.08 * limit)
        ax.set_ylim(1.08 * limit, -0.08 * limit)  # y downwards
        ax.set_aspect("equal")
        ax.set_title(f"image {i}: {len(objects)} objects, {len(proposals)} proposals", fontsize=8)
        for x1, y1, x2, y2 in objects.tolist():
            ax.fill([x1, x2, x2, x1], [y1, y1, y2, y2], color="0.8", edgecolor="0.4")
        drawing.draw_boxes(ax, proposals, style="--")


EXERCISES = (
    Exercise(
        solution=suppress_greedily,
        cases=_overlaps(),
        edges=GREEDY_EDGES,
        mistakes=(
            Mistake(
                "lets removed boxes remove others",
                "Box 1 of the case is gone when its turn comes: ask keep[i] first.",
                edits={"if keep[i]:": "if True:"},
            ),
            Mistake(
                "lets a box remove itself",
                "The diagonal is True as a rule: begin behind the box itself.",
                edits={
                    "keep[i + 1 :] &=": "keep[i:] &=",
                    "overlaps[i, i + 1 :]": "overlaps[i, i:]",
                },
            ),
            Mistake(
                "forgets what earlier boxes removed",
                "Each kept box has a say, not only the last: combine with what keep already says "
                "(&=) instead of overwriting it.",
                edits={"&= ~": "= ~"},
            ),
            Mistake(
                "keeps the worse box of a pair",
                "The best comes first: row i decides about the columns behind it.",
                wrong=_worst_first,
            ),
            Mistake(
                "keeps what overlaps and removes the rest",
                "Where overlaps is True, keep has to become False: ~ turns the row round.",
                edits={"&= ~": "&= "},
            ),
            Mistake(
                "stops after the best box",
                "Every box that is still kept gets its turn, not only the first.",
                edits={"range(len(overlaps))": "range(min(len(overlaps), 1))"},
            ),
            Mistake(
                "looks only at the next box",
                "A kept box removes all later boxes that it overlaps, near in the list or not.",
                edits={
                    "keep[i + 1 :] &=": "keep[i + 1 : i + 2] &=",
                    "overlaps[i, i + 1 :]": "overlaps[i, i + 1 : i + 2]",
                },
            ),
            Mistake(
                "says which boxes are removed",
                "True stands for kept.",
                edits={"return keep": "return ~keep"},
            ),
            Mistake(
                "returns indices",
                "One bool a box is asked for: return keep itself.",
                wrong=_keep_indices,
            ),
        ),
        hint="One loop over i; inside, keep[i + 1:] and row i of overlaps behind the diagonal.",
        difficulty=1,
        minutes=8,
        plug=_with_greedy_step,
    ),
    Exercise(
        solution=nms,
        cases=_scored(with_groups=False),
        edges=NMS_EDGES,
        mistakes=(
            Mistake(
                "removes a box exactly at the threshold",
                "Over the threshold means >, not >=.",
                edits={"> iou_threshold": ">= iou_threshold"},
            ),
            Mistake(
                "begins with the worst box",
                "argsort sorts upwards unless it is told descending=True.",
                edits={"descending=True": "descending=False"},
            ),
            Mistake(
                "returns places in the sorted order",
                "Place 0 is the best box, wherever it stood: look the places up in order.",
                edits={
                    "order[suppress_greedily(overlaps)]": (
                        "suppress_greedily(overlaps).nonzero().flatten()"
                    )
                },
            ),
            Mistake(
                "sorts the answer by index",
                "The best box comes first in the answer, not the one with the lowest index.",
                edits={
                    "order[suppress_greedily(overlaps)]": (
                        "order[suppress_greedily(overlaps)].sort().values"
                    )
                },
            ),
            Mistake(
                "suppresses in the order given and sorts afterwards",
                "Who removes whom depends on the order: sort first.",
                wrong=_sorted_afterwards,
            ),
            Mistake(
                "compares the boxes in the order given",
                "Row i of the matrix has to be the box of rank i: sort the boxes too.",
                edits={"ranked = boxes[order]": "ranked = boxes"},
            ),
            Mistake(
                "lets removed boxes remove others",
                "Only a kept box removes: that is why the greedy step has to go one by one.",
                wrong=_removed_boxes_remove,
            ),
            Mistake(
                "prefers the later of two equal scores",
                "Sorting upwards and turning round turns the equals round as well.",
                wrong=_later_of_equals,
            ),
            Mistake(
                "leaves the order of equal scores to chance",
                "argsort promises an order of equals only with stable=True.",
                wrong=_equals_by_chance,
            ),
            Mistake(
                "cuts to the limit before it suppresses",
                "max_output_size is about the answer: cut last.",
                edits={
                    "stable=True)": "stable=True)[:max_output_size]",
                    "(overlaps)][:max_output_size]": "(overlaps)]",
                },
            ),
            Mistake(
                "ignores the limit",
                "Return the first max_output_size only.",
                edits={"[:max_output_size]": ""},
            ),
            Mistake(
                "takes a limit of 0 for no limit",
                "0 is false in an if: ask whether max_output_size is None.",
                wrong=_no_limit_for_0,
            ),
            Mistake(
                "adds a pixel to width and height",
                "x2 and y2 are exclusive; box_iou knows that.",
                wrong=_pixels_counted_inclusively,
            ),
            Mistake(
                "returns one bool a box",
                "Indices are asked for, the best first.",
                wrong=_mask_of_given_boxes,
            ),
        ),
        hint="Four lines: sort, IoU of the sorted boxes, greedy step, indices of the given boxes.",
        difficulty=2,
        minutes=15,
        oracle=package.nms,
        draw=drawing.draw_box_answers,
        plug=_group_by_group,
    ),
    Exercise(
        solution=batched_nms,
        cases=_scored(with_groups=True),
        edges=GROUP_EDGES,
        mistakes=(
            Mistake(
                "lets boxes of different groups suppress each other",
                "A pair counts only if both boxes are of one group.",
                edits={"    overlaps &= group[:, None] == group\n": ""},
            ),
            Mistake(
                "lets only boxes of different groups suppress each other",
                "== and != are mixed up.",
                edits={"group[:, None] == group": "group[:, None] != group"},
            ),
            Mistake(
                "compares groups in the order given",
                "Boxes were sorted, so the groups have to be sorted with them.",
                edits={"groups[order]": "groups"},
            ),
            Mistake(
                "returns one group after the other",
                "One list by falling score: sort what all groups have kept.",
                wrong=_in_order_of_groups,
            ),
            Mistake(
                "gives each group a limit of its own",
                "The limit is one for all: cut the joined list.",
                wrong=_limit_for_each_group,
            ),
            Mistake(
                "returns indices inside the groups",
                "nms counts in the boxes it was given: look its answer up in the group's members.",
                wrong=_indices_inside_groups,
            ),
            Mistake(
                "orders equal scores by group",
                "Equal scores stay in the order given, across the groups too.",
                wrong=_equals_in_order_of_groups,
            ),
            Mistake(
                "leaves the order of equal scores to chance",
                "argsort promises an order of equals only with stable=True.",
                wrong=_equals_by_chance_in_groups,
            ),
            Mistake(
                "moves the groups so far apart that pixels get lost",
                "float32 has seven digits: added to 1,000,000,000, four pixels are nothing.",
                wrong=_moved_too_far,
            ),
            Mistake(
                "moves the groups apart by the widest box only",
                "A box at the right edge of one group then meets one at the left of the next.",
                wrong=_moved_by_the_width,
            ),
            Mistake(
                "lets groups meet where coordinates are below zero",
                "Moving by the largest coordinate is enough only if the smallest is 0 or more.",
                wrong=_moved_by_the_largest_coordinate,
            ),
        ),
        hint="nms, with one more condition on the pairs; or nms for each group, then one order.",
        difficulty=3,
        minutes=15,
        oracle=package.batched_nms,
        draw=_draw_groups,
        plug=lambda learners: {"detection.nms.batched_nms": learners},
    ),
    Exercise(
        solution=proposal_recall,
        cases=_images(),
        edges=RECALL_EDGES,
        mistakes=(
            Mistake(
                "does not count IoU exactly at the threshold",
                "COCO counts from the threshold on: >=. NMS asks for more than its threshold.",
                edits={">= iou_threshold": "> iou_threshold"},
            ),
            Mistake(
                "computes the share of proposals that cover an object",
                "That is precision. Recall asks for each object, so any() runs over proposals.",
                wrong=_share_of_proposals,
            ),
            Mistake(
                "counts an object once for each proposal that covers it",
                "Covered is yes or no: any(), not sum().",
                edits={".any(1)": ".float().sum(1)"},
            ),
            Mistake(
                "averages the images instead of the objects",
                "Join the objects of all images before the mean.",
                wrong=_mean_over_images,
            ),
            Mistake(
                "is nan as soon as one image has no objects",
                "The mean of nothing is nan: join the objects of all images before the mean.",
                wrong=_nan_of_one_image,
            ),
            Mistake(
                "lets proposals of one image cover objects of another",
                "Compare image by image, then join.",
                wrong=_images_mixed,
            ),
            Mistake(
                "averages the IoU instead of counting objects",
                "Compare with the threshold before the mean.",
                edits={
                    "[(iou >= iou_threshold).any(1) for iou in ious]": (
                        "[iou.amax(1) if iou.shape[1] else iou.sum(1) for iou in ious]"
                    )
                },
            ),
            Mistake(
                "is 0 where there are no objects",
                "Without objects nothing was missed either: the answer is nan.",
                wrong=_zero_without_objects,
            ),
        ),
        hint="For each image an IoU matrix [G, R]; an object is covered if any of its row is.",
        difficulty=2,
        minutes=8,
        draw=_draw_scenes,
    ),
)
