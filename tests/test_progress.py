"""What has passed is remembered on this machine, whatever happens to the file, and shown."""

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from test_cli import call, fails

from fbnet_lesson import cli
from fbnet_lesson.course import build, check, progress
from fbnet_lesson.course.exercises import EXERCISES, LESSONS

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
    assert progress.record("nms", "def nms(): 1") is None and progress.passed() == {}
    assert progress.record_finding("nms", "is wrong") is None and progress.findings() == []
    assert progress.sources() == {}
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


def test_the_source_of_the_last_pass_is_remembered_beside_the_time_of_the_first(file):
    file.parent.mkdir()
    file.write_text(
        json.dumps({"passed": {"nms": "2020-01-01T00:00:00Z"}})
    )  # of the first versions
    assert progress.sources() == {} and progress.findings() == []
    for source in ("def nms(): 1", "def nms(): 2", None):
        assert progress.record("nms", source) is None
    assert progress.sources() == {"nms": "def nms(): 2"}
    assert progress.passed() == {"nms": "2020-01-01T00:00:00Z"}


def test_findings_are_remembered_with_their_time_the_latest_of_them(file, monkeypatch):
    monkeypatch.setattr(progress, "FINDINGS_KEPT", 3)
    for mistake in ("a", "b", "c", "d" * 1000):
        assert progress.record_finding("nms", mistake) is None
    found = progress.findings()
    assert [f["mistake"] for f in found] == ["b", "c", "d" * 200]
    assert {f["exercise"] for f in found} == {"nms"}
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", f["when"]) for f in found)
    assert progress.passed() == {}


def test_what_a_later_version_adds_to_the_file_is_left_there(file):
    file.parent.mkdir()
    file.write_text(json.dumps({"passed": {}, "notes": [1]}))
    progress.record("nms")
    assert json.loads(file.read_text())["notes"] == [1]


def test_check_remembers_the_source_and_each_mistake_of_the_learner_s_own(file, capsys):
    def wrong_inside():
        def box_area(boxes):
            return boxes[..., 0]

        return box_area

    check(wrong_inside())  # as lesson 00 does, to show what a mistake looks like
    assert progress.findings() == [] and not file.exists()
    right = EXERCISES["box_area"].solution
    check(right)
    assert "box_area" in progress.sources()["box_area"]
    mistake = EXERCISES["box_area"].mistakes[0]
    check(mistake.function(right))
    plt.close("all")
    (found,) = progress.findings()
    assert (found["exercise"], found["mistake"]) == ("box_area", mistake.name)


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
    [
        b"", b"{", b"\xff\xfe\xfa", b"[1]", b'{"passed": ["nms"]}', b'{"passed": {"nms": 1}}',
        b"{}",
        b'{"passed": {}, "sources": ["nms"]}', b'{"passed": {}, "sources": {"nms": 1}}',
        b'{"passed": {}, "findings": {}}', b'{"passed": {}, "findings": [{"exercise": "nms"}]}',
        b'{"passed": {}, "findings": ["nms"]}',
    ],
)  # fmt: skip
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


def test_the_table_shows_what_has_passed_what_was_found_and_the_minutes_left(file):
    for name in ("nms", "box_iou", "box_area", "gone"):
        progress.record(name)
    for name in ("nms", "match", "match"):
        progress.record_finding(name, "is wrong")
    long = {f"a_rather_long_name_{i}": 20 for i in range(4)}
    lessons = {
        "04_boxes": (60, {"box_area": 5, "box_iou": 10}),
        "05": (70, {"match": 10}),
        "06": (100, {"nms": 15, **long}),
        "12": (30, {}),
    }
    assert progress.table(lessons).splitlines() == [
        "lesson    minutes  left  passed  exercises, in minutes",
        "04_boxes       60     0     2/2  [x] box_area 5  [x] box_iou 10",
        "05             70    70     0/1  [ ] match 10, 2 findings",
        "06            100    85     1/5  [x] nms 15, 1 finding",
        "                                 [ ] a_rather_long_name_0 20",
        "                                 [ ] a_rather_long_name_1 20",
        "                                 [ ] a_rather_long_name_2 20",
        "                                 [ ] a_rather_long_name_3 20",
        "12             30    30     0/0",
        "total         260   185     3/8",
        "",
        f"Remembered in {file}, on this machine only.",
    ]


def test_a_line_is_as_wide_as_it_may_be_and_a_long_name_stands_alone():
    assert progress.wrapped(["aa", "bb", "cc"], 6) == ["aa  bb", "cc"]
    assert progress.wrapped(["aa", "bb"], 5) == ["aa", "bb"]
    assert progress.wrapped(["a long name", "b"], 4) == ["a long name", "b"]
    assert progress.wrapped([], 6) == []


def test_the_table_says_when_nothing_is_remembered():
    assert progress.table({"06": (100, {"nms": 15})}).splitlines()[-1] == (
        "Nothing is remembered: FBNET_LESSON_PROGRESS is off."
    )


# --------------------------------------------------------------------------------- the command line


def test_the_command_shows_every_exercise_of_the_course(file):
    names = [exercise.name for exercises in LESSONS.values() for exercise in exercises]
    progress.record(names[0])
    output = call("progress").output
    assert re.findall(r"\[[ x]\] (\w+)", output) == names
    assert re.findall(r"\[x\] (\w+)", output) == names[:1]
    whole = sum(map(build.lesson_minutes, build.lesson_slugs()))
    left = whole - build.lesson_minutes("00_welcome")
    assert re.search(rf"^total +{whole} +{left} +1/{len(names)}$", output, re.MULTILINE)
    minutes = build.lesson_minutes("00_welcome")
    assert re.search(rf"^00_welcome +{minutes} +0 +1/1 ", output, re.MULTILINE)


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
