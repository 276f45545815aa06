"""The files of a run, written so that a kill at any moment leaves each of them whole.

A run folder holds ``config.json``, ``metrics.csv``, ``tensorboard/``, the state to resume from in
``last.pt`` and ``previous.pt``, that of the best evaluation in ``best.pt``, and at the end
``model.safetensors`` and ``eval.json``.
"""

import contextlib
import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from fbnet_lesson.files import atomic_file
from fbnet_lesson.zoo.weight_files import read_file


def write_json(path: Path, value: Any) -> None:
    """Write JSON that any reader takes: what is not a finite number becomes null."""
    with atomic_file(path) as file:
        file.write((json.dumps(finite_only(value), indent=2) + "\n").encode())


def finite_only(value: Any) -> Any:
    """A copy in which NaN and infinities are None: JSON has no word for them."""
    if isinstance(value, dict):
        return {str(key): finite_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_only(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Make ``state`` the folder's ``last.pt``; the one before stays as ``previous.pt``.

    At every moment at least one of the two is there and whole.
    """
    with atomic_file(folder / "next.pt") as file:
        torch.save(state, file)
    if (folder / "last.pt").exists():
        os.replace(folder / "last.pt", folder / "previous.pt")
    os.replace(folder / "next.pt", folder / "last.pt")


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint of the folder, on the CPU; None if it has none.

    Raises:
        ValueError: if there are checkpoints and none can be read; names each with its reason.
    """
    problems = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        if path.exists():
            try:
                checkpoint, _ = read_file(path)
            except ValueError as error:
                problems.append(str(error))
                continue
            if isinstance(checkpoint.get("iteration"), int):
                return dict(checkpoint)
            problems.append(f"{path} is not what a run writes: it has no iteration")
    if problems:
        raise ValueError("no readable checkpoint: " + "; ".join(problems))
    return None


def save_best(folder: Path, state: dict[str, Any], kind: str, value: float) -> None:
    """Make ``state`` the folder's ``best.pt``, unless that has as high a score.

    kind: what the score is, such as "mask AP". If it is no number, nothing is kept.
    """
    best = best_score(folder)
    if value > (best["value"] if best else -1.0):
        score = {"iteration": state["iteration"], "kind": kind, "value": value}
        with atomic_file(folder / "best.pt") as file:
            torch.save({**state, "score": score}, file)


def best_score(folder: Path) -> dict[str, Any] | None:
    """``iteration``, ``kind``, ``value`` of the folder's ``best.pt``; None without a sound one."""
    with contextlib.suppress(Exception):  # torch raises many kinds for broken files
        best = torch.load(folder / "best.pt", map_location="cpu", weights_only=True, mmap=True)
        score = best["score"]
        return score if isinstance(score["iteration"], int) and score["value"] >= 0 else None
    return None


def first_line(error: Exception) -> str:
    """The first line of an error's text: torch goes on for ten."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class MetricsFile:
    """A CSV with one row an iteration, that goes on after a kill as if there had been none.

    Opening it for a run resumed after ``iteration`` drops the rows beyond, and a torn last line.
    The columns are those of the first row; a value that a row does not have stays empty.
    """

    def __init__(self, path: Path, iteration: int = 0):
        self.path = path
        self.columns, rows = self._rows_up_to(iteration)
        with atomic_file(path) as file:
            lines = [",".join(row) + "\n" for row in ([self.columns] if rows else []) + rows]
            file.write("".join(lines).encode())
        self.columns = self.columns if rows else []
        self.file = open(path, "a", newline="")  # open as long as the run

    def _rows_up_to(self, iteration: int) -> tuple[list[str], list[list[str]]]:
        if not self.path.exists():
            return [], []
        lines = self.path.read_text("utf-8", "replace").splitlines(keepends=True)
        header, *rows = [line.strip().split(",") for line in lines if line.endswith("\n")] or [[]]
        whole = [row for row in rows if len(row) == len(header) and row[0].isdecimal()]
        return header, [row for row in whole if int(row[0]) <= iteration]

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; ``row["iteration"]`` comes first."""
        writer = csv.writer(self.file, lineterminator="\n")
        if not self.columns:
            self.columns = list(row)
            writer.writerow(self.columns)
        writer.writerow([row.get(column, "") for column in self.columns])
        self.file.flush()

    def to_disk(self) -> None:
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()
