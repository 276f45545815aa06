"""What ``--data`` and its options come to: how many objects reach the model, and which classes."""

import copy
import json

import numpy as np
import pytest
from broken_data import annotation
from PIL import Image

from fbnet_lesson.cli.data import evaluation_data, parse_class_map, parse_classes, training_data
from fbnet_lesson.data import CocoDataset
from fbnet_lesson.data.reach import reach
from fbnet_lesson.training.config import TrainConfig

NONE = dict.fromkeys(("images", "train_ids", "val_ids", "val_data", "val_images"))
CONFIG = TrainConfig(scale_range=(1.0, 2.0))


@pytest.fixture
def folder(tmp_path):
    """Six different pictures of 80 x 60."""
    for i in range(1, 7):
        noise = np.random.default_rng(i).integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    return tmp_path


def some_set(categories=((7, "fig"), (3, "date")), ids=range(1, 7)):
    """Two objects of 20 x 20 a picture, one of each category."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in ids]
    objects = [
        annotation(2 * i + side, i, category, (5 + 40 * side, 6, 20, 20))
        for i in ids
        for side, (category, _) in enumerate(categories[:2])
    ]
    names = [{"id": i, "name": name} for i, name in categories]
    return {"images": images, "annotations": objects, "categories": names}


def written(folder, data, name="set.json"):
    (folder / name).write_text(json.dumps(data))
    return str(folder / name)


def sets(folder, data, size=64, **options):
    source = {**NONE, "data": written(folder, data), "images": str(folder), "drop_defects": False}
    return training_data({**source, **options}, CONFIG, size)


def test_the_objects_of_each_class_are_said(folder, capsys):
    sets(folder, some_set(), train_ids="1-4", val_ids="5,6")
    assert capsys.readouterr().out.splitlines() == [
        "training set: 4 images, 8 objects: date 4, fig 4",
        "evaluation set: 2 images, 4 objects: date 2, fig 2",
    ]


def test_a_set_without_an_object_is_refused(folder):
    with pytest.raises(ValueError, match="nothing to learn from: the training set has no objects"):
        sets(folder, some_set() | {"annotations": []})


def test_objects_too_small_for_the_canvas_are_said_or_refused_with_the_remedy(folder, capsys):
    data = some_set()
    for record in data["annotations"][::2]:  # the figs: 4 x 4, one pixel of a canvas of 20
        record.update(bbox=[5, 6, 4, 4], segmentation=[], area=16)
    sets(folder, data, size=20)
    said = capsys.readouterr().out
    assert "6 of 12 objects are left out as too small (fewer than 12 pixels) once their" in said
    assert "picture is fitted to 20 x 20 pixels, at any scale: fig 6; --image-size 96 keeps" in said
    data["annotations"] = data["annotations"][::2]
    with pytest.raises(ValueError, match="nothing to learn from: 6 of 6 objects are left out"):
        sets(folder, data, size=20)


def test_what_is_said_to_reach_the_model_is_what_the_transform_leaves(folder):
    from fbnet_lesson.data import train_transform

    data = some_set()
    for number, record in enumerate(data["annotations"]):
        side = 2 + 2 * number
        record.update(bbox=[1, 1, side, side], segmentation=[], area=side**2)
    dataset = CocoDataset(data, folder)
    found = reach(dataset, (40, 40), None)
    fitted = CocoDataset(data, folder, transform=train_transform((40, 40), None, 0, False))
    left = sum(len(target["labels"]) for _, target in fitted)
    assert abs(found.expected - left) <= 1 and found.never == 12 - found.expected


def test_classes_are_mapped_to_those_of_training_by_name(folder, capsys):
    other = some_set(categories=((1, "date"), (2, "fig")), ids=(5, 6))
    val = written(folder, other, "val.json")
    train_set, val_set = sets(folder, some_set(ids=(1, 2)), val_data=val, val_images=str(folder))
    assert train_set.categories == val_set.categories == ["date", "fig"]
    assert train_set.category_ids == [3, 7] and val_set.category_ids == [1, 2]
    assert val_set[0][1]["labels"].tolist() == [0, 1]
    assert "its categories are mapped to those of training by name" in capsys.readouterr().out


def test_the_evaluation_set_may_have_fewer_classes_and_no_other(folder):
    fewer = some_set(categories=((9, "fig"),), ids=(5, 6))
    val = written(folder, fewer, "val.json")
    _, val_set = sets(folder, some_set(ids=(1, 2)), val_data=val, val_images=str(folder))
    assert val_set.categories == ["date", "fig"] and val_set.category_ids[1] == 9
    assert val_set.class_counts() == {"date": 0, "fig": 2}
    assert len(set(val_set.category_ids)) == 2
    other = written(folder, some_set(categories=((9, "plum"), (7, "fig")), ids=(5, 6)), "o.json")
    with pytest.raises(ValueError, match=r"classes that the training set has not: plum \(2\)"):
        sets(folder, some_set(ids=(1, 2)), val_data=other, val_images=str(folder))


def test_classes_are_chosen_and_made_one(folder):
    train_set, _ = sets(folder, some_set(), classes="fig")
    assert train_set.categories == ["fig"] and train_set.class_counts() == {"fig": 6}
    train_set, _ = sets(folder, some_set(), map_classes="fig=fruit, date=fruit")
    assert train_set.class_counts() == {"fruit": 12} and train_set.category_ids == [3]
    for option, message in (
        ({"classes": "plum"}, r"--classes is \['plum'\]; the file has \['date', 'fig'\]"),
        ({"map_classes": "plum=fig"}, "--map-classes has 'plum'; the file has 'fig', 'date'"),
        ({"map_classes": "plum"}, "--map-classes plum: allowed is such as car=vehicle"),
        ({"exif": "no"}, "--exif is 'no'; it must be"),
        ({"cache_mb": -1}, "--cache-mb is -1; it must be"),
    ):
        with pytest.raises(ValueError, match=message):
            sets(folder, some_set(), **option)


def test_lists_of_classes_are_read_with_their_spaces():
    assert parse_classes("red fig, date") == ["red fig", "date"] and parse_classes(None) is None
    assert parse_class_map("a b = c,d=c") == {"a b": "c", "d": "c"} and parse_class_map(None) == {}


@pytest.mark.parametrize("how", ["file", "content"])
def test_a_picture_in_training_and_evaluation_is_said(folder, capsys, how):
    data = some_set(ids=(5, 6))
    data["images"][0]["file_name"] = "other.png"
    other = folder / "other.png"
    other.write_bytes((folder / "2.png").read_bytes())
    if how == "file":
        other.unlink()
        other.symlink_to("2.png")
    val = written(folder, data, "val.json")
    sets(folder, some_set(ids=(1, 2)), val_data=val, val_images=str(folder))
    assert (
        f"1 pictures of the evaluation set are trained on too, by their {how}: other.png is 2.png"
        in capsys.readouterr().out
    )


def test_one_image_in_training_and_evaluation_is_refused(folder):
    with pytest.raises(ValueError, match="images 3 would be trained on and evaluated on"):
        sets(folder, some_set(), train_ids="1-3", val_ids="3-5")


def test_evaluation_decodes_no_masks_and_takes_the_classes_of_the_detector(folder, monkeypatch):
    file = written(folder, some_set())
    dataset = evaluation_data(file, str(folder), None, 0, False, 64, categories=["fig", "date"])

    def refuse(*_):
        raise AssertionError("a mask was decoded")

    monkeypatch.setattr("fbnet_lesson.data.coco.mask_utils.decode", refuse)
    image, target = dataset[0]
    assert image.shape == (3, 60, 80) and "masks" not in target
    assert target["boxes"].tolist() == [[5, 6, 25, 26], [45, 6, 65, 26]]
    assert target["labels"].tolist() == [0, 1] and dataset.category_ids == [7, 3]
    truth = dataset.coco_ground_truth(masks=False)
    assert all("segmentation" not in a for a in truth["annotations"])


def test_boxes_without_masks_are_those_of_the_masks_and_shrink_with_the_picture(folder):
    with_masks, without = (CocoDataset(some_set(), folder, max_edge=40, masks=m) for m in (1, 0))
    for (image, target), (other, boxes) in zip(with_masks, without, strict=True):
        assert np.array_equal(image, other)
        assert np.abs(target["boxes"] - boxes["boxes"]).max() <= 1


def test_the_file_given_is_left_as_it_was(folder):
    data = some_set()
    before = copy.deepcopy(data)
    CocoDataset(data, folder, map_classes={"fig": "date"})
    assert data == before
