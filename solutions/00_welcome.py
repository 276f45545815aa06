# %% [markdown]
# # 00 · Welcome: the finished detector on one page
#
# **In half an hour you will have watched one picture go through every stage of an instance
# segmentation network, and you will know which lesson builds each stage.**
#
# After this lesson you can
#
# - name the stages of FBNetV3IS (a Mask R-CNN on an FBNet trunk), with what goes in and out;
# - say how many boxes are alive after each stage, and what removes the others;
# - read a COCO average precision, and find where on a page it comes from;
# - run the detector on a picture of your own, and with a function of your own inside.
#
# | minutes | needs | run budget |
# |---|---|---|
# | 30 | Python; you have seen a convolutional network | 20 s, 1000 MB, no network |

# %% [markdown]
# ## Predict first
#
# The network below looks at a picture of 128 × 128 pixels. On its feature map, every cell guesses
# 15 boxes of fixed shapes, the *anchors*. The cells are 8 pixels apart.
#
# Before you run anything, write down three numbers:
#
# 1. How many anchors are there in all?
# 2. How many boxes are left after the first selection by score and overlap?
# 3. How many does the network show in the end?

# %%
import ipywidgets
import torch
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.course import check, drawing, explore, plug
from fbnet_lesson.data.shapes import CATEGORIES, ShapesDataset
from fbnet_lesson.data.transforms import eval_transform

torch.set_num_threads(1)  # one order of additions: the same digits on every machine
drawing.small_figures()

# %% [markdown]
# ## A model and a scene it has never seen
#
# `create_model` takes a name. This one is ours: small enough to train on a laptop, and its
# weights lie in `data/weights`. It learned six shapes from rendered scenes with seed 1; we look
# at seed 0.

# %%
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
scenes = ShapesDataset(200, seed=0, transform=eval_transform())
image, truth = scenes[48]
print(f"image {tuple(image.shape)}, values {image.min():.1f} to {image.max():.1f}")
print("objects:", [CATEGORIES[k] for k in truth["labels"]])
print("parameters:", sum(p.numel() for p in model.parameters()))

# %%
with torch.no_grad():
    (found,) = model([image])
found = drawing.keep_detections(found, score=0.5)
left, right = drawing.panels(2, height=3.4)
drawing.show_image(left, image, "what goes in")
drawing.show_detections(right, image, found, CATEGORIES, "what comes out")
print("found:  ", [CATEGORIES[k] for k in found["labels"]])

# %% [markdown]
# It found all five, and called one of them wrong: compare the two lists. Keep an eye on that one.
#
# Everything between the two pictures is the subject of this course. Here is the way of the data;
# the number is the lesson that builds the stage.
#
# ```
#  image ─▶ trunk (01, 02) ─▶ feature map ─┬─▶ anchors (04) ─▶ RPN (05) ─▶ NMS (06) ─▶ proposals
#                                          │                                             │
#                                          ├─▶ ROIAlign 6×6 (07) ─▶ box head (08) ◀──────┘
#                                          │                             │ classes, boxes
#                                          └─▶ ROIAlign 14×14 (07) ─▶ mask head (10) ─▶ masks
# ```

# %% [markdown]
# ## Stage 1: the trunk turns pixels into features
#
# The trunk is a chain of *stages*. Each halves the resolution and widens the channels: fewer
# places, more said about each. The last stage is what all the rest looks at.

# %%
batch, sizes = model.preprocess([image])
with torch.no_grad():
    features = model.backbone(batch)
for name, feature in features.items():
    stride = batch.shape[-1] // feature.shape[-1]
    channels, *cells = feature.shape[1:]
    print(f"{name}: {channels} channels, {cells[0]} × {cells[1]} cells, stride {stride}")

# %%
axes = drawing.panels(4, height=2.0)
drawing.show_image(axes[0], image, "image, 128 × 128")
for ax, (name, feature) in zip(axes[1:], features.items(), strict=True):
    height, width = feature.shape[2:]
    drawing.show_map(ax, drawing.magnitude(feature[0]), f"{name}, {height} × {width}")

# %% [markdown]
# Dark cells answer strongly (mean absolute value over the channels). The outlines stay visible
# down to 16 × 16 cells. A shape that is 16 pixels wide has two cells there, and still has to be
# told from five others: that is what the 64 channels are for.

# %% [markdown]
# ## Stage 2: anchors, one set on every cell
#
# An anchor is a box of fixed size and shape. Five sizes times three ratios make 15 a cell. The
# network never searches for boxes; it only says how each anchor should be moved, and whether it
# is worth it.

# %%
rpn_features = [features[name] for name in model.rpn_features]
(anchors,) = model.rpn.anchors(rpn_features)
per_cell = model.rpn.anchors.per_cell
print("cells", 16 * 16, "× anchors a cell", per_cell, "=", len(anchors))

# %%
left, right = drawing.panels(2, height=3.4)
centres = (anchors[::per_cell, :2] + anchors[::per_cell, 2:]) / 2
drawing.show_image(left, image, "256 cells, 8 pixels apart", dim=0.4)
left.plot(*centres.T, "k.", markersize=3)
cell = 8 * 16 + 8
drawing.show_image(right, image, "the 15 anchors of one cell", dim=0.4)
drawing.draw_boxes(right, anchors[cell * per_cell : (cell + 1) * per_cell], width=0.8)
print("centre of that cell:", centres[cell].tolist())

# %% [markdown]
# ## Stage 3: the RPN scores and moves every anchor
#
# The region proposal network has one question for each anchor: *is there any object?* It answers
# with one number, the objectness, and with four more that move the anchor onto the object.

# %%
from fbnet_lesson.detection.rpn import flatten_predictions

with torch.no_grad():
    logits, deltas = model.rpn.head(rpn_features)
    predictions = [flatten_predictions(*p) for p in zip(logits, deltas, strict=True)]
    (candidates,) = model.rpn.candidates([anchors], predictions, sizes)
    proposals = model.rpn.suppress(candidates)
print("objectness", tuple(logits[0].shape), "deltas", tuple(deltas[0].shape))
counts = [len(boxes) for boxes in (anchors, candidates.boxes, proposals.boxes)]
print("anchors -> best -> after NMS:", counts)

# %%
axes = drawing.panels(3, height=2.6)
best = logits[0][0].sigmoid().amax(0)
drawing.show_map(axes[0], best, "best objectness of a cell", vmin=0, vmax=1)
drawing.show_image(axes[1], image, f"{len(candidates.boxes)} best, before NMS", dim=0.5)
drawing.draw_boxes(axes[1], candidates.boxes, width=0.4, alpha=0.35)
drawing.show_image(axes[2], image, f"{len(proposals.boxes)} proposals, after NMS", dim=0.5)
drawing.draw_boxes(axes[2], proposals.boxes, width=0.6, alpha=0.7)

# %% [markdown]
# Many anchors agree about each object. *Non-maximum suppression* keeps the best of those that
# overlap by more than 0.7 and drops the others; then the 50 best go on. Dropping is cheap here
# and costly later: every proposal passes through the box head.

# %% [markdown]
# ## Stage 4: pooled regions, all of one size
#
# Proposals are of all sizes, a convolutional head wants one. *ROIAlign* resamples the features
# inside each box to a fixed grid, without rounding the box to cells: 6 × 6 for the box head, and
# 14 × 14 for the mask head, which has to draw outlines.

# %%
with torch.no_grad():
    roi_features = [features[name] for name in model.roi_features]
    pooled = model.roi_heads.box_head.pooler(roi_features, [proposals.boxes])
    class_logits, box_deltas = model.roi_heads.box_head(roi_features, [proposals.boxes])
print("pooled", tuple(pooled.shape))
print("class logits", tuple(class_logits.shape), "box deltas", tuple(box_deltas.shape))

# %%
axes = drawing.panels(6, height=1.6)
for i in range(3):
    x1, y1, x2, y2 = proposals.boxes[i].round().int().tolist()
    drawing.show_image(axes[2 * i], image[:, y1:y2, x1:x2], f"proposal {i}")
    drawing.show_map(axes[2 * i + 1], drawing.magnitude(pooled[i]), "pooled 6 × 6")

# %% [markdown]
# ## Stage 5: the box head names the class and corrects the box
#
# Six classes and "background", the last one. Each proposal gets a probability for each, and one
# corrected box a class. What scores over 0.05 goes through a second NMS, class by class.

# %%
probabilities = class_logits.softmax(-1)
for i in range(3):
    score, label = probabilities[i].max(0)
    name = (*CATEGORIES, "background")[label]
    print(f"proposal {i}: {name}, {score:.2f}")
print("all probabilities sum to one:", torch.allclose(probabilities.sum(1), torch.ones(1)))

# %%
with torch.no_grad():
    (detections,) = model.roi_heads.detect(roi_features, [proposals.boxes], sizes)
print("detections over 0.05:", len(detections.boxes))
print("detections over 0.50:", int((detections.scores > 0.5).sum()))
print("mask logits", tuple(detections.mask_logits.shape))

# %% [markdown]
# ## Stage 6: the mask head draws inside each box
#
# The mask head only sees the boxes that are left, and draws one 28 × 28 picture for each: the
# probability that a point of the box belongs to the object. It is then pasted into the box, and
# cut at one half.

# %%
from fbnet_lesson.detection.mask_head import paste_masks

shown = min(3, len(found["boxes"]))
masks = detections.mask_logits.sigmoid()
pasted = paste_masks(masks[:shown], detections.boxes[:shown], (128, 128))
axes = drawing.panels(2 * shown, height=2.2 * 3 / shown, columns=2 * shown)
for i in range(shown):
    name = CATEGORIES[detections.labels[i]]
    drawing.show_map(axes[2 * i], masks[i], f"{name}, 28 × 28", vmin=0, vmax=1)
    drawing.show_map(axes[2 * i + 1], (pasted[i] >= 0.5).float(), "pasted, cut at 0.5")
print("pixels:", [int(m.sum()) for m in found["masks"][:shown]])

# %% [markdown]
# Compare your predictions: the anchors are 16 · 16 · 15 = 3840; the RPN hands on at most 50
# proposals; what is shown depends on the score that you ask for. Which leads to the first knob.

# %% [markdown]
# ## Turn a knob: the score threshold
#
# A low threshold shows everything the network half believes. A high one hides what it is not sure
# of. No single value is right, so COCO's average precision looks at all of them.
#
# Drag the slider; below it, three of its positions for those who read on a page.

# %%
with torch.no_grad():
    (everything,) = model([image])


def picture(score: float):
    (ax,) = drawing.panels(1, height=4.0)
    kept = drawing.keep_detections(everything, score)
    drawing.show_detections(ax, image, kept, CATEGORIES, f"score at least {score:.2f}")
    return ax.figure


explore(picture, score=ipywidgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05))

# %%
axes = drawing.panels(3, height=2.6)
for ax, score in zip(axes, (0.05, 0.5, 0.95), strict=True):
    kept = drawing.keep_detections(everything, score)
    drawing.show_detections(ax, image, kept, CATEGORIES, f"score ≥ {score}: {len(kept['boxes'])}")
    print(f"score >= {score}: {len(kept['boxes'])} detections")

# %% [markdown]
# ## How good is it? COCO average precision
#
# One scene proves nothing. Average precision compares all detections with the truth on many
# scenes: a detection counts as right if its overlap with the true mask (IoU) is at least some
# value. AP50 asks for 0.5; AP is the mean over 0.50, 0.55, …, 0.95 and over the classes. Lesson
# 09 takes it apart.

# %%
from fbnet_lesson.training.evaluation import evaluate

metrics = evaluate(model, scenes)
for kind in ("box", "mask"):
    values = ", ".join(f"{name} {metrics[kind][name]:.2f}" for name in ("AP", "AP50", "AP75"))
    print(f"{kind:4s} on {len(scenes)} scenes: {values}")

# %% [markdown]
# The mask is harder than the box at strict overlaps (AP75): 28 × 28 cells over a large object are
# coarse, and the features were taken every 8 pixels.

# %% [markdown]
# ## A picture of your own
#
# The network knows six shapes and nothing else; on a photograph it finds shapes that are not
# there. From the shell:
#
# ```sh
# fbnet-lesson predict photo.jpg --out found
# fbnet-lesson train --data annotations.json --images photos --weights shapes --out runs/mine
# ```
#
# The first writes the annotated picture and COCO results. The second starts from these weights
# and learns your classes; any annotation file in COCO format will do.

# %% [markdown]
# ## How the lessons work
#
# **Predict** before you run a cell: a wrong prediction is where the learning is. **Build** the
# key function of the stage in a cell of your own. **Check** it, and be told which mistake it
# makes and on which smallest input. **Plug** it into the detector and look what changes.
#
# Here is the whole way in two minutes, with a function of one line that both NMS stages above
# called: the area of a box. A box is `x1, y1, x2, y2` in pixels.
#
# *Predict:* what is the area of the box from (1, 2) to (4, 4)? And of one that is turned inside
# out, from (3, 0) to (1, 4)?
#
# *Build:* the cell holds what the function promises. Put its body in place of the last line.
#
# <details><summary>Hint</summary>
#
# `boxes[..., 0]` is x1 of every box, however many dimensions come before. Width times height.
# </details>

# %% exercise="detection.boxes.box_area"
from fbnet_lesson.detection.boxes import box_area

# %% [markdown]
# *Check:* it tries the promises one by one on small boxes, then many boxes more. Until something
# is written, it says so. Run it as often as you like.

# %%
check(box_area)

# %% [markdown]
# And this is what it says to a wrong answer: which mistake it takes it for, the promise that is
# broken, an input as small as possible, and a hint. Here is one that many people write (as an inner
# function, so that it does not replace yours).


# %%
def a_wrong_answer():
    def box_area(boxes: Tensor) -> Tensor:
        width = boxes[..., 2] - boxes[..., 0] + 1
        height = boxes[..., 3] - boxes[..., 1] + 1
        return width * height

    return box_area


check(a_wrong_answer())

# %% [markdown]
# *Plug:* inside the `with`, the detector calls your function wherever it needs an area. If yours is
# not written yet, or breaks, you are told and the package's own goes on in its place: a notebook
# always runs to its end. Beside yours, two wrong ones. What will each do to the eight detections?

# %%
areas = {
    "one pixel more": a_wrong_answer(),
    "x2 times y2": lambda boxes: boxes[..., 2] * boxes[..., 3],
    "yours": box_area,
}
for name, function in areas.items():
    with plug(box_area=function), torch.no_grad():
        kept = model.rpn.suppress(candidates).boxes
        (seen,) = model([image])
    new = int((kept[:, None] != proposals.boxes).any(-1).all(1).sum())  # (50, 50, 4) -> (50,)
    print(f"{name}: {new} of {len(kept)} proposals are others, {len(seen['boxes'])} detections")

# %% [markdown]
# A wrong area raises no error. One pixel more makes overlaps look smaller; it changes nearly half
# of the proposals, and on this scene the result hides it. The other mistake nobody can overlook.
# That is why a function is checked before it is plugged in.
#
# The lessons come in this order; the folder `notebooks` shows which of them are there.
#
# | lesson | what you build |
# |---|---|
# | 01 · 02 · 03 | the FBNet block; trunks from tables; normalization, in several processes too |
# | 04 · 05 · 06 | boxes, IoU and anchors; the RPN and its two thresholds; NMS |
# | 07 · 08 | ROIAlign; the box head, FBNetV3OD end to end |
# | 09 · 10 | what average precision measures; the mask head, FBNetV3IS end to end |
# | 11 · 12 | training and its recipes; a playground with all knobs |
# | 13 · 14 · 15 | how the networks were found: DNAS, DMaskingNAS, NARS |
# | 16 · 17 · 18 | real weights; deployment; many processes |

# %% [markdown]
# ## Recap
#
# 3840 anchors → 300 candidates → 50 proposals → a handful of detections → a mask for each. Every
# arrow throws boxes away, and the later the stage, the more it spends on each box that is left.
#
# **Three questions**
#
# <details><summary>1. Why does the mask head run after the second NMS and not before?</summary>
#
# It is the most expensive head for each box, and it is asked about a few boxes instead of 50.
# </details>
#
# <details><summary>2. A shape is 12 pixels wide. How many cells of the last feature map is
# that, and which stage suffers first?</summary>
#
# One and a half. The RPN: the smallest anchors have a side of 16 pixels, so that even the best
# anchor's IoU with it is low. Then the mask: 14 × 14 pooled cells are interpolated from two.
# </details>
#
# <details><summary>3. Two detections have the same score and overlap fully. One is a star, the
# other a cross. Does NMS remove one?</summary>
#
# No: the second NMS works class by class. Both are shown, and at most one is right.
# </details>
#
# **Sources.** Mask R-CNN (arXiv 1703.06870); Faster R-CNN (arXiv 1506.01497); FBNetV3 (arXiv
# 2006.02049); the detectors on FBNet as published in d2go.
