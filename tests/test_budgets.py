"""Notebooks are held to the seconds and megabytes that they state."""

import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import nbformat
import pytest

from fbnet_lesson.course import budgets
from fbnet_lesson.course.budgets import Budget, overspent, stated_budget
from fbnet_lesson.course.build import lesson_slugs, prepare

ROOT = Path(__file__).parents[1]
HEAD = (
    "# A lesson\n\n| minutes | needs | run budget |\n|---|---|---|\n| 60 | lessons 00, 04 | {} |\n"
)
# The shell's child, as torchrun's workers are the grandchildren of a kernel; what is reserved and
# never touched is no memory.
CHILDREN = """import subprocess, sys
program = "import mmap, time; m = mmap.mmap(-1, 10**9); x = b'x' * 400_000_000; time.sleep(1)"
_ = subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{program}"; true'], check=True)"""
BUSY = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
NOTEBOOKS = {  # name -> (what its first cell says, its code)
    "within": (HEAD.format("20 s, 400 MB, no network"), ["1 + 1", "print('a')"]),
    "slow": (HEAD.format("0.2 s, 400 MB, no network"), [BUSY] * 2),
    "large": (HEAD.format("20 s, 150 MB, no network"), ["x = b'x' * 400_000_000", "del x"]),
    "children": (HEAD.format("20 s, 150 MB, no network"), [CHILDREN]),
    "endless": (HEAD.format("90 s, 0.1 GB, no network"), ["2"]),
    "silent": ("# A lesson without a budget", ["3"]),
    "bare": (None, ["4"]),
    "wrong": (HEAD.format("20 s, 400 MB, no network"), ["1 / 0", "print('a')"]),
}


def run_pytest(folder, *options):
    """Result of each test, ``{"within::budget": ("passed", message)}``, and what was printed."""
    command = [
        sys.executable, "-m", "pytest", "-p", "fbnet_lesson.course.budgets", "--nbval",
        "--nbval-current-env", "--rootdir", str(folder), "-c", str(folder / "pytest.ini"),
        "--junitxml", str(folder / "results.xml"), *options, str(folder),
    ]  # fmt: skip
    printed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300).stdout
    results = {}
    for case in xml.parse(folder / "results.xml").iter("testcase"):
        outcome = next((child for child in case if child.tag in ("failure", "skipped")), None)
        result = "passed" if outcome is None else outcome.tag
        message = "" if outcome is None else f"{outcome.get('message')} {outcome.text}"
        notebook = case.get("classname").removesuffix(".ipynb")
        results[f"{notebook}::{case.get('name')}"] = (result, message)
    return results, printed


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A folder with all ``NOTEBOOKS``."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, (head, sources) in NOTEBOOKS.items():
        cells = [nbformat.v4.new_markdown_cell(head)] if head else []
        cells += [nbformat.v4.new_code_cell(source) for source in sources]  # no output to compare
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder


@pytest.fixture(scope="module")
def measured(course):
    return run_pytest(course)


@pytest.mark.slow
def test_a_notebook_within_its_budget_passes(measured):
    results, _ = measured
    assert {name: result for name, (result, _) in results.items() if name.startswith("within")} == {
        "within::Cell 0": "passed", "within::Cell 1": "passed", "within::budget": "passed",
    }  # fmt: skip


@pytest.mark.slow
def test_a_notebook_that_takes_too_long_fails(measured):
    result, message = measured[0]["slow::budget"]
    assert result == "failure"
    assert re.search(r"slow.ipynb: took \d+\.\d s, more than 2 × the stated 0.2", message)


@pytest.mark.skipif(not budgets.PROC.is_dir(), reason="memory is measured through /proc")
@pytest.mark.parametrize("name", ["large", "children"])
@pytest.mark.slow
def test_a_notebook_that_takes_too_much_memory_fails(measured, name):
    result, message = measured[0][f"{name}::budget"]
    assert result == "failure"
    found = re.search(rf"{name}.ipynb: took (\d+)\.\d MB, more than 2 × the stated 150", message)
    assert 400 < int(found[1]) < 650  # with the kernel, and nothing counted twice


@pytest.mark.slow
def test_a_notebook_that_states_more_than_any_lesson_may_take_fails(measured):
    result, message = measured[0]["endless::budget"]
    assert result == "failure"
    assert "states 90 s; no lesson may take more than 30 s" in message


@pytest.mark.parametrize("name", ["silent", "bare"])
@pytest.mark.slow
def test_a_notebook_that_states_no_budget_fails(measured, name):
    result, message = measured[0][f"{name}::budget"]
    assert result == "failure"
    assert "states no run budget; expected is a row" in message


@pytest.mark.slow
def test_the_budget_of_a_notebook_with_a_failing_cell_is_judged_all_the_same(measured):
    assert measured[0]["wrong::Cell 0"][0] == "failure"
    assert measured[0]["wrong::budget"][0] == "passed"


@pytest.mark.slow
def test_each_notebook_has_a_line_in_the_summary(measured):
    lines = measured[1].partition("run budgets")[2].splitlines()
    assert re.fullmatch(r"within.ipynb    +\d+\.\d s of 20,  +\d+ MB of 400", find("within", lines))
    assert re.fullmatch(r"slow.ipynb      +\d+\.\d s of 0.2,  +\d+ MB of 400", find("slow", lines))
    assert re.fullmatch(r"6 notebooks     +\d+\.\d s", find("6 notebooks", lines))


def find(start, lines):
    (line,) = [line for line in lines if line.startswith(start)]
    return line


@pytest.mark.slow
def test_some_cells_alone_are_not_judged(course):
    results, printed = run_pytest(course, "-k", "within and not (Cell and 1)")
    assert results["within::budget"][0] == "skipped"
    assert "only 1 of 2 cells were run" in results["within::budget"][1]
    assert "run budgets" not in printed


# ---------------------------------------------------------------------------------- what is allowed


def test_a_budget_is_read_in_megabytes_or_gigabytes():
    assert stated_budget(HEAD.format("25 s, 900 MB, no network")) == Budget(25, 900)
    assert stated_budget(HEAD.format("2.5 s, 1.5 GB, no network")) == Budget(2.5, 1500)
    for other in ("25 s, no network", "900 MB, 25 s, no network", "25 s, 900 MB", "fast"):
        assert stated_budget(HEAD.format(other)) is None


@pytest.mark.parametrize("slug", lesson_slugs())
def test_every_lesson_states_a_budget_that_a_lesson_may_have(slug):
    stated = stated_budget(prepare(slug, solved=False).cells[0].source)
    assert overspent(stated, 0, 0) == []


def test_the_margin_is_two_and_exactly_twice_is_allowed():
    stated = Budget(20, 600)
    assert overspent(stated, 40, 1200) == []
    assert overspent(stated, 40.1, 1200) == ["took 40.1 s, more than 2 × the stated 20"]
    assert overspent(stated, 40, 1200.5) == ["took 1200.5 MB, more than 2 × the stated 600"]
    assert len(overspent(stated, 41, 1201)) == 2


def test_no_lesson_may_state_more_than_the_hard_limits_or_take_more_memory():
    stated = Budget(30, 1500)
    assert overspent(stated, 30, 1500) == []
    assert overspent(stated, 30.1, 1501) == [
        "took 1501.0 MB; no lesson may take more than 1500 MB",
    ]
    assert overspent(Budget(31, 1501), 1, 1) == [
        "states 31 s; no lesson may take more than 30 s",
        "states 1501 MB; no lesson may take more than 1500 MB",
    ]


def test_without_proc_only_the_seconds_are_judged():
    assert overspent(Budget(20, 600), 40, None) == []
    assert len(overspent(Budget(20, 600), 41, None)) == 1
