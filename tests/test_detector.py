"""The detector as users call it: what it takes, what it gives, and every knob."""

from dataclasses import fields
from functools import partial

import pytest
import torch

import fbnet_lesson as fl
from fbnet_lesson.data import ShapesDataset, eval_transform
from fbnet_lesson.detection import detector, rpn
from fbnet_lesson.detection.box_head import select_detections
from fbnet_lesson.detection.boxes import box_area, box_iou, intersections
from fbnet_lesson.detection.detector import resized_size
from fbnet_lesson.detection.mask_head import mask_in_box
from fbnet_lesson.detection.matching import spare_crowds

TINY = "lesson/mask_rcnn_tiny"


def scene(size=(96, 128), objects=2, seed=0):
    """An image and a target with ``objects`` bright rectangles."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, *size, generator=generator) * 0.2
    masks = torch.zeros(objects, *size, dtype=torch.bool)
    boxes = []
    for i in range(objects):
        x, y = 8 + 40 * i, 10 + 20 * i
        masks[i, y : y + 24, x : x + 32] = True
        image[i % 3, y : y + 24, x : x + 32] = 1.0
        boxes.append([x, y, x + 32, y + 24])
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.arange(objects) % 6,
        "masks": masks,
    }
    return image, target


def losses_of(model, *scenes, seed=0):
    torch.manual_seed(seed)
    images, targets = zip(*scenes, strict=True)
    return {
        name: float(v.detach()) for name, v in model.train()(list(images), list(targets)).items()
    }


def make(seed=0, name=TINY, **overrides):
    torch.manual_seed(seed)
    return fl.create_model(name, **overrides)


def test_training_gives_the_five_losses_and_every_parameter_a_gradient():
    model = make().train()
    image, target = scene()
    losses = model([image, image], [target, target])
    assert list(losses) == ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"]
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_evaluation_gives_detections_in_the_pixels_of_each_image():
    model = make(score_threshold=0.0).eval()
    sizes = [(96, 128), (50, 40), (300, 200)]
    with torch.no_grad():
        results = model([scene(size, 0)[0] for size in sizes])
    for (height, width), result in zip(sizes, results, strict=True):
        count = len(result["boxes"])
        assert count > 0
        assert result["masks"].shape == (count, height, width)
        assert result["masks"].dtype == torch.bool
        assert result["labels"].dtype == torch.int64 and result["labels"].max() < 6
        assert (result["scores"].diff() <= 0).all()
        assert result["boxes"].min() >= 0
        assert result["boxes"][:, [0, 2]].max() <= width
        assert result["boxes"][:, [1, 3]].max() <= height


def test_faster_rcnn_has_no_masks_and_needs_none():
    model = make(name="lesson/faster_rcnn_tiny", score_threshold=0.0)
    image, target = scene()
    del target["masks"]
    assert "loss_mask" not in losses_of(model, (image, target))
    with torch.no_grad():
        assert "masks" not in model.eval()([image])[0]


def test_images_without_objects_train_too():
    model = make()
    losses = losses_of(model, scene(objects=0), scene(objects=0))
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_loc"] == 0
    for name, buffer in model.named_buffers():
        assert buffer.isfinite().all(), name


def test_a_crowd_is_neither_an_object_nor_background():
    """Its region takes no part: the losses are those of all anchors and proposals elsewhere."""
    everything = {"rpn_batch_size_per_image": 10**6, "roi_batch_size_per_image": 10**6}
    image, target = scene(objects=2)
    seen = {"rpn": [], "roi": []}

    def spy(kind, labels, boxes, crowds, *thresholds):
        result = spare_crowds(labels, boxes, crowds, *thresholds)
        seen[kind].append((boxes, crowds, labels, result))
        return result

    with pytest.MonkeyPatch.context() as patch:
        for kind, module in (("rpn", rpn), ("roi", detector)):
            patch.setattr(module, "spare_crowds", partial(spy, kind))
        losses_of(make(**everything), (image, target | {"iscrowd": [0, 1]}))
    for kind in ("rpn", "roi"):
        ((boxes, crowd, before, after),) = seen[kind]
        inside = (intersections(crowd, boxes)[0] >= 0.5 * box_area(boxes)) & (before == 0)
        assert inside.any() and (after[inside] == -1).all(), kind
        assert (box_iou(crowd, boxes)[0][after == 0] < 0.5).all(), kind
        assert torch.equal(after[before == 1], before[before == 1]), kind  # the object beside it


def test_crowds_alone_give_no_object_and_no_mask_to_learn():
    image, target = scene(objects=2)
    losses = losses_of(make(), (image, target | {"iscrowd": torch.tensor([True, True])}))
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_loc"] == 0


def test_what_a_crowd_is_of_changes_nothing():
    image, target = scene(objects=2)
    one = target | {"iscrowd": [False, True], "sampling_seed": 3}
    other = one | {"labels": torch.tensor([0, 4]), "masks": target["masks"][[0, 0]]}
    model = make()
    assert losses_of(model, (image, one)) == losses_of(model, (image, other))


def test_an_object_without_a_mask_takes_no_part_in_the_mask_loss_and_in_all_others():
    image, target = scene(objects=2)
    seeded = target | {"sampling_seed": 3}
    wrong = seeded | {"masks": torch.stack([target["masks"][0], ~target["masks"][1]])}
    model = make()
    plain, marked, nonsense = (
        losses_of(model, (image, t))
        for t in (seeded, seeded | {"has_mask": [True, False]}, wrong | {"has_mask": [1, 0]})
    )
    assert marked == nonsense and marked["loss_mask"] != plain["loss_mask"]
    assert all(marked[name] == plain[name] for name in plain if name != "loss_mask")
    assert losses_of(model, (image, seeded | {"has_mask": [False] * 2}))["loss_mask"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": [[8, 10, 40, 34], [48, 30, 80, 54]]},
        {"boxes": torch.tensor([[8, 10, 40, 34], [48, 30, 80, 54]])},
        {"boxes": torch.tensor([[8.0, 10, 40, 34], [48, 30, 80, 54]]).double()},
        {"boxes": torch.tensor([[8.0, 10, 40, 34], [48, 30, 80, 54]]).half()},
        {"labels": [0, 1]},
        {"labels": torch.tensor([0, 1], dtype=torch.uint8)},
        {"masks": scene()[1]["masks"].to(torch.uint8) * 255},
        {"masks": scene()[1]["masks"].double()},
        {"masks": scene()[1]["masks"].tolist()},
        {"iscrowd": [0, 0]},
    ],
    ids=["box lists", "int64", "float64", "float16", "label list", "uint8 labels", "uint8 masks",
         "float masks", "mask lists", "crowd list"],
)  # fmt: skip
def test_the_same_target_in_another_form_gives_the_same_losses(changes):
    image, target = scene()
    seeded = target | {"sampling_seed": 3}
    model = make()
    assert losses_of(model, (image, seeded | changes)) == losses_of(model, (image, seeded))


def test_an_image_in_double_precision_gives_the_same_losses():
    image, target = scene()
    seeded, model = target | {"sampling_seed": 3}, make()
    assert losses_of(model, (image.double(), seeded)) == losses_of(model, (image, seeded))


def test_a_box_over_the_border_is_clipped():
    image, target = scene()
    over, at = (target["boxes"].clone() for _ in range(2))
    over[0, 0], at[0, 0] = -40.0, 0.0
    first, second = ({**target, "boxes": b, "sampling_seed": 3} for b in (over, at))
    model = make()
    assert losses_of(model, (image, first)) == losses_of(model, (image, second))


def test_small_masks_pasted_are_the_masks_that_the_model_gives():
    model = make(weights="shapes", score_threshold=0.3).eval()
    scenes = ShapesDataset(2, seed=5, size=(96, 160), transform=eval_transform())
    images = [scenes[0][0], scenes[1][0][:, :70, 20:]]  # the latter cuts objects at its border
    with torch.no_grad():
        whole, small = model(images), model.detect(images)
    for a, b, image in zip(whole, small, images, strict=True):
        assert b["size"] == tuple(image.shape[1:]) and len(a["masks"])
        assert all(torch.equal(a[key], b[key]) for key in ("boxes", "labels", "scores"))
        for mask, logits, box in zip(a["masks"], b["mask_logits"], b["boxes"], strict=True):
            part, (y, x) = mask_in_box(logits, box, b["size"])
            pasted = torch.zeros_like(mask)
            pasted[y : y + part.shape[0], x : x + part.shape[1]] = part
            assert torch.equal(pasted, mask)


def test_the_sampling_seed_of_an_image_fixes_what_is_drawn():
    few = {"rpn_batch_size_per_image": 8, "roi_batch_size_per_image": 4}
    image, target = scene()

    def losses(sampling_seed, seed):
        return losses_of(make(**few), (image, target | {"sampling_seed": sampling_seed}), seed=seed)

    assert losses(5, seed=0) == losses(5, seed=1)
    assert losses(5, seed=0) != losses(6, seed=0)


def test_the_input_is_resized_flipped_and_normalised():
    model = make(min_size=64, max_size=100)
    image = torch.zeros(3, 32, 48)
    image[0] = 1.0  # pure red
    batch, sizes = model.preprocess([image, torch.zeros(3, 200, 100)])
    assert sizes == [(64, 96), (100, 50)]
    assert batch.shape == (2, 3, 100, 96)
    expected = torch.tensor([-103.53, -116.28, 255 - 123.675])  # blue, green, red
    torch.testing.assert_close(batch[0, :, 10, 10], expected)
    assert (batch[0, :, 64:] == 0).all() and (
        batch[1, :, :, 50:] == 0
    ).all()  # zeros after the mean


@pytest.mark.parametrize(
    "size, expected",
    [
        ((480, 640), (224, 299)),
        ((600, 800), (224, 299)),
        ((100, 400), (80, 320)),
        ((7, 9), (224, 288)),
    ],
)
def test_the_short_edge_is_224_unless_the_long_edge_were_over_320(size, expected):
    assert resized_size(size, 224, 320) == expected


def test_resize_false_leaves_the_size_alone():
    model = make(resize=False)
    assert model.preprocess([torch.zeros(3, 72, 56)])[1] == [(72, 56)]


def test_stages_can_be_read_by_name():
    model = make().eval()
    batch, sizes = model.preprocess([scene()[0]])
    with torch.no_grad():
        features = model.backbone(batch)
        proposals, _ = model.rpn([features[f] for f in model.rpn_features], sizes, None)
    assert list(features) == ["trunk0", "trunk1", "trunk2"]
    assert len(proposals[0].boxes) <= model.config.post_nms_topk[1]


def test_the_masks_of_the_predicted_class_are_the_slice_of_all_classes():
    head = make().roi_heads.mask_head.eval()
    features, boxes = (
        [torch.randn(1, 64, 16, 16)],
        [torch.tensor([[8.0, 8, 60, 60], [20, 4, 90, 90]])],
    )
    labels = torch.tensor([4, 1])
    with torch.no_grad():
        all_classes = head.mask_logits(head.body(head.pooler(features, boxes)))  # (2, 6, M, M)
        torch.testing.assert_close(
            head(features, boxes, labels), all_classes[[0, 1], labels], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("norm", ["BN", "GN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN"])
def test_every_norm_trains_and_detects(norm):
    model = make(norm=norm)
    losses = losses_of(model, scene(), scene(seed=1))
    assert all(value == value for value in losses.values())
    with torch.no_grad():
        model.eval()([scene()[0]])


KNOBS = {
    "anchor_sizes": (16, 32),
    "anchor_ratios": (1.0,),
    "rpn_iou_thresholds": (0.1, 0.4),
    "rpn_batch_size_per_image": 16,
    "rpn_positive_fraction": 0.01,
    "rpn_nms_threshold": 0.3,
    "pre_nms_topk": (20, 20),
    "post_nms_topk": (5, 5),
    "roi_iou_threshold": 0.3,
    "roi_batch_size_per_image": 8,
    "roi_positive_fraction": 0.05,
    "box_pooler_resolution": 4,
    "mask_pooler_resolution": 10,
    "box_class_agnostic": True,
    "mask_class_agnostic": True,
    "pooler_sampling_ratio": 1,
    "num_classes": 9,
    "min_size": 64,
    "max_size": 130,
    "resize": False,
    "norm": "GN",
}


@pytest.mark.parametrize("resolution", [1, 3, 13])
def test_an_odd_resolution_of_the_mask_pooler_trains_and_detects(resolution):
    model = make(mask_pooler_resolution=resolution, score_threshold=0.0)
    assert losses_of(model, scene(), scene(seed=1))["loss_mask"] > 0
    with torch.no_grad():
        (found,) = model.eval().detect([scene()[0]])
    assert found["mask_logits"].shape[1:] == (2 * (resolution + 1),) * 2


TEST_KNOBS = {"score_threshold": 0.2, "nms_threshold": 0.9, "detections_per_image": 3}


@pytest.mark.parametrize("field", KNOBS)
def test_every_training_knob_changes_the_losses(field):
    scenes = [scene((96, 160)), scene((96, 160), seed=1)]
    plain = losses_of(make(), *scenes)
    assert losses_of(make(), *scenes) == plain  # the comparison below is not noise
    assert losses_of(make(**{field: KNOBS[field]}), *scenes) != plain


@pytest.mark.parametrize("field", TEST_KNOBS)
def test_every_detection_knob_changes_the_detections(field):
    image = scene()[0]

    def detect(**overrides):
        with torch.no_grad():
            return make(**({"score_threshold": 0.1} | overrides)).eval()([image])[0]["boxes"]

    assert detect().tolist() == detect().tolist()
    assert detect().tolist() != detect(**{field: TEST_KNOBS[field]}).tolist()


def test_one_box_and_one_mask_for_all_classes_need_one_row_and_are_every_class_s():
    model = make(box_class_agnostic=True, mask_class_agnostic=True, score_threshold=0.1).eval()
    box_head, mask_head = model.roi_heads.box_head, model.roi_heads.mask_head
    assert box_head.bbox_pred.out_features == 4 and mask_head.mask_logits.out_channels == 1
    features = [torch.randn(1, 64, 16, 16)]
    proposals = [torch.tensor([[0.0, 0, 50, 50], [20, 20, 60, 90]])]
    logits, deltas = box_head(features, proposals)
    assert logits.shape == (2, 7) and deltas.shape == (2, 1, 4)
    config = model.config.override(score_threshold=0.0, nms_threshold=1.0)
    found = select_detections(logits, deltas, proposals[0], (128, 128), config)
    assert len(found.boxes) == 12  # each proposal as each class, at one place
    assert len({tuple(box) for box in found.boxes.tolist()}) == 2
    with torch.no_grad():
        masks = [mask_head(features, proposals, torch.tensor([k, k])) for k in range(6)]
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_freeze_stages_freezes_the_first_stages(capsys):
    model = make(freeze_stages=2).train()
    trainable = {name for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert all(name.startswith("trunk2.") for name in trainable) and trainable
    assert "trunk0" in capsys.readouterr().out
    before = model.backbone.trunk0[0].norm.running_mean.clone()
    losses_of(model, scene())
    assert torch.equal(model.backbone.trunk0[0].norm.running_mean, before)


def test_every_field_is_covered_by_these_tests():
    assert {f.name for f in fields(fl.DetectorConfig)} == {*KNOBS, *TEST_KNOBS, "freeze_stages"}


IMPOSSIBLE = [
    ({"norm": "LN"}, r"norm='LN' is impossible; allowed: .*GN"),
    ({"num_classes": 0}, "num_classes=0"),
    ({"rpn_iou_thresholds": (0.7, 0.3)}, r"rpn_iou_thresholds=\(0.7, 0.3\).*low <= high"),
    ({"rpn_iou_thresholds": 0.5}, "rpn_iou_thresholds=0.5.*tuple"),
    ({"rpn_positive_fraction": 1.5}, "rpn_positive_fraction=1.5.*0 to 1"),
    ({"pre_nms_topk": (1000,)}, r"pre_nms_topk=\(1000,\).*\(train, test\)"),
    ({"anchor_sizes": (32, -1)}, "anchor_sizes"),
    ({"anchor_sizes": ((32,), (64,))}, "anchor_sizes has 2 levels, the model has 1"),
    ({"freeze_stages": 4}, "freeze_stages=4 is impossible; allowed: 0 to 3"),
    ({"min_size": 300}, "max_size=256 is impossible; allowed: at least min_size, 300"),
    ({"score_threshold": float("nan")}, "score_threshold=nan"),
    ({"resize": 1}, "resize=1.*True or False"),
    ({"box_pooler_resolution": 6.5}, "box_pooler_resolution=6.5"),
    ({"pooling": 6}, "unknown field 'pooling'; allowed are num_classes"),
]


@pytest.mark.parametrize("overrides, message", IMPOSSIBLE)
def test_an_impossible_value_names_field_value_and_what_is_allowed(overrides, message):
    with pytest.raises(ValueError, match=message):
        fl.create_model(TINY, **overrides)


def test_an_unknown_model_lists_the_known():
    with pytest.raises(ValueError, match="unknown model 'fbnet'; known are d2go/faster_rcnn"):
        fl.create_model("fbnet")
    assert fl.list_models("lesson/*") == ["lesson/classifier_tiny", "lesson/faster_rcnn_tiny", TINY]
    assert len(fl.list_models("d2go/*")) == 6


def broken(**changes):
    image, target = scene()
    return image, target | changes


BAD_TARGETS = [
    (
        broken(boxes=torch.tensor([[5.0, 5, 5, 9], [0, 0, 9, 9]])),
        r"targets\[0\]\['boxes'\]\[0\] is",
    ),
    (broken(boxes=torch.zeros(2, 5)), r"shape \(2, 5\); expected \[N, 4\]"),
    (broken(labels=torch.tensor([0])), r"'labels'\] has shape \(1,\); expected \[2\]"),
    (broken(labels=torch.tensor([0, 6])), "labels'] run from 0 to 6; allowed: 0 to 5"),
    (broken(masks=torch.zeros(2, 9, 9, dtype=torch.bool)), r"masks'\] has shape \(2, 9, 9\)"),
    (broken(boxes=torch.tensor([[0.1, 0.1, 0.5, 0.5]] * 2)), "within 0..1.*multiply x by 128"),
    (broken(boxes=torch.tensor([[0.0, 0, 9, 9], [-9, -9, -1, -1]])), "boxes'.*1. is .*outside"),
    (broken(boxes=torch.tensor([[0.0, 0, 9, float("nan")]] * 2)), "boxes'.*0. is .*nan"),
    (broken(boxes=[[1, 2, 3], [4, 5, 6]]), r"shape \(2, 3\); expected \[N, 4\]"),
    (broken(boxes=[[1, 2, 3, 4], [5]]), "'boxes'.: no tensor of this list"),
    (broken(boxes="1 2 3 4"), "'boxes'.: no tensor of this str"),
    (broken(labels=torch.tensor([0.0, 1.0])), "labels'. are torch.float32; expected int64"),
    (broken(labels=["disc", "ring"]), "'labels'.: no tensor of this list"),
    (broken(iscrowd=[0]), r"'iscrowd'. has shape \(1,\); expected \[2\]"),
    (broken(has_mask=[1, 1, 1]), r"'has_mask'. has shape \(3,\); expected \[2\]"),
    (broken(labels=torch.tensor([1j, 0])), "'labels'. holds complex numbers"),
    (broken(masks=torch.full((2, 96, 128), torch.nan)), "'masks'. holds NaN; expected bool"),
    (broken(sampling_seed="seven"), "'sampling_seed'. is 'seven'; invalid literal"),
    ((scene()[0], []), r"targets\[0\] is list; expected a dict"),
]


@pytest.mark.parametrize("pair, message", BAD_TARGETS)
def test_a_bad_target_is_named(pair, message):
    with pytest.raises(ValueError, match=message):
        losses_of(make(), pair)


def test_bad_images_are_named():
    model = make().eval()
    with pytest.raises(ValueError, match=r"images\[1\] is torch.uint8; expected floats"):
        model([torch.zeros(3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(ValueError, match=r"images\[0\] has shape \(1, 8, 8\)"):
        model([torch.zeros(1, 8, 8)])
    with pytest.raises(ValueError, match=r"images\[0\] is ndarray; expected a float tensor"):
        model([torch.zeros(3, 8, 8).numpy()])
    with pytest.raises(ValueError, match=r"images\[1\] runs from 0 to 255; expected 0..1"):
        model([torch.zeros(3, 8, 8), torch.linspace(0, 255, 192).reshape(3, 8, 8)])
    with pytest.raises(ValueError, match=r"images\[0\] runs from -2 to 2; expected 0..1"):
        model([torch.linspace(-2, 2, 192).reshape(3, 8, 8)])
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match=r"images\[0\] holds NaN or infinite values"):
            model([torch.full((3, 8, 8), value)])
    with pytest.raises(ValueError, match="images is one tensor"):
        model(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="images is NoneType; expected a list"):
        model(None)
    with pytest.raises(ValueError, match="images is empty"):
        model([])
    with pytest.raises(ValueError, match="training mode needs targets"):
        model.train()([torch.zeros(3, 8, 8)])
    with pytest.raises(ValueError, match=r"targets\[0\] has no 'masks'"):
        model([torch.zeros(3, 8, 8)], [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}])


def test_candidates_that_are_not_finite_are_left_out():
    rpn = make().rpn.eval()
    (anchors,) = rpn.anchors([torch.zeros(1, 1, 4, 4)])
    logits, deltas = torch.zeros(1, len(anchors)), torch.zeros(1, len(anchors), 4)
    plain = rpn.candidates([anchors], [(logits, deltas)], [(64, 64)])[0]
    logits[0, 20], deltas[0, 21, 2] = float("inf"), float("nan")
    (found,) = rpn.candidates([anchors], [(logits, deltas)], [(64, 64)])
    assert found.boxes.isfinite().all() and found.logits.isfinite().all()
    assert len(found.boxes) == len(plain.boxes) - 2


def test_mask_targets_are_cropped_in_the_pixels_of_the_given_image(monkeypatch):
    """The network sees the image twice as large; the masks stay as they were given."""
    from fbnet_lesson.detection import detector

    seen = []

    def record(masks, index, boxes, resolution):
        seen.append(boxes)
        return crop_masks(masks, index, boxes, resolution)

    crop_masks = detector.crop_masks
    monkeypatch.setattr(detector, "crop_masks", record)
    model = fl.create_model("lesson/mask_rcnn_tiny", min_size=128, max_size=128).train()
    box = torch.tensor([[8.0, 16, 40, 56]])
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 16:56, 8:40] = True
    model([torch.rand(3, 64, 64)], [{"boxes": box, "labels": torch.tensor([0]), "masks": masks}])
    (boxes,) = seen
    assert (boxes == box).all(1).any()  # the ground truth is among the proposals
