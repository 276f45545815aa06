"""FBNet as it was searched: an image classifier, or its trunk alone for other tasks."""

import math
from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fbnet_lesson.blocks import ConvNormAct, middle_width
from fbnet_lesson.classification.architectures import ClassifierArch
from fbnet_lesson.overrides import impossible, override
from fbnet_lesson.rows import parse_rows
from fbnet_lesson.trunk import HARD_SWISH, RELU, Style, Trunk, build_block, set_norms


@dataclass(frozen=True)
class ClassifierConfig:
    """Every field is an override of ``create_model`` for a classifier."""

    num_classes: int = 1000
    dropout: float = 0.2  # of the last features, in training
    features_only: bool = False  # no head: the maps of all stages, see Trunk
    # None is the origin's. timm runs its published fbnetc_100, and only that, with 1e-3.
    norm_eps: float | None = None
    freeze_stages: int = 0  # the first so many stages of the trunk stay as they are in training

    def __post_init__(self) -> None:
        classes, eps = self.num_classes, self.norm_eps
        if not _is_number(classes) or not isinstance(classes, int) or classes < 1:
            raise impossible("num_classes", classes, "a whole number, 1 or more")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise impossible("dropout", self.dropout, "a number from 0 to below 1")
        if not isinstance(self.features_only, bool):
            raise impossible("features_only", self.features_only, "True or False")
        if eps is not None and not (_is_number(eps) and eps > 0):
            raise impossible("norm_eps", eps, "a positive number, or None for the origin's")
        frozen = self.freeze_stages
        if not _is_number(frozen) or not isinstance(frozen, int) or frozen < 0:
            raise impossible("freeze_stages", frozen, "a whole number, 0 or more")

    def override(self, /, **changes) -> "ClassifierConfig":
        """A copy with some fields changed; ValueError names a field that does not exist."""
        return override(self, **changes)


class Classifier(nn.Module):
    """Every FBNet classifier: a ``backbone`` of five stages and a ``head``, read from a table.

    ``[N, 3, H, W]`` normalised RGB ``-> [N, num_classes]`` logits. With ``features_only`` there is
    no head, and all stages' maps are returned: ``{"trunk0": [N, C0, H/2, W/2], ..., "trunk4":
    [N, C4, H/32, W/32]}``, in mobile_cv's FBNetV3 up to a cell less, see ``hard``.

    Args:
        arch: the rows and their style.
        config: the overrides.
        name: what ``create_model`` calls it.
    """

    def __init__(self, arch: ClassifierArch, config: ClassifierConfig, name: str = ""):
        super().__init__()
        self.config, self.name = config, name
        style = arch.style
        if config.norm_eps is not None:
            style = replace(style, norm_eps=config.norm_eps)
        self.backbone = Trunk(arch.stages, style=style)
        self.head = None
        if not config.features_only:
            channels = list(self.channels.values())[-1]
            self.head = build_head(arch.head, channels, style, config)
        # 1x1 convolutions and norms read a pixel's channels together: a fifth to a third faster.
        self.to(memory_format=torch.channels_last)

    @property
    def channels(self) -> dict[str, int]:
        """How many channels each stage's output has."""
        return self.backbone.channels

    @property
    def strides(self) -> dict[str, int]:
        """How many pixels of the image a cell of each stage's output is apart from the next."""
        return self.backbone.strides

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        if x.dim() != 4 or x.shape[1] != 3:
            raise ValueError(f"a classifier takes images [N, 3, H, W], got {list(x.shape)}")
        if self.head is None:
            return self.backbone(x)
        for stage in self.backbone.stages:  # unlike the backbone, keeps no stage's map
            x = stage(x)
        return self.head(x)


def build_head(
    text: str, in_channels: int, style: Style, config: ClassifierConfig
) -> nn.Sequential:
    """The average over the map, what ``text`` puts around it, and the linear classifier.

    ``[N, in_channels, H, W] -> [N, num_classes]``. A ``conv`` sees the whole map and comes before
    the average. ``ir_pool`` is an inverted residual with the average in the depthwise convolution's
    place: its larger 1x1 convolution works on one cell, not on 49 (MobileNetV3, arXiv 1905.02244,
    sec. 5.1).
    """
    (row,) = parse_rows(text)
    act = HARD_SWISH if row.hard_swish else RELU
    layers: dict[str, nn.Module] = {}
    if row.op == "conv":
        layers["conv"] = build_block(row, in_channels, 1, None, "BN", style)
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
    else:
        mid = middle_width(in_channels, row.expansion, style.divisor)
        layers["pw"] = ConvNormAct(in_channels, mid, bias=style.bias, act=act)
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["pwl"] = ConvNormAct(mid, row.channels, bias=style.bias, norm=None, act=act)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(config.dropout)
    layers["classifier"] = nn.Linear(row.channels, config.num_classes)
    nn.init.normal_(layers["classifier"].weight, std=0.01)
    nn.init.zeros_(layers["classifier"].bias)
    head = nn.Sequential(OrderedDict(layers))
    set_norms(head, style)
    return head


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
