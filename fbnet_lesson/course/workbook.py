"""The learner's own copies of the notebooks, and how a new version of a lesson gets under them.

``notebooks/`` holds what was built and stays as it is, so that ``git pull`` meets no conflict. The
learner works in ``workbook/``, which git ignores. Each copy names in its metadata the version it
was made from, and that version lies in ``workbook/.base``: what differs from it is the learner's.
"""

import ast
import datetime
import difflib
import hashlib
import json
import re
import uuid
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode, ValidationError

from fbnet_lesson.files import atomic_file

ALIKE = 0.5  # of the text of two cells, for one to be the other's new version


class Damaged(ValueError):
    """A notebook that cannot be read; names it."""


@dataclass
class Kept:
    """What of a learner's work is in the new version, in words for them."""

    exercises: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)  # of the exercises, those with a new text
    guesses: int = 0
    edits: int = 0
    notes: int = 0  # edits whose cell has a new text too, or is gone
    added: int = 0
    restored: int = 0

    def __str__(self) -> str:
        def count(number: int, one: str, more: str) -> str:
            return f"{number} {one if number == 1 else more}" if number else ""

        parts = [
            count(len(self.exercises), "exercise", "exercises")
            + (f" ({', '.join(self.exercises)})" if self.exercises else ""),
            "your predictions" if self.guesses else "",
            count(self.edits, "cell that you changed", "cells that you changed"),
            count(self.added, "cell of your own", "cells of your own"),
            count(
                self.notes, "cell in its old form, as a note", "cells in their old form, as notes"
            ),
        ]
        text = "kept: " + (", ".join(filter(None, parts)) or "nothing, as nothing was yours")
        if self.changed:
            text += f"; new text for {', '.join(self.changed)}, below your cell"
        if self.restored:
            text += "; " + count(self.restored, "deleted cell is", "deleted cells are") + " back"
        return text


# --------------------------------------------------------------------------------- copies, updates


def make_copies(root: Path) -> list[str]:
    """Copy what is not in the workbook yet; all lessons, so that links between them work.

    Returns:
        lines for the learner: which lessons could not be copied, and whether there is an update.
    """
    said, waiting = [], []
    for built in lessons(root):
        try:
            if not copy_of(built, root).exists():
                start_copy(built, root)
            elif version_of(copy_of(built, root)) != digest(built):
                waiting.append(built.stem)
        except Damaged as error:
            said.append(str(error))
    if waiting:
        said.append(
            f"There is a new version of {', '.join(waiting)}: "
            "fbnet-lesson update brings it under your work."
        )
    return said


def update(root: Path) -> tuple[list[str], bool]:
    """Bring the new version of each lesson under the learner's work.

    Returns:
        a line for each lesson that has changed or could not be updated, and whether all could.
    """
    said, whole = [], True
    for built in lessons(root):
        try:
            line = update_lesson(built, root)
        except Damaged as error:
            line, whole = f"{built.stem}: left as it is: {error}", False
        if line:
            said.append(line)
    return said, whole


def update_lesson(built: Path, root: Path) -> str | None:
    """Bring one lesson up to date; what was done, None if there was nothing to do.

    Raises:
        Damaged: and nothing was changed.
    """
    path = copy_of(built, root)
    if not path.exists():
        start_copy(built, root)
        return f"{built.stem}: added"
    version = version_of(path)
    if version == digest(built):
        return None
    if version is None or not base_of(built, version, root).exists():
        raise Damaged(
            f"it is not known which version {shown(path, root)} was made from; "
            "give it another name, and the lesson is copied anew"
        )
    base, learners = read(base_of(built, version, root)), read(path)
    if texts(base) == texts(learners):
        start_copy(built, root)
        return f"{built.stem}: replaced, as you had changed nothing"
    old = set_beside(path)
    new = read(built)
    new.cells, kept = merged(base.cells, learners.cells, new.cells)
    write_copy(new, built, root)
    return f"{built.stem}: new version; {kept}. Your old copy: {shown(old, root)}"


def lessons(root: Path) -> list[Path]:
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def copy_of(built: Path, root: Path) -> Path:
    return root / "workbook" / built.name


def base_of(built: Path, version: str, root: Path) -> Path:
    return root / "workbook" / ".base" / f"{built.stem}-{version}.ipynb"


def shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def digest(built: Path) -> str:
    """Names a version of a lesson: any change of the file gives another one."""
    return hashlib.sha256(built.read_bytes()).hexdigest()[:16]


def version_of(copy: Path) -> str | None:
    """The version that a copy was made from, None if it does not say.

    Raises:
        Damaged: if it is no notebook; not all of it is looked at, so that ``lab`` starts at once.
    """
    try:
        return json.loads(copy.read_bytes())["metadata"].get("fbnet_lesson", {}).get("version")
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise damaged(copy, error) from error


def start_copy(built: Path, root: Path) -> None:
    write_copy(read(built), built, root)


def write_copy(notebook: NotebookNode, built: Path, root: Path) -> None:
    """Write ``notebook`` as the copy of ``built``; its base is there first, and older ones go."""
    version = digest(built)
    base = base_of(built, version, root)
    base.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(base) as file:
        file.write(built.read_bytes())
    notebook.metadata["fbnet_lesson"] = {"version": version}
    with atomic_file(copy_of(built, root)) as file:
        file.write((nbformat.writes(notebook) + "\n").encode())
    for older in base.parent.glob(f"{built.stem}-*.ipynb"):
        if older != base:
            older.unlink()


def set_beside(path: Path) -> Path:
    """Copy ``path`` into the folder ``old`` beside it, under a name with the day of today."""
    stem = f"{path.stem}-{datetime.date.today().isoformat()}"
    folder = path.parent / "old"
    folder.mkdir(exist_ok=True)
    number, kept = 1, folder / f"{stem}.ipynb"
    while kept.exists():
        number += 1
        kept = folder / f"{stem}-{number}.ipynb"
    with atomic_file(kept) as file:
        file.write(path.read_bytes())
    return kept


def read(path: Path) -> NotebookNode:
    """The notebook, each cell with an id.

    Raises:
        Damaged: if it is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of cells without ids: they get some
            notebook = nbformat.reads(path.read_text("utf-8"), as_version=4)
            notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
            for cell in notebook.cells:
                cell.setdefault("id", uuid.uuid4().hex[:8])
            nbformat.validate(notebook)
    except (OSError, ValueError, LookupError, AttributeError, TypeError, ValidationError) as error:
        raise damaged(path, error) from error
    return notebook


def damaged(path: Path, error: Exception) -> Damaged:
    place = f"{path.parent.name}/{path.name}"
    return Damaged(f"{place} cannot be read as a notebook ({type(error).__name__})")


# ------------------------------------------------------------------------------------- merging


def texts(notebook: NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def merged(
    base: list[NotebookNode], learners: list[NotebookNode], new: list[NotebookNode]
) -> tuple[list[NotebookNode], Kept]:
    """The cells of the new version with the learner's work in them.

    The new lesson is there as a whole and in its order. An exercise or prediction that the learner
    wrote stays theirs; if the lesson has another text for it, that follows as a note. Any other
    cell that they changed stays theirs where the new version left it as it was; where both changed
    it, the new text stands and the learner's follows as a note. Cells they added come after the
    cell that they followed.
    """
    origins, successors = origins_of(learners, base), successors_of(base, new)
    result = [NotebookNode(cell) for cell in new]
    following: dict[int, list[NotebookNode]] = defaultdict(
        list
    )  # behind a cell of new; -1: at first
    kept, place = Kept(), -1
    for index, cell in enumerate(learners):
        origin = origins.get(index)
        if origin is None:
            following[place].append(own_cell(cell, new))
            kept.added += 1
            continue
        before, to = base[origin], successors.get(origin)
        place = next((successors[i] for i in range(origin, -1, -1) if i in successors), -1)
        now = new[to] if to is not None else None
        if now is not None and cell.source == now.source:
            if cell.get("outputs") != before.get("outputs"):  # they ran it
                take_over(result[to], cell)
        elif cell.source == before.source:
            pass  # the lesson's, and the lesson has changed it
        elif is_answer(before) and now is None:
            following[place].append(own_cell(cell, new))
            kept.added += 1
        elif is_answer(before) or (now is not None and now.source == before.source):
            take_over(result[to], cell)
            name = exercise_name(before)
            if now.source != before.source:
                following[to].append(note(now, "The lesson's new version of this cell:"))
                kept.changed.append(name or "your predictions")
            kept.exercises += [name] if name else []
            kept.guesses += is_guess(before)
            kept.edits += not is_answer(before)
        else:
            following[place].append(note(cell, "Your version of this cell, before the update:"))
            kept.notes += 1
    kept.restored = sum(i in successors for i in set(range(len(base))) - set(origins.values()))
    cells = list(following[-1])
    for index, cell in enumerate(result):
        cells += [cell, *following[index]]
    return cells, kept


def origins_of(learners: list[NotebookNode], base: list[NotebookNode]) -> dict[int, int]:
    """Index of a learner's cell -> index of the cell of the lesson that it was.

    By id; where an editor has lost the ids, by text; and a cell that defines the function of an
    exercise whose own cell is gone is that exercise.
    """
    found: dict[int, int] = {}

    def pair(alike) -> None:
        for index, cell in enumerate(learners):
            left = set(range(len(base))) - set(found.values())
            fits = [i for i in sorted(left) if base[i].cell_type == cell.cell_type]
            match = next((i for i in fits if alike(cell, base[i])), None)
            if index not in found and match is not None:
                found[index] = match

    pair(lambda cell, before: cell.id == before.id)
    pair(lambda cell, before: cell.source == before.source)
    pair(lambda cell, before: is_answer(before) and set(defined(cell)) & set(defined(before)))
    return found


def successors_of(base: list[NotebookNode], new: list[NotebookNode]) -> dict[int, int]:
    """Index of a cell of the old version -> index of the same cell in the new one.

    An exercise is known by its path, the predictions by their name, wherever they stand; other
    cells by their text, or by a place between the same neighbours and a text half of which is left.
    """
    before, now = map(lambda cells: [identity(cell) for cell in cells], (base, new))
    answers = [key for key in dict.fromkeys(before) if key[0] == "answer" and key in now]
    found = {before.index(key): now.index(key) for key in answers}
    blocks = difflib.SequenceMatcher(None, before, now, autojunk=False).get_opcodes()
    for tag, start, end, new_start, new_end in blocks:
        if tag == "equal":
            found |= zip(range(start, end), range(new_start, new_end), strict=True)
        first = new_start
        for i in range(start, end) if tag == "replace" else ():
            match = next((j for j in range(first, new_end) if revised(base[i], new[j])), None)
            if i not in found and match is not None:
                found[i], first = match, match + 1
    return found


def identity(cell: NotebookNode) -> tuple[str, str]:
    """What a cell is known by in every version."""
    if name := exercise_name(cell):
        return "answer", name
    return ("answer", "guess") if is_guess(cell) else (cell.cell_type, cell.source)


def revised(before: NotebookNode, now: NotebookNode) -> bool:
    if before.cell_type != now.cell_type or is_answer(before) or is_answer(now):
        return False
    return difflib.SequenceMatcher(None, before.source, now.source).ratio() >= ALIKE


def exercise_name(cell: NotebookNode) -> str:
    """``"nms"`` of the cell of that exercise, "" of all others."""
    return str(cell.metadata.get("exercise", "")).rpartition(".")[2]


def is_guess(cell: NotebookNode) -> bool:
    """Whether it holds the predictions: ``guess = {...}``."""
    return cell.cell_type == "code" and bool(re.search(r"^guess = \{", cell.source, re.MULTILINE))


def is_answer(cell: NotebookNode) -> bool:
    """Whether a cell of a lesson is there to be written by the learner."""
    return bool(exercise_name(cell)) or is_guess(cell)


def defined(cell: NotebookNode) -> list[str]:
    """The functions and variables that a cell defines; none, if it is no plain Python."""
    try:
        statements = ast.parse(cell.source).body if cell.cell_type == "code" else []
    except (SyntaxError, ValueError):
        return []
    targets = [t for s in statements if isinstance(s, ast.Assign) for t in s.targets]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return names + [s.name for s in statements if isinstance(s, ast.FunctionDef)]


def take_over(cell: NotebookNode, learners: NotebookNode) -> None:
    """Put the learner's text, and what it has shown, into a cell of the new version."""
    for key in ("source", "outputs", "execution_count", "attachments"):
        if key in learners:
            cell[key] = learners[key]


def own_cell(cell: NotebookNode, new: list[NotebookNode]) -> NotebookNode:
    """A cell of the learner's, under an id that no cell of the lesson has."""
    taken = cell.id in {other.id for other in new}
    return NotebookNode(cell, id=uuid.uuid4().hex[:8] if taken else cell.id)


def note(cell: NotebookNode, head: str) -> NotebookNode:
    """Another version of a cell, as a text that runs nothing."""
    code = f"````python\n{cell.source}\n````" if cell.cell_type == "code" else cell.source
    return nbformat.v4.new_markdown_cell(f"**{head}**\n\n{code}")
