"""Detections on any picture: find, draw, write."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fbnet_lesson.data.pictures import FORMATS, read_image
from fbnet_lesson.detection.detector import with_whole_masks
from fbnet_lesson.inference.pictures import draw
from fbnet_lesson.inference.tiles import detect_in_tiles
from fbnet_lesson.training.detecting import (
    as_floats,
    detections_to_coco,
    eval_mode,
    find_in,
    limits_of,
)

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".jp2"}


@dataclass
class Predicted:
    """What came of one picture: the annotated ``file`` and COCO ``results`` by falling score, with
    the ``limits`` that were reached; or the ``error``."""

    picture: Path
    file: Path | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    limits: tuple[str, ...] = ()
    error: str = ""


def find(model: nn.Module, image: Image.Image, score: float = 0.0) -> dict[str, Tensor]:
    """The detections in one picture that score at least ``score``, in its pixels, on the CPU."""
    found = find_small(model, image, score)
    return with_whole_masks(found) if "mask_logits" in found else found


def find_small(
    model: nn.Module, image: Image.Image, score: float = 0.0, tiles: int | None = None
) -> dict[str, Any]:
    """The same with small masks, see ``Detector.detect``; ``tiles``: their edge in pixels."""
    device = next(model.parameters()).device
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W]
    tensor = as_floats(pixels, device)
    with eval_mode(model), torch.inference_mode():
        found = detect_in_tiles(model, tensor, tiles) if tiles else find_in(model, [tensor])[0]
    keep = found["scores"] >= score
    found = {k: v[keep].cpu() if isinstance(v, Tensor) else v for k, v in found.items()}
    return found | {"limits": found.get("limits", ()) if tiles else limits_of(model, found)}


def pictures_in(paths: Sequence[str | Path]) -> list[Path]:
    """The files, and those of folders by their suffix, in the order of their names; each once.

    Raises:
        ValueError: for what is not there, or a folder without a picture.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ValueError(f"no picture in the folder {path}: none of {', '.join(FORMATS)}")
            files += inside
        elif not path.exists():
            raise ValueError(f"no such picture: {path}")
        else:
            files.append(path)
    return list({os.path.abspath(path): path for path in files}.values())


def predict_files(
    model: nn.Module,
    paths: Sequence[str | Path],
    out: str | Path,
    names: Sequence[str],
    score: float = 0.5,
    *,
    category_ids: Sequence[int] | None = None,
    image_ids: Mapping[Path, int] | None = None,
    exif: Mapping[Path, str] | None = None,
    tiles: int | None = None,
) -> Iterator[Predicted]:
    """Find objects in pictures; write each, annotated, and all results to the folder ``out``.

    Writes ``STEM_detected.png`` for each picture and ``detections.json``: COCO results, which are
    there after each picture. Each result says ``file_name`` and ``category`` too. A picture that
    cannot be read is left out, with its ``error``.

    Args:
        category_ids: of the classes ``names``; by default 1, 2, …
        image_ids: of pictures by their path; others are counted on from the largest, or from 1.
        exif: "ignore" for those by their path that are looked at, and drawn, as they are stored.
        tiles: look at tiles of so many pixels, too.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    category_ids = list(category_ids or range(1, len(names) + 1))
    known, taken = dict(image_ids or {}), []
    following = max([0, *known.values()]) + 1
    with JsonList(out / "detections.json") as written:
        for path in map(Path, paths):
            if path not in known:
                known[path], following = following, following + 1
            try:
                image = read_image(path, (exif or {}).get(path, "apply"))
            except (ValueError, OSError) as error:
                yield Predicted(path, error=str(error))
                continue
            found = find_small(model, image, score, tiles)
            results = detections_to_coco([found], [known[path]], category_ids)
            for result, label in zip(results, found["labels"].tolist(), strict=True):
                result |= {"file_name": str(path), "category": names[label]}
            file = _free_name(out, path.stem, taken)
            draw(image, found, names).save(file)
            taken.append(file)
            written.extend(results)
            yield Predicted(path, file, results, found["limits"])


class JsonList:
    """A file that holds a JSON list after each call of ``extend``, however long it grows."""

    END = b"\n]\n"

    def __init__(self, path: Path):
        self.file, self.empty = open(path, "wb"), True
        self.file.write(b"[" + self.END)
        self.file.flush()

    def extend(self, values: Sequence[Any]) -> None:
        if not values:
            return
        text = ",\n".join(json.dumps(value) for value in values)
        self.file.seek(-len(self.END), os.SEEK_END)
        self.file.write(("\n" if self.empty else ",\n").encode() + text.encode() + self.END)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.empty = False

    def __enter__(self) -> JsonList:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.file.close()


def _free_name(folder: Path, stem: str, taken: list[Path]) -> Path:
    """``STEM_detected.png``, with a number where two pictures have the same stem."""
    path, number = folder / f"{stem}_detected.png", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}_{number}_detected.png"
    return path
