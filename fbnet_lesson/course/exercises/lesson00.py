"""The exercise of lesson 00: the area of boxes."""

import torch
from hypothesis import strategies as st

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Exercise, Mistake
from fbnet_lesson.detection.boxes import box_area

EXERCISES = (
    Exercise(
        solution=box_area,
        cases=st.fixed_dictionaries({"boxes": some.boxes()}),
        edges={
            "width times height": [{"boxes": torch.tensor([[1.0, 2.0, 4.0, 4.0]])}],
            "a box without width": [{"boxes": torch.tensor([[1.0, 1.0, 1.0, 3.0]])}],
            "no boxes at all": [{"boxes": torch.zeros(0, 4)}],
            "any number of leading dimensions": [{"boxes": torch.tensor([[[0.0, 0.0, 2.0, 1.0]]])}],
            "a box turned inside out": [{"boxes": torch.tensor([[3.0, 0.0, 1.0, 1.0]])}],
        },
        mistakes=(
            Mistake(
                "adds a pixel to the width",
                "x2 is exclusive: a box from 0 to 2 is 2 wide.",
                edits={"(boxes[..., 2] - boxes[..., 0])": "(boxes[..., 2] - boxes[..., 0] + 1)"},
            ),
            Mistake(
                "mixes x and y",
                "A row is x1, y1, x2, y2: width is column 2 minus column 0.",
                edits={
                    "2] - boxes[..., 0]": "1] - boxes[..., 0]",
                    "3] - boxes[..., 1]": "3] - boxes[..., 2]",
                },
            ),
        ),
        hint="Width times height.",
        draw=drawing.draw_box_answers,
    ),
)
