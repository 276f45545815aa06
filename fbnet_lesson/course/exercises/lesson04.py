"""The exercises of lesson 04: IoU, the anchors of a cell and of a map, decoding, chosen shapes."""

import math

import torch
from hypothesis import strategies as st
from matplotlib.axes import Axes
from torch import Tensor

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Case, Exercise, Mistake
from fbnet_lesson.detection import boxes as package
from fbnet_lesson.detection.anchors import cell_anchors, grid_anchors
from fbnet_lesson.detection.boxes import SCALE_CLAMP, box_area, centre_form, decode_boxes

# ------------------------------------------------------------------------------------- plain forms


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of ``a`` with every box of ``b``.

    ``[..., N, 4], [..., M, 4] -> [..., N, M]`` in 0..1; 0 where the intersection is empty, also
    for two boxes without area.
    """
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])  # (N, 1, 2), (1, M, 2)
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])  # -> (N, M, 2)
    shared = (high - low).clamp(min=0).prod(-1)  # (N, M)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - shared
    return torch.where(shared > 0, shared / union, 0.0)


def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    """One step of k-means on shapes, measured by IoU: which anchors would stand for these objects?

    The IoU of two shapes is that of two boxes of these widths and heights on one common centre.
    Each shape joins the chosen shape with which its IoU is highest, the first of equals. Then
    every chosen shape becomes the mean width and mean height of the shapes that joined it; one
    that none has joined stays as it is.

    ``shapes`` [N, 2], ``chosen`` [K, 2]: width and height in pixels, all over 0. Returns ``[K, 2]``
    in the order of ``chosen``. Source: YOLO9000 (arXiv 1612.08242, sec. 2, "Dimension Clusters").
    """
    shared = torch.minimum(shapes[:, None], chosen).prod(-1)  # (N, 1, 2), (K, 2) -> (N, K)
    union = shapes.prod(-1)[:, None] + chosen.prod(-1) - shared
    joined = (shared / union).argmax(1)  # (N,)
    moved = chosen.clone()
    for k in range(len(chosen)):
        if (joined == k).any():
            moved[k] = shapes[joined == k].mean(0)
    return moved


# ---------------------------------------------------------------------------------------- drawings


def frame(ax: Axes, boxes: Tensor, title: str) -> None:
    """Axes that hold ``boxes``, y downwards, with a line along x = 0 and y = 0."""
    low, high = min(float(boxes.min()), 0.0), max(float(boxes.max()), 0.0)
    margin = 0.08 * (high - low)
    ax.set(xlim=(low - margin, high + margin), ylim=(high + margin, low - margin), aspect="equal")
    ax.axhline(0, color="0.85", linewidth=1, zorder=0)
    ax.axvline(0, color="0.85", linewidth=1, zorder=0)
    ax.set_title(title, fontsize=9)


def numbered(ax: Axes, boxes: Tensor, **style) -> None:
    """``boxes`` [N, 4] with their numbers at their upper left corners."""
    drawing.draw_boxes(ax, boxes, **style)
    for i, (x1, y1, _, _) in enumerate(boxes.tolist()):
        ax.text(x1, y1, str(i), fontsize=8, va="bottom", ha="left")


def shown(boxes: Tensor) -> Tensor:
    """What of a wrong answer can be drawn."""
    return boxes.detach().nan_to_num(0, 0, 0).clamp(-2000, 2000)


def draw_iou(case: Case, expected: Tensor, got: Tensor) -> None:
    """The boxes of ``a`` solid and those of ``b`` dashed, beside both answers."""
    a, b = (boxes.reshape(-1, *boxes.shape[-2:])[0] for boxes in case.values())
    if len(a) == 0 or len(b) == 0:
        return
    left, *others = drawing.panels(3, height=2.3)
    frame(left, torch.cat([a, b]), "a solid, b dashed")
    numbered(left, a, width=1.6)
    drawing.draw_boxes(left, b, style="--", width=1.6)
    for i, (_, _, x2, y2) in enumerate(b.tolist()):
        left.text(x2, y2, str(i), fontsize=8, va="top", ha="right")
    for boxes, marker in ((a, "ks"), (b, "kx")):  # without area, nothing else is to be seen
        points = boxes[box_area(boxes) == 0]
        left.plot(points[:, 0], points[:, 1], marker, fillstyle="none")
    for ax, answer, title in zip(others, (expected, got), ("expected", "got"), strict=True):
        rows = answer.reshape(-1, *answer.shape[-2:])[0]
        drawing.value_grid(ax, rows, f"{title}: a row a box of a")


def draw_anchors(case: Case, expected: Tensor, got: Tensor) -> None:
    """The anchors by their numbers, which show the order; lines meet at (0, 0)."""
    axes = drawing.panels(2, height=2.8)
    both = torch.cat([shown(expected).reshape(-1, 4), shown(got).reshape(-1, 4)])
    for ax, boxes, title in zip(axes, (expected, got), ("expected", "got"), strict=True):
        frame(ax, both, title)
        numbered(ax, shown(boxes).reshape(-1, 4), width=1.4)


def draw_decoded(case: Case, expected: Tensor, got: Tensor) -> None:
    """The first box, from its anchor."""
    if expected.numel() == 0:
        return
    anchor = case["anchors"].reshape(-1, 4)[:1]
    answers = [shown(boxes).reshape(-1, 4)[:1] for boxes in (expected, got)]
    (ax,) = drawing.panels(1, height=2.6)
    frame(ax, torch.cat([anchor, *answers]), "the first box")
    for boxes, style, width, name in (
        (anchor, "--", 1.2, "anchor"),
        (answers[0], "-", 1.6, "expected"),
        (answers[1], ":", 2.4, "got"),
    ):
        drawing.draw_boxes(ax, boxes, style=style, width=width)
        ax.plot([], [], "k", linestyle=style, linewidth=width, label=name)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_shapes(case: Case, expected: Tensor, got: Tensor) -> None:
    """Shapes as points, by width and height; which way each chosen one goes."""
    shapes, chosen = case["shapes"], case["chosen"]
    edge = 1.15 * float(torch.cat([shapes, chosen]).max())
    axes = drawing.panels(2, height=2.6)
    for ax, moved, title in zip(axes, (expected, got), ("expected", "got"), strict=True):
        ax.plot(*shapes.T, "o", color="0.6", label="shapes")
        ax.plot(*chosen.T, "ks", fillstyle="none", label="chosen before")
        ax.plot(*shown(moved).T, "kx", markersize=8, label="after")
        ax.set(xlabel="width", ylabel="height", aspect="equal", xlim=(0, edge), ylim=(0, edge))
        ax.set_title(title, fontsize=9)
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


# ----------------------------------------------------------------------------------------- box_iou


@st.composite
def iou_cases(draw) -> Case:
    a, b = draw(some.boxes(max_count=3, edge=6)), draw(some.boxes(max_count=3, edge=6))
    if draw(st.sampled_from((False, False, True))):
        a, b = torch.stack([a, a + 1]), torch.stack([b, b - 2])
    return {"a": a, "b": b}


def iou_case(a: list, b: list) -> Case:
    return {"a": torch.tensor(a, dtype=torch.float32), "b": torch.tensor(b, dtype=torch.float32)}


SQUARE, SHIFTED = [0, 0, 4, 4], [2, 0, 6, 4]  # they share 8 of 24 pixels


def shared_and_areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intersections [N, M], and the areas as [N, 1] and [1, M]."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared, box_area(a)[..., :, None], box_area(b)[..., None, :]


def ratio_or_0(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(part > 0, part / whole, 0.0)


def counts_a_pixel_more(a, b):
    more = a.new_tensor([0, 0, 1, 1])
    return box_iou(a + more, b + more)


def adds_a_pixel_to_the_intersection(a, b):
    more = a.new_tensor([0, 0, 1, 1])
    shared, _, _ = shared_and_areas(a + more, b + more)
    _, first, second = shared_and_areas(a, b)
    return ratio_or_0(shared, first + second - shared)


def does_not_clamp(a, b):
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    shared = (torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:]) - low).prod(-1)
    return shared / (box_area(a)[..., :, None] + box_area(b)[..., None, :] - shared)


def over_the_sum(a, b):
    shared, first, second = shared_and_areas(a, b)
    return ratio_or_0(shared, first + second)


def dice(a, b):
    return 2 * over_the_sum(a, b)


def is_nan_without_area(a, b):
    shared, first, second = shared_and_areas(a, b)
    return shared / (first + second - shared)


def holds_the_union_at_a_pixel(a, b):
    shared, first, second = shared_and_areas(a, b)
    return shared / (first + second - shared).clamp(min=1)


def over_the_first(a, b):
    shared, first, second = shared_and_areas(a, b)
    return ratio_or_0(shared, first + 0 * second)


def over_the_smaller(a, b):
    shared, first, second = shared_and_areas(a, b)
    return ratio_or_0(shared, torch.minimum(first, second))


def over_the_box_around_both(a, b):
    low = torch.minimum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.maximum(a[..., :, None, 2:], b[..., None, :, 2:])
    return ratio_or_0(shared_and_areas(a, b)[0], (high - low).prod(-1))


def the_box_around_both_as_intersection(a, b):
    low = torch.minimum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.maximum(a[..., :, None, 2:], b[..., None, :, 2:])
    around = (high - low).prod(-1)
    areas = box_area(a)[..., :, None] + box_area(b)[..., None, :]
    return ratio_or_0(around, areas - around)


def as_xywh(a, b):
    def corners(boxes):
        return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)

    return box_iou(corners(a), corners(b))


def pair_by_pair(a, b):
    size = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = size.clamp(min=0).prod(-1)
    return shared / (box_area(a) + box_area(b) - shared)


def of_two_axes(a, b):
    """Intersections and unions as they are mostly written, for [N, 4] and [M, 4]."""
    low = torch.maximum(a[:, None, :2], b[:, :2])
    size = (torch.minimum(a[:, None, 2:], b[:, 2:]) - low).clamp(min=0)
    shared = size[:, :, 0] * size[:, :, 1]
    return shared, box_area(a)[:, None] + box_area(b) - shared


def only_two_axes(a, b):
    return ratio_or_0(*of_two_axes(a, b))


def the_usual_lines(a, b):
    shared, union = of_two_axes(a, b)
    return shared / union


def clamps_the_product(a, b):
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    sides = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:]) - low
    shared = sides.prod(-1).clamp(min=0)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - shared
    return torch.where(union > 0, shared / union, 0.0)


BOX_IOU = Exercise(
    solution=box_iou,
    oracle=package.box_iou,  # which shares its first half with other functions
    cases=iou_cases(),
    edges={
        "the shared area over the area covered together": [iou_case([SQUARE], [SHIFTED])],
        "a box and itself have 1": [iou_case([[1, 2, 4, 6]], [[1, 2, 4, 6]])],
        "a box inside another": [iou_case([SQUARE], [[1, 1, 2, 3]])],
        "a row for each box of a, a column for each of b": [
            iou_case([SQUARE, SHIFTED], [SHIFTED, [0, 0, 4, 2], [6, 6, 8, 8]]),
            iou_case([SQUARE, SHIFTED], [[0, 0, 4, 2], [2, 2, 4, 4]]),
        ],
        "boxes that lie apart share nothing": [
            iou_case([[0, 0, 2, 4]], [[3, 0, 5, 4]]),
            iou_case([[0, 4, 4, 6]], [[0, 0, 4, 3]]),
            iou_case([[0, 0, 2, 2]], [[3, 4, 6, 6]]),
        ],
        "boxes that only touch share nothing": [
            iou_case([[0, 0, 2, 2]], [[2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4]])
        ],
        "a box without area has 0 with any other": [
            iou_case([[1, 1, 1, 3], [2, 2, 2, 2]], [SQUARE])
        ],
        "two boxes without area have 0": [
            iou_case([[1, 1, 1, 1]], [[1, 1, 1, 1]]),
            iou_case([[0, 1, 0, 3], [2, 2, 2, 2]], [[3, 3, 3, 3], [0, 0, 4, 0]]),
        ],
        "fractions of pixels, and corners left of the picture": [
            iou_case([[-2.5, -1, 1.5, 1]], [[-0.5, -0.5, 2.5, 0.5], [-4, -4, 0, 0]])
        ],
        "boxes that cover less than a pixel together": [
            iou_case([[0, 0, 0.5, 0.5]], [[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5]])
        ],
        "no boxes on one side": [
            {"a": torch.zeros(0, 4), "b": torch.zeros(2, 4)},
            {"a": torch.zeros(2, 4), "b": torch.zeros(0, 4)},
        ],
        "leading dimensions stay, each matrix for itself": [
            iou_case([[SQUARE], [SHIFTED]], [[SHIFTED, SQUARE], [[2, 0, 6, 2], [9, 9, 9, 9]]])
        ],
    },
    mistakes=(
        Mistake(
            "counts a pixel more in every width and height",
            "x2 and y2 are exclusive: a width is x2 - x1, without + 1, in areas and intersection.",
            wrong=counts_a_pixel_more,
        ),
        Mistake(
            "adds a pixel to the intersection, not to the areas",
            "No side has a + 1: boxes that only touch share nothing.",
            wrong=adds_a_pixel_to_the_intersection,
        ),
        Mistake(
            "takes boxes that lie apart along both axes for overlapping",
            "There width and height are both negative, and their product is not: clamp each side "
            "at 0, not the product.",
            wrong=clamps_the_product,
        ),
        Mistake(
            "gives a negative or a false IoU to boxes that lie apart",
            "Where boxes lie apart, min(x2) - max(x1) is negative: clamp width and height at 0.",
            wrong=does_not_clamp,
        ),
        Mistake(
            "counts the shared area twice in the union",
            "It is in both areas: the union is their sum less the intersection.",
            wrong=over_the_sum,
        ),
        Mistake(
            "divides twice the intersection by the sum of the areas",
            "That is the Dice coefficient. IoU divides once, by the union.",
            wrong=dice,
        ),
        Mistake(
            "divides by the area of a alone",
            "Over the union, so that a huge box does not fit everything: IoU is symmetric.",
            wrong=over_the_first,
        ),
        Mistake(
            "divides by the smaller of the two areas",
            "A small box inside a large one would have 1; the union is at least the larger area.",
            wrong=over_the_smaller,
        ),
        Mistake(
            "divides by the box around both",
            "That box holds pixels of neither. The union is area + area - intersection.",
            wrong=over_the_box_around_both,
        ),
        Mistake(
            "takes the box around both for the intersection",
            "The shared part begins at the larger x1 and ends at the smaller x2.",
            wrong=the_box_around_both_as_intersection,
        ),
        Mistake(
            "returns the shared area itself",
            "One step is missing: divide it by the union.",
            wrong=lambda a, b: shared_and_areas(a, b)[0],
        ),
        Mistake(
            "is nan for two boxes without area",
            "Their union is 0, and 0 / 0 is nan, which every comparison calls False.",
            wrong=is_nan_without_area,
        ),
        Mistake(
            "is nan for two boxes without area, and only suits [N, 4]",
            "0 / 0 is nan: ask for a shared area over 0 first. And [..., N, 4] allows dimensions "
            "in front: a[..., :, None, :2] in place of a[:, None, :2].",
            wrong=the_usual_lines,
        ),
        Mistake(
            "takes a union of less than one pixel for one pixel",
            "clamp(min=1) keeps 0 out, and makes the IoU of small boxes smaller: ask where the "
            "shared area is over 0.",
            wrong=holds_the_union_at_a_pixel,
        ),
        Mistake(
            "gives a row to each box of b",
            "[N, M]: N boxes of a go down, M boxes of b to the right.",
            wrong=lambda a, b: box_iou(b, a),
        ),
        Mistake(
            "compares box i of a with box i of b only",
            "Every pair is asked for: a as [N, 1] against b as [1, M] gives [N, M].",
            wrong=pair_by_pair,
        ),
        Mistake(
            "takes the last two numbers for width and height",
            "Boxes are xyxy: the last two numbers are a corner.",
            wrong=as_xywh,
        ),
        Mistake(
            "takes columns by [:, i], which only suits [N, 4]",
            "[..., N, 4] allows dimensions in front: a[..., 0], or a.unbind(-1).",
            wrong=only_two_axes,
        ),
    ),
    hint="The shared part goes from the larger x1 to the smaller x2, never below 0; along y as "
    "well. Where the union is 0, 0 / 0 would be nan.",
    draw=draw_iou,
    plug=lambda learners: {"detection.boxes.box_iou": learners},
    difficulty=2,
    minutes=10,
)


# ------------------------------------------------------------------------------------ cell_anchors


@st.composite
def cell_cases(draw) -> Case:
    sizes = draw(st.lists(st.sampled_from([4.0, 8.0, 16.0, 3.0]), min_size=1, max_size=3))
    ratios = draw(st.lists(st.sampled_from([1.0, 4.0, 0.25, 2.0, 0.5]), min_size=1, max_size=3))
    return {"sizes": tuple(sizes), "ratios": tuple(ratios)}


def cell_case(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Case:
    return {"sizes": sizes, "ratios": ratios}


def pairs_sizes_with_ratios(sizes, ratios):
    pairs = zip(sizes, ratios, strict=False)
    return torch.cat([cell_anchors((size,), (ratio,)) for size, ratio in pairs])


def whole_sides(sizes, ratios):
    widths = [round(size / math.sqrt(ratio)) for size in sizes for ratio in ratios]
    heights = [round(w * r) for w, r in zip(widths, ratios * len(sizes), strict=True)]
    return torch.tensor([[-w, -h, w, h] for w, h in zip(widths, heights, strict=True)]) / 2


def old_pixels(sizes, ratios):
    return cell_anchors(sizes, ratios) + torch.tensor([0.5, 0.5, -0.5, -0.5])


CELL_ANCHORS = Exercise(
    solution=cell_anchors,
    cases=cell_cases(),
    edges={
        "ratio 1 is a square of that size around (0, 0)": [cell_case((4.0,), (1.0,))],
        "ratio is height over width": [cell_case((4.0,), (4.0,)), cell_case((4.0,), (0.25,))],
        "the area is the same for every ratio": [cell_case((8.0,), (1.0, 2.0, 0.5))],
        "sides are not rounded": [cell_case((3.0,), (1.0,)), cell_case((8.0,), (2.0,))],
        "every size with every ratio": [cell_case((4.0, 8.0), (1.0, 4.0, 0.25))],
        "size is the outer loop": [cell_case((4.0, 8.0), (1.0, 4.0))],
    },
    mistakes=(
        Mistake(
            "makes an anchor of ratio 2 wide instead of high",
            "ratio is height / width: the height is the larger side where it is over 1.",
            edits={"size / ratio**0.5": "size * ratio**0.5", "width * ratio": "width / ratio"},
        ),
        Mistake(
            "puts all sizes of one ratio side by side",
            "Size is the outer loop: all ratios of the first size come first. With another order "
            "every trained channel would mean another anchor.",
            edits={
                "for size in sizes": "for ratio in ratios",
                "for ratio in ratios:\n            ": "for size in sizes:\n            ",
            },
        ),
        Mistake(
            "takes size for the width",
            "Then a ratio over 1 makes an anchor larger. size is the root of the area: width is "
            "size / sqrt(ratio).",
            edits={"size / ratio**0.5": "size"},
        ),
        Mistake(
            "takes size for the height",
            "size is the root of the area, not a side: width is size / sqrt(ratio).",
            edits={"size / ratio**0.5": "size / ratio"},
        ),
        Mistake(
            "takes size for the area",
            "The area is size², as 32 is a common size and 32 square pixels are hardly an object.",
            edits={"size / ratio**0.5": "(size / ratio) ** 0.5"},
        ),
        Mistake(
            "leaves out the root of the ratio",
            "width · height has to be size², and height / width the ratio: each side takes a root.",
            edits={"size / ratio**0.5": "size / ratio", "width * ratio": "size * ratio"},
        ),
        Mistake(
            "puts a corner at (0, 0), not the centre",
            "Half of the width lies on each side: x1 is -width / 2, and x2 is width / 2. (Centre "
            "and size, 0, 0, w, h, would be another notation.)",
            edits={"[-width / 2, -height / 2, width / 2, height / 2]": "[0.0, 0.0, width, height]"},
        ),
        Mistake(
            "reaches a whole width and height to each side",
            "That is a box twice as wide and high: half a width to the left, half to the right.",
            edits={
                "[-width / 2, -height / 2, width / 2, height / 2]": (
                    "[-width, -height, width, height]"
                )
            },
        ),
        Mistake(
            "rounds to whole pixels",
            "Anchors are floats; rounded ones have other areas and ratios.",
            edits={"torch.tensor(boxes)": "torch.tensor(boxes).round()"},
        ),
        Mistake(
            "rounds width and height to whole pixels",
            "The first code of Faster R-CNN did so; but half a pixel is a lot to a small anchor.",
            wrong=whole_sides,
        ),
        Mistake(
            "keeps sizes and ratios as separate dimensions",
            "One list of boxes is asked for: [sizes, ratios, 4] flattened to [sizes * ratios, 4].",
            wrong=lambda sizes, ratios: cell_anchors(sizes, ratios).view(len(sizes), -1, 4),
        ),
        Mistake(
            "takes a pixel off the width and height, as inclusive corners ask for",
            "x2 is exclusive: the width is x2 - x1, so x2 is width / 2.",
            wrong=old_pixels,
        ),
        Mistake(
            "takes the first ratio for the first size, the second for the second",
            "Every size goes with every ratio: two loops, one in the other.",
            wrong=pairs_sizes_with_ratios,
        ),
        Mistake(
            "orders the numbers x1, x2, y1, y2",
            "A box is x1, y1, x2, y2.",
            edits={
                "[-width / 2, -height / 2, width / 2, height / 2]": (
                    "[-width / 2, width / 2, -height / 2, height / 2]"
                )
            },
        ),
    ),
    hint="Two unknowns, two equations: width · height = size², height / width = ratio.",
    draw=draw_anchors,
    difficulty=2,
    minutes=8,
)


# ------------------------------------------------------------------------------------ grid_anchors

ONE = [[-2.0, -1, 2, 1]]
TWO = [[-2.0, -1, 2, 1], [-1, -3, 1, 3]]


@st.composite
def grid_cases(draw) -> Case:
    cells = draw(some.boxes(min_count=1, max_count=3, edge=6, empty=False)) - 3
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return {"cells": cells, "grid": grid, "stride": draw(st.sampled_from([4, 8, 16, 1]))}


def grid_case(cells: list, grid: tuple[int, int], stride: int = 8) -> Case:
    return {"cells": torch.tensor(cells), "grid": grid, "stride": stride}


def laid_out(cells: Tensor, grid: tuple[int, int], stride: float) -> Tensor:
    """[height, width, A, 4]"""
    return grid_anchors(cells, grid, stride).reshape(*grid, len(cells), 4)


def anchor_by_anchor(cells, grid, stride):
    return laid_out(cells, grid, stride).permute(2, 0, 1, 3).reshape(-1, 4)


def grid_in_pixels(cells, grid, stride):
    height, width = (math.ceil(n / stride) for n in grid)
    return grid_anchors(cells, (height, width), stride)


def spread_to_the_border(cells, grid, stride):
    height, width = grid
    y = torch.linspace(0, height * stride, height)
    x = torch.linspace(0, width * stride, width)
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + cells).reshape(-1, 4)


GRID_ANCHORS = Exercise(
    solution=grid_anchors,
    cases=grid_cases(),
    edges={
        "on a single cell the anchors stay as they are": [grid_case(TWO, (1, 1))],
        "the next cell is one stride further to the right": [grid_case(ONE, (1, 2))],
        "the next row is one stride further down": [grid_case(ONE, (2, 1))],
        "grid is (height, width), x runs faster than y": [
            grid_case(ONE, (2, 2)),
            grid_case(ONE, (3, 2), 4),
        ],
        "all anchors of a cell before the next cell": [grid_case(TWO, (1, 2))],
        "rows, cells, anchors": [grid_case(TWO, (2, 3))],
        "whatever the stride, and also where cells are not centred": [
            grid_case([[0.0, 0, 1, 3]], (2, 2), 1),
            grid_case([[1.0, 0, 2.5, 3]], (1, 3), 16),
        ],
    },
    mistakes=(
        Mistake(
            "takes grid for (width, height)",
            "Shapes of maps are (height, width), rows first.",
            edits={"height, width = grid": "width, height = grid"},
        ),
        Mistake(
            "goes through the cells column by column",
            "x is the faster one: the cells of a row lie side by side, as in memory.",
            edits={
                "y, x = torch.meshgrid(y, x": "x, y = torch.meshgrid(x, y",
            },
        ),
        Mistake(
            "lists anchor by anchor: the first of all cells, then the second",
            "All anchors of a cell come before the next cell: shifts as [H*W, 1, 4] + [A, 4].",
            wrong=anchor_by_anchor,
        ),
        Mistake(
            "puts the centres into the middle of the cells",
            "Half a stride too far: the docstring asks for offset 0, multiples of the stride.",
            edits={"(shifts + cells)": "(shifts + stride / 2 + cells)"},
        ),
        Mistake(
            "counts in cells, without the stride",
            "One cell further is stride pixels further.",
            edits={
                "torch.arange(height, dtype=cells.dtype, device=cells.device) * stride": (
                    "torch.arange(height, dtype=cells.dtype, device=cells.device)"
                ),
                "torch.arange(width, dtype=cells.dtype, device=cells.device) * stride": (
                    "torch.arange(width, dtype=cells.dtype, device=cells.device)"
                ),
            },
        ),
        Mistake(
            "multiplies the anchors by the stride as well",
            "cells are in pixels already; only the places on the grid are multiplied.",
            edits={
                "(shifts + cells)": "(shifts + cells * stride)",
            },
        ),
        Mistake(
            "moves the first corner only",
            "Both corners move: the shift is (x, y, x, y), or the anchors grow.",
            edits={"[x, y, x, y]": "[x, y, 0 * x, 0 * y]"},
        ),
        Mistake(
            "shifts x1 and y1 by x, x2 and y2 by y",
            "The numbers of a box are x1, y1, x2, y2, so the shift is (x, y, x, y).",
            edits={"[x, y, x, y]": "[x, x, y, y]"},
        ),
        Mistake(
            "moves along y what belongs along x",
            "The shift is (x, y, x, y), with x from the columns and y from the rows.",
            edits={"[x, y, x, y]": "[y, x, y, x]"},
        ),
        Mistake(
            "takes grid for a size in pixels",
            "grid counts cells: arange(height) * stride, not arange(0, height, stride).",
            wrong=grid_in_pixels,
        ),
        Mistake(
            "begins at the second cell",
            "The first centre is at (0, 0): 0, stride, 2 · stride …",
            edits={
                "torch.arange(height, dtype": "torch.arange(1, height + 1, dtype",
                "torch.arange(width, dtype": "torch.arange(1, width + 1, dtype",
            },
        ),
        Mistake(
            "spreads the centres from border to border",
            "linspace puts the last centre onto the far border; the step is the stride itself.",
            wrong=spread_to_the_border,
        ),
        Mistake(
            "cuts the anchors off at the border of the picture",
            "Anchors may reach beyond it; only boxes that were decoded are clipped.",
            edits={
                "(shifts + cells).reshape(-1, 4)": "(shifts + cells).reshape(-1, 4).clamp(min=0)"
            },
        ),
        Mistake(
            "keeps cells and anchors as separate dimensions",
            "One list is asked for: [H*W, A, 4] flattened to [H*W*A, 4].",
            edits={"(shifts + cells).reshape(-1, 4)": "(shifts + cells)"},
        ),
    ),
    hint="Shifts [H*W, 1, 4], cells [A, 4]: their sum broadcasts to [H*W, A, 4].",
    draw=draw_anchors,
    difficulty=2,
    minutes=10,
)


# ------------------------------------------------------------------------------------ decode_boxes

WEIGHTS = ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (1.0, 2.0, 4.0, 8.0))


@st.composite
def decode_cases(draw) -> Case:
    anchors = draw(some.boxes(max_count=3, empty=False))
    deltas = draw(some.tensors(len(anchors), 4, low=-4, high=8, step=0.5))
    if draw(st.sampled_from((False, False, True))):
        deltas, anchors = (
            torch.stack([deltas, -deltas], 1),
            anchors[:, None],
        )  # (N, 2, 4), (N, 1, 4)
    return {"deltas": deltas, "anchors": anchors, "weights": draw(st.sampled_from(WEIGHTS))}


def decode_case(delta: list, anchor: list, weights=WEIGHTS[0]) -> Case:
    deltas = torch.tensor([delta], dtype=torch.float32)
    anchors = torch.tensor([anchor], dtype=torch.float32)
    return {"deltas": deltas, "anchors": anchors, "weights": weights}


def with_sizes(resize):
    """A wrong ``decode_boxes`` with ``resize(weighted dw and dh)`` in place of clamp and exp."""

    def decode(deltas, anchors, weights):
        deltas = deltas / deltas.new_tensor(weights)
        centre, size = centre_form(anchors)
        centre = centre + deltas[..., :2] * size
        half = 0.5 * size * resize(deltas[..., 2:])
        return torch.cat([centre - half, centre + half], -1)

    return decode


def adds_the_sizes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    deltas = deltas / deltas.new_tensor(weights)
    centre, size = centre_form(anchors)
    centre = centre + deltas[..., :2] * size
    half = 0.5 * (size + deltas[..., 2:].clamp(max=SCALE_CLAMP))
    return torch.cat([centre - half, centre + half], -1)


def clamps_before_the_weights(deltas, anchors, weights):
    deltas = torch.cat([deltas[..., :2], deltas[..., 2:].clamp(max=SCALE_CLAMP)], -1)
    return decode_boxes(deltas, anchors, weights)


def clamps_the_offsets_too(deltas, anchors, weights):
    deltas = (deltas / deltas.new_tensor(weights)).clamp(max=SCALE_CLAMP)
    return decode_boxes(deltas, anchors, WEIGHTS[0])


def clamps_everything_both_ways(deltas, anchors, weights):
    deltas = (deltas / deltas.new_tensor(weights)).clamp(-SCALE_CLAMP, SCALE_CLAMP)
    return decode_boxes(deltas, anchors, WEIGHTS[0])


def grows_from_the_corner(deltas, anchors, weights):
    boxes, (_, before) = decode_boxes(deltas, anchors, weights), centre_form(anchors)
    _, size = centre_form(boxes)
    return boxes + ((size - before) / 2).repeat_interleave(2, -1)[..., [0, 2, 0, 2]]


def old_decoding(deltas, anchors, weights):
    """With + 1 in the anchor's size, and without - 1 in the box, as so much code has it."""
    return decode_boxes(deltas, anchors + anchors.new_tensor([0, 0, 1, 1]), weights)


def orders_by_axis(deltas, anchors, weights):
    deltas = deltas / deltas.new_tensor(weights)
    return decode_boxes(deltas[..., [0, 2, 1, 3]], anchors, WEIGHTS[0])


def only_pairs(deltas, anchors, weights):
    if deltas.dim() != 2:
        raise IndexError("index 2 is out of bounds for dimension 1")
    return decode_boxes(deltas, anchors, weights)


DECODE = Exercise(
    solution=decode_boxes,
    cases=decode_cases(),
    edges={
        "without deltas the box is its anchor": [decode_case([0, 0, 0, 0], [1, 2, 5, 4])],
        "offsets in units of the anchor's width and height": [
            decode_case([0.5, 0, 0, 0], [0, 0, 4, 8]),
            decode_case([0, -0.25, 0, 0], [0, 0, 4, 8]),
        ],
        "another size, around the same centre": [
            decode_case([0, 0, math.log(2), math.log(0.5)], [2, 2, 6, 6])
        ],
        "offset and size at once": [decode_case([1, 0.5, math.log(2), math.log(3)], [0, 0, 4, 2])],
        "each delta is divided by its weight": [
            decode_case([5, 2, 0, 0], [0, 0, 4, 2], WEIGHTS[1]),
            decode_case([0.5, 0.5, 1, 4], [0, 0, 4, 2], WEIGHTS[2]),
        ],
        "a size grows to 62.5 times at most": [
            decode_case([0, 0, 100, 0], [0, 0, 2, 2]),
            decode_case([0, 0, 5, 6], [0, 0, 2, 2]),
        ],
        "the limit holds for what is left after the weights": [
            decode_case([0, 0, 15, 20], [0, 0, 2, 2], WEIGHTS[1])
        ],
        "it may shrink as far as it will": [decode_case([0, 0, -6, -8], [0, 0, 8, 8])],
        "offsets have no limit": [decode_case([8, -6, 0, 0], [0, 0, 2, 2])],
        "several boxes from each anchor": [
            {
                "deltas": torch.tensor([[[0.5, 0, 0, 0], [0, 0.5, 0, 0]]] * 2),
                "anchors": torch.tensor([[[0.0, 0, 4, 2]], [[2, 2, 4, 6]]]),
                "weights": WEIGHTS[0],
            }
        ],
        "no boxes at all": [
            {"deltas": torch.zeros(0, 4), "anchors": torch.zeros(0, 4), "weights": WEIGHTS[0]}
        ],
    },
    mistakes=(
        Mistake(
            "takes the offset for pixels",
            "dx is in units of the anchor's width, dy of its height: multiply.",
            edits={"deltas[..., :2] * anchor_size": "deltas[..., :2]"},
        ),
        Mistake(
            "measures both offsets by the anchor's width",
            "dy counts in heights of the anchor.",
            edits={"deltas[..., :2] * anchor_size": "deltas[..., :2] * anchor_size[..., :1]"},
        ),
        Mistake(
            "moves the corner instead of the centre",
            "dx leads from centre to centre: begin at the anchor's centre, not at x1.",
            edits={"anchor_centre + deltas": "anchors[..., :2] + deltas"},
        ),
        Mistake(
            "takes the centre for the first corner",
            "Half of the size lies on each side of the centre.",
            edits={
                "[centre - half, centre + half]": "[centre, centre + 2 * half]",
            },
        ),
        Mistake(
            "returns centre and size",
            "xyxy is asked for: centre less half the size, centre plus half the size.",
            edits={"[centre - half, centre + half]": "[centre, 2 * half]"},
        ),
        Mistake(
            "reaches a whole width and height to each side of the centre",
            "From the centre it is half the width to each side.",
            edits={"half = 0.5 * ": "half = "},
        ),
        Mistake(
            "forgets the weights",
            "encode_boxes has multiplied by them: divide first.",
            edits={"deltas = deltas / deltas.new_tensor(weights)": "deltas = deltas / 1"},
        ),
        Mistake(
            "multiplies by the weights",
            "Encoding multiplies by them, so decoding divides.",
            edits={"deltas / deltas.new_tensor": "deltas * deltas.new_tensor"},
        ),
        Mistake(
            "does not limit the size",
            "exp(100) is infinite: clamp dw and dh at SCALE_CLAMP before exp.",
            edits={".clamp(max=SCALE_CLAMP)": ""},
        ),
        Mistake(
            "limits dw and dh before they are divided by the weights",
            "With a weight of 5, a dw of 15 is a 3 in truth, and allowed: divide first.",
            wrong=clamps_before_the_weights,
        ),
        Mistake(
            "limits the offsets too",
            "Only dw and dh go into exp; an offset may be as large as it likes.",
            wrong=clamps_the_offsets_too,
        ),
        Mistake(
            "limits how far a box may shrink",
            "Only growing is limited: clamp(max=…), without min.",
            edits={"clamp(max=SCALE_CLAMP)": "clamp(-SCALE_CLAMP, SCALE_CLAMP)"},
        ),
        Mistake(
            "limits all four deltas, upwards and downwards",
            "Only dw and dh go into exp, and only their growth is limited: clamp(max=…) on those.",
            wrong=clamps_everything_both_ways,
        ),
        Mistake(
            "grows from the first corner instead of the centre",
            "dx leads from the anchor's centre to the box's, and a box grows around its centre.",
            wrong=grows_from_the_corner,
        ),
        Mistake(
            "takes dw for the ratio itself",
            "It is the logarithm of the ratio: exp(dw) times the anchor's width, and exp(0) is 1.",
            wrong=with_sizes(lambda d: d.clamp(max=SCALE_CLAMP)),
        ),
        Mistake(
            "grows by dw instead of exp(dw)",
            "1 + dw is exp(dw) for small dw only.",
            wrong=with_sizes(lambda d: 1 + d.clamp(max=SCALE_CLAMP)),
        ),
        Mistake(
            "takes powers of 2",
            "encode_boxes took the natural logarithm: its inverse is exp.",
            wrong=with_sizes(lambda d: d.clamp(max=SCALE_CLAMP).exp2()),
        ),
        Mistake(
            "adds dw in pixels",
            "dw is the logarithm of a ratio of sizes, without a unit: multiply by exp(dw).",
            wrong=adds_the_sizes,
        ),
        Mistake(
            "counts a pixel more in the anchor's width and height",
            "x2 is exclusive: the width is x2 - x1, without a + 1.",
            wrong=old_decoding,
        ),
        Mistake(
            "takes the deltas for dx, dw, dy, dh",
            "First the two offsets, then the two sizes.",
            wrong=orders_by_axis,
        ),
        Mistake(
            "only suits [N, 4]",
            "deltas may be [N, K, 4]: index the last dimension, deltas[..., 0], and let the "
            "anchors broadcast.",
            wrong=only_pairs,
        ),
    ),
    hint="Divide by the weights; move the centre by deltas times size; size times exp; corners.",
    draw=draw_decoded,
    difficulty=2,
    minutes=10,
)


# ------------------------------------------------------------------------------------- kmeans_step


@st.composite
def step_cases(draw) -> Case:
    shapes = draw(some.tensors(st.integers(1, 5), 2, low=1, high=8))
    return {"shapes": shapes, "chosen": draw(some.tensors(st.integers(1, 3), 2, low=1, high=8))}


def step_case(shapes: list, chosen: list) -> Case:
    return {"shapes": torch.tensor(shapes), "chosen": torch.tensor(chosen)}


def step_by(closeness, centre=lambda members: members.mean(0)):
    """A wrong ``kmeans_step``: another measure [N, 2], [K, 2] -> [N, K], or another middle."""

    def step(shapes, chosen):
        joined = closeness(shapes, chosen).argmax(1)
        moved = chosen.clone()
        for k in range(len(chosen)):
            if (joined == k).any():
                moved[k] = centre(shapes[joined == k])
        return moved

    return step


def shape_iou(shapes: Tensor, chosen: Tensor) -> Tensor:
    shared = torch.minimum(shapes[:, None], chosen).prod(-1)
    return shared / (shapes.prod(-1)[:, None] + chosen.prod(-1) - shared)


def chosen_join_shapes(shapes, chosen):
    return shapes[shape_iou(shapes, chosen).argmax(0)]


def leaves_lonely_ones_out(shapes, chosen):
    joined = shape_iou(shapes, chosen).argmax(1)
    kept = [k for k in range(len(chosen)) if (joined == k).any()]
    return torch.stack([shapes[joined == k].mean(0) for k in kept])


def mean_of_nothing(shapes, chosen):
    joined = shape_iou(shapes, chosen).argmax(1)
    return torch.stack([shapes[joined == k].mean(0) for k in range(len(chosen))])


KMEANS_STEP = Exercise(
    solution=kmeans_step,
    cases=step_cases(),
    edges={
        "a single chosen shape becomes the mean of all": [
            step_case([[2.0, 2], [4, 6], [6, 4]], [[1.0, 1]])
        ],
        "each shape joins the one with the highest IoU": [
            step_case([[2.0, 2], [8, 8], [6, 8]], [[3.0, 2], [8, 6]])
        ],
        "IoU, not the distance of the sides": [step_case([[4.0, 4]], [[1.0, 1], [8, 8]])],
        "IoU, not the area alone": [step_case([[8.0, 2]], [[4.0, 4], [8, 3]])],
        "of equals the first": [step_case([[2.0, 2]], [[1.0, 2], [2, 1]])],
        "what none has joined stays": [step_case([[2.0, 2], [2, 4]], [[2.0, 3], [8, 8]])],
        "one shape of several": [step_case([[1.0, 1], [2, 2], [8, 8]], [[2.0, 2], [8, 7], [1, 1]])],
    },
    mistakes=(
        Mistake(
            "measures the distance of the sides in pixels",
            "Large shapes would lie far apart by nature: compare by IoU, as the matching does.",
            wrong=step_by(lambda shapes, chosen: -torch.cdist(shapes, chosen)),
        ),
        Mistake(
            "compares areas only",
            "A wide and a high shape of one area are not alike: IoU needs both sides.",
            wrong=step_by(lambda shapes, chosen: -(shapes.prod(1)[:, None] - chosen.prod(1)).abs()),
        ),
        Mistake(
            "joins by the shared area, not by IoU",
            "The largest chosen shape shares most with every shape: divide by the union.",
            wrong=step_by(lambda shapes, chosen: torch.minimum(shapes[:, None], chosen).prod(-1)),
        ),
        Mistake(
            "sends each shape to the chosen one that fits worst",
            "The highest IoU: argmax. (The distance would be 1 - IoU, and its argmin.)",
            edits={".argmax(1)": ".argmin(1)"},
        ),
        Mistake(
            "looks for the best shape of each chosen one, instead of the reverse",
            "Every shape has to join one chosen shape: the maximum runs over the K columns.",
            wrong=chosen_join_shapes,
        ),
        Mistake(
            "takes the last of equals",
            "argmax names the first maximum; a loop with >= ends with the last.",
            edits={
                "(shared / union).argmax(1)": "len(chosen) - 1 - (shared / union).flip(1).argmax(1)"
            },
        ),
        Mistake(
            "is nan where no shape has joined",
            "The mean of nothing is nan: such a chosen shape stays as it is.",
            wrong=mean_of_nothing,
        ),
        Mistake(
            "drops what no shape has joined",
            "As many shapes come out as went in: one without members stays as it is.",
            wrong=leaves_lonely_ones_out,
        ),
        Mistake(
            "sets what no shape has joined to 0",
            "Begin with a copy of chosen, and replace those that have members.",
            edits={"chosen.clone()": "torch.zeros_like(chosen)"},
        ),
        Mistake(
            "takes the median of the members",
            "The mean of the widths and of the heights is asked for.",
            wrong=step_by(shape_iou, lambda members: members.median(0).values),
        ),
        Mistake(
            "adds the members up",
            "Their mean: the sum over their number.",
            edits={".mean(0)": ".sum(0)"},
        ),
        Mistake(
            "takes one mean of widths and heights together",
            "mean(0) runs over the members, and leaves width and height apart.",
            edits={".mean(0)": ".mean()"},
        ),
    ),
    hint="IoU [N, K] from minima of widths and heights; argmax over K; means of the members.",
    draw=draw_shapes,
    difficulty=3,
    minutes=12,
)

EXERCISES = (BOX_IOU, CELL_ANCHORS, GRID_ANCHORS, DECODE, KMEANS_STEP)
