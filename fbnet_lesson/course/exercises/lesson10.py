"""Lesson 10, the mask head: plain forms of cutting, predicting, upsampling, pasting and encoding
masks, checked against the package and pycocotools, and the AP of boundaries."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from matplotlib.axes import Axes
from pycocotools import mask as rle
from torch import Tensor

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Case, Exercise, Mistake
from fbnet_lesson.detection import mask_head as package
from fbnet_lesson.detection.mask_head import mask_in_box as own_mask_in_box
from fbnet_lesson.detection.roi_align import axis_weights
from fbnet_lesson.training.detecting import encode_masks
from fbnet_lesson.training.scoring import average_precision

# ------------------------------------------------------------------------------------- plain forms


def cut_targets(masks: Tensor, index: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """The mask head's targets: of each box, what a perfect mask head would answer.

    A box is divided into ``cells`` x ``cells`` equal parts, and each part gets the ROIAlign of the
    mask that the box is about (lesson 07): a number from 0 to 1, the share of the part that the
    object covers. One half or more counts as object.

    ``axis_weights(start, end, cells, size, 0)`` takes the borders [R] of all boxes along one axis
    and returns ``[R, cells, size]``: how much each of ``size`` pixels gives to each part.

    Args:
        masks: [G, H, W] bool, one an object; ``index`` [R] int64 says which one a box is about.
        boxes: [R, 4] xyxy in pixels of the masks, within the picture; R may be 0.

    Returns ``[R, cells, cells]`` bool, of each part first its place along y, then along x.
    """
    height, width = masks.shape[1:]
    x1, y1, x2, y2 = boxes.unbind(1)
    along_y = axis_weights(y1, y2, cells, height, 0)  # (R, cells, H)
    along_x = axis_weights(x1, x2, cells, width, 0)  # (R, cells, W)
    shares = along_y @ masks[index].float() @ along_x.mT  # (R, cells, cells)
    return shares >= 0.5


def class_masks(features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """The mask of one class for each ROI, out of a last layer that has one mask for each of K.

    The last layer is a 1x1 convolution from C channels to K classes. Of ROI r only the class
    ``labels[r]`` is wanted: what ``F.conv2d(features, weight, bias)[r, labels[r]]`` would be.

    Args:
        features: [R, C, M, M], R may be 0; ``labels`` [R] int64 in 0 .. K - 1.
        weight, bias: [K, C, 1, 1] and [K], of the convolution.

    Returns logits ``[R, M, M]``. Source: Mask R-CNN (arXiv 1703.06870, sec. 3).
    """
    rows = weight[labels]  # (R, C, 1, 1)
    return (features * rows).sum(1) + bias[labels][:, None, None]


def widened_kernel(kernel: Tensor) -> Tensor:
    """Doubling and a depthwise convolution in one: the kernel of the transposed convolution.

    With k odd, p = k // 2 and C groups, and ``doubled`` the map ``x`` [N, C, H, W] in which every
    cell has become 2 x 2 equal cells, for every ``x``::

        F.conv2d(doubled, kernel, padding=p, groups=C)
        F.conv_transpose2d(x, widened_kernel(kernel), stride=2, padding=p, groups=C)

    are the same. ``kernel`` [C, 1, k, k]; returns ``[C, 1, k + 1, k + 1]``.
    """
    k = kernel.shape[-1]
    wide = kernel.new_zeros(len(kernel), 1, k + 1, k + 1)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        wide[..., down : down + k, right : right + k] += kernel.flip(-2, -1)
    return wide


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Put each mask into its box on an empty picture, with bilinear interpolation.

    The M x M cells of a mask divide its box into equal parts, and a cell's value stands in the
    middle of its part. The pixel in column i and row j of the picture takes the value at its own
    middle, (i + 0.5, j + 0.5): along each axis what lies between the middles of two cells is a
    mixture of both, the nearer one weighing more. All around the M x M cells lie more cells, of
    value 0: so the value sinks to 0 from the middle of the outermost cells on, and reaches it half
    a cell beyond the box.

    Args:
        masks: [D, M, M] floats; D may be 0.
        boxes: [D, 4] xyxy in pixels of the picture, width and height over 0; they may reach beyond.
        size: (height, width) of the picture.

    Returns ``[D, height, width]`` floats.
    """
    (height, width), cells = size, masks.shape[-1]
    x1, y1, x2, y2 = boxes[..., None].unbind(1)  # (D, 1) each
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * cells - 0.5  # (D, H), in cells
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * cells - 0.5  # (D, W)
    along_y = (1 - (y[..., None] - torch.arange(cells)).abs()).clamp(min=0)  # (D, H, M)
    along_x = (1 - (x[..., None] - torch.arange(cells)).abs()).clamp(min=0)  # (D, W, M)
    return along_y @ masks @ along_x.mT


def run_lengths(mask: Tensor) -> list[int]:
    """A mask as COCO's run-length encoding: how many pixels in a row have the same value.

    The pixels are read column by column, each from top to bottom, the columns from left to right;
    a run may go on in the next column. The first number counts pixels outside the object, and is 0
    if the very first pixel belongs to it; then they take turns: inside, outside, inside, ...

    ``mask`` [H, W] bool, H and W at least 1. Returns the list of lengths, whose sum is H * W; only
    the first may be 0.
    """
    values = mask.T.flatten()  # (W * H,), column by column
    ends = (values[1:] != values[:-1]).nonzero().flatten() + 1  # where a new run begins
    ends = [0] * bool(values[0]) + ends.tolist() + [len(values)]
    starts = [0] + ends[:-1]
    return [end - start for start, end in zip(starts, ends, strict=True)]


# -------------------------------------------------------------------------- the AP of boundaries


def boundary(masks: Tensor, width: int) -> Tensor:
    """The pixels of each mask within ``width`` pixels of its outline, along rows, columns or
    diagonals; the border of the picture is outline too. ``[N, H, W]`` bool in and out."""
    outside = F.pad((~masks).float(), (width,) * 4, value=1.0)
    return masks & (F.max_pool2d(outside, 2 * width + 1, stride=1) > 0)


def boundary_ap(truth: dict, results: list[dict], width: int = 2) -> float:
    """AP of COCO results if masks and truth are reduced to their boundaries; crowds stay whole."""

    def reduced(records: list[dict]) -> list[dict]:
        masks = [decoded(record["segmentation"]) for record in records]
        outlines = encode_masks(boundary(torch.stack(masks), width)) if masks else []
        return [
            record if record.get("iscrowd") else record | {"segmentation": outline}
            for record, outline in zip(records, outlines, strict=True)
        ]

    truth = truth | {"annotations": reduced(truth["annotations"])}
    return average_precision(truth, reduced(results), "segm")["AP"]


def decoded(segmentation: dict) -> Tensor:
    """COCO's RLE, compressed or not, as a mask ``[H, W]`` bool."""
    if isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, *segmentation["size"])
    return torch.from_numpy(rle.decode(segmentation)).bool()


# ------------------------------------------------------------------------------------- the oracles


def all_classes_masks(features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    every = F.conv2d(features, weight, bias)  # (R, K, M, M)
    return every[torch.arange(len(labels)), labels]


def package_kernel(kernel: Tensor) -> Tensor:
    """What ``UpsampledDepthwise.widened`` does."""
    return F.conv2d(kernel.flip(2, 3), kernel.new_ones(1, 1, 2, 2), padding=1)


def pycocotools_runs(mask: Tensor) -> list[int]:
    """pycocotools hands out compressed text; the package reads it."""
    from fbnet_lesson.data.outlines import counts_from_text  # brings torchvision, which is large

    return counts_from_text(rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))["counts"])


# ----------------------------------------------------------- the learner's function in the detector


def in_the_head(masks_of: Callable) -> Callable:
    """A stand-in for ``MaskHead.class_logits``."""

    def class_logits(head, pooled: Tensor, labels: Tensor) -> Tensor:
        layer = head.mask_logits
        return masks_of(head.body(pooled), layer.weight, layer.bias, labels)

    return class_logits


def in_the_box(paste: Callable) -> Callable:
    """A stand-in for ``mask_in_box``, which looks at a part of the picture."""

    def mask_in_box(logits: Tensor, box: Tensor, size: tuple[int, int]):
        part, (top, left) = own_mask_in_box(logits, box, size)  # the package's name is replaced
        pasted = paste(logits[None].sigmoid(), box[None], size)[0] >= 0.5
        return pasted[top : top + part.shape[0], left : left + part.shape[1]], (top, left)

    return mask_in_box


def as_text(runs_of: Callable) -> Callable:
    """A stand-in for ``encode_part``, which gives the lengths as compressed text."""

    def encode(mask: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> dict:
        whole = torch.zeros(size, dtype=torch.bool)
        top, left = corner
        whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        encoded = rle.frPyObjects({"size": list(size), "counts": runs_of(whole)}, *size)
        return {"size": list(size), "counts": encoded["counts"].decode()}

    return encode


# ---------------------------------------------------------------------------- wrong whole functions


def whole_pictures(masks, index, boxes, cells):
    """``cut_targets`` that never looks at the boxes."""
    height, width = masks.shape[1:]
    borders = boxes.new_tensor([0, 0, width, height]).repeat(len(boxes), 1)
    return cut_targets(masks, index, borders, cells)


def nearest_pixels(masks, index, boxes, cells):
    """``cut_targets`` that looks at the pixel under the middle of each part."""
    height, width = masks.shape[1:]
    middle = (torch.arange(cells) + 0.5) / cells
    x1, y1, x2, y2 = boxes[..., None].unbind(1)
    y = (y1 + (y2 - y1) * middle).long().clamp(0, height - 1)  # (R, cells)
    x = (x1 + (x2 - x1) * middle).long().clamp(0, width - 1)
    return masks[index[:, None, None], y[:, :, None], x[:, None]]


def strongest_class(features, weight, bias, labels):
    return F.conv2d(features, weight, bias).amax(1)


def mean_of_classes(features, weight, bias, labels):
    return F.conv2d(features, weight, bias).mean(1)


def every_class(features, weight, bias, labels):
    return F.conv2d(features, weight, bias)


def share_of_the_class(features, weight, bias, labels):
    shares = F.conv2d(features, weight, bias).softmax(1)
    return shares[torch.arange(len(labels)), labels]


def first_roi_s_class(features, weight, bias, labels):
    if len(labels) == 0:
        return features.sum(1)
    return F.conv2d(features, weight, bias)[:, labels[0]]


def zeros_between(kernel):
    """The kernel spread out, as if for a dilated convolution, and cut to size."""
    k = kernel.shape[-1]
    wide = kernel.new_zeros(len(kernel), 1, k + 1, k + 1)
    wide[..., ::2, ::2] = kernel.flip(-2, -1)[..., : k // 2 + 1, : k // 2 + 1]
    return wide


def nearest_cells(masks, boxes, size):
    """``paste_masks`` that takes the cell a pixel lies in, and nothing beyond the box."""
    (height, width), cells = size, masks.shape[-1]
    x1, y1, x2, y2 = boxes[..., None].unbind(1)
    y = ((torch.arange(height) + 0.5 - y1) / (y2 - y1) * cells).floor()
    x = ((torch.arange(width) + 0.5 - x1) / (x2 - x1) * cells).floor()
    along_y = (y[..., None] == torch.arange(cells)).float()
    along_x = (x[..., None] == torch.arange(cells)).float()
    return along_y @ masks @ along_x.mT


def resized_into_pixels(masks, boxes, size):
    """``paste_masks`` for a box of whole pixels, into which the mask is resized."""
    pasted = masks.new_zeros(len(masks), *size)
    for mask, box, picture in zip(masks, boxes, pasted, strict=True):
        x1, y1, x2, y2 = box.round().int().tolist()
        wide, high = max(x2 - x1, 1), max(y2 - y1, 1)
        new = F.interpolate(mask[None, None], (high, wide), mode="bilinear")[0, 0]
        left, top = max(x1, 0), max(y1, 0)
        part = new[top - y1 : size[0] - y1, left - x1 : size[1] - x1]
        picture[top : top + part.shape[0], left : left + part.shape[1]] = part
    return pasted


def nothing_beyond(masks, boxes, size):
    """``paste_masks`` that ends at the box and does not sink towards it."""
    (height, width), cells = size, masks.shape[-1]
    x1, y1, x2, y2 = boxes[..., None].unbind(1)
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * cells - 0.5
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * cells - 0.5
    inside_y, inside_x = ((p >= -0.5) & (p <= cells - 0.5) for p in (y, x))
    y, x = y.clamp(0, cells - 1), x.clamp(0, cells - 1)
    along_y = (1 - (y[..., None] - torch.arange(cells)).abs()).clamp(min=0) * inside_y[..., None]
    along_x = (1 - (x[..., None] - torch.arange(cells)).abs()).clamp(min=0) * inside_x[..., None]
    return along_y @ masks @ along_x.mT


def cut_off_at_the_box(masks, boxes, size):
    """``paste_masks`` that sinks towards 0, and is 0 outside the box."""
    x1, y1, x2, y2 = boxes[..., None].unbind(1)
    y, x = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    inside_y, inside_x = (y >= y1) & (y <= y2), (x >= x1) & (x <= x2)
    return paste_masks(masks, boxes, size) * inside_y[:, :, None] * inside_x[:, None]


def begins_with_what_is_there(mask):
    values = mask.T.flatten().tolist()
    return [len(list(run)) for _, run in itertools.groupby(values)]


def begins_with_ones(mask):
    values = mask.T.flatten().tolist()
    runs = [len(list(run)) for _, run in itertools.groupby(values)]
    return runs if values[0] else [0, *runs]


def each_column_anew(mask):
    counts = []
    for column in mask.T:
        counts += run_lengths(column[:, None])
    return counts


def without_the_last_zeros(mask):
    runs = run_lengths(mask)
    return runs[:-1] if len(runs) % 2 else runs


def only_the_object(mask):
    return run_lengths(mask)[1::2]


def where_runs_end(mask):
    return list(itertools.accumulate(run_lengths(mask)))


def starts_and_lengths(mask):
    """The pairs that Kaggle's competitions ask for, without their count from 1."""
    runs = run_lengths(mask)
    ends = list(itertools.accumulate(runs))
    return [n for pair in zip(ends[0::2], runs[1::2], strict=False) for n in pair]


# ---------------------------------------------------------------------------------------- drawings


def outline(ax: Axes, box: Tensor, cells: int) -> None:
    """``box`` [4], in the units of ``ax``, with the borders of its cells."""
    x1, y1, x2, y2 = box.tolist()
    for i in range(cells + 1):
        x, y = x1 + (x2 - x1) * i / cells, y1 + (y2 - y1) * i / cells
        width = 1.6 if i in (0, cells) else 0.8
        ax.plot([x, x], [y1, y2], "k:", linewidth=width)
        ax.plot([x1, x2], [y, y], "k:", linewidth=width)
    ax.set_xlim(min(ax.get_xlim()[0], x1 - 0.2), max(ax.get_xlim()[1], x2 + 0.2))
    ax.set_ylim(max(ax.get_ylim()[0], y2 + 0.2), min(ax.get_ylim()[1], y1 - 0.2))


def draw_cut(case: Case, expected: Tensor, got: Tensor) -> None:
    """The first mask with its box, divided, and both answers for it."""
    if len(case["boxes"]) == 0:
        return
    axes = drawing.panels(3, height=2.4)
    mask = case["masks"][case["index"][0]].float()
    drawing.show_map(axes[0], mask, "mask and box, divided", vmin=0, vmax=2)
    outline(axes[0], case["boxes"][0], case["cells"])
    for ax, answer, title in zip(axes[1:], (expected, got), ("expected", "got"), strict=True):
        drawing.value_grid(ax, answer[:1].flatten(0, -3)[0], title, scale=torch.tensor([0.0, 1]))


def draw_class_masks(case: Case, expected: Tensor, got: Tensor) -> None:
    """What the last layer says of each class in the first ROI, and both answers for it."""
    if len(case["labels"]) == 0:
        return
    every = F.conv2d(case["features"], case["weight"], case["bias"])[0]  # (K, M, M)
    axes = drawing.panels(len(every) + 2, height=1.9)
    for k, (ax, values) in enumerate(zip(axes, every, strict=False)):
        drawing.value_grid(ax, values, f"class {k}", scale=every)
    for ax, answer, title in zip(axes[-2:], (expected, got), ("expected", "got"), strict=True):
        drawing.value_grid(ax, answer[:1].flatten(0, -3)[0], title, scale=every)
    axes[-2].set_title(f"expected: class {int(case['labels'][0])}", fontsize=9)


def draw_kernels(case: Case, expected: Tensor, got: Tensor) -> None:
    """The kernel of the first channel, and both answers."""
    axes = drawing.panels(3, height=2.3)
    drawing.value_grid(axes[0], case["kernel"][0, 0], "kernel")
    for ax, answer, title in zip(axes[1:], (expected, got), ("expected", "got"), strict=True):
        drawing.value_grid(ax, answer.flatten(0, -3)[0], title, scale=expected)


def draw_pasted(case: Case, expected: Tensor, got: Tensor) -> None:
    """The first mask, and both pictures with its box."""
    if len(case["masks"]) == 0:
        return
    axes = drawing.panels(3, height=2.5)
    drawing.value_grid(axes[0], case["masks"][0], "mask", scale=torch.tensor([0.0, 1]))
    for ax, answer, title in zip(axes[1:], (expected, got), ("expected", "got"), strict=True):
        picture = answer[:1].flatten(0, -3)[0].detach().float()
        drawing.value_grid(ax, picture, title, scale=torch.tensor([0.0, 1]))
        outline(ax, case["boxes"][0], case["masks"].shape[-1])


def draw_runs(case: Case, expected: list, got: list) -> None:
    """The mask with the order in which its pixels are read."""
    mask = case["mask"]
    order = torch.arange(mask.numel()).reshape(mask.T.shape).T
    left, right = drawing.panels(2, height=2.2)
    drawing.value_grid(left, mask.float(), "mask", scale=torch.tensor([0.0, 1]))
    drawing.value_grid(right, order.float(), "the order of its pixels", mark=mask)


# ----------------------------------------------------------------------------------- cut_targets


@st.composite
def cut_cases(draw) -> Case:
    cells = draw(st.sampled_from([1, 2, 4]))
    size = draw(st.integers(3, 5)), draw(st.integers(3, 6))
    objects, rois = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    bits = draw(some.tensors(objects, *size, low=0, high=1))
    rows = []
    for _ in range(rois):
        # Parts of 2 to 3 pixels would take three samples, and thirds round differently.
        parts = [s for s in (0.25, 0.5, 1, 1.5, 2, 3.25, 4) if s * cells <= min(size)]
        wide, high = (cells * draw(st.sampled_from(parts)) for _ in range(2))
        x, y = (draw(some.numbers(0, n - e, 0.25)) for n, e in ((size[1], wide), (size[0], high)))
        rows.append([x, y, x + wide, y + high])
    return {
        "masks": bits.bool(),
        "index": draw(some.labels(rois, 0, objects - 1)),
        "boxes": torch.tensor(rows).reshape(-1, 4),
        "cells": cells,
    }


L_SHAPE = torch.tensor([[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
CORNER = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
TWO = torch.stack([L_SHAPE, CORNER]).bool()


def cut_case(*boxes: list, cells: int = 2, index: tuple = (), masks: Tensor = TWO) -> Case:
    return {
        "masks": masks,
        "index": torch.tensor(index or [0] * len(boxes), dtype=torch.int64),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "cells": cells,
    }


CUT_TARGETS = Exercise(
    solution=cut_targets,
    oracle=package.crop_masks,
    cases=cut_cases(),
    edges={
        "a part that is a pixel takes that pixel": [cut_case([0, 2, 2, 4])],
        "the box's own frame, not the picture's": [cut_case([0, 0, 4, 4], cells=4)],
        "y goes down the rows, x along them": [
            cut_case([0, 0, 2, 4]),
            cut_case([0, 3, 4, 4], cells=4),
        ],
        "a part half covered is object": [cut_case([0, 0, 4, 2], cells=2)],
        "a part less than half covered is not": [
            cut_case([1, 2, 3, 4], cells=1, masks=CORNER[None].bool()),
            cut_case([0, 0, 4, 2], cells=1),
        ],
        "borders between pixels": [
            cut_case([0.25, 0, 2.25, 2]),
            cut_case([0.75, 0, 2.75, 2]),
            cut_case([0.25, 0.5, 3.25, 3.5], cells=2),
        ],
        "a box smaller than a pixel": [cut_case([0.25, 0.25, 0.75, 0.75], [2, 2, 2.5, 2.5])],
        "each box is about its own object": [
            cut_case([0, 0, 2, 2], [0, 0, 2, 2], index=(1, 0)),
            cut_case([2, 2, 4, 4], index=(1,)),
            cut_case([0, 0, 2, 2], [3, 2, 5, 4], [0, 2, 2, 4], index=(1, 1, 0)),
        ],
        "no box": [cut_case()],
    },
    mistakes=(
        Mistake(
            "forgets which box is about which object",
            "Box r is about masks[index[r]]: several boxes may be about one object.",
            edits={"masks[index]": "masks[torch.arange(len(boxes)) % len(masks)]"},
        ),
        Mistake(
            "uses the boxes' x along y and their y along x",
            "The columns of a box are x1, y1, x2, y2; the rows of a mask go with y.",
            edits={"x1, y1, x2, y2 =": "y1, x1, y2, x2 ="},
        ),
        Mistake(
            "turns the answer over: x before y",
            "A target is a little mask: its rows go with y, its columns with x.",
            edits={"return shares >= 0.5": "return shares.mT >= 0.5"},
        ),
        Mistake(
            "leaves out parts that are covered exactly half",
            "One half or more counts as object: >=.",
            edits={">= 0.5": "> 0.5"},
        ),
        Mistake(
            "takes every part that the object touches",
            "A part belongs to the object where it covers one half or more.",
            edits={">= 0.5": "> 0"},
        ),
        Mistake(
            "takes only parts that are covered wholly",
            "A part belongs to the object from one half on.",
            edits={">= 0.5": ">= 1"},
        ),
        Mistake(
            "rounds the boxes to whole pixels first",
            "Nothing is rounded: the head sees the box as it is, so its target has to be cut as "
            "it is.",
            edits={"boxes.unbind(1)": "boxes.round().unbind(1)"},
        ),
        Mistake(
            "looks at the whole picture instead of the box",
            "The target is in the box's frame: part 0 begins where the box begins.",
            wrong=whole_pictures,
        ),
        Mistake(
            "looks only at the pixel in the middle of each part",
            "A part may hold several pixels: how much of it the object covers is their mean.",
            wrong=nearest_pixels,
        ),
        Mistake(
            "takes one sample a part instead of as many as it has pixels",
            "The last argument of axis_weights is the sampling ratio; 0 is adaptive.",
            edits={
                "cells, height, 0)": "cells, height, 1)",
                "cells, width, 0)": "cells, width, 1)",
            },
        ),
        Mistake(
            "reads boxes as x, y, width, height",
            "x2 and y2 are the other corner, no extents.",
            edits={
                "axis_weights(y1, y2,": "axis_weights(y1, y1 + y2,",
                "axis_weights(x1, x2,": "axis_weights(x1, x1 + x2,",
            },
        ),
        Mistake(
            "takes the half pixel off a second time",
            "axis_weights sees to the half itself: hand it the borders as they are.",
            edits={"boxes.unbind(1)": "(boxes - 0.5).unbind(1)"},
        ),
        Mistake(
            "returns the shares instead of object or not",
            "The loss of lesson 10 takes targets that are 0 or 1: compare with one half.",
            edits={"return shares >= 0.5": "return shares"},
        ),
    ),
    hint="One box first: along_y[0] @ mask.float() @ along_x[0].T has a row for each part along y.",
    difficulty=2,
    minutes=10,
    draw=draw_cut,
    plug=lambda fn: {"detection.mask_head.crop_masks": fn},
)


# ----------------------------------------------------------------------------------- class_masks


@st.composite
def class_cases(draw) -> Case:
    rois, channels, classes = (draw(st.integers(*limits)) for limits in ((0, 3), (1, 3), (2, 4)))
    side = draw(st.integers(1, 3))
    return {
        "features": draw(some.tensors(rois, channels, side, side, low=-2, high=2)),
        "weight": draw(some.tensors(classes, channels, 1, 1, low=-2, high=2)),
        "bias": draw(some.tensors(classes, low=-3, high=3)),
        "labels": draw(some.labels(rois, 0, classes - 1)),
    }


def class_case(labels: list[int], features: Tensor | None = None) -> Case:
    """Two channels and three classes: the first channel, the second, and their difference."""
    if features is None:
        features = torch.tensor([[[[1.0, 0], [2, 3]], [[4, -1], [0, 2]]]])
    return {
        "features": features[:1].repeat(len(labels), 1, 1, 1)
        + torch.arange(len(labels))[:, None, None, None],
        "weight": torch.tensor([[1.0, 0], [0, 1], [1, -1]])[..., None, None],
        "bias": torch.tensor([0.0, 2, -1]),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


CLASS_MASKS = Exercise(
    solution=class_masks,
    oracle=all_classes_masks,
    cases=class_cases(),
    edges={
        "the mask of the class that is asked for": [
            class_case([0]),
            class_case([1]),
            class_case([2]),
        ],
        "each ROI has its own class": [class_case([1, 2]), class_case([2, 0, 0])],
        "logits, which may be negative": [class_case([2, 1])],
        "rows stay rows": [class_case([0], torch.tensor([[[[0.0, 1], [0, 0]], [[0, 0], [5, 0]]]]))],
        "no ROI": [class_case([])],
    },
    mistakes=(
        Mistake(
            "takes the strongest class at each pixel",
            "The box head has said which class it is; here only that class's mask counts.",
            wrong=strongest_class,
        ),
        Mistake(
            "takes the mean over the classes",
            "Each class has a mask of its own; choose the one of labels[r].",
            wrong=mean_of_classes,
        ),
        Mistake(
            "takes the class of the ROI's number instead of its label",
            "ROI r is of class labels[r]: look the row up there.",
            edits={
                "rows = weight[labels]": (
                    "labels = torch.arange(len(labels)) % len(weight)\n    rows = weight[labels]"
                )
            },
        ),
        Mistake(
            "takes the first ROI's class for all",
            "labels has one class a ROI.",
            wrong=first_roi_s_class,
        ),
        Mistake(
            "counts classes from 1",
            "Class 0 is the first row: there is no background among the masks.",
            edits={"rows = weight[labels]": "labels = labels - 1\n    rows = weight[labels]"},
        ),
        Mistake(
            "forgets the bias",
            "A convolution adds bias[k] to every pixel of class k.",
            edits={" + bias[labels][:, None, None]": ""},
        ),
        Mistake(
            "adds the bias of another class",
            "The bias, too, is that of labels[r].",
            edits={"bias[labels][:, None, None]": "bias[labels - 1][:, None, None]"},
        ),
        Mistake(
            "takes the mean over the channels instead of their sum",
            "A 1x1 convolution is a weighted sum over the channels.",
            edits={".sum(1)": ".mean(1)"},
        ),
        Mistake(
            "returns probabilities",
            "Logits are asked for: the sigmoid comes in the loss, and before pasting.",
            edits={
                "return (features * rows).sum(1) + bias[labels][:, None, None]": (
                    "return ((features * rows).sum(1) + bias[labels][:, None, None]).sigmoid()"
                )
            },
        ),
        Mistake(
            "lets the classes compete",
            "A softmax over the classes makes one mask's logit depend on all others. Mask R-CNN "
            "asks of each class by itself: is this pixel the object?",
            wrong=share_of_the_class,
        ),
        Mistake(
            "returns the masks of all classes",
            "One mask a ROI: choose before, or after, the layer.",
            wrong=every_class,
        ),
        Mistake(
            "turns the masks over",
            "Rows of the features are rows of the mask.",
            edits={".sum(1)": ".sum(1).mT"},
        ),
    ),
    hint="weight[labels] has for each ROI the row of its class, (R, C, 1, 1); multiply and add up "
    "over the channels.",
    difficulty=2,
    minutes=8,
    draw=draw_class_masks,
    plug=lambda fn: {"detection.mask_head.MaskHead.class_logits": in_the_head(fn)},
)


# -------------------------------------------------------------------------------- widened_kernel


@st.composite
def kernel_cases(draw) -> Case:
    k = draw(st.sampled_from([1, 3, 3, 5]))
    return {"kernel": draw(some.tensors(st.integers(1, 2), 1, k, k, low=-3, high=3))}


def kernel_case(*rows: list[float]) -> Case:
    return {"kernel": torch.tensor(rows, dtype=torch.float32)[None, None]}


NINE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
WIDENED_KERNEL = Exercise(
    solution=widened_kernel,
    oracle=package_kernel,
    cases=kernel_cases(),
    edges={
        "a kernel of one weight gives four times that weight": [kernel_case([2])],
        "a weight in the middle goes to the four places in the middle": [
            kernel_case([0, 0, 0], [0, 1, 0], [0, 0, 0])
        ],
        "a transposed convolution runs backwards": [
            kernel_case([0, 0, 0], [0, 0, 1], [0, 0, 0]),
            kernel_case([0, 1, 0], [0, 0, 0], [0, 0, 0]),
        ],
        "weights that meet are added": [kernel_case([1, 1, 1], [1, 1, 1], [1, 1, 1])],
        "all nine": [kernel_case(*NINE)],
        "a kernel of five": [kernel_case(*torch.arange(25).reshape(5, 5).tolist())],
        "each channel for itself": [
            {"kernel": torch.stack([torch.tensor(NINE), -torch.tensor(NINE).T])[:, None].float()}
        ],
    },
    mistakes=(
        Mistake(
            "forgets to turn the kernel round",
            "A convolution reads, a transposed one writes: what was to the right of the pixel is "
            "now to the left of the cell. flip(-2, -1) turns both axes round.",
            edits={"kernel.flip(-2, -1)": "kernel"},
        ),
        Mistake(
            "turns only the columns round",
            "Both axes are turned round: flip(-2, -1).",
            edits={"kernel.flip(-2, -1)": "kernel.flip(-1)"},
        ),
        Mistake(
            "turns only the rows round",
            "Both axes have to be turned round: flip(-2, -1).",
            edits={"kernel.flip(-2, -1)": "kernel.flip(-2)"},
        ),
        Mistake(
            "transposes the kernel instead of turning it round",
            '"Transposed" is said of the whole convolution as a matrix; its kernel is turned round '
            "along both axes.",
            edits={"kernel.flip(-2, -1)": "kernel.mT"},
        ),
        Mistake(
            "takes the mean of weights that meet",
            "Doubling repeats a cell, it does not divide it: weights that see the same cell are "
            "added.",
            edits={"    return wide": "    return wide / 4"},
        ),
        Mistake(
            "overwrites where weights meet",
            "Neighbouring weights see the same cell of the small map: add them up, +=.",
            edits={"+= kernel": "= kernel"},
        ),
        Mistake(
            "adds along the diagonal only",
            "A cell becomes 2 x 2 cells: each weight goes to four places, not to two.",
            edits={"((0, 0), (0, 1), (1, 0), (1, 1))": "((0, 0), (1, 1))"},
        ),
        Mistake(
            "adds along the rows only",
            "A cell becomes 2 x 2 cells: each weight goes one down, too.",
            edits={"((0, 0), (0, 1), (1, 0), (1, 1))": "((0, 0), (0, 1))"},
        ),
        Mistake(
            "adds along the columns only",
            "A cell becomes 2 x 2 cells: each weight goes one to the right, too.",
            edits={"((0, 0), (0, 1), (1, 0), (1, 1))": "((0, 0), (1, 0))"},
        ),
        Mistake(
            "makes room with zeros and adds nothing",
            "That would leave three of four pixels of every cell without their share.",
            edits={"((0, 0), (0, 1), (1, 0), (1, 1))": "((0, 0),)"},
        ),
        Mistake(
            "spreads the weights out",
            "Between the weights is no room: neighbours meet in one cell of the small map.",
            wrong=zeros_between,
        ),
    ),
    hint="Start with one weight at place t of a row of k. Which two places of the k + 1 does it "
    "go to?",
    difficulty=3,
    minutes=15,
    draw=draw_kernels,
    plug=lambda fn: {
        "blocks.UpsampledDepthwise.widened": lambda convolution: fn(convolution.weight)
    },
)


# ----------------------------------------------------------------------------------- paste_masks


@st.composite
def paste_cases(draw) -> Case:
    count, cells = draw(st.integers(0, 2)), draw(st.sampled_from([1, 2, 3, 4]))
    size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rows = []
    for _ in range(count):
        # Divided by powers of two, places are exact, in whatever order they are computed.
        wide, high = (draw(st.sampled_from([1.0, 2, 4, 8, 0.5])) for _ in range(2))
        x, y = draw(some.numbers(-3, 5, 0.5)), draw(some.numbers(-3, 5, 0.5))
        rows.append([x, y, x + wide, y + high])
    return {
        "masks": draw(some.tensors(count, cells, cells, low=0, high=1, step=0.25)),
        "boxes": torch.tensor(rows).reshape(-1, 4),
        "size": size,
    }


def paste_case(*boxes: list, mask: list | None = None, size: tuple[int, int] = (4, 5)) -> Case:
    values = torch.tensor(mask or [[1.0, 0], [0, 0.5]])
    return {
        "masks": torch.stack([values / (1 + i) for i in range(len(boxes))])
        if boxes
        else torch.zeros(0, 2, 2),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "size": size,
    }


PASTE_MASKS = Exercise(
    solution=paste_masks,
    oracle=package.paste_masks,
    cases=paste_cases(),
    edges={
        "a cell that is a pixel goes to that pixel": [
            paste_case([1, 1, 3, 3]),
            paste_case([2, 0, 4, 2]),
        ],
        "y goes down the rows, x along them": [
            paste_case([1, 0, 3, 4]),
            paste_case([0, 1, 4, 3]),
        ],
        "between the middles of two cells, a mixture": [
            paste_case([0, 0, 4, 4]),
            paste_case([0, 0, 4, 4], mask=[[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
        ],
        "half a pixel further, half of each neighbour": [
            paste_case([0.5, 1, 2.5, 3]),
            paste_case([1, 0.5, 3, 2.5]),
        ],
        "towards the border of the box the value sinks": [
            paste_case([1, 1, 3, 3], mask=[[1]]),
            paste_case([0, 0, 4, 4], mask=[[1]]),
        ],
        "half a cell beyond the box, there is still some": [
            paste_case([2, 1, 4, 3], mask=[[1]], size=(5, 6)),
            paste_case([2, 2, 4, 4], mask=[[1]], size=(5, 6)),
        ],
        "far from the box there is nothing": [paste_case([0, 0, 1, 1], mask=[[1]])],
        "a box that reaches beyond the picture": [
            paste_case([-1, -1, 1, 1]),
            paste_case([3, 2, 7, 6]),
            paste_case([-4, -4, 8, 8], mask=[[1, 0, 0.5], [0, 1, 0], [0.25, 0, 1]]),
        ],
        "several boxes": [paste_case([0, 0, 2, 2], [1, 1, 5, 3])],
        "no box": [paste_case()],
    },
    mistakes=(
        Mistake(
            "forgets the half pixel of the picture",
            "Column i covers i to i + 1: its middle is at i + 0.5.",
            edits={
                "torch.arange(height) + 0.5": "torch.arange(height)",
                "torch.arange(width) + 0.5": "torch.arange(width)",
            },
        ),
        Mistake(
            "forgets the half cell of the mask",
            "Cell 0 covers 0 to 1 of the M parts, and its value stands at 0.5: take off a half to "
            "count from there.",
            edits={
                "(y2 - y1) * cells - 0.5": "(y2 - y1) * cells",
                "(x2 - x1) * cells - 0.5": "(x2 - x1) * cells",
            },
        ),
        Mistake(
            "forgets both halves",
            "Pixels and cells both have their values in their middles: + 0.5 before the division, "
            "- 0.5 after the multiplication. Only where a cell is as large as a pixel do the two "
            "cancel.",
            edits={
                "torch.arange(height) + 0.5": "torch.arange(height)",
                "torch.arange(width) + 0.5": "torch.arange(width)",
                "(y2 - y1) * cells - 0.5": "(y2 - y1) * cells",
                "(x2 - x1) * cells - 0.5": "(x2 - x1) * cells",
            },
        ),
        Mistake(
            "puts the outermost cells onto the border of the box",
            "The box's border is that of the outermost cells, half a cell from their middles: "
            "times M, not times M - 1.",
            edits={
                "(y2 - y1) * cells - 0.5": "(y2 - y1) * (cells - 1)",
                "(x2 - x1) * cells - 0.5": "(x2 - x1) * (cells - 1)",
            },
        ),
        Mistake(
            "uses the boxes' x along y and their y along x",
            "The columns of a box are x1, y1, x2, y2; the rows of the picture go with y.",
            edits={"x1, y1, x2, y2 =": "y1, x1, y2, x2 ="},
        ),
        Mistake(
            "turns the masks over",
            "Rows of the mask go with y.",
            edits={"@ masks @": "@ masks.mT @"},
        ),
        Mistake(
            "takes the cell that a pixel lies in",
            "Between the middles of two cells the value changes gradually.",
            wrong=nearest_cells,
        ),
        Mistake(
            "resizes the mask into a box of whole pixels",
            "Boxes are not rounded: ask for each pixel where its middle lies in the box.",
            wrong=resized_into_pixels,
        ),
        Mistake(
            "keeps the value of the outermost cells up to the border of the box",
            "Around the mask lie cells of value 0: the value sinks from the middle of the "
            "outermost cells on.",
            wrong=nothing_beyond,
        ),
        Mistake(
            "cuts off at the border of the box",
            "There the value has only sunk to a half; it is 0 half a cell further.",
            wrong=cut_off_at_the_box,
        ),
        Mistake(
            "goes on with the outermost cells beyond the box",
            "Around the mask lie cells of value 0.",
            edits={
                "return along_y @": (
                    "along_y = along_y / along_y.sum(-1, True)\n"
                    "    along_x = along_x / along_x.sum(-1, True)\n"
                    "    y, x = y.clamp(0, cells - 1), x.clamp(0, cells - 1)\n"
                    "    along_y = (1 - (y[..., None] - torch.arange(cells)).abs()).clamp(min=0)\n"
                    "    along_x = (1 - (x[..., None] - torch.arange(cells)).abs()).clamp(min=0)\n"
                    "    return along_y @"
                )
            },
        ),
        Mistake(
            "decides between object and background before pasting",
            "Paste the values as they are: the outline lies where the mixture crosses one half.",
            edits={"@ masks @": "@ (masks >= 0.5).float() @"},
        ),
        Mistake(
            "reads boxes as x, y, width, height",
            "x2 and y2 are the other corner, no extents.",
            edits={"/ (y2 - y1)": "/ y2", "/ (x2 - x1)": "/ x2"},
        ),
    ),
    hint="Along one axis: where does the middle of pixel i lie, counted in cells from the middle "
    "of cell 0? A cell that is d cells away gives max(0, 1 - d).",
    difficulty=3,
    minutes=20,
    draw=draw_pasted,
    plug=lambda fn: {
        "detection.mask_head.paste_masks": fn,
        "detection.mask_head.mask_in_box": in_the_box(fn),
    },
)


# ----------------------------------------------------------------------------------- run_lengths


def run_case(*rows: str) -> Case:
    return {"mask": torch.tensor([[c == "#" for c in row] for row in rows])}


RUN_LENGTHS = Exercise(
    solution=run_lengths,
    oracle=pycocotools_runs,
    cases=some.tensors(st.integers(1, 4), st.integers(1, 4), low=0, high=1).map(
        lambda bits: {"mask": bits.bool()}
    ),
    edges={
        "outside, inside, outside": [run_case(".", "#", "#", ".")],
        "column by column": [run_case("..#", "..#"), run_case("....", "###.")],
        "a run goes on in the next column": [run_case(".#.", "##.", ".#.")],
        "if the first pixel is inside, the first number is 0": [run_case("#..", "...")],
        "an object that reaches the last pixel": [run_case("...", "..#")],
        "no pixel inside": [run_case("...", "...")],
        "every pixel inside": [run_case("##", "##")],
        "one pixel": [run_case("#"), run_case(".")],
    },
    mistakes=(
        Mistake(
            "reads row by row",
            "COCO reads down the columns: flatten the transposed mask.",
            edits={"mask.T.flatten()": "mask.flatten()"},
        ),
        Mistake(
            "begins with the first pixel, whatever it is",
            "The first number counts pixels outside, so that the reader knows where he is: it is "
            "0 if the first pixel is inside.",
            wrong=begins_with_what_is_there,
        ),
        Mistake(
            "begins with the pixels inside",
            "The first number counts pixels outside the object.",
            wrong=begins_with_ones,
        ),
        Mistake(
            "begins anew in each column",
            "The columns are one long row: a run goes on in the next.",
            wrong=each_column_anew,
        ),
        Mistake(
            "leaves out the pixels behind the object",
            "The last run counts too: the sum is H * W.",
            wrong=without_the_last_zeros,
        ),
        Mistake(
            "counts only the runs inside",
            "Without the runs between nobody knows where they lie.",
            wrong=only_the_object,
        ),
        Mistake(
            "gives where runs end instead of their lengths",
            "Lengths are asked for: the difference from one end to the next.",
            wrong=where_runs_end,
        ),
        Mistake(
            "gives start and length of each run inside",
            "That is another format, as in Kaggle's competitions. COCO's are lengths alone, "
            "outside and inside by turns.",
            wrong=starts_and_lengths,
        ),
        Mistake(
            "ends a run one pixel early",
            "A run begins at the pixel that differs from the one before it.",
            edits={".flatten() + 1": ".flatten()"},
        ),
    ),
    hint="Flatten the columns; find where a pixel differs from the one before; take differences.",
    difficulty=2,
    minutes=8,
    draw=draw_runs,
    plug=lambda fn: {"training.detecting.encode_part": as_text(fn)},
)

EXERCISES = (CUT_TARGETS, CLASS_MASKS, WIDENED_KERNEL, PASTE_MASKS, RUN_LENGTHS)
