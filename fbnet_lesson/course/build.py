"""Builds the notebooks from the lessons' sources.

A lesson is written once, as the jupytext percent script ``solutions/NN_slug.py``. From it come
``notebooks/NN_slug.ipynb``, which a learner opens, with the exercises blank, and
``solutions/NN_slug.ipynb`` with the exercises solved. Both are executed and keep their outputs, and
both hold nothing of the machine or the hour: building again without a change changes no byte.
"""

import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from fbnet_lesson.course.exercise import function_source
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
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{slug[:60]}-{index:02d}"
        cell.source = cell_source(cell, solved)
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's memory of blank lines
    return notebook


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
    path = cell.metadata["exercise"]
    module, _, name = path.rpartition(".")
    if name not in EXERCISES or EXERCISES[name].path != path:
        known = ", ".join(exercise.path for exercise in EXERCISES.values())
        raise LessonError(f"there is no exercise {path!r}; there are: {known}")
    wanted = f"from fbnet_lesson.{module} import {name}"
    if cell.source.strip() != wanted:
        raise LessonError(f"the cell of exercise {path!r} holds {cell.source!r}, not {wanted!r}")
    exercise = EXERCISES[name]
    return function_source(exercise.solution) if solved else exercise.stub


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
    ``;``, as nbval runs cells in a way that shows its value all the same.
    """
    found = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            found.append(f"cell {index} was not executed")
        if cell.cell_type == "code" and cell.source.rstrip().endswith(";"):
            found.append(f"cell {index} ends with ';': write '_ = ...' to show nothing")
        for output in cell.get("outputs", []):
            text = output_text(output)
            if output.get("name") == "stderr":
                found.append(f"cell {index} writes to stderr: {text.strip()[:200]!r}")
            if place := machine_trace(text, root):
                found.append(f"cell {index} shows {place!r}, which differs on another machine")
    if size > SIZE_LIMIT:
        found.append(f"{size:,} bytes, allowed are {SIZE_LIMIT:,}; use fewer or smaller figures")
    return found


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
