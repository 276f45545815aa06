"""Tables of experiments that are too long for a lesson, made by scripts of ``docs/experiments``."""

import csv

from fbnet_lesson.zoo.models import SHIPPED


def table(name: str) -> list[dict[str, str | float]]:
    """The rows of ``data/experiments/NAME.csv``, one dict each; what looks like a number is one.

    Raises:
        ValueError: if there is no such table; names those that there are.
    """
    folder = SHIPPED.parent / "experiments"
    path = folder / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.csv"))) or "none"
        raise ValueError(f"there is no table {name!r} of an experiment; there are: {known}")
    with open(path, newline="") as file:
        return [
            {key: _number_or_text(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def _number_or_text(value: str) -> str | float:
    try:
        return float(value)
    except ValueError:
        return value
