"""The detectors against numbers recorded from the original implementation (detectron2 + d2go).

The small part of the recording lies in ``tests/data`` and is always compared; the whole recording,
stage by stage, is compared where ``../shared/golden`` is there.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rule import golden_weight

import fbnet_lesson as fl
from fbnet_lesson.detection.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    nonempty,
    scale_boxes,
)
from fbnet_lesson.detection.detector import Detector, postprocess
from fbnet_lesson.zoo.checkpoints import d2go_key

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared" / "golden"
MANIFESTS = json.loads(gzip.decompress((DATA / "golden_small.json.gz").read_bytes()))
MASK_CONFIGS = [config for config in MANIFESTS if config.startswith("mask")]


def slow_if_large(configs):
    """The pyramid's networks take a minute and more; ``make test-fast`` leaves them out."""
    return [pytest.param(c, marks=pytest.mark.slow if "fpn" in c else ()) for c in configs]


TOLERANCE = 1e-4  # relative to the largest value of the array

needs_recording = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the whole recording (../shared/golden) is not on this machine"
)


def golden_model(config: str) -> Detector:
    manifest = MANIFESTS[config]
    model = fl.create_model(f"d2go/{config}", resize=False)
    state = {
        key: torch.from_numpy(golden_weight(key, shape, manifest["weight_rule"]))
        for key, shape in manifest["state_dict"]
    }
    fl.load_weights(model, {"model": state})
    return model.eval()


def golden_images(config: str) -> list[torch.Tensor]:
    """Float RGB in 0..1, as our models take them; recorded were BGR in 0..255."""
    return [
        torch.from_numpy(np.random.RandomState(i["seed"]).randint(0, 256, size=i["shape"]))
        .flip(0)
        .float()
        / 255
        for i in MANIFESTS[config]["inputs"]["images"]
    ]


def unpack(bits: np.ndarray, size) -> np.ndarray:
    height, width = (int(edge) for edge in size)
    bits = np.unpackbits(bits, axis=1)[:, : height * width]
    return bits.reshape(-1, height, width).astype(bool)


def golden_targets(config: str, arrays: dict) -> list[dict]:
    targets = []
    for i, truth in enumerate(MANIFESTS[config]["ground_truth"]):
        target = {
            "boxes": torch.tensor(truth["boxes"]),
            "labels": torch.tensor(truth["classes"]),
        }
        if f"gt.img{i}.bitmask_bits" in arrays:
            masks = unpack(arrays[f"gt.img{i}.bitmask_bits"], truth["image_size"])
            target["masks"] = torch.from_numpy(masks)
        targets.append(target)
    return targets


def small_arrays(config: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "golden_small.npz") as arrays:
        return {
            name.removeprefix(f"{config}/"): arrays[name]
            for name in arrays.files
            if name.startswith(f"{config}/")
        }


@torch.no_grad()
def run_stages(model: Detector, images: list[torch.Tensor], arrays: dict) -> dict[str, np.ndarray]:
    """All stages under the recording's names; the ROI heads get the *recorded* proposals."""
    batch, sizes = model.preprocess(images)
    ours = {"input.sample": batch.reshape(-1)[::97]}
    features = model.backbone(batch)
    for name, feature in features.items():
        ours[f"feat.{name}"] = feature
        ours[f"feat.{name}.sample"] = feature.reshape(-1)[::97]
    rpn_features = [features[name] for name in model.rpn_features]
    roi_features = [features[name] for name in model.roi_features]
    logits, deltas = model.rpn.head(rpn_features)
    for level, anchors in enumerate(model.rpn.anchors(rpn_features)):
        ours[f"rpn.logits.{level}"], ours[f"rpn.deltas.{level}"] = logits[level], deltas[level]
        ours[f"anchors.{level}"] = anchors
    for i, found in enumerate(model.rpn(rpn_features, sizes, None)[0]):
        ours[f"img{i}.proposals.boxes"] = found.boxes
        ours[f"img{i}.proposals.logits"] = found.logits
    proposals = [torch.from_numpy(arrays[f"img{i}.proposals.boxes"]) for i in (0, 1)]
    pooled = model.roi_heads.box_head.pooler(roi_features, proposals)
    ours["box_pooled.sample"] = pooled.reshape(-1)[::97]
    class_logits, box_deltas = model.roi_heads.box_head(roi_features, proposals)
    ours["box_head.cls_logits"] = class_logits
    if "box_head.rows" in arrays:
        ours["box_head.deltas"] = box_deltas.flatten(1)[arrays["box_head.rows"]]
    for i, d in enumerate(model.roi_heads.detect(roi_features, proposals, sizes)):
        ours[f"img{i}.det.boxes"], ours[f"img{i}.det.scores"] = d.boxes, d.scores
        ours[f"img{i}.det.classes"], ours[f"img{i}.det.proposal_index"] = d.labels, d.proposal_index
        ours[f"img{i}.mask_logits"] = d.mask_logits[:5]
        for kind in ("post", "post_scaled"):
            size = tuple(int(edge) for edge in arrays[f"img{i}.{kind}.size"])
            result = postprocess(d, sizes[i], size)
            ours[f"img{i}.{kind}.boxes"] = result["boxes"]
            ours[f"img{i}.{kind}.scores"] = result["scores"]
            ours[f"img{i}.{kind}.classes"] = result["labels"]
            ours[f"img{i}.{kind}.mask_areas"] = result["masks"].sum((1, 2))
            ours[f"img{i}.{kind}.first_masks"] = result["masks"][:3]
    return {name: np.asarray(value) for name, value in ours.items()}


def assert_close(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape, name
    if theirs.dtype.kind == "f":
        worst = np.abs(ours.astype(np.float64) - theirs).max() / np.abs(theirs).max()
        assert worst < TOLERANCE, f"{name}: {worst:.2e} relative"
    elif name.endswith("mask_areas"):  # a pixel at exactly one half may fall either way
        assert np.abs(ours - theirs).max() <= 1, name
    else:
        assert (ours == theirs).all(), name


def as_set(boxes: np.ndarray) -> np.ndarray:
    """Rows in an order of their own: the FPN models' proposals are recorded with tied scores."""
    return boxes[np.lexsort(np.round(boxes, 2).T)]


@pytest.fixture(scope="module", params=slow_if_large(MASK_CONFIGS))
def recorded(request):
    config = request.param
    arrays = small_arrays(config)
    if (SHARED / f"{config}.npz").exists():
        with np.load(SHARED / f"{config}.npz") as recording:
            arrays = dict(recording) | {f"small/{k}": v for k, v in arrays.items()}
    else:
        arrays |= {f"small/{k}": v for k, v in arrays.items()}
    model = golden_model(config)
    return config, model, arrays, run_stages(model, golden_images(config), arrays)


@pytest.mark.parametrize("config", MANIFESTS)
def test_keys_shapes_and_counts_map_one_to_one(config):
    manifest = MANIFESTS[config]
    model = fl.create_model(f"d2go/{config}")
    own = {d2go_key(key): list(value.shape) for key, value in model.state_dict().items()}
    assert own == dict(manifest["state_dict"])
    assert len(own) == len(model.state_dict()) == manifest["param_counts"]["state_dict_entries"]
    counts = manifest["param_counts"]
    parts = {
        "total": model,
        "backbone": model.backbone,
        "proposal_generator": model.rpn,
        "roi_heads": model.roi_heads,
    }
    for name, part in parts.items():
        assert sum(p.numel() for p in part.parameters()) == counts[name], name


def test_the_small_recording_is_reproduced(recorded):
    config, _, arrays, ours = recorded
    compared = 0
    for name, theirs in arrays.items():
        name = name.removeprefix("small/") if name.startswith("small/") else ""
        if name.startswith("feat.") and name in ours:
            assert_close(name, ours[name][::29], theirs)
        elif ".proposals." in name and "fpn" in config:
            continue  # compared as a set below
        elif name in ours:
            assert_close(name, ours[name], theirs)
        elif name.endswith("post.mask_bits"):
            masks = ours[name.replace("mask_bits", "first_masks")]
            theirs = unpack(theirs, arrays[name.replace("mask_bits", "size")])
            assert (masks != theirs).sum() <= 2, name
        else:
            continue
        compared += 1
    assert compared >= 25


def test_the_proposals_are_the_recorded_set(recorded):
    _, _, arrays, ours = recorded
    for i in (0, 1):
        mine, theirs = ours[f"img{i}.proposals.boxes"], arrays[f"img{i}.proposals.boxes"]
        assert np.abs(as_set(mine) - as_set(theirs)).max() < TOLERANCE * np.abs(theirs).max()


@needs_recording
def test_every_recorded_stage_is_reproduced(recorded):
    config, _, arrays, ours = recorded
    compared = [
        name for name in arrays if name in ours and not (".proposals." in name and "fpn" in config)
    ]
    for name in compared:
        assert_close(name, ours[name], arrays[name])
    assert len(compared) >= 40


def test_the_detector_as_a_whole_gives_the_recorded_detections(recorded):
    config, model, arrays, _ = recorded
    with torch.no_grad():
        results = model(golden_images(config))
    for i, result in enumerate(results):
        for ours, theirs in (("boxes", "boxes"), ("scores", "scores"), ("labels", "classes")):
            assert_close(ours, result[ours].numpy(), arrays[f"img{i}.post.{theirs}"])


def in_training(model: Detector) -> Detector:
    """As recorded: norms keep their running statistics, the samplers take everything."""
    everything = {"rpn_batch_size_per_image": 10**6, "roi_batch_size_per_image": 10**6}
    config = replace(model.config, **everything)
    model.config = model.rpn.config = model.roi_heads.config = config
    model.train()
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.eval()
    return model


@pytest.mark.parametrize("config", slow_if_large(MANIFESTS))
def test_losses_and_gradients_are_the_recorded_ones(config):
    masks_of = config.replace("faster", "mask")
    arrays = small_arrays(masks_of)
    model = in_training(golden_model(config))
    losses = model(golden_images(config), golden_targets(config, arrays))
    recorded = MANIFESTS[config]["losses"]
    assert set(losses) == set(recorded)
    for name, value in losses.items():
        assert value.item() == pytest.approx(recorded[name], rel=TOLERANCE), name
    if config == masks_of:
        sum(losses.values()).backward()
        gradients = {d2go_key(k): p.grad.norm().item() for k, p in model.named_parameters()}
        order = MANIFESTS[config]["parameters_order"]
        ours = np.array([gradients[key] for key in order])
        np.testing.assert_allclose(ours, arrays["train.param_grad_l2_bitmask"], rtol=1e-3)


@needs_recording
@pytest.mark.parametrize("config", MASK_CONFIGS)
def test_matching_and_mask_targets_are_the_recorded_ones(config):
    from fbnet_lesson.detection.mask_head import crop_masks
    from fbnet_lesson.detection.matching import match

    with np.load(SHARED / f"{config}.npz") as recording:
        arrays = dict(recording)
    levels = sorted(name for name in arrays if name.startswith("anchors."))
    anchors = torch.cat([torch.from_numpy(arrays[name]) for name in levels])
    for i, target in enumerate(golden_targets(config, arrays)):
        iou = box_iou(target["boxes"], anchors)
        matched, labels = match(iou, 0.3, 0.7, allow_low_quality=True)
        assert (labels.numpy() == arrays[f"train.img{i}.rpn_labels"]).all()
        assert (matched.numpy() == arrays[f"train.img{i}.rpn_matched_idx"]).all()
        assert_close("iou", iou.max(0).values.numpy(), arrays[f"train.img{i}.rpn_matched_iou"])
        boxes = torch.from_numpy(arrays[f"train.img{i}.proposals.boxes"])
        boxes = torch.cat([boxes, target["boxes"]])
        matched, labels = match(box_iou(target["boxes"], boxes), 0.5, 0.5)
        assert (matched.numpy() == arrays[f"train.img{i}.roi_matched_idx"]).all()
        assert (labels.numpy() == arrays[f"train.img{i}.roi_labels"]).all()
        crop_boxes = torch.from_numpy(arrays[f"gt.img{i}.crop_boxes"])
        crops = crop_masks(target["masks"], torch.tensor([0, 1, 2, 0, 1, 2]), crop_boxes, 28)
        theirs = unpack(arrays[f"gt.img{i}.bitmask_crops28_bits"], (28, 28))
        assert (crops.numpy() == theirs).all()


@pytest.fixture(scope="module")
def boxops():
    if not SHARED.is_dir():
        pytest.skip("the whole recording (../shared/golden) is not on this machine")
    with np.load(SHARED / "boxops.npz") as recording:
        return {name: torch.from_numpy(np.asarray(value)) for name, value in recording.items()}


@pytest.mark.parametrize("case, weights", [("w1", (1.0, 1, 1, 1)), ("w10", (10.0, 10, 5, 5))])
def test_box_coding_is_the_recorded_one(boxops, case, weights):
    source, target = boxops["b2b.src"], boxops["b2b.dst"]
    recorded = boxops[f"b2b.{case}.get_deltas"]
    sound = nonempty(target)  # the original encodes an empty box as log 0; we refuse it
    assert torch.equal(recorded.isfinite().all(1), sound)
    deltas = encode_boxes(target[sound], source[sound], weights)
    torch.testing.assert_close(deltas, recorded[sound])
    with pytest.raises(ValueError, match="width and height must be > 0"):
        encode_boxes(target, source, weights)
    decoded = decode_boxes(recorded, source, weights)
    torch.testing.assert_close(decoded, boxops[f"b2b.{case}.apply_own_deltas"])
    for kind in ("", "zero_area_"):
        anchors = boxops[f"b2b.{case}.zero_area_src"] if kind else source
        many = boxops[f"b2b.{case}.deltas"].reshape(len(anchors), -1, 4)
        name = f"b2b.{case}.zero_area_apply" if kind else f"b2b.{case}.apply_deltas"
        ours = decode_boxes(many, anchors[:, None], weights).flatten(1)
        torch.testing.assert_close(ours, boxops[name])


def test_box_arithmetic_is_the_recorded_one(boxops):
    a, b = boxops["iou.a"], boxops["iou.b"]
    both = torch.cat([a, b])
    torch.testing.assert_close(box_iou(a, b), boxops["iou.out"])
    torch.testing.assert_close(clip_boxes(both, (40, 50)), boxops["boxes.clip_40x50"])
    torch.testing.assert_close(box_area(both), boxops["boxes.area"])
    assert torch.equal(nonempty(both), boxops["boxes.nonempty_0"])
    assert torch.equal(nonempty(both, 10), boxops["boxes.nonempty_10"])
    scaled = scale_boxes(a, (100, 100), (75, 150))
    torch.testing.assert_close(scaled, boxops["boxes.scale_1.5_0.75"])


MATCHER_CASES = "random ties boundaries all_zero_gt_row equal_columns one_gt no_gt no_pred".split()
MATCHERS = {"rpn": (0.3, 0.7, True), "rpn_strict": (0.3, 0.7, False), "roi": (0.5, 0.5, False)}


@pytest.mark.parametrize("case", MATCHER_CASES)
@pytest.mark.parametrize("kind", MATCHERS)
def test_matching_is_the_recorded_one(boxops, case, kind):
    from fbnet_lesson.detection.matching import match

    iou = boxops[f"matcher.{case}.quality"]
    matched, labels = match(iou, *MATCHERS[kind])
    assert torch.equal(matched, boxops[f"matcher.{case}.{kind}.idx"])
    theirs = boxops[f"matcher.{case}.{kind}.label"].long()
    if case == "all_zero_gt_row" and kind == "rpn":
        # The original makes every anchor positive; here a row of zeros claims nothing.
        assert theirs.eq(1).all()
        theirs = match(iou[iou.sum(1) > 0], 0.3, 0.7, True)[1]
    assert torch.equal(labels, theirs)


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_batched_nms_keeps_the_recorded_boxes(boxops, name, threshold):
    from fbnet_lesson.detection.nms import batched_nms

    boxes, scores, groups = (boxops[f"nms.{name}.{part}"] for part in ("boxes", "scores", "idxs"))
    keep = batched_nms(boxes, scores, groups, threshold)
    assert torch.equal(keep, boxops[f"nms.{name}.keep_{threshold}"])


@pytest.mark.parametrize("threshold", [0.5, 0.49, 0.9])
def test_nms_keeps_the_recorded_boxes_of_the_edge_cases(boxops, threshold):
    from fbnet_lesson.detection.nms import nms

    keep = nms(boxops["nms.edge.boxes"], boxops["nms.edge.scores"], threshold)
    assert torch.equal(keep, boxops[f"nms.edge.keep_{threshold}"])


def roialign_cases(boxops):
    for name in boxops:
        parts = name.split(".")
        if parts[0] == "roialign" and len(parts) == 5:
            scale, size, ratio, kind = parts[1:]
            height, width = (int(edge) for edge in size.split("x"))
            arguments = ((height, width), 1 / int(scale[1:]), int(ratio[2:]), kind == "aligned")
            yield name, arguments


def test_roi_align_is_the_recorded_one_forward_and_backward(boxops):
    from fbnet_lesson.detection.roi_align import roi_align

    rois = boxops["roialign.rois"]
    order = torch.cat([(rois[:, 0] == i).nonzero().flatten() for i in (0, 1)])
    boxes = [rois[rois[:, 0] == i, 1:] for i in (0, 1)]
    checked = 0
    for name, arguments in roialign_cases(boxops):
        features = boxops["roialign.feat"].clone().requires_grad_()
        pooled = roi_align(features, boxes, *arguments)
        torch.testing.assert_close(pooled, boxops[name][order], rtol=1e-5, atol=1e-5)
        checked += 1
        if f"{name}.grad_feat" in boxops:
            seed = np.random.RandomState(6).randn(*boxops[name].shape).astype(np.float32)
            pooled.backward(torch.from_numpy(seed)[order])
            theirs = boxops[f"{name}.grad_feat"]
            torch.testing.assert_close(features.grad, theirs, rtol=1e-4, atol=1e-4)
    assert checked == 12


def test_the_pooler_chooses_the_recorded_levels(boxops):
    from fbnet_lesson.detection.roi_align import Pooler, assign_levels

    features = [boxops[f"pooler.feat{level}"] for level in range(4)]
    boxes = [boxops["pooler.boxes0"], boxops["pooler.boxes1"]]
    assert torch.equal(assign_levels(torch.cat(boxes), 3, 6) + 3, boxops["pooler.levels"])
    pooler = Pooler(6, [8, 16, 32, 64])
    none = torch.zeros(0, 4)
    torch.testing.assert_close(pooler(features, boxes), boxops["pooler.multi"])
    torch.testing.assert_close(pooler(features, [none, boxes[1]]), boxops["pooler.one_image_empty"])
    assert pooler(features, [none, none]).shape == boxops["pooler.all_empty"].shape


@pytest.mark.parametrize("side", [14, 28])
def test_pasted_masks_are_the_recorded_ones(boxops, side):
    from fbnet_lesson.detection.mask_head import paste_masks

    size = tuple(boxops["paste.size"].tolist())
    soft = paste_masks(boxops[f"paste.m{side}.masks"], boxops["paste.boxes"], size)
    theirs = unpack(boxops[f"paste.m{side}.bits"].numpy(), size)
    other = torch.from_numpy((soft >= 0.5).numpy() != theirs)
    assert (soft[other] - 0.5).abs().lt(1e-6).all()  # exact halves may round either way
    assert other.sum() <= 21
    # The original pastes a window that ends one pixel outside the box, and leaves zeros beyond it.
    recorded = boxops[f"paste.m{side}.soft_u8"].int()
    inside = recorded > 0
    assert ((soft * 255).int() - recorded)[inside].abs().max() <= 1
    assert (soft[~inside] < 0.1).all()


@pytest.mark.parametrize("case", ["a", "b", "c"])
@pytest.mark.parametrize("image, size", [(0, (70, 90)), (1, (64, 80))])
def test_final_selection_is_the_recorded_one(boxops, case, image, size):
    from fbnet_lesson.detection.box_head import filter_detections

    settings = json.loads((SHARED / "boxops.json").read_text())[f"frcnn.{case}"]
    config = fl.DetectorConfig(
        score_threshold=settings["score_thresh"],
        nms_threshold=settings["nms_thresh"],
        detections_per_image=settings["topk"],
    )
    boxes = boxops[f"frcnn.boxes{image}"].reshape(-1, 5, 4)
    found = filter_detections(boxes, boxops[f"frcnn.scores{image}"], size, config)
    expected = {part: boxops[f"frcnn.{case}.img{image}.{part}"] for part in ("classes", "kept")}
    assert torch.equal(found.labels, expected["classes"])
    finite = boxes.flatten(1).isfinite().all(1) & boxops[f"frcnn.scores{image}"].isfinite().all(1)
    rows = finite.nonzero().flatten()[expected["kept"]]  # theirs count the finite rows only
    assert torch.equal(found.proposal_index, rows)
    torch.testing.assert_close(found.boxes, boxops[f"frcnn.{case}.img{image}.boxes"])
    torch.testing.assert_close(found.scores, boxops[f"frcnn.{case}.img{image}.scores"])
