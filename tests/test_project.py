"""The files around the package: dependencies, lock, Makefile, layers, and the network guard."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

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


def declared() -> tuple[list[Requirement], list[Requirement]]:
    """What the package may import, with its pretrained extra; and its test extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own = project["dependencies"] + extras["pretrained"]
    return [Requirement(r) for r in own], [Requirement(r) for r in extras["test"]]


# ---------------------------------------------------------------------------------- dependencies


def test_environment_yml_names_the_packages_of_pyproject():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    found = {line.strip()[2:] for line in lines[lines.index("dependencies:") + 1 :] if "- " in line}
    required = {f"{CONDA_NAMES.get(r.name, r.name)}{r.specifier}" for r in sum(declared(), [])}
    assert found == required | {"python>=3.10", "pip"}


def locked() -> list[tuple[Requirement, int]]:
    """Each pinned version of the lock with the number of its hashes."""
    entries = (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    parts = [entry.split("--hash=sha256:") for entry in entries]
    return [(Requirement(pin.strip()), len(hashes)) for pin, *hashes in parts]


def test_every_line_of_the_lock_is_one_version_with_hashes():
    for requirement, hashes in locked():
        assert re.fullmatch(r"==[\w.+!]+", str(requirement.specifier)), requirement
        assert hashes > 0, requirement


def test_the_lock_carries_no_address():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "@" not in text
    assert set(re.findall(r"--[\w-]+", text)) == {"--hash"}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_lock_pins_everything_that_pyproject_asks_for(python):
    here = {"python_version": python, "python_full_version": f"{python}.12", "extra": ""}
    pins = {r.name: r for r, _ in locked() if r.marker is None or r.marker.evaluate(here)}
    for requirement in sum(declared(), []):
        version = str(pins[requirement.name].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), (requirement, version)


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
    names = {IMPORT_NAMES.get(r.name, r.name).replace("-", "_") for r in declared()[0]}
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


# ------------------------------------------------------------------- make, with a stand-in Python


STAND_IN = """#!/bin/sh
# a stand-in for Python that can make a venv of itself and notes what pip is asked for
case "$*" in
  --version) echo Python 3.8.1 ;;
  *version_info*) [ -z "$TOO_OLD" ] ;;
  *ensurepip*) [ -z "$NO_VENV" ] ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *pip*) echo "$*" >> pip.log; [ -z "$INTERRUPT" ] ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with the Makefile and a function that runs ``make .venv/.installed`` in it."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def make(*options, **environment):
        command = ["make", *options, ".venv/.installed", f"PYTHON={python}"]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(
            command, cwd=tmp_path, env=clean | environment, capture_output=True, text=True
        )

    make.folder = tmp_path
    return make


def test_the_first_call_installs_the_lock_and_the_second_starts_at_once(clone):
    assert clone().returncode == 0
    asked = (clone.folder / "pip.log").read_text()
    assert "--require-hashes --requirement requirements.lock" in asked
    assert "--no-deps --no-build-isolation --editable ." in asked
    assert clone("--question").returncode == 0
    installed = (clone.folder / ".venv" / ".installed").stat().st_mtime
    os.utime(clone.folder / "requirements.lock", (installed + 1, installed + 1))
    assert clone("--question").returncode == 1


def test_an_interrupted_installation_is_redone_from_the_start(clone):
    assert clone(INTERRUPT="1").returncode != 0
    (clone.folder / ".venv" / "half a package").touch()
    again = clone()
    assert "interrupted; starting again" in again.stdout
    assert again.returncode == 0
    assert not (clone.folder / ".venv" / "half a package").exists()
    assert clone("--question").returncode == 0


def test_an_old_python_is_named_with_what_to_do(clone):
    result = clone(TOO_OLD="1")
    assert result.returncode != 0
    assert "needs Python 3.10 or newer" in result.stdout and "Python 3.8.1" in result.stdout
    assert "PYTHON=python3.12" in result.stdout
    assert not (clone.folder / ".venv").exists()


def test_a_python_without_venv_is_told_what_to_install(clone):
    result = clone(NO_VENV="1")
    assert result.returncode != 0
    assert "python3-venv" in result.stdout
    assert not (clone.folder / ".venv").exists()


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
