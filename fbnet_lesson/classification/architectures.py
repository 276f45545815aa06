"""Every classification network as data, in the notation of ``rows``.

A definition is the five stages of a trunk, at strides 2, 4, 8, 16 and 32; the row of the head; the
edge of the images it is evaluated on; and the ``Style`` of its origin, which says what a table of a
paper leaves open. Names are ``ORIGIN/UPSTREAM_NAME``: networks of one name differ between origins.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fbnet_lesson.blocks import round_channels
from fbnet_lesson.rows import FBNETV3, LESSON_TINY
from fbnet_lesson.trunk import Style


@dataclass(frozen=True)
class ClassifierArch:
    """A trunk, a head that ends with the average over the map, and how their blocks are built."""

    stages: tuple[str, ...]
    head: str  # "conv_k1 1984", or "ir_pool_hs 1984 e6", which averages before its last convolution
    input_size: int  # pixels
    style: Style
    num_classes: int = 1000


# FBNet (arXiv 1812.03443). mobile_cv's convolutions have biases, which the norms make redundant;
# the published weights contain them.
MOBILE_CV_V1 = Style(bare_depthwise=False, bias=True)
# timm's have none; it keeps the 1x1 convolution of expansion 1, which mobile_cv leaves out.
TIMM_V1 = Style(bare_depthwise=False, stem_bias=False, keep_pw=True)

FBNET_A = (
    "conv_k3 16 s2; skip 16",
    "ir_k3 24 s2 e3; ir_k3 24 e1; skip 24 x2",
    "ir_k5 32 s2 e6; ir_k3 32 e3; ir_k5 32 e1; ir_k3 32 e3",
    "ir_k5 64 s2 e6; ir_k5 64 e3; ir_k5_g2 64 e1; ir_k5 64 e6; "
    "ir_k3 112 e6; ir_k5_g2 112 e1; ir_k5 112 e3; ir_k3_g2 112 e1",
    "ir_k5 184 s2 e6; ir_k5 184 e6; ir_k5 184 e3; ir_k5 184 e6; ir_k5 352 e6",
)
FBNET_B = (
    "conv_k3 16 s2; ir_k3 16 e1",
    "ir_k3 24 s2 e6; ir_k5 24 e1; ir_k3 24 x2 e1",
    "ir_k5 32 s2 e6; ir_k5 32 e3; ir_k3 32 e6; ir_k5 32 e6",
    "ir_k5 64 s2 e6; ir_k5 64 e6; skip 64; ir_k5 64 e3; "
    "ir_k5 112 e6; ir_k3 112 e1; ir_k5 112 e1; ir_k5 112 e3",
    "ir_k5 184 s2 e6; ir_k5 184 e1; ir_k5 184 x2 e6; ir_k3 352 e6",
)
FBNET_C = (
    "conv_k3 16 s2; ir_k3 16 e1",
    "ir_k3 24 s2 e6; skip 24; ir_k3 24 x2 e1",
    "ir_k5 32 s2 e6; ir_k5 32 e3; ir_k5 32 e6; ir_k3 32 e6",
    "ir_k5 64 s2 e6; ir_k5 64 e3; ir_k5 64 x2 e6; ir_k5 112 x3 e6; ir_k5 112 e3",
    "ir_k5 184 s2 e6; ir_k5 184 x3 e6; ir_k3 352 e6",
)


# FBNetV2 (arXiv 2004.05565). The search sets widths, hence the crooked expansions. As first
# published ("dmasking"), middle widths are rounded to whole numbers, a quarter for the SE is cut
# off, all convolutions have biases and the norms remember for long; now all is in multiples of 8.
def quarter_cut_off(in_channels: int, mid: int) -> int:
    """A quarter of the middle width without its fraction."""
    return mid // 4


DMASKING = replace(MOBILE_CV_V1, divisor=1, squeeze=quarter_cut_off, norm_momentum=0.003)
MOBILE_CV_V2 = Style(bare_depthwise=False)

V2_F1 = (
    "conv_k3_hs 8 s2; ir_k5 8 e1",
    "ir_k5 24 s2 e5.4566; ir_k5 24 e4.7912",
    "ir_k5_sehsig 32 s2 e5.3501; ir_k5_sehsig 24 e4.5379",
    "ir_k5_hs 56 s2 e5.7133; ir_k3_hs 56 e4.1212; ir_k3_sehsig_hs 56 e5.1246; "
    "skip 80; ir_k5_sehsig_hs 80 e4.507; ir_k5_sehsig_hs 80 e1.7712",
    "ir_k3_sehsig_hs 144 s2 e4.5685; ir_k5_sehsig_hs 144 e5.84; ir_k5_sehsig_hs 144 e6.8754; "
    "skip 224",
)
V2_F4 = (
    "conv_k3_hs 16 s2; ir_k3_hs 16 e1",
    "ir_k5_hs 24 s2 e5.4566; ir_k5_hs 24 x2 e1.7912",
    "ir_k5_sehsig 32 s2 e5.3501; ir_k5_sehsig 32 e3.5379; ir_k5_sehsig 32 x2 e4.5379",
    "ir_k5_hs 64 s2 e5.7133; ir_k3_hs 64 e2.1212; skip 64; ir_k3_hs 104 e5.0333; "
    "ir_k5_sehsig_hs 104 e2.507; ir_k5_sehsig_hs 104 e1.7712; ir_k5_sehsig_hs 112 e3.7712",
    "ir_k3_sehsig_hs 184 s2 e5.5685; ir_k5_sehsig_hs 184 e2.84; ir_k5_sehsig_hs 184 e4.8754; "
    "skip 224",
)
DMASKING_F4 = ("conv_k3_hs 16 s2; ir_k3 16 e1", V2_F4[1].replace("_hs", ""), *V2_F4[2:])
DMASKING_L2_HS = (
    "conv_k3_hs 16 s2; ir_k3_hs 16 e1",
    "ir_k5_hs 24 s2 e5.4566; ir_k5_hs 24 e1.7912; ir_k3_hs 24 e1.7912; ir_k5_hs 24 e1.7912",
    "ir_k5_sehsig 40 s2 e5.3501; ir_k5_sehsig 32 e3.5379; ir_k5_sehsig 32 x2 e4.5379",
    "ir_k5_hs 64 s2 e5.7133; ir_k3_hs 64 e2.1212; skip 64; ir_k3_hs 64 e3.1246; "
    "ir_k3_hs 112 e5.0333; ir_k5_sehsig_hs 112 e2.507; ir_k5_sehsig_hs 112 e1.7712; "
    "ir_k5_sehsig_hs 112 e2.7712; ir_k5_sehsig_hs 112 x2 e3.7712",
    "ir_k3_sehsig_hs 184 s2 e5.5685; ir_k5_sehsig_hs 184 x2 e2.84; ir_k5_sehsig_hs 184 x2 e4.8754; "
    "skip 224",
)
DMASKING_L3 = (
    "conv_k3_hs 24 s2; ir_k3 24 e1",
    "ir_k5 32 s2 e5.4566; ir_k5 32 e1.7912; ir_k3 32 e1.7912; ir_k5 32 e1.7912",
    "ir_k5_sehsig 48 s2 e5.3501; ir_k5_sehsig 40 e3.5379; ir_k5_sehsig 40 x2 e4.5379",
    "ir_k5_hs 72 s2 e5.7133; ir_k3_hs 72 e2.1212; skip 72; ir_k3_hs 72 e3.1246; "
    "ir_k3_hs 120 e5.0333; ir_k5_sehsig_hs 120 e2.507; ir_k5_sehsig_hs 120 e1.7712; "
    "ir_k5_sehsig_hs 120 e2.7712; ir_k5_sehsig_hs 120 x3 e3.7712",
    "ir_k3_sehsig_hs 192 s2 e5.5685; ir_k5_sehsig_hs 192 x2 e2.84; ir_k5_sehsig_hs 192 x2 e4.8754; "
    "skip 240",
)


def hard(stages: tuple[str, ...], padding: Mapping[int, int] | None = None) -> tuple[str, ...]:
    """The same rows with hard-swish and hard-sigmoid gates everywhere.

    ``padding`` is {stage: pixels} where a stage's first depthwise convolution is not padded with
    half of its kernel: ``hard(("ir_k5 24 s2 e4; ir_k5_se 24 e3",), {0: 1})`` is
    ``("ir_k5_hs 24 s2 e4 p1; ir_k5_sehsig_hs 24 e3",)``.
    """
    op = re.compile(r"((?:conv|ir)_k\d+)(?:(_se)(?:hsig)?)?(?:_hs)? ")
    stages = [op.sub(lambda m: f"{m[1]}{'_sehsig' if m[2] else ''}_hs ", text) for text in stages]
    for i, pixels in (padding or {}).items():
        stages[i] = stages[i].replace(";", f" p{pixels};", 1)
    return tuple(stages)


# FBNetV3 (arXiv 2006.02049): d2go's detectors have these networks' rows as their trunk and, of the
# last stage, their box head, but soft activations and bare depthwise convolutions. Here SE squeezes
# to a quarter of the block's input.
def quarter_of_input(in_channels: int, mid: int) -> int:
    """A quarter of the width at the block's input."""
    return round_channels(in_channels / 4)


MOBILE_CV_V3 = replace(MOBILE_CV_V2, squeeze=quarter_of_input)
# No convolution of timm's but the SE's and the classifier has a bias, and the paddings are the
# usual ones, where mobile_cv takes a pixel less in some convolutions of stride 2.
TIMM_V3 = replace(MOBILE_CV_V3, stem_bias=False)


def fbnet_v3(
    letter: str, input_size: int, style: Style, padding: Mapping[int, int] | None = None
) -> ClassifierArch:
    """The classifier behind d2go's detector ``FBNetV3_<letter>``."""
    return ClassifierArch(
        hard(FBNETV3[letter], padding), "ir_pool_hs 1984 e6", input_size, style
    )


CLASSIFICATION_ARCHS = {
    "mobile_cv/fbnet_a": ClassifierArch(FBNET_A, "conv_k1 1504", 224, MOBILE_CV_V1),
    "mobile_cv/fbnet_b": ClassifierArch(FBNET_B, "conv_k1 1984", 224, MOBILE_CV_V1),
    "mobile_cv/fbnet_c": ClassifierArch(FBNET_C, "conv_k1 1984", 224, MOBILE_CV_V1),
    "mobile_cv/dmasking_f1": ClassifierArch(V2_F1, "ir_pool_hs 1600 e6", 128, DMASKING),
    "mobile_cv/dmasking_f4": ClassifierArch(DMASKING_F4, "ir_pool_hs 1984 e6", 224, DMASKING),
    "mobile_cv/dmasking_l2_hs": ClassifierArch(DMASKING_L2_HS, "ir_pool_hs 1984 e6", 256, DMASKING),
    "mobile_cv/dmasking_l3": ClassifierArch(DMASKING_L3, "ir_pool_hs 1984 e6", 288, DMASKING),
    "mobile_cv/FBNetV2_F1": ClassifierArch(V2_F1, "ir_pool_hs 1600 e6", 128, MOBILE_CV_V2),
    "mobile_cv/FBNetV2_F2": ClassifierArch(V2_F1, "ir_pool_hs 1600 e6", 160, MOBILE_CV_V2),
    "mobile_cv/FBNetV2_F3": ClassifierArch(V2_F1, "ir_pool_hs 1984 e6", 192, MOBILE_CV_V2),
    "mobile_cv/FBNetV2_F4": ClassifierArch(V2_F4, "ir_pool_hs 1984 e6", 224, MOBILE_CV_V2),
    "mobile_cv/FBNetV2_L1": ClassifierArch(
        hard(DMASKING_L2_HS), "ir_pool_hs 1984 e6", 224, MOBILE_CV_V2
    ),
    "mobile_cv/FBNetV2_L2": ClassifierArch(
        hard(DMASKING_L2_HS), "ir_pool_hs 1984 e6", 256, MOBILE_CV_V2
    ),
    # mobile_cv's A and B are one network at two resolutions, and d2go's B; d2go's A is another.
    "mobile_cv/FBNetV3_A": fbnet_v3("B", 224, MOBILE_CV_V3, padding={3: 1, 4: 0}),
    "mobile_cv/FBNetV3_B": fbnet_v3("B", 248, MOBILE_CV_V3, padding={3: 1, 4: 0}),
    "mobile_cv/FBNetV3_C": fbnet_v3("C", 248, MOBILE_CV_V3, padding={3: 1, 4: 1}),
    "mobile_cv/FBNetV3_D": fbnet_v3("D", 248, MOBILE_CV_V3),
    "mobile_cv/FBNetV3_E": fbnet_v3("E", 264, MOBILE_CV_V3, padding={3: 1}),
    "mobile_cv/FBNetV3_F": fbnet_v3("F", 272, MOBILE_CV_V3, padding={4: 0}),
    "mobile_cv/FBNetV3_G": fbnet_v3("G", 320, MOBILE_CV_V3),
    "timm/fbnetc_100": ClassifierArch(FBNET_C, "conv_k1 1984", 224, TIMM_V1),
    "timm/fbnetv3_b": fbnet_v3("B", 224, TIMM_V3),
    "timm/fbnetv3_d": fbnet_v3("D", 224, TIMM_V3),
    "timm/fbnetv3_g": fbnet_v3("G", 240, TIMM_V3),
    # Ours: the trunk of the tiny detectors, so that each can start from the other.
    "lesson/classifier_tiny": ClassifierArch(LESSON_TINY, "conv_k1 128", 64, Style(), 6),
}
