# %% [markdown]
# # 02 · From table to trunk: FBNet-C and FBNetV3-A
#
# **After this lesson you can read a network off four lines of text, build it so that published
# weights would fit, and say which pixels a cell looks at, before training and after.**
#
# After this lesson you can
#
# - unroll a table of rows into blocks, and build FBNet-C and FBNetV3-A from it;
# - count a whole network's parameters and multiply-adds by hand, and check a model card with them;
# - work out stride, receptive field and place of a cell from kernels, strides and paddings;
# - build the top-down path of a feature pyramid and say what its levels are for, and put a trunk of
#   your own rows into a detector.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lessons 00, 01 | 30 s, 1400 MB, no network |

# %% [markdown]
# ## Predict first
#
# FBNet-C is a classifier of 22 blocks and 5.6 million parameters. Its last layer makes 1000 classes
# of 1984 features.
#
# 1. Which share of the parameters is in this last layer alone, and which share of the multiply-adds
#    (MACs)? (0.1, if you think of 10 %.)
# 2. The trunk of FBNetV3-A, as d2go's smallest detector has it, ends with a map of one cell every
#    16 pixels. How many pixels wide is the part of the picture that one such cell can see?
# 3. On a map of stride 8, column 8 stands for the pixels from x = 64 to x = 72. By the kernels and
#    paddings of its table, where is the middle of what it sees?
# 4. And where is the middle of what it really looks at, once the detector is trained?

# %%
from fbnet_lesson.course import reveal

guess = {
    "last layer, share of the parameters": None,
    "last layer, share of the MACs": None,
    "pixels that a cell can see": None,
    "middle, by the table": None,
    "middle, after training": None,
}

# %%
import math

import ipywidgets
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fbnet_lesson as fl
from fbnet_lesson.blocks import (
    ConvNormAct,
    InvertedResidual,
    count_macs,
    count_parameters,
    middle_width,
)
from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS, FBNET_C
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.course.exercises import lesson02
from fbnet_lesson.course.exercises.lesson02 import Block, gaze, seen_by_a_cell
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.architectures import DETECTION_ARCHS, V3_A_DSMASK
from fbnet_lesson.rows import FBNETV3, LESSON_TINY, parse_rows
from fbnet_lesson.trunk import FPN, Trunk

torch.set_num_threads(1)  # one order of additions: the same digits on every machine
drawing.small_figures()

# %% [markdown]
# ## A network in four lines
#
# Papers print a network as a table: a row says which block comes next, how wide, how often. In this
# package a table is text, one string a *stage*, rows separated by semicolons. Here are two trunks,
# whole:

# %%
for name, stages in (("FBNet-C", FBNET_C), ("FBNetV3-A-dsmask", V3_A_DSMASK)):
    print(name)
    for i, text in enumerate(stages):
        print(f"  trunk{i}: {text}")

# %% [markdown]
# `ir_k5 72 s2 e4` is an inverted residual (lesson 01) with a 5×5 depthwise convolution, 72 channels
# at its output, stride 2 and expansion 4. `x3` repeats a row three times. What is not said is 1:
# one block, stride 1, expansion 1. `conv_k3` is an ordinary convolution, and `skip` a place that
# the search left empty: the map goes through as it is.
#
# Each stage begins with a stride of 2, and a detector needs to know where they end: a stage is all
# that happens at one resolution.

# %%
for row in parse_rows("ir_k5 40 x3 s2 e4; skip 40"):
    print(row.op, "kernel", row.kernel, "channels", row.channels, "repeat", row.repeat, end=" ")
    print("stride", row.stride, "expansion", row.expansion, "padding", row.padding)

# %% [markdown]
# A row still leaves two things open. *Which* of the repeated blocks has the stride? The first one;
# the others have stride 1. And how many channels come *in*? Not the row but its place in the table
# says that. With either of them wrong, published weights do not fit, or, which is worse, they do.
#
# ## Exercise 1: blocks_of
#
# Unroll a stage into its blocks, each with everything that its place in the table says.
#
# (A padding of its own, written `p1`, is rare: mobile_cv has it in a few blocks of FBNetV3. We will
# see what it does to the map.)
#
# <details><summary>Hint</summary>
#
# `for row in parse_rows(text)`, and inside `for i in range(row.repeat)`. `in_channels` is a good
# name for the width that changes as you go: set it to `row.channels` after each block. Only where
# `i == 0` do `row.stride` and `row.padding` count.
# </details>

# %% exercise="course.exercises.lesson02.blocks_of"
from fbnet_lesson.course.exercises.lesson02 import blocks_of

# %%
check(blocks_of)

# %% [markdown]
# **Plug it in.** From blocks to a network it is a short way. `style` is what the rows leave open
# and each origin settles in its own way, as you saw in lesson 01: whether the depthwise convolution
# is bare, and whether blocks of expansion 1 keep their first 1×1 convolution.


# %%
def build(stages: tuple[str, ...], stem_bias: bool, **style) -> nn.ModuleList:
    """One ``nn.Sequential`` a stage, from the stem on."""
    trunk, channels = nn.ModuleList(), 3
    for text in stages:
        stage = nn.Sequential()
        for op, k, c_in, c_out, stride, expansion, padding in lesson02.blocks_of(text, channels):
            block = nn.Identity()
            if op == "conv":
                block = ConvNormAct(c_in, c_out, k, stride, bias=stem_bias)
            elif op == "ir":
                settings = {"padding": padding, **style}
                block = InvertedResidual(c_in, c_out, k, stride, expansion, **settings)
            stage.append(block)
            channels = c_out
        trunk.append(stage)
    return trunk


compare(lambda: count_parameters(build(V3_A_DSMASK, stem_bias=True)), blocks_of=blocks_of)

# %% [markdown]
# As many parameters are a good sign, and no proof. The proof is the same weights and the same
# output. We copy the weights of the package's trunk, in their order, and compare the maps of every
# stage, for FBNet-C as timm has it and for the trunk of `mask_rcnn_fbnetv3a_dsmask_C4`:


# %%
def equal_stages(own: nn.ModuleList, package: Trunk, side: int) -> list[bool]:
    """Whether each stage gives the same map, with the same weights in both."""
    names, values = own.state_dict(), package.state_dict().values()
    own.load_state_dict(dict(zip(names, values, strict=True)))
    own.to(memory_format=torch.channels_last)
    x, equal = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)), []
    with torch.no_grad():
        expected = package.to(memory_format=torch.channels_last).eval()(x)
        for stage, name in zip(own.eval(), expected, strict=True):
            x = stage(x)
            equal.append(torch.allclose(x, expected[name], rtol=1e-4, atol=1e-4))
    return equal


# %%
detector = fl.create_model("d2go/mask_rcnn_fbnetv3a_dsmask_C4", norm="BN")
classifier = fl.create_model("timm/fbnetc_100")
own_c = build(FBNET_C, stem_bias=False, bare_depthwise=False, keep_pw=True)
print("FBNetV3-A-dsmask:", equal_stages(build(V3_A_DSMASK, stem_bias=True), detector.backbone, 224))
print("FBNet-C:         ", equal_stages(own_c, classifier.backbone, 224))
print("parameters:", f"{count_parameters(detector.backbone):,}", end=" and ")
print(f"{count_parameters(classifier.backbone):,}")

# %% [markdown]
# Nine stages, nine times the same map: the text *is* the network. And with the commonest mistake,
# the stride in every block of a row? **Predict** the size of the four maps.


# %%
def stride_in_every_block(text: str, in_channels: int) -> list[Block]:
    strides = [row.stride for row in parse_rows(text) for _ in range(row.repeat)]
    pairs = zip(package_blocks(text, in_channels), strides, strict=True)
    return [block._replace(stride=stride) for block, stride in pairs]


package_blocks, x, sides = lesson02.blocks_of, torch.zeros(1, 3, 224, 224), []
with plug(blocks_of=stride_in_every_block):
    wrong = build(DETECTION_ARCHS["default"].trunk, stem_bias=True).eval()
for stage in wrong:
    x = stage(x)
    sides.append(x.shape[-1])
print("MobileNetV2's rows: sides", sides, "where they should be [112, 56, 28, 14]")

# %% [markdown]
# Nothing fails: every weight has the same shape as before, so even the published weights would
# load. In FBNetV3-A-dsmask the mistake is invisible, as its rows with stride 2 have one block each.
# That is why there are tests on other people's tables.
#
# ## Counting a whole network
#
# In lesson 01 you counted a convolution. A block is three of them with their norms, where one or
# the other may be missing. Let us do the fourth stage of FBNet-C up to its first block by hand:
# 32 channels on a map of 28 × 28 come in, `ir_k5 64 s2 e6`.

# %%
conv_cost = mine("conv_cost")  # yours of lesson 01, if it passed there
middle = middle_width(32, 6)  # 192
parts = {
    "pw ": conv_cost(32, middle, 1, (28, 28)),
    "dw ": conv_cost(middle, middle, 5, (28, 28), stride=2, groups=middle),
    "pwl": conv_cost(middle, 64, 1, (14, 14)),
}
for name, (weights, macs) in parts.items():
    print(f"{name} {weights:6,} weights {macs:10,} MACs")
norms = 2 * (middle + middle + 64)
print("norms", norms, "parameters; in all", sum(w for w, _ in parts.values()) + norms)

# %% [markdown]
# ## Exercise 2: block_cost
#
# Mind where the stride falls: the first 1×1 convolution works on the large map, the two others give
# out the small one.
#
# <details><summary>Hint</summary>
#
# `middle_width(in_channels, expansion)` is imported where your function runs. Write `pw`, `dw` and
# `pwl` as numbers of weights, `pw = 0` where it is left out; the norms' parameters are twice the
# channels behind each convolution that is there.
# </details>

# %% exercise="course.exercises.lesson02.block_cost"
from fbnet_lesson.course.exercises.lesson02 import block_cost

# %%
check(block_cost)

# %% [markdown]
# **Plug it in**: all of FBNet-C, row by row. The stem is a convolution with its norm, the head a
# 1×1 convolution to 1984 channels with its norm, then the mean over the map and a linear layer.

# %%
blocks = mine(blocks_of)


def costs(stages: tuple[str, ...], side: int, keep_pw: bool) -> list[tuple[int, int]]:
    """Parameters and MACs of every stage, by hand; and of the head and the linear layer."""
    found, channels = [], 3
    for text in stages:
        stage = []
        for op, k, c_in, c_out, stride, expansion, _ in blocks(text, channels):
            if op == "conv":
                weights, macs = conv_cost(c_in, c_out, k, (side, side), stride)
                stage.append((weights + 2 * c_out, macs))
            elif op == "ir":
                cost = lesson02.block_cost(c_in, c_out, k, (side, side), stride, expansion, keep_pw)
                stage.append(cost)
            side, channels = math.ceil(side / stride), c_out
        found.append(tuple(map(sum, zip(*stage, strict=True))))
    head, linear = channels * 1984, 1984 * 1000
    return [*found, (head + 2 * 1984, head * side * side), (linear + 1000, linear)]


# %%
def whole(keep_pw: bool = True, side: int = 224) -> tuple[int, int]:
    return tuple(map(sum, zip(*costs(FBNET_C, side, keep_pw), strict=True)))


compare(whole, block_cost=block_cost)
parameters, macs = whole()
print("torch counts", count_parameters(classifier), "parameters and", end=" ")
print(count_macs(classifier.eval(), torch.zeros(1, 3, 224, 224)), "MACs")

# %%
names = ["trunk0", "trunk1", "trunk2", "trunk3", "trunk4", "head", "linear"]
by_hand = costs(FBNET_C, 224, keep_pw=True)
shares = [(p / parameters, m / macs) for p, m in by_hand]
for name, (p, m), (of_p, of_m) in zip(names, by_hand, shares, strict=True):
    print(f"{name}  {p:9,} parameters {of_p:4.0%}   {m:11,} MACs {of_m:4.0%}")
reveal(guess, {"last layer, share of the parameters": shares[-1][0]})
reveal(guess, {"last layer, share of the MACs": shares[-1][1]})

# %%
# alt: For each of the five stages, the head and the linear layer of FBNet-C two bars, its share of
#      the parameters and of the multiply-adds. Parameters pile up at the end, a third each in the
#      last stage and the linear layer; multiply-adds are highest in trunk3 and trunk4, and the
#      linear layer has almost none.
_, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
places = list(range(len(names)))
for shift, column, shade, label in ((-0.2, 0, "0.75", "parameters"), (0.2, 1, "0.3", "MACs")):
    heights = [row[column] for row in shares]
    ax.bar([p + shift for p in places], heights, 0.38, color=shade, label=label)
ax.set_xticks(places, names)
ax.set(ylabel="share", yticks=[0, 0.1, 0.2, 0.3, 0.4])
_ = ax.legend(fontsize=8)

# %% [markdown]
# A weight of the linear layer is used once a picture, one of the stem 12,544 times. So parameters
# pile up at the end of a network and MACs in its middle, and "a smaller model" and "a faster model"
# are two different wishes. A detector drops head and linear layer, and with them nearly half of
# FBNet-C's parameters, but less than a tenth of its MACs.
#
# ### The model card
#
# timm's page on FBNet says of `fbnetc_100`: "FLOPs: 508940064", "File Size: 22525094". Now you can
# check both. First the file. Weights are stored in 4 bytes each; a norm stores the mean and the
# variance that it remembers too, and a counter of 8 bytes.

# %%
state = classifier.state_dict()
norms = [layer for layer in classifier.modules() if isinstance(layer, nn.BatchNorm2d)]
remembered = sum(2 * 4 * layer.num_features for layer in norms)
size = 4 * parameters + remembered + 8 * len(norms)
print(f"4 · {parameters:,} + {remembered:,} + 8 · {len(norms)} = {size:,} bytes of tensors")
print(f"the card's file: {22_525_094 - size:,} bytes more, {len(state)} names and the wrapping")

# %% [markdown]
# That fits. The FLOPs do not (lesson 01): the count is 384,960,160 MACs. Perhaps the card means a
# larger picture? Your function answers in no time for every size:

# %%
counts = {side: whole(side=side)[1] for side in range(32, 513)}
for side in (224, 225, 256, 257):
    print(f"{side} pixels: {counts[side]:,} MACs")
print("some size has the card's number:", 508_940_064 in counts.values())
print("or half of it:", 508_940_064 // 2 in counts.values())

# %% [markdown]
# The count goes in steps, because stride 2 rounds odd edges up: from 256 pixels to 257, every map
# has a row and a column more, and the card's number lies in the gap. No size gives it. It is a
# number without a source; quote one that you can count.
#
# **6,823,936 MACs.** That is the difference between timm's FBNet-C and mobile_cv's. timm keeps the
# first 1×1 convolution where the expansion is 1. There are three such blocks:

# %%
own_cost = mine(block_cost)
side, channels = 224, 3
for op, k, c_in, c_out, stride, expansion, _ in blocks("; ".join(FBNET_C), channels):
    shape = (c_in, c_out, k, (side, side), stride, expansion)
    if op == "ir" and expansion == 1:
        more = own_cost(*shape, True)[1] - own_cost(*shape, False)[1]
        print(f"{c_in} channels, {side} × {side} cells: {more:,} MACs")
    side = math.ceil(side / stride)
print(f"in all {whole(True)[1] - whole(False)[1]:,}")

# %% [markdown]
# One at 112 × 112 cells and two at 56 × 56: together 1,408 weights, a two-thousandth of the
# trunk's, and nearly two percent of all MACs, because they sit where the map is large.
#
# ## Which pixels does a cell see?
#
# Every convolution lets a cell look at its neighbours, and behind a stride the neighbours are
# further apart. Along one axis, with a chain of 3-kernels: the first sees 3 pixels. The second, at
# stride 1, sees one more on each side, 5. But behind a stride of 2 "one more" is two pixels:

# %%
low = high = 0  # cell 0 of the third map
for kernel, stride in ((3, 1), (3, 2), (3, 2)):  # from the third layer back to the image
    low, high = stride * low - kernel // 2, stride * high + kernel // 2
    print(f"depends on {low} to {high}, {high - low + 1} of the map before")

# %% [markdown]
# Forwards, as one reads a table, the same in three running values. $s$ is the distance from cell to
# cell in pixels, $r$ the size of the field, $c$ the place of the first cell's middle. A layer with
# kernel $k$, stride $t$ and padding $p$ makes
#
# $$r \leftarrow r + (k - 1)\, s, \qquad
# c \leftarrow c + \left(\tfrac{k - 1}{2} - p\right) s, \qquad s \leftarrow t\, s.$$
#
# The new stride comes last, because the kernel lies on the *old* map. Pixel 0 reaches from 0 to 1,
# so that we begin with $r = 1$, $s = 1$ and $c = 0.5$.
#
# ## Exercise 3: receptive_field
#
# <details><summary>Hint</summary>
#
# The three lines above, in a loop. The kernel may be even (a pooling of 2 × 2, say): then its
# middle lies between two pixels, and $(k-1)/2$ is not a whole number.
# </details>

# %% exercise="course.exercises.lesson02.receptive_field"
from fbnet_lesson.course.exercises.lesson02 import receptive_field

# %%
check(receptive_field)

# %% [markdown]
# **Plug it in**, on real tables. The 1×1 convolutions of a block change nothing, so that a block is
# one layer.


# %%
def fields(stages: tuple[str, ...]) -> list[tuple[int, int, float]]:
    """Size, stride and place after each stage."""
    layers, found = [], []
    for text in stages:
        of_stage = blocks(text, 3)
        layers += [(k, stride, padding) for _, k, _, _, stride, _, padding in of_stage]
        found.append(lesson02.receptive_field(layers))
    return found


compare(lambda: fields(V3_A_DSMASK)[-1], receptive_field=receptive_field)
tables = {"FBNet-C": FBNET_C, "FBNetV3-A-dsmask": V3_A_DSMASK, "this course's": LESSON_TINY}
print("pixels seen, stride, place of cell 0, after each stage")
for name, stages in tables.items():
    print(f"{name:17s}", *(f"{r:4d}, {s:2d}, {c} ·" for r, s, c in fields(stages)))
reveal(guess, {"pixels that a cell can see": fields(V3_A_DSMASK)[-1][0]})

# %% [markdown]
# Two surprises here. The field of a cell is 479 pixels wide, where d2go's detector sees pictures
# whose short edge is 224: a cell of the last map could use nearly the whole picture, and what lies
# outside is padding. And the place is 0.5, in every stage of all three.
#
# ### A cell looks at its first pixel
#
# Column 8 of a map of stride 8 stands for the pixels 64 to 72: that is how one draws a map over a
# picture, and how ROIAlign reads it (lesson 07). But with padding `kernel // 2` the place never
# moves: cell $i$ is centred at $8i + 0.5$, on the *first* of its pixels. A kernel of stride 2
# stands on pixels 0, 2, 4 and so on, and a cell inherits the place of the pixel it stands on.

# %%
size, stride, place = fields(LESSON_TINY)[-1]
print("column 8: stands for 64 to 72, sees", 64 + place - size / 2, "to", 64 + place + size / 2)
reveal(guess, {"middle, by the table": 64 + place})

# %%
# alt: Five rows, one a stage, over the first 66 pixels of a picture. Each row is divided into
#      cells, 2 pixels wide at the top and 32 at the bottom, and every cell has a dot where it
#      looks: half a pixel behind its left border, so that wide cells look far from their middle.
(ax,) = drawing.panels(1, height=2.4)
for level, (_, step, at) in enumerate(fields(FBNET_C)):
    edges = torch.arange(0, 66, step)
    ax.vlines(edges, -level - 0.35, -level + 0.35, color="0.6", linewidth=0.8)
    ax.plot(edges + at, [-level] * len(edges), "k.", markersize=5)
ax.set_yticks(range(0, -5, -1), [f"stride {step}" for _, step, _ in fields(FBNET_C)])
ax.set(xlim=(-1, 66), xticks=range(0, 65, 8), xlabel="pixels along the picture")
_ = ax.set_title("cells of FBNet-C, and where they look", fontsize=9)

# %% [markdown]
# With that, three things fall into place:
#
# - The published anchors have offset 0: they stand on the corner of a cell (lesson 04). That looked
#   careless. By the table it is where the cell looks, half a pixel off.
# - Of 224 pixels at stride 32, the last of seven cells looks at pixel 192. Beyond it lie 31 pixels
#   that are nobody's middle: the grid is not centred on the picture.
# - mobile_cv's FBNetV3_A has less padding in two blocks. Is that what its `p1` and `p0` are for?

# %%
stages = CLASSIFICATION_ARCHS["mobile_cv/FBNetV3_A"].stages
for i in (3, 4):
    print(f"trunk{i}:", stages[i].partition(";")[0])
for (_, step, at), cells in zip(fields(stages)[3:], (13, 6), strict=True):
    last = at + step * (cells - 1)
    print(f"stride {step}: {cells} cells, from {at} to {last}; left over {at} and {224 - last}")

# %% [markdown]
# One cell of padding less at stride 8 moves the grid right and down by 8 pixels, and one less at
# stride 16 by another 16: its outermost cells are now 24.5 and 39.5 pixels from the borders, where
# with the usual padding it was 0.5 and 31.5. More even, then, at the price of a row and a column of
# cells. Whether that was the intention we do not know. Weights that were trained with it need it
# for ever.
#
# ### Can see, and does see
#
# 479 pixels is what a cell *can* see. How much does each pixel move it? That is a gradient:
# `seen_by_a_cell` takes its absolute value, for one cell of one stage. Here with random weights,
# on a picture large enough for the field:

# %%
torch.manual_seed(0)
trunk = Trunk(V3_A_DSMASK).eval()
seen = seen_by_a_cell(trunk, 255 * torch.rand(1, 3, 512, 512) - 116, "trunk3", 16, 16)
along = seen.sum(0)  # (512,) of the columns
columns = along.nonzero().flatten().tolist()
print("first and last column seen:", columns[0], columns[-1], "width", columns[-1] - columns[0] + 1)
inner = float(along[257 - 80 : 257 + 80].sum() / along.sum())
print("nine tenths of it within a third of that width:", inner > 0.9)

# %% [markdown]
# Exactly 479 columns, from 256.5 − 239.5 on. But nearly all of it comes from the middle: there are
# many ways through the network that lead from a pixel near the middle to the cell, and only one
# from the corner of the field. (The *effective* receptive field grows with the root of the depth
# only: arXiv 1701.04128.) Turn the knobs: what can a cell of our small detector see, in each stage?


# %%
image = ShapesDataset(200, seed=0, transform=eval_transform())[48][0]


def field_of(ax, stage: int, row: int, column: int) -> None:
    """The scene, the cell's own pixels in white, its field dashed, its middle as a cross."""
    size, stride, place = fields(LESSON_TINY)[stage]
    x, y = place + stride * column, place + stride * row
    drawing.show_image(ax, image, f"trunk{stage}: {size} pixels", dim=0.3)
    own = [stride * column, stride * row, stride * (column + 1), stride * (row + 1)]
    field = [x - size / 2, y - size / 2, x + size / 2, y + size / 2]
    drawing.draw_boxes(ax, torch.tensor([own], dtype=torch.float32), width=1.5)
    drawing.draw_boxes(ax, torch.tensor([field]), style="--", width=1.5)
    ax.plot([x], [y], "kx", markersize=4)
    ax.set(xlim=(-32, 160), ylim=(160, -32))


def picture(stage: int, row: int, column: int) -> plt.Figure:
    (ax,) = drawing.panels(1, height=3.6)
    field_of(ax, stage, row, column)
    return ax.figure


explore(
    picture,
    stage=ipywidgets.IntSlider(2, min=0, max=2),
    row=ipywidgets.IntSlider(8, min=0, max=15),
    column=ipywidgets.IntSlider(8, min=0, max=15),
)

# %%
# alt: The same scene three times with a cell's own pixels as a small box and its field dashed. In
#      trunk0 both are tiny, in trunk1 the field is 23 pixels wide, in trunk2 it is wider than the
#      whole picture. The cross in the field's middle lies on the corner of the cell.
for stage, ax in enumerate(drawing.panels(3, height=2.5)):
    cell = 64 // fields(LESSON_TINY)[stage][1]
    field_of(ax, stage, cell, cell)

# %% [markdown]
# ## What each stage keeps
#
# From 49,152 numbers of a scene the last stage makes 16,384, and on the way many a ReLU has set
# something to zero. What is still in there? We ask with the simplest instrument there is, a *linear
# read-out*: from the channels of a cell, the best weighted sums (least squares) for
#
# - the colours of all pixels that the cell stands for,
# - and, where its middle pixel is on an object, the class of that object, one of six.
#
# The sums are fitted on 100 scenes, and measured on 20 others.

# %%
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()


def scenes_with_labels(count: int, seed: int):
    """Images, the stages' maps, and a class for each pixel (6 is none), of some scenes."""
    pairs = list(ShapesDataset(count, seed, transform=eval_transform()))
    images = torch.stack([image.as_subclass(Tensor) for image, _ in pairs])  # (N, 3, 128, 128)
    classes = torch.full((count, 128, 128), 6)
    for i, (_, target) in enumerate(pairs):
        for mask, label in zip(target["masks"].as_subclass(Tensor), target["labels"], strict=True):
            classes[i][mask] = label
    with torch.no_grad():
        return images, model.backbone(model.preprocess(list(images))[0]), classes


fitting, held_out = scenes_with_labels(100, seed=1), scenes_with_labels(20, seed=0)


# %%
def rows_of(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 2)  # (N, C, H, W) -> (N * H * W, C): a row a cell


def read_out(inputs: Tensor, wanted: Tensor):
    """The linear function [R, C] -> [R, K] that is nearest to ``wanted``, a little regularised."""
    mean, std = inputs.mean(0), inputs.std(0) + 1e-6

    def ready(x: Tensor) -> Tensor:
        return F.pad((x - mean) / std, (0, 1), value=1.0)

    squares = ready(inputs).T @ ready(inputs)  # (C + 1, C + 1)
    squares.diagonal().add_(0.01 * len(inputs))
    weights = torch.linalg.solve(squares, ready(inputs).T @ wanted)  # (C + 1, K)
    return lambda x: ready(x) @ weights


# %%
def read_colours(name: str, stride: int) -> tuple[float, Tensor]:
    """The share of the colours' variance that a stage explains, and the pictures read out of it."""
    (images, maps, _), (new_images, new_maps, _) = fitting, held_out
    wanted = rows_of(F.pixel_unshuffle(images, stride))  # (cells, 3 * stride * stride)
    pixels = rows_of(F.pixel_unshuffle(new_images, stride))
    found = read_out(rows_of(maps[name]), wanted)(rows_of(new_maps[name]))
    explained = 1 - float(((found - pixels) ** 2).mean() / pixels.var(0).mean())
    side = 128 // stride
    grid = found.reshape(20, side, side, -1).permute(0, 3, 1, 2)
    return explained, F.pixel_shuffle(grid, stride)


def read_classes(name: str, stride: int) -> float:
    """The share of held-out cells on objects whose class is read out right."""
    (_, maps, classes), (_, new_maps, new_classes) = fitting, held_out
    middles = slice(stride // 2, None, stride)
    label, new_label = (c[:, middles, middles].flatten() for c in (classes, new_classes))
    on, new_on = label < 6, new_label < 6
    scores = read_out(rows_of(maps[name])[on], F.one_hot(label[on], 6).float())
    named = scores(rows_of(new_maps[name])[new_on]).argmax(1)
    return float((named == new_label[new_on]).float().mean())


# %%
restored = {}
for name, stride in model.backbone.strides.items():
    explained, restored[name] = read_colours(name, stride)
    right = read_classes(name, stride)
    print(f"{name}: colours explained {abs(explained):.1f}, class read right {right:.1f}")

# %%
# alt: A striped scene with a dark triangle and a violet cross, and what can be read out of its
#      three stages. From trunk0 it comes back sharp, from trunk1 faded and with coloured rims, from
#      trunk2 as a grey haze with two brownish blots where the objects are.
pictures = {"the scene": held_out[0], **restored}
for ax, (name, found) in zip(drawing.panels(4, height=2.0), pictures.items(), strict=True):
    drawing.show_image(ax, found[7].clamp(0, 1), name)

# %% [markdown]
# The picture goes, its meaning comes. trunk0 has nearly all of the colours, and on the class of an
# object's cell it does little better than guessing among six. Of the colours, the last stage keeps
# nothing that a sum of channels could get out again; in return the class is right in half of the
# cells. And that is before anybody has looked at a whole object: the box head, whose work it is,
# reads 36 places at once.
#
# One map cannot have both. Whoever needs a fine grid *and* meaning needs more than one stage.
#
# ## The pyramid: fine cells that have seen everything
#
# One map is a compromise. On stride 16 an object of 16 pixels has one cell; on stride 4, where it
# has 16, a cell has hardly seen anything yet. A *feature pyramid* (FPN) builds a map at every
# stride, all of one width, and lets each of them know what the coarser ones know. Every stage goes
# through a 1×1 convolution, its *lateral*; then from the coarsest to the finest, each map is
# doubled and added to the next. On the smallest case:

# %%
fine, coarse = torch.arange(8.0).reshape(1, 1, 2, 4), torch.tensor([[[[10.0, 20.0]]]])
doubled = F.interpolate(coarse, scale_factor=2.0, mode="nearest")  # (1, 1, 1, 2) -> (1, 1, 2, 4)
print("fine   ", fine[0, 0].tolist())
print("doubled", doubled[0, 0].tolist())
print("merged ", (fine + doubled)[0, 0].tolist())

# %% [markdown]
# ## Exercise 4: top_down
#
# The whole path, for any number of levels. What goes down is the *merged* map.
#
# <details><summary>Hint</summary>
#
# Begin with a list that holds the last lateral. Go through the others from the last to the first
# (`reversed(laterals[:-1])`), and put each sum in front of the list.
# </details>

# %% exercise="trunk.top_down"
from fbnet_lesson.trunk import top_down

# %%
check(top_down)

# %% [markdown]
# **Plug it in.** A pyramid on five stages of FBNetV3-A-dsmask, with random weights, and one picture
# of 256 pixels. How many columns of it does the cell in the middle of each level see?

# %%
torch.manual_seed(0)
pyramid = FPN(Trunk(DETECTION_ARCHS["FBNetV3_A_dsmask_C5"].trunk), channels=16).eval()
noise = 255 * torch.rand(1, 3, 256, 256) - 116


def columns_seen(network: nn.Module, name: str) -> int:
    middle = 128 // network.strides[name]
    return int((seen_by_a_cell(network, noise, name, middle, middle).sum(0) > 0).sum())


stages = {name: columns_seen(pyramid.trunk, name) for name in ("trunk1", "trunk2")}
print("columns seen by the stages below:", stages)
compare(
    lambda: {level: columns_seen(pyramid, level) for level in ("p2", "p3", "p4")},
    top_down=top_down,
)

# %% [markdown]
# That is the point of it: a cell of p2 stands for 4 pixels, as one of trunk1 does. That one sees 31
# columns; p2 sees them all. And with the commonest mistake, where each level takes the *lateral* of
# its neighbour, and not the merged map? **Predict** which levels suffer.


# %%
def only_the_neighbour(laterals: list[Tensor]) -> list[Tensor]:
    pairs = zip(laterals, laterals[1:], strict=False)
    sums = [fine + F.interpolate(coarse, scale_factor=2.0) for fine, coarse in pairs]
    return [*sums, laterals[-1]]


with plug(top_down=only_the_neighbour):
    print({level: columns_seen(pyramid, level) for level in ("p2", "p3", "p4")})

# %% [markdown]
# All shapes are right, nothing fails, and p2 is short-sighted: it hears from trunk2, which sees 95
# columns, and no further (the 3×3 convolution behind the sum adds 8).
#
# ### What p2 to p6 are for
#
# Each level gets the anchors of *one* size, and the boxes of one range of sizes. These are the
# levels of `mask_rcnn_fbnetv3g_fpn`, for a picture of 800 × 1344:

# %%
with torch.device("meta"):  # its shapes are all we need
    published = fl.create_model("d2go/mask_rcnn_fbnetv3g_fpn")
for level, (anchor,) in zip(published.rpn_features, published.config.anchor_sizes, strict=True):
    stride = published.backbone.strides[level]
    cells = math.ceil(800 / stride) * math.ceil(1344 / stride)
    pooled = "boxes pooled" if level in published.roi_features else "proposals only"
    print(f"{level}: stride {stride:2d}, {cells:6,} cells, anchors of size {anchor:3d}, {pooled}")

# %%
smoothing = [  # MACs of the 3×3 convolution behind each sum
    conv_cost(128, 128, 3, (800 // stride, 1344 // stride))[1] for stride in (4, 8, 16, 32)
]
print(f"smoothing p2: {smoothing[0] / 1e9:.1f} billion MACs", end=", ")
print(f"p3 to p5 together {sum(smoothing[1:]) / 1e9:.1f}")

# %% [markdown]
# An anchor is eight strides wide on every level, so that each object meets anchors of its size on a
# grid that is fine *for it*: small objects no longer run into the wall of lesson 04, a grid too
# coarse for them. p6 is no map of its own: it is every second cell of p5, for the anchors of 512
# pixels. And p2 is dear: three quarters of the pyramid's smoothing is spent on it. d2go's models
# use it for proposals only, and pool boxes from p3 on.

# %% [markdown]
# ## Experiment: where does a trained cell look?
#
# By its table, a cell of our detector looks at the first of its 8 pixels: 0.5 behind its left
# border. `gaze` measures where it does look: the centre of gravity of `seen_by_a_cell`, of 16 cells
# in the middle of the map, for 8 scenes. With random weights, and with the shipped ones. You
# predicted the second for column 8, which begins at 64.

# %%
torch.manual_seed(0)
untrained = fl.create_model("lesson/mask_rcnn_tiny").eval()
batch, _ = model.preprocess(list(held_out[0][:8]))
looks = {
    name: gaze(network.backbone, batch, "trunk2", 8)
    for name, network in (("untrained", untrained), ("trained", model))
}
print("pixels behind the first:", {name: round(value) for name, value in looks.items()})
reveal(guess, {"middle, after training": 64 + round(looks["trained"])})

# %%
# alt: What one cell sees, as grey maps of 48 by 48 pixels around it, with the cell's own 8 pixels
#      as a frame. Untrained, the dark patch lies around the frame's upper left corner; trained, it
#      has moved right and down and lies around the middle of the frame.
for ax, (name, network) in zip(
    drawing.panels(2, height=3.0), (("untrained", untrained), ("trained", model)), strict=True
):
    parts = [
        seen_by_a_cell(network.backbone, batch, "trunk2", row, column)[
            8 * row - 20 : 8 * row + 28, 8 * column - 20 : 8 * column + 28
        ]
        for row in range(6, 10)
        for column in range(6, 10)
    ]
    seen = torch.stack([part / part.sum() for part in parts]).mean(0)
    drawing.show_map(ax, seen, name)
    drawing.draw_boxes(ax, torch.tensor([[20.0, 20, 28, 28]]), width=1.8)
    at = 20 + looks[name]
    ax.plot([at], [at], "wX", markeredgecolor="black", markersize=9)

# %% [markdown]
# The cross is the centre of gravity. The table says 0.5, and half a pixel off so does the network,
# as long as it is random. Training has moved the gaze
# by nearly half a cell, into the middle. No weight can change kernels, strides or paddings; but the
# field is 167 pixels wide, and within it training decides which taps count.
#
# Who wanted that? ROIAlign reads the map as if the value of a cell belonged to its middle, 4 pixels
# behind the first (lesson 07): it *asks* the cell about its middle. Perhaps a cell comes to look
# where it is asked about. That can be tried in seconds, on a trunk of a few rows. Train it with
# one question, "does the pixel so far behind your first one belong to an object?", for several
# distances; then see where its answers look. **Predict** the order of the three.

# %%
SMALL = ("conv_k3 8 s2; ir_k3 8", "ir_k3 12 s2 e2", "ir_k3 16 s2 e2; ir_k5 16 e2")


def asked_about(pixel: int, steps: int = 80) -> float:
    """Where the answers of a trunk look that was asked about the pixel so far behind the first."""
    torch.manual_seed(0)
    network = Trunk(SMALL)
    network.add_module("answer", nn.Conv2d(16, 1, 1))  # a last stage, one number a cell
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    images, _, classes = fitting
    on_object = (classes.roll((-pixel, -pixel), (1, 2))[:, ::8, ::8] < 6).float()  # (N, 16, 16)
    for picked in torch.randint(len(images), (steps, 8)):
        answers = network(images[picked] - 0.5)["answer"][:, 0]
        loss = F.binary_cross_entropy_with_logits(answers, on_object[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return gaze(network.eval(), held_out[0][:8] - 0.5, "answer", 8)


# %%
asked = (-8, 0, 8)
answers = [asked_about(pixel) for pixel in asked]
print("asked about", asked, "they look in this order:", answers == sorted(answers))
print("apart by more than a pixel:", min(answers[1] - answers[0], answers[2] - answers[1]) > 1)

# %%
# alt: Three points and a dotted diagonal, where the answers look over the pixel they were asked
#      about. The points rise from left to right, less steeply than the diagonal.
(ax,) = drawing.panels(1, height=2.6)
ax.plot(asked, answers, "ko-")
ax.plot(asked, asked, "k:", label="exactly where it is asked")
ax.set(xticks=asked, yticks=asked, xlabel="asked about the pixel so far behind the first")
ax.set_ylabel("looks at")
_ = ax.legend(fontsize=8)

# %% [markdown]
# After eighty steps the gaze is on its way: the same rows, the same weights to begin with, and
# they look left or right, as they were asked. So the pixel that a cell is *responsible* for is not
# in the table. It is agreed upon in training, by everything that reads the map.
#
# In the detector it is the same, only slower. `docs/experiments/gaze.py` trains the small box
# detector from nothing, 300 steps a row and two seeds, with heads that take the value of a cell to
# be 0, 4 (as published) or 8 pixels behind the cell's first. Behind *shipped* stand a quarter of an
# hour of training and the published 4.

# %%
from fbnet_lesson.course import experiments

print("heads read at   seed   cells look at   box AP")
for row in experiments.table("gaze"):
    read = row["heads read at"]
    read = read if isinstance(read, str) else f"{read:g}"
    print(f"{read:13s}{row['seed']:7g}{row['cells look at']:16.2f}{row['box AP']:9.3f}")

# %% [markdown]
# The further behind the first pixel the heads read, the further right the cells look, with either
# seed. And it costs little: an AP of 0.26 for 0 and for 4, of 0.24 for 8. Trunk and heads come to
# an agreement, as the box head of lesson 07 did with its constant error. What this does not show is
# where the gaze would end; after 300 steps it is still moving, and anchors on the corners of the
# cells pull as well.
#
# Two things to take along. A map drawn over a picture is a claim about training, not about
# geometry. And whoever puts a trained trunk under other heads (`trunk=`) gets its gaze with it: an
# ImageNet classifier has averaged over its map, and was never asked about a place.

# %% [markdown]
# ## What the documentation gets wrong
#
# The FLOPs of a model card you have met above: a count that no picture size gives.
#
# **"FBNetV3-A" is four networks.** There is the paper's (arXiv 2006.02049), of which one can only
# quote: 357 M MACs and 79.1 % top-1, as reported in the paper; its first version reports 343 M and
# 78.0 %. There is mobile_cv's classifier `FBNetV3_A`. And there are two detection trunks of d2go,
# `FBNetV3_A` and `FBNetV3_A_dsmask`. Here are the three that one can build, their first four stages
# on 224 pixels:

# %%
from fbnet_lesson.classification.architectures import hard

mobile_cv = CLASSIFICATION_ARCHS["mobile_cv/FBNetV3_A"]
image224 = torch.zeros(1, 3, 224, 224)
for name, trunk in (
    ("mobile_cv FBNetV3_A", Trunk(mobile_cv.stages[:4], style=mobile_cv.style)),
    ("d2go FBNetV3_A", Trunk(FBNETV3["A"][:4])),
    ("d2go FBNetV3_A_dsmask", Trunk(V3_A_DSMASK)),
):
    kinds = {type(layer).__name__ for layer in trunk.modules()}
    gates = "SE" if "SqueezeExcite" in kinds else "no SE"
    act = "hard-swish" if "Hardswish" in kinds else "ReLU"
    print(f"{name:22s}{count_parameters(trunk):10,} parameters", end="")
    print(f"{count_macs(trunk.eval(), image224):13,} MACs, {gates}, {act}")
rows_of_b = hard(FBNETV3["B"], padding={3: 1, 4: 0})
print("mobile_cv's A has the rows of d2go's B:", mobile_cv.stages == rows_of_b)
same = mobile_cv.stages == CLASSIFICATION_ARCHS["mobile_cv/FBNetV3_B"].stages
print("mobile_cv's A and B are one network, at 224 and 248 pixels:", same)

# %% [markdown]
# So mobile_cv's A is d2go's B with hard activations and less padding, and mobile_cv's B as well.
# d2go's A has ReLU and other widths; its `dsmask` has no SE and three fifths of the parameters.
# ("dsmask" is the mask head, which goes *down* to 7 × 7 cells before it goes up to 28 × 28.) None
# of them can take another's weights. Cite a network with its origin, as this package spells it:
# `mobile_cv/FBNetV3_A`.
#
# The two words FBNetV3OD and FBNetV3IS are no networks either, but tasks: an FBNetV3 trunk in a
# Faster R-CNN, which gives boxes (object detection), or in a Mask R-CNN, which gives masks too
# (instance segmentation). `fbnet-lesson models` says of each name which of the two it is:

# %%
from fbnet_lesson.zoo.table import model_row

for name in fl.list_models("d2go/*_C4"):
    _, kind, count, *_ = model_row(name)
    print(f"{name:37s}{kind:11s}{count:>11s} parameters")

# %% [markdown]
# ## Edge cases
#
# **SE sees everything.** Squeeze-and-excitation takes the mean over the whole map, so that behind
# it every cell depends on every pixel. The formula for the receptive field does not know that:

# %%
small = 255 * torch.rand(1, 3, 256, 256) - 116
for text in ("ir_k3 16 s2 e2", "ir_k3_se 16 s2 e2"):
    stem = Trunk((f"conv_k3 8 s2; {text}",)).eval()
    (size, _, _) = fields((f"conv_k3 8 s2; {text}",))[0]
    seen = int((seen_by_a_cell(stem, small, "trunk0", 32, 32).sum(0) > 0).sum())
    print(f"{text:18s} by the formula {size} columns, by the gradient {seen}")

# %% [markdown]
# **Odd sizes, and rows that cannot be.** A picture of 225 pixels has as many cells as one of 256 in
# every stage; and for once the grid is centred on it, as 225 = 7 · 32 + 1: predict where its last
# cell looks. A table that cannot be is refused by name:

# %%
_, stride, place = fields(FBNET_C)[-1]
for side in (224, 225):
    cells = math.ceil(side / stride)
    print(f"{side} pixels: {cells} cells, the last looks at {place + stride * (cells - 1)}")
for text in ("ir_k5 40 s2 x3", "ir_k4 40", "conv_k3 16 s3"):
    try:
        parse_rows(text)
    except ValueError as error:
        print("refused:", error)

# %% [markdown]
# (The order in a row is fixed: repeat, stride, expansion.)
#
# ## A trunk of your own
#
# Now you decide. `arch=` builds any detector of this package on other rows; a trunk alone takes the
# heads of the named model. Write the stages of a trunk below, of any length and width; the cell
# says what it costs and what it sees, beside the one that the detector has.

# %%
MY_TRUNK = (
    "conv_k3 16 s2; ir_k3 16 e1",
    "ir_k3 24 s2 e3; ir_k3 24 e2",
    "ir_k3 48 s2 e4; ir_k5 48 x2 e2; ir_k5 64 e2",
)
for name, stages in (("the detector's", LESSON_TINY), ("yours", MY_TRUNK)):
    trunk, (size, stride, _) = Trunk(stages).eval(), fields(stages)[-1]
    macs = count_macs(trunk, torch.zeros(1, 3, 128, 128))
    print(f"{name:15s}{count_parameters(trunk):9,} parameters{macs / 1e6:7.1f} M MACs", end="")
    print(f", stride {stride}, sees {size} pixels")

# %%
own = fl.create_model("lesson/faster_rcnn_tiny", arch={"trunk": MY_TRUNK})
two = [ShapesDataset(2, seed=1, transform=eval_transform())[i] for i in range(2)]
images, targets = map(list, zip(*two, strict=True))
losses = own(images, targets)
sum(losses.values()).backward()
print("losses:", ", ".join(losses))
reached = [weight.grad is not None and bool(weight.grad.any()) for weight in own.trunk.parameters()]
print("weights of the trunk that learn:", sum(reached), "of", len(reached))
with torch.no_grad():
    (found,) = own.eval()(images[:1])
print("untrained, it answers with", ", ".join(found), "as any detector does")

# %% [markdown]
# That is a detector, and it learns. To train it in earnest takes a quarter of an hour. Write the
# rows into a file, `{"trunk": ["conv_k3 16 s2; …", …]}`, and then
#
# ```
# fbnet-lesson train --model lesson/faster_rcnn_tiny --set arch=my_trunk.json --out my_run
# ```
#
# The rows go into the run folder and the weights, so that nobody needs the file again. Three
# questions worth such an hour, and nobody has answered them for you: what becomes of AP if all
# kernels are 3? If the last stage has stride 16, and twice the channels? And which half of the
# blocks could you leave out?
#
# ## Stretch: the other way round
#
# A search (lessons 13 to 15) ends with a list of blocks, and a file wants rows. Write the text for
# such a list: one row for each run of blocks that a row can say. It is right if `blocks_of` gives
# the same blocks again, and good if it is short.
#
# <details><summary>Hint</summary>
#
# A block joins the row before it if that row can say it: same op, kernel, channels and expansion,
# stride 1, and half of the kernel as padding. Keep rows as lists [block, count].
# </details>


# %%
def rows_from(found: list[Block]) -> str | None:
    """The rows, in the notation of ``parse_rows``, that ``blocks_of`` unrolls to these blocks."""
    ### BEGIN SOLUTION
    rows: list[list] = []
    for block in found:
        op, kernel, _, channels, stride, expansion, padding = block
        key = (op, kernel, channels, expansion)
        if rows and rows[-1][0] == key and stride == 1 and padding == kernel // 2:
            rows[-1][1] += 1
            continue
        rows.append([key, 1, stride, padding])
    texts = []
    for (op, kernel, channels, expansion), repeat, stride, padding in rows:
        text = f"{op} {channels}" if op == "skip" else f"{op}_k{kernel} {channels}"
        for letter, value, usual in (
            ("x", repeat, 1), ("s", stride, 1), ("e", expansion, 1), ("p", padding, kernel // 2)
        ):  # fmt: skip
            text += f" {letter}{value:g}" if value != usual else ""
        texts.append(text)
    return "; ".join(texts)
    ### END SOLUTION


# %%
def round_trips() -> list[bool]:
    stages = [*FBNET_C, *V3_A_DSMASK, "ir_k5 24 s2 e4 p1; ir_k5 24 x2 e4; ir_k5 24 s2 e4"]
    lists = [lesson02.blocks_of(text, 16) for text in stages]
    return [lesson02.blocks_of(rows_from(found), 16) == found for found in lists]


if rows_from(lesson02.blocks_of("skip 16", 16)) is None:
    print("not written yet")
else:
    print("the same blocks:", all(round_trips()))
    print(rows_from(lesson02.blocks_of(V3_A_DSMASK[-1], 40)))

# %% [markdown]
# ## Recap
#
# A table says in four lines what a network is, once it is clear that the first block of a row takes
# the stride and that a block takes in what the one before it gives out. Parameters gather where
# maps are small, multiply-adds where they are large. A cell's size, stride and place follow from
# kernels, strides and paddings alone: it looks at the first of its pixels, until training moves its
# gaze. Stage by stage the picture goes and its meaning comes; a pyramid brings the meaning back to
# the fine maps. A name without an origin names nothing.
#
# **Three questions**
#
# <details><summary>1. You give a trunk's last stage stride 1 instead of 2, and change nothing else.
# What happens to its parameters, MACs and receptive field?</summary>
#
# Parameters stay. All that works behind the stride has four times the cells, so its MACs become
# four times as many; only the first 1×1 convolution of the stage stays as it was. The kernels
# behind the first block reach half as far in pixels, so that the field shrinks.
# </details>
#
# <details><summary>2. A colleague's FBNet-C has 1,536 parameters and 6,823,936 MACs more than
# yours. What did they keep, and how many of the parameters are norms'?</summary>
#
# The first 1×1 convolutions of the three blocks with expansion 1: 16² + 24² + 24² = 1,408 weights,
# and two parameters for each of 16 + 24 + 24 channels in their norms, 128.
# </details>
#
# <details><summary>3. Somebody wants sharper small objects, and adds p1 at stride 2 to the pyramid.
# What does it cost, and what does it know?</summary>
#
# Four times the cells of p2: its smoothing alone costs four times as much as p2's. By the top-down
# path it knows everything that the coarser levels know. What it adds of its own comes from a stage
# that has seen a dozen pixels.
# </details>
#
# **Sources.** FBNet (arXiv 1812.03443) and FBNetV3 (arXiv 2006.02049), the tables as published in
# mobile_cv, timm and d2go; timm's model card of `fbnetc_100`; *Understanding the Effective
# Receptive Field* (arXiv 1701.04128); *Feature Pyramid Networks* (arXiv 1612.03144); `rows.py` and
# `trunk.py`, which this lesson has gone through.
