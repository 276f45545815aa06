"""What holds for every test: no network, one thread, the same examples, nobody's progress."""

import os
import signal
import sys
from pathlib import Path

import matplotlib
import pytest
from hypothesis import settings

# One thread adds floats in one order: results do not depend on the number of cores. Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A check that passes in a test is nobody's progress.
os.environ["FBNET_LESSON_PROGRESS"] = "off"

# Under nohup, or behind & in a script, SIGINT is ignored, and by all that is started from here; a
# learner's kernel has Python's handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Here, and through PYTHONPATH in every process that a test starts: notebook kernels (nbval's too),
# commands, torchrun workers.
OFFLINE = str(Path(__file__).parent / "offline")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))
sys.path.insert(0, OFFLINE)
import no_network  # noqa: E402  (it lies in the folder just added)

no_network.block()

matplotlib.use("agg")  # not through MPLBACKEND, which kernels would inherit

# Files whose tests are spread over the workers by a parameter, which shares what was computed for
# it, or one by one. Those of any other file stay together, for the fixtures that they share.
BY_PARAMETER = {"test_exercises.py": "exercise", "test_lessons.py": "slug", "test_golden.py": None}
ONE_BY_ONE = {"test_training_loop.py", "test_fuse.py", "test_classifiers.py", "test_benchmarks.py"}


def pytest_collection_modifyitems(items):
    """With pytest-xdist: who runs together; and long tests first, lest one is left at the end."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: not (item.get_closest_marker("slow") or ".ipynb" in item.nodeid))


def group_of(item) -> str:
    file, callspec = item.path.name, getattr(item, "callspec", None)
    if file in ONE_BY_ONE:
        return item.nodeid
    if file not in BY_PARAMETER or callspec is None:
        return file
    value = callspec.params.get(BY_PARAMETER[file], callspec.id)
    return f"{file} {getattr(value, 'name', value)}"


settings.register_profile("same examples every time", derandomize=True, deadline=None)
settings.load_profile("same examples every time")
