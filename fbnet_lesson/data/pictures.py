"""The one reader of pictures: for training, evaluation and prediction."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


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
