"""Every detection architecture as data, in a notation that reads like the papers' tables.

One row is ``op channels [xREPEAT] [sSTRIDE] [eEXPANSION] [pPADDING]``; rows are separated by ``;``
and a stage of the trunk is one string. ``ir_k5_se 112 x5 e3`` is five inverted residuals with a 5x5
depthwise, squeeze-and-excitation, 112 channels and expansion 3. Stride and repeat default to 1;
the first block of a row takes the stride and the padding, the others stride 1 and half of their
kernel. ``s-2`` upsamples.

The ops are ``conv``, ``ir``, ``skip`` (the identity, or a 1x1 convolution to another width) and
``ir_pool``, which ends a classifier. What follows them, in this order: ``_k5`` is the kernel,
``_g2`` groups the 1x1 convolutions, ``_se`` is squeeze-and-excitation, ``_sehsig`` the same with a
hard-sigmoid gate, ``_hs`` hard-swish in the place of ReLU.

The definitions are those published in d2go as FBNetV2's "arch" tables; ``lesson_tiny`` is ours.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``repeat`` equal blocks, of which the first has the stride."""

    op: str  # "conv", "ir", "skip" or "ir_pool"
    kernel: int
    channels: int
    stride: int = 1
    repeat: int = 1
    expansion: float = 1
    se: bool = False
    hard_gate: bool = False  # of the SE: hard sigmoid, else sigmoid
    hard_swish: bool = False  # else ReLU
    groups: int = 1  # of the 1x1 convolutions
    padding: int | None = None  # of the first block; None is kernel // 2


@dataclass(frozen=True)
class DetectionArch:
    """The rows of a detector: trunk stages, and the heads that continue from a feature map."""

    trunk: tuple[str, ...]
    rpn: str
    bbox: str
    mask: str | None = None
    kpts: str | None = None


ROW = re.compile(
    r"(?:(?P<op>conv|ir)_k(?P<kernel>\d+)|(?P<plain_op>skip|ir_pool))"
    r"(?:_g(?P<groups>\d))?(?P<se>_se)?(?P<hsig>(?<=_se)hsig)?(?P<hs>_hs)? (?P<channels>\d+)"
    r"(?: x(?P<repeat>\d+))?(?: s(?P<stride>-?\d+))?(?: e(?P<expansion>[\d.]+))?"
    r"(?: p(?P<padding>\d+))?"
)


def parse_rows(text: str) -> list[Row]:
    """``"ir_k5 32 s2 e4; ir_k5 32 e2"`` -> two rows; ValueError names a row it cannot read."""
    rows = []
    for part in text.split(";"):
        match = ROW.fullmatch(part.strip())
        if match is None:
            raise ValueError(
                f"cannot read the row {part.strip()!r}: expected e.g. 'ir_k5_se 112 x5 s2 e3'"
            )
        rows.append(
            Row(
                op=match["op"] or match["plain_op"],
                kernel=int(match["kernel"] or 1),
                channels=int(match["channels"]),
                stride=int(match["stride"] or 1),
                repeat=int(match["repeat"] or 1),
                expansion=float(match["expansion"] or 1),
                se=match["se"] is not None,
                hard_gate=match["hsig"] is not None,
                hard_swish=match["hs"] is not None,
                groups=int(match["groups"] or 1),
                padding=int(match["padding"]) if match["padding"] else None,
            )
        )
    return rows


# Heads that several architectures share.
DSMASK = "ir_k3 128 s2 e4; ir_k3 128 x2 e6; ir_k3 128 s-2 e6; ir_k3 64 s-2 e3"  # 14 -> 7 -> 28
BBOX_128 = "ir_k3 128 s2 e4; ir_k3 128 x2 e6; ir_k3 160 e6"
KPTS_192 = "ir_k3 192 e4; ir_k3 192 x5 e3; ir_k3 96 s-2 e3"
MASK_160 = "ir_k3 160 e4; ir_k3 160 x3 e6; ir_k3 80 s-2 e3"

MOBILENET_V2 = (
    "conv_k3 32 s2; ir_k3 16 e1",
    "ir_k3 24 x2 s2 e6",
    "ir_k3 32 x3 s2 e6",
    "ir_k3 64 x4 s2 e6; ir_k3 96 x3 e6",
)
V3_A = (
    "conv_k3 16 s2; ir_k3 16 x2 e1",
    "ir_k5 24 s2 e4; ir_k5 24 x3 e3",
    "ir_k5_se 32 s2 e4; ir_k3_se 32 x3 e3",
    "ir_k5 64 s2 e4; ir_k3 64 x3 e3; ir_k5_se 112 e4; ir_k5_se 112 x5 e3",
)
V3_B = (
    "conv_k3 16 s2; ir_k3 16 x2 e1",
    "ir_k5 24 s2 e4; ir_k5 24 x3 e2",
    "ir_k5_se 40 s2 e5; ir_k5_se 40 x4 e3",
    "ir_k5 72 s2 e5; ir_k3 72 x4 e3; ir_k3_se 120 e5; ir_k5_se 120 x5 e3",
)
V3_C = (
    "conv_k3 16 s2; ir_k3 16 x2 e1",
    "ir_k5 24 s2 e5; ir_k3 24 x4 e3",
    "ir_k5_se 48 s2 e5; ir_k5_se 48 x4 e2",
    "ir_k5 88 s2 e4; ir_k3 88 x4 e3; ir_k3_se 120 e4; ir_k5_se 120 x5 e3",
)
V3_F = (
    "conv_k3 24 s2; ir_k3 24 x3 e1",
    "ir_k5 32 s2 e4; ir_k5 32 x4 e2",
    "ir_k5_se 56 s2 e4; ir_k5_se 56 x4 e3",
    "ir_k5 88 s2 e5; ir_k3 88 x4 e3; ir_k3_se 144 e5; ir_k5_se 144 x8 e3",
)
V3_G = (
    "conv_k3 32 s2; ir_k3 24 x3 e1",
    "ir_k5 40 s2 e4; ir_k5 40 x4 e2",
    "ir_k5_se 56 s2 e4; ir_k5_se 56 x4 e3",
    "ir_k5 104 s2 e5; ir_k3 104 x4 e3; ir_k3_se 160 e5; ir_k5_se 160 x8 e3",
)
V3_A_DSMASK = (
    "conv_k3 16 s2; ir_k3 16 e1",
    "ir_k5 32 s2 e4; ir_k5 32 e2",
    "ir_k5 40 s2 e4; ir_k3 40 x3 e3",
    "ir_k5 72 s2 e4; ir_k3 72 x3 e3; ir_k5 112 e4; ir_k5 112 x3 e4",
)
V3_B_LIGHT = (
    "conv_k3 16 s2; ir_k3 16 x2 e1",
    "ir_k5 24 s2 e4; ir_k5 24 x2 e2",
    "ir_k5 40 s2 e5; ir_k5 40 x3 e3",
    "ir_k5 72 s2 e5; ir_k3 72 x4 e3; ir_k3 120 e5; ir_k5 120 x5 e3",
)

# In the plain networks the box head is the classifier's last stage; "C5" has it in the trunk too.
A_BBOX = "ir_k5_se 184 s2 e4; ir_k3_se 184 x4 e4; ir_k5_se 200 e6"
B_BBOX = "ir_k3_se 184 s2 e6; ir_k5_se 184 x5 e4; ir_k5_se 224 e6"
C_BBOX = "ir_k5_se 216 s2 e5; ir_k5_se 216 x5 e5; ir_k5_se 216 e6"
F_BBOX = "ir_k3_se 248 s2 e6; ir_k5_se 248 x6 e5; ir_k5_se 272 e6"
G_BBOX = "ir_k3_se 264 s2 e6; ir_k5_se 264 x6 e5; ir_k5_se 288 x2 e6"

DETECTION_ARCHS = {
    "default": DetectionArch(
        trunk=MOBILENET_V2,
        rpn="ir_k3 96 x3 e6",
        bbox="ir_k3 160 s2 e4; ir_k3 160 x2 e6; ir_k3 240 e6",
        mask=MASK_160,
        kpts=MASK_160,
    ),
    "default_dsmask": DetectionArch(MOBILENET_V2, "ir_k3 96 x3 e6", BBOX_128, DSMASK, DSMASK),
    "FBNetV3_A": DetectionArch(V3_A, "ir_k5_se 112 x5 e3", A_BBOX, DSMASK),
    "FBNetV3_A_C5": DetectionArch((*V3_A, A_BBOX), "ir_k5_se 112 x5 e3", A_BBOX, DSMASK),
    "FBNetV3_B": DetectionArch(V3_B, "ir_k5_se 120 x5 e3", B_BBOX),
    "FBNetV3_B_C5": DetectionArch((*V3_B, B_BBOX), "ir_k5_se 120 x5 e3", B_BBOX),
    "FBNetV3_C": DetectionArch(V3_C, "ir_k5_se 120 x5 e3", C_BBOX),
    "FBNetV3_C_C5": DetectionArch((*V3_C, C_BBOX), "ir_k5_se 120 x5 e3", C_BBOX),
    "FBNetV3_D": DetectionArch(
        trunk=(
            "conv_k3 24 s2; ir_k3 16 x2 e1",
            "ir_k3 24 s2 e5; ir_k3 24 x5 e2",
            "ir_k5_se 40 s2 e4; ir_k3_se 40 x4 e3",
            "ir_k3 72 s2 e5; ir_k3 72 x4 e3; ir_k3_se 128 e5; ir_k5_se 128 x6 e3",
        ),
        rpn="ir_k5_se 128 x6 e3",
        bbox="ir_k3_se 208 s2 e6; ir_k5_se 208 x5 e5; ir_k5_se 240 e6",
    ),
    "FBNetV3_E": DetectionArch(
        trunk=(
            "conv_k3 24 s2; ir_k3 16 x3 e1",
            "ir_k5 24 s2 e4; ir_k5 24 x4 e2",
            "ir_k5_se 48 s2 e4; ir_k5_se 48 x4 e3",
            "ir_k5 80 s2 e5; ir_k3 80 x4 e3; ir_k3_se 128 e5; ir_k5_se 128 x7 e3",
        ),
        rpn="ir_k5_se 128 x7 e3",
        bbox="ir_k3_se 216 s2 e6; ir_k5_se 216 x5 e5; ir_k5_se 240 e6",
    ),
    "FBNetV3_F": DetectionArch(V3_F, "ir_k5_se 144 x8 e3", F_BBOX),
    "FBNetV3_F_C5": DetectionArch((*V3_F, F_BBOX), "ir_k5_se 144 x8 e3", F_BBOX),
    "FBNetV3_G": DetectionArch(V3_G, "ir_k5_se 160 x8 e3", G_BBOX, MASK_160, KPTS_192),
    "FBNetV3_G_C5": DetectionArch(
        (*V3_G, G_BBOX), "ir_k5_se 160 x8 e3", G_BBOX, MASK_160, KPTS_192
    ),
    "FBNetV3_H": DetectionArch(
        trunk=(
            "conv_k3 48 s2; ir_k3 32 x4 e1",
            "ir_k5 64 s2 e4; ir_k5 64 x6 e2",
            "ir_k5_se 80 s2 e4; ir_k5_se 80 x6 e3",
            "ir_k5 160 s2 e5; ir_k3 160 x6 e3; ir_k3_se 240 e5; ir_k5_se 240 x12 e3",
        ),
        rpn="ir_k5_se 240 x12 e3",
        bbox="ir_k3_se 400 s2 e6; ir_k5_se 400 x8 e5; ir_k5_se 480 x3 e6",
    ),
    "FBNetV3_A_dsmask": DetectionArch(V3_A_DSMASK, "ir_k5 112 x3 e4", BBOX_128, DSMASK, DSMASK),
    "FBNetV3_A_dsmask_C5": DetectionArch(
        trunk=(*V3_A_DSMASK, "ir_k5 184 s2 e4; ir_k3 184 x4 e4; ir_k5 200 e6"),
        rpn="ir_k5 112 x3 e4",
        bbox=BBOX_128,
        mask=DSMASK,
        kpts=DSMASK,
    ),
    "FBNetV3_A_dsmask_tiny": DetectionArch(
        trunk=(
            "conv_k3 8 s2; ir_k3 8 e1",
            "ir_k5 16 s2 e3; ir_k5 16 e2",
            "ir_k5 24 s2 e4; ir_k3 24 x2 e3",
            "ir_k5 40 s2 e4; ir_k3 40 x2 e3; ir_k5 64 e4; ir_k5 64 x2 e3",
        ),
        rpn="ir_k5 64 x2 e3",
        bbox="ir_k3 64 s2 e4; ir_k3 64 x2 e4; ir_k3 80 e4",
        mask="ir_k3 64 s2 e4; ir_k3 64 x2 e4; ir_k3 64 s-2 e4; ir_k3 40 s-2 e3",
        kpts="ir_k3 64 s2 e4; ir_k3 64 x2 e4; ir_k3 64 s-2 e4; ir_k3 40 s-2 e3",
    ),
    "FBNetV3_B_light_large": DetectionArch(
        V3_B_LIGHT, "ir_k5 120 x5 e3", BBOX_128, DSMASK, KPTS_192
    ),
    "FBNetV3_B_light_large_3layers": DetectionArch(
        V3_B_LIGHT[:3], "ir_k5 120 x5 e3", BBOX_128, DSMASK, KPTS_192
    ),
    "FBNetV3_B_light_no_se_C5": DetectionArch(
        trunk=(*V3_B_LIGHT, "ir_k3 184 s2 e6; ir_k5 184 x5 e4; ir_k5 224 e6"),
        rpn="ir_k5 120 x5 e3",
        bbox="ir_k3 184 s2 e6; ir_k5 184 x5 e4; ir_k5 224 e6",
    ),
    "FBNetV3_B_large": DetectionArch(
        trunk=(
            "conv_k3 16 s2; ir_k3 16 x2 e1",
            "ir_k5 24 s2 e4; ir_k5 24 x3 e2",
            "ir_k5 40 s2 e5; ir_k5 40 x4 e3",
            "ir_k5 72 s2 e5; ir_k3 72 x4 e3; ir_k3 120 e5; ir_k5 120 x5 e3",
        ),
        rpn="ir_k5 120 x5 e3",
        bbox="ir_k3 160 s2 e4; ir_k3 160 x2 e6; ir_k3 240 e6",
        mask=DSMASK,
        kpts=KPTS_192,
    ),
    "FBNetV3_G_fpn": DetectionArch(
        trunk=(*V3_G, G_BBOX),
        rpn="ir_k5_se 160 e3",
        bbox=G_BBOX,
        mask="ir_k3 96 e6; ir_k3 160 x3 e6; ir_k3 80 s-2 e3",
        kpts=KPTS_192,
    ),
    # Ours: a stride-8 trunk, so that objects of 16 pixels are still two cells wide.
    "lesson_tiny": DetectionArch(
        trunk=(
            "conv_k3 16 s2; ir_k3 16 e1",
            "ir_k5 24 s2 e3; ir_k3 24 e2",
            "ir_k5 48 s2 e4; ir_k3 48 x2 e3; ir_k5 64 e4; ir_k5 64 x2 e3",
        ),
        rpn="ir_k5 64 e3",
        bbox="ir_k3 96 s2 e3; ir_k3 96 e3; ir_k3 128 e3",
        mask="ir_k3 64 s2 e3; ir_k3 64 x2 e4; ir_k3 48 s-2 e2; ir_k3 32 s-2 e1",
    ),
}
