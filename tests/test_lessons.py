"""What every lesson has, by the lesson standard, and what its notebooks say of its exercises."""

import copy
import re
import tempfile
import unicodedata
from functools import cache
from pathlib import Path

import jupytext
import nbformat
import pytest

from fbnet_lesson.course.build import (
    ROOT,
    execute,
    lesson_minutes,
    lesson_slugs,
    notebook_paths,
    output_text,
    prepare,
)
from fbnet_lesson.course.exercises import LESSONS

SLUGS = lesson_slugs()
EXERCISES_OF = {slug: LESSONS.get(slug.partition("_")[0], ()) for slug in SLUGS}
of_every_lesson = pytest.mark.parametrize("slug", SLUGS)


def cells(slug: str):
    return jupytext.read(ROOT / "solutions" / f"{slug}.py", fmt="py:percent").cells


def prose(slug: str) -> str:
    return "\n".join(cell.source for cell in cells(slug) if cell.cell_type == "markdown")


def code(slug: str) -> list[str]:
    """The code cells that are no exercises."""
    return [
        cell.source
        for cell in cells(slug)
        if cell.cell_type == "code" and "exercise" not in cell.metadata
    ]


@of_every_lesson
def test_the_head_has_a_title_a_promise_objectives_and_a_budget(slug):
    head = cells(slug)[0].source
    assert head.startswith(f"# {slug[:2]} · ")
    assert re.search(r"^\*\*.+?\*\*$", head, re.MULTILINE | re.DOTALL)
    assert 3 <= len(re.findall(r"^- ", head, re.MULTILINE)) <= 4
    assert "| minutes | needs | run budget |" in head


@of_every_lesson
def test_there_is_a_prediction_before_the_first_code(slug):
    before = []
    for cell in cells(slug):
        if cell.cell_type == "code":
            break
        before.append(cell.source)
    assert re.search(r"^## Predict", "\n".join(before), re.MULTILINE)


@of_every_lesson
def test_code_cells_are_short(slug):
    lengths = sorted(sum(map(bool, source.splitlines())) for source in code(slug))  # of text
    assert lengths[-1] <= 25
    assert sum(length > 12 for length in lengths) <= len(lengths) // 5, lengths


@of_every_lesson
def test_each_exercise_is_introduced_checked_and_in_the_lesson_s_list(slug):
    found = cells(slug)
    paths = [cell.metadata.get("exercise") for cell in found]
    assert [path for path in paths if path] == [exercise.path for exercise in EXERCISES_OF[slug]]
    for exercise in EXERCISES_OF[slug]:
        index = paths.index(exercise.path)
        assert "markdown" in {cell.cell_type for cell in found[index - 2 : index]}
        following = [c.source for c in found[index + 1 : index + 3] if c.cell_type == "code"]
        assert any(f"check({exercise.name})" in source for source in following)


@of_every_lesson
def test_there_are_three_or_four_exercises_with_hints_and_a_stretch(slug):
    if slug.startswith("00"):
        assert len(EXERCISES_OF[slug]) == 1  # the two-minute one
        return
    assert 3 <= len(EXERCISES_OF[slug]) <= 5
    text = prose(slug)
    hints = re.findall(r"<summary>(?:A )?[Hh]ints?", text)
    assert len(hints) >= min(len(EXERCISES_OF[slug]), 4)  # a fifth is the stretch
    assert re.search("stretch", text, re.IGNORECASE)
    assert re.search(r"^#+ .*(documentation|page)", text, re.MULTILINE | re.IGNORECASE)


def test_there_are_at_least_twenty_exercises():
    assert sum(map(len, LESSONS.values())) >= 20


@of_every_lesson
def test_something_is_plugged_in_and_something_can_be_turned(slug):
    source = "\n".join(code(slug))
    assert "with plug(" in source
    assert "explore(" in source


@of_every_lesson
def test_the_end_has_a_recap_three_questions_and_sources(slug):
    text = prose(slug)
    end = text[re.search(r"^## Recap", text, re.MULTILINE).start() :]
    assert re.search(r"three questions", end, re.IGNORECASE)
    assert end.count("<details>") == end.count("</details>") >= 3
    assert "**Sources" in end or "## Sources" in end


@of_every_lesson
def test_the_prose_is_calm_and_fits_the_page(slug):
    text = prose(slug)
    sentences = re.sub(r"`[^`]*`|\$[^$]*\$|```.*?```", "", text, flags=re.DOTALL)
    assert not re.findall(r"\w+!(?=\s|$)", sentences)
    odd = [c for c in sentences if unicodedata.category(c) == "So" and c not in "▶◀─│✓✗"]
    assert odd == []
    lines = (ROOT / "solutions" / f"{slug}.py").read_text().splitlines()
    assert [line for line in lines if len(line) > 102] == []


@of_every_lesson
def test_the_learner_s_notebook_has_everything_unwritten_and_the_solved_one_nothing(slug):
    texts = []
    for path in notebook_paths(slug):
        notebook = nbformat.read(path, as_version=4)
        texts.append(
            "\n".join(output_text(o) for c in notebook.cells for o in c.get("outputs", []))
        )
    blank, solved = texts
    for exercise in EXERCISES_OF[slug]:
        assert f"{exercise.name}: not written yet." in blank
        assert f"✓ {exercise.name}: " in solved
    for trouble in ("not written yet", "the package's own is used", "inside, this cell raises"):
        assert trouble not in solved
    if not slug.startswith("00"):  # which shows what a mistake looks like
        assert "✗" not in solved
    assert "✓" not in blank and "raises" not in "".join(re.findall(r"inside, this.*", blank))


def test_the_readme_lists_the_lessons_with_their_minutes_and_exercises():
    rows = []
    for slug in SLUGS:
        head = cells(slug)[0].source
        title = re.match(r"# \d\d · (.*)", head)[1].partition(":")[0]
        minutes = lesson_minutes(slug)
        names = " ".join(f"`{exercise.name}`" for exercise in EXERCISES_OF[slug])
        rows.append(f"| {slug[:2]} | [{title}](notebooks/{slug}.ipynb) | {minutes} | {names} |")
    readme = (ROOT / "README.md").read_text()
    assert "\n".join(rows) in readme, "README.md should say\n" + "\n".join(rows)


# ------------------------------------------------------------------- solved wrongly, all at once

WRONG = """\
from fbnet_lesson.course.exercises import EXERCISES as _all

{name} = _all["{name}"].mistakes[{index}].function(_all["{name}"].solution)
{name}.__name__ = "{name}"
"""
WAYS = 3


@cache
def solved_wrongly(slug: str) -> list[str]:
    """What is printed from the first exercise on, each way.

    One kernel runs the cells before it once, and then all others three times, each time with other
    mistakes: it would not start, import and load the same things anew.
    """
    notebook = prepare(slug, solved=False)
    is_exercise = ["exercise" in cell.metadata for cell in notebook.cells]
    first = is_exercise.index(True)
    before, after = notebook.cells[:first], notebook.cells[first:]
    notebook.cells = list(before)
    for index in range(WAYS):
        for cell in copy.deepcopy(after):
            if path := cell.metadata.get("exercise"):
                cell.source = WRONG.format(name=path.rpartition(".")[2], index=index)
            cell.id = f"{cell.id}-{index}"
            notebook.cells.append(cell)
    with tempfile.TemporaryDirectory() as folder:
        executed = execute(notebook, Path(folder) / f"{slug}.ipynb").cells
    size = len(after)
    starts = [len(before) + index * size for index in range(WAYS)]
    return [
        "\n".join(output_text(o) for c in executed[i : i + size] for o in c.get("outputs", []))
        for i in starts
    ]


@pytest.mark.slow
@pytest.mark.parametrize("index", range(WAYS), ids=["first mistakes", "second", "third"])
@of_every_lesson
def test_a_lesson_runs_to_its_end_with_every_exercise_solved_wrongly(slug, index):
    said = solved_wrongly(slug)[index]
    for exercise in EXERCISES_OF[slug]:
        assert f"✗ {exercise.name}: {exercise.mistakes[index].name}\n" in said
