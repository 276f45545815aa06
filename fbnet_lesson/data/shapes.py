"""``shapes``: procedural scenes with exact instance masks, the same bytes on every machine.

A scene is toy pieces on a table: discs, rings, squares, triangles, stars and crosses of any
colour, size and angle, lit from one side, in each other's way and cut by the border. Each piece
is a signed distance function: d(x, y) is the distance in pixels to its outline, negative inside.
From d come the mask (d <= 0), the anti-aliased edge (coverage 1/2 - d), the bevel (the slope of
d) and the soft shadow.

The same seed gives the same bytes on any machine, because the way to a byte uses only
- the raw 64-bit words of NumPy's Philox, whose stream is guaranteed; the key is (seed, index);
- float64 +, -, *, / and sqrt, which IEEE 754 rounds in one way only: no sin, exp or pow (their
  last bit depends on the maths library), no floating-point sums or matrix products (their order
  depends on the processor). A rotation is (1 - t*t, 2*t) / (1 + t*t) with t = tan(angle / 2).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from fbnet_lesson.files import atomic_file

from .samples import PictureCache, boxes_from_masks, encode_mask, make_sample, uncompressed_rle

CATEGORIES = ("disc", "ring", "square", "triangle", "star", "cross")

SMALLEST_SIDE = 32  # pixels; below, a piece is too small to be told from another
MIN_PIXELS = 12  # a piece shows at least so many pixels ...
MIN_VISIBLE = 0.55  # ... the border leaves this share of it, and others this share of that
EMPTY_SCENES, CROWD_SCENES = 0.03, 0.08  # shares of all scenes

PIECE_COLOURS = np.array(
    [
        (0.86, 0.18, 0.17), (0.95, 0.52, 0.13), (0.97, 0.83, 0.20), (0.37, 0.70, 0.24),
        (0.09, 0.53, 0.40), (0.13, 0.66, 0.76), (0.15, 0.38, 0.80), (0.46, 0.26, 0.68),
        (0.90, 0.38, 0.60), (0.95, 0.93, 0.88), (0.17, 0.17, 0.21), (0.52, 0.24, 0.14),
    ]
)  # fmt: skip
TABLE_COLOURS = np.array(
    [
        (0.80, 0.69, 0.54), (0.57, 0.42, 0.29), (0.87, 0.85, 0.80), (0.45, 0.49, 0.54),
        (0.56, 0.64, 0.54), (0.70, 0.76, 0.82), (0.78, 0.66, 0.66), (0.28, 0.31, 0.35),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One rendered scene.

    image: uint8 [H, W, 3] RGB. masks: bool [N, H, W], the visible pixels of each instance; no
    pixel is in two masks. labels: int64 [N], indices into ``CATEGORIES``. iscrowd: bool [N],
    True for a region of many tiny pieces of one category.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    iscrowd: np.ndarray


class Draws:
    """Random numbers of the scene (seed, index), by operations that every machine rounds alike.

    ``stream`` separates uses, so that drawing more for one leaves the others as they are.
    """

    def __init__(self, seed, index, stream):
        key = np.array([seed, index], np.uint64)
        self._philox = np.random.Philox(counter=[0, 0, 0, stream], key=key)

    def uniform(self, low=0.0, high=1.0):
        return low + (high - low) * ((self._philox.random_raw() >> 11) * 2.0**-53)

    def chance(self, probability):
        return self.uniform() < probability

    def below(self, count):
        """An integer in 0 .. count - 1."""
        return (self._philox.random_raw() * count) >> 64

    def weighted(self, weights):
        """An index into ``weights``, whose whole-number entries say how often it comes."""
        left = self.below(sum(weights))
        for i, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return i

    def shuffled(self, count):
        """The integers 0 .. count - 1 in random order."""
        order = list(range(count))
        for i in range(count - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return order

    def direction(self):
        """(cos, sin) of an angle of the whole circle."""
        t = self.uniform(-1.0, 1.0)
        sign = 1.0 if self.chance(0.5) else -1.0
        return sign * (1 - t * t) / (1 + t * t), sign * 2 * t / (1 + t * t)

    def field(self, *shape):
        """Uniform numbers in 0 .. 1, float64 of ``shape``."""
        raw = self._philox.random_raw(math.prod(shape)) >> np.uint64(11)
        return raw.reshape(shape) * 2.0**-53

    def grain(self, height, width):
        """Uniform bytes less 127.5, float64 [height, width]."""
        raw = self._philox.random_raw(-(-height * width // 8)).astype("<u8")
        return raw.view(np.uint8)[: height * width].reshape(height, width) - 127.5


# Signed distances in pixels. x, y: float64 arrays, relative to the centre and turned with the
# piece; r: the radius of the circle around it.


def disc_distance(x, y, r):
    return np.sqrt(x * x + y * y) - r


def ring_distance(x, y, r):
    return np.abs(np.sqrt(x * x + y * y) - 0.78 * r) - 0.22 * r


def square_distance(x, y, r):
    return np.maximum(np.abs(x), np.abs(y)) - 0.74 * r


def triangle_distance(x, y, r):
    slanted = (math.sqrt(3) / 2) * np.abs(x) + 0.5 * y
    return np.maximum(slanted, -y) - 0.5 * r


COS_36, SIN_36 = (1 + math.sqrt(5)) / 4, math.sqrt(10 - 2 * math.sqrt(5)) / 4


def star_distance(x, y, r):
    """Mirrors the plane into one half of one arm, where the outline is a single line."""
    x = np.abs(x)
    for side in (1.0, -1.0):
        beyond = 2 * np.maximum(side * COS_36 * x - SIN_36 * y, 0)
        x, y = x - side * COS_36 * beyond, y + SIN_36 * beyond
    x = np.abs(x)
    inner_x, inner_y = 0.47 * r * SIN_36, 0.47 * r * COS_36
    length = math.sqrt(inner_x * inner_x + (r - inner_y) * (r - inner_y))
    return ((r - inner_y) * x + inner_x * (y - r)) / length


def cross_distance(x, y, r):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.95 * r, np.minimum(x, y) - 0.31 * r)


def stick_distance(x, y, r):
    along = np.maximum(np.abs(x) - r, 0)
    return np.sqrt(along * along + y * y) - 1.0


DISTANCES = {
    "disc": disc_distance,
    "ring": ring_distance,
    "square": square_distance,
    "triangle": triangle_distance,
    "star": star_distance,
    "cross": cross_distance,
    "stick": stick_distance,  # clutter, no category
}
# The area of a piece of radius 1, to know how much of a piece the border cut off.
AREAS = {"disc": 3.14, "ring": 2.16, "square": 2.19, "triangle": 1.30, "star": 1.38, "cross": 1.97}


@dataclass(frozen=True)
class Part:
    """One outline: its kind, centre and radius in pixels, and its turn as (cos, sin)."""

    kind: str
    x: float
    y: float
    radius: float
    turn: tuple[float, float]

    def distance(self, rows, columns, shift=(0.0, 0.0)):
        """Signed distance at the centres of the pixels ``rows`` x ``columns`` (two ranges),
        with the part moved by ``shift`` = (x, y): float64 [len(rows), len(columns)]."""
        dx = np.arange(columns.start, columns.stop) + (0.5 - self.x - shift[0])
        dy = np.arange(rows.start, rows.stop)[:, None] + (0.5 - self.y - shift[1])
        cos, sin = self.turn
        return DISTANCES[self.kind](cos * dx + sin * dy, cos * dy - sin * dx, self.radius)


@dataclass(frozen=True)
class Piece:
    """What one annotation speaks of: one part, or the many parts of a crowd."""

    parts: tuple[Part, ...]
    crowd: bool = False

    def window(self, size, margin):
        """The (rows, columns) of the picture within ``margin`` pixels of the piece."""
        spans = []
        for axis, length in zip(("y", "x"), size, strict=True):
            low = min(getattr(p, axis) - p.radius for p in self.parts) - margin
            high = max(getattr(p, axis) + p.radius for p in self.parts) + margin
            start = min(max(math.floor(low), 0), length)
            spans.append(range(start, max(start, min(math.ceil(high), length))))
        return spans

    def distance(self, rows, columns, shift=(0.0, 0.0)):
        distance = self.parts[0].distance(rows, columns, shift)
        for part in self.parts[1:]:
            np.minimum(distance, part.distance(rows, columns, shift), out=distance)
        return distance

    def area(self):
        return sum(AREAS[p.kind] * p.radius * p.radius for p in self.parts)


def _box(rows, columns):
    return slice(rows.start, rows.stop), slice(columns.start, columns.stop)


# Where the pieces lie.


def _single(draws, size, unit):
    """One piece, most often of middle size: 14 to 90 pixels across in a picture of 128."""
    low, high = ((14, 24), (24, 48), (48, 90))[draws.weighted((22, 52, 26))]
    radius = 0.5 * max(draws.uniform(low, high) * unit, 12.0)
    inside = 0.35 * radius  # the centre stays so far inside the picture
    y, x = (draws.uniform(inside, length - inside) for length in size)
    kind = CATEGORIES[draws.below(len(CATEGORIES))]
    return Piece((Part(kind, x, y, radius, draws.direction()),))


def _crowd(draws, size, unit):
    """Ten or more tiny pieces of one category, close together."""
    kind = CATEGORIES[draws.below(len(CATEGORIES))]
    radius = max(draws.uniform(3.2, 4.6) * unit, 2.5)
    across, down = 4 + draws.below(3), 3 + draws.below(2)
    step = 2.3 * radius
    left = draws.uniform(radius, max(size[1] - across * step, radius))
    top = draws.uniform(radius, max(size[0] - down * step, radius))
    parts = []
    for cell in range(across * down):
        x = left + (cell % across + draws.uniform(0.0, 0.4)) * step
        y = top + (cell // across + draws.uniform(0.0, 0.4)) * step
        turn, gone = draws.direction(), draws.chance(0.15)
        if not gone or not parts:
            parts.append(Part(kind, x, y, radius, turn))
    return Piece(tuple(parts), crowd=True)


def _fits(piece, owner, areas):
    """Whether enough of ``piece``, laid on top, and of each piece under it would show.

    owner: [H, W], which piece a pixel shows, -1 for the table. areas: pixels of each piece
    before anything lay on it. Returns the window and mask of the piece, or None.
    """
    rows, columns = piece.window(owner.shape, 0.0)
    mask = piece.distance(rows, columns) <= 0
    count = int(np.count_nonzero(mask))
    if count < max(MIN_PIXELS, MIN_VISIBLE * piece.area()):
        return None
    covered = np.bincount(owner[_box(rows, columns)][mask] + 1, minlength=len(areas) + 1)[1:]
    for i in np.flatnonzero(covered):
        left = int(np.count_nonzero(owner == i)) - int(covered[i])
        if left < max(MIN_PIXELS, MIN_VISIBLE * areas[i]):
            return None
    return (rows, columns), mask


def _lay_out(draws, size):
    """The pieces of a scene from bottom to top, and ``owner`` [H, W]: the piece a pixel shows."""
    owner = np.full(size, -1, np.int16)
    pieces, areas = [], []
    if draws.chance(EMPTY_SCENES):
        return pieces, owner
    unit = min(size) / 128
    makers = [_crowd] if draws.chance(CROWD_SCENES) else []
    makers += [_single] * (1 + draws.weighted((15, 25, 25, 18, 11, 6)))
    for make in makers:
        for _ in range(10):
            piece = make(draws, size, unit)
            found = _fits(piece, owner, areas)
            if found:
                window, mask = found
                owner[_box(*window)][mask] = len(pieces)
                pieces.append(piece)
                areas.append(int(np.count_nonzero(mask)))
                break
    return pieces, owner


# What they look like. A canvas is float64 [3, H, W], RGB in 0 .. 1.


def _triangle_wave(u):
    return 2 * np.abs(u - np.floor(u) - 0.5)


def _interpolation(length, cells):
    """Lattice index and smooth weight of each of ``length`` pixels over ``cells`` cells."""
    position = (np.arange(length) + 0.5) * (cells / length)
    index = position.astype(np.int64)
    weight = position - index
    return index, weight * weight * (3 - 2 * weight)


def _noise(draws, size, cells):
    """Smooth value noise in 0 .. 1 [H, W] with ``cells`` bumps along each side."""
    lattice = draws.field(cells + 1, cells + 1)
    (i, wy), (j, wx) = (_interpolation(length, cells) for length in size)
    wy = wy[:, None]
    lines = lattice[i] * (1 - wy) + lattice[i + 1] * wy  # (H, cells + 1)
    return lines[:, j] * (1 - wx) + lines[:, j + 1] * wx  # (H, W)


def _texture(draws, size):
    """The pattern of a table, 0 .. 1 [H, W]: paper, wood, stripes, plaid or marble."""
    cloud = 0.65 * _noise(draws, size, 4) + 0.35 * _noise(draws, size, 13)
    style = draws.below(5)
    if style == 0:
        return cloud
    cos, sin = draws.direction()
    scale = draws.uniform(5.0, 12.0) / min(size)
    x, y = np.arange(size[1]) * scale, np.arange(size[0])[:, None] * scale
    u, v = cos * x + sin * y, cos * y - sin * x
    if style == 1:
        return 0.55 * _triangle_wave(u + 2.5 * cloud) + 0.45 * cloud
    if style == 2:
        return np.clip(3 * _triangle_wave(u) - 1, 0, 1) * 0.8 + 0.2 * cloud
    if style == 3:
        return 0.4 * _triangle_wave(u) + 0.4 * _triangle_wave(v) + 0.2 * cloud
    ridge = 1 - np.abs(2 * cloud - 1)
    return ridge * ridge * ridge


def _table(draws, size):
    """The canvas without pieces, and its mean colour [3]."""
    base = TABLE_COLOURS[draws.below(len(TABLE_COLOURS))]
    base = base + np.array([draws.uniform(-0.06, 0.06) for _ in range(3)])
    other = base * draws.uniform(0.72, 0.86)
    canvas = _texture(draws, size) * (base - other)[:, None, None]
    canvas += other[:, None, None]
    return canvas, 0.5 * (base + other)


def _colours(draws, table):
    """Colours for pieces in random order, those too near to the table's left out, endless."""
    far = []
    for i in draws.shuffled(len(PIECE_COLOURS)):
        red, green, blue = np.abs(PIECE_COLOURS[i] - table).tolist()
        if red + green + blue > 0.7:
            far.append(PIECE_COLOURS[i])
    while True:
        yield from far


def _shadow(canvas, piece, light):
    """Darkens the canvas where ``piece`` keeps the light off."""
    height = 1.2 + 0.10 * piece.parts[0].radius
    shift = (-light[0] * height, -light[1] * height)
    soft = 1.0 + 0.8 * height
    rows, columns = piece.window(canvas.shape[1:], height + soft)
    shade = np.clip(0.5 - piece.distance(rows, columns, shift) / (2 * soft), 0, 1)
    canvas[(slice(None), *_box(rows, columns))] *= 1 - 0.45 * shade


def _paint(canvas, piece, colour, light, draws, striped=False):
    """Lays ``piece`` on the canvas: pattern, bevel towards the light, anti-aliased edge."""
    rows, columns = piece.window(canvas.shape[1:], 1.0)
    distance = piece.distance(rows, columns)
    part = piece.parts[0]
    x = (np.arange(columns.start, columns.stop) + (0.5 - part.x)) / part.radius
    y = (np.arange(rows.start, rows.stop)[:, None] + (0.5 - part.y)) / part.radius
    tone = 1.0 + 0.10 * np.clip(light[0] * x + light[1] * y, -1, 1)
    if striped:
        (cos, sin), waves = draws.direction(), draws.uniform(1.0, 2.0)
        tone -= 0.22 * np.clip(4 * _triangle_wave(waves * (cos * x + sin * y)) - 1.5, 0, 1)
    slope_y, slope_x = np.zeros_like(distance), np.zeros_like(distance)
    slope_y[1:] = distance[1:] - distance[:-1]
    slope_x[:, 1:] = distance[:, 1:] - distance[:, :-1]
    rim = np.clip(1 + distance / max(1.5, 0.16 * part.radius), 0, 1)
    tone += 0.30 * rim * (light[0] * slope_x + light[1] * slope_y)
    tone -= 0.16 * np.clip(1.8 + distance, 0, 1)  # a dark line parts pieces of like colour
    coverage = np.clip(0.5 - distance, 0, 1)
    under = canvas[(slice(None), *_box(rows, columns))]
    under *= 1 - coverage
    under += (coverage * tone) * colour[:, None, None]


def _clutter(canvas, light, unit, draws):
    """A few sticks, which belong to no category, under the pieces of every third scene."""
    if not draws.chance(0.35):
        return
    height, width = canvas.shape[1:]
    for _ in range(1 + draws.below(3)):
        x, y = draws.uniform(0, width), draws.uniform(0, height)
        part = Part("stick", x, y, draws.uniform(8, 24) * unit, draws.direction())
        stick = Piece((part,))
        colour = np.array([0.36, 0.27, 0.18]) + draws.uniform(-0.12, 0.25)
        _shadow(canvas, stick, light)
        _paint(canvas, stick, colour, light, draws)


def _light_up(canvas, light, draws):
    """Light that falls off across the picture, in some scenes half of it in the shade, and
    the grain of the sensor. Changes ``canvas``."""
    height, width = canvas.shape[1:]
    x = (np.arange(width) + 0.5) * (2 / width) - 1
    y = ((np.arange(height) + 0.5) * (2 / height) - 1)[:, None]
    falloff = draws.uniform(0.05, 0.22)
    level = draws.uniform(0.90, 1.08) + falloff * (light[0] * x + light[1] * y)
    if draws.chance(0.25):
        cos, sin = draws.direction()
        edge = (cos * x + sin * y + draws.uniform(-0.6, 0.6)) * draws.uniform(3.0, 12.0)
        level *= 1 - 0.30 * np.clip(0.5 + edge, 0, 1)
    canvas *= level
    canvas += draws.grain(height, width) * (draws.uniform(0.01, 0.05) / 255)


def _check_size(size):
    pair = isinstance(size, tuple | list) and len(size) == 2
    if not pair or not all(isinstance(n, int | np.integer) and n >= SMALLEST_SIDE for n in size):
        raise ValueError(
            f"size is {size!r}; it must be (height, width), two whole numbers of pixels, "
            f"{SMALLEST_SIDE} or more each"
        )
    return int(size[0]), int(size[1])


def _check_key(name, value):
    if not isinstance(value, int | np.integer) or not 0 <= value < 2**64:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from 0 to 2**64 - 1")
    return int(value)


def render_scene(seed, index, size=(128, 128)):
    """The scene number ``index`` of the endless series ``seed``, as a ``Scene``.

    size: (height, width) in pixels, 32 or more each. The same arguments give the same bytes on
    any machine. Raises ValueError for a size, seed or index that cannot be.
    """
    size = _check_size(size)
    seed, index = _check_key("seed", seed), _check_key("index", index)
    layout, look = Draws(seed, index, stream=0), Draws(seed, index, stream=1)
    pieces, owner = _lay_out(layout, size)
    unit, light = min(size) / 128, look.direction()
    canvas, table = _table(look, size)
    _clutter(canvas, light, unit, look)
    for piece, colour in zip(pieces, _colours(look, table), strict=False):
        colour = colour + look.uniform(-0.05, 0.05)
        _shadow(canvas, piece, light)
        striped = look.chance(0.25) and piece.parts[0].radius > 9 * unit
        _paint(canvas, piece, colour, light, look, striped)
    _light_up(canvas, light, look)
    pixels = np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)
    return Scene(
        image=np.ascontiguousarray(pixels.transpose(1, 2, 0)),  # (3, H, W) -> (H, W, 3)
        masks=owner == np.arange(len(pieces))[:, None, None],
        labels=np.array([CATEGORIES.index(p.parts[0].kind) for p in pieces], np.int64),
        iscrowd=np.array([p.crowd for p in pieces], bool),
    )


class ShapesDataset(Dataset):
    """The first ``length`` scenes of the series ``seed``, as samples (see ``samples.py``).

    The image id of a scene is its index in the series. Two datasets of different seeds share no
    scene: train on one, evaluate on the other.

    transform: called as ``transform(image, target)``. cache: keep scenes once rendered, about
    50 KB at 128 x 128 each, up to ``CACHE_MB``; a number is megabytes.
    """

    def __init__(self, length, seed=0, size=(128, 128), transform=None, cache=False):
        if not isinstance(length, int | np.integer) or length < 1:
            raise ValueError(
                f"length is {length!r}; it must be a whole number of scenes, 1 or more"
            )
        self.seed, self.size = _check_key("seed", seed), _check_size(size)
        self.transform = transform
        self.categories = list(CATEGORIES)
        self.category_ids = list(range(1, len(CATEGORIES) + 1))
        self.image_ids = list(range(length))
        self.image_sizes = [self.size] * length
        self.file_names = [_file_name(i) for i in self.image_ids]
        self._cache = PictureCache(length, cache)

    def __len__(self):
        return len(self.image_ids)

    def scene(self, index):
        """The ``Scene`` behind the sample ``index``."""
        index = self.image_ids[index]
        if kept := self._cache.get(index):
            image, masks, objects = kept
            return Scene(image, masks, objects[:, 0], objects[:, 1].astype(bool))
        scene = render_scene(self.seed, index, self.size)
        objects = np.stack([scene.labels, scene.iscrowd.astype(np.int64)], 1)
        self._cache.put(index, scene.image, scene.masks, objects)
        return scene

    def class_counts(self):
        """How many objects of each class the scenes have, crowds apart: {name: count}."""
        counts = dict.fromkeys(self.categories, 0)
        for index in self.image_ids:
            pieces, _ = _lay_out(Draws(self.seed, index, stream=0), self.size)
            for piece in pieces:
                counts[piece.parts[0].kind] += not piece.crowd
        return counts

    def __getitem__(self, index):
        scene = self.scene(index)
        image_id = self.image_ids[index]
        sample = make_sample(scene.image, scene.masks, scene.labels, scene.iscrowd, image_id)
        return self.transform(*sample) if self.transform else sample

    def coco_ground_truth(self):
        """The scenes as a COCO-format dict for pycocotools, masks as compressed RLE."""
        return _coco_dict((self.scene(i) for i in self.image_ids), self.seed, self.size)


def _file_name(index):
    return f"{index:06d}.png"


def _coco_dict(scenes, seed, size):
    images, annotations = [], []
    for image_id, scene in enumerate(scenes):
        images.append(
            {
                "id": image_id,
                "file_name": _file_name(image_id),
                "height": size[0],
                "width": size[1],
            }
        )
        boxes = boxes_from_masks(scene.masks)
        for mask, box, label, crowd in zip(
            scene.masks, boxes, scene.labels, scene.iscrowd, strict=True
        ):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(np.count_nonzero(mask)),
                    "iscrowd": int(crowd),
                    "segmentation": encode_mask(mask),
                }
            )
    return {
        "info": {
            "description": "shapes: procedural scenes with exact instance masks",
            "made_by": "fbnet_lesson.data.shapes.write_coco",
            "images": len(images),
            "seed": seed,
            "size": list(size),
        },
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name, "supercategory": "shape"}
            for i, name in enumerate(CATEGORIES, start=1)
        ],
    }


def write_coco(folder, images, seed=0, size=(128, 128)):
    """Writes the first ``images`` scenes of the series ``seed`` as a COCO-format set.

    Makes ``folder/annotations.json`` and ``folder/images/000000.png`` and on; returns the path
    of the first. Masks are RLE, exact; a crowd's is uncompressed, as in COCO. Each file appears
    whole or not at all, and the annotations last: a folder that has them has all its pictures.
    """
    if not isinstance(images, int | np.integer) or images < 1:
        raise ValueError(f"images is {images!r}; it must be a whole number of scenes, 1 or more")
    size, seed = _check_size(size), _check_key("seed", seed)
    folder = Path(folder)
    target = folder / "annotations.json"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)

    def written():
        for index in tqdm(range(images), desc="shapes", unit="scene"):
            scene = render_scene(seed, index, size)
            path = folder / "images" / _file_name(index)
            picture = Image.fromarray(scene.image)
            with atomic_file(path) as file:
                picture.save(file, "PNG", optimize=True)
            yield scene

    coco = _coco_dict(written(), seed, size)
    for annotation in coco["annotations"]:
        if annotation["iscrowd"]:
            annotation["segmentation"] = uncompressed_rle(annotation["segmentation"])
    with atomic_file(target) as file:
        file.write(json.dumps(coco).encode())
    return target
