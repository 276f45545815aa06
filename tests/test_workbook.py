"""A learner's work is theirs: it stands in copies, and new versions of the lessons go under it."""

import json
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_cli import call

from fbnet_lesson import cli
from fbnet_lesson.course import workbook

SLUG = "06_small"
STUB = "def nms(boxes):\n    raise NotImplementedError"
MINE = "def nms(boxes):\n    return boxes[:1]"
GUESS = 'guess = {"kept": None}'
# text of a cell, or (text, metadata); a text that begins with # is markdown
FIRST = [
    "# Small", GUESS, "x = 1", "# About nms", (STUB, {"exercise": "detection.nms.nms"}),
    "check(nms)", "# Look at the end", "print(x)",
]  # fmt: skip


def lesson(texts, outputs=True) -> nbformat.NotebookNode:
    """A built notebook: ids by place, as the build gives them, and an output under each code."""
    cells = []
    for index, text in enumerate(texts):
        source, metadata = text if isinstance(text, tuple) else (text, {})
        if source.startswith("#"):
            cells.append(new_markdown_cell(source))
        else:
            shown = [new_output("stream", text=f"built: {source[:9]}\n")]
            cells.append(new_code_cell(source, metadata=metadata, outputs=shown, execution_count=1))
        cells[-1].id = f"{SLUG}-{index:02d}"
    return new_notebook(cells=cells)


def publish(root, texts, slug=SLUG) -> None:
    (root / "notebooks").mkdir(exist_ok=True)
    nbformat.write(lesson(texts), root / "notebooks" / f"{slug}.ipynb")


@pytest.fixture
def root(tmp_path):
    """A clone with one lesson, which lab has opened."""
    publish(tmp_path, FIRST)
    assert workbook.make_copies(tmp_path) == []
    return tmp_path


def copy(root, slug=SLUG):
    return root / "workbook" / f"{slug}.ipynb"


def learner(root, change) -> None:
    """Let ``change`` work on the cells of the learner's copy, and save it."""
    notebook = nbformat.read(copy(root), as_version=4)
    change(notebook.cells)
    nbformat.write(notebook, copy(root))


def found(root, slug=SLUG) -> list[str]:
    notebook = nbformat.read(copy(root, slug), as_version=4)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    return [cell.source for cell in notebook.cells]


def updated(root) -> str:
    (line,), whole = workbook.update(root)
    assert whole
    return line


def sources(texts) -> list[str]:
    return [text[0] if isinstance(text, tuple) else text for text in texts]


# ----------------------------------------------------------------------------------------- copying


def test_lab_makes_a_copy_of_each_lesson_and_leaves_the_built_ones_alone(root):
    before = (root / "notebooks" / f"{SLUG}.ipynb").read_bytes()
    publish(root, ["# Two"], "07_two")
    learner(root, lambda cells: cells[4].update(source=MINE))
    assert workbook.make_copies(root) == []
    assert found(root)[4] == MINE and found(root, "07_two") == ["# Two"]
    assert (root / "notebooks" / f"{SLUG}.ipynb").read_bytes() == before
    names = {p.name for p in (root / "workbook").rglob("*") if p.is_file()}
    assert not [name for name in names if name.endswith(".tmp")] and len(names) == 4


def test_a_copy_is_the_built_notebook_with_its_outputs_and_the_version_it_is_of(root):
    made = json.loads(copy(root).read_text())
    assert made["metadata"].pop("fbnet_lesson").keys() == {"version"}
    assert made == json.loads((root / "notebooks" / f"{SLUG}.ipynb").read_text())


def test_lab_says_in_one_line_that_there_is_a_new_version(root):
    publish(root, ["# Two"], "07_two")
    workbook.make_copies(root)
    publish(root, FIRST[:-1])
    assert workbook.make_copies(root) == [
        "There is a new version of 06_small: fbnet-lesson update brings it under your work."
    ]
    publish(root, ["# Two, anew"], "07_two")
    assert "new version of 06_small, 07_two: " in workbook.make_copies(root)[0]
    workbook.update(root)
    assert workbook.make_copies(root) == []


# ---------------------------------------------------------------------------------------- updating

SECOND = [
    "# Small, second edition", GUESS, "# A new cell\n\nwith text", "x = 1", "y = 2", "# About nms",
    (STUB, {"exercise": "detection.nms.nms"}), "check(nms)", "print(x)",
]  # fmt: skip


def test_without_a_new_version_nothing_is_touched(root):
    learner(root, lambda cells: cells[4].update(source=MINE))
    before = copy(root).read_bytes()
    assert workbook.update(root) == ([], True)
    assert copy(root).read_bytes() == before and not (root / "workbook" / "old").exists()


def test_a_lesson_that_the_learner_never_changed_is_replaced(root):
    learner(root, lambda cells: cells[2].update(outputs=[], execution_count=7))  # only run
    publish(root, SECOND)
    assert updated(root) == "06_small: replaced, as you had changed nothing"
    assert found(root) == sources(SECOND)
    assert not (root / "workbook" / "old").exists()


def test_exercises_predictions_changed_cells_and_notes_stay(root):
    def work(cells):
        cells[1].source = 'guess = {"kept": 60}'
        cells[2].source = "x = 100"
        cells[4].source = MINE
        cells[4].outputs = [new_output("stream", text="mine\n")]
        cells.insert(5, new_code_cell("nms([1])", id="own-1"))
        cells.insert(6, new_markdown_cell("# why it works", id="own-2"))
        cells.append(new_markdown_cell("# the end", id="own-3"))
        cells.insert(0, new_markdown_cell("# my name", id="own-0"))

    learner(root, work)
    before = copy(root).read_bytes()
    publish(root, SECOND)
    line = updated(root)
    assert line.startswith(
        "06_small: new version; kept: 1 exercise (nms), your predictions, 1 cell that you changed, "
        "4 cells of your own. Your old copy: workbook/old/06_small-2"
    )
    assert found(root) == [
        "# my name", "# Small, second edition", 'guess = {"kept": 60}', "# A new cell\n\nwith text",
        "x = 100", "y = 2", "# About nms", MINE, "nms([1])", "# why it works", "check(nms)",
        "print(x)", "# the end",
    ]  # fmt: skip
    mine = nbformat.read(copy(root), as_version=4).cells[7]
    assert mine.outputs[0].text == "mine\n" and mine.metadata.exercise == "detection.nms.nms"
    (old,) = (root / "workbook" / "old").iterdir()
    assert old.read_bytes() == before


def test_twice_in_a_row_nothing_is_lost_and_each_old_copy_is_kept(root):
    def work(cells):
        cells[4].source = MINE
        cells.insert(5, new_code_cell("nms([1])"))

    learner(root, work)
    publish(root, SECOND)
    updated(root)
    assert workbook.update(root) == ([], True)
    learner(root, lambda cells: cells.append(new_markdown_cell("# the end")))
    third = ["# Third", "z = 0", *SECOND[3:-1], "# More", "more()"]
    publish(root, third)
    assert "kept: 1 exercise (nms), 2 cells of your own." in updated(root)
    assert found(root) == [
        "# Third", "z = 0", "x = 1", "y = 2", "# About nms", MINE, "nms([1])", "check(nms)",
        "# the end", "# More", "more()",
    ]  # fmt: skip
    assert len(list((root / "workbook" / "old").iterdir())) == 2
    publish(root, FIRST)
    updated(root)
    assert found(root) == [*sources(FIRST[:4]), MINE, "nms([1])", "check(nms)", "# the end",
                           *sources(FIRST[6:])]  # fmt: skip
    assert len(list((root / "workbook" / ".base").iterdir())) == 1


def test_deleted_cells_are_back_and_moved_ones_in_their_place(root):
    def work(cells):
        del cells[6]
        del cells[2]
        cells[3].source = MINE
        cells.append(cells.pop(3))  # the exercise, to the end
        cells.append(new_markdown_cell("# behind it"))

    learner(root, work)
    publish(root, [*FIRST, "w = 3"])
    assert "kept: 1 exercise (nms), 1 cell of your own; 2 deleted cells are back." in updated(root)
    assert found(root) == [*sources(FIRST[:4]), MINE, "# behind it", *sources(FIRST[5:]), "w = 3"]


def test_where_both_changed_a_cell_the_new_text_stands_and_theirs_is_a_note(root):
    def work(cells):
        cells[3].source = "# About nms, in my words"
        cells[7].source = "print(x, 'mine')"

    learner(root, work)
    publish(root, [*FIRST[:3], "# About nms, better", *FIRST[4:7], "print(x, 'anew')"])
    assert "kept: 2 cells in their old form, as notes" in updated(root)
    cells = found(root)
    head = "**Your version of this cell, before the update:**\n\n"
    assert cells[3:5] == ["# About nms, better", head + "# About nms, in my words"]
    assert cells[-2:] == ["print(x, 'anew')", head + "````python\nprint(x, 'mine')\n````"]
    publish(root, FIRST)
    updated(root)
    assert found(root)[4] == cells[4]  # a note is now a cell of their own


def test_work_on_cells_that_the_new_version_lacks_is_kept(root):
    def work(cells):
        cells[4].source = MINE
        cells[1].source = 'guess = {"kept": 60}'
        cells[2].source = "x = 100"
        cells[5].source = "check(nms)  # passed"

    learner(root, work)
    publish(root, ["# Small", *FIRST[6:]])
    updated(root)
    note = "**Your version of this cell, before the update:**\n\n````python\n{}\n````"
    assert found(root) == [
        "# Small", 'guess = {"kept": 60}', note.format("x = 100"), MINE,
        note.format("check(nms)  # passed"), *FIRST[6:],
    ]  # fmt: skip


def test_an_exercise_with_a_new_text_stays_the_learner_s_and_is_named(root):
    learner(root, lambda cells: cells[4].update(source=MINE))
    anew = ('def nms(boxes):\n    """Anew."""\n    raise NotImplementedError', FIRST[4][1])
    publish(root, [*FIRST[:4], anew, *FIRST[5:]])
    assert "kept: 1 exercise (nms); new text for nms, below your cell." in updated(root)
    note = "**The lesson's new version of this cell:**\n\n````python\n" + anew[0] + "\n````"
    assert found(root) == [*sources(FIRST[:4]), MINE, note, *sources(FIRST[5:])]


def test_predictions_with_a_new_text_stay_the_learner_s_and_are_named(root):
    learner(root, lambda cells: cells[1].update(source='guess = {"kept": 60}'))
    publish(root, [FIRST[0], 'guess = {"kept": None, "recall": None}', *FIRST[2:]])
    assert "kept: your predictions; new text for your predictions, below" in updated(root)
    assert found(root)[1] == 'guess = {"kept": 60}' and '"recall": None' in found(root)[2]


def test_an_exercise_that_is_not_written_yet_gets_its_new_text(root):
    learner(root, lambda cells: cells.append(new_markdown_cell("# end")))
    anew = ('def nms(boxes):\n    """Anew."""\n    raise NotImplementedError', FIRST[4][1])
    publish(root, [*FIRST[:4], anew, *FIRST[5:]])
    updated(root)
    assert found(root)[4] == anew[0]


def test_an_exercise_written_in_a_new_cell_takes_the_place_of_the_deleted_one(root):
    def work(cells):
        cells[4] = new_code_cell("import torch\n\n\n" + MINE)  # without metadata, of a new id

    learner(root, work)
    publish(root, SECOND)
    assert "kept: 1 exercise (nms)." in updated(root)
    cells = found(root)
    assert cells[6] == "import torch\n\n\n" + MINE and STUB not in cells


def test_what_the_learner_s_run_has_shown_stays_where_the_code_is_the_same(root):
    def work(cells):
        cells[4].source = MINE
        for index in (5, 7):
            cells[index].outputs = [new_output("stream", text="seen\n")]
            cells[index].execution_count = 12

    learner(root, work)
    publish(root, [*FIRST[:7], "print(x + 1)"])
    updated(root)
    cells = nbformat.read(copy(root), as_version=4).cells
    assert [cells[i].outputs[0].text for i in (2, 5, 7)] == [
        "built: x = 1\n", "seen\n", "built: print(x +\n"
    ]  # fmt: skip


def test_what_the_new_version_shows_stands_where_the_learner_ran_nothing(root):
    learner(root, lambda cells: cells[4].update(source=MINE))
    new = lesson(FIRST)
    new.cells[2].outputs[0].text = "built anew\n"
    nbformat.write(new, root / "notebooks" / f"{SLUG}.ipynb")
    updated(root)
    assert nbformat.read(copy(root), as_version=4).cells[2].outputs[0].text == "built anew\n"


def test_an_exercise_that_has_moved_takes_the_answer_along(root):
    learner(root, lambda cells: cells[4].update(source=MINE))
    publish(root, [*FIRST[:4], *FIRST[5:], FIRST[4]])
    assert "kept: 1 exercise (nms)." in updated(root)
    assert found(root) == sources([*FIRST[:4], *FIRST[5:], MINE])


def test_an_answer_without_its_exercise_gets_an_id_of_its_own(root):
    learner(root, lambda cells: cells[4].update(source=MINE))
    publish(root, [*FIRST[:4], *FIRST[5:]])  # whose cell 4 has the id that the exercise had
    assert "kept: 1 cell of your own." in updated(root)
    assert found(root) == sources([*FIRST[:4], MINE, *FIRST[5:]])
    cells = nbformat.read(copy(root), as_version=4).cells
    assert cells[5].id == f"{SLUG}-04" and cells[4].id not in {c.id for c in lesson(FIRST).cells}


def test_a_copy_saved_without_ids_is_matched_by_its_texts(root):
    learner(
        root, lambda cells: (cells[4].update(source=MINE), cells.insert(2, new_code_cell("own")))
    )
    notebook = json.loads(copy(root).read_text())
    notebook["nbformat_minor"] = 4
    for cell in notebook["cells"]:
        del cell["id"]
    copy(root).write_text(json.dumps(notebook))
    publish(root, SECOND)
    updated(root)
    assert found(root) == [
        "# Small, second edition", GUESS, "own", *sources(SECOND[2:6]), MINE, *sources(SECOND[7:])
    ]  # fmt: skip


# ----------------------------------------------------------------------------- what may go wrong


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"cells": 3}', b'{"metadata": 3}']
)
def test_a_damaged_copy_is_named_and_left_and_the_others_are_updated(root, content):
    publish(root, ["# Two"], "07_two")
    workbook.make_copies(root)
    copy(root).write_bytes(content)
    publish(root, ["# Two, anew"], "07_two")
    (said, waiting) = workbook.make_copies(root)
    assert said.startswith("workbook/06_small.ipynb cannot be read as a notebook (")
    lines, whole = workbook.update(root)
    assert not whole and len(lines) == 2
    assert lines[0].startswith("06_small: left as it is: workbook/06_small.ipynb cannot be read")
    assert copy(root).read_bytes() == content and found(root, "07_two") == ["# Two, anew"]


@pytest.mark.parametrize("lost", ["cells", "a cell's text", "a cell's kind"])
def test_a_copy_that_is_half_a_notebook_is_left(root, lost):
    made = json.loads(copy(root).read_text())
    if lost == "cells":
        del made["cells"]
    else:
        del made["cells"][2]["source" if lost == "a cell's text" else "cell_type"]
    copy(root).write_text(json.dumps(made))
    publish(root, SECOND)
    (line,), whole = workbook.update(root)
    assert not whole and "cannot be read" in line
    assert json.loads(copy(root).read_text()) == made


def test_conflict_marks_in_a_built_notebook_are_named_and_the_copy_is_left(root):
    built = root / "notebooks" / f"{SLUG}.ipynb"
    built.write_text("<<<<<<< HEAD\n" + built.read_text())
    learner(root, lambda cells: cells[4].update(source=MINE))
    (line,), whole = workbook.update(root)
    assert not whole and "left as it is: notebooks/06_small.ipynb cannot be read" in line
    assert found(root)[4] == MINE


@pytest.mark.parametrize("lost", ["base", "version"])
def test_a_copy_of_unknown_origin_is_left_with_what_to_do(root, lost):
    if lost == "base":
        for path in (root / "workbook" / ".base").iterdir():
            path.unlink()
    else:
        notebook = nbformat.read(copy(root), as_version=4)
        del notebook.metadata["fbnet_lesson"]
        nbformat.write(notebook, copy(root))
    before = copy(root).read_bytes()
    publish(root, SECOND)
    (line,), whole = workbook.update(root)
    assert not whole and line == (
        "06_small: left as it is: it is not known which version workbook/06_small.ipynb was made "
        "from; give it another name, and the lesson is copied anew"
    )
    assert copy(root).read_bytes() == before


def test_a_lesson_that_was_not_opened_yet_is_added(root):
    publish(root, ["# Two"], "07_two")
    assert workbook.update(root) == (["07_two: added"], True)


def test_a_kill_between_the_files_leaves_the_work_and_the_next_update_goes_on(root, monkeypatch):
    learner(
        root, lambda cells: (cells[4].update(source=MINE), cells.insert(2, new_code_cell("own")))
    )
    before = copy(root).read_bytes()
    publish(root, SECOND)

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    monkeypatch.setattr(workbook.nbformat, "writes", killed)  # old copy and new base are there
    with pytest.raises(Killed):
        workbook.update(root)
    monkeypatch.undo()
    assert copy(root).read_bytes() == before
    unlink = workbook.Path.unlink  # the copy is written, and the old base is still there
    monkeypatch.setattr(
        workbook.Path,
        "unlink",
        lambda path, **_: killed() if path.suffix == ".ipynb" else unlink(path, missing_ok=True),
    )
    with pytest.raises(Killed):
        workbook.update(root)
    monkeypatch.undo()
    publish(root, FIRST)
    updated(root)
    assert found(root) == [*FIRST[:2], "own", *FIRST[2:4], MINE, *FIRST[5:]]


# --------------------------------------------------------------------------------- the command line


@pytest.fixture
def clone(root, monkeypatch):
    monkeypatch.setattr(cli.course, "ROOT", root)
    return root


def test_the_command_says_what_it_did(clone):
    assert call("update").output == "all lessons are up to date\n"
    publish(clone, SECOND)
    assert call("update").output == "06_small: replaced, as you had changed nothing\n"
    copy(clone).write_text("{")
    publish(clone, FIRST)
    done = call("update")
    assert done.exit_code == 1 and "06_small: left as it is" in done.output


def test_a_workbook_that_cannot_be_written_is_an_error_in_one_line(clone):
    (clone / "workbook" / "old").write_text("a file where the folder should be")
    learner(clone, lambda cells: cells[4].update(source=MINE))
    publish(clone, SECOND)
    done = call("update")
    assert done.exit_code == 1 and done.stderr.startswith("error: cannot write ")
    assert done.stderr.count("\n") == 1 and found(clone)[4] == MINE


def test_git_ignores_the_workbook():
    done = subprocess.run(
        ["git", "check-ignore", "workbook/06_nms.ipynb"], cwd=cli.course.ROOT, capture_output=True
    )
    assert done.returncode in (0, 128)  # 128: no clone but a copy


def test_an_update_of_the_real_lessons_keeps_every_answer(tmp_path):
    """Each exercise and prediction of the course written, and every text of a lesson changed."""
    from fbnet_lesson.course.build import ROOT, lesson_slugs, prepare

    for slug in lesson_slugs(ROOT):
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(prepare(slug, solved=False), tmp_path / "notebooks" / f"{slug}.ipynb")
    workbook.make_copies(tmp_path)
    for slug in lesson_slugs(ROOT):
        notebook = nbformat.read(copy(tmp_path, slug), as_version=4)
        for cell in notebook.cells:
            if workbook.is_answer(cell):
                cell.source += "\n# mine"
        nbformat.write(notebook, copy(tmp_path, slug))
        built = tmp_path / "notebooks" / f"{slug}.ipynb"
        notebook = nbformat.read(built, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source += " Anew."
        nbformat.write(notebook, built)
    assert workbook.update(tmp_path)[1]
    for slug in lesson_slugs(ROOT):
        cells = nbformat.read(copy(tmp_path, slug), as_version=4).cells
        wanted = prepare(slug, solved=False).cells
        ends = {"markdown": " Anew.", "code": ""}
        assert [cell.source for cell in cells] == [
            cell.source + ("\n# mine" if workbook.is_answer(cell) else ends[cell.cell_type])
            for cell in wanted
        ]
