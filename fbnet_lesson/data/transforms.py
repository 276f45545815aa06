"""Augmentation of samples, built of ``torchvision.transforms.v2``.

Every random choice is drawn from torch's global generator: who seeds it before the call gets
the same sample again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .samples import boxes_from_masks

MIN_PIXELS = 12  # an instance that keeps fewer pixels on the canvas is left out
PADDING = (124, 116, 104)  # the mean colour of photographs: about 0 once normalised


def train_transform(
    size=(128, 128), scale_range=(0.5, 2.0), flip=0.5, colour=True, min_visible=0.25
):
    """The training transform: (image, target) of any size -> a sample of the fixed ``size``.

    size: (height, width) of the canvas, so that samples stack to a batch.
    scale_range: large-scale jitter; the picture is first fitted to the canvas, then scaled by a
        random factor of this range, and cropped or padded at random. None: fitted only.
    flip: probability of mirroring left to right. colour: change brightness, contrast,
        saturation and hue. min_visible: an instance of which the crop leaves less than this
        share is left out, and so is one of fewer than 12 pixels.

    Returns what ``eval_transform`` returns. A picture without instances stays valid: boxes
    [0, 4], masks [0, H, W]. Raises ValueError for an argument that cannot be.
    """
    if not 0 <= flip <= 1:
        raise ValueError(f"flip is {flip!r}; it is a probability and must be from 0 to 1")
    steps = [LargeScaleJitter(size, scale_range, min_visible), v2.RandomHorizontalFlip(flip)]
    if colour:
        steps.append(
            v2.RandomApply(
                [v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.04)], p=0.8
            )
        )
    return v2.Compose([*steps, ToPlainTensors()])


def eval_transform():
    """The transform for evaluation: only converts, leaves the size alone.

    Gives an image float32 [3, H, W] in 0 .. 1 and a target of plain tensors: ``boxes`` float32
    [N, 4], ``labels`` int64 [N], ``masks`` bool [N, H, W], ``iscrowd`` bool [N]; ``image_id``
    stays an int.
    """
    return ToPlainTensors()


class LargeScaleJitter(nn.Module):
    """Scales a sample by a random factor and cuts or pads it to a canvas of fixed size.

    Crops before it resizes, so that the cost is that of the canvas and not of the enlarged
    picture. Masks are sampled at pixel centres (nearest). Boxes become the tight boxes of the
    masks that are left. (Ghiasi et al., arXiv 2012.07177, section 3.)
    """

    def __init__(self, size, scale_range=(0.5, 2.0), min_visible=0.25):
        super().__init__()
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size is {size!r}; it must be (height, width), 1 or more each")
        if scale_range is not None and not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(
                f"scale_range is {scale_range!r}; it must be (low, high) with 0 < low <= high, "
                "or None"
            )
        if not 0 <= min_visible <= 1:
            raise ValueError(f"min_visible is {min_visible!r}; it must be from 0 to 1")
        self.size, self.scale_range = (int(size[0]), int(size[1])), scale_range
        self.min_visible = min_visible

    def extra_repr(self):
        return f"{self.size}, scale_range={self.scale_range}, min_visible={self.min_visible}"

    def forward(self, image, target):
        spans = self._draw(image.shape[-2:])
        (top, height, y, out_height), (left, width, x, out_width) = spans
        canvas = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(1, *self.size)
        crop = image.as_subclass(torch.Tensor)[:, top : top + height, left : left + width]
        canvas[:, y : y + out_height, x : x + out_width] = F.resize(
            crop, [out_height, out_width], antialias=True
        )
        masks, kept = self._move_masks(target, spans)
        boxes = torch.from_numpy(boxes_from_masks(masks.numpy()))
        of_each = ("labels", "iscrowd", "has_mask")
        return tv_tensors.Image(canvas), {
            **target,
            **{name: target[name][kept] for name in of_each if name in target},
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=self.size),
            "masks": tv_tensors.Mask(masks),
        }

    def _draw(self, image_size):
        """For rows and for columns: (start and length in the picture, start and length on the
        canvas), all whole pixels."""
        factor = min(c / n for c, n in zip(self.size, image_size, strict=True))
        scale, *places = torch.rand(3).tolist()
        if self.scale_range is None:
            places = [0.0, 0.0]
        else:
            low, high = self.scale_range
            factor *= low + (high - low) * scale
        spans = []
        for canvas, length, place in zip(self.size, image_size, places, strict=True):
            out = max(1, round(length * factor))
            if out <= canvas:
                spans.append((0, length, round(place * (canvas - out)), out))
            else:
                part = min(length, max(1, round(canvas / factor)))
                spans.append((round(place * (length - part)), part, 0, canvas))
        return spans

    def _move_masks(self, target, spans):
        """The masks on the canvas that show enough, and the indices of their instances."""
        (top, height, y, out_height), (left, width, x, out_width) = spans
        masks = target["masks"].as_subclass(torch.Tensor)
        boxes = target["boxes"].as_subclass(torch.Tensor)
        near = (
            (boxes[:, 0] < left + width)
            & (boxes[:, 2] > left)
            & (boxes[:, 1] < top + height)
            & (boxes[:, 3] > top)
        ).nonzero()[:, 0]
        rows = top + _nearest(height, out_height)
        columns = left + _nearest(width, out_width)
        moved = torch.zeros(len(near), *self.size, dtype=torch.bool)
        moved[:, y : y + out_height, x : x + out_width] = masks[
            near[:, None, None], rows[:, None], columns
        ]
        inside = _areas(masks[:, top : top + height, left : left + width])[near]
        enough = inside >= self.min_visible * _areas(masks)[near]
        enough &= _areas(moved) >= MIN_PIXELS
        return moved[enough], near[enough]


def _nearest(length, out_length):
    """For each of ``out_length`` pixels, the one of ``length`` that its centre falls into."""
    return ((2 * torch.arange(out_length) + 1) * length) // (2 * out_length)


def _areas(masks):
    """Pixels of each mask; NumPy counts a bool array many times faster than torch sums it."""
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)


class ToPlainTensors(nn.Module):
    """Turns a sample of tv_tensors into plain tensors, the image into float32 in 0 .. 1."""

    def forward(self, image, target):
        image = image.as_subclass(torch.Tensor)
        plain = {
            name: value.as_subclass(torch.Tensor) if isinstance(value, torch.Tensor) else value
            for name, value in target.items()
        }
        return image / 255, plain
