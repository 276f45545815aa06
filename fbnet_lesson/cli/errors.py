"""What a command says when something is wrong, and who of many processes says it."""

import contextlib
import os
import typing
from collections.abc import Iterator

import typer


def fail(message: str, code: int = 2) -> typing.NoReturn:
    """End with the message, mostly one line, on stderr."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What is wrong with the options is said, with exit code 2 and never a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        fail(str(error))


@contextlib.contextmanager
def quiet_unless_first() -> Iterator[None]:
    """One of many processes speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
