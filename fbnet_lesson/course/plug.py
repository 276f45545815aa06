"""``plug(nms=my_nms)``: the real detector with the learner's function inside."""

import contextlib
import functools
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.course.guard import TooLong, difference, kind, limited

CALL_SECONDS = 20.0  # for one call on real data


@contextlib.contextmanager
def plug(**functions: Callable) -> Iterator[None]:
    """Within the block the package calls ``functions``, by the names of their exercises.

    A function that is not written yet, raises, does not come to an end or returns something of
    another kind than the package's is reported, and the package's own goes on in its place: a
    notebook does not stop. Wrong *values* are passed on; to see what they do is what this is for.

    Raises:
        ValueError: for a name without an exercise.
        TypeError: for what is not a function.
    """
    for name, function in functions.items():
        if name not in EXERCISES:
            raise ValueError(f"there is no exercise {name!r}; there are: {', '.join(EXERCISES)}")
        if not callable(function):
            raise TypeError(f"plug({name}=...) takes a function, not {kind(function)}")
    watchers = {name: _Watcher(name, function) for name, function in functions.items()}
    with contextlib.ExitStack() as undo:
        for name, watcher in watchers.items():
            for path, replacement in EXERCISES[name].replacements(watcher.watched).items():
                undo.enter_context(_replaced(path, watcher.or_own(replacement, path)))
        try:
            yield
        except Exception as error:
            in_use = any(watcher.in_use for watcher in watchers.values())
            if not in_use or isinstance(error, AssertionError):
                raise  # no learner's function has a part in it, or someone wants to know
            print(
                f"with {_listed(watchers)} inside, this cell raises {type(error).__name__}: {error}"
            )
    for watcher in watchers.values():
        if watcher.finding:
            print(watcher.finding)


def _listed(names) -> str:
    return " and ".join(f"your {name}" for name in names)


class _Fallback(Exception):
    """The learner's function gave no answer to go on with."""


class _Watcher:
    """The learner's function, which after the first finding is not called any more."""

    def __init__(self, name: str, function: Callable):
        self.name, self.function, self.finding = name, function, ""
        self.answered: set[str] = set()  # paths in the package at which it has been compared

    @property
    def in_use(self) -> bool:
        return bool(self.answered) and not self.finding

    def watched(self, *args, **kwargs) -> Any:
        """Call the learner's function; anything that it raises becomes a ``_Fallback``."""
        if self.finding:
            raise _Fallback
        try:
            return limited(self.function, CALL_SECONDS, *args, **kwargs)
        except NotImplementedError:
            self.give_up("is not written yet")
        except TooLong:
            self.give_up(f"does not come to an end within {CALL_SECONDS:.0f} seconds")
        except Exception as error:
            text = str(error).splitlines()
            self.give_up(f"raises {type(error).__name__}" + (f": {text[0][:120]}" if text else ""))

    def give_up(self, finding: str) -> None:
        self.finding = f"{self.name} {finding}; the package's own is used in its place."
        raise _Fallback

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
        found = difference(_without_rows(expected), _without_rows(answer), math.inf, math.inf)
        if found and found.startswith("returns"):
            self.give_up(found)


def _apart(value: Any) -> Any:
    """A generator that can be drawn from without moving the given one; anything else as it is."""
    if not isinstance(value, torch.Generator):
        return value
    return torch.Generator(value.device).set_state(value.get_state())


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
