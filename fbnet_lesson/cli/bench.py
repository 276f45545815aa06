"""``bench``: ours beside the peers."""

from pathlib import Path
from typing import Annotated

import typer

from fbnet_lesson.cli.errors import fail, one_line_errors


def bench(
    only: Annotated[str, typer.Option(help="rows whose section or name contains this")] = "",
    threads: Annotated[int, typer.Option(min=1, help="of PyTorch")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="for each row, about")] = 3.0,
    table: Annotated[bool, typer.Option(help="the comparison, row by row")] = True,
    memory: Annotated[bool, typer.Option(help="measure peak memory too (Linux)")] = True,
    profile: Annotated[bool, typer.Option("--profile", help="and where the time goes")] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="and plots over batch, size, ROIs, threads, processes")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="write table, profiles and plots to this folder")
    ] = None,
) -> None:
    """Ours against the peers in the same run: time and memory, as ratios."""
    if scaling and out is None:
        fail("--scaling draws plots: --out says to which folder")
    from fbnet_lesson.benchmarks.command import run

    with one_line_errors():
        for text in run(only, threads, seconds, table, memory, profile, scaling, out):
            typer.echo(text)
