"""Box head: which class is in a proposal, and where exactly? (FBNetV3OD)"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_lesson.detection.boxes import clip_boxes, decode_boxes
from fbnet_lesson.detection.config import DetectorConfig
from fbnet_lesson.detection.nms import batched_nms
from fbnet_lesson.detection.roi_align import Pooler
from fbnet_lesson.trunk import build_stage

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of dx, dy, dw, dh: proposals are near, so their deltas small


@dataclass
class Detections:
    """The detections of one image by falling score, in pixels of the network's input."""

    boxes: Tensor  # [D, 4]
    scores: Tensor  # [D] in 0..1
    labels: Tensor  # [D] int64
    proposal_index: Tensor  # [D] which proposal each comes from
    mask_logits: Tensor | None = None  # [D, M, M], in the box


class BoxHead(nn.Module):
    """Pool, a few blocks, mean over the cells, then K + 1 class logits and K boxes a ROI.

    With ``box_class_agnostic`` there is one box a ROI, whatever its class (arXiv 1605.06409,
    sec. 2).
    """

    def __init__(self, rows: str, in_channels: int, strides: list[int], config: DetectorConfig):
        super().__init__()
        self.pooler = Pooler(config.box_pooler_resolution, strides, config.pooler_sampling_ratio)
        self.body, channels, _ = build_stage(rows, in_channels, config.norm)
        self.cls_score = nn.Linear(channels, config.num_classes + 1)
        boxes = 1 if config.box_class_agnostic else config.num_classes
        self.bbox_pred = nn.Linear(channels, 4 * boxes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """``features`` one [N, C, H_l, W_l] a level, ``boxes`` N tensors [R_i, 4] in pixels.

        Returns class logits ``[R, K + 1]`` (background last) and deltas ``[R, K, 4]``, or
        ``[R, 1, 4]`` of one box for all classes; R = sum of R_i.
        """
        x = self.body(self.pooler(features, boxes))  # (R, C, 3, 3)
        x = F.avg_pool2d(x, x.shape[2:]).flatten(1)  # (R, C); gradients stay channels last
        deltas = self.bbox_pred(x)
        return self.cls_score(x), deltas.reshape(len(x), deltas.shape[1] // 4, 4)


def select_detections(
    class_logits: Tensor,
    deltas: Tensor,
    proposals: Tensor,
    size: tuple[int, int],
    config: DetectorConfig,
) -> Detections:
    """From the head's output on one image to its detections.

    Args: ``class_logits`` [R, K + 1], ``deltas`` [R, K, 4] or [R, 1, 4], ``proposals`` [R, 4].
    """
    boxes = decode_boxes(deltas, proposals[:, None], WEIGHTS)  # (R, K, 4), or (R, 1, 4)
    boxes = boxes.expand(-1, config.num_classes, -1)
    return filter_detections(boxes, class_logits.softmax(-1), size, config)


def filter_detections(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], config: DetectorConfig
) -> Detections:
    """Every (proposal, class) pair whose score is over ``score_threshold`` is a candidate; NMS per
    class; the ``detections_per_image`` best. Rows that are not finite are left out.

    Args: ``boxes`` [R, K, 4], ``scores`` [R, K + 1], the background last.
    """
    finite = boxes.isfinite().flatten(1).all(1) & scores.isfinite().all(1)
    candidate = (scores[:, :-1] > config.score_threshold) & finite[:, None]
    row, label = candidate.nonzero(as_tuple=True)
    boxes, scores = clip_boxes(boxes[row, label], size), scores[row, label]
    keep = batched_nms(
        boxes, scores, label, config.nms_threshold, max_output_size=config.detections_per_image
    )
    return Detections(boxes[keep], scores[keep], label[keep], row[keep])
