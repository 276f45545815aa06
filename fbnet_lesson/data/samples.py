"""One training sample, as both datasets make it and the transforms change it.

A sample is ``(image, target)``: ``image`` is a ``tv_tensors.Image``, uint8 [3, H, W] RGB, and
``target`` a dict with ``boxes`` (``tv_tensors.BoundingBoxes``, xyxy, float32 [N, 4], pixels),
``labels`` (int64 [N]), ``masks`` (``tv_tensors.Mask``, bool [N, H, W]), ``iscrowd`` (bool [N])
and ``image_id`` (int). A box is the tight box of its mask: a mask that is one pixel at column 5
has x1 = 5 and x2 = 6. Where some objects have a box and no outline, ``has_mask`` (bool [N]) says
which have one; the mask of the others is the filled box. A place where objects may be that are
not told apart, or could not be used, is an object with ``iscrowd``.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torchvision import tv_tensors


def boxes_from_masks(masks):
    """The tight boxes of ``masks`` (bool [N, H, W]), xyxy, x2 and y2 exclusive: float32 [N, 4].

    Takes and returns a NumPy array. A mask without a pixel has the box (0, 0, 0, 0).
    """
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns = np.flatnonzero(mask.any(axis=0))
        rows = np.flatnonzero(mask.any(axis=1))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def make_sample(image, masks, labels, iscrowd, image_id, has_mask=None):
    """The sample of one picture, in the form both datasets hand out (see the module's text).

    image: uint8 [H, W, 3]; masks: bool [N, H, W]; labels: integers [N]; iscrowd, has_mask: bool
    [N]. All but ``masks`` are copied, so that a transform may change its sample and not a cache.
    """
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes_from_masks(masks)), format="XYXY", canvas_size=image.shape[:2]
        ),
        "labels": torch.from_numpy(np.array(labels, np.int64)),
        "masks": tv_tensors.Mask(torch.from_numpy(masks)),
        "iscrowd": torch.from_numpy(np.array(iscrowd, bool)),
        "image_id": int(image_id),
    }
    if has_mask is not None:
        target["has_mask"] = torch.from_numpy(np.array(has_mask, bool))
    planes = image.transpose(2, 0, 1).copy()  # (H, W, 3) -> (3, H, W)
    return tv_tensors.Image(torch.from_numpy(planes)), target


def encode_mask(mask):
    """``mask`` (bool [H, W]) as COCO's compressed RLE, its counts as text, ready for JSON."""
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def uncompressed_rle(rle):
    """The same mask with its counts as a list: runs of 0, 1, 0, ... down the columns."""
    pixels = mask_utils.decode(rle).ravel(order="F")
    starts = np.flatnonzero(np.diff(pixels, prepend=0))
    counts = np.diff(np.concatenate([[0], starts, [pixels.size]]))
    return {"size": list(rle["size"]), "counts": counts.tolist()}


CACHE_MB = 512


class PictureCache:
    """Pictures and their masks once decoded, in a bounded piece of memory.

    It is one for all processes: loaders that are forked off share it, and what one has read the
    others have too. (Where processes are started anew, as on macOS and Windows, theirs is empty
    and stays so.) What does not fit any more is not kept: a training passes through a data set in
    a new order each time, so that no picture is worth more than another. A mask pixel takes one
    bit.

    length: of the data set. megabytes: at most so many, True for ``CACHE_MB``, 0 or False for
    none; memory is taken as it is filled.
    """

    def __init__(self, length, megabytes):
        megabytes = CACHE_MB if megabytes is True else megabytes
        if not megabytes >= 0:
            raise ValueError(f"cache is {megabytes!r}; it must be megabytes, 0 or more")
        self._room = int(megabytes * 1e6) // 8
        with contextlib.suppress(OSError, OverflowError, ImportError):  # no memory: no cache
            self._words = np.frombuffer(mmap.mmap(-1, 8 * max(self._room, 1)), np.int64)
            self._starts = np.frombuffer(mmap.mmap(-1, 8 * (length + 1)), np.int64)
            self._lock = multiprocessing.Lock()
            return
        self._room = 0

    def __reduce__(self):
        return PictureCache, (0, 0)

    def get(self, index):
        """The (image, masks, objects) of ``put``, masks and objects as copies; None: not here."""
        if not self._room or not (start := int(self._starts[index + 1])):
            return None
        height, width, count, columns = self._words[start - 1 : start + 3].tolist()
        shape, start = (count, height, width), start + 3
        objects = self._words[start : start + count * columns].reshape(count, columns).copy()
        data = self._words[start + count * columns :].view(np.uint8)
        image = data[: height * width * 3].reshape(height, width, 3)
        pixels = count * height * width
        bits = data[image.size : image.size + -(-pixels // 8)]
        return image, np.unpackbits(bits, count=pixels).view(bool).reshape(shape), objects

    def put(self, index, image, masks, objects):
        """Keeps uint8 [H, W, 3], bool [N, H, W] and int64 [N, K], if there is room for them."""
        if not self._room:
            return
        bits = np.packbits(masks)
        size = 4 + objects.size + -(-(image.size + bits.size) // 8)
        with self._lock:  # the first word of ``_starts`` counts the words taken
            start = int(self._starts[0])
            if self._starts[index + 1] or start + size > self._room:
                return
            self._starts[0] = start + size
        head = [*image.shape[:2], *objects.shape]
        words = self._words[start : start + size]
        words[: 4 + objects.size] = np.concatenate([head, objects.ravel()])
        data = words[4 + objects.size :].view(np.uint8)
        data[: image.size], data[image.size : image.size + bits.size] = image.ravel(), bits
        self._starts[index + 1] = start + 1  # at the end: it is there as a whole or not at all
