# %% [markdown]
# # 08 · Box head: FBNetV3OD end to end
#
# **You will write what stands before and behind the box head, in training and in use, and at the
# end run a whole detector that is made of your own functions.**
#
# After this lesson you can
#
# - say which proposals the box head learns from, as what, and why one threshold is enough;
# - write its two losses, and say what they are divided by;
# - turn logits and deltas into detections, and choose a score threshold for AP or for a person;
# - choose the level of a pyramid that a box is pooled from.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lessons 04, 05, 06, 07 | 30 s, 1300 MB, no network |

# %% [markdown]
# ## Predict first
#
# The RPN of the small detector proposes boxes; the box head says what is in each, and moves it.
#
# 1. A proposal has an IoU between 0.4 and 0.5 with its object. How probable does the box head call
#    it that there is an object, on average (0 to 1)?
# 2. What is the IoU of such a proposal with its object *after* the head has moved it?
# 3. Detections below a score of 0.05 are dropped. With a threshold of 0.5 two boxes in five are
#    shown no more: by how much does the box AP, 0.83, fall?
# 4. The head has a box for each class. By how much does AP fall if each class gets the box that was
#    meant for the next one?

# %%
from fbnet_lesson.course import reveal

guess = {
    "called an object, at IoU 0.4 to 0.5": None,
    "IoU after moving": None,
    "AP lost with a score threshold of 0.5": None,
    "AP lost with the next class's box": None,
}

# %%
import ipywidgets
import torch
import torch.nn.functional as F
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.data.shapes import CATEGORIES, ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.box_head import WEIGHTS  # (10, 10, 5, 5)
from fbnet_lesson.detection.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
)  # fmt: skip
from fbnet_lesson.detection.nms import batched_nms

# %%
torch.set_num_threads(1)  # one order of additions: the same digits on every machine
drawing.small_figures()
topk = {"post_nms_topk": (100, 100)}
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes", **topk).eval()
config, head = model.config, model.roi_heads.box_head
scenes = ShapesDataset(50, seed=0, transform=eval_transform(), cache=True)
images, whole = zip(*(scenes[i] for i in range(50)), strict=True)
targets = [{key: t[key][~t["iscrowd"]] for key in ("boxes", "labels")} for t in whole]
print("objects:", sum(len(target["boxes"]) for target in targets))

# %% [markdown]
# ## The problem: a proposal has no class, and no exact box
#
# We run the detector up to the box head, with 100 proposals a scene instead of 50, so that there
# are poor ones to look at.

# %%
batch, sizes = model.preprocess(images)
with torch.no_grad():
    rpn_maps, roi_maps = model.features(batch)
    proposals = [found.boxes for found in model.rpn(rpn_maps, sizes, None)[0]]
    class_logits, deltas = head(roi_maps, proposals)
counts = [len(boxes) for boxes in proposals]
logits_of, deltas_of = class_logits.split(counts), deltas.split(counts)
print("proposals:", sum(counts))
print("logits [R, K + 1]:", list(class_logits.shape), " deltas [R, K, 4]:", list(deltas.shape))

# %% [markdown]
# Six classes give seven logits: the last is the *background*, "no object, or too little of one".
# Each class has its own four deltas. For one proposal, in full:

# %%
shares = logits_of[48][0].softmax(-1)  # (7,)
for name, share, delta in zip(CATEGORIES, shares, deltas_of[48][0], strict=False):
    print(f"{name:11s}{share:5.2f}  dx, dy, dw, dh:", [round(v, 1) + 0.0 for v in delta.tolist()])
print(f"background {shares[-1]:5.2f}")

# %%
# alt: A scene twice. On the left its best twelve proposals, dashed, lie loosely around the
#      objects. On the right one box stands close around each object, with its class,
#      its score and its mask.
left, right = drawing.panels(2, height=3.0)
drawing.show_image(left, images[48], "the 12 best proposals", dim=0.5)
drawing.draw_boxes(left, proposals[48][:12], width=1.0, style="--")
with torch.no_grad():
    (found,) = model([images[48]])
drawing.show_detections(
    right, images[48], drawing.keep_detections(found, 0.5), CATEGORIES, "detections over 0.5"
)

# %% [markdown]
# ## Which proposals are learned from, and as what
#
# In training each proposal needs an answer that the head can be compared with. Lesson 05 had two
# thresholds for anchors, 0.3 and 0.7, and what lay between was ignored. The box head has **one**:
# an IoU of 0.5 or more with an object is that object's class, less is background. The RPN may
# leave doubtful anchors out, for the next stage looks again. Behind the box head nothing looks
# again: in use it has to answer for every proposal, so it must have seen the doubtful ones too.
#
# And one trick: **the objects' own boxes are appended to the proposals**. At the beginning of
# training no proposal is good, and without them there would be nothing but background to learn.
# On four boxes, with objects of class 2 and 0:

# %%
two = torch.tensor([[0.0, 0, 4, 4], [8, 0, 12, 4]])  # the objects
some = torch.tensor([[0.0, 0, 4, 3], [2, 0, 6, 4]])  # the proposals
boxes = torch.cat([some, two])  # (R + G, 4)
iou = box_iou(two, boxes)  # (G, R + G)
best, matched = iou.max(0)  # of each box: the best IoU, and with which object
print("best IoU:", [round(v, 2) for v in best.tolist()], " with object", matched.tolist())

# %% [markdown]
# ## Exercise 1: labels for proposals
#
# The class of background is the number behind the last class, $K$. So a label is the column of the
# logits that should be largest, and one cross-entropy covers objects and background.
#
# <details><summary>Hint</summary>
#
# `box_iou(truth, boxes).max(0)` answers both questions: how well, and with whom. Then
# `torch.where(good, labels[matched], background)`. `max` refuses a matrix without rows, so the
# picture without objects comes first.
# </details>

# %% exercise="course.exercises.lesson08.label_proposals"
from fbnet_lesson.course.exercises.lesson08 import label_proposals

# %%
check(label_proposals)

# %% [markdown]
# **Plug it in.** The training detector labels its proposals with your function. Of what was
# labelled a sample is drawn: at most `roi_batch_size_per_image` boxes, at most a quarter of them
# objects, the rest background.

# %%
trainee = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").train()
seeded = [{**target, "sampling_seed": i} for i, target in enumerate(whole[:8])]


def sampled() -> dict[str, float]:
    """The two losses of the box head on eight scenes, with the same draw each time."""
    with torch.no_grad():
        losses = trainee(list(images[:8]), seeded)
    return {name: round(float(losses[name]), 2) for name in ("loss_cls", "loss_box_reg")}


compare(sampled, label_proposals=label_proposals)

# %% [markdown]
# What do the appended boxes give? We count the positive proposals of eight scenes, once from the
# trained RPN and once from one that has learned nothing.

# %%
label = mine(label_proposals)


def positives(proposals_of: list[Tensor]) -> tuple[int, int]:
    """Of eight scenes: proposals that are objects, without and with the appended ones."""
    without, both = 0, 0
    for boxes, target in zip(proposals_of[:8], targets, strict=False):
        classes = label(boxes, target["boxes"], target["labels"], 6, 0.5)[1]
        without += int((classes[: len(boxes)] < 6).sum())
        both += int((classes < 6).sum())
    return without, both


# %%
torch.manual_seed(0)
new = fl.create_model("lesson/mask_rcnn_tiny", **topk).eval()
with torch.no_grad():
    first = [p.boxes for p in new.rpn(new.features(batch[:8])[0], sizes[:8], None)[0]]
for name, boxes in {"trained": proposals, "new": first}.items():
    without, both = positives(boxes)
    print(f"{name:8s} RPN: {without:3d} positives, {both:3d} with the objects' own boxes")

# %% [markdown]
# ## What one threshold does
#
# Training teaches a step: at 0.5 from background to object. Where is that step in what the head
# says afterwards? For each proposal we take its best IoU with an object, what the head says, and
# its IoU after the head has moved it.

# %%
before, says, after = [], [], []
for boxes, logits, moves, target in zip(proposals, logits_of, deltas_of, targets, strict=True):
    if len(target["boxes"]) == 0:
        continue
    row, best_class = torch.arange(len(boxes)), logits[:, :-1].argmax(1)
    moved = clip_boxes(decode_boxes(moves[row, best_class], boxes, WEIGHTS), (128, 128))
    best, matched = box_iou(target["boxes"], boxes).max(0)
    before.append(best)
    says.append(1 - logits.softmax(-1)[:, -1])
    after.append(box_iou(target["boxes"], moved)[matched, row])
before, says, after = torch.cat(before), torch.cat(says), torch.cat(after)

# %%
print("IoU of proposal   says object   IoU after moving   of those over 0.5")
steps = {}
for low in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
    inside = (before >= low) & (before < low + 0.1)
    steps[low] = says[inside].mean().item(), after[inside].mean().item()
    reached = (after[inside] >= 0.5).float().mean()
    said, then = steps[low]
    print(f"{low:.1f} to {low + 0.1:.1f}{said:15.2f}{then:17.2f}{reached:18.0%}")
reveal(guess, {"called an object, at IoU 0.4 to 0.5": round(steps[0.4][0], 2),
               "IoU after moving": round(steps[0.4][1], 2)})  # fmt: skip

# %%
# alt: Two curves over the IoU of the proposal. What the head says stays near 0 up to 0.4 and jumps
#      to nearly 1 by 0.6. The IoU after moving has no jump; at 0.45 it is already 0.8.
(ax,) = drawing.panels(1, height=2.8)
middles = [low + 0.05 for low in steps]
ax.plot(middles, [said for said, _ in steps.values()], "ko-", label="says object")
ax.plot(middles, [then for _, then in steps.values()], "s--", color="0.4", label="IoU after moving")
ax.axvline(0.5, color="0.7", linestyle=":")
ax.plot([0.1, 0.9], [0.1, 0.9], color="0.8", linewidth=0.8)
ax.set(xlabel="IoU of the proposal with its object", xticks=middles, ylim=(0, 1.05))
ax.set_yticks([0, 0.5, 1])
_ = ax.legend(fontsize=8)

# %% [markdown]
# **The label judges the proposal before it is moved.** Between 0.4 and 0.5 nearly every proposal
# would become a good box, with a mean IoU of 0.80 after the move, and yet the head calls five of
# six background, as it was taught. It costs little here, since each object has better proposals.
# Where it has none, an object is lost that the head could have found. *Cascade R-CNN* (arXiv
# 1712.00726) runs three heads one behind the other, each labelled by the boxes of the one before;
# the stretch goes a step in this direction.

# %% [markdown]
# ## Losses
#
# With $R$ sampled proposals, labels $c_r$ and target deltas $t_r$,
#
# $$L_\text{cls} = \frac1R \sum_r -\log \text{softmax}(z_r)_{c_r}, \qquad
# L_\text{box} = \frac1R \sum_{r:\, c_r < K} \lVert d_{r, c_r} - t_r \rVert_1 .$$
#
# Both have the **same divisor**, all proposals, although only objects have a box to learn. If
# $L_\text{box}$ were divided by the number of objects, a picture with a single one would pull at
# its four deltas as hard as another with twenty pulls at all of theirs.
#
# Only $d_{r, c_r}$ is compared: of the $K$ boxes of a proposal, that of its class. The others get
# no gradient; nobody asked them.

# %%
z = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]])  # K = 2: two classes, then background
own = torch.tensor([0, 2])  # an object of class 0; background
picked = z.log_softmax(-1)[[0, 1], own]  # (R,)
print("-log share of the right column:", [round(-v, 3) for v in picked.tolist()])
print("mean:", round(float(F.cross_entropy(z, own)), 3))

# %% [markdown]
# ## Exercise 2: the losses of the box head
#
# `class_logits` and `deltas` are the head's output on the sample, with a label and a target for
# each proposal. Three lines of arithmetic, and one choice: which deltas are compared.
#
# <details><summary>Hint</summary>
#
# `(labels < K).nonzero(as_tuple=True)` gives the rows of objects, and `deltas[rows, labels[rows]]`
# picks one box in each of them. The distances are summed, not averaged.
# </details>

# %% exercise="course.exercises.lesson08.box_head_losses"
from fbnet_lesson.course.exercises.lesson08 import box_head_losses

# %%
check(box_head_losses)

# %% [markdown]
# **Plug it in.** The same eight scenes, the same draw; this time the sums are yours.

# %%
compare(sampled, box_head_losses=box_head_losses)

# %% [markdown]
# **What the divisor does.** A scene with one object and one with many: the box loss as it is, and
# as it would be if it were divided by the positive boxes only.

# %%
losses_of = mine(box_head_losses)
for i in (min(range(50), key=lambda i: len(targets[i]["boxes"]) or 99),
          max(range(50), key=lambda i: len(targets[i]["boxes"]))):  # fmt: skip
    target = targets[i]
    boxes, classes, matched = label(proposals[i], target["boxes"], target["labels"], 6, 0.5)
    wanted = encode_boxes(target["boxes"][matched], boxes, WEIGHTS)
    with torch.no_grad():
        out = head([roi_maps[0][i : i + 1]], [boxes])
    box_loss = float(losses_of(*out, classes, wanted)["loss_box_reg"])
    share = float((classes < 6).float().mean())
    print(f"{len(target['boxes'])} objects, {share:4.0%} of the boxes positive: ", end="")
    print(f"loss {box_loss:.2f}, divided by the positive ones {box_loss / share:.2f}")

# %% [markdown]
# ## From logits to detections
#
# In use there are no labels. Five steps lead from the head to what is shown:
#
# 1. **softmax** over all $K + 1$ logits; the background takes its share, then its column goes;
# 2. **decode**: each proposal is moved by each class's deltas, so that one becomes $K$ boxes. The
#    head's deltas are large on purpose, ten times $dx$, $dy$ and five times $dw$, $dh$; so they
#    are of the size of the other numbers in the loss, and have to be divided again;
# 3. **score threshold**: every *pair* of proposal and class that is over it is a candidate;
# 4. **clip** to the picture, and **NMS class by class**;
# 5. **the best 100**, of all classes together.
#
# ## Exercise 3: select the detections
#
# Use what you have: `decode_boxes`, `clip_boxes` (lesson 04), `batched_nms` (lesson 06) and
# `WEIGHTS`, the tens and fives, are imported above.
#
# <details><summary>Hint</summary>
#
# `decode_boxes(deltas, proposals[:, None], (10, 10, 5, 5))` is [R, K, 4].
# `row, label = (scores > t).nonzero(as_tuple=True)` names the pairs, and both `boxes[row, label]`
# and `scores[row, label]` follow it. The labels are the groups of NMS.
# </details>

# %% exercise="course.exercises.lesson08.detections_from"
from fbnet_lesson.course.exercises.lesson08 import detections_from

# %%
check(detections_from)

# %% [markdown]
# **Plug it in, and measure**: the AP of the whole detector on the fifty scenes.

# %%
from fbnet_lesson.training.evaluation import evaluate

detector = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()


def measured() -> str:
    result = evaluate(detector, scenes)
    return f"{result['detections']} detections, box AP {result['box']['AP']:.2f}"


compare(measured, detections_from=detections_from)

# %% [markdown]
# For the experiments we need not run trunk and head again: the logits and deltas are there. `ap`
# scores what your function makes of them, from the first `count` proposals.

# %%
from fbnet_lesson.training.detecting import detections_to_coco
from fbnet_lesson.training.scoring import score

select = mine(detections_from)


def detections(count: int = 50, threshold: float = 0.05, change=lambda d: d) -> list[dict]:
    """Of each scene the detections; ``change`` may alter the deltas [R, K, 4] before."""
    found = []
    for boxes, logits, moves in zip(proposals, logits_of, deltas_of, strict=True):
        first = logits[:count], change(moves[:count]), boxes[:count]
        answer = select(*first, (128, 128), threshold, 0.5, 100)
        found.append(dict(zip(("boxes", "scores", "labels"), answer, strict=True)))
    return found


def ap(found: list[dict]) -> float:
    coco = detections_to_coco(found, scenes.image_ids, scenes.category_ids)
    return score(scenes, coco, False)["box"]["AP"]


# %% [markdown]
# ## A box for each class
#
# Each proposal has six boxes. Do they differ? We move the proposals by the wrong one, by the mean
# of all, by none, and by deltas that nobody has divided.

# %%
changes = {
    "its own class's box": lambda d: d,
    "the next class's box": lambda d: d.roll(-1, 1),
    "the mean of all": lambda d: d.mean(1, keepdim=True).expand_as(d),
    "not moved": torch.zeros_like,
    "not divided": lambda d: d * torch.tensor([10.0, 10, 5, 5]),
}
by_box = {name: ap(detections(change=change)) for name, change in changes.items()}
for name, value in by_box.items():
    print(f"{name:21s} AP {value:.2f}")
lost = by_box["its own class's box"] - by_box["the next class's box"]
reveal(guess, {"AP lost with the next class's box": round(lost, 2)})

# %% [markdown]
# A box that was meant for another class is nearly as good: moving a proposal onto the edges around
# it hardly depends on what is inside. So why one a class? *R-FCN* (arXiv 1605.06409) has a single
# box for all classes; in `DetectorConfig` the field is `box_class_agnostic`. Trained from nothing
# in both forms, four seeds each:

# %%
from fbnet_lesson.course.experiments import table

rows = table("class_agnostic_boxes")
for count in (2048, 64):
    for kind in ("one a class", "one for all"):
        chosen = [row for row in rows if row["scenes"] == count and row["boxes"] == kind]
        aps = torch.tensor([row["box AP"] for row in chosen])
        strict = torch.tensor([row["AP75"] for row in chosen])
        print(f"{count:4d} scenes, {kind}: AP {aps.mean():.3f} ({aps.min():.3f} to {aps.max():.3f})"
              f", AP75 {strict.mean():.3f}")  # fmt: skip

# %% [markdown]
# No difference in AP beyond what seeds make; AP75 is one or two hundredths better with a box a
# class. What a shared box saves is the last layer: 4 outputs instead of $4K$. With 6 classes that
# is nothing, with 1203 it is most of the head.

# %% [markdown]
# ## How many proposals?
#
# Lesson 06 has counted what proposals cost. Here is what they can bring: AP as it is, and AP if
# the head classified without a mistake, so that each object had the best of its moved boxes.


# %%
def perfect(count: int) -> list[dict]:
    """For each object the box nearest to it, of all that its class makes of the proposals."""
    found = []
    for boxes, moves, target in zip(proposals, deltas_of, targets, strict=True):
        moved = decode_boxes(moves[:count], boxes[:count, None], WEIGHTS)
        moved = clip_boxes(moved, (128, 128))
        nearest, reached = [torch.zeros(0, 4)], [torch.zeros(0)]
        for box, label_ in zip(target["boxes"], target["labels"], strict=True):
            iou = box_iou(box[None], moved[:, label_])[0]
            nearest.append(moved[iou.argmax(), label_][None])
            reached.append(iou.max()[None])
        answer = torch.cat(nearest), torch.cat(reached), target["labels"]
        found.append(dict(zip(("boxes", "scores", "labels"), answer, strict=True)))
    return found


# %%
by_count = {count: (ap(detections(count)), ap(perfect(count))) for count in (3, 5, 10, 30, 50, 100)}
for count, (real, best) in by_count.items():
    print(f"{count:3d} proposals: AP {real:.2f}, classified perfectly {best:.2f}")

# %% [markdown]
# From 30 on the boxes are still getting better, and AP is not. More proposals offer a better box,
# but nothing in the scores says which it is: softmax answers *what*, not *how exactly*. NMS keeps
# the surest box, not the best.

# %% [markdown]
# ## Experiment: the score threshold
#
# **Decide** before you run the next cell: a person will look at the pictures. Which threshold
# would you set? And which for a table of AP?

# %%
your_threshold = None  # decide: a score from 0 to 1


def found_and_wrong(found: list[dict]) -> tuple[int, int]:
    """Objects with a detection of their class at IoU 0.5, and detections beyond those."""
    hits, shown = 0, 0
    for answer, target in zip(found, targets, strict=True):
        same = target["labels"][:, None] == answer["labels"]
        near = box_iou(target["boxes"], answer["boxes"]) >= 0.5
        hits += int((same & near).any(1).sum())
        shown += len(answer["labels"])
    return hits, shown - hits


# %%
by_threshold = {}
for threshold in (0.0, 0.05, 0.2, 0.5, 0.9) + ((your_threshold,) if your_threshold else ()):
    found = detections(threshold=threshold)
    hits, wrong = found_and_wrong(found)
    by_threshold[threshold] = ap(found), hits, wrong
    print(f"over {threshold:.2f}: AP {by_threshold[threshold][0]:.2f}, {hits} objects found, "
          f"{wrong / (hits + wrong):4.0%} of what is shown is wrong")  # fmt: skip
lost = by_threshold[0.05][0] - by_threshold[0.5][0]
reveal(guess, {"AP lost with a score threshold of 0.5": round(lost, 2)})

# %% [markdown]
# AP hardly sees the difference, and a person sees little else. AP goes down the list by falling
# score; what stands at its end, behind all right answers, costs nothing and now and then finds one
# more. So **AP always rises with a lower threshold**, and says nothing about which to show. For a
# person, 0.5 loses two objects of 139 and most of the wrong boxes.

# %%
# alt: A scene at three score thresholds. Over 0.05 boxes without an object lie about; over 0.5 each
#      of the five objects has one box; over 0.9 the star at the left border has none.
low = detections()
for ax, threshold in zip(drawing.panels(3, height=2.6), (0.05, 0.5, 0.9), strict=True):
    shown = drawing.keep_detections(low[48], threshold)
    drawing.show_detections(ax, images[48], shown, CATEGORIES, f"over {threshold}")
    print(f"over {threshold}: {len(shown['boxes'])} boxes, {len(targets[48]['boxes'])} objects")


# %%
def picture(scene: int, threshold: float):
    (ax,) = drawing.panels(1, height=4.2)
    shown = drawing.keep_detections(low[scene], threshold)
    title = f"over {threshold:.2f}: {len(shown['boxes'])}"
    drawing.show_detections(ax, images[scene], shown, CATEGORIES, title)
    return ax.figure


explore(
    picture,
    scene=ipywidgets.IntSlider(48, min=0, max=49),
    threshold=ipywidgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05),
)

# %% [markdown]
# ## On a pyramid: which level?
#
# The small detector has one map. With a feature pyramid (lesson 02) there are several, p3 with a
# cell of 8 pixels to p6 with one of 64. A box is pooled from one of them, by its size:
#
# $$\text{level} = \left\lfloor 4 + \log_2 \frac{\sqrt{wh}}{224} \right\rfloor .$$
#
# 224 pixels is the size of the pictures that trunks are usually trained on, and level 4 has the
# stride of 16 at which Faster R-CNN without a pyramid pools its boxes. Half as large is one level
# finer: so each box covers between 14 and 28 cells of its map, as long as there is a level for it.
#
# ## Exercise 4: the level of a box
#
# The formula, and two precautions: no level outside `first` and `last`, and an index into a list.
#
# <details><summary>Hint</summary>
#
# `torch.log2` of the root of the area; `floor` before `clamp`. The answer counts from `first`,
# because the maps stand in a list.
# </details>

# %% exercise="detection.roi_align.assign_levels"
from fbnet_lesson.detection.roi_align import assign_levels

# %%
check(assign_levels)

# %% [markdown]
# **Plug it in.** The pooler gets four maps, each filled with the number of its level. What it
# pools from a box then says where it comes from.

# %%
from fbnet_lesson.detection.roi_align import Pooler

cells = {3: 128, 4: 64, 5: 32, 6: 16}  # a level's cells along a picture of 1024 pixels
maps = [torch.full((1, 1, n, n), float(level)) for level, n in cells.items()]
edges = torch.tensor([40.0, 111, 112, 223, 224, 447, 448, 900])
squares = torch.stack([edges * 0, edges * 0, edges, edges], 1)  # (8, 4)


def pooled_from() -> str:
    values = Pooler(1, [8, 16, 32, 64])(maps, [squares]).flatten()
    return ", ".join(f"{e:.0f}: p{v:.0f}" for e, v in zip(edges, values, strict=True))


compare(pooled_from, assign_levels=assign_levels)
with plug(assign_levels=lambda boxes, first, last: torch.zeros(len(boxes), dtype=torch.int64)):
    print("always the first:", pooled_from())

# %%
# alt: Cells that a box covers, over its edge in pixels: a saw blade between 14 and 28
#      from 112 pixels on; below that it falls to nothing, as there is no finer level.
(ax,) = drawing.panels(1, height=2.4)
edge = torch.linspace(8, 1400, 800)
levels = mine(assign_levels)(torch.stack([edge * 0, edge * 0, edge, edge], 1), 3, 6) + 3
ax.plot(edge, edge / 2.0**levels, "k-")
ax.set(xlabel="edge of a square box, pixels", ylabel="cells it covers", xscale="log")
ax.set_xticks([14, 28, 56, 112, 224, 448, 896], ["14", "28", "56", "112", "224", "448", "896"])
_ = ax.set_yticks([0, 7, 14, 21, 28])

# %% [markdown]
# ## Your own detector
#
# Anchors and decoding (04), the RPN's outputs in order (05), NMS (06), pooling (07), detections
# (08): with `mine` each is yours, once it has passed its check. The network's layers hold the
# shipped weights; all that stands between them is in these cells.

# %%
EARLIER = ("cell_anchors", "grid_anchors", "decode_boxes", "flatten_predictions", "batched_nms",
           "roi_align")  # fmt: skip
own = {name: mine(name) for name in EARLIER} | {"detections_from": mine(detections_from)}


@torch.no_grad()
def own_proposals(image: Tensor) -> tuple[Tensor, Tensor]:
    """The trunk's map of one picture [1, C, h, w], and the RPN's proposals [R, 4]."""
    batch, (size,) = detector.preprocess([image])
    ((features,), _) = detector.features(batch)
    logits, deltas = own["flatten_predictions"](*(m[0] for m in detector.rpn.head([features])))
    cells = own["cell_anchors"](detector.config.anchor_sizes[0], detector.config.anchor_ratios)
    anchors = own["grid_anchors"](cells, tuple(features.shape[2:]), 8)
    best, order = logits[0].topk(detector.config.pre_nms_topk[1])
    boxes = own["decode_boxes"](deltas[0, order], anchors[order], (1.0, 1.0, 1.0, 1.0))
    boxes = clip_boxes(boxes, size)
    there = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, best = boxes[there], best[there]
    one_group = torch.zeros(len(best), dtype=torch.int64)
    return features, boxes[own["batched_nms"](boxes, best, one_group, 0.7, 50)]


# %%
@torch.no_grad()
def own_detector(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of one picture."""
    features, boxes = own_proposals(image)
    layers = detector.roi_heads.box_head
    x = layers.body(own["roi_align"](features[0], boxes, 6, 1 / 8))  # (R, C, 3, 3)
    x = x.mean((2, 3))  # (R, C)
    deltas = layers.bbox_pred(x).unflatten(1, (-1, 4))  # (R, K, 4)
    return own["detections_from"](layers.cls_score(x), deltas, boxes, (128, 128), 0.05, 0.5, 100)


# %%
total, same, furthest = 0, True, 0.0
with torch.no_grad():
    theirs = [detector([image])[0] for image in images]
for image, their in zip(images, theirs, strict=True):
    boxes, scores, labels = own_detector(image)
    same &= torch.equal(labels, their["labels"])
    total += len(labels)
    if len(labels) == len(their["labels"]) > 0:
        furthest = max(furthest, float((boxes - their["boxes"]).abs().max()) / 128)
        furthest = max(furthest, float((scores - their["scores"]).abs().max()))
print(f"{total} detections on {len(images)} scenes")
print("the same labels in the same order:", same)
print("boxes (of the picture's edge) and scores within 1e-5:", furthest < 1e-5)

# %%
# alt: A scene twice with the same boxes around its objects: on the left those of the detector made
#      of the learner's functions, on the right the package's.
boxes, scores, labels = own_detector(images[48])
yours = {"boxes": boxes, "scores": scores, "labels": labels}
for ax, found, title in zip(
    drawing.panels(2, height=3.0), (yours, theirs[48]), ("yours", "the package's"), strict=True
):
    plain = {key: found[key] for key in ("boxes", "scores", "labels")}
    drawing.show_detections(ax, images[48], drawing.keep_detections(plain, 0.5), CATEGORIES, title)

# %% [markdown]
# This is FBNetV3OD, from the picture to the detections. What you have not written is the trunk
# (lessons 01 and 02) and, for FBNetV3IS, the mask head (lesson 10).

# %% [markdown]
# ## What the documentation gets wrong
#
# **detectron2's `config/defaults.py`** has three comments on the box head that its code does not
# bear out:
#
# - a proposal is foreground "if class > 0": that dates from when 0 was the background. In its code,
#   as here, the background is the last class, and 0 is an object.
# - "Target fraction of RoI minibatch that is labeled foreground": it is an upper limit. With few
#   objects the share is smaller, and background fills up.
# - NMS at test time is said to suppress boxes "with IoU >= this threshold". An IoU of exactly the
#   threshold stays, in the function that it calls:

# %%
import torchvision

half = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2]])  # IoU exactly 1/2
print("IoU:", float(box_iou(half, half)[0, 1]))
scores, one_class = torch.tensor([0.9, 0.8]), torch.tensor([0, 0])
print("torchvision keeps, at 0.5:", torchvision.ops.nms(half, scores, 0.5).tolist())
print("the package keeps, at 0.5:", batched_nms(half, scores, one_class, 0.5).tolist())

# %% [markdown]
# **torchvision** counts the other way round: label 0 is background, objects begin at 1, and the
# docstring of its Faster R-CNN asks for labels without saying so. Who starts at 0 sees a loss that
# falls, and a class that is never found: its boxes are dropped from the box loss without a word.

# %%
from torchvision.models.detection.roi_heads import fastrcnn_loss

logits, regression = torch.zeros(1, 3), torch.zeros(1, 12)
for number in (0, 1):
    labels, wanted = [torch.tensor([number])], [torch.ones(1, 4)]
    _, box_loss = fastrcnn_loss(logits, regression, labels, wanted)
    print(f"an object of label {number}: box loss {float(box_loss):.2f}")

# %% [markdown]
# ## Edge cases

# %%
none, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
print("no objects:  ", label(some, none, no_labels, 6, 0.5)[1].tolist())
print("no proposals:", label(none, two, torch.tensor([2, 0]), 6, 0.5)[1].tolist())
empty = losses_of(torch.zeros(0, 7), torch.zeros(0, 6, 4), no_labels, none)
print("no sample:   ", {name: float(value) for name, value in empty.items()})
answer = select(torch.zeros(0, 7), torch.zeros(0, 6, 4), none, (128, 128), 0.05, 0.5, 100)
print("nothing proposed:", [list(value.shape) for value in answer])
point = torch.tensor([[5.0, 5, 5, 5]])
print(f"area {float(box_area(point)):.0f}, level:", mine(assign_levels)(point, 3, 6).tolist())

# %% [markdown]
# - **No objects** make every proposal background: such a picture still teaches, by its class loss.
# - **No sample** gives a loss of 0, not nan, and nan would end the training.
# - **Scores exactly at the threshold** are dropped; a proposal whose classes are all under it
#   leaves nothing behind.

# %% [markdown]
# ## Stretch
#
# Run the head again on its own boxes: move each proposal by its best class, and give the result to
# the head as a proposal. Twice, three times. Does AP rise, as it does in Cascade R-CNN? Look at
# AP75 too.
#
# <details><summary>What to expect</summary>
#
# Compare with a cascade, and ask what is missing here. The head was trained on the RPN's
# proposals; those that it has moved are better than most that it has seen. A cascade trains a
# head of its own for each step, with thresholds of 0.5, 0.6 and 0.7.
# </details>

# %% [markdown]
# ## Recap
#
# - Proposals and the objects' own boxes get one label each at one threshold: a class, or K. The
#   label judges the box before it is moved.
# - Both losses are sums over the sample, divided by all of it; of the K boxes only that of the
#   right class learns.
# - Softmax, decoding, threshold, NMS class by class, the best 100. AP wants the threshold low, a
#   person wants it at 0.5.
# - On a pyramid, a box twice as large goes one level up.
#
# **Three questions**
#
# <details><summary>1. Your detector finds everything but the first class of your list, after you
# have moved from another library. What happened?</summary>
#
# Its label is 0, which was the background there, or is here taken for an object that is none:
# somewhere the labels are off by one.
# </details>
#
# <details><summary>2. A colleague lowers the score threshold from 0.05 to 0 and reports a better
# AP. Is the detector better?</summary>
#
# No. AP cannot fall when more is appended at the end of the list. The detections that a person
# would look at are the same.
# </details>
#
# <details><summary>3. Why may one proposal become two detections?</summary>
#
# Each pair of proposal and class is a candidate, and NMS compares boxes of one class only. Where
# the head hesitates between two classes, both can be over the threshold.
# </details>
#
# **Sources.** Fast R-CNN (arXiv 1504.08083, sec. 2.3); Faster R-CNN (arXiv 1506.01497); FPN (arXiv
# 1612.03144, eq. 1); R-FCN (arXiv 1605.06409); Cascade R-CNN (arXiv 1712.00726); detectron2's
# `config/defaults.py`; torchvision's `models.detection`.
