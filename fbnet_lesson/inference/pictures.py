"""Detections drawn into their picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fbnet_lesson.colours import COLOURS


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
