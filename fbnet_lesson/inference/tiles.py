"""Large photographs in tiles, so that small objects reach the network large enough."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fbnet_lesson.detection.boxes import box_area, intersections
from fbnet_lesson.detection.nms import batched_nms
from fbnet_lesson.training.detecting import find_in

OVERLAP = 0.25  # of a tile: an object up to so large lies whole in one tile at least
BATCH = 8  # tiles at once
EDGE = 2.0  # pixels from a cut within which a box is taken to be cut off by it
COVERED = 0.5  # of a cut box's area: a whole detection that covers so much is the same object


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

    Looks at the whole picture, for what is larger than a tile, and at each tile of ``edge`` pixels.
    Objects that several show are merged by NMS; a box that a tile's border cuts off counts only
    where no whole one covers it.
    """
    height, width = image.shape[1:]
    (whole,) = find_in(model, [image])
    found = [whole | {"cut": torch.zeros_like(whole["labels"], dtype=torch.bool)}]
    corners = tile_corners((height, width), edge) if max(height, width) > edge else []
    for group in (corners[i : i + BATCH] for i in range(0, len(corners), BATCH)):
        tiles = [image[:, y : y + edge, x : x + edge].contiguous() for y, x in group]
        for (y, x), tile in zip(group, find_in(model, tiles), strict=True):
            tile["boxes"] = tile["boxes"] + tile["boxes"].new_tensor([x, y, x, y])
            tile["cut"] = cut_off(tile["boxes"], (y, x), edge, (height, width))
            found.append(tile)
    keys = found[0].keys() & {"boxes", "labels", "scores", "mask_logits", "cut"}
    merged = {key: torch.cat([part[key] for part in found]) for key in keys}
    keep = merge(merged["boxes"], merged["scores"], merged["labels"], merged.pop("cut"), model)
    limits = {name for part in found[1:] or found for name in part.get("limits", ())}
    return {key: value[keep] for key, value in merged.items()} | {
        "size": (height, width),
        "limits": tuple(sorted(limits)),
    }


def cut_off(boxes: Tensor, corner: tuple[int, int], edge: int, size: tuple[int, int]) -> Tensor:
    """Which of the boxes of a tile, in the picture's pixels, end at a border of the tile that is
    none of the picture."""
    (top, left), (height, width) = corner, size
    x1, y1, x2, y2 = boxes.unbind(1)
    cut = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if left > 0:
        cut |= x1 < left + EDGE
    if top > 0:
        cut |= y1 < top + EDGE
    if left + edge < width:
        cut |= x2 > left + edge - EDGE
    if top + edge < height:
        cut |= y2 > top + edge - EDGE
    return cut


def merge(boxes: Tensor, scores: Tensor, labels: Tensor, cut: Tensor, model: nn.Module) -> Tensor:
    """The indices of the detections to keep, by falling score."""
    threshold = model.config.nms_threshold
    whole = (~cut).nonzero().flatten()
    whole = whole[batched_nms(boxes[whole], scores[whole], labels[whole], threshold)]
    parts = cut.nonzero().flatten()
    parts = parts[batched_nms(boxes[parts], scores[parts], labels[parts], threshold)]
    if len(whole) and len(parts):
        same = labels[parts][:, None] == labels[whole]
        shared = intersections(boxes[parts], boxes[whole]) * same
        parts = parts[(shared < COVERED * box_area(boxes[parts])[:, None]).all(1)]
    keep = torch.cat([whole, parts])
    return keep[scores[keep].argsort(descending=True, stable=True)]
