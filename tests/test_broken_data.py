"""Broken sets: each defect is named, repaired where it can be, and left out where it cannot."""

import json

import numpy as np
import pytest
import torch
from broken_data import BROKEN, sound_set, write_rough_pictures

from fbnet_lesson.data import CocoDataset, check_dataset
from fbnet_lesson.data.report import ADVICE

# For each defect: where and which kind, what was found, what the repair does.
SAID = {
    "image of no file": [("image 3: missing image", "'gone.png'", "left out")],
    "link to nowhere": [
        (
            "image 3: missing image",
            "'nowhere.png', a link to '../store/3.png', which is not there",
            "left out",
        )
    ],
    "file that is no picture": [
        (
            "image 3: unreadable image",
            "text.png: it is none of JPEG, PNG, BMP, GIF, TIFF, WEBP, PPM, JPEG2000",
            "left out",
        )
    ],
    "empty file": [("image 3: unreadable image", "empty.png: the file is empty", "left out")],
    "Git LFS pointer": [
        (
            "image 3: unreadable image",
            "pointer.png: it is a Git LFS pointer; git lfs pull fetches the picture",
            "left out",
        )
    ],
    "web page": [("image 3: unreadable image", "page.jpg: it is a web page or XML", "left out")],
    "PNG cut short": [
        ("image 3: unreadable image", "short.png: image file is truncated", "left out")
    ],
    "JPEG cut short": [
        (
            "image 3: unreadable image",
            "short.jpg: image file is truncated (161 bytes not processed)",
            "left out",
        )
    ],
    "folder as picture": [("image 3: unreadable image", "'folder'", "left out")],
    "NUL in a file name": [("image 3: missing image", "'a\\x00b'", "left out")],
    "lone surrogate in a name": [("image 3: missing image", "'\\ud800'", "left out")],
    "endless file name": [
        (
            "image 3: missing image",
            "'xxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
            "left out",
        )
    ],
    "path upwards": [("image 3: path leaves the image folder", "'../outside.png'", "left out")],
    "path of another machine": [
        (
            "image 3: path leaves the image folder",
            "'/home/me/3.png', of which the beginning is not in the folder",
            "taken as '3.png'",
        )
    ],
    "path of another system": [
        (
            "image 3: path leaves the image folder",
            "'C:\\\\data\\\\3.png', with backslashes as separator",
            "taken as '3.png'",
        )
    ],
    "backslashes": [
        (
            "image 3: missing image",
            "'sub\\\\4.png', with backslashes as separator",
            "taken as 'sub/4.png'",
        )
    ],
    "folder named twice": [
        (
            "image 3: missing image",
            "'images/3.png', of which the beginning is not in the folder",
            "taken as '3.png'",
        )
    ],
    "other Unicode form": [
        (
            "image 3: missing image",
            "'müll.png', in another Unicode form than the file's name",
            "taken as 'müll.png'",
        )
    ],
    "other case": [
        (
            "image 3: missing image",
            "'3.PNG', in other upper and lower case than the file's name",
            "taken as '3.png'",
        )
    ],
    "picture under two ids": [
        (
            "image 9: picture under two ids",
            "'3.png', which is image 3 too",
            "its annotations go to image 3",
        )
    ],
    "other width": [("image 3: image size", "40 x 30", "left out")],
    "width and height swapped": [
        (
            "image 3: image size",
            "40 x 30: width and height of the file have changed places",
            "width and height change places",
        )
    ],
    "width as text": [("image 3: wrong value", "width '40'", "the size of the picture")],
    "no width": [("image 3: missing field", "no width", "the size of the picture")],
    "no image id": [("images[2]: missing field", "no id", "left out")],
    "number as file name": [("image 3: wrong value", "file_name 3", "left out")],
    "empty file name": [("image 3: wrong value", "file_name ''", "left out")],
    "image twice": [("image 3: duplicate image id", "'3.png'", "left out")],
    "category twice": [("category 7: duplicate category id", "'fig'", "left out")],
    "category name twice": [
        ("category 8: duplicate category name", "'fig'", "taken as category 7")
    ],
    "category of no name": [
        ("category 3: missing field", "no name", "left out"),
        ("annotation 2: unknown category", "category 3", "its place takes no part in training"),
    ],
    "annotation twice": [("annotation 4: duplicate annotation id", "4", "a new id")],
    "no annotation id": [("annotations[0]: missing field", "no id", "a new id")],
    "category unknown": [
        ("annotation 1: unknown category", "category 8", "its place takes no part in training")
    ],
    "image unknown": [("annotation 1: unknown image", "image 8", "left out")],
    "image id a list": [("annotation 1: wrong value", "image_id [1]", "left out")],
    "image id true": [("annotation 1: wrong value", "image_id True", "left out")],
    "crowd of two": [
        ("annotation 1: wrong value", "iscrowd 2", "its place takes no part in training")
    ],
    "no box": [("annotation 1: missing field", "no bbox", "box of the outline")],
    "box of three": [("annotation 1: wrong value", "bbox [1, 2, 3]", "box of the outline")],
    "box not a number": [
        ("annotation 1: wrong value", "bbox [1, 2, 3, nan]", "box of the outline")
    ],
    "box of text": [("annotation 1: wrong value", "bbox ['1', 2, 3, 4]", "box of the outline")],
    "box without width": [("annotation 1: zero-area box", "[5, 6, 0, 8]", "box of the outline")],
    "box of no width and no outline": [("annotation 1: zero-area box", "[5, 6, 0, 8]", "left out")],
    "box over the border, no outline": [
        ("annotation 1: box outside the image", "[35, 6, 7, 8]", "cut to the picture")
    ],
    "box far over the border, no outline": [
        (
            "annotation 1: box outside the image",
            "[37, 6, 10, 8]",
            "its place takes no part in training",
        )
    ],
    "box beside the image, no outline": [
        ("annotation 1: box outside the image", "[40, 6, 1, 8]", "left out")
    ],
    "box too far left": [
        ("annotation 1: box outside the image", "[-2, 6, 7, 8]", "box of the outline")
    ],
    "box of two corners": [
        (
            "annotation 1: box and outline disagree",
            "[5, 6, 15, 14], which is x1, y1, x2, y2",
            "box of the outline",
        )
    ],
    "box of a centre": [
        (
            "annotation 1: box and outline disagree",
            "[10, 10, 10, 8], which is the centre, width, height",
            "box of the outline",
        )
    ],
    "box of another object": [
        (
            "annotation 1: box and outline disagree",
            "[20, 0, 10, 30], which is that of annotation 3",
            "box of the outline",
        )
    ],
    "box in parts of the picture": [
        (
            "annotation 1: coordinates from 0 to 1",
            "[0.125, 0.2, 0.25, 0.26667]",
            "multiplied by the picture's size",
        )
    ],
    "segmentation of text": [
        ("annotation 1: wrong value", "segmentation 'a'", "the box is kept, without its outline")
    ],
    "odd polygon": [
        ("annotation 1: broken polygon", "7 numbers", "the box is kept, without its outline")
    ],
    "two points": [
        ("annotation 1: broken polygon", "4 numbers", "the box is kept, without its outline")
    ],
    "two points beside a polygon": [("annotation 1: broken polygon", "4 numbers", "part left out")],
    "empty part beside a polygon": [("annotation 1: broken polygon", "0 numbers", "part left out")],
    "polygon not in a list": [
        (
            "annotation 1: broken polygon",
            "[5, 6, 15, 6, 15, 14, ...], not in a list of its own",
            "taken as one polygon",
        )
    ],
    "points in pairs": [
        (
            "annotation 1: broken polygon",
            "[[5, 6], [15, 6], [15, 14], [5, 14]], not in a list of its own",
            "points joined",
        )
    ],
    "infinite point": [
        (
            "annotation 1: broken polygon",
            "[1, 2, 3, inf, 5, 6]",
            "the box is kept, without its outline",
        )
    ],
    "point left of the image": [
        ("annotation 1: box outside the image", "[-3, 6, 10, 8]", "cut to the picture"),
        ("annotation 1: polygon outside the image", "x -3 .. 7, y 6 .. 14", "cut to the picture"),
    ],
    "outline far out": [
        (
            "annotation 1: polygon outside the image",
            "x 5 .. 15, y 6 .. 1.00001e+06",
            "the box is kept, without its outline",
        )
    ],
    "outline in parts of the picture": [
        (
            "annotation 1: coordinates from 0 to 1",
            "up to 0.46667",
            "multiplied by the picture's size",
        )
    ],
    "polygon of no area": [
        (
            "annotation 1: zero-area mask",
            "[[5, 5, 5, 5, 5, 5]]",
            "the box is kept, without its outline",
        )
    ],
    "RLE of other size": [
        ("annotation 3: broken RLE", "size [40, 30]", "the box is kept, without its outline")
    ],
    "RLE without size": [
        ("annotation 3: broken RLE", "size None", "the box is kept, without its outline")
    ],
    "RLE too short": [
        ("annotation 3: broken RLE", "700 pixels", "the box is kept, without its outline")
    ],
    "RLE of negatives": [
        ("annotation 3: broken RLE", "counts [1300, -100]", "the box is kept, without its outline")
    ],
    "RLE cut short": [
        ("annotation 3: broken RLE", "counts 'a'", "the box is kept, without its outline")
    ],
    "RLE of other text": [
        ("annotation 3: broken RLE", "counts '\\x01é'", "the box is kept, without its outline")
    ],
    "RLE of no pixel": [
        (
            "annotation 3: zero-area mask",
            "{'counts': [1200], 'size': [30, 40]}",
            "the box is kept, without its outline",
        )
    ],
    "neither box nor outline": [
        ("annotation 1: zero-area box", "[5, 6, 0, 8]", "left out"),
        ("annotation 1: broken polygon", "2 numbers", "left out"),
    ],
}

# Of these sets something is left out, of all others nothing but a category or a second record.
GONE = {
    "images": {
        n for n, s in SAID.items() if s[0][0].startswith("image") and s[0][2] == "left out"
    },
    "annotations": {
        "category of no name", "category unknown", "image unknown", "image id a list",
        "image id true", "crowd of two", "box of no width and no outline",
        "box far over the border, no outline", "box beside the image, no outline",
        "neither box nor outline",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_rough_pictures(tmp_path_factory.mktemp("rough") / "images")


def broken(name):
    data = sound_set()
    BROKEN[name](data)
    return data


def test_every_broken_set_has_its_sentence_and_every_kind_its_advice(folder):
    assert set(SAID) == set(BROKEN) and len(BROKEN) >= 40
    kinds = {d.kind for name in BROKEN for d in check_dataset(broken(name), folder).defects}
    assert kinds <= set(ADVICE)


@pytest.mark.parametrize("name", BROKEN)
def test_each_defect_is_told_with_its_place_and_its_repair(folder, name):
    report = check_dataset(broken(name), folder)
    said = [(f"{d.where}: {d.kind}", d.found, d.repair or "left out") for d in report.defects]
    assert said == SAID[name]
    table = report.table()
    assert all(ADVICE[d.kind] in table for d in report.defects)


@pytest.mark.parametrize("name", BROKEN)
def test_a_set_with_a_defect_is_refused_or_used_without_it(folder, name):
    data = broken(name)
    defects = check_dataset(data, folder).defects
    with pytest.raises(ValueError, match=f"{len(defects)} defects") as refused:
        CocoDataset(data, folder)
    assert defects[0].kind in str(refused.value)
    dataset = CocoDataset(data, folder, on_defect="drop")
    assert dataset.dropped == len(defects)
    assert (dataset.dropped_records["images"] > 0) == (name in GONE["images"])
    assert (dataset.dropped_records["annotations"] > 0) == (name in GONE["annotations"])
    assert all(len(target["boxes"]) == len(target["masks"]) for _, target in dataset)


@pytest.mark.parametrize("name", BROKEN)
def test_the_repaired_file_has_no_defect_and_holds_what_is_trained_on(folder, tmp_path, name):
    fixed = tmp_path / "fixed.json"
    check_dataset(broken(name), folder, fix=fixed)
    assert check_dataset(fixed, folder).ok
    again, dropped = CocoDataset(fixed, folder), CocoDataset(broken(name), folder, on_defect="drop")
    assert same_samples(again, dropped)


def same_samples(ours, theirs):
    """Whether two data sets have equal samples; where a region is of no class, its label is 0."""
    return len(ours) == len(theirs) and all(
        torch.equal(image, other_image)
        and all(torch.equal(target[k], other[k]) for k in ("boxes", "labels", "masks", "iscrowd"))
        for (image, target), (other_image, other) in zip(ours, theirs, strict=True)
    )


# What the repairs come to, in numbers


def first_object(folder, name):
    """The first object's box, pixels, whether it is a crowd, and has an outline."""
    target = CocoDataset(broken(name), folder, on_defect="drop")[0][1]
    outlines = target.get("has_mask", torch.ones(len(target["labels"]), dtype=bool))
    return (
        target["boxes"][0].tolist(),
        int(target["masks"][0].sum()),
        bool(target["iscrowd"][0]),
        bool(outlines[0]),
    )


@pytest.mark.parametrize(
    "name",
    [
        "no box", "box of text", "box without width", "box too far left", "box of two corners",
        "box of a centre", "box of another object", "box in parts of the picture",
        "two points beside a polygon", "empty part beside a polygon", "polygon not in a list",
        "points in pairs", "outline in parts of the picture", "no annotation id",
    ],
)  # fmt: skip
def test_what_can_be_repaired_is_the_object_it_was(folder, name):
    box, pixels, crowd, outline = first_object(folder, name)
    assert box == pytest.approx([5, 6, 15, 14], abs=1.01) and pixels == pytest.approx(80, abs=20)
    assert not crowd and outline


def test_an_outline_over_the_border_is_cut_there(folder):
    assert first_object(folder, "point left of the image") == ([0, 6, 7, 14], 56, False, True)


@pytest.mark.parametrize("name", ["odd polygon", "two points", "infinite point", "outline far out"])
def test_an_object_without_a_sound_outline_keeps_its_box(folder, name):
    assert first_object(folder, name) == ([5, 6, 15, 14], 80, False, False)


def test_a_box_over_the_border_is_cut_there(folder):
    cut = first_object(folder, "box over the border, no outline")
    assert cut == ([35, 6, 40, 14], 40, False, False)


def test_the_place_of_an_object_that_cannot_be_used_is_a_crowd_for_every_class(folder):
    assert first_object(folder, "category unknown")[:3] == ([5, 6, 15, 14], 80, True)
    far = first_object(folder, "box far over the border, no outline")
    assert far[:3] == ([37, 6, 40, 14], 24, True)
    truth = CocoDataset(broken("category unknown"), folder, on_defect="drop").coco_ground_truth()
    regions = [a for a in truth["annotations"] if a["bbox"] == [5, 6, 10, 8]]
    assert [(a["category_id"], a["iscrowd"]) for a in regions] == [(3, 1), (7, 1)]


def test_two_categories_of_one_name_are_one_class(folder):
    data = broken("category name twice")
    data["annotations"][0]["category_id"] = 8
    dataset = CocoDataset(data, folder, on_defect="drop")
    assert dataset.categories == ["date", "fig"]
    assert dataset[0][1]["labels"].tolist() == [1, 0, 1]


def test_annotations_of_a_picture_under_two_ids_come_together_and_none_of_them_twice(folder):
    data = broken("picture under two ids")
    data["annotations"] += [
        {**data["annotations"][0], "id": 10, "image_id": 3},
        {**data["annotations"][0], "id": 11, "image_id": 9},
        {**data["annotations"][1], "id": 12, "image_id": 9},
    ]
    dataset = CocoDataset(data, folder, on_defect="drop")
    assert dataset.image_ids == [1, 2, 3]
    assert dataset[2][1]["labels"].tolist() == [1, 0]


def test_a_picture_of_another_name_is_read_from_the_file_that_is_there(folder):
    dataset = CocoDataset(broken("backslashes"), folder, on_defect="drop")
    assert dataset.file_names == ["1.png", "2.png", "sub/4.png"]
    image, _ = dataset[2]
    assert np.array_equal(image.numpy().mean(0).shape, (30, 40))


def test_repairs_leave_the_other_fields_of_a_record_alone(folder, tmp_path):
    data = broken("point left of the image")
    data["info"], data["annotations"][0]["attributes"] = {"year": 2026}, {"ripe": True}
    check_dataset(data, folder, fix=tmp_path / "fixed.json")
    fixed = json.loads((tmp_path / "fixed.json").read_text())
    first = fixed["annotations"][0]
    assert fixed["info"] == {"year": 2026} and fixed["annotations"][1:] == data["annotations"][1:]
    assert first["attributes"] == {"ripe": True} and first["bbox"] == [0, 6, 7, 8]
    assert first["area"] == 56 and np.reshape(first["segmentation"], (-1, 2)).min() == 0
    assert data["annotations"][0]["bbox"] == [-3, 6, 10, 8]


def test_the_repaired_file_takes_no_file_s_place(folder, tmp_path):
    (tmp_path / "fixed.json").write_text("mine")
    with pytest.raises(ValueError, match="fixed.json is there already; give another name"):
        check_dataset(sound_set(), folder, fix=tmp_path / "fixed.json")
    with pytest.raises(ValueError, match="there is nothing to repair"):
        check_dataset(tmp_path / "fixed.json", folder, fix=tmp_path / "other.json")
    assert (tmp_path / "fixed.json").read_text() == "mine"
