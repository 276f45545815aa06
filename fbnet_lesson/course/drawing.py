"""Figures of the lessons: pictures, boxes, masks and feature maps, readable in greyscale too."""

from collections.abc import Sequence
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from fbnet_lesson.predict import COLOURS

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
