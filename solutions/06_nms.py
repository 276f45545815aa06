# %% [markdown]
# # 06 · NMS: one box for each object
#
# **You will write non-maximum suppression as a loop, see it as a few matrix products, and know
# from measurements how many boxes to keep before and after it.**
#
# After this lesson you can
#
# - suppress boxes by hand, with a loop and in rounds, and say why all three agree;
# - treat ties, boxes exactly at the threshold, boxes without area and several classes as the
#   reference implementations do;
# - choose pre- and post-NMS top-k from recall and from counted work;
# - find inputs on which a well-known library suppresses the wrong box.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lessons 00, 04, 05 | 30 s, 1100 MB, no network |

# %% [markdown]
# ## Predict first
#
# The RPN of the small detector scores 3840 anchors. The 300 best go into NMS, which removes boxes
# that overlap a better one by more than 0.7; the 50 best of what is left go on to the box head.
# Write down:
#
# 1. How many of the 300 does NMS leave?
# 2. Only 10 proposals a picture instead of 50: which share of all objects still has one that
#    covers it with IoU 0.5 or more?
# 3. Which is more arithmetic: comparing each of the 300 boxes with every other one, or the box
#    head on *one* proposal?
#
# And two that come later:
#
# 4. The published detectors on FBNet keep 30 proposals instead of 50 for the box head. By how much
#    does the box AP of the small detector, 0.83 with 50, fall with 30?
# 5. The last NMS, on the detections, has a threshold of 0.5. Of the objects that are found with
#    it, which share is still found with 0.2?

# %%
from fbnet_lesson.course import reveal

guess = {
    "left by NMS, of 300": None,
    "recall with 10 proposals": None,
    "more arithmetic, NMS or one proposal": None,
    "box AP lost with 30 proposals": None,
    "still found with a threshold of 0.2": None,
}

# %%
import torch
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.data.shapes import CATEGORIES, ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.boxes import box_iou

torch.set_num_threads(1)  # one order of additions: the same digits on every machine
drawing.small_figures()

# %%
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
scenes = ShapesDataset(50, seed=0, transform=eval_transform())
image, truth = scenes[48]
names = [CATEGORIES[k] for k in truth["labels"]]
config = model.config
print("objects:", names)
print("pre-NMS top-k (train, test): ", config.pre_nms_topk)
print("post-NMS top-k (train, test):", config.post_nms_topk)
print("NMS threshold: RPN", config.rpn_nms_threshold, "detections", config.nms_threshold)

# %% [markdown]
# ## The problem: many anchors, one object
#
# The function below runs the detector up to the point where NMS begins: anchors scored, moved,
# clipped to the picture, sorted by falling objectness (lesson 05).

# %%
from fbnet_lesson.detection.rpn import Proposals, flatten_predictions


def candidates_of(image: Tensor, detector=model) -> Proposals:
    """What the RPN gives to NMS: its ``pre_nms_topk`` best boxes, the best first."""
    batch, sizes = detector.preprocess([image])
    with torch.no_grad():
        features = detector.backbone(batch)
        features = [features[name] for name in detector.rpn_features]
        outputs = zip(*detector.rpn.head(features), strict=True)
        predictions = [flatten_predictions(*output) for output in outputs]
        (found,) = detector.rpn.candidates(detector.rpn.anchors(features), predictions, sizes)
    return found


# %%
candidates = candidates_of(image)
on_object = box_iou(truth["boxes"], candidates.boxes) > 0.5  # (G, 300)
for name, row in zip(names, on_object, strict=True):
    print(f"{name:9s}{int(row.sum()):3d} candidates with IoU over 0.5")

# %%
from fbnet_lesson.detection import nms as package

of_square = on_object[0]  # (300,) bool: the candidates on the first object
square = candidates.boxes[of_square]
kept = package.nms(square, candidates.logits[of_square], config.rpn_nms_threshold)
print(f"of {len(square)} boxes on the square, {len(kept)} stay")

# %%
# alt: On the left a scene under a mesh of 300 thin boxes, dense around each object. On the right
#      its square, close up, with all candidates dotted and the few that NMS keeps in solid lines.
left, right = drawing.panels(2, height=3.0)
drawing.show_image(left, image, f"{len(candidates.boxes)} candidates", dim=0.5)
drawing.draw_boxes(left, candidates.boxes, width=0.4, alpha=0.35)

drawing.show_image(right, image, f"{len(square)} on the square; NMS keeps the solid", dim=0.5)
drawing.draw_boxes(right, square, width=0.8, style=":")
drawing.draw_boxes(right, square[kept], width=1.6)
_ = right.set(xlim=(16, 58), ylim=(46, 4))  # close up

# %% [markdown]
# All of these are right, in a way: the network was trained to call every anchor with an IoU of 0.7
# or more an object, and what it says of one anchor does not depend on what it says of the next.
# Somebody has to choose one of them afterwards. That step has nothing to learn: it compares boxes
# with boxes.

# %% [markdown]
# ## By hand: four boxes
#
# Four boxes by falling score. $\text{IoU}(A, B) = 12/20$, the same for $B$ and $C$; $A$ and $C$
# share $8/24$; $D$ stands apart. The threshold is 0.5.

# %%
four = torch.tensor([[0.0, 0, 4, 4], [1, 0, 5, 4], [2, 0, 6, 4], [7, 1, 10, 4]])
iou = box_iou(four, four)  # (4, 4)
for name, row in zip("ABCD", iou, strict=True):
    print(name, "  ".join(f"{value:.2f}" for value in row), "  over 0.5:", (row > 0.5).tolist())

# %%
# alt: Three boxes of one size, A, B dashed and C, each shifted a quarter of its width to the right
#      of the last, and a smaller box D apart from them.
(ax,) = drawing.panels(1, height=1.8)
ax.set(xlim=(-0.5, 10.5), ylim=(5, -1.2), aspect="equal")
ax.set_title("A scores best, D worst", fontsize=9)
for name, box, style in zip("ABCD", four, ("-", "--", "-.", "-"), strict=True):
    drawing.draw_boxes(ax, box[None], width=1.8, style=style)
    ax.text(box[0] + 0.1, box[1] - 0.15, name)

# %% [markdown]
# Greedy suppression takes the best box that is left, keeps it, removes what overlaps it too much,
# and begins again:

# %%
waiting, kept = ["A", "B", "C", "D"], []  # by falling score
while waiting:
    best = waiting.pop(0)
    kept.append(best)
    overlaps = {b: float(iou["ABCD".index(best), "ABCD".index(b)]) for b in waiting}
    removed = [b for b in waiting if overlaps[b] > 0.5]
    waiting = [b for b in waiting if b not in removed]
    print(f"{best} stays and removes {removed}; waiting: {waiting}")
print("kept:", kept)

# %% [markdown]
# Look at $C$. It overlaps $B$ by 0.6, and yet it stays: $B$ was gone before it could remove
# anything. **A removed box removes nothing.** As a formula, with $O_{ij}$ true where
# $\text{IoU}_{ij}$ is over the threshold and the boxes numbered by falling score,
#
# $$\text{keep}_j = \neg \bigvee_{i < j} \left(\text{keep}_i \wedge O_{ij}\right).$$
#
# `keep` stands on both sides, but on the right only for boxes before $j$: from top to bottom,
# every row is known when it is needed.

# %% [markdown]
# ## Exercise 1: the greedy step
#
# Write that formula for a matrix of overlaps: go through the boxes one after the other, as we did
# by hand, but let each remove all later ones at once. All else in NMS is sorting and bookkeeping
# around this step.
#
# <details><summary>Hint</summary>
#
# Begin with `keep` all True. A box that is still kept when its turn comes switches off some of
# those behind it: `keep[i + 1 :]` and `overlaps[i, i + 1 :]` are equally long. Switching off must
# not switch anything on again.
# </details>

# %% exercise="course.exercises.lesson06.suppress_greedily"
from fbnet_lesson.course.exercises.lesson06 import suppress_greedily

# %%
check(suppress_greedily)

# %% [markdown]
# **Plug it in.** The detector runs with your function in the place of its own, in the RPN and
# behind the box head. The second line is what comes out if nothing is ever removed.


# %%
def detections(image: Tensor) -> str:
    with torch.no_grad():
        (found,) = model([image])
    return f"{len(found['boxes'])}, over 0.5: {int((found['scores'] > 0.5).sum())}"


compare(lambda: detections(image), suppress_greedily=suppress_greedily)
with plug(suppress_greedily=lambda overlaps: torch.ones(len(overlaps), dtype=torch.bool)):
    print("without suppression:", detections(image))

# %% [markdown]
# ## Exercise 2: NMS
#
# Around the greedy step: sort by score, compare every pair, and answer with indices of the boxes
# *as they were given*, because the caller has scores, classes and masks in that order too.
#
# Three decisions hide in the docstring. Read them as a promise to whoever compares your output
# with a reference:
#
# - **ties**: equal scores keep their order, so that two runs agree;
# - **exactly at the threshold**: stays, because only *over* it is too much;
# - **the limit** counts survivors: cut after suppressing, not before.
#
# You may call your `suppress_greedily`, once `check` is content with it.
#
# <details><summary>Hint</summary>
#
# `order = scores.argsort(descending=True, stable=True)`; `boxes[order]` are the boxes by rank;
# indexing `order` with a mask of ranks gives indices of the given boxes, the best first.
# `values[:None]` is all of `values`.
# </details>

# %% exercise="course.exercises.lesson06.nms"
from fbnet_lesson.course.exercises.lesson06 import nms

# %%
check(nms)

# %% [markdown]
# **Plug it in, and measure.** The same average precision as with the package's function, to the
# last detection? If yours is wrong, this number says what the mistake costs.

# %%
from fbnet_lesson.training.evaluation import evaluate


def measured() -> str:
    result = evaluate(model, scenes)
    return f"{result['detections']} detections, box AP {result['box']['AP']:.2f}"


compare(measured, nms=nms)

# %% [markdown]
# ## Vectorised: all boxes at once, a few times
#
# The loop visits 300 boxes one after the other, and each visit is a handful of tensor operations
# on one short row. On a GPU that is a thousand launches for almost no arithmetic. The formula can
# be read in another way: guess `keep`, put the guess in on the right, and get a better one:
#
# $$\text{keep}^{(t+1)}_j = \Big[\textstyle\sum_{i < j} \text{keep}^{(t)}_i \, O_{ij} = 0\Big],
# \qquad \text{keep}^{(0)} = 1.$$
#
# The sum is a vector times a matrix. When nothing changes any more, the formula holds.


# %%
def suppress_in_rounds(overlaps: Tensor) -> tuple[Tensor, list[Tensor]]:
    """[N, N] bool -> which boxes are kept [N], and the guess of each round."""
    before = overlaps.triu(diagonal=1).float()  # (N, N): i is before j and overlaps it
    beliefs = [torch.ones(len(before))]
    while True:
        beliefs.append((beliefs[-1] @ before == 0).float())  # (N,) @ (N, N) -> (N,)
        if torch.equal(beliefs[-1], beliefs[-2]):
            return beliefs[-1].bool(), beliefs


for round_, believed in enumerate(suppress_in_rounds(iou > 0.5)[1]):
    print(f"round {round_}: A, B, C, D =", believed.int().tolist())

# %% [markdown]
# Round 1 removes $C$, because $B$ is still believed to be there. Round 2 takes it back. Two facts
# say that this always ends, and ends right:
#
# - **It settles from the top.** Nothing is before box 0, so it is right from round 1 on. If the
#   first $t$ boxes are right after round $t$, box $t$ depends on right values only, and is right
#   after round $t + 1$. So $N$ rounds are always enough.
# - **It closes in from both sides.** The first guess holds too many boxes. With too many on the
#   right-hand side, too many are removed, so the next guess holds too few; with too few, too many
#   again. Where two guesses in a row agree, the answer lies between them.
#
# $N$ rounds is the worst case: a chain in which every box overlaps only the next one. What do real
# candidates need? Predict, for 300 and for 1000.

# %%
every = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes", pre_nms_topk=(400, 3840)).eval()
ranked = candidates_of(image, every)  # all anchors by falling objectness
held_by = {}
for count in (300, 1000):
    boxes = ranked.boxes[:count]
    overlaps = box_iou(boxes, boxes) > 0.7
    keep, beliefs = suppress_in_rounds(overlaps)
    held_by[count] = [int(believed.sum()) for believed in beliefs]
    same = torch.equal(keep, mine(suppress_greedily)(overlaps))
    print(f"{count}: {len(beliefs) - 1} rounds {held_by[count]}, as by the loop: {same}")
reveal(guess, {"left by NMS, of 300": held_by[300][-1]})

# %%
# alt: Boxes believed kept over the rounds, for 300 and for 1000 candidates: a zigzag that falls
#      far below the dotted line of the answer, rises over it, and closes in within ten rounds.
for ax, (count, held) in zip(drawing.panels(2, height=2.5), held_by.items(), strict=True):
    ax.plot(held, "k.-")
    ax.axhline(held[-1], color="0.5", linestyle=":", label=f"the answer: {held[-1]}")
    ax.set(xlabel="round", ylabel="boxes believed kept")
    ax.set_title(f"{count} candidates", fontsize=9)
    ax.set_xticks(range(0, len(held), 2))
    ax.set_yticks([0, count // 2, count])
    ax.legend()

# %% [markdown]
# Eight rounds instead of 300 steps, ten instead of 1000: chains of overlapping boxes are short.
# The zigzag is the closing in from both sides.
#
# The first round alone has a name: *Fast NMS* (YOLACT, arXiv 1904.02689) takes it for the answer.
# Here it would keep 46 boxes instead of 83. All rounds together were proposed as *Cluster-NMS*
# (arXiv 2005.03572).

# %% [markdown]
# ## Why blocks: bytes and pairs
#
# The matrix is the price of looking at all boxes at once. Its size grows with the square of their
# number:

# %%
for count in (300, 1000, 6000, 12000):
    print(f"{count:6d} boxes: {count**2:12,d} pairs, {4 * count**2 / 1e6:6.1f} MB a matrix")
block = package.BLOCK
print(f"a block of {block}: {block**2:,d} pairs, {4 * block**2 / 1e6:.1f} MB")

# %% [markdown]
# 12,000 before NMS in training and 6000 at test are detectron2's defaults for one feature map (the
# FBNet detectors take 2000 and 1000), and `box_iou` holds about five such matrices at a time.
# Hence the package goes through blocks of 256 boxes, best first: settle a block in rounds, then
# remove from all later boxes what the block's kept ones suppress. A matrix stays in the
# processor's cache, and whoever is removed is never compared again. How much does that save? We
# count pairs inside the package.

# %%
from unittest import mock


def pairs_compared(count: int, limit: int | None) -> int:
    """How many IoUs the package computes for the ``count`` best candidates of the scene."""
    with mock.patch.object(package, "_iou", wraps=package._iou) as iou_of:
        package.nms(ranked.boxes[:count], ranked.logits[:count], 0.7, limit)
    columns = [[part.shape[-1] for part in call.args] for call in iou_of.call_args_list]
    return sum(a * b for a, b in columns)


print(f"{'boxes':>6s}{'matrix':>12s}{'blocks':>12s}{'for the 50 best':>17s}")
for count in (300, 1000, len(ranked.boxes)):
    blocks, limited = pairs_compared(count, None), pairs_compared(count, 50)
    print(f"{count:6d}{count**2:12,d}{blocks:12,d}{limited:17,d}")

# %% [markdown]
# The last column does not grow at all. Whether a box is kept depends only on better boxes, so for
# 50 survivors it is enough to look at the best 200 first, and at more only if fewer than 50 of
# them stay. **What post-NMS top-k drops, NMS need not look at.**
#
# Seconds depend on your machine, so this page stores none. The button measures them where you are.

# %%
import time

import ipywidgets

from fbnet_lesson.course.exercises import lesson06

shown = ipywidgets.Output()


def measure(_button) -> None:
    forms = {"loop over all pairs": lesson06.nms, "package": package.nms}
    with shown:
        for name, form in forms.items():
            for count in (300, 1000, 3000):
                start = time.perf_counter()
                form(ranked.boxes[:count], ranked.logits[:count], 0.7)
                print(f"{name:20s}{count:5d} boxes {1000 * (time.perf_counter() - start):8.1f} ms")


# %%
button = ipywidgets.Button(description="measure")
button.on_click(measure)
ipywidgets.VBox([button, shown])

# %% [markdown]
# ## Several classes: who may suppress whom
#
# Behind the box head a second NMS runs on the detections. A star may well lie on a square: two
# boxes of *different* classes are two findings, not one found twice. So only boxes of one group
# suppress each other. In the RPN of a detector with a feature pyramid the groups are the feature
# maps.
#
# ## Exercise 3: NMS by group
#
# One list comes out, over all groups. That is where most mistakes are: one limit, one order, and
# indices that still mean the boxes as given.
#
# Three ways lead there. A loop over the groups calls `nms` on each and joins the answers. Or one
# `nms`, with the groups moved so far apart that boxes of two groups cannot meet. Or one matrix, in
# which pairs of two groups are switched off. Each has its pitfall; `check` knows them.
#
# <details><summary>Hint</summary>
#
# The third way is `nms` plus one line: `group[:, None] == group` is an [N, N] matrix that is True
# for pairs of one group. The groups have to be sorted as the boxes are.
# </details>

# %% exercise="course.exercises.lesson06.batched_nms"
from fbnet_lesson.course.exercises.lesson06 import batched_nms

# %%
check(batched_nms)


# %%
def ignoring_classes(boxes, scores, groups, iou_threshold, max_output_size=None):
    return lesson06.nms(boxes, scores, iou_threshold, max_output_size)


compare(measured, batched_nms=batched_nms)
with plug(batched_nms=ignoring_classes):
    print("classes are not told apart:", measured())

# %% [markdown]
# With one group for all classes there are 82 detections fewer, and AP falls a little: where the
# head wavers between two classes, the second is sometimes the right one. For AP both may stand;
# somebody who looks at the picture may prefer one box. Neither is wrong, but two detectors are
# compared fairly only if both do the same.

# %% [markdown]
# ## Exercise 4: did a proposal reach the object?
#
# Before top-k can be chosen, we need to know what a lost proposal costs. An object that no
# proposal covers is lost for good: the box head can move a box, not invent one. The share of
# objects that *are* covered is the recall of the proposals.
#
# Note the comparison: here IoU exactly at the threshold *counts* (COCO's convention, lesson 09),
# where NMS asks for more than its threshold.
#
# <details><summary>Hint</summary>
#
# For one image, `box_iou(objects, proposals)` is [G, R]; an object is covered if any value of its
# row is large enough. Join the images before you take the mean. Empty tensors go through `any` and
# `cat` without special care.
# </details>

# %% exercise="course.exercises.lesson06.proposal_recall"
from fbnet_lesson.course.exercises.lesson06 import proposal_recall

# %%
check(proposal_recall)

# %% [markdown]
# ## Experiment: how many before, how many after
#
# Two knobs. `pre_nms_topk` boxes go into NMS, `post_nms_topk` of the survivors come out. Both cost
# something and both lose objects. We take 50 scenes, rank all anchors once, and try every
# combination, with the package's NMS, whose blocks make 3840 boxes in 50 scenes bearable.
#
# **Predict:** with *all* 3840 anchors before NMS instead of 300, and 50 after it, does recall rise?
# And with 10 before it, how many are left after it?

# %%
samples = [scenes[i] for i in range(len(scenes))]
objects = [target["boxes"] for _, target in samples]
ranked_by_scene = [candidates_of(picture, every) for picture, _ in samples]
PRE, POST = (10, 30, 100, 300, 3840), (3, 5, 10, 30, 50, 100)


def survivors(pre: int) -> list[Tensor]:
    """For each scene what NMS leaves of its ``pre`` best candidates, the best first."""
    found = [(c.boxes[:pre], c.logits[:pre]) for c in ranked_by_scene]
    return [boxes[package.nms(boxes, logits, 0.7)] for boxes, logits in found]


def recalls(proposals: list[Tensor], iou_threshold: float) -> list[float]:
    """Recall for each number of ``POST``."""
    tops = [[boxes[:post] for boxes in proposals] for post in POST]
    return [float(mine(proposal_recall)(top, objects, iou_threshold)) for top in tops]


# %%
after_nms = {pre: survivors(pre) for pre in PRE}
print("objects:", sum(map(len, objects)), "in", len(objects), "scenes")
print("recall at IoU 0.5, after NMS:", "".join(f"{post:6d}" for post in POST), "  left")
for pre, proposals in after_nms.items():
    left = sum(map(len, proposals)) / len(proposals)
    row = "".join(f"{value:6.2f}" for value in recalls(proposals, 0.5))
    print(f"{pre:8d} before NMS           {row}{left:7.0f}")
full = sum(len(boxes) >= 50 for boxes in after_nms[300])
plain = [ranked.boxes for ranked in ranked_by_scene]
row = "".join(f"{value:6.2f}" for value in recalls(plain, 0.5))
print(f"   without any NMS           {row}")
print("scenes in which 300 candidates leave 50 or more:", full)
at_ten = recalls(after_nms[300], 0.5)[POST.index(10)]
reveal(guess, {"recall with 10 proposals": round(at_ten, 2)})

# %%
# alt: Recall over the number of proposals, at IoU 0.5 and 0.75. With 300 or 3840 boxes before NMS
#      the curves lie on each other and flatten from 10 proposals on; 10 before NMS end early and
#      low; without NMS the curve climbs much later.
styles = {10: ":", 30: "-.", 100: "--", 300: "-", 3840: "-"}
for ax, threshold in zip(drawing.panels(2, height=3.0), (0.5, 0.75), strict=True):
    for pre, proposals in reversed(after_nms.items()):
        look = {"color": "0.75", "linewidth": 4} if pre == 3840 else {"color": "black"}
        line = recalls(proposals, threshold)
        ax.plot(POST, line, linestyle=styles[pre], label=f"{pre} before", **look)
    ax.plot(POST, recalls(plain, threshold), "x-", color="0.5", label="without NMS")
    ax.set(xscale="log", xlabel="proposals after NMS")
    ax.set_title(f"recall at IoU {threshold}", fontsize=9)
    ax.set(xticks=POST, xticklabels=POST, ylim=(0.48, 1.02), yticks=(0.5, 0.75, 1.0))
    ax.minorticks_off()
_ = ax.legend(fontsize=7, loc="lower right")

# %% [markdown]
# - **Before NMS**: 10 candidates are too few. They crowd on the objects that are easiest to see,
#   and three boxes are left of them. From 300 on nothing changes, up to 50 proposals not even in
#   the last digit: in every scene 300 candidates leave 50 boxes or more, and further candidates
#   only lengthen the list at its end.
# - **After NMS**: the steep part is over at 10 proposals, which cover 0.94 of the objects, against
#   0.99 with 50. What comes late in the list are the objects of which the RPN is least sure.
# - **Without NMS**, the best 10 boxes reach 0.79 of the objects. NMS is not there for tidiness:
#   it makes a short list of proposals worth as much as a long one.

# %% [markdown]
# ### What a proposal costs
#
# Work is counted here, not timed: multiply-adds (MACs) of convolutions and matrix products, by
# torch's own counter.

# %%
from torch.utils.flop_counter import FlopCounterMode


def macs(run) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


# %%
batch, _ = model.preprocess([image])
features = model.backbone(batch)
roi_features = [features[name] for name in model.roi_features]
one = [truth["boxes"][:1]]
cost = {"trunk": macs(lambda: model.backbone(batch))}
cost["RPN head"] = macs(lambda: model.rpn.head([features[name] for name in model.rpn_features]))
per_roi = macs(lambda: model.roi_heads.box_head(roi_features, one))
print({name: f"{value / 1e6:.1f}M" for name, value in cost.items()})
print(f"box head: {per_roi / 1e6:.2f}M a proposal, {50 * per_roi / 1e6:.1f}M for 50")
pairs = 300 * 299 // 2
print(f"NMS: {pairs} pairs of 300 boxes, some 13 operations each: {13 * pairs / 1e6:.2f}M")
more = "one proposal" if per_roi > 13 * pairs else "NMS"
reveal(guess, {"more arithmetic, NMS or one proposal": more})

# %% [markdown]
# The 13 operations of a pair are four minima and maxima, two differences, two clamps, a product, a
# sum, a difference, a quotient and a comparison. **To suppress a box costs next to nothing; to keep
# it costs a pass through the box head.** With 50 proposals the box head does more arithmetic than
# the trunk and the RPN together. What does the detector get for it?
#
# **Decide** before you run the next cell: you may spend 80 million MACs on a picture. How many
# proposals do you keep? Write your number into the cell; its row is then the last one.

# %%
your_post = None  # decide: how many proposals after NMS
aps = {}
for post in (3, 5, 10, 30, 50) + ((your_post,) if your_post else ()):
    detector = fl.create_model(
        "lesson/mask_rcnn_tiny", weights="shapes", post_nms_topk=(100, post)
    ).eval()
    aps[post] = evaluate(detector, scenes)["box"]["AP"]
    total = sum(cost.values()) + post * per_roi
    print(f"{post:3d} proposals: box AP {aps[post]:.2f}, {total / 1e6:6.1f}M MACs up to the boxes")
reveal(guess, {"box AP lost with 30 proposals": round(aps[50] - aps[30], 2) + 0.0})

# %%
# alt: On the left a stacked bar for each number of proposals: trunk and RPN stay as they are, the
#      box head outgrows them at 50. On the right box AP over MACs, steep up to 10 proposals and
#      flat from there on.
fixed = sum(cost.values())
left, right = drawing.panels(2, height=2.6)
places = range(len(aps))
left.bar(places, [fixed / 1e6] * len(aps), color="0.75", label="trunk and RPN head")
left.bar(places, [post * per_roi / 1e6 for post in aps], bottom=fixed / 1e6, color="0.3",
         label="box head")  # fmt: skip
left.set(xticks=places, xticklabels=aps, xlabel="proposals after NMS", ylabel="million MACs")
left.set_yticks([0, 50, 100, 150])
left.legend(fontsize=8)
right.plot([(fixed + post * per_roi) / 1e6 for post in aps], aps.values(), "ko-")
for post, ap in aps.items():
    right.annotate(post, ((fixed + post * per_roi) / 1e6, ap), (4, -11), textcoords="offset points")
right.set(xlabel="million MACs", ylabel="box AP", xlim=(50, 155), ylim=(0.6, 0.9))
_ = right.set(xticks=(60, 80, 100, 120, 140), yticks=(0.6, 0.7, 0.8, 0.9))

# %% [markdown]
# From 30 to 50 proposals the work grows by a third and AP by nothing that shows. The published
# `mask_rcnn_fbnetv3a_dsmask_C4` keeps **30** proposals at test time for this reason. Its box head
# costs 8.07M MACs a proposal; 30 of them are 242M, beside 385M for trunk and RPN head at
# 224 × 320. With 1000 proposals, which detectron2 has as its default, the box head alone would
# need 8,070M: twenty-one times the trunk and RPN together.
#
# In training both numbers are 2000 there. That costs less than it seems: the box head sees a sample
# of 512 an image (lesson 05), and a long list offers the sampler poor proposals as well as good
# ones.

# %% [markdown]
# ## A second knob: the threshold of the detections
#
# A low threshold removes true neighbours, a high one leaves duplicates. Which is worse depends on
# how much objects overlap in your pictures. We stop the detector before its last NMS and try.

# %%
from fbnet_lesson.detection.box_head import Detections, select_detections

keep_all = model.config.override(nms_threshold=1.0, detections_per_image=10_000)


def before_last_nms(image: Tensor) -> Detections:
    """All (proposal, class) pairs that score over 0.05: no IoU is over 1, so none is removed."""
    batch, sizes = model.preprocess([image])
    with torch.no_grad():
        features = model.backbone(batch)
        (found,), _ = model.rpn([features[name] for name in model.rpn_features], sizes, None)
        roi_features = [features[name] for name in model.roi_features]
        logits, deltas = model.roi_heads.box_head(roi_features, [found.boxes])
    return select_detections(logits, deltas, found.boxes, sizes[0], keep_all)


# %%
own_batched_nms = mine(batched_nms)


def after_last_nms(found: Detections, threshold: float, score: float = 0.3) -> dict:
    """What a picture shows: NMS by class at ``threshold``, then scores over ``score``."""
    keep = own_batched_nms(found.boxes, found.scores, found.labels, threshold)
    keep = keep[found.scores[keep] > score]
    return {name: getattr(found, name)[keep] for name in ("boxes", "scores", "labels")}


# %%
raw = [before_last_nms(picture) for picture, _ in samples]
found_share, duplicates = [], []
thresholds = [k / 10 for k in range(1, 11)]
for threshold in thresholds:
    hits = []
    for found, (_, target) in zip(raw, samples, strict=True):
        shown_boxes = after_last_nms(found, threshold)
        right_class = target["labels"][:, None] == shown_boxes["labels"]
        hits.append(((box_iou(target["boxes"], shown_boxes["boxes"]) >= 0.5) & right_class).sum(1))
    hits = torch.cat(hits)  # (objects,) how many detections find each
    found_share.append(float((hits > 0).float().mean()))
    duplicates.append(int((hits - 1).clamp(min=0).sum()))
print("found:     ", [round(share, 2) for share in found_share])
print("duplicates:", duplicates)
still = found_share[thresholds.index(0.2)] / found_share[thresholds.index(0.5)]
reveal(guess, {"still found with a threshold of 0.2": round(still, 2)})

# %% [markdown]
# Our objects hardly overlap, so the share that is found hardly changes: only at 0.1 do two objects
# vanish behind a neighbour of their class. Any threshold from 0.2 to 0.5 is as good as another. In
# a crowd, or on a shelf of a shop, neighbours would vanish at much higher thresholds, and you would
# have to choose between losing them and showing duplicates. Here is a scene with two neighbours of
# one class. **Look for** the largest threshold without a duplicate, and the smallest at which both
# neighbours are still there:

# %%
crowd_image, crowd = samples[36][0], raw[36]


def picture(threshold: float):
    (ax,) = drawing.panels(1, height=4.2)
    shown_boxes = after_last_nms(crowd, threshold)
    title = f"threshold {threshold:.2f}: {len(shown_boxes['boxes'])} detections"
    drawing.show_detections(ax, crowd_image, shown_boxes, CATEGORIES, title)
    return ax.figure


explore(picture, threshold=ipywidgets.FloatSlider(0.5, min=0.05, max=1.0, step=0.05))

# %%
# alt: A scene with two crosses side by side, at three thresholds. At 0.1 one cross has no box, at
#      0.5 every object has one box, at 0.9 both crosses carry a bundle of boxes.
for ax, threshold in zip(drawing.panels(3, height=2.6), (0.1, 0.5, 0.9), strict=True):
    shown_boxes = after_last_nms(crowd, threshold)
    count = len(shown_boxes["boxes"])
    drawing.show_image(ax, crowd_image, f"threshold {threshold}: {count}", dim=0.3)
    drawing.draw_boxes(ax, shown_boxes["boxes"], width=1.2)
    of_class = [int((shown_boxes["labels"] == k).sum()) for k in range(len(CATEGORIES))]
    print(f"threshold {threshold}:", {CATEGORIES[k]: n for k, n in enumerate(of_class) if n})

# %% [markdown]
# ## What the documentation gets wrong
#
# **"NMS iteratively removes lower scoring boxes which have an IoU greater than `iou_threshold` with
# another (higher scoring) box"**, says torchvision's page on `ops.nms`. That is right, and all of
# it hangs on *iteratively*: best box first, and a box that is gone removes nothing. A reader who
# passes over the word, as a matrix of all pairs invites you to, gets round 1 of the vectorised
# form. It is safer to say *kept*: a box goes if it overlaps a better box *that is kept*.

# %%
import torchvision

boxes, logits = candidates.boxes, candidates.logits
literal = ~(box_iou(boxes, boxes) > 0.7).triu(diagonal=1).any(0)
print("all pairs at once: ", int(literal.sum()))
print("torchvision's own: ", len(torchvision.ops.nms(boxes, logits, 0.7)))

# %% [markdown]
# **"Performs non-maximum suppression in a batched fashion. Each index value correspond to a
# category, and NMS will not be applied between elements of different categories"**, says the page
# on `ops.batched_nms`. For short lists the function moves the boxes of class $k$ by $k$ times the
# largest coordinate plus one, then calls `nms` once. The page asks for coordinates from 0 on, and
# nothing checks them. A box that begins left of the picture can be moved onto one of another class:

# %%
boxes = torch.tensor([[0.0, 0, 10, 10], [-11, -11, -1, -1]])  # they do not even touch
scores, classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
print("torchvision:", torchvision.ops.batched_nms(boxes, scores, classes, 0.5).tolist())
print("by group:   ", package.batched_nms(boxes, scores, classes, 0.5).tolist())

# %% [markdown]
# **Top-k of what?** detectron2's list of configuration keys has `PRE_NMS_TOPK_TEST` and
# `POST_NMS_TOPK_TEST` side by side. The first is counted on *each* feature map, the second over all
# of them together. With five maps, "1000 before" are up to 5000 boxes, in five groups.

# %% [markdown]
# ## Edge cases
#
# **Exactly at the threshold.** The rule is simple, floating point is not. An IoU of 3/10 is not
# over 0.3, so the box should stay. But no float is 3/10: in float32 the quotient is rounded up to
# 0.3000000119, which *is* over the 0.3 that you wrote.

# %%
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 3]])  # IoU 30 / 100
scores = torch.tensor([0.9, 0.8])
forms = {"plain": lesson06.nms, "package": package.nms, "torchvision": torchvision.ops.nms}
print({name: form(boxes, scores, 0.3).tolist() for name, form in forms.items()})
print("IoU in float32:", f"{float(box_iou(boxes, boxes)[0, 1]):.10f}")
up = [k / 10 for k in range(1, 10) if float(torch.tensor(k / 10)) > k / 10]
print("thresholds that float32 rounds up:", up)

# %% [markdown]
# In `iou > 0.3` torch rounds the threshold to float32 as well, up to the very same number, and the
# box stays. torchvision compares with the exact number, and it goes. The package has to keep what
# the references keep, so it rounds the threshold *down* (`_round_down`), after which `>` on float32
# says what it would say on exact numbers. The checks of this lesson use thresholds such as 1/2 and
# 1/4, which floats hold exactly.

# %%
point = torch.tensor([[5.0, 5, 5, 5]])
same = torch.tensor([[0.0, 0, 4, 4]])
equal = torch.full((25,), 0.5)
print("two points without area:  ", package.nms(point.expand(2, 4), equal[:2], 0.5).tolist())
print("the same box three times: ", package.nms(same.expand(3, 4), equal[:3], 0.5).tolist())
print("no boxes:                 ", package.nms(torch.zeros(0, 4), equal[:0], 0.5).tolist())
print("25 equal scores, in order:", equal.argsort(descending=True, stable=True)[:3].tolist())
scores = torch.tensor([0.5, float("nan"), 0.9])
print("a score that is nan:      ", scores.argsort(descending=True, stable=True).tolist())

# %% [markdown]
# - **Without area**: 0/0 would be nan, and `nan > 0.5` is False; `box_iou` says 0. Either way such
#   boxes suppress nothing and pile up, so the RPN drops them before NMS.
# - **Ties**: `argsort` promises the order of equals only with `stable=True`. Without it, short
#   lists often come out in order all the same; that is how the mistake gets past a small test.
# - **nan** counts as the largest score of all, and would come first. So the detector removes rows
#   that are not finite before NMS, in the RPN and in the box head.

# %% [markdown]
# ## Stretch
#
# 1. Build six boxes for which `suppress_in_rounds` needs the most rounds that are possible.
# 2. *Soft-NMS* (arXiv 1704.04503) removes nothing: a kept box multiplies the score of each later
#    box by $\exp(-\text{IoU}^2/\sigma)$, and the order is found anew after every step. Write it
#    after the loop of exercise 1, and compare found objects and duplicates with the curves above.
#    Can it be written in rounds?
#
# <details><summary>What to expect</summary>
#
# 1. A chain in which only neighbours overlap, such as boxes of width 4 at x = 0, 1, 2, …: each
#    round settles one more box, the last round finds that nothing changes.
# 2. At the same score threshold it shows more duplicates and loses fewer true neighbours. In
#    rounds: hardly, as every step changes the order in which the next ones go.
# </details>

# %% [markdown]
# ## Recap
#
# - NMS is one rule: a box stays unless a better *kept* box overlaps it by more than the threshold.
#   A loop applies it from the top; rounds apply it to all boxes until nothing changes.
# - Ties, thresholds hit exactly and groups are where implementations differ. Say which you follow.
# - Comparing boxes is cheap; each box that is kept costs a pass through the heads. Choose post-NMS
#   top-k by what the heads cost, then pre-NMS top-k large enough to fill it.
#
# **Three questions**
#
# <details><summary>1. You double <code>pre_nms_topk</code>, and recall with 50 proposals does not
# change at all, not even in the last digit. Is something broken?</summary>
#
# No. Survivors among the best boxes do not depend on worse ones. If the old candidates gave 50
# survivors, the first 50 are the same boxes.
# </details>
#
# <details><summary>2. Someone removes boxes by
# <code>~(iou &gt; t).triu(1).any(0)</code>. On which three boxes does it fail?</summary>
#
# On a chain: B overlaps A, C overlaps B, C does not overlap A. It removes C because of B, which is
# itself removed. Recall suffers where objects stand in a row.
# </details>
#
# <details><summary>3. Can NMS at threshold 0.5 leave two boxes of one class with an IoU of 0.5?
# With 0.55?</summary>
#
# With exactly 0.5, yes: that is not over the threshold. With 0.55, no: the better of the two is
# kept, or it would not be there, and so it removes the worse.
# </details>
#
# **Sources.** Faster R-CNN (arXiv 1506.01497, sec. 3.3: NMS at 0.7 and the number of proposals);
# YOLACT, Fast NMS (arXiv 1904.02689); Cluster-NMS (arXiv 2005.03572); Soft-NMS (arXiv 1704.04503);
# torchvision's documentation of `ops.nms` and `ops.batched_nms`; the detectors on FBNet as
# published in d2go.
