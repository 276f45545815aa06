# %% [markdown]
# # 03 · Normalization: BN, GN, SyncBN, naiveSyncBN across processes
#
# **In one sitting you will have written the norms of the detector, run them in two real processes,
# and measured what one image a batch costs.**
#
# After this lesson you can
#
# - compute batch norm by hand: over which values, where ε goes, which variance is kept;
# - say for BN, GN, SyncBN, naiveSyncBN and FrozenBN whose values the mean is taken over;
# - predict what two workers with 4 and 2 images get from each of them;
# - choose one for the batch that fits your memory, with a measurement to lean on.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lessons 00, 01 | 30 s, 1400 MB, no network |

# %% [markdown]
# ## Predict first
#
# 1. Two workers train together. One has four images, of brightness 1, 1, 3, 3. The other has two,
#    both of brightness 8. The norm layer is `naiveSyncBN`, as it comes. Which mean is subtracted?
# 2. In training mode a batch norm sees a single image whose map is 1 × 1. What does it put out?
# 3. The detector of lesson 00 reaches a box AP of 0.86 on the scenes below. Let every norm layer
#    take its statistics from the one image in front of it, instead of those it learned. What is
#    left of the 0.86?

# %%
from fbnet_lesson.course import reveal

guess = {"mean of naiveSyncBN": None, "output for one value": None, "AP that is left": None}

# %%
from copy import deepcopy
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fbnet_lesson as fl
from fbnet_lesson import norms
from fbnet_lesson.course import check, drawing, explore, plug
from fbnet_lesson.course.workers import WorkerError, Workers

torch.set_num_threads(1)
drawing.small_figures()
pair = Workers(2)  # two more processes; they start in the background until we need them

# %% [markdown]
# ## Four numbers
#
# A convolution hands on whatever size of numbers its weights make. The next layer would have to
# follow every change of that size. A norm layer fixes it: subtract the mean, divide by the
# standard deviation.

# %%
values = [1.0, 3.0, 5.0, 7.0]
mean = sum(values) / 4
var = sum((v - mean) ** 2 for v in values) / 4
print("mean", mean, "variance", var)
print("normalised", [round((v - mean) / var**0.5, 2) for v in values])

# %% [markdown]
# In a network each *channel* has its own mean and variance, over all images of the batch and all
# positions: over N, H and W. Then each channel gets a slope γ (`weight`) and a shift β (`bias`)
# back, which are learned:
#
# $$y = \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \varepsilon}}\;\gamma + \beta$$
#
# Two images, two channels, maps of 1 × 2. The first channel holds the four numbers from above.

# %%
x = torch.tensor([[[[1.0, 3.0]], [[10.0, 10.0]]], [[[5.0, 7.0]], [[30.0, 30.0]]]])
print("(N, C, H, W) =", tuple(x.shape))


def batch_norm_by_loops(x: Tensor, eps: float = 1e-5) -> Tensor:
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        places = list(product(range(len(x)), range(x.shape[2]), range(x.shape[3])))
        mean = sum(x[n, c, h, w] for n, h, w in places) / len(places)
        var = sum((x[n, c, h, w] - mean) ** 2 for n, h, w in places) / len(places)
        for n, h, w in places:
            out[n, c, h, w] = (x[n, c, h, w] - mean) / (var + eps) ** 0.5
    return out


# %%
out = batch_norm_by_loops(x)
print("channel 0:", [round(v, 2) for v in out[:, 0].flatten().tolist()])
print("channel 1:", [round(v, 2) for v in out[:, 1].flatten().tolist()])
print("as torch:", torch.allclose(out, F.batch_norm(x, None, None, training=True)))

# %% [markdown]
# Without loops the same is a mean over three dimensions: `x.mean((0, 2, 3), keepdim=True)` has
# shape `(1, C, 1, 1)`, and so it broadcasts against `(N, C, H, W)`. You will write that in a
# moment.
#
# ## Where ε goes
#
# A channel that is constant has variance 0. ε keeps the division finite, and it has to be *added*,
# to the *variance*, *under the root*. A widely read page prints $\sqrt{\mathrm{Var}} - \varepsilon$
# as the divisor. With a common ε of 1e-5 nobody notices until a channel is nearly dead. Here ε is
# 0.25, to see it with the naked eye: by which factor is a deviation multiplied?

# %%
eps = 0.25
forms = {
    "1 / √(Var + ε)": lambda std: 1 / (std**2 + eps) ** 0.5,
    "1 / (√Var + ε)": lambda std: 1 / (std + eps),
    "1 / (√Var − ε)": lambda std: 1 / (std - eps) if std != eps else float("inf"),
}
deviations = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0)
print("std             ", *(f"{std:7.3f}" for std in deviations))
for name, factor in forms.items():
    print(f"{name:16s}", *(f"{factor(std):7.2f}" for std in deviations))

# %%
# alt: The factor that three forms of batch norm multiply a channel by, over its standard deviation.
#      With ε inside the root the curve is smooth and below 2; the form √Var − ε has a pole at a
#      deviation of 0.25, and is negative below it.
(ax,) = drawing.panels(1, height=2.6)
grid = (torch.arange(1, 401) / 200 - 0.0025).tolist()
for (name, factor), style in zip(forms.items(), ("-", "--", ":"), strict=True):
    factors = torch.tensor([factor(std) for std in grid])
    factors[factors.abs() > 8] = float("nan")  # the line leaves the picture at the pole
    ax.plot(grid, factors, style, color="black", label=name)
ax.set_xticks([0, 0.25, 0.5, 1, 1.5, 2])
ax.set_yticks([-8, -4, 0, 4, 8])
ax.axhline(0, color="0.8", linewidth=0.8)
ax.set_xlabel("standard deviation of the channel (ε = 0.25)")
ax.set_ylabel("factor")
_ = ax.legend(fontsize=8)

# %% [markdown]
# With ε added, a channel that hardly varies is amplified by at most $1/\sqrt\varepsilon$. With ε
# subtracted, the factor has a pole at std = ε, and below it turns *negative*: the channel comes
# out upside down. The middle form keeps the sign, but amplifies a dead channel up to 1 / ε times:
# with an ε of 1e-5 by 100 000 instead of 316.
#
# ## Exercise 1: batch norm
#
# Write it from the formula, in training mode: statistics of the batch at hand. The variance is the
# biased one (divide by the number of values): afterwards the variance of the batch is to be one.
# The inputs may be far from zero, as those of a first layer on raw pixels are; think of what that
# means for $\mathrm{E}[x^2] - \mathrm{E}[x]^2$ in float32, which keeps 24 bits.
#
# <details><summary>Hint</summary>
#
# Take the mean with `keepdim=True`, then the mean of `(x - mean) ** 2`. `weight` has shape `(C,)`;
# `weight[:, None, None]` has `(C, 1, 1)`, which broadcasts against `(N, C, H, W)`.
# </details>

# %% exercise="course.exercises.lesson03.batch_norm"
from fbnet_lesson.course.exercises.lesson03 import batch_norm

# %%
check(batch_norm)

# %% [markdown]
# ## Training takes the batch's statistics, evaluation the running ones
#
# A detection must not depend on which pictures happen to be in the same batch. So while training,
# batch norm keeps a moving average of the mean and the variance, and uses those in eval mode.
# After each batch
#
# $$\text{running} \leftarrow (1 - m)\cdot\text{running} + m\cdot\text{batch}$$
#
# with the *momentum* m = 0.1. Two things surprise: in PyTorch m is the share of the **new** value;
# and the variance that is kept is the **unbiased** one, while the batch itself is normalised by
# the biased one.

# %%
layer = nn.BatchNorm2d(1, momentum=0.5)
four = torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(2, 1, 1, 2)  # mean 4, variance 5
for step in range(3):
    layer.train()(four)
    print(f"step {step}: mean {layer.running_mean.item():.2f}, var {layer.running_var.item():.3f}")
print("they are on their way to 4 and to", round(four.var(correction=1).item(), 2))

# %% [markdown]
# ## Exercise 2: the running statistics
#
# The update of one batch, for all channels. Mean and variance are over N, H and W again.
#
# <details><summary>Hint</summary>
#
# `x.var((0, 2, 3), correction=1)` divides by the number of values less one. Return new tensors;
# the old ones belong to the layer.
# </details>

# %% exercise="course.exercises.lesson03.running_update"
from fbnet_lesson.course.exercises.lesson03 import running_update

# %%
check(running_update)

# %% [markdown]
# ## Several processes
#
# A mean over few images is a poor one; below we measure how poor. With many workers each may have
# few images, all together have enough. *SyncBN* pools the statistics: every worker sends its means
# and variances to all others, and normalises by the pooled ones.
#
# `pair` is two processes of this machine, in one group of `torch.distributed`, just as on two
# machines. `pair.run` sends them a function and for each its arguments, and returns what they
# return. Let us answer the first question from the top. With a momentum of 1 the running
# statistics are those of the batch.


# %%
def one_worker(norm: str, images: Tensor) -> tuple[float, float]:
    layer = norms.make_norm(norm, 1).train()
    layer.momentum = 1.0
    layer(images)
    return layer.running_mean.item(), layer.running_var.item()


four = torch.tensor([1.0, 1.0, 3.0, 3.0]).reshape(4, 1, 1, 1)  # mean 2, variance 1
two = torch.tensor([8.0, 8.0]).reshape(2, 1, 1, 1)  # mean 8, variance 0
for norm in ("BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N"):
    results = pair.run(one_worker, [(norm, four), (norm, two)])
    print(f"{norm:14s}", *(f"mean {mean:.1f}, variance {var:.2f};" for mean, var in results))

# %% [markdown]
# - **BN**: each worker has its own, here 1 and 0, of which it keeps the unbiased 4/3 and 0. The
#   second worker normalises every picture to nothing.
# - **SyncBN**: as if the six images were in one place. Mean (4·2 + 2·8) / 6 = 4. The sum of
#   squares is 52; it normalises by 52/6 = 8.67, and keeps the unbiased 52/5 = 10.4.
# - **naiveSyncBN**: every *worker* counts the same. Mean (2 + 8) / 2 = 5: the two images of the
#   second worker have twice the say of the others.
# - **naiveSyncBN_N** (stats mode "N"): every *image* counts the same. Mean 4, as SyncBN. It keeps
#   the biased 8.67: distributed updates of naiveSyncBN leave the correction out.
#
# How do you get the variance of all from two variances? Not by averaging: (4·1 + 2·0) / 6 = 0.67
# is the variance *within* the workers. The workers' means differ too:
#
# $$\mu = \sum_k a_k \mu_k \qquad
# \sigma^2 = \sum_k a_k \left(\sigma_k^2 + (\mu_k - \mu)^2\right), \quad \sum_k a_k = 1$$
#
# Here 0.67 + (4·(2 − 4)² + 2·(8 − 4)²) / 6 = 0.67 + 8 = 8.67.
#
# ## Exercise 3: pool the statistics
#
# The one function that tells the three apart; they only give it other `worker_weights`: the number
# of values (SyncBN), a one each (naiveSyncBN), the number of images (naiveSyncBN_N).
#
# <details><summary>Hint</summary>
#
# Turn the weights into shares that add up to one, of shape `(workers, 1)`. When all weights are
# zero, `.clamp(min=1)` keeps the division finite.
# </details>

# %% exercise="norms.pool_statistics"
from fbnet_lesson.norms import pool_statistics

# %%
check(pool_statistics)

# %% [markdown]
# **Plug it in**, in both processes: your function travels along with `with_mine`, which names it.


# %%
def with_mine(norm: str, images: Tensor) -> tuple[float, float]:
    with plug(pool_statistics=pool_statistics):
        return one_worker(norm, images)


pooled = one_worker("BN", torch.cat([four, two]))  # plain BN, all six in one process
first, second = pair.run(with_mine, [("SyncBN", four), ("SyncBN", two)])
print(f"BN on all six: mean {pooled[0]:.1f}, variance {pooled[1]:.2f}")
print(f"worker 0:      mean {first[0]:.1f}, variance {first[1]:.2f}")
print(f"worker 1:      mean {second[0]:.1f}, variance {second[1]:.2f}")

# %% [markdown]
# The statistics are a function of all workers' inputs, so the gradient has to travel as well: a
# value on worker 0 moves the mean on worker 1, and with it that worker's loss.


# %%
def input_gradient(norm: str, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    out = norms.make_norm(norm, 1).train()(images)
    (out**3).sum().backward()
    return images.grad


expected = input_gradient("BN", torch.cat([four, two]))  # in this process: one batch of six
synchronised = torch.cat(pair.run(input_gradient, [("SyncBN", four), ("SyncBN", two)]))
alone = torch.cat(pair.run(input_gradient, [("BN", four), ("BN", two)]))
print(
    "SyncBN has the gradient of the big batch:", torch.allclose(synchronised, expected, atol=1e-4)
)
print("BN has it:", torch.allclose(alone, expected, atol=1e-4))

# %% [markdown]
# And on the detector's trunk: a dark picture of noise on one worker, a bright one on the other,
# against both in one batch.


# %%
def trunk_features(norm: str, images: list[Tensor]) -> Tensor:
    model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes", norm=norm).train()
    with torch.no_grad():
        return model.backbone(model.preprocess(images)[0])["trunk2"]


torch.manual_seed(0)
noise = torch.rand(3, 128, 128) / 2
dark, bright = [noise], [noise + 0.5]
together, _ = pair.run(trunk_features, [("BN", dark + bright)] * 2)
for norm in ("BN", "SyncBN", "naiveSyncBN"):
    parts = pair.run(trunk_features, [(norm, dark), (norm, bright)])
    print(f"{norm:12s} as one batch of two:", torch.allclose(torch.cat(parts), together, atol=1e-2))

# %% [markdown]
# With equal batches of equal size naiveSyncBN is SyncBN. For each layer a worker sends 2C + 1
# numbers forward, and 2C backward. That is little, and yet each message waits for the slowest
# worker: it is the number of messages that costs.
#
# ## An empty worker
#
# Detection batches are not always equal: the last batch of an epoch, or a head that got no
# proposals on one worker. Then all others still wait for that worker's statistics.

# %%
nothing = torch.zeros(0, 1, 1, 1)
for norm in ("SyncBN", "naiveSyncBN_N", "naiveSyncBN"):
    try:
        results = pair.run(one_worker, [(norm, four), (norm, nothing)])
        print(f"{norm:14s} means {[mean for mean, _ in results]}")
    except WorkerError as error:
        print(f"{norm:14s} refuses: {str(error).partition(';')[0]}")

# %% [markdown]
# With mode "" the empty worker would have the same say as the others, and nothing to say. All
# workers see that from the gathered weights, so all of them raise, and none is left waiting. Mode
# "N" gives it the weight 0.
#
# "N" counts *images*, not values. If the maps differ in size, it parts from SyncBN:

# %%
large = torch.full((2, 1, 2, 2), 8.0)  # two images again, each of four values
for norm in ("SyncBN", "naiveSyncBN_N"):
    results = pair.run(one_worker, [(norm, four), (norm, large)])
    print(f"{norm:14s} mean {results[0][0]:.1f}")
print("of all values:", torch.cat([four.flatten(), large.flatten()]).mean().item())

# %% [markdown]
# PyTorch has a `SyncBatchNorm` of its own. Why do we not take that?


# %%
def with_torchs_own(images: Tensor) -> Tensor:
    return nn.SyncBatchNorm(1).train()(images)


try:
    pair.run(with_torchs_own, [(four,), (two,)])
except WorkerError as error:
    print(str(error).partition(" or ")[0])

# %%
pair.close()  # from here on one process is enough

# %% [markdown]
# ## In the detector: batch norm
#
# **Plug it in.** The detector has a batch norm after most convolutions. Its losses on two scenes in
# training mode must be the same with PyTorch's compiled norm and with yours. The backward pass goes
# through your lines too: autograd differentiates the mean and the variance.

# %%
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform

model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
scenes = ShapesDataset(32, seed=0, transform=eval_transform())
others = ShapesDataset(64, seed=5, transform=eval_transform())
images, targets = (list(part) for part in zip(*(others[i] for i in range(64)), strict=True))
layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
print(len(layers), "batch norms, with", sum(layer.num_features for layer in layers), "channels")


# %%
def losses_and_gradient(model: nn.Module, count: int = 2) -> Tensor:
    model = deepcopy(model).train()
    torch.manual_seed(0)  # the detector samples anchors and proposals
    losses = model(images[:count], targets[:count])
    sum(losses.values()).backward()
    first = next(model.parameters()).grad  # the way back leads through all the norms
    return torch.stack([*losses.values(), first.abs().sum()]).detach()


own = losses_and_gradient(model)
with plug(batch_norm=batch_norm):
    yours = losses_and_gradient(model)
    print("five losses and a gradient agree:", torch.allclose(own, yours, rtol=1e-2))

# %% [markdown]
# ## In the detector: running statistics
#
# **Plug it in.** Throw away all that the detector has learned about means and variances: its AP is
# zero. Then show it 16 batches of four pictures in training mode, *without any gradient step*, and
# let your function move the statistics.

# %%
from fbnet_lesson.training.evaluation import evaluate


def box_ap(model: nn.Module, batch_size: int = 8) -> float:
    return evaluate(model.eval(), scenes, batch_size=batch_size)["box"]["AP"]


def batch_norms(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


# %%
forgetful = deepcopy(model)
for layer in batch_norms(forgetful):
    layer.reset_running_stats()  # mean 0, variance 1
    layer.momentum = 0.25
print(f"as trained: AP {box_ap(model):.2f}; statistics reset: AP {box_ap(forgetful):.2f}")
torch.manual_seed(0)
with plug(running_update=running_update), torch.no_grad():
    for first in range(0, 64, 4):
        forgetful.train()(images[first : first + 4], targets[first : first + 4])
    print("most of it is back:", box_ap(forgetful) > 0.7)

# %% [markdown]
# Had you kept the biased variance, you would not see it here: a channel of four pictures has
# thousands of values, and n / (n − 1) is nearly one. It shows on small maps in small batches: with
# two values the variance would be half of what it should be.
#
# ## Why small batches break batch norm
#
# Every position of a map is a value: even one picture has 64 · 64 = 4096 of them in the first
# layer. If they were independent, the batch's mean would be off by 1/64 of a standard deviation.
# They are not: the pixels of one picture have its light, its table, its objects in common. How far
# is the mean of a batch from the mean of all 64 pictures, in standard deviations?


# %%
def inputs_of(layer: nn.Module, batch: Tensor) -> Tensor:
    """What arrives at one norm layer of the trunk."""
    caught = []
    hook = layer.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        model.eval().backbone(batch)
    hook.remove()
    return caught[0]


batch, _ = model.preprocess(images)
trunk = batch_norms(model.backbone)
at_first, at_last = (inputs_of(layer, batch) for layer in (trunk[0], trunk[-1]))
print("first layer", tuple(at_first.shape), "last layer", tuple(at_last.shape))


# %%
def error_of_mean(x: Tensor, size: int) -> float:
    means = x.unflatten(0, (-1, size)).mean((1, 3, 4))  # (64, C, H, W) -> (64 / size, C)
    std, mean = torch.std_mean(x, (0, 2, 3))
    return (((means - mean) / std) ** 2).mean().sqrt().item()


SIZES = (1, 2, 4, 8, 16)
errors = {"first": [], "last": []}
for size in SIZES:
    errors["first"].append(error_of_mean(at_first, size))
    errors["last"].append(error_of_mean(at_last, size))
    independent = (size * at_first[0, 0].numel()) ** -0.5
    print(f"{size:2d} images: first layer {errors['first'][-1]:.2f}, last {errors['last'][-1]:.2f}"
          f" (independent values: {independent:.3f})")  # fmt: skip

# %% [markdown]
# One picture's mean is off by nearly half a standard deviation, thirty times as much as if its
# values were independent. What counts is the number of *pictures*: four times as many halve the
# error. (At 16 it is a little smaller still: the 64 that we compare with contain the batch.)
#
# ## Experiment: how many pictures does a mean need?
#
# Vary one thing, the number of pictures the statistics are taken over, in two ways:
#
# - **own batch**: every norm layer takes the statistics of the batch it sees, as in training mode;
# - **k others**: the running statistics come from one batch of k other pictures, then they stay.
#
# Predict which is worse for k = 1.


# %%
def on_own_batch(model: nn.Module) -> nn.Module:
    """A copy whose norms, in eval mode too, use the statistics of the batch at hand."""
    model = deepcopy(model)
    for layer in batch_norms(model):
        layer.running_mean = layer.running_var = None
    return model


def on_others(model: nn.Module, k: int) -> nn.Module:
    """A copy whose running statistics are those of k pictures."""
    model = deepcopy(model).train()
    for layer in batch_norms(model):
        layer.momentum = 1.0
    torch.manual_seed(0)
    with torch.no_grad():
        model(images[:k], targets[:k])
    return model


# %%
trained = box_ap(model)
own_ap = [box_ap(on_own_batch(model), size) for size in SIZES]
others_ap = [box_ap(on_others(model, size)) for size in SIZES]
print("own batch of one loses:", trained - own_ap[0] > 0.05)
print("one other picture loses more:", own_ap[0] - others_ap[0] > 0.03)
print("16 are nearly enough:", min(own_ap[-1], others_ap[-1]) > trained - 0.04)

# %%
# alt: Left, the error of a batch's mean falls with the number of pictures, about as one over its
#      root; in the last layer it is less than half as large as in the first. Right, box AP rises
#      with that number: from 0.75 for the own batch and 0.65 for other pictures to nearly that of
#      the trained detector, a dotted line.
left, right = drawing.panels(2, height=2.8)
for name, style in (("first", "o-"), ("last", "s--")):
    left.plot(SIZES, errors[name], style, color="black", label=f"{name} layer of the trunk")
left.plot(SIZES, [errors["first"][0] / n**0.5 for n in SIZES], ":", color="0.5", label="1 / √n")
left.set_ylabel("error of the mean, in std")
right.plot(SIZES, others_ap, "s--", color="black", label="statistics of k others")
right.plot(SIZES, own_ap, "o-", color="black", label="statistics of the own batch")
right.axhline(trained, linestyle=":", color="0.5", label="as trained")
right.set_ylabel("box AP")
for ax in (left, right):
    ax.set_xscale("log", base=2)
    ax.set_xticks(SIZES, SIZES)
    ax.set_yticks([0, 0.1, 0.2, 0.3, 0.4] if ax is left else [0.6, 0.7, 0.8])
    ax.set_xlabel("pictures in the batch")
    ax.legend(fontsize=8)

# %% [markdown]
# A batch of one hurts in both ways. Normalised by itself, a picture loses what set it apart from
# others: its light and its contrast are always 0 and 1. Normalised by *another* picture, it gets
# that picture's. From 8 or 16 on, it hardly matters whose batch it is.
#
# Question 3: of the 0.86 about 0.75 is left on a batch of one, and 0.65 with the statistics of one
# other picture. Large detectors see pictures of fifty times as many pixels, and often only one or
# two fit into a worker's memory.

# %%
reveal(guess, {"mean of naiveSyncBN": 5, "AP that is left": 0.75})

# %% [markdown]
# ## Group Normalization
#
# GN divides the channels of *each image* into groups, and gives each group mean 0 and variance 1.
# It uses no batch statistics at all: "group batch normalization", as a widely read page calls it,
# is a contradiction in terms. There is nothing to keep running, and training and evaluation
# compute the same.
#
# Here are six images and four channels; cells with the same number share a mean and a variance.
# The workers have four images and two, as before.

# %%
# alt: Three grids of six images by four channels, whose numbers say which values share a mean. BN
#      has one for each channel and worker, SyncBN one for each channel, GN one for each image and
#      group of two channels.
image, ch = torch.meshgrid(torch.arange(6), torch.arange(4), indexing="ij")
shared = {
    "BN, 4 + 2 images": ch + 4 * (image >= 4),
    "SyncBN, 4 + 2 images": ch,
    "GN, two groups": 2 * image + ch // 2,
}
for ax, (name, numbers) in zip(drawing.panels(3, height=2.6), shared.items(), strict=True):
    drawing.value_grid(ax, numbers, name)
    ax.set_xlabel("channel")
    ax.set_ylabel("image")
    print(f"{name}: {numbers.unique().numel()} means")

# %% [markdown]
# How many groups? The paper's default is 32. Our `group_count` takes 32 where it divides the
# channels, otherwise the largest smaller divisor that leaves two channels in a group.

# %%
print({c: norms.group_count(c) for c in (16, 24, 40, 64, 72, 112)})

# %% [markdown]
# ## Exercise 4: group norm
#
# Two reshapes around what you have written already. Naively, for each image n and group g it is
# the mean of `x[n, g * C // groups : (g + 1) * C // groups]`.
#
# <details><summary>Hint</summary>
#
# `(N, C, H, W)` → `(N, groups, C / groups, H, W)`: the channels of a group stay neighbours. The
# statistics are over the last three dimensions. Shape it back *before* weight and bias, which are
# one per channel.
# </details>

# %% exercise="course.exercises.lesson03.group_norm"
from fbnet_lesson.course.exercises.lesson03 import group_norm

# %%
check(group_norm)

# %% [markdown]
# **Plug it in.** The same detector, built with `norm="GN"`. Its weights are random: there is no
# way to turn a batch norm into a group norm. γ and β have the same names and shapes, so that
# `load_state_dict(strict=False)` takes them without a word; what is left over are the statistics.

# %%
torch.manual_seed(0)
gn = fl.create_model("lesson/mask_rcnn_tiny", norm="GN")
own = losses_and_gradient(gn)
with plug(group_norm=group_norm):
    yours = losses_and_gradient(gn)
    print("five losses and a gradient agree:", torch.allclose(own, yours, rtol=1e-2))

# %%
left_over = gn.load_state_dict(model.state_dict(), strict=False)
print("missing", len(left_over.missing_keys), "unexpected", len(left_over.unexpected_keys))
print(sorted({key.rpartition(".")[2] for key in left_over.unexpected_keys}))
print(f"AP with the batch norm's weights in group norms: {box_ap(gn):.1f}")

# %% [markdown]
# So GN is a decision before training. What it buys: an image's features are the same in every
# company.


# %%
def depends_on_company(model: nn.Module) -> bool:
    with torch.no_grad():
        alone = model.backbone(batch[:1])["trunk2"]
        in_company = model.backbone(batch[:4])["trunk2"][:1]
    return not torch.allclose(alone, in_company, rtol=1e-3, atol=1e-3)


print("BN, training:", depends_on_company(deepcopy(model).train()))
print("BN, eval:    ", depends_on_company(model.eval()))
print("GN, training:", depends_on_company(gn.train()))

# %% [markdown]
# ## FrozenBN
#
# Fine-tune with one image a batch, and with momentum 0.1 the running statistics follow the last ten
# pictures or so; what hundreds of pictures had taught is gone. *FrozenBN* makes everything
# constant, in training too. What is left of the formula is one slope and one shift per channel:
#
# $$y = s\,x + b, \qquad s = \frac{\gamma}{\sqrt{\sigma^2 + \varepsilon}}, \qquad
# b = \beta - s\,\mu$$

# %%
frozen = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes", norm="FrozenBN").train()
layer = next(m for m in frozen.modules() if isinstance(m, norms.FrozenBN))
slope = layer.weight / (layer.running_var + layer.eps).sqrt()
shift = layer.bias - slope * layer.running_mean
by_hand = at_first * slope[:, None, None] + shift[:, None, None]
print("slope and shift:", torch.allclose(layer(at_first), by_hand, atol=1e-4))
print("as BN in eval:  ", torch.allclose(layer(at_first), trunk[0].eval()(at_first), atol=1e-4))
print("its parameters to train:", sum(p.numel() for p in layer.parameters()))

# %% [markdown]
# ## See it: two pictures, three norms
#
# The first norm layer, and the channel in which two pictures differ most. Turn the knobs below:
# which norm keeps the two apart, which puts them on top of each other?

# %%
# alt: The picture whose first map is darkest in one channel, and the one whose map is brightest.
gap = (at_first.mean((2, 3)).amax(0) - at_first.mean((2, 3)).amin(0)) / at_first.std((0, 2, 3))
channel = int(gap.argmax())
brightness = at_first.mean((2, 3))[:, channel]
low, high = int(brightness.argmin()), int(brightness.argmax())
print(f"pictures {low} and {high}, channel {channel}")
left, right = drawing.panels(2, height=1.6)
drawing.show_image(left, images[low], "the lowest mean: solid lines")
drawing.show_image(right, images[high], "the highest mean: dashed lines")


# %%
rest = [i for i in range(64) if i not in (low, high)]


def normalised(norm: str, size: int, which: int) -> Tensor:
    """The channel of a picture, normalised in a batch of ``size``."""
    together = at_first[[which, *rest[: size - 1]]]
    if norm == "FrozenBN":
        return trunk[0].eval()(together)[0, channel].detach()
    layer = norms.make_norm(norm, at_first.shape[1]).train()
    return layer(together)[0, channel].detach()


def histograms(ax, norm: str, size: int) -> None:
    for which, style in ((low, "-"), (high, "--")):
        counts, edges = normalised(norm, size, which).flatten().histogram(40, range=(-4.0, 4.0))
        ax.stairs(counts, edges, color="black", linestyle=style)
    ax.set_title(f"{norm}, {size} in the batch", fontsize=9)
    ax.set_xticks([-4, 0, 4])
    ax.set_xlabel("normalised value")


def picture(norm: str, size: int):
    (ax,) = drawing.panels(1, height=2.6)
    histograms(ax, norm, size)
    return ax.figure


# %%
import ipywidgets

explore(
    picture,
    norm=ipywidgets.Dropdown(options=["BN", "GN", "FrozenBN"], value="BN"),
    size=ipywidgets.IntSlider(1, min=1, max=32),
)

# %%
# alt: Four histograms of the normalised channel, each with a solid and a dashed line for the two
#      pictures. With BN and one picture in the batch the two lie on each other; with BN and 16,
#      with GN, and with FrozenBN they stand apart.
shown = [("BN", 1), ("BN", 16), ("GN", 1), ("FrozenBN", 1)]
for ax, (norm, size) in zip(drawing.panels(4, height=2.1), shown, strict=True):
    histograms(ax, norm, size)
    apart = (normalised(norm, size, high).mean() - normalised(norm, size, low).mean()).abs()
    print(f"{norm:8s} {size:2d} in the batch: means {apart:.1f} apart")

# %% [markdown]
# Batch norm puts both means at 0 when each picture is a batch of its own. In a batch of 16 they
# stay apart, as with the statistics of all training pictures, which FrozenBN has. Group norm
# looks at one picture only, whatever the batch, and yet keeps some of the difference: its mean is
# over *several channels*, and how the channels of a group relate to each other survives.

# %% [markdown]
# ## Which to choose, measured
#
# What each choice makes of the trained detector while it trains with *one image a worker*. SyncBN
# on k workers normalises as one batch of k would; you have seen that above, so k = 2 and k = 8
# were measured above. Nothing is trained here: each bar is the same trained detector, with other
# statistics. FrozenBN keeps the statistics that the detector was trained with, so that it loses
# nothing is true by construction, and the bar only shows it.

# %%
measured = {
    "BN": own_ap[SIZES.index(1)],
    "SyncBN, 2 workers": own_ap[SIZES.index(2)],
    "SyncBN, 8 workers": own_ap[SIZES.index(8)],
    "FrozenBN": box_ap(frozen, batch_size=1),
}
three = [measured[name] for name in ("BN", "SyncBN, 2 workers", "FrozenBN")]
print("BN, SyncBN on 2 workers, FrozenBN, from worst to best:", three == sorted(three))
print("FrozenBN is as trained, by construction:", abs(measured["FrozenBN"] - trained) < 0.005)

# %%
# alt: Four bars of box AP with one image a worker: BN lowest, SyncBN on two workers higher, SyncBN
#      on eight close to FrozenBN, which reaches the dotted line of the trained detector.
(ax,) = drawing.panels(1, height=1.8)
ax.barh(list(measured), list(measured.values()), color="0.6", edgecolor="black")
ax.bar_label(ax.containers[0], fmt="%.2f", label_type="center", fontsize=9)
ax.axvline(trained, linestyle=":", color="black")
ax.set_yticks(range(len(measured)), list(measured))
ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
_ = ax.set_xlabel("box AP with one image a worker (dotted: eval mode, as trained)")

# %% [markdown]
# GN has no bar: there are no weights to compare, as it must be trained with from the start. It
# would lose nothing either.
#
# | you have | take | because |
# |---|---|---|
# | 8 images a worker or more | BN | at inference it folds into the convolution (lesson 17) |
# | few images a worker, many workers | SyncBN | trains as with the batch of all workers |
# | one worker, 1–2 images, trained weights | FrozenBN | no statistics, nothing to spoil |
# | one worker, 1–2 images, from scratch | GN | never looks at the batch; cannot be folded |
# | a recipe that says naiveSyncBN | that, "_N" | its numbers; the default refuses empty batches |
#
# Do not expect wonders of FrozenBN: at one image a batch the *gradient* is noisy too, and a large
# learning rate spoils the weights whatever the norm. The stretch task below lets you measure it.

# %% [markdown]
# ## What the documentation gets wrong
#
# - $\sqrt{\mathrm{Var}} - \varepsilon$ is not batch norm's divisor; $\sqrt{\mathrm{Var} +
#   \varepsilon}$ is.
# - "Group batch normalization" is Group Normalization: no batch is involved.
# - The same page says of naiveSyncBN that "weights are assigned equally to all the images". That
#   is stats mode "N". The default, "", gives equal weights to all *workers*. With 4 + 2 images it
#   is the difference between a mean of 4 and of 5.
# - PyTorch's own `SyncBatchNorm` is no way out on a CPU: it refuses, as you have seen.

# %% [markdown]
# ## Edge cases
#
# One image with a map of 1 × 1 has one value per channel. By the formula the answer to question 2
# is β, whatever the input: (x − x) / √ε · γ + β. PyTorch refuses, as nothing of the input is left.
# SyncBN refuses when *all workers together* have one value. GN answers, from the channels of the
# group.

# %%
single = torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1)
try:
    nn.BatchNorm2d(2).train()(single)
except ValueError as error:
    print("BN:", str(error).partition(",")[0])
reveal(guess, {"output for one value": "β"})
print("GN, one group of two:", [round(v, 2) for v in nn.GroupNorm(1, 2)(single).flatten().tolist()])

# %% [markdown]
# **Stretch.** Fine-tune the tiny detector for 32 steps with one image a batch (SGD, momentum 0.9),
# with `norm="BN"` and `norm="FrozenBN"`, at learning rates 0, 1e-3 and 5e-3. At rate 0 only the
# statistics move. Which norm is ahead at each rate, and what does that say about where the loss of
# AP comes from? Then freeze the statistics but train γ and β: `layer.eval()` on each batch norm
# after `model.train()`.

# %% [markdown]
# ## Recap
#
# A norm layer subtracts a mean and divides by $\sqrt{\mathrm{Var} + \varepsilon}$. All that
# differs is *whose*: BN the batch of this worker, SyncBN the images of all, naiveSyncBN the mean
# of the workers, GN a group of channels of one image, FrozenBN nobody's any more. A batch's
# statistics are as good as its number of pictures.
#
# **Three questions**
#
# <details><summary>1. Training loss is fine with two images a batch, and evaluation is bad. Which
# numbers do you look at first?</summary>
#
# The running statistics: training never uses them. With momentum 0.1 they follow the last ten
# batches or so, here twenty pictures. Let a hundred batches pass in training mode without a
# gradient step, as in exercise 2, and evaluate again.
# </details>
#
# <details><summary>2. Two workers have 6 and 2 images of the same size. How large is a share of an
# image of the second worker in the mean, for SyncBN, for naiveSyncBN, and for mode "N"?</summary>
#
# 1/8, 1/4 and 1/8. With mode "" an image of the first worker has 1/12.
# </details>
#
# <details><summary>3. Why may γ and β of a batch norm be loaded into FrozenBN, but not usefully
# into GN?</summary>
#
# FrozenBN computes what BN computes in eval mode, and the running statistics come along. In GN
# other values are divided by another deviation, so that every following layer sees numbers it was
# not trained on.
# </details>
#
# **Sources.** Batch normalization (arXiv 1502.03167); Group Normalization (arXiv 1803.08494); the
# head of `fbnet_lesson/norms.py`, which has the table of who counts.
