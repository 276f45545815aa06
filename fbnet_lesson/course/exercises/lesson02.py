"""Lesson 02: the blocks of a table, what they cost, what a cell can see, the top-down path."""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from fbnet_lesson.blocks import InvertedResidual, count_macs, count_parameters, middle_width
from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Case, Exercise, Mistake
from fbnet_lesson.rows import parse_rows
from fbnet_lesson.trunk import top_down

# ------------------------------------------------------------------------------------- plain forms


class Block(NamedTuple):
    """One block of a table, with all that its place in the table says of it."""

    op: str  # "conv", "ir" or "skip"
    kernel: int
    in_channels: int
    out_channels: int
    stride: int
    expansion: float
    padding: int  # pixels on each side


def blocks_of(text: str, in_channels: int) -> list[Block]:
    """The blocks of one stage, in their order.

    ``text`` is in the notation of rows, which ``parse_rows(text)`` reads; ``in_channels`` is the
    width of the map that comes in. A row stands for ``repeat`` blocks. The first of them has the
    row's stride and padding, the others have stride 1 and no padding of their own; a padding that
    is None means half of the kernel, ``kernel // 2``. The expansion is the row's in all of them.
    Every block takes in what the one before it gives out.

    Returns a list of ``Block``, or of tuples with the same seven values: (op, kernel, in_channels,
    out_channels, stride, expansion, padding).
    """
    found = []
    for row in parse_rows(text):
        for i in range(row.repeat):
            stride, padding = (row.stride, row.padding) if i == 0 else (1, None)
            padding = row.kernel // 2 if padding is None else padding
            found.append(
                Block(row.op, row.kernel, in_channels, row.channels, stride, row.expansion, padding)
            )
            in_channels = row.channels
    return found


def block_cost(
    in_channels: int,
    out_channels: int,
    kernel: int,
    size: tuple[int, int],
    stride: int = 1,
    expansion: float = 1,
    keep_pw: bool = False,
) -> tuple[int, int]:
    """Parameters and multiply-adds (MACs) of an inverted residual on one image, whole numbers.

    Three convolutions without bias, each followed by a norm: 1x1 to the middle width, which is
    ``middle_width(in_channels, expansion)``; depthwise, ``kernel`` x ``kernel``, with the stride;
    1x1 to ``out_channels``. Where the middle is as wide as the input, the first 1x1 convolution and
    its norm are left out, unless ``keep_pw``.

    A norm has two parameters a channel, and no MAC is counted for it. ``size`` is the input's
    (height, width). Padding keeps the map's size, and stride 2 leaves ceil(height / 2) times
    ceil(width / 2) cells.
    """
    middle = middle_width(in_channels, expansion)
    before = size[0] * size[1]
    after = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    pw = in_channels * middle if keep_pw or middle != in_channels else 0
    dw = middle * kernel * kernel
    pwl = middle * out_channels
    norms = 2 * ((middle if pw else 0) + middle + out_channels)
    return pw + dw + pwl + norms, pw * before + (dw + pwl) * after


def receptive_field(layers: list[tuple[int, int, int]]) -> tuple[int, int, float]:
    """What a cell of the last map can see of the image, along one axis.

    ``layers`` are (kernel, stride, padding) from the image on. Returned are

    - the size: how many pixels a cell depends on, from the first to the last, were the image large
      enough;
    - the stride: how many pixels further the next cell looks;
    - the place: where the middle of the first cell's field is. Pixel 0 reaches from 0 to 1 and has
      its middle at 0.5, pixel 1 at 1.5; pixels that padding adds go on in the negative.

    Without any layer a cell is a pixel: (1, 1, 0.5).
    """
    size, stride, place = 1, 1, 0.5
    for kernel, step, padding in layers:
        size += (kernel - 1) * stride
        place += ((kernel - 1) / 2 - padding) * stride
        stride *= step
    return size, stride, place


# ------------------------------------------------------------------------- where a cell looks


def seen_by_a_cell(
    trunk: nn.Module, batch: Tensor, stage: str, row: int, column: int, seed: int = 0
) -> Tensor:
    """How much each pixel of the input moves one cell of a stage, [H, W], the mean over a batch.

    That is the gradient's absolute value. The channels of the cell are added up with random signs,
    or those that answer alike would count more than once and those that oppose not at all.
    """
    batch = batch.clone().requires_grad_()
    cells = trunk(batch)[stage][:, :, row, column]  # (N, C)
    signs = torch.randint(2, cells.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    (slope,) = torch.autograd.grad((cells * signs).sum(), batch)
    return slope.abs().sum(1).mean(0)  # (N, 3, H, W) -> (H, W)


def gaze(trunk: nn.Module, batch: Tensor, stage: str, stride: int) -> float:
    """Where the cells in the middle of a map look: pixels behind their first, x and y averaged.

    The centre of gravity of what ``seen_by_a_cell`` sees, of 4 x 4 cells.
    """
    middle = batch.shape[-1] // stride // 2
    found = []
    for row in range(middle - 2, middle + 2):
        for column in range(middle - 2, middle + 2):
            seen = seen_by_a_cell(trunk, batch, stage, row, column)
            for cell, along in ((column, seen.sum(0)), (row, seen.sum(1))):
                at = torch.arange(len(along)) + 0.5  # the middles of the pixels
                found.append(float((along * at).sum() / along.sum()) - stride * cell)
    return sum(found) / len(found)


# -------------------------------------------------------------------------------------- blocks_of


@st.composite
def tables(draw) -> Case:
    """One to three rows that ``parse_rows`` takes."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        op = draw(st.sampled_from(("ir_k3", "ir_k5", "conv_k3", "skip")))
        parts = [op, str(8 * draw(st.integers(1, 4)))]
        parts += [f"x{n}" for n in [draw(st.integers(1, 3))] if n > 1]
        parts += ["s2"] * (op != "skip" and draw(st.booleans()))
        parts += [f"e{n:g}" for n in [draw(st.sampled_from((1, 2, 4.5)))] if op[:2] == "ir"]
        parts += ["p0"] * (op[:2] == "ir" and draw(st.sampled_from((False, False, True))))
        rows.append(" ".join(parts))
    return {"text": "; ".join(rows), "in_channels": draw(st.sampled_from((3, 8, 16)))}


def table(text: str, in_channels: int = 16) -> Case:
    return {"text": text, "in_channels": in_channels}


def stride_in_the_last_block(text, in_channels):
    strides = [
        row.stride if i + 1 == row.repeat else 1
        for row in parse_rows(text)
        for i in range(row.repeat)
    ]
    pairs = zip(blocks_of(text, in_channels), strides, strict=True)
    return [block._replace(stride=stride) for block, stride in pairs]


def all_rows_from_the_stage_s_width(text, in_channels):
    return [block for row in text.split(";") for block in blocks_of(row, in_channels)]


BLOCKS_OF = Exercise(
    solution=blocks_of,
    cases=tables(),
    edges={
        "a row of one block": [table("ir_k3 24 e2")],
        "the stride is the row's": [table("ir_k5 32 s2 e4")],
        "a row of three blocks": [table("ir_k3 16 x3 e3")],
        "a block takes in what the one before it gives out": [
            table("ir_k3 24 x2 e2"),
            table("ir_k3 24 e2; ir_k5 32 e4"),
        ],
        "only the first block of a row has the stride": [table("ir_k5 40 x3 s2 e4")],
        "several rows in one stage": [table("ir_k5 72 s2 e4; ir_k3 72 x3 e3; ir_k5 112 e4", 40)],
        "the stem takes in colours": [table("conv_k3 16 s2; ir_k3 16 e1", 3)],
        "a skip is a block of kernel 1": [table("skip 24 x2", 24)],
        "padding is half of the kernel, rounded down": [table("ir_k3 8; ir_k5 8; ir_k7 8", 8)],
        "a padding of its own is the first block's": [
            table("ir_k5 24 x2 s2 e4 p1"),
            table("ir_k5 24 x2 s2 e4 p0"),
        ],
        "stride -2, which upsamples, is a stride as well": [table("ir_k3 64 x2 s-2 e3", 128)],
    },
    mistakes=(
        Mistake(
            "gives the stride to every block of a row",
            "x3 s2 halves the map once and not three times: the first block has the stride, the "
            "others have 1.",
            edits={"else (1, None)": "else (row.stride, None)"},
        ),
        Mistake(
            "gives the stride to the last block of a row",
            "The first block takes the stride, so that the others work on the smaller map.",
            wrong=stride_in_the_last_block,
        ),
        Mistake(
            "leaves the strides out",
            "The first block of a row has the row's stride.",
            edits={"(row.stride, row.padding) if i": "(1, row.padding) if i"},
        ),
        Mistake(
            "makes one block of each row",
            "x3 stands for three blocks: an inner loop over range(row.repeat).",
            edits={"range(row.repeat)": "range(1)"},
        ),
        Mistake(
            "makes one block too many of each row",
            "x3 is three blocks in all, the first among them.",
            edits={"range(row.repeat)": "range(row.repeat + 1)"},
        ),
        Mistake(
            "lets every block take in the stage's input",
            "The second block sees what the first gives out: keep the width up to date.",
            edits={"\n            in_channels = row.channels": ""},
        ),
        Mistake(
            "begins every row with the stage's input",
            "Rows follow each other as blocks do: the second row takes in what the first gives "
            "out.",
            wrong=all_rows_from_the_stage_s_width,
        ),
        Mistake(
            "keeps the input's width for the whole row",
            "Only the first block takes in the old width; inside a row, blocks take in what the "
            "row gives out. Renew the width after each block, in the inner loop.",
            edits={
                "\n            in_channels = row.channels": "\n        in_channels = row.channels"
            },
        ),
        Mistake(
            "takes in the row's own width from its first block on",
            "The first block of a row takes in what the row before gives out.",
            edits={"in_channels, row.channels, stride": "row.channels, row.channels, stride"},
        ),
        Mistake(
            "multiplies the width by the expansion",
            "The expansion is inside a block, between its 1x1 convolutions: the block gives out "
            "the row's channels.",
            edits={
                "in_channels, row.channels, stride": (
                    "in_channels, int(row.channels * row.expansion), stride"
                )
            },
        ),
        Mistake(
            "swaps the input's and the output's width",
            "First in_channels, then out_channels.",
            edits={"in_channels, row.channels, stride": "row.channels, in_channels, stride"},
        ),
        Mistake(
            "expands only in the first block of a row",
            "The expansion is that of all the row's blocks.",
            edits={"row.expansion, padding)": "row.expansion if i == 0 else 1.0, padding)"},
        ),
        Mistake(
            "leaves a padding that is not given at None",
            "None means half of the kernel: kernel // 2.",
            edits={"row.kernel // 2 if padding is None else padding": "padding"},
        ),
        Mistake(
            "does not see a padding that the row gives",
            "Where row.padding is not None, it is the first block's padding.",
            edits={"row.kernel // 2 if padding is None else padding": "row.kernel // 2"},
        ),
        Mistake(
            "takes a padding of 0 for one that is not given",
            "0 is false in Python, as None is: ask for `is None`, not `row.padding or ...`.",
            edits={"row.kernel // 2 if padding is None else padding": "padding or row.kernel // 2"},
        ),
        Mistake(
            "gives the row's padding to every block",
            "As the stride, a padding of its own is the first block's only.",
            edits={"else (1, None)": "else (1, row.padding)"},
        ),
        Mistake(
            "pads with the whole kernel",
            "Half of it on each side keeps the map's size: kernel // 2.",
            edits={"row.kernel // 2 if": "row.kernel if"},
        ),
        Mistake(
            "leaves the skips out",
            "A skip is a block too: it keeps its place, with kernel 1 and its own width.",
            wrong=lambda text, in_channels: [
                b for b in blocks_of(text, in_channels) if b.op != "skip"
            ],
        ),
    ),
    hint="Two loops: over parse_rows(text), and over range(row.repeat). Keep the current width in "
    "a variable, and renew it after each block.",
    difficulty=1,
    minutes=10,
)


# ------------------------------------------------------------------------------------- block_cost


@cache  # a check asks for the same cases again and again
def counted_block_cost(in_channels, out_channels, kernel, size, stride, expansion, keep_pw):
    """The same from a real block, counted by torch."""
    with torch.device("meta"):
        block = InvertedResidual(
            in_channels, out_channels, kernel, stride, expansion,
            bare_depthwise=False, keep_pw=keep_pw,
        )  # fmt: skip
        return count_parameters(block), count_macs(block.eval(), torch.empty(1, in_channels, *size))


def block_case(c_in, c_out, kernel, size, stride=1, expansion=1.0, keep_pw=False) -> Case:
    return {
        "in_channels": c_in,
        "out_channels": c_out,
        "kernel": kernel,
        "size": size,
        "stride": stride,
        "expansion": expansion,
        "keep_pw": keep_pw,
    }


@st.composite
def block_cases(draw) -> Case:
    edges = st.integers(2, 7)
    return block_case(
        8 * draw(st.integers(1, 3)),
        8 * draw(st.integers(1, 3)),
        draw(st.sampled_from((3, 5))),
        (draw(edges), draw(edges)),
        draw(st.sampled_from((1, 2))),
        draw(st.sampled_from((1.0, 2.0, 4.0, 2.5, 5.4566))),
        draw(st.booleans()),
    )


BLOCK_COST = Exercise(
    solution=block_cost,
    oracle=counted_block_cost,
    cases=block_cases(),
    edges={
        "three convolutions and three norms": [block_case(8, 16, 3, (4, 5), expansion=2.0)],
        "the depthwise convolution has one kernel a middle channel": [
            block_case(8, 8, 5, (4, 4), expansion=3.0)
        ],
        "with expansion 1 there is no first convolution": [block_case(16, 24, 3, (4, 5))],
        "unless it is kept": [block_case(16, 24, 3, (4, 5), keep_pw=True)],
        "stride 2 comes after the first convolution": [
            block_case(8, 16, 3, (4, 6), stride=2, expansion=2.0)
        ],
        "with stride 2 an odd edge is rounded up": [
            block_case(8, 16, 3, (5, 7), stride=2, expansion=2.0)
        ],
        "the middle is rounded as middle_width does": [
            block_case(8, 8, 3, (3, 3), expansion=5.4566)
        ],
        "expansion 1 keeps a width that 8 does not divide": [block_case(12, 8, 3, (2, 2))],
        "an expansion that changes nothing leaves the first convolution out too": [
            block_case(40, 8, 3, (2, 2), expansion=1.01)
        ],
    },
    mistakes=(
        Mistake(
            "always has the first convolution",
            "Where the middle is as wide as the input, there is nothing to expand: no pw, no norm "
            "of it, unless keep_pw.",
            edits={
                "in_channels * middle if keep_pw or middle != in_channels else 0": (
                    "in_channels * middle"
                )
            },
        ),
        Mistake(
            "never has the first convolution",
            "With an expansion the block begins with a 1x1 convolution to the middle width.",
            edits={"in_channels * middle if keep_pw or middle != in_channels else 0": "0"},
        ),
        Mistake(
            "does not look at keep_pw",
            "With keep_pw the first convolution is there even where it does not widen.",
            edits={"keep_pw or middle != in_channels": "middle != in_channels"},
        ),
        Mistake(
            "asks the expansion, not the widths, whether there is a first convolution",
            "An expansion of 1.01 is rounded away: compare the middle width with the input's.",
            edits={"middle != in_channels": "expansion != 1"},
        ),
        Mistake(
            "counts the first convolution's norm where that convolution is left out",
            "What is left out takes its norm with it.",
            edits={"(middle if pw else 0)": "middle"},
        ),
        Mistake(
            "counts the first convolution on the map after the stride",
            "The depthwise convolution has the stride, and the 1x1 before it sees the larger map.",
            edits={"pw * before": "pw * after"},
        ),
        Mistake(
            "counts the depthwise convolution on the map before the stride",
            "Work is done once for each cell of the output: the depthwise convolution has the "
            "stride, so its output is the smaller map.",
            edits={"(dw + pwl) * after": "dw * before + pwl * after"},
        ),
        Mistake(
            "leaves the stride out of the cells",
            "Behind stride 2 there is a quarter of the cells.",
            edits={"(dw + pwl) * after": "(dw + pwl) * before"},
        ),
        Mistake(
            "rounds an odd edge down at stride 2",
            "Five rows at stride 2 are three: math.ceil(size[0] / stride).",
            edits={
                "math.ceil(size[0] / stride) * math.ceil(size[1] / stride)": (
                    "(size[0] // stride) * (size[1] // stride)"
                )
            },
        ),
        Mistake(
            "divides the number of cells by the stride once",
            "Stride 2 leaves out every second row and every second column.",
            edits={
                "math.ceil(size[0] / stride) * math.ceil(size[1] / stride)": (
                    "math.ceil(before / stride)"
                )
            },
        ),
        Mistake(
            "takes the map for a square as high as it is",
            "size is (height, width): the second edge is size[1].",
            edits={
                "before = size[0] * size[1]": "before = size[0] * size[0]",
                "* math.ceil(size[1] / stride)": "* math.ceil(size[0] / stride)",
            },
        ),
        Mistake(
            "takes the depthwise convolution for an ordinary one",
            "Depthwise: each middle channel has one k x k kernel and sees itself only.",
            edits={"dw = middle * kernel": "dw = middle * middle * kernel"},
        ),
        Mistake(
            "takes the depthwise kernel for a row of k weights",
            "The kernel is a square: k rows of k weights.",
            edits={"kernel * kernel": "kernel"},
        ),
        Mistake(
            "filters as many channels as come in",
            "The depthwise convolution stands in the middle: it has the middle width.",
            edits={"dw = middle *": "dw = in_channels *"},
        ),
        Mistake(
            "projects from the input's width",
            "The last convolution reads the middle and gives out out_channels.",
            edits={"pwl = middle *": "pwl = in_channels *"},
        ),
        Mistake(
            "multiplies by the expansion without rounding",
            "Widths are rounded to multiples of 8: middle_width(in_channels, expansion).",
            edits={"= middle_width(in_channels, expansion)": "= int(in_channels * expansion)"},
        ),
        Mistake(
            "expands the output's width",
            "The middle is a multiple of what comes in.",
            edits={"= middle_width(in_channels": "= middle_width(out_channels"},
        ),
        Mistake(
            "forgets the norms",
            "Behind each convolution stands a norm, with two parameters a channel.",
            edits={"pw + dw + pwl + norms": "pw + dw + pwl"},
        ),
        Mistake(
            "gives a norm one parameter a channel",
            "A factor and an offset: two.",
            edits={"norms = 2 * (": "norms = ("},
        ),
        Mistake(
            "leaves out the depthwise convolution's norm",
            "It is left out in the detection models. Here each convolution has a norm.",
            edits={"(middle if pw else 0) + middle + out": "(middle if pw else 0) + out"},
        ),
        Mistake(
            "counts the norms among the MACs",
            "A norm joins the parameters only.",
            edits={"(dw + pwl) * after": "(dw + pwl + norms) * after"},
        ),
        Mistake(
            "counts the work of a single cell",
            "Every weight is used once in each cell of its convolution's output.",
            edits={"pw * before + (dw + pwl) * after": "pw + dw + pwl"},
        ),
        Mistake(
            "counts two operations for a multiply-add",
            "That is the FLOP count. A multiplication with its addition is one MAC.",
            edits={"pw * before + (dw + pwl) * after": "2 * (pw * before + (dw + pwl) * after)"},
        ),
        Mistake(
            "returns MACs first",
            "The order is (parameters, MACs).",
            edits={
                "return pw + dw + pwl + norms, pw * before + (dw + pwl) * after": (
                    "return pw * before + (dw + pwl) * after, pw + dw + pwl + norms"
                )
            },
        ),
    ),
    hint="Work out the weights of the three convolutions first, then the norms; then the cells "
    "before and after the stride.",
    examples=60,
    difficulty=2,
    minutes=12,
)


# -------------------------------------------------------------------------------- receptive_field


@st.composite
def chains(draw) -> Case:
    layer = st.tuples(st.integers(1, 5), st.sampled_from((1, 2, 3)), st.integers(0, 2))
    return {"layers": draw(st.lists(layer, max_size=4))}


def chain(*layers: tuple[int, int, int]) -> Case:
    return {"layers": list(layers)}


def by_the_own_stride(layers):
    size, stride, place = 1, 1, 0.5
    for kernel, step, padding in layers:
        size += (kernel - 1) * step
        place += ((kernel - 1) / 2 - padding) * step
        stride *= step
    return size, stride, place


def strides_too_early(layers):
    size, stride, place = 1, 1, 0.5
    for kernel, step, padding in layers:
        stride *= step
        size += (kernel - 1) * stride
        place += ((kernel - 1) / 2 - padding) * stride
    return size, stride, place


def from_the_last_layer(layers):
    return receptive_field(layers[::-1])


def draw_field(case: Case, expected, got) -> None:
    """The first cell's field along the image, expected above and got below."""
    (ax,) = drawing.panels(1, height=1.6)
    for row, (name, (size, stride, place)) in enumerate((("expected", expected), ("got", got))):
        for cell, shade in ((0, "0.3"), (1, "0.7")):
            middle = place + cell * stride
            ax.barh(-row - 0.3 * cell, size, 0.25, middle - size / 2, color=shade, alpha=0.8)
            ax.plot([middle], [-row - 0.3 * cell], "wx", markersize=5)
        ax.text(place - size / 2, -row + 0.2, f"{name}: first cell dark, second light", fontsize=8)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_ylim(-1.6, 0.6)
    ax.set_xticks([0, round(max(expected[0], got[0]), 1)])
    ax.set_title("pixels along the image; the line is its border", fontsize=9)


RECEPTIVE_FIELD = Exercise(
    solution=receptive_field,
    cases=chains(),
    edges={
        "a single 3x3 convolution": [chain((3, 1, 1))],
        "no layer at all": [chain()],
        "a kernel of 5": [chain((5, 1, 2))],
        "two of them": [chain((3, 1, 1), (3, 1, 1))],
        "stride 2": [chain((3, 2, 1))],
        "behind stride 2, a cell is two pixels": [chain((3, 2, 1), (3, 1, 1))],
        "strides multiply": [chain((3, 2, 1), (3, 2, 1), (3, 2, 1))],
        "a 1x1 convolution changes nothing": [chain((3, 2, 1), (1, 1, 0), (3, 1, 1))],
        "a stride that skips pixels": [chain((1, 2, 0), (3, 1, 1))],
        "without padding the first cell looks further in": [chain((3, 1, 0))],
        "less padding behind a stride counts in pixels": [chain((3, 2, 1), (5, 2, 1))],
        "with more padding it looks at the border": [chain((3, 1, 2))],
        "an even kernel has its middle between two pixels": [chain((2, 2, 0)), chain((4, 2, 1))],
    },
    mistakes=(
        Mistake(
            "counts a layer's own stride before its kernel",
            "The kernel lies on the map that comes in: its cells are as far apart as the strides "
            "of the layers *before* it say. Multiply after, not before.",
            wrong=strides_too_early,
        ),
        Mistake(
            "adds the whole kernel",
            "A kernel of 3 sees one cell more on each side: two, kernel - 1.",
            edits={"(kernel - 1) * stride": "kernel * stride"},
        ),
        Mistake(
            "adds half of the kernel only",
            "Half is added on each side: kernel - 1 in all.",
            edits={"(kernel - 1) * stride": "(kernel - 1) // 2 * stride"},
        ),
        Mistake(
            "does not measure kernels in pixels",
            "Behind a stride the cells lie apart: one cell more is `stride` pixels more.",
            edits={"size += (kernel - 1) * stride": "size += kernel - 1"},
        ),
        Mistake(
            "multiplies by the layer's own stride, not by those before it",
            "What counts is how far apart the cells of the map that comes in are: the product of "
            "all strides so far.",
            wrong=by_the_own_stride,
        ),
        Mistake(
            "multiplies the sizes of the kernels",
            "Every kernel adds its reach to the field: sum, do not multiply.",
            edits={"size += (kernel - 1) * stride": "size *= kernel"},
        ),
        Mistake(
            "adds the strides up",
            "Every second of every second is every fourth: strides multiply.",
            edits={"stride *= step": "stride += step"},
        ),
        Mistake(
            "returns the last layer's stride only",
            "The strides of all layers multiply.",
            edits={"stride *= step": "stride = step"},
        ),
        Mistake(
            "goes through the layers from the last to the first",
            "Begin at the image: a kernel's reach depends on the strides before it.",
            wrong=from_the_last_layer,
        ),
        Mistake(
            "begins with a field of 0 pixels",
            "Without any layer a cell is one pixel.",
            edits={"size, stride, place = 1, 1, 0.5": "size, stride, place = 0, 1, 0.5"},
        ),
        Mistake(
            "names the pixel, not its middle",
            "Pixel 0 has its middle at 0.5.",
            edits={"size, stride, place = 1, 1, 0.5": "size, stride, place = 1, 1, 0"},
        ),
        Mistake(
            "takes the middle of the cell for the middle of its field",
            "A cell that is the 8 pixels from 0 on has its middle at 4; where it looks depends on "
            "kernels and padding.",
            edits={"return size, stride, place": "return size, stride, stride / 2"},
        ),
        Mistake(
            "takes every padding for half of the kernel",
            "With padding kernel // 2 the place does not move. Other paddings move it: by how far "
            "the padding misses (kernel - 1) / 2.",
            edits={"place += ((kernel - 1) / 2 - padding) * stride": "place += 0"},
        ),
        Mistake(
            "leaves the padding out",
            "Padding moves the first cell's field to the left, by as many cells.",
            edits={"((kernel - 1) / 2 - padding)": "((kernel - 1) / 2)"},
        ),
        Mistake(
            "moves the wrong way by the padding",
            "Padding adds cells before the first: the field moves to the left, into the negative.",
            edits={"/ 2 - padding)": "/ 2 + padding)"},
        ),
        Mistake(
            "moves to the left where it should to the right",
            "Without padding the first cell looks further in: its place grows by (kernel - 1) / 2.",
            edits={"place += ((": "place -= (("},
        ),
        Mistake(
            "does not measure the padding in pixels",
            "Padding is counted in cells of the map that comes in: times the stride so far.",
            edits={"- padding) * stride": "- padding)"},
        ),
        Mistake(
            "cuts the half of an even kernel off",
            "A kernel of 2 has its middle between its two cells: (kernel - 1) / 2 is a half.",
            edits={"(kernel - 1) / 2 -": "(kernel - 1) // 2 -"},
        ),
        Mistake(
            "returns the left end of the field, not its middle",
            "The place is where the middle of the field is.",
            edits={"return size, stride, place": "return size, stride, place - size / 2"},
        ),
    ),
    hint="Three running values: size, stride, place. Each layer adds to size and place in units of "
    "the stride *before* it; then the stride is multiplied.",
    draw=draw_field,
    difficulty=2,
    minutes=12,
)


# --------------------------------------------------------------------------------------- top_down


@st.composite
def pyramids(draw) -> Case:
    levels = draw(st.integers(1, 3))
    coarsest = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    channels = draw(st.integers(1, 2))
    images = draw(st.integers(1, 2))
    sizes = [[edge << level for edge in coarsest] for level in reversed(range(levels))]
    return {"laterals": [draw(some.tensors(images, channels, *size)) for size in sizes]}


def pyramid(*maps: list) -> Case:
    """One image, one channel."""
    return {"laterals": [torch.tensor(rows, dtype=torch.float32)[None, None] for rows in maps]}


FINE, MIDDLE, COARSE = [[1, 2, 3, 4]] * 4, [[10, 20], [30, 40]], [[100]]


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def merged_by(double=doubled, join=torch.add):
    """A wrong ``top_down`` with another doubling, or another way to put two maps together."""

    def wrong(laterals):
        merged = laterals[-1:]
        for lateral in reversed(laterals[:-1]):
            merged.insert(0, join(lateral, double(merged[0])))
        return merged

    return wrong


def among_zeros(x: Tensor) -> Tensor:
    y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y[:, :, ::2, ::2] = x
    return y


def tiled(x: Tensor) -> Tensor:
    return x.repeat(1, 1, 2, 2)


def not_merged(laterals):
    """Adds the neighbour's lateral, not its merged map."""
    pairs = zip(laterals, laterals[1:], strict=False)
    return [a + doubled(b) for a, b in pairs] + laterals[-1:]


def only_the_coarsest(laterals):
    def to(size):
        return F.interpolate(laterals[-1], size=size, mode="nearest")

    return [x + to(x.shape[2:]) for x in laterals[:-1]] + laterals[-1:]


def bottom_up(laterals):
    merged = laterals[:1]
    for lateral in laterals[1:]:
        merged.append(lateral + merged[-1][:, :, ::2, ::2])
    return merged


def doubles_its_coarsest(laterals):
    merged = merged_by()(laterals)
    return merged[:-1] + [2 * merged[-1]]


def in_place(laterals):
    for i in reversed(range(len(laterals) - 1)):
        laterals[i] += doubled(laterals[i + 1])
    return laterals


def stops_early(laterals):
    return laterals[:1] + merged_by()(laterals[1:]) if len(laterals) > 1 else laterals


def draw_pyramid(case: Case, expected, got) -> None:
    """Every level's first channel: what came in, expected, got."""
    for level, lateral in enumerate(case["laterals"][: len(got)]):
        shown = {"lateral": lateral, "expected": expected[level], "got": got[level]}
        for ax, (name, values) in zip(drawing.panels(3, height=1.5), shown.items(), strict=True):
            drawing.value_grid(ax, values[0, 0], f"level {level}: {name}")


TOP_DOWN = Exercise(
    solution=top_down,
    cases=pyramids(),
    edges={
        "two levels": [pyramid(MIDDLE, COARSE)],
        "a cell is copied to 2 x 2": [pyramid(FINE, MIDDLE)],
        "three levels: the merged map goes on": [pyramid(FINE, MIDDLE, COARSE)],
        "one level stays as it is": [pyramid(MIDDLE)],
        "a map that is not square": [pyramid([[0] * 4] * 2, [[1, 2]])],
        "channels and images are kept apart": [
            {"laterals": [torch.zeros(2, 2, 2, 2), torch.arange(4.0).reshape(2, 2, 1, 1)]}
        ],
    },
    mistakes=(
        Mistake(
            "adds the coarser level's own map, not the merged one",
            "What goes down is the merged map, which has all coarser levels in it: begin at the "
            "coarsest, and keep the sum.",
            wrong=not_merged,
        ),
        Mistake(
            "adds the coarsest level to all others, and none of those between",
            "Every level takes from its next coarser neighbour, which has taken from its own.",
            wrong=only_the_coarsest,
        ),
        Mistake(
            "goes from fine to coarse",
            "The path is top-down: from the coarsest map, the top of the pyramid, to the finest.",
            wrong=bottom_up,
        ),
        Mistake(
            "returns the coarsest first",
            "The order is that of the laterals: the finest first.",
            wrong=lambda laterals: merged_by()(laterals)[::-1],
        ),
        Mistake(
            "interpolates between the coarse cells",
            "Nearest neighbour: a cell is copied to 2 x 2, mode='nearest'.",
            wrong=merged_by(
                lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            ),
        ),
        Mistake(
            "interpolates from corner to corner",
            "Nearest neighbour: a cell is copied to 2 x 2; align_corners belongs to bilinear.",
            wrong=merged_by(
                lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            ),
        ),
        Mistake(
            "puts the coarse cells among zeros",
            "Each cell is copied to all four places, not to the first of them.",
            wrong=merged_by(among_zeros),
        ),
        Mistake(
            "puts copies of the whole map side by side",
            "repeat(1, 1, 2, 2) lays the map four times; each *cell* is to become 2 x 2, as "
            "repeat_interleave does along both axes.",
            wrong=merged_by(tiled),
        ),
        Mistake(
            "takes the mean of the two maps",
            "A sum, without dividing by two.",
            wrong=merged_by(join=lambda a, b: (a + b) / 2),
        ),
        Mistake(
            "takes the larger of the two maps",
            "Both maps have a say everywhere: they are added.",
            wrong=merged_by(join=torch.maximum),
        ),
        Mistake(
            "multiplies the two maps",
            "A gate would multiply; a pyramid adds.",
            wrong=merged_by(join=torch.mul),
        ),
        Mistake(
            "subtracts the coarser map",
            "What comes from above is added.",
            wrong=merged_by(join=torch.sub),
        ),
        Mistake(
            "loses the finer maps",
            "A merged map is the level's own lateral plus what comes down.",
            wrong=merged_by(join=lambda a, b: b),
        ),
        Mistake(
            "joins channels instead of adding",
            "torch.cat would double the width level by level; a pyramid has one width: add.",
            wrong=merged_by(join=lambda a, b: torch.cat([a, b], 1)),
        ),
        Mistake(
            "counts the coarsest twice",
            "Nothing comes down to the coarsest: it stays as it is.",
            wrong=doubles_its_coarsest,
        ),
        Mistake(
            "leaves the finest map as it is",
            "The path goes down to the finest level.",
            wrong=stops_early,
        ),
        Mistake(
            "leaves the coarsest out of the answer",
            "As many maps come out as went in; the coarsest is the last of them.",
            wrong=lambda laterals: merged_by()(laterals)[:-1],
        ),
        Mistake(
            "returns the finest map only",
            "Every level's merged map is asked for, in a list.",
            wrong=lambda laterals: merged_by()(laterals)[:1],
        ),
        Mistake(
            "writes into the maps that came in",
            "`x += y` changes x for whoever else holds it: write x = x + y.",
            wrong=in_place,
        ),
    ),
    hint="Begin a list with the last lateral; go through the others from the last to the first, "
    "and put lateral + doubled(merged[0]) in front. F.interpolate(x, scale_factor=2.0) doubles.",
    draw=draw_pyramid,
    difficulty=2,
    minutes=10,
)

EXERCISES = (BLOCKS_OF, BLOCK_COST, RECEPTIVE_FIELD, TOP_DOWN)
