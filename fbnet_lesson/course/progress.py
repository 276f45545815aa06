"""What a learner has done, remembered in one small file on this machine and nowhere else.

The file holds ``{"passed": {"box_area": "2026-11-21T15:40:00Z"}, "sources": {...}, "findings":
[...]}``: when each exercise first passed, the source of what passed last (see ``mine``), and the
latest mistakes that a check has found, each with exercise and time. Several notebooks may write at
once: each takes the lock, reads, adds its own, and replaces the whole file.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from fbnet_lesson.files import atomic_file

VARIABLE = "FBNET_LESSON_PROGRESS"  # names another file; "off" remembers nothing
OFF = "off"
LOCK_SECONDS = 5  # another kernel holds the lock for milliseconds
FINDINGS_KEPT = 1000
MISTAKE_LENGTH = 200  # characters
FINDING = ("exercise", "mistake", "when")
WIDTH = 80  # columns of the table, where names are not longer than that

Content = dict[str, Any]  # what the file holds


def progress_file() -> Path | None:
    """``$FBNET_LESSON_PROGRESS``, else ``fbnet_lesson/progress.json`` in ``$XDG_DATA_HOME``, else
    in ``~/.local/share``; None if nothing is to be remembered.

    Source: XDG Base Directory Specification, where a relative ``$XDG_DATA_HOME`` does not count.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == OFF else Path(named).expanduser()
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    base = base if base.is_absolute() else Path("~/.local/share").expanduser()
    return base / "fbnet_lesson" / "progress.json"


def record(exercise: str, source: str | None = None) -> str | None:
    """Remember that the exercise of this name has passed, when first, and with which ``source``.

    Returns:
        a line for the learner if that did not work or a broken file was found; it never raises.
    """

    def known(content: Content) -> bool:
        same = source is None or content["sources"].get(exercise) == source
        return exercise in content["passed"] and same

    def change(content: Content) -> None:
        content["passed"].setdefault(exercise, now())
        if source is not None:
            content["sources"][exercise] = source

    return changed(change, known, "this pass")


def record_finding(exercise: str, mistake: str) -> str | None:
    """Remember that a check has found this mistake; the latest ``FINDINGS_KEPT`` are kept.

    Returns:
        a line for the learner, as ``record``; it never raises.
    """

    def change(content: Content) -> None:
        found = {"exercise": exercise, "mistake": mistake[:MISTAKE_LENGTH], "when": now()}
        content["findings"] = [*content["findings"], found][-FINDINGS_KEPT:]

    return changed(change, lambda content: False, "this finding")


def changed(
    change: Callable[[Content], None], known: Callable[[Content], bool], what: str
) -> str | None:
    """Make ``change`` in the file, unless all is ``known``; what went wrong, in a line."""
    message, path = None, None
    try:
        path = progress_file()
        if path is None or known(remembered(path)):
            return None
        with locked(path):
            try:
                content = read(path)
            except ValueError as error:
                kept = set_aside(path)
                message = f"progress: {error}; it is now {kept.name}, and a new one is begun"
                content = empty()
            change(content)
            write(path, content)
    except Exception as error:  # whatever a disk can do, the lesson goes on
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        place = f" in {path}" if path else ""
        message = f"progress: {what} could not be remembered{place} ({reason})"
    return message and " ".join(message.split())


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def sources() -> dict[str, str]:
    """Name of each exercise -> the source of what passed last; nothing where it cannot be read."""
    try:
        path = progress_file()
    except RuntimeError:  # no home
        return {}
    return remembered(path)["sources"] if path else {}


def passed() -> dict[str, str]:
    """Name of each exercise that has passed -> when it first did, as ``2026-11-21T15:40:00Z``.

    Raises:
        ValueError: if the file is broken, or cannot be read.
    """
    return content()["passed"]


def findings() -> list[dict[str, str]]:
    """``{"exercise": ..., "mistake": ..., "when": ...}`` of each remembered finding, in order.

    Raises:
        ValueError: if the file is broken, or cannot be read.
    """
    return content()["findings"]


def content() -> Content:
    path = progress_file()
    try:
        return read(path) if path else empty()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def reset() -> None:
    """Forget all that is remembered.

    Raises:
        ValueError: if the file cannot be removed.
    """
    path = progress_file()
    if path is None or not path.exists():
        return
    try:
        with locked(path):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"cannot remove {path}: {error.strerror}") from error


def table(lessons: dict[str, tuple[int, dict[str, int]]]) -> str:
    """``lessons`` (``{"06": (100, {"nms": 15, ...})}``: the minutes of each lesson, and of each of
    its exercises) with what is done and left of it, in at most 80 columns.

    Of a lesson whose exercises have all passed, nothing is left; of another one, its minutes but
    for the exercises that have passed.

    Raises:
        ValueError: if the file is broken, or cannot be read.
    """
    path, known = progress_file(), content()
    done, found = known["passed"], Counter(f["exercise"] for f in known["findings"])
    numbers = {name: of_lesson(*lesson, done) for name, lesson in lessons.items()}
    numbers["total"] = tuple(map(sum, zip(*numbers.values(), strict=True)))
    heads = ("lesson", "minutes", "left", "passed")
    cells = {name: (str(a), str(b), f"{c}/{d}") for name, (a, b, c, d) in numbers.items()}
    lines = [heads, *((name, *parts) for name, parts in cells.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def left_part(name: str, *parts: str) -> str:
        return "  ".join([f"{name:{widths[0]}}", *map(str.rjust, parts, widths[1:])]) + "  "

    rows = [left_part(*heads) + "exercises, in minutes"]
    for name, (_, exercises) in lessons.items():
        left = left_part(name, *cells[name])
        marked = [marked_exercise(e, m, e in done, found[e]) for e, m in exercises.items()]
        for line in wrapped(marked, WIDTH - len(left)) or [""]:
            rows.append(left + line)
            left = " " * len(left)
    rows += [left_part("total", *cells["total"]), ""]
    rows.append(
        f"Remembered in {path}, on this machine only."
        if path
        else f"Nothing is remembered: {VARIABLE} is {OFF}."
    )
    return "\n".join(row.rstrip() for row in rows)


def of_lesson(minutes: int, exercises: dict[str, int], done: dict) -> tuple[int, int, int, int]:
    """Minutes of a lesson, minutes left, exercises passed, exercises."""
    passed = [name for name in exercises if name in done]
    left = minutes - sum(exercises[name] for name in passed)
    finished = exercises and len(passed) == len(exercises)
    return minutes, 0 if finished else left, len(passed), len(exercises)


def marked_exercise(name: str, minutes: int, done: bool, findings: int) -> str:
    """``"[ ] nms 15, 2 findings"``."""
    found = f", {findings} finding{'s' * (findings > 1)}" if findings else ""
    return f"[{'x' if done else ' '}] {name} {minutes}{found}"


def wrapped(items: list[str], width: int) -> list[str]:
    """``items`` as lines of at most ``width`` columns, where one item alone is not longer."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += "  " + item
        else:
            lines.append(item)
    return lines


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else reads and writes ``path`` meanwhile; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS):
        yield


def read(path: Path) -> Content:
    """What the file holds; nothing, if it is not there.

    Raises:
        ValueError: if it holds something else than this module writes.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return empty()
    except ValueError:  # no JSON, or no text at all
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("passed"), dict):
        raise ValueError(f"{path} holds no progress of this course")
    content = empty() | content  # the first versions wrote only what has passed
    texts = [*content["passed"].values()]
    if isinstance(content["sources"], dict) and isinstance(content["findings"], list):
        texts += content["sources"].values()
        for found in content["findings"]:
            texts += [found.get(key) if isinstance(found, dict) else None for key in FINDING]
    else:
        texts.append(None)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path} holds no progress of this course")
    return content


def empty() -> Content:
    return {"passed": {}, "sources": {}, "findings": []}


def remembered(path: Path) -> Content:
    """What the file holds, as far as it can be read."""
    try:
        return read(path)
    except (OSError, ValueError):
        return empty()


def write(path: Path, content: Content) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")


def set_aside(path: Path) -> Path:
    """Give the file a name that no other has, and return it."""
    number = 1
    while (kept := path.with_name(f"{path.stem}.broken-{number}{path.suffix}")).exists():
        number += 1
    return path.rename(kept)
