"""The whole detector: image -> trunk -> RPN -> ROI heads -> detections in the image's pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_lesson.detection.architectures import DetectionArch
from fbnet_lesson.detection.box_head import WEIGHTS as BOX_WEIGHTS
from fbnet_lesson.detection.box_head import BoxHead, Detections, select_detections
from fbnet_lesson.detection.boxes import (
    box_iou,
    clip_boxes,
    encode_boxes,
    nonempty,
    scale_boxes,
)
from fbnet_lesson.detection.config import DetectorConfig
from fbnet_lesson.detection.losses import box_losses, mask_loss
from fbnet_lesson.detection.mask_head import MaskHead, binary_masks, crop_masks
from fbnet_lesson.detection.matching import match, sample
from fbnet_lesson.detection.rpn import RPN
from fbnet_lesson.trunk import FPN, Trunk

PIXEL_MEAN = (103.53, 116.28, 123.675)  # of COCO, blue green red, 0..255; the std is left at 1


def resized_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """(height, width) after the short edge became ``min_size``, or the long edge ``max_size``.

    Halves are rounded up; never under one pixel.
    """
    scale = min(min_size / min(size), max_size / max(size))
    height, width = (max(1, int(edge * scale + 0.5)) for edge in size)
    return height, width


class ROIHeads(nn.Module):
    """What happens to each proposal: box head, and mask head where the model has one."""

    def __init__(self, arch: DetectionArch, channels: int, strides: list[int], masks: bool, config):
        super().__init__()
        self.box_head = BoxHead(arch.bbox, channels, strides, config)
        self.mask_head = MaskHead(arch.mask, channels, strides, config) if masks else None
        self.config = config

    def sample(self, proposals: list[Tensor], targets: list[dict]) -> list[dict]:
        """Which proposals are learned from, and as what.

        The ground truth is appended to the proposals, so that there are positives from the first
        step on. Returns for each image ``boxes`` [S, 4], ``labels`` [S] (K = background),
        ``matched`` [S] (index of the ground truth) and ``positives``, how many of the S, the
        first ones, are objects.
        """
        config, threshold = self.config, self.config.roi_iou_threshold
        samples = []
        for boxes, target in zip(proposals, targets, strict=True):
            boxes = torch.cat([boxes, target["boxes"]])
            matched, labels = match(box_iou(target["boxes"], boxes), threshold, threshold)
            positive, background = sample(
                labels,
                config.roi_batch_size_per_image,
                config.roi_positive_fraction,
                target.get("generator"),
            )
            chosen = torch.cat([positive, background])
            classes = torch.full_like(chosen, config.num_classes)
            classes[: len(positive)] = target["labels"][matched[positive]]
            samples.append(
                {
                    "boxes": boxes[chosen],
                    "labels": classes,
                    "matched": matched[chosen],
                    "positives": len(positive),
                }
            )
        return samples

    def losses(
        self, features: list[Tensor], proposals: list[Tensor], targets: list[dict]
    ) -> dict[str, Tensor]:
        """``proposals`` N tensors [R_i, 4]; ``targets`` as ``Detector.forward`` prepares them."""
        samples = self.sample(proposals, targets)
        class_logits, deltas = self.box_head(features, [s["boxes"] for s in samples])
        labels = torch.cat([s["labels"] for s in samples])
        foreground = (labels < self.config.num_classes).nonzero().flatten()
        box = 0 if self.config.box_class_agnostic else labels[foreground]
        positives = [s["boxes"][: s["positives"]] for s in samples]
        matched = [s["matched"][: s["positives"]] for s in samples]
        truth = torch.cat([t["boxes"][m] for t, m in zip(targets, matched, strict=True)])
        losses = box_losses(
            class_logits,
            labels,
            deltas[foreground, box],
            encode_boxes(truth, torch.cat(positives), BOX_WEIGHTS),
        )
        if self.mask_head is not None:
            logits = self.mask_head(features, positives, labels[foreground])
            crops = [
                crop_masks(t["masks"], m, b / t["scale"], self.mask_head.resolution)
                for t, m, b in zip(targets, matched, positives, strict=True)
            ]
            losses |= mask_loss(logits, torch.cat(crops))
        return losses

    def detect(
        self, features: list[Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """Detections of each image in pixels of the network's input, with mask logits."""
        counts = [len(p) for p in proposals]
        class_logits, deltas = self.box_head(features, proposals)
        detections = [
            select_detections(*per_image, self.config)
            for per_image in zip(
                class_logits.split(counts), deltas.split(counts), proposals, sizes, strict=True
            )
        ]
        if self.mask_head is not None:
            labels = torch.cat([d.labels for d in detections])
            logits = self.mask_head(features, [d.boxes for d in detections], labels)
            per_image = logits.split([len(d.labels) for d in detections])
            for detection, mask_logits in zip(detections, per_image, strict=True):
                detection.mask_logits = mask_logits
        return detections


class Detector(nn.Module):
    """FBNetV3OD (Faster R-CNN), or FBNetV3IS (Mask R-CNN) with ``masks=True``.

    Args:
        arch: the rows of trunk and heads.
        config: all knobs.
        masks: with a mask head.
        fpn: a feature pyramid p2..p6 on the trunk; else its last stage alone ("C4").
        name: what ``create_model`` calls it.
        trunk: in the place of the one that ``arch`` describes; its rows are then not read.

    Source: Mask R-CNN (arXiv 1703.06870); the detectors of FBNetV3 as published in d2go.
    """

    def __init__(
        self,
        arch: DetectionArch,
        config: DetectorConfig,
        masks: bool = False,
        fpn: bool = False,
        name: str = "",
        trunk: Trunk | None = None,
    ):
        super().__init__()
        self.config, self.name = config, name
        if trunk is None:
            trunk = Trunk(arch.trunk, config.norm)
        if not 0 <= config.freeze_stages <= len(trunk.stages):
            raise ValueError(
                f"freeze_stages={config.freeze_stages} is impossible; "
                f"allowed: 0 to {len(trunk.stages)}, the stages of the trunk"
            )
        if fpn:
            self.backbone = FPN(trunk, norm=config.norm)
            self.rpn_features = list(self.backbone.channels)  # p2 .. p6
            self.roi_features = self.rpn_features[1:]  # p3 .. p6
        else:
            self.backbone = trunk
            self.rpn_features = self.roi_features = [list(trunk.channels)[-1]]
        channels = self.backbone.channels[self.rpn_features[0]]
        strides = self.backbone.strides
        self.rpn = RPN(arch.rpn, channels, [strides[f] for f in self.rpn_features], config)
        self.roi_heads = ROIHeads(
            arch, channels, [strides[f] for f in self.roi_features], masks, config
        )
        mean = torch.tensor(PIXEL_MEAN)[:, None, None]
        self.register_buffer("pixel_mean", mean, persistent=False)
        # 1x1 convolutions and norms read a pixel's channels together: a fifth off a training step.
        self.to(memory_format=torch.channels_last)

    @property
    def trunk(self) -> Trunk:
        """The stages, whether or not a pyramid stands on them."""
        return getattr(self.backbone, "trunk", self.backbone)

    @property
    def has_masks(self) -> bool:
        return self.roi_heads.mask_head is not None

    def forward(
        self, images: list[Tensor], targets: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: float RGB [3, H, W] in 0..1, of any sizes.
            targets: for each image ``boxes`` [G, 4] xyxy in its pixels, ``labels`` [G] int64 in
                0..K-1, ``masks`` [G, H, W] bool (if the model has a mask head); optional
                ``iscrowd`` [G] (those are left out of training) and ``sampling_seed``, a number
                that fixes which anchors and proposals are drawn for this image.

        Returns:
            Training mode: ``loss_rpn_cls, loss_rpn_loc, loss_cls, loss_box_reg`` and, with a mask
            head, ``loss_mask``. Evaluation mode: a dict an image, ``boxes`` [D, 4], ``labels``
            [D], ``scores`` [D] by falling score and ``masks`` [D, H, W] bool, in the pixels of
            the image that was given.

        Raises ValueError that names the image (and box) for anything else.
        """
        check_images(images)
        batch, sizes = self.preprocess(images)
        if self.training:
            if targets is None:
                raise ValueError("training mode needs targets; call .eval() for detections")
            originals = [tuple(image.shape[1:]) for image in images]
            targets = prepare_targets(targets, originals, sizes, self.config, self.has_masks)
        else:
            targets = None
        features = self.backbone(batch)
        rpn_features = [features[name] for name in self.rpn_features]
        roi_features = [features[name] for name in self.roi_features]
        proposals, losses = self.rpn(rpn_features, sizes, targets)
        boxes = [p.boxes for p in proposals]
        if targets is not None:
            return losses | self.roi_heads.losses(roi_features, boxes, targets)
        detections = self.roi_heads.detect(roi_features, boxes, sizes)
        return [
            postprocess(d, size, tuple(image.shape[1:]))
            for d, size, image in zip(detections, sizes, images, strict=True)
        ]

    def preprocess(self, images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Resize, flip to BGR, subtract the mean, pad with zeros into one batch.

        Returns ``[N, 3, H, W]`` and each image's (height, width) in it. H and W are the largest
        of the batch, rounded up to a multiple of 32 where there is a pyramid.
        """
        resized, sizes = [], []
        for image in images:
            size = tuple(image.shape[1:])
            if self.config.resize:
                size = resized_size(size, self.config.min_size, self.config.max_size)
            if size != tuple(image.shape[1:]):
                image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
            resized.append(image.flip(0) * 255 - self.pixel_mean)
            sizes.append(size)
        height, width = (max(edge) for edge in zip(*sizes, strict=True))
        step = getattr(self.backbone, "size_divisibility", 1)
        height, width = -(-height // step) * step, -(-width // step) * step
        batch = [
            F.pad(image, (0, width - w, 0, height - h))
            for image, (h, w) in zip(resized, sizes, strict=True)
        ]
        return torch.stack(batch).contiguous(memory_format=torch.channels_last), sizes


def postprocess(
    detections: Detections, from_size: tuple[int, int], to_size: tuple[int, int]
) -> dict[str, Tensor]:
    """Detections in another size of the picture, masks pasted; empty boxes are left out."""
    boxes = clip_boxes(scale_boxes(detections.boxes, from_size, to_size), to_size)
    keep = nonempty(boxes)
    result = {
        "boxes": boxes[keep],
        "labels": detections.labels[keep],
        "scores": detections.scores[keep],
    }
    if detections.mask_logits is not None:
        result["masks"] = binary_masks(detections.mask_logits[keep], boxes[keep], to_size)
    return result


def check_images(images: list[Tensor]) -> None:
    """ValueError unless ``images`` is a list of float [3, H, W] tensors."""
    if isinstance(images, Tensor) and images.dim() == 3:
        raise ValueError("images is one tensor; expected a list of [3, H, W] tensors")
    if len(images) == 0:
        raise ValueError("images is empty; expected at least one [3, H, W] tensor")
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"images[{i}] has shape {tuple(image.shape)}; expected [3, H, W]")
        if not image.is_floating_point():
            raise ValueError(
                f"images[{i}] is {image.dtype}; expected floats in 0..1 (divide by 255)"
            )


def prepare_targets(
    targets: list[dict],
    originals: list[tuple[int, int]],
    sizes: list[tuple[int, int]],
    config: DetectorConfig,
    with_masks: bool,
) -> list[dict]:
    """Check each target, leave out crowds, scale its boxes to the network's input.

    Adds ``scale`` [4], network pixels per mask pixel, and ``generator`` from ``sampling_seed``.
    """
    if len(targets) != len(originals):
        raise ValueError(f"{len(targets)} targets for {len(originals)} images")
    prepared = []
    for i, (target, original, size) in enumerate(zip(targets, originals, sizes, strict=True)):
        check_target(target, i, original, config, with_masks)
        keep = slice(None)
        if "iscrowd" in target:
            keep = ~torch.as_tensor(target["iscrowd"], dtype=torch.bool)
        boxes = target["boxes"][keep]
        ready = {
            "boxes": scale_boxes(boxes, original, size).as_subclass(Tensor),
            "labels": target["labels"][keep],
            "scale": scale_boxes(boxes.new_ones(1, 4), original, size).as_subclass(Tensor),
        }
        if with_masks:
            ready["masks"] = target["masks"][keep].as_subclass(Tensor)
        if "sampling_seed" in target:
            ready["generator"] = torch.Generator().manual_seed(int(target["sampling_seed"]))
        prepared.append(ready)
    return prepared


def check_target(
    target: dict, i: int, size: tuple[int, int], config: DetectorConfig, with_masks: bool
) -> None:
    """ValueError that names the image, the entry and the box for a target that cannot be."""
    wanted = ("boxes", "labels", "masks") if with_masks else ("boxes", "labels")
    for key in wanted:
        if key not in target:
            raise ValueError(f"targets[{i}] has no {key!r}; it needs {', '.join(wanted)}")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"targets[{i}]['boxes'] has shape {tuple(boxes.shape)}; expected [N, 4]")
    if labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"targets[{i}]['labels'] has shape {tuple(labels.shape)}; expected [{len(boxes)}]"
        )
    bad = ~(nonempty(boxes) & boxes.isfinite().all(1))
    if bad.any():
        n = int(bad.nonzero()[0])
        raise ValueError(
            f"targets[{i}]['boxes'][{n}] is {boxes[n].tolist()}; expected x1 < x2 and y1 < y2"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < config.num_classes:
        raise ValueError(
            f"targets[{i}]['labels'] run from {int(labels.min())} to {int(labels.max())}; "
            f"allowed: 0 to {config.num_classes - 1}"
        )
    if with_masks and tuple(target["masks"].shape) != (len(boxes), *size):
        raise ValueError(
            f"targets[{i}]['masks'] has shape {tuple(target['masks'].shape)}; "
            f"expected {[len(boxes), *size]}"
        )
