"""A pytest plugin that holds the notebooks to their run budgets, as ``make test`` loads it.

The first cell of a lesson states its budget in a table: ``| 60 | lessons 00, 04 | 25 s, 900 MB, no
network |``. After the cells of each notebook that nbval runs comes one more test, ``budget``: it
fails if the cells took more than twice the seconds, or the kernel more than twice the memory; for a
slower machine there is the factor of two. It fails too if more than ``HARD_LIMIT`` is stated, or
more of its memory used, and if there is no budget.

Seconds are those that the kernel and the processes that it started kept a processor busy, from its
start on: other work on the machine does not count. Memory is the peak of
the kernel's resident memory (VmHWM of Linux's /proc) or, if that is more, the largest sum of it and
the pages that the processes it started have for themselves, seen five times a second: what all
share, library pages or those of a forked process that nobody has written to, counts once. Where
there is no /proc (macOS), seconds are those of the cells on the clock, and memory is not measured.
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

MARGIN = 2
SAMPLE_SECONDS = 0.2
PROC = Path("/proc")
BUDGET = re.compile(r"\|\s*([\d.]+) s, ([\d.]+) (MB|GB), no network\s*\|")


@dataclass(frozen=True)
class Budget:
    seconds: float
    megabytes: float  # of a million bytes


HARD_LIMIT = Budget(30, 1500)  # of what is stated, and of the memory that is measured
PROPERTY = "run budget"  # what a report carries from a worker to the summary
COLLECTED = pytest.StashKey["Collected"]()


def stated_budget(text: str) -> Budget | None:
    """The run budget in the table of a lesson's first cell: ``25 s, 900 MB, no network``."""
    found = BUDGET.search(text)
    if not found:
        return None
    seconds, size, unit = found.groups()
    return Budget(float(seconds), float(size) * (1000 if unit == "GB" else 1))


def overspent(stated: Budget, seconds: float, megabytes: float | None) -> list[str]:
    """What is too much, in sentences; ``megabytes`` None: not measured."""
    found = []
    amounts = [
        ("s", stated.seconds, HARD_LIMIT.seconds, seconds),
        ("MB", stated.megabytes, HARD_LIMIT.megabytes, megabytes),
    ]
    for unit, budget, most, used in amounts:
        if budget > most:
            found.append(f"states {budget:g} {unit}; no lesson may take more than {most:g} {unit}")
        elif used is not None and used > MARGIN * budget:
            found.append(f"took {used:.1f} {unit}, more than {MARGIN} × the stated {budget:g}")
        elif unit == "MB" and used is not None and used > most:  # seconds depend on the machine
            found.append(f"took {used:.1f} {unit}; no lesson may take more than {most:g} {unit}")
    return found


# ------------------------------------------------------------------------------------------- memory


def memory(pid: int, field: str, file: str = "status") -> int:
    """A field of /proc/PID/status, or another file there, in bytes; 0 of a process that is gone."""
    try:
        status = (PROC / str(pid) / file).read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and theirs, as far as they are alive."""
    for task in (PROC / str(pid) / "task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it has ended meanwhile
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def processor_seconds(pid: int) -> float:
    """What a process, its living descendants, and those that have ended, kept a processor busy."""
    total = 0.0
    for process in (pid, *descendants(pid)):
        try:
            fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile, and is counted with its parent
            continue
        total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime, see proc(5)
    return total / os.sysconf("SC_CLK_TCK")


class Meter(threading.Thread):
    """Watches the memory of a process and of those that it starts, until it is stopped."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0  # bytes
        self.stopping = threading.Event()

    def run(self) -> None:
        self.look()
        while not self.stopping.wait(SAMPLE_SECONDS):
            self.look()

    def look(self) -> None:
        others = sum(
            memory(child, "Private_Dirty", "smaps_rollup") for child in descendants(self.pid)
        )
        now = memory(self.pid, "VmRSS") + others
        self.peak = max(self.peak, memory(self.pid, "VmHWM"), now)

    def stop(self) -> None:
        self.stopping.set()
        self.join()


# ------------------------------------------------------------------------------------------- pytest


class Notebook(IPyNbFile):
    """nbval's notebook, with a test of its budget after its cells."""

    seconds = 0.0
    ran = 0
    meter: Meter | None = None

    def collect(self):
        self.cells = list(super().collect())
        yield from self.cells
        yield BudgetItem.from_parent(self, name="budget")

    def setup(self):
        super().setup()
        process = getattr(self.kernel.km.provisioner, "process", None)
        if PROC.is_dir() and process is not None:
            self.meter = Meter(process.pid)
            self.meter.start()

    def teardown(self):
        if self.meter is not None:
            self.meter.stop()
        super().teardown()


class OverBudget(Exception):
    pass


class BudgetItem(pytest.Item):
    """Compares what the cells took with what the notebook states."""

    parent: Notebook

    def reportinfo(self):
        return self.path, None, f"{self.path.name}::budget"

    def runtest(self):
        notebook = self.parent
        first = next((c.source for c in notebook.nb.cells if c.cell_type == "markdown"), "")
        stated = stated_budget(first)
        if stated is None:
            raise OverBudget(
                "the first text cell states no run budget; expected is a row of a table that ends "
                "with one, such as: | 60 | lesson 04 | 25 s, 900 MB, no network |"
            )
        if notebook.ran < len(notebook.cells):
            pytest.skip(f"only {notebook.ran} of {len(notebook.cells)} cells were run")
        megabytes, memory_line = None, "memory not measured: there is no /proc here"
        if notebook.meter is not None:
            notebook.meter.stop()
            notebook.meter.look()  # the kernel may have grown since the last time
            megabytes = notebook.meter.peak / 1e6
            notebook.seconds = processor_seconds(notebook.meter.pid)
            memory_line = f"{megabytes:5.0f} MB of {stated.megabytes:g}"
        line = f"{notebook.seconds:5.1f} s of {stated.seconds:g}, {memory_line}"
        self.user_properties.append((PROPERTY, (notebook.nodeid, notebook.seconds, line)))
        if problems := overspent(stated, notebook.seconds, megabytes):
            raise OverBudget("\n".join(problems))

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, OverBudget):
            return f"{self.parent.nodeid}: {excinfo.value}"
        return super().repr_failure(excinfo)


class Collected:
    """The lines of the summary, from whichever worker they come."""

    def __init__(self):
        self.lines: list[tuple[str, float, str]] = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            self.lines += [
                tuple(value) for name, value in report.user_properties if name == PROPERTY
            ]


def pytest_configure(config):
    config.stash[COLLECTED] = Collected()
    config.pluginmanager.register(config.stash[COLLECTED])


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    collectors = yield
    return [
        Notebook.from_parent(parent, path=file_path) if isinstance(c, IPyNbFile) else c
        for c in collectors
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    if not isinstance(item, IPyNbCell):
        return (yield)
    start = time.perf_counter()
    try:
        return (yield)
    finally:
        item.parent.seconds += time.perf_counter() - start
        item.parent.ran += 1


def pytest_terminal_summary(terminalreporter, config):
    lines = sorted(config.stash[COLLECTED].lines)
    if not lines:
        return
    terminalreporter.section("run budgets")
    width = max(len(name) for name, _, _ in lines)
    for name, _, line in lines:
        terminalreporter.line(f"{name:{width}}  {line}")
    total = sum(seconds for _, seconds, _ in lines)
    terminalreporter.line(f"{f'{len(lines)} notebooks':{width}}  {total:5.1f} s")
