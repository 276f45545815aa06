"""Outlines of objects: polygons and run-length encodings, read, cut to the picture and drawn.

An outline is a list of polygons ``[x1, y1, x2, y2, …]`` in pixels, or compressed RLE
``{"size": [H, W], "counts": text}``. A size is ``(height, width)``. Nothing that did not pass
``read_rle`` or ``clip_polygon`` reaches pycocotools, whose C code trusts its input.
"""

from __future__ import annotations

import reprlib
from math import ceil, floor

import numpy as np
from pycocotools import mask as mask_utils

TOLERANCE = 1.0  # pixels by which a box or polygon may pass the border: tools round differently
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 60


def whole(value):
    """Whether ``value`` is a whole number of 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**63


def number(value):
    """Whether ``value`` is a finite number of a size that a picture's coordinate can have."""
    return type(value) in (int, float) and -1e9 < value < 1e9


def show(value):
    """``value`` in at most 60 characters that print, whatever it is."""
    try:
        text = SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "too long to print"
    return text if len(text) <= 60 else text[:57] + "..."


def has_outline(segmentation):
    """Whether a segmentation is there: many tools write [], [[]] or null for a box alone."""
    return bool(segmentation) and segmentation != [[]]


# Polygons


def signed_area(polygon):
    """The area that ``polygon`` (x1, y1, x2, y2, …) encloses, in square pixels, with its sign."""
    x, y = np.asarray(polygon[0::2], float), np.asarray(polygon[1::2], float)
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def clip_polygon(polygon, size):
    """The part of ``polygon`` within a picture of ``size``; fewer than 3 points where none is.

    Cuts along one border after the other (Sutherland and Hodgman, 1974); parts of a polygon that
    are apart afterwards stay joined along the border, which encloses no area.
    """
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    for axis, border, side in ((0, 0, 1), (0, size[1], -1), (1, 0, 1), (1, size[0], -1)):
        kept = []
        for start, end in zip(points[-1:] + points[:-1], points, strict=True):
            inside = side * (end[axis] - border) >= 0
            if inside != (side * (start[axis] - border) >= 0):
                share = (border - start[axis]) / (end[axis] - start[axis])
                cut = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
                cut[axis] = border
                kept.append(tuple(cut))
            if inside:
                kept.append(end)
        points = kept
    return [value for point in points for value in point]


def polygons_rle(polygons, size):
    """The pixels within any of the polygons, as compressed RLE."""
    rle = mask_utils.merge(mask_utils.frPyObjects(polygons, *size))
    return {"size": list(size), "counts": rle["counts"].decode("ascii")}


def polygons_extent(polygons):
    """The smallest box around the polygons: x1, y1, x2, y2."""
    x = [value for polygon in polygons for value in polygon[0::2]]
    y = [value for polygon in polygons for value in polygon[1::2]]
    return min(x), min(y), max(x), max(y)


# Run-length encoding


def box_rle(box, size):
    """The pixels that ``box`` (x, y, width, height) touches, as compressed RLE, or None."""
    (x, y, width, height), (rows, columns) = box, size
    left, top = max(floor(x), 0), max(floor(y), 0)
    wide, high = min(ceil(x + width), columns) - left, min(ceil(y + height), rows) - top
    if wide <= 0 or high <= 0:
        return None
    counts = [left * rows + top, high] + [rows - high, high] * (wide - 1)
    return compress([*counts, rows * columns - sum(counts)], size)


def compress(counts, size):
    """Run lengths as COCO's compressed RLE."""
    rle = mask_utils.frPyObjects({"size": list(size), "counts": counts}, *size)
    return {"size": list(size), "counts": rle["counts"].decode("ascii")}


def read_rle(rle, size):
    """(run lengths, None), or (None, (found, allowed)) where the RLE does not fit its picture."""
    shape, counts = rle.get("size"), rle.get("counts")
    if not isinstance(shape, list) or len(shape) != 2 or not all(map(whole, shape)):
        return None, (f"size {show(shape)}", "[height, width]")
    if size and tuple(shape) != size:
        return None, (f"size {show(shape)}", f"{list(size)}, as the image")
    if isinstance(counts, str | bytes):
        counts = counts_from_text(counts)
        if counts is None:
            return None, (f"counts {show(rle['counts'])}", "COCO's compressed form")
    if not isinstance(counts, list) or not all(whole(c) and c >= 0 for c in counts):
        return None, (f"counts {show(counts)}", "whole numbers, 0 or more")
    if sum(counts) != shape[0] * shape[1]:
        return None, (f"{show(sum(counts))} pixels", f"{show(shape[0] * shape[1])}, its size")
    return counts, None


def counts_from_text(text):
    """The run lengths of COCO's compressed RLE, or None for a broken text.

    Five bits a character (its code less 48), the lowest first; bit 32 says that the number goes
    on, bit 16 of its last character that it is negative; from the fourth on, the number is the
    difference to the run two before.
    """
    counts, value, shift = [], 0, 0
    codes = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 50:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value, shift = 0, 0
    return None if shift else counts
