# %% [markdown]
# # 09 · COCO evaluation: what AP measures
#
# **You will write COCO's average precision from nothing, get all twelve of its numbers equal to
# pycocotools', and know what they cannot see and how far they can be trusted.**
#
# After this lesson you can
#
# - match detections to objects as COCO does, with crowds and sizes, and turn them into a curve;
# - say of a change to a detector's output whether AP will notice it;
# - put an error bar on an AP, and tell whether one detector is better than another;
# - find out what is wrong with a file of predictions whose AP is 0.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lessons 00, 04, 06 | 30 s, 1200 MB, no network |

# %% [markdown]
# ## Predict first
#
# The small detector makes 491 detections on 100 scenes, and its box AP is 0.82. AP is a share of
# what could be reached: 1 is perfect. Now we tamper with the detections. Write down what AP
# becomes if
#
# 1. every scene gets 95 boxes of nonsense, 9500 in all, with scores below those of all others;
# 2. every detection is given once more, with a score a thousandth lower;
# 3. every score is raised to the eighth power: 0.9 becomes 0.43, 0.5 becomes 0.004;
# 4. every box is shifted by half a pixel, right and down.

# %%
from fbnet_lesson.course import reveal

guess = {"nonsense below": None, "everything twice": None, "scores to the 8th": None,
         "half a pixel": None}  # fmt: skip

# %%
import numpy as np
import torch
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.course.exercises import lesson09 as plain
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.boxes import box_iou
from fbnet_lesson.training import detecting, scoring

torch.set_num_threads(1)  # one order of additions: the same digits on every machine
drawing.small_figures()

# %%
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
scenes = ShapesDataset(100, seed=0, transform=eval_transform())
truth = scenes.coco_ground_truth()
found = detecting.detect(model, scenes).results
print(len(truth["annotations"]), "objects,", len(found), "detections")
print("a detection:", {k: v for k, v in found[0].items() if k in ("image_id", "category_id")})
print("box:", [round(v) for v in found[0]["bbox"]], f"score: {found[0]['score']:.2f}")

# %% [markdown]
# This is COCO's *results format*, the one that every tool understands: one dict for each
# detection, whose `bbox` is `[x, y, width, height]` in pixels of the original picture. The ground
# truth is another such list, with `iscrowd` and `area` besides.

# %% [markdown]
# ## By hand: who found whom?
#
# Two discs, $A$ and $B$, and four detections of the class "disc", by falling score. A detection
# is right if it *finds* an object: if their IoU is high enough, say 0.5. But an object can be
# found only once, so the detections have to take turns.

# %%
objects = torch.tensor([[1.0, 1, 5, 5], [6, 1, 10, 5]])
detections = torch.tensor([[1.0, 1, 5, 4], [1, 1, 5, 5], [6, 2, 10, 6], [4, 1, 8, 5]])
ious = box_iou(detections, objects)  # (4, 2): rows are detections, by falling score

# %%
# alt: Left, two grey squares A and B that stand apart, with four numbered outlines of detections:
#      0 and 1 lie on A, 2 on B, and 3 between the two. Right, the IoU of each detection with A and
#      B.
left, right = drawing.panels(2, height=2.3)
left.set(xlim=(0, 11), ylim=(7, 0), aspect="equal")
for x1, name in ((1, "A"), (6, "B")):
    left.fill([x1, x1 + 4, x1 + 4, x1], [1, 1, 5, 5], color="0.85")
    left.text(x1 + 2, 3.2, name, ha="center")
for d, style in enumerate(("-", "--", "-.", ":")):
    drawing.draw_boxes(left, detections[d : d + 1], width=1.6, style=style)
    left.text(float(detections[d, 2]) - 0.1, float(detections[d, 3]) - 0.1, d, ha="right")
drawing.value_grid(right, ious, "IoU: rows detections, columns A and B")

# %%
free = {"A", "B"}
for d, row in enumerate(ious.tolist()):
    overlaps = {name: round(iou, 2) for name, iou in zip("AB", row, strict=True)}
    possible = [name for name in free if overlaps[name] >= 0.5]
    best = max(possible, key=overlaps.get, default=None)
    free -= {best}
    print(f"detection {d}: IoU {overlaps}, takes {best}; still free: {sorted(free)}")

# %% [markdown]
# Look at detection 1. It fits $A$ perfectly, and it counts as **wrong**, because detection 0
# scored higher and took $A$ with an IoU of 0.75. That is deliberate: a detector should say each
# thing once. Detection 3 lies between the two and finds nothing.

# %% [markdown]
# ## From right and wrong to a curve
#
# Take all detections of one class, from all images, by falling score. After the best $k$ of them,
# two shares say how we are doing:
#
# $$\text{precision}_k = \frac{\text{right among the best } k}{k}, \qquad
# \text{recall}_k = \frac{\text{right among the best } k}{\text{objects}}.$$
#
# Go on from $k$ to $k + 1$. If that detection is right, both rise (or stay); if it is wrong,
# precision falls and recall stays. Our four detections were right, wrong, right and wrong, and
# there are two objects: what are the four precisions, and the four recalls?
#
# ## Exercise 1: precision and recall
#
# <details><summary>Hint</summary>
#
# `correct.double().cumsum(0)` counts the right ones among the best 1, 2, …, D. In double
# precision, because a recall of 3/10 will soon be compared with a level of 0.3.
# </details>

# %% exercise="course.exercises.lesson09.precision_recall"
from fbnet_lesson.course.exercises.lesson09 import precision_recall

# %%
check(precision_recall)

# %%
for value in mine(precision_recall)(torch.tensor([True, False, True, False]), 2):
    print([round(v, 2) for v in value.tolist()])

# %% [markdown]
# ## Objects that neither gain nor cost anything
#
# Two kinds of objects need special care. A **crowd** (`iscrowd`) is a region with many objects
# that nobody outlined one by one: a detection inside it is neither right nor wrong, and there may
# be any number of them. And when only small objects are asked for, all others are **ignored** in
# the same way: finding one earns nothing and costs nothing. An ignored object must not take a
# detection away from one that counts, so those that count are looked at first.

# %% [markdown]
# ## Exercise 2: match
#
# Write the loop for one image and one class, with ignored objects and crowds.
#
# <details><summary>Hint</summary>
#
# Keep a bool tensor of the objects that are still free. For each row: which objects are possible
# (free or crowd, IoU high enough)? If any of those counts, only those that count are possible.
# Then `argmax`, over the possible ones only; `masked_fill` gives the others a value that loses.
# </details>

# %% exercise="course.exercises.lesson09.match_detections"
from fbnet_lesson.course.exercises.lesson09 import match_detections

# %%
check(match_detections)

# %% [markdown]
# **Plug it in.** `evaluate` as a rule asks pycocotools. Inside `compare` it asks a plain form of
# the same computation, with your function in it.


# %%
def box_ap() -> dict[str, float]:
    scores = scoring.average_precision(truth, found, "bbox")
    return {name: round(scores[name], 4) for name in ("AP", "AP50", "AP75", "AR100")}


compare(box_ap, match_detections=match_detections)

# %% [markdown]
# ## Exercise 3: what counts
#
# COCO reports AP for small, medium and large objects too, where *small* is an area under 32²
# pixels. Objects of other sizes are ignored. But what about a detection that finds nothing, a
# false alarm? A large false alarm says nothing about how well small objects are found. So, among
# detections that found nothing, only those of the right size count.
#
# Notice that the size of a detection matters *only* if it found nothing. A detection that found a
# small object counts as small, even if its own box is a little over the limit.
#
# <details><summary>Hint</summary>
#
# `torch.where(matched < 0, a, b)`: what is `a`, and what is `b`? Both are computed for every
# detection, so `b` must not fail where `matched` is -1, even if there is no object at all.
# </details>

# %% exercise="course.exercises.lesson09.which_count"
from fbnet_lesson.course.exercises.lesson09 import which_count

# %%
check(which_count)

# %% [markdown]
# Here is one class of our detector, at three IoU thresholds. The detections are the same each
# time; what changes is how well a box has to fit to be called right.


# %%
def curve(category_id: int, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Precision and recall of one class over all scenes; our scenes have hardly any crowds."""
    images = plain.of_size(plain.images_of_class(truth, found, category_id), 0, 1e10)
    match, right, scores = mine(match_detections), [], []
    for image in images:
        arguments = image["ious"], image["ignored"], image["crowd"], iou_threshold
        right.append(match(*arguments) >= 0)
        scores.append(image["scores"])
    order = torch.cat(scores).argsort(descending=True, stable=True)
    objects = sum(int((~image["ignored"]).sum()) for image in images)
    return mine(precision_recall)(torch.cat(right)[order], objects)


# %%
# alt: Three precision-recall curves of one class. At IoU 0.5 precision stays near 1 up to a recall
#      of 0.9; at 0.75 nearly as long; at 0.95 it is jagged and ends at a recall of 0.2.
(ax,) = drawing.panels(1, height=2.6)
for threshold, style in ((0.5, "-"), (0.75, "--"), (0.95, ":")):
    precision, recall = curve(4, threshold)
    ax.plot(recall, precision, "k", linestyle=style, label=f"IoU {threshold}")
    print(f"IoU {threshold}: {len(recall)} detections reach recall {float(recall[-1]):.2f}")
ax.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall", ylabel="precision")
ax.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), title="triangles")
_ = ax.legend()

# %% [markdown]
# ## One number from a curve
#
# A threshold on the score picks one point of the curve; AP wants to judge all of them at once, so
# that nobody has to choose. "The area under the curve" is how it is mostly described. The curve
# is jagged, though: a wrong detection makes a notch that the next right one repairs. COCO
# therefore asks, at each of 101 recall levels 0, 0.01, …, 1: *what is the best precision that can
# be had at this recall or more?* Whoever needs a recall of 0.3 may as well take the point at 0.35,
# if precision is better there.
#
# $$\text{AP} = \frac{1}{101} \sum_{r \in \{0, 0.01, \dots, 1\}}
# \ \max_{k:\ \text{recall}_k \ge r} \text{precision}_k$$
#
# Six detections of four objects, and five levels instead of 101:

# %%
right = torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.bool)
precision, recall = mine(precision_recall)(right, 4)
print("precision:", [round(p, 2) for p in precision.tolist()])
print("recall:   ", recall.tolist())
for level in (0, 0.25, 0.5, 0.75, 1):
    there = precision[recall >= level].tolist()
    print(f"  level {level}: best precision {round(max(there, default=0), 2)}")

# %% [markdown]
# At level 0.5 the detection that gets there has a precision of 2/3, but the next one has 3/4: that
# is what counts. Level 1 is never reached, and counts 0.
#
# ## Exercise 4: average precision
#
# <details><summary>Hint</summary>
#
# "The best from here on" is a running maximum from the end: `flip`, `cummax`, `flip`. Then
# `torch.searchsorted(recall, points)` gives for each level the first place at which recall is
# that much. For levels that are never reached, it gives the place behind the last one: put a 0
# there.
# </details>

# %% exercise="course.exercises.lesson09.average_precision"
from fbnet_lesson.course.exercises.lesson09 import average_precision

# %%
check(average_precision)

# %% [markdown]
# ## Exercise 5: one class, all images
#
# Now put your four functions together. The detections of all images go into **one** list; AP is
# not the mean of the images' APs. A scene with one object and a scene with seven weigh as their
# objects do.
#
# <details><summary>Hint</summary>
#
# In a loop over the images collect three things: which of the detections that count are right,
# their scores, and how many objects there are that are not ignored. Then `cat`, one stable
# `argsort`, and the two functions of exercises 1 and 4.
# </details>

# %% exercise="course.exercises.lesson09.class_ap"
from fbnet_lesson.course.exercises.lesson09 import class_ap

# %%
check(class_ap)

# %% [markdown]
# **All twelve numbers.** What is left is bookkeeping: ten IoU thresholds from 0.5 to 0.95, four
# ranges of sizes, all classes, and the mean over what is defined. AR is simpler, the recall at the
# end of the curve, with at most 1, 10 or 100 detections an image. `plain.summary` does that with
# your `class_ap`; beside it stands pycocotools.

# %%
for kind in ("bbox", "segm"):
    ours = plain.summary(truth, found, kind, ap=mine(class_ap), match=mine(match_detections))
    theirs = scoring.average_precision(truth, found, kind)
    names = scoring.SUMMARY
    print(kind, " ".join(f"{name} {ours[name]:.3f}" for name in names[:6]))
    print("    ", " ".join(f"{name} {ours[name]:.3f}" for name in names[6:]))
    gaps = [abs(ours[name] - theirs[name]) for name in names if ours[name] == ours[name]]
    print("     equal to pycocotools' to 12 digits:", max(gaps) < 1e-12)

# %% [markdown]
# `nan` stands for sizes that do not occur: in a picture of 128 pixels nothing is larger than 96².
# pycocotools itself prints −1 for them, which has been taken for a very bad result more than once.

# %% [markdown]
# ## Experiment: what AP does not see
#
# Time for your four predictions, and for a few more ways to tamper with a result.

# %%
low = min(r["score"] for r in found)
categories = [c["id"] for c in truth["categories"]]
nonsense = [
    {"image_id": i["id"], "category_id": categories[n % 6], "bbox": [0, 0, 5, 5], "score": low / 2}
    for i in truth["images"]
    for n in range(95)
]


def shifted(pixels: float) -> list[dict]:
    moved = [[r["bbox"][0] + pixels, r["bbox"][1] + pixels, *r["bbox"][2:]] for r in found]
    return [{**r, "bbox": box} for r, box in zip(found, moved, strict=True)]


# %%
changed = {
    "as it is": found,
    "nonsense below": found + nonsense,
    "everything twice": found + [{**r, "score": 0.999 * r["score"]} for r in found],
    "scores to the 8th": [{**r, "score": r["score"] ** 8} for r in found],
    "half a pixel": shifted(0.5),
    "two pixels": shifted(2),
    "whole pixels": [{**r, "bbox": [round(v) for v in r["bbox"]]} for r in found],
    "only over 0.5": [r for r in found if r["score"] > 0.5],
}

# %%
scores = {k: scoring.average_precision(truth, v, "bbox") for k, v in changed.items()}
for name, of in scores.items():
    columns = [f"{key} {of[key]:.2f}" for key in ("AP", "AP50", "AP75", "AR100")]
    print(f"{name:18s}{len(changed[name]):6d} boxes  ", "  ".join(columns))
ap = {name: round(of["AP"], 2) for name, of in scores.items()}
reveal(guess, {"nonsense below": ap["nonsense below"], "everything twice": ap["everything twice"],
               "scores to the 8th": ap["scores to the 8th"],
               "half a pixel": ap["half a pixel"]})  # fmt: skip

# %% [markdown]
# - **9500 boxes of nonsense cost nothing.** They come after everything else on the curve, where
#   recall has ended. AP looks at the order of the detections and forgives whatever comes last,
#   which is why detectors are evaluated with a score threshold of 0.05 or less.
# - **Everything twice costs 0.23.** The copies come right behind their originals, and each is
#   wrong. That is what NMS saves you from (lesson 06).
# - **Scores to the eighth power change nothing**: only their order matters. A detector whose 0.9
#   means "right nine times in ten" and one whose 0.9 means nothing of the kind have the same AP.
# - **Half a pixel costs 0.04.** AP50 does not notice; the thresholds of 0.9 and 0.95 do.
#   Off-by-half errors in a data pipeline, the kind that lesson 04 warns of, are worth as much as a
#   better network. Rounding to whole pixels, by contrast, does not hurt here: our shapes were drawn
#   on whole pixels.
# - **Leaving out everything under 0.5 costs 0.01**, though it removes 200 of 491 boxes. A person
#   who looks at the picture would call that a much better result.

# %% [markdown]
# So here is something for you to decide. Somebody wants to *look* at the detections, and each box
# too many annoys them as much as each object missed. At which score would you cut? Count both kinds
# of errors for a few thresholds, and put down yours before you look at the curve.

# %%
choice = {"my score threshold": None}


# %%
def errors(score: float) -> tuple[int, int]:
    """False alarms and missed objects over all scenes, at an IoU of 0.5."""
    wrong = missed = 0
    shown = [r for r in found if r["score"] >= score]
    for category_id in categories:
        for image in plain.of_size(plain.images_of_class(truth, shown, category_id), 0, 1e10):
            arguments = image["ious"], image["ignored"], image["crowd"], 0.5
            matched = plain.match_detections(*arguments)
            hits = int((~image["ignored"][matched[matched >= 0]]).sum())
            wrong += int((matched < 0).sum())
            missed += int((~image["ignored"]).sum()) - hits
    return wrong, missed


print("at 0.05: {} false alarms, {} missed".format(*errors(0.05)))

# %%
thresholds = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
wrong, missed = zip(*map(errors, thresholds), strict=True)
together = [a + b for a, b in zip(wrong, missed, strict=True)]
print("errors:", dict(zip(thresholds, together, strict=True)))

# %%
# alt: Two curves over the score threshold. False alarms fall from about 200 at 0.05 to a few at
#      0.9, missed objects rise from about 10 to 50. Their sum is smallest in the middle.
(ax,) = drawing.panels(1, height=2.4)
ax.plot(thresholds, wrong, "k--", label="false alarms")
ax.plot(thresholds, missed, "k:", label="missed objects")
ax.plot(thresholds, together, "k.-", label="together")
ax.set(xlabel="score threshold", ylim=(0, 220), xticks=(0.1, 0.3, 0.5, 0.7, 0.9))
ax.set(yticks=(0, 50, 100, 150, 200), ylabel="in 100 scenes")
ax.legend()
best = min(together)
fewest = [t for t, n in zip(thresholds, together, strict=True) if n == best]
reveal(choice, {"my score threshold": fewest[0]})

# %% [markdown]
# AP cannot choose this threshold for you, because it never cuts. The same detections turned with a
# slider, on a few scenes:


# %%
import ipywidgets

pictures = {i: scenes[i][0] for i in range(20, 28)}


# %%
def picture(scene: int, score: float):
    (ax,) = drawing.panels(1, height=4.0)
    shown = [r for r in found if r["image_id"] == scene and r["score"] >= score]
    drawing.show_image(ax, pictures[scene], f"{len(shown)} detections", dim=0.3)
    boxes = torch.tensor([r["bbox"] for r in shown]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
    drawing.draw_boxes(ax, boxes, width=1.4, texts=[f"{r['score']:.2f}" for r in shown])
    return ax.figure


explore(
    picture,
    scene=ipywidgets.IntSlider(24, min=20, max=27),
    score=ipywidgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05),
)

# %%
# alt: One scene three times, with the detections over 0.05, over 0.5 and over 0.9. On the left ten
#      boxes, some of them double; in the middle seven; on the right four, where two crosses and
#      nothing else have none.
for ax, score in zip(drawing.panels(3, height=2.6), (0.05, 0.5, 0.9), strict=True):
    shown = [r for r in found if r["image_id"] == 24 and r["score"] >= score]
    drawing.show_image(ax, pictures[24], f"over {score}: {len(shown)}", dim=0.3)
    boxes = torch.tensor([r["bbox"] for r in shown]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    drawing.draw_boxes(ax, boxes, width=1.2)

# %% [markdown]
# ## Error bars: is this detector better than that one?
#
# The same model with 20 proposals after NMS instead of 50 is cheaper, and its AP is 0.81 instead of
# 0.82. Is it worse, or were these 100 scenes unlucky for it? If we could draw new scenes again and
# again we would see how much AP varies. Real test sets cannot be drawn again, but there is a trick,
# the **bootstrap**: draw 100 scenes *out of the 100 that we have*, with replacement, so that some
# come twice and some not at all. Compute AP. Do that 500 times.
#
# It does not take 500 evaluations. A scene that was drawn twice counts twice: its detections and
# its objects get the weight 2. So the matching is done once, and the weights enter the sums.


# %%
def flags(results: list[dict]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each class and IoU threshold: right or wrong by falling score [D], the scene of each
    detection [D], and the number of objects of each scene."""
    curves = []
    for category_id in categories:
        images = plain.of_size(plain.images_of_class(truth, results, category_id), 0, 1e10)
        scores = torch.cat([image["scores"] for image in images])
        scene = torch.repeat_interleave(torch.tensor([len(i["scores"]) for i in images]))
        count = torch.tensor([float((~image["ignored"]).sum()) for image in images]).double()
        order = scores.argsort(descending=True, stable=True)
        for t in plain.THRESHOLDS:
            arguments = [(i["ious"], i["ignored"], i["crowd"], t) for i in images]
            right = torch.cat([plain.match_detections(*a) >= 0 for a in arguments])
            curves.append((right[order].double(), scene[order], count))
    return curves


# %%
def weighted_ap(curves: list, weights: Tensor) -> Tensor:
    """AP of each row of ``weights`` [B, scenes], all rows at once: [B]."""
    total = 0
    for right, scene, count in curves:
        weight = weights[:, scene]  # (B, D)
        hits = (weight * right).cumsum(1)
        precision = hits / weight.cumsum(1).clamp(min=1)
        recall = hits / (weights @ count)[:, None]
        envelope = precision.flip(1).cummax(1).values.flip(1)
        levels = plain.POINTS.expand(len(weights), -1).contiguous()
        first = torch.searchsorted(recall.contiguous(), levels)  # (B, 101)
        padded = torch.cat([envelope, envelope.new_zeros(len(weights), 1)], 1)
        total = total + padded.gather(1, first).mean(1)
    return total / len(curves)


# %%
fewer = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes", post_nms_topk=(100, 20)).eval()
found_by_fewer = detecting.detect(fewer, scenes).results
drawn = torch.randint(100, (500, 100), generator=torch.Generator().manual_seed(0))
weights = torch.nn.functional.one_hot(drawn, 100).sum(1).double()  # (500, 100): how often each
a, b = flags(found), flags(found_by_fewer)
once = torch.ones(1, 100).double()
print(f"AP with 50 proposals {float(weighted_ap(a, once)):.2f}, with 20 proposals "
      f"{float(weighted_ap(b, once)):.2f}")  # fmt: skip
ap_a, ap_b = weighted_ap(a, weights), weighted_ap(b, weights)
print(f"standard error of each: {float(ap_a.std()):.2f} and {float(ap_b.std()):.2f}")

# %% [markdown]
# Each AP has a standard error of 0.01 to 0.02, and the difference is 0.015. By that measure nobody
# could tell the two apart. Predict: in what share of the 500 draws is the detector with 50
# proposals the better one?

# %%
difference = ap_a - ap_b  # on the same draws

# %%
# alt: Two histograms. Left, the APs of both detectors over 500 draws overlap almost entirely.
#      Right, the difference on the same draw is narrow and lies to the right of 0.
left, right = drawing.panels(2, height=2.3)
bins = np.linspace(0.74, 0.88, 29)
left.hist(ap_b.numpy(), bins, color="0.75", label="20 proposals")
left.hist(ap_a.numpy(), bins, histtype="step", color="black", label="50 proposals")
left.set(xlabel="AP of a draw", xticks=(0.75, 0.8, 0.85))
left.legend(fontsize=7)
right.hist(difference.numpy(), 25, color="0.5")
right.axvline(0, color="black", linewidth=1)
_ = right.set(xlabel="difference on the same draw", xticks=(0, 0.02))

# %%
better = float((difference > 0).double().mean())
low, high = difference.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
print("50 proposals are better in 98 % of the draws or more:", better >= 0.98)
print(f"difference, middle 95 %: {low:.3f} to {high:.3f}")

# %% [markdown]
# In practically all of them. Both detectors look at the *same* scenes, and a draw of hard scenes is
# hard for both. What they share drops out of the difference. So:
#
# - One AP by itself is known to about ± 0.03 here (two standard errors). Two papers that evaluated
#   on different 100 scenes could not be compared to the second digit.
# - A **paired** comparison, on the same scenes, is three times as sharp. It needs the detections of
#   both, not only their APs: keep the files.
# - None of this says anything about a new training of the same detector. That spread, between
#   seeds, comes on top, and lesson 11 measures it.
#
# ## The clinic: eight spoiled files
#
# Eight files of predictions, made by good detectors and spoiled on the way to the file. Each is a
# patient. The examination shows its two best detections beside the two objects of the same image;
# what is wrong? Write your diagnosis into `diagnosis` with one of the eight words, then go on.

# %%
diagnosis = {"A": None, "B": None, "C": None, "D": None, "E": None, "F": None, "G": None, "H": None}
WORDS = ("image ids", "xyxy", "other size", "0..1", "labels shifted", "scores reversed",
         "other order", "images missing")  # fmt: skip


# %%
def examine(patient: list[dict], image_id: int = 25) -> None:
    names = {c["id"]: c["name"] for c in truth["categories"]}
    rows = [a for a in truth["annotations"] if a["image_id"] == image_id]
    print(
        "   objects:   ", [(names[a["category_id"]], [round(v) for v in a["bbox"]]) for a in rows]
    )
    best = sorted((r for r in patient if r["image_id"] == image_id), key=lambda r: -r["score"])
    print("   detections:", [(names.get(r["category_id"], r["category_id"]),
                              [round(v) if v > 2 else round(v, 1) for v in r["bbox"]],
                              round(r["score"], 2))
                             for r in best[:2]])  # fmt: skip


# %%
def spoiled(**change) -> list[dict]:
    """The detections with some entries computed anew, each from the detection."""
    return [{**r, **{key: new(r) for key, new in change.items()}} for r in found]


def corners(r: dict) -> list[float]:
    x, y, width, height = r["bbox"]
    return [x, y, x + width, y + height]


# %%
order = dict(zip(categories, (4, 1, 6, 2, 3, 5), strict=True))
patients = {
    "A": spoiled(bbox=lambda r: [1.75 * v for v in r["bbox"]]),
    "B": spoiled(category_id=lambda r: order[r["category_id"]]),
    "C": [r for r in found if r["image_id"] % 3],
    "D": spoiled(bbox=corners),
    "E": spoiled(score=lambda r: 1 - r["score"]),
    "F": spoiled(image_id=lambda r: r["image_id"] + 1),
    "G": spoiled(bbox=lambda r: [v / 128 for v in r["bbox"]]),
    "H": spoiled(category_id=lambda r: r["category_id"] - 1),
}

# %%
for name, patient in patients.items():
    of = scoring.average_precision(truth, patient, "bbox")
    print(f"{name}: AP {of['AP']:.2f}, AP50 {of['AP50']:.2f}, AR100 {of['AR100']:.2f}")
    examine(patient)

# %% [markdown]
# The numbers alone say a lot. A recall of 0 means that nothing meets at all; a recall as before
# with a poor AP means that the boxes are fine and their order is not. The package does what you
# just did: it undoes each kind of damage in turn, and names the one that brings AP back.

# %%
from fbnet_lesson.training.explain import explain

answers = dict(zip("ABCDEFGH", ("other size", "other order", "images missing", "xyxy",
                                "scores reversed", "image ids", "0..1", "labels shifted"),
                   strict=True))  # fmt: skip
for name, patient in patients.items():
    metrics = {"box": scoring.average_precision(truth, patient, "bbox")}
    said = [s for s in explain(truth, patient, metrics) if "undefined" not in s]
    print(f"{name}: {said[-1]}")
reveal(diagnosis, answers)

# %% [markdown]
# `fbnet-lesson eval --predictions FILE.json --data ANNOTATIONS.json` says the same of anybody's
# file, and `eval` of a run says why an AP is 0 or undefined. Patient E is the one to remember: its
# AP of 0.46 looks like a mediocre detector, not like a bug.

# %% [markdown]
# ## What the documentation gets wrong
#
# **"AP is the area under the precision-recall curve."** So say most introductions. Here are three
# numbers for one curve, all of them called that: straight lines between the detections (what
# `torch.trapezoid` or `sklearn.metrics.auc` does), rectangles under the envelope (PASCAL VOC since
# 2010), and COCO's 101 levels.

# %%
precision, recall = curve(4, 0.9)
envelope = precision.flip(0).cummax(0).values.flip(0)
steps = recall.diff(prepend=recall.new_zeros(1))
print(f"straight lines:             {float(torch.trapezoid(precision, recall)):.3f}")
print(f"rectangles, under envelope: {float((envelope * steps).sum()):.3f}")
coco = plain.average_precision(precision, recall, plain.POINTS)
print(f"101 levels:                 {float(coco):.3f}")

# %% [markdown]
# Is the difference worth talking about? Here is the whole AP, of all classes and thresholds, once
# with the 101 levels and once with straight lines in their place.


# %%
def straight_lines(precision: Tensor, recall: Tensor, points: Tensor) -> Tensor:
    return torch.trapezoid(precision, recall)


print("101 levels:    ", box_ap())
with plug(average_precision=straight_lines):
    print("straight lines:", box_ap())

# %% [markdown]
# Two points of AP for the same detections: as much as a better backbone brings, and more than the
# step from 20 to 50 proposals. A number is comparable only with numbers of the same definition.

# %% [markdown]
# **"`maxDets` - [1 10 100] M=3 thresholds on max detections per image."** That is the comment at
# the head of pycocotools' `COCOeval`, and it sounds as if one could set others. One can, but the
# first line of `summarize` always looks for 100, and says −1 where it finds none:

# %%
import contextlib
import copy
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# %%
with contextlib.redirect_stdout(io.StringIO()):  # it talks
    target = COCO()
    target.dataset = copy.deepcopy(truth)
    target.createIndex()
    boxes_only = [{k: v for k, v in r.items() if k != "segmentation"} for r in found]
    coco = COCOeval(target, target.loadRes(boxes_only), "bbox")
    coco.params.maxDets = [1, 10, 300]
    coco.evaluate()
    coco.accumulate()
    coco.summarize()
print("AP, AP50 with maxDets [1, 10, 300]:", [round(float(v), 2) for v in coco.stats[:2]])

# %% [markdown]
# **"Small" boxes.** For boxes, too, the size of an object is the `area` of its annotation, which is
# the area of its *mask*. A thin diagonal object with a large box is small. Our rings are full of
# holes, and `AP small` of boxes counts some of them whose box is well over 32².

# %%
rings = [a for a in truth["annotations"] if a["category_id"] == 2]
small = [a for a in rings if a["area"] <= 32**2]
large_box = [a for a in small if a["bbox"][2] * a["bbox"][3] > 32**2]
print(f"{len(rings)} rings, {len(small)} small by their area, {len(large_box)} of those have a box "
      "over 32²")  # fmt: skip

# %% [markdown]
# ## Edge cases

# %%
for name, right, objects in (("no detection", [], 3), ("only wrong ones", [0, 0], 3),
                             ("one right, one object", [1], 1)):  # fmt: skip
    p, r = plain.precision_recall(torch.tensor(right, dtype=torch.bool), objects)
    print(f"{name:22s} AP {float(plain.average_precision(p, r, plain.POINTS)):.2f}")
_, recall = plain.precision_recall(torch.ones(35, dtype=torch.bool), 100)
for name, levels in (
    ("np.linspace(0, 1, 101)", plain.POINTS),
    ("k / 100", torch.arange(101).double() / 100),
):
    reached = int((levels <= recall[-1]).sum())
    print(f"35 of 100 objects found: {reached} levels {name} are reached")

# %% [markdown]
# - **No detection** is an AP of 0, **no object** is no AP at all. A class that does not occur in
#   the test set is left out of the mean, and the mean is then over other classes than you think.
# - **A recall exactly at a level** is where two implementations part. Level 35 should be 0.35. As
#   `np.linspace` computes it, in double precision, it is a little more, and a recall of 35/100 does
#   not reach it; computed as 35/100 it is reached. The functions of this lesson take pycocotools'
#   own levels, to the last bit: hence the twelve equal numbers.
# - **IoU exactly at the threshold** finds the object: `>=`, where NMS asks for `>`.
# - **Two objects with the same IoU** for one detection: pycocotools takes the later one. Neither is
#   better, but whoever compares implementations match by match will meet it.

# %% [markdown]
# ## Stretch
#
# 1. *Boundary AP.* Box IoU hardly changes when a mask loses one pixel all around. Score masks by
#    the IoU of their boundaries (the pixels within 2 of the outline), and see how far AP falls.
# 2. *Calibration.* Sort the detections into ten bins by their score, and compare the mean score of
#    each bin with the share that is right at an IoU of 0.5. Is this detector too sure of itself?
#
# <details><summary>What to expect</summary>
#
# 1. Much further for small objects than for large ones, as a boundary of width 2 is most of a small
#    mask. Lesson 10 uses it to compare mask resolutions.
# 2. In the upper bins scores and shares agree within a few hundredths; in the lowest bins nearly
#    everything is wrong, as NMS lets worse copies through.
# </details>

# %% [markdown]
# ## Recap
#
# - AP sorts all detections of a class, lets each find one object, and averages the best precision
#   over 101 recall levels; then over classes and IoU thresholds from 0.5 to 0.95.
# - It sees order and fit. It does not see what comes last, what the scores mean, or which threshold
#   somebody should cut at.
# - An AP has an error bar. Compare detectors on the same images, in pairs, and keep the detections.
#
# **Three questions**
#
# <details><summary>1. A colleague evaluates with a score threshold of 0.5, "because nobody looks at
# worse boxes", and reports an AP one point lower than yours for the same weights. Who is
# right?</summary>
#
# Both numbers are right, and they cannot be compared. Cutting can only lower AP, because it ends
# the curve at a lower recall. Evaluate with 0.05 or less, and cut where somebody looks.
# </details>
#
# <details><summary>2. AR100 is 0.85 and AP is 0.30. What would you look at first?</summary>
#
# Nearly everything is found, so the boxes are good; the order is bad. Look at the scores and
# classes: are duplicates left, are scores reversed, are labels mixed up?
# </details>
#
# <details><summary>3. A new loss gives an AP of 0.824 instead of 0.820 on these 100 scenes, in one
# training each. What can you say?</summary>
#
# Not much. The standard error of each AP is over 0.01. A paired bootstrap may show that these two
# *networks* differ; whether the *loss* is better needs several trainings of each.
# </details>
#
# **Sources.** COCO: Common Objects in Context (arXiv 1405.0312) and its evaluation code,
# pycocotools, whose `cocoeval.py` was read line by line for this lesson; the PASCAL VOC challenge
# (Everingham et al., 2010) for precision, recall and the envelope; the bootstrap, Efron and
# Tibshirani, *An Introduction to the Bootstrap* (1993), ch. 6.
