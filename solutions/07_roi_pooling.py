# %% [markdown]
# # 07 · ROI pooling: from cropping to ROIAlign
#
# **After this lesson you know how a box of any size becomes a grid of one size, and why half a
# cell of carelessness on the way costs this detector two thirds of its box AP.**
#
# You will be able to
#
# - pool a box by hand in three ways, and say by how many pixels each looks past the box;
# - derive the half cell in ROIAlign, and the number of samples it takes;
# - write ROIAlign as two small matrix products, and say why the package does it otherwise;
# - choose a pooler resolution for a box head and for a mask head, with what each costs.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lessons 00, 04 | 30 s, 1200 MB, no network |

# %% [markdown]
# ## Predict first
#
# A network with stride 8 looks at an image: one cell of its feature map stands for 8 × 8 pixels.
# The box head wants 6 × 6 values for every proposal, whatever its size. Write down:
#
# 1. A box reaches from x = 18 to x = 66. Where does it begin and end, counted in cells?
# 2. If its borders are rounded to whole cells, by how many pixels may each be off?
# 3. The finished detector has a box AP of 0.8. Every pooled grid is now taken 4 pixels too far to
#    the right and below. What is left of the AP?
# 4. The box head pools 6 × 6 bins. It is given 12 × 12 of the same box instead, four times as many,
#    without being trained again. What is its box AP now?

# %%
from fbnet_lesson.course import reveal

guess = {
    "begins at cell": None,
    "ends at cell": None,
    "pixels off at most": None,
    "box AP, 4 pixels off": None,
    "box AP with 12 × 12 bins": None,
}

# %%
import math
from unittest.mock import patch

import ipywidgets
import torch
from torch import Tensor
from torchvision import ops

import fbnet_lesson as fl
import fbnet_lesson.detection.roi_align as package
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.training.evaluation import evaluate

torch.set_num_threads(1)
drawing.small_figures()

# %% [markdown]
# ## A map that says where it was read
#
# To see where a pooler looks, give it a map whose values are positions: each cell holds the x of
# its own centre, in pixels. What comes out of a bin is then the place at which the bin was read,
# and should be the middle of the bin.

# %%
stride = 8
ramp = (torch.arange(16) + 0.5) * stride  # the x of each cell's centre
ramp = ramp.repeat(16, 1)[None, None]  # (1, 1, 16, 16): one image, one channel
box = torch.tensor([[18.0, 18.0, 66.0, 66.0]])
wanted = 18 + (torch.arange(3) + 0.5) / 3 * (66 - 18)  # the middles of three bins
print("values of the first cells:", ramp[0, 0, 0, :4].tolist())
print("the box in cells:", (box / stride).tolist())
print("middles of its three bins:", wanted.tolist())

# %% [markdown]
# **Cropping.** There is no cell 2.25, so the borders have to be rounded. The six cells from border
# 2 to border 8 are left, and each bin is the mean of two of them.

# %%
first, last = (box[0, [0, 2]] / stride).round().int().tolist()
crop = ramp[0, 0, first:last, first:last]  # (6, 6)
cropped = crop.reshape(3, 2, 3, 2).mean((1, 3))  # (bins y, cells, bins x, cells) -> (3, 3)
print("cropped:", cropped[0].tolist(), "off by", (cropped[0] - wanted).tolist())
begin, end = (box[0, [0, 2]] / stride).tolist()
reveal(guess, {"begins at cell": begin, "ends at cell": end, "pixels off at most": stride / 2})

# %% [markdown]
# Two pixels too far to the left, because 2.25 became 2; at worst it is half a cell. And a box whose
# width is not a multiple of three cells could not be divided into three bins at all.
#
# ## ROIPool
#
# *ROIPool* (Fast R-CNN) makes the crop work for any size. It rounds twice: the box to whole
# cells, then each bin outwards to whole cells, so that bins overlap where they do not divide
# evenly. Then it takes the maximum of each bin. With `first` and `last` the rounded borders and
# $n$ = last − first + 1 cells, bin $i$ of $b$ holds the cells
#
# $$\text{first} + \lfloor i\,n/b \rfloor \;\ldots\; \text{first} + \lceil (i+1)\,n/b \rceil - 1.$$
#
# Note the + 1: the cell in which the box ends counts whole.
#
# ### Exercise 1: `roi_pool`
#
# Write it for one box, with loops over the bins. The docstring has every rule.
#
# <details><summary>Hint</summary>
#
# Write a small function that gives the `slice` of bin i along one axis, and use it for rows and
# columns. A slice that ends beyond the map is cut off by itself; one that begins at −1 is not.
# </details>

# %% exercise="course.exercises.lesson07.roi_pool"
from fbnet_lesson.course.exercises.lesson07 import roi_pool

# %%
check(roi_pool)

# %% [markdown]
# Now put it into the finished detector, in the place of its ROIAlign. AP is measured on 40 scenes
# that it has never seen.

# %%
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
scenes = ShapesDataset(40, seed=0, transform=eval_transform(), cache=True)


def average_precision(detector) -> tuple[float, float]:
    metrics = evaluate(detector, scenes)
    return metrics["box"]["AP"], metrics["mask"]["AP"]


own_box_ap, own_mask_ap = average_precision(model)
print(f"as it is: box AP {own_box_ap:.1f}, mask AP {own_mask_ap:.1f}")

# %%
with plug(roi_pool=roi_pool):
    box_ap, mask_ap = average_precision(model)
print(f"ROIPool inside: box AP {box_ap:.1f}, mask AP {mask_ap:.1f}")

# %% [markdown]
# With a right `roi_pool` the box AP falls from 0.8 to 0.2, and the masks are all but gone. Part of
# that is unfair: these heads were trained on means, and get maxima. How much is due to *where*
# ROIPool looks is what we measure now. On the ramp a maximum shows the right end of what a bin
# sees; on the ramp turned over, the left end. Half-way between is where it looks.


# %%
def where_it_looks(pool) -> Tensor:
    """The x of the middle of what each bin sees, (boxes, bins): whether it takes mean or max."""
    return ((pool(ramp) - pool(-ramp)) / 2)[:, 0, 0]


pooled = where_it_looks(lambda values: mine(roi_pool)(values[0], box[0], 3, 1 / stride)[None])
print("ROIPool:", pooled[0].tolist(), "off by", (pooled[0] - wanted).tolist())

# %% [markdown]
# And while the box moves? Below, a box 48 pixels wide is pushed to the right, pixel by pixel, and
# the left of its three bins is read.

# %%
starts = torch.arange(16, 40.5, 0.5)
moving = torch.stack([starts, starts * 0 + 16, starts + 48, starts * 0 + 64], 1)  # (49, 4)
middle = starts + 8  # of the left bin
lines = {
    "ROIPool": lambda values: ops.roi_pool(values, [moving], 3, 1 / stride),
    "ROIAlign": lambda values: package.roi_align(values, [moving], 3, 1 / stride),
}
looks = {name: where_it_looks(pool)[:, 0] for name, pool in lines.items()}
for name, seen in looks.items():
    steps = len(seen.round(decimals=3).unique())
    print(f"{name}: {steps} places for {len(moving)} boxes,", end=" ")
    print(f"at most {(seen - middle).abs().max():.1f} pixels off")

# %%
# alt: Where the left bin looks, over the left border of the box. The middle of the bin is a thick
#      straight line; ROIAlign lies exactly on it; ROIPool goes up in stairs of 8 pixels beside it.
(ax,) = drawing.panels(1, height=3.0)
ax.plot(starts, middle, "-", color="0.7", linewidth=6, label="the middle of the bin")
ax.plot(starts, looks["ROIPool"], "k.", markersize=5, label="where ROIPool looks")
ax.plot(starts, looks["ROIAlign"], "k-", linewidth=1, label="where ROIAlign looks")
ax.set_xticks(range(16, 41, 4))
ax.set_yticks(range(24, 57, 8))
ax.grid(alpha=0.4)
ax.set_xlabel("left border of the box, pixels")
ax.set_ylabel("x, pixels")
_ = ax.legend(fontsize=8)

# %% [markdown]
# ROIPool goes in stairs: boxes up to 8 pixels apart get the same numbers, and the head behind it
# cannot tell them apart. ROIAlign follows the box exactly. How?
#
# ## Between the cells
#
# ROIAlign does not round; it asks what the map is worth *between* its cells. Let $f_y$ and $f_x$
# say how far the point is from one cell to the next, from 0 to 1:
#
# $$v = (1-f_y)(1-f_x)\,v_{00} + (1-f_y)\,f_x\,v_{01} + f_y(1-f_x)\,v_{10} + f_y f_x\,v_{11}.$$

# %%
v00, v01, v10, v11 = 0.0, 8.0, 4.0, 12.0  # a map of 2 x 2 cells
f_y, f_x = 0.5, 0.25
upper = (1 - f_x) * v00 + f_x * v01  # between the two cells of the upper row
lower = (1 - f_x) * v10 + f_x * v11
print("upper row", upper, "lower row", lower, "between them", (1 - f_y) * upper + f_y * lower)

# %% [markdown]
# The same in three steps: along x in the upper row, along x in the lower row, along y between
# them. Remember that order; it comes back as two matrices.
#
# ### Exercise 2: `bilinear`
#
# Write it for many points at once. Beyond the border there is no next cell, and ROIAlign has a
# rule of its own for that, which the docstring gives.
#
# <details><summary>Hint</summary>
#
# Find out which points are 0 before you move any of them; multiply by that at the end. In the
# last row there is no next row: `clamp` its index, its weight is 0 there anyway.
# </details>

# %% exercise="course.exercises.lesson07.bilinear"
from fbnet_lesson.course.exercises.lesson07 import bilinear

# %%
check(bilinear)

# %% [markdown]
# In the detector: every bin now is the mean of 2 × 2 points, each by your function.

# %%
few = ShapesDataset(6, seed=0, transform=eval_transform(), cache=True)


def box_ap_of_few() -> float:
    return round(evaluate(model, few)["box"]["AP"], 1)


compare(box_ap_of_few, bilinear=bilinear)

# %% [markdown]
# ## Half a cell
#
# One question is left: at which point of the *map* does a pixel x lie? Cell 0 covers the pixels 0
# to 8, and its value belongs to its centre, pixel 4. But `values[0]` is the map at point 0. So
# pixel 4 is point 0, pixel 12 is point 1, and in general
#
# $$\text{point} = x / \text{stride} - \tfrac{1}{2}.$$
#
# The first ROIAlign left the half out. Its second form has it, as the option `aligned=True`.

# %%
for aligned in (False, True):
    seen = package.roi_align(ramp, [box], 3, 1 / stride, aligned=aligned)[0, 0, 0]
    print(f"aligned={aligned}: {seen.tolist()}, off by {(seen - wanted).tolist()}")

# %% [markdown]
# Half a cell: 4 pixels at stride 8, always to the right and below. Now all four ways on 500 random
# boxes, each in 6 bins.

# %%
random = torch.Generator().manual_seed(7)
corner = 8 + 80 * torch.rand(500, 2, generator=random)
extent = 16 + (104 - corner - 16).clamp(min=0) * torch.rand(500, 2, generator=random)
boxes = torch.cat([corner, corner + extent], 1)  # (500, 4), all well inside the map
middles = boxes[:, :1] + (torch.arange(6) + 0.5) / 6 * (boxes[:, 2:3] - boxes[:, :1])

# %%
rounded = (boxes / stride).round() * stride
ways = {
    "rounded crop": lambda values: package.roi_align(values, [rounded], 6, 1 / stride),
    "ROIPool": lambda values: ops.roi_pool(values, [boxes], 6, 1 / stride),
    "ROIAlign, no half": lambda values: package.roi_align(
        values, [boxes], 6, 1 / stride, aligned=False
    ),
    "ROIAlign": lambda values: package.roi_align(values, [boxes], 6, 1 / stride),
}
off = {name: where_it_looks(pool) - middles for name, pool in ways.items()}  # (500, 6) each
print("pixels off         mean |error|   mean error   spread   worst")
for name, e in off.items():
    numbers = (e.abs().mean(), e.mean().abs(), e.std(), e.abs().max())
    print(f"{name:18s}" + "".join(f"{number:11.1f}" for number in numbers))

# %%
# alt: Four histograms of pixels too far to the right. Rounded crop: wide, around 0. ROIPool: wide,
#      around 4. ROIAlign without the half cell: one bar at 4. ROIAlign: one bar at 0.
figure_axes = drawing.panels(4, height=1.1, columns=1)
for ax, (name, e) in zip(figure_axes, off.items(), strict=True):
    ax.hist(e.flatten(), bins=torch.arange(-6.25, 12.5, 0.5), color="0.4")
    ax.axvline(0, color="black", linestyle="--", linewidth=1)
    ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    ax.set_xlim(-6, 12)
figure_axes[-1].set_xticks(range(-4, 13, 4))
_ = figure_axes[-1].set_xlabel("pixels too far to the right (3000 bins a row)")

# %% [markdown]
# Two kinds of error. *Constant*: without the half cell all bins are 4 pixels off, and ROIPool, by
# its + 1, is 4 off on average. *Varying*: ROIPool and the rounded crop scatter by another 2
# to 3 pixels; which way depends on the box. Which of the two hurts the detector more?
#
# (A first hint: leave the + 1 out of your `roi_pool` and plug it in again. The box AP goes from
# 0.2 to 0.5, about what the rounded crop has below: taking the maximum by itself costs little.)

# %%
own_pool = package.roi_align


def without_half(features, boxes, bins, scale, ratio=0, aligned=True):
    return own_pool(features, boxes, bins, scale, ratio, aligned=False)


def from_rounded(features, boxes, bins, scale, ratio=0, aligned=True):
    return own_pool(features, [(b * scale).round() / scale for b in boxes], bins, scale, ratio)


def with_max(features, boxes, bins, scale, ratio=0, aligned=True):
    return ops.roi_pool(features, boxes, bins, scale)


# %%
others = {"no half cell": without_half, "rounded crop": from_rounded, "ROIPool": with_max}
as_is = {"as trained": own_box_ap}
for name, pool in others.items():
    with patch.object(package, "roi_align", pool):
        as_is[name], mask_ap = average_precision(model)
    lost = 1 - mask_ap / own_mask_ap
    print(f"{name:13s} box AP {as_is[name]:.1f}, of the mask AP more than 40 % lost: {lost > 0.4}")
reveal(guess, {"box AP, 4 pixels off": round(as_is["no half cell"], 1)})

# %% [markdown]
# The constant error costs two thirds of the box AP. But the network was trained *without* it. Had
# it been there in training, the box head might have learned to answer "4 pixels to the left" by
# itself. That can be tried in a few seconds: keep
# everything but the box head as it is, compute features and proposals of 128 training scenes once,
# and let only the box head learn, for 32 steps of 4 scenes.

# %%
from fbnet_lesson.detection.detector import prepare_targets

training_scenes = ShapesDataset(128, seed=1, transform=eval_transform())
prepared = []
with torch.no_grad():
    for start in range(0, len(training_scenes), 4):
        images, targets = zip(*(training_scenes[start + i] for i in range(4)), strict=True)
        batch, sizes = model.preprocess(images)
        targets = prepare_targets(targets, sizes, sizes, model.config, with_masks=False)
        features = [model.backbone(batch)[name] for name in model.roi_features]
        proposals, _ = model.rpn(features, sizes, None)
        prepared.append((features, [p.boxes for p in proposals], targets))
print(len(prepared), "batches of features", list(prepared[0][0][0].shape))


# %%
def retrained(resolution: int = 6):
    """The detector with its box head trained on: 32 steps, everything else as it was."""
    torch.manual_seed(0)
    changes = {"box_pooler_resolution": resolution, "roi_batch_size_per_image": 24}  # half: quicker
    new = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes", **changes).eval()
    heads, mask_head = new.roi_heads, new.roi_heads.mask_head
    heads.mask_head = None  # it has no part in this
    heads.box_head.train()
    optimizer = torch.optim.AdamW(heads.box_head.parameters(), lr=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=len(prepared))
    for features, proposals, targets in prepared:
        optimizer.zero_grad()
        sum(heads.losses(features, proposals, targets).values()).backward()
        optimizer.step()
        rate.step()
    heads.mask_head = mask_head
    return new.eval()


# %%
after = {"as trained": average_precision(retrained())[0]}
for name, pool in others.items():
    with patch.object(package, "roi_align", pool):
        after[name] = average_precision(retrained())[0]
for name in others:
    regained = (after[name] - as_is[name]) / (own_box_ap - as_is[name])
    print(f"{name}: more than two thirds of the loss regained: {regained > 2 / 3}")

# %%
# alt: Pairs of bars of box AP, heads as they are and box head retrained. Without the half cell the
#      second is much higher than the first; for the rounded crop and ROIPool it stays below 0.6.
(ax,) = drawing.panels(1, height=2.6)
places = range(len(as_is))
ax.bar([p - 0.2 for p in places], as_is.values(), 0.36, color="0.75", label="heads as they are")
ax.bar([p + 0.2 for p in places], after.values(), 0.36, color="0.3", label="box head retrained")
ax.set_xticks(places, list(as_is))
ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8])
ax.set_ylim(0, 1.05)  # room for the legend
ax.grid(axis="y", alpha=0.4)
ax.set_ylabel("box AP")
_ = ax.legend(fontsize=8, loc="upper right", ncols=2)

# %% [markdown]
# The left pair is the control: so short a training costs a little AP by itself. Most of what the
# constant error cost is back after 32 steps. What rounding cost stays lost: two boxes that differ
# by 3 pixels may get the very same numbers, and no head can answer them differently. ROIPool has
# both errors and gets back the constant one only: it ends about where the rounded crop is.
#
# So the half cell is a matter of *agreement* between training and use: a checkpoint that was
# trained with `aligned=False` needs `aligned=False` for ever. Rounding loses information, and no
# training makes up for that.
#
# ## How many samples?
#
# A bin that is longer than a cell has to look at several points, or it overlooks cells. ROIAlign
# averages over `sampling_ratio` points along each axis; 0 stands for "as many as the bin has
# cells", $\lceil \text{length} \rceil$. Below, a bin of 6 × 6 cells: how many of its 36 cells have
# any weight?

# %%
start, end = torch.tensor([4.0]), torch.tensor([10.0])  # one box along one axis, in cells
for ratio in (1, 2, 4, 0):
    weights = package.axis_weights(start, end, bins=1, size=16, sampling_ratio=ratio)[0]
    seen = int((weights > 0).sum()) ** 2  # the same along y
    print(f"sampling_ratio {ratio}: {(ratio or 6) ** 2:2d} samples see {seen:2d} of 36 cells")

# %%
model_one = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes", pooler_sampling_ratio=1)
difference = average_precision(model_one)[0] - own_box_ap
longest = 128 / stride / 6
print(f"here a bin has {longest:.1f} cells at most, so {math.ceil(longest)} samples along an axis")
print("one sample a bin changes its box AP by less than 0.02:", abs(difference) < 0.02)

# %% [markdown]
# Where bins are short, as here, one sample is enough; a large box on a fine map is what adaptive
# sampling is for. It has a price on hardware that likes equal shapes: the number of samples
# differs from box to box.
#
# ## ROIAlign is two matrix products
#
# All samples of a bin form a grid, and each is "interpolate along y times interpolate along x".
# So is their mean. Along one axis, a bin is a weighted sum of cells, with the weight
#
# $$A_{ij} = \frac{1}{S} \sum_{s=1}^{S} \max(0,\; 1 - |p_{is} - j|)$$
#
# for bin $i$, cell $j$, and the bin's samples at the points $p_{is}$. The hat
# $\max(0, 1 - |p - j|)$ is linear interpolation: $1 - f$ for the cell before, $f$ for the one
# after, 0 for all others. Pooling one channel $F$ then is
#
# $$P = A_y\, F\, A_x^{\mathsf T}.$$

# %%
along = package.axis_weights(box[:, 0] / stride, box[:, 2] / stride, 3, 16, 0)[0]  # (3, 16)
cells = along[0].nonzero().flatten()
print("first bin: cells", cells.tolist(), "with the weights", along[0, cells].tolist())
print("each bin's weights sum to", along.sum(1).tolist())
print("A @ x of the cells:", (along @ ramp[0, 0, 0]).tolist())

# %%
# alt: Two matrices in one scale of grey, a bin a row and a cell a column. With 3 bins each row has
#      three grey cells, with 6 bins two, of which one is darker; they go down from left to right.
axes = drawing.panels(2, height=2.2)
drawing.show_map(axes[0], along, "A: 3 bins × 16 cells; black would be 1", vmin=0, vmax=1)
six = package.axis_weights(box[:, 0] / stride, box[:, 2] / stride, 6, 16, 0)[0]
drawing.show_map(axes[1], six, "the same box in 6 bins, same greys", vmin=0, vmax=1)
for ax in axes:
    ax.set_aspect("auto")
    ax.set_xticks(range(0, 17, 2))
    ax.set_xlabel("cell")
    ax.set_ylabel("bin")
print("largest weights:", along.max().item(), six.max().item())

# %% [markdown]
# ### Exercise 3: `axis_matrix`
#
# Write $A$ for one box along one axis. No loop is needed: a table of points `(bins, samples)`,
# then each point against each cell.
#
# <details><summary>Hint</summary>
#
# With $L$ the length of a bin, sample s of bin i is at `start + (i + (s + 1/2) / S) * L`. Use
# `[:, None]` to set bins against samples, and `[..., None]` to set points against cells.
# </details>

# %% exercise="course.exercises.lesson07.axis_matrix"
from fbnet_lesson.course.exercises.lesson07 import axis_matrix

# %%
check(axis_matrix)

# %%
compare(box_ap_of_few, axis_matrix=axis_matrix)

# %% [markdown]
# ### Exercise 4: `roi_align`
#
# Now ROIAlign itself, for all boxes and channels of one feature map. Use the package's
# `axis_weights`: it is your matrix for all boxes at once, so this exercise does not depend on the
# last one.
#
# <details><summary>Hint</summary>
#
# Start with one box: `along_y[0] @ features[0] @ along_x[0].T`. A matrix product broadcasts over
# leading dimensions: `(R, 1, bins, H) @ (C, H, W)` is `(R, C, bins, W)`.
# </details>

# %%
from fbnet_lesson.detection.roi_align import axis_weights

print("matrices of two boxes:", list(axis_weights(box[0, :2], box[0, 2:], 3, 16, 0).shape))

# %% exercise="course.exercises.lesson07.roi_align"
from fbnet_lesson.course.exercises.lesson07 import roi_align

# %%
check(roi_align)

# %%
compare(box_ap_of_few, roi_align=roi_align)

# %% [markdown]
# ### Why the package does it otherwise
#
# Nearly all of $A$ is zero, and the two products multiply all of it. The package writes down only
# the cells that count (`axis_taps`), and hands them to `embedding_bag`, which adds up weighted rows
# of a table: one sparse product. Count the multiply-adds of one channel and one box.

# %%
for name, cells in {"this detector": (16, 16), "p2 of a pyramid": (200, 320)}.items():
    height, width = cells
    start, end = torch.tensor([2.25]), torch.tensor([16.25])  # a box of 14 cells
    taps = package.axis_taps(start, end, 6, width, 0)[0].shape[2]  # cells a bin, along one axis
    dense = 6 * height * width + 6 * width * 6
    sparse = 6 * 6 * taps * taps
    print(f"{name}: dense {dense:,}, sparse {sparse:,}, {dense / sparse:.0f} times as many")

# %% [markdown]
# The dense form grows with the map, the sparse one does not. On maps as small as ours the dense
# form is no bad choice; `docs/performance.md` has the measured times.
#
# ## Turn a knob: move a box by less than a cell
#
# Drag the box over a hill. **Find** the longest way that it can go without any of ROIPool's numbers
# changing, and the shortest after which one of ROIAlign's does. Both poolers are yours, if they
# have passed. The static picture shows two positions.

# %%
grid_y, grid_x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
hill = (5 - ((grid_x - 5.0) ** 2 + (grid_y - 2.2) ** 2).sqrt()).clamp(min=0)  # (8, 8)


rounding, exact = mine(roi_pool), mine(roi_align)


def pool_both(x: float) -> tuple[Tensor, Tensor, Tensor]:
    """A box of 4 × 4 cells from (x, 1), and it pooled in 2 × 2 bins in both ways. Stride 1."""
    at = torch.tensor([[x, 1.0, x + 4, 5.0]])
    return at, rounding(hill[None], at[0], 2, 1.0)[0], exact(hill[None], at, 2, 1.0)[0, 0]


def draw_both(axes, x: float) -> None:
    at, pooled, aligned = pool_both(x)
    drawing.show_map(axes[0], hill, f"map, box from x = {x:g} cells", vmax=10)
    drawing.draw_boxes(axes[0], at, width=2)
    drawing.value_grid(axes[1], pooled, "ROIPool", scale=hill)  # one scale of grey for all
    drawing.value_grid(axes[2], aligned, "ROIAlign", scale=hill)


def picture(x: float):
    axes = drawing.panels(3, height=2.5)
    draw_both(axes, x)
    return axes[0].figure


explore(picture, x=ipywidgets.FloatSlider(0.5, min=0, max=4, step=0.125))

# %%
# alt: Two rows, a box on a hill and what it pools to. Between the rows the box has moved by three
#      quarters of a cell; the four numbers of ROIPool are the same, those of ROIAlign are not.
axes = drawing.panels(6, height=2.2, columns=3)
for row, x in ((axes[:3], 0.5), (axes[3:], 1.25)):
    draw_both(row, x)
    _, pooled, aligned = pool_both(x)
    print(f"x = {x}: ROIPool", [f"{v:.2f}" for v in pooled[0].tolist()], end=" ")
    print("ROIAlign", [f"{v:.2f}" for v in aligned[0].tolist()], "(upper row)")

# %% [markdown]
# The box has moved by three quarters of a cell. ROIPool's numbers are what they were; ROIAlign's
# have followed.
#
# ## Experiment: which resolution?
#
# The box head pools 6 × 6, the mask head 14 × 14. Why not the same? What a head computes grows
# with the number of bins:

# %%
from fbnet_lesson.blocks import count_macs

resolutions = (3, 6, 8, 12)
channels = model.backbone.channels[model.roi_features[0]]
heads = model.roi_heads
macs = {r: count_macs(heads.box_head.body, torch.zeros(1, channels, r, r)) for r in resolutions}
for r, number in macs.items():
    print(f"box head at {r:2d} × {r:<2d} {number / 1e6:4.1f} M multiply-adds a box")
mask_macs = count_macs(heads.mask_head.body, torch.zeros(1, channels, 14, 14))
print(f"mask head at 14 × 14 {mask_macs / 1e6:3.1f} M, for the few boxes that are left")

# %% [markdown]
# The body of the box head is convolutional and ends with a mean over its cells, so its weights fit
# any resolution, and AP can be measured at once. You have predicted it for 12 × 12.
#
# **Decide**, too: you may spend 4 million multiply-adds a box. Which resolution do you choose, and
# does it beat 6? Write it into the cell.

# %%
your_resolution = None  # decide: one more resolution, such as 7
resolutions = sorted({*resolutions, your_resolution or 6})
macs = {r: count_macs(heads.box_head.body, torch.zeros(1, channels, r, r)) for r in resolutions}
as_trained, tuned = {}, {}
for r in resolutions:
    other = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes", box_pooler_resolution=r)
    as_trained[r] = average_precision(other)[0]
    tuned[r] = after["as trained"] if r == 6 else average_precision(retrained(r))[0]
print("as trained, the best is", max(as_trained, key=as_trained.get))
reveal(guess, {"box AP with 12 × 12 bins": round(as_trained[12], 1)})
print("after 32 steps, AP at 12 is over 0.6:", tuned[12] > 0.6)
print("after 32 steps, AP at 8 less AP at 6 is under 0.05:", tuned[8] - tuned[6] < 0.05)

# %%
# alt: Box AP over resolution: with the heads as they are a sharp peak at 6, falling to nearly 0 at
#      12; with the box head retrained a flat curve. Beside it bars of multiply-adds a box, which
#      grow with the square of the resolution.
left, right = drawing.panels(2, height=2.7)
left.plot(resolutions, list(as_trained.values()), "o--", color="0.55", label="heads as they are")
left.plot(resolutions, list(tuned.values()), "ko-", label="box head retrained")
left.set_yticks([0, 0.2, 0.4, 0.6, 0.8])
left.set_ylabel("box AP")
left.legend(fontsize=8, loc="lower center")
right.bar([str(r) for r in resolutions], [macs[r] / 1e6 for r in resolutions], color="0.4")
right.set_ylabel("million multiply-adds a box")
right.set_yticks(range(0, 8))
left.set_xticks(resolutions)
right.set_xticks(range(len(resolutions)), resolutions)
for ax in (left, right):
    ax.set_xlabel("box pooler resolution")
    ax.grid(axis="y", alpha=0.4)

# %% [markdown]
# The dashed curve mixes two causes and says little about resolution. The head was trained at 6. At
# 12 its 3 × 3 convolutions see a quarter of the area, on smoother values, with the border twice as
# far away; all its statistics are off. What the curve shows is mostly the distance *from training*.
# Retraining takes that cause away bit by bit: the solid curve is much flatter, but 32 steps are not
# enough for the outer resolutions, and it still favours 6, where it began.
#
# A fair race starts all heads from nothing. It takes two minutes a head, so it is run outside this
# notebook, and its numbers are not checked here (`docs/experiments/pooler_resolution.py`): new box
# heads, 1200 steps of 8 scenes, AP on 200 other scenes.
#
# | resolution | 2 | 3 | 4 | 6 | 8 |
# |---|---|---|---|---|---|
# | box AP | 0.754 | 0.785 | 0.790 | 0.799 | 0.801 |
# | million multiply-adds a box | 0.2 | 0.7 | 0.8 | 1.7 | 3.1 |
#
# From 6 on, twice the work buys next to nothing. Boxes of these scenes are mostly 2 to 9 cells
# wide: at 6 × 6 hardly anything is left in the map that the bins do not show.
#
# For the **mask** head the grid itself sets a limit. The mask comes out at twice the pooled
# resolution, 28 × 28, and is stretched over the box. Suppose that the head were perfect: cut the
# *true* masks into M × M cells, paste them back, and measure the overlap with the truth.

# %%
from fbnet_lesson.detection.mask_head import crop_masks, paste_masks

sizes = (6, 12, 16, 20, 28, 56)  # of the mask, twice the pooler's
ious = {m: [] for m in sizes}
for _, target in scenes:
    masks, outlines = target["masks"].as_subclass(Tensor), target["boxes"].as_subclass(Tensor)
    for m in sizes if len(masks) else ():
        cells = crop_masks(masks, torch.arange(len(masks)), outlines, m)  # (N, m, m)
        pasted = paste_masks(cells.float(), outlines, (128, 128)) >= 0.5
        ious[m].append((pasted & masks).sum((1, 2)) / (pasted | masks).sum((1, 2)))
perfect = {m: torch.cat(values) for m, values in ious.items()}
for m, iou in perfect.items():
    print(f"mask {m:2d} × {m:<2d} mean IoU {iou.mean():.2f}, of {len(iou)} objects")

# %%
# alt: Share of objects that a perfect mask brings to IoU 0.75, 0.9 and 0.95, over the cells of the
#      mask. At 0.75 nearly all from 12 cells on; at 0.95 a fifth at 12, four fifths at 28, and more
#      at 56.
(ax,) = drawing.panels(1, height=2.6)
for threshold, style in ((0.75, "ko-"), (0.9, "ks--"), (0.95, "k^:")):
    share = [float((perfect[m] >= threshold).float().mean()) for m in sizes]
    ax.plot(sizes, share, style, markersize=5, label=f"IoU of {threshold} or more")
ax.set_xticks(sizes, [f"{m}\n({m // 2})" for m in sizes])
ax.set_xlabel("cells of the mask (pooler resolution)")
ax.set_ylabel("share of objects")
ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
ax.grid(alpha=0.4)
ax.legend(fontsize=8)
reach = {m: round(float((perfect[m] >= 0.95).float().mean()), 1) for m in (12, 28, 56)}
print("share of objects that a perfect mask brings to IoU 0.95:", reach)

# %% [markdown]
# With the box head's 6 × 6, the mask would have 12 × 12 cells: even without a single error, only
# a fifth of the objects would reach an IoU of 0.95, and AP averages over thresholds up to there.
# At 28 it is four fifths. A box has four numbers, a mask has an outline; that is why one head gets
# 6 and the other 14. The mask head can afford it: it is asked about a few detections, the box head
# about 50 proposals.

# %% [markdown]
# ## What the documentation gets wrong
#
# **Which resolution belongs to which head.** The page *FBNetV3* of Hasty's wiki, which is now
# CloudFactory's, lists "Pooler Resolution (Mask)", 14, and "(Box)", 6, and says of both that
# proposals are pooled to that size before they go to the mask predictor. 14 is the mask head's; 6
# is the box head's.

# %%
for name in ("lesson/mask_rcnn_tiny", "d2go/mask_rcnn_fbnetv3a_dsmask_C4"):
    heads = fl.create_model(name, weights=None).roi_heads
    print(
        f"{name}: box {heads.box_head.pooler.resolution}, mask {heads.mask_head.pooler.resolution}"
    )

# %% [markdown]
# **The default.** `torchvision.ops.roi_align` leaves the half cell out unless it is asked for, and
# the Faster R-CNN models of torchvision are trained that way. The models of detectron2 and d2go,
# and this package, have it. Nothing fails if the two are mixed; the boxes are just half a cell off,
# as you saw.

# %%
import inspect

for pool in (ops.roi_align, package.roi_align):
    option = inspect.signature(pool).parameters["aligned"]
    print(f"{pool.__module__.split('.')[0]}: aligned={option.default}")

# %% [markdown]
# ## Edge cases
#
# On the ramp, in 2 bins. Predict the row of the box that lies half outside: its left bin reaches
# from −16 to 0.

# %%
cases = {
    "half outside the map": [-16.0, 40, 16, 72],
    "wholly outside": [200.0, 200, 220, 220],
    "no area": [40.0, 40, 40, 80],
    "smaller than a cell": [41.0, 41, 43, 43],
}
rows = torch.tensor(list(cases.values()))
pooled = exact(ramp[0], rows, 2, 1 / stride)
for name, values in zip(cases, pooled[:, 0, 0].tolist(), strict=True):
    print(f"{name:22s}{[round(v, 2) for v in values]}")
theirs = ops.roi_align(ramp, [rows], 2, 1 / stride, aligned=True)
print("torchvision gives the same:", torch.allclose(pooled, theirs, atol=1e-4))
print("no box at all:", list(exact(ramp[0], rows[:0], 2, 1 / stride).shape))

# %% [markdown]
# - *Half outside*: the left bin has two samples along x, at −12 and −4 pixels. The first lies more
#   than a cell beyond the map's first centre and is 0; the second is moved to the border, which is
#   worth 4; the mean is 2. Such zeros would spoil the bins at the border, so proposals are clipped
#   to the image before they are pooled.
# - *No area*: with adaptive sampling, a bin without length has no sample, and gives 0. With a fixed
#   number it gives the value at that place. Neither is an error: a head that sees zeros says
#   "background".
# - *Smaller than a cell*: the two bins differ by a pixel, as they should. Without the half cell,
#   such a box would be stretched to a whole cell first.
#
# ## Stretch: the way back
#
# In training the gradient has to come back through the pooling. $P = A_y F A_x^{\mathsf T}$ is
# linear in $F$, so the gradient of the map is $A_y^{\mathsf T}\, G\, A_x$, with $G$ the gradient of
# $P$: every bin hands its share back to the cells that it took from. Compute it for one box and
# one channel, and compare with what autograd says. (Which cells get nothing? And of what use is
# ROIPool's gradient, which goes to one cell a bin?)

# %%
generator = torch.Generator().manual_seed(0)
feature = torch.rand(16, 16, generator=generator, requires_grad=True)
gradient = torch.rand(6, 6, generator=generator)  # of the pooled values
package.roi_align(feature[None, None], [box], 6, 1 / stride)[0, 0].backward(gradient)
back = None
### BEGIN SOLUTION
along_y = package.axis_weights(box[:, 1] / stride, box[:, 3] / stride, 6, 16, 0)[0]  # (6, 16)
along_x = package.axis_weights(box[:, 0] / stride, box[:, 2] / stride, 6, 16, 0)[0]
back = along_y.T @ gradient @ along_x  # (16, 6) @ (6, 6) @ (6, 16) -> (16, 16)
### END SOLUTION
if back is not None:
    print("as autograd has it:", torch.allclose(back, feature.grad, atol=1e-5))
print("cells that get a gradient:", int((feature.grad != 0).sum()), "of", feature.numel())

# %% [markdown]
# ## Recap
#
# Every proposal becomes a grid of one size. Rounding to cells loses where the box was, and no
# training brings that back. ROIAlign reads the map between its cells, at points that begin half a
# cell in, as many as a bin is long; along each axis that is a small matrix, and two products are
# the whole of it. 6 × 6 is enough to say what and where; an outline needs 14 × 14.
#
# **Three questions**
#
# <details><summary>1. A detector was trained with the half cell, at stride 16, and is exported to a
# runtime whose ROIAlign has none. How far off are its boxes, and in which direction?</summary>
#
# The runtime reads the map half a cell, 8 pixels, too far to the right and below. The head sees an
# object 8 pixels further left and above in its grid than it is, and answers with a box that is off
# by about that, to the left and above. Objects are still found; strict thresholds like AP75 fall
# first.
# </details>
#
# <details><summary>2. Why does a constant map always pool to that constant, inside
# the map?</summary>
#
# The weights of each bin sum to 1 along y and along x: a hat's two weights are 1 − f and f, and
# the samples are averaged. Only samples that lie beyond the map take away from it.
# </details>
#
# <details><summary>3. Box and mask head both pool the same features. Why not pool once, at
# 14 × 14?</summary>
#
# They are asked about different boxes: the box head about 50 proposals, the mask head about the
# detections, whose boxes the box head has moved. And at 14 × 14 the box head would do more than
# five times the work for each proposal, for next to no AP.
# </details>
#
# **Sources.** Fast R-CNN (ROIPool, arXiv 1504.08083, sec. 2.1); Mask R-CNN (ROIAlign, arXiv
# 1703.06870, sec. 3); Feature Pyramid Networks (levels for boxes, arXiv 1612.03144, sec. 4.2);
# `torchvision.ops.roi_align` and `roi_pool`, the references of the checks.
