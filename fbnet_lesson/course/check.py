"""``check(fn)``: is the learner's function right, and if not, which mistake does it make?

The function is called on the exercise's edge cases, then on cases that Hypothesis makes; the first
failing edge case, or the smallest failing case that Hypothesis finds, is shown. It runs in a
process of its own (``isolation``), so that nothing it does reaches the notebook; what is expected
is worked out here. To name the mistake, the exercise's wrong answers are run on the same cases
(``naming``).

What counts as right: what the signature and the docstring say is strict, what they leave open is
open. A tensor has the dtype and shape of the package's answer, and its values within the exercise's
tolerance; it may require a gradient or not, unless an argument of the case requires one: then the
same gradient has to come back. A number may be Python's, NumPy's or a tensor without dimensions, a
tuple may be a list. The arguments stay as they are. Speed is not judged: a slow answer is tried on
fewer random cases.
"""

import contextlib
import difflib
import functools
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import hypothesis
import matplotlib.pyplot as plt
from hypothesis.errors import HypothesisException
from torch import Tensor

from fbnet_lesson.course import drawing, naming, originals
from fbnet_lesson.course.differences import Described, Difference, difference, kind
from fbnet_lesson.course.exercise import SETTINGS, Case, Exercise, Trial
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.course.guard import Failure, Outcome, cloned, fresh, name_of, unwritten
from fbnet_lesson.course.isolation import Caller, caller
from fbnet_lesson.course.mine import keep

CALL_SECONDS = 10.0  # for one call on a tiny input: loops and NumPy take milliseconds
CHECK_SECONDS = 30.0  # for the random cases; as long again for the smallest, and for naming
WIDTH = 90  # columns of a hint: a page of JupyterLab breaks longer lines inside words
ITEMS = 40  # of a list that are shown


@dataclass(frozen=True)
class Report:
    """What a check found. ``state`` is "unwritten", "passed" or "failed"."""

    exercise: Exercise
    state: str
    cases: int = 0
    mistake: str = ""  # its name, or what is wrong where no named mistake fits
    named: bool = False  # whether ``mistake`` is one of the exercise's, or two of them
    edge: str = ""  # the property whose case failed
    case: Case | None = None
    expected: Outcome = Outcome()
    got: Outcome = Outcome()
    hint: str = ""
    slow: bool = False  # not all random cases were tried
    moved: tuple[str, ...] = ()  # what the function left changed
    replaced: tuple[str, ...] = ()  # functions of torch that were not torch's own any more

    def __str__(self) -> str:
        name = self.exercise.name
        if self.state == "unwritten":
            return f"{name}: not written yet. Write it in the cell above, then run this one again."
        if self.state == "passed":
            count = len(self.exercise.edges) + 1
            slow = "; it is slow, so that not all were tried" if self.slow else ""
            return f"✓ {name}: {count} properties, {self.cases} cases{slow}" + self._notes()
        lines = [f"✗ {name}: {self.mistake}"]
        if self.edge:
            lines.append(f"  property  {self.edge}")
        if self.case is not None:
            for i, (key, value) in enumerate(self.case.items()):
                lines.append(_labelled("input" if i == 0 else "", f"{key} = ", value))
            lines.append(_outcome("expected", self.expected))
            lines.append(_outcome("got", self.got))
        lines.append(_filled("hint", self.hint))
        return "\n".join(lines) + self._notes()

    def _notes(self) -> str:
        """What is worth knowing besides: what was put back, and what the function printed."""
        notes = []
        if self.replaced:
            names = ", ".join(self.replaced)
            text = f"{names} had been replaced by another function; torch's own is back."
            notes.append(_filled("note", text))
        if self.moved:
            text = f"it changes {', '.join(self.moved)}; that has been put back."
            notes.append(_filled("note", text))
        if self.got.printed:
            more = self.got.printed - len(self.got.first_lines)
            lines = [*self.got.first_lines] + ([f"... {more} more lines"] if more else [])
            notes.append("  printed   " + ("\n" + " " * 12).join(lines))
        return "".join(f"\n{note}" for note in notes)


def check(function: Callable) -> None:
    """Test ``function`` against the exercise of its name; print, and draw, what was found."""
    problem = not_checkable(function)
    if problem:
        print(problem)
        return
    report = examine(EXERCISES[function.__name__], function, isolated=True)
    print(report)
    if message := keep(report, function):
        print(message)
    if report.state == "failed" and report.case is not None and report.got.error is None:
        draw(report)


def not_checkable(function: Any) -> str | None:
    """Why ``function`` cannot be checked, in a sentence; None if it can."""
    written = callable(function) and not isinstance(function, type | functools.partial)
    name = getattr(function, "__name__", None) if written else None
    if name == "<lambda>":
        return (
            "check knows an exercise by the function's name, and a lambda has none: "
            "write it with def."
        )
    if not isinstance(name, str):
        what = f"the class {function.__name__}" if isinstance(function, type) else kind(function)
        return f"check takes the function itself, as in check(nms); this is {what}."
    if name in EXERCISES:
        return None
    hidden = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    for inner in hidden:
        if getattr(inner, "__name__", None) in EXERCISES:
            return (
                f"the decorator of {inner.__name__} hides its name behind {name!r}: put "
                "functools.wraps into the decorator, or take it off."
            )
    near = difflib.get_close_matches(name, EXERCISES, n=1)
    known = f"did you mean {near[0]}?" if near else f"there are: {', '.join(EXERCISES)}."
    return f"there is no exercise {name!r}; {known}"


def draw(report: Report) -> None:
    """Draw the failing case; nothing, where the answer is too wrong to be drawn."""
    painter = report.exercise.draw or drawing.draw_values
    open_before = plt.get_fignums()
    try:
        painter(cloned(report.case), report.expected.value, report.got.value)
    except Exception:  # a learner's answer may be anything
        for number in set(plt.get_fignums()) - set(open_before):
            plt.close(number)


def examine(
    exercise: Exercise, function: Callable, shrink: bool = True, isolated: bool = False
) -> Report:
    """Test ``function``; ``shrink`` looks for the smallest failing case and names the mistake.

    ``isolated`` lets it run in a process of its own, where there can be one.
    """
    replaced = tuple(originals.restore())
    with fresh(), caller(function, isolated) as ask:
        report = _examine(exercise, name_of(function), ask, shrink)
    return Report(**vars(report) | {"replaced": replaced, "moved": report.got.moved})


def _examine(exercise: Exercise, name: str, ask: Caller, shrink: bool) -> Report:
    end = time.monotonic() + CHECK_SECONDS
    seen: list[naming.Seen] = []
    first = late = None  # the number of the first wrong answer, and what is wrong with it
    cases = [trial.case for trial in exercise.trials]
    with contextlib.closing(ask(cases, CALL_SECONDS)) as outcomes:
        for number, (trial, got) in enumerate(zip(exercise.trials, outcomes, strict=False)):
            if unwritten(got.error) == name:
                return Report(exercise, "unwritten")
            found = wrong(exercise, trial.expected, got)
            seen.append(naming.Seen(number, got, found is not None))
            if found and first is None:
                first, what = number, found
                if not shrink or _lost(got):
                    break
            late = not trial.edge and time.monotonic() > end
            if late or _lost(got):
                break
    if first is None:
        slow = len(seen) < len(exercise.trials)
        return Report(exercise, "passed", len(seen), got=got, slow=slow)
    edge, case, expected = exercise.trials[first]
    got = seen[first].outcome
    if not shrink:
        return Report(exercise, "failed", first, what.text, edge=edge, case=case, got=got)
    verdict = naming.Verdict()
    if not _lost(got):
        if not edge:
            case = smallest(exercise, ask, case)
            expected, got = exercise.expected(case), next(ask([case], CALL_SECONDS))
            what = wrong(exercise, expected, got) or what
        judge = functools.partial(_judge, exercise)
        verdict = naming.name(exercise, case, got, [s for s in seen if not _lost(s.outcome)], judge)
    text = what.text
    hint = " ".join(filter(None, (what.hint, "" if what.of_kind and what.hint else exercise.hint)))
    if verdict.mistakes and (verdict.certain or not what.of_kind):
        names = ", and ".join(mistake.name for mistake in verdict.mistakes)
        text = names if verdict.certain else f"{text}; perhaps it {names}"
        hint = " ".join(mistake.hint for mistake in verdict.mistakes)
    return Report(exercise, "failed", first, text, verdict.certain, edge, case, expected, got, hint)


def _lost(got: Outcome) -> bool:
    """Whether the function gave no answer and no error, so that more calls tell nothing."""
    return got.error is not None and got.error.name in ("TooLong", "Ended", "MemoryError")


def _judge(exercise: Exercise, trial: Trial, got: Outcome) -> Difference | None:
    return wrong(exercise, trial.expected, got)


def wrong(exercise: Exercise, expected: Outcome, got: Outcome) -> Difference | None:
    """What is wrong with an outcome, as the end of "it ...", or None."""
    error = got.error
    if error is not None and expected.error is not None and error.name not in FATES:
        if expected.error.name in error.bases:
            return None
        return Difference(f"raises {error.name}, expected is {expected.error.name}", _where(error))
    if error is not None:
        return _raised(error)
    if expected.error is not None:
        return Difference(
            f"raises no {expected.error.name}",
            f"What the docstring says of {expected.error.name} has to hold for this input too.",
        )
    if got.changed:
        return Difference(
            f"writes into its input {', '.join(got.changed)}",
            "Work on a copy (x.clone()), or with operations that return a new tensor.",
        )
    found = difference(expected.value, got.value, exercise.rtol, exercise.atol)
    return found or _wrong_gradient(exercise, expected, got)


FATES = {  # of a call that ends otherwise than with an answer or an ordinary error
    "TooLong": (
        "does not come to an end within {seconds:.0f} seconds",
        "Does the condition of the loop ever become false?",
    ),
    "Ended": (
        "ends its process {text}",
        "Nothing in an exercise needs os._exit, a signal or a fork.",
    ),
    "MemoryError": (
        "asks for more memory than there is for a check",
        "How large is the largest tensor or list that it makes, for an input as small as this?",
    ),
    "SystemExit": ("calls exit(), which would end the notebook", "Use return to leave a function."),
    "KeyboardInterrupt": ("raises KeyboardInterrupt", "That is what the stop button does."),
    "AsksForInput": (
        "asks for input(), but nobody is there to type",
        "All that a function needs comes in by its arguments.",
    ),
}


def _raised(error: Failure) -> Difference:
    """An error that was not expected."""
    if error.name in FATES:
        text, hint = FATES[error.name]
        hint = " ".join(filter(None, (hint, _where(error))))
        return Difference(text.format(seconds=CALL_SECONDS, text=error.text), hint)
    if (name := unwritten(error)) in EXERCISES:
        return Difference(
            f"calls {name}, which is not written yet",
            f"Write {name} first and run its cell, or do without it.",
        )
    return Difference(f"raises {error.name}", _where(error))


def _where(error: Failure) -> str:
    if not error.line:
        return ""
    number, _, text = error.line.partition(": ")
    return f"It happened in {number} of {error.function}: {text}"


def _wrong_gradient(exercise: Exercise, expected: Outcome, got: Outcome) -> Difference | None:
    """Where an argument requires a gradient, that has to come back as it should."""
    for name, slope in expected.gradients.items():
        own = got.gradients.get(name)
        if own is None and slope is not None and bool(slope.any()):
            return Difference(
                f"returns an answer through which no gradient reaches {name}",
                "It is cut off by .item(), .tolist(), .numpy(), .detach() or torch.no_grad(), and "
                "by torch.tensor(...) of numbers: stay with operations on tensors.",
            )
        if own is not None:
            wanted = own.new_zeros(own.shape) if slope is None else slope
            found = difference(wanted, own, exercise.rtol, exercise.atol)
            if found:
                return found.within(f"in the gradient of {name}")._replace(hint="")
    return None


def smallest(exercise: Exercise, ask: Caller, case: Case) -> Case:
    """The smallest case that Hypothesis finds on which the function is wrong; ``case`` is one."""
    failing, end = [case], time.monotonic() + CHECK_SECONDS

    def fails(candidate: Case) -> bool:
        got = next(ask([candidate], CALL_SECONDS))
        if time.monotonic() > end or _lost(got):
            raise _Enough
        if wrong(exercise, exercise.expected(candidate), got) is None:
            return False
        failing.append(candidate)
        return True

    settings = hypothesis.settings(SETTINGS, max_examples=exercise.examples)
    try:
        return hypothesis.find(exercise.cases, fails, settings=settings, random=Random(0))
    except (_Enough, HypothesisException):  # or an answer that changes from call to call
        return failing[-1]


class _Enough(BaseException):
    """Ends a search; no ``Exception``, so that Hypothesis gives up at once."""


def brief(value: Any) -> str:
    """A value in a line or a few: tensors as nested lists of short numbers."""
    if isinstance(value, Tensor):
        if value.numel() > 96:
            return f"tensor of shape {list(value.shape)}"
        if value.numel() == 0:
            return f"[], shape {list(value.shape)}"
        return _nested(value.detach().tolist())
    if isinstance(value, Described):
        return f"<{value.text}>"
    if isinstance(value, list | tuple | dict) and len(value) > ITEMS:
        return f"{kind(value)} of {len(value)} values"
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
    error = outcome.error
    if error is None:
        return _labelled(label, "", outcome.value)
    if error.name in FATES:
        return f"  {label:8s}  no answer" + (" in time" if error.name == "TooLong" else "")
    message = f": {error.text[:150]}" if error.text else ""
    return f"  {label:8s}  {error.name}{message}"


def _filled(label: str, text: str) -> str:
    return textwrap.fill(f"  {label:8s}  {text}", WIDTH, subsequent_indent=" " * 12)
