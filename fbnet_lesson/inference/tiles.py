"""Large photographs in tiles, so that small objects reach the network large enough."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fbnet_lesson.detection.boxes import box_area, intersections
from fbnet_lesson.detection.nms import PAIRS, nms
from fbnet_lesson.training.detecting import find_in

OVERLAP = 0.25  # of a tile: an object up to so large lies whole in one tile at least
BATCH = 8  # tiles at once
EDGE = 1 / 64  # of a tile: a box that ends so near to a cut is taken to be cut off by it
COVERED = 0.5  # of a cut box's area: a detection that covers so much is the same object


def tile_corners(size: tuple[int, int], edge: int) -> list[tuple[int, int]]:
    """The (row, column) of tiles of ``edge`` pixels that cover a picture, evenly spread."""

    def starts(length: int) -> list[int]:
        if length <= edge:
            return [0]
        count = -(-(length - edge) // max(1, int(edge * (1 - OVERLAP)))) + 1
        return [round(i * (length - edge) / (count - 1)) for i in range(count)]

    return [(y, x) for y in starts(size[0]) for x in starts(size[1])]


def detect_in_tiles(model: nn.Module, image: Tensor, edge: int) -> dict[str, Any]:
    """Detections in ``image`` [3, H, W] as ``Detector.detect`` gives them, in its own pixels.

    Looks at the whole picture, for what is larger than a tile, and at each tile of ``edge`` pixels,
    and keeps what ``merge`` does. A picture no larger than a tile is looked at once, as ever.
    """
    height, width = image.shape[1:]
    (whole,) = find_in(model, [image])
    if max(height, width) <= edge:
        return whole
    found = [whole | {"cut": torch.zeros_like(whole["labels"], dtype=torch.bool)}]
    corners = tile_corners((height, width), edge)
    for group in (corners[i : i + BATCH] for i in range(0, len(corners), BATCH)):
        tiles = [image[:, y : y + edge, x : x + edge].contiguous() for y, x in group]
        for (y, x), tile in zip(group, find_in(model, tiles), strict=True):
            tile["boxes"] = tile["boxes"] + tile["boxes"].new_tensor([x, y, x, y])
            tile["cut"] = cut_off(tile["boxes"], (y, x), edge, (height, width))
            found.append(tile)
    keys = found[0].keys() & {"boxes", "labels", "scores", "mask_logits", "cut"}
    merged = {key: torch.cat([part[key] for part in found]) for key in keys}
    threshold = model.config.nms_threshold
    keep = merge(merged["boxes"], merged["scores"], merged.pop("cut"), threshold)
    limits = {name for part in found[1:] for name in part.get("limits", ())}
    return {key: value[keep] for key, value in merged.items()} | {
        "size": (height, width),
        "limits": tuple(sorted(limits)),
    }


def cut_off(boxes: Tensor, corner: tuple[int, int], edge: int, size: tuple[int, int]) -> Tensor:
    """Which of the boxes of a tile, in the picture's pixels, end at a border of the tile that is
    none of the picture."""
    (top, left), (height, width) = corner, size
    near = EDGE * edge
    x1, y1, x2, y2 = boxes.unbind(1)
    cut = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if left > 0:
        cut |= x1 < left + near
    if top > 0:
        cut |= y1 < top + near
    if left + edge < width:
        cut |= x2 > left + edge - near
    if top + edge < height:
        cut |= y2 > top + edge - near
    return cut


def merge(boxes: Tensor, scores: Tensor, cut: Tensor, iou_threshold: float) -> Tensor:
    """The indices of the detections to keep, by falling score: each object once.

    Two tiles may take an object for two classes, and a part of it for a third. So NMS asks for no
    class here, and whole detections come first: one that is cut off (``cut`` [N]) stays only where
    none that is kept covers half of it, and it does not cover half of another part.
    """
    whole, parts = cut.logical_not().nonzero()[:, 0], cut.nonzero()[:, 0]
    whole = whole[nms(boxes[whole], scores[whole], iou_threshold)]
    parts = parts[nms(boxes[parts], scores[parts], iou_threshold)]
    step = max(1, PAIRS // max(1, len(whole)))
    apart = [chunk[~covered(boxes[chunk], boxes[whole]).any(1)] for chunk in parts.split(step)]
    kept: list[Tensor] = []
    for part in torch.cat([parts[:0], *apart]).split(1):  # few: objects that no tile has whole
        others, own = boxes[torch.cat([part[:0], *kept])], boxes[part]
        if not (covered(own, others).any() or covered(others, own).any()):
            kept.append(part)
    keep = torch.cat([whole, *kept])
    return keep[scores[keep].argsort(descending=True, stable=True)]


def covered(a: Tensor, b: Tensor) -> Tensor:
    """Whether half of a box of ``a`` [N, 4] is within one of ``b`` [M, 4]: bool [N, M]."""
    return intersections(a, b) >= COVERED * box_area(a)[:, None]
