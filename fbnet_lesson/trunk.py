"""From table to network: the builder that reads ``rows``, the trunk and the FPN."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_lesson.blocks import ConvNormAct, InvertedResidual, middle_width, round_channels
from fbnet_lesson.rows import Row, parse_rows

# In place, as norms and convolutions need their inputs for the backward pass, not their outputs.
RELU, HARD_SWISH = partial(nn.ReLU, inplace=True), partial(nn.Hardswish, inplace=True)


def quarter_of_middle(in_channels: int, mid: int) -> int:
    """The usual width in squeeze-and-excitation, in multiples of 8."""
    return round_channels(mid / 4)


@dataclass(frozen=True)
class Style:
    """What the rows leave open and each origin settles its own way; the defaults are d2go's."""

    bare_depthwise: bool = True  # neither norm nor activation after the depthwise convolution
    stem_bias: bool = True  # "conv" rows have a bias although a norm follows, as published
    bias: bool = False  # so have the convolutions of the blocks
    divisor: int = 8  # what the middle widths are rounded to
    squeeze: Callable[[int, int], int] = quarter_of_middle  # (input, middle) width -> width in SE
    keep_pw: bool = False  # blocks of expansion 1 have the 1x1 convolution before the depthwise too
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1


def build_block(
    row: Row, in_channels: int, stride: int, padding: int | None, norm: str, style: Style
) -> nn.Module:
    """One block of a row; ``[N, in_channels, H, W] -> [N, row.channels, H', W']``."""
    act = HARD_SWISH if row.hard_swish else RELU
    if row.op == "skip":
        if in_channels == row.channels and stride == 1:
            return nn.Identity()
        return ConvNormAct(in_channels, row.channels, 1, stride, norm=norm)
    if row.op == "conv":
        block = ConvNormAct(
            in_channels, row.channels, row.kernel, stride, bias=style.stem_bias, norm=norm, act=act
        )
    else:
        mid = middle_width(in_channels, row.expansion, style.divisor)
        block = InvertedResidual(
            in_channels,
            row.channels,
            kernel=row.kernel,
            stride=stride,
            expansion=row.expansion,
            se=row.se and style.squeeze(in_channels, mid),
            groups=row.groups,
            norm=norm,
            bare_depthwise=style.bare_depthwise,
            act=act,
            gate=nn.Hardsigmoid if row.hard_gate else nn.Sigmoid,
            bias=style.bias,
            padding=padding,
            divisor=style.divisor,
            keep_pw=style.keep_pw,
        )
    set_norms(block, style)
    return block


def set_norms(module: nn.Module, style: Style) -> None:
    """Give the norms in ``module`` the epsilon and the momentum of the style."""
    for layer in module.modules():
        if hasattr(layer, "eps"):
            layer.eps = style.norm_eps
        if hasattr(layer, "momentum"):
            layer.momentum = style.norm_momentum


def build_stage(
    text: str, in_channels: int, norm: str, style: Style = Style()
) -> tuple[nn.Sequential, int, float]:
    """The blocks of one stage.

    Returns the stage, the number of its output channels, and its stride (0.5 where it upsamples).
    """
    blocks, channels, stride = [], in_channels, 1.0
    for row in parse_rows(text):
        for i in range(row.repeat):
            block_stride, padding = (row.stride, row.padding) if i == 0 else (1, None)
            blocks.append(build_block(row, channels, block_stride, padding, norm, style))
            channels = row.channels
            stride *= block_stride if block_stride > 0 else -1 / block_stride
    return nn.Sequential(*blocks), channels, stride


class Trunk(nn.Module):
    """Stages ``trunk0, trunk1, ...`` one after the other; each one's output is returned.

    ``[N, 3, H, W] -> {"trunk0": [N, C0, H/2, W/2], "trunk1": ...}``. ``channels`` and ``strides``
    say, by the same names, how wide and how coarse each output is.
    """

    def __init__(self, stages: tuple[str, ...], norm: str = "BN", style: Style = Style()):
        super().__init__()
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        channels, stride = 3, 1
        for i, text in enumerate(stages):
            stage, channels, stage_stride = build_stage(text, channels, norm, style)
            stride = int(stride * stage_stride)
            self.add_module(f"trunk{i}", stage)
            self.channels[f"trunk{i}"], self.strides[f"trunk{i}"] = channels, stride

    @property
    def stages(self) -> list[nn.Module]:
        """The stages, from the image on: what ``freeze_stages`` counts."""
        return list(self.children())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for name, stage in self.named_children():
            x = features[name] = stage(x)
        return features


class ClassifierTrunk(Trunk):
    """A classifier's stages in a detector, see ``Trunk``; takes what the detector's trunk takes.

    That is BGR in 0..255 less ImageNet's mean, so the order of the channels and their ``std`` in
    0..1 are all that is missing. Doing it here, not in the stem's weights, leaves those the size
    that training expects, and the colour of the padding the mean.
    """

    def __init__(self, stages: tuple[str, ...], norm: str, style: Style, std: tuple[float, ...]):
        super().__init__(stages, norm, style)
        scale = 1 / (255 * torch.tensor(std)[:, None, None])
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x.flip(1) * self.scale)


def top_down(laterals: list[Tensor]) -> list[Tensor]:
    """The top-down path of a feature pyramid (arXiv 1612.03144, sec. 3).

    Every map is added to the *merged* map of the next coarser level, made twice as high and wide
    by copying each cell to 2 x 2 (nearest neighbour). The coarsest has no coarser one, and stays
    as it is.

    ``laterals`` are maps ``[N, C, H, W], [N, C, H/2, W/2], ...``, the finest first; returned are
    the merged maps, as many, of the same shapes and in the same order.
    """
    merged = laterals[-1:]
    for lateral in reversed(laterals[:-1]):
        merged.insert(0, lateral + F.interpolate(merged[0], scale_factor=2.0, mode="nearest"))
    return merged


class FPN(nn.Module):
    """Feature pyramid over a trunk's last four stages (arXiv 1612.03144, sec. 3).

    Each level takes its stage through a 1x1 ``lateral`` convolution, adds what ``top_down`` brings
    from the coarser levels, and smooths the sum with a 3x3 ``output`` convolution; ``p6`` is every
    second cell of ``p5``.
    ``[N, 3, H, W] -> {"p2": [N, channels, H/4, W/4], ..., "p6": [N, channels, H/64, W/64]}``;
    H and W must be multiples of 32.
    """

    size_divisibility = 32

    def __init__(self, trunk: Trunk, channels: int = 128, norm: str = "BN"):
        super().__init__()
        self.trunk = trunk
        self.inputs = [f"trunk{i}" for i in (1, 2, 3, 4)]
        self.lateral, self.output = nn.ModuleDict(), nn.ModuleDict()
        for level, name in enumerate(self.inputs, start=2):
            self.lateral[f"p{level}"] = ConvNormAct(
                trunk.channels[name], channels, norm=norm, act=None
            )
            self.output[f"p{level}"] = ConvNormAct(channels, channels, 3, norm=norm, act=None)
        self.channels = dict.fromkeys(("p2", "p3", "p4", "p5", "p6"), channels)
        self.strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        stages = self.trunk(x)
        pairs = zip(self.inputs, self.lateral.values(), strict=True)
        merged = top_down([lateral(stages[name]) for name, lateral in pairs])
        outputs = zip(self.output.items(), merged, strict=True)
        features = {level: output(m) for (level, output), m in outputs}
        features["p6"] = features["p5"][:, :, ::2, ::2]
        return features
