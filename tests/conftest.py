"""What holds for every test: no network, one thread, the same examples, nobody's progress."""

import os
import sys
from pathlib import Path

import matplotlib
from hypothesis import settings

# One thread adds floats in one order: results do not depend on the number of cores. Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A check that passes in a test is nobody's progress.
os.environ["FBNET_LESSON_PROGRESS"] = "off"

# Here, and through PYTHONPATH in every process that a test starts: notebook kernels (nbval's too),
# commands, torchrun workers.
OFFLINE = str(Path(__file__).parent / "offline")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))
sys.path.insert(0, OFFLINE)
import no_network  # noqa: E402  (it lies in the folder just added)

no_network.block()

matplotlib.use("agg")  # not through MPLBACKEND, which kernels would inherit

settings.register_profile("same examples every time", derandomize=True, deadline=None)
settings.load_profile("same examples every time")
