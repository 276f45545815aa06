# %% [markdown]
# # 10 · Mask head: FBNetV3IS end to end
#
# **You will write every step by which a box becomes a mask, and at the end run the whole FBNetV3IS
# out of functions that you have written.**
#
# After this lesson you can
#
# - cut a mask head's targets out of the truth, and say why they live in the box's frame;
# - derive how doubling and a depthwise convolution become one transposed convolution;
# - paste a mask back to the pixel, and say what half a pixel costs;
# - say what run lengths and polygons keep of a mask, and what they lose.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lessons 00, 01, 04 to 07, 09 | 30 s, 1200 MB, no network |

# %% [markdown]
# ## Predict first
#
# The mask head pools a box at 14 × 14 and answers with 28 × 28 cells. Write down:
#
# 1. How many times as much arithmetic is the mask head on one box as the box head on one?
# 2. A head that pools at 28 × 28 costs four times as much. By how much does its mask AP, about
#    0.74 at 14, rise?
# 3. One mask for all classes instead of one for each: how much mask AP does that cost?
# 4. The finished detector pastes its masks without the two halves of a pixel. Of its mask AP of
#    0.79, what is left?
# 5. A ring is stored as a polygon. What is the IoU of that polygon's pixels with the ring?

# %%
from fbnet_lesson.course import reveal

guess = {
    "mask head, times the box head": None,
    "mask AP gained at 28": None,
    "mask AP lost with one mask for all": None,
    "mask AP without the halves": None,
    "IoU of a ring as a polygon": None,
}

# %%
import ipywidgets
import torch
import torch.nn.functional as F
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.blocks import UpsampledDepthwise, count_macs
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.course.experiments import table
from fbnet_lesson.data.shapes import CATEGORIES, ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.roi_align import axis_weights
from fbnet_lesson.training.evaluation import evaluate

torch.set_num_threads(1)  # one order of additions: the same digits on every machine
drawing.small_figures()

# %%
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
scenes = ShapesDataset(50, seed=0, transform=eval_transform(), cache=True)
few = ShapesDataset(8, seed=0, transform=eval_transform(), cache=True)
image, truth = (value for value in scenes[48])
image, masks, boxes = (v.as_subclass(Tensor) for v in (image, truth["masks"], truth["boxes"]))
heads, channels = model.roi_heads, model.backbone.channels[model.roi_features[0]]
mask_macs = count_macs(heads.mask_head.body, torch.zeros(1, channels, 14, 14))
box_macs = count_macs(heads.box_head.body, torch.zeros(1, channels, 6, 6))
print("objects:", [CATEGORIES[k] for k in truth["labels"]])
reveal(guess, {"mask head, times the box head": round(mask_macs / box_macs, 1)})

# %% [markdown]
# ## In the box's own frame
#
# The mask head sees 14 × 14 values pooled from a box, and nothing else: not how large the box is,
# nor where it lies. So its answer, and what it learns from, is laid over the box: each of 28 × 28
# parts of the box is object or not. On the smallest example, a mask of 4 × 4 pixels and a box that
# begins between two of them:

# %%
little = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]).bool()
for x1 in (0.0, 0.25, 0.75):
    left_parts = little[0, 0] * (1 - x1) + little[0, 1] * x1  # of the first part of the first row
    right_parts = little[0, 1] * (1 - x1) + little[0, 2] * x1
    print(f"box from x = {x1}: shares {float(left_parts)}, {float(right_parts)}")
start, end = torch.tensor([0.25]), torch.tensor([2.25])
print("what each pixel gives to each part:", axis_weights(start, end, 2, 4, 0)[0].tolist())

# %% [markdown]
# The second part is covered by 1, 0.75 and 0.25 of its width. One half or more counts as object.
# The shares are the ROIAlign of lesson 07, this time of a mask; the last line is its matrix for one
# axis, which `axis_weights` makes.
#
# ## Exercise 1: `cut_targets`
#
# <details><summary>Hint</summary>
#
# Two products of matrices, as in `roi_align` of lesson 07: `along_y @ mask @ along_x.mT`. Which
# mask? `masks[index]` has one for each box.
# </details>

# %% exercise="course.exercises.lesson10.cut_targets"
from fbnet_lesson.course.exercises.lesson10 import cut_targets

# %%
check(cut_targets)

# %% [markdown]
# In training these targets are all that the head hears of the truth. The loss of one batch, with
# the package's targets and with yours:


# %%
def losses() -> float:
    from fbnet_lesson.detection.detector import prepare_targets

    with torch.no_grad():
        batch, sizes = model.preprocess([image])
        targets = prepare_targets([truth | {"sampling_seed": 0}], sizes, sizes, model.config, True)
        features = [model.backbone(batch)[name] for name in model.roi_features]
        return float(heads.losses(features, [boxes], targets)["loss_mask"])


compare(losses, cut_targets=cut_targets)

# %%
# alt: An object in its box, and the same object as a target of 6, 14 and 28 cells along each side:
#      coarse stairs at 6, a fair outline at 28.
axes = drawing.panels(4, height=1.9)
drawing.show_image(axes[0], image, "an object and its box", dim=0.3)
drawing.draw_boxes(axes[0], boxes[:1], width=1.6)
for ax, cells in zip(axes[1:], (6, 14, 28), strict=True):
    target = mine(cut_targets)(masks, torch.tensor([0]), boxes[:1], cells)[0]
    drawing.show_map(ax, target.float(), f"{cells} × {cells}")

# %% [markdown]
# ## One class's logit
#
# The last layer has a mask for each class, six here. Only that of one class counts: the true one
# in training, the predicted one afterwards. The loss asks of each cell by itself whether it is
# object,
#
# $$L = -\frac{1}{M^2} \sum_{ij} \big[ t_{ij} \log p_{ij} + (1 - t_{ij}) \log (1 - p_{ij}) \big],
# \qquad p = \text{sigmoid}(\text{logit}).$$
#
# The box head has decided *what* it is, so classes do not compete here. And a 1 × 1 convolution
# makes each class from its own row of weights: the other five rows need not be computed at all.
#
# ## Exercise 2: `class_masks`
#
# <details><summary>Hint</summary>
#
# `weight[labels]` is `(R, C, 1, 1)`, one row a ROI. Multiply, add up over the channels.
# </details>

# %% exercise="course.exercises.lesson10.class_masks"
from fbnet_lesson.course.exercises.lesson10 import class_masks

# %%
check(class_masks)


# %%
def mask_ap() -> float:
    return round(evaluate(model, few)["mask"]["AP"], 3)


compare(mask_ap, class_masks=class_masks)

# %% [markdown]
# ## From 14 to 28: two steps in one
#
# Inside the head the map shrinks to 7 × 7 and is doubled twice. Doubling repeats every cell, and a
# depthwise convolution follows. Along one axis, with kernel $w$ of size $k$, $p = (k-1)/2$, and
# $d_j = x_{\lfloor j/2 \rfloor}$ the doubled row,
#
# $$y_o = \sum_t w_t\, d_{o + t - p}.$$
#
# Cell $i$ stands at the doubled places $2i$ and $2i + 1$. It reaches $y_o$ through the taps with
# $o + t - p = 2i + b$, $b \in \{0, 1\}$. A transposed convolution of stride 2 with kernel $K$ gives
# cell $i$ the weight $K_{o + p - 2i}$; putting in $o + p - 2i = (k - 1 - t) + b$:
#
# $$K_m = w_{k-1-m} + w_{k-m}.$$
#
# The kernel is turned round, and every weight goes to two neighbouring places; in two dimensions
# to four. The doubled map is never made.

# %%
w = torch.tensor([1.0, 10, 100])
x = torch.tensor([1.0, 2, 0])
doubled = x.repeat_interleave(2)
plain = F.conv1d(doubled[None, None], w[None, None], padding=1)[0, 0]
wide = torch.tensor([100.0, 110, 11, 1])  # turned round: 100, 10, 1; each to two places
at_once = F.conv_transpose1d(x[None, None], wide[None, None], stride=2, padding=1)[0, 0]
print("doubled, then convolved:", plain.tolist())
print("in one step:            ", at_once.tolist())

# %% [markdown]
# ## Exercise 3: `widened_kernel`
#
# <details><summary>Hint</summary>
#
# `flip(-2, -1)` turns the kernel round. Add it into four places of zeros: shifted by 0 or 1 down,
# and by 0 or 1 to the right.
# </details>

# %% exercise="course.exercises.lesson10.widened_kernel"
from fbnet_lesson.course.exercises.lesson10 import widened_kernel

# %%
check(widened_kernel)

# %%
compare(mask_ap, widened_kernel=widened_kernel)

# %% [markdown]
# ## Back into the picture
#
# 28 × 28 numbers from 0 to 1 lie over a box that may be 9.3 pixels wide. Each pixel asks what the
# mask is worth at its own middle: pixel $i$ at $i + \tfrac12$, in cells counted from the middle of
# cell 0
#
# $$\frac{i + \tfrac12 - x_1}{x_2 - x_1}\, M - \tfrac12.$$
#
# Two halves, one of a pixel, one of a cell. They cancel only where a cell is as large as a pixel.
#
# ## Exercise 4: `paste_masks`
#
# <details><summary>Hint</summary>
#
# A cell that is d cells away gives `max(0, 1 - d)`. For all pixels against all cells of one axis
# that is a matrix; two products paste the mask.
# </details>

# %% exercise="course.exercises.lesson10.paste_masks"
from fbnet_lesson.course.exercises.lesson10 import paste_masks

# %%
check(paste_masks)

# %%
compare(mask_ap, paste_masks=paste_masks)

# %% [markdown]
# What do the halves cost? A wrong function plugged in tells.

# %%
from fbnet_lesson.course.exercises import EXERCISES

wrong = {mistake.name: mistake for mistake in EXERCISES["paste_masks"].mistakes}
shown = ("forgets both halves", "forgets the half pixel of the picture")
print(f"as it is: mask AP {evaluate(model, scenes)['mask']['AP']:.2f}")
left = {}
for name in shown:
    with plug(paste_masks=wrong[name].function(EXERCISES["paste_masks"].solution)):
        left[name] = evaluate(model, scenes)["mask"]["AP"]
    print(f"{name}: mask AP {left[name]:.2f}")
reveal(guess, {"mask AP without the halves": round(left["forgets both halves"], 2)})

# %% [markdown]
# Why so little for both, and so much for one? A mask in a box $w$ pixels wide moves by
#
# - half a pixel, whatever $w$ is, without the half of the picture;
# - half a cell the other way, $w / 56$ pixels, without the half of the mask;
# - by their difference, $(w / 28 - 1) / 2$, without both: nothing where $w$ is 28.

# %%
every = torch.cat([target["boxes"].as_subclass(Tensor) for _, target in scenes])
extents = (every[:, 2:] - every[:, :2]).flatten()
moved_by = ((extents / 28 - 1) / 2).abs()
print(f"extents of the boxes: median {extents.median():.0f}, largest {extents.max():.0f} pixels")
print(f"without both, masks move by {moved_by.mean():.2f} pixels in the mean", end="")
print(f", by {moved_by.max():.1f} at most")

# %% [markdown]
# Toys happen to be about as many pixels wide as a mask has cells, and the large ones, which move
# most, lose the smallest share of themselves. On photographs with objects of 300 pixels the same
# mistake moves masks by 5.
#
# Turn the knob: where does the outline lie when the threshold is not one half?

# %%
with torch.no_grad():
    (found,) = model.detect([image])
probabilities = found["mask_logits"].sigmoid()


def picture(threshold: float):
    (ax,) = drawing.panels(1, height=3.0)
    drawing.show_image(ax, image, f"probability of {threshold:.2f} or more", dim=0.3)
    pasted = mine(paste_masks)(probabilities, found["boxes"], (128, 128)) >= threshold
    drawing.draw_masks(ax, pasted, found["labels"])
    return ax.figure


explore(picture, threshold=ipywidgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05))

# %%
# alt: The same scene with masks cut at a probability of 0.1, 0.5 and 0.9: at 0.1 they reach a
#      little over the objects, at 0.5 they fit, at 0.9 they leave a rim.
pasted = mine(paste_masks)(probabilities, found["boxes"], (128, 128))
for ax, threshold in zip(drawing.panels(3, height=2.4), (0.1, 0.5, 0.9), strict=True):
    drawing.show_image(ax, image, f"{threshold} or more", dim=0.3)
    drawing.draw_masks(ax, pasted >= threshold, found["labels"])

# %% [markdown]
# ## The whole FBNetV3IS
#
# All parts are there: the block (01), anchors (04), the order of predictions (05), NMS (06),
# ROIAlign (07), and this lesson's. What is left is to call them in turn. `mine(...)` takes your
# function where it has passed; the weights are the package's.


# %%
def run(blocks, x: Tensor) -> Tensor:
    for part in blocks:
        if any(isinstance(layer, UpsampledDepthwise) for layer in part.modules()):
            wide = mine("widened_kernel")(part.dw.conv.weight)
            y = x if part.pw is None else part.pw(x)
            x = part.pwl(F.conv_transpose2d(y, wide, stride=2, padding=1, groups=len(wide)))
        else:
            x = part(x)
    return x


def moved(deltas: Tensor, boxes: Tensor, weights: tuple, limit: Tensor) -> Tensor:
    return torch.minimum(mine("decode_boxes")(deltas, boxes, weights).clamp(min=0), limit)


# %%
def proposals_of(net, x: Tensor, limit: Tensor) -> Tensor:
    config, head = net.config, net.rpn.head
    y = run(head.feature, x)
    logits, deltas = mine("flatten_predictions")(head.cls_logits(y), head.bbox_pred(y))
    cells = mine("cell_anchors")(config.anchor_sizes[0], config.anchor_ratios)
    anchors = mine("grid_anchors")(cells, tuple(x.shape[2:]), 8)
    best, order = logits[0].topk(config.pre_nms_topk[1])
    boxes = moved(deltas[0, order], anchors[order], (1.0, 1.0, 1.0, 1.0), limit)
    there = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, best = boxes[there], best[there]
    return boxes[mine("nms")(boxes, best, config.rpn_nms_threshold, config.post_nms_topk[1])]


# %%
def fbnetv3is(net, image: Tensor) -> dict[str, Tensor]:
    x, size = (image.flip(0) * 255 - net.pixel_mean)[None], tuple(image.shape[1:])
    x = run([part for stage in net.backbone.stages for part in stage], x)
    limit, box_head, mask_head = torch.tensor(size[::-1] * 2), *list(net.roi_heads.children())[:2]
    proposals = proposals_of(net, x, limit)
    y = run(box_head.body, mine("roi_align")(x[0], proposals, 6, 1 / 8)).mean((2, 3))
    scores = box_head.cls_score(y).softmax(1)[:, :-1]  # the background is last
    deltas = box_head.bbox_pred(y).reshape(len(y), -1, 4)
    boxes = moved(deltas, proposals[:, None], (10.0, 10.0, 5.0, 5.0), limit)
    row, labels = (scores > net.config.score_threshold).nonzero(as_tuple=True)
    boxes, scores = boxes[row, labels], scores[row, labels]
    kept = mine("batched_nms")(boxes, scores, labels, net.config.nms_threshold, 100)
    boxes, labels, scores = boxes[kept], labels[kept], scores[kept]
    y, last = run(mask_head.body, mine("roi_align")(x[0], boxes, 14, 1 / 8)), mask_head.mask_logits
    masks = mine("class_masks")(y, last.weight, last.bias, labels).sigmoid()
    masks = mine("paste_masks")(masks, boxes, size) >= 0.5
    return {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks}


# %%
differing = 0
for picture_, _ in scenes:
    picture_ = picture_.as_subclass(Tensor)
    with torch.no_grad():
        (theirs,), own = model([picture_]), fbnetv3is(model, picture_)
    same = all(torch.equal(own[key], theirs[key]) for key in ("labels", "masks"))
    differing += not (same and torch.allclose(own["boxes"], theirs["boxes"], atol=1e-3))
print("scenes:", len(scenes), "on which yours and the package's differ:", differing)

# %% [markdown]
# ## Experiment: 7, 14 or 28?
#
# New mask heads, trained from nothing on the same boxes, five seeds each
# (`docs/experiments/mask_resolution.py`). Beside mask AP stands the AP of *boundaries*, for which
# masks are reduced to their pixels within 2 of the outline: what a box full of object hides, it
# shows. Pooled at 7, the map is 4 × 4 at its smallest, so that the mask has 16 cells, not 14.

# %%
rows = table("mask_resolution")


def of(pooler: int, masks: str, column: str) -> Tensor:
    chosen = [r[column] for r in rows if r["pooler"] == pooler and r["masks"] == masks]
    return torch.tensor(chosen)


kinds = ((7, "one a class"), (14, "one a class"), (28, "one a class"), (14, "one for all"))
print("pooler, masks       mask AP (seeds apart)   boundary AP (seeds apart)   M multiply-adds")
for kind in kinds:
    ap, edge = of(*kind, "mask AP"), of(*kind, "boundary AP")
    print(f"{kind[0]:4d}, {kind[1]:12s}  {ap.mean():.3f} ({ap.max() - ap.min():.3f})", end="")
    print(f"           {edge.mean():.3f} ({edge.max() - edge.min():.3f})", end="")
    print(f"               {of(*kind, 'M multiply-adds')[0]:.1f}")

# %%
gained = (of(*kinds[2], "mask AP") - of(*kinds[1], "mask AP")).mean()
lost = (of(*kinds[1], "mask AP") - of(*kinds[3], "mask AP")).mean()
reveal(guess, {"mask AP gained at 28": round(float(gained), 3),
               "mask AP lost with one mask for all": round(float(lost), 3)})  # fmt: skip

# %%
# alt: Two panels over pooler resolution, a dot a seed. Mask AP is highest at 14; boundary AP rises
#      from 7 to 14 by a third and a little more to 28.
for ax, column in zip(drawing.panels(2, height=2.5), ("mask AP", "boundary AP"), strict=True):
    for pooler, masks_ in kinds[:3]:
        values = of(pooler, masks_, column)
        ax.plot([str(pooler)] * len(values), values, "ko", markersize=4, alpha=0.6)
    ax.set(xlabel="pooler resolution", title=column)
    ax.set_yticks((0.71, 0.72, 0.73, 0.74) if column == "mask AP" else (0.22, 0.25, 0.28, 0.31))
    ax.grid(axis="y", alpha=0.4)
    ax.set_xticks(range(3), ["7", "14", "28"])

# %% [markdown]
# In mask AP, 28 lies below 14 for each of the seeds, but by 0.009 in the mean, and the seeds of
# one kind lie as far apart: worse is more than five seeds can show. That four times the work has
# gained nothing, they do show. The gap in boundary AP, 0.016, is larger than either spread, and the
# dots do not overlap: the outline gains. All this after a short training; a longer one may move
# both. One mask for all classes costs nothing that can be seen: outlines of toys are found without
# knowing their names. **Decide:** which would you take for a robot that grips along outlines?

# %% [markdown]
# ## Run lengths and polygons
#
# ## Exercise 5, the stretch: `run_lengths`
#
# COCO files hold masks as lengths of runs, column by column.
#
# <details><summary>Hint</summary>
#
# `mask.T.flatten()`; a run begins where a pixel differs from the one before.
# </details>

# %% exercise="course.exercises.lesson10.run_lengths"
from fbnet_lesson.course.exercises.lesson10 import run_lengths

# %%
check(run_lengths)

# %%
compare(mask_ap, run_lengths=run_lengths)

# %% [markdown]
# Run lengths lose nothing. A polygon has one outline, and what it encloses is filled:

# %%
from contourpy import contour_generator

from fbnet_lesson.course.exercises.lesson10 import decoded
from fbnet_lesson.data.outlines import polygons_rle


def as_polygons(mask: Tensor) -> Tensor:
    """The mask as outlines along the middles between pixels, drawn again by pycocotools."""
    padded = F.pad(mask.float(), (1, 1, 1, 1)).numpy()
    lines = contour_generator(z=padded).lines(0.5)
    polygons = [(line - 0.5).clip(0, 128).ravel().tolist() for line in lines if len(line) > 3]
    return decoded(polygons_rle(polygons, tuple(mask.shape)))


# %%
kept = {name: [] for name in CATEGORIES}
for _, target in scenes:
    pairs = zip(target["masks"].as_subclass(Tensor), target["labels"].tolist(), strict=True)
    for mask, label in pairs:
        drawn = as_polygons(mask)
        iou = (drawn & mask).sum() / (drawn | mask).sum()
        kept[CATEGORIES[label]].append(float(iou))
mean = {name: sum(values) / len(values) for name, values in kept.items()}
print("IoU of polygons with their masks:", {name: round(v, 2) for name, v in mean.items()})
reveal(guess, {"IoU of a ring as a polygon": round(mean["ring"], 2)})

# %% [markdown]
# ## What the documentation gets wrong
#
# torchvision's `maskrcnn_resnet50_fpn` says that its predicted masks are of bytes, "in 0-1 range",
# to be compared with 0.5. Bytes between 0 and 1 would leave nothing to compare.

# %%
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import paste_masks_in_image

lines = maskrcnn_resnet50_fpn.__doc__.splitlines()
print(next(line.strip() for line in lines if "masks (" in line and ", 1, H" in line))
theirs = paste_masks_in_image(probabilities[:, None], found["boxes"], (128, 128))
print("what it makes:", theirs.dtype)

# %% [markdown]
# It also rounds each box to whole pixels before it pastes, although nothing in the paper says so.
#
# ## Edge cases

# %%
print("no detection:", list(mine(paste_masks)(torch.zeros(0, 28, 28), boxes[:0], (4, 5)).shape))
print("no object inside:", mine(run_lengths)(torch.zeros(2, 2, dtype=torch.bool)))
print("all inside:", mine(run_lengths)(torch.ones(2, 2, dtype=torch.bool)))

# %% [markdown]
# ## Recap
#
# A mask is learned and predicted in the frame of its box, one class at a time; doubling and a
# depthwise convolution are one transposed convolution; pasting asks at the middles of pixels.
#
# **Three questions**
#
# <details><summary>1. Why is the mask head asked about detections, not proposals?</summary>
#
# They are few, and their boxes have been moved: a mask is only as good as the frame it lies in.
# </details>
#
# <details><summary>2. Why has the loss no term for background proposals?</summary>
#
# They have no object to outline: only positive ones have a true mask.
# </details>
#
# <details><summary>3. A tool stores your masks as polygons. Which class suffers?</summary>
#
# Rings: the hole is filled. And objects in two parts become two outlines.
# </details>
#
# **Sources.** Mask R-CNN (arXiv 1703.06870, sec. 3); Boundary IoU (arXiv 2103.16562); the COCO
# formats and pycocotools.
