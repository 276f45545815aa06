"""All that a detector finds in a data set, as COCO results: masks are encoded one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from fbnet_lesson.detection.mask_head import mask_in_box
from fbnet_lesson.training import distributed

PIXELS = 2**22  # of pictures that go through the model together: two of 12 megapixels do not


@dataclass
class Found:
    """``results``: COCO results, ready for JSON. ``with_masks``: whether the model gives masks.
    ``limits``: for how many images a field of the model's config may have cut detections off."""

    results: list[dict[str, Any]]
    with_masks: bool
    limits: dict[str, int] = field(default_factory=dict)


def detect(model: nn.Module, dataset: Any, *, batch_size: int = 8, num_workers: int = 0) -> Found:
    """All detections on a data set.

    The images are divided among the processes, what is returned is the same on all. Of the samples
    only the pictures are looked at: a ``CocoDataset`` with ``masks=False`` draws no masks for them.
    """
    mine = range(distributed.rank(), len(dataset), distributed.world_size())
    loader = DataLoader(
        Subset(dataset, mine), batch_size, num_workers=num_workers, collate_fn=_pictures
    )
    device = next(model.parameters()).device
    bar = tqdm(total=len(mine), desc="evaluate", unit="image", leave=False, disable=_bar_off())
    results: list[dict[str, Any]] = []
    with_masks, limits, position = False, Counter(), 0
    with eval_mode(model), torch.inference_mode(), bar:
        for pictures in loader:
            for images in few_pixels(pictures):
                detections = find_in(model, [as_floats(image, device) for image in images])
                image_ids = [dataset.image_ids[i] for i in mine[position : position + len(images)]]
                results += detections_to_coco(detections, image_ids, dataset.category_ids)
                with_masks |= bool({"masks", "mask_logits"} & detections[0].keys())
                limits.update(name for d in detections for name in limits_of(model, d))
                position += len(images)
                bar.update(len(images))
    parts = distributed.gather((results, with_masks, limits))
    return Found(
        [result for part, _, _ in parts for result in part],
        any(masks for _, masks, _ in parts),
        dict(sum((counted for _, _, counted in parts), Counter())),
    )


def _pictures(samples: list[tuple[Tensor, Any]]) -> list[Tensor]:
    """The pictures ``[3, H, W]`` of some samples, without what is to be found in them."""
    return [picture for picture, _ in samples]


def find_in(model: nn.Module, images: list[Tensor]) -> list[dict[str, Any]]:
    """What the model finds: with small masks, where it can give them (``Detector.detect``)."""
    return model.detect(images) if hasattr(model, "detect") else model(images)


def limits_of(model: nn.Module, detection: dict[str, Any]) -> tuple[str, ...]:
    """The fields of the model's config that may have cut off what it found in an image."""
    most = getattr(getattr(model, "config", None), "detections_per_image", None)
    full = most is not None and len(detection["scores"]) >= most
    return (*detection.get("limits", ()), *(("detections_per_image",) if full else ()))


def few_pixels(pictures: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The pictures in groups of at most ``PIXELS``, or of one."""
    group: list[Tensor] = []
    for picture in pictures:
        if group and sum(p[0].numel() for p in [*group, picture]) > PIXELS:
            yield group
            group = []
        group.append(picture)
    yield group


def as_floats(image: Tensor, device: torch.device) -> Tensor:
    """``[3, H, W]`` of bytes or floats in 0..1 as floats in 0..1 on the device."""
    image = image.as_subclass(Tensor).to(device, non_blocking=True)
    return image if image.is_floating_point() else image.float().div_(255)


def _bar_off() -> bool | None:
    return None if distributed.is_first() else True  # None: where there is no terminal


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode within; afterwards each module is in the mode it was in, frozen ones included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def detections_to_coco(
    detections: Sequence[dict[str, Any]],
    image_ids: Sequence[int],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """Detections of some images as COCO results, ready for JSON.

    Args:
        detections: for each image ``boxes [N,4] xyxy``, ``scores [N]``, ``labels [N]``, and for
            instance segmentation ``masks [N,H,W] bool``, or ``mask_logits [N,M,M]`` and ``size``.
        image_ids: one for each image.
        category_ids: the COCO category of label 0, 1, …

    Returns:
        dicts ``image_id, category_id, bbox [x,y,w,h], score`` and, with masks, ``segmentation``
        (run-length encoded).
    """
    results = []
    for detection, image_id in zip(detections, image_ids, strict=True):
        boxes, scores = detection["boxes"].detach().cpu(), detection["scores"].detach().cpu()
        sizes = boxes[:, 2:] - boxes[:, :2]
        bboxes = torch.cat([boxes[:, :2], sizes], dim=1).tolist()
        labels = detection["labels"].tolist()
        masks = encoded_masks(detection) or [None] * len(labels)
        for bbox, score, label, mask in zip(bboxes, scores.tolist(), labels, masks, strict=True):
            result = {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": bbox,
                "score": score,
            }
            if mask is not None:
                result["segmentation"] = mask
            results.append(result)
    return results


def encoded_masks(detection: dict[str, Any]) -> list[dict[str, Any]]:
    """The masks of an image's detections as COCO run-length encodings, if it has any."""
    if "masks" in detection:
        return encode_masks(detection["masks"])
    if "mask_logits" not in detection:
        return []
    logits, boxes = detection["mask_logits"].cpu(), detection["boxes"].cpu()
    size = detection["size"]
    return [
        encode_part(*mask_in_box(*pair, size), size) for pair in zip(logits, boxes, strict=True)
    ]


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Masks ``[N,H,W] bool`` as COCO run-length encodings ``{"size": [H,W], "counts": str}``."""
    size = tuple(masks.shape[1:])
    return [encode_part(mask, (0, 0), size) for mask in masks.detach().cpu()]


def encode_part(mask: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """A mask ``[h,w] bool`` that lies at ``corner`` (row, column) of a picture of ``size``
    (height, width) as the run-length encoding of the picture's mask, which is never made."""
    (height, width), (top, left) = size, corner
    columns = np.pad(mask.numpy().T.astype(np.int8), ((0, 0), (1, 1)))  # [w, h + 2]
    change = np.diff(
        columns, axis=1
    )  # of column x, +1 where a run begins and -1 where it has ended
    offset = (left + np.arange(len(columns)))[:, None] * height + top
    place = offset + np.arange(columns.shape[1] - 1)  # in the picture, column after column
    runs = np.stack([place[change == 1], place[change == -1]], axis=1).ravel()
    counts = np.diff(runs, prepend=0, append=height * width).tolist()
    encoded = rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode()}
