"""The cells of the files in this folder: see README.md."""

import inspect
import linecache
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fbnet_lesson.course.exercise import Exercise
from fbnet_lesson.course.exercises import EXERCISES

FOLDER = Path(__file__).parent
HEADING = re.compile(r"# %% *(.*)")


@dataclass(frozen=True)
class Cell:
    """One answer. ``words`` are the parts of its heading behind the exercise's name."""

    file: Path
    line: int  # of the heading
    name: str  # of the exercise
    words: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        return f"{self.file.stem}-{self.name}-{' · '.join(self.words)}".replace(" ", "_")

    @property
    def place(self) -> str:
        return f"{self.file.name}, line {self.line}"

    @property
    def exercise(self) -> Exercise:
        if self.name not in EXERCISES:
            raise ValueError(f"{self.place}: there is no exercise {self.name!r}")
        return EXERCISES[self.name]

    @property
    def is_right(self) -> bool:
        """Said by the file's name, or for a fresh set by the heading."""
        if not self.file.stem.startswith("fresh"):
            return self.file.stem.startswith("right")
        if self.words[:1] not in (("right",), ("wrong",)):
            raise ValueError(f"{self.place}: say 'right' or 'wrong' behind the exercise's name")
        return self.words[0] == "right"

    def function(self) -> Callable:
        """The function that the cell defines, as a notebook would: errors show its lines."""
        solution = self.exercise.solution
        known = vars(sys.modules[solution.__module__])
        names = {"torch": torch, "Tensor": torch.Tensor, "F": F, "math": math, "np": np, **known}
        names = {name: value for name, value in names.items() if value is not solution}
        filename = f"<{self.place}>"
        lines = self.source.splitlines(keepends=True)
        linecache.cache[filename] = (len(self.source), None, lines, filename)
        exec(compile(self.source, filename, "exec"), names)
        if not inspect.isroutine(names.get(self.name)):
            raise ValueError(f"{self.place}: the cell does not define {self.name}")
        return names[self.name]


def cells(pattern: str) -> list[Cell]:
    """Those of all files in this folder that ``pattern`` fits, such as ``"right_*.py"``."""
    return [cell for file in sorted(FOLDER.glob(pattern)) for cell in cells_of(file)]


def cells_of(file: Path) -> Iterator[Cell]:
    lines = file.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if HEADING.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        heading = HEADING.match(lines[start])[1]
        name, *words = [part.strip() for part in heading.split("·")]
        if not words:
            raise ValueError(f"{file.name}, line {start + 1}: '# %% name · words' is the heading")
        source = "\n".join(lines[start + 1 : end]).strip() + "\n"
        yield Cell(file, start + 1, name, tuple(words), source)
