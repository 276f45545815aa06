"""What a command says when something is wrong, and who of many processes says it."""

import contextlib
import functools
import os
import tempfile
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

USER_ERRORS = (ValueError, OSError, MemoryError, RuntimeError)  # others are ours: a traceback
WAIT = 3.0  # seconds in which the first process ends all, where all have the same to say


def fail(message: str, code: int = 2) -> typing.NoReturn:
    """End with the message, mostly one line, on stderr; of many processes only one says it."""
    complain(message)
    raise typer.Exit(code)


def complain(message: str) -> None:
    """Say what is wrong on stderr; of many processes that have the same to say, in one."""
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        time.sleep(WAIT)  # still here: the error is this process's alone
        message = f"process {rank}: {message}"
    typer.echo(f"error: {message}", err=True)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What is wrong with what was given is said, with exit code 2 and never a traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort):  # they are RuntimeErrors too: typer's own way to end
        raise
    except USER_ERRORS as error:
        text = str(error) or type(error).__name__
        no_memory = "out of memory" in text or "can't allocate memory" in text  # CUDA's, the CPU's
        if no_memory or isinstance(error, MemoryError):
            text = f"out of memory: a smaller --batch-size or smaller pictures help ({text})"
        fail(text, code=getattr(error, "exit_code", 2))


def whole_command(command: Callable[..., None]) -> Callable[..., None]:
    """A command all of whose errors are one line, said by one process of many."""

    @functools.wraps(command)
    def run(*args, **kwargs) -> None:
        with one_line_errors(), quiet_unless_first():
            command(*args, **kwargs)

    return run


@contextlib.contextmanager
def quiet_unless_first() -> Iterator[None]:
    """One of many processes speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def check_out(out: Path) -> None:
    """ValueError unless a folder ``out`` can be made or written to; leaves nothing there."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"--out {out}: {place} is a file; name a folder")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(
            f"--out {out}: {place} is not to be written to ({error.strerror}); name another folder"
        ) from error
