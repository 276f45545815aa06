"""Mask head: which pixels of a box belong to the object? (FBNetV3IS; Mask R-CNN, 1703.06870)"""

import math

import torch
from torch import Tensor, nn

from fbnet_lesson.detection.config import DetectorConfig
from fbnet_lesson.detection.roi_align import Pooler, axis_weights
from fbnet_lesson.trunk import build_stage

ROIS = 20  # ROIs at once at evaluation: their feature maps stay in the cache
CHUNK = 2**20  # numbers held at once where every instance has its own full-size mask: 4 MB


class MaskHead(nn.Module):
    """Pool, blocks that end at twice the resolution, then one mask of logits a class.

    Where the resolution is odd and the blocks begin with a stride of 2, it is twice the next even
    number.
    Only the mask of one class a ROI is computed: the true one in training, the predicted one at
    evaluation. The last layer is a 1x1 convolution, so that one class is one row of its weights.
    With ``mask_class_agnostic`` there is one row for all classes.
    """

    def __init__(self, rows: str, in_channels: int, strides: list[int], config: DetectorConfig):
        super().__init__()
        self.pooler = Pooler(config.mask_pooler_resolution, strides, config.pooler_sampling_ratio)
        self.body, channels, _ = build_stage(rows, in_channels, config.norm)
        self.class_agnostic = config.mask_class_agnostic
        masks = 1 if self.class_agnostic else config.num_classes
        self.mask_logits = nn.Conv2d(channels, masks, 1)
        nn.init.normal_(self.mask_logits.weight, std=0.001)
        nn.init.zeros_(self.mask_logits.bias)

    def forward(self, features: list[Tensor], boxes: list[Tensor], labels: Tensor) -> Tensor:
        """``features`` one [N, C, H_l, W_l] a level, ``boxes`` N tensors [R_i, 4] in pixels,
        ``labels`` [R] the class of each ROI, R = sum of R_i. Returns logits ``[R, M, M]``.
        """
        pooled = self.pooler(features, boxes)
        if self.class_agnostic:
            labels = torch.zeros_like(labels)
        if self.training:  # the norms look at all ROIs together
            return self.class_logits(pooled, labels)
        parts = zip(pooled.split(ROIS), labels.split(ROIS), strict=True)
        return torch.cat([self.class_logits(*part) for part in parts])

    def class_logits(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """``pooled`` [R, C, P, P] -> [R, M, M], of each ROI the mask of its class."""
        x = self.body(pooled).permute(0, 2, 3, 1)  # (R, M, M, C), as it lies in memory
        weight = self.mask_logits.weight[labels].flatten(1)  # (R, C): each ROI's own class
        logits = x.flatten(1, 2) @ weight[..., None]  # (R, M * M, 1)
        return logits.reshape(x.shape[:3]) + self.mask_logits.bias[labels][:, None, None]


def crop_masks(masks: Tensor, index: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    """The mask head's targets: what a perfect mask of each box would be.

    ROIAlign of the full-size mask in the box, then a threshold at one half.

    Args:
        masks: [G, H, W] bool, one a ground truth; ``index`` [R] says which one a box is about.
        boxes: [R, 4] in pixels of the masks.

    Returns ``[R, resolution, resolution]`` bool.
    """
    height, width = masks.shape[1:]
    crops = []
    for part in _chunks(len(boxes), height * width):
        x1, y1, x2, y2 = boxes[part].unbind(1)
        along_y = axis_weights(y1, y2, resolution, height, sampling_ratio=0)  # (r, M, H)
        along_x = axis_weights(x1, x2, resolution, width, sampling_ratio=0)  # (r, M, W)
        crops.append(along_y @ masks[index[part]].to(boxes.dtype) @ along_x.transpose(1, 2))
    return torch.cat(crops) >= 0.5 if crops else masks.new_zeros(0, resolution, resolution)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Put each mask into its box on an empty picture, with bilinear interpolation.

    The pixel at (x, y) takes the mask's value at ``((x + 0.5 - x1) / (x2 - x1) * M - 0.5, ...)``;
    outside the mask there are zeros. Interpolation along y and along x are two matrix products.

    Args: ``masks`` [D, M, M], ``boxes`` [D, 4] in pixels, ``size`` (height, width) of the picture.
    Returns ``[D, height, width]``, of the dtype of ``masks``.
    """
    return _paste(masks, boxes, range(size[0]), range(size[1]))


def _paste(masks: Tensor, boxes: Tensor, rows: range, columns: range) -> Tensor:
    """``paste_masks`` into these rows and columns of the picture alone."""
    x1, y1, x2, y2 = boxes.to(masks.dtype).unbind(1)
    along_y = _paste_weights(y1, y2, masks.shape[1], rows)  # (D, height, M)
    along_x = _paste_weights(x1, x2, masks.shape[2], columns)  # (D, width, M)
    return along_y @ masks @ along_x.transpose(1, 2)


def _paste_weights(start: Tensor, end: Tensor, cells: int, pixels: range) -> Tensor:
    """How much each of a mask's cells contributes to each pixel: ``[D, pixels, cells]``.

    A box without extent shows nothing.
    """
    extent = (end - start)[:, None]
    first, stop = pixels.start, pixels.stop
    pixel = torch.arange(first, stop, dtype=start.dtype, device=start.device) + 0.5
    position = (pixel - start[:, None]) / extent * cells - 0.5  # (D, pixels), in cells
    cell = torch.arange(cells, dtype=start.dtype, device=start.device)
    weights = (1 - (position[..., None] - cell).abs()).clamp_(min=0)
    return weights.nan_to_num_(0.0) * (extent > 0)[..., None]


def binary_masks(logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the pasted probability is one half or more: ``[D, height, width]`` bool."""
    probabilities = logits.sigmoid()
    masks = torch.empty(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for part in _chunks(len(boxes), size[0] * size[1]):
        torch.ge(paste_masks(probabilities[part], boxes[part], size), 0.5, out=masks[part])
    return masks


def mask_in_box(
    logits: Tensor, box: Tensor, size: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """The part of a detection's mask that can be true: that in its box.

    ``logits`` [M, M], ``box`` [4] in pixels within a picture of ``size`` (height, width). Returns
    the mask ``[h, w]`` bool and the (row, column) of its first pixel: as ``binary_masks`` there,
    which is False elsewhere, as half a cell beyond the box the probability is under one half.
    """
    x1, y1, x2, y2 = box.tolist()
    rows = range(max(0, math.floor(y1)), min(size[0], math.ceil(y2)))
    columns = range(max(0, math.floor(x1)), min(size[1], math.ceil(x2)))
    pasted = _paste(logits[None].sigmoid(), box[None], rows, columns)[0]
    return pasted >= 0.5, (rows.start, columns.start)


def _chunks(count: int, numbers_each: int) -> list[slice]:
    """Slices of ``range(count)`` that hold at most ``CHUNK`` numbers."""
    step = max(1, CHUNK // max(1, numbers_each))
    return [slice(i, i + step) for i in range(0, count, step)]
