"""What has passed is remembered on this machine, whatever happens to the file, and shown."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import call, fails

from fbnet_lesson import cli
from fbnet_lesson.course import build, progress
from fbnet_lesson.course.exercises import LESSONS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Where progress is remembered in this test: a file that is not there yet, nor its folder."""
    path = tmp_path / "data" / "progress.json"
    monkeypatch.setenv("FBNET_LESSON_PROGRESS", str(path))
    return path


# ------------------------------------------------------------------------------------ remembering


def test_tests_remember_nothing():
    assert progress.progress_file() is None
    assert progress.record("nms") is None and progress.passed() == {}
    progress.reset()


def test_building_a_notebook_remembers_nothing(file, tmp_path):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "00_small.py").write_text(
        "# %%\nfrom fbnet_lesson.course import progress\nprogress.record('nms')\nprint('done')\n"
    )
    build.build(root=tmp_path)
    assert progress.passed() == {}


def test_a_pass_is_remembered_with_the_time_of_the_first(file, monkeypatch):
    assert progress.record("nms") is None
    (when,) = progress.passed().values()
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", when)
    file.write_text(json.dumps({"passed": {"nms": "2020-01-01T00:00:00Z"}}))
    assert progress.record("nms") is None and progress.record("box_area") is None
    known = progress.passed()
    assert list(known) == ["nms", "box_area"] and known["nms"] == "2020-01-01T00:00:00Z"


def test_the_file_lies_where_the_system_keeps_data(tmp_path, monkeypatch):
    monkeypatch.delenv("FBNET_LESSON_PROGRESS")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    usual = tmp_path / "home" / ".local" / "share" / "fbnet_lesson" / "progress.json"
    assert progress.progress_file() == usual
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert progress.progress_file() == usual
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert progress.progress_file() == tmp_path / "xdg" / "fbnet_lesson" / "progress.json"
    monkeypatch.setenv("FBNET_LESSON_PROGRESS", "~/mine.json")
    assert progress.progress_file() == tmp_path / "home" / "mine.json"


def test_nothing_is_left_beside_the_file_but_its_lock(file):
    progress.record("nms")
    assert {path.name for path in file.parent.iterdir()} <= {file.name, f".{file.name}.lock"}


def test_kernels_that_write_at_once_lose_nothing(file):
    program = (
        "from fbnet_lesson.course import progress; import sys\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for i in range(20): assert progress.record(f'{sys.argv[1]}{i}') is None"
    )
    kernels = [
        subprocess.Popen(
            [sys.executable, "-c", program, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for name in "abc"
    ]  # fmt: skip
    for kernel in kernels:
        assert kernel.stdout.readline() == "ready\n"
    for kernel in kernels:
        kernel.stdin.write("\n")
        kernel.stdin.flush()
    for kernel in kernels:
        kernel.communicate(timeout=60)
        assert kernel.returncode == 0
    assert set(progress.passed()) == {f"{name}{i}" for name in "abc" for i in range(20)}


# ------------------------------------------------------------------------------- what may go wrong


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\xfa", b"[1]", b'{"passed": ["nms"]}', b'{"passed": {"nms": 1}}', b"{}"],
)
def test_a_broken_file_is_kept_under_another_name(file, content):
    file.parent.mkdir()
    file.write_bytes(content)
    message = progress.record("nms")
    assert message == (
        f"progress: {file} holds no progress of this course; "
        "it is now progress.broken-1.json, and a new one is begun"
    )
    assert list(progress.passed()) == ["nms"]
    assert file.with_name("progress.broken-1.json").read_bytes() == content
    assert progress.record("box_area") is None


def test_a_second_broken_file_does_not_take_the_place_of_the_first(file):
    file.parent.mkdir()
    for content in ("one", "two"):
        file.write_text(content)
        assert "a new one is begun" in progress.record("nms")
    kept = [file.with_name(f"progress.broken-{i}.json").read_text() for i in (1, 2)]
    assert kept == ["one", "two"]


def test_where_nothing_can_be_written_the_learner_gets_one_line(file):
    file.parent.write_text("a file where the folder should be")
    message = progress.record("nms")
    assert message.startswith(f"progress: this pass could not be remembered in {file} (")
    assert "\n" not in message
    with pytest.raises(ValueError, match=f"cannot read {file}: "):
        progress.passed()


def test_without_a_home_the_learner_gets_one_line(monkeypatch):
    monkeypatch.setenv("FBNET_LESSON_PROGRESS", "~nobody-of-this-name/progress.json")
    assert progress.record("nms").startswith("progress: this pass could not be remembered (Runtime")


def test_a_pass_that_is_remembered_needs_no_lock(file, monkeypatch):
    progress.record("nms")
    monkeypatch.setattr(progress, "locked", None)  # a folder that is no longer writable
    assert progress.record("nms") is None
    assert "could not be remembered" in progress.record("box_area")


# ---------------------------------------------------------------------------------------- the table


def test_the_table_shows_what_has_passed(file):
    for name in ("nms", "box_iou", "gone"):
        progress.record(name)
    long = [f"a_rather_long_name_{i}" for i in range(4)]
    lessons = {"04_boxes": ["box_area", "box_iou"], "06": ["nms", *long], "12": []}
    assert progress.table(lessons).splitlines() == [
        "lesson    passed  exercises",
        "04_boxes     1/2  [ ] box_area  [x] box_iou",
        "06           1/5  [x] nms  [ ] a_rather_long_name_0  [ ] a_rather_long_name_1",
        "                  [ ] a_rather_long_name_2  [ ] a_rather_long_name_3",
        "12           0/0",
        "total        2/7",
        "",
        f"Remembered in {file}, on this machine only.",
    ]


def test_a_line_is_as_wide_as_it_may_be_and_a_long_name_stands_alone():
    assert progress.wrapped(["aa", "bb", "cc"], 6) == ["aa  bb", "cc"]
    assert progress.wrapped(["aa", "bb"], 5) == ["aa", "bb"]
    assert progress.wrapped(["a long name", "b"], 4) == ["a long name", "b"]
    assert progress.wrapped([], 6) == []


def test_the_table_says_when_nothing_is_remembered():
    assert progress.table({"06": ["nms"]}).splitlines()[-1] == (
        "Nothing is remembered: FBNET_LESSON_PROGRESS is off."
    )


# --------------------------------------------------------------------------------- the command line


def test_the_command_shows_every_exercise_of_the_course(file):
    names = [exercise.name for exercises in LESSONS.values() for exercise in exercises]
    progress.record(names[0])
    output = call("progress").output
    assert re.findall(r"\[[ x]\] (\w+)", output) == names
    assert re.findall(r"\[x\] (\w+)", output) == names[:1]
    assert re.search(rf"^total +1/{len(names)}$", output, re.MULTILINE)
    assert re.search(r"^00_welcome ", output, re.MULTILINE)


def test_a_broken_file_is_an_error_that_names_it(file):
    file.parent.mkdir()
    file.write_text("{")
    assert fails("progress") == f"error: {file} holds no progress of this course\n"


def test_reset_forgets_all(file):
    assert call("progress", "--reset").output == "nothing is remembered\n"
    progress.record("nms")
    assert call("progress", "--reset").output == "all passed checks are forgotten\n"
    assert progress.passed() == {} and not file.exists()


def test_on_a_terminal_reset_asks_unless_told_not_to(file, monkeypatch):
    monkeypatch.setattr(cli.course, "on_a_terminal", lambda: True)
    progress.record("nms")
    kept = call("progress", "--reset", answer="n\n")
    assert f"Forget all that {file} remembers? [y/N]" in kept.output
    assert kept.exit_code == 1 and "nms" in progress.passed()
    assert call("progress", "--reset", answer="y\n").exit_code == 0 and progress.passed() == {}
    progress.record("nms")
    assert "?" not in call("progress", "--reset", "--yes").output and progress.passed() == {}
