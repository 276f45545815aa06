"""Loading weights: layouts, what is said of what does not fit, and files that are not weights."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

import fbnet_lesson as fl
from fbnet_lesson.zoo.checkpoints import d2go_key, keys_in

TINY = "lesson/mask_rcnn_tiny"
F1 = "mobile_cv/dmasking_f1"
C100 = "timm/fbnetc_100"


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return fl.create_model(TINY)


@pytest.fixture(scope="module")
def d2go_state(source):
    return {d2go_key(key): value for key, value in source.state_dict().items()}


def same(model, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())


def fresh(**overrides):
    return fl.create_model(TINY, **overrides)


def test_our_own_weights_come_back_from_a_file(source, tmp_path):
    fl.save_weights(source, tmp_path / "a.safetensors", seed=1)
    model = fresh(weights=tmp_path / "a.safetensors")
    assert same(model, source)
    assert os.listdir(tmp_path) == ["a.safetensors"]  # nothing temporary is left


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "iteration": 7},
        lambda s: s,
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: s | {"pixel_mean": torch.zeros(3, 1, 1)},
    ],
    ids=["dict with model", "bare", "module prefix", "with constants"],
)
def test_the_d2go_layout_is_recognised_by_its_keys(source, d2go_state, wrap, tmp_path):
    torch.save(wrap(d2go_state), tmp_path / "d2go.pth")
    model = fresh()
    report = fl.load_weights(model, tmp_path / "d2go.pth")
    assert report.layout == "d2go" and not report.problems()
    assert same(model, source)


def test_d2go_weights_in_safetensors(source, d2go_state, tmp_path):
    save_file({k: v.contiguous() for k, v in d2go_state.items()}, tmp_path / "d.safetensors")
    assert same(fresh(weights=str(tmp_path / "d.safetensors")), source)


def test_the_averaged_weights_win_where_there_are_some(source, d2go_state):
    noise = {k: torch.zeros_like(v) for k, v in d2go_state.items()}
    model = fresh()
    fl.load_weights(model, {"model": noise, "ema_state": d2go_state})
    assert same(model, source)


def test_missing_unexpected_and_misshapen_keys_are_named_and_nothing_changes(d2go_state):
    state = dict(d2go_state)
    state.pop("backbone.body.trunk1.fbnetv2_1_0.pw.conv.weight")
    state["backbone.body.trunk9.fbnetv2_9_0.conv.weight"] = torch.zeros(1)
    key = "backbone.body.trunk0.fbnetv2_0_0.conv.weight"
    state[key] = torch.zeros(5, 3, 3, 3)
    model = fresh()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        fl.load_weights(model, state)
    text = str(error.value)
    assert "1 missing: backbone.trunk1.0.pw.conv.weight" in text
    assert "1 unexpected: backbone.body.trunk9.fbnetv2_9_0.conv.weight" in text
    assert "backbone.trunk0.0.conv.weight: file [5, 3, 3, 3], model [16, 3, 3, 3]" in text
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    report = fl.load_weights(model, state, strict=False)
    assert len(report.loaded) == len(before) - 2


def test_other_classes_leave_the_predictors_out_and_say_so(source, capsys):
    model = fresh(num_classes=3)
    report = fl.load_weights(model, source.state_dict())
    assert len(report.left_out) == 6
    assert "because num_classes differs: roi_heads" in capsys.readouterr().out
    assert torch.equal(model.backbone.trunk0[0].conv.weight, source.backbone.trunk0[0].conv.weight)


def test_the_wrong_network_is_refused(source):
    other = fl.create_model("d2go/faster_rcnn_fbnetv3a_dsmask_C4")
    with pytest.raises(ValueError, match="do not fit the model"):
        fl.load_weights(other, source.state_dict())


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_code_in_a_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Payload()}))
    torch.save({"model": Payload()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(ValueError, match=name):
            fl.load_weights(fresh(), tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_that_was_cut_off_is_called_damaged(source, tmp_path, suffix):
    path = tmp_path / f"whole.{suffix}"
    if suffix == "pth":
        torch.save(source.state_dict(), path)
    else:
        fl.save_weights(source, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"cannot read .*whole.{suffix}: it is damaged"):
        fl.load_weights(fresh(), path)


def test_what_is_not_there_or_not_weights_is_said(tmp_path):
    with pytest.raises(ValueError, match="no such weights file"):
        fl.load_weights(fresh(), tmp_path / "none.pth")
    with pytest.raises(ValueError, match="shipped for lesson/mask_rcnn_tiny: 'shapes'"):
        fresh(weights="coco")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list; expected a state dict"):
        fl.load_weights(fresh(), tmp_path / "list.pth")
    for other, name in ((fresh(), "Detector"), (True, "bool"), (torch.ones(1), "Tensor")):
        with pytest.raises(ValueError, match=f"weights are a {name}; expected a file, or a state"):
            fl.load_weights(fresh(), other)
    with pytest.raises(ValueError, match="name is list; expected one of list_models"):
        fl.create_model([TINY])
    with pytest.raises(ValueError, match="not a state dict: 'a' is int"):
        fl.load_weights(fresh(), {"a": 1})


@pytest.mark.parametrize("name", fl.list_models())
def test_the_key_map_is_one_to_one(name):
    with torch.device("meta"):
        own = fl.create_model(name).state_dict()
    layout = name.partition("/")[0].replace("lesson", "d2go")
    theirs = keys_in(layout, own)
    assert list(theirs) == list(own)
    assert len(set(theirs.values())) == len(own)


# ----------------------------------------------------------------------------------- classifiers


def classifier(name, seed=1, **overrides):
    torch.manual_seed(seed)
    return fl.create_model(name, **overrides)


def upstream(model):
    """The weights as the model's origin writes them."""
    layout = model.name.partition("/")[0]
    own = model.state_dict()
    state = {theirs: own[ours] for ours, theirs in keys_in(layout, own).items()}
    if layout == "mobile_cv":  # a 1x1 convolution there
        state["head.conv.weight"] = state["head.conv.weight"][:, :, None, None]
    return state


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 7},
        lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "model_ema": s},
        lambda s: {"state_dict": {f"module.{k}": v * 0 for k, v in s.items()}, "model_ema": s},
        lambda s: {"model_ema": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "model_ema": None},
        lambda s: s,
    ],
    ids=["state_dict", "average", "module and average", "average only", "no average", "bare"],
)
def test_a_mobile_cv_checkpoint_is_recognised_and_its_average_wins(wrap, tmp_path):
    source = classifier(F1)
    torch.save(wrap(upstream(source)), tmp_path / "model.pth")
    model = classifier(F1, seed=2)
    report = fl.load_weights(model, tmp_path / "model.pth")
    assert report.layout == "mobile_cv" and not report.problems() and not report.left_out
    assert same(model, source)


@pytest.mark.parametrize("kind", ["pth", "old pth", "safetensors"])
def test_a_timm_file_is_recognised(kind, tmp_path):
    source = classifier(C100)
    state = {key: value.contiguous() for key, value in upstream(source).items()}
    path = tmp_path / f"fbnetc.{kind.removeprefix('old ')}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pth")
    model = classifier(C100, seed=2)
    assert fl.load_weights(model, path).layout == "timm"
    assert same(model, source)


def test_timm_files_may_lack_the_batch_counters():
    source = classifier(C100)
    state = {k: v for k, v in upstream(source).items() if "num_batches" not in k}
    assert not fl.load_weights(classifier(C100, seed=2), state).problems()


def test_our_own_layout_of_a_classifier_comes_back_from_a_file(tmp_path):
    source = classifier(F1)
    fl.save_weights(source, tmp_path / "f1.safetensors")
    model = classifier(F1, seed=2, weights=tmp_path / "f1.safetensors")
    assert same(model, source)


@pytest.mark.parametrize(
    "source, model, layout",
    [
        ("mobile_cv/fbnet_b", "mobile_cv/fbnet_c", "mobile_cv"),
        ("mobile_cv/fbnet_c", C100, "mobile_cv"),
        (C100, "mobile_cv/fbnet_c", "timm"),
        ("timm/fbnetv3_b", C100, "timm"),
        ("timm/fbnetv3_b", "mobile_cv/FBNetV3_B", "timm"),
        ("mobile_cv/FBNetV2_F1", F1, "mobile_cv"),
        (F1, TINY, "mobile_cv"),
    ],
)
def test_another_networks_weights_are_refused_with_what_was_found_and_expected(
    source, model, layout
):
    state, model = upstream(classifier(source)), classifier(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        fl.load_weights(model, state)
    assert f"do not fit the model {model.name}: found {len(state)} entries" in str(error.value)
    assert f"in {layout} layout, expected {len(before)}\n" in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [F1, C100])
def test_a_classifier_of_other_classes_keeps_its_random_start(name, capsys):
    source, model = classifier(name), classifier(name, seed=2, num_classes=3)
    before = model.head.classifier.weight.clone()
    report = fl.load_weights(model, upstream(source))
    assert report.left_out == ["head.classifier.weight", "head.classifier.bias"]
    assert "because num_classes differs: head.classifier" in capsys.readouterr().out
    assert torch.equal(model.head.classifier.weight, before)
    assert torch.equal(model.backbone.trunk0[0].conv.weight, source.backbone.trunk0[0].conv.weight)


@pytest.mark.parametrize("name", [F1, "mobile_cv/fbnet_a", C100, "timm/fbnetv3_b"])
@pytest.mark.parametrize("native", [True, False], ids=["our layout", "the origin's"])
def test_a_model_without_a_head_takes_a_whole_classifiers_weights(name, native, capsys):
    source, trunk = classifier(name), classifier(name, seed=2, features_only=True)
    report = fl.load_weights(trunk, source.state_dict() if native else upstream(source))
    assert same(trunk.backbone, source.backbone)
    assert len(report.left_out) == len(source.head.state_dict())
    assert capsys.readouterr().out == ""


def test_a_damaged_classifier_file_is_refused_and_code_in_it_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": upstream(classifier(F1)) | {"x": Payload()}}, "evil.pth")
    with pytest.raises(ValueError, match="evil.pth holds more than tensors and was not executed"):
        fl.load_weights(classifier(F1), "evil.pth")
    assert not (tmp_path / "executed").exists()
    torch.save({"state_dict": upstream(classifier(F1))}, "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot read cut.pth: it is damaged or cut off"):
        fl.load_weights(classifier(F1), "cut.pth")
