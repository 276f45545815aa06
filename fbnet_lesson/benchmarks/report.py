"""The table of ``fbnet-lesson bench``: ours against the peer, time and memory."""

import contextlib
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

from fbnet_lesson.benchmarks.cases import Case
from fbnet_lesson.benchmarks.measure import memory_of_cases, take_turns


@dataclass(frozen=True)
class Row:
    """One case, measured: ms and MB of ours and of the peer (None: not measured)."""

    case: Case
    ms: tuple[float, float]
    mb: tuple[float | None, float | None]

    def as_dict(self) -> dict:
        names = {"section": self.case.section, "name": self.case.name, "peer": self.case.peer}
        return {**names, "ms": self.ms, "ratio": self.ms[0] / self.ms[1], "mb": self.mb}


def choose(cases: list[Case], pattern: str) -> list[Case]:
    """The cases whose section or name contains or matches ``pattern``.

    Raises:
        ValueError: if none does.
    """
    chosen = [
        case
        for case in cases
        if any(fnmatch.fnmatch(text, f"*{pattern}*") for text in (case.section, case.name))
    ]
    if not chosen:
        sections = ", ".join(dict.fromkeys(case.section for case in cases))
        raise ValueError(f"no benchmark matches {pattern!r}; sections are: {sections}")
    return chosen


def measure(cases: list[Case], seconds: float, threads: int, memory: bool) -> Iterator[Row]:
    """One row after the other; memory is measured beforehand, in a process of its own."""
    megabytes = memory_of_cases(cases, threads) if memory else {}
    for case in cases:
        with contextlib.redirect_stdout(None):  # pycocotools talks
            functions = list(case.build())
        ours, peers = take_turns(functions, seconds)
        yield Row(case, (ours, peers), tuple(megabytes.get(case.key, (None, None))))


HEAD = (
    f"{'':58} {'time, ms':>17} {'ratio':>6}  {'memory, MB':>15}\n"
    f"{'':58} {'ours':>8} {'peer':>8} {'':>6}  {'ours':>7} {'peer':>7}"
)


def line(row: Row) -> str:
    """The row as text, as wide as ``HEAD``."""
    ours, peers = row.ms
    memory = " ".join(f"{'-' if mb is None else format(mb, '.1f'):>7}" for mb in row.mb)
    return f"  {row.case.name:56} {ours:8.2f} {peers:8.2f} {ours / peers:6.2f}  {memory}"


def heading(case: Case) -> str:
    """What comes before the first row of a section, or of another peer."""
    return f"{case.section}\n  against {case.peer}"
