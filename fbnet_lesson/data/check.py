"""Every defect of a set in COCO format, and the set without them."""

from __future__ import annotations

import json
from pathlib import Path

from fbnet_lesson.files import atomic_file

from .inspection import Inspection


def check_dataset(annotations, images, fix=None, exif=None, pictures="whole"):
    """Every defect of the set, as a ``DatasetReport``. Never raises for what the set holds.

    annotations: the JSON file, or its content as a dict. images: the folder of the pictures.
    pictures: "whole" decodes each that has not been decoded since it changed; "headers" looks at
    their size and end; "none" only whether the files are there. exif: see ``CocoDataset``.

    fix: write the repaired annotations to this file: what ``Defect.repair`` says is done, and the
    rest is left out; the place of an object that cannot be used becomes a crowd, which takes no
    part in training. Raises ValueError where there is a file already, or nothing to write.
    """
    if fix is not None and Path(fix).exists():
        raise ValueError(f"{fix} is there already; give another name for the repaired file")
    found = Inspection(annotations, images, exif=exif, pictures=pictures)
    if fix is not None:
        if found.data is None:
            raise ValueError(f"there is nothing to repair:\n{found.report()}")
        _write(Path(fix), found)
    return found.report()


def _write(path, found):
    repaired = dict(found.data)
    for section in ("categories", "images", "annotations"):
        records = (
            found.changes.get((section, position), record)
            for position, record in enumerate(found.data[section])
        )
        repaired[section] = [record for record in records if record is not None]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(json.dumps(repaired).encode())
