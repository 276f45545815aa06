"""The exercises, one module a lesson: plain forms that the package lacks, cases, mistakes."""

from importlib import import_module
from pathlib import Path

from fbnet_lesson.course.exercise import Exercise


def _load() -> dict[str, tuple[Exercise, ...]]:
    modules = sorted(path.stem for path in Path(__file__).parent.glob("lesson[0-9][0-9].py"))
    return {
        name.removeprefix("lesson"): import_module(f"{__name__}.{name}").EXERCISES
        for name in modules
    }


LESSONS: dict[str, tuple[Exercise, ...]] = _load()  # "06" -> its exercises, in their order
EXERCISES: dict[str, Exercise] = {e.name: e for lesson in LESSONS.values() for e in lesson}
