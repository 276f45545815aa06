"""The course machine: exercises, their checks, and the notebooks' tools. Nothing imports it."""

from fbnet_lesson.course.check import check
from fbnet_lesson.course.comparison import compare
from fbnet_lesson.course.mine import mine
from fbnet_lesson.course.plug import plug
from fbnet_lesson.course.predictions import reveal
from fbnet_lesson.course.widgets import explore

__all__ = ["check", "compare", "explore", "mine", "plug", "reveal"]
