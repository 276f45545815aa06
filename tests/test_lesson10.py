"""FBNetV3IS out of the functions of the lessons is the package's, and really made of them."""

import ast
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import jupytext
import pytest
import torch
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.course.build import ROOT
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform

PARTS = (
    "cell_anchors", "grid_anchors", "flatten_predictions", "decode_boxes", "nms", "roi_align",
    "batched_nms", "widened_kernel", "class_masks", "paste_masks",
)  # fmt: skip


# The lesson's own functions, taken from its cells.
ASSEMBLY = ("run", "moved", "proposals_of", "fbnetv3is")


def lesson_statements() -> list[ast.stmt]:
    cells = jupytext.read(ROOT / "solutions" / "10_mask_head.py", fmt="py:percent").cells
    return [s for c in cells if c.cell_type == "code" for s in ast.parse(c.source).body]


def assembly() -> list[ast.FunctionDef]:
    functions = [s for s in lesson_statements() if isinstance(s, ast.FunctionDef)]
    return [f for f in functions if f.name in ASSEMBLY]


@cache
def lesson() -> dict:
    imports = [s for s in lesson_statements() if isinstance(s, ast.Import | ast.ImportFrom)]
    names = {}
    exec(compile(ast.Module([*imports, *assembly()], []), "10_mask_head", "exec"), names)
    return names


@torch.no_grad()
def fbnetv3is(net, image: Tensor) -> dict[str, Tensor]:
    return lesson()["fbnetv3is"](net, image)


def test_the_whole_network_is_written_in_under_40_lines():
    assert [f.name for f in assembly()] == list(ASSEMBLY)
    assert sum(f.end_lineno - f.lineno + 1 for f in assembly()) < 40


@pytest.fixture(scope="module")
def model():
    return fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()


@pytest.fixture(scope="module")
def images():
    return [
        image.as_subclass(Tensor) for image, _ in ShapesDataset(50, 0, transform=eval_transform())
    ]


@contextmanager
def passed(name, function):
    """As if the learner's ``function`` had passed its check in this kernel."""
    from importlib import import_module

    with patch.dict(import_module("fbnet_lesson.course.mine")._passed, {name: function}):
        yield


def same(a, b) -> bool:
    return (
        torch.equal(a["labels"], b["labels"])
        and torch.allclose(a["boxes"], b["boxes"], atol=1e-3)
        and torch.allclose(a["scores"], b["scores"], atol=1e-5)
        and torch.equal(a["masks"], b["masks"])
    )


def test_it_finds_what_the_package_finds_on_50_scenes(model, images):
    found = 0
    for image in images:
        with torch.no_grad():
            (expected,) = model([image])
        got = fbnetv3is(model, image)
        found += len(got["labels"])
        assert same(expected, got)
    assert found > 100


@pytest.mark.parametrize("name", PARTS)
def test_with_one_part_broken_it_finds_something_else(model, images, name):
    right = fbnetv3is(model, images[48])
    exercise = EXERCISES[name]
    differs = []
    for mistake in exercise.mistakes[:8]:
        with passed(name, mistake.function(exercise.solution)):
            try:
                differs.append(not same(right, fbnetv3is(model, images[48])))
            except Exception:
                differs.append(True)
    assert any(differs)
