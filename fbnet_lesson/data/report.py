"""What a check of a data set found, and how it is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

ADVICE = {  # by kind of defect: what to do about it
    "unreadable annotations": "give a file of JSON in COCO format",
    "missing image folder": "give the folder that holds the pictures with --images",
    "missing field": "export the set anew, or add the field",
    "wrong value": "correct the value in the file",
    "duplicate category id": "give each category an id of its own",
    "duplicate category name": "merge the two categories, or rename one",
    "duplicate image id": "give each image an id of its own",
    "duplicate annotation id": "give each annotation an id of its own",
    "picture under two ids": "keep one record for each picture, with all its annotations",
    "same picture twice": "take the copies out, or keep all of them in one of training and "
    "evaluation",
    "missing image": "put the picture into the folder, or correct file_name",
    "path leaves the image folder": "give as --images the folder that holds all the pictures",
    "unreadable image": "replace the picture with a whole one, or take it out of the file",
    "image size": "correct width and height in the file: annotations are in their pixels",
    "EXIF undecided": "choose --exif ignore if the annotations are in the pixels as stored, "
    "--exif apply if in the upright picture",
    "unknown image": "add the image to the file, or take the annotation out",
    "unknown category": "add the category to the file, or correct category_id",
    "zero-area box": "give the box a width and a height",
    "zero-area mask": "draw the outline anew",
    "box outside the image": "cut the box to the picture; check that it is [x, y, width, height]",
    "box of two corners": "write [x, y, width, height] instead of [x1, y1, x2, y2]",
    "coordinates from 0 to 1": "multiply them by the width and height of the picture",
    "box and outline disagree": "see which of the two is the object's, and correct the other",
    "broken polygon": "take the broken part out, or draw the outline anew",
    "polygon outside the image": "cut the outline to the picture",
    "broken RLE": "export the mask anew, in the size of the picture",
}


@dataclass(frozen=True)
class Defect:
    """One thing wrong with a set: of which kind, at which record, what is there, what may be.

    repair: what is done about it where the set is repaired; "" means that the record is left out,
    and the place of an object with it.
    """

    kind: str
    where: str
    found: str
    allowed: str
    repair: str = ""


@dataclass(frozen=True)
class ClassCount:
    """How many sound objects of a class a set has: in all, by size in pixels, and crowds.

    small is below 32 x 32 pixels, large from 96 x 96 on, as COCO counts them. ``images`` have one
    or more of them. Crowds are in none of the other numbers.
    """

    name: str
    objects: int
    images: int
    small: int
    medium: int
    large: int
    crowds: int


@dataclass(frozen=True)
class DatasetReport:
    """All defects of a set, how many records of each sort were looked at, and what else to know.

    notes: sentences about what is no defect and yet matters. classes: a ``ClassCount`` each.
    """

    defects: tuple[Defect, ...]
    images: int
    annotations: int
    categories: int
    notes: tuple[str, ...] = ()
    classes: tuple[ClassCount, ...] = ()

    @property
    def ok(self):
        return not self.defects

    def counts(self):
        """Defects of each kind, the most frequent first: {kind: count}."""
        return dict(Counter(defect.kind for defect in self.defects).most_common())

    def table(self, rows=50):
        """The first ``rows`` defects as a table in text, then the counts by kind with advice."""
        size = f"{self.images} images, {self.annotations} annotations, {self.categories} categories"
        if self.ok:
            return f"no defects: {size}"
        cells = [("kind", "where", "found", "allowed", "repair")]
        cells += [
            (d.kind, d.where, d.found, d.allowed, d.repair or "left out")
            for d in self.defects[:rows]
        ]
        lines = _aligned(cells)
        if len(self.defects) > rows:
            lines.append(f"... and {len(self.defects) - rows} more")
        lines += ["", f"defects: {len(self.defects)} in {size}"]
        lines += [f"{count:>6}  {kind}: {ADVICE[kind]}" for kind, count in self.counts().items()]
        return "\n".join(lines)

    __str__ = table

    def class_table(self):
        """The sound objects of each class and their sizes, as a table in text."""
        head = ("class", "objects", "images", "< 32 px", "32-96 px", "> 96 px", "crowds")
        cells = [head] + [
            (c.name, *map(str, (c.objects, c.images, c.small, c.medium, c.large, c.crowds)))
            for c in self.classes
        ]
        return "\n".join(_aligned(cells))


def _aligned(cells):
    """Rows of texts in columns, with a line under the first."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines
