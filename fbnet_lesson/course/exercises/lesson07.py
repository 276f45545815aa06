"""Lesson 07, ROI pooling: plain forms of ROIPool and ROIAlign for one map, checked against
torchvision and the package."""

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Exercise, Mistake
from fbnet_lesson.detection.roi_align import axis_weights


def roi_pool(features: Tensor, box: Tensor, bins: int, spatial_scale: float) -> Tensor:
    """ROIPool: the largest value of each bin of a box, with everything rounded to whole cells.

    Along each axis:
    1. The borders of the box, times ``spatial_scale``, are rounded to the nearest whole number,
       halves up: ``floor(v + 0.5)``. They are the box's *first* and *last* cell: the last one
       belongs to the box, so a box has ``last - first + 1`` cells, and never less than one.
    2. Bin i begins at cell ``first + floor(i * cells / bins)`` and ends before cell
       ``first + ceil((i + 1) * cells / bins)``. Bins may share a cell.
    3. Cells outside the map do not count.

    Args:
        features: [C, H, W]; ``box`` [4] xyxy in pixels of the image.
        bins: how many along y, and as many along x; ``spatial_scale``: cells a pixel, 1 / stride.

    Returns ``[C, bins, bins]``: of each bin the maximum of its cells, 0 where it has none.
    Source: Fast R-CNN (arXiv 1504.08083, sec. 2.1).
    """
    x1, y1, x2, y2 = (box * spatial_scale + 0.5).floor().int().tolist()

    def cells_of(i: int, first: int, last: int) -> slice:
        cells = max(last - first + 1, 1)
        start = first + i * cells // bins
        end = first + math.ceil((i + 1) * cells / bins)
        return slice(max(start, 0), max(end, 0))  # a slice ends at the map's border by itself

    pooled = features.new_zeros(len(features), bins, bins)
    for i in range(bins):
        for j in range(bins):
            window = features[:, cells_of(i, y1, y2), cells_of(j, x1, x2)]
            if window.numel():
                pooled[:, i, j] = window.flatten(1).amax(1)
    return pooled


def bilinear(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """What a map is worth between its cells, by interpolation along y times that along x.

    A point counts in cells: at (y, x) = (i, j) the answer is ``values[i, j]``; half-way between
    two cells it is their mean. The border is ROIAlign's: a point more than one cell beyond the
    map, with y < -1, y > H, x < -1 or x > W, gives 0; any other point outside is first moved onto
    the map, to 0 .. H - 1 and 0 .. W - 1.

    Args:
        values: [H, W]; ``y``, ``x``: [N], one point each, N may be 0; all are floats.

    Returns ``[N]`` floats.
    """
    height, width = values.shape
    near = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.long(), x.long()  # rounded down, as neither is negative
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, along = y - top, x - left  # how far to the next cell, 0..1
    upper = (1 - along) * values[top, left] + along * values[top, right]
    lower = (1 - along) * values[bottom, left] + along * values[bottom, right]
    return ((1 - down) * upper + down * lower) * near


def axis_matrix(start: float, end: float, bins: int, size: int, sampling_ratio: int = 0) -> Tensor:
    """How much each cell of one axis gives to each bin of a box: ROIAlign along this axis.

    The box reaches from ``start`` to ``end``, in cells as wide as 1, cell j from j to j + 1. It is
    divided into ``bins`` of equal length. Each bin takes samples, each in the middle of an equal
    part of the bin: one sample in the middle of the bin, two at its first and third quarter.
    A bin's value is the mean of its samples, and a sample lies between two cells:

    - the value of cell j stands at its centre, j + 0.5; measured from the centre of cell 0, a
      sample is at p = its place - 0.5;
    - if p < -1 or p > size, the sample is 0; it still counts in the mean;
    - any other p is moved into 0 .. size - 1, and cell j gives it max(0, 1 - |p - j|).

    Args:
        size: the number of cells of the axis.
        sampling_ratio: samples a bin, whatever its length: in a bin without length they all are
            at one place. 0 = as many as the bin is long, rounded up. Where ``end <= start`` that
            is none, and a bin without a sample takes nothing: its row is 0.

    Returns ``[bins, size]`` float32: row i times the cells' values is bin i's value.
    Source: Mask R-CNN (arXiv 1703.06870, sec. 3).
    """
    length = (end - start) / bins
    samples = sampling_ratio or math.ceil(length)
    if samples < 1:
        return torch.zeros(bins, size)
    part = (torch.arange(samples) + 0.5) / samples  # (S,), in bins
    p = start + (torch.arange(bins)[:, None] + part) * length - 0.5  # (bins, S)
    near = (p >= -1) & (p <= size)
    p = p.clamp(0, size - 1)
    hat = (1 - (p[..., None] - torch.arange(size)).abs()).clamp(min=0)  # (bins, S, size)
    return (hat * near[..., None]).mean(1)


def roi_align(features: Tensor, boxes: Tensor, bins: int, spatial_scale: float) -> Tensor:
    """ROIAlign of one feature map as two matrix products, along y and along x.

    ``axis_weights(start, end, bins, size, 0)`` takes the borders [R] of all boxes along one axis,
    in cells, and returns ``[R, bins, size]``: how much each cell gives to each bin. The half cell
    and the number of samples are seen to in there.

    Args:
        features: [C, H, W]; ``boxes`` [R, 4] xyxy in pixels of the image; R may be 0.
        bins: how many along y, and as many along x; ``spatial_scale``: cells a pixel, 1 / stride.

    Returns ``[R, C, bins, bins]``, of each bin first its place along y, then along x.
    """
    height, width = features.shape[1:]
    x1, y1, x2, y2 = (boxes * spatial_scale).unbind(1)
    along_y = axis_weights(y1, y2, bins, height, 0)  # (R, bins, H)
    along_x = axis_weights(x1, x2, bins, width, 0)  # (R, bins, W)
    rows = along_y[:, None] @ features  # (R, 1, bins, H) @ (C, H, W) -> (R, C, bins, W)
    return rows @ along_x[:, None].mT  # @ (R, 1, W, bins) -> (R, C, bins, bins)


# ------------------------------------------------------------------------------------- the oracles
#
# torchvision is imported when a check first needs it: all other lessons, and the workers of lesson
# 03, do without its 90 MB.


def torchvision_roi_pool(features: Tensor, box: Tensor, bins: int, spatial_scale: float) -> Tensor:
    from torchvision.ops import roi_pool

    return roi_pool(features[None], [box[None]], bins, spatial_scale)[0]


def torchvision_bilinear(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """A point is the one sample of the one bin of a box of one cell around it."""
    from torchvision.ops import roi_align

    boxes = torch.stack([x - 0.5, y - 0.5, x + 0.5, y + 0.5], 1)
    pooled = roi_align(values[None, None], [boxes], 1, 1.0, 1, aligned=False)
    return pooled.flatten()


def package_axis_matrix(
    start: float, end: float, bins: int, size: int, sampling_ratio: int = 0
) -> Tensor:
    return axis_weights(torch.tensor([start]), torch.tensor([end]), bins, size, sampling_ratio)[0]


def torchvision_roi_align(
    features: Tensor, boxes: Tensor, bins: int, spatial_scale: float
) -> Tensor:
    from torchvision.ops import roi_align

    return roi_align(features[None], [boxes], bins, spatial_scale, 0, aligned=True)


# ---------------------------------------------------------------------------- wrong whole functions


def samples_at_the_ends(
    start: float, end: float, bins: int, size: int, sampling_ratio: int = 0
) -> Tensor:
    """``axis_matrix`` with samples spread from border to border of a bin, like ``linspace``."""
    length = (end - start) / bins
    samples = sampling_ratio or math.ceil(length)
    if samples < 1:
        return torch.zeros(bins, size)
    part = torch.linspace(0, 1, samples)
    p = start + (torch.arange(bins)[:, None] + part) * length - 0.5
    near = (p >= -1) & (p <= size)
    p = p.clamp(0, size - 1)
    hat = (1 - (p[..., None] - torch.arange(size)).abs()).clamp(min=0)
    return (hat * near[..., None]).mean(1)


# ----------------------------------------------------------- the learner's function in the detector


def one_by_one(pool_one: Callable) -> Callable:
    """A stand-in for ``roi_align``: ``pool_one(features, box, bins, scale)`` a box."""

    def pool(features, boxes, bins, spatial_scale, *_):
        pooled = [
            pool_one(image, box, bins, spatial_scale)
            for image, of_image in zip(features, boxes, strict=True)
            for box in of_image
        ]
        return (
            torch.stack(pooled) if pooled else features.new_zeros(0, features.shape[1], bins, bins)
        )

    return pool


def by_points(value_at: Callable) -> Callable:
    """A stand-in for ``roi_align`` in which ``value_at(values, y, x)`` is every sample's value.

    Two samples a bin and axis, whatever the size of the box.
    """

    def pool(features, boxes, bins, spatial_scale, *_):
        place = (torch.arange(2 * bins) + 0.5) / (2 * bins)  # of the samples in a box, 0..1
        pooled = []
        for image, of_image in zip(features, boxes, strict=True):
            x1, y1, x2, y2 = (of_image * spatial_scale - 0.5)[..., None].unbind(1)  # (R, 1)
            y, x = y1 + (y2 - y1) * place, x1 + (x2 - x1) * place  # (R, 2 bins)
            y, x = torch.broadcast_tensors(y[:, :, None], x[:, None])  # (R, 2 bins, 2 bins)
            samples = [value_at(channel, y.flatten(), x.flatten()) for channel in image]
            samples = torch.stack(samples).reshape(len(image), *y.shape)  # (C, R, ...)
            pooled.append(torch.nn.functional.avg_pool2d(samples.transpose(0, 1), 2))
        return torch.cat(pooled)

    return pool


def by_matrices(matrix: Callable) -> Callable:
    """``pool_one`` for ``one_by_one``, with ``matrix(start, end, bins, size)`` along each axis."""

    def pool_one(features, box, bins, spatial_scale):
        height, width = features.shape[1:]
        x1, y1, x2, y2 = (box * spatial_scale).tolist()
        return matrix(y1, y2, bins, height) @ features @ matrix(x1, x2, bins, width).T

    return pool_one


def of_each_image(pool_boxes: Callable) -> Callable:
    """A stand-in for ``roi_align``: ``pool_boxes(features, boxes, bins, scale)`` an image."""

    def pool(features, boxes, bins, spatial_scale, *_):
        images = zip(features, boxes, strict=True)
        return torch.cat([pool_boxes(*image, bins, spatial_scale) for image in images])

    return pool


# ---------------------------------------------------------------------------------------- drawings


def draw_pooled(case: dict, expected, got) -> None:
    """The map with the box and its bins as they are before any rounding; channel 0 of the answers.

    For ``roi_align`` the first box is drawn.
    """
    features, scale = case["features"], case["spatial_scale"]
    boxes = case["boxes"] if "boxes" in case else case["box"][None]
    if len(boxes) == 0:
        return
    first = slice(0, 1) if "boxes" in case else slice(None)
    axes = drawing.panels(3, height=2.4)
    drawing.value_grid(axes[0], features[0], "map and box, in cells")
    draw_border(axes[0], features[0])
    draw_bins(axes[0], boxes[0] * scale, case["bins"])
    for ax, answer, title in zip(axes[1:], (expected, got), ("expected", "got"), strict=True):
        drawing.value_grid(ax, answer[first].flatten(0, -3)[0], title)


def draw_border(ax: Axes, values: Tensor) -> None:
    """Where the map ends: a box or a point may lie beyond, and cells of 0 are white."""
    height, width = values.shape
    ax.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor="0.5", linewidth=1))


def draw_bins(ax: Axes, box: Tensor, bins: int) -> None:
    """``box`` [4], in the units of ``ax``, with the borders of its bins."""
    x1, y1, x2, y2 = box.tolist()
    for i in range(1, bins):
        ax.plot([x1 + (x2 - x1) * i / bins] * 2, [y1, y2], "k:", linewidth=1)
        ax.plot([x1, x2], [y1 + (y2 - y1) * i / bins] * 2, "k:", linewidth=1)
    ax.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="black", linewidth=1.8)
    )
    ax.set_xlim(min(ax.get_xlim()[0], x1 - 0.2), max(ax.get_xlim()[1], x2 + 0.2))
    ax.set_ylim(max(ax.get_ylim()[0], y2 + 0.2), min(ax.get_ylim()[1], y1 - 0.2))


def draw_points(case: dict, expected, got) -> None:
    """The map with the points that were asked for; the wrong ones are crosses."""
    values, y, x = case.values()
    if len(x) == 0:
        return
    (ax,) = drawing.panels(1, height=2.6)
    drawing.value_grid(ax, values, "map and points; x: wrong there")
    draw_border(ax, values)
    right = (expected - got).abs() < 1e-3
    # The value of a cell stands at its centre, which is half a cell from the corner of its square.
    ax.plot(x[right] + 0.5, y[right] + 0.5, "o", color="white", markeredgecolor="black")
    ax.plot(x[~right] + 0.5, y[~right] + 0.5, "X", color="white", markeredgecolor="black", ms=10)
    ax.autoscale()
    ax.margins(0.1)


# ------------------------------------------------------------------------------------ the exercises


def image_boxes(low: float, high: float, step: float, least: float = 0.0):
    """Boxes [4] with corners from ``low`` to ``high``, extents of ``least`` or more."""
    corner = some.numbers(low, high, step)
    extent = some.numbers(least, high - low, step)
    return st.tuples(corner, corner, extent, extent).map(
        lambda b: torch.tensor([b[0], b[1], b[0] + b[2], b[1] + b[3]])
    )


RAMP = torch.arange(6.0) + 1  # along x
WAVES = torch.tensor([[[0.0, 4, 0, 0, 8], [0, 0, 2, 0, 0], [1, 0, 0, 6, 0], [0, 3, 0, 0, 5]]])


def pool_case(box: list[float], bins: int = 2, scale: float = 0.5, features: Tensor = WAVES):
    return {
        "features": features, "box": torch.tensor(box), "bins": bins, "spatial_scale": scale,
    }  # fmt: skip


ROI_POOL = Exercise(
    solution=roi_pool,
    oracle=torchvision_roi_pool,
    cases=st.builds(
        dict,
        features=some.tensors(st.integers(1, 2), st.integers(3, 5), st.integers(3, 6)),
        box=image_boxes(0, 16, 0.5),  # torchvision rounds negative halves down
        bins=st.sampled_from([1, 2, 4]),  # fractions of these are exact
        spatial_scale=st.sampled_from([1.0, 0.5, 0.25]),
    ),
    edges={
        "the last cell belongs to the box": [
            pool_case([0.0, 0, 2, 2], bins=1, scale=1.0, features=RAMP.repeat(1, 4, 1))
        ],
        "the largest value of each bin, of each channel": [
            pool_case([0.0, 0, 6, 6], features=torch.cat([WAVES, -1 - WAVES]))
        ],
        "borders are in pixels of the image": [pool_case([4.0, 2, 8, 6])],
        "a half is rounded up": [
            pool_case([2.5, 0.5, 4.5, 2.5], scale=1.0),
            pool_case([1.0, 1, 5, 5], bins=1),
        ],
        "bins share a cell where they do not divide evenly": [
            pool_case([0.0, 0, 2, 2], scale=1.0),
            pool_case([1.0, 0, 3, 3], bins=2, scale=1.0),
            pool_case([0.0, 0, 1, 1], bins=4, scale=1.0),
        ],
        "cells outside the map do not count": [
            pool_case([-3.0, -1, 0, 2], scale=1.0),
            pool_case([3.0, 2, 7, 6], scale=1.0),
            pool_case([-6.0, 1, -3, 2], scale=1.0),
            pool_case([-3.0, 0, 0, 0], bins=4, scale=1.0, features=1 + WAVES),
        ],
        "a bin without cells is 0": [
            pool_case([3.0, 2, 7, 6], scale=1.0, features=-1 - WAVES),
            pool_case([-4.0, 0, 1, 1], scale=1.0, features=-1 - WAVES),
        ],
        "a box without area has one cell": [pool_case([2.0, 2, 2, 2])],
        "a box that is turned inside out has one cell": [pool_case([6.0, 4, 2, 2])],
    },
    mistakes=(
        Mistake(
            "takes the mean of a bin instead of the maximum",
            "ROIPool is max pooling; the mean came with ROIAlign.",
            edits={"amax(1)": "mean(1)"},
        ),
        Mistake(
            "leaves the last cell out of the box",
            "A box whose borders round to cells 0 and 2 has three cells: 0, 1 and 2.",
            edits={"max(last - first + 1, 1)": "max(last - first, 1)"},
        ),
        Mistake(
            "lets each bin end where the next one begins",
            "The start of a bin is rounded down and its end up, so that neighbours share a cell "
            "that lies in both.",
            edits={"math.ceil((i + 1) * cells / bins)": "(i + 1) * cells // bins"},
        ),
        Mistake(
            "takes the box for cells, without spatial_scale",
            "The box is in pixels of the image; one cell is 1 / spatial_scale pixels wide.",
            edits={"(box * spatial_scale + 0.5)": "(box + 0.5)"},
        ),
        Mistake(
            "cuts the fractions off instead of rounding",
            "A border at 1.75 is nearer to cell 2 than to cell 1.",
            edits={" + 0.5).floor()": ").floor()"},
        ),
        Mistake(
            "rounds halves to the even cell",
            "round() of Python and torch.round take 2.5 to 2 and 3.5 to 4; the definition takes "
            "every half up, which is floor(v + 0.5).",
            edits={" + 0.5).floor()": ").round()"},
        ),
        Mistake(
            "gives -inf for a bin without cells",
            "Nothing is there to take the maximum of; the answer of ROIPool is then 0.",
            edits={
                "features.new_zeros(len(features), bins, bins)": (
                    "features.new_full((len(features), bins, bins), -math.inf)"
                )
            },
        ),
        Mistake(
            "counts cells left of or above the map from its other end",
            'A negative index means "from the end" in Python; cells outside the map do not count.',
            edits={"slice(max(start, 0), max(end, 0))": "slice(start, end)"},
        ),
        Mistake(
            "lets a bin that ends before the map reach into it",
            "The end of a bin may be negative too, and a negative end counts from the other side.",
            edits={"max(end, 0)": "end"},
        ),
        Mistake(
            "takes x for the rows and y for the columns",
            "A map is [C, H, W]: y, which goes down, comes first.",
            edits={
                "cells_of(i, y1, y2), cells_of(j, x1, x2)": (
                    "cells_of(i, x1, x2), cells_of(j, y1, y2)"
                )
            },
        ),
    ),
    hint="Write down the first and the last cell of the box along each axis; then, for one bin, "
    "which cells it holds.",
    difficulty=2,
    minutes=15,
    draw=draw_pooled,
    plug=lambda fn: {"detection.roi_align.roi_align": one_by_one(fn)},
)


def point_case(*points: tuple[float, float], values: Tensor = WAVES[0]):
    y, x = torch.tensor(points, dtype=torch.float32).reshape(-1, 2).unbind(1)
    return {"values": values, "y": y, "x": x}


@st.composite
def point_cases(draw):
    values = draw(some.tensors(st.integers(1, 4), st.integers(1, 5)))
    height, width = values.shape
    count = draw(st.integers(1, 3))
    y = draw(some.tensors(count, low=-2, high=height + 1, step=0.25))
    x = draw(some.tensors(count, low=-2, high=width + 1, step=0.25))
    return {"values": values, "y": y, "x": x}


BILINEAR = Exercise(
    solution=bilinear,
    oracle=torchvision_bilinear,
    cases=point_cases(),
    edges={
        "at a cell, the cell's own value": [point_case((0, 1), (1, 2), (3, 4))],
        "half-way between two cells, their mean": [point_case((0, 3.5)), point_case((2.5, 3))],
        "nearer to a cell, more of it": [point_case((0, 0.25), (0, 0.75), (0.25, 4), (1.25, 1.75))],
        "less than a cell beyond the map, the value at its border": [
            point_case((-0.5, 1), (3.5, 1), (0, 4.75), (2, -0.25), (-0.75, 4.5)),
            point_case((3.25, 4), (3, 4.25)),
        ],
        "a whole cell beyond the map, still the border": [
            point_case((-1, 4), (4, 4), (2, -1), (3, 5), (-1, 5), (4, 5))
        ],
        "more than a cell beyond the map, nothing": [
            point_case((-1.25, 4), (4.25, 4), (2, -1.25), (3, 5.25))
        ],
        "a map of one cell": [
            point_case((0, 0), (0.5, 0), (0, -0.5), values=torch.tensor([[3.0]]))
        ],
        "no point": [point_case()],
    },
    mistakes=(
        Mistake(
            "takes x for the row and y for the column",
            "y goes down: it chooses the row, the first index of the map.",
            edits={"height, width = values.shape": "y, x = x, y\n    height, width = values.shape"},
        ),
        Mistake(
            "looks cells up as values[x, y]",
            "The first index of a map is its row, so y comes first.",
            edits={
                "* values[top, left]": "* values[left, top]",
                "values[top, right]": "values[right, top]",
                "values[bottom, left]": "values[left, bottom]",
                "values[bottom, right]": "values[right, bottom]",
            },
        ),
        Mistake(
            "gives the nearer cell the smaller weight",
            "At a quarter of the way from a cell to the next, that cell has three quarters.",
            edits={"down, along = y - top, x - left": "down, along = 1 - y + top, 1 - x + left"},
        ),
        Mistake(
            "goes along x by the fraction of y, and the other way round",
            "The way from column to column is what x has left over after its own column.",
            edits={"down, along = y - top, x - left": "along, down = y - top, x - left"},
        ),
        Mistake(
            "looks for a cell after the last one",
            "In the last row and column there is no next cell; its weight is 0, but its index has "
            "to exist.",
            edits={
                "(top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)": (
                    "top + 1, left + 1"
                )
            },
        ),
        Mistake(
            "takes the nearest cell",
            "That is rounding again. The value changes gradually from one cell to the next.",
            edits={
                "down, along = y - top, x - left": (
                    "down, along = (y - top).round(), (x - left).round()"
                )
            },
        ),
        Mistake(
            "takes the cell before the point",
            "Cutting the fraction off gives one of four cells; the other three have a share too.",
            edits={
                "return ((1 - down) * upper + down * lower) * near": (
                    "return values[top, left] * near"
                )
            },
        ),
        Mistake(
            "lets the value fade to 0 towards a cell beyond the map",
            "Points up to one cell beyond the map are moved onto its border before anything else.",
            edits={
                "y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)": (
                    "values = torch.nn.functional.pad(values, (1, 1, 1, 1))\n"
                    "    y, x = (y + 1).clamp(0, height + 1), (x + 1).clamp(0, width + 1)\n"
                    "    height, width = values.shape"
                )
            },
        ),
        Mistake(
            "gives 0 for every point outside the outermost centres",
            "Only what lies more than one whole cell outside is 0.",
            edits={
                "(y >= -1) & (y <= height) & (x >= -1) & (x <= width)": (
                    "(y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)"
                )
            },
        ),
        Mistake(
            "gives the value at the border for points far outside",
            "A point more than one cell beyond the map is 0: look at the range first, then move "
            "the point.",
            edits={"down * lower) * near": "down * lower)"},
        ),
        Mistake(
            "puts the value of cell 0 at 0.5",
            "Here a point counts from cell centre to cell centre: at (0, 0) the answer is "
            "values[0, 0].",
            edits={
                "height, width = values.shape": (
                    "height, width = values.shape\n    y, x = y - 0.5, x - 0.5"
                )
            },
        ),
    ),
    hint="Interpolate twice along x, in the row above the point and in the row below it, then once "
    "along y.",
    difficulty=2,
    minutes=15,
    draw=draw_points,
    plug=lambda fn: {"detection.roi_align.roi_align": by_points(fn)},
)


@st.composite
def axis_cases(draw):
    bins, ratio = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([0, 0, 1, 2]))
    # No bin of 2 to 3 cells: thirds would round differently from one right answer to the next.
    shortest = -1 if ratio == 0 else 0
    lengths = some.numbers(shortest, 2, 0.25) | some.numbers(3.25, 4, 0.25)
    start, length = draw(some.numbers(-4, 6, 0.25)), draw(lengths)
    return {
        "start": float(start), "end": float(start + bins * length), "bins": bins,
        "size": draw(st.integers(1, 6)), "sampling_ratio": ratio,
    }  # fmt: skip


def axis_case(start: float, end: float, bins: int, size: int, sampling_ratio: int = 0):
    return {
        "start": start, "end": end, "bins": bins, "size": size, "sampling_ratio": sampling_ratio,
    }  # fmt: skip


AXIS_MATRIX = Exercise(
    solution=axis_matrix,
    oracle=package_axis_matrix,
    cases=axis_cases(),
    edges={
        "a bin that is a cell takes that cell": [axis_case(1.0, 3.0, 2, 4)],
        "a bin half a cell further takes half of two": [axis_case(0.5, 2.5, 2, 4)],
        "two samples a bin where it is longer than a cell": [
            axis_case(1.0, 4.0, 2, 5),
            axis_case(0.25, 4.25, 2, 5),
        ],
        "as many samples as are asked for": [
            axis_case(0.5, 4.5, 1, 5, sampling_ratio=1),
            axis_case(1.25, 2.25, 1, 4, sampling_ratio=2),
        ],
        "at the border, the last cell": [axis_case(-0.25, 0.25, 1, 3), axis_case(2.75, 3.25, 1, 3)],
        "beyond the map, nothing, but it counts in the mean": [
            axis_case(-3.0, 1.0, 1, 3),
            axis_case(1.0, 5.0, 1, 3),
            axis_case(-3.0, 5.0, 2, 2, sampling_ratio=4),
            axis_case(5.0, 7.0, 2, 3),
        ],
        "exactly one cell beyond the map, the border": [
            axis_case(-1.0, 0.0, 1, 3),
            axis_case(3.0, 4.0, 1, 3),
        ],
        "a box without length takes nothing": [
            axis_case(1.5, 1.5, 2, 3),
            axis_case(3.0, 1.0, 2, 4),
        ],
        "a box without length, if samples are asked for": [axis_case(1.5, 1.5, 1, 3, 2)],
    },
    mistakes=(
        Mistake(
            "forgets the half cell",
            "Cell 1 reaches from 1 to 2, so its value stands at 1.5: a bin from 1 to 2 takes it "
            "alone.",
            edits={" * length - 0.5": " * length"},
        ),
        Mistake(
            "adds the half cell instead of taking it off",
            "The centre of cell 0 is at 0.5 and is called 0: going from places to cells takes off "
            "a half.",
            edits={" * length - 0.5": " * length + 0.5"},
        ),
        Mistake(
            "puts each sample at the beginning of its part of the bin",
            "Samples stand in the middle of equal parts: (s + 1/2) / samples of the bin.",
            edits={"(torch.arange(samples) + 0.5)": "torch.arange(samples)"},
        ),
        Mistake(
            "spreads the samples from one border of the bin to the other",
            "linspace(0, 1, n) puts the outer samples onto the borders; two samples belong at the "
            "quarters.",
            wrong=samples_at_the_ends,
        ),
        Mistake(
            "adds the samples up instead of taking their mean",
            "A constant map has to come out as it is: inside the map, each row adds up to 1.",
            edits={".mean(1)": ".sum(1)"},
        ),
        Mistake(
            "leaves samples beyond the map out of the mean",
            "A sample beyond the map is 0 and is still one of the samples that are divided by.",
            edits={
                "return (hat * near[..., None]).mean(1)": (
                    "return (hat * near[..., None]).sum(1) / near.sum(1, True).clamp(min=1)"
                )
            },
        ),
        Mistake(
            "takes samples far beyond the map for samples at its border",
            "More than one cell beyond (p < -1 or p > size) a sample is 0.",
            edits={"(hat * near[..., None])": "hat"},
        ),
        Mistake(
            "gives 0 for samples outside the outermost centres",
            "Only a sample more than one whole cell outside, p < -1 or p > size, is 0.",
            edits={"(p >= -1) & (p <= size)": "(p >= 0) & (p <= size - 1)"},
        ),
        Mistake(
            "takes the mean of no samples",
            "A box without length has no sample: the mean of nothing is nan, and its bins are 0.",
            edits={"    if samples < 1:\n        return torch.zeros(bins, size)\n": ""},
        ),
        Mistake(
            "lets samples fade out at the border",
            "Up to one cell beyond the map, p is moved onto the map before the weights are taken.",
            edits={"p = p.clamp(0, size - 1)": "p = p + 0"},
        ),
        Mistake(
            "rounds the number of samples down",
            "As many samples as the bin is long, rounded up: a bin of one and a half cells takes "
            "two, and half a cell takes one.",
            edits={"math.ceil(length)": "math.floor(length)"},
        ),
        Mistake(
            "counts samples by the length of the whole box",
            "The number of samples goes by the length of one bin, (end - start) / bins.",
            edits={"math.ceil(length)": "math.ceil(end - start)"},
        ),
        Mistake(
            "rounds the box to whole cells",
            "Not rounding is the whole point of ROIAlign: start and end stay fractions.",
            edits={
                "length = (end - start) / bins": (
                    "start, end = math.floor(start + 0.5), math.floor(end + 0.5)\n"
                    "    length = (end - start) / bins"
                )
            },
        ),
        Mistake(
            "takes one sample in a box without length",
            "With sampling_ratio 0, a bin of length 0 has ceil(0) = 0 samples, and takes nothing.",
            edits={
                "sampling_ratio or math.ceil(length)": "sampling_ratio or max(1, math.ceil(length))"
            },
        ),
    ),
    hint="Write down the places of the samples of one bin first, then each one's p, then the two "
    "cells beside it.",
    difficulty=3,
    minutes=20,
    plug=lambda fn: {
        "detection.roi_align.axis_weights": lambda start, end, *rest: torch.stack(
            [fn(*axis, *rest[:3]) for axis in zip(start.tolist(), end.tolist(), strict=True)]
        ),
        "detection.roi_align.roi_align": one_by_one(by_matrices(fn)),
    },
)


def align_case(*boxes: list[float], bins: int = 2, scale: float = 0.5, features: Tensor = WAVES):
    return {
        "features": features, "boxes": torch.tensor(boxes).reshape(-1, 4), "bins": bins,
        "spatial_scale": scale,
    }  # fmt: skip


ROI_ALIGN = Exercise(
    solution=roi_align,
    oracle=torchvision_roi_align,
    cases=st.builds(
        dict,
        features=some.tensors(st.integers(1, 2), st.integers(3, 5), st.integers(3, 6)),
        boxes=st.lists(image_boxes(-2, 10, 0.5), max_size=3).map(
            lambda rows: torch.stack(rows) if rows else torch.zeros(0, 4)
        ),
        bins=st.sampled_from([1, 2, 4]),
        spatial_scale=st.sampled_from([1.0, 0.5, 0.25]),
    ),
    edges={
        "bins that are cells": [align_case([1.0, 0, 3, 2], scale=1.0)],
        "borders are in pixels of the image": [align_case([2.0, 4, 6, 8])],
        "a box is x1, y1, x2, y2": [
            align_case([1.0, 0, 5, 2], scale=1.0),
            align_case([0.5, 1.25, 3.5, 2.75], scale=1.0),
        ],
        "two boxes, two channels": [
            align_case([1.0, 1, 7, 5], [0.0, 2, 9, 7], features=torch.cat([WAVES, 1 - WAVES]))
        ],
        "a box without area is 0": [align_case([2.0, 2, 2, 6]), align_case([2.0, 2, 6, 2])],
        "a box outside the map is 0": [align_case([20.0, 20, 24, 24])],
        "no box": [align_case()],
    },
    mistakes=(
        Mistake(
            "uses the boxes' x along y and their y along x",
            "The columns of a box are x1, y1, x2, y2; the rows of the map go with y.",
            edits={"x1, y1, x2, y2 =": "y1, x1, y2, x2 ="},
        ),
        Mistake(
            "turns the answer over: x before y",
            "Bins come as rows (y), then columns (x), as in the map.",
            edits={"return rows @ along_x[:, None].mT": "return (rows @ along_x[:, None].mT).mT"},
        ),
        Mistake(
            "takes the boxes for cells, without spatial_scale",
            "Boxes are in pixels of the image; one cell is 1 / spatial_scale pixels wide.",
            edits={"(boxes * spatial_scale)": "boxes"},
        ),
        Mistake(
            "divides by spatial_scale",
            "spatial_scale is cells a pixel, 1 / stride: a box of 16 pixels at 1/8 is 2 cells.",
            edits={"boxes * spatial_scale": "boxes / spatial_scale"},
        ),
        Mistake(
            "rounds the boxes to whole cells first",
            "That is ROIPool's rounding; ROIAlign exists to do without it.",
            edits={
                "(boxes * spatial_scale).unbind(1)": "(boxes * spatial_scale).round().unbind(1)"
            },
        ),
        Mistake(
            "takes the half cell off a second time",
            "axis_weights takes it off already: hand it the borders as they are.",
            edits={"(boxes * spatial_scale)": "(boxes * spatial_scale - 0.5)"},
        ),
        Mistake(
            "reads boxes as x, y, width, height",
            "x2 and y2 are the other corner, no extents.",
            edits={
                "along_y = axis_weights(y1, y2, bins": "along_y = axis_weights(y1, y1 + y2, bins",
                "along_x = axis_weights(x1, x2, bins": "along_x = axis_weights(x1, x1 + x2, bins",
            },
        ),
        Mistake(
            "takes one sample a bin instead of as many as it has cells",
            "The last argument of axis_weights is the sampling ratio; 0 is adaptive.",
            edits={"bins, height, 0)": "bins, height, 1)", "bins, width, 0)": "bins, width, 1)"},
        ),
    ),
    hint="Pool one box of one channel first: along_y[0] @ features[0] @ along_x[0].T has two rows "
    "for two bins. Then add the dimensions of boxes and channels by broadcasting.",
    difficulty=2,
    minutes=10,
    draw=draw_pooled,
    plug=lambda fn: {"detection.roi_align.roi_align": of_each_image(fn)},
)

EXERCISES = (ROI_POOL, BILINEAR, AXIS_MATRIX, ROI_ALIGN)
