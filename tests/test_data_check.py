"""``data check`` and ``--fix`` on whole sets: what is found, said, repaired, and what it costs."""

import copy
import json
import os

import numpy as np
import pytest
import torch
from broken_data import annotation, sound_set, write_pictures, write_rough_pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as MplPath
from PIL import Image
from pycocotools.coco import COCO
from test_data_coco import damaged_sets
from typer.testing import CliRunner
from unruly import COLOURS, NAMES, write_unruly

from fbnet_lesson import cli
from fbnet_lesson.data import CocoDataset, check_dataset, inspection
from fbnet_lesson.data.outlines import clip_polygon, signed_area


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def rough_folder(tmp_path_factory):
    return write_rough_pictures(tmp_path_factory.mktemp("rough") / "images")


@pytest.fixture(scope="module")
def unruly(tmp_path_factory):
    return write_unruly(tmp_path_factory.mktemp("unruly"))


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


# The unruly set


def test_the_unruly_set_has_the_defects_that_were_put_in_and_notes_for_the_rest(unruly):
    report = check_dataset(unruly.annotations, unruly.images)
    assert report.counts() == {
        "missing image": 1, "EXIF undecided": 1, "box outside the image": 1,
        "polygon outside the image": 1,
    }  # fmt: skip
    assert [d.where for d in report.defects] == [
        "image 107", "image 101", "annotation 19", "annotation 19",
    ]  # fmt: skip
    notes = "\n".join(report.notes)
    assert "2 of 36 objects have a box and no outline" in notes
    assert "1 images have no objects" in notes and "1 pictures are turned" in notes


def test_every_object_of_the_unruly_set_is_where_its_box_is(unruly):
    dataset = CocoDataset(unruly.annotations, unruly.images, on_defect="drop", exif="apply")
    assert dataset.category_ids == [5, 17, 90]
    assert dataset.categories == ["Nüsse", "Äpfel", "Birnen"] and len(dataset) == 13
    assert dataset.dropped_records == {"images": 0, "annotations": 0}
    for image, target in dataset:
        objects = unruly.objects[target["image_id"]]
        assert len(target["boxes"]) == len(objects)
        for label, box, mask, (category_id, (x, y, width, height)) in zip(
            target["labels"], target["boxes"], target["masks"], objects, strict=True
        ):
            assert dataset.category_ids[label] == category_id
            assert box.tolist() == [x, y, x + width, y + height] and mask.sum() == width * height
            inside = image[:, y + 2 : y + height - 2, x + 2 : x + width - 2].float().mean((1, 2))
            assert torch.allclose(inside, torch.tensor(COLOURS[category_id]).float(), atol=20)
    crowd = dataset[dataset.image_ids.index(103)][1]["iscrowd"]
    assert crowd.tolist() == [False, True, False]
    mixed = dataset[dataset.image_ids.index(102)][1]["has_mask"]
    assert mixed.tolist() == [False, False, True]


def test_check_and_fix_of_the_unruly_set_on_the_command_line(unruly, tmp_path):
    fixed = tmp_path / "fixed.json"
    plain = call("data", "check", unruly.annotations, "--images", unruly.images)
    assert plain.exit_code == 1 and "choose --exif ignore if" in plain.output
    result = call(
        "data", "check", unruly.annotations, "--images", unruly.images, "--exif", "apply",
        "--fix", fixed,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    repairs = lines[lines.index("repairs:") + 1 : -1]
    assert [line.split(":")[0].strip() for line in repairs] == [
        "image 107", "annotation 19", "annotation 19",
    ]  # fmt: skip
    assert lines[-1].endswith("no defects: 13 images, 36 annotations, 3 categories")
    (row,) = [line for line in lines if line.startswith("Birnen")]
    assert row.split() == ["Birnen", "11", "11", "11", "0", "0", "1"]
    truth = COCO(fixed)  # and pycocotools takes it
    assert len(truth.anns) == 36 and truth.loadCats([17])[0]["name"] == NAMES[17]


def test_the_fixed_set_trains_on_what_the_set_without_its_defects_does(unruly, tmp_path):
    fixed = tmp_path / "fixed.json"
    check_dataset(unruly.annotations, unruly.images, fix=fixed, exif="apply")
    ours = CocoDataset(fixed, unruly.images, exif="apply")
    theirs = CocoDataset(unruly.annotations, unruly.images, on_defect="drop", exif="apply")
    for (image, target), (other, known) in zip(ours, theirs, strict=True):
        assert torch.equal(image, other)
        assert all(torch.equal(target[k], known[k]) for k in ("boxes", "labels", "masks"))


# What is said


def test_the_command_refuses_what_cannot_be(folder, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(sound_set()))
    check = ["data", "check", tmp_path / "a.json", "--images", folder]
    for wrong, message in (
        (["--exif", "maybe"], "error: --exif maybe: allowed is ignore or apply"),
        (["--fix", tmp_path / "a.json"], "a.json is there already; give another name"),
    ):
        result = call(*check, *wrong)
        assert result.exit_code == 2 and message in result.stderr


def test_pictures_that_are_not_decoded_are_only_looked_for(rough_folder, tmp_path):
    data = sound_set()
    data["images"][2]["file_name"] = "text.png"
    (tmp_path / "a.json").write_text(json.dumps(data))
    check = ["data", "check", tmp_path / "a.json", "--images", rough_folder]
    assert call(*check).exit_code == 1
    assert call(*check, "--no-pictures").exit_code == 0


def test_objects_are_counted_by_class_and_size(tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "1.png")
    boxes = [(0, 0, 31, 33), (0, 0, 32, 32), (0, 0, 95, 96), (0, 0, 96, 96), (5, 5, 20, 20)]
    data = {
        "images": [{"id": 1, "file_name": "1.png", "width": 400, "height": 300}],
        "annotations": [annotation(i, box=box) for i, box in enumerate(boxes)],
        "categories": [{"id": 7, "name": "fig"}, {"id": 2, "name": "date"}],
    }
    data["annotations"][4]["iscrowd"] = 1
    report = check_dataset(data, tmp_path)
    assert report.class_table().splitlines() == [
        "class  objects  images  < 32 px  32-96 px  > 96 px  crowds",
        "-----  -------  ------  -------  --------  -------  ------",
        "date   0        0       0        0         0        0",
        "fig    4        1       1        2         1        1",
    ]
    assert report.notes == (
        "no object is of 'date': nothing can be learned or measured of it",
    )  # fmt: skip
    dataset = CocoDataset(data, tmp_path)
    assert dataset.class_counts() == {"date": 0, "fig": 4}


def test_names_that_differ_only_in_case_or_spaces_are_noted(folder):
    data = sound_set()
    data["categories"].append({"id": 8, "name": " Fig "})
    assert "the categories 'fig', ' Fig ' differ only in case or spaces: are they one?" in (
        check_dataset(data, folder).notes
    )


def test_the_same_picture_under_two_names_is_found_by_its_pixels(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))
    noise.save(tmp_path / "1.png")
    noise.save(tmp_path / "2.bmp")
    os.link(tmp_path / "1.png", tmp_path / "3.png")
    data = sound_set() | {"annotations": []}
    data["images"][1]["file_name"] = "2.bmp"
    report = check_dataset(data, tmp_path)
    assert [(d.kind, d.where, d.found) for d in report.defects] == [
        ("same picture twice", "image 2", "'2.bmp' is the picture of image 1 too"),
        ("same picture twice", "image 3", "'3.png' is the picture of image 1 too"),
    ]
    assert len(CocoDataset(data, tmp_path)) == 3  # that is for who trains to judge


def test_blank_pictures_are_no_copies_of_each_other(tmp_path):
    for i in (1, 2, 3):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{i}.png")
    assert check_dataset(sound_set() | {"annotations": []}, tmp_path).ok


def test_pictures_of_many_bits_are_said_to_be_scaled(tmp_path):
    for i, white in ((1, 4000), (2, 4000), (3, 60000)):
        values = np.linspace(0, white, 1200).astype(np.uint16).reshape(30, 40)
        Image.fromarray(values).save(tmp_path / f"{i}.png")
    assert check_dataset(sound_set(), tmp_path).notes == (
        "2 pictures of more than 8 bits: values from 0 to 4095 are read as 0 to 255",
        "1 pictures of more than 8 bits: values from 0 to 65535 are read as 0 to 255",
        "pictures of more than 8 bits are read by different ranges: save them with 8 bits to have "
        "equal values look equal",
        "1 images have no objects: they are taken to show none",
    )


def test_boxes_of_two_corners_are_seen_where_all_of_a_set_are(folder):
    data = sound_set()
    corners = [[5, 6, 15, 14], [20, 10, 38, 29], [9, 5, 39, 28]]
    data["annotations"] = [annotation(i, box=box, segmentation=[]) for i, box in enumerate(corners)]
    report = check_dataset(data, folder)
    assert report.counts() == {"box of two corners": 3}
    target = CocoDataset(data, folder, on_defect="drop")[0][1]
    assert target["boxes"].tolist() == corners
    data["annotations"][0]["bbox"] = [30, 6, 5, 14]  # which cannot be two corners
    assert check_dataset(data, folder).counts() == {"box outside the image": 2}


@pytest.mark.parametrize("empty", [[], [[]], None, {}, "none"])
def test_boxes_alone_are_written_in_many_ways(folder, empty):
    data = sound_set()
    for record in data["annotations"]:
        record["segmentation"] = empty
        if empty == "none":
            del record["segmentation"]
    assert check_dataset(data, folder).ok and not CocoDataset(data, folder).has_masks


def test_a_link_to_a_picture_elsewhere_is_a_picture(rough_folder):
    data = sound_set()
    data["images"][2]["file_name"] = "out.png"
    assert check_dataset(data, rough_folder).ok


def test_a_folder_of_pictures_that_is_itself_a_link_is_followed(rough_folder, tmp_path):
    os.symlink(rough_folder, tmp_path / "link")
    assert len(CocoDataset(sound_set(), tmp_path / "link")) == 3


def test_two_files_that_a_name_may_mean_are_none(tmp_path):
    write_pictures(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "A.png").write_bytes((tmp_path / "3.png").read_bytes())
    try:
        (tmp_path / "a.png").write_bytes((tmp_path / "2.png").read_bytes())
    except OSError:
        pytest.skip("upper and lower case are one here")
    if len(list(tmp_path.glob("[aA].png"))) < 2:
        pytest.skip("upper and lower case are one here")
    data = sound_set()
    data["images"][2]["file_name"] = "x/a.PNG"
    (defect,) = check_dataset(data, tmp_path).defects
    assert defect.kind == "missing image" and not defect.repair


# Polygons cut at the border


@given(st.lists(st.tuples(st.integers(-20, 60), st.integers(-20, 50)), min_size=3, max_size=3))
def test_a_clipped_triangle_has_the_area_that_is_inside(points):
    cut = clip_polygon([float(v) for point in points for v in point], (30, 40))
    y, x = (np.mgrid[0:120, 0:160] + 0.5) / 4
    inside = MplPath(points).contains_points(np.stack([x.ravel(), y.ravel()], 1)).mean() * 1200
    assert abs(abs(signed_area(cut)) - inside if cut else inside) < 25
    assert all(0 <= v <= (40, 30)[i % 2] for i, v in enumerate(cut))


def test_a_part_that_lies_outside_is_left_out_and_the_rest_kept(folder):
    data = sound_set()
    data["annotations"][0]["segmentation"].append([45, 5, 48, 5, 48, 8])
    assert CocoDataset(data, folder, on_defect="drop")[0][1]["masks"][0].sum() == 80


# Anything at all


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=damaged_sets())
def test_one_at_a_time_and_all_at_once_find_the_same(rough_folder, data):
    fast = inspection.Inspection(copy.deepcopy(data), rough_folder, exif="apply")
    with pytest.MonkeyPatch.context() as patch:  # every annotation is an odd one
        sort_out = inspection._sort_out

        def all_odd(records, others):
            regular, odd, left = sort_out(records, others)
            return [], sorted(regular + odd), left

        patch.setattr(inspection, "_sort_out", all_odd)
        slow = inspection.Inspection(copy.deepcopy(data), rough_folder, exif="apply")
    assert fast.defects == slow.defects and fast.notes == slow.notes
    assert np.array_equal(fast.objects.boxes, slow.objects.boxes)
    assert np.array_equal(fast.objects.ids, slow.objects.ids)
    for row in range(len(fast.objects)):
        assert fast.objects.rle(row, (30, 40)) == slow.objects.rle(row, (30, 40))


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=damaged_sets())
def test_whatever_the_damage_the_repaired_file_is_sound(rough_folder, tmp_path_factory, data):
    fixed = tmp_path_factory.mktemp("fixed") / "fixed.json"
    try:
        report = check_dataset(data, rough_folder, fix=fixed)
    except ValueError as refusal:
        assert "there is nothing to repair" in str(refusal)
        return
    assert check_dataset(fixed, rough_folder).ok
    if report.ok:
        assert json.loads(fixed.read_text()) == json.loads(json.dumps(data))
