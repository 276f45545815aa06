"""Published weights of classifiers: as they are, without a head, and as the trunk of a detector."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_checkpoints import same, upstream
from test_classifiers import randomised
from test_download import server  # noqa: F401  a fixture

import fbnet_lesson as fl
from fbnet_lesson.classification.published import PRETRAINED
from fbnet_lesson.detection.detector import PIXEL_MEAN
from fbnet_lesson.zoo.download import DownloadError

TINY, C4, FPN = "lesson/mask_rcnn_tiny", "d2go/mask_rcnn_fbnetv3a_C4", "d2go/mask_rcnn_fbnetv3g_fpn"
F1, C100 = "mobile_cv/dmasking_f1", "timm/fbnetc_100"
SMALL = {"min_size": 96, "max_size": 160, "post_nms_topk": (50, 10)}


@pytest.fixture
def published(server, tmp_path, monkeypatch):  # noqa: F811
    """A function that publishes a classifier's random weights and returns the classifier."""
    monkeypatch.setenv("FBNET_LESSON_CACHE", str(tmp_path / "cache"))

    def publish(name: str) -> torch.nn.Module:
        source = randomised(fl.create_model(name)).eval()
        torch.save({"state_dict": upstream(source)}, tmp_path / "model.pth")
        server.content = (tmp_path / "model.pth").read_bytes()
        server.longest_range = len(server.content)
        here = replace(PRETRAINED[name], url=server.url, hub=None, sha256=None)
        monkeypatch.setitem(PRETRAINED, name, here)
        return source

    return publish


# ----------------------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("name", [F1, C100])
def test_pretrained_is_the_published_file(published, name):
    source = published(name)
    assert same(fl.create_model(name, weights="pretrained"), source)


def test_the_published_fbnetc_100_is_run_with_its_own_epsilon(published):
    published(C100)

    def eps(**arguments):
        model = fl.create_model(C100, **arguments)
        return {layer.eps for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)}

    assert eps(weights="pretrained") == {1e-3}
    assert eps(weights="pretrained", norm_eps=1e-4) == {1e-4}
    assert eps() == {1e-5}


def test_for_other_classes_the_last_layer_stays_random_and_that_is_printed(published, capsys):
    source = published(F1)
    model = fl.create_model(F1, num_classes=3, weights="pretrained")
    assert same(model.backbone, source.backbone)
    assert model.head.classifier.out_features == 3
    assert "because num_classes differs: head.classifier" in capsys.readouterr().out


def test_without_a_head_the_published_backbone_is_loaded(published):
    source = published(F1)
    model = fl.create_model(F1, features_only=True, weights="pretrained")
    assert model.head is None and same(model.backbone, source.backbone)


def test_without_a_network_the_error_says_how_to_supply_the_file(published, server):  # noqa: F811
    published(F1)
    server.status = 404
    with pytest.raises(DownloadError, match="404 Not Found. To supply it by hand, put it at "):
        fl.create_model(F1, weights="pretrained")


def test_a_detector_has_no_published_weights_of_its_own():
    with pytest.raises(ValueError, match="published for classifiers; lesson/mask_rcnn_tiny takes"):
        fl.create_model(TINY, weights="pretrained")


def test_preprocess_is_there_and_takes_a_model_or_its_name():
    assert fl.preprocess(fl.create_model(F1)) == fl.preprocess(F1)
    assert fl.preprocess(F1).resolution == 128  # a second time: no module has taken its name


@pytest.mark.parametrize("name", fl.__all__)
def test_no_module_can_take_the_place_of_an_exported_name(name):
    assert not (Path(fl.__file__).parent / f"{name}.py").exists()
    assert getattr(fl, name) is getattr(fl, name)


def test_importing_the_package_imports_no_torch():
    program = "import sys, fbnet_lesson; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# ----------------------------------------------------------------------- detectors on their trunks


@pytest.mark.parametrize(
    "name, trunk, channels, stride",
    [
        (TINY, C100, 32, 8),
        (TINY, F1, 24, 8),
        (C4, C100, 112, 16),
        (C4, "mobile_cv/FBNetV3_B", 120, 16),
        (FPN, "timm/fbnetv3_b", 128, 4),
    ],
)
def test_a_detector_on_a_classifiers_trunk_learns_and_detects(name, trunk, channels, stride):
    torch.manual_seed(0)
    model = fl.create_model(name, trunk=trunk, num_classes=3, norm="BN", **SMALL)
    first = model.rpn_features[0]
    assert model.backbone.channels[first] == channels and model.backbone.strides[first] == stride
    images = [torch.rand(3, 96, 128), torch.rand(3, 96, 96)]
    masks = torch.zeros(1, 96, 128, dtype=torch.bool)
    masks[0, 8:80, 8:60] = True
    target = {"boxes": torch.tensor([[8.0, 8, 60, 80]]), "labels": torch.tensor([2])}
    targets = [target | {"masks": masks}, target | {"masks": masks[:, :, :96]}]
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    assert len(losses) == 5 and all(loss.isfinite() for loss in losses.values())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert model.trunk.trunk0[0].conv.weight.grad.abs().sum() > 0
    with torch.no_grad():
        found = model.eval()(images)
    assert [f["masks"].shape[1:] for f in found] == [(96, 128), (96, 96)]


@pytest.mark.parametrize("trunk", [C100, F1, "mobile_cv/FBNetV3_B"])
def test_the_trunk_sees_of_an_image_what_the_classifier_sees(published, trunk):
    published(trunk)
    classifier = fl.create_model(trunk, features_only=True, weights="pretrained").eval()
    detector = fl.create_model(C4, trunk=trunk, weights="pretrained", resize=False).eval()
    image = torch.rand(3, 64, 96)
    prepare = fl.preprocess(trunk)
    normalised = (image - torch.tensor(prepare.mean)[:, None, None]) / torch.tensor(prepare.std)[
        :, None, None
    ]
    with torch.no_grad():
        ours = detector.backbone(detector.preprocess([image])[0])
        theirs = classifier(normalised[None])
    assert list(ours) == ["trunk0", "trunk1", "trunk2", "trunk3"]
    for name, features in ours.items():
        difference = (features - theirs[name]).abs().max() / theirs[name].abs().max()
        assert features.shape == theirs[name].shape and difference < 1e-4, name


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_detector_subtracts_the_mean_of_every_classifier(name):
    of_classifier = [255 * value for value in reversed(PRETRAINED[name].mean)]
    assert of_classifier == pytest.approx(PIXEL_MEAN)


@pytest.mark.parametrize("name", [TINY, FPN])
def test_a_classifiers_weights_are_the_trunks_and_the_rest_stays_random(published, name, capsys):
    source = published(C100)
    torch.manual_seed(3)
    untouched = fl.create_model(name, trunk=C100)
    for weights in ("pretrained", upstream(source), source.state_dict()):
        torch.manual_seed(3)
        model = fl.create_model(name, trunk=C100, weights=weights)
        theirs = source.backbone.state_dict()
        for key, value in model.trunk.state_dict().items():
            assert torch.equal(value, theirs[key]), key
        assert same(model.roi_heads, untouched.roi_heads) and same(model.rpn, untouched.rpn)
        stages = ", ".join(model.trunk.channels)
        expected = f"loaded {stages} of timm/fbnetc_100; everything else stays random\n"
        assert capsys.readouterr().out == expected


def test_norm_and_frozen_stages_hold_for_the_trunk_too(published, capsys):
    source = published(C100)
    model = fl.create_model(TINY, trunk=C100, weights="pretrained", norm="FrozenBN")
    assert same(model.trunk.trunk0, source.backbone.trunk0)
    assert type(model.trunk.trunk0[0].norm).__name__ == "FrozenBN"
    frozen = fl.create_model(TINY, trunk=C100, freeze_stages=2).train()
    assert not any(p.requires_grad for p in frozen.trunk.trunk1.parameters())
    assert all(p.requires_grad for p in frozen.trunk.trunk2.parameters())
    capsys.readouterr()
    fl.create_model(TINY, trunk=C100, weights="pretrained", norm="GN")
    assert "without the statistics of its norms, as GN has none" in capsys.readouterr().out


def test_the_norms_of_a_trunk_are_the_classifiers():
    def norm(trunk):
        layer = fl.create_model(TINY, trunk=trunk).trunk.trunk1[0].dw.norm
        return layer.eps, layer.momentum

    assert norm(C100) == (1e-3, 0.1)  # as its published weights are run
    assert norm(F1) == (1e-5, 0.003)


def test_a_detector_on_a_trunk_takes_its_own_weights_back(tmp_path):
    torch.manual_seed(4)
    source = randomised(fl.create_model(TINY, trunk=C100))
    fl.save_weights(source, tmp_path / "d.safetensors")
    assert same(fl.create_model(TINY, trunk=C100, weights=tmp_path / "d.safetensors"), source)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        (TINY, {"trunk": "resnet"}, "trunk='resnet' is impossible; allowed: a classifier: mobile_"),
        (TINY, {"trunk": TINY}, "trunk='lesson/mask_rcnn_tiny' is impossible"),
        (C100, {"trunk": C100}, "trunk='timm/fbnetc_100' is for detectors; timm/fbnetc_100 is a"),
        (TINY, {"trunk": C100, "weights": "no.pt"}, "weights='no.pt': no such file"),
        (TINY, {"trunk": C100, "weights": "shapes"}, "do not fit the model lesson/mask_rcnn_tiny"),
        (TINY, {"trunk": C100, "freeze_stages": 4}, "freeze_stages=4 is impossible.*0 to 3"),
    ],
)
def test_what_cannot_be_is_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        fl.create_model(name, **arguments)


def test_another_classifiers_weights_are_refused_for_a_trunk():
    weights = upstream(fl.create_model(F1))
    with pytest.raises(ValueError, match="do not fit the model timm/fbnetc_100"):
        fl.create_model(TINY, trunk=C100, weights=weights)


@pytest.mark.parametrize("name", fl.list_models("mobile_cv/*") + fl.list_models("timm/*"))
def test_a_pyramid_refuses_by_name_the_trunks_whose_maps_are_not_halves(name):
    with torch.device("meta"):
        trunk = fl.create_model(name, features_only=True).eval()
        maps = trunk(torch.zeros(1, 3, 64, 64, device="meta"))
        if [m.shape[-1] for m in maps.values()] == [32, 16, 8, 4, 2]:
            fl.create_model(FPN, trunk=name)
        else:
            with pytest.raises(ValueError, match=f"trunk='{name}' does not fit d2go/mask_rcnn"):
                fl.create_model(FPN, trunk=name)
