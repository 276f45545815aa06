# %% [markdown]
# # 01 · The FBNet block
#
# **After this lesson you can say what a convolution costs before it runs, and why every FBNet is
# made of one block: expand, filter, project.**
#
# After this lesson you can
#
# - count parameters and multiply-adds of any convolution by hand, and find where they go;
# - build an inverted residual with its options: groups and shuffle, squeeze-and-excitation,
#   stride 2 and stride −2;
# - compare the nine blocks among which FBNet was searched;
# - say what changes when the detection models leave a norm out, and what is not known about it.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lesson 00 | 20 s, 1100 MB, no network |

# %% [markdown]
# ## Predict first
#
# A *multiply-add* (MAC) is one multiplication and the addition that follows it: the unit of work in
# this course. Write down four answers before you run anything.
#
# 1. A 3×3 convolution from 64 to 64 channels on a map of 14 × 14 cells: how many MACs?
# 2. The block below expands 64 channels to 384, filters each of them with a 5×5 kernel of its own,
#    and projects back to 64. Which share of its MACs is in the 5×5 filters? (0.3, if you think of
#    30 %.)
# 3. One 5×5 filter and two 3×3 filters in a row see the same 5 × 5 cells. Which takes fewer MACs as
#    ordinary convolutions, "one" or "two"?
# 4. And which as blocks?

# %%
from fbnet_lesson.course import reveal

guess = {
    "MACs of the 3×3 convolution": None,
    "share of the 5×5 filters": None,
    "fewer MACs, ordinary": None,
    "fewer MACs, as blocks": None,
}

# %%
import math
from itertools import product
from time import perf_counter

import ipywidgets
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fbnet_lesson as fl
from fbnet_lesson import blocks
from fbnet_lesson.blocks import InvertedResidual, count_macs, count_parameters
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.course.exercises import lesson01

torch.set_num_threads(1)
drawing.small_figures()

# %% [markdown]
# ## What a convolution costs
#
# The smallest one worth looking at: two channels in, three out, a 3×3 kernel, a map of 4 × 4
# cells. Written as loops, every product can be counted.
#
# $$y_{o,i,j} = \sum_{c}\sum_{u,v} w_{o,c,u,v}\; x_{c,\;i+u,\;j+v}$$


# %%
def convolve(x: Tensor, weight: Tensor) -> tuple[Tensor, int]:
    """[C, H, W], [O, C, k, k] -> [O, H, W], and how many multiply-adds it took."""
    k = weight.shape[-1]
    x = F.pad(x, [k // 2] * 4)  # zeros around, so that the map keeps its size
    y, macs = torch.zeros(len(weight), x.shape[1] - k + 1, x.shape[2] - k + 1), 0
    for o, i, j in torch.cartesian_prod(*(torch.arange(size) for size in y.shape)):
        for c in range(len(x)):
            window = x[c, i : i + k, j : j + k]  # (k, k)
            y[o, i, j] += (weight[o, c] * window).sum()  # k * k products
            macs += k * k
    return y, macs


# %%
x = torch.arange(32.0).reshape(2, 4, 4)
weight = torch.arange(54.0).reshape(3, 2, 3, 3)
y, macs = convolve(x, weight)
print("as torch does it:", torch.equal(y, F.conv2d(x, weight, padding=1)))
print("parameters:", weight.numel(), "= 3 · 2 · 3 · 3")
print("MACs:", macs, "=", weight.numel(), "weights · 16 cells")

# %% [markdown]
# That is the whole law: each weight is used once in every cell of the *output*.
#
# $$\text{parameters} = C_\text{out}\cdot\frac{C_\text{in}}{g}\cdot k^2 \;(+\;C_\text{out}
# \text{ with bias}),\qquad
# \text{MACs} = C_\text{out}\cdot\frac{C_\text{in}}{g}\cdot k^2 \cdot H_\text{out} W_\text{out}$$
#
# Here $g$ is the number of *groups*: with $g = 2$ the first half of the input channels goes to one
# convolution, which makes the first half of the outputs, and the second half to another.

# %%
reveal(guess, {"MACs of the 3×3 convolution": 64 * 64 * 9 * 14 * 14})

# %% [markdown]
# ### Exercise 1: the cost of a convolution
#
# The rest of this lesson counts with this function, so write it first. Mind two details of the
# docstring: what an odd size becomes at stride 2, and what a bias costs.
#
# <details><summary>Hint</summary>
#
# Count the weights without the bias. Then the cells of the output: `math.ceil(height / stride)`
# times the same for the width. The MACs are the product; the bias joins the parameters only.
# </details>

# %% exercise="course.exercises.lesson01.conv_cost"
from fbnet_lesson.course.exercises.lesson01 import conv_cost

# %%
check(conv_cost)

# %% [markdown]
# **Plug it in.** Take a real trunk, that of `mask_rcnn_fbnetv3a_dsmask_C4`. A *hook* is a function
# that torch calls whenever a layer has run. Ours hands the sizes of each convolution to your
# function and adds up what comes back; in the end the sum has to be what torch itself counts.


# %%
def sum_of_conv_costs(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Parameters and MACs of all convolutions in ``model``, one ``conv_cost`` at a time."""
    costs = []

    def add(conv, inputs, _output):
        of_conv = (conv.kernel_size[0], tuple(inputs[0].shape[2:]), conv.stride[0], conv.groups)
        has_bias = conv.bias is not None
        costs.append(lesson01.conv_cost(conv.in_channels, conv.out_channels, *of_conv, has_bias))

    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks = [conv.register_forward_hook(add) for conv in convs]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return tuple(map(sum, zip(*costs, strict=True)))


# %%
detector = fl.create_model("d2go/mask_rcnn_fbnetv3a_dsmask_C4", norm="BN").eval()
trunk, image = detector.backbone, torch.zeros(1, 3, 224, 320)
norms = sum(count_parameters(m) for m in trunk.modules() if isinstance(m, nn.BatchNorm2d))
compare(lambda: sum_of_conv_costs(trunk, image), conv_cost=conv_cost)

cost = mine(conv_cost)  # yours, once it has passed its check; the lesson goes on with it
parameters, macs = sum_of_conv_costs(trunk, image)
print(f"MACs: {macs:,}; torch counts {count_macs(trunk, image):,}")
print(f"parameters: {parameters:,} + {norms:,} in norms; in all {count_parameters(trunk):,}")

# %% [markdown]
# ## Depthwise, then pointwise
#
# An ordinary convolution does two things at once: it looks *around* and it *mixes channels*. These
# can be split. A **depthwise** convolution has as many groups as channels ($g = C$): it looks
# around, each channel with a kernel of its own. A **pointwise** convolution (1×1) mixes the
# channels of a cell. What is given up shows when the two are put together again: of an input
# channel $c$, all output channels $o$ see the same kernel $d_c$, each with a factor $p_{o,c}$ of
# its own.
#
# $$w_{o,c,u,v} = p_{o,c}\; d_{c,u,v}$$

# %%
x = torch.arange(18.0).reshape(1, 2, 3, 3) % 5
depthwise = torch.tensor([[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], [[1.0, 0, -1]] * 3])[:, None]
pointwise = torch.tensor([[1.0, 0], [0, 1], [2, -1]])  # (3, 2)
apart = F.conv2d(x, depthwise, padding=1, groups=2)  # (1, 2, 3, 3)
apart = F.conv2d(apart, pointwise[:, :, None, None])  # (1, 3, 3, 3)
together = pointwise[:, :, None, None] * depthwise.transpose(0, 1)  # (3, 2, 3, 3)
print("one convolution:", torch.equal(apart, F.conv2d(x, together, padding=1)))
print("weights:", depthwise.numel() + pointwise.numel(), "apart,", together.numel(), "together")

# %% [markdown]
# Together they cost $C_\text{in} k^2 + C_\text{in} C_\text{out}$ MACs a cell, where the ordinary
# convolution costs $C_\text{in} k^2 C_\text{out}$: a sum in the place of a product. The ratio is
# $1/C_\text{out} + 1/k^2$, close to $1/k^2$ once there are many channels.

# %%
for k in (3, 5):
    _, full = cost(64, 64, k, (14, 14))
    _, around = cost(64, 64, k, (14, 14), groups=64)
    _, mix = cost(64, 64, 1, (14, 14))
    fewer = full / (around + mix)
    print(f"k = {k}: {full:,}; apart {around:,} + {mix:,} MACs, {fewer:.1f} times fewer")

# %% [markdown]
# ## The inverted residual
#
# With one kernel a channel, 64 channels are filtered in only 64 ways. But depthwise filters are
# cheap, so the block makes itself more channels first: it **expands** to a middle width with a 1×1
# convolution, filters there, and **projects** back with another. The classical residual block is
# wide outside and narrow in the middle; this one is narrow outside, hence *inverted*.
#
# ```
#  x ──▶ pw 1×1 + norm + ReLU ──▶ dw k×k ──▶ pwl 1×1 + norm ──(+)──▶ y
#  │      64 ─▶ 384                384          384 ─▶ 64        │
#  └──────────── identity, where stride is 1 and widths agree ───┘
# ```
#
# In the diagram, `pw` stands for pointwise and `dw` for depthwise. The last convolution has no
# activation; the *l* in `pwl` is for *linear*. The argument of MobileNetV2 for that: a ReLU throws
# away what it sets to zero, and on a narrow map there are few other channels that could hold the
# same. Here is such a block, counted by hand.

# %%
mid, size = 6 * 64, (14, 14)
parts = {
    "pw": cost(64, mid, 1, size),
    "dw": cost(mid, mid, 5, size, groups=mid),
    "pwl": cost(mid, 64, 1, size),
}
for name, (parameters, macs) in parts.items():
    print(f"{name:3s} {parameters:7,} parameters {macs:11,} MACs")
total = [sum(column) for column in zip(*parts.values(), strict=True)]
print(f"all {total[0]:7,} parameters {total[1]:11,} MACs")
reveal(guess, {"share of the 5×5 filters": parts["dw"][1] / total[1]})

# %%
block = InvertedResidual(64, 64, kernel=5, expansion=6)
print("norms:", 2 * mid + 2 * 64, "parameters, a factor and an offset a channel")
print("parameters agree:", count_parameters(block) == total[0] + 2 * mid + 2 * 64)
print("MACs agree:", count_macs(block, torch.zeros(1, 64, *size)) == total[1])

# %% [markdown]
# The 5×5 filters are the only part that looks around, and they take one MAC in six. Why? In each
# cell, every middle channel costs $C_\text{in}$ MACs to make, $k^2$ to filter, and $C_\text{out}$
# to use. The number of middle channels is the same in all three, so that it cancels from the share:
#
# $$\frac{k^2}{C_\text{in} + k^2 + C_\text{out}}$$
#
# The wider the network, the more of its work is in the 1×1 convolutions, and the less a larger
# kernel adds to it.


# %%
def draw_parts(ax, channels: int, settings: list[tuple[int, int]], size=(14, 14)) -> list[float]:
    """Stacked MACs of pw, dw and pwl for each (kernel, expansion); returns the dw shares."""
    shares = []
    for at, (kernel, expansion) in enumerate(settings):
        mid = blocks.middle_width(channels, expansion)
        pw = cost(channels, mid, 1, size)[1] if expansion > 1 else 0
        dw = cost(mid, mid, kernel, size, groups=mid)[1]
        pwl = cost(mid, channels, 1, size)[1]
        below = 0
        for name, macs, shade in (("pw", pw, "0.85"), ("dw", dw, "0.15"), ("pwl", pwl, "0.55")):
            label = name if at == 0 else None
            ax.bar(at, macs / 1e6, bottom=below / 1e6, color=shade, edgecolor="black", label=label)
            below += macs
        shares.append(dw / below)
    ax.set_xticks(range(len(settings)), [f"k{k}_e{e}" for k, e in settings], fontsize=8)
    ax.set_ylabel("million MACs")
    ax.legend(fontsize=8)
    return shares


# %%
# alt: Left, stacked bars of six blocks with 64 channels: expansion 6 costs twice as much as 3, and
#      the black part, the depthwise convolution, is small in all. Right, its share falls with the
#      channels, from over a third to under a tenth, and lies higher for larger kernels.
_, (left, right) = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
shares = draw_parts(left, 64, [(k, e) for e in (1, 3, 6) for k in (3, 5)])
left.set_title("64 channels, 14 × 14 cells", fontsize=9)
widths = torch.arange(8, 257, 8)
for k, style in ((3, "k-"), (5, "k--"), (7, "k:")):
    right.plot(widths, k * k / (2 * widths + k * k), style, label=f"{k} × {k}")
right.set(xlabel="channels in and out", ylabel="share of the depthwise", ylim=(0, 1))
right.legend(fontsize=8)
right.set_title("expansion above 1", fontsize=9)
print("depthwise share:", [round(share, 2) for share in shares])

# %% [markdown]
# (A name such as `k5_e6` means a kernel of 5 × 5 and expansion 6. With expansion 1 there is no
# first 1×1 convolution, so that the depthwise share is about twice as large.)
#
# Turn the knobs: at how many channels does the depthwise convolution of `k5_e6` cost as much as the
# two others together? Solve the formula first, then look.
#
# <details><summary>Answer</summary>
#
# The share is one half where $k^2 = C_\text{in} + C_\text{out}$, so $25 = 2C$: between 8 and 16
# channels.
# </details>


# %%
def picture(channels: int, kernel: int, expansion: int):
    figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    (share,) = draw_parts(ax, channels, [(kernel, expansion)])
    ax.set_xlim(-1.5, 1.5)
    ax.set_title(f"{channels} channels: depthwise share {share:.2f}", fontsize=9)
    return figure


explore(
    picture,
    channels=ipywidgets.IntSlider(64, min=8, max=256, step=8),
    kernel=ipywidgets.ToggleButtons(options=[3, 5, 7], value=5),
    expansion=ipywidgets.IntSlider(6, min=2, max=8),
)

# %% [markdown]
# ### Exercise 2: round channels
#
# Networks that a computer searched have odd expansions, such as 5.4566. Their widths are rounded to
# multiples of 8, as processors work on 8 or 16 numbers at a time. The rule looks harmless, but a
# published checkpoint fits only if every single width agrees: the halves, the 0.95 and the smallest
# value all have to be right.
#
# <details><summary>Hint</summary>
#
# Nearest whole number with halves up: `math.floor(q + 0.5)`. Python's `round` takes halves to the
# even neighbour. First the nearest multiple, then "at least the divisor", then the 0.95 rule.
# </details>

# %% exercise="blocks.round_channels"
from fbnet_lesson.blocks import round_channels

# %%
check(round_channels)

# %% [markdown]
# **Plug it in**: FBNetV2's middle widths all come out of this function. Here are the parameters of
# one such network; and then those of the network that a limit of 0.9, as in MobileNet's code, makes
# of the same table.


# %%
def parameters_of_fbnet_v2() -> str:
    return f"{count_parameters(fl.create_model('mobile_cv/FBNetV2_F1')):,}"


compare(parameters_of_fbnet_v2, round_channels=round_channels)

# %%
own_rule = mine(round_channels)


def with_limit(wish: float, divisor: int = 8, limit: float = 0.9) -> int:
    rounded = max(divisor, math.floor(wish / divisor + 0.5) * divisor)
    return rounded + divisor if rounded < limit * wish else rounded


with plug(round_channels=with_limit):
    print("limit 0.9:", parameters_of_fbnet_v2(), "parameters")
print("8 · 5.4566 = 43.65 channels:", own_rule(43.65), "or", with_limit(43.65))

# %% [markdown]
# One width of one block has changed, 488 parameters of six million. Nothing in training would tell
# you, and yet no published checkpoint would fit any more.

# %% [markdown]
# ## Groups and the shuffle
#
# The 1×1 convolutions are the expensive part, and splitting them into two groups halves their cost.
# But then the channels of one group never learn of those of the other, as depthwise convolutions do
# not mix channels either. The **shuffle** deals the channels out anew between the two grouped
# convolutions.
#
# On six channels, two groups: `0 1 2 | 3 4 5`. Seen as a table with one row a group and read by
# columns, they come out as `0 3 1 4 2 5`.

# %%
channels = torch.arange(6)
table = channels.reshape(2, 3)  # (groups, channels of a group)
print(table.tolist(), "->", table.t().reshape(6).tolist())

# %% [markdown]
# ### Exercise 3: the channel shuffle
#
# The same for maps `[N, C, H, W]`: images stay apart, cells stay in their places.
#
# <details><summary>Hint</summary>
#
# Split the channel axis into two: `(n, groups, c // groups, h, w)`. Swap these two, and put the
# shape back. (`view` refuses numbers that no longer lie in order in memory; `reshape` copies them.)
# </details>

# %% exercise="blocks.channel_shuffle"
from fbnet_lesson.blocks import channel_shuffle

# %%
check(channel_shuffle)

# %% [markdown]
# **Plug it in and measure.** Which input channels can reach an output channel of the block? Change
# one input at a time, and see which outputs change with it. In the picture, row $o$ of column $c$
# is dark where output $o$ depends on input $c$.


# %%
def reach(block: nn.Module, channels: int) -> Tensor:
    """[C, C] bool: whether output channel o depends on input channel c, in one cell."""
    cell = torch.linspace(-1, 1, channels).reshape(1, channels, 1, 1)
    changed = (
        cell + torch.eye(channels)[:, :, None, None]
    )  # (C, C, 1, 1): in each, one input differs
    with torch.no_grad():
        differences = block(changed) - block(cell)  # (C, C, 1, 1), [c, o]
    return differences[:, :, 0, 0].t().abs() > 1e-6


torch.manual_seed(0)
grouped = InvertedResidual(8, 8, expansion=6, groups=2).eval()
compare(lambda: f"{int(reach(grouped, 8).sum())} of 64 pairs", channel_shuffle=channel_shuffle)

# %%
# alt: Two grids of 8 by 8. Without a shuffle, two dark squares on the diagonal: each half of the
#      outputs depends on its own half of the inputs. With the shuffle the whole grid is dark.
seen = {"shuffle": reach(grouped, 8)}
with plug(channel_shuffle=lambda x, groups: x):
    seen = {"no shuffle": reach(grouped, 8), **seen}
for ax, (name, pairs) in zip(drawing.panels(len(seen)), seen.items(), strict=True):
    drawing.show_map(ax, pairs.float(), f"{name}: {int(pairs.sum())} of 64", vmin=0, vmax=1)
    ax.set(xlabel="input channel", ylabel="output channel")
    ax.set_xticks(torch.arange(8) + 0.5, range(8))
    ax.set_yticks(torch.arange(8) + 0.5, range(8))
print("pairs that depend:", {name: int(pairs.sum()) for name, pairs in seen.items()})

# %% [markdown]
# ## Squeeze and excitation
#
# A convolution sees a few cells; so far, nothing in the block sees the whole map.
# *Squeeze-and-excitation* (SE) does. The mean of each channel over the map goes through two small
# layers, and out come *gates* between 0 and 1, one for each channel. A channel that does not fit
# the map as a whole is turned down by its gate.
#
# $$g = \sigma\big(W_2\,\mathrm{ReLU}(W_1\,\bar x + b_1) + b_2\big),\qquad y_{c,i,j} = g_c\,
# x_{c,i,j}$$
#
# The smallest example has two channels and one hidden number, the first mean less the second. The
# larger the first channel is on the whole, the further its own gate opens and the other one closes.

# %%
x = torch.tensor([[[3.0, 5.0], [3.0, 5.0]], [[0.0, 1.0], [2.0, 1.0]]])  # (2, 2, 2)
mean = x.mean((1, 2))  # (2,)
hidden = (torch.tensor([[1.0, -1.0]]) @ mean).relu()  # (1,)
gates = (torch.tensor([[1.0], [-1.0]]) @ hidden).sigmoid()  # (2,)
print("means", mean.tolist(), "hidden", hidden.tolist())
print("gates", [round(gate, 2) for gate in gates.tolist()])

# %% [markdown]
# ### Exercise 4: squeeze-and-excitation
#
# Write it for a batch; the weights are given. The danger is in the last line: gates `[N, C]` and
# maps `[N, C, H, W]` do not line up, and where C happens to equal W, no error says so.
#
# <details><summary>Hint</summary>
#
# A linear layer with weight `[S, C]` on means `[N, C]` is `means @ weight.t()`. At the end,
# `gates[:, :, None, None]` is `[N, C, 1, 1]`.
# </details>

# %% exercise="course.exercises.lesson01.squeeze_excite"
from fbnet_lesson.course.exercises.lesson01 import squeeze_excite

# %%
check(squeeze_excite)

# %% [markdown]
# **Plug it in.** `FBNetV3_A` has SE in half of its blocks. With yours inside, its trunk has to give
# the same map (here are the size of the map, and the mean and the norm of its values), and how much
# does SE cost it?

# %%
torch.manual_seed(0)
bigger = fl.create_model("d2go/faster_rcnn_fbnetv3a_C4", norm="BN").eval().backbone
image = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)


def last_map() -> str:
    with torch.no_grad():
        found = bigger(image)["trunk3"]
    return f"{list(found.shape)}, mean {found.mean():.3f}, norm {found.norm():.2f}"


compare(last_map, squeeze_excite=squeeze_excite)

# %%
gated = [m for m in bigger.modules() if isinstance(m, blocks.SqueezeExcite)]
parameters = sum(map(count_parameters, gated))
macs = sum(m.reduce.weight.numel() + m.expand.weight.numel() for m in gated)
print(f"{len(gated)} SE modules: {parameters / count_parameters(bigger):.0%} of the parameters,")
print(f"{macs / count_macs(bigger, torch.zeros(1, 3, 224, 320)):.2%} of the MACs at 224 × 320")

# %% [markdown]
# SE has many parameters and hardly any MACs, because each of its weights is used once an image and
# not once a cell. Parameters and MACs are two different prices.
#
# ## The nine candidates
#
# FBNet was not designed but *searched* for (lesson 13): in each of 22 places it may take one of
# nine blocks, which makes 9²² ≈ 10²¹ networks. The blocks differ in kernel, expansion and groups;
# the ninth is `skip`, which does nothing at all. Guess before you run: how many times as much as
# the cheapest block that does something does the most expensive one cost?

# %%
NINE = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")


def candidate(name: str, channels: int, keep_pw: bool) -> nn.Module:
    if name == "skip":
        return nn.Identity()
    kernel, expansion, *groups = (int(part[1:]) for part in name.split("_"))
    return InvertedResidual(
        channels, channels, kernel, expansion=expansion, groups=groups[0] if groups else 1,
        bare_depthwise=False, keep_pw=keep_pw,
    )  # fmt: skip


# %%
costs = {}
for name in NINE:
    made = [candidate(name, 64, keep_pw) for keep_pw in (True, False)]
    macs = [count_macs(block, torch.zeros(1, 64, 14, 14)) for block in made]
    costs[name] = (count_parameters(made[0]), macs[0], count_parameters(made[1]), macs[1])
    print(f"{name:8s} {costs[name][0]:7,} parameters {costs[name][1]:11,} MACs")

# %%
# alt: Horizontal bars of the nine candidates, parameters on the left and MACs on the right. Both
#      grow with the expansion; 3×3 and 5×5 differ little. At expansion 1 a hatched bar is twice as
#      long as the grey one without the first convolution; skip has none.
figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained", sharey=True)
panels = ((axes[0], 0, 1e3, "thousand parameters"), (axes[1], 1, 1e6, "million MACs"))
for ax, at, unit, title in panels:
    whole = [costs[name][at] / unit for name in NINE]
    short = [costs[name][at + 2] / unit for name in NINE]
    ax.barh(NINE, whole, color="white", edgecolor="black", hatch="////", label="with 1×1 at e1")
    ax.barh(NINE, short, color="0.6", edgecolor="black", label="without")
    for row, value in enumerate(whole):
        ax.text(value, row, f" {value:.3g}", va="center", fontsize=8)
    ax.set(xlabel=title, xlim=(0, 1.2 * max(whole)))
axes[0].invert_yaxis()
axes[0].legend(fontsize=8)
figure.suptitle("64 channels, 14 × 14 cells, stride 1", fontsize=9)
print("e6 over e1_g2:", round(costs["k5_e6"][1] / costs["k3_e1_g2"][1], 1), "times the MACs")

# %% [markdown]
# It is the expansion that decides; the kernel hardly matters: at 64 channels and without groups,
# `k5` costs 12 % more than `k3`. FBNet-C has `k5` in fifteen of its 22 places.
#
# The hatched part is a matter of taste that has consequences. At expansion 1 the first 1×1
# convolution leaves the width as it is: timm keeps it, mobile_cv leaves it out. Below you will find
# that difference to the last MAC.
#
# **Your turn: search by hand.** You have four places in a row, at 64 channels on 14 × 14 cells
# without the hatched part, and a budget of 20 million MACs. Each block that is no `skip` widens
# what an output cell sees by $k - 1$ cells. Choose the four so that it sees as far as possible;
# among those that see equally far, the one with more MACs wins, as it has more channels to see
# with. Which four?

# %%
choice = ["skip", "skip", "skip", "skip"]  # yours, of NINE
BUDGET = 20e6


def sees(names) -> int:
    """How many cells wide the field is that one output cell depends on."""
    return 1 + sum(int(name[1]) - 1 for name in names if name != "skip")


def macs_of(names) -> int:
    return sum(costs[name][3] for name in names)


over = " (over the budget)" if macs_of(choice) > BUDGET else ""
print(f"yours: sees {sees(choice)} cells, {macs_of(choice) / 1e6:.1f} million MACs{over}")

# %%
allowed = [names for names in product(NINE, repeat=4) if macs_of(names) <= BUDGET]
best = max(allowed, key=lambda names: (sees(names), macs_of(names)))
print(f"{len(allowed)} of {9**4} networks are within the budget")
print(f"best: {sorted(best)}, sees {sees(best)} cells, {macs_of(best) / 1e6:.1f} million MACs")

# %% [markdown]
# Four places can be tried one and all. With 22 places that is out of the question, which is why
# DNAS had to be invented.
#
# ## Stride −2: twice as large
#
# Stride 2 halves a map: the depthwise convolution is evaluated in every second row and column only.
# The mask head has to go the other way, from 14 × 14 to 28 × 28. The tables of the detectors call
# that stride −2: first the map is doubled, so that each cell becomes 2 × 2 equal ones, and *then*
# the depthwise convolution runs over the doubled map.

# %%
# alt: Four grids of numbers: a map of 2 × 2 cells, the same doubled to 4 × 4 with every number four
#      times, a kernel with 1 to 9, and the filtered map of 4 × 4.
small = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
doubled = F.interpolate(small, scale_factor=2, mode="nearest")
kernel = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
naive = F.conv2d(doubled, kernel, padding=1)
maps = {"x": small, "doubled": doubled, "kernel": kernel, "filtered": naive}
for ax, (title, value) in zip(drawing.panels(4, height=2.0), maps.items(), strict=True):
    drawing.value_grid(ax, value[0, 0], title)
print(naive[0, 0].int().tolist())

# %% [markdown]
# That is wasteful: the doubled map is four times as large, and says nothing new. Take a single row
# to see what can be saved. The small row has two cells, the doubled one four:
#
# ```
#  small     x0          x1
#  doubled   x0    x0    x1    x1
#  place     0     1     2     3
# ```
#
# A kernel $(a, b, c)$ looks at three neighbours of the doubled row. Two of the three are always
# copies of the same cell, so that their two weights can be added *before* anything is multiplied:
#
# ```
#  output at 1 (odd):   a·x0 + b·x0 + c·x1  =  (a + b)·x0 + c·x1
#  output at 2 (even):  a·x0 + b·x1 + c·x1  =  a·x0 + (b + c)·x1
# ```
#
# Which two weights meet depends on whether the output's place is odd or even, and on nothing else.
# So there are two short kernels of two weights each, one for the odd places and one for the even
# ones. Let us see it in numbers, with $(a, b, c) = (1, 10, 100)$.

# %%
row, (a, b, c) = torch.tensor([2.0, 3.0]), (1.0, 10.0, 100.0)
twice = row.repeat_interleave(2)  # 2 2 3 3
long_way = [float(a * twice[i - 1] + b * twice[i] + c * twice[i + 1]) for i in (1, 2)]
odd = (a + b) * row[0] + c * row[1]
even = a * row[0] + (b + c) * row[1]
print("three products each:", long_way, "two products each:", [float(odd), float(even)])

# %% [markdown]
# In a map, the same holds for rows and for columns. An output's row is even or odd, and so is its
# column: that makes four cases, the **four phases**. Each has a kernel of 2 × 2 on the small map, 4
# products in the place of 9.
#
# PyTorch can do all four in one call. A *transposed* convolution turns the question round. An
# ordinary one asks of each output which inputs it needs; a transposed one asks of each input which
# outputs it has a part in, and adds its part there. Here every small cell has a part in 4 × 4
# outputs: its own 2 × 2 copies, and the cells next to these, which the 3×3 kernel looks at from
# outside. The part itself is the 3×3 kernel, added up over the four copies; that is a kernel of 4 ×
# 4. (It is also turned round, since the cell on the *left* of an output is met by the kernel's left
# weight, while an input meets the outputs on its *right* with it.) The package does it so, and
# never makes the doubled map.

# %%
upsample = blocks.UpsampledDepthwise(1, 1, 3, padding=1, bias=False)
with torch.no_grad():
    upsample.weight.copy_(kernel)
    print("same:", torch.equal(upsample(small), naive))
    print("widened kernel:", upsample.widened()[0, 0].int().tolist())
cells = 4 * 14 * 14
print("MACs a channel, doubled first:", 9 * cells, "· in phases:", 4 * cells)

# %% [markdown]
# **Stretch.** Write the four phases yourself: make four 2 × 2 kernels, run four plain convolutions
# on the small map, and weave their outputs together, as in `y[:, :, 0::2, 1::2] = ...` for even
# rows and odd columns. The cell compares your map with the one above.
#
# <details><summary>Hint</summary>
#
# Along an axis, the phase "even" has taps `(a, b + c)` on the cells before and at the output, the
# phase "odd" has `(a + b, c)` on the cells at and after it. As matrices: `[[1, 0, 0], [0, 1, 1]]`
# and `[[1, 1, 0], [0, 0, 1]]`, from the left for rows, from the right (transposed) for columns.
# Padding: one cell of zeros before for "even", one after for "odd".
# </details>


# %%
def four_phases(x: Tensor, kernel: Tensor) -> Tensor | None:
    """[1, 1, H, W], [1, 1, 3, 3] -> [1, 1, 2H, 2W], without the doubled map."""
    ### BEGIN SOLUTION
    meet = (torch.tensor([[1.0, 0, 0], [0, 1, 1]]), torch.tensor([[1.0, 1, 0], [0, 0, 1]]))
    y = x.new_zeros(1, 1, 2 * x.shape[2], 2 * x.shape[3])
    for row in (0, 1):
        for column in (0, 1):
            taps = meet[row] @ kernel[0, 0] @ meet[column].t()  # (2, 3) (3, 3) (3, 2) -> (2, 2)
            padded = F.pad(x, (1 - column, column, 1 - row, row))  # left, right, above, below
            y[:, :, row::2, column::2] = F.conv2d(padded, taps[None, None])
    return y
    ### END SOLUTION


phases = four_phases(small, kernel)
print("not written yet" if phases is None else f"same: {torch.equal(phases, naive)}")

# %% [markdown]
# ## The norm that the detection models leave out
#
# FBNet's classifiers have a norm layer and an activation behind each of a block's first two
# convolutions. (A norm layer gives each channel mean 0 and variance 1, and then a factor and an
# offset of its own; lesson 03 takes it apart.) In d2go's detection models the depthwise convolution
# is *bare*: neither follows it.
#
# We know of no place that says why. There is a hint in the Xception paper: without an activation
# between depthwise and pointwise convolution, that network learned faster and ended better (arXiv
# 1610.02357, sec. 4.7). But that is another network, and for classification. So here is only what
# can be measured, on a block of the trunk's last stage. One of the figures needs a word. To work
# out gradients, the backward pass needs the maps that the forward pass went through, and until then
# they take memory. *Training keeps* counts these bytes, for one image.


# %%
def kept_for_backward(block: nn.Module, x: Tensor) -> int:
    """Bytes of maps that a forward pass in training stores, each counted once."""
    kept = {}

    def note(tensor):
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block.train()(x)
    return sum(kept.values())


# %%
x = torch.rand(1, 72, 14, 20, requires_grad=True)
for bare in (False, True):
    block = InvertedResidual(72, 72, kernel=3, expansion=3, bare_depthwise=bare)
    kinds = [type(m).__name__ for m in block.modules() if not list(m.children())]
    print("bare:" if bare else "full:", " ".join(kinds))
    kept = kept_for_backward(block, x) / 1e6
    macs = count_macs(block, x)
    print(f"  {count_parameters(block):,} parameters, {macs:,} MACs, training keeps {kept:.2f} MB")

# %% [markdown]
# The MACs are the same, the parameters nearly so. Training keeps a fifth less, as one map of the
# middle width is gone.
#
# There is a change of another kind too. Without an activation between them, `dw` and `pwl` do one
# linear step in two parts, and only the activation behind `pw` is left in the block. Where the
# expansion is 1, there is no `pw` either: such a block has **no** activation at all. And a norm
# layer does not bend anything in evaluation, when its mean and variance are constants: it
# multiplies and adds, no more. So the whole block should be a linear map plus a constant, $f(x) =
# Ax + f(0)$.
#
# That can be tested without looking inside. From $f(x) = Ax + f(0)$ follows
#
# $$f(a + b) = Aa + Ab + f(0) = f(a) + f(b) - f(0)$$
#
# for any two inputs. A ReLU breaks this equation: with $a = 1$ and $b = -1$ it says
# $0 = 1 + 0 - 0$.


# %%
def is_affine(block: nn.Module) -> bool:
    a, b = torch.rand(2, 1, block.pwl.conv.out_channels, 8, 8)
    f = block.eval()
    with torch.no_grad():
        return torch.allclose(f(a + b), f(a) + f(b) - f(0 * a), atol=1e-4)


# %%
torch.manual_seed(0)
for expansion in (1, 3):
    for bare in (False, True):
        block = InvertedResidual(16, 16, expansion=expansion, bare_depthwise=bare)
        name = "bare" if bare else "full"
        print(f"e{expansion} {name}: only linear: {is_affine(block)}")
second = trunk.trunk0[1]
print("the second block of the detection trunk: only linear:", is_affine(second))

# %% [markdown]
# So in evaluation the second block of the detection trunk is nothing but one 3×3 convolution,
# written with fewer weights. This can be used: `fl.fuse` (lesson 17) joins the mask head's last
# `dw`, its `pwl` and the predictor into one. Whether a bare block is *better* for accuracy, this
# lesson has not measured and does not claim.
#
# ## Experiment: one 5×5 or two 3×3?
#
# Two 3×3 convolutions see 5 × 5 cells, as one 5×5 does. For ordinary convolutions the textbooks
# recommend the two: 18 $C^2$ MACs in the place of 25 $C^2$, and an activation more. You predicted
# whether that holds for blocks. Here is one `k5_e3` against two `k3_e3`, over the number of
# channels.
#
# First, that they see the same cells: which inputs does the middle output depend on?


# %%
def footprint(*layers: nn.Module) -> Tensor:
    """[9, 9] bool: the input cells that the middle output cell depends on."""
    x = torch.rand(1, 8, 9, 9, requires_grad=True)
    nn.Sequential(*layers).eval()(x)[0, :, 4, 4].sum().backward()
    return x.grad[0].abs().sum(0) > 0


torch.manual_seed(0)
one = footprint(InvertedResidual(8, 8, 5, expansion=3))
two = footprint(*(InvertedResidual(8, 8, 3, expansion=3) for _ in range(2)))
print("cells seen: one k5", int(one.sum()), "· two k3", int(two.sum()))
print("the same cells:", torch.equal(one, two))

# %%
widths = torch.tensor([8, 16, 24, 32, 48, 64, 96, 128, 192, 256])
ordinary = [2 * 9 * c * c / (25 * c * c) for c in widths.tolist()]
block_ratio = []
for c in widths.tolist():
    x = torch.zeros(1, c, 14, 14)
    k3, k5 = (count_macs(InvertedResidual(c, c, k, expansion=3), x) for k in (3, 5))
    block_ratio.append(2 * k3 / k5)
ratios = dict(zip(widths.tolist(), block_ratio, strict=True))
print("two 3×3 over one 5×5, in blocks:", {c: round(ratios[c], 2) for c in (8, 64, 256)})
answers = ["two" if ratio < 1 else "one" for ratio in (ordinary[0], min(block_ratio))]
reveal(guess, {"fewer MACs, ordinary": answers[0], "fewer MACs, as blocks": answers[1]})

# %%
# alt: MACs of two 3×3 over one 5×5 against the number of channels. For ordinary convolutions a
#      level line at 0.72, below 1; for blocks a rising curve that starts above 1 and comes near 2.
_, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
ax.plot(widths, ordinary, "k--o", label="ordinary convolutions")
ax.plot(widths, block_ratio, "k-s", label="inverted residuals, expansion 3")
ax.axhline(1, color="0.6", linewidth=1)
ax.set(xlabel="channels", ylabel="MACs of two 3×3 / one 5×5", xscale="log", ylim=(0, 2.1))
ax.set_xticks([8, 16, 32, 64, 128, 256], ["8", "16", "32", "64", "128", "256"])
_ = ax.legend(fontsize=8)

# %% [markdown]
# For blocks the argument is turned upside down. In an ordinary convolution the size of the kernel
# multiplies everything. In a block it is one term of a sum, $3C\,(2C + k^2)$, and a second block
# pays for its 1×1 convolutions once more. Even at 8 channels two blocks cost more, at 256 nearly
# twice as much. (They also have two activations and twice the weights: this experiment is about the
# price of looking around, and says nothing of accuracy.) The many 5×5 kernels of FBNet-C go well
# with that price.
#
# MACs are not seconds, though. A 1×1 convolution reads a number once and uses it $C$ times, a
# depthwise one uses it $k^2$ times. In `docs/performance.md` the former reach 120 to 160 billion
# MACs a second, the latter 15 to 45. The button measures both on *your* machine; what it shows is
# not stored.

# %%
button, answer = ipywidgets.Button(description="measure"), ipywidgets.Label()


def measure(_button) -> None:
    texts, x = [], torch.zeros(1, 384, 28, 28)
    for name, groups, kernel in (("1×1", 1, 1), ("depthwise 5×5", 384, 5)):
        conv = nn.Conv2d(384, 384, kernel, padding=kernel // 2, groups=groups).requires_grad_(False)
        seconds = []
        for _ in range(10):
            start = perf_counter()
            conv(x)
            seconds.append(perf_counter() - start)
        speed = count_macs(conv, x) / min(seconds) / 1e9
        texts.append(f"{name}: {speed:.0f} billion MACs a second")
    answer.value = " · ".join(texts)


button.on_click(measure)
ipywidgets.VBox([button, answer])

# %% [markdown]
# ## What the documentation gets wrong
#
# **A FLOP count that cannot be reproduced.** timm's documentation has a page "FBNet"
# (`docs/models/fbnet`), with a model index at its end: `fbnetc_100`, "FLOPs: 508940064". Papers
# mostly say FLOPs and mean MACs. Which of the two is it? Count.

# %%
image = torch.zeros(1, 3, 224, 224)
models = {name: fl.create_model(name).eval() for name in ("timm/fbnetc_100", "mobile_cv/fbnet_c")}
macs = {name: count_macs(model, image) for name, model in models.items()}
print({name: f"{count:,}" for name, count in macs.items()})
ratio = 508_940_064 / macs["timm/fbnetc_100"]
print(f"the page's figure: {ratio:.2f} times the MACs, {ratio / 2:.2f} times the FLOPs")

# %% [markdown]
# Neither is 1: the page's number is no count of this network at 224 pixels, in either unit. (The
# file size in the same index fits, and the card of the weights `fbnetc_100.rmsp_in1k` says 0.4
# GMACs, which is right.) Count before you quote.
#
# **"The same" network, 6,823,936 MACs apart.** Both counts above are of FBNet-C, one as timm builds
# it (`_gen_fbnetc` in `timm/models/efficientnet.py`) and one as mobile_cv does. The difference is
# exactly the 1×1 convolutions of the blocks with expansion 1, which timm keeps:

# %%
inverted = [m for m in models["timm/fbnetc_100"].modules() if isinstance(m, InvertedResidual)]
expanding = [block.pw.conv for block in inverted]
widths = [conv.in_channels for conv in expanding if conv.in_channels == conv.out_channels]
cells = [112 * 112, 56 * 56, 56 * 56]
gap = sum(width * width * area for width, area in zip(widths, cells, strict=True))
print("widths", widths, "cells", cells, "MACs", f"{gap:,}")
print("all of the gap:", gap == macs["timm/fbnetc_100"] - macs["mobile_cv/fbnet_c"])

# %% [markdown]
# With a network's name, always give its *origin*.
#
# ## Edge cases
#
# Here are some inputs at which blocks surprise. Predict each before you look.

# %%
odd = torch.zeros(1, 8, 7, 5)
print("odd map, stride 2:", list(InvertedResidual(8, 8, stride=2).eval()(odd).shape[2:]))
print("residual where the width changes:", InvertedResidual(8, 16).residual)
print("expansion 1.1 of 40 channels:", blocks.middle_width(40, 1.1))
print("expansion 1.01 has no pw:", InvertedResidual(40, 40, expansion=1.01).pw is None)
for wrong in ({"kernel": 4}, {"stride": 3}):
    try:
        InvertedResidual(8, 8, **wrong)
    except ValueError as error:
        print("refused:", error)

# %% [markdown]
# ## Recap
#
# The weights of a convolution are used once in every output cell: that is its cost. Splitting it
# into looking around (depthwise) and mixing (1×1) saves a factor of up to $k^2$. What is left is a
# block whose cost lies nearly all in its 1×1 convolutions: it is proportional to the expansion, and
# hardly depends on the kernel. Two groups halve the 1×1 convolutions and need a shuffle; SE costs
# parameters and no MACs to speak of; stride −2 is a transposed convolution. The next lesson strings
# blocks together into trunks.
#
# **Three questions**
#
# <details><summary>1. A block's map is made twice as high and wide. What happens to parameters and
# MACs, with and without SE?</summary>
#
# Parameters stay. The convolutions' MACs become four times as many; the SE's stay, as it works on
# one number a channel.
# </details>
#
# <details><summary>2. You double the channels of a block at stride 1, at equal expansion. By which
# factor do the MACs of pw, dw and pwl grow?</summary>
#
# pw and pwl by four (both their widths double), dw by two.
# </details>
#
# <details><summary>3. In a bare block without pw, is a second such block behind it of any use in
# evaluation?</summary>
#
# It adds no new kind of function: two affine maps are one, with a 5×5 kernel (except at the
# border, where the padding is applied twice). In training, the norms' batch statistics make
# each of them depend on the batch, so that there they are not linear.
# </details>
#
# **Sources.** FBNet (arXiv 1812.03443), the nine blocks; MobileNetV2 (arXiv 1801.04381), the
# inverted residual; Squeeze-and-Excitation (arXiv 1709.01507); ShuffleNet (arXiv 1707.01083);
# Xception (arXiv 1610.02357); the detection blocks as published in d2go; `blocks.py`, which this
# lesson has gone through.
