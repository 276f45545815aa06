"""``plug(nms=my_nms)``: the real detector with the learner's function inside."""

import contextlib
import dataclasses
import functools
import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fbnet_lesson.course import originals
from fbnet_lesson.course.differences import difference, kind
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.course.guard import (
    BoundedText,
    TooLong,
    as_before,
    call,
    failure,
    fresh,
    limited,
    name_of,
    no_input,
    portable,
    random_states,
    set_random_states,
    unwritten,
)

CALL_SECONDS = 20.0  # for one call on real data
BLOCK_SECONDS = 60.0  # for all calls in a block
FIRST_SECONDS = 5.0  # for a first call, on a tiny input, that tells an endless loop from a slow one


@contextlib.contextmanager
def plug(**functions: Callable) -> Iterator[None]:
    """Within the block the package calls ``functions``, by the names of their exercises.

    A function that is not written yet, raises, does not come to an end, is slow or returns
    something of another kind than the package's is reported, and the package's own goes on in its
    place: a notebook does not stop. Wrong *values* are passed on; to see what they do is what this
    is for.

    Raises:
        ValueError: for a name without an exercise.
        TypeError: for what is not a function.
    """
    watchers = watch(functions)
    with plugged(watchers):
        yield
    tell(watchers)


def watch(functions: dict[str, Callable]) -> "list[Watcher]":
    """A watcher for each function; what is known of one before it is used, is said now.

    Raises:
        as ``plug``.
    """
    for name, function in functions.items():
        if name not in EXERCISES:
            raise ValueError(f"there is no exercise {name!r}; there are: {', '.join(EXERCISES)}")
        if not callable(function):
            raise TypeError(f"plug({name}=...) takes a function, not {kind(function)}")
    if replaced := originals.restore():
        print(f"{', '.join(replaced)} had been replaced by another function; torch's own is back.")
    watchers = [Watcher(name, function) for name, function in functions.items()]
    for watcher in watchers:
        watcher.try_out()
    tell(watchers)
    return watchers


@contextlib.contextmanager
def plugged(watchers: "list[Watcher]") -> Iterator[None]:
    """Within the block the package calls the functions that are watched."""
    with contextlib.ExitStack() as undo:
        for watcher in watchers:
            replacements = EXERCISES[watcher.name].replacements(watcher.watched)
            for path, replacement in replacements.items():
                undo.enter_context(_replaced(path, watcher.or_own(replacement, path)))
        try:
            yield
        except Exception as error:
            in_use = any(watcher.in_use for watcher in watchers)
            if not in_use or isinstance(error, AssertionError):
                raise  # no learner's function has a part in it, or someone wants to know
            names = " and ".join(f"your {watcher.name}" for watcher in watchers)
            print(f"with {names} inside, this cell raises {type(error).__name__}: {error}")


def tell(watchers: "list[Watcher]") -> None:
    """Print what was found and is not printed yet."""
    for watcher in watchers:
        for line in watcher.news():
            print(line)


class _Fallback(Exception):
    """The learner's function gave no answer to go on with."""


class Watcher:
    """The learner's function, which after the first finding is not called any more."""

    def __init__(self, name: str, function: Callable):
        self.name, self.function, self.finding = name, function, ""
        self.answered: set[str] = set()  # paths in the package at which it has been compared
        self.seconds, self.calls = 0.0, 0
        self.text = BoundedText()  # what it prints
        self.moved: dict[str, None] = {}  # what it changed in torch and Python, once each
        self.numbers: tuple | None = None  # its own random numbers, from call to call
        self.told: set[str] = set()

    @property
    def in_use(self) -> bool:
        return bool(self.answered) and not self.finding

    def try_out(self) -> None:
        """Call it on the first case of its exercise, to know whether it is written and returns."""
        exercise = EXERCISES[self.name]
        case = next((case for cases in exercise.edges.values() for case in cases), None)
        with fresh(), contextlib.suppress(_Fallback):
            error = call(self.function, case or exercise.random_cases[0], FIRST_SECONDS).error
            name = unwritten(error)
            if name and name in (name_of(self.function), self.name):
                self.give_up("is not written yet")
            if name in EXERCISES:
                self.give_up(f"calls {name}, which is not written yet")
            if error is not None and error.name == "TooLong":
                self.give_up("does not come to an end, not even on a small case")

    def watched(self, *args, **kwargs) -> Any:
        """Call the learner's function; anything that it raises becomes a ``_Fallback``."""
        if self.finding:
            raise _Fallback
        start = time.monotonic()
        try:
            with self.kept_apart():
                return limited(self.function, *args, seconds=CALL_SECONDS, **kwargs)
        except KeyboardInterrupt:
            raise  # the stop button
        except TooLong:
            self.give_up(f"is slow here (no answer within {CALL_SECONDS:.0f} seconds)")
        except SystemExit:
            self.give_up("calls exit(), which would end the notebook")
        except BaseException as raised:
            error = failure(raised)
            self.give_up(f"raises {error.name}" + (f": {error.text[:120]}" if error.text else ""))
        finally:
            self.calls += 1
            self.seconds += time.monotonic() - start

    @contextlib.contextmanager
    def kept_apart(self) -> Iterator[None]:
        """What it prints is collected; its random numbers and changed settings stay its own."""
        before = random_states()
        set_random_states(self.numbers or before)
        try:
            with (
                contextlib.redirect_stdout(self.text),
                contextlib.redirect_stderr(self.text),
                no_input(),
                as_before() as moved,
            ):
                yield
        finally:
            self.numbers = random_states()
            set_random_states(before)
            self.moved |= dict.fromkeys(moved)

    def give_up(self, finding: str) -> None:
        self.finding = f"{self.name} {finding}; the package's own is used in its place."
        raise _Fallback

    def news(self) -> Iterator[str]:
        """Lines about it that have not been given before."""
        lines = [self.finding]
        if self.moved:
            lines.append(f"{self.name} changes {', '.join(self.moved)}; that has been put back.")
        if self.text.lines:
            more = self.text.lines - len(self.text.first)
            shown = "\n  ".join([*self.text.first] + ([f"... {more} more lines"] if more else []))
            lines.append(f"{self.name} prints\n  {shown}")
        yield from (line for line in lines if line and line not in self.told)
        self.told.update(lines)

    def or_own(self, replacement: Callable, path: str) -> Callable:
        """``replacement``, or where it gives nothing to go on with, the package's own."""
        own = resolve(path)

        @functools.wraps(own)
        def call(*args, **kwargs):
            given = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Generator)]
            states = [generator.get_state() for generator in given]

            def package_s_own():
                for generator, state in zip(given, states, strict=True):
                    generator.set_state(state)  # the learner's function may have drawn from it
                return own(*args, **kwargs)

            try:
                answer = replacement(*args, **kwargs)
                if self.seconds > BLOCK_SECONDS and not self.finding:
                    spent = f"{self.calls} calls took {self.seconds:.0f} seconds"
                    with contextlib.suppress(_Fallback):  # this answer is still of use
                        self.give_up(f"is slow here ({spent})")
                if path not in self.answered and not _is_method(path):  # those keep a state
                    self.compare(answer, own, args, kwargs)
                self.answered.add(path)
                return answer
            except _Fallback:
                return package_s_own()
            except Exception as error:  # the adapter could not use what the learner's returned
                with contextlib.suppress(_Fallback):
                    self.give_up(f"returns what the detector cannot use ({error})")
                return package_s_own()

        return call

    def compare(self, answer: Any, own: Callable, args: tuple, kwargs: dict) -> None:
        """Type, dtype and shape have to be those of the package's own answer; values, and with
        them the number of rows, may differ."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            expected = own(*map(_apart, args), **{k: _apart(v) for k, v in kwargs.items()})
        found = difference(
            _without_rows(_fields(expected)),
            _without_rows(portable(_fields(answer))),
            math.inf,
            math.inf,
        )
        if found and found.of_kind:
            self.give_up(found.text)


def _apart(value: Any) -> Any:
    """A generator that can be drawn from without moving the given one; anything else as it is."""
    if not isinstance(value, torch.Generator):
        return value
    return torch.Generator(value.device).set_state(value.get_state())


def _fields(value: Any) -> Any:
    """The values of a dataclass, as ``Detections``, in a list; anything else as it is."""
    return list(vars(value).values()) if dataclasses.is_dataclass(value) else value


def _without_rows(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim():
        return value[:0]
    if isinstance(value, list | tuple):
        return [_without_rows(item) for item in value]
    return value


def _is_method(path: str) -> bool:
    module, holder, _ = _parts(path)
    return holder is not module


def resolve(path: str) -> Any:
    """The object at a dotted path in ``fbnet_lesson``, or at one that begins with ``torch.``."""
    _, holder, attribute = _parts(path)
    return getattr(holder, attribute)


def _parts(path: str) -> tuple[Any, Any, str]:
    """``"norms.GN.forward"`` -> (module, the object that holds the attribute, its name)."""
    full = path if path.startswith("torch.") else f"fbnet_lesson.{path}"
    names = full.split(".")
    for end in range(len(names) - 1, 0, -1):
        try:
            module = importlib.import_module(".".join(names[:end]))
        except ModuleNotFoundError:
            continue
        with contextlib.suppress(AttributeError):
            return module, functools.reduce(getattr, names[end:-1], module), names[-1]
    raise ValueError(f"nothing can be plugged in at {path!r}")


@contextlib.contextmanager
def _replaced(path: str, replacement: Callable) -> Iterator[None]:
    """Put ``replacement`` wherever the package knows the object at ``path`` by a name."""
    module, holder, attribute = _parts(path)
    original = getattr(holder, attribute)
    places = [(holder, attribute)]
    if holder is module:  # a function that other modules have imported
        modules = [m for name, m in sys.modules.items() if name.startswith("fbnet_lesson.")]
        places += [
            (user, name)
            for user in modules
            if not user.__name__.startswith("fbnet_lesson.course") and user is not module
            for name, value in vars(user).items()
            if value is original
        ]
    for user, name in places:
        setattr(user, name, replacement)
    try:
        yield
    finally:
        for user, name in places:
            setattr(user, name, original)
