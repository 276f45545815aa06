"""The course machine: exercises, their checks, and the notebooks' tools. Nothing imports it."""

from fbnet_lesson.course.check import check
from fbnet_lesson.course.plug import plug

__all__ = ["check", "plug"]
