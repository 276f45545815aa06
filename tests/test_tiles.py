"""Small objects of a large photograph are found in tiles, and each of them counts once."""

import numpy as np
import pytest
import torch
from PIL import Image

import fbnet_lesson as fl
from fbnet_lesson.data import ShapesDataset
from fbnet_lesson.detection.boxes import box_iou
from fbnet_lesson.inference.detections import find_small
from fbnet_lesson.inference.pictures import mask_of
from fbnet_lesson.inference.tiles import cut_off, merge, tile_corners

WIDTH, HEIGHT, SIDE, EDGE = 4000, 3000, 24, 128  # pixels


def photograph():
    """A picture with objects of ``SIDE`` pixels apart from each other, and their whole masks."""
    draws, scenes = np.random.default_rng(0), ShapesDataset(200, seed=5)
    pixels = draws.normal((150, 140, 125), 4, (HEIGHT, WIDTH, 3)).clip(0, 255).astype(np.uint8)
    places = [(y, x) for y in range(0, HEIGHT - 60, 160) for x in range(0, WIDTH - 60, 160)]
    boxes, masks = [], []
    for number, at in enumerate(draws.permutation(len(places))[: len(scenes)].tolist()):
        scene = scenes.scene(number)
        single = scene.masks & ~scene.iscrowd[:, None, None]
        border = single[:, [0, -1]].any((1, 2)) | single[:, :, [0, -1]].any((1, 2))
        whole = single[~border]
        if not whole.any():
            continue
        mask = whole[np.argmax(whole.sum((1, 2)))]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        factor = SIDE / max(mask[part].shape)
        size = [max(1, round(n * factor)) for n in mask[part].shape[::-1]]
        small = np.asarray(Image.fromarray(scene.image[part]).resize(size, Image.LANCZOS))
        shown = np.asarray(Image.fromarray(mask[part]).resize(size))
        y, x = np.array(places[at]) + draws.integers(0, 30, 2)
        pixels[y : y + size[1], x : x + size[0]][shown] = small[shown]
        boxes.append([x, y, x + size[0], y + size[1]])
        masks.append(shown)
    return Image.fromarray(pixels), torch.tensor(boxes, dtype=torch.float32), masks


@pytest.fixture(scope="module")
def model():
    return fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()


@pytest.fixture(scope="module")
def seen(model):
    """(boxes, masks, what is found in the whole picture, what is found in tiles)."""
    picture, boxes, masks = photograph()
    return boxes, masks, find_small(model, picture, 0.5), find_small(model, picture, 0.5, EDGE)


def on_a_seam(boxes):
    corners = tile_corners((HEIGHT, WIDTH), EDGE)
    cuts = [sorted({c[axis] + edge for c in corners for edge in (0, EDGE)}) for axis in (1, 0)]
    x, y = (torch.tensor(c, dtype=torch.float32) for c in cuts)
    across = (boxes[:, :1] < x) & (x < boxes[:, 2:3])
    return across.any(1) | ((boxes[:, 1:2] < y) & (y < boxes[:, 3:])).any(1)


def test_tiles_find_at_least_twice_as_many_small_objects(seen):
    boxes, _, whole, tiled = seen
    before, after = (
        (box_iou(f["boxes"], boxes) >= 0.5).any(0).float().mean() for f in (whole, tiled)
    )
    assert after >= max(2 * before, 0.9)


def test_no_object_on_a_seam_counts_twice_whatever_its_class(seen):
    boxes, _, _, tiled = seen
    seam = on_a_seam(boxes)
    assert seam.sum() > 40
    centres = (tiled["boxes"][:, :2] + tiled["boxes"][:, 2:]) / 2
    inside = ((centres[:, None] >= boxes[:, :2]) & (centres[:, None] <= boxes[:, 2:])).all(2)
    assert inside.sum(0).max() == 1


def test_the_masks_of_tiles_lie_on_their_objects(seen):
    boxes, masks, _, tiled = seen
    iou = box_iou(tiled["boxes"], boxes)
    overlaps = []
    for i, g in (iou >= 0.5).nonzero().tolist():
        mask, (top, left) = mask_of(tiled, i)
        x, y = boxes[g, :2].int().tolist()
        canvas = np.zeros((2, 80, 80), bool)  # of both, with 20 pixels around the object
        a, b = top - y + 20, left - x + 20
        canvas[0, a : a + mask.shape[0], b : b + mask.shape[1]] = mask.numpy()
        canvas[1, 20 : 20 + masks[g].shape[0], 20 : 20 + masks[g].shape[1]] = masks[g]
        overlaps.append(canvas.all(0).sum() / canvas.any(0).sum())
    assert len(overlaps) > 100 and np.median(overlaps) > 0.75


def test_a_box_ends_at_a_cut_only_where_the_picture_goes_on():
    boxes = torch.tensor([[0.0, 0, 20, 20], [100, 0, 128, 20], [0, 100, 20, 128]])
    assert cut_off(boxes, (0, 0), 128, (128, 300)).tolist() == [False, True, False]
    assert cut_off(boxes, (0, 0), 128, (300, 128)).tolist() == [False, False, True]


def test_a_part_goes_where_a_whole_one_covers_it_and_stays_where_none_does():
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 10, 20], [50, 0, 70, 20], [60, 0, 90, 20]])
    scores = torch.tensor([0.6, 0.9, 0.8, 0.7])
    cut = torch.tensor([False, True, True, True])
    assert merge(boxes, scores, cut, 0.5).tolist() == [2, 0]  # the last is the second's other half


def test_a_picture_no_larger_than_a_tile_is_looked_at_once(model):
    picture = Image.fromarray(ShapesDataset(1, seed=3).scene(0).image)
    whole, tiled = find_small(model, picture), find_small(model, picture, tiles=128)
    assert all(torch.equal(whole[k], tiled[k]) for k in ("boxes", "labels", "scores"))
