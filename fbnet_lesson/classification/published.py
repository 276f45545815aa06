"""What is published of each classifier: its ImageNet weights, and what goes with them."""

from dataclasses import dataclass

MOBILE_CV = "https://dl.fbaipublicfiles.com/fbnet/models"
TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights"
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pretrained:
    """One set of published weights, and how pictures are prepared for them.

    All networks take RGB, resized bilinearly and cropped in the centre.
    """

    url: str
    resolution: int  # side of the crop in pixels
    resize: int  # short edge before the crop, by the code that the origin publishes
    top1: float | None = None  # accuracy on ImageNet's validation set in percent
    zoo_resize: int | None = None  # short edge by the origin's table, beside its top1
    sha256: str | None = None  # the published digits of the file at url; None: none are published
    hub: str | None = None  # the origin's repository on the Hugging Face hub
    hub_file: str = "model.safetensors"  # its checksum is asked of the hub
    norm_eps: float | None = None  # of the norms that the weights were trained with; None: ours
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def mobile_cv(
    path: str, resolution: int, zoo_resize: int | None, top1: float
) -> tuple[str, Pretrained]:
    """A row of mobile_cv's model zoo; ``path`` is the unequal part of its address.

    mobile_cv publishes no checksums. Its ``get_preprocess`` resizes to the resolution times
    256 / 224, rounded up to a multiple of 8, which is mostly more than its zoo's table says.
    """
    name = path.split("/")[-1].rpartition("_")[0]
    resize = -(-256 * resolution // (224 * 8)) * 8  # -(-a // b) rounds up
    weights = Pretrained(f"{MOBILE_CV}/{path}/model.pth", resolution, resize, top1, zoo_resize)
    return f"mobile_cv/{name}", weights


def timm(
    tag: str, release: str, sha256: str, resolution: int, crop: float, norm_eps: float | None = None
) -> tuple[str, Pretrained]:
    """An entry of timm's ``default_cfgs``: the release file ends in 8 digits of its SHA-256.

    timm's code states no accuracy. fbnetv3_b and _d may also be tested at 256, fbnetv3_g at 288.
    """
    weights = Pretrained(
        f"{TIMM}/{release}-{sha256}.pth",
        resolution,
        int(resolution / crop),
        sha256=sha256,
        hub=f"timm/{tag}",
        norm_eps=norm_eps,
    )
    return f"timm/{tag.partition('.')[0]}", weights


# fmt: off
# The zoo's fbnet_ase, fbnet_bse and fbnet_cse are missing: no published code defines them.
PRETRAINED: dict[str, Pretrained] = dict([
    mobile_cv("20200103/rAuaZE/fbnet_a_f155351132", 224, None, 73.298),
    mobile_cv("20200103/rAuaZE/fbnet_b_f153237418", 224, None, 74.5441),
    mobile_cv("20200103/rAuaZE/fbnet_c_f152910217", 224, None, 75.2499),
    mobile_cv("20200104/hnYGKi/dmasking_f1_f156819307", 128, 146, 68.33),
    mobile_cv("20200104/hnYGKi/dmasking_f4_f156704077", 224, 256, 75.5238),
    mobile_cv("20200104/hnYGKi/dmasking_l2_hs_f157689684", 256, 288, 77.6631),
    mobile_cv("20200105/melBmS/dmasking_l3_f156819299", 288, 324, 78.8668),
    mobile_cv("20200325/dktSJh/FBNetV2_F1_f167001958", 128, 151, 68.278),
    mobile_cv("20200318/ezwcZW/FBNetV2_F2_f167001918", 160, 179, 70.9759),
    mobile_cv("20200318/ezwcZW/FBNetV2_F3_f167001975", 192, 208, 73.0319),
    mobile_cv("20200325/dktSJh/FBNetV2_F4_f167001913", 224, 251, 75.818),
    mobile_cv("20200422/ElRAUZ/FBNetV2_L1_f183461678", 224, 256, 77.038),
    mobile_cv("20200318/NEPKxa/FBNetV2_L2_f167001961", 256, 287, 78.2429),
    mobile_cv("20201201/GtOtfw/FBNetV3_A_f235707940", 224, 242, 79.574),
    mobile_cv("20201201/GtOtfw/FBNetV3_B_f233607847", 248, 266, 80.206),
    mobile_cv("20201201/GtOtfw/FBNetV3_C_f234529537", 248, 272, 80.826),
    mobile_cv("20201201/GtOtfw/FBNetV3_D_f231225742", 248, 277, 81.042),
    mobile_cv("20201201/GtOtfw/FBNetV3_E_f230158956", 264, 291, 81.254),
    mobile_cv("20201201/GtOtfw/FBNetV3_F_f230161092", 272, 296, 82.062),
    mobile_cv("20201201/GtOtfw/FBNetV3_G_f226438997", 320, 325, 82.794),
    timm("fbnetc_100.rmsp_in1k", "fbnetc_100", "c345b898", 224, 0.875, norm_eps=1e-3),
    timm("fbnetv3_b.ra2_in1k", "fbnetv3_b_224", "ead5d2a1", 224, 0.95),
    timm("fbnetv3_d.ra2_in1k", "fbnetv3_d_224", "c98bce42", 224, 0.95),
    timm("fbnetv3_g.ra2_in1k", "fbnetv3_g_240", "0b1df83b", 240, 0.95),
])
# fmt: on


def pretrained(model_or_name: str | object) -> Pretrained:
    """The published weights of a network, given by its name or as what has one.

    Raises ValueError that names what was found and what there is.
    """
    name = getattr(model_or_name, "name", model_or_name)
    if not isinstance(name, str):
        found = type(model_or_name).__name__
        raise ValueError(f"a {found} without a name; expected a model of create_model, or its name")
    if name not in PRETRAINED:
        raise ValueError(f"no published weights of {name!r}; there are {', '.join(PRETRAINED)}")
    return PRETRAINED[name]
