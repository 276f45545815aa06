"""Looks at a whole set once: what is wrong, and the columns of what can be used.

Most annotations are sound, and there may be a million: they are packed and looked at as arrays.
Those that the arrays show something odd about are looked at again, one at a time, by ``mend``.
"""

from __future__ import annotations

import gc
import json
import os
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils

from .files import PictureFolder
from .headers import read_headers
from .mending import (
    AGREE_IOU,
    AGREE_PIXELS,
    WHOLE,
    Problem,
    check_fields,
    is_box,
    mend,
)
from .objects import BOX, Objects, Shapes
from .outlines import TOLERANCE, has_outline, read_rle, show, whole
from .pictures import FORMATS, read_header, turned
from .report import ClassCount, DatasetReport, Defect

TOGETHER = 50_000  # annotations that are packed at once
EDGE = (lambda v: whole(v) and v > 0, "a whole number of pixels")
TEXT = (lambda v: isinstance(v, str) and v != "", "a text")


@dataclass
class Picture:
    """A sound image of the set: its record's fields, and how its file is read."""

    id: int
    name: str  # of the file, which may not be the ``file_name`` of the record
    height: int
    width: int
    turned: bool = False  # whether the EXIF orientation is applied


@dataclass
class Inspection:
    """Looks at a set, keeps the defects and, apart, what can be used.

    source: the JSON file, or its content. folder: of the pictures. only: image ids, or None for
    all. exif: "ignore" or "apply" for pictures whose size does not tell whether their annotations
    are in the stored or the upright pixels; None makes them a defect. pictures: "none" (only
    whether the files are there), "headers", or "whole" (each is decoded).

    images: {id: Picture}. objects: columns of what can be used of the annotations, those of a
    picture together, in the order of ``images``. categories: {id: name}. changes: how the lists
    of the file become those of the repaired one, {(name of the list, position): record or None}.
    """

    source: object
    folder: object
    only: list | None = None
    exif: str | None = None
    pictures: str = "headers"
    defects: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    images: dict = field(default_factory=dict)
    categories: dict = field(default_factory=dict)
    objects: Objects | None = None
    has_masks: bool = True
    undecided: list = field(default_factory=list)
    changes: dict = field(default_factory=dict)
    data: dict | None = None
    looked_at: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    ignored: int = 0
    merged: int = 0

    def __post_init__(self):
        self.objects, _ = Objects.pack([])
        with no_garbage_collection():
            self.data = self._read_source()
            if self.data is None:
                return
            self._inspect_categories(self.data["categories"])
            self._inspect_images(self.data["images"])
            self._inspect_annotations(self.data["annotations"])
        self._note_objects()

    def report(self):
        counted = (self.looked_at[name] for name in ("images", "annotations", "categories"))
        classes = tuple(self._class_counts())
        return DatasetReport(tuple(self.defects), *counted, tuple(self.notes), classes)

    def _add(self, where, *problems):
        for p in problems:
            self.defects.append(Defect(p.kind, where, p.found, p.allowed, p.repair))

    def _change(self, section, position, record):
        """The record stands in the repaired file in the place of that at ``position``."""
        self.changes[section, position] = record

    # The file

    def _read_source(self):
        """The content of the annotation file, or None where nothing can be done with it."""
        data, before = self.source, len(self.defects)
        if not isinstance(data, dict):
            try:
                data = json.loads(Path(self.source).read_text(encoding="utf-8-sig"))
            except (OSError, ValueError, RecursionError) as error:
                where, reason = show(str(self.source)), show(f"{type(error).__name__}: {error}")
                problem = Problem("unreadable annotations", reason, "a file of JSON")
                self._add(where, problem)
                return None
        if not isinstance(data, dict):
            found = f"a {type(data).__name__}"
            self._add("the whole file", Problem("unreadable annotations", found, "an object"))
            return None
        for name in ("images", "annotations", "categories"):
            if name not in data:
                self._add("the whole file", Problem("missing field", f"no {name}", "a list"))
            elif not isinstance(data[name], list):
                self._add(name, Problem("wrong value", show(data[name]), "a list"))
        if not Path(self.folder).is_dir():
            found = show(str(self.folder))
            self._add("images", Problem("missing image folder", found, "a folder"))
        return data if len(self.defects) == before else None

    # Categories

    def _inspect_categories(self, records):
        self.looked_at["categories"] = len(records)
        self.taken_as, by_name = {}, {}  # {id: the id that stands for it}
        for position, record in enumerate(records):
            where = name_of("category", "categories", record, position)
            problems = check_fields(record, {"id": WHOLE, "name": TEXT})
            if not problems and record["id"] in self.categories | self.taken_as:
                problems = [
                    Problem("duplicate category id", show(record["name"]), "an id once"),
                ]
            elif not problems and record["name"] in by_name:
                first = by_name[record["name"]]
                self.taken_as[record["id"]] = first
                found, repair = show(record["name"]), f"taken as category {first}"
                problems = [Problem("duplicate category name", found, "a name once", repair)]
            if problems:
                self._add(where, *problems)
                self._change("categories", position, None)
                continue
            self.categories[record["id"]] = record["name"]
            self.taken_as[record["id"]] = by_name[record["name"]] = record["id"]
        folded = Counter(" ".join(name.casefold().split()) for name in by_name)
        alike = [n for n in by_name if folded[" ".join(n.casefold().split())] > 1]
        if alike:
            self.notes.append(
                f"the categories {', '.join(map(show, alike))} differ only in case or spaces: "
                "are they one?"
            )

    # Images and their files

    def _inspect_images(self, records):
        known = {r["id"] for r in records if isinstance(r, dict) and whole(r.get("id"))}
        wanted = self._wanted(known)
        self.known = known
        self.others = known - set(wanted) if self.only is not None else set()
        folder, positions, stamps = PictureFolder(self.folder), {}, {}
        self.same_as, by_file, seen = {}, {}, set()  # same_as: {id: the id of the same picture}
        for position, record in enumerate(records):
            image_id = record.get("id") if isinstance(record, dict) else None
            if self.only is not None and not (whole(image_id) and image_id in wanted):
                continue
            self.looked_at["images"] += 1
            where = name_of("image", "images", record, position)
            problems = check_fields(record, {"id": WHOLE, "file_name": TEXT})
            if problems or image_id in seen:
                problems = problems or [
                    Problem("duplicate image id", show(record["file_name"]), "an id once")
                ]
                self._leave_out(where, position, *problems)
                seen.add(image_id if whole(image_id) else None)
                continue
            seen.add(image_id)
            name, stamp, problem = folder.find(record["file_name"])
            if problem:
                self._add(where, problem)
                if name is None:
                    self._leave_out(where, position)
                    continue
                record = {**record, "file_name": name}
                self._change("images", position, record)
            file = name if "." not in name[:1] and "/." not in name else os.path.normpath(name)
            if file in by_file:
                first = by_file[file]
                self.same_as[image_id] = first
                found = f"{show(name)}, which is image {first} too"
                repair = f"its annotations go to image {first}"
                self._add(where, Problem("picture under two ids", found, "one id", repair))
                self._change("images", position, None)
                continue
            by_file[file] = image_id
            stamps[name], positions[image_id] = stamp, position
            width, height = record.get("width"), record.get("height")
            self.images[image_id] = Picture(image_id, name, height, width)
        if self.only is not None:
            self.images = {i: self.images[i] for i in wanted if i in self.images}
        self._inspect_files(stamps, positions)

    def _leave_out(self, where, position, *problems):
        self._add(where, *problems)
        self._change("images", position, None)

    def _wanted(self, known):
        """The ids asked for, in their order. Raises ValueError for one the file has not."""
        wanted = dict.fromkeys(known if self.only is None else self.only)
        unknown = [i for i in wanted if i not in known]
        if unknown or (self.only is not None and len(wanted) < len(self.only)):
            found = f"unknown ids, as {unknown[:5]}" if unknown else "an id more than once"
            raise ValueError(
                f"image_ids has {found}; the file has {len(known)} images, "
                f"as {sorted(known)[:5]}; each may be named once"
            )
        return wanted

    def _inspect_files(self, stamps, positions):
        """Compares the pictures with their records; what does not fit leaves ``images``."""
        if self.pictures == "none":
            headers = {}
        else:
            headers = read_headers(self.folder, stamps, whole=self.pictures == "whole")
        swapped, ranges, applied = [], Counter(), 0
        for image_id, picture in list(self.images.items()):
            header, position = headers.get(picture.name), positions[image_id]
            where, record = f"image {show(image_id)}", self.data["images"][position]
            sizes = check_fields(record, {"width": EDGE, "height": EDGE})
            if sizes and header is None:
                try:
                    header = read_header(os.path.join(self.folder, picture.name))
                except ValueError as error:
                    header = error
            if isinstance(header, ValueError):
                allowed = "a whole picture of " + ", ".join(FORMATS)
                problem = Problem("unreadable image", self._reason(header, picture), allowed)
                self._drop_image(where, position, image_id, problem)
                continue
            if sizes:
                repair = "the size of the picture"
                self._add(where, *(replace(p, repair=repair) for p in sizes))
                picture.height, picture.width = header.size
                self._resize(position, picture)
            if header is None:
                continue
            size = (picture.height, picture.width)
            ranges[header.values] += 1
            if size not in (header.size, header.upright):
                if size[::-1] == header.size and header.orientation == 1:
                    swapped.append((image_id, position))
                    continue
                self._drop_image(where, position, image_id, _wrong_size(size, header))
                continue
            turn = turned(header, size)
            if turn is None:
                turn = self._undecided(where, image_id, header)
            picture.turned = turn
            applied += turn
        self._unswap(swapped)
        self._note_pictures(ranges, applied)
        if self.pictures == "whole":
            self._compare_contents(headers)

    def _reason(self, error, picture):
        """Why a picture cannot be read, with its name in the place of its whole path."""
        path = os.path.join(self.folder, picture.name)
        text = str(error).removeprefix("cannot read the picture ").replace(path, picture.name, 1)
        return text.encode("ascii", "backslashreplace").decode() if not text.isprintable() else text

    def _drop_image(self, where, position, image_id, problem):
        self._leave_out(where, position, problem)
        del self.images[image_id]

    def _resize(self, position, picture):
        record = self.changes.get(("images", position), self.data["images"][position])
        size = {"width": picture.width, "height": picture.height}
        self._change("images", position, {**record, **size})

    def _undecided(self, where, image_id, header):
        """Whether to apply the orientation of a picture of which the size does not tell it."""
        if self.exif is None:
            self.undecided.append(image_id)
            found = f"orientation {header.orientation}, {header.width} x {header.height} both ways"
            allowed = "--exif ignore or --exif apply"
            self._add(where, Problem("EXIF undecided", found, allowed))
        return self.exif == "apply"

    def _unswap(self, swapped):
        """Images whose width and height change places: repaired where the boxes fit then."""
        if not swapped:
            return
        boxes = {image_id: [] for image_id, _ in swapped}
        for record in self.data["annotations"]:
            if isinstance(record, dict) and whole(record.get("image_id")):
                if record["image_id"] in boxes and is_box(record.get("bbox")):
                    boxes[record["image_id"]].append(record["bbox"])
        for image_id, position in swapped:
            picture = self.images[image_id]
            width, height = picture.height, picture.width  # of the picture, not of the file
            found = f"{width} x {height}: width and height of the file have changed places"
            allowed = f"{height} x {width}"
            fit = all(
                x + w <= width + TOLERANCE and y + h <= height + TOLERANCE
                for x, y, w, h in boxes[image_id]
            )
            repair = "width and height change places" if fit else ""
            where = f"image {show(image_id)}"
            problem = Problem("image size", found, allowed, repair)
            if fit:
                picture.width, picture.height = width, height
                self._add(where, problem)
                self._resize(position, picture)
            else:
                self._drop_image(where, position, image_id, problem)

    def _note_pictures(self, ranges, applied):
        deep = {values: number for values, number in ranges.items() if values}
        for (low, high), number in sorted(deep.items()):
            self.notes.append(
                f"{number} pictures of more than 8 bits: values from {low:g} to {high:g} are read "
                "as 0 to 255"
            )
        if len(deep) > 1:
            self.notes.append(
                "pictures of more than 8 bits are read by different ranges: save them with 8 bits "
                "to have equal values look equal"
            )
        if applied:
            self.notes.append(
                f"{applied} pictures are turned as their EXIF orientation says, which the size of "
                "their annotations " + ("or --exif asks for" if self.exif else "asks for")
            )

    def _compare_contents(self, headers):
        """Pictures of the same pixels under different names; blank ones are no copies."""
        first = {}
        for image_id, picture in self.images.items():
            content = headers[picture.name].content
            if content in ("", "blank"):
                continue
            if content in first:
                found = f"{show(picture.name)} is the picture of image {first[content]} too"
                problem = Problem("same picture twice", found, "each picture once", "kept")
                self._add(f"image {show(image_id)}", problem)
            first.setdefault(content, image_id)

    # Annotations

    def _inspect_annotations(self, records):
        self.has_masks = not records or any(
            has_outline(r.get("segmentation")) for r in records if isinstance(r, dict)
        )
        regular, odd, others = _sort_out(records, self.others)
        self.looked_at["annotations"] = len(records) - others
        parts = self._pack_regular(records, regular, odd)
        corners = self._find_corners(parts)
        for part in parts:
            odd += part.leave(self._suspects(part, corners))
        ids = np.concatenate([part.objects.ids for part in parts] or [np.zeros(0, np.int64)])
        once, counts = np.unique(ids, return_counts=True)
        if len(once) < len(ids):  # all that share an id are looked at, in their order
            for part in parts:
                odd += part.leave(np.isin(part.objects.ids, once[counts > 1]))
        taken = set(once[counts == 1].tolist()) if odd else set()
        mended = self._mend(records, sorted(odd), taken, corners)
        if mended:
            rows = np.array(list(mended), np.int64)
            parts.append(_Part(*Objects.pack(list(mended.values())), rows))
        ignored = sum(record["ignored"] for record in mended.values())
        if parts:
            joined = Objects.join([part.objects for part in parts])
            rows = np.concatenate([part.rows for part in parts])
            self.objects = joined.take(np.lexsort((rows, self.places(joined.image_ids))))
        self.dropped["images"] = self.looked_at["images"] - len(self.images) - len(self.same_as)
        used = len(self.objects) - ignored + self.merged
        self.dropped["annotations"] = self.looked_at["annotations"] - used
        self.ignored = ignored

    def _pack_regular(self, records, regular, odd):
        """The annotations ``regular`` in parts; adds to ``odd`` which of them cannot be packed."""
        parts = []
        for start in range(0, len(regular), TOGETHER):
            rows = regular[start : start + TOGETHER]
            chosen = [records[i] for i in rows]
            if not _all_numbers(chosen):  # find who it is
                good = [i for i, r in zip(rows, chosen, strict=True) if _all_numbers([r])]
                odd += sorted(set(rows) - set(good))
                rows, chosen = good, [records[i] for i in good]
            parts.append(_Part(*Objects.pack(chosen), np.array(rows, np.int64)))
        return parts

    def places(self, image_ids):
        """The position in ``images`` of each of the ``image_ids`` [N]; -1 for none of them."""
        known = np.fromiter(self.images, np.int64, len(self.images))
        if not len(known):
            return np.full(len(image_ids), -1)
        order = np.argsort(known)
        found = np.searchsorted(known, image_ids, sorter=order)
        place = order[np.minimum(found, len(known) - 1)]
        return np.where(known[place] == image_ids, place, -1)

    def _sizes(self, image_ids):
        """Height and width of each of the images, [N, 2]; 0 for one that is not used."""
        sizes = [(p.height, p.width) for p in self.images.values()] + [(0, 0)]
        return np.array(sizes, np.float64)[self.places(image_ids)]  # [-1] is the last

    def _find_corners(self, parts):
        """Whether the boxes without an outline are all x1, y1, x2, y2, and cannot be else."""
        outside = 0
        for part in parts:
            sizes = self._sizes(part.objects.image_ids)
            bare = (part.objects.forms == BOX) & (sizes[:, 0] > 0)
            x, y, width, height = part.objects.boxes[bare].T
            high, wide = sizes[bare].T + TOLERANCE
            if not ((width > x) & (height > y) & (width <= wide) & (height <= high)).all():
                return False
            outside += np.count_nonzero((x + width > wide) | (y + height > high))
        return outside >= 2

    def _suspects(self, part, corners):
        """Which objects of a part are to be looked at one at a time: bool [N]."""
        objects, shapes = part.objects, part.shapes
        sizes = self._sizes(objects.image_ids)
        high, wide = sizes.T
        x, y, width, height = objects.boxes.T
        box = np.stack([x, y, x + width, y + height], 1)
        extents = np.clip(shapes.extents, 0, np.stack([wide, high] * 2, 1))
        as_they_are = [c for c, taken in self.taken_as.items() if c == taken]
        with np.errstate(invalid="ignore"):
            sound = (high > 0) & np.isin(objects.category_ids, as_they_are)
            sound &= (np.abs(objects.boxes) < 1e9).all(1) & (np.minimum(width, height) >= 1)
            sound &= _within(box, wide, high)
            drawn = _within(shapes.extents, wide, high) & _near(box, extents)
            drawn &= (shapes.roundness >= 1) & (shapes.extents.max(1) > 1.001)
            masked = (shapes.mask_sizes == sizes).all(1) & (objects.pixels > 0)
            masked &= _near(box, extents)
        return ~(sound & np.choose(objects.forms, [not corners, drawn, masked]))

    def _mend(self, records, odd, taken, corners):
        """What ``mend`` makes of the annotations ``odd``: {position: mended record}, for packing.

        taken: the ids of all other annotations.
        """
        mended, twins, new_ids, owners = {}, self._twins(records), None, None
        sizes = {i: (p.height, p.width) for i, p in self.images.items()}
        for position in odd:
            given = record = records[position]
            where = name_of("annotation", "annotations", record, position)
            image_id = record.get("image_id") if isinstance(record, dict) else None
            if whole(image_id) and image_id in self.same_as:
                if _twin(record) in twins:
                    self.merged += 1
                    self._change("annotations", position, None)
                    continue
                record = {**record, "image_id": self.same_as[image_id]}
                image_id = record["image_id"]
            size = sizes.get(image_id) if whole(image_id) else None
            problems, result = mend(record, size, self.known, self.taken_as, corners)
            if result and result["id"] in taken:
                found, repair = show(record["id"]), "a new id"
                problems.insert(0, Problem("duplicate annotation id", found, "an id once", repair))
                result["id"] = None
            if any(p.kind == "box and outline disagree" for p in problems):
                owners = owners or _owners(records)
                problems = [_with_owner(p, record, owners) for p in problems]
            self._add(where, *problems)
            if result is None:
                self._change("annotations", position, None)
                continue
            if result["id"] is None:
                new_ids = new_ids or _new_ids(records)
                result["id"] = next(new_ids)
            taken.add(result["id"])
            if problems or record is not given or result["category_id"] != record["category_id"]:
                self._change("annotations", position, self._repaired(record, result))
            if result["category_id"] is None:
                result["category_id"] = -1
            mended[position] = result
        return mended

    def _twins(self, records):
        """What tells the annotations of pictures that have a second id."""
        firsts = set(self.same_as.values())
        return {
            _twin(r)
            for r in (records if firsts else ())
            if isinstance(r, dict) and whole(r.get("image_id")) and r["image_id"] in firsts
        }

    def _repaired(self, record, result):
        """An annotation of the repaired file: the fields of ``record``, as ``mend`` has them.

        A region of no class is noted under the first; None where there is no class at all.
        """
        size = self.images[result["image_id"]]
        changed = {k: result[k] for k in ("id", "image_id", "category_id", "bbox", "iscrowd")}
        outline = result["segmentation"]
        if result["ignored"]:
            x, y, width, height = result["bbox"]
            outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            if changed["category_id"] is None:
                if not self.categories:
                    return None
                changed["category_id"] = min(self.categories)
        packed = Objects.pack([{**result, "category_id": 0, "segmentation": outline}])[0]
        rle = packed.rle(0, (size.height, size.width))
        area = result.get("area", float(mask_utils.area(rle)) if rle else 0.0)
        return {**record, **changed, "segmentation": outline or [], "area": area}

    # What is said

    def _class_counts(self):
        o = self.objects
        for category_id, name in sorted(self.categories.items()):
            of_class = o.category_ids == category_id
            single = of_class & ~o.iscrowd
            size = o.pixels[single]
            yield ClassCount(
                name,
                int(np.count_nonzero(single)),
                len(np.unique(o.image_ids[single])),
                int(np.count_nonzero(size < 32**2)),
                int(np.count_nonzero((size >= 32**2) & (size < 96**2))),
                int(np.count_nonzero(size >= 96**2)),
                int(np.count_nonzero(of_class & o.iscrowd)),
            )

    def _note_objects(self):
        o, add = self.objects, self.notes.append
        bare = int(np.count_nonzero((o.forms == BOX) & ~o.iscrowd))
        if bare and self.has_masks:
            add(
                f"{bare} of {len(o)} objects have a box and no outline: they take part in the "
                "training, but not in that of the masks"
            )
        if self.ignored:
            add(f"{self.ignored} objects cannot be used: their places take no part in training")
        empty = len(self.images) - len(np.unique(o.image_ids))
        if empty and len(o):
            add(f"{empty} images have no objects: they are taken to show none")
        bare_classes = [c.name for c in self._class_counts() if not c.objects]
        if bare_classes and len(o):
            shown = ", ".join(map(show, bare_classes[:5]))
            more = f" and {len(bare_classes) - 5} more" if len(bare_classes) > 5 else ""
            add(f"no object is of {shown}{more}: nothing can be learned or measured of it")


@dataclass
class _Part:
    """Some packed annotations, with their positions in the file: rows, int64 [N]."""

    objects: Objects
    shapes: Shapes
    rows: np.ndarray

    def leave(self, which):
        """Leaves out ``which`` (bool [N]); returns their positions in the file."""
        left = self.rows[which].tolist()
        self.objects, self.rows = self.objects.take(~which), self.rows[~which]
        return left


def _sort_out(records, others):
    """(positions of annotations of the usual form, of all others, how many are of ``others``)."""
    regular, odd, left = [], [], 0
    for position, record in enumerate(records):
        if type(record) is not dict:
            odd.append(position)
            continue
        get = record.get
        image_id, box, outline = get("image_id"), get("bbox"), get("segmentation")
        if others and whole(image_id) and image_id in others:
            left += 1
        elif (
            type(image_id) is int
            and type(get("id")) is int
            and type(get("category_id")) is int
            and type(box) is list
            and len(box) == 4
            and get("iscrowd", 0) in (0, 1)
            and (
                all([type(p) is list and len(p) > 5 and not len(p) & 1 for p in outline])
                if type(outline) is list and outline != [[]]
                else read_rle(outline, None)[1] is None
                if type(outline) is dict
                else not outline or outline == [[]]
            )
        ):
            regular.append(position)
        else:
            odd.append(position)
    return regular, odd, left


def _all_numbers(records):
    """Whether ids, boxes and polygons of ``records`` of the usual form are numbers that pack."""
    outlines = [r.get("segmentation") for r in records]
    polygons = [p for o in outlines if type(o) is list for p in o]
    boxes = [r["bbox"] for r in records]
    if not set(map(type, chain.from_iterable(polygons + boxes))) <= {int, float}:
        return False
    try:
        for name in ("id", "image_id", "category_id"):
            np.fromiter((r[name] for r in records), np.int64, len(records))
        for lists in (polygons, boxes):
            np.fromiter(chain.from_iterable(lists), np.float64)
    except OverflowError:
        return False
    return True


def _within(box, wide, high):
    """Whether each box [N, 4] is in its picture, as far as a box has to be."""
    return (
        (box[:, :2] >= -TOLERANCE).all(1)
        & (box[:, 2] <= wide + TOLERANCE)
        & (box[:, 3] <= high + TOLERANCE)
        & (box[:, 2:] > 0).all(1)
        & (box[:, 0] < wide)
        & (box[:, 1] < high)
    )


def _near(a, b):
    """``agree`` for boxes [N, 4] of two corners: bool [N]."""
    shared = np.maximum(np.minimum(a, b)[:, 2:] - np.maximum(a, b)[:, :2], 0).prod(1)
    areas = sum((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    return (shared >= AGREE_IOU * (areas - shared)) | (np.abs(a - b).max(1) <= AGREE_PIXELS)


def _twin(record):
    return json.dumps([record.get("category_id"), record.get("bbox")], default=str)


def _owners(records):
    """{(image id, box): ids of annotations} of records whose boxes can be those of others."""
    owners = defaultdict(list)
    for r in records:
        if isinstance(r, dict) and is_box(r.get("bbox")) and whole(r.get("image_id")):
            owners[r["image_id"], tuple(r["bbox"])].append(r.get("id"))
    return owners


def _with_owner(problem, record, owners):
    """The problem of a box that disagrees with its outline; tells whose box it is too."""
    others = [i for i in owners[record["image_id"], tuple(record["bbox"])] if i != record.get("id")]
    if problem.kind != "box and outline disagree" or not others:
        return problem
    return replace(problem, found=f"{problem.found}, which is that of annotation {show(others[0])}")


def _new_ids(records):
    ids = [r["id"] for r in records if isinstance(r, dict) and whole(r.get("id"))]
    return count(max(ids, default=0) + 1)


def name_of(word, plural, record, position):
    """How a record is named to people: by its id, or by its place in the file."""
    has_id = isinstance(record, dict) and whole(record.get("id"))
    return f"{word} {show(record['id'])}" if has_id else f"{plural}[{position}]"


def _wrong_size(size, header):
    found = f"{header.width} x {header.height}"
    if header.orientation != 1:
        found += f", EXIF orientation {header.orientation}"
    return Problem("image size", found, f"{size[1]} x {size[0]}")


@contextmanager
def no_garbage_collection():
    """Millions of new objects, none of them in a cycle: to look for one takes half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
