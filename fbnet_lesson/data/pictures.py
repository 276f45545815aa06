"""The one reader of pictures: for training, evaluation and prediction.

What comes out is always 8-bit RGB. Greyscale, palette and CMYK pictures are converted, an alpha
channel is dropped, of several pages or frames the first is taken. An EXIF orientation is applied
(``exif="apply"``, as everyone sees the picture) or not (``"ignore"``, the pixels as stored): which
is right for a training picture is what the size in its annotation says, see ``turned``.

Pictures of more than 8 bits keep their contrast: ``value_range`` says which values become black
and white.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
MAX_PIXELS = 178_956_970  # as many as Pillow reads at most: 0.5 GB as RGB
ORIENTATION = 0x0112
UPRIGHT = {  # by orientation: how to turn the stored pixels
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACK = {**UPRIGHT, 6: UPRIGHT[8], 8: UPRIGHT[6]}
HEAD, TAIL = 1 << 16, 1 << 11  # bytes of a file in which its size and its end are looked for


def read_image(path: str | Path, exif: str = "apply") -> Image.Image:
    """A picture as 8-bit RGB, upright with ``exif="apply"``, as stored with ``"ignore"``.

    Raises:
        ValueError: if there is no such file, or it is no whole picture of ``FORMATS``, or one of
            more than ``MAX_PIXELS``; with the path, the reason, and what to do.
    """
    return _read(path, exif)[0]


def value_range(values: np.ndarray) -> tuple[float, float]:
    """Which of the ``values`` of a picture of more than 8 bits become 0 and 255.

    Black is 0, or the smallest value if one is negative. White is the largest value that 8, 10,
    12, 14 or 16 bits hold, whichever is the first that no value exceeds; of floats up to 1 it is
    1. In all other cases (negative values, more than 16 bits, floats between 1 and 16) it is the
    largest value. A value that is not finite counts as black.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low < 0:
        return low, high
    whites = [255.0, 1023.0, 4095.0, 16383.0, 65535.0]
    if values.dtype.kind == "f" and high <= 16:
        whites = [1.0]
    return 0.0, next((white for white in whites if high <= white), high)


def to_8_bits(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """``values`` of any type as uint8 of the same shape, and their ``value_range``.

    Whole bits are shifted (12 bits by 4, so that 16 values become one), as Pillow does; other
    ranges are scaled.
    """
    low, high = value_range(values)
    bits = int(high).bit_length()
    if low == 0 and bits > 8 and values.dtype.kind != "f" and high == 2**bits - 1 and bits <= 16:
        return (values >> (bits - 8)).astype(np.uint8), (low, high)
    scaled = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=low, neginf=low) - low) * (
        255 / (high - low) if high > low else 0
    )
    return scaled.round().astype(np.uint8), (low, high)


def _read(path, exif):
    """The picture as RGB, and the ``value_range`` of one of more than 8 bits, else None."""
    if exif not in ("apply", "ignore"):
        raise ValueError(f'exif is {exif!r}; it must be "apply" or "ignore"')
    try:
        with _opened(path) as image:
            raw = [str(tile[3]) for tile in image.tile]  # which are gone once it is loaded
            deep = image.mode in ("RGB", "RGBA", "LA") and any(";16" in mode for mode in raw)
            native = image.format == "TIFF"
            orientation = _orientation(image) if native or exif == "apply" else 1
            rgb, values = (_deep_colours if deep else _rgb)(image, path)
    except Exception as error:  # Pillow raises errors of many classes for a broken file
        raise ValueError(_reason(path, error)) from error
    # Pillow turns TIFFs by itself when it loads them, and nothing else.
    turn = (BACK if exif == "ignore" else {}) if native else UPRIGHT if exif == "apply" else {}
    return (rgb.transpose(turn[orientation]) if orientation in turn else rgb), values


def _opened(path):
    with warnings.catch_warnings():  # of a large picture, which is no attack
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    return image


def _reason(path, error):
    """One sentence for a picture that cannot be read: what was found, what to do."""
    if isinstance(error, FileNotFoundError):
        return f"no such picture: {path}"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"cannot read the picture {path}: {error}; at most {MAX_PIXELS:,} are read, "
            "cut it into parts"
        )
    if isinstance(error, Image.UnidentifiedImageError):
        return f"cannot read the picture {path}: {_what_it_is(path)}"
    return f"cannot read the picture {path}: {error or type(error).__name__}"


def _what_it_is(path):
    with open(path, "rb") as file:
        head = file.read(200).lstrip()
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; git lfs pull fetches the picture"
    if head[:1] == b"<" and (b"html" in head.lower() or b"xml" in head.lower()):
        return "it is a web page or XML"
    return f"it is none of {', '.join(FORMATS)}"


def _orientation(image):
    """The EXIF orientation, 1 to 8; 1 where it is not told or nonsense."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing
        return 1
    return value if value in UPRIGHT else 1


def _rgb(image, _):
    if image.mode.startswith("I") or image.mode == "F":
        grey, values = to_8_bits(np.asarray(image))
        return Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2)), values
    if image.mode == "P":  # with a transparency for each colour, of which Pillow would warn
        image = image.convert("RGBA")
    return image.convert("RGB"), None


def _deep_colours(image, path):
    """A picture of 16 bits a colour, of which Pillow keeps the upper 8 alone."""
    if image.format == "PNG":
        import torch
        from torchvision.io import ImageReadMode, decode_png

        data = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8)
        image.load()  # raises for a file that is cut, which torchvision fills up
        planes = decode_png(data, ImageReadMode.UNCHANGED).numpy()
        planes = planes[:-1] if len(planes) in (2, 4) else planes  # without alpha
        colours, values = to_8_bits(planes.transpose(1, 2, 0))  # (C, H, W) -> (H, W, C)
        return Image.fromarray(np.broadcast_to(colours, (*colours.shape[:2], 3)).copy()), values
    rgb = image.convert("RGB")
    if max(high for _, high in rgb.getextrema()) < 64:
        raise ValueError(
            "it has 16 bits a colour, of which the upper are empty; save it as PNG, or with 8 bits"
        )
    return rgb, (0.0, 65535.0)


# What a file says of itself


@dataclass(frozen=True)
class Header:
    """What is known of a picture file without its pixels, or with them (``content``).

    width, height: as stored. content: a digest of the pixels, "" if they were not decoded, and
    "blank" if they are all of one colour. values: the ``value_range`` of a picture of more than
    8 bits, else None.
    """

    width: int
    height: int
    orientation: int = 1
    content: str = ""
    values: tuple[float, float] | None = None

    @property
    def size(self):
        """(height, width) as stored."""
        return self.height, self.width

    @property
    def upright(self):
        """(height, width) with the orientation applied."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def read_header(path: str | Path) -> Header:
    """The ``Header`` of a file whose end is there too, mostly without decoding it.

    Raises:
        ValueError: as ``read_image`` does, also for a file that is cut.
    """
    with _open_file(path) as file:
        head = file.read(HEAD)
        file.seek(max(0, file.seek(0, 2) - TAIL))
        tail = file.read()
    quick = _jpeg_size(head, tail) or _png_size(head, tail)
    if quick and quick[0] * quick[1] <= MAX_PIXELS:
        return Header(*quick)
    try:
        with _opened(path) as image:
            orientation, stored = _orientation(image), image.size
            turned = image.format == "TIFF" and orientation >= 5  # Pillow tells the upright size
            if not _is_whole(image.format, tail):
                image.load()
    except Exception as error:
        raise ValueError(_reason(path, error)) from error
    return Header(*(stored[::-1] if turned else stored), orientation)


def read_whole(path: str | Path) -> Header:
    """The ``Header`` of a file that was decoded to the end, with the digest of its pixels.

    Raises:
        ValueError: as ``read_image`` does.
    """
    header = read_header(path)
    image, values = _read(path, "ignore")
    try:
        with _opened(path) as file:
            file.verify()  # of PNG the check sums, which reading does not look at
    except Exception as error:
        raise ValueError(_reason(path, error)) from error
    pixels = np.asarray(image)
    blank = bool((pixels == pixels[:1, :1]).all())
    content = "blank" if blank else blake2b(pixels, digest_size=12).hexdigest()
    return Header(header.width, header.height, header.orientation, content, values)


def check_image(path: str | Path) -> None:
    """Raise the errors of ``read_image`` as far as they show without decoding the pixels."""
    read_header(path)


def _open_file(path):
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise ValueError(_reason(path, error)) from error


def _is_whole(kind, tail):
    return (kind == "JPEG" and b"\xff\xd9" in tail) or (kind == "PNG" and b"IEND" in tail)


def _jpeg_size(head, tail):
    """(width, height) of a JPEG file without EXIF or XMP; None means: ask Pillow."""
    if head[:3] != b"\xff\xd8\xff" or b"\xff\xd9" not in tail:
        return None
    position = 2
    while position + 9 <= len(head) and head[position] == 0xFF:
        marker = head[position + 1]
        if marker == 0xE1 or marker == 0xFF:  # EXIF or XMP; fill bytes
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            bits, height, width = struct.unpack_from(">BHH", head, position + 4)
            return (width, height) if bits == 8 and height and width else None
        position += 2 + int.from_bytes(head[position + 2 : position + 4], "big")
    return None


def _png_size(head, tail):
    """(width, height) of a PNG file without EXIF or XMP; None means: ask Pillow."""
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR" or len(head) < 33:
        return None
    texts = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
    if b"IEND" not in tail or any(name in head or name in tail for name in texts):
        return None
    width, height = struct.unpack_from(">II", head, 16)
    return (width, height) if width and height else None


def turned(header: Header, size: tuple[int, int]) -> bool | None:
    """Whether annotations of ``size`` (height, width) are in the upright pixels of a picture.

    None where the size cannot tell, as upright and stored pixels have the same. ValueError where
    it is the size of neither.
    """
    if size not in (header.size, header.upright):
        raise ValueError("the size is that of neither the stored nor the upright pixels")
    if header.orientation == 1:
        return False
    return None if header.size == header.upright else size == header.upright
