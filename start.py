"""Sets the course up and starts it, with nothing but Python: ``make`` calls this, Windows does too.

    python start.py lab [JUPYTER'S OPTIONS]   opens the course
    python start.py test [PYTEST'S OPTIONS]   lint, all tests, every notebook
    python start.py setup [EXTRA ...]         only installs, with extras of pyproject.toml

The first call makes ``.venv`` and installs the versions that ``locks/`` pins: of the package itself
``base.lock``, of each extra a file of its own, so that who only learns does not wait for the tools
of who tests. A second call starts at once. Another Python is named by ``PYTHON=... make lab``.
"""

import hashlib
import os
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
UNDER_WAY = VENV / ".installing"  # if it is still there, the last installation was interrupted
BASE = ["base", "build"]
NEEDED = {"lab": [], "test": ["pretrained", "test"]}
PIP = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]


def main(arguments):
    command, *options = arguments or ["help"]
    if command == "setup":
        return setup(options)
    if command not in NEEDED:
        print(__doc__)
        return 0 if command in ("help", "-h", "--help") else 2
    failed = setup(NEEDED[command])
    if failed:
        return failed
    run = {"lab": lab, "test": test}[command]
    try:
        return run(options)
    except KeyboardInterrupt:
        return 130


def lab(options):
    return call([str(PYTHON), "-m", "fbnet_lesson", "lab", *options])


def test(options):
    """Lint first, as it takes a second; then the notebooks, and at the same time the tests."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FBNET_LESSON_PROGRESS": "off"}
    if call([str(PYTHON), "-m", "ruff", "check", "."], environment):
        return 1
    pytest = [str(PYTHON), "-m", "pytest"]
    if options:
        return call([*pytest, *options], environment)
    # A notebook's cells need one kernel, in their order: these are not spread over workers. The
    # file of tests beside them brings its conftest, which blocks the network.
    found = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("solutions/*.ipynb")]
    paths = [str(path.relative_to(ROOT)) for path in sorted(found)]
    verify = ["-p", "fbnet_lesson.course.budgets", "--nbval", "--nbval-current-env"]
    workers = str(min(4, os.cpu_count() or 1))
    spread = ["-n", workers, "--dist", "loadgroup", "--no-loadscope-reorder"]
    slowest = ["--durations=20", "--durations-min=5"]
    with Beside([*pytest, *spread, *slowest, "tests"], environment) as tests:
        failed = call([*pytest, *verify, "tests/test_lesson_looks.py", *paths], environment)
        return tests.show() or failed


class Beside:
    """A command that runs beside another one, and whose output waits until it is asked for."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            command, cwd=str(ROOT), env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines = queue.Queue()
        threading.Thread(target=self.collect, daemon=True).start()

    def collect(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def show(self):
        """Print its output, up to its end; returns its exit status."""
        for line in iter(self.lines.get, None):
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
        return self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()


def call(command, environment=None):
    return subprocess.run(command, cwd=str(ROOT), env=environment).returncode


def setup(extras):
    """Make ``.venv`` and install the base and ``extras``, as far as that is not done yet."""
    known = sorted(path.stem for path in (ROOT / "locks").glob("*.lock"))
    for extra in extras:
        if extra not in known:
            print("There is no extra {!r}; there are: {}".format(extra, ", ".join(known)))
            return 2
    missing = [name for name in [*BASE, *extras] if not is_installed(name)]
    if not missing:
        return 0
    if sys.version_info < (3, 10):
        found = sys.version.split()[0]
        print(f"This course needs Python 3.10 or newer; {sys.executable} is {found}.")
        print("Install one and name it, as in: make lab PYTHON=python3.12")
        return 1
    if UNDER_WAY.exists():
        print("The last installation was interrupted; starting again.")
        shutil.rmtree(str(VENV))
        missing = [*BASE, *extras]
    if not PYTHON.exists() and make_venv():
        return 1
    UNDER_WAY.touch()
    for name in missing:
        print(f"Installing: {name} (locks/{name}.lock)", flush=True)
        if call([*PIP, "--no-deps", "--require-hashes", "--requirement", f"locks/{name}.lock"]):
            return 1
    if "base" in missing and call([*PIP, "--no-deps", "--no-build-isolation", "--editable", "."]):
        return 1
    UNDER_WAY.unlink()
    for name in missing:
        stamp(name).write_text(pinned(name))
    return 0


def make_venv():
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        print(f"{sys.executable} cannot make virtual environments: it has no venv module.")
        print("On Debian and Ubuntu: sudo apt install python3-venv")
        return 1
    return call([sys.executable, "-m", "venv", str(VENV)])


def stamp(name):
    return VENV / f".installed-{name}"


def is_installed(name):
    return not UNDER_WAY.exists() and stamp(name).exists() and (
        stamp(name).read_text() == pinned(name)
    )  # fmt: skip


def pinned(name):
    """What an installation is of: the lock's content; of the base also what is to be installed."""
    content = (ROOT / "locks" / (name + ".lock")).read_bytes()
    if name == "base":
        content += (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
