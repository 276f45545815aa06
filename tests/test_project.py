"""The files around the package: dependencies, lock, Makefile, layers, and the network guard."""

import ast
import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from no_network import NetworkBlocked
from packaging.requirements import Requirement

import fbnet_lesson as fl
from fbnet_lesson import cli
from fbnet_lesson.zoo.table import as_markdown

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fbnet_lesson"
CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "huggingface-hub": "huggingface_hub",
    "playwright": "playwright-python",
}
IMPORT_NAMES = {"pillow": "PIL"}


def declared() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for: ``base``, and each extra by its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(r) for r in group] for name, group in groups.items()}


# ---------------------------------------------------------------------------------- dependencies


def test_environment_yml_names_the_packages_of_pyproject():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    found = {line.strip()[2:] for line in lines[lines.index("dependencies:") + 1 :] if "- " in line}
    every = sum(declared().values(), [])
    required = {f"{CONDA_NAMES.get(r.name, r.name)}{r.specifier}" for r in every}
    assert found == required | {"python>=3.10", "pip"}


LOCKS = sorted((ROOT / "locks").glob("*.lock"))


def locked(lock: Path) -> list[tuple[Requirement, int]]:
    """Each pinned version of a lock with the number of its hashes."""
    entries = lock.read_text().replace("\\\n", " ").splitlines()
    parts = [entry.split("--hash=sha256:") for entry in entries]
    return [(Requirement(pin.strip()), len(hashes)) for pin, *hashes in parts]


def test_there_is_a_lock_for_the_base_and_for_each_extra():
    assert {lock.stem for lock in LOCKS} == set(declared())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_line_of_a_lock_is_one_version_with_hashes_and_no_address(lock):
    for requirement, hashes in locked(lock):
        assert re.fullmatch(r"==[\w.+!]+", str(requirement.specifier)), requirement
        assert hashes > 0, requirement
    text = lock.read_text()
    assert "://" not in text and "@" not in text
    assert set(re.findall(r"--[\w-]+", text)) == {"--hash"}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_what_pyproject_asks_for_and_agrees_with_the_base(lock, python):
    here = {"python_version": python, "python_full_version": f"{python}.12", "extra": ""}

    def pins(path):
        return {r.name: r for r, _ in locked(path) if r.marker is None or r.marker.evaluate(here)}

    base, own = pins(ROOT / "locks" / "base.lock"), pins(lock)
    for requirement in declared()[lock.stem]:
        version = str((base | own)[requirement.name].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), (requirement, version)
    assert {n: str(r.specifier) for n, r in own.items() if n in base} == {
        n: str(base[n].specifier) for n in own if n in base
    }


def imports(path: Path) -> set[str]:
    """Full names of all that a file of the package imports, ``from a import b`` as ``a.b``."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        base = []
        if isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            base += [node.module] if node.module else []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def test_the_package_imports_only_what_it_declares():
    own = declared()["base"] + declared()["pretrained"]
    names = {IMPORT_NAMES.get(r.name, r.name).replace("-", "_") for r in own}
    allowed = names | {"fbnet_lesson"}
    for path in PACKAGE.rglob("*.py"):
        foreign = {name.partition(".")[0] for name in imports(path)} - sys.stdlib_module_names
        if path.parent.name == "benchmarks":  # a peer, of the test extra; asked for before its use
            foreign -= {"timm"}
        if path.name == "budgets.py":  # a plugin that pytest loads
            foreign -= {"pytest"}
        assert foreign <= allowed, f"{path.relative_to(ROOT)} imports {foreign - allowed}"


# ---------------------------------------------------------------------------------------- layers


# Each line may import the lines above it, and a package its own files.
LAYERS = (
    ("files", "overrides", "colours"),
    ("norms", "rows"),
    ("blocks",),
    ("trunk", "freezing", "data"),
    ("classification", "detection"),
    ("zoo",),
    ("training",),
    ("search", "deploy", "inference"),
    ("course", "benchmarks"),
    ("cli",),
    ("__main__",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def layer(path: Path) -> str:
    """The line's entry for a file of the package: its folder, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def upward(path: Path) -> set[str]:
    """What a file imports of the package that does not stand above it in ``LAYERS``."""
    own = layer(path)
    found = {name.split(".")[1] for name in imports(path) if name.startswith("fbnet_lesson.")}
    public = {name for name in found if hasattr(fl, name) and name not in RANKS}
    return {name for name in found - public - {own} if RANKS[name] >= RANKS[own]}


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    assert upward(path) == set()


@pytest.mark.parametrize("name", ["fbnet_lesson.course", "fbnet_lesson.training.loop"])
def test_torchvision_is_imported_only_where_pictures_are_read(name):
    """It brings a thousand modules, 90 MB in each worker of a lesson and of a training."""
    program = f"import sys, {name}; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_an_import_against_the_direction_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "fbnet_lesson")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "fbnet_lesson" / "detection").mkdir(parents=True)
    file = tmp_path / "fbnet_lesson" / "detection" / "new.py"
    file.write_text("def f():\n    from fbnet_lesson.training.ema import EMA\n")
    assert upward(file) == {"training"}
    file.write_text("from ..classification import published\nfrom fbnet_lesson.trunk import FPN\n")
    assert upward(file) == {"classification"}
    file.write_text("from fbnet_lesson.norms import GN\nfrom .boxes import box_iou\n")
    assert upward(file) == set()


# ---------------------------------------------------------------------------- start.py, and make


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start.py as if it lay in an empty clone, whose commands are noted and succeed."""
    spec = importlib.util.spec_from_file_location("start", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    venv = tmp_path / ".venv"
    for name, value in (
        ("ROOT", tmp_path), ("VENV", venv), ("PYTHON", venv / "bin" / "python"),
        ("UNDER_WAY", venv / ".installing"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    module.asked, module.result = [], lambda command: 0

    def call(command, environment=None):
        module.asked.append(" ".join(command[1:]))
        if command[1:3] == ["-m", "venv"]:
            (venv / "bin").mkdir(parents=True)
            (venv / "bin" / "python").touch()
        return module.result(command)

    @contextlib.contextmanager
    def beside(command, environment):
        yield SimpleNamespace(show=lambda: call(command))

    monkeypatch.setattr(module, "call", call)
    module.RealBeside = module.Beside
    monkeypatch.setattr(module, "Beside", beside)
    return module


def installed(start) -> list[str]:
    return [re.search(r"locks/(\w+)\.lock", line)[1] for line in start.asked if ".lock" in line]


def test_lab_installs_the_base_only_and_the_second_call_starts_at_once(start):
    assert start.main(["lab"]) == 0
    assert installed(start) == ["base", "build"]
    assert "--no-deps --no-build-isolation --editable ." in start.asked[-2]
    assert all("--require-hashes" in line for line in start.asked if ".lock" in line)
    start.asked.clear()
    assert start.main(["lab", "--no-browser"]) == 0
    assert start.asked == ["-m fbnet_lesson lab --no-browser"]


def test_test_adds_its_extras_to_what_is_there(start):
    start.main(["lab"])
    start.asked.clear()
    assert start.main(["test"]) == 0
    assert installed(start) == ["pretrained", "test"]
    lint, notebooks, tests = start.asked[-3:]
    assert lint == "-m ruff check ." and "--nbval" in notebooks and tests.endswith("tests")


@pytest.mark.parametrize(("notebooks", "tests", "together"), [(0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_test_fails_if_the_notebooks_fail_or_the_tests(start, notebooks, tests, together):
    start.main(["setup", "pretrained", "test"])
    start.result = lambda command: (
        notebooks if "--nbval" in command else tests if command[-1] == "tests" else 0
    )
    assert start.main(["test"]) == together


def test_what_runs_beside_the_notebooks_is_shown_after_them(start, capfdbinary):
    program = "import sys; print('a line'); print('another', file=sys.stderr); sys.exit(3)"
    with start.RealBeside([sys.executable, "-c", program], None) as tests:
        tests.process.wait()
        assert capfdbinary.readouterr().out == b""
        assert tests.show() == 3
    assert set(capfdbinary.readouterr().out.splitlines()) == {b"a line", b"another"}


def test_a_new_lock_is_installed_again_and_only_that(start):
    start.main(["setup", "test"])
    lock = start.ROOT / "locks" / "test.lock"
    lock.write_text(lock.read_text() + "new==1 --hash=sha256:0\n")
    start.asked.clear()
    start.main(["setup", "test"])
    assert installed(start) == ["test"]


def test_an_interrupted_installation_is_redone_from_the_start(start, capsys):
    start.result = lambda command: 1 if "locks/build.lock" in command else 0
    assert start.main(["lab"]) == 1
    (start.VENV / "half a package").touch()
    start.result = lambda command: 0
    assert start.main(["lab"]) == 0
    assert "interrupted; starting again" in capsys.readouterr().out
    assert not (start.VENV / "half a package").exists()


def test_an_old_python_is_named_with_what_to_do(start, capsys, monkeypatch):
    monkeypatch.setattr(start.sys, "version_info", (3, 8, 1))
    assert start.main(["lab"]) == 1
    said = capsys.readouterr().out
    assert "needs Python 3.10 or newer" in said and "PYTHON=python3.12" in said
    assert not start.VENV.exists()


def test_a_python_without_venv_is_told_what_to_install(start, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert start.main(["lab"]) == 1
    assert "python3-venv" in capsys.readouterr().out
    assert not start.VENV.exists()


def test_an_unknown_extra_or_command_is_told_what_there_is(start, capsys):
    assert start.main(["setup", "everything"]) == 2
    assert "no extra 'everything'; there are: base" in capsys.readouterr().out
    assert start.main(["lesson"]) == 2
    assert "python start.py lab" in capsys.readouterr().out
    assert start.asked == []


@pytest.mark.parametrize("target", ["lab", "test"])
def test_make_does_what_start_does(target):
    command = ["make", "--dry-run", target, "PYTHON=python3"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    result = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    assert result.stdout.strip() == f"python3 start.py {target}"


def test_a_wheel_carries_the_shipped_data(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "fbnet_lesson/norms.py" in names and "fbnet_lesson/shipped/README.md" in names
    assert "fbnet_lesson/data/imagenet_classes.txt" in names
    assert not [name for name in names if name.startswith(("data/", "tests/"))]


# ------------------------------------------------------------------------------------ the README

README = (ROOT / "README.md").read_text()


def test_the_readme_shows_the_table_of_all_models():
    section = README.partition("\n## Models\n")[2]
    rows = re.findall(r"^\|.*$", section, re.MULTILINE)
    assert rows == as_markdown(fl.list_models()).splitlines(), (
        "paste what `fbnet-lesson models --markdown` prints"
    )


def readme_commands() -> list[str]:
    (block,) = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return block.splitlines()


@pytest.mark.parametrize("line", readme_commands())
def test_the_commands_of_the_readme_are_understood(line):
    command = typer.main.get_command(cli.app)
    words = re.split(r"fbnet.lesson ", line, maxsplit=1)[1].split()
    while isinstance(getattr(command, "commands", None), dict):
        command = command.commands[words.pop(0)]
    command.make_context("fbnet-lesson", words)  # parses, runs nothing


def test_the_python_of_the_readme_runs():
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, {})


def test_python_m_is_the_same_program():
    command = [sys.executable, "-m", "fbnet_lesson", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Usage: fbnet-lesson" in result.stdout


# ----------------------------------------------------------------------------------- the network

ELSEWHERE = "192.0.2.1"  # an address for documentation, given to no machine


def test_a_test_reaches_no_other_machine():
    with pytest.raises(NetworkBlocked, match=ELSEWHERE):
        socket.create_connection((ELSEWHERE, 80), timeout=1)
    with pytest.raises(NetworkBlocked, match="example.invalid"):
        socket.create_connection(("example.invalid", 80), timeout=1)
    with socket.socket(type=socket.SOCK_DGRAM) as udp, pytest.raises(NetworkBlocked):
        udp.sendto(b"", (ELSEWHERE, 9))


def test_a_process_that_a_test_starts_reaches_no_other_machine():
    program = f"import urllib.request as r; r.urlopen('http://{ELSEWHERE}/', timeout=1)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"NetworkBlocked: the tests run without a network, but '{ELSEWHERE}'" in result.stderr


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client:
            client.sendall(b"hello")
            assert server.accept()[0].recv(16) == b"hello"
