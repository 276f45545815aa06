"""``lab``, ``update``, ``build`` and ``progress``: the course itself."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from fbnet_lesson.cli.errors import fail, one_line_errors

ROOT = Path(__file__).resolve().parents[2]
JUPYTER_DEFAULTS = ROOT / "fbnet_lesson" / "course" / "jupyter"


def lab(context: typer.Context) -> None:
    """Open the course in JupyterLab; further options, such as --no-browser, are Jupyter's.

    You work in copies of the lessons, in the folder workbook.
    """
    from fbnet_lesson.course import workbook

    notebook = ROOT / "notebooks" / "00_welcome.ipynb"
    if not notebook.exists():
        fail(f"{notebook} is not there: the course is opened from a clone of the repository")
    with unwritable():
        for line in workbook.make_copies(ROOT):
            typer.echo(line)
    # The whole clone in the file browser, so that solutions/ is one click away; no news from afar,
    # nor a question about them: the folder course/jupyter holds those defaults.
    command = [
        sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}",
        "--LabApp.default_url=/lab/tree/workbook/00_welcome.ipynb",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", *context.args,
    ]  # fmt: skip
    paths = [str(JUPYTER_DEFAULTS), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    environment = {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}
    with contextlib.suppress(KeyboardInterrupt):  # Jupyter has answered it already
        raise typer.Exit(subprocess.run(command, cwd=ROOT, env=environment).returncode)


def update() -> None:
    """Bring new versions of the lessons, after git pull, under your own work in workbook.

    What you wrote stays: exercises, predictions, cells that you changed or added. The old copies
    are kept in workbook/old. Save and close the lessons first.
    """
    from fbnet_lesson.course import workbook

    with unwritable():
        lines, whole = workbook.update(ROOT)
    typer.echo("\n".join(lines) or "all lessons are up to date")
    if not whole:
        raise typer.Exit(1)


@contextlib.contextmanager
def unwritable() -> Iterator[None]:
    """A folder or disk that takes no files is an error of one line."""
    try:
        yield
    except OSError as error:
        fail(f"cannot write {error.filename}: {error.strerror}", code=1)


def build(
    lessons: Annotated[
        list[str] | None, typer.Argument(help="such as 06_nms, or its number; by default all")
    ] = None,
) -> None:
    """Build notebooks/ and solutions/*.ipynb from solutions/*.py."""
    from fbnet_lesson.course.build import LessonError, build

    with one_line_errors():
        slugs = list(dict.fromkeys(map(lesson_slug, lessons))) if lessons else None
    try:
        build(slugs)
    except LessonError as error:
        fail(str(error), code=1)


def lesson_slug(lesson: str) -> str:
    """``"06_nms"`` of itself, ``"06"`` or ``"6"``.

    Raises:
        ValueError: names the lessons that there are.
    """
    from fbnet_lesson.course.build import lesson_slugs

    slugs = lesson_slugs()
    for slug in slugs:
        number = slug.partition("_")[0]
        if lesson == slug or (lesson.isdecimal() and int(lesson) == int(number)):
            return slug
    raise ValueError(f"there is no lesson {lesson!r}; there are: {', '.join(slugs) or 'none'}")


def progress(
    reset: Annotated[bool, typer.Option("--reset", help="forget all passed checks")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="with --reset: do not ask")] = False,
) -> None:
    """Show which checks have passed; they are remembered on this machine only."""
    from fbnet_lesson.course import progress

    with one_line_errors():
        if not reset:
            typer.echo(progress.table(course_exercises()))
            return
        path = progress.progress_file()
        if path is None or not path.exists():
            typer.echo("nothing is remembered")
            return
        if on_a_terminal() and not yes:
            typer.confirm(f"Forget all that {path} remembers?", abort=True)
        progress.reset()
    typer.echo("all passed checks are forgotten")


def on_a_terminal() -> bool:
    return sys.stdin.isatty()


def course_exercises() -> dict[str, tuple[int, dict[str, int]]]:
    """Each lesson's minutes and those of its exercises, by its slug.

    Where the sources of the lessons are not at hand, by its number, and only with the minutes of
    the exercises.
    """
    from fbnet_lesson.course.build import lesson_minutes, lesson_slugs
    from fbnet_lesson.course.exercises import LESSONS

    own = {number: {e.name: e.minutes for e in LESSONS[number]} for number in LESSONS}
    slugs = {slug.partition("_")[0]: slug for slug in lesson_slugs()}
    if not slugs:
        return {number: (sum(exercises.values()), exercises) for number, exercises in own.items()}
    return {slug: (lesson_minutes(slug), own.get(number, {})) for number, slug in slugs.items()}
