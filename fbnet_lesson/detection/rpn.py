"""Region proposal network: where might an object be? (Faster R-CNN, arXiv 1506.01497, sec. 3.1)"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fbnet_lesson.detection.anchors import AnchorGenerator
from fbnet_lesson.detection.boxes import (
    box_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    nonempty,
)
from fbnet_lesson.detection.config import DetectorConfig
from fbnet_lesson.detection.losses import average_over_workers, rpn_losses
from fbnet_lesson.detection.matching import match, sample, spare_crowds
from fbnet_lesson.detection.nms import batched_nms
from fbnet_lesson.trunk import build_stage

WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of dx, dy, dw, dh


@dataclass
class Proposals:
    """The proposals of one image, by falling objectness: ``boxes`` [R, 4], ``logits`` [R]."""

    boxes: Tensor
    logits: Tensor
    levels: Tensor  # [R] which feature map each comes from


class RPNHead(nn.Module):
    """A few blocks, then for each anchor of each cell one objectness logit and four deltas.

    The same weights on every level: ``[N, C, H, W] -> [N, A, H, W]`` and ``[N, 4 A, H, W]``, the
    channels of the latter anchor by anchor ``dx, dy, dw, dh``.
    """

    def __init__(self, rows: str, in_channels: int, anchors_per_cell: int, norm: str):
        super().__init__()
        self.feature, channels, _ = build_stage(rows, in_channels, norm)
        self.cls_logits = nn.Conv2d(channels, anchors_per_cell, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * anchors_per_cell, 1)
        for conv in (self.cls_logits, self.bbox_pred):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = [], []
        for feature in features:
            x = self.feature(feature)
            logits.append(self.cls_logits(x))
            deltas.append(self.bbox_pred(x))
        return logits, deltas


def flatten_predictions(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Head outputs in the order of ``grid_anchors``: y slowest, then x, then anchor.

    Args: ``logits`` [N, A, H, W]; ``deltas`` [N, 4 A, H, W], the channels anchor by anchor
    ``dx, dy, dw, dh``. Returns ``[N, H*W*A]`` and ``[N, H*W*A, 4]``.
    """
    n, a, h, w = logits.shape
    logits = logits.permute(0, 2, 3, 1).reshape(n, h * w * a)  # (N, H, W, A) ->
    deltas = deltas.reshape(n, a, 4, h, w).permute(0, 3, 4, 1, 2)  # (N, H, W, A, 4)
    return logits, deltas.reshape(n, h * w * a, 4)


class RPN(nn.Module):
    """Anchors, head, and the way from their outputs to proposals and to losses."""

    def __init__(self, rows: str, in_channels: int, strides: list[int], config: DetectorConfig):
        super().__init__()
        self.anchors = AnchorGenerator(config.anchor_sizes, config.anchor_ratios, strides)
        self.head = RPNHead(rows, in_channels, self.anchors.per_cell, config.norm)
        self.config = config

    def forward(
        self, features: list[Tensor], sizes: list[tuple[int, int]], targets: list[dict] | None
    ) -> tuple[list[Proposals], dict[str, Tensor]]:
        """Proposals for each image, and in training mode the losses.

        Args: ``features`` one [N, C, H_l, W_l] a level; ``sizes`` N (height, width) in pixels,
        without padding; ``targets`` N dicts with ``boxes`` [G, 4] (training mode).
        """
        anchors = self.anchors(features)  # one [A_l, 4] a level
        predictions = [flatten_predictions(*p) for p in zip(*self.head(features), strict=True)]
        losses = {}
        if targets is not None:
            logits = torch.cat([p[0] for p in predictions], 1)  # (N, A)
            deltas = torch.cat([p[1] for p in predictions], 1)  # (N, A, 4)
            losses = self.losses(torch.cat(anchors), logits, deltas, targets)
        with torch.no_grad():
            candidates = self.candidates(anchors, predictions, sizes)
            return [self.suppress(c) for c in candidates], losses

    def candidates(
        self,
        anchors: list[Tensor],
        predictions: list[tuple[Tensor, Tensor]],
        sizes: list[tuple[int, int]],
    ) -> list[Proposals]:
        """Before NMS: each level's ``pre_nms_topk`` best anchors, decoded and clipped.

        Boxes that are empty or not finite are left out.
        """
        most = self.config.pre_nms_topk[0 if self.training else 1]
        boxes, logits, levels = [], [], []
        for level, (level_anchors, (level_logits, level_deltas)) in enumerate(
            zip(anchors, predictions, strict=True)
        ):
            best, index = level_logits.topk(min(most, level_logits.shape[1]), dim=1)  # (N, k)
            chosen = level_deltas.gather(1, index[..., None].expand(-1, -1, 4))  # (N, k, 4)
            boxes.append(decode_boxes(chosen, level_anchors[index], WEIGHTS))
            logits.append(best)
            levels.append(torch.full_like(index[0], level))
        boxes, logits, levels = torch.cat(boxes, 1), torch.cat(logits, 1), torch.cat(levels)
        result = []
        for image_boxes, image_logits, size in zip(boxes, logits, sizes, strict=True):
            finite = image_boxes.isfinite().all(1) & image_logits.isfinite()
            image_boxes = clip_boxes(image_boxes, size)
            keep = finite & nonempty(image_boxes)
            result.append(Proposals(image_boxes[keep], image_logits[keep], levels[keep]))
        return result

    def suppress(self, candidates: Proposals) -> Proposals:
        """After NMS within each level: the ``post_nms_topk`` best of all levels."""
        keep = batched_nms(
            candidates.boxes,
            candidates.logits,
            candidates.levels,
            self.config.rpn_nms_threshold,
            max_output_size=self.config.post_nms_topk[0 if self.training else 1],
        )
        return Proposals(candidates.boxes[keep], candidates.logits[keep], candidates.levels[keep])

    def losses(
        self, anchors: Tensor, logits: Tensor, deltas: Tensor, targets: list[dict]
    ) -> dict[str, Tensor]:
        """``anchors`` [A, 4], ``logits`` [N, A], ``deltas`` [N, A, 4] of all levels."""
        config = self.config
        sampled, labels, positives, target_deltas = [], [], [], []
        for i, target in enumerate(targets):
            matched, anchor_labels = match(
                box_iou(target["boxes"], anchors),
                *config.rpn_iou_thresholds,
                allow_low_quality=True,
            )
            if "crowds" in target:
                anchor_labels = spare_crowds(
                    anchor_labels, anchors, target["crowds"], *config.rpn_iou_thresholds, True
                )
            positive, background = sample(
                anchor_labels,
                config.rpn_batch_size_per_image,
                config.rpn_positive_fraction,
                target.get("generator"),
            )
            chosen = torch.cat([positive, background])
            sampled.append(chosen + i * len(anchors))
            labels.append(anchor_labels[chosen])
            positives.append(positive + i * len(anchors))
            target_deltas.append(
                encode_boxes(target["boxes"][matched[positive]], anchors[positive], WEIGHTS)
                if len(positive)
                else anchors.new_zeros(0, 4)
            )
        images = average_over_workers(len(targets), logits.device)
        return rpn_losses(
            logits.flatten()[torch.cat(sampled)],
            torch.cat(labels),
            deltas.flatten(0, 1)[torch.cat(positives)],
            torch.cat(target_deltas),
            config.rpn_batch_size_per_image * images,
        )
