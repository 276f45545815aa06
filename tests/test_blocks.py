"""Blocks, the notation of the architectures, and the trunks that are built from it."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fbnet_lesson.blocks import (
    ConvNormAct,
    InvertedResidual,
    SqueezeExcite,
    UpsampledDepthwise,
    channel_shuffle,
    count_macs,
    count_parameters,
    round_channels,
)
from fbnet_lesson.detection.architectures import DETECTION_ARCHS
from fbnet_lesson.rows import parse_rows
from fbnet_lesson.trunk import FPN, Trunk, build_stage

FACTS = Path(__file__).parents[2] / "shared" / "facts" / "detection_archs.json"


@pytest.mark.parametrize(
    "wish, rounded", [(3, 8), (8, 8), (42, 40), (84, 88), (100.8, 104), (160, 160), (276, 280)]
)
def test_channels_are_rounded_to_eights_halves_up(wish, rounded):
    assert round_channels(wish) == rounded


def test_rounding_never_loses_more_than_five_percent():
    assert round_channels(11) == 16  # 8 would be 0.73 of the wish
    assert all(round_channels(c) >= 0.95 * c for c in range(1, 400))


def run(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return block.eval()(x)


@pytest.mark.parametrize("stride, side", [(1, 9), (2, 5), (-2, 18)])
def test_the_stride_sets_the_side(stride, side):
    block = InvertedResidual(8, 16, kernel=5, stride=stride, expansion=3)
    assert run(block, torch.zeros(2, 8, 9, 9)).shape == (2, 16, side, side)


def test_the_block_is_its_parts_in_order():
    block = InvertedResidual(8, 8, kernel=3, expansion=4, se=True).eval()
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        y = torch.relu(block.pw.norm(block.pw.conv(x)))
        y = block.dw.conv(y)  # bare: neither norm nor activation
        gate = torch.relu(block.se.reduce(y.mean((2, 3), keepdim=True)))
        y = y * torch.sigmoid(block.se.expand(gate))
        expected = x + block.pwl.norm(block.pwl.conv(y))
    torch.testing.assert_close(run(block, x), expected)


def test_upsampling_comes_between_the_expansion_and_the_depthwise():
    block = InvertedResidual(8, 16, kernel=3, stride=-2, expansion=2).eval()
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        y = block.pw(x).repeat_interleave(2, 2).repeat_interleave(2, 3)
        expected = block.pwl(F.conv2d(y, block.dw.conv.weight, padding=1, groups=16))
    torch.testing.assert_close(run(block, x), expected)


def test_expansion_one_has_no_expanding_convolution():
    block = InvertedResidual(16, 24, expansion=1)
    assert block.pw is None and block.dw.conv.in_channels == 16


def test_the_identity_is_added_only_where_shapes_agree():
    assert InvertedResidual(8, 8).residual
    for other in (InvertedResidual(8, 16), InvertedResidual(8, 8, stride=2)):
        assert not other.residual
    assert not InvertedResidual(8, 8, stride=-2).residual


def test_a_depthwise_that_is_not_bare_has_norm_and_activation():
    block = InvertedResidual(8, 8, expansion=2, bare_depthwise=False)
    assert [name for name, _ in block.dw.named_children()] == ["conv", "norm", "act"]
    assert [name for name, _ in block.pwl.named_children()] == ["conv", "norm"]


def test_grouped_blocks_shuffle_so_that_groups_mix():
    torch.manual_seed(0)
    block = InvertedResidual(8, 8, expansion=2, groups=2).eval()
    x = torch.randn(1, 8, 4, 4)
    other = x.clone()
    other[:, :4] += 1  # only the first group's input changes
    with torch.no_grad():
        changed = (block(other) - block(x)).abs().amax((0, 2, 3)) > 1e-6
    assert changed[4:].any()


def test_a_grouped_block_without_expansion_shuffles_its_input():
    block = InvertedResidual(8, 16, expansion=1, groups=2).eval()
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        expected = block.pwl(block.dw(channel_shuffle(x, 2)))
    torch.testing.assert_close(run(block, x), expected)


def test_activation_and_gate_are_those_asked_for():
    hard = {"act": nn.Hardswish, "gate": nn.Hardsigmoid}
    block = InvertedResidual(8, 16, expansion=2, se=5, bare_depthwise=False, **hard).eval()
    x = 3 * torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        y = F.hardswish(block.pw.norm(block.pw.conv(x)))
        y = F.hardswish(block.dw.norm(block.dw.conv(y)))
        squeezed = F.hardswish(block.se.reduce(y.mean((2, 3), keepdim=True)))
        assert squeezed.shape[1] == 5
        expected = block.pwl(y * F.hardsigmoid(block.se.expand(squeezed)))
    torch.testing.assert_close(run(block, x), expected)


def test_biases_padding_divisor_and_the_kept_expansion_are_options():
    block = InvertedResidual(10, 16, 5, 2, 1.3, bias=True, padding=1, divisor=1)
    assert block.dw.conv.in_channels == 13
    assert all(part.conv.bias is not None for part in (block.pw, block.dw, block.pwl))
    assert run(block, torch.zeros(1, 10, 28, 28)).shape == (1, 16, 13, 13)
    kept = InvertedResidual(8, 8, expansion=1, keep_pw=True)
    assert kept.pw.conv.weight.shape == (8, 8, 1, 1)


def test_channel_shuffle_interleaves_the_groups():
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert channel_shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_groups_that_do_not_divide_a_width_are_refused():
    with pytest.raises(ValueError, match="groups 3 must divide all widths: 9 in, 32 in the middle"):
        InvertedResidual(9, 12, expansion=3, groups=3)
    with pytest.raises(ValueError, match="8 in, 8 in the middle, 9 out"):
        InvertedResidual(8, 9, groups=2)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_the_upsampled_depthwise_is_nearest_doubling_then_the_convolution(kernel):
    torch.manual_seed(kernel)
    conv = UpsampledDepthwise(6, 6, kernel, padding=kernel // 2, groups=6).double()
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(
        F.interpolate(x, scale_factor=2.0, mode="nearest"),
        conv.weight,
        conv.bias,
        padding=kernel // 2,
        groups=6,
    )
    ours = conv(x)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    grad = torch.randn_like(plain)
    inputs = (x, conv.weight, conv.bias)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(plain, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_upsampling_is_for_depthwise_convolutions():
    with pytest.raises(ValueError, match="stride -2 needs a depthwise convolution; found 8"):
        ConvNormAct(8, 16, 3, stride=-2)


@pytest.mark.parametrize(
    "arguments, named", [({"stride": 3}, "stride 3"), ({"kernel": 4}, "kernel 4")]
)
def test_an_impossible_block_is_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        InvertedResidual(8, 8, **arguments)


def test_parameters_and_macs_are_those_counted_by_hand():
    block = InvertedResidual(8, 16, kernel=3, expansion=4)
    weights = 8 * 32 + 32 * 9 + 32 * 16
    assert count_parameters(block) == weights + 2 * 32 + 2 * 16  # two norms
    assert count_macs(block.eval(), torch.zeros(1, 8, 10, 10)) == weights * 100
    assert count_parameters(SqueezeExcite(16, 8)) == 16 * 8 + 8 + 8 * 16 + 16
    assert count_parameters(ConvNormAct(3, 4, 3, bias=True, norm=None)) == 3 * 4 * 9 + 4


def test_rows_read_like_the_papers_tables():
    first, second = parse_rows("conv_k3 16 s2; ir_k5_se 112 x5 s-2 e3.5")
    assert (first.op, first.kernel, first.channels, first.stride, first.repeat) == (
        "conv",
        3,
        16,
        2,
        1,
    )
    assert (second.se, second.repeat, second.stride, second.expansion) == (True, 5, -2, 3.5)
    assert (second.hard_gate, second.hard_swish, second.groups, second.padding) == (
        False,
        False,
        1,
        None,
    )


def test_rows_of_classifiers_have_hard_activations_groups_padding_skips_and_a_pooling_head():
    hard, grouped, skip, pool = parse_rows(
        "ir_k5_sehsig_hs 72 s2 e5 p0; ir_k3_g2 72 e1; skip 80; ir_pool_hs 1984 e6"
    )
    assert (hard.se, hard.hard_gate, hard.hard_swish, hard.padding) == (True, True, True, 0)
    assert (grouped.groups, grouped.se, grouped.hard_swish) == (2, False, False)
    assert (skip.op, skip.channels, skip.stride) == ("skip", 80, 1)
    assert (pool.op, pool.channels, pool.expansion, pool.hard_swish) == ("ir_pool", 1984, 6, True)


@pytest.mark.parametrize(
    "row", ["ir_k3 e4", "ir 16", "skip_k3 16", "ir_k3_hsig 16", "ir_k3_hs_se 8"]
)
def test_a_row_that_cannot_be_read_is_named(row):
    with pytest.raises(ValueError, match=f"cannot read the row '{row}'"):
        parse_rows(f"ir_k3 16; {row}")


def test_a_skip_is_the_identity_or_a_convolution_to_another_width():
    stage, channels, _ = build_stage("skip 16; skip 24", 16, "BN")
    assert isinstance(stage[0], nn.Identity) and channels == 24
    stage, x = stage.eval(), torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        expected = torch.relu(stage[1].norm(F.conv2d(x, stage[1].conv.weight)))
    torch.testing.assert_close(run(stage, x), expected)


def test_only_the_first_of_repeated_blocks_has_the_stride():
    stage, channels, stride = build_stage("ir_k3 24 x3 s2 e2", 16, "BN")
    assert [block.dw.conv.stride[0] for block in stage] == [2, 1, 1]
    assert (channels, stride) == (24, 2)
    assert build_stage("ir_k3 24 s2; ir_k3 24 s-2; ir_k3 24 s-2", 16, "BN")[2] == 0.5


def test_only_the_first_of_repeated_blocks_has_the_padding():
    stage, _, _ = build_stage("ir_k5 24 x2 s2 e2 p1", 16, "BN")
    assert [block.dw.conv.padding for block in stage] == [(1, 1), (2, 2)]


@pytest.mark.skipif(not FACTS.exists(), reason="the published tables (../shared) are not here")
def test_the_architectures_are_the_published_ones():
    published = json.loads(FACTS.read_text())
    assert set(DETECTION_ARCHS) - set(published) == {"lesson_tiny"}
    for name, parts in published.items():
        for part in ("trunk", "rpn", "bbox", "mask", "kpts"):
            ours = getattr(DETECTION_ARCHS[name], part)
            if part not in parts:
                assert ours is None, (name, part)
                continue
            ours = ours if part == "trunk" else [ours]
            read = [
                [
                    (
                        f"{r.op}_k{r.kernel}" + "_se" * r.se,
                        r.channels,
                        r.stride,
                        r.repeat,
                        r.expansion,
                    )
                    for r in parse_rows(stage)
                ]
                for stage in ours
            ]
            theirs = [
                [
                    (r["op"], r["channels"], r["stride"], r["repeat"], r.get("expansion", 1))
                    for r in stage
                ]
                for stage in parts[part]
            ]
            assert read == theirs, (name, part)


@pytest.mark.parametrize("name", DETECTION_ARCHS)
def test_every_trunk_runs_and_says_its_channels_and_strides(name):
    trunk = Trunk(DETECTION_ARCHS[name].trunk)
    features = run(trunk, torch.zeros(1, 3, 64, 64))
    for stage, feature in features.items():
        side = 64 // trunk.strides[stage]
        assert feature.shape == (1, trunk.channels[stage], side, side)


def test_the_pyramid_has_five_levels_of_one_width():
    fpn = FPN(Trunk(DETECTION_ARCHS["FBNetV3_G_fpn"].trunk), channels=32)
    features = run(fpn, torch.randn(1, 3, 64, 96))
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    for level, stride in fpn.strides.items():
        assert features[level].shape == (1, 32, -(-64 // stride), -(-96 // stride))
    assert torch.equal(features["p6"], features["p5"][:, :, ::2, ::2])
