"""Any set in COCO format: checked once before the training, decodable ever after."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils
from torch.utils.data import Dataset
from torchvision import tv_tensors

from . import pictures
from .inspection import Inspection
from .objects import BOX
from .outlines import show
from .samples import PictureCache, make_sample

ON_DEFECT, EXIF = ("refuse", "drop"), (None, "ignore", "apply")


class CocoDataset(Dataset):
    """A set in COCO format, as samples (see ``samples.py``).

    annotations: the JSON file, or its content as a dict. images: the folder of the pictures.
    image_ids: use and check only these, in this order. transform: called as
    ``transform(image, target)``. cache: keep pictures once read, up to so many megabytes, shared
    by loader processes; True is ``CACHE_MB``. max_edge: shrink a picture and its masks when read,
    so that no edge is longer (pixels); an instance of which nothing is left then is not in the
    sample. masks: False for samples without ``masks``, for who does not look at them; ``boxes``
    are then those of the file.

    on_defect: "refuse" raises ValueError for a set with a defect. "drop" repairs what can be
    repaired, takes the place of a defective object out of the training (as a crowd's is), and
    leaves out what has no place. ``dropped`` is the number of defects, ``report`` lists them, and
    ``dropped_records`` = {"images": ..., "annotations": ...} counts what is not used for them,
    the annotations of a left out image included. exif: "ignore" or "apply" for the pictures of
    which the size does not tell whether their annotations are in the stored or in the upright
    pixels; without it, ValueError for a set that has such.

    map_classes: {name in the file: name to take}; several may be taken as one. classes: the names
    of the classes in the order of their labels; objects of others are left out, and a class that
    the file has not has no objects. Without it, the order is that of the category ids.

    categories: the names, in the order of the labels. category_ids: the file's, or for a name
    that it has not an id that it has not. image_ids, file_names, image_sizes (height, width):
    of the samples. folder: of the pictures. has_masks is False where no annotation of the file
    has a segmentation: then the masks are the filled boxes. mixed: some objects have an outline
    and some have none. objects (see ``Objects``), labels and places: all objects, their labels,
    and which samples they are in. left_out: {name: objects} of the classes not taken. absent: the
    ``categories`` that the file has not.

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
        exif=None,
        classes=None,
        map_classes=None,
        masks=True,
    ):
        if on_defect not in ON_DEFECT:
            raise ValueError(f'on_defect is {on_defect!r}; it must be "refuse" or "drop"')
        if exif not in EXIF:
            raise ValueError(f'exif is {exif!r}; it must be "ignore" or "apply"')
        if max_edge is not None and not max_edge >= 1:
            raise ValueError(f"max_edge is {max_edge!r}; it must be 1 or more pixels, or None")
        only = None if image_ids is None else [int(i) for i in image_ids]
        found = Inspection(annotations, images, only, exif)
        found.data = None  # the parsed file: as large as all that follows together
        self.report = found.report()
        self._refuse(found, on_defect)
        self.folder, self.transform, self.max_edge = images, transform, max_edge
        self.has_masks, self._with_masks = found.has_masks, masks
        self.dropped = len(found.defects)
        self.dropped_records = {k: found.dropped[k] for k in ("images", "annotations")}
        self._pictures = list(found.images.values())
        self.image_ids = [picture.id for picture in self._pictures]
        self.file_names = [picture.name for picture in self._pictures]
        self.image_sizes = [(picture.height, picture.width) for picture in self._pictures]
        self._label(found, classes, map_classes or {})
        self.places = found.places(self.objects.image_ids)  # which sample an object is in
        self._bounds = np.searchsorted(self.places, np.arange(len(self.image_ids) + 1))
        bare = (self.objects.forms == BOX) & ~self.objects.iscrowd
        self.mixed = bool(self.has_masks and bare.any())
        self._cache = PictureCache(len(self.image_ids), cache)

    def _refuse(self, found, on_defect):
        """Raises ValueError for a set that is not to be used as it is."""
        if found.undecided and (on_defect == "drop" or len(found.undecided) == len(found.defects)):
            raise ValueError(
                f"{len(found.undecided)} pictures (image {found.undecided[0]} is the first) have "
                "an EXIF orientation, and their size does not tell whether the annotations are in "
                'the pixels as stored, exif="ignore", or in the upright picture, exif="apply": '
                "choose one"
            )
        if found.defects and on_defect == "refuse":
            raise ValueError(
                f"the set has {len(found.defects)} defects:\n{self.report.table(rows=10)}\n"
                "Repair it, by hand or with data check --fix, or use it with what can be repaired "
                'and without the rest with on_defect="drop".'
            )
        if not found.images or not found.categories:
            raise ValueError(
                f"the set has {len(found.images)} usable images and {len(found.categories)} "
                f"categories; it needs one of each at least.\n{self.report.table(rows=10)}"
            )

    def _label(self, found, classes, map_classes):
        """Sets ``categories``, ``category_ids``, ``objects`` and ``labels`` (int64 [N])."""
        names = {i: map_classes.get(name, name) for i, name in sorted(found.categories.items())}
        unknown = sorted(set(map_classes) - set(found.categories.values()))
        if unknown:
            raise ValueError(
                f"map_classes has {show(unknown[0])}; the file has "
                f"{', '.join(map(show, found.categories.values()))}"
            )
        first_id = {}
        for category_id, name in names.items():
            first_id.setdefault(name, category_id)
        self.categories = list(first_id) if classes is None else list(classes)
        if len(set(self.categories)) < len(self.categories) or not self.categories:
            raise ValueError(f"classes is {self.categories}; it must be names, each of them once")
        if not set(self.categories) & set(first_id):
            raise ValueError(f"classes is {self.categories}; the file has {list(first_id)}")
        self.absent = [name for name in self.categories if name not in first_id]
        free = max(found.categories) + 1
        self.category_ids = [
            first_id.get(name, free + label) for label, name in enumerate(self.categories)
        ]
        # -1, of an object whose class is not known, stays: it is a region, of no class.
        label_of = {i: self.categories.index(n) for i, n in names.items() if n in self.categories}
        label_of[-1] = -1
        ids, place = np.unique(found.objects.category_ids, return_inverse=True)
        labels = np.array([label_of.get(i, -2) for i in ids.tolist()], np.int64)[place]
        self.objects, self.labels = found.objects.take(labels > -2), labels[labels > -2]
        self.left_out = {
            name: int(np.count_nonzero(np.isin(found.objects.category_ids, i)))
            for name, i in first_id.items()
            if name not in self.categories
        }

    def __len__(self):
        return len(self.image_ids)

    def class_counts(self):
        """How many objects of each class the set has, crowds apart: {name: count}."""
        labels = self.labels[~self.objects.iscrowd]
        counts = np.bincount(labels, minlength=len(self.categories)).tolist()
        return dict(zip(self.categories, counts, strict=True))

    def __getitem__(self, index):
        index = range(len(self))[index]
        image_id = self.image_ids[index]
        if not self._with_masks:
            sample = self._without_masks(index)
        else:
            if not (parts := self._cache.get(index)):
                parts = self._load(index)
                self._cache.put(index, *parts)
            image, masks, objects = parts
            columns = objects.T[: 3 if self.mixed else 2]
            labels, iscrowd, *has_mask = columns
            sample = make_sample(image, masks, labels, iscrowd, image_id, *has_mask)
        return self.transform(*sample) if self.transform else sample

    def _rows(self, index):
        """The rows of ``objects`` that are of a sample, and their [N, 3] label, crowd, outline."""
        rows = np.arange(self._bounds[index], self._bounds[index + 1])
        has_mask = self.objects.forms[rows] != BOX
        columns = [self.labels[rows].clip(0), self.objects.iscrowd[rows], has_mask]
        return rows, np.stack(columns, 1).astype(np.int64)

    def _read(self, index):
        """The picture of a sample, uint8 [H, W, 3], and that size shrunk to ``max_edge``."""
        picture = self._pictures[index]
        path = os.path.join(self.folder, picture.name)
        image = pictures.read_image(path, "apply" if picture.turned else "ignore")
        if image.size != (picture.width, picture.height):
            raise ValueError(f"{path} has changed since it was checked; start again")
        longest = max(image.size)
        if not self.max_edge or longest <= self.max_edge:
            return np.asarray(image), image.size
        size = tuple(max(1, round(edge * self.max_edge / longest)) for edge in image.size)
        return np.asarray(image.resize(size, Image.BILINEAR)), image.size

    def _load(self, index):
        """(image, masks, objects) of a sample, shrunk to ``max_edge``."""
        rows, objects = self._rows(index)
        image, full_size = self._read(index)
        masks = np.zeros((len(rows), *image.shape[:2]), bool)
        for mask, row in zip(masks, rows.tolist(), strict=True):
            whole = mask_utils.decode(self.objects.rle(row, full_size[::-1]))
            mask[:] = whole if whole.shape == mask.shape else _shrink(whole, mask.shape)
        if image.shape[:2] != full_size[::-1]:
            left = masks.any(axis=(1, 2))
            masks, objects = masks[left], objects[left]
        return image, masks, objects

    def _without_masks(self, index):
        rows, objects = self._rows(index)
        image, full_size = self._read(index)
        x, y, width, height = self.objects.boxes[rows].T
        size = image.shape[:2]
        boxes = np.stack([x, y, x + width, y + height], 1) * (size[1] / full_size[0])
        boxes = boxes.clip(0, [*size[::-1]] * 2).astype(np.float32)
        no_masks = np.zeros((0, *size), bool)
        tensors, target = make_sample(image, no_masks, *objects.T[:2], self.image_ids[index])
        target["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
        del target["masks"]
        return tensors, target

    def coco_ground_truth(self, masks=True):
        """The annotations as a COCO-format dict for pycocotools, in the pixels of the file.

        Boxes and areas are the file's own; masks are compressed RLE, also where the file has
        polygons, and are not there with ``masks=False``. Where some objects have no outline,
        they have ``has_mask`` False, and as mask the filled box. A place that takes no part has
        ``iscrowd``, and stands once for each class where its own is not known. ``max_edge`` has
        no effect. Annotations are numbered anew from 1: pycocotools takes a match with the
        annotation 0 for no match.
        """
        o, annotations = self.objects, []
        for index, picture in enumerate(self._pictures):
            size = (picture.height, picture.width)
            for row in range(self._bounds[index], self._bounds[index + 1]):
                area = float(o.areas[row])
                rle = o.rle(row, size) if masks or area != area else None
                record = {
                    "image_id": picture.id,
                    "bbox": o.boxes[row].tolist(),
                    "area": area if area == area else int(mask_utils.area(rle)),
                    "iscrowd": int(o.iscrowd[row]),
                }
                if masks:
                    record["segmentation"] = rle
                if self.mixed and o.forms[row] == BOX:
                    record["has_mask"] = False
                label = int(self.labels[row])
                for category_id in self.category_ids if label < 0 else [self.category_ids[label]]:
                    number = {"id": len(annotations) + 1, "category_id": category_id}
                    annotations.append(number | record)
        return {
            "images": [
                {"id": p.id, "file_name": p.name, "height": p.height, "width": p.width}
                for p in self._pictures
            ],
            "annotations": annotations,
            "categories": [
                {"id": i, "name": name}
                for i, name in zip(self.category_ids, self.categories, strict=True)
            ],
        }


def read_image(path, exif="ignore"):
    """The picture in the file ``path`` as uint8 [H, W, 3]; see ``pictures.read_image``."""
    return np.asarray(pictures.read_image(path, exif))


def _shrink(mask, shape):
    """``mask`` uint8 [H, W] of 0 and 1 made smaller: bool of ``shape``."""
    small = Image.fromarray(mask * 255).resize(shape[::-1], Image.BILINEAR)
    return np.asarray(small) >= 128
