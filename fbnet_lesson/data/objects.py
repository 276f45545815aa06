"""The annotations of a set in columns: 860,000 of them in 200 MB, and no loop to look at them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import chain

import numpy as np
from pycocotools import mask as mask_utils

from .outlines import box_rle, compress, has_outline

IDS = ("id", "image_id", "category_id")
BOX, POLYGONS, RLE = 0, 1, 2  # forms of an outline; BOX is none


@dataclass
class Shapes:
    """What shows of N outlines without drawing them; of polygons, values may be not finite.

    extents: float64 [N, 4], x1, y1, x2, y2. roundness: float64 [N], the largest of area /
    perimeter of an object's polygons: the largest circle within a polygon is no smaller
    (Bonnesen), so that one of 1 has the centre of a pixel inside. mask_sizes: int64 [N, 2],
    height and width of an RLE. 0 where an outline is of another form.
    """

    extents: np.ndarray
    roundness: np.ndarray
    mask_sizes: np.ndarray


@dataclass
class Objects:
    """N objects; what is told of their outlines lies in ``corners`` and ``runs``.

    ids, image_ids: int64 [N]. category_ids: int64 [N], -1 where the class is not known.
    boxes: float64 [N, 4], x, y, width, height. areas: float64 [N], NaN where the file has none.
    iscrowd: bool [N]. pixels: float64 [N], the area of the outline, or of the box without one.
    forms: uint8 [N], ``BOX``, ``POLYGONS`` or ``RLE``.
    first, count: int64 [N], which polygons are an object's; ``first`` of an RLE: which of ``runs``.
    starts: int64 [P + 1], where a polygon begins in ``corners``, float64, x1, y1, x2, y2, …
    runs: compressed run lengths, one text each.
    """

    ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    iscrowd: np.ndarray
    pixels: np.ndarray
    forms: np.ndarray
    first: np.ndarray
    count: np.ndarray
    starts: np.ndarray
    corners: np.ndarray
    runs: list

    def __len__(self):
        return len(self.ids)

    @classmethod
    def pack(cls, records):
        """(objects, ``Shapes``) of annotations with ``id``, ``image_id``, ``category_id``, ``bbox``
        and polygons, sound RLE or nothing as ``segmentation``.

        Raises OverflowError, TypeError or ValueError for what is not a number of 64 bits.
        """
        n = len(records)
        outlines = [r.get("segmentation") for r in records]
        forms = [RLE if type(o) is dict else POLYGONS if has_outline(o) else BOX for o in outlines]
        pairs = list(zip(outlines, forms, strict=True))
        count = np.array([len(o) if form == POLYGONS else 0 for o, form in pairs], np.int64)
        polygons = [p for o, form in pairs if form == POLYGONS for p in o]
        runs = [_text(o) for o, form in pairs if form == RLE]
        forms = np.array(forms, np.uint8)
        lengths = np.fromiter(map(len, polygons), np.int64, len(polygons))
        first = np.where(forms == RLE, np.cumsum(forms == RLE) - 1, np.cumsum(count) - count)
        boxes = np.fromiter(chain.from_iterable([r["bbox"] for r in records]), np.float64, 4 * n)
        boxes = boxes.reshape(n, 4)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        corners = np.fromiter(chain.from_iterable(polygons), np.float64, starts[-1])
        shapes, pixels = _measure(corners, starts, first, forms)
        pixels[forms == BOX] = (boxes[:, 2] * boxes[:, 3])[forms == BOX]
        if runs:
            sizes = [o["size"] for o, form in zip(outlines, forms, strict=True) if form == RLE]
            masks = [{"size": z, "counts": t} for z, t in zip(sizes, runs, strict=True)]
            pixels[forms == RLE], shapes.mask_sizes[forms == RLE] = mask_utils.area(masks), sizes
            shapes.extents[forms == RLE] = mask_utils.toBbox(masks)
            shapes.extents[forms == RLE, 2:] += shapes.extents[forms == RLE, :2]
        objects = cls(
            *(np.fromiter((r[name] for r in records), np.int64, n) for name in IDS),
            boxes,
            np.fromiter((_area(r) for r in records), np.float64, n),
            np.fromiter((r.get("iscrowd", 0) for r in records), bool, n),
            pixels,
            forms,
            first,
            count,
            starts,
            corners,
            runs,
        )
        return objects, shapes

    def take(self, rows):
        """The objects ``rows`` (integers or bool [N]), in that order; outlines are shared."""
        shared = ("starts", "corners", "runs")
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return Objects(**{k: v if k in shared else v[rows] for k, v in columns.items()})

    @classmethod
    def join(cls, parts):
        """The objects of all ``parts``, one part after the other."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        runs = np.cumsum([0] + [len(part.runs) for part in parts[:-1]])
        polygons = np.cumsum([0] + [len(part.starts) - 1 for part in parts[:-1]])
        corners = np.cumsum([0] + [len(part.corners) for part in parts])
        columns["first"] = [
            part.first + np.where(part.forms == RLE, r, p)
            for part, r, p in zip(parts, runs, polygons, strict=True)
        ]
        columns["starts"] = [
            part.starts[:-1] + c for part, c in zip(parts, corners[:-1], strict=True)
        ] + [corners[-1:]]
        texts = list(chain.from_iterable(columns.pop("runs")))
        return cls(**{k: np.concatenate(v) for k, v in columns.items()}, runs=texts)

    def polygons(self, row):
        """The polygons of an object, each x1, y1, x2, y2, …"""
        a = self.first[row]
        bounds = self.starts[a : a + self.count[row] + 1]
        return [self.corners[i:j] for i, j in zip(bounds[:-1], bounds[1:], strict=True)]

    def rle(self, row, size):
        """The pixels of an object in a picture of ``size``, as compressed RLE; of a box, all."""
        if self.forms[row] == RLE:
            return {"size": list(size), "counts": self.runs[self.first[row]]}
        if self.forms[row] == BOX:
            return box_rle(self.boxes[row].tolist(), size)
        rle = mask_utils.merge(mask_utils.frPyObjects(self.polygons(row), *size))
        return {"size": list(size), "counts": rle["counts"].decode("ascii")}


def _measure(corners, starts, first, forms):
    """(``Shapes``, areas [N]) of N objects' polygons; 0 for other outlines."""
    n, shaped = len(forms), np.flatnonzero(forms == POLYGONS)
    shapes, areas = Shapes(np.zeros((n, 4)), np.zeros(n), np.zeros((n, 2), np.int64)), np.zeros(n)
    if not len(shaped):
        return shapes, areas
    x, y, begin, of_object = corners[0::2], corners[1::2], starts[:-1] // 2, first[shaped]
    after = np.arange(1, len(x) + 1)
    after[starts[1:] // 2 - 1] = begin  # a polygon's last point is followed by its first
    with np.errstate(all="ignore"):
        area = np.abs(np.add.reduceat(x * y[after] - x[after] * y, begin)) / 2
        roundness = area / np.add.reduceat(np.hypot(x[after] - x, y[after] - y), begin)
    for column, (least, values) in enumerate(
        ((np.minimum, x), (np.minimum, y), (np.maximum, x), (np.maximum, y))
    ):
        shapes.extents[shaped, column] = least.reduceat(least.reduceat(values, begin), of_object)
    areas[shaped] = np.add.reduceat(area, of_object)
    shapes.roundness[shaped] = np.maximum.reduceat(roundness, of_object)
    return shapes, areas


def _text(rle):
    """The run lengths of an RLE as compressed text."""
    counts = rle["counts"]
    if isinstance(counts, list):
        counts = compress(counts, rle["size"])["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def _area(record):
    area = record.get("area")
    good = type(area) in (int, float) and 0 < area < 1e12
    return area if good else np.nan
