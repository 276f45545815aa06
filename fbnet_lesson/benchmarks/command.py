"""What ``fbnet-lesson bench`` does."""

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from fbnet_lesson.benchmarks.cases import Case, all_cases
from fbnet_lesson.benchmarks.profiles import profiles
from fbnet_lesson.benchmarks.report import HEAD, choose, heading, line, measure
from fbnet_lesson.benchmarks.scaling import all_curves, draw
from fbnet_lesson.files import atomic_file


def run(
    only: str,
    threads: int,
    seconds: float,
    table: bool,
    memory: bool,
    profile: bool,
    scaling: bool,
    out: Path | None,
) -> Iterator[str]:
    """Measure and give line after line; at the end write them to ``out``, if that is given.

    Raises:
        ValueError: if ``only`` matches nothing.
    """
    cases = choose(all_cases(), only)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        if table:
            yield from _table(cases, threads, seconds, memory, out)
        if profile:
            text = "\n".join(f"{title}\n\n{body}" for title, body in profiles().items())
            yield "\n" + text
            if out is not None:
                _write(out / "profiles.txt", text)
        if scaling:
            yield from _plots(seconds, out)
    finally:
        torch.set_num_threads(before)


def _table(
    cases: list[Case], threads: int, seconds: float, memory: bool, out: Path | None
) -> Iterator[str]:
    lines, rows, last = [], [], None
    lines.append(f"{threads} threads, {platform.machine()}, torch {torch.__version__}; medians")
    lines.append("of runs in turn; a ratio under 1 is in our favour; memory is what a call adds\n")
    lines.append(HEAD)
    yield from lines
    for row in measure(cases, seconds, threads, memory):
        rows.append(row)
        new = [line(row)]
        if last != (row.case.section, row.case.peer):
            last = (row.case.section, row.case.peer)
            new.insert(0, heading(row.case))
        lines += new
        yield from new
    if out is not None:
        _write(out / "table.txt", "\n".join(lines) + "\n")
        _write(out / "table.json", json.dumps([row.as_dict() for row in rows], indent=1) + "\n")


def _plots(seconds: float, out: Path) -> Iterator[str]:
    for name, curves in all_curves(seconds):
        with atomic_file(out / f"scaling_{name}.png") as file:
            draw(curves).savefig(file, format="png")
        yield f"{curves.title}: {out / f'scaling_{name}.png'}"
        for label, values in curves.y.items():
            points = [(x, y) for x, y in zip(curves.x, values, strict=True) if y == y]
            yield f"  {label}: " + ", ".join(f"{x:g}: {y:.2f}" for x, y in points)


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())
