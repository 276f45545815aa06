"""The exercises of lesson 03: batch norm, its running statistics, group norm, pooled statistics."""

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Case, Exercise, Mistake
from fbnet_lesson.norms import pool_statistics

# ------------------------------------------------------------------------------------- batch norm


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Batch norm in training mode: every channel gets mean 0 and variance 1, then slope and shift.

    y = (x − E[x]) / √(Var[x] + eps) · weight + bias. E and Var are over all images and positions
    of a channel; Var is the biased variance, the sum of squares divided by the number of values.
    Both depend on x, and a gradient flows back to x through both.

    Args:
        x: ``[N, C, H, W]``, at least two values per channel; they may lie far from zero.
        weight, bias: ``[C]``.

    Returns:
        ``[N, C, H, W]``.
    """
    mean = x.mean((0, 2, 3), keepdim=True)  # (1, C, 1, 1)
    var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    normalised = (x - mean) / (var + eps).sqrt()
    return normalised * weight[:, None, None] + bias[:, None, None]


def torch_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


def with_raw_moments(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    var = (x**2).mean((0, 2, 3), keepdim=True) - mean**2
    return (x - mean) / (var + eps).sqrt() * weight[:, None, None] + bias[:, None, None]


def along_the_width(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    return (x - mean) / (var + eps).sqrt() * weight + bias


def mixed_by_reshape(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    rows = x.reshape(x.shape[1], -1)
    mean, var = (v[:, None, None] for v in (rows.mean(1), rows.var(1, correction=0)))
    return (x - mean) / (var + eps).sqrt() * weight[:, None, None] + bias[:, None, None]


def as_group_norm_of_one_group(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    return F.group_norm(x, 1, weight, bias, eps)


def batch_norm_inside(function):
    """The learner's batch norm in every ``nn.BatchNorm2d`` that trains."""

    def forward(self, x):
        if not self.training:
            return own_forward(self, x)
        out = same_shape(function(x, self.weight, self.bias, self.eps), x)
        with torch.no_grad():
            own_forward(self, x)  # for the running statistics
        return out

    return {"torch.nn.BatchNorm2d.forward": forward}


own_forward = nn.BatchNorm2d.forward


def same_shape(out: Tensor, x: Tensor) -> Tensor:
    if out.shape != x.shape:
        raise ValueError(f"shape {list(out.shape)} for an input of {list(x.shape)}")
    return out


# ----------------------------------------------------------------------------- running statistics


def running_update(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    """The running statistics of batch norm after one more training batch.

    Both move the share ``momentum`` of the way towards the batch's own:
    new = (1 − momentum) · old + momentum · batch. The batch's variance is the *unbiased* one here:
    the sum of squares is divided by the number of values less one.

    Args:
        running_mean, running_var: ``[C]``, before the batch. They are not written into.
        x: ``[N, C, H, W]``, at least two values per channel.
        momentum: 0 to 1.

    Returns:
        the new mean ``[C]`` and variance ``[C]``.
    """
    mean = x.mean((0, 2, 3))
    var = x.var((0, 2, 3), correction=1)
    return (
        (1 - momentum) * running_mean + momentum * mean,
        (1 - momentum) * running_var + momentum * var,
    )


def torch_running_update(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    mean, var = running_mean.clone(), running_var.clone()
    F.batch_norm(x, mean, var, training=True, momentum=momentum)
    return mean, var


def counting_images(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    var = var * len(x) / max(len(x) - 1, 1)
    return (
        (1 - momentum) * running_mean + momentum * mean,
        (1 - momentum) * running_var + momentum * var,
    )


def variance_first(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    mean, var = running_update(running_mean, running_var, x, momentum)
    return var, mean


def from_the_new_mean(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    mean = (1 - momentum) * running_mean + momentum * x.mean((0, 2, 3))
    squares = ((x - mean[:, None, None]) ** 2).sum((0, 2, 3))
    var = squares / (x[:, 0].numel() - 1)
    return mean, (1 - momentum) * running_var + momentum * var


def image_by_image(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    for image in x:
        running_mean, running_var = running_update(running_mean, running_var, image[None], momentum)
    return running_mean, running_var


def running_update_inside(function):
    """The learner's update in every ``nn.BatchNorm2d`` that trains."""

    def forward(self, x):
        if not self.training:
            return own_forward(self, x)
        mean, var = function(self.running_mean, self.running_var, x.detach(), self.momentum)
        same_shape(mean, self.running_mean)
        same_shape(var, self.running_var)
        self.running_mean.copy_(mean.detach())
        self.running_var.copy_(var.detach())
        return torch_batch_norm(x, self.weight, self.bias, self.eps)

    return {"torch.nn.BatchNorm2d.forward": forward}


# ------------------------------------------------------------------------------------- group norm


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Group Normalization: every image and group of channels gets mean 0 and variance 1.

    y = (x − E[x]) / √(Var[x] + eps) · weight + bias. A group is ``C / groups`` channels that follow
    one another. E and the biased Var are over the channels of a group and all positions, for each
    image by itself; weight and bias are still one per channel. A gradient flows back to x, through
    E and Var too.

    Args:
        x: ``[N, C, H, W]``; ``groups`` divides C.
        groups: into how many groups the channels are divided.
        weight, bias: ``[C]``.

    Returns:
        ``[N, C, H, W]``.
    """
    n, c, h, w = x.shape
    grouped = x.reshape(n, groups, c // groups, h, w)
    mean = grouped.mean((2, 3, 4), keepdim=True)  # (N, groups, 1, 1, 1)
    var = ((grouped - mean) ** 2).mean((2, 3, 4), keepdim=True)
    normalised = ((grouped - mean) / (var + eps).sqrt()).reshape(n, c, h, w)
    return normalised * weight[:, None, None] + bias[:, None, None]


def interleaved(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    order = torch.arange(x.shape[1]).reshape(-1, groups).T.flatten()
    back = order.argsort()
    ones = torch.ones_like(weight)
    normalised = group_norm(x[:, order], groups, ones, 0 * ones, eps)[:, back]
    return normalised * weight[:, None, None] + bias[:, None, None]


def left_in_groups(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    return group_norm(x, groups, weight, bias, eps).unflatten(1, (groups, -1))


def group_norm_inside(function):
    """The learner's group norm in every ``GN`` layer of the package."""

    def forward(self, x):
        return same_shape(function(x, self.num_groups, self.weight, self.bias, self.eps), x)

    return {"norms.GN.forward": forward}


# ----------------------------------------------------------------------------- pooled statistics


def with_raw_pooled_moments(means: Tensor, variances: Tensor, worker_weights: Tensor):
    share = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]
    mean = (share * means).sum(0)
    return mean, (share * (variances + means**2)).sum(0) - mean**2


def of_a_sample(means: Tensor, variances: Tensor, worker_weights: Tensor):
    mean, var = pool_statistics(means, variances, worker_weights)
    total = worker_weights.sum().clamp(min=1)
    return mean, var * total / (total - 1).clamp(min=1)


# ------------------------------------------------------------------------------ cases and figures

EPS = st.sampled_from([1.0, 0.25, 2.0**-10])  # not smaller: it would magnify rounding


@st.composite
def batch_norm_cases(draw) -> Case:
    c = draw(st.integers(1, 2))
    x = draw(some.tensors(st.integers(1, 3), c, st.integers(1, 2), 2, low=-2, high=2))
    weight, bias = (draw(some.tensors(c, low=-2, high=2)) for _ in range(2))
    return {"x": x, "weight": weight, "bias": bias, "eps": draw(EPS)}


@st.composite
def running_cases(draw) -> Case:
    c = draw(st.integers(1, 2))
    return {
        "running_mean": draw(some.tensors(c, low=-2, high=2)),
        "running_var": draw(some.tensors(c, low=0, high=4)),
        "x": draw(some.tensors(st.integers(1, 3), c, st.integers(1, 2), 2, low=-2, high=2)),
        "momentum": draw(some.numbers(0, 1, 0.25)),
    }


@st.composite
def group_norm_cases(draw) -> Case:
    groups = draw(st.integers(1, 3))
    c = groups * draw(st.integers(1, 3))
    x = draw(some.tensors(st.integers(1, 2), c, 1, 2, low=-2, high=2))
    weight, bias = (draw(some.tensors(c, low=-2, high=2)) for _ in range(2))
    return {"x": x, "groups": groups, "weight": weight, "bias": bias, "eps": draw(EPS)}


@st.composite
def pool_cases(draw) -> Case:
    workers, c = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return {
        "means": draw(some.tensors(workers, c, low=-4, high=4)),
        "variances": draw(some.tensors(workers, c, low=0, high=4)),
        "worker_weights": draw(some.tensors(workers, low=0, high=4)),
    }


def maps(*images: list[list[float]]) -> Tensor:
    """``[N, C, 1, W]`` from the values of each channel of each image."""
    return torch.tensor(images)[:, :, None]


def tracked(x: Tensor) -> Tensor:
    """``x``, of which the gradient is asked."""
    return x.requires_grad_()


def norm_case(x: Tensor, weight=None, bias=None, eps: float | None = 0.25, groups=None) -> Case:
    c = x.shape[1]
    case = {
        "x": x,
        "groups": groups,
        "weight": torch.ones(c) if weight is None else torch.tensor(weight),
        "bias": torch.zeros(c) if bias is None else torch.tensor(bias),
        "eps": eps,
    }
    return {name: value for name, value in case.items() if value is not None}


def running_case(mean: list[float], var: list[float], x: Tensor, momentum: float) -> Case:
    return {
        "running_mean": torch.tensor(mean),
        "running_var": torch.tensor(var),
        "x": x,
        "momentum": momentum,
    }


def pool_case(means: list, variances: list, worker_weights: list[float]) -> Case:
    return {
        "means": torch.tensor(means),
        "variances": torch.tensor(variances),
        "worker_weights": torch.tensor(worker_weights),
    }


def draw_channels(case: Case, expected, got) -> None:
    """``x`` and both answers as grids: a row for each channel of each image."""
    grids = {"x": case["x"], "expected": expected, "got": got}
    rows = [f"image {n}, ch. {c}" for n in range(len(case["x"])) for c in range(case["x"].shape[1])]
    axes = drawing.panels(3, height=0.8 + 0.28 * len(rows))
    for ax, (name, values) in zip(axes, grids.items(), strict=True):
        drawing.value_grid(ax, values.flatten(2).flatten(0, 1), name)  # (N·C, H·W)
        ax.set_aspect("auto")
    axes[0].set_yticks([i + 0.5 for i in range(len(rows))], rows, fontsize=7)


def draw_statistics(case: Case, expected, got) -> None:
    """What is given by channel, and both answers: mean above, variance below."""
    given = {name: value for name, value in case.items() if _by_channel(value)}
    grids = given | {"expected": torch.stack(expected), "got": torch.stack(tuple(got))}
    axes = drawing.panels(len(grids), height=1.7)
    for ax, (name, values) in zip(axes, grids.items(), strict=True):
        drawing.value_grid(ax, values, name)
    for ax in axes[-2:]:
        ax.set_yticks([0.5, 1.5], ["mean", "var"], fontsize=7)


def _by_channel(value) -> bool:
    return isinstance(value, Tensor) and value.dim() in (1, 2)


# ------------------------------------------------------------------------------------ exercises

ROOT = "(var + eps).sqrt()"
AFFINE = "normalised * weight[:, None, None] + bias[:, None, None]"

EXERCISES = (
    Exercise(
        solution=batch_norm,
        cases=batch_norm_cases(),
        edges={
            "four numbers": [norm_case(maps([[1.0, 3.0]], [[5.0, 7.0]]), eps=4.0)],
            "one mean for all images": [norm_case(maps([[0.0, 0.0]], [[4.0, 4.0]]))],
            "one mean for all positions": [
                norm_case(maps([[0.0, 0.0]], [[4.0, 4.0]]).transpose(0, 3)),
                norm_case(maps([[0.0, 0.0]], [[4.0, 4.0]]).reshape(1, 1, 2, 2)),
            ],
            "each channel by itself": [norm_case(maps([[0.0, 2.0], [8.0, 16.0]]))],
            "each channel of all images": [
                norm_case(maps([[0.0, 2.0], [4.0, 4.0]], [[6.0, 8.0], [12.0, 4.0]]))
            ],
            "weight and bias, one a channel": [
                norm_case(maps([[0.0, 2.0], [0.0, 2.0]]), weight=[1.0, -2.0], bias=[3.0, 0.5])
            ],
            "a constant channel": [norm_case(maps([[3.0, 3.0]], [[3.0, 3.0]]), bias=[1.0])],
            "far from zero": [norm_case(maps([[4096.0, 4096.0]], [[4097.0, 4097.0]]))],
            "eps is 1e-5 unless it is given": [norm_case(maps([[0.0, 2.0**-7]]), eps=None)],
            "the gradient flows through mean and variance": [
                norm_case(tracked(maps([[0.0, 2.0]], [[3.0, 7.0]])), weight=[2.0])
            ],
        },
        mistakes=(
            Mistake(
                "divides by the unbiased variance",
                "Divide the sum of squares by the number of values n; n − 1 is for the running "
                "variance only. With x.var(...), ask for correction=0.",
                edits={
                    "((x - mean) ** 2).mean((0, 2, 3), keepdim=True)": "x.var((0, 2, 3), "
                    "correction=1, keepdim=True)"
                },
            ),
            Mistake(
                "adds eps outside the root",
                "eps is added to the variance, before the root is taken.",
                edits={ROOT: "(var.sqrt() + eps)"},
            ),
            Mistake(
                "divides by x.std() + eps",
                "Two things at once: x.std() divides by n − 1 unless told correction=0, and "
                "eps belongs under the root, with the variance.",
                edits={ROOT: "(x.std((0, 2, 3), correction=1, keepdim=True) + eps)"},
            ),
            Mistake(
                "subtracts eps from the root",
                "That is the formula of the page that this lesson warns of: eps is added, to the "
                "variance, before the root is taken.",
                edits={ROOT: "(var.sqrt() - eps)"},
            ),
            Mistake(
                "takes the statistics of each image by itself",
                "That is instance norm. A batch norm's mean goes over the images too: over the "
                "dimensions N, H and W.",
                edits={
                    "x.mean((0, 2, 3)": "x.mean((2, 3)",
                    "** 2).mean((0, 2, 3)": "** 2).mean((2, 3)",
                },
            ),
            Mistake(
                "takes the statistics over the images only",
                "Every position of a channel is treated alike: mean over N, H and W, not N alone.",
                edits={
                    "x.mean((0, 2, 3)": "x.mean((0,)",
                    "** 2).mean((0, 2, 3)": "** 2).mean((0,)",
                },
            ),
            Mistake(
                "takes one mean and one variance for all channels",
                "Every channel has its own: keep the channel dimension out of the mean.",
                edits={
                    "x.mean((0, 2, 3)": "x.mean((0, 1, 2, 3)",
                    "** 2).mean((0, 2, 3)": "** 2).mean((0, 1, 2, 3)",
                },
            ),
            Mistake(
                "takes the statistics of an image over all its channels",
                "That is layer norm. A batch norm keeps channels apart and takes images together: "
                "its mean is over the dimensions 0, 2 and 3.",
                wrong=as_group_norm_of_one_group,
            ),
            Mistake(
                "does not subtract the mean",
                "The numerator is x − E[x]: afterwards a channel has mean 0.",
                edits={"normalised = (x - mean)": "normalised = x"},
            ),
            Mistake(
                "forgets weight and bias",
                "The last step gives each channel its slope and its shift.",
                edits={AFFINE: "normalised"},
            ),
            Mistake(
                "forgets the bias",
                "The shift comes last: + bias, one number a channel.",
                edits={" + bias[:, None, None]": ""},
            ),
            Mistake(
                "forgets the weight",
                "The slope is a factor, one number a channel, before the bias is added.",
                edits={"normalised * weight[:, None, None]": "normalised"},
            ),
            Mistake(
                "shifts before it scales",
                "First times weight, then plus bias: the weight must not multiply the bias.",
                edits={
                    AFFINE: "(normalised + bias[:, None, None]) * weight[:, None, None]",
                },
            ),
            Mistake(
                "scales by the bias and shifts by the weight",
                "weight is the slope, a factor; bias is the shift, a term.",
                edits={AFFINE: "normalised * bias[:, None, None] + weight[:, None, None]"},
            ),
            Mistake(
                "lays weight and bias along the width",
                "A vector of C values meets the last dimension, W. weight[:, None, None] has shape "
                "(C, 1, 1) and meets the channels.",
                edits={AFFINE: "normalised * weight + bias"},
            ),
            Mistake(
                "lays the mean along the width, and takes the variance from there",
                "Without keepdim=True the mean is a vector of C values, which meets the last "
                "dimension, W. With it, it has shape (1, C, 1, 1).",
                edits={
                    "x.mean((0, 2, 3), keepdim=True)": "x.mean((0, 2, 3))",
                    "** 2).mean((0, 2, 3), keepdim=True)": "** 2).mean((0, 2, 3))",
                    AFFINE: "normalised * weight + bias",
                },
            ),
            Mistake(
                "cuts the gradient of mean and variance off",
                "detach(), item() and no_grad() turn them into constants. They depend on x, and so "
                "they have a part in its gradient.",
                edits={
                    "mean = x.mean((0, 2, 3), keepdim=True)": "mean = x.detach().mean((0, 2, 3), "
                    "keepdim=True)",
                    "((x - mean) ** 2)": "((x.detach() - mean) ** 2)",
                },
            ),
            Mistake(
                "loses the variance far from zero",
                "E[x²] − E[x]² subtracts two large numbers that are nearly the same. Subtract the "
                "mean first, then square.",
                wrong=with_raw_moments,
            ),
            Mistake(
                "lays the channels along the width",
                "A vector of C values meets the last dimension, W. With keepdim=True, or "
                "[:, None, None], it has shape (C, 1, 1) and meets the channels.",
                wrong=along_the_width,
            ),
            Mistake(
                "mixes channels by reshaping",
                "x.reshape(C, -1) cuts the memory into C pieces, and in it all channels of an "
                "image come before the next image. Take the mean over the dimensions 0, 2, 3.",
                wrong=mixed_by_reshape,
            ),
            Mistake(
                "divides by the variance",
                "To have variance 1 afterwards, divide by the standard deviation, a root.",
                edits={ROOT: "(var + eps)"},
            ),
            Mistake(
                "forgets eps",
                "A channel that is the same everywhere has variance 0: without eps it is divided "
                "by zero.",
                edits={"(var + eps)": "var"},
            ),
            Mistake(
                "takes 1e-5 for eps, whatever is given",
                "eps is an argument, and 1e-5 only what it is by default.",
                edits={"(var + eps)": "(var + 1e-5)"},
            ),
            Mistake(
                "squares eps",
                "It is added to the variance as it is.",
                edits={"(var + eps)": "(var + eps**2)"},
            ),
        ),
        hint="Take mean and variance over N, H and W with keepdim=True, so that they broadcast.",
        oracle=torch_batch_norm,
        draw=draw_channels,
        plug=batch_norm_inside,
        difficulty=1,
        minutes=12,
    ),
    Exercise(
        solution=running_update,
        cases=running_cases(),
        edges={
            "momentum is the share of the new batch": [
                running_case([0.0], [1.0], maps([[6.0, 10.0]]), 0.25)
            ],
            "momentum 0 keeps, momentum 1 forgets": [
                running_case([3.0], [2.0], maps([[1.0, 5.0]]), 0.0),
                running_case([3.0], [2.0], maps([[1.0, 5.0]]), 1.0),
            ],
            "the unbiased variance": [
                running_case([0.0], [0.0], maps([[-1.0, 1.0]]), 1.0),
                running_case([0.0], [0.0], maps([[0.0, 0.0]], [[3.0, 3.0]]), 1.0),
            ],
            "two channels": [running_case([0.0, 1.0], [1.0, 2.0], maps([[0, 2.0], [4, 4.0]]), 0.5)],
            "all positions": [
                running_case([0.0], [0.0], torch.tensor([[[[0.0, 0.0], [4.0, 4.0]]]]), 0.5)
            ],
        },
        mistakes=(
            Mistake(
                "takes momentum for the share of the old value",
                "In PyTorch momentum is the share of the new batch: 0.1 keeps nine tenths of what "
                "was known. (Other libraries mean the reverse by the word.)",
                edits={
                    "(1 - momentum) * running_mean + momentum * mean": "momentum * running_mean "
                    "+ (1 - momentum) * mean",
                    "(1 - momentum) * running_var + momentum * var": "momentum * running_var "
                    "+ (1 - momentum) * var",
                },
            ),
            Mistake(
                "keeps the biased variance",
                "Evaluation wants an estimate for all images there are: divide by the number of "
                "values less one.",
                edits={"correction=1": "correction=0"},
            ),
            Mistake(
                "keeps the standard deviation",
                "running_var is a variance; the root is taken where it is used.",
                edits={"correction=1)": "correction=1).sqrt()"},
            ),
            Mistake(
                "corrects by the number of images",
                "What counts is the number of values of a channel, N·H·W: divide the sum of "
                "squares by N·H·W − 1.",
                wrong=counting_images,
            ),
            Mistake(
                "adds the batch without taking from the old value",
                "The two shares make a whole: (1 − momentum) of the old value stays.",
                edits={
                    "(1 - momentum) * running_mean": "running_mean",
                    "(1 - momentum) * running_var": "running_var",
                },
            ),
            Mistake(
                "takes the statistics of the last batch only",
                "Mix the batch's statistics with those that are given.",
                edits={
                    "(1 - momentum) * running_mean + momentum * mean": "mean",
                    "(1 - momentum) * running_var + momentum * var": "var",
                },
            ),
            Mistake(
                "leaves the variance as it was",
                "Mean and variance are both moved.",
                edits={"(1 - momentum) * running_var + momentum * var": "running_var"},
            ),
            Mistake(
                "leaves the mean as it was",
                "Mean and variance are both moved, by the same share.",
                edits={"(1 - momentum) * running_mean + momentum * mean": "running_mean"},
            ),
            Mistake(
                "returns the variance first",
                "The order is mean, variance. (torch.var_mean gives them the other way round.)",
                wrong=variance_first,
            ),
            Mistake(
                "moves by 0.1, whatever the momentum",
                "momentum is an argument; 0.1 is only what PyTorch's layers begin with.",
                edits={"    mean = x.mean": "    momentum = 0.1\n    mean = x.mean"},
            ),
            Mistake(
                "takes one mean and one variance for all channels",
                "Every channel has its own: the dimensions are 0, 2 and 3, without 1.",
                edits={"x.mean((0, 2, 3))": "x.mean()", "x.var((0, 2, 3), ": "x.var("},
            ),
            Mistake(
                "takes the statistics of each image by itself",
                "The mean goes over the images too: [N, C, H, W] -> [C].",
                edits={"x.mean((0, 2, 3))": "x.mean((2, 3))", "x.var((0, 2, 3)": "x.var((2, 3)"},
            ),
            Mistake(
                "moves once for every image",
                "The whole batch is one step: all its images make one mean and one variance.",
                wrong=image_by_image,
            ),
            Mistake(
                "measures the variance from the new running mean",
                "The batch's variance is about the batch's own mean.",
                wrong=from_the_new_mean,
            ),
        ),
        hint="new = (1 − momentum) · old + momentum · batch, for the mean and for the variance.",
        oracle=torch_running_update,
        draw=draw_statistics,
        plug=running_update_inside,
        difficulty=1,
        minutes=8,
    ),
    Exercise(
        solution=pool_statistics,
        cases=pool_cases(),
        edges={
            "four values and two": [pool_case([[2.0], [8.0]], [[1.0], [0.0]], [4.0, 2.0])],
            "a one for each worker": [pool_case([[2.0], [8.0]], [[1.0], [0.0]], [1.0, 1.0])],
            "one worker": [pool_case([[3.0]], [[2.0]], [5.0])],
            "a worker without images": [pool_case([[2.0], [0.0]], [[1.0], [0.0]], [4.0, 0.0])],
            "no images at all": [pool_case([[0.0], [0.0]], [[0.0], [0.0]], [0.0, 0.0])],
            "each channel by itself": [
                pool_case([[2.0, -1.0], [8.0, 1.0]], [[1.0, 0.0], [0.0, 4.0]], [1.0, 3.0])
            ],
            "far from zero": [pool_case([[4096.0], [4097.0]], [[1.0], [1.0]], [1.0, 1.0])],
        },
        mistakes=(
            Mistake(
                "averages the variances only",
                "Workers whose means differ make the whole vary more: add the variance of the "
                "means.",
                edits={"variances + (means - mean) ** 2": "variances"},
            ),
            Mistake(
                "weights every worker the same",
                "A worker counts by its weight: multiply by worker_weights / their sum before you "
                "add up.",
                edits={
                    "worker_weights / worker_weights.sum().clamp(min=1)": "torch.ones_like("
                    "worker_weights) / len(worker_weights)"
                },
            ),
            Mistake(
                "divides by the number of workers",
                "The shares have to add up to one: divide by the sum of the weights.",
                edits={"worker_weights.sum().clamp(min=1)": "len(worker_weights)"},
            ),
            Mistake(
                "multiplies by the weights without dividing by their sum",
                "A mean needs shares: worker_weights / worker_weights.sum().",
                edits={"worker_weights / worker_weights.sum().clamp(min=1)": "worker_weights"},
            ),
            Mistake(
                "turns the weights into shares with a softmax",
                "A worker with four values counts four times as much as one with a single value: "
                "divide by the sum.",
                edits={
                    "worker_weights / worker_weights.sum().clamp(min=1)": "worker_weights.float()"
                    ".softmax(0)"
                },
            ),
            Mistake(
                "divides by zero when no worker has images",
                "All weights may be zero, and the answer is zeros then: keep the divisor at one "
                "or more.",
                edits={".clamp(min=1)": ""},
            ),
            Mistake(
                "leaves the weights out of the variance",
                "The mean of the squares is weighted by the same shares as the mean.",
                edits={
                    "(share * (variances + (means - mean) ** 2)).sum(0)": "(variances "
                    "+ (means - mean) ** 2).mean(0)"
                },
            ),
            Mistake(
                "leaves the weights out of the variance of the means",
                "A worker's squared distance from the pooled mean counts by its share, too.",
                edits={
                    "(share * (variances + (means - mean) ** 2)).sum(0)": "(share * variances)"
                    ".sum(0) + means.var(0, correction=0)"
                },
            ),
            Mistake(
                "lays the shares along the channels",
                "A vector of one share a worker meets the last dimension, C. With [:, None] it has "
                "shape (workers, 1) and meets the workers.",
                edits={")[:, None]": ")"},
            ),
            Mistake(
                "takes the means' distance from zero",
                "Var = E[x²] − E[x]² needs the second part: measure each worker's mean from the "
                "pooled mean.",
                edits={"(means - mean) ** 2": "means ** 2"},
            ),
            Mistake(
                "loses the variance far from zero",
                "E[x²] − E[x]² subtracts two large numbers that are nearly the same. Square the "
                "distances of the means from the pooled mean instead.",
                wrong=with_raw_pooled_moments,
            ),
            Mistake(
                "leaves the workers' own variances out",
                "A worker's values differ from one another too: add the mean of the variances.",
                edits={"(variances + (means - mean) ** 2)": "(means - mean) ** 2"},
            ),
            Mistake(
                "averages the standard deviations",
                "Squares add up, roots do not; and the workers' means differ besides.",
                edits={
                    "(share * (variances + (means - mean) ** 2)).sum(0)": "(share "
                    "* variances.sqrt()).sum(0) ** 2"
                },
            ),
            Mistake(
                "squares the shares too",
                "Only the distance of a mean is squared; its share multiplies the square.",
                edits={
                    "(share * (variances + (means - mean) ** 2)).sum(0)": "(share * variances)"
                    ".sum(0) + ((share * (means - mean)) ** 2).sum(0)"
                },
            ),
            Mistake(
                "weights the variance, but not the mean",
                "Every worker's mean counts by the same share as its variance.",
                edits={"(share * means).sum(0)": "means.mean(0)"},
            ),
            Mistake(
                "makes the variance unbiased",
                "The docstring asks for the biased one: the sum of squares divided by the weights' "
                "sum, not by one less.",
                wrong=of_a_sample,
            ),
            Mistake(
                "keeps the workers' dimension, with size 1",
                "[workers, C] -> [C]: sum over dimension 0 without keepdim.",
                edits={
                    "(share * means).sum(0)": "(share * means).sum(0, keepdim=True)",
                    "(share * (variances + (means - mean) ** 2)).sum(0)": "(share * (variances "
                    "+ (means - mean) ** 2)).sum(0, keepdim=True)",
                },
            ),
            Mistake(
                "adds the distances of the means unsquared",
                "A variance is made of squares.",
                edits={"(means - mean) ** 2": "(means - mean).abs()"},
            ),
        ),
        hint="First the pooled mean; then the mean variance plus the variance of the means.",
        draw=draw_statistics,
        difficulty=3,
        minutes=15,
    ),
    Exercise(
        solution=group_norm,
        cases=group_norm_cases(),
        edges={
            "one group of two channels": [norm_case(maps([[0.0, 0.0], [4.0, 4.0]]), groups=1)],
            "each image by itself": [
                norm_case(maps([[0.0, 2.0]], [[8.0, 12.0]]), groups=1, eps=0.25)
            ],
            "channels of a group follow one another": [
                norm_case(maps([[0.0, 2.0], [2.0, 4.0], [10.0, 12.0], [12.0, 20.0]]), groups=2)
            ],
            "groups is their number, not their size": [
                norm_case(maps([[0.0, 1.0], [2.0, 4.0], [3.0, 8.0]]), groups=3),
                norm_case(maps([[0.0, 1.0], [2.0, 4.0], [3.0, 8.0]]), groups=1),
            ],
            "weight and bias, one a channel": [
                norm_case(
                    maps([[0.0, 2.0], [0.0, 2.0]]), weight=[1.0, -2.0], bias=[3.0, 0.5], groups=1
                )
            ],
            "all positions": [
                norm_case(torch.tensor([[[[0.0, 0.0], [4.0, 4.0]]]]), groups=1),
                norm_case(torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]]), groups=1),
            ],
            "a constant group": [norm_case(maps([[3.0, 3.0]]), bias=[1.0], groups=1)],
            "eps is 1e-5 unless it is given": [
                norm_case(maps([[0.0, 2.0**-7]]), groups=1, eps=None)
            ],
            "the gradient flows through mean and variance": [
                norm_case(tracked(maps([[0.0, 2.0], [3.0, 7.0]])), weight=[2.0, 1.0], groups=1)
            ],
        },
        mistakes=(
            Mistake(
                "puts every groups-th channel into a group",
                "Channels that follow one another form a group: reshape to "
                "[N, groups, C / groups, H, W], in this order.",
                wrong=interleaved,
            ),
            Mistake(
                "takes groups for the number of channels in a group",
                "groups is how many groups there are; each has C / groups channels.",
                edits={"n, groups, c // groups, h, w": "n, c // groups, groups, h, w"},
            ),
            Mistake(
                "takes the statistics over the batch",
                "Every image is normalised by itself: that is what makes it independent of the "
                "batch size.",
                edits={
                    "grouped.mean((2, 3, 4)": "grouped.mean((0, 2, 3, 4)",
                    "** 2).mean((2, 3, 4)": "** 2).mean((0, 2, 3, 4)",
                },
            ),
            Mistake(
                "normalises every channel by itself",
                "That is instance norm: the mean goes over the channels of the group too.",
                edits={
                    "grouped.mean((2, 3, 4)": "grouped.mean((3, 4)",
                    "** 2).mean((2, 3, 4)": "** 2).mean((3, 4)",
                },
            ),
            Mistake(
                "normalises all channels together",
                "That is layer norm, one group. Here each group has its own mean and variance.",
                edits={
                    "grouped.mean((2, 3, 4)": "grouped.mean((1, 2, 3, 4)",
                    "** 2).mean((2, 3, 4)": "** 2).mean((1, 2, 3, 4)",
                },
            ),
            Mistake(
                "divides by the unbiased variance",
                "Divide the sum of squares by the number of values, not by one less.",
                edits={
                    "((grouped - mean) ** 2).mean((2, 3, 4), keepdim=True)": "grouped.var("
                    "(2, 3, 4), keepdim=True)"
                },
            ),
            Mistake(
                "divides by x.std() + eps",
                "Two things at once: std() divides by n − 1 unless correction=0 is asked for, and "
                "eps belongs under the root, with the variance.",
                edits={ROOT: "(grouped.std((2, 3, 4), keepdim=True) + eps)"},
            ),
            Mistake(
                "adds eps outside the root",
                "eps is added to the variance, before the root is taken.",
                edits={ROOT: "(var.sqrt() + eps)"},
            ),
            Mistake(
                "forgets weight and bias",
                "The last step gives each channel, not each group, its slope and its shift.",
                edits={AFFINE: "normalised"},
            ),
            Mistake(
                "takes the statistics over the channels of a group only",
                "Every position counts too: the mean goes over the last three dimensions.",
                edits={
                    "grouped.mean((2, 3, 4)": "grouped.mean((2,)",
                    "** 2).mean((2, 3, 4)": "** 2).mean((2,)",
                },
            ),
            Mistake(
                "does not subtract the mean",
                "The numerator is x − E[x]: afterwards a group has mean 0.",
                edits={"((grouped - mean) / ": "(grouped / "},
            ),
            Mistake(
                "divides by the variance",
                "To have variance 1 afterwards, divide by the standard deviation, a root.",
                edits={ROOT: "(var + eps)"},
            ),
            Mistake(
                "forgets eps",
                "A group that is the same everywhere has variance 0: without eps it is divided "
                "by zero.",
                edits={"(var + eps)": "var"},
            ),
            Mistake(
                "takes 1e-5 for eps, whatever is given",
                "eps is an argument, and 1e-5 only what it is by default.",
                edits={"(var + eps)": "(var + 1e-5)"},
            ),
            Mistake(
                "lays weight and bias along the width",
                "A vector of C values meets the last dimension, W. weight[:, None, None] has shape "
                "(C, 1, 1) and meets the channels.",
                edits={AFFINE: "normalised * weight + bias"},
            ),
            Mistake(
                "shifts before it scales",
                "First times weight, then plus bias: the weight must not multiply the bias.",
                edits={AFFINE: "(normalised + bias[:, None, None]) * weight[:, None, None]"},
            ),
            Mistake(
                "leaves the channels split into groups",
                "Put the shape back before weight and bias: reshape(n, c, h, w).",
                wrong=left_in_groups,
            ),
            Mistake(
                "cuts the gradient of mean and variance off",
                "detach(), item() and no_grad() turn them into constants. They depend on x, and so "
                "they have a part in its gradient.",
                edits={
                    "mean = grouped.mean": "mean = grouped.detach().mean",
                    "((grouped - mean) ** 2)": "((grouped.detach() - mean) ** 2)",
                },
            ),
            Mistake(
                "uses one weight and bias for a whole group",
                "weight and bias have C values: every channel of a group uses its own.",
                edits={
                    "weight[:, None, None]": "weight[:: c // groups].repeat_interleave("
                    "c // groups)[:, None, None]",
                    "bias[:, None, None]": "bias[:: c // groups].repeat_interleave("
                    "c // groups)[:, None, None]",
                },
            ),
        ),
        hint="Reshape to [N, groups, C / groups, H, W] and take the mean over the last three.",
        oracle=F.group_norm,
        draw=draw_channels,
        plug=group_norm_inside,
        difficulty=2,
        minutes=12,
    ),
)
