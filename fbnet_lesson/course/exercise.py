"""An exercise: a function of the package to write anew, how it is tested, and the usual mistakes.

The function's own source gives the stub (signature and docstring) and the solution, so that
nothing is written twice; a wrong answer is mostly an edit of that source.
"""

import ast
import contextlib
import inspect
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.strategies import SearchStrategy

from fbnet_lesson.course.guard import Outcome, attempt, call

Case = dict[str, Any]  # argument name -> value, in the order of the signature
# Hypothesis keeps a cache; not in the folder of the notebook.
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "fbnet_lesson_hypothesis")
SETTINGS = hypothesis.settings(
    database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
STUB_BODY = "raise NotImplementedError  # replace this line"


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people write, and what they are told.

    ``edits`` turn the solution's source into the wrong answer, each ``old`` occurring there exactly
    once; where that does not do, ``wrong`` is the wrong function itself.
    """

    name: str  # a statement about the learner's function: "keeps no box at the threshold"
    hint: str
    edits: Mapping[str, str] = field(default_factory=dict)
    wrong: Callable | None = None

    def __post_init__(self):
        if bool(self.edits) == bool(self.wrong):
            raise ValueError(f"mistake {self.name!r} needs either edits or a wrong function")

    def function(self, solution: Callable) -> Callable:
        """The wrong answer, to be called as ``solution`` is."""
        if self.wrong:
            return self.wrong
        return compiled(self.applied(function_source(solution)), solution)

    def applied(self, source: str) -> str:
        """``source`` with the edits.

        Raises:
            ValueError: if one of them does not fit it.
        """
        for old, new in self.edits.items():
            if source.count(old) != 1:
                raise ValueError(
                    f"mistake {self.name!r}: {old!r} occurs {source.count(old)} times "
                    "in the source; expected once"
                )
            source = source.replace(old, new)
        return source


class Trial(NamedTuple):
    """A case that every answer is tried on, and what is expected of it."""

    edge: str  # the property that it shows; none, if Hypothesis made it
    case: Case
    expected: Outcome


class WrongAnswer:
    """One of the exercise's mistakes, or two at once, and what it answers to the trials."""

    def __init__(self, mistakes: tuple[Mistake, ...], function: Callable, trials: list[Trial]):
        self.mistakes, self.function, self._trials = mistakes, function, trials
        self._outcomes: dict[int, Outcome] = {}

    def outcome(self, trial: int) -> Outcome:
        if trial not in self._outcomes:
            self._outcomes[trial] = call(self.function, self._trials[trial].case)
        return self._outcomes[trial]


@dataclass(frozen=True)
class Exercise:
    """One function to write.

    A learner's function is called with the values of a case, by position, and compared with
    ``oracle`` on the edge cases first, then on ``examples`` cases that Hypothesis makes.
    """

    solution: Callable
    cases: SearchStrategy  # of Case
    edges: Mapping[str, Sequence[Case]]  # property in words -> small cases that show it
    mistakes: Sequence[Mistake]
    hint: str  # where no mistake of the list fits
    oracle: Callable | None = None  # None: the solution
    draw: Callable[[Case, Any, Any], None] | None = None  # (case, expected, got); None: as grids
    plug: Callable[[Callable], dict[str, Callable]] | None = None  # dotted path -> replacement
    rtol: float = 1e-4
    atol: float = 1e-5
    examples: int = 100
    difficulty: int = 2  # 1 to 3, shown as ●●○
    minutes: int = 10  # that most learners need

    def __post_init__(self):
        def in_order(case: Case) -> Case:
            unknown = [name for name in case if name not in parameters]
            if unknown or list(parameters)[: len(case)] != [n for n in parameters if n in case]:
                raise ValueError(
                    f"a case of {self.name} has {list(case)}, the function takes {list(parameters)}"
                )
            return {name: case[name] for name in parameters if name in case}

        parameters = inspect.signature(self.solution).parameters
        edges = {edge: [in_order(case) for case in cases] for edge, cases in self.edges.items()}
        object.__setattr__(self, "edges", edges)
        # Hypothesis shuffles the keys of a dictionary; the values are given by position.
        object.__setattr__(self, "cases", self.cases.map(in_order))

    @property
    def name(self) -> str:
        return self.solution.__name__

    @property
    def path(self) -> str:
        """Where the solution lies in the package: ``"detection.boxes.box_area"``."""
        module = self.solution.__module__.removeprefix("fbnet_lesson.")
        return f"{module}.{self.solution.__qualname__}"

    @cached_property
    def stub(self) -> str:
        return stub_source(self.solution)

    @cached_property
    def random_cases(self) -> list[Case]:
        """What Hypothesis makes of ``cases``, the same in every run."""
        made: list[Case] = []

        @hypothesis.seed(0)
        @hypothesis.settings(
            SETTINGS, max_examples=self.examples, phases=[hypothesis.Phase.generate]
        )
        @hypothesis.given(self.cases)
        def collect(case):
            made.append(case)

        collect()
        return made

    @cached_property
    def trials(self) -> list[Trial]:
        """The edge cases, then the random ones, each with the outcome that is expected."""
        cases = [(edge, case) for edge, found in self.edges.items() for case in found]
        cases += [("", case) for case in self.random_cases]
        return [Trial(edge, case, self.expected(case)) for edge, case in cases]

    def expected(self, case: Case) -> Outcome:
        return attempt(self.oracle or self.solution, case)

    @cached_property
    def wrong_answers(self) -> list[WrongAnswer]:
        return [WrongAnswer((m,), m.function(self.solution), self.trials) for m in self.mistakes]

    @cached_property
    def pairs(self) -> list[WrongAnswer]:
        """Two mistakes at once, where both are edits and fit one upon the other."""
        source, found = function_source(self.solution), {}
        for pair in permutations([m for m in self.mistakes if m.edits], 2):
            with contextlib.suppress(ValueError, SyntaxError):  # the first is in the second's way
                both = compiled(pair[1].applied(pair[0].applied(source)), self.solution)
                in_order = tuple(sorted(pair, key=self.mistakes.index))
                found[tuple(m.name for m in in_order)] = WrongAnswer(in_order, both, self.trials)
        return list(found.values())

    def replacements(self, function: Callable) -> dict[str, Callable]:
        """What ``plug`` puts into the package for the learner's ``function``."""
        return self.plug(function) if self.plug else {self.path: function}


def function_source(function: Callable) -> str:
    """The text of a function as it stands in its file, from decorator to last line."""
    return textwrap.dedent(inspect.getsource(function)).rstrip()


def stub_source(function: Callable) -> str:
    """The function's signature and docstring, and a body that says it is not written.

    Raises:
        ValueError: if it has no docstring, and so no specification.
    """
    source = function_source(function)
    (definition,) = ast.parse(source).body
    if ast.get_docstring(definition) is None:
        raise ValueError(f"{function.__name__} has no docstring, so it cannot be an exercise")
    docstring = definition.body[0]
    head = source.splitlines()[: docstring.end_lineno]
    return "\n".join([*head, " " * docstring.col_offset + STUB_BODY])


def compiled(source: str, like: Callable, filename: str = "<wrong answer>") -> Callable:
    """The function that ``source`` defines, with the names that the module of ``like`` knows."""
    namespace = dict(vars(sys.modules[like.__module__]))
    exec(compile(source, filename, "exec"), namespace)
    return namespace[like.__name__]
