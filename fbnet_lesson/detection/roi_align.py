"""ROIAlign as two small matrix products, and the pooler that chooses a pyramid level per box."""

import torch
from torch import Tensor, nn

from fbnet_lesson.detection.boxes import box_area


def axis_weights(
    start: Tensor, end: Tensor, bins: int, size: int, sampling_ratio: int, aligned: bool = True
) -> Tensor:
    """How much each cell of one axis contributes to each bin of that axis.

    ROIAlign averages bilinear samples, and a bilinear sample is an interpolation along y times an
    interpolation along x: so is their average, and one axis can be done after the other.

    Args:
        start, end: [R] borders of the ROIs in cells of the feature map.
        bins: number of bins, ``size``: number of cells.
        sampling_ratio: samples a bin; 0 = adaptive, ``ceil((end - start) / bins)``.

    Returns ``[R, bins, size]``; a row sums to 1, less where samples lie outside the map.
    """
    shift = 0.5 if aligned else 0.0  # the centre of cell 0 is at 0.5, its sample at 0
    start, end = start - shift, end - shift
    length = end - start
    if not aligned:
        length = length.clamp(min=1.0)  # the original ROIAlign stretches small ROIs to one cell
    bin_size = length / bins
    if sampling_ratio > 0:
        count = torch.full_like(length, sampling_ratio)
    else:
        count = bin_size.ceil().clamp(min=0)  # a ROI without extent takes no sample: zeros
    most = int(count.max()) if len(count) else 0
    cells = torch.arange(size, dtype=start.dtype, device=start.device)
    bin_index = torch.arange(bins, dtype=start.dtype, device=start.device)
    weights = start.new_zeros(len(start), bins, size)
    for sample in range(most):
        position = (
            start[:, None]
            + bin_index * bin_size[:, None]
            + ((sample + 0.5) * bin_size / count.clamp(min=1))[:, None]
        )  # (R, bins)
        taken = (sample < count)[:, None] & (position >= -1) & (position <= size)
        position = position.clamp(0, size - 1)
        hat = (1 - (position[..., None] - cells).abs()).clamp_(min=0)  # (R, bins, size)
        weights += hat * taken[..., None]
    return weights / count.clamp(min=1)[:, None, None]


def roi_align(
    features: Tensor,
    boxes: list[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Crop every box out of the feature map, resampled to a fixed grid, without rounding it.

    Args:
        features: [N, C, H, W].
        boxes: N tensors [R_i, 4] in image pixels; ``spatial_scale`` is cells per pixel, 1 / stride.
        output_size: bins, one number or (height, width).
        sampling_ratio: samples a bin and axis; 0 = adaptive, one a cell that the bin covers.
        aligned: True puts pixel centres at half-integers (ROIAlign V2), False as first published.

    Returns ``[sum of R_i, C, height, width]`` (channels last in memory), the ROIs in the order of
    the images. Source: Mask R-CNN (arXiv 1703.06870, sec. 3, "RoIAlign").
    """
    if len(boxes) != len(features):
        raise ValueError(f"roi_align: {len(boxes)} lists of boxes for {len(features)} images")
    bins_y, bins_x = (output_size,) * 2 if isinstance(output_size, int) else output_size
    n, c, h, w = features.shape
    counts = [len(b) for b in boxes]
    # Half precision knows coordinates over 256 to a pixel or worse: positions stay in float32.
    positions = torch.promote_types(features.dtype, torch.float32)
    rois = torch.cat(boxes).to(positions) * spatial_scale  # (R, 4)
    x1, y1, x2, y2 = rois.unbind(1)
    if sampling_ratio == 0 and aligned:
        # The number of samples is a product over the axes: no extent in one, no sample at all.
        # Extents are taken after the shift by half a cell, as the original does: there, a hair's
        # breadth rounds to nothing.
        extent = (rois[:, 2:] - 0.5) - (rois[:, :2] - 0.5)
        empty = (extent <= 0).any(1)
        x2, y2 = torch.where(empty, x1, x2), torch.where(empty, y1, y2)
    along_y = axis_weights(y1, y2, bins_y, h, sampling_ratio, aligned)  # (R, bins_y, H)
    along_x = axis_weights(x1, x2, bins_x, w, sampling_ratio, aligned)  # (R, bins_x, W)
    along_y, along_x = along_y.to(features.dtype), along_x.to(features.dtype)
    rows = features.permute(0, 2, 3, 1).reshape(n, h, w * c)  # (N, H, W*C)
    pooled = torch.cat(
        [a.reshape(-1, h) @ image for a, image in zip(along_y.split(counts), rows, strict=True)]
    )  # (R*bins_y, W*C)
    pooled = pooled.reshape(-1, bins_y, w, c)
    pooled = along_x[:, None] @ pooled  # (R, bins_y, bins_x, C)
    return pooled.permute(0, 3, 1, 2)  # (R, C, bins_y, bins_x)


def assign_levels(boxes: Tensor, first: int, last: int) -> Tensor:
    """The pyramid level of each box: 4 for 224 pixels, one less for half of that.

    ``level = floor(4 + log2(sqrt(area) / 224))``, clamped to ``first..last`` (arXiv 1612.03144,
    eq. 1). ``[R, 4] -> [R]`` int64, 0 for ``first``.
    """
    level = torch.floor(4 + torch.log2(box_area(boxes).sqrt() / 224 + 1e-8))
    return level.clamp(first, last).to(torch.int64) - first


class Pooler(nn.Module):
    """``roi_align`` on the one feature map, or on the pyramid level that fits each box."""

    def __init__(self, resolution: int, strides: list[int], sampling_ratio: int = 0):
        super().__init__()
        self.resolution, self.strides, self.sampling_ratio = resolution, strides, sampling_ratio

    def extra_repr(self) -> str:
        return f"resolution={self.resolution}, strides={self.strides}"

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """``features`` one [N, C, H_l, W_l] a level, ``boxes`` N tensors [R_i, 4] in pixels.

        Returns ``[sum of R_i, C, resolution, resolution]``.
        """
        if len(features) == 1:
            return self._pool(features[0], boxes, self.strides[0])
        first = self.strides[0].bit_length() - 1  # log2 of the finest stride
        counts = [len(b) for b in boxes]
        levels = assign_levels(torch.cat(boxes), first, first + len(features) - 1)
        pooled = features[0].new_zeros(
            sum(counts), features[0].shape[1], self.resolution, self.resolution
        )
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            chosen = levels == level
            per_image = [b[c] for b, c in zip(boxes, chosen.split(counts), strict=True)]
            where = chosen.nonzero().flatten()
            if len(where):
                pooled = pooled.index_copy(0, where, self._pool(feature, per_image, stride))
        return pooled

    def _pool(self, feature: Tensor, boxes: list[Tensor], stride: int) -> Tensor:
        return roi_align(feature, boxes, self.resolution, 1 / stride, self.sampling_ratio)
