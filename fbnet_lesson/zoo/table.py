"""The table of all models: what ``fbnet-lesson models`` prints and the README shows."""

from collections.abc import Iterable

import torch

from fbnet_lesson.blocks import count_macs, count_parameters
from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS
from fbnet_lesson.classification.published import PRETRAINED
from fbnet_lesson.zoo.models import DETECTORS, create_model

HEADER = ("name", "kind", "parameters", "MACs", "pixels", "top-1", "weights")


def model_row(name: str) -> tuple[str, ...]:
    """The cells of ``HEADER`` of one model.

    ``kind`` is FBNetV3OD (Faster R-CNN: boxes), FBNetV3IS (Mask R-CNN: masks too) or classifier.
    ``MACs`` are a classifier's on one image of its resolution, in millions; ``pixels`` that
    resolution, or a detector's short edge; ``top-1`` the published accuracy on ImageNet in percent;
    ``weights`` where there are some. "-" stands for what there is not.
    """
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        model = create_model(name).eval()
    parameters = f"{count_parameters(model):,}"
    if name in DETECTORS:
        shipped = ", ".join(f"{key} (shipped)" for key in DETECTORS[name].weights) or "-"
        kind = "FBNetV3IS" if DETECTORS[name].masks else "FBNetV3OD"
        return name, kind, parameters, "-", f"{model.config.min_size}", "-", shipped
    side, published = CLASSIFICATION_ARCHS[name].input_size, PRETRAINED.get(name)
    macs = count_macs(model, torch.zeros(1, 3, side, side, device="meta"))
    if published is None:  # ours
        return name, "classifier", parameters, f"{macs / 1e6:.1f} M", f"{side}", "-", "-"
    top1 = "-" if published.top1 is None else f"{published.top1:.2f}"
    weights = f"https://huggingface.co/{published.hub}" if published.hub else published.url
    return name, "classifier", parameters, f"{macs / 1e6:.1f} M", f"{side}", top1, weights


def as_text(names: Iterable[str]) -> str:
    """The rows of some models in columns, numbers to the right."""
    rows = [HEADER, *map(model_row, names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        cells = [c.rjust(w) if 2 <= i <= 5 else c.ljust(w) for i, (c, w) in enumerate(cells)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_markdown(names: Iterable[str]) -> str:
    """The same as a Markdown table, addresses as links named by what serves them."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|--:|--:|--:|--:|---|"]
    for name, *cells, weights in map(model_row, names):
        if weights.startswith("https://"):
            place = "timm hub" if "huggingface" in weights else "mobile_cv"
            weights = f"[{place}]({weights})"
        lines.append("| " + " | ".join([f"`{name}`", *cells, weights]) + " |")
    return "\n".join(lines)
