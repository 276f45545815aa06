"""Lesson 01: the cost of a convolution, round channels, the shuffle, squeeze-and-excitation."""

import math
from collections.abc import Callable
from functools import cache

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from fbnet_lesson.blocks import (
    SqueezeExcite,
    channel_shuffle,
    count_macs,
    count_parameters,
    round_channels,
)
from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Case, Exercise, Mistake

# --------------------------------------------------------------------------------- 1 · conv_cost


def conv_cost(
    in_channels: int,
    out_channels: int,
    kernel: int,
    size: tuple[int, int],
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> tuple[int, int]:
    """Parameters and multiply-adds (MACs) of a convolution on one image, two whole numbers.

    ``size`` is the input's (height, width). The convolution is padded with ``kernel // 2``, so its
    output is ceil(height / stride) cells high and ceil(width / stride) wide. Every output channel
    sees ``in_channels / groups`` input channels. A bias is one number for each output channel; it
    is added and not multiplied, so it is no MAC. A product with a padded zero is one.
    """
    weights = out_channels * (in_channels // groups) * kernel * kernel
    cells = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    return weights + bias * out_channels, weights * cells


@cache  # a check asks for the same cases again and again
def counted_conv_cost(in_channels, out_channels, kernel, size, stride, groups, bias):
    """The same from a real convolution, counted by torch."""
    with torch.device("meta"):
        conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias
        )
        return count_parameters(conv), count_macs(conv, torch.empty(1, in_channels, *size))


def conv_case(c_in, c_out, kernel, size, stride=1, groups=1, bias=False) -> Case:
    return {
        "in_channels": c_in,
        "out_channels": c_out,
        "kernel": kernel,
        "size": size,
        "stride": stride,
        "groups": groups,
        "bias": bias,
    }


@st.composite
def conv_cases(draw) -> Case:
    groups = draw(st.sampled_from((1, 2, 3)))
    kernel = draw(st.sampled_from((1, 3, 5)))
    return conv_case(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        (draw(st.integers(kernel, 7)), draw(st.integers(kernel, 7))),
        draw(st.sampled_from((1, 2))),
        groups,
        draw(st.booleans()),
    )


CONV_COST = Exercise(
    solution=conv_cost,
    oracle=counted_conv_cost,
    cases=conv_cases(),
    edges={
        "a 1x1 convolution is a matrix, applied in every cell": [conv_case(2, 3, 1, (4, 5))],
        "a kernel has k x k weights for every pair of channels": [conv_case(2, 3, 3, (4, 5))],
        "with stride 2 an odd edge is rounded up": [conv_case(2, 3, 3, (5, 7), stride=2)],
        "groups divide the channels that an output sees": [conv_case(4, 6, 3, (4, 5), groups=2)],
        "a depthwise convolution sees one channel": [conv_case(4, 4, 5, (4, 5), groups=4)],
        "a bias is one number an output channel and no MAC": [
            conv_case(2, 3, 1, (4, 5), bias=True)
        ],
    },
    mistakes=(
        Mistake(
            "forgets the groups",
            "A group's output channels never see the other groups' inputs: those weights do not "
            "exist.",
            edits={"(in_channels // groups)": "in_channels"},
        ),
        Mistake(
            "divides by the groups twice",
            "Only the inputs that an output channel sees are fewer; there are as many outputs as "
            "before.",
            edits={"= out_channels *": "= out_channels // groups *"},
        ),
        Mistake(
            "multiplies by the groups",
            "More groups make fewer weights: each output channel sees in_channels / groups inputs.",
            edits={"in_channels // groups": "in_channels * groups"},
        ),
        Mistake(
            "leaves the input channels out",
            "That is right for a depthwise convolution only. In general an output channel has a "
            "kernel for each of the in_channels / groups inputs that it sees.",
            edits={" * (in_channels // groups)": ""},
        ),
        Mistake(
            "takes the kernel for a row of k weights",
            "The kernel is a square: k rows of k weights.",
            edits={" * kernel * kernel": " * kernel"},
        ),
        Mistake(
            "counts the cells of the input",
            "The work is done once for each cell of the output, and stride 2 leaves a quarter.",
            edits={
                "math.ceil(size[0] / stride) * math.ceil(size[1] / stride)": "size[0] * size[1]"
            },
        ),
        Mistake(
            "divides the input's height and width by the stride and rounds down",
            "Padded with kernel // 2, five rows at stride 2 give three: rows 0, 2 and 4.",
            edits={
                "math.ceil(size[0] / stride) * math.ceil(size[1] / stride)": (
                    "(size[0] // stride) * (size[1] // stride)"
                )
            },
        ),
        Mistake(
            "divides by the stride along one axis only",
            "Stride 2 leaves out every second row and every second column.",
            edits={"math.ceil(size[1] / stride)": "size[1]"},
        ),
        Mistake(
            "takes the map for a square as high as it is",
            "size is (height, width): the second factor is ceil(size[1] / stride).",
            edits={"size[1] / stride": "size[0] / stride"},
        ),
        Mistake(
            "takes the map for a square as wide as it is",
            "size is (height, width): the first factor is ceil(size[0] / stride).",
            edits={"size[0] / stride": "size[1] / stride"},
        ),
        Mistake(
            "divides the number of cells by the stride once",
            "Stride 2 halves the rows and the columns, so that a quarter of the cells is left.",
            edits={
                "math.ceil(size[0] / stride) * math.ceil(size[1] / stride)": (
                    "math.ceil(size[0] * size[1] / stride)"
                )
            },
        ),
        Mistake(
            "rounds the number of cells up, and not the height and the width",
            "Rows and columns are left out separately: three by three cells become two by two, "
            "and 9 / 4 would be rounded to 3.",
            edits={
                "math.ceil(size[0] / stride) * math.ceil(size[1] / stride)": (
                    "math.ceil(size[0] * size[1] / stride**2)"
                )
            },
        ),
        Mistake(
            "counts the work of a single cell",
            "Every weight is used once in each cell of the output: multiply by the cells.",
            edits={"weights * cells": "weights"},
        ),
        Mistake(
            "applies no padding, so that the output shrinks by kernel - 1",
            "Padding kernel // 2 on each side keeps the size at stride 1.",
            edits={
                "math.ceil(size[0] / stride)": "((size[0] - kernel) // stride + 1)",
                "math.ceil(size[1] / stride)": "((size[1] - kernel) // stride + 1)",
            },
        ),
        Mistake(
            "does not round the output's size down in (height - 1) / stride + 1",
            "From four rows at stride 2 there are two, not 2.5: ceil(4 / 2).",
            edits={
                "math.ceil(size[0] / stride)": "((size[0] - 1) / stride + 1)",
                "math.ceil(size[1] / stride)": "((size[1] - 1) / stride + 1)",
            },
        ),
        Mistake(
            "divides with / and so returns floats",
            "Counts are whole numbers: groups always divide the channels, so // loses nothing.",
            edits={"in_channels // groups": "in_channels / groups"},
        ),
        Mistake(
            "has a bias for every input channel",
            "A bias is added to what comes out: one number for each output channel.",
            edits={"bias * out_channels": "bias * in_channels"},
        ),
        Mistake(
            "has one bias for the whole layer",
            "Every output channel has its own.",
            edits={" + bias * out_channels": " + bias"},
        ),
        Mistake(
            "forgets the bias",
            "With bias=True every output channel has one more parameter.",
            edits={" + bias * out_channels": ""},
        ),
        Mistake(
            "gives every layer a bias",
            "Look at the argument bias: with False there is none.",
            edits={" + bias * out_channels": " + out_channels"},
        ),
        Mistake(
            "counts the bias among the MACs",
            "A bias is added once and multiplies nothing.",
            edits={"weights * cells": "(weights + bias * out_channels) * cells"},
        ),
        Mistake(
            "counts two operations for a multiply-add",
            "That is the FLOP count. A multiplication with its addition is one MAC.",
            edits={"weights * cells": "2 * weights * cells"},
        ),
        Mistake(
            "counts multiplications and additions separately",
            "A multiplication and its addition are one MAC together, so leave the additions out.",
            edits={"weights * cells": "(2 * weights - out_channels) * cells"},
        ),
        Mistake(
            "returns MACs first",
            "The order is (parameters, MACs).",
            edits={
                "return weights + bias * out_channels, weights * cells": (
                    "return weights * cells, weights + bias * out_channels"
                )
            },
        ),
    ),
    hint="Count the weights first: outputs, times inputs that one output sees, times k x k. Then "
    "each weight is used once in every cell of the output.",
    examples=60,
    difficulty=1,
    minutes=10,
)

# ---------------------------------------------------------------------------- 2 · round_channels


def wish(wish: float, divisor: int = 8) -> Case:
    return {"wish": wish, "divisor": divisor}


ROUND_CHANNELS = Exercise(
    solution=round_channels,
    cases=st.fixed_dictionaries(
        {"wish": some.numbers(0, 130, 0.25), "divisor": st.sampled_from((8, 4, 1, 5, 16))}
    ),
    edges={
        "a multiple of the divisor stays": [wish(160), wish(8)],
        "the nearest multiple is taken": [wish(41), wish(100.75), wish(98)],
        "a half goes up": [wish(84), wish(92)],
        "it is never under the divisor": [wish(3), wish(0)],
        "it is never under 0.95 of the wish": [wish(10), wish(42.5), wish(8.5)],
        "exactly 0.95 of the wish is enough": [wish(20, divisor=19)],
        "the divisor need not be 8": [wish(10, divisor=4), wish(43.75, divisor=1)],
    },
    mistakes=(
        Mistake(
            "rounds some halves down, as Python's round() does",
            "round() takes a half to the even neighbour: round(10.5) is 10, and round(11.5) is 12.",
            edits={"math.floor(wish / divisor + 0.5)": "round(wish / divisor)"},
        ),
        Mistake(
            "rounds every half down",
            "84 lies half-way between 80 and 88, and the docstring says that halves go up.",
            edits={"math.floor(wish / divisor + 0.5)": "math.ceil(wish / divisor - 0.5)"},
        ),
        Mistake(
            "adds 4 before it rounds down, whatever the divisor",
            "Half a divisor makes rounding down into rounding to the nearest: 4 is half of 8 only.",
            edits={
                "math.floor(wish / divisor + 0.5) * divisor": "int(wish + 4) // divisor * divisor"
            },
        ),
        Mistake(
            "rounds down instead of to the nearest multiple",
            "For small wishes the 0.95 rule hides it; what becomes of 92, between 88 and 96?",
            edits={"wish / divisor + 0.5": "wish / divisor"},
        ),
        Mistake(
            "always rounds up",
            "41 is nearer to 40 than to 48, and 40 is more than 0.95 of it.",
            edits={"math.floor(wish / divisor + 0.5)": "math.ceil(wish / divisor)"},
        ),
        Mistake(
            "lets the count fall far under the wish",
            "10 rounds to 8, a fifth less than was wished: see the docstring's last sentence.",
            edits={"rounded + divisor if rounded < 0.95 * wish else rounded": "rounded"},
        ),
        Mistake(
            "allows a loss of 10 %",
            "0.9 is the limit in MobileNet's code; here it is 0.95.",
            edits={"0.95 * wish": "0.9 * wish"},
        ),
        Mistake(
            "adds a divisor at exactly 0.95 of the wish",
            "'Never under 0.95' allows 0.95 itself: compare with <.",
            edits={"rounded < 0.95": "rounded <= 0.95"},
        ),
        Mistake(
            "compares the number of divisors with 0.95 of the wish",
            "Multiply by the divisor first: 20 times 8 channels against a wish of 160.",
            edits={"rounded < 0.95 * wish": "rounded / divisor < 0.95 * wish"},
        ),
        Mistake(
            "takes 0.95 of the rounded count and not of the wish",
            "The count may be as small as 0.95 of the wish: the factor belongs to the wish.",
            edits={"rounded < 0.95 * wish": "0.95 * rounded < wish"},
        ),
        Mistake(
            "adds one channel where a divisor is missing",
            "The answer stays a multiple of the divisor: take the next multiple.",
            edits={"rounded + divisor if": "rounded + 1 if"},
        ),
        Mistake(
            "returns how many divisors there are, not how many channels",
            "Multiply by the divisor in the end.",
            edits={
                "rounded + divisor if rounded < 0.95 * wish else rounded": (
                    "(rounded + divisor if rounded < 0.95 * wish else rounded) // divisor"
                )
            },
        ),
        Mistake(
            "has 1 for the smallest value",
            "Even for a wish of 0 the count is the divisor: max(divisor, ...).",
            edits={"max(divisor, math": "max(1, math"},
        ),
        Mistake(
            "has no smallest value",
            "The count is never under the divisor, not even for a wish of 0.",
            edits={
                "max(divisor, math.floor(wish / divisor + 0.5) * divisor)": (
                    "math.floor(wish / divisor + 0.5) * divisor"
                )
            },
        ),
        Mistake(
            "cuts the wish's fraction off first",
            "8.5 is not 8: 8 channels are under 0.95 of 8.5.",
            edits={"rounded = max": "wish = int(wish)\n    rounded = max"},
        ),
        Mistake(
            "rounds to multiples of 8, whatever the divisor",
            "The divisor is an argument, and 8 only what it is by default.",
            edits={"rounded = max": "divisor = 8\n    rounded = max"},
        ),
        Mistake(
            "returns a float",
            "A number of channels is an int: x // 1 is a float if x is one, math.floor(x) is not.",
            edits={"math.floor(wish / divisor + 0.5)": "((wish + 0.0) / divisor + 0.5) // 1"},
        ),
    ),
    hint="Round wish / divisor to the nearest whole number, then look at the two rules: at least "
    "the divisor, at least 0.95 of the wish.",
    difficulty=2,
    minutes=10,
)

# --------------------------------------------------------------------------- 3 · channel_shuffle


def numbered(n: int, c: int, h: int = 1, w: int = 1) -> Tensor:
    """A map whose values say where they come from: image, channel, row, column as digits."""
    digits = [torch.arange(k).float() for k in (n, c, h, w)]
    grids = torch.meshgrid(*digits, indexing="ij")
    return 1000 * grids[0] + 100 * grids[1] + 10 * grids[2] + grids[3]


@st.composite
def shuffle_cases(draw) -> Case:
    groups = draw(st.sampled_from((1, 2, 3)))
    channels = groups * draw(st.integers(1, 3))
    n, h, w = (draw(st.integers(1, 2)) for _ in range(3))
    return {"x": numbered(n, channels, h, w), "groups": groups}


def draw_channels(case: Case, expected: Tensor, got: Tensor) -> None:
    """The maps with a column for each channel and a row for each cell of each image."""
    maps = {"x": case["x"], "expected": expected, "got": got}
    for ax, (title, value) in zip(drawing.panels(3, height=1.9), maps.items(), strict=True):
        channels = value.flatten(1, -3)  # an answer may have them split into two axes
        drawing.value_grid(ax, channels.permute(0, 2, 3, 1).flatten(0, 2), title)
        ax.set_xlabel("channel", fontsize=8)


def shuffled_at_random(x: Tensor, groups: int) -> Tensor:
    return x[:, torch.randperm(x.shape[1])]


def moved_by_a_group(x: Tensor, groups: int) -> Tensor:
    return x.roll(x.shape[1] // groups, 1)


def shuffled_over_the_batch(x: Tensor, groups: int) -> Tensor:
    return x.reshape(groups, -1).t().reshape(x.shape)


CHANNEL_SHUFFLE = Exercise(
    solution=channel_shuffle,
    draw=draw_channels,
    cases=shuffle_cases(),
    edges={
        "two groups of three take turns": [{"x": numbered(1, 6), "groups": 2}],
        "three groups of two take turns": [{"x": numbered(1, 6), "groups": 3}],
        "one group changes nothing": [{"x": numbered(1, 3), "groups": 1}],
        "groups of one channel change nothing": [{"x": numbered(1, 3), "groups": 3}],
        "each image is shuffled by itself": [{"x": numbered(2, 6), "groups": 2}],
        "rows and columns stay in their places": [{"x": numbered(1, 4, 2, 3), "groups": 2}],
    },
    mistakes=(
        Mistake(
            "leaves every channel where it was",
            "Two reshapes undo each other: between them the groups have to change places with the "
            "channels of a group.",
            edits={".transpose(1, 2)": ""},
        ),
        Mistake(
            "undoes the shuffle",
            "Channels come in whole groups, the first C / G of them are group 0: which of the two "
            "new axes is the slow one?",
            edits={"(n, groups, c // groups, h, w)": "(n, c // groups, groups, h, w)"},
        ),
        Mistake(
            "calls view on a transposed tensor",
            "After transpose the numbers no longer lie in order, and view only gives a new shape "
            "to those that do: reshape copies where it has to.",
            edits={"transpose(1, 2).reshape": "transpose(1, 2).view"},
        ),
        Mistake(
            "shuffles the images of the batch",
            "transpose(0, 1) takes the batch; the groups are axis 1.",
            edits={"transpose(1, 2)": "transpose(0, 1)"},
        ),
        Mistake(
            "puts the groups in reverse order, unmixed",
            "Each new group has to hold a channel of every old one: c0 of group 0, c0 of group 1, "
            "and so on.",
            edits={"transpose(1, 2)": "flip(1)"},
        ),
        Mistake(
            "always makes two groups",
            "The number of groups is an argument.",
            edits={"(n, groups, c // groups, h, w)": "(n, 2, c // 2, h, w)"},
        ),
        Mistake(
            "swaps the channels of a group with the rows of the map",
            "Count the axes from 0: (image, group, channel of the group, row, column). Axes 1 and "
            "2 change places.",
            edits={"transpose(1, 2)": "transpose(2, 3)"},
        ),
        Mistake(
            "turns rows and columns round",
            "Only the two axes that were made of the channels change places; height and width "
            "stay as they are.",
            edits={"transpose(1, 2)": "permute(0, 2, 1, 4, 3)"},
        ),
        Mistake(
            "leaves the channels split into two axes",
            "The last step puts the shape back: reshape(n, c, h, w).",
            edits={"x.transpose(1, 2).reshape(n, c, h, w)": "x.transpose(1, 2)"},
        ),
        Mistake(
            "shuffles at random",
            "The name misleads: the order is fixed, a channel of each group in turn.",
            wrong=shuffled_at_random,
        ),
        Mistake(
            "moves the channels on by one group",
            "Each new group has to hold a channel of every old one; moving whole groups mixes "
            "nothing.",
            wrong=moved_by_a_group,
        ),
        Mistake(
            "deals out the numbers of the whole batch, not the channels of each image",
            "Keep the images apart: the first axis stays n, and only the channel axis is split.",
            wrong=shuffled_over_the_batch,
        ),
    ),
    hint="[N, C] seen as [N, G, C / G] is one row a group. Read it column by column.",
    difficulty=2,
    minutes=8,
)

# ---------------------------------------------------------------------------- 4 · squeeze_excite


def squeeze_excite(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    """Scale each channel of each image by a gate between 0 and 1. [N, C, H, W] in and out.

    The mean over rows and columns, C numbers an image, goes through two linear layers: ``reduce``
    (weight [S, C], bias [S]) with a ReLU, then ``expand`` (weight [C, S], bias [C]) with a sigmoid.
    The result is one gate a channel (arXiv 1709.01507, sec. 3).
    """
    mean = x.mean((2, 3))  # (N, C)
    squeezed = (mean @ reduce_weight.t() + reduce_bias).relu()  # (N, S)
    gates = (squeezed @ expand_weight.t() + expand_bias).sigmoid()  # (N, C)
    return x * gates[:, :, None, None]


def packaged_squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias) -> Tensor:
    """The same with the package's module."""
    module = SqueezeExcite(x.shape[1], len(reduce_bias))
    weights = {
        "reduce.weight": reduce_weight[:, :, None, None],
        "reduce.bias": reduce_bias,
        "expand.weight": expand_weight[:, :, None, None],
        "expand.bias": expand_bias,
    }
    module.load_state_dict(weights)
    with torch.no_grad():
        return module(x)


def plug_squeeze_excite(function: Callable) -> dict[str, Callable]:
    """For models whose SE has a ReLU and a sigmoid, as d2go's detectors have."""

    def forward(self, x):
        weights = [
            part.flatten(1) if part.dim() == 4 else part
            for conv in (self.reduce, self.expand)
            for part in (conv.weight, conv.bias)
        ]
        scaled = function(x, *weights)
        if not isinstance(scaled, Tensor) or scaled.shape != x.shape:
            found = list(scaled.shape) if isinstance(scaled, Tensor) else type(scaled).__name__
            raise ValueError(f"{found}, expected is a map {list(x.shape)}")
        return scaled

    return {"blocks.SqueezeExcite.forward": forward}


@st.composite
def se_cases(draw) -> Case:
    n, c, s, h, w = (draw(st.integers(1, k)) for k in (2, 3, 2, 2, 2))
    return {
        "x": draw(some.tensors(n, c, h, w, low=-3, high=3)),
        "reduce_weight": draw(some.tensors(s, c, low=-2, high=2)),
        "reduce_bias": draw(some.tensors(s, low=-2, high=2)),
        "expand_weight": draw(some.tensors(c, s, low=-2, high=2)),
        "expand_bias": draw(some.tensors(c, low=-2, high=2)),
    }


def se_case(x, reduce=((1.0, 1.0),), reduce_bias=(0.0,), expand=((1.0,), (-1.0,)), bias=(0.0, 0.0)):
    values = {
        "x": x,
        "reduce_weight": reduce,
        "reduce_bias": reduce_bias,
        "expand_weight": expand,
        "expand_bias": bias,
    }
    return {key: torch.as_tensor(value, dtype=torch.float32) for key, value in values.items()}


def draw_cells(case: Case, expected: Tensor, got: Tensor) -> None:
    """The maps with a row for each channel of each image and a column for each cell."""
    maps = {"x": case["x"], "expected": expected, "got": got}
    for ax, (title, value) in zip(drawing.panels(3, height=1.9), maps.items(), strict=True):
        drawing.value_grid(ax, value.flatten(2).flatten(0, 1) if value.dim() == 4 else value, title)
        ax.set_xlabel("cell" if value.dim() == 4 else "", fontsize=8)
        ax.set_ylabel("channel", fontsize=8)


ONE_CELL = [[[[1.0]], [[2.0]]]]  # two channels
SQUEEZE_EXCITE = Exercise(
    solution=squeeze_excite,
    oracle=packaged_squeeze_excite,
    plug=plug_squeeze_excite,
    draw=draw_cells,
    cases=se_cases(),
    edges={
        "weights and biases of zero make all gates one half": [
            se_case(ONE_CELL, ((0.0, 0.0),), (0.0,), ((0.0,), (0.0,)))
        ],
        "a channel may be opened, another one closed": [se_case(ONE_CELL)],
        "every channel has a mean of its own": [se_case(ONE_CELL, ((2.0, -0.5),))],
        "a negative answer of the first layer becomes 0": [se_case(ONE_CELL, ((-1.0, -1.0),))],
        "both biases count": [se_case(ONE_CELL, reduce_bias=(-1.0,), bias=(1.0, -2.0))],
        "the gate depends on the mean of the map": [
            se_case([[[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [4.0, -4.0]]]])
        ],
        "each image has its own gates": [se_case([[[[1.0]], [[0.0]]], [[[3.0]], [[1.0]]]])],
        "a gate belongs to a channel, not to a column": [
            se_case([[[[1.0, 2.0], [3.0, 2.0]], [[1.0, 1.0], [1.0, -3.0]]]])
        ],
    },
    mistakes=(
        Mistake(
            "sums over the map where it should average",
            "A sum grows with the map: the same layer would answer otherwise at another "
            "resolution.",
            edits={"x.mean((2, 3))": "x.sum((2, 3))"},
        ),
        Mistake(
            "takes the largest value of a channel, not the mean",
            "Squeezing is a mean over rows and columns.",
            edits={"x.mean((2, 3))": "x.amax((2, 3))"},
        ),
        Mistake(
            "takes one mean over all channels",
            "Every channel has a mean of its own: [N, C, H, W] -> [N, C].",
            edits={"x.mean((2, 3))": "x.mean((1, 2, 3))[:, None].expand(x.shape[:2])"},
        ),
        Mistake(
            "takes the mean over the batch too",
            "An image's gates depend on that image alone: leave axis 0 as it is.",
            edits={"x.mean((2, 3))": "x.mean((0, 2, 3)).expand(x.shape[:2])"},
        ),
        Mistake(
            "has no ReLU between the two layers",
            "Without it, two linear layers are one.",
            edits={").relu()": ")"},
        ),
        Mistake(
            "has a sigmoid in both places",
            "The first layer ends with a ReLU; only the second one makes gates.",
            edits={"reduce_bias).relu()": "reduce_bias).sigmoid()"},
        ),
        Mistake(
            "has sigmoid and ReLU the wrong way round",
            "First the ReLU, between the layers; then the sigmoid, which makes gates of numbers.",
            edits={
                "reduce_bias).relu()": "reduce_bias).sigmoid()",
                "expand_bias).sigmoid()": "expand_bias).relu()",
            },
        ),
        Mistake(
            "ends with tanh where the sigmoid should be",
            "tanh lies between -1 and 1, so that a gate could turn the sign of a channel round.",
            edits={").sigmoid()": ").tanh()"},
        ),
        Mistake(
            "ends with the hard sigmoid",
            "MobileNetV3 has the hard one; the docstring asks for the sigmoid, 1 / (1 + exp(-z)).",
            edits={
                "gates = (squeezed @ expand_weight.t() + expand_bias).sigmoid()": (
                    "gates = nn.functional.hardsigmoid(squeezed @ expand_weight.t() + expand_bias)"
                )
            },
        ),
        Mistake(
            "has no sigmoid, so that a gate may be any number",
            "A gate lies between 0 and 1.",
            edits={").sigmoid()": ")"},
        ),
        Mistake(
            "ends with a ReLU where the sigmoid should be",
            "A ReLU closes a gate for good or opens it without limit; a gate lies between 0 and 1.",
            edits={").sigmoid()": ").relu()"},
        ),
        Mistake(
            "multiplies with the weights as they are, [S, C]",
            "Means [N, C] times [C, S] make [N, S]: weights are kept as [out, in], so transpose "
            "them.",
            edits={"reduce_weight.t()": "reduce_weight", "expand_weight.t()": "expand_weight"},
        ),
        Mistake(
            "lets the channels compete in a softmax",
            "Gates are independent: all may be open at once, so each has a sigmoid of its own.",
            edits={").sigmoid()": ").softmax(1)"},
        ),
        Mistake(
            "returns the gates and not the scaled map",
            "The answer is x times its gates, [N, C, H, W].",
            edits={"return x * gates[:, :, None, None]": "return gates"},
        ),
        Mistake(
            "returns the gates [N, C, 1, 1] without multiplying",
            "One step is left: x times these gates. Broadcasting does the rest.",
            edits={"return x * gates": "return gates"},
        ),
        Mistake(
            "returns the gates of every cell without multiplying",
            "The gates have the right shape now; multiply x by them.",
            edits={
                "return x * gates[:, :, None, None]": (
                    "return gates[:, :, None, None].expand_as(x).clone()"
                )
            },
        ),
        Mistake(
            "adds the gated map to x",
            "Here x is only scaled; the block's residual comes later, behind the projection.",
            edits={"return x * gates": "return x + x * gates"},
        ),
        Mistake(
            "multiplies x with gates [N, C] as they are",
            "Broadcasting lines up the last axes, C with the columns: make it [N, C, 1, 1] first. "
            "Where the sizes agree by chance there is no error, only a wrong answer.",
            edits={"gates[:, :, None, None]": "gates"},
        ),
        Mistake(
            "forgets the bias of the first layer",
            "reduce_bias is added before the ReLU.",
            edits={" + reduce_bias": ""},
        ),
        Mistake(
            "forgets the bias of the second layer",
            "expand_bias is added before the sigmoid.",
            edits={" + expand_bias": ""},
        ),
        Mistake(
            "forgets the biases",
            "Both layers have one: the convolutions of SE are not followed by a norm.",
            edits={" + reduce_bias": "", " + expand_bias": ""},
        ),
    ),
    hint="Four steps, each with its shape: mean [N, C], ReLU of the first layer [N, S], sigmoid of "
    "the second [N, C], product with x.",
    difficulty=2,
    minutes=12,
)

EXERCISES = (CONV_COST, ROUND_CHANNELS, CHANNEL_SHUFFLE, SQUEEZE_EXCITE)
