"""``arch=``: any known rows, or rows of one's own, in the place of a model's."""

import json
from pathlib import Path

import pytest
import torch

import fbnet_lesson as fl
from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS
from fbnet_lesson.detection.architectures import DETECTION_ARCHS
from fbnet_lesson.rows import parse_rows

FACTS = Path(__file__).parents[2] / "shared" / "facts" / "detection_archs.json"
TINY = "lesson/mask_rcnn_tiny"
MINE = {
    "trunk": ["conv_k3 8 s2; ir_k3 8 e1", "ir_k5 16 s2 e3", "ir_k3_se 24 s2 e3; skip 24"],
    "rpn": "ir_k3 24 e2",
    "bbox": "ir_k3 32 s2 e3",
    "mask": "ir_k3 32 e3; ir_k3 16 s-2 e1",
}
SMALL = {"num_classes": 3, "roi_batch_size_per_image": 8, "post_nms_topk": (20, 5), "norm": "GN"}


def scene(side: int = 64):
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[0, 8:40, 8:48] = True
    boxes = torch.tensor([[8.0, 8, 48, 40]])
    return image, {"boxes": boxes, "labels": torch.tensor([1]), "masks": mask, "sampling_seed": 0}


def learns_and_detects(model) -> None:
    image, target = scene()
    losses = model.train()([image, image], [target, target])
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.trunk.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)
    with torch.no_grad():
        (found,) = model.eval()([image])
    assert found["boxes"].shape[1:] == (4,)


def host_of(name: str) -> str:
    """A model that an architecture of this name fits."""
    kind = "mask" if DETECTION_ARCHS[name].mask else "faster"
    return f"d2go/{kind}_rcnn_fbnetv3{'g_fpn' if name.endswith('_fpn') else 'a_C4'}"


def stages_by_the_notation(name: str) -> tuple[list[int], list[int]]:
    widths, strides, stride = [], [], 1
    for text in DETECTION_ARCHS[name].trunk:
        rows = parse_rows(text)
        for row in rows:
            stride *= row.stride
        widths.append(rows[-1].channels)
        strides.append(stride)
    return widths, strides


@pytest.mark.parametrize("name", DETECTION_ARCHS)
def test_every_architecture_builds_in_a_detector_that_learns_and_detects(name):
    sizes = {"min_size": 64, "max_size": 64} if not name.endswith("_fpn") else {"min_size": 64}
    model = fl.create_model(host_of(name), arch=name, **SMALL, **sizes)
    assert (list(model.trunk.channels.values()), list(model.trunk.strides.values())) == (
        stages_by_the_notation(name)
    )
    learns_and_detects(model)


@pytest.mark.skipif(not FACTS.exists(), reason="the published tables (../shared) are not here")
def test_the_stages_have_the_widths_and_strides_of_the_published_tables():
    for name, parts in json.loads(FACTS.read_text()).items():
        stride, wanted = 1, []
        for stage in parts["trunk"]:
            for row in stage:
                stride *= row["stride"]
            wanted.append((stage[-1]["channels"], stride))
        with torch.device("meta"):
            trunk = fl.create_model(host_of(name), arch=name).trunk
        assert list(zip(trunk.channels.values(), trunk.strides.values(), strict=True)) == wanted


def test_naming_the_own_architecture_changes_nothing():
    plain = fl.create_model("d2go/mask_rcnn_fbnetv3a_C4").state_dict()
    named = fl.create_model("d2go/mask_rcnn_fbnetv3a_C4", arch="FBNetV3_A").state_dict()
    assert {k: v.shape for k, v in plain.items()} == {k: v.shape for k, v in named.items()}


def test_rows_come_from_a_file_too_and_the_model_remembers_them_not_the_path(tmp_path):
    file = tmp_path / "found.json"
    file.write_text(json.dumps(MINE))
    model = fl.create_model(TINY, arch=file, **SMALL)
    assert model.trunk.channels == {"trunk0": 8, "trunk1": 16, "trunk2": 24}
    assert model.rows == MINE and str(tmp_path) not in str(model.rows)
    learns_and_detects(model)


def test_a_trunk_alone_takes_the_named_model_s_heads():
    model = fl.create_model(TINY, arch={"trunk": MINE["trunk"]}, **SMALL)
    tiny = DETECTION_ARCHS["lesson_tiny"]
    assert model.rows == {"trunk": MINE["trunk"], "rpn": tiny.rpn, "bbox": tiny.bbox,
                          "mask": tiny.mask}  # fmt: skip
    learns_and_detects(model)


def test_the_weights_file_holds_the_rows(tmp_path):
    from safetensors import safe_open

    model = fl.create_model(TINY, arch=MINE, **SMALL)
    fl.save_weights(model, tmp_path / "mine.safetensors")
    with safe_open(tmp_path / "mine.safetensors", "pt") as file:
        fields = json.loads(file.metadata()["config"])
    again = fl.create_model(TINY, weights=tmp_path / "mine.safetensors", **fields)
    assert again.rows == MINE
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(),
                                                 strict=True))  # fmt: skip


def test_a_classifier_takes_rows_too():
    model = fl.create_model("lesson/classifier_tiny", arch={"trunk": MINE["trunk"]})
    assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 6)
    assert model.rows == {"trunk": MINE["trunk"], "head": "conv_k1 128"}
    other = fl.create_model("lesson/classifier_tiny", arch="mobile_cv/fbnet_a")
    assert other.channels == fl.create_model("mobile_cv/fbnet_a").channels


def test_the_tiny_classifier_and_the_tiny_detectors_have_one_trunk():
    classifier = fl.create_model("lesson/classifier_tiny")
    assert CLASSIFICATION_ARCHS["lesson/classifier_tiny"].stages == (
        DETECTION_ARCHS["lesson_tiny"].trunk
    )
    shapes = {k: v.shape for k, v in classifier.backbone.state_dict().items()}
    detector = fl.create_model(TINY, trunk="lesson/classifier_tiny", weights=None)
    assert {k: v.shape for k, v in detector.trunk.state_dict().items()} == shapes
    assert fl.preprocess(classifier).resolution == 64


WRONG = [
    ("d2go/mask_rcnn_fbnetv3a_C4", "FBNetV3_D", "arch='FBNetV3_D' has no mask rows, which"),
    ("d2go/mask_rcnn_fbnetv3a_C4", "FBNetV3_G_fpn", "made for a pyramid, this model has one"),
    ("d2go/faster_rcnn_fbnetv3g_fpn", "FBNetV3_G", "C4 and FPN are not mixed; allowed: FBNetV3_G_"),
    (TINY, "FBNetV3_Z", "neither a file nor a known architecture; did you mean FBNetV3_"),
    (TINY, {"trunk": []}, r"trunk is \[\]; expected a list of stages"),
    (TINY, {"trunk": "conv_k3 8 s2"}, "trunk is 'conv_k3 8 s2'; expected a list"),
    (TINY, {"stem": ["conv_k3 8 s2"]}, "arch has the key 'stem'; allowed are trunk, rpn"),
    (TINY, {"trunk": ["conv_k3 8 s2", "ir_k4 8 e2"]}, r"trunk\[1\]: .*kernel 4; allowed: odd"),
    (TINY, {"trunk": ["conv_k3 0 s2"]}, "channels 0; allowed: 1 or more"),
    (TINY, {"trunk": ["conv_k3 8 s3"]}, "stride 3; allowed: 1, 2 and -2"),
    (TINY, {"trunk": ["conv_k3 8 s2 e0"]}, "expansion 0; allowed: more than 0"),
    (TINY, {"trunk": ["conv 8"]}, r"trunk\[0\]: cannot read the row 'conv 8'"),
    (TINY, {"trunk": [8]}, r"trunk\[0\] is 8; expected rows such as"),
    (TINY, {"trunk": ["ir_k3 8 s-2 e2"]}, "a trunk does not upsample"),
    (TINY, MINE | {"rpn": "ir_k3 24 s2 e2"}, "rpn has stride 2; it has to be 1"),
    (TINY, {k: v for k, v in MINE.items() if k != "bbox"}, "arch has no bbox rows, which"),
    ("d2go/faster_rcnn_fbnetv3g_fpn", {"trunk": MINE["trunk"]}, "a pyramid needs five"),
    ("lesson/classifier_tiny", MINE, "has the key 'rpn'; allowed are trunk, head"),
    ("lesson/classifier_tiny", "FBNetV3_A", "neither a file nor a known architecture"),
]


@pytest.mark.parametrize("model, arch, message", WRONG)
def test_what_does_not_fit_is_named(model, arch, message):
    with pytest.raises(ValueError, match=message):
        fl.create_model(model, arch=arch)


@pytest.mark.parametrize(
    "content, message", [("{", "cannot be read as JSON"), ("[1]", "holds a list; expected trunk")]
)
def test_a_file_that_is_none_is_named(tmp_path, content, message):
    file = tmp_path / "found.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        fl.create_model(TINY, arch=str(file))


def test_two_trunks_are_one_too_many():
    with pytest.raises(ValueError, match="both say the trunk"):
        fl.create_model(TINY, arch="FBNetV3_A", trunk="timm/fbnetc_100")
