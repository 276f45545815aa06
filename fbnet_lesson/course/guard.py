"""Calls of a learner's function that nothing gets out of: errors, endless loops, floods of text.

What a call came to is an ``Outcome``, made of plain data alone: it can be sent from one process to
another, and printing it runs none of the learner's code.
"""

import builtins
import contextlib
import ctypes
import functools
import inspect
import io
import linecache
import os
import random
import signal
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fbnet_lesson.course import originals
from fbnet_lesson.course.differences import Described, difference, kind

LINES_KEPT = 3  # of what a learner's function prints
AGAIN_SECONDS = 0.01  # a bare "except:" may have swallowed an interrupt


class TooLong(BaseException):
    """Raised inside a call that takes too long; no ``Exception``, so that no handler eats it."""


class AsksForInput(Exception):
    """Raised by ``input()`` during a call: nobody is there to type."""


@dataclass(frozen=True)
class Failure:
    """An error in words; the error itself stays in the process in which it was raised."""

    name: str  # "IndexError"; "TooLong" and "Ended" (of the process) are ours
    text: str = ""  # the first line of its message
    bases: tuple[str, ...] = ()  # the names of its class and those above it
    function: str = ""  # the innermost of the learner's functions that it went through
    line: str = ""  # and where in it: "line 4: keep[i] = True"


@dataclass(frozen=True)
class Outcome:
    """What one call came to: an answer, or the reason why there is none."""

    value: Any = None
    error: Failure | None = None
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    changed: tuple[str, ...] = ()  # arguments that were written into
    moved: tuple[str, ...] = ()  # what it left changed in Python and torch; it is put back
    printed: int = 0  # lines
    first_lines: tuple[str, ...] = ()


def call(
    function: Callable,
    case: dict[str, Any],
    seconds: float | None = 5.0,
    printed_elsewhere: Callable[[], str] = str,
) -> Outcome:
    """Call ``function`` with copies of the values of ``case``, by position, in this process.

    Random numbers begin anew at each call; ``fresh`` keeps those of the notebook.
    ``printed_elsewhere`` fetches what did not go through Python's streams.
    """
    text = BoundedText()
    run = functools.partial(limited, seconds=seconds) if seconds else lambda ready: ready()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        outcome = attempt(function, case, run)
    text.write(printed_elsewhere())
    if seconds and outcome.error is not None and outcome.error.name == "KeyboardInterrupt":
        raise KeyboardInterrupt  # the stop button
    return replace(outcome, printed=text.lines, first_lines=tuple(text.first))


def attempt(
    function: Callable, case: dict[str, Any], run: Callable = lambda ready: ready()
) -> Outcome:
    """``call`` without a limit, and printing where it prints; ``run`` may set a limit.

    The gradients are those of the answer, weighted so that no two of its elements count alike,
    for the arguments that require one.
    """
    given = {name: cloned(value) for name, value in case.items()}

    def ready() -> tuple[Any, dict]:
        value = function(*given.values())
        return portable(value), gradients(value, given)

    value, slopes, error = None, {}, None
    with as_before() as moved, no_input(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed()  # a function that draws gives the same answer every time
        try:
            value, slopes = run(ready)
        except BaseException as raised:  # SystemExit and TooLong too: the notebook goes on
            error = failure(raised)
    changed = tuple(name for name in case if difference(case[name], given[name], 0, 0))
    return Outcome(value, error, slopes, changed, tuple(moved))


def cloned(value: Any) -> Any:
    """A copy whose tensors, also those in lists, tuples and dicts, share no memory."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, list | tuple):
        return type(value)(map(cloned, value))
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    return value


def portable(value: Any) -> Any:
    """``value`` as plain data; what is none is ``Described``."""
    if value is None or type(value) in (bool, int, float, complex, str, bytes, torch.dtype):
        return value
    if isinstance(value, Tensor):
        if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
            return Described(f"a tensor of another make ({value.device}, {value.layout})")
        return value.detach().as_subclass(Tensor)
    if isinstance(value, np.ndarray | np.generic):
        return np.array(value)[()] if value.dtype.kind in "biufc" else Described(kind(value))
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(portable, value))
    if isinstance(value, dict):
        return {portable(key): portable(item) for key, item in value.items()}
    return Described(kind(value))


def gradients(value: Any, given: dict[str, Any]) -> dict[str, Tensor | None]:
    inputs = {n: v for n, v in given.items() if isinstance(v, Tensor) and v.requires_grad}
    if not inputs:
        return {}
    answers = [answer for answer in _tensors(value) if answer.requires_grad]
    if not answers:
        return dict.fromkeys(inputs)
    total = sum((a.flatten() * torch.arange(1, a.numel() + 1)).sum() for a in answers)
    return dict(
        zip(
            inputs,
            torch.autograd.grad(total, list(inputs.values()), allow_unused=True),
            strict=True,
        )
    )


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    return sum(map(_tensors, inner), []) if isinstance(value, dict | list | tuple) else []


# ------------------------------------------------------------------------------ what stays as it is


@contextlib.contextmanager
def as_before() -> Iterator[list[str]]:
    """Afterwards torch has the functions and settings from before, and this process its folder.

    Yields:
        a list, which holds in the end what had to be put back.
    """
    moved: list[str] = []
    dtype, grad, folder = torch.get_default_dtype(), torch.is_grad_enabled(), _folder()
    try:
        yield moved
    finally:
        moved += originals.restore()
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
            moved.append("the default dtype")
        if torch.is_grad_enabled() != grad:
            torch.set_grad_enabled(grad)
            moved.append("the grad mode")
        if folder and _folder() != folder:
            os.chdir(folder)
            moved.append("the working directory")


@contextlib.contextmanager
def fresh() -> Iterator[None]:
    """Inside, torch has the settings it starts with; afterwards they, the environment variables and
    the random numbers go on as if nothing had happened."""
    numbers, environment = random_states(), dict(os.environ)
    with as_before():
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        try:
            yield
        finally:
            set_random_states(numbers)
            if dict(os.environ) != environment:
                os.environ.clear()
                os.environ.update(environment)


def random_states() -> tuple:
    """Of torch, NumPy and Python."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def set_random_states(states: tuple) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def seed() -> None:
    """The next random numbers are the same every time."""
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return ""


@contextlib.contextmanager
def no_input() -> Iterator[None]:
    """Inside, ``input()`` raises, and IPython's ``exit()`` does what ``sys.exit()`` does."""

    def refuse(*_):
        raise AsksForInput("nobody is there to type")

    ipython = sys.modules.get("IPython")
    shell = (ipython and ipython.get_ipython()) or SimpleNamespace(ask_exit=None)
    before = builtins.input, shell.ask_exit
    builtins.input, shell.ask_exit = refuse, sys.exit
    try:
        yield
    finally:
        builtins.input, shell.ask_exit = before


class BoundedText(io.TextIOBase):
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
                self.first[-1] = (self.first[-1] + piece.rstrip("\r\n"))[:80]
            self._open = not piece.endswith("\n")
        return len(text)


# -------------------------------------------------------------------------------------- errors


def failure(error: BaseException) -> Failure:
    """``error`` in words, with the innermost line of it that the learner wrote."""
    name = type(error).__name__
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        name = "MemoryError"
    try:
        text = next(iter(str(error).splitlines()), "")
    except Exception:  # an error of the learner's own that cannot even be printed
        text = ""
    bases = tuple(base.__name__ for base in type(error).__mro__)
    function, line = _place(error)
    return Failure(name, text, bases, function, line)


def unwritten(error: Failure | None) -> str:
    """The name of the function of which ``error`` says that it is not written yet; "" if it says
    something else. (torch raises NotImplementedError too, with a text.)"""
    if error is None or error.name != "NotImplementedError":
        return ""
    if error.text and "raise NotImplementedError" not in error.line:
        return ""
    return error.function


def name_of(function: Callable) -> str:
    """The name under which ``function`` was written, below decorators that say what they wrap."""
    return getattr(inspect.unwrap(function), "__name__", "")


def _place(error: BaseException) -> tuple[str, str]:
    """The innermost of the learner's functions, and the line in it, counted from its ``def``."""
    steps = traceback.walk_tb(error.__traceback__)
    own = [(f.f_code, line) for f, line in steps if not _in_library(f.f_code.co_filename)]
    if not own or not own[-1][1]:
        return "", ""
    code, line = own[-1]
    for around, _ in reversed(own):  # a lambda or a comprehension stands in a function with a name
        if around.co_filename == code.co_filename and around.co_name[0] != "<":
            code = around
            break
    text = linecache.getline(code.co_filename, line).strip()
    number = line - code.co_firstlineno + 1
    return code.co_name, f"line {number}: {text}" if text and number > 0 else ""


@functools.cache
def _in_library(filename: str) -> bool:
    """Whether a file belongs to Python, to an installed package, or to this one."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    folders.add(str(Path(__file__).parents[1]))
    return filename.startswith(("<frozen", *(folder + os.sep for folder in folders)))


# --------------------------------------------------------------------------------------- limits


def limited(function: Callable, *args, seconds: float, **kwargs) -> Any:
    """``function(*args, **kwargs)``, or ``TooLong`` if that takes longer than ``seconds``.

    A single call into compiled code is not interrupted where there is no alarm signal (Windows,
    and other threads than the main one), only what follows it.
    """
    main = threading.current_thread() is threading.main_thread()
    within = _within_alarm if main and hasattr(signal, "setitimer") else _within_watch
    return within(functools.partial(function, *args, **kwargs), seconds)


def _within_alarm(function: Callable, seconds: float) -> Any:
    """Raise ``TooLong`` in the main thread by a signal, again and again until that ends it.

    No context managers here: a signal that is heard between two of their lines would undo them.
    """
    running, tracing = True, sys.gettrace()

    def ring(number, frame):
        if not running:
            return
        # A bare "except:" around the line that is running now swallows what is raised here. The
        # next line of that function, in the handler or behind it, raises once more.
        while frame is not None and frame.f_code is not _within_alarm.__code__:
            if not _in_library(frame.f_code.co_filename):
                frame.f_trace = at_next_line
            frame = frame.f_back
        sys.settrace(at_next_line)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        raise TooLong

    def at_next_line(frame, event, argument):
        if event == "line" and running:
            raise TooLong
        return at_next_line if event != "call" else None

    previous = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return function()
        finally:
            running = False  # from here on it does nothing
    finally:
        running = False  # it may have rung before it was set there
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        sys.settrace(tracing)


def _within_watch(function: Callable, seconds: float) -> Any:
    """The same without signals: another thread raises it in this one."""
    thread, over = ctypes.c_ulong(threading.get_ident()), threading.Event()

    def wait():
        patience = seconds
        while not over.wait(patience):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TooLong))
            patience = AGAIN_SECONDS

    watcher = threading.Thread(target=wait, daemon=True)
    watcher.start()
    try:
        return function()
    finally:
        late = 2  # one that is on its way is heard at a jump backwards
        while late:
            try:
                over.set()
                watcher.join()
                while late:
                    late -= 1
            except TooLong:
                pass
