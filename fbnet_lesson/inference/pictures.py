"""Detections drawn into their picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fbnet_lesson.colours import COLOURS
from fbnet_lesson.detection.mask_head import mask_in_box


def draw(image: Image.Image, detection: dict[str, Any], names: Sequence[str]) -> Image.Image:
    """A copy of the picture with each detection's mask, box, class and score; the best on top."""
    picture = np.array(image)
    labels = detection["labels"].tolist()
    for i in reversed(range(len(labels))):
        mask, (y, x) = mask_of(detection, i)
        part = picture[y : y + mask.shape[0], x : x + mask.shape[1]]
        part[mask.numpy()] = (part[mask.numpy()] + np.array(COLOURS[labels[i] % len(COLOURS)])) // 2
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


def mask_of(detection: dict[str, Any], i: int) -> tuple[Tensor, tuple[int, int]]:
    """The mask of a detection, whole or in its box, and the (row, column) of its first pixel."""
    if "mask_logits" in detection:
        size = detection["size"]
        return mask_in_box(detection["mask_logits"][i], detection["boxes"][i], size)
    masks = detection.get("masks")
    return (torch.zeros(0, 0, dtype=torch.bool) if masks is None else masks[i]), (0, 0)
