"""The whole detector: image -> trunk -> RPN -> ROI heads -> detections in the image's pixels."""

from typing import Any

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
from fbnet_lesson.detection.matching import match, sample, spare_crowds
from fbnet_lesson.detection.rpn import RPN, Proposals
from fbnet_lesson.trunk import FPN, Trunk

SLACK = 0.01  # by which a pixel may leave 0..1: what rounding and resizing add
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
            if "crowds" in target:
                labels = spare_crowds(labels, boxes, target["crowds"], threshold, threshold)
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
            classes = list(labels[foreground].split([len(b) for b in positives]))
            for i, target in enumerate(targets):
                if "has_mask" in target:
                    shown = target["has_mask"][matched[i]]
                    positives[i], matched[i] = positives[i][shown], matched[i][shown]
                    classes[i] = classes[i][shown]
            logits = self.mask_head(features, positives, torch.cat(classes))
            crops = [
                crop_masks(t["masks"], m, b / t["scale"], logits.shape[1])
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
                0..K-1, ``masks`` [G, H, W] bool (if the model has a mask head), as tensors of any
                dtype or as lists; optional ``iscrowd`` [G] (their regions are left out of
                training), ``has_mask`` [G] (where False, the mask is not learned from) and
                ``sampling_seed``, a number that fixes which anchors and proposals are drawn for
                this image. A box that reaches over the border is clipped.

        Returns:
            Training mode: ``loss_rpn_cls, loss_rpn_loc, loss_cls, loss_box_reg`` and, with a mask
            head, ``loss_mask``. Evaluation mode: a dict an image, ``boxes`` [D, 4], ``labels``
            [D], ``scores`` [D] by falling score and ``masks`` [D, H, W] bool, in the pixels of
            the image that was given.

        Raises ValueError that names the image (and box) for anything else.
        """
        if not self.training:
            return [with_whole_masks(found) for found in self.detect(images)]
        if targets is None:
            raise ValueError("training mode needs targets; call .eval() for detections")
        check_images(images, self.pixel_mean.device)
        batch, sizes = self.preprocess(images)
        originals = [tuple(image.shape[1:]) for image in images]
        targets = prepare_targets(
            targets, originals, sizes, self.config, self.has_masks, self.pixel_mean
        )
        rpn_features, roi_features = self.features(batch)
        proposals, losses = self.rpn(rpn_features, sizes, targets)
        return losses | self.roi_heads.losses(roi_features, [p.boxes for p in proposals], targets)

    def detect(self, images: list[Tensor]) -> list[dict[str, Any]]:
        """Detections with their masks as the head gives them: small, and as large as their box.

        For each image what ``forward`` returns in evaluation mode, but instead of ``masks`` the
        ``mask_logits`` [D, M, M] of a model with a mask head; and ``size``, its (height, width),
        and ``limits``, which fields of the config may have cut detections off, see
        ``reached_limits``. 250 objects in a photograph of 12 megapixels are 3 GB of whole masks.
        """
        check_images(images, self.pixel_mean.device)
        batch, sizes = self.preprocess(images)
        rpn_features, roi_features = self.features(batch)
        proposals, _ = self.rpn(rpn_features, sizes, None)
        detections = self.roi_heads.detect(roi_features, [p.boxes for p in proposals], sizes)
        return [
            in_pixels(d, size, tuple(image.shape[1:])) | {"limits": reached_limits(p, self.config)}
            for d, p, size, image in zip(detections, proposals, sizes, images, strict=True)
        ]

    def features(self, batch: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The maps that the RPN looks at, and those that ROIs are pooled from."""
        maps = self.backbone(batch)
        return [maps[name] for name in self.rpn_features], [maps[n] for n in self.roi_features]

    def preprocess(self, images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Resize, flip to BGR, subtract the mean, pad with zeros into one batch.

        Returns ``[N, 3, H, W]`` and each image's (height, width) in it. H and W are the largest
        of the batch, rounded up to a multiple of 32 where there is a pyramid.
        """
        resized, sizes = [], []
        for image in images:
            image = image.to(self.pixel_mean.dtype)
            size = tuple(image.shape[1:])
            if self.config.resize:
                size = resized_size(size, self.config.min_size, self.config.max_size)
            if size != tuple(image.shape[1:]):
                image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
            resized.append(image.flip(0) * 255 - self.pixel_mean)
            sizes.append(size)
        check_values(images, resized)
        height, width = (max(edge) for edge in zip(*sizes, strict=True))
        step = getattr(self.backbone, "size_divisibility", 1)
        height, width = -(-height // step) * step, -(-width // step) * step
        batch = [
            F.pad(image, (0, width - w, 0, height - h))
            for image, (h, w) in zip(resized, sizes, strict=True)
        ]
        return torch.stack(batch).contiguous(memory_format=torch.channels_last), sizes


def in_pixels(
    detections: Detections, from_size: tuple[int, int], to_size: tuple[int, int]
) -> dict[str, Any]:
    """Detections in another size of the picture, without empty boxes; see ``Detector.detect``."""
    boxes = clip_boxes(scale_boxes(detections.boxes, from_size, to_size), to_size)
    keep = nonempty(boxes)
    result = {
        "boxes": boxes[keep],
        "labels": detections.labels[keep],
        "scores": detections.scores[keep],
        "size": to_size,
    }
    if detections.mask_logits is not None:
        result["mask_logits"] = detections.mask_logits[keep]
    return result


def with_whole_masks(found: dict[str, Any]) -> dict[str, Tensor]:
    """What ``Detector.detect`` found in an image, as ``Detector.forward`` returns it."""
    result = {key: found[key] for key in ("boxes", "labels", "scores")}
    if "mask_logits" in found:
        result["masks"] = binary_masks(found["mask_logits"], found["boxes"], found["size"])
    return result


def postprocess(
    detections: Detections, from_size: tuple[int, int], to_size: tuple[int, int]
) -> dict[str, Tensor]:
    """Detections in another size of the picture, masks pasted; empty boxes are left out."""
    return with_whole_masks(in_pixels(detections, from_size, to_size))


def reached_limits(proposals: Proposals, config: DetectorConfig) -> tuple[str, ...]:
    """``("post_nms_topk",)`` where the proposals that were kept are all likelier objects than not:
    then there were more, which were cut off."""
    most = config.post_nms_topk[1]
    full = len(proposals.logits) >= most and bool(proposals.logits[most - 1] > 0)
    return ("post_nms_topk",) if full else ()


def check_images(images: list[Tensor], device: torch.device) -> None:
    """ValueError unless ``images`` is a list of float [3, H, W] tensors on the device."""
    if not isinstance(images, list | tuple | Tensor):
        found = type(images).__name__
        raise ValueError(f"images is {found}; expected a list of [3, H, W] tensors")
    if isinstance(images, Tensor) and images.dim() == 3:
        raise ValueError("images is one tensor; expected a list of [3, H, W] tensors")
    if len(images) == 0:
        raise ValueError("images is empty; expected at least one [3, H, W] tensor")
    for i, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise ValueError(
                f"images[{i}] is {type(image).__name__}; expected a float tensor [3, H, W] in 0..1"
            )
        if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"images[{i}] has shape {tuple(image.shape)}; expected [3, H, W]")
        if not image.is_floating_point():
            raise ValueError(
                f"images[{i}] is {image.dtype}; expected floats in 0..1 (divide by 255)"
            )
        if image.device != device:
            raise ValueError(f"images[{i}] is on {image.device}, the model on {device}")


def check_values(images: list[Tensor], prepared: list[Tensor]) -> None:
    """ValueError for an image that is not in 0..1.

    Looks at what ``preprocess`` made of it, which is small: an average over pixels hides no NaN,
    and no range of 0..255.
    """
    low, high = -max(PIXEL_MEAN) - 255 * SLACK, 255 * (1 + SLACK) - min(PIXEL_MEAN)
    for i, (image, pixels) in enumerate(zip(images, prepared, strict=True)):
        least, most = pixels.detach().aminmax()
        if not low <= least <= most <= high:  # false for NaN, too
            if not image.isfinite().all():
                raise ValueError(f"images[{i}] holds NaN or infinite values; expected 0..1")
            raise ValueError(
                f"images[{i}] runs from {float(image.min()):.4g} to {float(image.max()):.4g}; "
                "expected 0..1 (divide 0..255 by 255; the model normalises by itself)"
            )


def prepare_targets(
    targets: list[dict],
    originals: list[tuple[int, int]],
    sizes: list[tuple[int, int]],
    config: DetectorConfig,
    with_masks: bool,
    like: Tensor | None = None,
) -> list[dict]:
    """Check each target, set crowds apart, scale its boxes to the network's input.

    Boxes get dtype and device of ``like`` (float32 on the CPU by default). Adds ``crowds`` [C, 4]
    where there are some, ``scale`` [4], network pixels per mask pixel, and ``generator`` from
    ``sampling_seed``.
    """
    if not isinstance(targets, list | tuple) or len(targets) != len(originals):
        found = len(targets) if isinstance(targets, list | tuple) else type(targets).__name__
        raise ValueError(f"{found} targets for {len(originals)} images; expected a dict for each")
    prepared = []
    for i, (target, original, size) in enumerate(zip(targets, originals, sizes, strict=True)):
        target = as_tensors(target, i, torch.empty(()) if like is None else like, with_masks)
        check_target(target, i, original, config, with_masks)
        boxes = clip_boxes(target["boxes"], original)
        crowd = target.get("iscrowd")
        keep = slice(None) if crowd is None or not crowd.any() else ~crowd
        ready = {
            "boxes": scale_boxes(boxes[keep], original, size),
            "labels": target["labels"][keep],
            "scale": scale_boxes(boxes.new_ones(1, 4), original, size),
        }
        if isinstance(keep, Tensor):
            ready["crowds"] = scale_boxes(boxes[crowd], original, size)
        if with_masks:
            ready["masks"] = target["masks"][keep]
            if "has_mask" in target:
                ready["has_mask"] = target["has_mask"][keep]
        if "sampling_seed" in target:
            try:
                ready["generator"] = torch.Generator().manual_seed(int(target["sampling_seed"]))
            except (TypeError, ValueError, RuntimeError) as error:
                seed = target["sampling_seed"]
                raise ValueError(f"targets[{i}]['sampling_seed'] is {seed!r}; {error}") from None
        prepared.append(ready)
    return prepared


def as_tensors(target: dict, i: int, like: Tensor, with_masks: bool) -> dict:
    """The entries of a target as plain tensors of the dtypes that the model computes in.

    ValueError that names the entry for what cannot be made one.
    """
    wanted = ("boxes", "labels", "masks") if with_masks else ("boxes", "labels")
    if not isinstance(target, dict):
        raise ValueError(f"targets[{i}] is {type(target).__name__}; expected a dict")
    for key in wanted:
        if key not in target:
            raise ValueError(f"targets[{i}] has no {key!r}; it needs {', '.join(wanted)}")
    layout = getattr(getattr(target["boxes"], "format", None), "name", "XYXY")  # of a tv_tensor
    if layout != "XYXY":
        raise ValueError(f"targets[{i}]['boxes'] are {layout}; expected XYXY, x1 y1 x2 y2")
    ready = dict(target)
    for key in (*wanted, "iscrowd", "has_mask"):
        if key not in target:
            continue
        try:
            value = torch.as_tensor(target[key], device=like.device).as_subclass(Tensor)
        except (TypeError, ValueError, RuntimeError) as error:
            found = type(target[key]).__name__
            raise ValueError(f"targets[{i}][{key!r}]: no tensor of this {found}: {error}") from None
        if value.is_complex():
            raise ValueError(f"targets[{i}][{key!r}] holds complex numbers")
        if key == "masks" and value.is_floating_point() and value.isnan().any():
            raise ValueError(f"targets[{i}]['masks'] holds NaN; expected bool")
        if key == "labels" and (value.is_floating_point() or value.dtype == torch.bool):
            if value.numel():
                raise ValueError(f"targets[{i}]['labels'] are {value.dtype}; expected int64")
        if key == "boxes":
            value = value.to(like.dtype).reshape(-1, 4) if value.numel() == 0 else value.to(like)
        elif key == "labels":
            value = value.to(torch.int64)
        else:
            value = value >= 0.5 if value.is_floating_point() else value.bool()
        ready[key] = value
    return ready


def check_target(
    target: dict, i: int, size: tuple[int, int], config: DetectorConfig, with_masks: bool
) -> None:
    """ValueError that names the image, the entry and the box for a target that cannot be."""
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"targets[{i}]['boxes'] has shape {tuple(boxes.shape)}; expected [N, 4]")
    for key in ("labels", "iscrowd", "has_mask"):
        if key in target and target[key].shape != boxes.shape[:1]:
            raise ValueError(
                f"targets[{i}][{key!r}] has shape {tuple(target[key].shape)}; "
                f"expected [{len(boxes)}]"
            )
    bad = ~(nonempty(boxes) & boxes.isfinite().all(1))
    if bad.any():
        n = int(bad.nonzero()[0])
        raise ValueError(
            f"targets[{i}]['boxes'][{n}] is {boxes[n].tolist()}; expected x1 < x2 and y1 < y2"
        )
    outside = ~nonempty(clip_boxes(boxes, size))
    if outside.any():
        n = int(outside.nonzero()[0])
        raise ValueError(
            f"targets[{i}]['boxes'][{n}] is {boxes[n].tolist()}, wholly outside its image of "
            f"{size[1]} x {size[0]}"
        )
    if len(boxes) and boxes.max() <= 1 and not nonempty(boxes, 1 - 1e-3).all():
        raise ValueError(
            f"targets[{i}]['boxes'] are within 0..1, as {boxes[0].tolist()}; expected pixels: "
            f"multiply x by {size[1]} and y by {size[0]}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < config.num_classes:
        raise ValueError(
            f"targets[{i}]['labels'] run from {int(labels.min())} to {int(labels.max())}; "
            f"allowed: 0 to {config.num_classes - 1}"
        )
    if with_masks and tuple(target["masks"].shape) != (len(boxes), *size):
        if len(boxes) or target["masks"].numel():
            raise ValueError(
                f"targets[{i}]['masks'] has shape {tuple(target['masks'].shape)}; "
                f"expected {[len(boxes), *size]}"
            )
        target["masks"] = target["masks"].reshape(0, *size)
