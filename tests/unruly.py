"""A set as people have them: sound in the main, and unruly in every way that a tool allows."""

import json
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {17: (230, 30, 30), 90: (30, 30, 230), 5: (30, 180, 30)}
NAMES = {17: "Äpfel", 90: "Birnen", 5: "Nüsse"}  # in the order of the file; labels are 5, 17, 90
SIZE = (96, 80)  # width, height
BACK = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@dataclass
class Unruly:
    """annotations, images: the file and the folder. objects: {image id: [(category id, box)]},
    what is to be seen in each picture, x, y, width, height, in the pixels of its annotations."""

    annotations: Path
    images: Path
    objects: dict[int, list]


def write_unruly(folder):
    """Writes the set to ``folder``; returns an ``Unruly``.

    Of its 12 pictures, 17 is turned and annotated upright, 90 is turned and annotated as stored,
    101 stands on its head and has to be read with exif="apply"; 102 mixes boxes and polygons, 103
    has a crowd, the outline of 104 is over the border, 105 is a symbolic link, 106 shows nothing,
    107 is named in another Unicode form than its file. 5 and 108 to 110 are as they should be.
    """
    images = folder / "Bilder"
    images.mkdir(parents=True)
    (folder / "store").mkdir()
    records, annotations, objects = [], [], {}
    for image_id in (5, 17, 90, *range(101, 111)):
        name = f"Foto {image_id} süß.{'jpg' if image_id in (17, 90, 101) else 'png'}"
        seen = [] if image_id == 106 else _place(image_id)
        stored = shown = Image.fromarray(_draw(image_id, seen))
        exif = Image.Exif()
        if image_id in (17, 90, 101):
            exif[0x0112] = {17: 6, 90: 8, 101: 3}[image_id]
            if image_id != 90:  # whose annotations are in the stored pixels
                stored = shown.transpose(BACK[exif[0x0112]])
        options = {"exif": exif, "quality": 95} if name.endswith("jpg") else {}
        stored.save(images / unicodedata.normalize("NFC", name), **options)
        if image_id == 105:
            (images / name).rename(folder / "store" / "105.png")
            os.symlink(Path("..", "store", "105.png"), images / name)
        form = "NFD" if image_id == 107 else "NFC"
        width, height = shown.size
        records.append(
            {
                "id": image_id,
                "file_name": unicodedata.normalize(form, name),
                "width": width,
                "height": height,
            }
        )
        objects[image_id] = seen
        for place, (category_id, box) in enumerate(seen):
            annotations.append(_annotate(len(annotations) + 1, image_id, category_id, box, place))
    categories = [{"id": i, "name": name} for i, name in NAMES.items()]
    file = folder / "Äpfel & Nüsse.json"
    content = {"images": records, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return Unruly(file, images, objects)


def _place(image_id):
    """Three objects side by side, one of each category, the first at the left border."""
    draws = np.random.default_rng(image_id)
    places = []
    for column, category_id in enumerate(COLOURS):
        x = 32 * column + (0 if column == 0 else int(draws.integers(2, 8)))
        y, width, height = (int(draws.integers(a, b)) for a, b in ((4, 40), (16, 23), (16, 33)))
        places.append((category_id, [x, y, width, height]))
    return places


def _draw(image_id, seen):
    noise = np.random.default_rng(image_id).random((SIZE[1], SIZE[0], 1))
    pixels = np.repeat((noise * 40 + 110).astype(np.uint8), 3, axis=2)
    for category_id, (x, y, width, height) in seen:
        pixels[y : y + height, x : x + width] = COLOURS[category_id]
    return pixels


def _annotate(number, image_id, category_id, box, place):
    """An annotation as the tool of the picture wrote it; place: which of its objects it is."""
    x, y, width, height = box
    if image_id == 104 and place == 0:  # over the left border
        x, width = x - 3, width + 3
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    record = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [polygon],
    }
    if image_id == 102 and place < 2:
        record["segmentation"] = [[], [[]]][place]
    if image_id == 103 and place == 1:
        mask = np.zeros(SIZE[::-1], bool)
        mask[y : y + height, x : x + width] = True
        pixels = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(pixels, prepend=False))
        counts = np.diff(np.concatenate([[0], edges, [pixels.size]])).tolist()
        record |= {"iscrowd": 1, "segmentation": {"size": list(mask.shape), "counts": counts}}
    return record
