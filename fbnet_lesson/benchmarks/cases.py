"""What is compared with what. Every case builds two functions without arguments: ours, the peer's.

The peers are torchvision's compiled operators and detectors, and timm's classifiers. The yardstick
for whole detectors, for which there is no peer, is the forward pass of timm's ``fbnetc_100`` on one
picture of 224 pixels: without timm, of our own, which has the same weights in the same layers.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.roi_heads import paste_masks_in_image

import fbnet_lesson as fl
from fbnet_lesson.blocks import UpsampledDepthwise
from fbnet_lesson.data import CATEGORIES, CocoDataset, ShapesDataset, eval_transform
from fbnet_lesson.detection.detector import Detector, postprocess
from fbnet_lesson.detection.mask_head import binary_masks
from fbnet_lesson.detection.nms import batched_nms, nms
from fbnet_lesson.detection.roi_align import roi_align
from fbnet_lesson.training.loop import keep_freed_memory
from fbnet_lesson.zoo.models import SHIPPED

HAS_TIMM = importlib.util.find_spec("timm") is not None
YARDSTICK = ("timm " if HAS_TIMM else "our ") + "fbnetc_100, one picture"
DSMASK = "d2go/mask_rcnn_fbnetv3a_dsmask_C4"
TINY = "lesson/mask_rcnn_tiny"
SIZE = (224, 320)  # height and width of the pictures for DSMASK

Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row of the table. ``build`` makes (ours, the peer's)."""

    section: str
    name: str
    peer: str
    build: Callable[[], tuple[Work, Work]]

    @property
    def key(self) -> str:
        """Different for every case."""
        return f"{self.section}: {self.name}"


def without_gradient(work: Work) -> Work:
    """``work`` under ``torch.no_grad``."""

    def run():
        with torch.no_grad():
            return work()

    return run


def random_boxes(count: int, size: tuple[int, int], least: float, most: float, seed: int = 0):
    """Boxes within a picture of ``size``, their sides log-uniform in pixels: ``[count, 4]``."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([size[1], size[0]])
    centre = torch.rand(count, 2, generator=generator) * limit
    spread = torch.rand(count, 2, generator=generator) * math.log(most / least)
    half = least * spread.exp() / 2
    corners = torch.cat([centre - half, centre + half], 1)
    return torch.minimum(corners.clamp(min=0), limit.repeat(2))


# ROIAlign, NMS, pasting


def build_roi_align(
    rois: int, resolution: int, channels: int, grid: tuple[int, int], stride: int, backward: bool
) -> tuple[Work, Work]:
    """``grid`` is the height and width of the feature map. Each in its own memory layout."""
    size = (grid[0] * stride, grid[1] * stride)
    boxes = [random_boxes(rois, size, 2 * stride, 12 * stride)]
    features = torch.randn(1, channels, *grid, generator=torch.Generator().manual_seed(1))
    theirs = features.clone().requires_grad_(backward)
    ours = features.contiguous(memory_format=torch.channels_last).requires_grad_(backward)
    gradient = torch.randn(rois, channels, resolution, resolution)

    def run(function: Callable, features: Tensor, gradient: Tensor) -> Tensor:
        pooled = function(features, boxes, resolution, 1 / stride, 0, True)
        return torch.autograd.grad(pooled, features, gradient)[0] if backward else pooled

    return (
        partial(run, roi_align, ours, gradient.contiguous(memory_format=torch.channels_last)),
        partial(run, torchvision.ops.roi_align, theirs, gradient),
    )


def build_nms(count: int, classes: int) -> tuple[Work, Work]:
    boxes = random_boxes(count, (800, 800), 10, 160)
    generator = torch.Generator().manual_seed(2)
    scores = torch.rand(count, generator=generator)
    if classes == 1:
        theirs = partial(torchvision.ops.nms, boxes, scores, 0.7)
        return partial(nms, boxes, scores, 0.7), theirs
    labels = torch.randint(classes, (count,), generator=generator)
    theirs = partial(torchvision.ops.batched_nms, boxes, scores, labels, 0.5)
    return partial(batched_nms, boxes, scores, labels, 0.5), theirs


def build_pasting(size: tuple[int, int]) -> tuple[Work, Work]:
    boxes = random_boxes(100, size, 32, 0.9 * min(size))
    logits = torch.randn(100, 28, 28, generator=torch.Generator().manual_seed(3))

    def theirs():
        return paste_masks_in_image(logits.sigmoid()[:, None], boxes, size) >= 0.5

    return partial(binary_masks, logits, boxes, size), theirs


# Whole networks


@cache
def yardstick() -> Work:
    """One forward pass, the unit in which detectors are measured."""
    if HAS_TIMM:
        import timm

        model = timm.create_model("fbnetc_100").eval()
    else:
        model = fl.create_model("timm/fbnetc_100").eval()
    picture = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(4))
    return without_gradient(partial(model, picture))


def build_classifier(batch: int) -> tuple[Work, Work]:
    """``timm/fbnetc_100`` as it is, against timm's, with the same weights."""
    import timm

    theirs = timm.create_model("fbnetc_100").eval()
    ours = fl.create_model("timm/fbnetc_100").eval()
    fl.load_weights(ours, theirs.state_dict())
    pictures = torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    return without_gradient(partial(ours, pictures)), without_gradient(partial(theirs, pictures))


@cache
def detector(fused: bool, detections: int) -> Detector:
    """DSMASK with random weights that finds nothing, or as much as it may: 100."""
    torch.manual_seed(6)
    model = fl.create_model(DSMASK, resize=False, score_threshold=0.0 if detections else 1.0)
    return fl.fuse(model) if fused else model.eval()


def picture() -> Tensor:
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(7))


def build_detector(fused: bool, detections: int) -> tuple[Work, Work]:
    model = detector(fused, detections)
    run = without_gradient(partial(model, [picture()]))
    found = len(run()[0]["boxes"])
    if found != detections:
        raise RuntimeError(f"the detector found {found} objects instead of {detections}")
    return run, yardstick()


def build_stage(stage: str) -> tuple[Work, Work]:
    """One stage of the fused detector with 100 detections, its inputs made beforehand."""
    model = detector(True, 100)
    with torch.no_grad():
        batch, sizes = model.preprocess([picture()])
        features = [model.backbone(batch)[name] for name in model.roi_features]
        proposals = [p.boxes for p in model.rpn(features, sizes, None)[0]]
        (found,) = model.roi_heads.detect(features, proposals, sizes)
    heads, nothing = model.roi_heads, detector(True, 0).roi_heads
    work = {
        "preparation": partial(model.preprocess, [picture()]),
        "trunk": partial(model.backbone, batch),
        "RPN": partial(model.rpn, features, sizes, None),
        "box head": partial(nothing.detect, features, proposals, sizes),
        "mask head": partial(heads.mask_head, features, [found.boxes], found.labels),
        "pasting": partial(postprocess, found, SIZE, SIZE),
    }[stage]
    return without_gradient(work), yardstick()


def build_mask_head(rois: int = 100) -> tuple[Work, Work]:
    """The fused head against the same layers in the order in which they are published:

    all ROIs at once, the doubled maps made, norms by themselves, the masks of all 80 classes.
    """
    fused, plain = detector(True, 100).roi_heads.mask_head, detector(False, 100).roi_heads.mask_head
    features = [torch.randn(1, 112, 14, 20, generator=torch.Generator().manual_seed(8))]
    features = [f.contiguous(memory_format=torch.channels_last) for f in features]
    boxes, labels = [random_boxes(rois, SIZE, 32, 200)], torch.arange(rois) % 80

    def as_published():
        x = plain.pooler(features, boxes).contiguous()
        for block in plain.body:
            y = x if block.pw is None else block.pw(x)
            conv = block.dw.conv
            if isinstance(conv, UpsampledDepthwise):
                y = F.interpolate(y, scale_factor=2.0, mode="nearest")
            y = F.conv2d(y, conv.weight, None, conv.stride, conv.padding, groups=conv.groups)
            y = block.pwl(y)
            x = x + y if block.residual else y
        return plain.mask_logits(x)[torch.arange(rois), labels]

    ours = without_gradient(partial(fused, features, boxes, labels))
    return ours, without_gradient(as_published)


def scenes(count: int, size: tuple[int, int]) -> tuple[list[Tensor], list[dict]]:
    """Shapes with targets, as the training loop hands them on."""
    dataset = ShapesDataset(count, seed=9, size=size, transform=eval_transform())
    images, targets = zip(*(dataset[i] for i in range(count)), strict=True)
    return list(images), list(targets)


def training_step(model: nn.Module, images: list[Tensor], targets: list[dict]) -> Work:
    """Forward, backward, and a step of SGD that leaves the weights where they are."""
    keep_freed_memory()  # as the training loop does: from here on, for ours and the peers alike
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def run():
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    return run


def torchvision_detector(short_edge: int) -> nn.Module:
    """All of it is trained, as of ours."""
    torch.manual_seed(10)
    return fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=len(CATEGORIES) + 1,
        min_size=short_edge,
    )


def build_training(
    name: str, count: int, size: tuple[int, int], peer_edge: int | None
) -> tuple[Work, Work]:
    """A training step on ``count`` scenes, against torchvision's detector, which resizes them to
    ``peer_edge``, or with None against the yardstick.
    """
    images, targets = scenes(count, size)
    torch.manual_seed(11)
    model = fl.create_model(name, num_classes=len(CATEGORIES), resize=False)
    ours = training_step(model, images, targets)
    if peer_edge is None:
        return ours, yardstick()
    # torchvision's class 0 is the background.
    theirs = [{"boxes": t["boxes"].as_subclass(Tensor), "labels": t["labels"] + 1} for t in targets]
    return ours, training_step(torchvision_detector(peer_edge), images, theirs)


# Data


def build_loading() -> tuple[Work, Work]:
    """The 24 pictures of a COCO folder with boxes, labels and masks, one after the other."""
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

    folder = SHIPPED.parent / "shapes"
    annotations = folder / "annotations.json"
    ours = CocoDataset(annotations, folder / "images", transform=eval_transform())
    theirs = wrap_dataset_for_transforms_v2(
        CocoDetection(folder / "images", annotations, transforms=theirs_transform()),
        target_keys=["boxes", "labels", "masks"],
    )

    def read(dataset):
        return [dataset[i][0].shape for i in range(len(dataset))]

    return partial(read, ours), partial(read, theirs)


def theirs_transform():
    from torchvision.transforms import v2

    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


# The table


def all_cases() -> list[Case]:
    """Every row, in the order of the data's way through the detector."""
    cases = [Case("data", "reading 24 COCO pictures", "torchvision CocoDetection", build_loading)]
    peer = "torchvision.ops.roi_align"
    for rois in (100, 512):
        for resolution in (6, 14):
            for backward in (False, True):
                build = partial(build_roi_align, rois, resolution, 112, (14, 20), 16, backward)
                way = "forward+backward" if backward else "forward"
                name = f"C4 14x20x112, {rois} ROIs, {resolution}x{resolution}, {way}"
                cases.append(Case("ROIAlign", name, peer, build))
    for level, grid, stride in (("p2", (200, 272), 4), ("p4", (50, 68), 16)):
        for backward in (False, True):
            build = partial(build_roi_align, 512, 6, 128, grid, stride, backward)
            way = "forward+backward" if backward else "forward"
            name = f"FPN {level} {grid[0]}x{grid[1]}x128, 512 ROIs, 6x6, {way}"
            cases.append(Case("ROIAlign", name, peer, build))
    for classes, peer in ((1, "torchvision.ops.nms"), (80, "torchvision.ops.batched_nms")):
        for count in (1000, 2000, 6000):
            name = f"{count} boxes" + (f", {classes} classes" if classes > 1 else "")
            cases.append(Case("NMS", name, peer, partial(build_nms, count, classes)))
    peer = "torchvision paste_masks_in_image"
    for size in (SIZE, (480, 640)):
        name = f"100 masks on {size[0]}x{size[1]}"
        cases.append(Case("pasting", name, peer, partial(build_pasting, size)))
    name = "mask head, 100 ROIs, fused"
    cases.append(Case("mask head", name, "the published order of operations", build_mask_head))
    if HAS_TIMM:
        for batch in (1, 16):
            build = partial(build_classifier, batch)
            cases.append(Case("timm/fbnetc_100", f"batch {batch}", "timm's fbnetc_100", build))
    for fused in (False, True):
        for detections in (0, 100):
            name = f"{detections} detections" + (", fused" if fused else "")
            build = partial(build_detector, fused, detections)
            cases.append(Case(f"{DSMASK} at 224x320", name, YARDSTICK, build))
    for stage in ("preparation", "trunk", "RPN", "box head", "mask head", "pasting"):
        section = "its stages, fused, 30 proposals, 100 detections"
        cases.append(Case(section, stage, YARDSTICK, partial(build_stage, stage)))
    small, theirs = (128, 128), "torchvision fasterrcnn_mobilenet_v3_large_320_fpn"
    boxes_only = DSMASK.replace("mask_rcnn", "faster_rcnn")
    for model, count, size in ((TINY, 8, small), (DSMASK, 4, SIZE), (boxes_only, 4, SIZE)):
        section = f"training step, {count} scenes of {size[0]}x{size[1]}"
        for peer, edge in ((YARDSTICK, None), (theirs, 320), (theirs, min(size))):
            build = partial(build_training, model, count, size, edge)
            resized = "" if edge is None else f", peer at {edge}"
            cases.append(Case(section, model + resized, peer, build))
    return cases
