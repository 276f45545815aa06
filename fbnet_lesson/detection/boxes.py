"""Boxes: ``xyxy`` floats in pixels, x2 and y2 exclusive, so width is x2 - x1 without a +1."""

import math

import torch
from torch import Tensor

# A box may grow to at most 1000 / 16 = 62.5 times its anchor: exp of more would overflow.
SCALE_CLAMP = math.log(1000.0 / 16)


def box_area(boxes: Tensor) -> Tensor:
    """``[..., 4] -> [...]`` in square pixels; negative for a box turned inside out."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of ``a`` with every box of ``b``.

    ``[..., N, 4], [..., M, 4] -> [..., N, M]`` in 0..1; 0 where the intersection is empty, also
    for two boxes without area.
    """
    intersection = intersections(a, b)  # (N, M)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)


def intersections(a: Tensor, b: Tensor) -> Tensor:
    """``[..., N, 4], [..., M, 4] -> [..., N, M]``: the area that each two share, 0 or more."""
    ax1, ay1, ax2, ay2 = (c.unsqueeze(-1) for c in a.unbind(-1))  # (N, 1) each
    bx1, by1, bx2, by2 = (c.unsqueeze(-2) for c in b.unbind(-1))  # (1, M) each
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp_(min=0)  # (N, M)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp_(min=0)
    return width * height


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Move every corner into the image. ``[..., 4] -> [..., 4]``; ``size`` is (height, width)."""
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def nonempty(boxes: Tensor, min_size: float = 0.0) -> Tensor:
    """Which boxes are wider and higher than ``min_size`` pixels. ``[..., 4] -> [...]`` bool."""
    return ((boxes[..., 2:] - boxes[..., :2]) > min_size).all(-1)


def scale_boxes(boxes: Tensor, from_size: tuple[int, int], to_size: tuple[int, int]) -> Tensor:
    """Boxes of an image after it is resized. ``[N, 4] -> [N, 4]``; sizes are (height, width)."""
    y, x = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return boxes * boxes.new_tensor([x, y, x, y])


def centre_form(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """``[..., 4] xyxy -> (centre [..., 2], size [..., 2])``."""
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    """How to move each anchor onto its box: ``(dx, dy, dw, dh)`` (arXiv 1311.2524, app. C).

    ``dx = wx (x - x_a) / w_a``, ``dy = wy (y - y_a) / h_a``, ``dw = ww log(w / w_a)``,
    ``dh = wh log(h / h_a)``: x and y are centres, w and h width and height, those with a of the
    anchor; ``weights`` is (wx, wy, ww, wh). Floats ``[N, 4], [N, 4] -> [N, 4]``, without unit.

    ValueError if a box or an anchor, whichever row it is, has a width or height that is not > 0.
    """
    for name, given in (("boxes", boxes), ("anchors", anchors)):
        bad = ~nonempty(given)
        if bad.any():
            i = int(bad.nonzero()[0])
            raise ValueError(
                f"encode_boxes: {name}[{i}] is {given[i].tolist()}: width and height must be > 0"
            )
    (centre, size), (anchor_centre, anchor_size) = centre_form(boxes), centre_form(anchors)
    offset = (centre - anchor_centre) / anchor_size
    return torch.cat([offset, (size / anchor_size).log()], -1) * boxes.new_tensor(weights)


def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Move the anchors by ``deltas``, the inverse of ``encode_boxes``.

    ``[..., K, 4], [..., 1 or K, 4] -> [..., K, 4]``. ``dw`` and ``dh`` are clamped at
    ``log(1000 / 16)``.
    """
    deltas = deltas / deltas.new_tensor(weights)
    anchor_centre, anchor_size = centre_form(anchors)
    centre = anchor_centre + deltas[..., :2] * anchor_size
    half = 0.5 * anchor_size * deltas[..., 2:].clamp(max=SCALE_CLAMP).exp()
    return torch.cat([centre - half, centre + half], -1)
