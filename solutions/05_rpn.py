# %% [markdown]
# # 05 · RPN: what each anchor is taught
#
# **After this lesson you can say of every anchor of a picture whether it is taught "object",
# "background" or nothing at all, and what the network does where it was taught nothing.**
#
# After this lesson you can
#
# - label anchors with two IoU thresholds and low-quality matches, and name the trap in the latter;
# - draw the sample of anchors that the loss looks at, and say why it is rarely half positive;
# - encode a box as seen from an anchor, and decode it again;
# - write the RPN's loss, and say why its divisor is not the number of positives.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lesson 00; IoU and anchors (lesson 04) | 25 s, 1100 MB, no network |

# %% [markdown]
# ## Predict first
#
# The scene below has three objects: a disc, a ring, and a small square. The detector lays 3840
# anchors over it. An anchor that overlaps an object with an IoU of 0.7 or more is an example of
# "object"; one that overlaps none with 0.3 or more is an example of "background". Write down:
#
# 1. How many of the 3840 anchors are examples of "object"?
# 2. How many of the three objects have such an anchor?
# 3. How many anchors are neither?
#
# And two that come later: of the 143 objects of fifty such scenes,
#
# 4. how many have no anchor of 0.7 or more?
# 5. The detector was never told anything about anchors of IoU 0.3 to 0.7. What does it say of one
#    of 0.5, on average: 0 is background, 1 is object?

# %%
from fbnet_lesson.course import reveal

guess = {
    "examples of object": None,
    "objects that have one, of 3": None,
    "neither": None,
    "objects without an anchor of 0.7, of 143": None,
    "mean objectness at IoU 0.5": None,
}

# %%
import math

import torch
import torch.nn.functional as F
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection import boxes, matching, rpn

torch.set_num_threads(1)  # one order of additions: the same digits on every machine
drawing.small_figures()

# %% [markdown]
# ## One number and four for each anchor
#
# The region proposal network (RPN) is a small convolutional head on the last feature map. For
# each of the 15 anchors of a cell it gives one *objectness* logit, "is there an object?", and four
# *deltas*, "how has this anchor to move to lie on it?". We run it on 50 scenes at once; crowds are
# left out of the truth, as training leaves them out.

# %%
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
scenes = ShapesDataset(50, seed=0, transform=eval_transform())
images, targets = zip(*(scenes[i] for i in range(50)), strict=True)
truths = [t["boxes"][~t["iscrowd"]] for t in targets]
with torch.no_grad():
    batch, sizes = model.preprocess(images)
    features = [model.backbone(batch)[name] for name in model.rpn_features]
    (logit_maps,), (delta_maps,) = model.rpn.head(features)
(anchors,) = model.rpn.anchors(features)
print("objectness", tuple(logit_maps.shape), "deltas", tuple(delta_maps.shape))
print("anchors", tuple(anchors.shape), "= 16 · 16 cells · 15 anchors, the same for all scenes")

# %%
# alt: A scene with three objects in solid frames: a disc, a ring and a small square. The dashed
#      anchor of the ring fits it nearly; those of the other two lie beside their objects.
SCENE = 3
image, truth = images[SCENE], truths[SCENE]
iou = boxes.box_iou(truth, anchors)  # (3, 3840)
best, anchor_of = iou.max(1)  # of each object
(ax,) = drawing.panels(1, height=3.6)
drawing.show_image(ax, image, "the objects (solid), and the best of 3840 anchors of each (dashed)")
drawing.draw_boxes(ax, truth, width=1.6)
texts = [f"IoU {value:.2f}" for value in best]
drawing.draw_boxes(ax, anchors[anchor_of], ["white"] * 3, style="--", width=1.6, texts=texts)
print("IoU of the best anchor of each object:", [round(float(v), 2) for v in best])
reveal(guess, {"objects that have one, of 3": int((best >= 0.7).sum())})

# %% [markdown]
# Anchors come in five sizes and three ratios, every 8 pixels. An object whose size or place lies
# between those has no anchor that fits it well, and that is so for two of these three.

# %% [markdown]
# ## Two thresholds and a band between them
#
# What is the right answer for an anchor? It depends on its IoU with the objects: the area that two
# boxes share, over the area that they cover together. With $\text{IoU}_{ga}$ of ground truth $g$
# and anchor $a$:
#
# $$\text{label}(a) = \begin{cases} 1 & \max_g \text{IoU}_{ga} \ge \text{high} \\
# 0 & \max_g \text{IoU}_{ga} < \text{low} \\ -1 & \text{otherwise: ignored} \end{cases}$$
#
# Ignored is not a third class. An ignored anchor is in no loss, so the network may say there what
# it likes. The smallest example: two objects, five anchors, all 8 pixels wide or nearly.

# %%
objects = torch.tensor([[0.0, 0, 8, 8], [20, 0, 28, 8]])
few = torch.tensor([[0.0, 0, 8, 7], [0, 0, 8, 4], [0, 0, 8, 2], [20, 0, 28, 4], [12, 0, 18, 8]])
small_iou = boxes.box_iou(objects, few)  # (2, 5): a row an object, a column an anchor
print(small_iou)


def label_one(column: list[float], low: float = 0.3, high: float = 0.7) -> int:
    best = max(column)
    if best >= high:
        return 1  # object
    return 0 if best < low else -1  # background, or ignored


labels = [label_one(column) for column in small_iou.T.tolist()]
print(labels)

# %% [markdown]
# The second object got nothing: its best anchor reaches 0.5, and is ignored. An object that no
# anchor answers for is never shown to the network as an object. Hence a second rule, the
# *low-quality match*: the best anchor of each object is positive, whatever its IoU. If several are
# equally good, all of them are.

# %%
for row in small_iou.tolist():  # one object
    best_of_object = max(row)
    for a, value in enumerate(row):
        if value == best_of_object:
            labels[a] = 1
print(labels)

# %% [markdown]
# One line of this loop is a trap. Which row of IoUs would it turn into a disaster? The
# specification below gives it away.
#
# ## Exercise 1: match
#
# Write both rules without loops: on a real picture there are thousands of columns, and training
# labels them again at every step. `matched` says which object each anchor answers for; it is
# needed later, when the deltas are computed.
#
# <details><summary>Hint</summary>
#
# `iou.max(0)` gives the best value and its row for every column. Begin with labels that are all
# −1, and let each rule overwrite some, in the right order. For the claims compare each row with
# its own maximum: `keepdim=True` makes the shapes fit, `.any(0)` asks whether *some* object claims
# the column. `max` of an empty axis raises: two cases are to be caught before.
# </details>

# %% exercise="detection.matching.match"
from fbnet_lesson.detection.matching import match

# %%
check(match)

# %% [markdown]
# **Plug it in.** First the RPN's own loss on the 50 scenes, as the package computes it. It is
# small, because this network is trained already; we print thousandths.

# %%
logits, deltas = rpn.flatten_predictions(logit_maps, delta_maps)  # (50, 3840), (50, 3840, 4)


def rpn_loss() -> str:
    draws = [torch.Generator().manual_seed(i) for i in range(len(truths))]
    targets = [{"boxes": b, "generator": g} for b, g in zip(truths, draws, strict=True)]
    found = model.rpn.losses(anchors, logits, deltas, targets)
    return ", ".join(f"{name} {1000 * value:.1f}" for name, value in found.items())


compare(rpn_loss, match=match)

# %% [markdown]
# Two equal pairs of numbers, if yours is right. And what does a `match` do that is wrong on
# purpose, one without an ignored band? **Predict** which of the two losses changes most.

# %%
own_match = matching.match  # while something is plugged in, matching.match is that


def without_band(iou, low, high, allow_low_quality=False):
    return own_match(iou, high, high, allow_low_quality)


with plug(match=without_band):
    print("without a band", rpn_loss())

# %% [markdown]
# The location loss stays, because the positives are the same; the objectness loss is more than
# twenty times as large. This network is confident about many anchors of IoU 0.5 to 0.7, and is now
# told that they are background.
#
# From here on the lesson counts with your `match`, if it has passed its check.

# %%
own = mine(match)

# %% [markdown]
# ## Turn the knobs: both thresholds
#
# Left, the scene: a filled square is a cell with a positive anchor, a circle one with an ignored
# anchor, a dot has background only; the positive anchors are drawn. Right, all 3840 anchors by
# their best IoU, with the ignored band hatched. Move the two handles, then switch the low-quality
# matches off. When does the first object lose its last anchor?


# %%
import ipywidgets
import matplotlib.pyplot as plt


def show_labels(ax: plt.Axes, labels: Tensor) -> None:
    counts = [int((labels == value).sum()) for value in (1, -1, 0)]
    title = "{} positive, {} ignored,\n{} background".format(*counts)
    drawing.show_image(ax, image, title, dim=0.5)
    by_cell = labels.reshape(256, 15)  # (H*W*A,) -> (H*W, A)
    centres = (anchors[::15, :2] + anchors[::15, 2:]) / 2
    positive, ignored = (by_cell == 1).any(1), (by_cell == -1).any(1)
    ax.plot(*centres[~positive & ~ignored].T, "k.", markersize=1)
    ax.plot(*centres[ignored].T, "ko", markersize=4, fillstyle="none", markeredgewidth=0.6)
    ax.plot(*centres[positive].T, "ks", markersize=4)
    ax.set(xlim=(-1, 128), ylim=(128, -1))
    drawing.draw_boxes(ax, anchors[labels == 1], "tab:blue", width=1.2)


# %%
def show_band(ax: plt.Axes, low: float, high: float) -> None:
    ax.hist(iou.max(0).values, bins=20, range=(0, 1), color="0.4", log=True)
    ax.axvspan(low, high, facecolor="0.9", edgecolor="0.5", hatch="//", zorder=0)
    ax.set_xticks([0, low, high, 1], ["0", f"{low:.2f}", f"{high:.2f}", "1"])
    ax.set_yticks([1, 10, 100, 1000])
    ax.set(xlabel="best IoU of an anchor", ylabel="anchors (log)", ylim=(0.7, 4000))


def picture(thresholds: tuple[float, float], low_quality: bool) -> plt.Figure:
    left, right = drawing.panels(2, height=3.4)
    show_labels(left, own(iou, *thresholds, low_quality)[1])
    show_band(right, *thresholds)
    return left.figure


# %%
explore(
    picture,
    thresholds=ipywidgets.FloatRangeSlider(value=(0.3, 0.7), min=0, max=1, step=0.05),
    low_quality=ipywidgets.Checkbox(True, description="low-quality matches"),
)

# %% [markdown]
# Four of its positions, for those who read on a page.

# %%
# alt: The scene four times. With a high threshold of 0.7 one or three anchors are positive, with
#      0.5 many around each object; the circles of ignored anchors vanish in the last one.
settings = [((0.3, 0.7), False), ((0.3, 0.7), True), ((0.3, 0.5), True), ((0.5, 0.5), True)]
axes = drawing.panels(4, height=2.4)
for ax, (thresholds, low_quality) in zip(axes, settings, strict=True):
    labels = own(iou, *thresholds, low_quality)[1]
    show_labels(ax, labels)
    ax.set_xlabel(
        f"{thresholds}, " + ("with" if low_quality else "no") + " low-quality", fontsize=8
    )
    print(thresholds, low_quality, [int((labels == value).sum()) for value in (1, -1, 0)])

# %% [markdown]
# The first position answers the first and the third prediction:

# %%
labels = own(iou, 0.3, 0.7)[1]
reveal(guess, {"examples of object": (labels == 1).sum(), "neither": (labels == -1).sum()})

# %% [markdown]
# One anchor of 3840. Low-quality matches add one for each of the other two objects.

# %% [markdown]
# ## Not all of them: sampling
#
# Three positives stand against 3594 background anchors. In a loss over all of them, "there is
# never an object" would be right 999 times in 1000. So the loss looks at a *sample*: at most
# $B$ anchors a picture (128 here, 256 in d2go), at most half of them positive, the rest background.
#
# Sampling is random, which makes it hard to test. So we separate chance from decision: first a
# random *key* for every anchor, then a rule without chance: the smallest keys are chosen. Given
# the keys, there is one right answer.

# %%
labels, keys = [1, -1, 0, 1, 0, 1], [0.4, 0.1, 0.6, 0.3, 0.2, 0.5]
batch_size, positive_fraction = 4, 0.25
limit = int(batch_size * positive_fraction)  # 1
positive, background = [], []
for a in sorted(range(6), key=lambda a: keys[a]):  # by growing key: 1 4 3 0 5 2
    if labels[a] == 1 and len(positive) < limit:
        positive.append(a)
for a in sorted(range(6), key=lambda a: keys[a]):
    if labels[a] == 0 and len(positive) + len(background) < batch_size:
        background.append(a)
print(sorted(positive), sorted(background))

# %% [markdown]
# The sample has three anchors, not four: background was used up, and positives do not fill the
# gap, nor does the ignored anchor 1, although it has the smallest key.
#
# ## Exercise 2: sample
#
# The same on tensors. The keys of all anchors are drawn, whatever their labels, for a reason: if
# another machine rounds one IoU to the other side of a threshold, one entry of the sample changes
# and not all of them.
#
# <details><summary>Hint</summary>
#
# Sort once: `order = keys.argsort()` lists all anchors by growing key, and `labels[order]` their
# labels in that order. `order[labels[order] == 1]` are then the positives, smallest key first.
# A slice `[:n]` of something shorter than n is no error.
# </details>

# %% exercise="course.exercises.lesson05.sample_by_keys"
from fbnet_lesson.course.exercises.lesson05 import sample_by_keys

# %%
check(sample_by_keys)

# %%
compare(rpn_loss, sample_by_keys=sample_by_keys)

# %% [markdown]
# Is yours negative? Then ignored anchors are in your sample, and their −1 was taken for a label.
#
# "At most half" is often read as "half". Predict: of the 128 anchors that are sampled in a scene,
# how many are positive, in the median of our 50 scenes?

# %%
counts = []
for i, truth_of_scene in enumerate(truths):
    labels = own(boxes.box_iou(truth_of_scene, anchors), 0.3, 0.7, True)[1]
    keys = torch.rand(len(labels), generator=torch.Generator().manual_seed(i))
    chosen = mine(sample_by_keys)(labels, keys, 128, 0.5)
    counts.append(tuple(len(part) for part in chosen))
positives = sorted(p for p, _ in counts)
print("sampled in each scene:", {p + b for p, b in counts})
print("positives: fewest", positives[0], "median", positives[25], "most", positives[-1])

# %% [markdown]
# The limit of 64 is never met. Sampling does not make the classes equal; it makes them less
# unequal, and bounds the number of anchors that count.

# %% [markdown]
# ## Where to: the box seen from its anchor
#
# A positive anchor is also taught to move. The targets are offsets of the centre in units of the
# anchor's size, and logarithms of the ratios of the sizes ($x, y, w, h$ of the box; those with
# index $a$ of the anchor):
#
# $$d_x = \frac{x - x_a}{w_a} \quad d_y = \frac{y - y_a}{h_a} \quad
# d_w = \log\frac{w}{w_a} \quad d_h = \log\frac{h}{h_a}$$
#
# Why not pixels? Ten pixels are much for a small anchor and little for a large one. In units of the
# anchor all sizes are equally hard: the deltas stay when everything becomes twice as large.


# %%
def encode_one(box: list[float], anchor: list[float]) -> list[float]:
    (x1, y1, x2, y2), (ax1, ay1, ax2, ay2) = box, anchor
    width, height = ax2 - ax1, ay2 - ay1  # of the anchor: the units
    dx = ((x1 + x2) / 2 - (ax1 + ax2) / 2) / width
    dy = ((y1 + y2) / 2 - (ay1 + ay2) / 2) / height
    return [dx, dy, math.log((x2 - x1) / width), math.log((y2 - y1) / height)]


box, anchor = [2.0, 0, 6, 8], [0.0, 0, 4, 4]
print([round(d, 3) for d in encode_one(box, anchor)])
twice = encode_one([2 * v for v in box], [2 * v for v in anchor])
print("both twice as large:", twice == encode_one(box, anchor))

# %% [markdown]
# ## Exercise 3: encode_boxes
#
# For $N$ pairs at once, and with *weights*: the box head of lesson 08 multiplies its targets by
# (10, 10, 5, 5), the RPN by ones. A box without width would give $\log 0 = -\infty$ and a loss
# of infinity, long after and far from where the box came from. So your function refuses it.
#
# <details><summary>Hint</summary>
#
# `centre_form(boxes)` gives centres and sizes, [N, 2] each: x and y can be treated together.
# `nonempty(boxes)` is true where width and height are over 0. `boxes.new_tensor(weights)` is a
# tensor on the right device and of the right dtype.
# </details>

# %%
from fbnet_lesson.detection.boxes import centre_form, nonempty

print(centre_form(torch.tensor([box])), nonempty(torch.tensor([box])))

# %% exercise="detection.boxes.encode_boxes"
from fbnet_lesson.detection.boxes import encode_boxes

# %%
check(encode_boxes)

# %%
compare(rpn_loss, encode_boxes=encode_boxes)

# %% [markdown]
# **Look.** What has the network made of these targets? Decoding is the way back: it moves an
# anchor by the deltas that the head gives. Here are the positive anchors of our scene before
# (dashed) and after (solid), and the mean over all positive anchors of the 50 scenes.

# %%
before, after = [], []
for i, truth_of_scene in enumerate(truths):
    overlap = boxes.box_iou(truth_of_scene, anchors)
    matched, labels = own(overlap, 0.3, 0.7, True)
    p = (labels == 1).nonzero().flatten()
    moved = boxes.decode_boxes(deltas[i, p], anchors[p], rpn.WEIGHTS)
    if i == SCENE:
        shown = anchors[p], moved
    if len(p):
        before.append(overlap[matched[p], p])
        after.append(boxes.box_iou(truth_of_scene, moved)[matched[p], torch.arange(len(p))])
before, after = torch.cat(before), torch.cat(after)
print(f"{len(before)} positive anchors, mean IoU {before.mean():.2f} -> {after.mean():.2f}")

# %%
# alt: The scene twice, its objects in white. On the left the three positive anchors, dashed, of
#      which two fit badly; on the right the boxes they are moved to, which lie on the objects.
axes = drawing.panels(2, height=3.2)
for ax, moved, style, title in zip(
    axes, shown, ("--", "-"), ("positive anchors", "boxes they are moved to"), strict=True
):
    drawing.show_image(ax, image, f"{len(moved)} {title}", dim=0.3)
    drawing.draw_boxes(ax, truth, "white", width=2.5)
    drawing.draw_boxes(ax, moved, style=style, width=1.4)
print("white: the objects; black:", [len(part) for part in shown], "boxes")

# %% [markdown]
# ## The loss
#
# Objectness costs the binary cross-entropy of each sampled anchor ($S$), with logit $o$ and label
# $y$; place costs the absolute error of the deltas $t$, of the positive ones only ($P$):
#
# $$L = \frac{1}{B N} \Big(
# \underbrace{\sum_{i \in S} \log(1 + e^{-o_i (2 y_i - 1)})}_{\text{objectness}} +
# \underbrace{\sum_{i \in P} \lVert t_i - t_i^* \rVert_1}_{\text{location}} \Big)$$
#
# $B$ anchors are sampled in each of $N$ pictures, and both sums have the same divisor $B N$.

# %%
o, y = [2.0, -1.0, 0.0], [1, 0, 0]  # three sampled anchors
t, t_star = [0.5, 0.0, 0.0, -1.0], [0.0, 0.0, 0.0, 1.0]  # of the one positive
objectness = sum(math.log(1 + math.exp(-oi * (2 * yi - 1))) for oi, yi in zip(o, y, strict=True))
location = sum(abs(a - b) for a, b in zip(t, t_star, strict=True))
print(f"objectness {objectness:.3f}, location {location:.3f}")
print(f"divided by 3: {objectness / 3:.3f} and {location / 3:.3f}")

# %% [markdown]
# ## Exercise 4: rpn_losses
#
# Write it with PyTorch's own losses. They take their mean if you do not say otherwise. And beware
# of building the cross-entropy from `sigmoid` and `log`: in float32 the sigmoid of 20 is 1
# already.
#
# <details><summary>Hint</summary>
#
# `F.binary_cross_entropy_with_logits` wants labels as floats of the logits' dtype. Both functions
# take `reduction="sum"`. Sums over nothing are 0, so pictures without objects need no case of
# their own.
# </details>

# %% exercise="detection.losses.rpn_losses"
from fbnet_lesson.detection.losses import rpn_losses

# %%
check(rpn_losses)

# %%
compare(rpn_loss, rpn_losses=rpn_losses)

# %% [markdown]
# **Measure: why not divide the location by the positives?** It sounds natural: the mean error of
# those that have one. Here is the location loss of two scenes, each alone, under both divisors.

# %%
for i in (SCENE, 21):
    target = {"boxes": truths[i], "generator": torch.Generator().manual_seed(i)}
    found = model.rpn.losses(anchors, logits[i : i + 1], deltas[i : i + 1], [target])
    total, count = float(found["loss_rpn_loc"]) * 128, counts[i][0]
    print(f"scene {i}: {count} positives, sum {total:.1f}; one positive weighs", end=" ")
    print(f"1/128 = {1 / 128:.3f}, or else 1/{count} = {1 / count:.3f}")

# %% [markdown]
# With the constant divisor every sampled anchor has the same weight, in every picture, positive or
# background, moved or judged. Divided by the positives, an anchor of the sparse scene would pull
# four times as hard as one of the crowded scene, and 43 times as hard as a background anchor.
# The divisor stays $B N$ even where fewer than $B$ anchors could be sampled.

# %% [markdown]
# ## Experiment 1: the thresholds against the objects
#
# Vary one thing: the high threshold, from 0.5 to 0.8, on all 50 scenes with low at 0.3. Count the
# positive anchors, and the *orphans*: objects for which no positive anchor answers. You have
# predicted how many of the 143 objects are orphans at 0.7 without low-quality matches. And with
# them?


# %%
def count_labels(low: float, high: float, low_quality: bool) -> list[int]:
    """Positive, ignored and background anchors, and orphans, of all scenes."""
    total = torch.zeros(4, dtype=torch.int64)
    for truth_of_scene in truths:
        overlap = boxes.box_iou(truth_of_scene, anchors)
        matched, labels = own(overlap, low, high, low_quality)
        answered = len(matched[labels == 1].unique())
        found = [(labels == value).sum() for value in (1, -1, 0)]
        total += torch.tensor([*found, len(truth_of_scene) - answered])
    return total.tolist()


# %%
highs = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
swept = {flag: [count_labels(0.3, high, flag) for high in highs] for flag in (False, True)}
print("objects", sum(map(len, truths)))
for flag, rows in swept.items():
    print("low-quality" if flag else "thresholds only", "positives", [row[0] for row in rows])
    print("low-quality" if flag else "thresholds only", "orphans  ", [row[3] for row in rows])

# %%
reveal(guess, {"objects without an anchor of 0.7, of 143": swept[False][highs.index(0.7)][3]})

# %%
# alt: Two line charts over the high threshold. Without low-quality matches the positive anchors
#      fall from over 1000 to under 100 and the orphans rise from few to most; with them the
#      positives level off and the orphans stay at 0.
left, right = drawing.panels(2, height=2.8)
for flag, style, name in ((False, "k--o", "thresholds only"), (True, "k-s", "with low-quality")):
    left.plot(highs, [row[0] for row in swept[flag]], style, label=name, markersize=4)
    right.plot(highs, [row[3] for row in swept[flag]], style, label=name, markersize=4)
left.set(yscale="log", yticks=[30, 100, 300, 1000, 3000])
left.set_title("positive anchors (log)", fontsize=9)
left.set_yticklabels([30, 100, 300, 1000, 3000])
right.set(yticks=[0, 50, 100, 143])
right.set_title("orphans, of 143 objects", fontsize=9)
for ax in (left, right):
    ax.set(xticks=[0.5, 0.6, 0.7, 0.8], xlabel="high threshold")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)

# %% [markdown]
# At 0.7 more than a third of the objects would never be shown to the RPN. Low-quality matches
# make 74 more anchors positive, and every object has one. The low threshold moves only the border
# between ignored and background:

# %%
for low in (0.1, 0.3, 0.5, 0.7):
    positive, ignored, background, orphans = count_labels(low, 0.7, True)
    print(f"low {low}: {positive} positive, {ignored} ignored, {background} background")

# %% [markdown]
# ## Experiment 2: what does it say where it was taught nothing?
#
# Nobody ever told this network anything about anchors of best IoU between 0.3 and 0.7, except for
# the few that were claimed. You have predicted one point of the curve below. What of its shape: a
# step at 0.3, a step at 0.7, or something else?

# %%
best_iou = torch.cat([boxes.box_iou(t, anchors).amax(0) for t in truths if len(t)])
says = torch.cat([p for p, t in zip(logits.sigmoid(), truths, strict=True) if len(t)])
middles = torch.arange(0.05, 0.9, 0.1)
means = [float(says[(best_iou - m).abs() <= 0.05].mean()) for m in middles]
near_half = says[(best_iou - 0.5).abs() <= 0.05].mean()
reveal(guess, {"mean objectness at IoU 0.5": round(float(near_half), 1)})

# %%
# alt: Mean objectness over the best IoU of an anchor, an S-shaped curve: near 0 up to IoU 0.3, it
#      rises through the hatched band that was never taught, and is near 1 from 0.7 on.
(ax,) = drawing.panels(1, height=2.6)
ax.axvspan(0.3, 0.7, facecolor="0.9", edgecolor="0.6", hatch="//", label="never taught")
ax.plot(middles, means, "k-o", label="mean objectness")
ax.set(xticks=[0, 0.3, 0.5, 0.7, 0.9], yticks=[0, 0.5, 1], xlabel="best IoU of the anchor")
ax.legend(fontsize=8, loc="upper left")
print("mean objectness by best IoU:", [round(v, 1) for v in means])
print("it only grows:", all(a <= b for a, b in zip(means[2:], means[3:], strict=False)))

# %% [markdown]
# Left to itself, the network goes over smoothly from one answer to the other, near 0.5. That is
# what the band is for: between "clearly object" and "clearly background" lie anchors for which no
# answer is right, and to force one on them would mean teaching the network to tell 0.69 from 0.71.
# Inside the band it ranks them by itself, and NMS (lesson 06) works with that ranking.

# %% [markdown]
# ## Experiment 3: does it matter for the proposals?
#
# We throw away the weights of the objectness layer, one 1 × 1 convolution, and teach it anew on
# 100 other scenes, under three pairs of thresholds; all else stays. **Predict** which pair finds
# the most objects among its first five proposals: (0.3, 0.7), (0.5, 0.5) or (0.7, 0.7)?
#
# And add a pair of your own. **Decide:** with what you have seen so far, which thresholds would
# you give this detector?


# %%
@torch.no_grad()
def head_features(seed: int) -> tuple[Tensor, list[Tensor]]:
    """What the objectness layer sees, and the objects, of those of 100 scenes that have any."""
    seen, found = [], []
    for image, target in ShapesDataset(100, seed, transform=eval_transform()):
        objects = target["boxes"][~target["iscrowd"]]
        if len(objects):
            last = model.backbone(model.preprocess([image])[0])[model.rpn_features[0]]
            seen.append(model.rpn.head.feature(last))
            found.append(objects)
    return torch.cat(seen), found


train_features, train_objects = head_features(seed=1)
test_features, test_objects = head_features(seed=0)
print("scenes to learn from", len(train_objects), "and to test on", len(test_objects))


# %%
def objectness_loss(layer: torch.nn.Module, labels: Tensor) -> Tensor:
    """Of eight scenes; ``labels`` [scenes, 3840]."""
    picked = torch.randint(len(labels), (8,))
    logits = layer(train_features[picked]).permute(0, 2, 3, 1).flatten(1)  # (8, H*W*A)
    total = 0.0
    for row, truth_labels in zip(logits, labels[picked], strict=True):
        chosen = torch.cat(matching.sample(truth_labels, 128, 0.5))
        wanted = truth_labels[chosen].float()
        total += F.binary_cross_entropy_with_logits(row[chosen], wanted, reduction="sum")
    return total / (128 * 8)


# %%
def teach(low: float, high: float) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(train_features.shape[1], 15, 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    overlaps = [boxes.box_iou(objects, anchors) for objects in train_objects]
    labels = torch.stack([own(o, low, high, True)[1] for o in overlaps])
    for _ in range(200):
        optimizer.zero_grad()
        objectness_loss(layer, labels).backward()
        optimizer.step()
    return layer


# %%
@torch.no_grad()
def recall(layer: torch.nn.Module, first: int = 5) -> float:
    """The share of objects that one of the first proposals covers with an IoU of 0.5."""
    maps = layer(test_features), model.rpn.head.bbox_pred(test_features)
    predictions = [rpn.flatten_predictions(*maps)]
    candidates = model.rpn.candidates([anchors], predictions, [(128, 128)] * len(test_objects))
    proposals = [model.rpn.suppress(c).boxes[:first] for c in candidates]
    pairs = zip(test_objects, proposals, strict=True)
    return float(torch.cat([boxes.box_iou(t, p).amax(1) >= 0.5 for t, p in pairs]).float().mean())


# %%
# alt: Share of objects found among the first five proposals, three bars: about 0.89 for the
#      thresholds 0.3 and 0.7, 0.78 for 0.5 twice, and 0.93 for 0.7 twice.
pairs = [(0.3, 0.7), (0.5, 0.5), (0.7, 0.7)]
your_pair = None  # decide: for example (0.4, 0.6)
if your_pair:
    pairs.append(your_pair)
found = {pair: recall(teach(*pair)) for pair in pairs}
(ax,) = drawing.panels(1, height=2.2)
ax.bar(range(len(found)), found.values(), 0.6, color="0.4")
ax.set_xticks(range(len(found)), map(str, found))
ax.bar_label(ax.containers[0], fmt="{:.2f}", fontsize=9)
ax.set(ylim=(0, 1.1), yticks=(0, 0.5, 1), ylabel="found among the first 5")
usual, one_threshold, no_band = (found[pair] for pair in pairs[:3])
print("(0.5, 0.5) finds less than the usual pair by over 0.05:", usual - one_threshold > 0.05)
print("(0.7, 0.7) finds no less than the usual pair:", no_band >= usual)

# %% [markdown]
# (0.5, 0.5) is the loser. A likely reason: eighteen anchors around each object are then equally
# right, and nothing tells the best of them from the others. But (0.7, 0.7), the pair without a
# band, finds even a little more than the usual one. With three other seeds it was the same: 0.10
# to 0.11 less for (0.5, 0.5), 0.01 to 0.03 more for (0.7, 0.7). What matters most here is that high
# is high; the band is the careful choice, not a law. One layer on six shapes decides nothing for
# COCO, but it shows how such a question is asked.

# %% [markdown]
# ## What the documentation gets wrong
#
# **What is not positive is negative.** So it is often retold. Only what is below the *low*
# threshold is negative. Everything between is ignored: in our 50 scenes 15 973 anchors of 192 000,
# against 249 positive.
#
# **"The sampled positive and negative anchors have a ratio of up to 1:1"**, says Faster R-CNN in
# section 3.1.3, and it is retold as "half of the sample is positive". The paper says *up to*, and
# you measured a median far from it.
#
# **"The anchor/anchors with the highest Intersection-over-Union (IoU) overlap with a ground-truth
# box" are positive**, says Faster R-CNN in section 3.1.2, and so torchvision's `Matcher` is
# written, in its method `set_low_quality_matches_`: `iou == best`. Now let an object overlap no
# anchor at all. Its best IoU is 0, and *every* anchor that it misses has the highest IoU with it.
# Here is that matcher beside the package's; row 0 overlaps nothing.

# %%
from torchvision.models.detection._utils import Matcher

touches_nothing = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.8, 0.2, 0.0, 0.5]])
theirs = Matcher(0.7, 0.3, allow_low_quality_matches=True)(touches_nothing)
ours = matching.match(touches_nothing, 0.3, 0.7, True)[1]
print("torchvision, the row, or -1 background, -2 ignored:", theirs.tolist())
print("the package, 1 positive, 0 background, -1 ignored: ", ours.tolist())

# %% [markdown]
# All four anchors are positive there, for an object that is under none of them. Can this happen?
# Whenever anchors leave gaps: they are smaller than the stride, or those that cross the border were
# removed, as the first Faster R-CNN did in training; and for every box without area that a crop has
# left behind. An example with 4-pixel anchors:

# %%
from fbnet_lesson.detection.anchors import cell_anchors, grid_anchors

sparse = grid_anchors(cell_anchors((4.0,), (1.0,)), (16, 16), stride=8)
in_a_gap = boxes.box_iou(torch.tensor([[10.0, 10, 14, 14]]), sparse)
naive = (in_a_gap == in_a_gap.amax(1, keepdim=True)).any(0)
ours = matching.match(in_a_gap, 0.3, 0.7, True)[1]
print("anchors", len(sparse), "positive: naive", int(naive.sum()), "ours", int((ours == 1).sum()))

# %% [markdown]
# ## Edge cases
#
# **Two objects claim one anchor.** Object 0 has no better anchor than anchor 0, which overlaps
# object 1 a little more. Claiming makes it positive, but `matched` is the row of the highest IoU:
# it learns to move to object 1, and object 0 is an orphan in spite of its claim.

# %%
contested = torch.tensor([[0.60, 0.0], [0.65, 0.9]])
matched, labels = own(contested, 0.3, 0.7, True)
print("labels", labels.tolist(), "matched", matched.tolist())
alone = own(contested[:1], 0.3, 0.7, True)
print("without object 1: labels", alone[1].tolist(), "matched", alone[0].tolist())
print("orphans in 50 scenes:", count_labels(0.3, 0.7, True)[3])

# %% [markdown]
# detectron2's `Matcher` and torchvision's do the same. It takes two objects in nearly the same
# place, and our scenes have none: a rule to know rather than to fear.
#
# **Exactly at a threshold.** IoU 7/10 is positive at 0.7: `>=`. But whose 7/10? In float32 it is a
# little less than in Python's float64, and the loop of this lesson would call the same anchor
# ignored:

# %%
seven_tenths = torch.tensor(7.0) / torch.tensor(10.0)
print("as a tensor:       ", bool(seven_tenths >= 0.7))
print("as a Python number:", seven_tenths.item() >= 0.7)

# %% [markdown]
# Comparing a tensor with a number rounds the number to the tensor's dtype; `.item()` and
# `.tolist()` do the reverse. That is why the exercises use quarters and eighths, which are exact in
# both.
#
# **A picture without objects** has no row: all anchors are background, there is no location loss,
# and the divisor is as always. All that such a picture teaches is what an object is not:

# %%
empty = {"boxes": torch.zeros(0, 4), "generator": torch.Generator().manual_seed(0)}
found = model.rpn.losses(anchors, logits[:1], deltas[:1], [empty])
print("objects in scene 0:", len(truths[0]), "location loss:", float(found["loss_rpn_loc"]))
print("labels:", own(torch.zeros(0, 3840), 0.3, 0.7, True)[1].unique().tolist())

# %% [markdown]
# ## Stretch: in which order?
#
# The head gives maps, the anchors come as a list. `flatten_predictions` lays the maps out in the
# anchors' order: cell by cell, row by row, and the 15 anchors of a cell side by side. A wrong order
# raises no error: the shapes fit, and every number goes to another anchor.
#
# Write it, then predict how many of the objects in the 50 scenes are still among the proposals if
# the order is wrong.

# %% exercise="detection.rpn.flatten_predictions"
from fbnet_lesson.detection.rpn import flatten_predictions

# %%
check(flatten_predictions)


# %%
def anchor_by_anchor(logits, deltas):
    return logits.flatten(1), deltas.unflatten(1, (15, 4)).movedim(2, -1).flatten(1, 3)


@torch.no_grad()
def found_objects() -> int:
    proposals, _ = model.rpn(features, sizes, None)
    pairs = zip(truths, proposals, strict=True)
    return int(sum((boxes.box_iou(t, p.boxes) >= 0.5).any(1).sum() for t, p in pairs))


# %%
compare(found_objects, flatten_predictions=flatten_predictions)
print("of", sum(map(len, truths)))
with plug(flatten_predictions=anchor_by_anchor):
    print("anchor by anchor", found_objects())

# %% [markdown]
# A second stretch, without a check: write a `match` whose claimed anchors answer for their
# claimants. What should happen to an anchor that is claimed by one object, and overlaps another
# with 0.9?

# %% [markdown]
# ## Recap
#
# Each anchor is taught one of three things: *object* from the high threshold on, *background*
# below the low one, *nothing* between. Low-quality matches give every object that touches an
# anchor at least one. A sample of at most $B$ anchors goes into the loss; the positives of it also
# learn four deltas; both sums are divided by $B N$.
#
# **Three questions**
#
# <details><summary>1. You raise the high threshold to 0.9. Which of positives, ignored and
# background change, and how many objects are left without a positive anchor?</summary>
#
# Positives become ignored; background stays, it depends on low alone. With low-quality matches no
# object is left without one, except where two claim the same anchor or none is touched: each
# simply has its single best anchor.
# </details>
#
# <details><summary>2. Your objectness loss is 20 times as large as usual from the first step on,
# and one scene has a box of no width. What happened?</summary>
#
# The box has IoU 0 with every anchor, and a matcher without the condition "over 0" made all of
# them positive. (With `encode_boxes` from above you would have been told: it raises.)
# </details>
#
# <details><summary>3. Why may an ignored anchor become a proposal in the end?</summary>
#
# Ignoring is a matter of training only. The head scores and moves all anchors, and many of those in
# the band score over one half: if their deltas bring them onto the object, they are good proposals.
# </details>
#
# **Sources.** Faster R-CNN (arXiv 1506.01497), sections 3.1 and 3.3; R-CNN (arXiv 1311.2524),
# appendix C, for the deltas; the thresholds, sample sizes and divisor in force in the published
# FBNetV3 detectors (d2go, detectron2); torchvision's `Matcher`, as run above.
