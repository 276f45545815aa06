"""A small sound set in COCO format, and the ways in which sets are broken, each with what is said.

``BROKEN`` has for each: what is done to the set, where the defect is, and what is told of it:
kind, what was found, and what the repair does ("left out" where the record goes).
"""

import copy
import os
import unicodedata

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

WIDTH, HEIGHT = 40, 30
INF = float("inf")


def polygon(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(annotation_id, image_id=1, category_id=7, box=(5, 6, 10, 8), **fields):
    record = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box),
        "area": box[2] * box[3],
        "iscrowd": 0,
        "segmentation": polygon(*box),
    }
    return record | fields


def crowd_rle(**fields):
    """Columns 20 to 29 of a picture of 40 x 30, uncompressed."""
    return {
        "size": [HEIGHT, WIDTH],
        "counts": [20 * HEIGHT, 10 * HEIGHT, 10 * HEIGHT],
    } | fields


def sound_set():
    compressed = mask_utils.encode(np.asfortranarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)))
    compressed["counts"] = compressed["counts"].decode()
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)
        ],
        "annotations": [
            annotation(1),
            annotation(2, category_id=3, box=(0, 0, WIDTH, HEIGHT)),
            annotation(3, box=(20, 0, 10, 30), iscrowd=1, segmentation=crowd_rle()),
            annotation(4, image_id=2, box=(0, 0, 30, 30), segmentation=compressed),
        ],
        "categories": [{"id": 7, "name": "fig"}, {"id": 3, "name": "date"}],
    }


def write_pictures(folder):
    """The pictures of ``sound_set``."""
    folder.mkdir(exist_ok=True)
    for i in (1, 2, 3):
        Image.new("RGB", (WIDTH, HEIGHT), (i, 2 * i, 3 * i)).save(folder / f"{i}.png")
    return folder


def write_rough_pictures(folder):
    """The same, with files beside them that are no pictures, or broken ones."""
    write_pictures(folder)
    (folder.parent / "outside.png").write_bytes((folder / "3.png").read_bytes())
    (folder / "out.png").symlink_to(folder.parent / "outside.png")
    (folder / "nowhere.png").symlink_to("../store/3.png")
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").touch()
    (folder / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid 1\n")
    (folder / "page.jpg").write_text("<!DOCTYPE html><title>404</title>")
    (folder / "folder").mkdir()
    (folder / "sub").mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    name = unicodedata.normalize("NFC", "müll.png")
    noise.save(folder / name)
    noise.rotate(180).save(folder / "sub" / "4.png")
    noise.save(folder / "short.png")
    noise.save(folder / "short.jpg", quality=95)
    for short in (folder / "short.png", folder / "short.jpg"):
        os.truncate(short, short.stat().st_size // 2)
    return folder


def change(section, position, **fields):
    def apply(data):
        data[section][position].update(fields)

    return apply


def without(section, position, name):
    def apply(data):
        del data[section][position][name]

    return apply


def repeat(section, position, **fields):
    def apply(data):
        data[section].append(copy.deepcopy(data[section][position]) | fields)

    return apply


def picture(name, **fields):
    return change("images", 2, file_name=name, **fields)


def outline(segmentation, position=0):
    return change("annotations", position, segmentation=segmentation)


def box(*values):
    return change("annotations", 0, bbox=list(values))


def both(bbox, segmentation):
    return change("annotations", 0, bbox=bbox, segmentation=segmentation)


def mask(**fields):
    return outline(crowd_rle(**fields), 2)


NFD = unicodedata.normalize("NFD", "müll.png")
BROKEN = {
    # pictures
    "image of no file": picture("gone.png"),
    "link to nowhere": picture("nowhere.png"),
    "file that is no picture": picture("text.png"),
    "empty file": picture("empty.png"),
    "Git LFS pointer": picture("pointer.png"),
    "web page": picture("page.jpg"),
    "PNG cut short": picture("short.png"),
    "JPEG cut short": picture("short.jpg"),
    "folder as picture": picture("folder"),
    "NUL in a file name": picture("a\0b"),
    "lone surrogate in a name": picture("\ud800"),
    "endless file name": picture("x" * 5000),
    "path upwards": picture("../outside.png"),
    "path of another machine": picture("/home/me/3.png"),
    "path of another system": picture("C:\\data\\3.png"),
    "backslashes": picture("sub\\4.png"),
    "folder named twice": picture("images/3.png"),
    "other Unicode form": picture(NFD),
    "other case": picture("3.PNG"),
    "picture under two ids": repeat("images", 2, id=9),
    # images
    "other width": change("images", 2, width=41),
    "width and height swapped": change("images", 2, width=30, height=40),
    "width as text": change("images", 2, width="40"),
    "no width": without("images", 2, "width"),
    "no image id": without("images", 2, "id"),
    "number as file name": picture(3),
    "empty file name": picture(""),
    "image twice": repeat("images", 2),
    # categories
    "category twice": repeat("categories", 0),
    "category name twice": repeat("categories", 0, id=8),
    "category of no name": without("categories", 1, "name"),
    # annotations
    "annotation twice": repeat("annotations", 3),
    "no annotation id": without("annotations", 0, "id"),
    "category unknown": change("annotations", 0, category_id=8),
    "image unknown": change("annotations", 0, image_id=8),
    "image id a list": change("annotations", 0, image_id=[1]),
    "image id true": change("annotations", 0, image_id=True),
    "crowd of two": change("annotations", 0, iscrowd=2),
    # boxes
    "no box": without("annotations", 0, "bbox"),
    "box of three": box(1, 2, 3),
    "box not a number": box(1, 2, 3, float("nan")),
    "box of text": box("1", 2, 3, 4),
    "box without width": box(5, 6, 0, 8),
    "box of no width and no outline": both([5, 6, 0, 8], []),
    "box over the border, no outline": both([35, 6, 7, 8], []),
    "box far over the border, no outline": both([37, 6, 10, 8], []),
    "box beside the image, no outline": both([40, 6, 1, 8], []),
    "box too far left": box(-2, 6, 7, 8),
    "box of two corners": box(5, 6, 15, 14),
    "box of a centre": box(10, 10, 10, 8),
    "box of another object": box(20, 0, 10, 30),
    "box in parts of the picture": box(0.125, 0.2, 0.25, 0.26667),
    # outlines
    "segmentation of text": outline("a"),
    "odd polygon": outline([[1, 2, 9, 2, 9, 9, 5]]),
    "two points": outline([[1, 2, 3, 4]]),
    "two points beside a polygon": outline([*polygon(5, 6, 10, 8), [1, 2, 3, 4]]),
    "empty part beside a polygon": outline([*polygon(5, 6, 10, 8), []]),
    "polygon not in a list": outline(polygon(5, 6, 10, 8)[0]),
    "points in pairs": outline([[5, 6], [15, 6], [15, 14], [5, 14]]),
    "infinite point": outline([[1, 2, 3, INF, 5, 6]]),
    "point left of the image": both([-3, 6, 10, 8], polygon(-3, 6, 10, 8)),
    "outline far out": outline(polygon(5, 6, 10, 1e6)),
    "outline in parts of the picture": outline(polygon(0.125, 0.2, 0.25, 0.26667)),
    "polygon of no area": outline([[5, 5, 5, 5, 5, 5]]),
    "RLE of other size": mask(size=[40, 30]),
    "RLE without size": outline({"counts": [1]}, 2),
    "RLE too short": mask(counts=[600, 100]),
    "RLE of negatives": mask(counts=[1300, -100]),
    "RLE cut short": mask(counts="a"),
    "RLE of other text": mask(counts="\x01é"),
    "RLE of no pixel": mask(counts=[1200]),
    "neither box nor outline": both([5, 6, 0, 8], [[1, 2]]),
}
