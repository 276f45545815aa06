"""From table to network: the builder that reads ``architectures``, the trunk and the FPN."""

import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_lesson.architectures import parse_rows
from fbnet_lesson.blocks import ConvNormAct, InvertedResidual


def build_stage(text: str, in_channels: int, norm: str) -> tuple[nn.Sequential, int, float]:
    """The blocks of one stage.

    Returns the stage, the number of its output channels, and its stride (0.5 where it upsamples).
    The stem convolution has a bias although a norm follows: the published weights have it.
    """
    blocks, channels, stride = [], in_channels, 1.0
    for row in parse_rows(text):
        for i in range(row.repeat):
            block_stride = row.stride if i == 0 else 1
            if row.op == "conv":
                block = ConvNormAct(
                    channels, row.channels, row.kernel, block_stride, bias=True, norm=norm
                )
            else:
                block = InvertedResidual(
                    channels,
                    row.channels,
                    kernel=row.kernel,
                    stride=block_stride,
                    expansion=row.expansion,
                    se=row.se,
                    norm=norm,
                )
            blocks.append(block)
            channels = row.channels
            stride *= block_stride if block_stride > 0 else -1 / block_stride
    return nn.Sequential(*blocks), channels, stride


class Trunk(nn.Module):
    """Stages ``trunk0, trunk1, ...`` one after the other; each one's output is returned.

    ``[N, 3, H, W] -> {"trunk0": [N, C0, H/2, W/2], "trunk1": ...}``. ``channels`` and ``strides``
    say, by the same names, how wide and how coarse each output is.
    """

    def __init__(self, stages: tuple[str, ...], norm: str = "BN"):
        super().__init__()
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        channels, stride = 3, 1
        for i, text in enumerate(stages):
            stage, channels, stage_stride = build_stage(text, channels, norm)
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


class FPN(nn.Module):
    """Feature pyramid over a trunk's last four stages (arXiv 1612.03144, sec. 3).

    Each level adds the coarser level's map (nearest x2) to its own 1x1 ``lateral`` convolution and
    smooths the sum with a 3x3 ``output`` convolution; ``p6`` is every second cell of ``p5``.
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
        features, coarser = {}, None
        for name, level in zip(reversed(self.inputs), ("p5", "p4", "p3", "p2"), strict=True):
            merged = self.lateral[level](stages[name])
            if coarser is not None:
                merged = merged + F.interpolate(coarser, scale_factor=2.0, mode="nearest")
            coarser = merged
            features[level] = self.output[level](merged)
        features["p6"] = features["p5"][:, :, ::2, ::2]
        return {level: features[level] for level in self.channels}
