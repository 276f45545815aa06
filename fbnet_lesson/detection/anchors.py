"""Anchors: the boxes of fixed shapes, one set on every cell of a feature map."""

import torch
from torch import Tensor, nn


def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    """The anchors of one cell, centred on (0, 0).

    ``size`` is the square root of the area in pixels, ``ratio`` is height / width; size is the
    outer loop. Returns ``[len(sizes) * len(ratios), 4]``.
    """
    boxes = []
    for size in sizes:
        for ratio in ratios:
            width = size / ratio**0.5
            height = width * ratio
            boxes.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(boxes)


def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """``cells`` [A, 4] put on every cell of a map of ``grid`` (height, width) cells.

    Centres are multiples of the stride (offset 0). Order: y slowest, then x, then anchor.
    Returns ``[height * width * A, 4]`` in image pixels.
    """
    height, width = grid
    y = torch.arange(height, dtype=cells.dtype, device=cells.device) * stride
    x = torch.arange(width, dtype=cells.dtype, device=cells.device) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)  # (H*W, 1, 4)
    return (shifts + cells).reshape(-1, 4)  # (H*W, A, 4) -> (H*W*A, 4)


class AnchorGenerator(nn.Module):
    """The anchors of all levels for feature maps of any shape, computed once a shape."""

    def __init__(
        self,
        sizes: tuple[tuple[float, ...], ...],
        ratios: tuple[float, ...],
        strides: list[int],
    ):
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(
                f"anchor_sizes has {len(sizes)} levels, the model has {len(strides)} feature maps"
            )
        self.strides = strides
        for level, level_sizes in enumerate(sizes):
            cells = cell_anchors(level_sizes, ratios)
            self.register_buffer(f"cells{level}", cells, persistent=False)
        self._cache: dict[tuple, list[Tensor]] = {}

    @property
    def per_cell(self) -> int:
        """Anchors on one cell, the same on every level."""
        return len(self.cells0)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """``features`` a list of [N, C, H_l, W_l]; returns a list of [H_l * W_l * A, 4]."""
        grids = tuple(tuple(f.shape[-2:]) for f in features)
        key = (grids, self.cells0.device, self.cells0.dtype)
        if key not in self._cache:
            if len(self._cache) > 16:  # images of many sizes: do not keep them all
                self._cache.clear()
            self._cache[key] = [
                grid_anchors(self.get_buffer(f"cells{level}"), grid, stride)
                for level, (grid, stride) in enumerate(zip(grids, self.strides, strict=True))
            ]
        return self._cache[key]
