"""Decoded pictures are kept within a bound, once for all loader processes."""

import multiprocessing
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from fbnet_lesson.data import CocoDataset, ShapesDataset, write_coco
from fbnet_lesson.data.samples import PictureCache
from fbnet_lesson.training.sampling import as_lists


def parts(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (height, width, 3), np.uint8)
    masks = rng.random((count, height, width)) < 0.5
    return image, masks, rng.integers(-(2**62), 2**62, (count, 3))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)), max_size=6),
    st.integers(0, 99),
)
def test_what_comes_out_is_what_was_put_in(shapes, seed):
    cache, kept = PictureCache(6, 1), [parts(*shape, seed) for shape in shapes]
    for index, values in enumerate(kept):
        assert cache.get(index) is None
        cache.put(index, *values)
    for index, values in enumerate(kept):
        for value, again in zip(values, cache.get(index), strict=True):
            assert np.array_equal(value, again) and value.dtype == again.dtype


def test_no_more_is_kept_than_there_is_room_for():
    cache = PictureCache(10, 0.1)  # MB, of which a picture of 100 x 100 takes 30 KB
    for index in range(10):
        cache.put(index, *parts(0, 100, 100, seed=index))
    assert [cache.get(index) is not None for index in range(10)] == [True] * 3 + [False] * 7


@pytest.mark.parametrize("megabytes", [0, False])
def test_without_room_nothing_is_kept(megabytes):
    cache = PictureCache(2, megabytes)
    cache.put(0, *parts(1, 4, 5))
    assert cache.get(0) is None


def test_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="cache is -1; it must be megabytes, 0 or more"):
        PictureCache(2, -1)


def test_a_copy_in_a_new_process_is_empty_and_stays_so():
    cache = PictureCache(2, 1)
    cache.put(0, *parts(1, 4, 5))
    other = pickle.loads(pickle.dumps(cache))
    other.put(0, *parts(1, 4, 5))
    assert other.get(0) is None and cache.get(0) is not None


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked here"
)
def test_what_one_loader_process_has_read_the_others_have_too(tmp_path):
    path = write_coco(tmp_path, 8, size=(64, 64))
    dataset = CocoDataset(path, tmp_path / "images", cache=5)
    loader = DataLoader(
        dataset, 2, num_workers=2, collate_fn=as_lists, multiprocessing_context="fork"
    )
    first = [image for images, _ in loader for image in images]
    assert all(dataset._cache.get(index) is not None for index in range(8))
    for picture in (tmp_path / "images").iterdir():
        picture.unlink()
    again = [image for images, _ in loader for image in images]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_memory_ends_at_the_bound_however_many_pictures_are_read(tmp_path):
    path = write_coco(tmp_path, 60, size=(256, 256))  # 200 KB each
    dataset = CocoDataset(path, tmp_path / "images", cache=2)
    for index in range(len(dataset)):
        dataset[index]
    assert sum(dataset._cache.get(index) is not None for index in range(60)) in range(8, 11)
    assert 1.6e6 < int(dataset._cache._starts[0]) * 8 <= 2e6


def test_scenes_are_kept_within_the_same_bound():
    scenes, plain = ShapesDataset(9, size=(64, 64), cache=0.05), ShapesDataset(9, size=(64, 64))
    for _ in range(2):
        for (image, target), (other, known) in zip(scenes, plain, strict=True):
            assert np.array_equal(image, other)
            assert all(np.array_equal(target[k], known[k]) for k in ("masks", "labels", "iscrowd"))
    assert 0 < sum(scenes._cache.get(i) is not None for i in range(9)) < 9
