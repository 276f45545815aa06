"""The classifiers against the recorded originals, and timm's beside timm's own.

The recording's keys, shapes, counts and logits lie in ``tests/data`` and are always compared.
"""

import copy
import functools
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from golden_rule import golden_weight
from torch import nn

import fbnet_lesson as fl
from fbnet_lesson.blocks import count_macs, count_parameters
from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS, hard
from fbnet_lesson.classification.classifier import Classifier, ClassifierConfig
from fbnet_lesson.zoo.checkpoints import keys_in

DATA = Path(__file__).parent / "data"
MANIFESTS = json.loads(gzip.decompress((DATA / "golden_cls.json.gz").read_bytes()))
with np.load(DATA / "golden_cls.npz") as recording:
    LOGITS = dict(recording)
TIMM = fl.list_models("timm/*")
C100 = "timm/fbnetc_100"


def upstream_keys(name: str, model: nn.Module) -> dict[str, str]:
    """Our key -> the origin's key, for the model's own origin."""
    return keys_in(name.partition("/")[0], model.state_dict())


@functools.cache
def on_meta(name: str) -> nn.Module:
    """The model's shapes without its numbers."""
    with torch.device("meta"):
        return fl.create_model(name).eval()


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and norm statistics, such that the signal neither dies nor explodes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if value.dim() > 1:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
            elif name.endswith("running_var"):
                value.copy_(1 + noise.abs())
            elif name.endswith("weight"):
                value.copy_(1 + 0.2 * noise)
            elif value.is_floating_point():
                value.copy_(0.2 * noise)
    return model


def relative_difference(ours, theirs) -> float:
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# ------------------------------------------------------------------------------- the recording


def test_every_recorded_network_is_there_and_no_other():
    classifiers = fl.list_models("mobile_cv/*") + fl.list_models("timm/*")
    assert classifiers == sorted(MANIFESTS) and len(classifiers) == 24


@pytest.mark.parametrize("name", MANIFESTS)
def test_keys_and_shapes_are_the_recorded_ones_one_to_one(name):
    model = on_meta(name)
    keys = upstream_keys(name, model)
    ours = {keys[key]: list(value.shape) for key, value in model.state_dict().items()}
    assert len(ours) == len(keys)
    if name.startswith("mobile_cv/"):  # its last layer is a 1x1 convolution, ours is linear
        ours["head.conv.weight"] += [1, 1]
    assert ours == dict(MANIFESTS[name]["state_dict"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_parameters_and_multiply_adds_are_the_recorded_ones(name):
    recorded, model = MANIFESTS[name], on_meta(name)
    assert count_parameters(model) == recorded["param_count"]
    images = torch.zeros(recorded["input"]["shape"], device="meta")
    assert images.shape[2] == CLASSIFICATION_ARCHS[name].input_size
    assert count_macs(model, images) == recorded["macs"]


def test_dmasking_l3_has_the_size_of_its_published_checkpoint():
    model = on_meta("mobile_cv/dmasking_l3")
    assert count_macs(model, torch.zeros(1, 3, 288, 288, device="meta")) == 751_122_890
    assert count_parameters(model) == 9_464_040
    arch = CLASSIFICATION_ARCHS["mobile_cv/dmasking_l3"]
    without_biases = replace(arch, style=replace(arch.style, bias=False))
    assert count_parameters(Classifier(without_biases, ClassifierConfig())) == 9_442_632


@pytest.mark.parametrize("name", MANIFESTS)
def test_norms_have_the_recorded_epsilon_and_momentum(name):
    recorded, model = MANIFESTS[name], on_meta(name)
    keys = upstream_keys(name, model)
    norms = {
        keys[f"{place}.weight"].removesuffix(".weight"): layer
        for place, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    }
    assert {layer.eps for layer in norms.values()} == set(recorded["norm_eps"])
    momenta = {place: layer.momentum for place, layer in norms.items()}
    if isinstance(recorded["norm_momentum"], list):
        assert set(momenta.values()) == set(recorded["norm_momentum"])
    else:
        assert momenta == recorded["norm_momentum"]


@pytest.mark.parametrize("name", LOGITS)
def test_the_logits_are_the_recorded_ones(name):
    recorded = MANIFESTS[name]
    weights = {
        key: torch.from_numpy(golden_weight(key, shape, recorded["weight_rule"]))
        for key, shape in recorded["state_dict"]
    }
    model = fl.create_model(name, weights=weights).eval()
    image = np.random.RandomState(recorded["input"]["seed"]).randn(*recorded["input"]["shape"])
    with torch.no_grad():
        logits = model(torch.from_numpy(image).float())
    assert relative_difference(logits, LOGITS[name][None]) < 1e-4


def test_networks_that_differ_in_resolution_only_are_one_table():
    for a, b in (("FBNetV2_F1", "FBNetV2_F2"), ("FBNetV2_L1", "FBNetV2_L2")):
        a, b = CLASSIFICATION_ARCHS[f"mobile_cv/{a}"], CLASSIFICATION_ARCHS[f"mobile_cv/{b}"]
        assert (a.stages, a.head, a.style) == (b.stages, b.head, b.style)
        assert a.input_size < b.input_size


# --------------------------------------------------------------------------------- beside timm


def timm_model(name: str, **arguments) -> nn.Module:
    return timm.create_model(name.removeprefix("timm/"), **arguments)


@pytest.mark.parametrize("name", TIMM)
def test_timms_weights_give_timms_logits_and_input_gradients(name):
    theirs = randomised(timm_model(name)).double().eval()
    ours = fl.create_model(name).double().eval()
    assert fl.load_weights(ours, theirs.state_dict()).layout == "timm"
    images = torch.randn(2, 3, 80, 72, dtype=torch.float64).requires_grad_()
    results = [model(images) for model in (ours, theirs)]
    assert relative_difference(*results) < 1e-10
    direction = torch.randn_like(results[0])
    gradients = [torch.autograd.grad(y, images, direction)[0] for y in results]
    assert relative_difference(*gradients) < 1e-10


@pytest.mark.parametrize("name", TIMM)
def test_in_single_precision_too(name):
    theirs = randomised(timm_model(name)).eval()
    ours = fl.create_model(name, weights=theirs.state_dict()).eval()
    images = torch.randn(2, 3, 80, 72)
    with torch.no_grad():
        assert relative_difference(ours(images), theirs(images)) < 1e-5


def test_training_mode_is_timms_too():
    theirs = randomised(timm_model(C100)).double().train()
    ours = fl.create_model(C100, dropout=0).double().train()
    fl.load_weights(ours, theirs.state_dict())
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    assert relative_difference(ours(images), theirs(images)) < 1e-9
    statistics = (ours.backbone.trunk0[0].norm.running_var, theirs.bn1.running_var)
    assert relative_difference(*statistics) < 1e-12


@pytest.mark.parametrize("name", TIMM)
def test_the_stages_maps_are_timms(name):
    theirs = randomised(timm_model(name, features_only=True)).double().eval()
    ours = fl.create_model(name, features_only=True).double().eval()
    report = fl.load_weights(ours, theirs.state_dict())
    images = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        our_maps, their_maps = list(ours(images).values()), theirs(images)
    assert list(ours.strides.values()) == theirs.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert list(ours.channels.values())[:4] == theirs.feature_info.channels()[:4]
    compared = 5 if name == C100 else 4  # timm counts FBNetV3's head to its last stage
    for our_map, their_map in list(zip(our_maps, their_maps, strict=True))[:compared]:
        assert relative_difference(our_map, their_map) < 1e-10
    assert our_maps[4].shape[2:] == their_maps[4].shape[2:] == (3, 2)
    assert {key.split(".")[0] for key in report.left_out} == (
        set() if compared == 5 else {"blocks"}
    )


def test_timms_own_weights_of_fbnetc_are_run_with_another_epsilon():
    theirs = randomised(timm_model(C100, bn_eps=1e-3)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(images)
        same = fl.create_model(C100, weights=theirs.state_dict(), norm_eps=1e-3).eval()(images)
        other = fl.create_model(C100, weights=theirs.state_dict()).eval()(images)
    assert relative_difference(same, expected) < 1e-5 < 1e-4 < relative_difference(other, expected)


# ------------------------------------------------------------------------------- the interface


@pytest.mark.parametrize("name", ["mobile_cv/fbnet_a", "mobile_cv/FBNetV2_F1", "timm/fbnetv3_b"])
def test_without_a_head_the_maps_of_all_stages_are_returned(name):
    model = fl.create_model(name, features_only=True).eval()
    with torch.no_grad():
        maps = model(torch.zeros(2, 3, 64, 96))
    assert list(maps) == ["trunk0", "trunk1", "trunk2", "trunk3", "trunk4"]
    for stage, feature in maps.items():
        stride = model.strides[stage]
        assert feature.shape == (2, model.channels[stage], 64 // stride, 96 // stride)


def test_the_maps_are_those_the_classifier_classifies():
    whole = randomised(fl.create_model("mobile_cv/FBNetV2_F1")).eval()
    trunk = fl.create_model("mobile_cv/FBNetV2_F1", features_only=True, weights=whole.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(whole.head(trunk.eval()(image)["trunk4"]), whole(image))


def test_overrides_set_the_head():
    model = fl.create_model("mobile_cv/FBNetV2_F1", num_classes=7, dropout=0.5)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    assert (model.head.dropout.p, model.head.classifier.out_features) == (0.5, 7)
    assert fl.create_model("mobile_cv/FBNetV2_F1").head.classifier.out_features == 1000


@pytest.mark.parametrize(
    "overrides, text",
    [
        ({"norm": "GN"}, "unknown field 'norm'; allowed are num_classes, dropout, features_only"),
        ({"min_size": 224}, "unknown field 'min_size'; allowed are num_classes"),
        ({"num_classes": 0}, "num_classes=0 is impossible; allowed: a whole number"),
        ({"num_classes": 2.5}, "num_classes=2.5 is impossible"),
        ({"num_classes": 2.0}, "num_classes=2.0 is impossible"),
        ({"num_classes": True}, "num_classes=True is impossible"),
        ({"dropout": 1}, "dropout=1 is impossible; allowed: a number from 0 to below 1"),
        ({"dropout": "high"}, "dropout='high' is impossible"),
        ({"features_only": 1}, "features_only=1 is impossible; allowed: True or False"),
        ({"norm_eps": 0}, "norm_eps=0 is impossible; allowed: a positive number"),
        ({"weights": "imagenet"}, "no such file; shipped for timm/fbnetc_100: none"),
    ],
)
def test_an_impossible_override_is_named_with_what_is_allowed(overrides, text):
    with pytest.raises(ValueError, match=text):
        fl.create_model(C100, **overrides)


def test_another_origins_name_is_unknown_and_the_known_are_listed():
    with pytest.raises(ValueError, match="unknown model 'timm/fbnetv3_a'; known.*timm/fbnetv3_b"):
        fl.create_model("timm/fbnetv3_a")


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64)])
def test_what_is_not_a_batch_of_rgb_images_is_refused(shape):
    model = fl.create_model("mobile_cv/FBNetV2_F1")
    with pytest.raises(ValueError, match=r"takes images \[N, 3, H, W\], got \["):
        model(torch.zeros(shape))


@pytest.mark.parametrize("name", ["mobile_cv/fbnet_a", "mobile_cv/dmasking_f1", C100])
def test_activations_in_place_change_no_gradient(name):
    model = randomised(fl.create_model(name, dropout=0, num_classes=5)).train()
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    images = torch.randn(3, 3, 64, 64)
    for m in (model, plain):
        m(images).square().mean().backward()
    for (key, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), key


def test_dropout_is_for_training_only():
    model = fl.create_model("mobile_cv/FBNetV2_F1", dropout=0.5).eval()
    features = torch.randn(4, 224, 2, 2)
    assert torch.equal(model.head(features), model.head(features))
    model.head.dropout.train()
    assert not torch.equal(model.head(features), model.head(features))


def test_hard_makes_every_activation_and_gate_a_hard_one():
    assert hard(("ir_k5 24 s2 e4; ir_k5_se 24 e3", "ir_k3_sehsig 32 e2; skip 32"), {0: 1}) == (
        "ir_k5_hs 24 s2 e4 p1; ir_k5_sehsig_hs 24 e3",
        "ir_k3_sehsig_hs 32 e2; skip 32",
    )
