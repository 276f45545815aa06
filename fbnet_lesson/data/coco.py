"""Any set in COCO format, checked once before the training and decodable ever after.

``check_dataset`` finds the defects of a set; ``CocoDataset`` runs the same checks when it is
made and refuses the set, or leaves the defective records out and counts them.

Pictures are read as they are stored. An EXIF orientation is not applied: COCO annotations are in
the stored pixels. (A set whose tool annotated the turned picture shows as a wrong image size.)
Greyscale, palette, CMYK and 16-bit pictures become 8-bit RGB; an alpha channel is dropped.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil, floor
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils
from torch.utils.data import Dataset
from tqdm import tqdm

from .samples import Packed, make_sample

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 60
TOLERANCE = 1.0  # pixels by which a box or polygon may pass the border: tools round differently


@dataclass(frozen=True)
class Defect:
    """One thing wrong with a set: of which kind, at which record, what is there, what may be."""

    kind: str
    where: str
    found: str
    allowed: str


@dataclass(frozen=True)
class DatasetReport:
    """All defects of a set, and how many records of each sort were looked at."""

    defects: tuple[Defect, ...]
    images: int
    annotations: int
    categories: int

    @property
    def ok(self):
        return not self.defects

    def counts(self):
        """Defects of each kind, the most frequent first: {kind: count}."""
        return dict(Counter(defect.kind for defect in self.defects).most_common())

    def table(self, rows=50):
        """The first ``rows`` defects as a table in text, then the counts by kind."""
        size = f"{self.images} images, {self.annotations} annotations, {self.categories} categories"
        if self.ok:
            return f"no defects: {size}"
        cells = [("kind", "where", "found", "allowed")]
        cells += [(d.kind, d.where, d.found, d.allowed) for d in self.defects[:rows]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        if len(self.defects) > rows:
            lines.append(f"... and {len(self.defects) - rows} more")
        lines += ["", f"defects: {len(self.defects)} in {size}"]
        lines += [f"{count:>6}  {kind}" for kind, count in self.counts().items()]
        return "\n".join(lines)

    __str__ = table


def check_dataset(annotations, images):
    """Every defect of the set, as a ``DatasetReport``. Never raises for what the set holds.

    annotations: the JSON file, or its content as a dict. images: the folder of the pictures,
    each of which is read and decoded.
    """
    return _Inspection(annotations, images).report()


class CocoDataset(Dataset):
    """A set in COCO format, as samples (see ``samples.py``).

    annotations: the JSON file, or its content as a dict. images: the folder of the pictures.
    image_ids: use and check only these, in this order. transform: called as
    ``transform(image, target)``. cache: keep each picture once read. max_edge: shrink a picture
    and its masks when read, so that no edge is longer (pixels); an instance of which nothing is
    left then is not in the sample. on_defect: "refuse" raises ValueError for a set with a
    defect; "drop" leaves the defective images and annotations out. ``dropped`` is the number of
    defects, ``report`` lists them, and ``dropped_records`` = {"images": ..., "annotations": ...}
    counts what is left out for them, the annotations of a left out image included.

    A label is the index of a category among the categories in the order of their ids. Where no
    annotation of the file has a segmentation, ``has_masks`` is False and the masks are the
    filled boxes.

    Raises ValueError where nothing is left to train on, for an unknown image id, and for an
    argument that cannot be.
    """

    def __init__(
        self,
        annotations,
        images,
        image_ids=None,
        transform=None,
        cache=False,
        max_edge=None,
        on_defect="refuse",
    ):
        if on_defect not in ("refuse", "drop"):
            raise ValueError(f'on_defect is {on_defect!r}; it must be "refuse" or "drop"')
        if max_edge is not None and not max_edge >= 1:
            raise ValueError(f"max_edge is {max_edge!r}; it must be 1 or more pixels, or None")
        only = None if image_ids is None else [int(i) for i in image_ids]
        found = _Inspection(annotations, images, only)
        self.report = found.report()
        if found.defects and on_defect == "refuse":
            raise ValueError(
                f"the set has {len(found.defects)} defects:\n{self.report.table(rows=10)}\n"
                'Repair it, or leave the defective records out with on_defect="drop".'
            )
        if not found.images or not found.categories:
            raise ValueError(
                f"the set has {len(found.images)} usable images and {len(found.categories)} "
                f"categories; it needs one of each at least.\n{self.report.table(rows=10)}"
            )
        self.transform, self.max_edge, self.has_masks = transform, max_edge, found.has_masks
        self.dropped = len(found.defects)
        self.dropped_records = {
            "images": found.looked_at["images"] - len(found.images),
            "annotations": found.looked_at["annotations"] - len(found.annotations),
        }
        self.category_ids = sorted(found.categories)
        self.categories = [found.categories[i] for i in self.category_ids]
        self._images = found.images
        self.image_ids = list(self._images)
        self.image_sizes = [(r["height"], r["width"]) for r in self._images.values()]
        self._annotations = {i: [] for i in self.image_ids}
        for annotation in found.annotations:
            self._annotations[annotation["image_id"]].append(annotation)
        self._cache = {} if cache else None

    def __len__(self):
        return len(self.image_ids)

    def __getitem__(self, index):
        image_id = self.image_ids[index]
        if self._cache is None:
            parts = self._load(image_id)
        else:
            if image_id not in self._cache:
                self._cache[image_id] = Packed.pack(*self._load(image_id))
            parts = self._cache[image_id].unpack()
        sample = make_sample(*parts, image_id)
        return self.transform(*sample) if self.transform else sample

    def _load(self, image_id):
        """The picture, masks, labels and crowd marks of an image, shrunk to ``max_edge``."""
        record, annotations = self._images[image_id], self._annotations[image_id]
        image = read_image(record["path"])
        masks = np.zeros((len(annotations), *image.shape[:2]), bool)
        for mask, annotation in zip(masks, annotations, strict=True):
            mask[:] = mask_utils.decode(annotation["segmentation"])
        labels = np.array(
            [self.category_ids.index(a["category_id"]) for a in annotations], np.int64
        )
        iscrowd = np.array([a["iscrowd"] for a in annotations], bool)
        if self.max_edge and max(image.shape[:2]) > self.max_edge:
            image, masks = _shrink(image, masks, self.max_edge)
            left = masks.any(axis=(1, 2))
            masks, labels, iscrowd = masks[left], labels[left], iscrowd[left]
        return image, masks, labels, iscrowd

    def coco_ground_truth(self):
        """The annotations as a COCO-format dict for pycocotools, in the pixels of the file.

        Boxes and areas are the file's own; masks are compressed RLE, also where the file has
        polygons. ``max_edge`` has no effect on it. Annotations are numbered anew from 1:
        pycocotools takes a match with the annotation 0 for no match.
        """
        annotations = [a for group in self._annotations.values() for a in group]
        return {
            "images": [
                {key: record[key] for key in ("id", "file_name", "height", "width")}
                for record in self._images.values()
            ],
            "annotations": [{**a, "id": i} for i, a in enumerate(annotations, start=1)],
            "categories": [
                {"id": i, "name": name}
                for i, name in zip(self.category_ids, self.categories, strict=True)
            ],
        }


def read_image(path):
    """The picture in the file ``path`` as stored, EXIF orientation not applied: uint8 [H, W, 3].

    Raises what Pillow raises for a file that is broken or of none of ``FORMATS``.
    """
    with Image.open(path, formats=FORMATS) as image:
        if image.mode.startswith("I"):  # 16 bits, of which Pillow's convert would clip the upper
            grey = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        elif image.mode == "F":
            grey = np.nan_to_num(np.clip(np.asarray(image), 0, 255)).astype(np.uint8)
        else:
            return np.asarray(image.convert("RGB"))
    return np.repeat(grey[:, :, None], 3, axis=2)


def _shrink(image, masks, max_edge):
    """``image`` [H, W, 3] and ``masks`` [N, H, W] made smaller, the longer edge ``max_edge``."""
    height, width = image.shape[:2]
    scale = max_edge / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [
        np.asarray(Image.fromarray(mask.view(np.uint8) * 255).resize(size, Image.BILINEAR)) >= 128
        for mask in masks
    ]
    image = np.asarray(Image.fromarray(image).resize(size, Image.BILINEAR))
    return image, np.array(small, bool).reshape(len(masks), size[1], size[0])


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value):
    """Whether ``value`` is a finite number of a size that a picture's coordinate can have."""
    return (_whole(value) or isinstance(value, float)) and -1e9 < value < 1e9


def _show(value):
    """``value`` in at most 60 characters that print, whatever it is."""
    try:
        text = SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "too long to print"
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass
class _Inspection:
    """Looks at a set and keeps the defects and, apart, the records that have none.

    images: {id: record with the ``path`` of its file}. annotations: records in a common form,
    masks as compressed RLE. categories: {id: name}.
    """

    source: object
    folder: object
    only: object = None
    defects: list = field(default_factory=list)
    images: dict = field(default_factory=dict)
    annotations: list = field(default_factory=list)
    categories: dict = field(default_factory=dict)
    has_masks: bool = True
    looked_at: Counter = field(default_factory=Counter)

    def __post_init__(self):
        data = self._read_source()
        if data is None:
            return
        self._inspect_categories(data["categories"])
        known = self._inspect_images(data["images"])
        self._inspect_annotations(data["annotations"], known)

    def report(self):
        counted = (self.looked_at[name] for name in ("images", "annotations", "categories"))
        return DatasetReport(tuple(self.defects), *counted)

    def _add(self, kind, where, found, allowed):
        self.defects.append(Defect(kind, where, found, allowed))

    def _read_source(self):
        """The content of the annotation file, or None where nothing can be done with it."""
        data, before = self.source, len(self.defects)
        if not isinstance(data, dict):
            try:
                data = json.loads(Path(self.source).read_text(encoding="utf-8-sig"))
            except (OSError, ValueError, RecursionError) as error:
                where, reason = _show(str(self.source)), _show(f"{type(error).__name__}: {error}")
                self._add("unreadable annotations", where, reason, "a file of JSON")
                return None
        if not isinstance(data, dict):
            found = f"a {type(data).__name__}"
            self._add("unreadable annotations", "the whole file", found, "an object")
            return None
        for name in ("images", "annotations", "categories"):
            if name not in data:
                self._add("missing field", "the whole file", f"no {name}", "a list")
            elif not isinstance(data[name], list):
                self._add("wrong value", name, _show(data[name]), "a list")
        if not Path(self.folder).is_dir():
            self._add("missing image folder", "images", _show(str(self.folder)), "a folder")
        return data if len(self.defects) == before else None

    def _fields(self, record, where, fields):
        """Whether ``record`` is an object with all ``fields``: {name: (test, what is allowed)}."""
        if not isinstance(record, dict):
            self._add("wrong value", where, _show(record), "an object")
            return False
        before = len(self.defects)
        for name, (test, allowed) in fields.items():
            if name not in record:
                self._add("missing field", where, f"no {name}", allowed)
            elif not test(record[name]):
                self._add("wrong value", where, f"{name} {_show(record[name])}", allowed)
        return len(self.defects) == before

    def _inspect_categories(self, records):
        self.looked_at["categories"] = len(records)
        for position, record in enumerate(records):
            where = _name_of("category", "categories", record, position)
            text = (lambda v: isinstance(v, str) and v != "", "a text")
            if self._fields(record, where, {"id": (_whole, "a whole number"), "name": text}):
                if record["id"] in self.categories:
                    self._add("duplicate category id", where, _show(record["name"]), "an id once")
                else:
                    self.categories[record["id"]] = record["name"]

    def _inspect_images(self, records):
        """Fills ``images``; returns the ids of all images of the file, sound or not."""
        edge = (lambda v: _whole(v) and v > 0, "a whole number of pixels")
        name = (lambda v: isinstance(v, str) and v != "", "a file name")
        fields = {"id": (_whole, "a whole number"), "file_name": name}
        fields |= {"width": edge, "height": edge}
        known = {r["id"] for r in records if isinstance(r, dict) and _whole(r.get("id"))}
        wanted = self._wanted(known)
        seen, sound = set(), {}
        for position, record in enumerate(records):
            image_id = record.get("id") if isinstance(record, dict) else None
            if self.only is not None and not (_whole(image_id) and image_id in wanted):
                continue
            self.looked_at["images"] += 1
            where = _name_of("image", "images", record, position)
            complete = self._fields(record, where, fields)
            if _whole(image_id) and image_id in seen:
                self._add("duplicate image id", where, _show(record.get("file_name")), "an id once")
            elif complete and (path := self._path_of(record["file_name"], where)):
                sound[image_id] = {**record, "path": path}
            seen.add(image_id if _whole(image_id) else None)
        if self.only is not None:
            sound = {i: sound[i] for i in wanted if i in sound}
        self._probe_images(sound)
        return known

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

    def _path_of(self, name, where):
        """The file of an image, or None where it is not a file inside the image folder."""
        folder = Path(self.folder).resolve()
        try:
            path = (folder / name).resolve()
            inside = path.is_relative_to(folder) and not Path(name).is_absolute()
            is_file, exists = path.is_file(), path.exists()
        except (OSError, ValueError, RuntimeError):  # too long, NUL inside, a loop of links
            inside, is_file, exists = True, False, False
        if not inside:
            allowed = "a relative path that stays inside"
            self._add("path leaves the image folder", where, _show(name), allowed)
        elif not exists:
            self._add("missing image", where, _show(name), "a file in the image folder")
        elif not is_file:
            self._add("unreadable image", where, _show(name), "a file")
        return path if inside and is_file else None

    def _probe_images(self, records):
        """Decodes every picture, on all cores; keeps the records whose picture is sound."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            problems = pool.map(_probe, records.values())
            bar = tqdm(problems, total=len(records), desc="checking images", delay=2, leave=False)
            for (image_id, record), problem in zip(records.items(), bar, strict=True):
                if problem:
                    kind, found, allowed = problem
                    self._add(kind, f"image {_show(image_id)}", found, allowed)
                else:
                    self.images[image_id] = record

    def _inspect_annotations(self, records, known):
        seen, others = set(), known - set(known if self.only is None else self.only)
        self.has_masks = not records or any(
            isinstance(r, dict) and r.get("segmentation") for r in records
        )
        for position, record in enumerate(records):
            image_id = record.get("image_id") if isinstance(record, dict) else None
            if _whole(image_id) and image_id in others:
                continue
            self.looked_at["annotations"] += 1
            where = _name_of("annotation", "annotations", record, position)
            before = len(self.defects)
            rle = self._inspect_annotation(record, where, known)
            if isinstance(record, dict) and _whole(record.get("id")):
                if record["id"] in seen:
                    self._add("duplicate annotation id", where, _show(record["id"]), "an id once")
                seen.add(record["id"])
            if rle and len(self.defects) == before:
                self.annotations.append(_common_form(record, rle))

    def _inspect_annotation(self, record, where, known):
        """Adds the defects of an annotation; returns its mask as RLE where it can have one."""
        box = (
            lambda v: isinstance(v, list) and len(v) == 4 and all(map(_number, v)),
            "[x, y, width, height], finite",
        )
        whole = (_whole, "a whole number")
        fields = {"id": whole, "image_id": whole, "category_id": whole, "bbox": box}
        if isinstance(record, dict) and "iscrowd" in record:
            fields["iscrowd"] = (lambda v: isinstance(v, int) and v in (0, 1), "0 or 1")
        complete = self._fields(record, where, fields)
        if not isinstance(record, dict):
            return None
        image_id, category_id = record.get("image_id"), record.get("category_id")
        if _whole(image_id) and image_id not in known:
            self._add("unknown image", where, f"image {_show(image_id)}", "an image of the file")
        if _whole(category_id) and category_id not in self.categories:
            allowed = f"one of {_show(sorted(self.categories))}"
            self._add("unknown category", where, f"category {_show(category_id)}", allowed)
        image = self.images.get(image_id) if _whole(image_id) else None
        size = (image["height"], image["width"]) if image else None
        if "bbox" in record and box[0](record["bbox"]):
            self._add_all(where, _box_problems(record["bbox"], size))
        if not self.has_masks:
            return self._filled_box(record["bbox"], size, where) if complete and size else None
        rle, problems = _read_segmentation(record.get("segmentation"), size)
        self._add_all(where, problems)
        return rle

    def _filled_box(self, box, size, where):
        rle = _box_rle(box, size)
        if not rle:
            self._add("zero-area mask", where, f"box {_show(box)}", "at least one pixel")
        return rle

    def _add_all(self, where, problems):
        for kind, found, allowed in problems:
            self._add(kind, where, found, allowed)


def _name_of(word, plural, record, position):
    has_id = isinstance(record, dict) and _whole(record.get("id"))
    return f"{word} {_show(record['id'])}" if has_id else f"{plural}[{position}]"


def _probe(record):
    """Why the picture of an image record cannot be used: (kind, found, allowed), or None."""
    try:
        height, width = read_image(record["path"]).shape[:2]
    except Exception as error:  # Pillow raises errors of many classes for a broken file
        found = _show(f"{record['file_name']}: {type(error).__name__}: {error}")
        return "unreadable image", found, "a whole file: " + ", ".join(FORMATS)
    if (height, width) == (record["height"], record["width"]):
        return None
    found = f"{width} x {height}"
    if (height, width) == (record["width"], record["height"]):
        found += ", stored turned (EXIF orientation is not applied)"
    return "image size", found, f"{_show(record['width'])} x {_show(record['height'])}"


def _box_problems(box, size):
    """What is wrong with ``box`` (x, y, width, height) in a picture of ``size``, if known."""
    x, y, width, height = box
    shown = "[" + ", ".join(f"{v:.6g}" for v in box) + "]"
    if width <= 0 or height <= 0:
        yield "zero-area box", shown, "a width and height above 0"
    elif size and (
        min(x, y) < -TOLERANCE
        or x + width > size[1] + TOLERANCE
        or y + height > size[0] + TOLERANCE
        or min(x + width, y + height) <= 0
        or x >= size[1]
        or y >= size[0]
    ):
        yield "box outside the image", shown, f"within {size[1]} x {size[0]}"


def _box_rle(box, size):
    """The pixels that ``box`` (x, y, width, height) touches, as compressed RLE, or None."""
    (x, y, width, height), (rows, columns) = box, size
    left, top = max(floor(x), 0), max(floor(y), 0)
    wide, high = min(ceil(x + width), columns) - left, min(ceil(y + height), rows) - top
    if wide <= 0 or high <= 0:
        return None
    counts = [left * rows + top, high] + [rows - high, high] * (wide - 1)
    return _compress([*counts, rows * columns - sum(counts)], size)


def _compress(counts, size):
    rle = mask_utils.frPyObjects({"size": list(size), "counts": counts}, *size)
    return {"size": list(size), "counts": rle["counts"].decode("ascii")}


def _read_segmentation(segmentation, size):
    """(compressed RLE or None, problems) of a segmentation in a picture of ``size``, if known."""
    if not segmentation:
        return None, [("no segmentation", _show(segmentation), "polygons or RLE")]
    if isinstance(segmentation, list):
        problems = [p for polygon in segmentation for p in _polygon_problems(polygon, size)]
        if problems or not size:
            return None, problems
        rle = mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))
        rle = {"size": list(size), "counts": rle["counts"].decode("ascii")}
    elif isinstance(segmentation, dict):
        counts, problem = _read_counts(segmentation, size)
        if problem or not size:
            return None, [("broken RLE", *problem)] if problem else []
        rle = _compress(counts, size)
    else:
        return None, [("wrong value", f"segmentation {_show(segmentation)}", "polygons or RLE")]
    if mask_utils.area(rle) == 0:
        return None, [("zero-area mask", _show(segmentation), "at least one pixel")]
    return rle, []


def _polygon_problems(polygon, size):
    if not isinstance(polygon, list) or not all(map(_number, polygon)):
        yield "broken polygon", _show(polygon), "a list of finite numbers"
    elif len(polygon) % 2 or len(polygon) < 6:
        yield "broken polygon", f"{len(polygon)} numbers", "x, y of 3 or more points"
    elif size:
        x, y = polygon[0::2], polygon[1::2]
        low, right, bottom = min(*x, *y), max(x), max(y)
        if low < -TOLERANCE or right > size[1] + TOLERANCE or bottom > size[0] + TOLERANCE:
            found = f"x {min(x):.6g} .. {right:.6g}, y {min(y):.6g} .. {bottom:.6g}"
            yield "polygon outside the image", found, f"within {size[1]} x {size[0]}"


def _read_counts(rle, size):
    """(counts, None), or (None, (found, allowed)) where the RLE does not fit its picture.

    Nothing that did not pass here reaches pycocotools, whose C code trusts its input.
    """
    shape, counts = rle.get("size"), rle.get("counts")
    if not isinstance(shape, list) or len(shape) != 2 or not all(map(_whole, shape)):
        return None, (f"size {_show(shape)}", "[height, width]")
    if size and tuple(shape) != size:
        return None, (f"size {_show(shape)}", f"{list(size)}, as the image")
    if isinstance(counts, str | bytes):
        counts = _counts_from_text(counts)
        if counts is None:
            return None, (f"counts {_show(rle['counts'])}", "COCO's compressed form")
    if not isinstance(counts, list) or not all(_whole(c) and c >= 0 for c in counts):
        return None, (f"counts {_show(counts)}", "whole numbers, 0 or more")
    if sum(counts) != shape[0] * shape[1]:
        return None, (f"{_show(sum(counts))} pixels", f"{_show(shape[0] * shape[1])}, its size")
    return counts, None


def _counts_from_text(text):
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


def _common_form(record, rle):
    area = record.get("area")
    return {
        "id": record["id"],
        "image_id": record["image_id"],
        "category_id": record["category_id"],
        "bbox": [float(v) for v in record["bbox"]],
        "area": area if _number(area) and area > 0 else int(mask_utils.area(rle)),
        "iscrowd": int(record.get("iscrowd", 0)),
        "segmentation": rle,
    }
