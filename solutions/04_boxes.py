# %% [markdown]
# # 04 · Boxes and anchors: where a detector begins
#
# **After this lesson you can say which objects a set of anchors is able to reach, before anything
# is trained, and why that foretells less about the trained detector than one would think.**
#
# After this lesson you can
#
# - go from corners to width and height to centre form, and recognise the + 1 that old code adds;
# - write the IoU of all pairs in one broadcast, and say what it makes of boxes that touch, lie
#   apart or have no area;
# - lay anchors over a map in the order that the network's channels follow, and decode its answers;
# - measure the best possible recall of anchors, and tell what their shape costs from what their
#   place costs.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lesson 00 | 25 s, 1100 MB, no network |

# %% [markdown]
# ## Predict first
#
# The small detector of this course lays 15 anchors on each cell of its feature map, five sizes
# times three ratios, with one cell every 8 pixels. Below, an object counts as *covered* if one of
# the anchors overlaps it with an IoU of 0.7 or more. Write down:
#
# 1. How many objects in a hundred are covered?
# 2. And with 100 anchors a cell, their sizes chosen from the objects, instead of 15?
# 3. Now train with *one* anchor a cell, a square of middle size. The box AP was 0.82 with 15. What
#    is it now?

# %%
from fbnet_lesson.course import reveal

guess = {
    "covered with 15 anchors a cell, of 100": None,
    "covered with 100 anchors a cell, of 100": None,
    "box AP with 1 anchor a cell": None,
}

# %%
import math

import ipywidgets
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import fbnet_lesson as fl
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection import anchors as package
from fbnet_lesson.detection import boxes
from fbnet_lesson.detection.boxes import SCALE_CLAMP, box_area, centre_form
from fbnet_lesson.training.evaluation import evaluate

torch.set_num_threads(1)  # one order of additions: the same digits on every machine
drawing.small_figures()

# %% [markdown]
# ## Four numbers, three notations
#
# A box has four numbers, but which? Here is one box three times: as corners, as a corner with width
# and height, and as a centre with width and height.

# %%
x1, y1, x2, y2 = 1.0, 1.0, 4.0, 3.0
width, height = x2 - x1, y2 - y1
print("xyxy       ", [x1, y1, x2, y2], "  this package, torchvision, detectron2")
print("xywh       ", [x1, y1, width, height], "  the files of COCO")
print("centre form", [x1 + width / 2, y1 + height / 2, width, height], "  what a network moves")

# %% [markdown]
# No notation is better than the others; each makes something easy. Corners make intersections easy,
# centre form makes moving easy. Nothing in a tensor says which one it holds, so the mix-up raises
# no error. Here is a box from a COCO file, taken for corners:

# %%
from_coco = torch.tensor([10.0, 20, 30, 40])  # x, y, width, height
corners = torch.cat([from_coco[:2], from_coco[:2] + from_coco[2:]])
print("read as it is meant:  ", corners.tolist(), "area", float(box_area(corners)))
print("read as if it were xyxy", from_coco.tolist(), "area", float(box_area(from_coco)))

# %% [markdown]
# ### The + 1 of old code
#
# Where does a box end that covers the pixels 1, 2 and 3 of a row? If x2 *names the last pixel*, it
# is 3, and the width is $x_2 - x_1 + 1$. If x2 is the *edge* after it, it is 4, and the width is
# $x_2 - x_1$. The first Faster R-CNN counted pixels, as the annotations of PASCAL VOC do; today's
# code measures edges, and so does this course: x2 and y2 are exclusive.
#
# The two conventions are a pixel apart. Mixed up, that pixel is counted twice:

# %%
for side in (4, 16, 64):
    box = torch.tensor([0.0, 0, side, side])
    more = float(box_area(box + torch.tensor([0, 0, 1, 1])) / box_area(box)) - 1
    print(f"{side:2d} × {side:2d} pixels with a + 1 too many: {100 * more:.0f} % more area")

# %%
# alt: Two grids of pixels. On the left the same six grey pixels in a frame from edge 1 to edge 4
#      and from 1 to 3. On the right a dashed frame one pixel wider and higher than the grey pixels.
left, right = drawing.panels(2, height=2.3)
outlines = {
    left: ([1.0, 1, 4, 3], "-", "edges: 3 wide, 2 high, area 6"),
    right: ([1.0, 1, 5, 4], "--", "a + 1 too many: area 12"),
}
for ax, (outline, style, title) in outlines.items():
    ax.set(xlim=(0, 6), ylim=(5, 0), aspect="equal", xticks=range(7), yticks=range(6))
    ax.set_axisbelow(True)
    ax.grid(color="0.7")
    ax.fill([1, 4, 4, 1], [1, 1, 3, 3], color="0.5", alpha=0.5)
    drawing.draw_boxes(ax, torch.tensor([outline]), width=2.2, style=style)
    ax.set_title(title, fontsize=9)

# %% [markdown]
# ## IoU: how far two boxes are the same
#
# *Intersection over union* is the area that two boxes share, over the area that they cover
# together. It is 1 for a box and itself, 0 for boxes that share nothing, and it has no unit: twice
# as large a picture has the same IoUs.
#
# $$\text{IoU}(A, B) = \frac{|A \cap B|}{|A| + |B| - |A \cap B|}$$
#
# The shared part is a box too. It begins at the larger x1 and ends at the smaller x2:

# %%
A, B = [0.0, 0, 4, 4], [2.0, 1, 6, 3]


def iou_of_two(a: list[float], b: list[float]) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))  # below 0 where they lie apart
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return shared / (sum(areas) - shared)


print(f"A and B share 2 × 2 = 4 of 16 + 8 - 4 = 20 pixels: {iou_of_two(A, B):.2f}")

# %%
# alt: Left, a square A and a flat box B that reaches into it from the right; the shared part is
#      hatched. Right, the IoU of a square with itself pushed sideways, falling from 1 to 0: the
#      line for 8 pixels falls steeply and ends at 8, that for 64 pixels is nearly flat.
left, right = drawing.panels(2, height=2.4)
left.set(xlim=(-0.5, 7), ylim=(4.5, -0.5), aspect="equal")
drawing.draw_boxes(left, torch.tensor([A]), width=2)
drawing.draw_boxes(left, torch.tensor([B]), width=2, style="--")
left.fill([2, 4, 4, 2], [1, 1, 3, 3], facecolor="0.85", edgecolor="0.4", hatch="//")
left.text(0.2, 0.6, "A")
left.text(5.5, 1.6, "B")
pushed = torch.arange(0, 17)
for side, style in ((8, "k:"), (16, "k--"), (32, "k-."), (64, "k-")):
    line = [iou_of_two([0, 0, side, side], [p, 0, side + p, side]) for p in pushed.tolist()]
    right.plot(pushed, line, style, label=f"{side} × {side}")
right.set(xticks=range(0, 17, 4), yticks=[0, 0.5, 1], xlabel="pushed sideways, pixels")
right.set_title("IoU of a square with itself, pushed", fontsize=9)
_ = right.legend(fontsize=7)

# %% [markdown]
# The right figure will matter later. Pushed by four pixels, a square of 8 is left with an IoU of
# 1/3, one of 64 with 0.88.
#
# ### All pairs in one broadcast
#
# A picture has a few objects and thousands of anchors, and every pair has an IoU. No loop is
# needed: the numbers of `a` stand in a column, those of `b` in a row, and whatever is computed
# between them fills the table.

# %%
a = torch.tensor([A, [8.0, 0, 10, 2]])  # (2, 4)
b = torch.tensor([B, [0.0, 0, 4, 2], [4.0, 0, 6, 4]])  # (3, 4)
left_edge = torch.maximum(a[:, None, 0], b[None, :, 0])  # (2, 1), (1, 3) -> (2, 3)
right_edge = torch.minimum(a[:, None, 2], b[None, :, 2])  # (2, 3)
print("x1 of the shared part:", left_edge.tolist())
print("its width:            ", (right_edge - left_edge).tolist())
print("areas of a:", box_area(a).tolist(), "and of b:", box_area(b).tolist())

# %% [markdown]
# A negative width belongs to boxes that lie apart. It must not survive: where width *and* height
# are negative, their product looks like an area.
#
# ## Exercise 1: box_iou
#
# Write the whole table. The docstring allows dimensions in front of $N$ and $M$, so a batch of
# pictures needs no loop either. Two boxes without area need a thought: their union is 0.
#
# <details><summary>Hint</summary>
#
# x and y can be treated at once: `a[..., :, None, :2]` are the first corners of `a` as a column,
# [..., N, 1, 2], and `b[..., None, :, :2]` those of `b` as a row. `torch.minimum` and
# `torch.maximum` broadcast, and `.prod(-1)` multiplies width and height.
# `torch.where(condition, x, 0.0)` takes x where the condition holds. `box_area` is imported above.
# </details>

# %% exercise="course.exercises.lesson04.box_iou"
from fbnet_lesson.course.exercises.lesson04 import box_iou

# %%
check(box_iou)

# %% [markdown]
# **Plug it in.** IoU decides what every anchor is taught: one that overlaps an object with 0.7 or
# more is an example of "object" (lesson 05). Here are the number of such anchors in ten scenes, and
# the two losses of the network that is taught so, in thousandths: with the package's function, then
# with yours.

# %%
model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
scenes = ShapesDataset(20, seed=0, transform=eval_transform(), cache=True)
images, targets = zip(*(scenes[i] for i in range(10)), strict=True)
with torch.no_grad():
    features = [model.backbone(model.preprocess(images)[0])[name] for name in model.rpn_features]
print("feature map:", tuple(features[0].shape))


# %%
def taught() -> tuple[float, ...]:
    """Anchors that are examples of "object"; the losses of objectness and of location."""
    truths = [t["boxes"][~t["iscrowd"]] for t in targets]  # without crowds, as in training
    (laid,) = model.rpn.anchors(features)
    examples = sum(int((boxes.box_iou(t, laid) >= 0.7).any(0).sum()) for t in truths)
    draws = [torch.Generator().manual_seed(i) for i in range(10)]
    given = [{"boxes": t, "generator": g} for t, g in zip(truths, draws, strict=True)]
    with torch.no_grad():
        _, losses = model.rpn(features, [(128, 128)] * 10, given)
    return examples, *(round(1000 * float(value), 1) for value in losses.values())


compare(taught, box_iou=box_iou)

# %% [markdown]
# And with a wrong IoU? One has the + 1 of old code; the other divides twice the shared area by the
# sum of both areas, which is the Dice coefficient. **Predict** which of them the losses notice.


# %%
own_iou = boxes.box_iou  # while something is plugged in, boxes.box_iou is that


def a_pixel_more(a: Tensor, b: Tensor) -> Tensor:
    more = torch.tensor([0.0, 0, 1, 1])
    return own_iou(a + more, b + more)


def dice(a: Tensor, b: Tensor) -> Tensor:
    iou = own_iou(a, b)
    return 2 * iou / (1 + iou)  # 2 I / (A + B), from I / (A + B - I)


for wrong in (a_pixel_more, dice):
    with plug(box_iou=wrong):
        print(f"{wrong.__name__:12s}", taught())

# %% [markdown]
# The + 1 moves these IoUs by a hundredth, two more anchors pass, and nothing else happens: that is
# how it could live in so much code for so long. Dice is larger than IoU everywhere between 0 and
# 1, so that an anchor of IoU 0.54 passes for one of 0.7. Ten times as many anchors are called
# objects, and the network is told so against its better knowledge.
#
# ## The anchors of one cell
#
# A network does not invent boxes. It starts from *anchors*, boxes of fixed shapes, and says how
# each should be moved. An anchor is described by its *size* $s$, the square root of its area, and
# its *ratio* $r$, height over width:
#
# $$w \cdot h = s^2, \qquad \frac{h}{w} = r \qquad\Rightarrow\qquad
# w = \frac{s}{\sqrt r}, \quad h = s \sqrt r.$$

# %%
size, ratio = 16.0, 2.0
width = size / math.sqrt(ratio)
height = width * ratio
print(f"size 16, ratio 2: {width:.1f} wide, {height:.1f} high")
print(f"area {width * height:.0f} = 16², ratio {height / width:.0f}")

# %% [markdown]
# ## Exercise 2: cell_anchors
#
# All sizes with all ratios, around the point (0, 0). The order is part of the promise: the RPN has
# one channel for each anchor, and a trained channel knows nothing of sizes but its own number.
#
# <details><summary>Hint</summary>
#
# Two loops and a list; `torch.tensor(rows)` at the end. Around (0, 0) means that x1 is
# −width / 2 and x2 is width / 2.
# </details>

# %% exercise="detection.anchors.cell_anchors"
from fbnet_lesson.detection.anchors import cell_anchors

# %%
check(cell_anchors)

# %%
# alt: Left, the fifteen anchors of one cell around a common centre: five sizes, each as a square, a
#      flat and a high box. Right, the same as points by width and height: three rising lines of
#      five points.
SIZES, RATIOS = model.config.anchor_sizes[0], model.config.anchor_ratios
own_cells = mine(cell_anchors)  # yours, once it has passed its check
cells = own_cells(SIZES, RATIOS)  # (15, 4)
left, right = drawing.panels(2, height=2.9)
left.set(xlim=(-62, 62), ylim=(62, -62), aspect="equal", xticks=[-50, 0, 50], yticks=[-50, 0, 50])
for ratio, style in zip(RATIOS, (":", "-", "--"), strict=True):
    of_ratio = [i for i in range(15) if RATIOS[i % 3] == ratio]
    drawing.draw_boxes(left, cells[of_ratio], style=style, width=1.4)
    w, h = (cells[of_ratio, 2:] - cells[of_ratio, :2]).T
    right.plot(w, h, f"ko{style}", markersize=5, label=f"ratio {ratio}")
right.set(xlabel="width, pixels", ylabel="height", xticks=[0, 50, 100], yticks=[0, 50, 100])
right.legend(fontsize=8, handlelength=3)
print("sizes", SIZES, "ratios", RATIOS, "anchors a cell", len(cells))

# %% [markdown]
# **Plug it in.** A detector makes the anchors of a cell when it is created, so we create one inside
# `run`, and measure its AP on 20 scenes.


# %%
def box_ap() -> tuple[int, float]:
    """Detections and box AP on 20 scenes, of a detector that is made here and now."""
    detector = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes")
    result = evaluate(detector, scenes)
    return result["detections"], round(result["box"]["AP"], 2)


compare(box_ap, cell_anchors=cell_anchors)

# %% [markdown]
# And with the same fifteen anchors in another order, all sizes of the first ratio first? Every
# channel then answers for the shape of another. **Predict** the AP: is it 0?


# %%
def ratios_outside(sizes, ratios):
    by_size = package_cells(sizes, ratios).reshape(len(sizes), len(ratios), 4)
    return by_size.transpose(0, 1).reshape(-1, 4)  # (ratios, sizes, 4) -> (15, 4)


package_cells = package.cell_anchors
with plug(cell_anchors=ratios_outside):
    print("detections, box AP:", box_ap())

# %% [markdown]
# Four hundredths of AP are gone, no more, and nothing fails. Objectness and deltas are now read
# onto the wrong shapes; the proposals are bad; but the box head moves every proposal a second time,
# and repairs most of them. A pipeline that corrects itself also hides its mistakes. This order is
# not far-fetched: it is torchvision's (see below).
#
# ## Over the whole map
#
# The same anchors stand on every cell. The map has $H \times W$ cells, and one cell further is
# `stride` pixels further. On a map of 2 × 2 cells with two anchors each:

# %%
two = [[-2.0, -2, 2, 2], [-3.0, -1, 3, 1]]
for i in range(2):  # rows: y
    for j in range(2):  # columns: x
        for anchor, (x1, y1, x2, y2) in enumerate(two):
            moved = [x1 + 8 * j, y1 + 8 * i, x2 + 8 * j, y2 + 8 * i]
            print(f"row {i}, column {j}, anchor {anchor}: {moved}")

# %% [markdown]
# Rows, then columns, then anchors: y is slowest, as it is in memory. The network's answers are laid
# out in the same order (the stretch of lesson 05), and there is nothing but the order to connect
# them.
#
# Look at the first centre: (0, 0), the *corner* of the first cell, whose middle is at (4, 4). The
# anchors of the published FBNet detectors have this *offset 0*. They stand half a stride up and to
# the left of the cell they belong to.
#
# ## Exercise 3: grid_anchors
#
# Lay the anchors of one cell over a map, without loops.
#
# <details><summary>Hint</summary>
#
# `torch.meshgrid(y, x, indexing="ij")` gives the y and the x of each cell, [H, W] each. One shift
# has four numbers, as a box has: x, y, x, y. Shifts as [H·W, 1, 4] plus anchors as [A, 4]
# broadcast to [H·W, A, 4].
# </details>

# %% exercise="detection.anchors.grid_anchors"
from fbnet_lesson.detection.anchors import grid_anchors

# %%
check(grid_anchors)

# %%
# alt: Left, a part of the scene with a dot on the middle of each cell and a cross on the centre of
#      its anchors, half a cell up and to the left. Right, the fifteen anchors of two cells, one in
#      the middle and one at the upper left corner of the picture, where most of each lies outside.
own_grid = mine(grid_anchors)
anchors = own_grid(cells, (16, 16), 8)  # (3840, 4)
image = images[3]
left, right = drawing.panels(2, height=3.4)
drawing.show_image(left, image, "middles of cells (dots), of anchors (crosses)", dim=0.6)
at = torch.arange(8) * 8.0
left.plot(*(torch.cartesian_prod(at, at) + 4).T, "k.", markersize=4)
left.plot(*torch.cartesian_prod(at, at).T, "kx", markersize=4)
left.set(xlim=(-4, 60), ylim=(60, -4), xticks=range(0, 61, 8), yticks=range(0, 61, 8))
left.grid(color="0.6", linewidth=0.5)
drawing.show_image(right, image, "the anchors of two cells", dim=0.5)
for cell, style in ((8 * 16 + 9, "-"), (0, "--")):
    drawing.draw_boxes(right, anchors[15 * cell : 15 * cell + 15], width=0.9, style=style)
right.set(xlim=(-60, 188), ylim=(188, -60))
inside = ((anchors[:, :2] >= 0) & (anchors[:, 2:] <= 128)).all(1)
print(f"{len(anchors)} anchors, {int(inside.sum())} of them wholly inside the picture")

# %% [markdown]
# Fewer than half lie wholly inside. The first Faster R-CNN left the others out of training; today
# they are kept, as an object at the border needs an anchor there.

# %%
compare(box_ap, grid_anchors=grid_anchors)

# %% [markdown]
# Two mistakes for comparison: the cells column by column, and the anchors in the middle of their
# cells. **Predict** which of the two is a disaster.


# %%
def column_by_column(cells, grid, stride):
    laid = package_grid(cells, grid, stride).reshape(*grid, len(cells), 4)
    return laid.transpose(0, 1).reshape(-1, 4)


def in_the_middle(cells, grid, stride):
    return package_grid(cells, grid, stride) + stride / 2


package_grid = package.grid_anchors
for wrong in (column_by_column, in_the_middle):
    with plug(grid_anchors=wrong):
        print(f"{wrong.__name__:17s} detections, box AP:", box_ap())

# %% [markdown]
# The first mirrors the picture along its diagonal: what was found on the right is claimed below.
# The second moves every anchor by 4 pixels, and costs little: the network was trained to answer
# from the corner of the cell, so all its proposals are 4 pixels off now, and the box head moves
# them back.

# %% [markdown]
# ## From the network's answer to a box
#
# For each anchor the network gives four *deltas*: how far the centre moves, in units of the
# anchor's width and height, and the logarithms of how much it grows. (Lesson 05 shows where they
# come from, and why in these units.) Decoding is
#
# $$x = x_a + d_x w_a \quad y = y_a + d_y h_a \quad w = w_a\, e^{d_w} \quad h = h_a\, e^{d_h},$$
#
# with centre and size of the anchor at index $a$. Here for one anchor:

# %%
dx, dy, dw, dh = 0.5, 0.0, math.log(2), 0.0
ax1, ay1, ax2, ay2 = 0.0, 0.0, 4.0, 8.0  # the anchor: centre (2, 4), 4 wide, 8 high
x, y = 2 + dx * 4, 4 + dy * 8
w, h = 4 * math.exp(dw), 8 * math.exp(dh)
print("centre", (x, y), "size", (round(w, 3), h))
print("corners", [round(v, 3) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)])

# %% [markdown]
# Two details make it usable. The deltas are divided by *weights* first: the box head of lesson 08
# learns ten times the offsets and five times the logarithms, which makes its targets about as large
# as 1. And $d_w$, $d_h$ are *clamped*, as an exponential trusts nobody: early in training a delta
# of 100 is an accident, and $e^{100}$ is not a number that float32 has.

# %%
for value in (4.0, 12.0, 100.0):
    d = torch.tensor(value)
    halves = f"{float(d.half().exp()):.0f} in half precision"
    print(f"exp({value:g}) = {float(d.exp()):.4g}, {halves}; clamped", end=" ")
    print(f"{float(d.clamp(max=SCALE_CLAMP).exp()):.1f}")
centre, size = centre_form(torch.tensor([[ax1, ay1, ax2, ay2]]))
print("the anchor: centre", centre.tolist(), "size", size.tolist())

# %% [markdown]
# ## Exercise 4: decode_boxes
#
# `SCALE_CLAMP` is log(1000 / 16): a box may become 62.5 times as wide as its anchor. torchvision
# and d2go have the same number; whoever wants the same boxes needs it too.
#
# <details><summary>Hint</summary>
#
# `centre_form(anchors)` returns centres and sizes, [..., 2] each; x and y are then treated
# together: `deltas[..., :2]` are the offsets, `deltas[..., 2:]` the logarithms. Divide by the
# weights before anything else. The corners are the centre less and plus half the size.
# </details>

# %% exercise="detection.boxes.decode_boxes"
from fbnet_lesson.detection.boxes import decode_boxes

# %%
check(decode_boxes)

# %%
compare(box_ap, decode_boxes=decode_boxes)

# %% [markdown]
# ### Turn the knobs: four deltas
#
# The dashed anchor is 4 × 8 cells large. Move it, then let it grow. What does $d_w = -1$ do, and
# what does $d_x = 1$?


# %%
def moved(ax: plt.Axes, dx: float, dy: float, dw: float, dh: float) -> list[float]:
    anchor = torch.tensor([[32.0, 24, 64, 88]])
    box = boxes.decode_boxes(torch.tensor([[dx, dy, dw, dh]]), anchor, (1.0,) * 4)
    ax.set(xlim=(0, 128), ylim=(128, 0), aspect="equal", xticks=[0, 64, 128], yticks=[0, 64, 128])
    drawing.draw_boxes(ax, anchor, style="--")
    drawing.draw_boxes(ax, box, width=2)
    ax.set_title(f"dx {dx:g}, dy {dy:g}, dw {dw:g}, dh {dh:g}", fontsize=8)
    return [round(v) for v in box[0].tolist()]


def picture(**deltas: float) -> plt.Figure:
    (ax,) = drawing.panels(1, height=3.6)
    print("box", moved(ax, **deltas))
    return ax.figure


# %%
explore(
    picture,
    dx=ipywidgets.FloatSlider(0.5, min=-1, max=1, step=0.25),
    dy=ipywidgets.FloatSlider(0.0, min=-1, max=1, step=0.25),
    dw=ipywidgets.FloatSlider(0.0, min=-1, max=1, step=0.25),
    dh=ipywidgets.FloatSlider(-0.5, min=-1, max=1, step=0.25),
)

# %%
# alt: Four panels with the same dashed high anchor and the box that deltas make of it: half a width
#      to the right; half a height down; a little more than half as high again around the same
#      centre; and narrow and flat, moved to the right.
settings = [(0.5, 0, 0, 0), (0, 0.5, 0, 0), (0, 0, 0.5, 0), (1, 0, -1, -1)]
for ax, deltas in zip(drawing.panels(4, height=2.1), settings, strict=True):
    print(deltas, "->", moved(ax, *deltas))

# %% [markdown]
# ## Clipping, and what is left
#
# A decoded box may reach beyond the picture. `clip_boxes` moves each corner to the nearest point of
# the picture. What lay wholly outside becomes a line or a point on the border, a box without area,
# and `nonempty` says which boxes those are. Three boxes, in a picture 100 high and 128 wide:

# %%
reaching = torch.tensor([[-10.0, 20, 40, 120], [130, 10, 150, 30], [20, 20, 60, 60]])
clipped = boxes.clip_boxes(reaching, (100, 128))  # (height, width), as a picture's shape
for before, after, good in zip(reaching, clipped, boxes.nonempty(clipped), strict=True):
    print(before.tolist(), "->", after.tolist(), "kept" if good else "dropped")

# %% [markdown]
# The order matters: decode, clip, drop. NMS would pile up boxes without area, as none of them
# overlaps another (lesson 06), and the box head would have to pool them.

# %% [markdown]
# ## Experiment: which anchors would this data need?
#
# Before anything is trained, we can ask how well the anchors *could* do: for each object the best
# IoU that any anchor has with it. The share of objects for which it reaches a threshold is the
# **best possible recall** of the anchors. Two rules of hygiene: crowds are left out, as in
# training, and anchors are chosen on other scenes than they are measured on.


# %%
def objects_of(count: int, seed: int) -> Tensor:
    """The boxes [N, 4] of all objects in ``count`` scenes, without crowds."""
    found = ShapesDataset(count, seed, transform=eval_transform())
    return torch.cat([target["boxes"][~target["iscrowd"]] for _, target in found])


to_choose, to_measure = objects_of(200, seed=1), objects_of(100, seed=0)
print(f"{len(to_choose)} objects to choose from, {len(to_measure)} to measure on")


# %%
def best_iou(cells: Tensor, objects: Tensor, stride: int = 8, offset: float = 0.0) -> Tensor:
    """[A, 4], [N, 4] -> [N]: the IoU of each object with its best anchor."""
    side = 128 // stride
    laid = own_grid(cells, (side, side), stride) + offset * stride
    parts = objects.split(16)  # not all pairs at once: 100 anchors on 1024 cells are many
    return torch.cat([boxes.box_iou(part, laid).amax(1) for part in parts])


def possible(cells: Tensor, threshold: float = 0.7, **where) -> float:
    return float((best_iou(cells, to_measure, **where) >= threshold).float().mean())


print(f"covered by the detector's own anchors: {possible(cells):.2f}")

# %% [markdown]
# The candidates: the detector's own set, and its five squares alone; d2go's sizes, made for larger
# pictures; and squares whose sizes are *quantiles* of the objects' sizes, so that each stands for
# equally many objects.

# %%
lengths = (to_choose[:, 2:] - to_choose[:, :2]).prod(1).sqrt()  # (N,) sqrt of the areas


def chosen(count: int) -> Tensor:
    """[count, 4]: squares at the middles of ``count`` equal parts of the objects by size."""
    places = (torch.arange(count) + 0.5) / count
    return own_cells(tuple(lengths.quantile(places).tolist()), (1.0,))


sets = {
    "5 sizes × 3 ratios": cells,
    "5 sizes, ratio 1": own_cells(SIZES, (1.0,)),
    "d2go's 5 sizes × 3": own_cells((32.0, 64.0, 96.0, 128.0, 160.0), RATIOS),
}
sets |= {f"{count} chosen": chosen(count) for count in (1, 3, 5, 15, 100)}

# %%
print(f"{'anchors':20s}{'a cell':>7s}{'IoU 0.5':>10s}{'IoU 0.7':>10s}")
for name, found in sets.items():
    print(f"{name:20s}{len(found):7d}{possible(found, 0.5):10.2f}{possible(found):10.2f}")

# %%
covered = [round(100 * possible(sets[name])) for name in ("5 sizes × 3 ratios", "100 chosen")]
reveal(
    guess,
    **{
        "covered with 15 anchors a cell, of 100": covered[0],
        "covered with 100 anchors a cell, of 100": covered[1],
    },
)

# %% [markdown]
# Three things to read from the table:
#
# - **Ratios.** Ten of the fifteen anchors are there for flat and high objects, and buy one object
#   in a hundred. These objects are nearly square.
# - **Sizes.** d2go's sizes were chosen for pictures whose short edge is 224; here half of the
#   objects are smaller than the smallest of them. Sizes are in pixels *of the network's input*, and
#   do not follow when you resize.
# - **A wall.** Fifteen chosen sizes beat the fifteen given. A hundred do no better than fifteen.
#
# What is the wall made of? **Predict**, then read on: if every object brought an anchor of exactly
# its own width and height, to be put on every cell, how many would be covered?

# %%
extent = to_measure[:, 2:] - to_measure[:, :2]  # (N, 2)
centred = torch.cat([-extent / 2, extent / 2], 1)  # (N, 4): the objects around (0, 0)
pairs = zip(centred, to_measure, strict=True)
own_shape = torch.cat([best_iou(shape[None], box[None]) for shape, box in pairs])
print(f"every object its own shape, stride 8: {float((own_shape >= 0.7).float().mean()):.2f}")
for name in ("5 sizes × 3 ratios", "15 chosen"):
    print(f"{name}, stride 8: {possible(sets[name]):.2f}, stride 4: ", end="")
    print(f"{possible(sets[name], stride=4):.2f}")
print(f"5 sizes × 3 ratios, offset half a stride: {possible(cells, offset=0.5):.2f}")

# %%
counts, edges = (1, 3, 5, 15, 100), (0, 16, 24, 36, 54, 128)
lines = {
    stride: [possible(sets[f"{count} chosen"], stride=stride) for count in counts]
    for stride in (4, 8)
}
given, length = best_iou(cells, to_measure), extent.prod(1).sqrt()
ranges = list(zip(edges, edges[1:], strict=False))
shares = {
    name: [float((best >= 0.7)[(length >= a) & (length < b)].float().mean()) for a, b in ranges]
    for name, best in (("15 given", given), ("own shape", own_shape))
}
print("by size of the object:", {k: [round(v, 2) for v in row] for k, row in shares.items()})

# %%
# alt: Left, covered objects against anchors a cell: at stride 8 the line rises to 0.74 at 15
#      anchors and then stays, close to a dotted line at 0.73; at stride 4 it rises to 0.94. Right,
#      covered objects by size: of those under 16 pixels about a sixth, of those over 54 nearly all.
left, right = drawing.panels(2, height=2.9)
left.plot(counts, lines[4], "ks--", markersize=4, label="stride 4")
left.plot(counts, lines[8], "ko-", markersize=4, label="stride 8")
left.axhline((own_shape >= 0.7).float().mean(), color="0.4", linestyle=":", label="own shape, 8")
left.set(xscale="log", xticks=counts, xticklabels=counts, yticks=[0, 0.25, 0.5, 0.75, 1])
left.set(xlabel="chosen anchors a cell", ylabel="covered with IoU 0.7")
left.minorticks_off()
left.legend(fontsize=8)
for (name, row), shift, shade in zip(shares.items(), (-0.2, 0.2), ("0.75", "0.3"), strict=True):
    right.bar([i + shift for i in range(5)], row, 0.38, color=shade, label=name)
right.set_xticks(range(5), [f"{a}–{b}" for a, b in ranges], fontsize=8)
right.set(xlabel="size of the object, pixels", yticks=[0, 0.5, 1])
_ = right.legend(fontsize=8)

# %% [markdown]
# **The wall is the grid.** Even an anchor of the object's exact shape has to stand on a multiple of
# 8 pixels, up to 4 pixels off along each axis, and 4 pixels are much for a small object (see the
# figure under *IoU*). So a quarter of the objects stays uncovered, whatever shapes you choose; a
# finer grid, with four times the cells, covers most of them. (A hundred sizes do a little better
# than the exact shape: over an object that stands beside it, a slightly larger anchor has the
# better IoU.) Half a stride of offset changes nothing: it moves all anchors alike, and objects lie
# anywhere.
#
# A common way to judge anchors leaves the place out: it compares shapes on one common centre
# (YOLO9000, arXiv 1612.08242, chose its "dimension clusters" so). On one centre, anchors keep
# getting better where on the grid they have long stopped:

# %%
for name in ("5 chosen", "15 chosen", "100 chosen"):
    one_centre = boxes.box_iou(centred, sets[name]).amax(1).mean()
    laid_out = best_iou(sets[name], to_measure).mean()
    print(f"{name:11s} mean best IoU: {one_centre:.2f} on one centre, {laid_out:.2f} laid out")

# %% [markdown]
# ### And after training?
#
# The chosen anchors cover 74 objects in a hundred where the given ones cover 62; a single square
# covers 24. It is tempting to choose by these numbers. The test takes five minutes, so it is run
# outside this notebook (`docs/experiments/anchor_sets.py`): for each set an RPN is trained from
# nothing, 800 steps of 8 scenes, with the trunk and the box head of the shipped detector; measured
# on 200 other scenes. Your third prediction stands in the last row.

# %%
from fbnet_lesson.course import experiments

race = experiments.table("anchor_sets")
print(f"{'':26s}{'possible':>14s}{'50 proposals':>16s}")
print(f"{'anchors':26s}{'0.5':>7s}{'0.7':>7s}{'0.5':>9s}{'0.75':>7s}{'box AP':>9s}")
for row in race:
    print(f"{row['anchors']:26s}{row['possible at 0.5']:7.2f}{row['possible at 0.7']:7.2f}", end="")
    print(f"{row['recall 50 at 0.5']:9.2f}{row['recall 50 at 0.75']:7.2f}{row['box AP']:9.3f}")

# %%
# alt: Horizontal bars for seven sets of anchors. Left, light bars of what the anchors could cover
#      differ widely, from 0.58 to 0.97, while dark bars of what the trained proposals cover are all
#      between 0.96 and 0.99. Right, the box AP of all seven, between 0.80 and 0.83.
left, right = drawing.panels(2, height=3.0)
places = list(range(len(race), 0, -1))
for key, shift, shade, name in (
    ("possible at 0.5", 0.2, "0.75", "anchors, possible"),
    ("recall 50 at 0.5", -0.2, "0.3", "proposals, trained"),
):
    left.barh([p + shift for p in places], [r[key] for r in race], 0.38, color=shade, label=name)
left.set_yticks(places, [f"{row['anchors']}" for row in race], fontsize=8)
left.set(xticks=[0, 0.5, 1], xlabel="objects covered with IoU 0.5", ylim=(0.4, 9))
left.legend(fontsize=7, loc="upper left", ncols=2)
drawn = right.barh(places, [row["box AP"] for row in race], 0.6, color="0.3")
right.bar_label(drawn, fmt="%.3f", padding=-32, color="white", fontsize=8)
_ = right.set(xticks=[0, 0.2, 0.4, 0.6, 0.8], xlabel="box AP", ylim=(0.4, 9))

# %%
reveal(guess, **{"box AP with 1 anchor a cell": round(race[-1]["box AP"], 2)})

# %% [markdown]
# A single square a cell, which could cover 58 objects in a hundred at 0.5, finds 96 of them, and
# costs two hundredths of AP. The 15 chosen sizes, best by far before training, gain nothing at all
# over the five squares that the detector had. The reason is `decode_boxes`: an anchor is where the
# network *begins*. It is moved once by the RPN and once more by the box head, and what it has to be
# is near enough to be asked, not right.
#
# What does the number foretell, then? Sort the table by *possible at 0.7*: the recall of the
# proposals at 0.75 follows nearly in order. It says how exact the proposals will be, not how many
# objects will be found. And it warns of the gross error: d2go's sizes on these small pictures.
#
# What this does not show: six shapes, about three to a scene. One anchor a cell can answer for one
# object; where two objects share a cell, in a crowd or with a person before a bus, one of them is
# lost, and ratios of 0.5 and 2 earn their place where objects are flat or high. The box AP is the
# mean of two seeds, which differ by up to 0.005, so differences of that size mean nothing.

# %% [markdown]
# ## What the documentation gets wrong
#
# **"Recommend to use 0.5, which means half stride."** So says detectron2 of the offset of its
# anchors, in the docstring of `DefaultAnchorGenerator` and beside its option `OFFSET`, whose
# default is 0.0; d2go's FBNet detectors have 0 too. The comment goes on that the value is "not
# expected to affect model accuracy". That may hold for training from nothing. For weights that were
# trained with the other value you have measured it above, and no error told you.
#
# **Old anchors.** The code of the first Faster R-CNN in Python builds its anchors from "a reference
# (0, 0, 15, 15) window", and opens with a comment to "verify that we compute the same anchors as"
# the MATLAB version. The first of the nine listed there, for the size 128 and the ratio 0.5, is
# (−83, −39, 100, 56). Here it is, computed as the code computes it:

# %%
w = round(math.sqrt(16 * 16 / 0.5))  # 22.6 -> 23, rounded to whole pixels
h = round(w * 0.5)  # 11.5 -> 12
w, h = 8 * w, 8 * h  # scaled from 16 to 128
x1, y1 = 7.5 - (w - 1) / 2, 7.5 - (h - 1) / 2  # 7.5: the middle of 0 and 15
print("old code:", [x1, y1, x1 + w - 1, y1 + h - 1], "inclusive corners")
print(f"{w} × {h}: ratio {h / w:.2f}, area {w * h:,} where 128² is {128**2:,}")
print("centre between edges:", (x1 + w / 2, y1 + h / 2), "with a stride of 16")
print("here:    ", [round(v, 1) for v in own_cells((128.0,), (0.5,))[0].tolist()])

# %% [markdown]
# It is not the listed one. That one counts pixels from 1, as MATLAB does, and the comment has been
# copied from repository to repository since. In one line meet inclusive corners, sides rounded on
# the way, an offset of half a stride, and two places to begin counting. Weights that were trained
# with one set of conventions expect it for ever.
#
# **"A set of sizes[i] * aspect_ratios[i] anchors per spatial location"**, says torchvision of its
# `AnchorGenerator`, and is silent on three matters: their order, that they are rounded, and
# where the stride comes from.

# %%
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

theirs = AnchorGenerator(sizes=((16, 32),), aspect_ratios=((0.5, 1.0, 2.0),))
sides = (theirs.cell_anchors[0][:, 2:] - theirs.cell_anchors[0][:, :2]).int().tolist()
ours = own_cells((16.0, 32.0), (0.5, 1.0, 2.0))
print("torchvision, width and height:", sides)
print("here:", [[round(v, 1) for v in row] for row in (ours[:, 2:] - ours[:, :2]).tolist()])
batch = ImageList(torch.zeros(1, 3, 100, 100), [(100, 100)])
(laid,) = theirs(batch, [torch.zeros(1, 8, 7, 7)])  # a map of stride 16: 7 cells for 100 pixels
print("step from cell to cell:", int(laid[6, 0] - laid[0, 0]), "pixels")

# %% [markdown]
# All sizes of a ratio first, where detectron2 has all ratios of a size first: the order that you
# plugged in after exercise 2. Sides are rounded to even numbers. And the stride is computed as
# ⌊100 / 7⌋ = 14, where the trunk's is 16: by the last cell, the anchors are 12 pixels away from
# what they should look at. torchvision's own models pad pictures to a multiple of 32 and never
# meet it; whoever takes the generator for another trunk does.
#
# **"Indices of the boxes that have both sides larger than `min_size`"** is what torchvision's
# `remove_small_boxes` promises to return. Its first sentence says that smaller ones are removed.
# And those that are equal? They stay, so that `min_size=0` keeps boxes without area:

# %%
import torchvision

line = torch.tensor([[1.0, 1, 1, 5], [0, 0, 3, 3]])  # the first has no width
print("torchvision keeps:", torchvision.ops.remove_small_boxes(line, 0.0).tolist())
print("nonempty keeps:   ", boxes.nonempty(line).nonzero().flatten().tolist())
said = torchvision.ops.box_convert.__doc__
print("box_convert says of xywh 'x1, y2 being top left':", "x1, y2 being top left" in said)

# %% [markdown]
# ## Edge cases
#
# **Touching, empty, inside out, not a number.** Predict the four rows before you run the cell; the
# square that they are compared with reaches from (0, 0) to (4, 4).

# %%
square = torch.tensor([[0.0, 0, 4, 4]])
cases = {
    "touches it at a side": [4.0, 0, 8, 4],
    "a point inside it": [2.0, 2, 2, 2],
    "inside out": [4.0, 4, 0, 0],
    "nan in one number": [0.0, 0, math.nan, 4],
}
for name, row in cases.items():
    box = torch.tensor([row])
    pair = [float(boxes.box_iou(box, other)[0, 0]) for other in (square, box)]
    print(f"{name:21s} IoU with the square {pair[0]}, with itself {pair[1]}", end="; ")
    print("nonempty" if boxes.nonempty(box) else "empty")
point = torch.tensor([[2.0, 2, 2, 2]])
print("torchvision, a point with itself:", float(torchvision.ops.box_iou(point, point)))

# %% [markdown]
# - A point has IoU 0 even with itself, where torchvision says nan. Neither finds it; but `nan` goes
#   on through maxima and means, and 0 does not.
# - *Inside out* along both axes is a box whose area looks right, as two minus signs make a plus.
#   IoU sees through it, as the shared part has no width; `nonempty` does as well.
# - `nan` compares as False with everything, so that it falls out wherever something has to be
#   *over* a limit. Write conditions that keep what is good, not ones that drop what is bad.
#
# **Half precision.** Numbers end at 65,504 there, and an area is a product:

# %%
large, other = torch.tensor([[0.0, 0, 300, 300]]), torch.tensor([[0.0, 0, 300, 280]])
for kind in (torch.float32, torch.float16):
    first, second = large.to(kind), other.to(kind)
    print(f"{kind}: area {float(box_area(first)[0])},", end=" ")
    print(f"IoU {float(boxes.box_iou(first, second)[0, 0]):.2f}")
near = torch.tensor([1000.25, 1001.0, 3001.0]).half()
print("pixels 1000.25, 1001, 3001 as float16:", near.tolist())

# %% [markdown]
# A square of 256 pixels is already too large, and every IoU with it is nan; beyond 2048, float16
# knows even pixels only. So boxes and anchors stay in float32, whatever the network computes in.
#
# ## Stretch: chosen by k-means
#
# Quantiles look at sizes alone. *K-means* looks at whole shapes, and measures by IoU, as the
# matching does. It repeats one step: each object joins the chosen shape that fits it best, then
# each chosen shape becomes the mean of the objects that joined it. Write that step, then predict
# whether fifteen such shapes cover more objects than the fifteen quantiles.
#
# <details><summary>Hint</summary>
#
# On one common centre, two shapes share min(w) · min(h). `argmax(1)` names the best chosen shape
# of each object, the first of equals. Begin the result as a copy of `chosen`, and replace those
# that someone joined.
# </details>

# %% exercise="course.exercises.lesson04.kmeans_step"
from fbnet_lesson.course.exercises.lesson04 import kmeans_step

# %%
check(kmeans_step)

# %%
shapes, step = to_choose[:, 2:] - to_choose[:, :2], mine(kmeans_step)
for count in (3, 5, 15):
    clusters = 2 * sets[f"{count} chosen"][:, 2:]  # (count, 2): their widths and heights
    for _ in range(30):
        clusters = step(shapes, clusters)
    found = torch.cat([-clusters / 2, clusters / 2], 1)
    print(f"{count:2d} anchors: quantiles {possible(sets[f'{count} chosen']):.2f},", end=" ")
    print(f"k-means {possible(found):.2f}")

# %% [markdown]
# With three anchors the famous way gains five objects in a hundred, with fifteen none: it solves
# the problem of shapes, and from there on the problem is the grid.
#
# A second stretch, without a check: choose anchors for a data set of your own, with `to_choose`
# replaced by its boxes *in pixels of the network's input*. Which would you train with, and what
# else would you want to know before you decide?

# %% [markdown]
# ## Recap
#
# Four numbers are a box only together with a convention: corners or centre, x2 inclusive or not.
# IoU is one broadcast, with clamped sides and a thought for 0 / 0. Anchors are sizes times ratios
# on every cell, in an order that the channels follow; decoding moves them, in units of their own
# size. Best possible recall says before training what anchors can cover; on a coarse grid their
# place costs more than their shape, and after two rounds of moving neither costs much.
#
# **Three questions**
#
# <details><summary>1. You train on pictures of 448 pixels instead of 224, and leave the anchors as
# they are. What changes, and what do you look at first?</summary>
#
# Objects become twice as large in pixels of the input, anchors do not. Small objects gain: the same
# grid is finer for them. Objects over the largest anchor lose. The best possible recall by size of
# object says both in a second, before any training.
# </details>
#
# <details><summary>2. A colleague's IoU gives 0.06 for two boxes that only touch. What did they
# write, and which of their boxes suffers most?</summary>
#
# The + 1: touching boxes then share a line of pixels. Two squares of 8 pixels share 9 of
# 2 · 81 − 9, which is 1/17 or 0.06. The smaller the boxes, the worse: with 4 pixels it is 0.11.
# </details>
#
# <details><summary>3. Weights from another code base load without an error, all shapes fit, and AP
# is a few hundredths lower than published. Name three suspects of this lesson.</summary>
#
# The order of the anchors in a cell (sizes or ratios first), the offset (0 or half a stride), and
# a + 1 in widths or in decoding. All shapes fit, and the box head repairs most of the damage, which
# is why nobody looks.
# </details>
#
# **Sources.** Faster R-CNN (arXiv 1506.01497, sec. 3.1.1, anchors) and `generate_anchors.py` of its
# code in Python; R-CNN (arXiv 1311.2524, app. C, deltas); YOLO9000 (arXiv 1612.08242, sec. 2,
# dimension clusters); detectron2's `anchor_generator.py` and `defaults.py`; torchvision's
# `AnchorGenerator` and `ops`, as run above; the anchors in force in d2go's FBNet detectors.
