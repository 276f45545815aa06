"""One annotation at a time: what is wrong with it, and what of it can be used all the same.

The rule is to repair before dropping. A box that cannot be is taken from the outline, an outline
that cannot be is left out and the box kept. An object of which neither can be used, or whose
class is unknown, becomes a region that takes no part in training, as a crowd does: the picture
stays, and the object is not taught as background.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as mask_utils

from .outlines import (
    TOLERANCE,
    clip_polygon,
    compress,
    has_outline,
    number,
    polygons_extent,
    polygons_rle,
    read_rle,
    show,
    signed_area,
    whole,
)

AGREE_IOU, AGREE_PIXELS = 0.7, 2.0  # a box and its outline disagree that are further apart
ENOUGH_INSIDE = 0.5  # the share of a box or outline that has to be in the picture to be cut to it
NO_OUTLINE = "the box is kept, without its outline"
FROM_OUTLINE = "box of the outline"
REGION = "its place takes no part in training"


@dataclass(frozen=True)
class Problem:
    """A ``Defect`` without its place."""

    kind: str
    found: str
    allowed: str
    repair: str = ""


def check_fields(record, fields):
    """The problems of ``record`` with ``fields``: {name: (test, what is allowed)}."""
    if not isinstance(record, dict):
        return [Problem("wrong value", show(record), "an object")]
    problems = []
    for name, (test, allowed) in fields.items():
        if name not in record:
            problems.append(Problem("missing field", f"no {name}", allowed))
        elif not test(record[name]):
            problems.append(Problem("wrong value", f"{name} {show(record[name])}", allowed))
    return problems


def is_box(value):
    return isinstance(value, list) and len(value) == 4 and all(map(number, value))


WHOLE = (whole, "a whole number")
FIELDS = {"image_id": WHOLE, "category_id": WHOLE}
CROWD = {"iscrowd": (lambda v: isinstance(v, int) and v in (0, 1), "0 or 1")}
BOX = {"bbox": (is_box, "[x, y, width, height], finite")}


def mend(record, size, known_images, categories, corners=False):
    """(problems, mended) of an annotation in a picture of ``size``, None where it is not known.

    known_images: the image ids of the file. categories: {id: id to take}, two where a name stands
    twice. corners: a box without an outline is x1, y1, x2, y2.

    mended has ``id`` (None: a new one is due), ``image_id``, ``category_id`` (None: unknown),
    ``bbox`` of floats, ``iscrowd``, ``segmentation`` (polygons, compressed RLE, or None),
    ``ignored`` (only a region is left of the object), and ``area`` if the record has one. It is
    None where nothing can be kept.
    """
    problems = check_fields(record, FIELDS)
    if not isinstance(record, dict):
        return problems, None
    image_id, category_id = record.get("image_id"), record.get("category_id")
    if whole(image_id) and image_id not in known_images:
        allowed = "an image of the file"
        problems.append(Problem("unknown image", f"image {show(image_id)}", allowed))
    if whole(category_id) and category_id not in categories:
        found, allowed = f"category {show(category_id)}", f"one of {show(sorted(categories))}"
        problems.append(Problem("unknown category", found, allowed))
    if "iscrowd" in record:
        problems += check_fields(record, CROWD)
    usable, identity = not problems, check_fields(record, {"id": WHOLE})
    box, box_problems = read_box(record, size, corners)
    outline, outline_problems = read_outline(record.get("segmentation"), size)
    if size and outline:
        extent = outline_box(outline, size)
        if box is None or not agree(box, extent):
            box_problems = _of_outline(record, box_problems, extent)
            box = extent
    elif box:
        outline_problems = [replace(p, repair=NO_OUTLINE) for p in outline_problems]
    problems += box_problems + outline_problems
    usable &= box is not None
    if size and not usable:
        box, outline = region(record, size), None
        problems = [replace(p, repair=REGION if box else "") for p in problems]
    problems = [replace(p, repair="a new id") for p in identity] + problems
    if not (size and box and whole(image_id) and image_id in known_images):
        return [replace(p, repair="") for p in problems], None
    mended = {
        "id": None if identity else record["id"],
        "image_id": image_id,
        "category_id": categories.get(category_id) if whole(category_id) else None,
        "bbox": [float(v) for v in box],
        "iscrowd": int(record.get("iscrowd", 0)) if usable else 1,
        "segmentation": outline,
        "ignored": not usable,
    }
    if number(record.get("area")) and record["area"] > 0 and not problems:
        mended["area"] = record["area"]
    return problems, mended


def _of_outline(record, box_problems, extent):
    """The problems of a box in whose place the box of the outline, ``extent``, is taken."""
    hint = ""
    if is_box(record.get("bbox")):
        x, y, width, height = record["bbox"]
        forms = {
            "x1, y1, x2, y2": [x, y, width - x, height - y],
            "the centre, width, height": [x - width / 2, y - height / 2, width, height],
        }
        fits = [name for name, b in forms.items() if min(b[2:]) > 0 and agree(b, extent)]
        hint = f", which is {fits[0]}" if fits else ""
    if box_problems:
        return [replace(p, found=p.found + hint, repair=FROM_OUTLINE) for p in box_problems]
    found, allowed = _numbers(record["bbox"]) + hint, f"near {_numbers(extent)}"
    return [Problem("box and outline disagree", found, allowed, FROM_OUTLINE)]


def agree(box, extent):
    """Whether a box and the box of its outline, both x, y, width, height, are the same object's."""
    a, b = (np.array([v[0], v[1], v[0] + v[2], v[1] + v[3]]) for v in (box, extent))
    sides = np.maximum(np.minimum(a, b)[2:] - np.maximum(a, b)[:2], 0)
    shared = sides.prod()
    iou = shared / (box[2] * box[3] + extent[2] * extent[3] - shared)
    return bool(iou >= AGREE_IOU or np.abs(a - b).max() <= AGREE_PIXELS)


def _numbers(values):
    return "[" + ", ".join(f"{v:.6g}" for v in values) + "]"


def region(record, size):
    """The part of a picture that an unusable record may speak of: x, y, width, height or None."""
    box = record.get("bbox")
    if is_box(box) and min(box[2:]) > 0 and (inside := cut_box(box, size)):
        return inside
    segmentation = record.get("segmentation")
    parts = segmentation if isinstance(segmentation, list) else []
    parts = [p for p in parts if _is_polygon(p)]
    if not parts:
        return None
    x1, y1, x2, y2 = polygons_extent(parts)
    return cut_box((x1, y1, x2 - x1, y2 - y1), size)


# Boxes: x, y, width, height


def cut_box(box, size):
    """The part of ``box`` in a picture of ``size``, or None."""
    x, y, width, height = box
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, size[1]), min(y + height, size[0])
    return [left, top, right - left, bottom - top] if right > left and bottom > top else None


def is_fraction(box, size):
    """Whether ``box`` is in parts of the picture: all up to 1, and less than a pixel."""
    x, y, width, height = box
    inside = min(x, y) >= 0 and max(x + width, y + height) <= 1.001
    return inside and min(width, height) < 1 and min(size) > 2


def read_box(record, size, corners=False):
    """(box or None, problems) of an annotation's ``bbox``."""
    problems = check_fields(record, BOX)
    if problems:
        return None, problems
    box = record["bbox"]
    if corners and not has_outline(record.get("segmentation")):
        x1, y1, x2, y2 = box
        form, repair = "[x, y, width, height]", "read as x1, y1, x2, y2"
        box = [x1, y1, x2 - x1, y2 - y1]
        return box, [Problem("box of two corners", _numbers(record["bbox"]), form, repair)]
    if min(box[2:]) <= 0:
        return None, [Problem("zero-area box", _numbers(box), "a width and height above 0")]
    if not size:
        return box, []
    if is_fraction(box, size):
        scaled = [v * size[1 - i % 2] for i, v in enumerate(box)]
        kind, allowed = "coordinates from 0 to 1", f"pixels, within {size[1]} x {size[0]}"
        return scaled, [Problem(kind, _numbers(box), allowed, "multiplied by the picture's size")]
    x, y, width, height = box
    over = max(-x, -y, x + width - size[1], y + height - size[0])
    inside = cut_box(box, size)
    if over <= TOLERANCE and inside:
        return box, []
    allowed = f"within {size[1]} x {size[0]}"
    enough = inside and inside[2] * inside[3] >= ENOUGH_INSIDE * width * height
    repair = "cut to the picture" if enough else ""
    return inside if enough else None, [
        Problem("box outside the image", _numbers(box), allowed, repair)
    ]


# Outlines


def outline_box(outline, size):
    """The box of an outline in a picture of ``size``: x, y, width, height."""
    if isinstance(outline, dict):
        return mask_utils.toBbox(outline).tolist()
    x1, y1, x2, y2 = polygons_extent(outline)
    inside = cut_box((x1, y1, x2 - x1, y2 - y1), size)
    return inside or mask_utils.toBbox(polygons_rle(outline, size)).tolist()


def read_outline(segmentation, size):
    """(polygons, compressed RLE, or None; problems) of a segmentation.

    Without a ``size`` only what is wrong in any picture is found.
    """
    if not has_outline(segmentation):
        return None, []
    if isinstance(segmentation, dict):
        return _read_mask(segmentation, size)
    if not isinstance(segmentation, list):
        found = f"segmentation {show(segmentation)}"
        return None, [Problem("wrong value", found, "polygons or RLE")]
    polygons, problems = _read_polygons(segmentation)
    if not polygons or not size:
        return polygons or None, problems
    polygons, more = _place_polygons(polygons, size)
    problems += more
    if polygons and mask_utils.area(polygons_rle(polygons, size)) == 0:
        problems.append(Problem("zero-area mask", show(segmentation), "at least one pixel"))
        polygons = None
    return polygons or None, problems


def _read_mask(rle, size):
    counts, problem = read_rle(rle, size)
    if problem:
        return None, [Problem("broken RLE", *problem)]
    if sum(counts[1::2]) == 0:
        return None, [Problem("zero-area mask", show(rle), "at least one pixel")]
    return compress(counts, rle["size"]), []


def _is_polygon(part):
    return (
        isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 and all(map(number, part))
    )


def _read_polygons(parts):
    """The sound parts of a segmentation, and a problem for each of the others."""
    for joined, how in ((parts, "taken as one polygon"), (_flat_pairs(parts), "points joined")):
        if _is_polygon(joined):
            found = f"{show(parts)}, not in a list of its own"
            return [joined], [Problem("broken polygon", found, "a list of polygons", how)]
    sound = [part for part in parts if _is_polygon(part)]
    problems = []
    for part in parts:
        if _is_polygon(part):
            continue
        if isinstance(part, list) and all(map(number, part)):
            problem = f"{len(part)} numbers", "x, y of 3 or more points"
        else:
            problem = show(part), "a list of finite numbers"
        problems.append(Problem("broken polygon", *problem, "part left out" if sound else ""))
    return sound, problems


def _flat_pairs(parts):
    """[[x, y], [x, y], …] as one polygon; None for anything else."""
    if len(parts) < 3 or not all(isinstance(p, list) and len(p) == 2 for p in parts):
        return None
    return [value for pair in parts for value in pair]


def _place_polygons(polygons, size):
    """The polygons cut to a picture of ``size``, and what was wrong with their place."""
    x1, y1, x2, y2 = polygons_extent(polygons)
    allowed = f"within {size[1]} x {size[0]}"
    if min(x1, y1) >= 0 and max(x2, y2) <= 1.001 and min(size) > 2:
        scaled = [[v * size[1 - i % 2] for i, v in enumerate(part)] for part in polygons]
        found, repair = f"up to {max(x2, y2):.6g}", "multiplied by the picture's size"
        return scaled, [Problem("coordinates from 0 to 1", found, f"pixels, {allowed}", repair)]
    if max(-x1, -y1, x2 - size[1], y2 - size[0]) <= TOLERANCE:
        return polygons, []
    cut = [clip_polygon(part, size) for part in polygons]
    inside = sum(abs(signed_area(part)) for part in cut if part)
    enough = inside > 0 and inside >= ENOUGH_INSIDE * sum(map(abs, map(signed_area, polygons)))
    found = f"x {x1:.6g} .. {x2:.6g}, y {y1:.6g} .. {y2:.6g}"
    repair = "cut to the picture" if enough else ""
    kept = [part for part in cut if len(part) >= 6 and signed_area(part) != 0] if enough else None
    return kept, [Problem("polygon outside the image", found, allowed, repair)]
