"""What a check says to each cell of ``fresh_*.py``, and how many are refused, caught and told:
``python tests/answers/report.py fresh``, or ``right``, ``wrong``, or the path of a file.
"""

import re
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from cells import Cell, cells, cells_of  # noqa: E402 (they lie in the folder just added)

from fbnet_lesson.course.check import Report, examine  # noqa: E402

FACT = re.compile(  # which element, type, shape, number or error
    r"element \[|gives .+, expected|returns |raises |writes into|gradient|does not come to an end"
    r"|ends its process|calls |asks for"
)


def how_told(report: Report) -> str:
    """ "name", "fact", or "" where a wrong answer is only called wrong."""
    if report.named:
        return "name"
    return "fact" if FACT.search(report.mistake) else ""


def line_of(cell: Cell, report: Report) -> str:
    ok = (report.state == "passed") == cell.is_right
    head = f"{'  ' if ok else '!!'} {cell.name} · {' · '.join(cell.words)} ({cell.place})"
    first, hint = str(report).splitlines()[0], f"\n       {report.hint}" if report.hint else ""
    return f"{head}\n     {report.state}: {first}{hint}"


def main(which: str) -> None:
    torch.set_num_threads(1)
    found = list(cells_of(Path(which))) if which.endswith(".py") else cells(f"{which}_*.py")
    if not found:
        sys.exit(f"there are no cells in {which}_*.py")
    reports = []
    for cell in found:
        reports.append(examine(cell.exercise, cell.function(), isolated=True))
        print(line_of(cell, reports[-1]))
    pairs = list(zip(found, reports, strict=True))
    right = [report for cell, report in pairs if cell.is_right]
    wrong = [report for cell, report in pairs if not cell.is_right]
    caught = [report for report in wrong if report.state == "failed"]
    told = [how_told(report) for report in caught]
    suspected = sum("; perhaps it " in report.mistake for report in caught)
    print(f"\n{len(right)} right answers: {sum(r.state != 'passed' for r in right)} refused")
    print(
        f"{len(wrong)} wrong answers: {len(caught)} caught, {told.count('name')} told by name, "
        f"{told.count('fact')} told by fact ({suspected} of them with a suspicion)"
    )


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["fresh"]))
