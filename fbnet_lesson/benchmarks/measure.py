"""Time and memory of two functions that do the same work.

Times on a shared machine wander by tens of percents within minutes. So the two take turns, the
medians are compared, and what counts is the ratio.
"""

import contextlib
import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fbnet_lesson.benchmarks.cases import Case

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Of glibc's malloc: give every large block back at once, or the peak of the next case hides in
# what the last one left behind.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def take_turns(functions: list[Callable], seconds: float) -> list[float]:
    """The median of each function's times in ms, called in turn for about ``seconds`` together.

    One untimed call each comes first; then at least 5 rounds and at most 100.
    """
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or (time.perf_counter() < end and len(times[0]) < 100):
        for function, series in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            series.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(series) for series in times]


def peak_memory(function: Callable) -> float | None:
    """How many MB the process grows, at its highest, in one call; None where Linux does not tell.

    Everything counts: tensors, the libraries' own buffers, what is returned. Only in a process
    that was started with ``GIVE_BACK`` is the answer meaningful.
    """
    if not CLEAR.exists():
        return None
    function()  # what is made once and kept, such as the anchors of a shape, is not of this call
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    CLEAR.write_text("5")  # the highest so far is now
    before = _status("VmRSS")
    result = function()
    peak = _status("VmHWM") - before
    del result
    return max(0.0, peak) / 1024


def _status(field: str) -> int:
    """A line of /proc/self/status in KB."""
    return int(re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)[1])


def memory_of_cases(cases: list[Case], threads: int) -> dict[str, list[float | None]]:
    """``peak_memory`` of both functions of each case, in a process of its own.

    Returns ``{case.key: [ours, peer's]}``, empty where it cannot be measured.
    """
    if not CLEAR.exists():
        return {}
    program = [sys.executable, "-m", "fbnet_lesson.benchmarks.measure", str(threads)]
    answer = subprocess.run(
        [*program, *(case.key for case in cases)],
        env={**os.environ, **GIVE_BACK},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(answer.stdout)


def _main(threads: str, *names: str) -> None:
    import torch

    from fbnet_lesson.benchmarks.cases import all_cases

    torch.set_num_threads(int(threads))
    result = {}
    with contextlib.redirect_stdout(sys.stderr):  # pycocotools talks; the answer is for the parent
        for case in all_cases():
            if case.key in names:
                result[case.key] = [peak_memory(function) for function in case.build()]
    print(json.dumps(result))


if __name__ == "__main__":
    _main(*sys.argv[1:])
