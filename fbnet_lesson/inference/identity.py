"""Which image of an annotation file a picture is, and the ids of its categories."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def read_annotations(path: str | Path) -> dict[str, Any]:
    """The images and categories of a COCO file.

    Raises:
        ValueError: if it is none.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no COCO annotation file: {error}") from error
    found = {}
    for key, name in (("images", "file_name"), ("categories", "name")):
        records = content.get(key) if isinstance(content, dict) else None
        if not isinstance(records, list):
            raise ValueError(f"{path} is no COCO annotation file: it has no list {key!r}")
        try:
            found[key] = {str(record[name]): int(record["id"]) for record in records}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: one of its {key} has no {name}, or no whole id") from error
    return found


def ids_of_pictures(
    pictures: Iterable[Path], images: dict[str, int], folder: str | Path
) -> dict[Path, int]:
    """The image ids of those pictures that the annotation file has: by their place in ``folder``,
    else by a file name that stands there once."""
    names = {name: re.sub(r"\\", "/", name) for name in images}
    by_place = {(Path(folder) / name).resolve(): images[old] for old, name in names.items()}
    often = Counter(Path(name).name for name in names.values())
    by_name = {Path(n).name: images[o] for o, n in names.items() if often[Path(n).name] == 1}
    found = {p: by_place.get(p.resolve(), by_name.get(p.name)) for p in pictures}
    return {picture: number for picture, number in found.items() if number is not None}


def ids_of_classes(
    names: Sequence[str], ids: Sequence[int], categories: dict[str, int]
) -> tuple[list[int], list[str]]:
    """The category ids of a set for the detector's classes, by name; and those it has not, which
    keep the id of their training set."""
    missing = [name for name in names if name not in categories]
    return [categories.get(n, i) for n, i in zip(names, ids, strict=True)], missing
