"""What a lesson shows beside its text: minutes, predictions, effort, figures and their words."""

import ast
import re

import jupytext
import nbformat
import pytest

from fbnet_lesson.course.build import (
    MINUTES,
    ROOT,
    alt_text,
    draws,
    lesson_minutes,
    lesson_slugs,
    notebook_paths,
    output_text,
    outputs,
    prepare,
)
from fbnet_lesson.course.exercises import LESSONS

SLUGS = lesson_slugs()
of_every_lesson = pytest.mark.parametrize("slug", SLUGS)
of_every_exercise = pytest.mark.parametrize(
    "exercise", [e for exercises in LESSONS.values() for e in exercises], ids=lambda e: e.name
)


def cells(slug: str):
    return jupytext.read(ROOT / "solutions" / f"{slug}.py", fmt="py:percent").cells


def code(slug: str) -> list[str]:
    return [cell.source for cell in cells(slug) if cell.cell_type == "code"]


def built(slug: str) -> list[nbformat.NotebookNode]:
    return [nbformat.read(path, as_version=4) for path in notebook_paths(slug)]


# ---------------------------------------------------------------------------------------- minutes


@of_every_lesson
def test_the_head_leaves_its_minutes_to_the_build(slug):
    assert f"\n| {MINUTES} |" in cells(slug)[0].source
    head = prepare(slug, solved=False).cells[0].source
    assert f"\n| {lesson_minutes(slug)} |" in head and MINUTES not in head


@of_every_lesson
def test_a_lesson_is_an_evening_at_most(slug):
    assert lesson_minutes(slug) <= 180


@of_every_exercise
def test_an_exercise_states_an_effort(exercise):
    assert exercise.difficulty in (1, 2, 3) and 2 <= exercise.minutes <= 45


@pytest.mark.parametrize("number", LESSONS)
def test_the_first_exercise_of_a_lesson_is_not_its_hardest(number):
    difficulties = [exercise.difficulty for exercise in LESSONS[number]]
    assert difficulties[0] == min(difficulties)


# ------------------------------------------------------------------------------------- predictions


def guesses(source: str) -> dict:
    """``guess`` as a cell defines it."""
    (value,) = [
        statement.value
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "guess"
    ]
    return ast.literal_eval(value)


def revealed(source: str) -> set[str]:
    """The names that a cell reveals of ``guess``."""
    names = set()
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "reveal":
            continue
        if ast.unparse(call.args[0]) != "guess":  # of a later decision
            continue
        names |= {keyword.arg for keyword in call.keywords if keyword.arg}
        given = [*call.args[1:], *(k.value for k in call.keywords if k.arg is None)]
        names |= {key.value for results in given for key in results.keys}
    return names


def test_what_is_revealed_is_seen_in_each_form():
    assert revealed("reveal(guess, a=1, **{'b c': 2})\nreveal(guess, {'d': 3})") == {
        "a",
        "b c",
        "d",
    }
    assert guesses("from x import reveal\n\nguess = {'a': None}") == {"a": None}


@of_every_lesson
def test_predictions_are_blank_and_stand_before_all_other_code(slug):
    found = cells(slug)
    first = next(i for i, cell in enumerate(found) if cell.cell_type == "code")
    assert re.search(r"^## Predict first$", found[first - 1].source, re.MULTILINE)
    assert "from fbnet_lesson.course import reveal" in found[first].source
    guess = guesses(found[first].source)
    assert 2 <= len(guess) <= 5 and set(guess.values()) == {None}


@of_every_lesson
def test_each_prediction_is_revealed(slug):
    first, *others = code(slug)
    shown = [revealed(source) for source in others if "reveal(" in source]
    assert set().union(*shown) == set(guesses(first))


@of_every_lesson
def test_built_notebooks_have_no_word_of_the_tools_about_wrong_use(slug):
    for notebook in built(slug):
        text = "\n".join(map(output_text, outputs(notebook)))
        assert not re.findall(r"^(?:reveal|mine|progress): .*", text, re.MULTILINE)


# ----------------------------------------------------------------------------------------- figures


@of_every_lesson
def test_each_figure_says_in_a_sentence_or_two_what_is_to_be_seen(slug):
    said = [alt for alt in (alt_text(source)[0] for source in code(slug)) if alt]
    assert said
    for alt in said:
        assert 30 <= len(alt) <= 400 and alt.endswith(".") and alt[0].isupper(), alt
        assert not re.match(r"(?:A |The )?(?:figure|image|picture|plot) (?:of|show)", alt, re.I), (
            alt
        )
    assert len(set(said)) == len(said)


@of_every_lesson
def test_a_knob_has_a_static_figure_beside_it(slug):
    for notebook in built(slug):
        found = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for index, cell in enumerate(found):
            if re.search(r"^explore\(", cell.source, re.MULTILINE):
                near = found[max(index - 2, 0) : index + 3]
                assert any(draws(other) for other in near if other is not cell), cell.source
