"""ROIAlign as one sparse matrix product, and the pooler that chooses a pyramid level per box."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_lesson.detection.boxes import box_area

TAPS = 2**16  # cells and weights held at once where no gradient needs all of them: 512 KB


def axis_taps(
    start: Tensor, end: Tensor, bins: int, size: int, sampling_ratio: int, aligned: bool = True
) -> tuple[Tensor, Tensor]:
    """Which cells of one axis contribute to each bin of that axis, and how much.

    ROIAlign averages bilinear samples, and a bilinear sample is an interpolation along y times an
    interpolation along x: so is their average, and each axis can be looked at by itself.

    Args:
        start, end: [R] borders of the ROIs in cells of the feature map.
        bins: number of bins, ``size``: number of cells.
        sampling_ratio: samples a bin; 0 = adaptive, ``ceil((end - start) / bins)``.

    Returns ``cells`` [R, bins, T] int64, neighbours in 0..size-1, and their ``weights``
    [R, bins, T]. A bin's weights sum to 1, less where samples lie outside the map.
    """
    shift = 0.5 if aligned else 0.0  # the centre of cell 0 is at 0.5, its sample at 0
    start, end = start - shift, end - shift
    length = end - start
    if not aligned:
        length = length.clamp(min=1.0)  # the original ROIAlign stretches small ROIs to one cell
    bin_size = (length / bins)[:, None]  # (R, 1)
    if sampling_ratio > 0:
        count = torch.full_like(bin_size, sampling_ratio)
    else:
        count = bin_size.ceil().clamp(min=0)  # a ROI without extent takes no sample: zeros
    most = int(count.max()) if len(count) else 0
    divisor = count.clamp(min=1)
    sample = torch.arange(max(most, 1), dtype=start.dtype, device=start.device)
    in_bin = (sample + 0.5) * bin_size / divisor  # (R, S)
    bin_start = start[:, None] + torch.arange(bins, device=start.device) * bin_size  # (R, bins)
    position = bin_start[..., None] + in_bin[:, None]  # (R, bins, S)
    taken = (sample < count)[:, None] & (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    first = position.amin(-1, keepdim=True).floor()  # (R, bins, 1)
    reach = int((position.amax(-1, keepdim=True) - first).max()) + 2 if len(start) else 1
    cells = first + torch.arange(reach, dtype=start.dtype, device=start.device)  # (R, bins, T)
    hat = 1 - (position[..., None, :] - cells[..., None]).abs()  # (R, bins, T, S)
    weights = (hat.clamp_(min=0) * taken[..., None, :]).sum(-1) / divisor[..., None]
    return cells.clamp_(max=size - 1).long(), weights  # beyond the last cell the weights are 0


def axis_weights(
    start: Tensor, end: Tensor, bins: int, size: int, sampling_ratio: int, aligned: bool = True
) -> Tensor:
    """``axis_taps`` as a matrix ``[R, bins, size]``, zero for cells without part in a bin.

    With it, ROIAlign of one channel is two matrix products: ``along_y @ image @ along_x.T``.
    """
    cells, weights = axis_taps(start, end, bins, size, sampling_ratio, aligned)
    return weights.new_zeros(len(start), bins, size).scatter_add_(2, cells, weights)


def roi_align(
    features: Tensor,
    boxes: list[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Crop every box out of the feature map, resampled to a fixed grid, without rounding it.

    Each bin of the result is a weighted sum of a few cells, and a weight is the product of one
    along y and one along x. So the whole is a matrix with a row a bin and a column a cell, nearly
    all zeros, times the map as a matrix ``[cells, channels]``. ``embedding_bag`` is that product:
    it takes of each row only what is not zero, forward and backward.

    Args:
        features: [N, C, H, W]; channels last in memory spares a copy.
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
    cells_y, along_y = axis_taps(y1, y2, bins_y, h, sampling_ratio, aligned)  # (R, bins_y, Ty)
    cells_x, along_x = axis_taps(x1, x2, bins_x, w, sampling_ratio, aligned)  # (R, bins_x, Tx)
    counts = torch.tensor([len(b) for b in boxes], device=rois.device)
    image = torch.arange(n, device=rois.device).repeat_interleave(counts)
    rows = (image[:, None, None] * h + cells_y).int()  # rows of cells in the whole batch
    cells_x = cells_x.int()  # half the memory of int64
    table = features.permute(0, 2, 3, 1).reshape(n * h * w, c)
    along_y, along_x = along_y.to(table.dtype), along_x.to(table.dtype)

    def pool(part: slice) -> Tensor:
        cells = rows[part, :, None, :, None] * w + cells_x[part, None, :, None, :]
        weights = along_y[part, :, None, :, None] * along_x[part, None, :, None, :]
        # (R, bins_y, bins_x, Ty, Tx) -> one bag of Ty * Tx cells a bin
        return F.embedding_bag(
            cells.flatten(0, 2).flatten(1),
            table,
            per_sample_weights=weights.flatten(0, 2).flatten(1),
            mode="sum",
        )

    bins = bins_y * bins_x
    step = max(1, TAPS // (bins * cells_y.shape[2] * cells_x.shape[2]))
    if len(rois) <= 4 * step or (torch.is_grad_enabled() and table.requires_grad):
        pooled = pool(slice(None))
    else:
        pooled = table.new_empty(len(rois) * bins, c)
        for i in range(0, len(rois), step):
            pooled[i * bins : (i + step) * bins] = pool(slice(i, i + step))
    return pooled.reshape(len(rois), bins_y, bins_x, c).permute(0, 3, 1, 2)


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
        pooled, where = [], []
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            chosen = levels == level
            per_image = [b[c] for b, c in zip(boxes, chosen.split(counts), strict=True)]
            pooled.append(self._pool(feature, per_image, stride))
            where.append(chosen.nonzero().flatten())
        return torch.cat(pooled)[torch.cat(where).argsort()]

    def _pool(self, feature: Tensor, boxes: list[Tensor], stride: int) -> Tensor:
        return roi_align(feature, boxes, self.resolution, 1 / stride, self.sampling_ratio)
