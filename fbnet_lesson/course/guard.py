"""Calls of a learner's function that nothing gets out of: errors, endless loops, floods of text.

What a call came to is an ``Outcome``; whether two outcomes are the same is decided here too.
"""

import _thread
import contextlib
import inspect
import io
import linecache
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

LINES_KEPT = 3  # of what a learner's function prints


class TooLong(BaseException):
    """Raised inside a call that takes too long; no ``Exception``, so that no handler eats it."""


@dataclass(frozen=True)
class Outcome:
    """What one call came to: an answer, or the reason why there is none."""

    value: Any = None
    error: BaseException | None = None
    line: str = ""  # of the learner's code that raised
    changed: tuple[str, ...] = ()  # arguments that were written into
    printed: int = 0  # lines
    first_lines: tuple[str, ...] = ()


def call(function: Callable, case: dict[str, Any], seconds: float = 5.0) -> Outcome:
    """Call ``function`` with copies of the values of ``case``, by position."""
    given = {name: cloned(value) for name, value in case.items()}
    text, value, error, line = _BoundedText(), None, None, ""
    with (
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)  # a function that draws gives the same answer every time
        try:
            value = limited(function, seconds, *given.values())
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # SystemExit and TooLong too: the notebook goes on
            error, line = raised, _learner_line(raised, function)
    changed = tuple(name for name in case if difference(case[name], given[name], 0, 0))
    return Outcome(value, error, line, changed, text.lines, tuple(text.first))


def difference(expected: Any, got: Any, rtol: float, atol: float) -> str | None:
    """How ``got`` differs from ``expected``, as the end of "it ...", or None if it does not.

    Tensors have to agree in dtype and shape, then in their values, floats within ``rtol`` and
    ``atol``. A tuple may be given as a list; a float may be given as a whole number.
    """
    if isinstance(expected, Tensor):
        if not isinstance(got, Tensor):
            return f"returns {kind(got)}, expected is a tensor"
        if got.shape != expected.shape:
            return f"returns shape {list(got.shape)}, expected is {list(expected.shape)}"
        if got.dtype != expected.dtype:
            return f"returns dtype {_dtype(got)}, expected is {_dtype(expected)}"
        if expected.is_floating_point():
            same = torch.allclose(got.detach(), expected.detach(), rtol, atol, equal_nan=True)
        else:
            same = torch.equal(got, expected)
        return None if same else "gives other values"
    if isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple):
            return f"returns {kind(got)}, expected are {len(expected)} values"
        if len(got) != len(expected):
            return f"returns {len(got)} values, expected are {len(expected)}"
        pairs = zip(expected, got, strict=True)
        return next(filter(None, (difference(a, b, rtol, atol) for a, b in pairs)), None)
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return f"returns {kind(got)}, expected is a dict"
        if list(got) != list(expected) and set(got) != set(expected):
            return f"returns the keys {sorted(map(str, got))}, expected are {sorted(expected)}"
        pairs = ((expected[key], got[key]) for key in expected)
        return next(filter(None, (difference(a, b, rtol, atol) for a, b in pairs)), None)
    if isinstance(expected, bool) or not isinstance(expected, int | float):
        if type(got) is not type(expected):
            return f"returns {kind(got)}, expected is {kind(expected)}"
        return None if got is expected or got == expected else "gives another value"
    allowed = (int, float) if isinstance(expected, float) else (int,)
    if isinstance(got, bool) or not isinstance(got, allowed):
        return f"returns {kind(got)}, expected is {kind(expected)}"
    if got == expected or (got != got and expected != expected):
        return None
    return None if abs(got - expected) <= atol + rtol * abs(expected) else "gives another value"


def kind(value: Any) -> str:
    """``"a list"``, ``"nothing (None)"``, ``"a tensor"``."""
    if value is None:
        return "nothing (None)"
    name = "tensor" if isinstance(value, Tensor) else type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def cloned(value: Any) -> Any:
    """A copy whose tensors, also those in lists, tuples and dicts, share no memory."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(map(cloned, value))
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    return value


def limited(function: Callable, seconds: float, *args, **kwargs) -> Any:
    """``function(*args, **kwargs)``, or ``TooLong`` if that takes longer than ``seconds``.

    A thread with a watch interrupts the main thread as Ctrl-C would, which works on every system;
    in another thread than the main one there is no limit. A single call into compiled code is
    not interrupted, only what follows it.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*args, **kwargs)
    watch = SimpleNamespace(running=True, rang=False, over=threading.Event())
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number, frame):
        if not watch.rang:
            return previous(number, frame)  # Ctrl-C, or the stop button
        watch.rang = False
        if watch.running:
            raise TooLong

    def wait():
        patience = seconds
        while not watch.over.wait(patience):
            watch.rang = True
            _thread.interrupt_main()
            patience = 0.01  # a bare "except:" may swallow it: again, until it hits beside one

    watcher = threading.Thread(target=wait, daemon=True)
    start = time.monotonic()
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        try:
            watcher.start()
            value = function(*args, **kwargs)
        finally:
            watch.running = False  # from here on an interrupt does nothing
    finally:
        watch.over.set()
        watcher.join()
        for _ in range(100):  # one that is on its way is heard at a jump backwards
            pass
        signal.signal(signal.SIGINT, previous)
    if time.monotonic() - start > seconds:
        raise TooLong
    return value


class _BoundedText(io.TextIOBase):
    """Counts the lines written to it and keeps the first few, shortened."""

    def __init__(self):
        self.lines, self.first, self._open = 0, [], False

    def write(self, text: str) -> int:
        for piece in text.splitlines(keepends=True):
            if not self._open:
                self.lines += 1
                if self.lines <= LINES_KEPT:
                    self.first.append("")
            if self.lines <= LINES_KEPT:
                self.first[-1] = (self.first[-1] + piece.rstrip("\n"))[:80]
            self._open = not piece.endswith("\n")
        return len(text)


def _learner_line(error: BaseException, function: Callable) -> str:
    """``"line 4: keep[i] = True"`` of the innermost line of the function's own file."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    if not own or not own[-1].lineno:
        return ""
    text = linecache.getline(own[-1].filename, own[-1].lineno).strip()
    return f"line {own[-1].lineno - code.co_firstlineno + 1}: {text}" if text else ""


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
