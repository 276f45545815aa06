"""Answers that people write: right ones in other styles pass, wrong ones fail. See answers/."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "answers"
sys.path.insert(0, str(FOLDER))
import report  # noqa: E402 (they lie in the folder just added)
from cells import cells, cells_of  # noqa: E402

from fbnet_lesson.course.check import examine  # noqa: E402

EVERY = [*cells("right_*.py"), *cells("wrong_*.py"), *cells("fresh_*.py")]
RIGHT = [cell for cell in EVERY if cell.is_right]
WRONG = [cell for cell in EVERY if not cell.is_right]


@pytest.mark.parametrize("cell", RIGHT, ids=str)
def test_a_right_answer_passes(cell):
    said = examine(cell.exercise, cell.function())
    assert said.state == "passed", f"{cell.place}\n{said}"


@pytest.mark.parametrize("cell", WRONG, ids=str)
def test_a_wrong_answer_fails(cell):
    expectation = cell.words[1:] if cell.file.stem.startswith("wrong") else ()
    said = examine(cell.exercise, cell.function(), shrink=bool(expectation))
    assert said.state == "failed", cell.place
    for words in expectation:
        assert words in str(said).splitlines()[0], f"{cell.place}\n{said}"


FOUR = """\
# %% box_area · last pixel counted, and abs
def box_area(boxes):
    return ((boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)).abs()
# %% box_area · no difference
def box_area(boxes):
    return boxes[..., 2] * boxes[..., 3]
# %% box_area · a list
def box_area(boxes):
    return ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).tolist()
# %% box_area · half the area
def box_area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / 2
"""


def test_the_report_counts_what_is_told_and_how(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"there are no cells in right_00_\*.py"):
        report.main("right_00")
    file = tmp_path / "wrong_00.py"
    file.write_text(FOUR)
    report.main(str(file))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("   box_area · last pixel counted, and abs · ")
    assert lines[1].startswith("     failed: ✗ box_area: counts the last pixel twice")
    assert lines[-2:] == [
        "0 right answers: 0 refused",
        "4 wrong answers: 4 caught, 2 told by name, 2 told by fact (0 of them with a suspicion)",
    ]


def test_headings_and_cells_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "fresh_00.py"
    file.write_text("# %% box_area · rihgt · loop\nx = 1\n# %% box_aera · right · loop\n")
    first, second = cells_of(file)
    with pytest.raises(ValueError, match="fresh_00.py, line 1: say 'right' or 'wrong'"):
        assert first.is_right
    with pytest.raises(ValueError, match="fresh_00.py, line 1: the cell does not define box_area"):
        first.function()
    with pytest.raises(ValueError, match="fresh_00.py, line 3: there is no exercise 'box_aera'"):
        second.function()
    file.write_text("# %% box_area\n")
    with pytest.raises(ValueError, match="fresh_00.py, line 1: '# %% name · words' is the heading"):
        list(cells_of(file))
