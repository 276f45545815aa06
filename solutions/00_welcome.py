# %% [markdown]
# # 00 · Welcome: the finished detector on one page
#
# **In this lesson you watch one picture go through every stage of an instance segmentation network,
# and see which lesson builds each stage.**
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
# | {minutes} | Python; you have seen a convolutional network | 20 s, 1100 MB, no network |

# %% [markdown]
# ## Predict first
#
# The network below looks at a picture of 128 × 128 pixels. On its feature map, every cell guesses
# 15 boxes of fixed shapes, the *anchors*. The cells are 8 pixels apart. For each anchor the network
# says with one number whether there is an object, and with four more how to move the anchor. The 50
# best boxes that do not overlap too much go on: a second stage calls each of them one of six shapes
# or "background".
#
# Write down three numbers before you run anything, in the cell below. The first two can be worked
# out; the third is a matter of judgement, and a wrong guess there teaches most.
#
# 1. How many anchors are there in all?
# 2. How many numbers does the network say about them?
# 3. There are five objects in the picture. Of the 50 boxes, how many are called background?

# %%
from fbnet_lesson.course import reveal

guess = {
    "anchors in all": None,
    "numbers about them": None,
    "of 50 boxes, background": None,
}

# %%
import ipywidgets
import torch
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.data.shapes import CATEGORIES, ShapesDataset
from fbnet_lesson.data.transforms import eval_transform

torch.set_num_threads(1)  # one order of additions: the same digits on every machine
drawing.small_figures()

# %% [markdown]
# ## A model and a scene it has never seen
#
# `create_model` takes a name. This model is our own: it is small enough to train on a laptop, and
# its weights lie in `data/weights`. It learned six shapes from scenes that a program rendered with
# the seed 1. We look at scenes of seed 0, which it has never seen.

# %%
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
scenes = ShapesDataset(200, seed=0, transform=eval_transform())
image, truth = scenes[48]
print(f"image {tuple(image.shape)}, values {image.min():.1f} to {image.max():.1f}")
print("objects:", [CATEGORIES[k] for k in truth["labels"]])
print("parameters:", sum(p.numel() for p in model.parameters()))

# %%
# alt: The same scene twice: a table with coloured toy pieces, some cut off by the border. On the
#      right each of the five pieces has a box, a mask, a name and a score.
with torch.no_grad():
    (found,) = model([image])
found = drawing.keep_detections(found, score=0.5)
left, right = drawing.panels(2, height=3.4)
drawing.show_image(left, image, "what goes in")
drawing.show_detections(right, image, found, CATEGORIES, "what comes out")
print("found:  ", [CATEGORIES[k] for k in found["labels"]])

# %% [markdown]
# It found all five, and gave one of them a wrong name: compare the two lists. We will meet that one
# again.
#
# Everything between the two pictures is the subject of this course. Here is the path that the data
# takes; the numbers in brackets are the lessons that build the stages.
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
# The trunk is a convolutional network, a chain of *stages*. Each stage halves the resolution and
# adds channels, so that there are fewer places, and more is said about each. Everything that
# follows looks at the map of the last stage.

# %%
batch, sizes = model.preprocess([image])
with torch.no_grad():
    features = model.backbone(batch)
for name, feature in features.items():
    stride = batch.shape[-1] // feature.shape[-1]
    channels, *cells = feature.shape[1:]
    print(f"{name}: {channels} channels, {cells[0]} × {cells[1]} cells, stride {stride}")

# %%
# alt: The scene and three maps of it in grey: 64 × 64, 32 × 32 and 16 × 16 cells. Outlines of the
#      pieces can be made out in all three, ever more coarsely.
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
# An anchor is a box of fixed size and shape. Five sizes times three ratios of height to width make
# 15 anchors a cell. The network never searches for boxes: it only says of each anchor whether it is
# worth keeping, and how it should be moved.

# %%
rpn_features = [features[name] for name in model.rpn_features]
(anchors,) = model.rpn.anchors(rpn_features)
per_cell = model.rpn.anchors.per_cell
print("cells", 16 * 16, "× anchors a cell", per_cell, "=", len(anchors))

# %%
# alt: On the left the dimmed scene with a grid of 16 × 16 dots. On the right, around one of them,
#      fifteen boxes of five sizes and three shapes, the largest reaching past the middle of the
#      scene.
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
reveal(guess, {"anchors in all": len(anchors), "numbers about them": 5 * len(anchors)})

# %%
# alt: Three panels. A 16 × 16 map that is dark where the pieces lie; the scene under 300 thin boxes
#      in thick bundles around the pieces; the scene with 50 boxes, several still around each piece.
axes = drawing.panels(3, height=2.6)
best = logits[0][0].sigmoid().amax(0)
drawing.show_map(axes[0], best, "best objectness of a cell", vmin=0, vmax=1)
drawing.show_image(axes[1], image, f"{len(candidates.boxes)} best, before NMS", dim=0.5)
drawing.draw_boxes(axes[1], candidates.boxes, width=0.4, alpha=0.35)
drawing.show_image(axes[2], image, f"{len(proposals.boxes)} proposals, after NMS", dim=0.5)
drawing.draw_boxes(axes[2], proposals.boxes, width=0.6, alpha=0.7)

# %% [markdown]
# Many anchors agree about each object. *Non-maximum suppression* (NMS) keeps the best of those that
# overlap by more than 0.7 and drops the others; then the 50 best go on, the *proposals*. A box that
# is dropped here costs nothing any more. One that is kept will cost: each proposal passes through
# the box head.

# %% [markdown]
# ## Stage 4: pooled regions, all of one size
#
# Proposals come in all sizes, but a convolutional head wants inputs of one size. *ROIAlign*
# resamples the features inside each box to a fixed grid, without rounding the box to whole cells.
# The grid has 6 × 6 points for the box head, and 14 × 14 for the mask head, which has to draw
# outlines.

# %%
with torch.no_grad():
    roi_features = [features[name] for name in model.roi_features]
    pooled = model.roi_heads.box_head.pooler(roi_features, [proposals.boxes])
    class_logits, box_deltas = model.roi_heads.box_head(roi_features, [proposals.boxes])
print("pooled", tuple(pooled.shape))
print("class logits", tuple(class_logits.shape), "box deltas", tuple(box_deltas.shape))

# %%
# alt: Three pairs: a proposal cut out of the scene, and its features as a grey map of 6 × 6 cells.
axes = drawing.panels(6, height=1.6)
for i in range(3):
    x1, y1, x2, y2 = proposals.boxes[i].round().int().tolist()
    drawing.show_image(axes[2 * i], image[:, y1:y2, x1:x2], f"proposal {i}")
    drawing.show_map(axes[2 * i + 1], drawing.magnitude(pooled[i]), "pooled 6 × 6")

# %% [markdown]
# ## Stage 5: the box head names the class and corrects the box
#
# There are seven answers: the six shapes, and "background" as the last. Each proposal gets a
# probability for each of the seven, and for each shape a corrected box. What scores more than 0.05
# goes through a second NMS, class by class.

# %%
probabilities = class_logits.softmax(-1)
for i in range(3):
    score, label = probabilities[i].max(0)
    name = (*CATEGORIES, "background")[label]
    print(f"proposal {i}: {name}, {score:.2f}")
background = int((probabilities.argmax(1) == len(CATEGORIES)).sum())
reveal(guess, {"of 50 boxes, background": background})

# %% [markdown]
# With five objects, one might expect 45. But an overlap of up to 0.7 is let through, so that each
# object keeps several boxes that lie a little to the side of one another, and most of the 50 are
# *on* something. That is why there is a second NMS, with a stricter limit.

# %%
with torch.no_grad():
    (detections,) = model.roi_heads.detect(roi_features, [proposals.boxes], sizes)
print("detections over 0.05:", len(detections.boxes))
print("detections over 0.50:", int((detections.scores > 0.5).sum()))
print("mask logits", tuple(detections.mask_logits.shape))

# %% [markdown]
# ## Stage 6: the mask head draws inside each box
#
# The mask head sees only the boxes that are left, and draws a picture of 28 × 28 points for each:
# the probability that a point of the box belongs to the object. The picture is stretched over its
# box, and whatever is at least one half becomes the mask.

# %%
# alt: Three pairs: a grey map of 28 × 28 points, dark inside the object and soft at its edge; and
#      the black mask that it makes in the whole scene.
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
# ## Turn a knob: the score threshold
#
# How many detections are shown depends on the score that you ask for. A low threshold shows
# everything that the network half believes; a high one hides what it is not sure of.
#
# Drag the slider; below it are three of its positions for those who read on a page.

# %%
with torch.no_grad():
    (everything,) = model([image])


def show(ax, score: float) -> None:
    """Only the boxes, so that they can be counted."""
    kept = drawing.keep_detections(everything, score)
    drawing.show_image(ax, image, f"score at least {score:.2f}: {len(kept['boxes'])}", dim=0.4)
    drawing.draw_boxes(ax, kept["boxes"], width=1.4)


def picture(score: float):
    (ax,) = drawing.panels(1, height=4.0)
    show(ax, score)
    return ax.figure


explore(picture, score=ipywidgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05))

# %%
# alt: The scene with the boxes that are left at three thresholds: eight at 0.05, with two or three
#      on some pieces, five at 0.5, one on each piece, and fewer at 0.95.
for ax, score in zip(drawing.panels(3, height=2.6), (0.05, 0.5, 0.95), strict=True):
    show(ax, score)
    kept = drawing.keep_detections(everything, score)
    print(f"score >= {score}: {len(kept['boxes'])} detections")

# %% [markdown]
# At 0.95 the small piece on the left is lost. It is the one with the wrong name: the network calls
# it a star, but with a score of 0.79 only. A score says how far the network trusts its own answer.
#
# Now decide. A camera counts the toys on a table after play. A piece that it misses stays lost
# under the sofa; a piece that it invents costs a minute of searching. Which threshold would you
# choose? Put it into the cell, and see what it does on some forty scenes. (A detection is right
# here if there is an object of its name that it overlaps by half or more.)

# %%
from fbnet_lesson.detection.boxes import box_iou

threshold = 0.5  # yours

some = [scene for scene in (scenes[i] for i in range(40)) if len(scene[1]["boxes"])]
with torch.no_grad():
    seen = [model([image])[0] for image, _ in some]


def hits(seen: dict, truth: dict, score: float) -> Tensor:
    """How many objects are found, objects there are, detections are right, detections there are."""
    kept = drawing.keep_detections(seen, score)
    iou, best = box_iou(kept["boxes"], truth["boxes"]).max(1)  # (D, N) -> (D,), (D,)
    right = (iou >= 0.5) & (kept["labels"] == truth["labels"][best])
    return torch.tensor([len(best[right].unique()), len(truth["boxes"]), right.sum(), len(right)])


# %%
for score in (0.05, threshold, 0.95):
    each = [hits(found, target, score) for found, (_, target) in zip(seen, some, strict=True)]
    objects_found, objects, right, shown = sum(each).tolist()
    print(f"score >= {score:.2f}: {objects_found} of {objects} objects found,", end=" ")
    print(f"{right} of {shown} detections right")

# %% [markdown]
# Whatever you choose, one share goes up as the other goes down. No single threshold is right for
# all purposes, and so COCO's average precision looks at all of them at once.

# %% [markdown]
# ## How good is it? COCO average precision
#
# Average precision (AP) goes through all detections from the highest score to the lowest, and asks
# at each step which share has been right so far. Right means that the box, or the mask, overlaps
# the true one far enough: the area that both share, over the area that they cover together (IoU),
# has to reach a limit. AP50 has the limit 0.5. AP is the mean over the limits 0.50, 0.55, …, 0.95
# and over the classes. Lesson 09 takes it apart.

# %%
from fbnet_lesson.training.evaluation import evaluate

metrics = evaluate(model, scenes)
for kind in ("box", "mask"):
    values = ", ".join(f"{name} {metrics[kind][name]:.2f}" for name in ("AP", "AP50", "AP75"))
    print(f"{kind:4s} on {len(scenes)} scenes: {values}")

# %% [markdown]
# At strict overlaps (AP75) a mask is harder than a box: 28 × 28 points over a large object are
# coarse, and the features that they are drawn from lie 8 pixels apart.

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
# **Predict** before you run anything: a wrong prediction is where the learning is. **Build** the
# key function of the stage in a cell of your own. **Check** it, and be told which mistake it makes
# and on which smallest input. **Plug** it into the detector and look at what changes.
#
# ## Exercise 1: the area of a box
#
# Here is the whole way in a few minutes, with a function of one line that both NMS stages above
# call. A box is `x1, y1, x2, y2` in pixels.
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
# *Check:* the cell below tries the promises of the docstring one by one on small boxes, and then
# many more boxes. As long as nothing is written, it says so. Run it as often as you like.

# %%
check(box_area)

# %% [markdown]
# And this is what it says to a wrong answer: which mistake it takes it for, the promise that is
# broken, an input as small as possible, and a hint. Here is one that many people write. (It stands
# inside another function, so that it does not replace yours.)


# %%
def a_wrong_answer():
    def box_area(boxes: Tensor) -> Tensor:
        width = boxes[..., 2] - boxes[..., 0] + 1
        height = boxes[..., 3] - boxes[..., 1] + 1
        return width * height

    return box_area


# %%
# alt: One box on its pixels, from (1, 2) to (4, 4), with a dot at its first corner and a triangle
#      at its second; the title says that 6 is expected and 12 was got.
check(a_wrong_answer())

# %% [markdown]
# *Plug:* `compare` runs something with the package's own function, and again with yours in its
# place. If yours is not written yet, or breaks, you are told, and the package's own goes on: a
# notebook always runs to its end. Here are the number of proposals and of detections in the scene
# from above.


# %%
def proposals_and_detections() -> tuple[int, int]:
    with torch.no_grad():
        kept = model.rpn.suppress(candidates).boxes
        (seen,) = model([image])
    return len(kept), len(seen["boxes"])


compare(proposals_and_detections, box_area=box_area)

# %% [markdown]
# What would a wrong area do? `plug` puts any function in the package's place, for as long as its
# `with` lasts. **Predict** which of these two mistakes the detector gets over:

# %%
wrong_ones = {
    "one pixel more": a_wrong_answer(),
    "x2 times y2": lambda boxes: boxes[..., 2] * boxes[..., 3],
}
for name, function in wrong_ones.items():
    with plug(box_area=function):
        proposed, detected = proposals_and_detections()
    print(f"{name}: {proposed} proposals, {detected} detections")

# %% [markdown]
# Neither raises an error. With one pixel more, overlaps look a little smaller; on this scene the
# result hides it. The other mistake nobody can overlook. That is why a function is checked before
# it is plugged in.
#
# **Your turn.** Spoil the area on purpose. It enters the detector in one place, the overlap of two
# boxes $A$ and $B$ of which both share the part $I$:
#
# $$\text{IoU} = \frac{I}{\text{area}(A) + \text{area}(B) - I}$$
#
# By which factor must all areas be wrong, so that NMS keeps fewer than 20 proposals? Think first:
# must the IoUs look larger or smaller? Then change the factor. `mine(box_area)` is your own
# function, if it has passed its check, and otherwise the package's.

# %%
factor = 1.0  # yours
own_area = mine(box_area)
with plug(box_area=lambda boxes: factor * own_area(boxes)):
    print("proposals, detections:", proposals_and_detections())

# %% [markdown]
# <details><summary>What happens</summary>
#
# With smaller areas the overlaps look larger, so that NMS takes more boxes for copies of a better
# one and drops them: with a factor of 0.7 18 proposals are left. The five objects survive even
# that, as the best box of each is never dropped. With areas 1.5 times as large, hardly anything
# seems to overlap; the copies stay, and there are 63 detections of five objects.
# </details>
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
# 3840 anchors → 300 candidates → 50 proposals → a handful of detections → a mask for each. Each of
# the first three arrows throws boxes away, and the later a stage comes, the more it spends on each
# box that is left.
#
# **Three questions**
#
# <details><summary>1. Why does the mask head run after the second NMS and not before?</summary>
#
# For each box it is the most expensive head. After the NMS it is asked about a few boxes instead of
# 50.
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
