"""A detector and a data set of a few lines that keep the conventions of the real ones.

So that the tests of the training loop take seconds. The detector looks at each 8 x 8 cell of the
image: an object's class, its box, and the box as its mask.
"""

import ast
import sys
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from fbnet_lesson.data import ShapesDataset, eval_transform, train_transform
from fbnet_lesson.detection.losses import average_over_workers
from fbnet_lesson.norms import make_norm
from fbnet_lesson.training import distributed
from fbnet_lesson.training.config import TrainConfig
from fbnet_lesson.training.loop import train
from fbnet_lesson.zoo import create_model

CELL = 8


@dataclass(frozen=True)
class StandInConfig:
    num_classes: int = 2
    norm: str = "BN"


class StandIn(nn.Module):
    """``model(images, targets)`` as the detectors of ``fbnet_lesson``; all images of one size."""

    name = "tests/stand_in"

    def __init__(self, norm: str = "BN", num_classes: int = 2, seed: int = 0):
        super().__init__()
        self.config = StandInConfig(num_classes, norm)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.backbone = nn.Sequential()
            for stage, (c_in, c_out) in enumerate([(3, 8), (8, 12), (12, 16)]):
                conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)
                self.backbone.add_module(
                    f"trunk{stage}", nn.Sequential(conv, make_norm(norm, c_out), nn.ReLU())
                )
            self.classes = nn.Conv2d(16, num_classes + 1, 1)
            self.boxes = nn.Linear(16, 4)

    def forward(self, images, targets=None):
        features = self.backbone(torch.stack(images))
        logits = self.classes(features).permute(0, 2, 3, 1)  # [N, h, w, K + 1]
        if self.training:
            return self.losses(features, logits, targets)
        scores = logits.softmax(-1)
        return [self.detections(f, s) for f, s in zip(features, scores, strict=True)]

    def losses(self, features, logits, targets):
        classification, regression, objects = 0.0, 0.0, 0
        for feature, logit, target in zip(features, logits, targets, strict=True):
            centres = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2
            x, y = (centres / CELL).long().clamp(0, feature.shape[1] - 1).unbind(1)
            wanted = torch.full(logit.shape[:2], self.config.num_classes)
            wanted[y, x] = target["labels"]
            generator = torch.Generator().manual_seed(target["sampling_seed"])
            sampled = torch.rand(wanted.shape, generator=generator) < 0.7
            sampled |= wanted < self.config.num_classes
            each = F.cross_entropy(logit.permute(2, 0, 1)[None], wanted[None], reduction="none")[0]
            classification = classification + (each * sampled).sum()
            predicted = self.boxes(feature[:, y, x].T)
            regression = regression + (predicted - target["boxes"] / CELL).abs().sum()
            objects += len(x)
        count = max(1.0, average_over_workers(objects, features.device))
        return {"loss_cls": classification / len(targets) / 10, "loss_box_reg": regression / count}

    def detections(self, feature, scores):
        height, width = (CELL * size for size in feature.shape[1:])
        score, labels = scores[..., : self.config.num_classes].max(-1)
        y, x = (score > 0.3).nonzero(as_tuple=True)
        boxes = (self.boxes(feature[:, y, x].T) * CELL).clamp(0, min(height, width))
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        x1, y1, x2, y2 = boxes.T[:, :, None, None]
        return {
            "boxes": boxes,
            "labels": labels[y, x],
            "scores": score[y, x],
            "masks": (columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2),
        }


class Squares:
    """Bright squares (class 0 red, class 1 green) on noise; every fifth image is empty."""

    categories = ["red", "green"]
    category_ids = [3, 7]  # as in COCO, neither from 0 nor without gaps

    def __init__(self, length=20, size=32, transform=None, poison=()):
        self.length, self.size, self.transform, self.poison = length, size, transform, poison
        self.image_ids = [100 + i for i in range(length)]

    def __len__(self):
        return self.length

    def boxes_and_labels(self, index):
        random = torch.Generator().manual_seed(index)
        count = 0 if index % 5 == 4 else 1 + index % 2
        corners = torch.randint(0, self.size - 12, (count, 2), generator=random)
        sides = torch.randint(6, 12, (count, 1), generator=random)
        labels = torch.randint(0, 2, (count,), generator=random)
        return torch.cat([corners, corners + sides], dim=1).float(), labels

    def __getitem__(self, index):
        boxes, labels = self.boxes_and_labels(index)
        random = torch.Generator().manual_seed(index)
        image = torch.randint(0, 60, (3, self.size, self.size), generator=random).byte()
        masks = torch.zeros(len(boxes), self.size, self.size, dtype=torch.bool)
        for mask, (x1, y1, x2, y2), label in zip(masks, boxes.int(), labels, strict=True):
            mask[y1:y2, x1:x2] = True
            image[label, y1:y2, x1:x2] = 255
        if index in self.poison:
            image = torch.full(image.shape, torch.nan)
        size = (self.size, self.size)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": labels,
            "masks": tv_tensors.Mask(masks),
            "iscrowd": torch.zeros(len(labels), dtype=torch.bool),
            "image_id": torch.tensor(self.image_ids[index]),
        }
        image = tv_tensors.Image(image)
        return self.transform(image, target) if self.transform else (image, target)

    def coco_ground_truth(self):
        images = [{"id": i, "height": self.size, "width": self.size} for i in self.image_ids]
        annotations = []
        for index, image_id in enumerate(self.image_ids):
            for box, label in zip(*self.boxes_and_labels(index), strict=True):
                x1, y1, x2, y2 = box.tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": self.category_ids[label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    }
                )
        names = zip(self.category_ids, self.categories, strict=True)
        categories = [{"id": number, "name": name} for number, name in names]
        return {"images": images, "annotations": annotations, "categories": categories}


def augmentation():
    """Random from torch's global state, as the real transforms."""
    return v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.3)])


def stand_in(norm):
    return StandIn(norm), Squares(20, transform=augmentation()), Squares(6)


def tiny_in_double_precision(norm):
    """The real detector, in a precision in which no rounding decides between two proposals."""
    torch.manual_seed(0)
    model = create_model("lesson/mask_rcnn_tiny", norm=norm, min_size=64).double()

    def in_double(transform):
        def transformed(image, target):
            image, target = transform(image, target)
            return image.double(), {**target, "boxes": target["boxes"].double()}

        return transformed

    size = (64, 64)
    train_set = ShapesDataset(40, 1, size, in_double(train_transform(size)))
    return model, train_set, ShapesDataset(6, 0, size, in_double(eval_transform()))


def tiny_with_nothing_drawn(norm):
    """The real detector in single precision, its samplers taking all anchors and proposals.

    When they draw, one proposal that rounding moves changes who is drawn, and the loss by percents.
    """
    torch.manual_seed(0)
    everything = {"rpn_batch_size_per_image": 4000, "roi_batch_size_per_image": 2000}
    model = create_model("lesson/mask_rcnn_tiny", norm=norm, min_size=64, **everything)
    size = (64, 64)
    train_set = ShapesDataset(100, 1, size, train_transform(size))
    return model, train_set, None


def main():
    """``python training_stand_in.py RUN_FOLDER [field=value …]``: train, on one or many processes.

    Resumes a run that was killed. ``norm=`` is the model's; ``model=tiny`` and ``model=all`` are
    the real detector; the rest are fields of TrainConfig.
    """
    folder, *pairs = sys.argv[1:]
    settings = dict(
        model="stand_in", norm="BN", iterations=30, warmup=3, threads=1, ema_decay=0.9, lr=5e-3
    )
    for pair in pairs:
        name, _, value = pair.partition("=")
        as_text = name in ("model", "norm", "optimizer")
        settings[name] = value if as_text else ast.literal_eval(value)
    distributed.start("cpu")
    makers = {
        "stand_in": stand_in, "tiny": tiny_in_double_precision, "all": tiny_with_nothing_drawn,
    }  # fmt: skip
    model, train_set, val_set = makers[settings.pop("model")](settings.pop("norm"))
    train(model, train_set, val_set, TrainConfig(**settings), folder, resume=True)
    distributed.stop()


if __name__ == "__main__":
    main()
