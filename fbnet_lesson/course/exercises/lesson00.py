"""Lesson 00: one exercise, the area of a box, to show how an exercise goes."""

import torch
from hypothesis import strategies as st
from matplotlib.patches import Rectangle
from torch import Tensor

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Case, Exercise, Mistake
from fbnet_lesson.detection.boxes import box_area


@st.composite
def boxes_of_any_shape(draw) -> Tensor:
    """[4], [N, 4] or [2, N, 4]; one of the boxes may be turned inside out along one axis.

    Never along both: the product is positive then, and the docstring asks nothing of such a box.
    """
    boxes = draw(some.boxes(max_count=3))
    if len(boxes) and draw(st.booleans()):
        first, second = draw(st.sampled_from(((0, 2), (1, 3))))
        boxes[0, [first, second]] = boxes[0, [second, first]]
    shape = draw(st.sampled_from(("list", "single", "batch")))
    if shape == "single" and len(boxes):
        return boxes[0]
    return torch.stack([boxes, boxes + 1]) if shape == "batch" else boxes


def case(*boxes) -> Case:
    return {"boxes": torch.tensor(boxes, dtype=torch.float32)}


def draw_areas(case: Case, expected: Tensor, got: Tensor) -> None:
    """Every box on its pixels, with the expected area and the one that was got."""
    boxes = case["boxes"].reshape(-1, 4)[:4]
    edge = int(boxes.max()) + 1
    areas = zip(boxes.tolist(), expected.flatten().tolist(), got.flatten().tolist(), strict=False)
    for ax, (box, right, wrong) in zip(drawing.panels(len(boxes)), areas, strict=True):
        x1, y1, x2, y2 = box
        ax.set(xlim=(0, edge), ylim=(edge, 0), aspect="equal")  # y downwards
        ax.set_xticks(range(edge + 1))
        ax.set_yticks(range(edge + 1))
        ax.grid(color="0.8")
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor="0.6", edgecolor="black"))
        ax.plot(x1, y1, "ko", label="x1, y1")
        ax.plot(x2, y2, "k^", label="x2, y2")
        ax.set_title(f"expected {right:g}, got {wrong:g}", fontsize=9)
        ax.legend(fontsize=7)


def areas_of_rows(boxes):
    x1, y1, x2, y2 = boxes
    return (x2 - x1) * (y2 - y1)


def area_of_the_first(boxes):
    x1, y1, x2, y2 = boxes.reshape(-1, 4)[0]
    return (x2 - x1) * (y2 - y1)


def areas_by_transposing(boxes):
    x1, y1, x2, y2 = boxes.permute(*reversed(range(boxes.dim())))
    return (x2 - x1) * (y2 - y1)


EXERCISES = (
    Exercise(
        solution=box_area,
        cases=st.fixed_dictionaries({"boxes": boxes_of_any_shape()}),
        edges={
            "a box from (1, 2) to (4, 4) is 3 wide and 2 high": [case([1, 2, 4, 4])],
            "a box of one pixel has area 1": [case([2, 5, 3, 6])],
            "a box without width or height has area 0": [case([1, 1, 1, 4], [1, 2, 5, 2])],
            "a box turned inside out has a negative area": [case([3, 0, 1, 4]), case([0, 5, 4, 2])],
            "no boxes have no areas": [{"boxes": torch.zeros(0, 4)}],
            "one box [4] has one area []": [case(0, 1, 2, 4)],
            "leading dimensions stay: [2, 2, 4] -> [2, 2]": [
                case([[0, 0, 1, 2], [1, 0, 4, 1]], [[2, 1, 3, 6], [0, 3, 2, 5]])
            ],
        },
        mistakes=(
            Mistake(
                "counts the last pixel twice: it adds 1 to width and height",
                "x2 and y2 are exclusive: a box from x = 0 to x = 2 covers two pixels, 0 and 1.",
                edits={
                    "boxes[..., 0])": "boxes[..., 0] + 1)",
                    "boxes[..., 1])": "boxes[..., 1] + 1)",
                },
            ),
            Mistake(
                "takes the last two numbers for width and height",
                "Boxes are xyxy: the last two numbers are a corner, and say nothing without the "
                "first.",
                edits={" - boxes[..., 0]": "", " - boxes[..., 1]": ""},
            ),
            Mistake(
                "takes the order of the numbers for x1, x2, y1, y2",
                "The order is x1, y1, x2, y2: which two of the four columns are both x?",
                edits={
                    "(boxes[..., 2] - boxes[..., 0])": "(boxes[..., 1] - boxes[..., 0])",
                    "(boxes[..., 3] - boxes[..., 1])": "(boxes[..., 3] - boxes[..., 2])",
                },
            ),
            Mistake(
                "multiplies the width by itself",
                "The second factor is the height, y2 - y1: columns 3 and 1.",
                edits={"(boxes[..., 3] - boxes[..., 1])": "(boxes[..., 2] - boxes[..., 0])"},
            ),
            Mistake(
                "multiplies the height by itself",
                "The first factor is the width, x2 - x1: columns 2 and 0.",
                edits={"(boxes[..., 2] - boxes[..., 0])": "(boxes[..., 3] - boxes[..., 1])"},
            ),
            Mistake(
                "subtracts the wrong way round along one axis",
                "x2 - x1 and y2 - y1: the second corner less the first, both times.",
                edits={"(boxes[..., 3] - boxes[..., 1])": "(boxes[..., 1] - boxes[..., 3])"},
            ),
            Mistake(
                "takes four rows apart where it should take four columns",
                "Unpacking goes along the first dimension, and the coordinates are the last one: "
                "boxes.unbind(-1) gives the four columns.",
                wrong=areas_of_rows,
            ),
            Mistake(
                "adds all the areas up",
                "Every box has an area of its own: [..., 4] -> [...].",
                edits={"return (": "return ((", "- boxes[..., 1])": "- boxes[..., 1])).sum()"},
            ),
            Mistake(
                "returns the area of the first box only",
                "With [..., 2] instead of [0] the index is taken in every box at once.",
                wrong=area_of_the_first,
            ),
            Mistake(
                "adds width and height",
                "That is half of the way round the box; the area is a product.",
                edits={") * (": ") + ("},
            ),
            Mistake(
                "makes every area positive",
                "A box turned inside out keeps its sign: with abs() it would look like a good one.",
                edits={"return (": "return ((", "- boxes[..., 1])": "- boxes[..., 1])).abs()"},
            ),
            Mistake(
                "sets the area of a box turned inside out to zero",
                "The docstring asks for a negative number there, so leave the sign as it is.",
                edits={
                    "return (": "return ((",
                    "- boxes[..., 1])": "- boxes[..., 1])).clamp(min=0)",
                },
            ),
            Mistake(
                "takes columns by [:, i], which only suits [N, 4]",
                "The docstring's [..., 4] allows any leading dimensions, even none: index the last "
                "one.",
                edits={
                    "boxes[..., 2] - boxes[..., 0]": "boxes[:, 2] - boxes[:, 0]",
                    "boxes[..., 3] - boxes[..., 1]": "boxes[:, 3] - boxes[:, 1]",
                },
            ),
            Mistake(
                "turns the leading dimensions round, as boxes.T does",
                ".T reverses all axes; boxes.unbind(-1) takes the last one apart and leaves the "
                "others in their order.",
                wrong=areas_by_transposing,
            ),
            Mistake(
                "keeps the last dimension, with size 1",
                "[..., 4] -> [...]: index with 2, not with 2:3.",
                edits={
                    "boxes[..., 2] - boxes[..., 0]": "boxes[..., 2:3] - boxes[..., 0:1]",
                    "boxes[..., 3] - boxes[..., 1]": "boxes[..., 3:4] - boxes[..., 1:2]",
                },
            ),
        ),
        draw=draw_areas,
        hint="Width is x2 - x1, height is y2 - y1; the columns are x1, y1, x2, y2.",
        difficulty=1,
        minutes=3,
    ),
)
