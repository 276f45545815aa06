"""The notation of rows, in which every network of this package is written down as data.

One row is ``op channels [xREPEAT] [sSTRIDE] [eEXPANSION] [pPADDING]``; rows are separated by ``;``
and a stage of the trunk is one string. ``ir_k5_se 112 x5 e3`` is five inverted residuals with a 5x5
depthwise, squeeze-and-excitation, 112 channels and expansion 3. Stride and repeat default to 1;
the first block of a row takes the stride and the padding, the others stride 1 and half of their
kernel. ``s-2`` upsamples.

The ops are ``conv``, ``ir``, ``skip`` (the identity, or a 1x1 convolution to another width) and
``ir_pool``, which ends a classifier. What follows them, in this order: ``_k5`` is the kernel,
``_g2`` groups the 1x1 convolutions, ``_se`` is squeeze-and-excitation, ``_sehsig`` the same with a
hard-sigmoid gate, ``_hs`` hard-swish in the place of ReLU.
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


ROW = re.compile(
    r"(?:(?P<op>conv|ir)_k(?P<kernel>\d+)|(?P<plain_op>skip|ir_pool))"
    r"(?:_g(?P<groups>\d))?(?P<se>_se)?(?P<hsig>(?<=_se)hsig)?(?P<hs>_hs)? (?P<channels>\d+)"
    r"(?: x(?P<repeat>\d+))?(?: s(?P<stride>-?\d+))?(?: e(?P<expansion>\d+(?:\.\d+)?))?"
    r"(?: p(?P<padding>\d+))?"
)


def parse_rows(text: str) -> list[Row]:
    """``"ir_k5 32 s2 e4; ir_k5 32 e2"`` -> two rows; ValueError names a row that cannot be."""
    rows = []
    for part in text.split(";"):
        match = ROW.fullmatch(part.strip())
        if match is None:
            raise ValueError(
                f"cannot read the row {part.strip()!r}: expected e.g. 'ir_k5_se 112 x5 s2 e3'"
            )
        row = Row(
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
        for what, value, good, allowed in (
            ("kernel", row.kernel, row.kernel % 2 == 1, "odd numbers"),
            ("groups", row.groups, row.groups > 0, "1 or more"),
            ("channels", row.channels, row.channels > 0, "1 or more"),
            ("repeat", row.repeat, row.repeat > 0, "1 or more"),
            ("stride", row.stride, row.stride in (1, 2, -2), "1, 2 and -2, which upsamples"),
            ("expansion", row.expansion, row.expansion > 0, "more than 0"),
        ):
            if not good:
                raise ValueError(
                    f"the row {part.strip()!r} has {what} {value:g}; allowed: {allowed}"
                )
        rows.append(row)
    return rows


# FBNetV3 (arXiv 2006.02049) by the letters of d2go: five stages, at strides 2, 4, 8, 16 and 32. The
# classifiers have them with hard activations; of a detector, four are the trunk and the last is the
# box head, unless it is in the trunk too ("C5").
FBNETV3 = {
    "A": (
        "conv_k3 16 s2; ir_k3 16 x2 e1",
        "ir_k5 24 s2 e4; ir_k5 24 x3 e3",
        "ir_k5_se 32 s2 e4; ir_k3_se 32 x3 e3",
        "ir_k5 64 s2 e4; ir_k3 64 x3 e3; ir_k5_se 112 e4; ir_k5_se 112 x5 e3",
        "ir_k5_se 184 s2 e4; ir_k3_se 184 x4 e4; ir_k5_se 200 e6",
    ),
    "B": (
        "conv_k3 16 s2; ir_k3 16 x2 e1",
        "ir_k5 24 s2 e4; ir_k5 24 x3 e2",
        "ir_k5_se 40 s2 e5; ir_k5_se 40 x4 e3",
        "ir_k5 72 s2 e5; ir_k3 72 x4 e3; ir_k3_se 120 e5; ir_k5_se 120 x5 e3",
        "ir_k3_se 184 s2 e6; ir_k5_se 184 x5 e4; ir_k5_se 224 e6",
    ),
    "C": (
        "conv_k3 16 s2; ir_k3 16 x2 e1",
        "ir_k5 24 s2 e5; ir_k3 24 x4 e3",
        "ir_k5_se 48 s2 e5; ir_k5_se 48 x4 e2",
        "ir_k5 88 s2 e4; ir_k3 88 x4 e3; ir_k3_se 120 e4; ir_k5_se 120 x5 e3",
        "ir_k5_se 216 s2 e5; ir_k5_se 216 x5 e5; ir_k5_se 216 e6",
    ),
    "D": (
        "conv_k3 24 s2; ir_k3 16 x2 e1",
        "ir_k3 24 s2 e5; ir_k3 24 x5 e2",
        "ir_k5_se 40 s2 e4; ir_k3_se 40 x4 e3",
        "ir_k3 72 s2 e5; ir_k3 72 x4 e3; ir_k3_se 128 e5; ir_k5_se 128 x6 e3",
        "ir_k3_se 208 s2 e6; ir_k5_se 208 x5 e5; ir_k5_se 240 e6",
    ),
    "E": (
        "conv_k3 24 s2; ir_k3 16 x3 e1",
        "ir_k5 24 s2 e4; ir_k5 24 x4 e2",
        "ir_k5_se 48 s2 e4; ir_k5_se 48 x4 e3",
        "ir_k5 80 s2 e5; ir_k3 80 x4 e3; ir_k3_se 128 e5; ir_k5_se 128 x7 e3",
        "ir_k3_se 216 s2 e6; ir_k5_se 216 x5 e5; ir_k5_se 240 e6",
    ),
    "F": (
        "conv_k3 24 s2; ir_k3 24 x3 e1",
        "ir_k5 32 s2 e4; ir_k5 32 x4 e2",
        "ir_k5_se 56 s2 e4; ir_k5_se 56 x4 e3",
        "ir_k5 88 s2 e5; ir_k3 88 x4 e3; ir_k3_se 144 e5; ir_k5_se 144 x8 e3",
        "ir_k3_se 248 s2 e6; ir_k5_se 248 x6 e5; ir_k5_se 272 e6",
    ),
    "G": (
        "conv_k3 32 s2; ir_k3 24 x3 e1",
        "ir_k5 40 s2 e4; ir_k5 40 x4 e2",
        "ir_k5_se 56 s2 e4; ir_k5_se 56 x4 e3",
        "ir_k5 104 s2 e5; ir_k3 104 x4 e3; ir_k3_se 160 e5; ir_k5_se 160 x8 e3",
        "ir_k3_se 264 s2 e6; ir_k5_se 264 x6 e5; ir_k5_se 288 x2 e6",
    ),
    "H": (
        "conv_k3 48 s2; ir_k3 32 x4 e1",
        "ir_k5 64 s2 e4; ir_k5 64 x6 e2",
        "ir_k5_se 80 s2 e4; ir_k5_se 80 x6 e3",
        "ir_k5 160 s2 e5; ir_k3 160 x6 e3; ir_k3_se 240 e5; ir_k5_se 240 x12 e3",
        "ir_k3_se 400 s2 e6; ir_k5_se 400 x8 e5; ir_k5_se 480 x3 e6",
    ),
}

# Ours: a stride-8 trunk, so that objects of 16 pixels are still two cells wide.
LESSON_TINY = (
    "conv_k3 16 s2; ir_k3 16 e1",
    "ir_k5 24 s2 e3; ir_k3 24 e2",
    "ir_k5 48 s2 e4; ir_k3 48 x2 e3; ir_k5 64 e4; ir_k5 64 x2 e3",
)
