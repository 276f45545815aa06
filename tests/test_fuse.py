"""Fused models: the same numbers from fewer operations."""

import copy
import shutil

import pytest
import torch
from torch import nn

import fbnet_lesson as fl
from fbnet_lesson.blocks import ConvNormAct, InvertedResidual
from fbnet_lesson.deploy.fuse import FusedMaskHead
from fbnet_lesson.norms import NORMS


def stir(model: nn.Module) -> nn.Module:
    """Numbers as after training: statistics, factors and offsets that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1 and tensor.is_floating_point() and "mean" not in name:
            offset = 0.0 if name.endswith("bias") else 1.0
            tensor.copy_(offset + 0.2 * torch.rand(tensor.shape, generator=generator))
        elif name.endswith("running_mean"):
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    """Equal within 1e-5 of the largest value."""
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5 * float(reference.abs().max()))


@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("stride", [1, 2, -2])
def test_a_fused_block_computes_the_same(norm, stride):
    block = stir(InvertedResidual(16, 16, 5, stride, 3, se=True, norm=norm, bare_depthwise=False))
    fused = fl.fuse(block)
    x = torch.randn(2, 16, 9, 7)
    with torch.no_grad():
        close(fused(x), block(x))
    folded = [m for m in fused.modules() if isinstance(m, ConvNormAct) and not hasattr(m, "norm")]
    assert len(folded) == (0 if norm == "GN" else 3)  # GN looks at its input and stays


def test_a_bias_before_the_norm_is_folded_too():
    block = stir(ConvNormAct(3, 8, 3, 2, bias=True))
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        close(fl.fuse(block)(x), block(x))


@pytest.mark.parametrize("name", ["timm/fbnetc_100", "mobile_cv/dmasking_l3"])
def test_a_fused_classifier_computes_the_same(name):
    model = stir(fl.create_model(name))
    fused = fl.fuse(model)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        close(fused(x), model(x))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


def test_the_model_that_is_fused_stays_as_it_was():
    model = fl.create_model("lesson/mask_rcnn_tiny").train()
    before = copy.deepcopy(model.state_dict())
    fused = fl.fuse(model)
    assert model.training and not fused.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in fused.parameters())


@pytest.mark.parametrize("name", ["lesson/mask_rcnn_tiny", "d2go/mask_rcnn_fbnetv3a_dsmask_C4"])
def test_a_fused_detector_finds_the_same(name):
    torch.manual_seed(0)
    model = stir(fl.create_model(name, score_threshold=0.0, detections_per_image=30))
    nn.init.normal_(model.roi_heads.mask_head.mask_logits.weight, std=0.1)
    fused = fl.fuse(model)
    assert isinstance(fused.roi_heads.mask_head, FusedMaskHead)
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (theirs,), (ours,) = model([image]), fused([image])
        assert len(theirs["boxes"]) == 30
        close(ours["boxes"], theirs["boxes"])
        close(ours["scores"], theirs["scores"])
        assert torch.equal(ours["labels"], theirs["labels"])
        assert (ours["masks"] != theirs["masks"]).float().mean() < 1e-4  # a pixel at one half
        batch, _ = model.preprocess([image])
        features = [model.backbone(batch)[name] for name in model.roi_features]
        for head in (model.roi_heads.mask_head, fused.roi_heads.mask_head):
            assert not head.training
        arguments = features, [theirs["boxes"]], theirs["labels"]
        close(fused.roi_heads.mask_head(*arguments), model.roi_heads.mask_head(*arguments))


def test_the_shipped_weights_find_the_same_shapes_when_fused():
    from fbnet_lesson.data import ShapesDataset, eval_transform

    model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes").eval()
    image, _ = ShapesDataset(1, seed=150, size=(128, 128), transform=eval_transform())[0]
    with torch.no_grad():
        (theirs,), (ours,) = model([image]), fl.fuse(model)([image])
    assert len(theirs["boxes"]) > 0
    torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=0, atol=1e-3)


def test_without_a_linear_end_the_mask_head_is_kept():
    model = fl.create_model("lesson/mask_rcnn_tiny", norm="GN")
    assert not isinstance(fl.fuse(model).roi_heads.mask_head, FusedMaskHead)


def test_a_fused_model_has_masks_for_no_box_too():
    model = fl.fuse(fl.create_model("lesson/mask_rcnn_tiny", score_threshold=1.0))
    with torch.no_grad():
        (found,) = model([torch.rand(3, 64, 64)])
    assert found["masks"].shape == (0, 64, 64)


def test_masks_made_in_parts_are_those_made_at_once(monkeypatch):
    model = stir(fl.create_model("lesson/mask_rcnn_tiny"))
    head, features = model.roi_heads.mask_head, [torch.randn(2, 64, 16, 16)]
    corner = torch.rand(2, 7, 2) * 60
    boxes = list(torch.cat([corner, corner + 30], 2))
    labels = torch.arange(14) % 3
    with torch.no_grad():
        at_once = head.class_logits(head.pooler(features, boxes), labels)
        monkeypatch.setattr("fbnet_lesson.detection.mask_head.ROIS", 3)
        close(head(features, boxes, labels), at_once)


COMPILED = ("backbone", "rpn.head", "roi_heads.box_head.body", "roi_heads.mask_head.body")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fused", [False, True])
def test_trunk_and_heads_compile_without_a_break(backend, fused):
    if backend == "inductor" and shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    torch.manual_seed(0)
    model = stir(fl.create_model("lesson/mask_rcnn_tiny", score_threshold=0.0))
    model = fl.fuse(model) if fused else model
    compiled = copy.deepcopy(model)
    for name in COMPILED:
        parent, _, child = name.rpartition(".")
        part = torch.compile(compiled.get_submodule(name), fullgraph=True, backend=backend)
        setattr(compiled.get_submodule(parent), child, part)
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (plain,), (ours,) = model([image]), compiled([image])
    close(ours["boxes"], plain["boxes"])
    close(ours["scores"], plain["scores"])
    assert torch.equal(ours["labels"], plain["labels"])
