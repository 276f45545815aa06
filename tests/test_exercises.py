"""The checkers are checked: stubs, solutions, named mistakes, and faults nobody has named.

``pytest tests/test_exercises.py -k lesson06 -s`` for one lesson; ``-s`` shows the shares.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from mutations import mutants

from fbnet_lesson.course import drawing, plug
from fbnet_lesson.course.check import examine
from fbnet_lesson.course.exercise import Exercise, compiled, function_source
from fbnet_lesson.course.exercises import EXERCISES, LESSONS
from fbnet_lesson.course.guard import call, cloned
from fbnet_lesson.course.plug import resolve

EQUIVALENT = Path(__file__).parent / "equivalent_mutants"
LESSON_OF = {e.name: f"lesson{lesson}" for lesson, found in LESSONS.items() for e in found}
ALL = [pytest.param(e, id=f"{LESSON_OF[e.name]}-{e.name}") for e in EXERCISES.values()]
MISTAKES = [
    pytest.param(e, m, id=f"{LESSON_OF[e.name]}-{e.name}-{m.name.replace(' ', '_')}")
    for e in EXERCISES.values()
    for m in e.mistakes
]
of_every_exercise = pytest.mark.parametrize("exercise", ALL)
of_every_mistake = pytest.mark.parametrize("exercise, mistake", MISTAKES)


@cache
def report_on(name: str, mistake: str):
    exercise = EXERCISES[name]
    (found,) = (m for m in exercise.mistakes if m.name == mistake)
    return examine(exercise, found.function(exercise.solution))


def test_no_two_exercises_share_a_name():
    assert len(EXERCISES) == sum(map(len, LESSONS.values()))


@of_every_exercise
def test_the_stub_is_not_written_yet(exercise: Exercise):
    stub = compiled(exercise.stub, exercise.solution)
    assert examine(exercise, stub).state == "unwritten"
    assert stub.__doc__ == exercise.solution.__doc__


@of_every_exercise
def test_the_solution_passes(exercise: Exercise):
    report = examine(exercise, exercise.solution)
    assert report.state == "passed", str(report)
    assert str(report).startswith(f"✓ {exercise.name}: {len(exercise.edges) + 1} properties, ")


@of_every_exercise
def test_at_least_five_mistakes_are_known_by_different_names(exercise: Exercise):
    assert len({mistake.name for mistake in exercise.mistakes}) >= 5
    assert len({mistake.hint for mistake in exercise.mistakes}) == len(exercise.mistakes)


@of_every_mistake
def test_each_mistake_fails_with_its_own_message(exercise: Exercise, mistake):
    report = report_on(exercise.name, mistake.name)
    assert report.state == "failed"
    assert report.named and report.mistake == mistake.name, str(report)
    assert str(report).splitlines()[0] == f"✗ {exercise.name}: {mistake.name}"
    assert report.hint == mistake.hint


@of_every_mistake
def test_each_mistake_s_case_can_be_drawn(exercise: Exercise, mistake):
    report = report_on(exercise.name, mistake.name)
    if report.got.error is None:
        painter = exercise.draw or drawing.draw_values
        painter(cloned(report.case), report.expected.value, report.got.value)
        plt.close("all")


@of_every_exercise
def test_the_cases_are_the_same_in_every_run_and_not_all_alike(exercise: Exercise):
    first, again = exercise.random_cases, replace(exercise).random_cases
    assert first is not again and str(first) == str(again)
    assert len(set(map(str, first))) >= min(exercise.examples, 20) * 0.9


def is_pluggable(exercise: Exercise) -> bool:
    """Not a plain form without a counterpart that the package calls."""
    return not any(path.startswith("course.") for path in replacements(exercise))


def replacements(exercise: Exercise) -> dict:
    return exercise.replacements(exercise.solution)


@pytest.mark.parametrize("exercise", [p for p in ALL if is_pluggable(p.values[0])])
def test_what_can_be_plugged_in_has_a_place_there_and_leaves_it(exercise: Exercise):
    paths = list(replacements(exercise))
    before = [resolve(path) for path in paths]
    with plug(**{exercise.name: exercise.solution}):
        assert all(callable(resolve(path)) for path in paths)
        assert all(resolve(path) is not own for path, own in zip(paths, before, strict=True))
    assert [resolve(path) for path in paths] == before


# ------------------------------------------------------------------------- faults without a name


def faults(name: str) -> dict[str, Callable]:
    """The faulty forms of the solution that compile: what was changed -> the function."""
    exercise, found = EXERCISES[name], {}
    for change, source in mutants(function_source(exercise.solution)):
        with contextlib.suppress(SyntaxError):
            found[f"{len(found)} {change}"] = compiled(source, exercise.solution)
    return found


def survivors(name: str) -> list[str]:
    """The changes that the check does not notice."""
    exercise = EXERCISES[name]
    return [
        change.partition(" ")[2]
        for change, mutant in faults(name).items()
        if examine(exercise, mutant, shrink=False).state == "passed"
    ]


def equivalents(name: str) -> dict[str, str]:
    """Faulty forms that are known to do the same, and why."""
    file = EQUIVALENT / f"{LESSON_OF[name]}.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [line.split(" | ") for line in lines if line and not line.startswith("#")]
    return {change: reason for exercise, change, reason in rows if exercise == name}


@of_every_exercise
def test_every_fault_is_caught_or_shown_to_be_none(exercise: Exercise):
    alive, known = survivors(exercise.name), equivalents(exercise.name)
    assert len(faults(exercise.name)) >= 5
    assert [change for change in alive if change not in known] == []
    assert [change for change in known if change not in alive] == [], "listed, but caught"


def test_at_least_95_percent_of_at_least_200_faults_are_caught(capsys):
    """By the lists of those that are not, which the test above holds to the truth."""
    count = sum(len(faults(name)) for name in EXERCISES)
    alive = sum(len(equivalents(name)) for name in EXERCISES)
    with capsys.disabled():
        print(f"\n{count - alive} of {count} faults are caught: {1 - alive / count:.1%}")
    assert count >= 200
    assert alive <= 0.05 * count


def test_a_mutated_copy_of_a_case_does_not_leak_into_the_next():
    """``call`` hands out copies: the cases are shared by all checks of a session."""
    exercise = next(iter(EXERCISES.values()))
    before = str(exercise.random_cases)
    for case in exercise.random_cases:
        call(lambda *values: [v.add_(1) for v in values if hasattr(v, "add_")], case)
    assert str(exercise.random_cases) == before
