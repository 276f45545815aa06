"""What passed its check counts later, in this kernel and in others, as long as it is right."""

import itertools
import json
import linecache
import sys
import textwrap
import types

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from fbnet_lesson.course import check, mine, progress
from fbnet_lesson.course.exercise import function_source
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.course.mine import NotKept, compiled, kept_source

module = sys.modules["fbnet_lesson.course.mine"]  # the package has the function of that name
numbers = itertools.count()
GREEDY = """
    def suppress_greedily(overlaps):
        keep = torch.ones(len(overlaps), dtype=torch.bool)
        for i in range(len(overlaps)):
            if keep[i]:
                keep[i + 1 :] &= ~overlaps[i, i + 1 :]
        return keep
"""
AREA = """
    def box_area(boxes):
        sizes = boxes[..., 2:] - boxes[..., :2]
        return sizes.prod(-1)
"""
STUB = EXERCISES["box_area"].stub


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """A fresh kernel, and a progress file that is not there yet."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("FBNET_LESSON_PROGRESS", str(path))
    restart(monkeypatch)
    return path


def restart(monkeypatch) -> None:
    for name, empty in {"_passed": {}, "_revived": {}, "_said": set(), "_refused": {}}.items():
        monkeypatch.setattr(module, name, empty)


def cell(source: str, notebook: dict | None = None) -> dict:
    """Run a cell as a kernel does; the names of the notebook."""
    notebook = {"__name__": "__main__"} if notebook is None else notebook
    source = textwrap.dedent(source).lstrip()
    name = f"<cell {next(numbers)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec", dont_inherit=True), notebook)
    return notebook


def kept(source: str, name: str = "f"):
    """The function ``name`` of a cell, kept and compiled anew."""
    return compiled(kept_source(cell(source)[name]), name)


# ----------------------------------------------------------------------------------- in one kernel


def test_what_passed_is_mine_and_before_that_the_course_s_own(capsys):
    own = EXERCISES["box_area"].solution
    notebook = cell(STUB, cell("import torch\nfrom torch import Tensor"))
    assert mine(notebook["box_area"]) is own and mine("box_area") is own
    cell(AREA, notebook)
    check(notebook["box_area"])
    assert capsys.readouterr().out.startswith("✓ box_area")  # and nothing else so far
    assert mine(notebook["box_area"]) is mine("box_area") is notebook["box_area"]
    assert capsys.readouterr().out == ""


def test_with_progress_off_it_is_remembered_in_the_kernel_only(monkeypatch, capsys):
    monkeypatch.setenv("FBNET_LESSON_PROGRESS", "off")
    box_area = cell(AREA)["box_area"]
    check(box_area)
    assert mine("box_area") is box_area
    restart(monkeypatch)
    assert mine("box_area") is EXERCISES["box_area"].solution


def test_a_function_written_anew_counts_only_when_it_has_passed(capsys):
    first = cell(AREA)["box_area"]
    check(first)
    wrong = cell("def box_area(boxes):\n    return boxes.sum(-1)")["box_area"]
    capsys.readouterr()
    assert mine(wrong) is first
    assert capsys.readouterr().out == (
        "mine: this box_area has not passed its check; the one that passed before is used. "
        "Run check(box_area).\n"
    )
    check(wrong)
    assert mine(wrong) is first
    again = cell(AREA.replace("sizes", "sides"))["box_area"]
    check(again)
    capsys.readouterr()
    assert mine(again) is again and capsys.readouterr().out == ""


def test_a_loop_says_once_in_each_cell_that_a_function_has_not_passed(capsys, monkeypatch):
    wrong, written_anew = (
        cell(f"def box_area(boxes):\n    return boxes.sum(-1) + {n}")["box_area"] for n in (0, 1)
    )
    said = []
    for number, function in ((5, wrong), (5, wrong), (5, wrong), (6, wrong), (6, written_anew)):
        monkeypatch.setattr(module, "cell_number", lambda number=number: number)
        mine(function)
        said.append(capsys.readouterr().out.count("has not passed its check"))
    assert said == [1, 0, 0, 1, 1]


def test_a_cell_that_is_run_again_unchanged_is_the_same_function(capsys):
    first, second = cell(AREA)["box_area"], cell(AREA)["box_area"]
    check(first)
    capsys.readouterr()
    assert mine(second) is first and capsys.readouterr().out == ""


def test_a_wrong_answer_before_any_right_one_is_not_used_and_that_is_said(capsys):
    wrong = cell("def box_area(boxes):\n    return boxes.sum(-1)")["box_area"]
    assert mine(wrong) is EXERCISES["box_area"].solution
    assert "the course's own is used" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["box_aria", lambda: None, print, 3])
def test_what_is_no_exercise_is_named(given):
    with pytest.raises(ValueError, match="^there is no exercise '"):
        mine(given)
    with pytest.raises(ValueError, match=r"'box_aria'; did you mean box_area\?"):
        mine("box_aria")


# -------------------------------------------------------------------------------- in a later kernel


def test_a_later_kernel_has_the_function_with_its_helper_constant_and_imports(monkeypatch):
    notebook = cell(
        """
        import torch
        import torch.nn.functional as F
        from math import prod as product
        LOWEST = -1e9

        def sides(boxes):
            return F.threshold(boxes[..., 2:] - boxes[..., :2], LOWEST, LOWEST)

        def box_area(boxes):
            width, height = sides(boxes).unbind(-1)
            return product([width, height])
        """
    )
    check(notebook["box_area"])
    restart(monkeypatch)
    notebook.clear()
    revived = mine("box_area")
    assert revived is not EXERCISES["box_area"].solution and revived is mine("box_area")
    assert revived(torch.tensor([[0.0, 0, 2, 3], [3, 0, 1, 4]])).tolist() == [6, -8]


def test_the_blank_stub_of_a_new_notebook_says_nothing(monkeypatch, capsys):
    check(cell(AREA)["box_area"])
    restart(monkeypatch)
    capsys.readouterr()
    stub = cell(STUB, cell("from torch import Tensor"))["box_area"]
    assert mine(stub)(torch.tensor([0.0, 0, 2, 3])) == 6
    assert capsys.readouterr().out == ""


def test_what_passed_last_is_kept(monkeypatch, file):
    for source in (AREA, AREA.replace("sizes", "sides")):
        check(cell(source)["box_area"])
    assert "sides" in json.loads(file.read_text())["sources"]["box_area"]


def test_what_does_not_pass_any_more_is_left_aside_and_that_is_said_once(file, capsys):
    progress.record("box_area", "def box_area(boxes):\n    return boxes.sum(-1)\n")
    for _ in range(2):
        assert mine("box_area") is EXERCISES["box_area"].solution
    assert capsys.readouterr().out == (
        "mine: your box_area of an earlier day does not pass any more; the course's own is used.\n"
    )


@pytest.mark.parametrize("source", ["import no_such_module", "def box_area(:", "x = 1", "1 / 0"])
def test_a_source_that_does_not_run_is_left_aside(file, source):
    progress.record("box_area", source)
    assert mine("box_area") is EXERCISES["box_area"].solution


@pytest.mark.parametrize("content", ["{", '{"passed": {}, "sources": 3}'])
def test_a_broken_file_costs_nothing_but_the_memory(file, content):
    file.write_text(content)
    assert mine("box_area") is EXERCISES["box_area"].solution


def test_what_cannot_be_kept_counts_in_this_notebook_and_that_is_said_once(capsys, monkeypatch):
    notebook = cell(
        """
        class Sides:
            def __call__(self, boxes):
                return boxes[..., 2:] - boxes[..., :2]
        sides = Sides()
        def box_area(boxes):
            return sides(boxes).prod(-1)
        """
    )
    for _ in range(2):
        check(notebook["box_area"])
    said = capsys.readouterr().out
    assert said.count("this box_area counts in this notebook, and is not kept for others:") == 1
    assert "it uses sides, a Sides of this notebook." in said
    assert mine("box_area") is notebook["box_area"] and list(progress.passed()) == ["box_area"]
    restart(monkeypatch)
    assert mine("box_area") is EXERCISES["box_area"].solution


def test_a_real_kernel_gives_its_function_to_the_next_one(tmp_path):
    def run(*sources: str) -> list[str]:
        cells = [nbformat.v4.new_code_cell(textwrap.dedent(source).strip()) for source in sources]
        notebook = nbformat.v4.new_notebook(cells=cells)
        NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
        return ["".join(o.get("text", "") for o in c.outputs) for c in notebook.cells]

    imports = "import torch\nfrom fbnet_lesson.course import check, mine"
    half = "def later(row, i):\n    return ~row[i + 1 :]"
    greedy = GREEDY.replace("~overlaps[i, i + 1 :]", "later(overlaps[i], i)")
    said = run(imports, half, greedy, "check(suppress_greedily)")
    assert said[-1].startswith("✓ suppress_greedily") and len(said[-1].splitlines()) == 1
    said = run(
        imports,
        "f = mine('suppress_greedily')\nprint(f.__code__.co_filename)\n"
        "print(f(torch.ones(2, 2) > 0).tolist())\nimport inspect; print(inspect.getsource(f))",
    )
    assert said[-1].startswith("<your suppress_greedily>\n[True, False]\ndef suppress_greedily(")


# ------------------------------------------------------------------------------ what can be written


@pytest.mark.parametrize(
    "constant",
    ["7", "-1.5", "float('inf')", "'a'", "None", "True", "(1, 2.5)", "{'a': [1, 2]}", "{1, 2}",
     "1e-300", "2j", "b'x'", "torch.float16", "torch.tensor([10.0, 0.1])", "torch.tensor(True)"],
)  # fmt: skip
def test_constants_come_back_as_they_were(constant):
    before = cell(f"import torch\nC = {constant}\ndef f():\n    return C")["f"]
    value, again = before(), compiled(kept_source(before), "f")()
    assert type(again) is type(value)
    if isinstance(value, torch.Tensor):
        assert again.dtype == value.dtype and torch.equal(again, value)
    else:
        assert again == value


def test_a_local_name_or_an_attribute_is_not_taken_for_the_notebook_s():
    f = kept("boxes, sum = object(), object()\ndef f(boxes):\n    return boxes.sum([1])")
    assert f(types.SimpleNamespace(sum=len)) == 1


def test_helpers_may_call_one_another_and_be_renamed_or_be_a_default():
    f = kept(
        """
        def even(n):
            return n == 0 or odd(n - 1)
        def odd(n):
            return n > 0 and even(n - 1)
        again = odd
        def f(n, parity=even):
            return parity(n), again(n)
        """
    )
    assert f(4) == (True, False) and f(7) == (False, True)


def test_decorators_annotations_and_nested_functions_are_kept():
    f = kept(
        """
        import functools
        import torch
        from torch import Tensor, no_grad
        SCALE = 3
        def twice(function):
            @functools.wraps(function)
            def call(x):
                return function(function(x))
            return call
        @no_grad()
        @twice
        def f(x: Tensor) -> Tensor:
            def inner(y):
                return y * SCALE
            return torch.stack([inner(row) for row in x])
        """
    )
    assert f(torch.ones(1, requires_grad=True)).tolist() == [9]


def test_functions_of_libraries_are_imported_from_where_they_lie():
    f = kept(
        """
        import numpy as np
        from math import sqrt
        from torch import exp, nn as layers
        from torch.nn.functional import relu as positive
        from fbnet_lesson.detection.boxes import box_iou
        def f(x):
            return positive(exp(x)) * sqrt(4), np.ones(1), layers.ReLU, box_iou
        """
    )
    assert f(torch.zeros(1))[0].item() == 2


@pytest.mark.parametrize(
    "source, reason",
    [
        ("def around():\n    n = 1\n    def f():\n        return n\n    return f\nf = around()",
         "uses n of the function around f"),
        ("f = lambda: 1\nf.__name__ = 'f'", "needs the text of f, which is not there"),
        ("model = object()\ndef f():\n    return model", "uses model, an object of this notebook"),
        ("xs = [object()]\ndef f():\n    return xs", "uses xs, a list of this notebook"),
        ("import torch\nx = torch.zeros(101)\ndef f():\n    return x", "uses x, a tensor of this"),
        (f"x = {'a' * 20_000!r}\ndef f():\n    return x", "is longer than 20,000 characters"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_down_is_named(source, reason):
    with pytest.raises(NotKept, match=reason):
        kept_source(cell(source)["f"])


def test_each_exercise_s_solution_can_be_kept(monkeypatch):
    """Written into a notebook cell, as a learner's would be, with its module's names around it."""
    for exercise in EXERCISES.values():
        around = dict(vars(sys.modules[exercise.solution.__module__])) | {"__name__": "__main__"}
        function = cell(function_source(exercise.solution), around)[exercise.name]
        assert module.agrees(exercise, compiled(kept_source(function), exercise.name))
