"""The scenes: the same bytes everywhere, masks exact, what the card of ``shapes`` promises."""

import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy._core._multiarray_umath import __cpu_dispatch__
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from torchvision import tv_tensors

from fbnet_lesson.data import CATEGORIES, ShapesDataset, render_scene, write_coco
from fbnet_lesson.data.shapes import (
    AREAS,
    MIN_PIXELS,
    MIN_VISIBLE,
    TABLE_COLOURS,
    Draws,
    Part,
    Piece,
    _colours,
    _lay_out,
)

SHIPPED = Path(__file__).parent.parent / "data" / "shapes"
SCENES = 150


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(3, i) for i in range(SCENES)]


def digest(scene):
    parts = (scene.image, scene.masks, scene.labels.astype("<i8"), scene.iscrowd)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]


DIGESTS = {
    (0, 0): "ead51f8d65f80917",
    (0, 1): "55fe95f460c5505f",
    (0, 28): "05002a9537a95dc5",
    (1, 0): "f7fca4757d83f09d",
    (150, 11): "b0dfc2caf551dd83",
    (18446744073709551615, 18446744073709551615): "7579a63986f779ed",
    (5, 6, (64, 200)): "5f7e9728d0f180a1",
    (5, 7, (240, 320)): "e5b8137bbd8f4bf2",
}


@pytest.mark.parametrize(("key", "expected"), DIGESTS.items())
def test_a_scene_has_the_same_bytes_on_every_machine(key, expected):
    assert digest(render_scene(*key)) == expected


def test_a_scene_does_not_depend_on_the_vector_instructions_of_the_processor():
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__\n"
        "from test_data_shapes import DIGESTS, digest, render_scene\n"
        "assert not any(__cpu_features__[name] for name in __cpu_dispatch__)\n"
        "assert all(digest(render_scene(*k)) == v for k, v in DIGESTS.items())\n"
    )
    features = " ".join(__cpu_dispatch__)  # without them NumPy runs its plain loops
    env = {**os.environ, "NPY_DISABLE_CPU_FEATURES": features}
    command = [sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(command, env=env, check=True, cwd=Path(__file__).parent.parent)


def test_other_seeds_and_indices_give_other_scenes(scenes):
    some = [digest(s) for s in scenes[:20]] + [digest(render_scene(4, i)) for i in range(20)]
    assert len(set(some)) == 40


def test_random_words_are_those_of_the_published_philox():
    """The known answer of Random123's Philox 4x64-10 for counter 0 and key 0."""
    philox = np.random.Philox(counter=2**256 - 1, key=0)  # NumPy counts up before it draws
    assert [hex(word) for word in philox.random_raw(4).tolist()] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]


def test_a_draw_is_its_random_word_scaled():
    words = np.random.Philox(counter=[0, 0, 0, 1], key=np.array([7, 9], np.uint64)).random_raw(2)
    draws = Draws(7, 9, stream=1)
    assert draws.uniform() == (int(words[0]) >> 11) / 2**53
    assert draws.below(1000) == int(words[1]) * 1000 // 2**64


def test_a_direction_has_length_one():
    draws = Draws(0, 0, stream=0)
    assert all(abs(math.hypot(*draws.direction()) - 1) < 1e-15 for _ in range(100))


def test_masks_are_disjoint_and_large_enough_to_see(scenes):
    for scene in scenes:
        assert scene.masks.sum(axis=0).max(initial=0) <= 1
        assert all(mask.sum() >= MIN_PIXELS for mask in scene.masks)
        assert len(scene.masks) == len(scene.labels) == len(scene.iscrowd)


def test_border_and_other_pieces_leave_more_than_half_of_a_piece():
    for index in range(SCENES):
        pieces, owner = _lay_out(Draws(3, index, stream=0), (128, 128))
        for i, piece in enumerate(pieces):
            rows, columns = piece.window(owner.shape, 0.0)
            inside = np.count_nonzero(piece.distance(rows, columns) <= 0)
            assert inside >= MIN_VISIBLE * piece.area()
            assert np.count_nonzero(owner == i) >= MIN_VISIBLE * inside


@pytest.mark.parametrize("table", TABLE_COLOURS.tolist())
def test_pieces_differ_in_colour_from_the_table_and_from_each_other(table):
    colours = [c.tolist() for c in itertools.islice(_colours(Draws(0, 0, stream=0), table), 6)]
    assert len(set(map(tuple, colours))) == 6
    assert all(np.abs(np.subtract(colour, table)).sum() > 0.7 for colour in colours)


@pytest.mark.parametrize("kind", CATEGORIES)
def test_a_mask_has_the_area_of_its_shape(kind):
    part = Part(kind, 100.3, 99.6, 80.0, (0.8, 0.6))
    rows, columns = Piece((part,)).window((200, 200), 0.0)
    pixels = np.count_nonzero(part.distance(rows, columns) <= 0)
    assert pixels == pytest.approx(AREAS[kind] * 80**2, rel=0.01)


@pytest.mark.parametrize("kind", CATEGORIES)
def test_a_distance_changes_by_one_a_pixel_at_the_outline(kind):
    part = Part(kind, 64.2, 63.9, 50.0, (0.96, 0.28))
    distance = part.distance(range(128), range(128))
    slope = np.hypot(*np.gradient(distance))
    # Corners and mitred edges apart: there a central difference sees two sides at once.
    at_the_outline = slope[np.abs(distance) < 1]
    assert np.median(at_the_outline) == pytest.approx(1, abs=0.02)
    assert at_the_outline.max() < 1.02


@pytest.mark.parametrize("kind", CATEGORIES)
def test_a_shape_fits_the_circle_of_its_radius_and_touches_it_nearly(kind):
    part = Part(kind, 128.0, 128.0, 100.0, (1.0, 0.0))
    rows, columns = np.nonzero(part.distance(range(256), range(256)) <= 0)
    reach = np.hypot(rows + 0.5 - 128, columns + 0.5 - 128).max()
    assert 95 < reach < 106


def test_a_mask_covers_what_differs_from_the_table(scenes):
    """Inside a piece the picture has the colour of the piece, just outside another."""
    steps = []
    for scene in scenes:
        image = scene.image.astype(int)
        for mask, crowd in zip(scene.masks, scene.iscrowd, strict=True):
            others = scene.masks.any(axis=0) & ~mask
            if crowd or mask.sum() < 200 or others.any():
                continue
            outside = ~mask & _grown(mask, 3)
            inside = mask & ~_grown(~mask, 2)
            contrast = image[inside].mean(axis=0) - image[outside].mean(axis=0)
            steps.append(np.abs(contrast).sum())
    assert len(steps) > 15
    assert min(steps) > 60


def _grown(mask, pixels):
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1]
        mask = mask | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def test_scenes_vary_as_the_card_says(scenes):
    pieces = Counter(len(scene.labels) for scene in scenes)
    labels = Counter(int(label) for scene in scenes for label in scene.labels)
    across = [
        max(np.ptp(np.nonzero(m)[0]), np.ptp(np.nonzero(m)[1])) + 1
        for scene in scenes
        for m, crowd in zip(scene.masks, scene.iscrowd, strict=True)
        if not crowd
    ]
    at_border = sum(m[[0, -1]].any() or m[:, [0, -1]].any() for s in scenes for m in s.masks)
    assert pieces[0] >= 2 and max(pieces) >= 6
    assert sum(scene.iscrowd.sum() for scene in scenes) >= 5
    assert len(labels) == len(CATEGORIES) and min(labels.values()) > 0.6 * max(labels.values())
    assert min(across) < 16 and max(across) > 70 and 24 < np.median(across) < 48
    assert at_border > 0.15 * len(across)


def test_a_crowd_is_many_tiny_pieces_of_one_category(scenes):
    crowds = [m for s in scenes for m, crowd in zip(s.masks, s.iscrowd, strict=True) if crowd]
    for mask in crowds:
        runs = np.diff(np.pad(mask, ((0, 0), (1, 0))).astype(int), axis=1) == 1
        assert runs.sum() >= 15  # a single piece of that height would have fewer starts
        assert 40 < mask.sum() < 1500


@pytest.mark.parametrize("size", [(32, 32), (64, 200), (240, 320)])
def test_any_size_can_be_rendered(size):
    scenes = [render_scene(0, i, size) for i in range(6)]
    assert {s.image.shape for s in scenes} == {(*size, 3)}
    assert {s.masks.shape[1:] for s in scenes} == {size}
    assert sum(len(s.labels) for s in scenes) > 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0), "seed is -1; it must be a whole number from 0"),
        ((0, 2**64), "index is 18446744073709551616"),
        ((0, 0, (16, 128)), r"size is \(16, 128\); it must be \(height, width\)"),
        ((0, 0, (128,)), "two whole numbers of pixels"),
        ((0, 0, 128), "size is 128"),
        ((1.5, 0), "seed is 1.5"),
    ],
)
def test_an_impossible_scene_is_refused_with_its_reason(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_scene(*arguments)


def test_a_sample_keeps_the_contract():
    dataset = ShapesDataset(30, seed=3)
    for image, target in dataset:
        count = len(target["labels"])
        assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8
        assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
        assert isinstance(target["masks"], tv_tensors.Mask)
        assert image.shape == (3, 128, 128) and target["masks"].shape == (count, 128, 128)
        assert target["boxes"].shape == (count, 4) and target["boxes"].dtype == torch.float32
        assert target["masks"].dtype == target["iscrowd"].dtype == torch.bool
        assert target["labels"].dtype == torch.int64 and isinstance(target["image_id"], int)
    assert len(dataset) == 30 and dataset[-1][1]["image_id"] == 29
    assert dataset.category_ids == [1, 2, 3, 4, 5, 6] and dataset.categories == list(CATEGORIES)
    with pytest.raises(IndexError):
        dataset[30]


def test_a_box_is_tight_about_its_mask():
    for _, target in ShapesDataset(20, seed=3):
        for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
            x1, y1, x2, y2 = box
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum()
            assert inside[0].any() and inside[-1].any()
            assert inside[:, 0].any() and inside[:, -1].any()


def test_a_cached_sample_is_the_rendered_one_even_after_it_was_changed():
    plain, cached = ShapesDataset(8, seed=3), ShapesDataset(8, seed=3, cache=True)
    for _ in range(2):
        for (image, target), (other_image, other) in zip(plain, cached, strict=True):
            assert torch.equal(image, other_image)
            assert all(torch.equal(target[k], other[k]) for k in ("boxes", "masks", "labels"))
            assert torch.equal(target["iscrowd"], other["iscrowd"])
            other_image.zero_()
            other["masks"].zero_()
            other["labels"].zero_()
            other["iscrowd"].fill_(True)


def test_a_transform_is_applied_to_the_sample():
    dataset = ShapesDataset(1, transform=lambda image, target: (image + 1, target["image_id"]))
    plain = ShapesDataset(1)
    assert torch.equal(dataset[0][0], plain[0][0] + 1) and dataset[0][1] == 0


def test_a_dataset_without_scenes_is_refused():
    with pytest.raises(ValueError, match="length is 0; it must be a whole number of scenes"):
        ShapesDataset(0)


def load_coco(dataset):
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def test_the_ground_truth_is_what_pycocotools_reads_back():
    dataset = ShapesDataset(30, seed=3)
    coco = load_coco(dataset.coco_ground_truth())
    for image_id, (_, target) in zip(dataset.image_ids, dataset, strict=True):
        annotations = coco.imgToAnns[image_id]
        masks = [coco.annToMask(a) for a in annotations]
        boxes = [[a["bbox"][0], a["bbox"][1], *_corner(a["bbox"])] for a in annotations]
        assert np.array_equal(np.array(masks).reshape(-1, 128, 128), target["masks"].numpy())
        assert boxes == target["boxes"].tolist()
        assert [a["category_id"] - 1 for a in annotations] == target["labels"].tolist()
        assert [a["area"] for a in annotations] == [int(m.sum()) for m in masks]
        assert [bool(a["iscrowd"]) for a in annotations] == target["iscrowd"].tolist()


def _corner(bbox):
    x, y, width, height = bbox
    return x + width, y + height


def test_a_written_set_holds_the_rendered_scenes(tmp_path):
    path = write_coco(tmp_path / "new" / "set", images=6, seed=150, size=(64, 96))
    coco = load_coco(json.loads(path.read_text()))
    assert sorted(coco.imgs) == [0, 1, 2, 3, 4, 5]
    for record in coco.anns.values():  # of a crowd uncompressed, as in COCO
        assert isinstance(record["segmentation"]["counts"], list if record["iscrowd"] else str)
    assert sum(record["iscrowd"] for record in coco.anns.values()) == 1
    for image_id, record in coco.imgs.items():
        scene = render_scene(150, image_id, (64, 96))
        picture = np.asarray(Image.open(path.parent / "images" / record["file_name"]))
        assert np.array_equal(picture, scene.image)
        masks = [coco.annToMask(a) for a in coco.imgToAnns[image_id]]
        assert np.array_equal(np.array(masks).reshape(-1, 64, 96), scene.masks)
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]


def test_writing_that_is_broken_off_leaves_no_annotations_and_no_half_file(tmp_path, monkeypatch):
    write_coco(tmp_path, images=2)
    calls = iter(range(10))
    save = Image.Image.save

    def breaks(picture, file, *arguments, **options):
        if next(calls) == 1:
            file.write(b"half")
            raise KeyboardInterrupt
        save(picture, file, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", breaks)
    with pytest.raises(KeyboardInterrupt):
        write_coco(tmp_path, images=3, seed=9)
    names = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert names == ["000000.png", "000001.png"]


def test_a_written_set_of_no_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images is 0; it must be a whole number of scenes"):
        write_coco(tmp_path, images=0)


def test_the_shipped_set_is_what_the_generator_makes_now(tmp_path):
    shipped = json.loads((SHIPPED / "annotations.json").read_text())
    info = shipped["info"]
    path = write_coco(tmp_path, info["images"], info["seed"], tuple(info["size"]))
    assert json.loads(path.read_text()) == shipped
    for record in shipped["images"]:
        old, new = (
            np.asarray(Image.open(folder / "images" / record["file_name"]))
            for folder in (SHIPPED, tmp_path)
        )
        assert np.array_equal(old, new)


def test_the_shipped_set_is_small_and_shows_a_crowd_and_an_empty_picture():
    shipped = json.loads((SHIPPED / "annotations.json").read_text())
    assert sum(p.stat().st_size for p in SHIPPED.rglob("*")) < 600_000
    with_pieces = {a["image_id"] for a in shipped["annotations"]}
    crowds = [a["segmentation"] for a in shipped["annotations"] if a["iscrowd"]]
    assert len(shipped["images"]) - len(with_pieces) == 1
    assert len(crowds) == 2 and all(isinstance(c["counts"], list) for c in crowds)
    first = mask_utils.decode(mask_utils.frPyObjects(crowds[0], 128, 128))
    assert first.sum() == [a["area"] for a in shipped["annotations"] if a["iscrowd"]][0]
