"""``mine(nms)``: the learner's own function, once it has passed its check.

What passes is kept in the kernel and, as source, with the progress: the function, the helpers of
the notebook that it calls, the constants it reads and the imports it needs. A later kernel compiles
that anew, tries it on the exercise's edge cases, and counts with it.
"""

import ast
import contextlib
import dataclasses
import difflib
import inspect
import linecache
import math
import symtable
import sys
import textwrap
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies
from torch import Tensor

from fbnet_lesson.course import progress
from fbnet_lesson.course.differences import kind
from fbnet_lesson.course.exercise import STUB_BODY, Exercise
from fbnet_lesson.course.exercises import EXERCISES

if TYPE_CHECKING:
    from fbnet_lesson.course.check import Report

LONGEST = 20_000  # characters of a kept source
SMALL = 100  # elements of a tensor that is written out
PLAIN = (bool, int, float, complex, str, bytes, tuple, list, dict, set, type(None))

_passed: dict[str, Callable] = {}  # in this kernel, by the exercise's name
_revived: dict[str, tuple[str, Callable | None]] = {}  # of earlier ones: source and function
_said: set[str] = set()  # exercises of which it has been said that they are not kept
_refused: dict[str, tuple[Callable, int | None]] = {}  # by name: what was last, and in which cell


class NotKept(Exception):
    """Why a function cannot be kept as source, as the end of "it ..."."""


def mine(function: Callable | str) -> Callable:
    """The learner's own function of this exercise if it passed its check, else the course's.

    ``mine(nms)`` or ``mine("nms")``. What passed last counts, in this kernel, else in an earlier
    one on this machine; if ``function`` has been written anew since and was not checked, or is
    wrong, a line says so, once in a cell.

    Raises:
        ValueError: if there is no exercise of that name.
    """
    name = function if isinstance(function, str) else getattr(function, "__name__", kind(function))
    if name not in EXERCISES:
        near = difflib.get_close_matches(name, EXERCISES, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are: {', '.join(EXERCISES)}"
        raise ValueError(f"there is no exercise {name!r}; {known}")
    exercise = EXERCISES[name]
    chosen = _passed.get(name) or revived(exercise)
    if not isinstance(function, str) and is_new(function, chosen, exercise):
        told, _refused[name] = _refused.get(name), (function, cell_number())
        if told != _refused[name]:
            used = "the one that passed before" if chosen else "the course's own"
            print(f"mine: this {name} has not passed its check; {used} is used. Run check({name}).")
    return chosen or exercise.solution


def cell_number() -> int | None:
    """The number of the cell that runs; None outside of a notebook."""
    ipython = sys.modules.get("IPython")  # which a notebook's kernel has imported
    shell = ipython and ipython.get_ipython()
    return shell.execution_count if shell else None


def keep(report: "Report", function: Callable) -> str | None:
    """Remember what a check has found: the pass, or the mistake.

    Returns:
        a line for the learner if something is to be said of it; it never raises.
    """
    if report.state == "passed":
        return remember(report.exercise, function)
    # A lesson that shows what a mistake looks like does so with an inner function.
    if report.state == "failed" and "<locals>" not in getattr(function, "__qualname__", ""):
        return progress.record_finding(report.exercise.name, report.mistake)
    return None


def remember(exercise: Exercise, function: Callable) -> str | None:
    """Keep ``function``, which has just passed.

    Returns:
        a line for the learner if it cannot be kept for later, or not all of it; it never raises.
    """
    _passed[exercise.name] = function
    source, reason = None, None
    try:
        if progress.progress_file() is not None:
            source = kept_source(function)
            if not agrees(exercise, compiled(source, exercise.name)):
                raise NotKept("gives other answers outside this notebook")
    except NotKept as error:
        source, reason = None, error
    except Exception as error:
        source, reason = None, f"raises {type(error).__name__} outside this notebook"
    lines = [progress.record(exercise.name, source)]
    if reason and exercise.name not in _said:
        _said.add(exercise.name)
        lines.append(
            f"mine: this {exercise.name} counts in this notebook, and is not kept for others: "
            f"it {reason}."
        )
    return "\n".join(filter(None, lines)) or None


def revived(exercise: Exercise) -> Callable | None:
    """The function that passed in an earlier kernel, if it is still right."""
    source = progress.sources().get(exercise.name)
    if source is None:
        return None
    if _revived.get(exercise.name, ("", None))[0] != source:
        function = None
        try:
            function = compiled(source, exercise.name)
            right = agrees(exercise, function)
        except Exception:  # of another Python, or of a helper that is no longer there
            right = False
        _revived[exercise.name] = source, function if right else None
        if not right:
            print(
                f"mine: your {exercise.name} of an earlier day does not pass any more; "
                "the course's own is used."
            )
    return _revived[exercise.name][1]


def is_new(function: Callable, chosen: Callable | None, exercise: Exercise) -> bool:
    """Whether ``function`` is the learner's, written, and not the ``chosen`` one."""
    if function is chosen or function is exercise.solution:
        return False
    source = own_source(function)
    return STUB_BODY not in source and (chosen is None or source != own_source(chosen))


def own_source(function: Callable) -> str:
    """The function's text, "" if there is none."""
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(function))).strip()
    except (OSError, TypeError):
        return ""


def agrees(exercise: Exercise, function: Callable) -> bool:
    """Whether ``function`` is right on the first case of each property: milliseconds, where a
    whole check takes a second."""
    from fbnet_lesson.course.check import examine  # which imports this module

    edges = {edge: cases[:1] for edge, cases in exercise.edges.items()}
    (case, *_), *_ = edges.values()
    short = dataclasses.replace(exercise, edges=edges, cases=strategies.just(case), examples=1)
    return examine(short, function, shrink=False).state == "passed"


# ------------------------------------------------------------------- a function as text, and back


def compiled(source: str, name: str) -> Callable:
    """The function ``name`` that a kept source defines, in a namespace of its own."""
    filename = f"<your {name}>"
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)  # for tracebacks
    namespace = {"__name__": f"your {name}"}
    exec(compile(source, filename, "exec", dont_inherit=True), namespace)
    return namespace[name]


def kept_source(function: Callable) -> str:
    """The function and all that it needs, as source that stands alone.

    Raises:
        NotKept: says what cannot be written down.
    """
    parts: dict[str, str] = {}  # name in the notebook -> what defines it, each behind its needs
    _collect(function.__name__, function, parts)
    source = "\n\n".join(parts.values()) + "\n"
    if len(source) > LONGEST:
        raise NotKept(f"is longer than {LONGEST:,} characters, with what it calls")
    return source


def _collect(name: str, value: Any, parts: dict[str, str]) -> None:
    """Put into ``parts`` how ``name`` comes to be ``value``."""
    if name in parts:
        return
    if isinstance(value, FunctionType) and not _where(name, value):
        inner = inspect.unwrap(value)
        text = _definition(inner)
        parts[name] = ""  # under way: it may call itself
        for used in sorted(_names_used(text) & set(inner.__globals__)):
            _collect(used, inner.__globals__[used], parts)
        del parts[name]  # behind what it needs
        alias = "" if inner.__name__ == name else f"\n\n\n{name} = {inner.__name__}"
        parts[name] = text + alias
    else:
        parts[name] = _import_of(name, value) or f"{name} = {_literal(name, value)}"


def _definition(function: Callable) -> str:
    if function.__closure__:
        names = " and ".join(function.__code__.co_freevars)
        raise NotKept(f"uses {names} of the function around {function.__name__}")
    text = own_source(function)
    try:
        (node,) = ast.parse(text).body
    except (SyntaxError, ValueError):
        node = None
    if not isinstance(node, ast.FunctionDef):
        raise NotKept(f"needs the text of {function.__name__}, which is not there")
    return text


def _names_used(source: str) -> set[str]:
    """The names that ``source`` takes from outside: no locals, no attributes."""

    def walk(table: symtable.SymbolTable) -> set[str]:
        outside = table.get_type() == "module"
        own = {s.get_name() for s in table.get_symbols() if outside or s.is_global()}
        return own.union(*map(walk, table.get_children()))

    return walk(symtable.symtable(source, "<cell>", "exec")) - {ast.parse(source).body[0].name}


def _where(name: str, value: Any) -> tuple[str, str] | None:
    """The module that holds ``value`` and its name there, for ``from module import name``."""
    home = getattr(value, "__module__", None)
    # torch.exp and its like do not know their module, a function does.
    others = () if isinstance(value, FunctionType) else sorted(sys.modules, key=len)
    for module in dict.fromkeys((home, *others)):
        held = getattr(sys.modules.get(module), "__dict__", {}) if module != "__main__" else {}
        for attribute in (getattr(value, "__name__", str(value).removeprefix("torch.")), name):
            if held.get(attribute) is value:
                return module, attribute
    return None


def _import_of(name: str, value: Any) -> str | None:
    """The line that imports ``value``, None if it is nothing to be imported."""
    if isinstance(value, ModuleType):
        same = value.__name__ == name
        return f"import {name}" if same else f"import {value.__name__} as {name}"
    place = _where(name, value) if callable(value) or isinstance(value, torch.dtype) else None
    if place is None:
        return None
    module, attribute = place
    return f"from {module} import {attribute}" + ("" if attribute == name else f" as {name}")


def _literal(name: str, value: Any) -> str:
    """``value`` as an expression.

    Raises:
        NotKept: if it is no plain constant.
    """
    if isinstance(value, Tensor) and value.numel() <= SMALL and not value.requires_grad:
        made = f"tensor({value.tolist()}, dtype=__import__('torch').{str(value.dtype)[6:]})"
        return f"__import__('torch').{made}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    with contextlib.suppress(SyntaxError, ValueError, TypeError):
        if isinstance(value, PLAIN) and ast.literal_eval(repr(value)) == value:
            return repr(value)
    raise NotKept(f"uses {name}, {kind(value)} of this notebook")
