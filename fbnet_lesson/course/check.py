"""``check(fn)``: is the learner's function right, and if not, which mistake does it make?

The function is called on the exercise's edge cases, then on cases that Hypothesis makes; the first
failing edge case, or the smallest failing case that Hypothesis finds, is shown. To name the
mistake, the exercise's wrong answers are run on the same cases: the one that answers as the
learner's function does, on all of them, is what the learner wrote.
"""

import difflib
import inspect
import textwrap
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import hypothesis
import matplotlib.pyplot as plt
from hypothesis.errors import HypothesisException
from torch import Tensor

from fbnet_lesson.course import drawing
from fbnet_lesson.course.exercise import SETTINGS, Case, Exercise, Mistake
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.course.guard import Outcome, TooLong, call, cloned, difference, kind
from fbnet_lesson.course.mine import keep

CALL_SECONDS = 5.0  # for one call on a tiny input
CHECK_SECONDS = 20.0  # for looking; naming the mistake may take as long again
WIDTH = 90  # columns of a hint: a page of JupyterLab breaks longer lines inside words
MOSTLY = 0.6  # share of cases on which a mistake answers like the learner, to be a suspect


@dataclass(frozen=True)
class Report:
    """What a check found. ``state`` is "unwritten", "passed" or "failed"."""

    exercise: Exercise
    state: str
    cases: int = 0
    mistake: str = ""  # its name, or what is wrong where no named mistake fits
    named: bool = False  # whether ``mistake`` is one of the exercise's
    edge: str = ""  # the property whose case failed
    case: Case | None = None
    expected: Outcome = Outcome()
    got: Outcome = Outcome()
    hint: str = ""

    def __str__(self) -> str:
        name = self.exercise.name
        if self.state == "unwritten":
            return f"{name}: not written yet. Write it in the cell above, then run this one again."
        if self.state == "passed":
            count = len(self.exercise.edges) + 1
            return f"✓ {name}: {count} properties, {self.cases} cases" + _printed(self.got)
        lines = [f"✗ {name}: {self.mistake}"]
        if self.edge:
            lines.append(f"  property  {self.edge}")
        if self.case is not None:
            for i, (key, value) in enumerate(self.case.items()):
                lines.append(_labelled("input" if i == 0 else "", f"{key} = ", value))
            lines.append(_outcome("expected", self.expected))
            lines.append(_outcome("got", self.got))
        lines.append(textwrap.fill(f"  hint      {self.hint}", WIDTH, subsequent_indent=" " * 12))
        return "\n".join(lines) + _printed(self.got)


def check(function: Callable) -> None:
    """Test ``function`` against the exercise of its name; print, and draw, what was found."""
    problem = not_checkable(function)
    if problem:
        print(problem)
        return
    report = examine(EXERCISES[function.__name__], function)
    print(report)
    if message := keep(report, function):
        print(message)
    if report.state == "failed" and report.case is not None and report.got.error is None:
        draw(report)


def not_checkable(function: Any) -> str | None:
    """Why there is no exercise for ``function``, in a sentence; None if there is one."""
    if not inspect.isfunction(function):
        return f"check takes the function itself, as in check(nms); this is {kind(function)}."
    if function.__name__ in EXERCISES:
        return None
    near = difflib.get_close_matches(function.__name__, EXERCISES, n=1)
    known = f"did you mean {near[0]}?" if near else f"there are: {', '.join(EXERCISES)}."
    return f"there is no exercise {function.__name__!r}; {known}"


def draw(report: Report) -> None:
    """Draw the failing case; nothing, where the answer is too wrong to be drawn."""
    painter = report.exercise.draw or drawing.draw_values
    open_before = plt.get_fignums()
    try:
        painter(cloned(report.case), report.expected.value, report.got.value)
    except Exception:  # a learner's answer may be anything
        for number in set(plt.get_fignums()) - set(open_before):
            plt.close(number)


def examine(exercise: Exercise, function: Callable, shrink: bool = True) -> Report:
    """Test ``function``; ``shrink`` looks for the smallest failing case and names the mistake."""
    end = time.monotonic() + CHECK_SECONDS
    edges = [(edge, case) for edge, cases in exercise.edges.items() for case in cases]
    cases = [*edges, *(("", case) for case in exercise.random_cases)]
    passed = 0
    for edge, case in cases:  # noqa: B007 (both are used where the loop was left)
        got = call(function, case, CALL_SECONDS)
        if is_unwritten(function, got):
            return Report(exercise, "unwritten")
        if time.monotonic() > end and not isinstance(got.error, TooLong):
            hint = f"{passed} cases took {CHECK_SECONDS:.0f} seconds. Is there a loop too many?"
            return Report(exercise, "failed", passed, "is far too slow", hint=hint)
        if wrong(exercise, case, got):
            break
        passed += 1
    else:
        return Report(exercise, "passed", passed, got=got)
    if not shrink:
        return Report(exercise, "failed", passed, edge=edge, case=case, got=got)
    if not edge:
        case = smallest(exercise, function, case, end)
        got = call(function, case, CALL_SECONDS)
    what = wrong(exercise, case, got)
    expected = call(exercise.oracle or exercise.solution, case)
    found = Report(exercise, "failed", passed, what, False, edge, case, expected, got)
    mistake, certain = None, False
    if not isinstance(got.error, TooLong):
        mistake, certain = diagnose(exercise, function, case, [case for _, case in cases])
    if certain:
        changes = {"mistake": mistake.name, "named": True, "hint": mistake.hint}
    elif mistake:
        changes = {"mistake": f"{what}; perhaps it {mistake.name}", "hint": mistake.hint}
    else:
        changes = {"hint": unnamed_hint(exercise, got)}
    return Report(**vars(found) | changes)


def is_unwritten(function: Callable, got: Outcome) -> bool:
    """Whether the function itself says so, and not another one that it calls."""
    if not isinstance(got.error, NotImplementedError):
        return False
    *_, (frame, _) = traceback.walk_tb(got.error.__traceback__)
    return frame.f_code is function.__code__


def wrong(exercise: Exercise, case: Case, got: Outcome) -> str | None:
    """What is wrong with an outcome, as the end of "it ...", or None."""
    if isinstance(got.error, TooLong):
        return f"does not come to an end within {CALL_SECONDS:.0f} seconds"
    expected = call(exercise.oracle or exercise.solution, case)
    if expected.error is not None:
        wanted = type(expected.error).__name__
        if got.error is None:
            return f"raises no {wanted}"
        if not isinstance(got.error, type(expected.error)):
            return f"raises {type(got.error).__name__}, expected is {wanted}"
        return None
    if got.error is not None:
        return f"raises {type(got.error).__name__}"
    if got.changed:
        return f"writes into its input {', '.join(got.changed)}"
    return difference(expected.value, got.value, exercise.rtol, exercise.atol)


def smallest(exercise: Exercise, function: Callable, case: Case, end: float) -> Case:
    """The smallest case that Hypothesis finds on which ``function`` is wrong; ``case`` is one."""
    failing = [case]

    def fails(candidate: Case) -> bool:
        if time.monotonic() > end:
            raise TooLong  # no Exception: Hypothesis gives up at once
        if wrong(exercise, candidate, call(function, candidate, CALL_SECONDS)) is None:
            return False
        failing.append(candidate)
        return True

    settings = hypothesis.settings(SETTINGS, max_examples=exercise.examples)
    try:
        return hypothesis.find(exercise.cases, fails, settings=settings, random=Random(0))
    except (TooLong, HypothesisException):  # or an answer that changes from call to call
        return failing[-1]


def diagnose(
    exercise: Exercise, function: Callable, shown: Case, cases: list[Case]
) -> tuple[Mistake | None, bool]:
    """The named mistake that behaves like ``function``, and whether it does so on all cases."""
    end = time.monotonic() + CHECK_SECONDS
    cases, own = [shown, *cases], []
    for case in cases:
        if time.monotonic() > end:
            break
        own.append(call(function, case, CALL_SECONDS))
        if isinstance(own[-1].error, TooLong):
            break
    suspects = []
    for mistake in exercise.mistakes:
        mistaken = mistake.function(exercise.solution)
        agree = 0
        for i, (case, outcome) in enumerate(zip(cases, own, strict=False)):
            same = alike(exercise, outcome, call(mistaken, case, CALL_SECONDS))
            agree += same
            if not same and (i == 0 or i + 1 - agree > (1 - MOSTLY) * len(own)):
                break  # it answers the shown case in another way, or too many of the others
        else:
            suspects.append((agree, mistake))
    if not suspects:
        return None, False
    agree, mistake = max(suspects, key=lambda suspect: suspect[0])
    return mistake, agree == len(own)


def alike(exercise: Exercise, a: Outcome, b: Outcome) -> bool:
    """Whether two functions did the same."""
    if a.error or b.error:
        return type(a.error) is type(b.error)
    if a.changed != b.changed:
        return False
    try:
        return difference(a.value, b.value, exercise.rtol, exercise.atol) is None
    except Exception:  # of an odd type, where == itself raises
        return False


def unnamed_hint(exercise: Exercise, got: Outcome) -> str:
    if isinstance(got.error, TooLong):
        return "Does the condition of the loop ever become false?"
    if got.error is not None and got.line:
        return f"It happened in {got.line}"
    if got.changed:
        return "Work on a copy (x.clone()), or with operations that return a new tensor."
    if got.value is None and got.error is None:
        return "Is there a return on every way through the function?"
    return exercise.hint


def brief(value: Any) -> str:
    """A value in a line or a few: tensors as nested lists of short numbers."""
    if isinstance(value, Tensor):
        if value.numel() > 96:
            return f"tensor of shape {list(value.shape)}"
        if value.numel() == 0:
            return f"[], shape {list(value.shape)}"
        return _nested(value.detach().tolist())
    if isinstance(value, list | tuple):
        left, right = "[]" if isinstance(value, list) else "()"
        inner = ", ".join(map(brief, value)) + ("," if len(value) == 1 and left == "(" else "")
        return left + inner + right
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {brief(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}..."


def _nested(value: Any, depth: int = 0) -> str:
    """Nested lists, one row a line."""
    if not isinstance(value, list):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    if value and isinstance(value[0], list):
        return "[" + (",\n" + " " * (depth + 1)).join(_nested(v, depth + 1) for v in value) + "]"
    return "[" + ", ".join(map(_nested, value)) + "]"


def _labelled(label: str, prefix: str, value: Any) -> str:
    head = f"  {label:8s}  {prefix}"
    return head + brief(value).replace("\n", "\n" + " " * len(head))


def _outcome(label: str, outcome: Outcome) -> str:
    if isinstance(outcome.error, TooLong):
        return f"  {label:8s}  no answer in time"
    if outcome.error is not None:
        text = str(outcome.error).splitlines()
        message = f": {text[0][:150]}" if text and text[0] else ""
        return f"  {label:8s}  {type(outcome.error).__name__}{message}"
    return _labelled(label, "", outcome.value)


def _printed(outcome: Outcome) -> str:
    """What the function printed in the call that is shown, as far as it is worth showing."""
    if not outcome.printed:
        return ""
    shown = "".join(f"\n            {line}" for line in outcome.first_lines)
    more = outcome.printed - len(outcome.first_lines)
    return f"\n  printed {shown.lstrip()}" + (
        f"\n            ... {more} more lines" if more else ""
    )
