"""Detections on any picture: find, draw, write."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor, nn

from fbnet_lesson.colours import COLOURS
from fbnet_lesson.training.checkpoint import write_json
from fbnet_lesson.training.evaluation import detections_to_coco, eval_mode


def read_image(path: str | Path) -> Image.Image:
    """A picture as upright RGB, whatever its file says about mode and rotation.

    Raises:
        ValueError: if there is no such file, or it is no picture.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits, of which Pillow would clip the upper half
                image = Image.fromarray((np.clip(image, 0, 65535) >> 8).astype(np.uint8))
            return image.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"no such picture: {path}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {path}: {error}") from error


def check_image(path: str | Path) -> None:
    """Raise the errors of ``read_image`` as far as they show without decoding the pixels."""
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, Image.DecompressionBombError):
        read_image(path)  # which says what is wrong


def find(model: nn.Module, image: Image.Image, score: float = 0.0) -> dict[str, Tensor]:
    """The detections in one picture that score at least ``score``, in its pixels, on the CPU."""
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255  # [3, H, W]
    device = next(model.parameters()).device
    with eval_mode(model), torch.inference_mode():
        (detection,) = model([tensor.to(device)])
    keep = detection["scores"] >= score
    return {key: value[keep].cpu() for key, value in detection.items()}


def draw(image: Image.Image, detection: dict[str, Tensor], names: Sequence[str]) -> Image.Image:
    """A copy of the picture with each detection's mask, box, class and score; the best on top."""
    picture = np.array(image)
    masks = detection.get("masks", [])
    for label, mask in reversed(list(zip(detection["labels"].tolist(), masks, strict=False))):
        colour = np.array(COLOURS[label % len(COLOURS)])
        picture[mask.numpy()] = (picture[mask.numpy()] + colour) // 2
    picture = Image.fromarray(picture.astype(np.uint8))
    brush = ImageDraw.Draw(picture)
    line = max(1, round(max(image.size) / 400))
    font = ImageFont.load_default(size=max(10, max(image.size) / 50))
    found = list(zip(*(detection[key].tolist() for key in ("boxes", "labels", "scores")),
                     strict=True))  # fmt: skip
    for box, label, score in reversed(found):
        colour = COLOURS[label % len(COLOURS)]
        brush.rectangle(box, outline=colour, width=line)
        text = f"{names[label]} {score:.2f}"
        _, _, width, height = brush.textbbox((0, 0), text, font=font)
        x = max(0, min(box[0], image.width - width - 2))  # on the box's upper edge, but inside
        y = max(0, box[1] - height - 2)
        brush.rectangle((x, y, x + width + 2, y + height + 2), fill=colour)
        brush.text((x + 1, y), text, fill=(0, 0, 0), font=font)
    return picture


def predict_files(
    model: nn.Module,
    paths: Iterable[str | Path],
    out: str | Path,
    names: Sequence[str],
    score: float = 0.5,
) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Find objects in pictures; write each, annotated, and all results to the folder ``out``.

    Writes ``STEM_detected.png`` for each picture and ``detections.json``: COCO results, where
    ``image_id`` counts the pictures from 1 and ``category_id`` the classes from 1; each result says
    ``file_name`` and ``category`` too.

    Returns:
        for each picture the file written and its results, by falling score.

    Raises:
        ValueError: for a file that cannot be read, before anything is written.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        check_image(path)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    category_ids = range(1, len(names) + 1)
    written: list[tuple[Path, list[dict[str, Any]]]] = []
    for image_id, path in enumerate(paths, start=1):
        image = read_image(path)
        detection = find(model, image, score)
        results = detections_to_coco([detection], [image_id], category_ids)
        for result in results:
            result |= {"file_name": str(path), "category": names[result["category_id"] - 1]}
        file = _free_name(out, path.stem, [taken for taken, _ in written])
        draw(image, detection, names).save(file)
        written.append((file, results))
    write_json(out / "detections.json", [result for _, results in written for result in results])
    return written


def _free_name(folder: Path, stem: str, taken: list[Path]) -> Path:
    """``STEM_detected.png``, with a number where two pictures have the same stem."""
    path, number = folder / f"{stem}_detected.png", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}_{number}_detected.png"
    return path


def class_names(weights: str | Path | None, num_classes: int) -> list[str]:
    """The names of the classes as the weights file notes them; otherwise ``class 0``, …"""
    if weights is not None and str(weights).endswith(".safetensors") and Path(weights).is_file():
        from safetensors import safe_open

        with safe_open(str(weights), "pt") as file:
            names = json.loads((file.metadata() or {}).get("categories", "[]"))
        if len(names) == num_classes:
            return names
    return [f"class {label}" for label in range(num_classes)]
