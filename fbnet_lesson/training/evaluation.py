"""COCO average precision of boxes and masks: ``detecting`` finds, ``scoring`` compares."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from fbnet_lesson.training import distributed
from fbnet_lesson.training.detecting import Found, detect, detections_to_coco
from fbnet_lesson.training.scoring import MAX_DETS, SUMMARY, average_precision, score

__all__ = [
    "average_precision", "detect", "detections_to_coco", "evaluate", "headline", "metrics_of",
    "score", "table",
]  # fmt: skip


def evaluate(
    model: nn.Module,
    dataset: Any,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    max_dets: int = MAX_DETS,
) -> dict[str, Any]:
    """COCO AP of the model on a data set, in 0..1; NaN where there is no ground truth to find.

    Returns:
        ``{"images": n, "detections": n, "objects": {name: n}, "box": {"AP": …, "AP50": …, …,
        "per_class": {name: AP}}, "mask": the same or None, "limits": [sentence, …]}`` with the
        names of ``SUMMARY``; ``limits`` says what may have been cut off. With several processes
        each image is seen by one of them, and all get the same result. The model's mode is
        restored.

    Raises:
        ValueError: for a data set without images.
    """
    if len(dataset) == 0:
        raise ValueError("nothing to evaluate: the data set has no images")
    found = detect(model, dataset, batch_size=batch_size, num_workers=num_workers)
    return distributed.on_first(lambda: metrics_of(model, dataset, found, max_dets))


def metrics_of(
    model: nn.Module, dataset: Any, found: Found, max_dets: int = MAX_DETS
) -> dict[str, Any]:
    """What ``evaluate`` returns, of what ``detect`` has found."""
    metrics = score(dataset, found.results, found.with_masks, max_dets)
    metrics["limits"] += [
        limit_reached(model, name, count, len(dataset)) for name, count in found.limits.items()
    ]
    return metrics


def limit_reached(model: nn.Module, name: str, count: int, images: int) -> str:
    """The sentence that says that a limit of the model's config was reached, and what raises it."""
    value = getattr(model.config, name)
    most = value[1] if isinstance(value, tuple) else value
    higher = (
        f'"{name}=({value[0]}, {4 * most})"' if isinstance(value, tuple) else f"{name}={4 * most}"
    )
    return (
        f"{count} of {images} images reached the limit {name}={most}: there may be more objects; "
        f"--set {higher} raises it"
    )


def headline(metrics: dict[str, Any]) -> str:
    """One line: ``box AP 0.312 (AP50 0.540), mask AP …``."""
    parts = [
        f"{kind} AP {metrics[kind]['AP']:.3f} (AP50 {metrics[kind]['AP50']:.3f})"
        for kind in ("box", "mask")
        if metrics.get(kind)
    ]
    return ", ".join(parts)


def table(metrics: dict[str, Any]) -> str:
    """The metrics as a table for people: one row for boxes, one for masks, then the classes with
    the number of their objects, then what may have been cut off."""
    recalls = [int(name[2:]) for name in metrics["box"] if re.fullmatch(r"AR\d+", name)]
    columns = (*SUMMARY[:6], f"AR{max(recalls)}")  # the most detections that were scored
    lines = ["      " + "".join(f"{name:>8}" for name in columns)]
    for kind in ("box", "mask"):
        if metrics.get(kind):
            lines.append(f"{kind:6}" + "".join(f"{metrics[kind][name]:8.3f}" for name in columns))
    kind = "mask" if metrics.get("mask") else "box"
    for name, value in metrics[kind]["per_class"].items():
        lines.append(f"{name}: {kind} AP {value:.3f}, {metrics['objects'][name]:,} objects")
    return "\n".join([*lines, *metrics["limits"]])
