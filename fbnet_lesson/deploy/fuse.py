"""A model for inference: norms folded away, and with them whatever else is only linear."""

import copy

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fbnet_lesson.blocks import ConvNormAct, InvertedResidual, UpsampledDepthwise
from fbnet_lesson.detection.mask_head import MaskHead
from fbnet_lesson.norms import FrozenBN


def fuse(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode that computes the same (to 1e-5) with less work.

    In evaluation a batch norm multiplies each channel and adds to it, and so does the convolution
    before it: the two become one. Then the mask head's last block and its predictor are one linear
    map too, see ``FusedMaskHead``. GN looks at the input and stays as it is.

    The copy cannot be trained: its parameters need no gradient, and their names are its own.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(fused.modules()):
        if isinstance(module, ConvNormAct):
            fold_norm(module)
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MaskHead) and FusedMaskHead.can_replace(child):
                setattr(parent, name, FusedMaskHead(child).eval())
    return fused


def fold_norm(block: ConvNormAct) -> None:
    """Put the norm's factor and offset into the convolution's weight and bias, in place.

    ``w' = w · weight / √(var + ε)``, ``b' = (b − mean) · weight / √(var + ε) + bias``.
    """
    norm = getattr(block, "norm", None)
    if not isinstance(norm, (nn.BatchNorm2d, FrozenBN)):  # SyncBN and naiveSyncBN are BatchNorm2d
        return
    conv = block.conv
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    del block.norm


class FusedMaskHead(MaskHead):
    """The mask head without the channels that only the other classes' masks would need.

    Behind the last ReLU everything is linear: doubling, depthwise, projection P to C channels, and
    the row of the ROI's class in the predictor, ``w``. Instead of C maps, each of them a sum over
    the D channels before, this takes the one map with the weights ``w P``: D numbers instead of
    C · D for each pixel. With the depthwise kernels multiplied in, that is for each cell of the
    small map one matrix product to k x k numbers, which are then added where they belong.
    """

    @staticmethod
    def can_replace(head: MaskHead) -> bool:
        """Whether the last block is linear behind its ReLU: bare depthwise, no SE, norm folded."""
        last = head.body[-1] if len(head.body) else None
        return (
            isinstance(last, InvertedResidual)
            and isinstance(last.dw.conv, UpsampledDepthwise)
            and last.se is None
            and last.dw.conv.bias is None
            and len(last.dw) == len(last.pwl) == 1
            and last.groups == 1
        )

    def __init__(self, head: MaskHead):
        nn.Module.__init__(self)
        *blocks, last = head.body
        self.pooler, self.class_agnostic = head.pooler, head.class_agnostic
        self.body = nn.Sequential(*blocks, last.pw or nn.Identity())
        project, predict = last.pwl.conv, head.mask_logits
        rows = predict.weight.flatten(1) @ project.weight.flatten(1)  # (K, C) @ (C, D) -> (K, D)
        widened = last.dw.conv.widened()  # (D, 1, k, k)
        self.kernel_size, self.padding = widened.shape[-1], last.dw.conv.padding
        self.register_buffer("kernels", rows[..., None] * widened.flatten(1))  # (K, D, k * k)
        self.register_buffer(
            "bias", predict.weight.flatten(1) @ project.bias + predict.bias
        )  # (K,)

    def class_logits(self, pooled: Tensor, labels: Tensor) -> Tensor:
        x = self.body(pooled)  # (R, D, H, W)
        columns = self.kernels[labels].transpose(1, 2) @ x.flatten(2)  # (R, k * k, H * W)
        size = (2 * x.shape[2], 2 * x.shape[3])
        logits = F.fold(columns, size, self.kernel_size, padding=self.padding, stride=2)
        return logits.squeeze(1) + self.bias[labels][:, None, None]
