"""Every detection architecture as data, in the notation of ``rows``.

The definitions are those published in d2go as FBNetV2's "arch" tables; ``lesson_tiny`` is ours.
"""

from dataclasses import dataclass

from fbnet_lesson.rows import FBNETV3, LESSON_TINY


@dataclass(frozen=True)
class DetectionArch:
    """The rows of a detector: trunk stages, and the heads that continue from a feature map."""

    trunk: tuple[str, ...]
    rpn: str
    bbox: str
    mask: str | None = None
    kpts: str | None = None


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


def fbnet_v3(letter: str, rpn: str, c5: bool = False, **heads: str) -> dict[str, DetectionArch]:
    """``FBNetV3_<letter>``, whose box head is the classifier's last stage, and with ``c5`` the same
    on a trunk that has this stage too."""
    *trunk, last = FBNETV3[letter]
    found = {f"FBNetV3_{letter}": DetectionArch(tuple(trunk), rpn, last, **heads)}
    if c5:
        found[f"FBNetV3_{letter}_C5"] = DetectionArch(FBNETV3[letter], rpn, last, **heads)
    return found


DETECTION_ARCHS = {
    "default": DetectionArch(
        trunk=MOBILENET_V2,
        rpn="ir_k3 96 x3 e6",
        bbox="ir_k3 160 s2 e4; ir_k3 160 x2 e6; ir_k3 240 e6",
        mask=MASK_160,
        kpts=MASK_160,
    ),
    "default_dsmask": DetectionArch(MOBILENET_V2, "ir_k3 96 x3 e6", BBOX_128, DSMASK, DSMASK),
    **fbnet_v3("A", "ir_k5_se 112 x5 e3", c5=True, mask=DSMASK),
    **fbnet_v3("B", "ir_k5_se 120 x5 e3", c5=True),
    **fbnet_v3("C", "ir_k5_se 120 x5 e3", c5=True),
    **fbnet_v3("D", "ir_k5_se 128 x6 e3"),
    **fbnet_v3("E", "ir_k5_se 128 x7 e3"),
    **fbnet_v3("F", "ir_k5_se 144 x8 e3", c5=True),
    **fbnet_v3("G", "ir_k5_se 160 x8 e3", c5=True, mask=MASK_160, kpts=KPTS_192),
    **fbnet_v3("H", "ir_k5_se 240 x12 e3"),
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
        trunk=FBNETV3["G"],
        rpn="ir_k5_se 160 e3",
        bbox=FBNETV3["G"][-1],
        mask="ir_k3 96 e6; ir_k3 160 x3 e6; ir_k3 80 s-2 e3",
        kpts=KPTS_192,
    ),
    "lesson_tiny": DetectionArch(
        trunk=LESSON_TINY,
        rpn="ir_k5 64 e3",
        bbox="ir_k3 96 s2 e3; ir_k3 96 e3; ir_k3 128 e3",
        mask="ir_k3 64 s2 e3; ir_k3 64 x2 e4; ir_k3 48 s-2 e2; ir_k3 32 s-2 e1",
    ),
}
