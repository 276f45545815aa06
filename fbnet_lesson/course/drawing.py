"""Figures of the lessons: pictures, boxes, masks and feature maps, readable in greyscale too."""

from collections.abc import Sequence
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from fbnet_lesson.colours import COLOURS

WIDTH = 7.0  # inches of a full-width figure: 700 pixels on a page


def small_figures() -> None:
    """Let the notebook store its figures as JPEG: textured scenes take a fraction of their PNG."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("jpeg", pil_kwargs={"quality": 80})


def colour_of(label: int) -> tuple[float, float, float]:
    """The colour of a class, as matplotlib wants it; the same as ``fbnet-lesson predict`` uses."""
    return tuple(channel / 255 for channel in COLOURS[label % len(COLOURS)])


def panels(count: int, height: float = 2.3, columns: int | None = None) -> list[Axes]:
    """``count`` axes side by side (or in rows of ``columns``), without ticks.

    ``height`` is that of one row in inches.
    """
    columns = columns or count
    rows = -(-count // columns)
    _, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height * rows), layout="constrained", squeeze=False
    )
    axes = list(axes.flat)
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    for ax in axes[count:]:
        ax.remove()
    return axes[:count]


def show_image(ax: Axes, image: Tensor, title: str = "", dim: float = 0.0) -> None:
    """``image`` float [3, H, W] in 0..1; ``dim`` fades it towards white, so that lines stand out.

    Pixel (0, 0) has its corner, not its centre, at the origin: boxes fall where they should.
    """
    picture = image.permute(1, 2, 0).numpy() * (1 - dim) + dim
    height, width = picture.shape[:2]
    ax.imshow(picture.clip(0, 1), extent=(0, width, height, 0), interpolation="nearest")
    ax.set_title(title, fontsize=9)


def draw_boxes(
    ax: Axes,
    boxes: Tensor,
    colour: str | tuple | Sequence = "black",
    width: float = 1.2,
    style: str = "-",
    alpha: float = 1.0,
    texts: Sequence[str] | None = None,
) -> None:
    """``boxes`` [N, 4] xyxy; ``colour`` one for all or one a box; ``texts`` above each box."""
    colours = colour if isinstance(colour, list) else [colour] * len(boxes)
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        ax.add_patch(
            Rectangle(
                (x1, y1), x2 - x1, y2 - y1, fill=False,
                edgecolor=colours[i], linewidth=width, linestyle=style, alpha=alpha,
            )
        )  # fmt: skip
        if texts is not None:
            at_right = x1 > 0.75 * ax.get_xlim()[1]  # the text would leave the picture
            ax.text(
                x2 if at_right else max(x1, 1), max(y1 - 2, 7), texts[i], fontsize=7, color="black",
                ha="right" if at_right else "left",
                bbox={"facecolor": colours[i], "edgecolor": "none", "pad": 1, "alpha": 0.9},
            )  # fmt: skip


def draw_masks(ax: Axes, masks: Tensor, labels: Tensor, alpha: float = 0.55) -> None:
    """``masks`` [N, H, W] bool, tinted by their class and with a black outline."""
    for mask, label in zip(masks, labels.tolist(), strict=True):
        height, width = mask.shape
        layer = np.zeros((height, width, 4))
        layer[mask.numpy()] = (*colour_of(label), alpha)
        ax.imshow(layer, extent=(0, width, height, 0), interpolation="nearest")
        if mask.any():
            x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
            ax.contour(x, y, mask.numpy(), levels=[0.5], colors="black", linewidths=0.8)


def show_detections(
    ax: Axes, image: Tensor, found: dict[str, Tensor], names: Sequence[str], title: str = ""
) -> None:
    """The picture with what a detector finds: masks, boxes, classes, scores; the best on top."""
    show_image(ax, image, title)
    found = {key: value.flip(0) for key, value in found.items()}
    if "masks" in found:
        draw_masks(ax, found["masks"], found["labels"])
    labels, scores = found["labels"].tolist(), found["scores"].tolist()
    texts = [f"{names[k]} {s:.2f}" for k, s in zip(labels, scores, strict=True)]
    draw_boxes(ax, found["boxes"], [colour_of(k) for k in labels], texts=texts)


def show_map(ax: Axes, values: Tensor, title: str = "", **limits: float):
    """``values`` [h, w] as grey cells, high values dark; ``limits`` are ``vmin`` and ``vmax``."""
    height, width = values.shape
    drawn = ax.imshow(
        values.numpy(), cmap="Greys", extent=(0, width, height, 0), interpolation="nearest",
        **limits,
    )  # fmt: skip
    ax.set_title(title, fontsize=9)
    return drawn


def keep_detections(found: dict[str, Tensor], score: float) -> dict[str, Tensor]:
    """The detections that score at least ``score``."""
    keep = found["scores"] >= score
    return {key: value[keep] for key, value in found.items()}


def figure_png(figure: Figure) -> bytes:
    """The figure as a PNG, for an image widget; the figure is closed."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    return buffer.getvalue()


def magnitude(features: Tensor) -> Tensor:
    """How strongly each cell answers: mean absolute value over channels. [C, h, w] -> [h, w]."""
    return features.abs().mean(0)


def draw_values(case: dict, expected, got) -> None:
    """The tensors of an exercise's case beside the expected answer and the one that was got.

    One- and two-dimensional tensors of at most 12 x 12 values, as grids with the values written in.
    """
    grids = {name: value for name, value in case.items() if _is_small(value)}
    answers = {"expected": expected, "got": got}
    grids |= {name: value for name, value in answers.items() if _is_small(value)}
    if not {"expected", "got"} <= set(grids):
        return
    both = torch.cat([grids[name].detach().float().flatten() for name in answers])
    for ax, (name, values) in zip(panels(len(grids), height=1.9), grids.items(), strict=True):
        value_grid(ax, values, name, scale=both if name in answers else None)


def _is_small(value) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dim() in (1, 2)
        and 0 < value.numel()
        and max(value.shape) <= 12
    )


def value_grid(
    ax: Axes,
    values: Tensor,
    title: str = "",
    mark: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    """``values`` [w] or [h, w] as cells with the value written in; ``mark`` (bool, same shape)
    frames some of them. Grids that are to be compared are shaded by one ``scale``: the values, of
    any shape, of which the smallest is white and the largest black."""
    rows = values.detach().float().reshape(-1, values.shape[-1])  # (w,) -> (1, w)
    height, width = rows.shape
    limits = rows if scale is None else scale.detach().float()
    limits = limits[limits.isfinite()]
    low, high = (float(limits.min()), float(limits.max())) if limits.numel() else (0.0, 0.0)
    middle = (low + high) / 2
    show_map(ax, rows.nan_to_num(low, high, low), title, vmin=low, vmax=high)
    for y in range(height):
        for x in range(width):
            value = float(rows[y, x])
            dark = value > middle
            ax.text(
                x + 0.5, y + 0.5, f"{value:.3g}", ha="center", va="center",
                fontsize=7 if width > 6 else 8, color="white" if dark else "black",
            )  # fmt: skip
    if mark is not None:
        for y, x in mark.reshape(height, width).nonzero().tolist():
            ax.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor="black", linewidth=2))


def draw_box_answers(case: dict, expected, got) -> None:
    """An exercise's case of boxes: numbered, and which of them each answer holds.

    For answers that are indices of ``case["boxes"]``, or one bool a box.
    """
    boxes = case["boxes"]
    limit = max(float(boxes.max()), 1.0) if len(boxes) else 1.0
    axes = panels(3, height=2.5)
    answers = {"boxes": None, "expected": expected, "got": got}
    for ax, (title, answer) in zip(axes, answers.items(), strict=True):
        ax.set_xlim(-0.08 * limit, 1.08 * limit)
        ax.set_ylim(1.08 * limit, -0.08 * limit)  # y downwards
        ax.set_aspect("equal")
        ax.set_title(title, fontsize=9)
        held = range(len(boxes)) if answer is None else _held(answer)
        for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            style = "-" if i in held else ":"
            shade = "black" if i in held else "0.6"
            ax.add_patch(
                Rectangle(
                    (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=shade,
                    linewidth=1.6 if i in held else 1.0, linestyle=style,
                )
            )  # fmt: skip
            ax.text(x1, y1, str(i), fontsize=8, color=shade, va="bottom", ha="left")


def _held(answer: Tensor) -> set[int]:
    """The indices that an answer of indices or of bools names."""
    return set((answer.nonzero().flatten() if answer.dtype == torch.bool else answer).tolist())
