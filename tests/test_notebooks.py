"""The built notebooks match their sources, and the builder refuses what should not be published."""

import nbformat
import pytest

from fbnet_lesson.course import build
from fbnet_lesson.course.build import LessonError
from fbnet_lesson.course.exercises import EXERCISES

PUBLISHED = [path for slug in build.lesson_slugs() for path in build.notebook_paths(slug)]
LESSON = """\
# %% [markdown]
# # A small lesson

# %%
import os
shape = (2, 3)
shape

# %%
print("the sum is", sum(shape), "in", os.path.basename(os.getcwd()))
"""


# --------------------------------------------------------------------------- the repository's own


def test_every_notebook_is_what_its_source_says():
    assert build.out_of_step() == []


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_published_notebooks_are_executed_small_and_free_of_this_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert build.defects(notebook, path.stat().st_size) == []
    assert any(cell.get("outputs") for cell in notebook.cells)


# ------------------------------------------------------------------------------------ the builder


def write_lesson(root, source=LESSON):
    (root / "solutions").mkdir(exist_ok=True)
    (root / "solutions" / "00_small.py").write_text(source)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the small lesson, built."""
    root = tmp_path_factory.mktemp("course")
    write_lesson(root)
    build.build(root=root)
    return root


def test_a_lesson_becomes_two_notebooks_with_outputs(built):
    for path in build.notebook_paths("00_small", built):
        title, first, second = nbformat.read(path, as_version=4).cells
        assert title.source == "# A small lesson"
        assert first.outputs[0].data["text/plain"] == "(2, 3)"
        assert second.outputs[0].text == f"the sum is 5 in {path.parent.name}\n"
        assert [cell.id for cell in (title, first, second)] == [f"00_small-0{i}" for i in range(3)]
        assert not first.metadata


def test_building_again_changes_no_byte(built, capsys):
    before = {path: path.read_bytes() for path in build.notebook_paths("00_small", built)}
    assert build.build(["00_small"], root=built) == []
    assert "00_small: unchanged" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    assert not list(built.rglob("*.tmp"))


def test_a_built_course_is_in_step_with_its_sources(built):
    assert build.out_of_step(built) == []


@pytest.mark.parametrize(
    "change",
    [("shape\n", "shape  # as before\n"), ("# A small", "# A tiny"), ("# %%\nprint", "print")],
    ids=["code", "text", "cells"],
)
def test_a_changed_source_is_noticed_without_executing(built, tmp_path, change):
    write_lesson(tmp_path, LESSON.replace(*change))
    for old in build.notebook_paths("00_small", built):
        new = tmp_path / old.relative_to(built)
        new.parent.mkdir(exist_ok=True)
        new.write_bytes(old.read_bytes())
    assert build.out_of_step(tmp_path) == [
        f"{folder}/00_small.ipynb is out of step with solutions/00_small.py: run make notebooks"
        for folder in ("notebooks", "solutions")
    ]


def test_missing_and_left_over_notebooks_are_named(tmp_path):
    write_lesson(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "07_gone.ipynb").touch()
    assert build.out_of_step(tmp_path) == [
        "notebooks/07_gone.ipynb has no source",
        "notebooks/00_small.ipynb is not built",
        "solutions/00_small.ipynb is not built",
    ]


def test_what_a_notebook_may_not_hold_is_named_and_nothing_is_written(tmp_path):
    write_lesson(
        tmp_path,
        "# %%\nimport warnings\nwarnings.warn('old')\n"
        "# %%\nprint(__import__('os').getcwd())\n"
        "# %%\nprint(object())\n"
        f"# %%\nprint('x' * {build.SIZE_LIMIT})\n",
    )
    with pytest.raises(LessonError, match="^notebooks/00_small.ipynb: ") as error:
        build.build(root=tmp_path)
    for part in ("cell 0 writes to stderr", "UserWarning: old", f"cell 1 shows '{tmp_path}"):
        assert part in str(error.value)
    for part in ("cell 2 shows 'at 0x", "bytes, allowed are 400,000"):
        assert part in str(error.value)
    assert not list(tmp_path.rglob("*.ipynb"))


def test_a_failing_cell_names_the_lesson_and_the_error(tmp_path):
    write_lesson(tmp_path, "# %%\n1 / 0\n")
    with pytest.raises(LessonError, match=r"notebooks/00_small\.ipynb: (?s:.*)ZeroDivisionError"):
        build.build(root=tmp_path)


def test_a_notebook_has_no_network(tmp_path):
    write_lesson(
        tmp_path,
        "# %%\nimport socket\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), timeout=1)\n"
        "except Exception as error:\n    print(type(error).__name__)\n",
    )
    build.build(root=tmp_path)
    notebook = nbformat.read(build.notebook_paths("00_small", tmp_path)[0], as_version=4)
    assert build.output_text(notebook.cells[0].outputs[0]) == "NetworkBlocked\n"


def test_what_a_cell_prints_in_pieces_is_kept_as_one(tmp_path):
    source = "import sys, time\nfor i in range(3):\n    print(i, flush=True); time.sleep(0.3)"
    write_lesson(tmp_path, f"# %%\n{source}\nsum([1])\n# %%\nprint(1)\nprint(2)\n")
    build.build(root=tmp_path)
    notebook = nbformat.read(build.notebook_paths("00_small", tmp_path)[0], as_version=4)
    first, second = notebook.cells
    assert [output.get("text") for output in first.outputs] == ["0\n1\n2\n", None]
    assert [output.text for output in second.outputs] == ["1\n2\n"]


EXERCISE = """\
# %% [markdown]
# # A small lesson
#
# | {minutes} | lesson 00 | 5 s |
#
# ## Exercise 1: area
# Width times height.
#
# <details><summary>Hint</summary>
#
# ```python
# # no heading
# ```
# </details>

# %% exercise="detection.boxes.box_area"
from fbnet_lesson.detection.boxes import box_area

# %%
def double(x):
    ### BEGIN SOLUTION
    x = 2 * x
    ### END SOLUTION
    return x
"""


@pytest.fixture
def with_exercise(tmp_path):
    write_lesson(tmp_path, EXERCISE)
    return tmp_path


def test_an_exercise_is_a_stub_for_the_learner_and_the_package_s_source_when_solved(with_exercise):
    import inspect

    from fbnet_lesson.detection.boxes import box_area

    _, *blank = build.prepare("00_small", False, with_exercise).cells
    _, *solved = build.prepare("00_small", True, with_exercise).cells
    assert solved[0].source == inspect.getsource(box_area).rstrip()
    head = solved[0].source.rpartition("\n")[0]
    assert blank[0].source == head + "\n    raise NotImplementedError  # replace this line"
    assert solved[1].source == "def double(x):\n    x = 2 * x\n    return x"
    assert blank[1].source == "def double(x):\n    # your turn\n    return x"


def test_an_exercise_says_how_hard_and_long_it_is_and_has_its_solution_in_a_fold(with_exercise):
    blank, solved = (build.prepare("00_small", s, with_exercise).cells[0] for s in (False, True))
    exercise = EXERCISES["box_area"]
    dots = {1: "●○○", 2: "●●○", 3: "●●●"}[exercise.difficulty]
    under = (
        f"## Exercise 1: area\n\n{dots} · about {exercise.minutes} minutes\n\nWidth times height."
    )
    assert under in blank.source and under in solved.source
    body = "    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])\n"
    fold = (
        "<details><summary>Solution</summary>\n\n```python\n"
        f"def box_area(boxes: Tensor) -> Tensor:\n{body}```\n\n</details>"
    )  # without the docstring, which stands in the cell below
    assert blank.source.endswith("</details>\n\n" + fold)
    assert "Solution" not in solved.source  # it stands in the cell below


@pytest.mark.parametrize(
    "between, stands",
    [
        ("", True),
        ("# %%\n1\n\n", True),
        ("# %%\n1\n\n# %%\n2\n\n", False),
        ("# %% [markdown]\n# No heading.\n\n", False),
    ],
    ids=["before it", "before a cell before it", "too far away", "without a heading"],
)
def test_an_exercise_needs_a_text_with_a_heading_close_before_it(tmp_path, between, stands):
    cell = EXERCISE[EXERCISE.index("# %% exercise") :]
    write_lesson(tmp_path, f"# %% [markdown]\n# # Area\n\n{between}{cell}")
    if stands:
        assert "●" in build.prepare("00_small", False, tmp_path).cells[0].source
        return
    with pytest.raises(LessonError, match="heading stands before exercise 'detection.boxes.box_ar"):
        build.prepare("00_small", False, tmp_path)


# -------------------------------------------------------------------------------------- the minutes


def test_the_minutes_are_those_of_words_code_and_exercises(with_exercise):
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    exercise = code("import x", metadata={"exercise": "detection.boxes.box_area"})
    own = EXERCISES["box_area"].minutes
    assert build.minutes([markdown("word " * 130 * 5)]) == 5
    assert build.minutes([markdown("word " * 130 * 5 + "more")]) == 10
    assert build.minutes([code("x\n\n" * 20)] * 10) == 15  # 10 · (1/2 + 1)
    assert build.minutes([markdown("word " * 130 * (15 - own)), exercise]) == 15
    assert (
        build.minutes([markdown("<details><summary>·  — 3 $x$ it's one-line</summary>")] * 130) == 5
    )


def test_the_minutes_stand_in_the_head(with_exercise):
    for solved in (False, True):
        head = build.prepare("00_small", solved, with_exercise).cells[0].source
        assert f"| {build.lesson_minutes('00_small', with_exercise)} | lesson 00 | 5 s |" in head


# -------------------------------------------------------------------------------- what figures show

FIGURE = """\
# %%
# alt: A line that rises
#      from 0 to 1.

import matplotlib.pyplot as plt
%matplotlib inline
_ = plt.plot([0, 1])
"""


def test_what_a_figure_shows_stands_with_its_cell_and_not_in_it(tmp_path):
    write_lesson(tmp_path, FIGURE)
    build.build(root=tmp_path)
    for path in build.notebook_paths("00_small", tmp_path):
        (cell,) = nbformat.read(path, as_version=4).cells
        assert cell.metadata == {"mystnb": {"image": {"alt": "A line that rises from 0 to 1."}}}
        assert cell.source.startswith("import matplotlib")
    assert build.out_of_step(tmp_path) == []
    write_lesson(tmp_path, FIGURE.replace("rises", "falls"))
    assert len(build.out_of_step(tmp_path)) == 2


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\n# alt: late\ny = 2",
        "# alternatives: many\nx = 1",
        "#      more\nx = 1",
        "# alt: only",
    ],
)
def test_other_comments_stay_where_they_are(source):
    assert build.alt_text(source) == ("", source)


def test_a_figure_without_a_text_and_a_text_without_a_figure_are_defects(tmp_path):
    write_lesson(
        tmp_path,
        FIGURE[: FIGURE.index("# alt")]
        + FIGURE[FIGURE.index("import") :]
        + "# %%\n# alt: none\nx = 1\n",
    )
    said = "cell 0 draws, and says nowhere what .*; cell 1 has a text alternative .* and no figure"
    with pytest.raises(LessonError, match=said):
        build.build(root=tmp_path)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('"detection.boxes.box_area"', '"detection.boxes.area"', "there is no exercise"),
        ('"detection.boxes.box_area"', '"boxes.box_area"', "there is no exercise"),
        ("import box_area\n", "import box_area as a\n", "the cell of exercise"),
        ("import box_area\n", "import box_area\nimport os\n", "the cell of exercise"),
    ],
)
def test_an_exercise_cell_that_is_not_one_import_is_refused(with_exercise, old, new, said):
    write_lesson(with_exercise, EXERCISE.replace(old, new))
    with pytest.raises(LessonError, match=said):
        build.prepare("00_small", solved=True, root=with_exercise)


def test_notebooks_are_out_of_step_when_the_package_s_function_changes(with_exercise, monkeypatch):
    before = build.contents(build.prepare("00_small", True, with_exercise))
    monkeypatch.setattr(build, "function_source", lambda function: "def box_area(): ...")
    assert build.contents(build.prepare("00_small", True, with_exercise)) != before


def test_an_unexecuted_cell_and_a_hidden_value_are_defects():
    cells = [nbformat.v4.new_code_cell("1 + 1"), nbformat.v4.new_code_cell("2;", execution_count=1)]
    assert build.defects(nbformat.v4.new_notebook(cells=cells), 100) == [
        "cell 0 was not executed",
        "cell 1 ends with ';': write '_ = ...' to show nothing",
    ]


@pytest.mark.parametrize(
    "text", ["/home/ada/x.png", "in /tmp/run1", r"C:\Users", r"'C:\\Users'", "<A at 0x7f001122>"]
)
def test_text_of_a_machine_is_recognised(tmp_path, text):
    assert build.machine_trace(text, tmp_path)


@pytest.mark.parametrize(
    "text", ["data/shapes", "a/home/b", "https://x.org/tmp/y", "at 0x10", "3/4", "C: d"]
)
def test_other_slashes_are_left_alone(tmp_path, text):
    assert build.machine_trace(text, tmp_path) is None


def test_an_unknown_lesson_is_refused_with_the_known_ones(built):
    with pytest.raises(LessonError, match="no lesson '99_x'; there are: 00_small"):
        build.build(["99_x"], root=built)
