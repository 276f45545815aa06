"""Builds the notebooks from the lessons' sources.

A lesson is written once, as the jupytext percent script ``solutions/NN_slug.py``. From it come
``notebooks/NN_slug.ipynb``, which a learner opens, with the exercises blank, and
``solutions/NN_slug.ipynb`` with the exercises solved. Both are executed and keep their outputs, and
both hold nothing of the machine or the hour: building again without a change changes no byte.

Into the text go the minutes of the lesson (``minutes``) and, at each exercise, how hard it is, its
minutes and its solution in a fold. What a figure shows, a comment ``# alt:`` at the top of its
cell, becomes the text alternative that MyST and its books read.
"""

import ast
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from fbnet_lesson.course.exercise import Exercise, function_source
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.files import atomic_file

ROOT = Path(__file__).parents[2]
SIZE_LIMIT = 400_000  # bytes of a notebook: it has to open at once and to show on a page
CELL_SECONDS = 600
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# Any common place of a machine, not only this one's: tests of a clone see what the build saw.
MACHINE_PATH = r"(?<![\w.:/~-])/(?:home|root|tmp|usr|opt|var|Users|work|mnt)/\w+|\b[A-Z]:\\+\w+"
MEMORY_ADDRESS = r"\bat 0x[0-9a-f]{6,}"
SOLUTION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION[ \t]*\n"
    r"(?P<body>.*?)"
    r"^[ \t]*### END SOLUTION[ \t]*(?:\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
SOLUTION_FOLD = "<details><summary>Solution</summary>\n\n```python\n{}\n```\n\n</details>"
ALT = re.compile(r"# alt: .*\n(?:#  .*\n)*")
MINUTES = "{minutes}"  # in the head of a lesson, for the number of them
WORDS_A_MINUTE, LINES_A_MINUTE, MINUTES_A_CELL = 130, 20, 0.5  # see ``minutes``
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HTML_TAG = re.compile(r"</?\w+[^>]*>")
ANSI_COLOUR = re.compile(r"\x1b\[[\d;]*m")


class LessonError(ValueError):
    """A lesson that cannot be built; names the lesson, the cell and what is wrong."""


def build(lessons: list[str] | None = None, root: Path = ROOT) -> list[Path]:
    """Build and execute the notebooks of ``lessons`` (``"00_welcome"``; None: all) under ``root``.

    Either both notebooks of a lesson are written or, if it has a defect, neither.

    Returns:
        the notebooks whose bytes changed.

    Raises:
        LessonError: for a lesson that does not exist, a cell that fails, or a defect (``defects``).
    """
    changed = []
    for slug in lesson_slugs(root) if lessons is None else lessons:
        start = time.perf_counter()
        built = {}
        for path in notebook_paths(slug, root):
            notebook = prepare(slug, solved=path.parent.name == "solutions", root=root)
            built[path] = finish(execute(notebook, path), path, root)
        written = [path for path, text in built.items() if write_if_changed(path, text)]
        changed += written
        state = "built" if written else "unchanged"
        print(f"{slug}: {state} in {time.perf_counter() - start:.0f} s")
    return changed


def lesson_slugs(root: Path = ROOT) -> list[str]:
    """The lessons in order: ``["00_welcome", ...]``."""
    return sorted(path.stem for path in (root / "solutions").glob("[0-9][0-9]_*.py"))


def notebook_paths(slug: str, root: Path = ROOT) -> tuple[Path, Path]:
    """The learner's notebook and the solved one."""
    return root / "notebooks" / f"{slug}.ipynb", root / "solutions" / f"{slug}.ipynb"


def prepare(slug: str, solved: bool, root: Path = ROOT) -> NotebookNode:
    """The notebook of a lesson before it is executed.

    Raises:
        LessonError: if there is no such lesson.
    """
    source = root / "solutions" / f"{slug}.py"
    if not source.exists():
        known = ", ".join(lesson_slugs(root)) or "none"
        raise LessonError(f"there is no lesson {slug!r}; there are: {known}")
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(METADATA)
    total = minutes(notebook.cells)
    introduce_exercises(notebook.cells, solved)
    notebook.cells[0].source = notebook.cells[0].source.replace(MINUTES, str(total))
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{slug[:60]}-{index:02d}"
        alt, cell.source = alt_text(cell_source(cell, solved))
        if alt:
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's memory of blank lines
    return notebook


def minutes(cells: list[NotebookNode]) -> int:
    """What most learners need for a lesson, to the next five minutes.

    ``words / 130 + code cells / 2 + code lines / 20 + the minutes of the exercises``, where words
    are those of the text, its folds and formulas included, and code is all but the exercises.

    - 130 words a minute: people read plain non-fiction at some 240 (Brysbaert 2019, J. Mem. Lang.
      109), and a text with formulas, to be understood and not skimmed, at about half of that.
    - Half a minute a cell to run it and look at what comes out, and three seconds a line of code.
    - An exercise says itself how long most people need, its check and second try included.
    """
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    words = len(re.findall(r"[^\W_][\w'’-]*", HTML_TAG.sub(" ", text)))
    code = [c for c in cells if c.cell_type == "code" and "exercise" not in c.metadata]
    lines = sum(bool(line.strip()) for cell in code for line in cell.source.splitlines())
    own = [exercise_of(cell).minutes for cell in cells if "exercise" in cell.metadata]
    whole = words / WORDS_A_MINUTE + len(code) * MINUTES_A_CELL + lines / LINES_A_MINUTE + sum(own)
    return 5 * math.ceil(whole / 5)


def lesson_minutes(slug: str, root: Path = ROOT) -> int:
    """``minutes`` of the lesson ``"00_welcome"``."""
    return minutes(jupytext.read(root / "solutions" / f"{slug}.py", fmt="py:percent").cells)


def introduce_exercises(cells: list[NotebookNode], solved: bool) -> None:
    """Put ``●●○ · about 10 minutes`` under the heading of each exercise's text and, where the next
    cell does not show it, the solution in a fold at the text's end.

    Raises:
        LessonError: for an exercise whose text, at most two cells before it, has no heading.
    """
    for index, cell in enumerate(cells):
        if "exercise" not in cell.metadata:
            continue
        exercise = exercise_of(cell)
        near = [c for c in cells[max(index - 2, 0) : index] if c.cell_type == "markdown"]
        lines = near[-1].source.splitlines() if near else []
        bare = FENCE.sub(lambda code: "\n" * code.group().count("\n"), "\n".join(lines)).split("\n")
        headings = [i for i, line in enumerate(bare) if re.match(r"#+ ", line)]
        if not headings:
            raise LessonError(f"no text with a heading stands before exercise {exercise.path!r}")
        under = headings[-1] + 1
        blank = [] if not any(lines[under : under + 1]) else [""]
        lines[under:under] = ["", effort(exercise), *blank]
        if not solved:
            lines += ["", SOLUTION_FOLD.format(without_docstring(exercise.solution))]
        near[-1].source = "\n".join(lines)


def without_docstring(function: Callable) -> str:
    """The source of a function without its docstring, which the cell of its exercise shows."""
    source = function_source(function)
    (definition,) = ast.parse(source).body
    docstring, lines = definition.body[0], source.splitlines()
    return "\n".join(lines[: docstring.lineno - 1] + lines[docstring.end_lineno :])


def effort(exercise: Exercise) -> str:
    """``"●●○ · about 10 minutes"``."""
    dots = "●" * exercise.difficulty + "○" * (3 - exercise.difficulty)
    return f"{dots} · about {exercise.minutes} minutes"


def alt_text(source: str) -> tuple[str, str]:
    """What the comment ``# alt: ...`` at the top of a cell says, "" without one; and the rest.

    It may go on over lines that begin with ``#`` and two or more spaces.
    """
    found = ALT.match(source)
    if not found:
        return "", source
    words = re.sub(r"^#(?: alt:)?", "", found.group(), flags=re.MULTILINE).split()
    return " ".join(words), source[found.end() :].lstrip("\n")


def cell_source(cell: NotebookNode, solved: bool) -> str:
    """What stands in a cell of the learner's or the solved notebook.

    A cell with ``exercise="detection.nms.nms"`` imports that function in the source, and becomes
    its stub or its solution. In other cells, what stands between the lines ``### BEGIN SOLUTION``
    and ``### END SOLUTION`` (nbgrader's marks) is left out for the learner.

    Raises:
        LessonError: if there is no such exercise, or the cell holds anything but its import.
    """
    if "exercise" not in cell.metadata:
        return SOLUTION.sub(r"\g<body>" if solved else r"\g<indent># your turn\n", cell.source)
    exercise = exercise_of(cell)
    module, _, name = exercise.path.rpartition(".")
    wanted = f"from fbnet_lesson.{module} import {name}"
    if cell.source.strip() != wanted:
        raise LessonError(
            f"the cell of exercise {exercise.path!r} holds {cell.source!r}, not {wanted!r}"
        )
    return function_source(exercise.solution) if solved else exercise.stub


def exercise_of(cell: NotebookNode) -> Exercise:
    """The exercise that an exercise cell names.

    Raises:
        LessonError: if there is none of that path.
    """
    path = cell.metadata["exercise"]
    exercise = EXERCISES.get(path.rpartition(".")[2])
    if exercise is None or exercise.path != path:
        known = ", ".join(exercise.path for exercise in EXERCISES.values())
        raise LessonError(f"there is no exercise {path!r}; there are: {known}")
    return exercise


def execute(notebook: NotebookNode, path: Path) -> NotebookNode:
    """Run all cells in a fresh kernel, in the folder of ``path``, with one thread.

    Raises:
        LessonError: if a cell raises or takes longer than ``CELL_SECONDS``.
    """
    path.parent.mkdir(exist_ok=True)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_SECONDS,
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        own = {"OMP_NUM_THREADS": "1", "FBNET_LESSON_PROGRESS": "off"}  # nobody's progress
        return client.execute(env={**os.environ, **own})
    except (CellExecutionError, TimeoutError) as error:
        raise LessonError(f"{path.parent.name}/{path.name}: {error}") from error


def finish(notebook: NotebookNode, path: Path, root: Path = ROOT) -> str:
    """The text of the notebook's file, without what differs from run to run.

    Raises:
        LessonError: lists all ``defects``.
    """
    notebook.metadata = nbformat.from_dict(METADATA)  # without the state of widgets
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
    for output in outputs(notebook):
        output.get("data", {}).pop(WIDGET_VIEW, None)  # names a live object by a random number
        output.get("metadata", {}).pop(WIDGET_VIEW, None)
    nbformat.validate(notebook)
    text = nbformat.writes(notebook) + "\n"
    found = defects(notebook, len(text.encode()), root)
    if found:
        raise LessonError(f"{path.parent.name}/{path.name}: " + "; ".join(found))
    return text


def joined(found: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream as one: where they are cut is a matter of timing."""
    whole: list[NotebookNode] = []
    for output in found:
        if whole and output.get("name") and output.get("name") == whole[-1].get("name"):
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def defects(notebook: NotebookNode, size: int, root: Path = ROOT) -> list[str]:
    """What keeps an executed notebook of ``size`` bytes from being published, one line each.

    A code cell that was not executed, a warning or other text on stderr, a path of this machine or
    a memory address in a text output, more than ``SIZE_LIMIT`` bytes; a last line that ends with
    ``;``, as nbval runs cells in a way that shows its value all the same; a figure without a text
    alternative, or one without a figure.
    """
    found = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            found.append(f"cell {index} was not executed")
        if cell.cell_type == "code" and cell.source.rstrip().endswith(";"):
            found.append(f"cell {index} ends with ';': write '_ = ...' to show nothing")
        if found_alt := alt_defect(cell):
            found.append(f"cell {index} {found_alt}")
        for output in cell.get("outputs", []):
            text = output_text(output)
            if output.get("name") == "stderr":
                found.append(f"cell {index} writes to stderr: {text.strip()[:200]!r}")
            if place := machine_trace(text, root):
                found.append(f"cell {index} shows {place!r}, which differs on another machine")
    if size > SIZE_LIMIT:
        found.append(f"{size:,} bytes, allowed are {SIZE_LIMIT:,}; use fewer or smaller figures")
    return found


def draws(cell: NotebookNode) -> bool:
    """Whether a cell shows a picture."""
    kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
    return any(kind.startswith("image/") for kind in kinds)


def alt_defect(cell: NotebookNode) -> str | None:
    """What is wrong with the text alternative of a cell's figure, as the end of "cell 3 ..."."""
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
    if draws(cell) and not alt:
        return "draws, and says nowhere what is to be seen: begin it with '# alt: ...'"
    return "has a text alternative ('# alt:') and no figure" if alt and not draws(cell) else None


def output_text(output: NotebookNode) -> str:
    """All text of one output: a stream, the text forms of a result, or a traceback."""
    data = output.get("data", {})
    texts = [value for kind, value in data.items() if kind.startswith("text/") or "svg" in kind]
    whole = "\n".join([output.get("text", ""), *texts, *output.get("traceback", [])])
    return ANSI_COLOUR.sub("", whole)


def machine_trace(text: str, root: Path) -> str | None:
    """The first place in ``text`` that names a path of a machine or an address in its memory."""
    own = [str(path) for path in (root, Path.home(), sys.prefix) if len(str(path)) > 1]
    patterns = [rf"(?<!\w){re.escape(path)}\b" for path in own] + [MACHINE_PATH, MEMORY_ADDRESS]
    match = re.search("|".join(patterns), text)
    return match and match.group()


def write_if_changed(path: Path, text: str) -> bool:
    """Replace ``path`` as a whole, so that no reader sees half a notebook; True if it changed."""
    if path.exists() and path.read_bytes() == text.encode():
        return False
    with atomic_file(path) as file:
        file.write(text.encode())
    return True


def out_of_step(root: Path = ROOT) -> list[str]:
    """Built notebooks that are missing, left over, or not what their source would give.

    Nothing is executed: cells are compared by kind, source, metadata and id.
    """
    slugs = lesson_slugs(root)
    expected = {path: slug for slug in slugs for path in notebook_paths(slug, root)}
    folders = (root / "notebooks", root / "solutions")
    present = {path for folder in folders for path in folder.glob("*.ipynb")}
    found = [f"{path.relative_to(root)} has no source" for path in sorted(present - set(expected))]
    for path, slug in expected.items():
        name = path.relative_to(root)
        if path not in present:
            found.append(f"{name} is not built")
            continue
        wanted = prepare(slug, solved=path.parent.name == "solutions", root=root)
        if contents(nbformat.read(path, as_version=4)) != contents(wanted):
            found.append(f"{name} is out of step with solutions/{slug}.py: run make notebooks")
    return found


def contents(notebook: NotebookNode) -> list:
    """What the source decides: the notebook's metadata and its cells without their outputs."""
    cells = [(cell.cell_type, cell.source, cell.metadata, cell.id) for cell in notebook.cells]
    return [notebook.metadata, *cells]
