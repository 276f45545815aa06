"""One training sample, as both datasets make it and the transforms change it.

A sample is ``(image, target)``: ``image`` is a ``tv_tensors.Image``, uint8 [3, H, W] RGB, and
``target`` a dict with ``boxes`` (``tv_tensors.BoundingBoxes``, xyxy, float32 [N, 4], pixels),
``labels`` (int64 [N]), ``masks`` (``tv_tensors.Mask``, bool [N, H, W]), ``iscrowd`` (bool [N])
and ``image_id`` (int). A box is the tight box of its mask: a mask that is one pixel at column 5
has x1 = 5 and x2 = 6.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def make_sample(image, masks, labels, iscrowd, image_id):
    """The sample of one picture, in the form both datasets hand out (see the module's text).

    image: uint8 [H, W, 3]; masks: bool [N, H, W]; labels: integers [N]; iscrowd: bool [N].
    All but ``masks`` are copied, so that a transform may change its sample and not a cache.
    """
    size = image.shape[:2]
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes_from_masks(masks)), format="XYXY", canvas_size=size
        ),
        "labels": torch.from_numpy(np.array(labels, np.int64)),
        "masks": tv_tensors.Mask(torch.from_numpy(masks)),
        "iscrowd": torch.from_numpy(np.array(iscrowd, bool)),
        "image_id": int(image_id),
    }
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


@dataclass(frozen=True)
class Packed:
    """A picture and its masks as a cache keeps them: one bit a mask pixel instead of a byte."""

    image: np.ndarray
    bits: np.ndarray
    labels: np.ndarray
    iscrowd: np.ndarray

    @classmethod
    def pack(cls, image, masks, labels, iscrowd):
        """Packs uint8 [H, W, 3] and bool [N, H, W]; ``unpack`` gives the same four back."""
        return cls(image, np.packbits(masks), np.asarray(labels), np.asarray(iscrowd))

    def unpack(self):
        shape = (len(self.labels), *self.image.shape[:2])
        bits = np.unpackbits(self.bits, count=int(np.prod(shape)))
        return self.image, bits.view(bool).reshape(shape), self.labels, self.iscrowd
