# %% [markdown]
# # 03 · Normalization: BN, GN, SyncBN, naiveSyncBN across processes
#
# **In this lesson you write the norms of the detector, run them in two real processes, and find out
# what they are worth: in steps of training, and in a batch of one image.**
#
# After this lesson you can
#
# - compute batch norm by hand: over which values, where ε goes, which variance is kept;
# - say for BN, GN, SyncBN, naiveSyncBN and FrozenBN whose values the mean is taken over;
# - predict what two workers with 4 and 2 images get from each of them;
# - say what a norm does for training and what it does not, and choose one for the batch that fits
#   your memory, with measurements to lean on.
#
# | minutes | needs | run budget |
# |---|---|---|
# | {minutes} | lessons 00, 01 | 30 s, 1400 MB, no network |

# %% [markdown]
# ## Predict first
#
# 1. Two workers train together. One has four images, of brightness 1, 1, 3, 3. The other has two,
#    both of brightness 8. The norm layer is called `naiveSyncBN`. Which mean is subtracted?
# 2. In training mode a batch norm sees a single image whose map is 1 × 1: one value, 7, with a
#    slope of 2 and a shift of 3. What comes out by the formula?
# 3. The detector of lesson 00 reaches a box AP of 0.86 on the scenes below. Let every norm layer
#    take its mean and variance from the one image in front of it, and not those that it learned.
#    What is left of the 0.86?
# 4. A small network of the same blocks learns with batch norm to name 70 % of the pieces right in
#    150 steps. How many steps does it need without any norm, at its best learning rate?

# %%
from fbnet_lesson.course import reveal

guess = {
    "mean that is subtracted": None,
    "what comes out for 7": None,
    "AP on a batch of one": None,
    "steps without a norm": None,
}

# %%
from copy import deepcopy
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fbnet_lesson as fl
from fbnet_lesson import norms
from fbnet_lesson.course import check, compare, drawing, explore, mine, plug
from fbnet_lesson.course.experiments import table
from fbnet_lesson.course.workers import WorkerError, Workers

torch.set_num_threads(1)
drawing.small_figures()
pair = Workers(2)  # two more processes; they start in the background until we need them

# %% [markdown]
# ## Four numbers
#
# How large the numbers are that a convolution puts out depends on its weights, and these change in
# every step of training. The next layer would have to follow each change. A norm layer puts a stop
# to that: it subtracts the mean and divides by the standard deviation, so that the numbers always
# have mean 0 and deviation 1.

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
# A channel that is constant has variance 0. The small number ε keeps the division finite, and it
# has to be *added*, to the *variance*, *under the root*. The page "FBNetV3" of CloudFactory's
# (formerly Hasty's) Model Playground wiki prints $\sqrt{\mathrm{Var}} - \varepsilon$ as the
# divisor, in its section on SyncBN. With the usual ε of 1e-5 nobody notices the difference until a
# channel is nearly constant. Here ε is 0.25, so that it can be seen with the naked eye: by which
# factor is a deviation multiplied?

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
# alt: Factor against the standard deviation. With ε added under the root it rises gently to 2 as
#      the deviation goes to 0; added outside, to 4; with ε subtracted it shoots up at 0.25 and
#      comes back from far below zero.
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
# subtracted, the factor grows beyond all bounds where the deviation comes near ε, and below ε it is
# *negative*: the channel comes out upside down. The middle form keeps the sign, but amplifies a
# channel that is all but constant up to $1/\varepsilon$ times: with an ε of 1e-5 by 100 000, not by
# 316.
#
# ## Exercise 1: batch norm
#
# Write it from the formula, as it works in training: with the mean and the variance of the batch at
# hand. The variance is the biased one (the sum of squares divided by the number of values), since
# afterwards this batch is to have the variance 1. The inputs may lie far from zero, as raw pixels
# do. Think of what that means for $\mathrm{E}[x^2] - \mathrm{E}[x]^2$ in float32, which keeps 24
# bits of a number.
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
# A detection must not depend on which pictures happen to be in the same batch. So while it trains,
# batch norm keeps *running* averages of the mean and the variance, and in evaluation it uses those.
# After each batch they move a little:
#
# $$\text{running} \leftarrow (1 - m)\cdot\text{running} + m\cdot\text{batch}$$
#
# with a *momentum* m of 0.1. Two things are surprising here. In PyTorch, m is the share of the
# **new** value. And the variance that is kept is the **unbiased** one (the sum of squares is
# divided by the number of values less one), while the batch itself is normalised by the biased one.

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
# Write the update after one batch, for all channels. Mean and variance are over N, H and W again.
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
# The mean of a few images is a poor estimate; below we measure how poor. Where many workers train
# together, each of them may have few images, and yet all together have enough. *SyncBN* pools their
# statistics: every worker sends its means and variances to all others, and normalises by the pooled
# ones.
#
# `pair` is a pair of processes on this machine, in one group of `torch.distributed`, exactly as if
# they were two machines. `pair.run` sends a function to them, with arguments for each, and returns
# what they return. Let us answer the first question from the top. We set the momentum to 1, so that
# the running statistics are those of the one batch, and can be read off.


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
    if norm == "naiveSyncBN":
        naive = results[0][0]
reveal(guess, {"mean that is subtracted": naive})

# %% [markdown]
# - **BN**: each worker has its own mean, 2 and 8, and its own variance. It normalises by the biased
#   ones, 1 and 0, and keeps the unbiased ones, 4/3 and 0. All pictures of the second worker become
#   0.
# - **SyncBN**: as if the six images were in one place. The mean is (4·2 + 2·8) / 6 = 4. The squared
#   distances from it add up to 52; SyncBN normalises by 52/6 = 8.67, and keeps the unbiased 52/5 =
#   10.4.
# - **naiveSyncBN**: every *worker* counts the same. The mean is (2 + 8) / 2 = 5: each image of the
#   second worker has twice the say of one of the first.
# - **naiveSyncBN_N** (its stats mode is called "N"): every *image* counts the same. The mean is 4,
#   as with SyncBN. It keeps the biased 8.67, as naiveSyncBN leaves out the correction while it is
#   distributed.
#
# How does one get the variance of all from two variances? Not by averaging them: (4·1 + 2·0) / 6 =
# 0.67 is only the variance *within* the workers. Their means differ too, and that makes the whole
# spread further. With $a_k$ for the share of worker $k$, where all shares add up to 1:
#
# $$\mu = \sum_k a_k \mu_k \qquad
# \sigma^2 = \sum_k a_k \left(\sigma_k^2 + (\mu_k - \mu)^2\right), \quad \sum_k a_k = 1$$
#
# Here 0.67 + (4·(2 − 4)² + 2·(8 − 4)²) / 6 = 0.67 + 8 = 8.67.
#
# ## Exercise 3: pool the statistics
#
# One function serves all three; they only give it different `worker_weights`. SyncBN gives the
# number of values of each worker, naiveSyncBN a 1 for each, and naiveSyncBN_N the number of images.
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
# **Plug it in**, in both processes. `mine(pool_statistics)` is your own function if it has passed
# its check, otherwise the package's; it is sent along with `with_mine`, which names it.

# %%
own_pool = mine(pool_statistics)


def with_mine(norm: str, images: Tensor) -> tuple[float, float]:
    with plug(pool_statistics=own_pool):
        return one_worker(norm, images)


pooled = one_worker("BN", torch.cat([four, two]))  # plain BN, all six in one process
first, second = pair.run(with_mine, [("SyncBN", four), ("SyncBN", two)])
print(f"BN on all six: mean {pooled[0]:.1f}, variance {pooled[1]:.2f}")
print(f"worker 0:      mean {first[0]:.1f}, variance {first[1]:.2f}")
print(f"worker 1:      mean {second[0]:.1f}, variance {second[1]:.2f}")

# %% [markdown]
# The pooled statistics depend on the inputs of all workers, so the gradient has to travel between
# them as well: if a value on worker 0 changes, then so does the mean on worker 1, and with it that
# worker's loss.


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
# And the same on the detector's trunk: a dark picture of noise is on one worker and a bright one on
# the other. Are their features those that the two pictures have when they are in one batch?


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
# With equal numbers of images of equal size, naiveSyncBN is SyncBN. For each layer a worker sends
# 2C + 1 numbers in the forward pass and 2C in the backward pass. That is little; but each time it
# has to wait for the slowest of all workers. It is the number of messages that costs time, not
# their length.
#
# ## An empty worker
#
# In detection, the batches are not always equal: the last batch of an epoch is short, and sometimes
# a head gets no proposals on one worker. All others still wait for that worker's statistics.

# %%
nothing = torch.zeros(0, 1, 1, 1)
for norm in ("SyncBN", "naiveSyncBN_N", "naiveSyncBN"):
    try:
        results = pair.run(one_worker, [(norm, four), (norm, nothing)])
        print(f"{norm:14s} means {[mean for mean, _ in results]}")
    except WorkerError as error:
        print(f"{norm:14s} refuses: {str(error).partition(';')[0]}")

# %% [markdown]
# In plain naiveSyncBN (stats mode "") the empty worker would count as much as the others, though it
# has nothing to contribute. All workers see that from the weights they gathered, so that all of
# them raise an error, and none is left waiting for ever. Mode "N" gives the empty worker the weight
# 0.
#
# "N" counts *images*, not values. Where the maps differ in size, its mean is not that of SyncBN:

# %%
large = torch.full((2, 1, 2, 2), 8.0)  # two images again, each of four values
for norm in ("SyncBN", "naiveSyncBN_N"):
    results = pair.run(one_worker, [(norm, four), (norm, large)])
    print(f"{norm:14s} mean {results[0][0]:.1f}")
print("of all values:", torch.cat([four.flatten(), large.flatten()]).mean().item())

# %% [markdown]
# PyTorch has a `SyncBatchNorm` of its own. Why do we not use that one?


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
# **Plug it in.** The detector has a batch norm after most convolutions. In training mode, its
# losses on two scenes must be the same with PyTorch's compiled norm as with yours. So must the
# gradient of the first layer, as the backward pass leads through all your means and variances on
# its way there.

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


def five_losses_and_a_gradient(model: nn.Module = model) -> str:
    """With two digits, as float32 adds up in another order in another norm."""
    return ", ".join(f"{value:.2g}" for value in losses_and_gradient(model).tolist())


compare(five_losses_and_a_gradient, batch_norm=batch_norm)

# %% [markdown]
# ## In the detector: running statistics
#
# **Plug it in.** Throw away all that the detector has learned about means and variances: its AP is
# zero. Then show it 16 batches of four pictures in training mode, *without any gradient step*, and
# let your function move the statistics. What do you expect to come back?

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
# If you had kept the biased variance, you would not see it here: a channel of four pictures has
# thousands of values, and n / (n − 1) is nearly one. It shows on small maps in small batches: with
# two values, the variance would be half of what it should be.
#
# ## Why small batches break batch norm
#
# Every position of a map is a value, and even one picture has 64 · 64 = 4096 of them in the first
# layer. The mean of n independent values is off by $1/\sqrt n$ standard deviations, which would be
# 1/64 here. But the pixels of one picture are not independent: they have the light, the table and
# the pieces in common. How far is the mean of a batch from the mean of all 64 pictures, in standard
# deviations?


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
# In the first layer, the mean of one picture is off by nearly half a standard deviation, thirty
# times as much as if its values were independent. What counts is the number of *pictures*: four
# times as many halve the error. (At 16 it is a little smaller still, since the batch is a part of
# the 64 pictures that we compare with.)
#
# ## Experiment: how many pictures does a mean need?
#
# We vary one thing, the number of pictures that mean and variance are taken over, and measure what
# the trained detector makes of it. **Nothing is trained here**: all weights stay as they are, and
# only the statistics are exchanged. There are two ways to do that:
#
# - **own batch**: every norm layer takes the statistics of the batch it sees, as it does in
#   training;
# - **k others**: the running statistics are replaced by those of one batch of k other pictures.
#
# Predict which of the two is worse for k = 1.


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
reveal(guess, {"AP on a batch of one": f"about {round(own_ap[0] / 0.05) * 0.05:.2f}"})

# %%
# alt: Left, the error of the mean against the number of pictures: the first layer's falls from 0.47
#      along the line 1 over root n, the last layer's from 0.22. Right, box AP: with the own batch
#      it rises from 0.75, with k others from 0.65; at 16 both are close to the dotted line, as
#      trained.
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
# others: its mean and its contrast are always 0 and 1. Normalised by *another* picture, it is given
# that picture's light. From 8 or 16 pictures on, it hardly matters whose they are.
#
# Of the 0.86, about 0.75 is left on a batch of one, and 0.65 with the statistics of one other
# picture. That is no rare case: large detectors look at pictures with fifty times as many pixels,
# and often only one or two of them fit into a worker's memory.

# %% [markdown]
# ## Group Normalization
#
# GN divides the channels of *each image* into groups, and gives each group mean 0 and variance 1.
# It uses no batch statistics at all; "group batch normalization", as the wiki's page calls it, is a
# contradiction in terms. There are no running averages to keep, and training and evaluation compute
# the same.
#
# Here are six images and four channels; cells with the same number share a mean and a variance.
# The workers have four images and two, as before.

# %%
# alt: Three grids of six images by four channels, cells with equal numbers sharing a mean. BN: four
#      numbers for the upper four images, four others for the lower two. SyncBN: one number a
#      column. GN: two numbers in each row, one for either half of the channels.
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
# How many groups? The paper's default is 32. Our `group_count` takes 32 where that divides the
# number of channels, and otherwise the largest smaller divisor that leaves at least two channels in
# a group.

# %%
print({c: norms.group_count(c) for c in (16, 24, 40, 64, 72, 112)})

# %% [markdown]
# ## Exercise 4: group norm
#
# It takes two reshapes around what you have written already. Written naively, the mean of image n
# and group g is that of `x[n, g * C // groups : (g + 1) * C // groups]`.
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
# **Plug it in.** Here is the same detector, built with `norm="GN"`. Its weights are random, as
# there is no way to turn a trained batch norm into a group norm.

# %%
torch.manual_seed(0)
gn = fl.create_model("lesson/mask_rcnn_tiny", norm="GN")
compare(lambda: five_losses_and_a_gradient(gn), group_norm=group_norm)

# %% [markdown]
# What if one tries it nevertheless? γ and β have the same names and shapes in both, so that
# `load_state_dict(strict=False)` takes the trained ones without a word. What is left over are the
# running statistics, which a group norm has no use for. **Predict** the AP.

# %%
left_over = gn.load_state_dict(model.state_dict(), strict=False)
print("missing", len(left_over.missing_keys), "unexpected", len(left_over.unexpected_keys))
print(sorted({key.rpartition(".")[2] for key in left_over.unexpected_keys}))
print(f"AP with the batch norm's weights in group norms: {box_ap(gn):.1f}")

# %% [markdown]
# So GN is a decision to be made before training. What it buys is that the features of an image do
# not depend on the other images of its batch:


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
# Fine-tune a trained detector with one image a batch, and with a momentum of 0.1 its running
# statistics follow the last ten pictures or so. What hundreds of pictures had taught is soon
# forgotten. *FrozenBN* keeps everything constant, in training too: mean, variance, γ and β. Of the
# formula, one slope and one shift per channel are left:
#
# $$y = s\,x + b, \qquad s = \frac{\gamma}{\sqrt{\sigma^2 + \varepsilon}}, \qquad
# b = \beta - s\,\mu$$
#
# **Your turn: two lines.** Work out slope and shift from a layer's `weight`, `bias`,
# `running_mean`, `running_var` and `eps`. Lesson 17 puts just these into the convolution in front,
# so that the norm costs nothing at all. The cell applies yours to the maps of 64 pictures, and
# compares.


# %%
def slope_and_shift(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """[C] and [C]: what a norm layer with constant statistics multiplies by, and what it adds."""
    ### BEGIN SOLUTION
    slope = layer.weight / (layer.running_var + layer.eps).sqrt()
    return slope, layer.bias - slope * layer.running_mean
    ### END SOLUTION


frozen = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes", norm="FrozenBN").train()
layer = next(m for m in frozen.modules() if isinstance(m, norms.FrozenBN))
if (found := slope_and_shift(layer)) is None:
    print("not written yet")
else:
    slope, shift = (v[:, None, None] for v in found)  # (C,) -> (C, 1, 1)
    print("same:", torch.allclose(layer(at_first), at_first * slope + shift, atol=1e-4))

# %%
print(
    "in training as BN in eval:",
    torch.allclose(layer(at_first), trunk[0].eval()(at_first), atol=1e-4),
)
print("its parameters to train:", sum(p.numel() for p in layer.parameters()))

# %% [markdown]
# ## See it: two pictures, three norms
#
# Take the first norm layer, and the channel in which two pictures differ most. Turn the knobs
# below: which norm keeps the two pictures apart, and which puts them on top of each other?

# %%
# alt: Two scenes of toy pieces on a table, one with the lowest and one with the highest mean of the
#      channel: a dark and a light one.
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
# alt: Four pairs of histograms, a solid and a dashed one. BN with one picture in the batch: they
#      lie on top of each other. BN with 16 and FrozenBN: far apart. GN: apart, but less.
shown = [("BN", 1), ("BN", 16), ("GN", 1), ("FrozenBN", 1)]
for ax, (norm, size) in zip(drawing.panels(4, height=2.1), shown, strict=True):
    histograms(ax, norm, size)
    apart = (normalised(norm, size, high).mean() - normalised(norm, size, low).mean()).abs()
    print(f"{norm:8s} {size:2d} in the batch: means {apart:.1f} apart")

# %% [markdown]
# When each picture is a batch of its own, batch norm puts both means at 0. In a batch of 16 they
# stay apart, and so they do with FrozenBN, which has the statistics of all training pictures. Group
# norm looks at one picture only, whatever the batch, and yet keeps some of the difference: its mean
# is over *several channels*, so that what one channel of a group has more than another survives.

# %% [markdown]
# ## Does a norm shorten training?
#
# "Normalization techniques help to decrease the overall training time of the model", says the
# wiki's page in its section on the normalization method, and so do many others. It is rarely shown.
# Let us see. A small classifier of the detector's blocks learns to name single pieces, from
# nothing, in 300 steps of 32 crops (`docs/experiments/norms_in_training.py`, about twelve minutes).
# Four kinds of network race, which differ only in what stands behind the convolutions:
#
# - **BN** and **GN**;
# - **nothing**: only the learned slope and shift of a norm, without any statistics;
# - **once**: the same, but before the first step all weights are scaled so that every channel of
#   every convolution varies by 1 on 256 crops. So this network *starts* as a normalised one, and is
#   free from then on.
#
# Each has three learning rates, as what is best for one may be bad for another, and five seeds, as
# a single race proves nothing. What counts is the step at which 70 % of 400 other crops are named
# right for the first time. **Predict** the order in which the four arrive.

# %%
runs = table("norms_in_training")
KINDS, RATES, NEVER = ("BN", "GN", "once", "nothing"), (0.01, 0.03, 0.1), 320


def steps(kind: str, rate: float) -> list[int]:
    """To 70 %, of the five seeds in order; NEVER if it was not reached in 300 steps."""
    same = [run for run in runs if (run["kind"], run["learning rate"]) == (kind, rate)]
    return [int(run["steps to 70 %"]) for run in same]


for kind, rate in product(KINDS, RATES):
    each = ["  -" if step == NEVER else str(step) for step in steps(kind, rate)]
    print(f"{kind:8s} learning rate {rate:4.2f}: steps", *each)

# %%
# alt: A dot for each run: learning rates side by side, steps to 70 % upwards. At 0.03 BN lies
#      between 120 and 180, GN between 180 and 280, once between 160 and 280. All runs with nothing
#      and those of once at 0.1 lie on the line "not within 300 steps".
(ax,) = drawing.panels(1, height=2.8)
for i, (kind, mark) in enumerate(zip(KINDS, "os^x", strict=True)):
    for j, rate in enumerate(RATES):
        at = torch.full((5,), j + 0.16 * (i - 1.5)) + torch.linspace(-0.04, 0.04, 5)
        label = kind if j == 0 else None
        ax.plot(at, steps(kind, rate), mark, color="black", fillstyle="none", label=label)
ax.axhline(NEVER, linestyle=":", color="0.5")
ax.set_xticks(range(3), [f"learning rate {rate}" for rate in RATES])
ax.set_yticks([100, 200, 300, NEVER], ["100", "200", "", "not within 300"])
ax.set(ylim=(80, 340), ylabel="steps to 70 %")
_ = ax.legend(fontsize=8, ncols=4, loc="lower right")

# %%
best = {kind: torch.tensor(steps(kind, 0.03)).float() for kind in KINDS}
for kind in ("BN", "GN", "once"):
    low, high = best[kind].aminmax()
    print(f"{kind:4s} at 0.03: mean {best[kind].mean():.0f} steps, from {low:.0f} to {high:.0f}")
print("seeds in which BN is ahead of once:", int((best["BN"] < best["once"]).sum()), "of 5")
print("seeds in which GN is ahead of once:", int((best["GN"] < best["once"]).sum()), "of 5")
reveal(guess, {"steps without a norm": "never; if scaled well once, 232"})

# %% [markdown]
# Three things can be said, and one cannot.
#
# - **Without a norm this network does not learn at all** at any of the three rates. But that says
#   as much about its first weights as about norms: they were drawn for a network that has norms.
#   Without them the numbers shrink on their way: at the ends of the three stages they vary by 0.18,
#   0.05 and 0.0007, and the picture has no say in the answer any more.
# - **Scaled well once, it learns without a norm.** Compared with that, BN needs a third fewer steps
#   at the best of the three rates, and is ahead with every one of the five seeds, although the
#   slowest run with BN and the fastest without overlap. So the sentence is true for BN here: by a
#   third, not by orders of magnitude.
# - **A norm allows larger rates.** At 0.1 all runs with GN still arrive, and three of five with BN.
#   Without a norm none does: a large step changes the size of all numbers behind it, and nothing
#   puts it right.
# - **GN is not ahead** of the scaled network: the means differ by less than the seeds do. And on a
#   CPU, a step with GN takes longer than one with BN. "Normalization shortens training" is a
#   statement about one norm, one network and one way to begin.
#
# ## Which to choose, measured
#
# What can you expect of each norm when only *one image a worker* fits into memory? Again, nothing
# is trained for this figure. It shows what the trained detector makes of the statistics that each
# norm would use in a step of training. SyncBN on k workers normalises as one batch of k would, as
# you have seen above, so the APs for k = 2 and k = 8 are those that we measured for batches of 2
# and 8.

# %%
measured = {
    "BN": own_ap[SIZES.index(1)],
    "SyncBN, 2 workers": own_ap[SIZES.index(2)],
    "SyncBN, 8 workers": own_ap[SIZES.index(8)],
}
print("from worst to best:", list(measured.values()) == sorted(measured.values()))

# %%
# alt: Three bars of box AP: BN 0.75, SyncBN on 2 workers higher, on 8 workers close to the dotted
#      line of the detector as trained, at 0.86.
(ax,) = drawing.panels(1, height=1.6)
ax.barh(list(measured), list(measured.values()), color="0.6", edgecolor="black")
ax.bar_label(ax.containers[0], fmt="%.2f", label_type="center", fontsize=9)
ax.axvline(trained, linestyle=":", color="black")
ax.set_yticks(range(len(measured)), list(measured))
ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
_ = ax.set_xlabel("box AP with the statistics of a training step (dotted: as trained)")

# %% [markdown]
# FrozenBN and GN have no bars. FrozenBN would stand exactly at the dotted line, and that is no
# finding: it computes in training what BN computes in evaluation, by construction. GN has no
# weights to compare, as one must train with it from the start.
#
# **Decide** before you open the answers. Which norm, in each of these four places?
#
# 1. Eight images fit into memory; in the end the network is to run on a phone.
# 2. You fine-tune trained weights on one card, which holds one large image.
# 3. The same card, but you begin from random weights.
# 4. Eight cards with two images each, from random weights.
#
# <details><summary>Answers</summary>
#
# | you have | take | because |
# |---|---|---|
# | 8 images a worker or more | BN | in the end it folds into the convolution, and costs nothing |
# | one worker, 1–2 images, trained weights | FrozenBN | no statistics, nothing to spoil |
# | one worker, 1–2 images, from scratch | GN | never looks at the batch; cannot be folded |
# | few images a worker, many workers | SyncBN | trains as with the batch of all workers |
# | a recipe that says naiveSyncBN | that, "_N" | its numbers; the default refuses empty batches |
# </details>
#
# Do not expect wonders of FrozenBN: with one image a batch the *gradient* is noisy too, and a large
# learning rate spoils the weights whatever the norm. The stretch task below lets you measure that.

# %% [markdown]
# ## What the documentation gets wrong
#
# All but the last are from one page, "FBNetV3" in CloudFactory's (formerly Hasty's) Model
# Playground wiki (`mp-wiki/model-architectures/fbnetv3`), section "Normalization method".
#
# - Batch norm's divisor is $\sqrt{\mathrm{Var} + \varepsilon}$, and not
#   $\sqrt{\mathrm{Var}} - \varepsilon$.
# - "Group batch normalization" is Group Normalization: no batch has a part in it.
# - It says of naiveSyncBN that "weights are assigned equally to all the images". That is stats mode
#   "N". The default, "", gives equal weights to all *workers*. With 4 + 2 images this is the
#   difference between a mean of 4 and one of 5.
# - It "makes the contribution of the features uniform by normalizing the weights": a norm layer
#   does not touch the weights. It normalises the maps that they make.
# - PyTorch's own `nn.SyncBatchNorm` is no way out on a CPU: it refuses, as you have seen.

# %% [markdown]
# ## Edge cases
#
# One image with a map of 1 × 1 has a single value per channel, which is its own mean. By the
# formula the answer is β, whatever the input: (x − x) / √ε · γ + β. PyTorch refuses to compute it,
# as nothing of the input is left. SyncBN refuses only when *all workers together* have one value.
# GN does answer, since its mean is over all channels of the group.

# %%
single = torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1)
try:
    nn.BatchNorm2d(2).train()(single)
except ValueError as error:
    print("BN:", str(error).partition(",")[0])
by_hand = mine(batch_norm)(torch.tensor(7.0).reshape(1, 1, 1, 1), *torch.tensor([[2.0], [3.0]]))
reveal(guess, {"what comes out for 7": by_hand.item()})
print("GN, one group of two:", [round(v, 2) for v in nn.GroupNorm(1, 2)(single).flatten().tolist()])

# %% [markdown]
# **Stretch.** Fine-tune the tiny detector for 32 steps with one image a batch (SGD, momentum 0.9),
# with `norm="BN"` and `norm="FrozenBN"`, at learning rates 0, 1e-3 and 5e-3. At rate 0 only the
# statistics move. Which norm is ahead at each rate, and what does that say about where the loss of
# AP comes from? Then freeze the statistics but train γ and β, by `layer.eval()` on each batch norm
# after `model.train()`.

# %% [markdown]
# ## Recap
#
# A norm layer subtracts a mean and divides by $\sqrt{\mathrm{Var} + \varepsilon}$. The kinds differ
# only in *whose* mean and variance they take: BN those of this worker's batch, SyncBN those of all
# images, naiveSyncBN the average over workers, GN those of a group of channels of one image;
# FrozenBN keeps what it has learned before. The statistics of a batch are as good as its number of
# pictures. And a norm keeps the numbers at a size that training can cope with, from the first step
# to the last: in our race that saved a third of the steps with BN, and allowed larger ones.
#
# **Three questions**
#
# <details><summary>1. Training loss is fine with two images a batch, and evaluation is bad. Which
# numbers do you look at first?</summary>
#
# The running statistics, as training never uses them. With a momentum of 0.1 they follow the last
# ten batches or so, here twenty pictures. Let a hundred batches pass in training mode without a
# gradient step and with a smaller momentum, as after exercise 2, and evaluate again.
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
# **Sources.** Batch normalization (arXiv 1502.03167); Group Normalization (arXiv 1803.08494);
# scaling weights before the first step, All You Need is a Good Init (arXiv 1511.06422); the head of
# `fbnet_lesson/norms.py`, which has the table of who counts.
