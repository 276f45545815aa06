"""Detections on any picture: find, draw, write."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fbnet_lesson.data.pictures import check_image, read_image
from fbnet_lesson.inference.pictures import draw
from fbnet_lesson.training.checkpoint import write_json
from fbnet_lesson.training.evaluation import detections_to_coco, eval_mode


def find(model: nn.Module, image: Image.Image, score: float = 0.0) -> dict[str, Tensor]:
    """The detections in one picture that score at least ``score``, in its pixels, on the CPU."""
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255  # [3, H, W]
    device = next(model.parameters()).device
    with eval_mode(model), torch.inference_mode():
        (detection,) = model([tensor.to(device)])
    keep = detection["scores"] >= score
    return {key: value[keep].cpu() for key, value in detection.items()}


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
