"""Which image of an annotation file a picture is, how it is read, and the ids of categories."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fbnet_lesson.data.pictures import read_header, turned


def read_annotations(path: str | Path) -> dict[str, Any]:
    """The ``images`` and ``categories`` of a COCO file, {name: id}, and the ``sizes`` that it tells
    of its images: {id: (height, width)}.

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
    found["sizes"] = {int(i["id"]): (i.get("height"), i.get("width")) for i in content["images"]}
    return found


def ids_of_pictures(
    pictures: Iterable[Path], images: dict[str, int], folder: str | Path
) -> dict[Path, int]:
    """The image ids of those pictures that the annotation file has: by their place in ``folder``,
    else by a file name that stands there once."""
    paths = {re.sub(r"\\", "/", name): number for name, number in images.items()}
    by_place = {_nfc((Path(folder) / path).resolve()): number for path, number in paths.items()}
    often = Counter(_nfc(Path(path).name) for path in paths)
    by_name = {name: n for path, n in paths.items() if often[name := _nfc(Path(path).name)] == 1}
    found = {p: by_place.get(_nfc(p.resolve()), by_name.get(_nfc(p.name))) for p in pictures}
    return {picture: number for picture, number in found.items() if number is not None}


def _nfc(path: str | Path) -> str:
    """The path in the one of the Unicode forms in which systems write an umlaut."""
    return unicodedata.normalize("NFC", str(path))


def pixels_of_pictures(
    image_ids: dict[Path, int], sizes: dict[int, tuple[int, int]], exif: str
) -> dict[Path, str]:
    """For each picture that a set knows, whether its annotations are in the upright pixels,
    ``"apply"``, or in those stored, ``"ignore"``; ``exif`` where its size does not tell."""
    found = {}
    for picture, image_id in image_ids.items():
        try:
            upright = turned(read_header(picture), sizes[image_id])
        except ValueError:  # of another size, or unreadable, which is said when it is read
            continue
        found[picture] = exif if upright is None else "apply" if upright else "ignore"
    return found


def ids_of_classes(
    names: Sequence[str], ids: Sequence[int], categories: dict[str, int]
) -> tuple[list[int], list[str]]:
    """The category ids of a set for the detector's classes, by name; and those it has not, which
    keep the id of their training set."""
    missing = [name for name in names if name not in categories]
    return [categories.get(n, i) for n, i in zip(names, ids, strict=True)], missing
