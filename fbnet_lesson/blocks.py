"""The building block of every FBNet: the inverted residual, and the two pieces it is made of.

Order inside a block (FBNet, arXiv 1812.03443, fig. 3; detection variant as published in d2go)::

    x -- pw 1x1 + norm + act -- shuffle -- upsample, dw kxk -- SE -- pwl 1x1 + norm --(+)--> y
      |     (absent when expansion leaves the width alone)                              |
      +------------------------------ identity, if shapes agree ------------------------+
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_lesson.norms import make_norm


def round_channels(wish: float, divisor: int = 8) -> int:
    """The channel count nearest to ``wish`` that ``divisor`` divides (halves go up).

    Never under ``divisor``, and never under 0.95 of the wish: then the next multiple is taken.

    >>> [round_channels(c) for c in (0, 42, 84, 160, 100.8)]
    [8, 40, 88, 160, 104]
    """
    rounded = max(divisor, math.floor(wish / divisor + 0.5) * divisor)
    return rounded + divisor if rounded < 0.95 * wish else rounded


def middle_width(in_channels: int, expansion: float, divisor: int = 8) -> int:
    """The width between an inverted residual's 1x1 convolutions; expansion 1 changes nothing."""
    return in_channels if expansion == 1 else round_channels(in_channels * expansion, divisor)


class UpsampledDepthwise(nn.Conv2d):
    """Nearest-neighbour doubling, then a depthwise convolution, without making the doubled map.

    ``[N, C, H, W] -> [N, C, 2H, 2W]``; weight ``[C, 1, k, k]`` as of the plain convolution.

    After the doubling, two neighbouring taps of the kernel often see the same cell, so their
    weights can be added beforehand. Which taps meet depends on the output's row and column being
    even or odd: four phases, for k = 3 each of 2x2 sums instead of 3x3 taps. All four together are
    one transposed convolution of stride 2 whose kernel is the old one convolved with a 2x2 of ones,
    because doubling is itself the transposed convolution with a 2x2 of ones.
    """

    def widened(self) -> Tensor:
        """The kernel of the transposed convolution, ``[C, 1, k + 1, k + 1]``."""
        ones = self.weight.new_ones(1, 1, 2, 2)
        # A transposed convolution runs its kernel backwards: hence the flip.
        return F.conv2d(self.weight.flip(2, 3), ones, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.widened()
        return F.conv_transpose2d(
            x, kernel, self.bias, stride=2, padding=self.padding, groups=len(kernel)
        )


class ConvNormAct(nn.Sequential):
    """Convolution, then norm, then activation; ``norm=None`` and ``act=None`` leave a part out.

    ``[N, in, H, W] -> [N, out, ceil(H / stride), ceil(W / stride)]`` with the default padding,
    ``kernel // 2``; stride -2, for a depthwise convolution, doubles the resolution beforehand:
    ``2H``, ``2W``. The children are called ``conv``, ``norm`` and ``act``. Kaiming normal weights,
    fan out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: str | None = "BN",
        act: Callable[[], nn.Module] | None = nn.ReLU,
        padding: int | None = None,
    ):
        super().__init__()
        if stride == -2 and not groups == in_channels == out_channels:
            raise ValueError(
                f"stride -2 needs a depthwise convolution; found {in_channels} channels in, "
                f"{out_channels} out, {groups} groups"
            )
        convolution = UpsampledDepthwise if stride == -2 else nn.Conv2d
        self.conv = convolution(
            in_channels,
            out_channels,
            kernel,
            max(stride, 1),
            kernel // 2 if padding is None else padding,
            groups=groups,
            bias=bias,
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if bias:
            nn.init.zeros_(self.conv.bias)
        if norm is not None:
            self.norm = make_norm(norm, out_channels)
        if act is not None:
            self.act = act()


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means (arXiv 1709.01507, sec. 3).

    ``y = x * gate(expand(act(reduce(mean over H and W of x))))``, ``[N, C, H, W]`` in and out;
    the gate is a sigmoid, or the hard sigmoid ``clamp(x / 6 + 1 / 2, 0, 1)``.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        act: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ):
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = act()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()
        for conv in (self.reduce, self.expand):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        return x * self.gate(self.expand(self.act(self.reduce(squeezed))))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the groups' channels, so that the next grouped convolution sees all of them.

    ``[N, C, H, W]`` in and out; ``groups`` must divide C (arXiv 1707.01083, sec. 3.1).
    """
    n, c, h, w = x.shape
    x = x.reshape(n, groups, c // groups, h, w)  # (N, G, C/G, H, W)
    return x.transpose(1, 2).reshape(n, c, h, w)  # (N, C/G, G, H, W) -> (N, C, H, W)


class InvertedResidual(nn.Module):
    """Expand with 1x1, filter depthwise, project with 1x1; add the input where shapes agree.

    Args:
        in_channels, out_channels: widths before and after.
        kernel: odd side of the depthwise convolution.
        stride: 1, 2, or -2, which doubles the resolution (nearest neighbour, before the depthwise).
        expansion: width between the two 1x1 convolutions, as a multiple of ``in_channels``
            (``middle_width``, in multiples of ``divisor``). No ``pw`` where that leaves the width
            as it is, unless ``keep_pw``.
        se: squeeze-and-excitation after the depthwise; True squeezes to a quarter of the middle
            width, a number to that width.
        groups: of both 1x1 convolutions, with a channel shuffle before the depthwise.
        norm: a name that ``make_norm`` knows.
        bare_depthwise: no norm and no activation after the depthwise, as in the detection models.
        act: the activation after the expansion, after the depthwise and in the SE.
        gate: the last activation of the SE.
        bias: the convolutions have one, although a norm follows.
        padding: of the depthwise; None is half of its kernel, which keeps the map centred.

    Shapes: ``[N, in, H, W] -> [N, out, H', W']``, H' = ceil(H / 2) for stride 2, 2H for -2.
    Source: MobileNetV2 (arXiv 1801.04381, sec. 3.3); FBNet (arXiv 1812.03443, sec. 3.1).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        expansion: float = 1,
        se: bool | int = False,
        groups: int = 1,
        norm: str = "BN",
        bare_depthwise: bool = True,
        act: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
        bias: bool = False,
        padding: int | None = None,
        divisor: int = 8,
        keep_pw: bool = False,
    ):
        super().__init__()
        if stride not in (1, 2, -2):
            raise ValueError(f"stride {stride}: allowed are 1, 2 and -2 (upsample by 2)")
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel}: only odd sizes keep the map centred")
        mid = middle_width(in_channels, expansion, divisor)
        if any(width % groups for width in (in_channels, mid, out_channels)):
            raise ValueError(
                f"groups {groups} must divide all widths: {in_channels} in, {mid} in the middle, "
                f"{out_channels} out"
            )
        if mid == in_channels and not keep_pw:
            self.pw = None
        else:
            self.pw = ConvNormAct(in_channels, mid, groups=groups, bias=bias, norm=norm, act=act)
        self.groups = groups
        self.dw = ConvNormAct(
            mid,
            mid,
            kernel,
            stride,
            groups=mid,
            bias=bias,
            norm=None if bare_depthwise else norm,
            act=None if bare_depthwise else act,
            padding=padding,
        )
        squeezed = round_channels(mid / 4) if se is True else se
        self.se = SqueezeExcite(mid, squeezed, act, gate) if se else None
        self.pwl = ConvNormAct(mid, out_channels, groups=groups, bias=bias, norm=norm, act=None)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.pw is not None:
            y = self.pw(y)
        if self.groups > 1:
            y = channel_shuffle(y, self.groups)
        y = self.dw(y)
        if self.se is not None:
            y = self.se(y)
        y = self.pwl(y)
        return x + y if self.residual else y


def count_parameters(module: nn.Module) -> int:
    """How many numbers the module learns."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of convolutions and matrix products in one forward pass: the FLOP count / 2."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2
