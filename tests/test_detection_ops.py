"""Our operators against torchvision's compiled ones, on random and on degenerate inputs."""

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import expand_boxes, paste_masks_in_image

from fbnet_lesson.detection.anchors import AnchorGenerator, cell_anchors, grid_anchors
from fbnet_lesson.detection.box_head import filter_detections
from fbnet_lesson.detection.boxes import box_iou, decode_boxes, encode_boxes
from fbnet_lesson.detection.config import DetectorConfig
from fbnet_lesson.detection.mask_head import binary_masks, crop_masks, paste_masks
from fbnet_lesson.detection.matching import match, sample
from fbnet_lesson.detection.nms import BLOCK, batched_nms, nms
from fbnet_lesson.detection.roi_align import Pooler, assign_levels, roi_align

# Halves of small integers make ties, boxes without area and IoUs exactly at a threshold common.
coordinate = st.integers(-4, 40).map(lambda v: v / 2)
extent = st.sampled_from([0.0, 0.5, 1.0, 3.0, 4.0, 8.0, 20.0])
thresholds = st.sampled_from([0.0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.7, 0.9, 1.0])


@st.composite
def boxes(draw, most=30, area=False):
    rows = draw(st.lists(st.tuples(coordinate, coordinate, extent, extent), max_size=most))
    x1, y1, w, h = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4).unbind(1)
    least = 0.5 if area else 0.0
    return torch.stack([x1, y1, x1 + w.clamp(min=least), y1 + h.clamp(min=least)], 1)


def random_boxes(count: int, seed: int, side: float = 300.0, size: float = 90.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * size], 1)


@given(boxes(), boxes())
def test_iou_equals_torchvisions(a, b):
    theirs = torchvision.ops.box_iou(a, b).nan_to_num(0.0)  # 0 / 0 of two empty boxes
    torch.testing.assert_close(box_iou(a, b), theirs, rtol=0, atol=1e-6)


@given(boxes(), thresholds, st.data())
def test_nms_keeps_what_torchvision_keeps(b, threshold, data):
    scores = data.draw(st.lists(st.integers(0, 5), min_size=len(b), max_size=len(b)))
    scores = torch.tensor(scores, dtype=torch.float32)
    assert torch.equal(nms(b, scores, threshold), torchvision.ops.nms(b, scores, threshold))


@given(boxes(), thresholds, st.data())
def test_batched_nms_keeps_what_torchvision_keeps(b, threshold, data):
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(b), max_size=len(b)))
    groups = torch.tensor(groups, dtype=torch.int64)
    scores = torch.tensor(data.draw(st.permutations(range(len(b)))), dtype=torch.float32)
    theirs = torch.cat(
        [g[torchvision.ops.nms(b[g], scores[g], threshold)] for g in map(_where(groups), range(3))]
    )
    theirs = theirs[scores[theirs].argsort(descending=True)]
    assert torch.equal(batched_nms(b, scores, groups, threshold), theirs)


def _where(groups):
    return lambda group: (groups == group).nonzero().flatten()


@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 1, 2000, 6000])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms_of_many_boxes_keeps_what_torchvision_keeps(count, threshold):
    b = random_boxes(count, seed=count)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(1)).mul(500).round() / 500
    groups = torch.arange(count) % 7
    assert torch.equal(nms(b, scores, threshold), torchvision.ops.nms(b, scores, threshold))
    theirs = torchvision.ops.boxes._batched_nms_vanilla(b, scores, groups, threshold)
    ours = batched_nms(b, scores, groups, threshold)
    assert set(ours.tolist()) == set(theirs.tolist())
    assert scores[ours].tolist() == scores[theirs].tolist()


@pytest.mark.parametrize(
    "sizes",
    [[25] * 80, [1000] * 5, [600] + [5] * 79, [BLOCK, 1, BLOCK + 1], [3, 700, 2, 700, 1]],
    ids=["many small", "few large", "one large of many", "around a block", "large between small"],
)
def test_groups_of_any_sizes_keep_what_torchvision_keeps(sizes):
    """Both ways to the answer, groups side by side and block after block."""
    count = sum(sizes)
    shuffle = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[shuffle] - 2
    b, scores = random_boxes(count, seed=7), torch.randperm(count).float()
    theirs = torchvision.ops.boxes._batched_nms_vanilla(b, scores, groups, 0.4)
    assert torch.equal(batched_nms(b, scores, groups, 0.4), theirs)


@pytest.mark.parametrize("at_most", [0, 1, 10, 100, 5000])
def test_at_most_so_many_are_the_first_of_all_that_are_kept(at_most):
    b, scores = random_boxes(2000, seed=4), torch.rand(2000)
    b[:1500], scores[:1500] = b[0], 2.0  # of the best 1500 one a group is kept: too few
    groups = torch.arange(2000) % 2
    kept = batched_nms(b, scores, groups, 0.5)
    assert 200 < len(kept) < 600
    assert torch.equal(batched_nms(b, scores, groups, 0.5, at_most), kept[:at_most])
    assert torch.equal(nms(b, scores, 0.5, at_most), nms(b, scores, 0.5)[:at_most])


def test_a_box_exactly_at_the_threshold_is_kept():
    b = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU 1/2
    scores = torch.tensor([0.9, 0.8])
    assert nms(b, scores, 0.5).tolist() == [0, 1]
    assert nms(b, scores, 0.4999).tolist() == [0]


def test_exactly_at_the_threshold_a_box_of_a_later_block_is_kept_too():
    far = torch.arange(3.0 * BLOCK)[:, None] * 20 + torch.tensor([100.0, 0, 110, 10])
    b = torch.cat([torch.tensor([[0.0, 0, 10, 10]]), far, torch.tensor([[0.0, 0, 10, 5]])])
    scores = torch.linspace(1, 0, len(b))
    assert nms(b, scores, 0.5).tolist() == list(range(len(b)))
    assert nms(b, scores, 0.4999).tolist() == list(range(len(b) - 1))


def test_boxes_without_area_suppress_nothing_in_any_block():
    points = torch.tensor([[5.0, 5, 5, 5]]).repeat(3 * BLOCK, 1)
    assert len(nms(points, torch.rand(len(points)), 0.5)) == len(points)


def test_the_threshold_is_not_rounded_up_to_the_next_float():
    # IoU 3/10 in float32 is 0.3000000119, over 0.3: the box goes.
    b = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 3]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(b, scores, 0.3).tolist() == torchvision.ops.nms(b, scores, 0.3).tolist() == [0]


def test_a_score_exactly_at_the_threshold_is_no_detection():
    config = DetectorConfig(num_classes=1, score_threshold=0.5)
    b = torch.tensor([[[0.0, 0, 10, 10]], [[20, 0, 30, 10]]])  # two proposals, one class
    found = filter_detections(b, torch.tensor([[0.5, 0.5], [0.75, 0.25]]), (40, 40), config)
    assert found.proposal_index.tolist() == [1]


def test_equal_scores_keep_the_first():
    b = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]])
    assert nms(b, torch.tensor([0.5, 0.5]), 0.5).tolist() == [0]


def test_nms_says_what_does_not_fit():
    with pytest.raises(ValueError, match=r"boxes \(2, 4\), scores \(3,\)"):
        nms(torch.zeros(2, 4), torch.zeros(3), 0.5)


roi = st.tuples(
    st.floats(-30, 120, width=32),
    st.floats(-30, 120, width=32),
    st.floats(-10, 150, width=32),
    st.floats(-10, 150, width=32),
)


@given(
    st.lists(roi, max_size=6),
    st.lists(roi, max_size=3),
    st.sampled_from([1, 2, (3, 2), 6, 14]),
    st.sampled_from([0, 1, 2, 3]),
    st.booleans(),
    st.sampled_from([1.0, 0.25, 1 / 16]),
)
def test_roi_align_equals_torchvisions(first, second, size, ratio, aligned, scale):
    rois = []
    for rows in (first, second):
        x, y, w, h = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4).unbind(1)
        rois.append(torch.stack([x, y, x + w, y + h], 1))
    features = torch.randn(
        2, 3, 9, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    ours_in, theirs_in = features.clone().requires_grad_(), features.clone().requires_grad_()
    ours = roi_align(ours_in, rois, size, scale, ratio, aligned)
    theirs = torchvision.ops.roi_align(theirs_in, rois, size, scale, ratio, aligned)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    weights = torch.randn(theirs.shape, dtype=torch.float64)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=0, atol=1e-5)


def test_roi_align_in_single_precision_equals_torchvisions():
    features = torch.randn(2, 16, 14, 20, generator=torch.Generator().manual_seed(0))
    rois = [random_boxes(60, seed=1), random_boxes(40, seed=2)]
    for size in (6, 14):
        ours = roi_align(features, rois, size, 1 / 16)
        theirs = torchvision.ops.roi_align(features, rois, size, 1 / 16, 0, True)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_roi_turned_inside_out_is_what_it_is_for_torchvision():
    features = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    rois = [torch.tensor([[10.0, 9, 2, 1], [8, 1, 3, 9]])]
    ours = roi_align(features, rois, 2, 1.0, sampling_ratio=3)
    theirs = torchvision.ops.roi_align(features, rois, 2, 1.0, 3, True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_many_rois_are_pooled_in_parts_like_few(monkeypatch):
    features = torch.randn(2, 4, 14, 20, generator=torch.Generator().manual_seed(0))
    rois = [random_boxes(31, seed=1), random_boxes(10, seed=2)]
    at_once = roi_align(features, rois, 6, 1 / 16)
    monkeypatch.setattr("fbnet_lesson.detection.roi_align.TAPS", 3000)
    torch.testing.assert_close(roi_align(features, rois, 6, 1 / 16), at_once, rtol=0, atol=1e-6)


def test_each_roi_is_pooled_from_its_own_level():
    levels = [torch.full((2, 1, 256 // 2**i, 256 // 2**i), float(i)) for i in range(4)]
    sides = torch.tensor([900.0, 100, 300, 120, 500])
    boxes = [torch.stack([0 * s, 0 * s, s, s], 1) for s in sides.split([3, 2])]
    expected = assign_levels(torch.cat(boxes), 2, 5).tolist()
    pooled = Pooler(2, [4, 8, 16, 32])([level + 1 for level in levels], boxes)
    assert len(set(expected)) > 2
    inside = pooled[:, 0, 0, 0]
    assert inside.tolist() == pytest.approx([level + 1 for level in expected], abs=1e-3)


def test_roi_align_in_half_precision_knows_where_its_boxes_are():
    ramp = torch.arange(400.0).expand(1, 1, 8, 400) / 400  # grows by 1/400 a cell
    boxes = [torch.tensor([[1301.0, 2, 1309, 20], [1305.0, 2, 1313, 20]])]
    exact = roi_align(ramp, boxes, 2, 1 / 4)
    half = roi_align(ramp.bfloat16(), boxes, 2, 1 / 4).float()
    torch.testing.assert_close(half, exact, rtol=1 / 128, atol=0)  # bfloat16 keeps eight bits


def test_roi_align_says_when_images_and_boxes_differ_in_number():
    with pytest.raises(ValueError, match="1 lists of boxes for 2 images"):
        roi_align(torch.zeros(2, 1, 4, 4), [torch.zeros(0, 4)], 2, 1.0)


@given(boxes(most=8, area=True), st.sampled_from([5, 14]))
def test_pasted_masks_equal_torchvisions_in_the_same_geometry(b, side):
    """torchvision pads the mask by one cell, widens the box accordingly and rounds it to whole
    pixels, the last one included. Given that geometry, the pixels must agree."""
    masks = torch.rand(len(b), 1, side, side, generator=torch.Generator().manual_seed(3))
    size = (30, 40)
    theirs = paste_masks_in_image(masks, b, size, padding=1)[:, 0]
    padded = torch.nn.functional.pad(masks, (1, 1, 1, 1))[:, 0]
    whole = expand_boxes(b, (side + 2) / side).to(torch.int64).float()
    whole[:, 2:] += 1
    ours = paste_masks(padded, whole, size)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@given(boxes(most=8))
def test_pasted_masks_equal_grid_sampling(b):
    masks = torch.rand(len(b), 6, 6, generator=torch.Generator().manual_seed(3))
    height, width = 30, 40
    ours = paste_masks(masks, b, (height, width))
    for mask, box, pasted in zip(masks, b, ours, strict=True):
        x1, y1, x2, y2 = box.tolist()
        if x2 <= x1 or y2 <= y1:
            assert not pasted.any()
            continue
        y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
        x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]
        sampled = torch.nn.functional.grid_sample(mask[None, None], grid, align_corners=False)
        torch.testing.assert_close(pasted, sampled[0, 0], rtol=0, atol=1e-5)


def test_a_pixel_of_probability_one_half_belongs_to_the_mask():
    box = torch.tensor([[4.0, 2, 20, 10]])
    mask = binary_masks(torch.zeros(1, 8, 8), box, (16, 32))[0]  # a logit of 0 is one half
    # At the border of the box the zeros around it are mixed in.
    assert mask[4:8, 6:18].all() and mask.sum() < 2 * 16 * 8


def test_many_masks_are_pasted_in_parts_like_few(monkeypatch):
    b, logits = random_boxes(7, seed=5, side=20, size=15), torch.randn(7, 4, 4)
    at_once = binary_masks(logits, b, (32, 48))
    monkeypatch.setattr("fbnet_lesson.detection.mask_head.CHUNK", 2 * 32 * 48)
    assert torch.equal(binary_masks(logits, b, (32, 48)), at_once)


def test_mask_targets_equal_torchvisions_roi_align_of_the_mask():
    masks = torch.zeros(2, 40, 50, dtype=torch.bool)
    masks[0, 5:30, 10:40] = True
    masks[1, 20:35, 0:20] = True
    b, index = random_boxes(20, seed=8, side=20, size=30) + 0.5, torch.arange(20) % 2
    rois = torch.cat([index[:, None].float(), b], 1)
    theirs = torchvision.ops.roi_align(masks[:, None].float(), rois, 28, 1.0, 0, True)[:, 0] >= 0.5
    assert torch.equal(crop_masks(masks, index, b, 28), theirs)


@given(boxes(area=True), boxes(area=True))
def test_decoding_undoes_encoding(a, b):
    count = min(len(a), len(b))
    anchors, targets = a[:count], b[:count]
    deltas = encode_boxes(targets, anchors, (10.0, 10.0, 5.0, 5.0))
    back = decode_boxes(deltas, anchors, (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(back, targets, rtol=0, atol=1e-3)


def test_a_delta_without_measure_grows_a_box_to_at_most_62_and_a_half_times():
    box = decode_boxes(
        torch.tensor([[0.0, 0, 50, 0]]), torch.tensor([[0.0, 0, 16, 16]]), (1.0,) * 4
    )
    assert box[0, 2] - box[0, 0] == pytest.approx(1000.0)


def test_anchors_stand_on_multiples_of_the_stride_x_before_y():
    cells = cell_anchors((32.0,), (0.5, 1.0, 2.0))
    widths, heights = cells[:, 2] - cells[:, 0], cells[:, 3] - cells[:, 1]
    torch.testing.assert_close(heights / widths, torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close((heights * widths).sqrt(), torch.full((3,), 32.0))
    grid = grid_anchors(cells, (2, 3), stride=16)
    centres = (grid[:, :2] + grid[:, 2:]) / 2
    assert centres[::3].tolist() == [[0, 0], [16, 0], [32, 0], [0, 16], [16, 16], [32, 16]]


def test_anchors_of_a_shape_are_computed_once():
    generator = AnchorGenerator(((16.0,),), (1.0,), [8])
    features = [torch.zeros(1, 1, 4, 5)]
    assert generator(features)[0] is generator(features)[0]
    assert generator([torch.zeros(1, 1, 5, 4)])[0].shape == (20, 4)


def test_between_the_thresholds_an_anchor_is_ignored():
    iou = torch.tensor([[0.2999, 0.3, 0.6999, 0.7]])
    assert match(iou, 0.3, 0.7)[1].tolist() == [0, -1, -1, 1]


def test_the_best_anchor_of_a_ground_truth_is_positive_below_the_threshold_too():
    iou = torch.tensor([[0.1, 0.2, 0.0], [0.8, 0.0, 0.0]])
    assert match(iou, 0.3, 0.7, allow_low_quality=True)[1].tolist() == [1, 1, 0]
    assert match(iou, 0.3, 0.7)[1].tolist() == [1, 0, 0]


def test_a_ground_truth_that_overlaps_nothing_claims_nothing():
    iou = torch.tensor([[0.0, 0.0, 0.0]])
    assert match(iou, 0.3, 0.7, allow_low_quality=True)[1].tolist() == [0, 0, 0]


def test_a_fraction_of_a_sample_is_rounded_down():
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    positive, background = sample(labels, 7, 0.5)  # 3.5 are half
    assert (len(positive), len(background)) == (3, 4)


def test_without_ground_truth_everything_is_background():
    matched, labels = match(torch.zeros(0, 3), 0.3, 0.7, allow_low_quality=True)
    assert matched.tolist() == labels.tolist() == [0, 0, 0]


def test_sampling_fills_up_with_background_and_never_takes_the_ignored():
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, -1, -1])
    positive, background = sample(labels, batch_size=4, positive_fraction=0.5)
    assert len(positive) == 2 and len(background) == 2
    assert (labels[positive] == 1).all() and (labels[background] == 0).all()
    positive, background = sample(labels[3:], batch_size=4, positive_fraction=0.5)
    assert len(positive) == 1 and len(background) == 3


def test_the_same_generator_draws_the_same_sample():
    labels = torch.arange(100) % 3 - 1
    draws = [sample(labels, 10, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.cat(draws[0]), torch.cat(draws[1]))
    assert not torch.equal(torch.cat(draws[0]), torch.cat(draws[2]))
