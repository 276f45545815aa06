"""COCO-format sets: every defect is found before the training, everything else loads."""

import json
import os
from pathlib import Path

import pytest
import torch
from broken_data import (
    HEIGHT,
    WIDTH,
    annotation,
    polygon,
    sound_set,
    write_pictures,
    write_rough_pictures,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision import tv_tensors

from fbnet_lesson.data import CocoDataset, check_dataset, write_coco
from fbnet_lesson.data.mending import REGION
from fbnet_lesson.data.outlines import counts_from_text

FRUITS = Path(__file__).parent.parent.parent / "shared" / "realdata" / "fruits_nuts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("images"))


def kinds(data, folder):
    return check_dataset(data, folder).counts()


# What is read


def test_polygons_and_both_forms_of_rle_become_masks(folder):
    dataset = CocoDataset(sound_set(), folder)
    first, second = dataset[0][1], dataset[1][1]
    boxes = [[5, 6, 15, 14], [0, 0, 40, 30], [20, 0, 30, 30]]
    assert first["boxes"].tolist() == boxes
    assert [int(m.sum()) for m in first["masks"]] == [80, 1200, 300]
    assert first["iscrowd"].tolist() == [False, False, True]
    assert torch.equal(second["masks"][0].as_subclass(torch.Tensor), torch.eye(30, 40).bool())


def test_labels_are_positions_among_the_sorted_category_ids(folder):
    dataset = CocoDataset(sound_set(), folder)
    assert dataset.category_ids == [3, 7] and dataset.categories == ["date", "fig"]
    assert dataset[0][1]["labels"].tolist() == [1, 0, 1]


def test_a_sample_keeps_the_contract(folder):
    dataset = CocoDataset(sound_set(), folder)
    for i, (image, target) in enumerate(dataset):
        count = len(target["labels"])
        assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8
        assert image[:, 0, 0].tolist() == [i + 1, 2 * i + 2, 3 * i + 3]
        assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
        assert isinstance(target["masks"], tv_tensors.Mask)
        assert target["masks"].shape == (count, HEIGHT, WIDTH)
        assert target["boxes"].shape == (count, 4) and target["boxes"].dtype == torch.float32
        assert target["masks"].dtype == target["iscrowd"].dtype == torch.bool
        assert target["labels"].dtype == torch.int64 and target["image_id"] == i + 1
    assert len(dataset) == 3 and len(dataset[2][1]["labels"]) == 0
    assert dataset.image_sizes == [(HEIGHT, WIDTH)] * 3


def test_only_the_images_asked_for_are_there_and_in_that_order(folder):
    dataset = CocoDataset(sound_set(), folder, image_ids=[3, 1])
    assert dataset.image_ids == [3, 1]
    assert [target["image_id"] for _, target in dataset] == [3, 1]
    assert {a["image_id"] for a in dataset.coco_ground_truth()["annotations"]} == {1}


def test_a_defect_elsewhere_does_not_hinder_the_images_asked_for(folder):
    data = sound_set()
    data["annotations"][3]["bbox"] = [0, 0, 0, 0]
    data["images"][2]["file_name"] = "gone.png"
    assert len(CocoDataset(data, folder, image_ids=[1])) == 1
    with pytest.raises(ValueError, match="1 defects"):
        CocoDataset(data, folder, image_ids=[1, 2])


@pytest.mark.parametrize(
    ("ids", "message"), [([1, 99], r"unknown ids, as \[99\]"), ([1, 1], "an id more than once")]
)
def test_an_image_id_that_cannot_be_is_refused(folder, ids, message):
    with pytest.raises(ValueError, match=message):
        CocoDataset(sound_set(), folder, image_ids=ids)


def test_a_cached_sample_is_the_read_one_even_after_it_was_changed(folder):
    plain, cached = (CocoDataset(sound_set(), folder, cache=c) for c in (False, True))
    for _ in range(2):
        for (image, target), (other_image, other) in zip(plain, cached, strict=True):
            assert torch.equal(image, other_image)
            assert all(torch.equal(target[k], other[k]) for k in ("boxes", "masks", "labels"))
            other_image.zero_()
            other["masks"].zero_()
            other["labels"].zero_()


def test_max_edge_shrinks_picture_and_masks_and_leaves_out_what_vanishes(folder):
    data = sound_set()
    data["annotations"].append(annotation(9, box=(1, 1, 1, 1)))
    dataset = CocoDataset(data, folder, max_edge=20)
    image, target = dataset[0]
    assert image.shape == (3, 15, 20) and target["masks"].shape == (3, 15, 20)
    assert torch.allclose(target["boxes"][1:], torch.tensor([[0.0, 0, 20, 15], [10, 0, 15, 15]]))
    assert torch.allclose(target["boxes"][0], torch.tensor([2.5, 3, 7.5, 7]), atol=0.51)
    assert len(dataset.coco_ground_truth()["annotations"]) == 5
    assert dataset.coco_ground_truth()["images"][0]["width"] == WIDTH
    assert dataset.image_sizes[0] == (HEIGHT, WIDTH)


def test_a_picture_smaller_than_max_edge_stays_as_it_is(folder):
    assert CocoDataset(sound_set(), folder, max_edge=40)[0][0].shape == (3, HEIGHT, WIDTH)


def test_a_set_of_boxes_without_any_segmentation_has_filled_boxes(folder):
    data = sound_set()
    for record in data["annotations"]:
        del record["segmentation"]
    data["annotations"][0]["bbox"] = [4.6, 5.2, 2.0, 1.5]
    dataset = CocoDataset(data, folder)
    target = dataset[0][1]
    assert not dataset.has_masks and CocoDataset(sound_set(), folder).has_masks
    assert target["boxes"][0].tolist() == [4, 5, 7, 7] and target["masks"][0].sum() == 6
    assert dataset.coco_ground_truth()["annotations"][0]["bbox"] == [4.6, 5.2, 2.0, 1.5]


def test_the_ground_truth_keeps_boxes_and_areas_of_the_file(folder):
    data = sound_set()
    data["annotations"][0]["area"] = 77.5
    del data["annotations"][1]["area"], data["annotations"][0]["iscrowd"]
    truth = CocoDataset(data, folder).coco_ground_truth()["annotations"]
    assert [a["area"] for a in truth] == [77.5, 1200, 300, 900]
    assert [a["bbox"] for a in truth] == [a["bbox"] for a in data["annotations"]]
    assert [a["iscrowd"] for a in truth] == [0, 0, 1, 0]
    assert json.dumps(truth)


@pytest.mark.parametrize("first_id", [0, 1])  # pycocotools loses a match with the annotation 0
def test_detections_equal_to_the_ground_truth_have_ap_1(folder, first_id):
    data = sound_set()
    data["annotations"][0]["id"] = first_id
    dataset = CocoDataset(data, folder)
    coco = COCO()
    coco.dataset = dataset.coco_ground_truth()
    coco.createIndex()
    found = [
        {**{k: a[k] for k in ("image_id", "category_id", "segmentation")}, "score": 0.9}
        for a in dataset.coco_ground_truth()["annotations"]
        if not a["iscrowd"]
    ]
    evaluation = COCOeval(coco, coco.loadRes(found), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


# Defects, each by its kind


def test_a_sound_set_has_no_defects(folder):
    report = check_dataset(sound_set(), folder)
    assert report.ok and report.counts() == {}
    assert report.table() == "no defects: 3 images, 4 annotations, 2 categories"


@pytest.fixture(scope="module")
def rough_folder(tmp_path_factory):
    return write_rough_pictures(tmp_path_factory.mktemp("rough") / "images")


def test_an_absolute_path_into_the_folder_is_a_defect_too(folder):
    data = sound_set()
    data["images"][2]["file_name"] = str(folder / "3.png")
    assert kinds(data, folder) == {"path leaves the image folder": 1}


def test_a_tolerance_of_one_pixel_at_the_border_is_granted(folder):
    data = sound_set()
    data["annotations"][0].update(bbox=[31, -1, 10, 8], segmentation=polygon(31, -1, 10, 8))
    assert check_dataset(data, folder).ok
    assert CocoDataset(data, folder)[0][1]["boxes"][0].tolist() == [31, 0, 40, 7]


def test_annotations_of_a_dropped_image_go_with_it(rough_folder):
    data = sound_set()
    data["images"][0]["file_name"] = "gone.png"
    dataset = CocoDataset(data, rough_folder, on_defect="drop")
    assert dataset.image_ids == [2, 3]
    assert dataset.dropped == 1 and dataset.dropped_records == {"images": 1, "annotations": 3}


def test_several_defects_of_one_annotation_are_all_told(folder):
    data = sound_set()
    data["annotations"][0].update(category_id=9, bbox=[1, 1, 0, 1], segmentation=[[1]])
    assert set(kinds(data, folder)) == {"unknown category", "zero-area box", "broken polygon"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{", "unreadable annotations"),
        ("", "unreadable annotations"),
        ("[1, 2]", "unreadable annotations"),
        ("[" * 100_000, "unreadable annotations"),
        ("\udcff", "unreadable annotations"),
        ('{"images": [], "annotations": []}', "missing field"),
        ('{"images": {}, "annotations": [], "categories": []}', "wrong value"),
        ('{"images": [1], "annotations": [], "categories": []}', "wrong value"),
    ],
)
def test_a_file_that_holds_no_set_is_told_and_refused(tmp_path, folder, text, kind):
    path = tmp_path / "a.json"
    path.write_text(text, errors="surrogateescape")
    assert kinds(path, folder) == {kind: 1}
    for mode in ("refuse", "drop"):
        with pytest.raises(ValueError, match=kind):
            CocoDataset(path, folder, on_defect=mode)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path, folder):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(sound_set()), encoding="utf-8-sig")
    assert len(CocoDataset(path, folder)) == 3


def test_a_missing_file_or_folder_is_one_defect(tmp_path, folder):
    assert kinds(tmp_path / "none.json", folder) == {"unreadable annotations": 1}
    assert kinds(sound_set(), tmp_path / "none") == {"missing image folder": 1}


def test_a_set_without_an_image_is_refused(folder):
    with pytest.raises(ValueError, match="0 usable images and 2 categories; it needs one of each"):
        CocoDataset({**sound_set(), "images": [], "annotations": []}, folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_defect": "ignore"}, 'on_defect is \'ignore\'; it must be "refuse" or "drop"'),
        ({"max_edge": 0}, "max_edge is 0; it must be 1 or more pixels, or None"),
    ],
)
def test_an_impossible_argument_is_refused_with_its_reason(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        CocoDataset(sound_set(), folder, **arguments)


def test_the_table_shows_each_defect_in_a_row_and_counts_the_kinds(folder):
    data = sound_set()
    data["annotations"][0]["bbox"] = [35, 6, 7, 8]
    data["annotations"][1]["category_id"] = 9
    data["annotations"][3]["category_id"] = 9
    lines = check_dataset(data, folder).table().splitlines()
    assert lines == [
        "kind                   where         found          allowed         repair",
        "---------------------  ------------  -------------  --------------  " + 35 * "-",
        "box outside the image  annotation 1  [35, 6, 7, 8]  within 40 x 30  box of the outline",
        "unknown category       annotation 2  category 9     one of [3, 7]   " + REGION,
        "unknown category       annotation 4  category 9     one of [3, 7]   " + REGION,
        "",
        "defects: 3 in 3 images, 4 annotations, 2 categories",
        "     2  unknown category: add the category to the file, or correct category_id",
        "     1  box outside the image: cut the box to the picture; check that it is "
        "[x, y, width, height]",
    ]


def test_a_number_too_long_to_print_is_told_as_a_number(folder):
    data = sound_set()
    data["annotations"][0]["category_id"] = 10**5000
    (defect,) = check_dataset(data, folder).defects
    assert defect.found == "category_id too long to print"


def test_a_long_table_says_how_much_it_leaves_out(folder):
    data = sound_set()
    data["annotations"] = [annotation(i, category_id=99) for i in range(80)]
    lines = check_dataset(data, folder).table(rows=5).splitlines()
    assert lines[7] == "... and 75 more" and lines[9].startswith("defects: 80 in ")


# RLE text against pycocotools


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40))
def test_compressed_runs_are_read_as_pycocotools_wrote_them(counts):
    size = [1, sum(counts)]
    text = mask_utils.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
    assert counts_from_text(text) == counts_from_text(text.decode()) == counts


@pytest.mark.parametrize("text", ["1a", "1\x01", "1p", "1é", "1" + "o" * 90 + "1"])
def test_text_that_pycocotools_would_read_past_its_end_is_refused(text):
    assert counts_from_text("1") == [1] and counts_from_text(text) is None


@given(st.text(max_size=30))
def test_any_text_is_read_as_runs_or_refused(text):
    counts = counts_from_text(text)
    assert counts is None or all(isinstance(count, int) for count in counts)


# Anything at all

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 0, 1e308, "../x", "1.png", "0" * 9]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def damaged_sets(draw):
    """A sound set in which one to four values, at any depth, were replaced or taken out."""
    data = sound_set()
    starts = [data, data["images"], data["categories"], *data["annotations"]]
    starts += [a["segmentation"] for a in data["annotations"]]  # where the most can go wrong
    for _ in range(draw(st.integers(1, 4))):
        node = draw(st.sampled_from(starts))
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            deeper = isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 4))
            if deeper:
                node = node[key]
            elif draw(st.booleans()):
                node[key] = draw(JUNK)
                break
            else:
                del node[key]
                break
    return data


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(data=damaged_sets())
def test_no_damage_crashes_the_check_and_what_is_left_loads(rough_folder, data):
    report = check_dataset(data, rough_folder)
    assert report.table() and report.table().encode()
    try:
        dataset = CocoDataset(data, rough_folder, on_defect="drop")
    except ValueError as refusal:
        assert "it needs one of each" in str(refusal)
        return
    for image, target in dataset:
        assert image.shape[1:] == target["masks"].shape[1:]
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
        assert ((0 <= target["labels"]) & (target["labels"] < len(dataset.categories))).all()
    truth = COCO()
    truth.dataset = dataset.coco_ground_truth()
    truth.createIndex()
    counted = sum(dataset.class_counts().values())
    assert sum(not a["iscrowd"] for a in truth.anns.values()) == counted
    assert sum(int((~target["iscrowd"]).sum()) for _, target in dataset) == counted
    if report.ok:
        assert dataset.dropped_records == {"images": 0, "annotations": 0}


# Whole sets


def test_a_written_set_of_shapes_is_read_without_a_defect(tmp_path):
    path = write_coco(tmp_path, images=12, seed=150)
    dataset = CocoDataset(path, tmp_path / "images")
    assert dataset.report.ok and len(dataset) == 12
    assert sum(target["iscrowd"].sum() for _, target in dataset) == 1


@pytest.mark.skipif(not FRUITS.exists(), reason="the photographs of ../shared are not here")
def test_the_photographs_of_fruits_and_nuts_are_sound():
    dataset = CocoDataset(FRUITS / "trainval.json", FRUITS / "images", max_edge=200)
    samples = list(dataset)
    assert dataset.report.ok and dataset.report.annotations == 165
    assert dataset.categories == ["date", "fig", "hazelnut"]
    assert sum(len(target["labels"]) for _, target in samples) == 165
    assert {tuple(image.shape) for image, _ in samples} == {(3, 150, 200)}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_image_folder_does_not_hang_the_check(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    data = sound_set()
    data["images"], data["annotations"] = data["images"][:1], []
    assert kinds(data, tmp_path) == {"unreadable image": 1}
