"""The race of lesson 10: new mask heads at three pooler resolutions, and one with one mask for all.

    python docs/experiments/mask_resolution.py

About 30 minutes on one core, most of them at 28 x 28; what was interrupted goes on where it
stopped. Trunk, RPN and box head keep the shipped weights, so that features are computed once and
all heads are asked about the same boxes, in training and in the test. Each head is trained from
nothing for 600 steps of 24 positive proposals from 8 scenes of seed 1; seeds 0 to 4 of the weights
and the batches, the same for each kind of head.

Measured on the detections in 200 scenes of seed 0 and written, a row a run, to
``data/experiments/mask_resolution.csv``: mask AP, and the AP of boundaries, for which masks and
truth are both reduced to their pixels within 2 of the outline. (Boundary IoU, arXiv 2103.16562,
takes 2 % of the picture's diagonal, here 3.6 pixels, and the smaller of the two IoUs.)
"""

import argparse
import csv
import io
from pathlib import Path

import torch
from torch import Tensor, nn

import fbnet_lesson as fl
from fbnet_lesson.blocks import count_macs
from fbnet_lesson.course.exercises.lesson10 import boundary_ap
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.detector import prepare_targets
from fbnet_lesson.detection.losses import mask_loss
from fbnet_lesson.detection.mask_head import crop_masks
from fbnet_lesson.files import atomic_file
from fbnet_lesson.training.detecting import detections_to_coco
from fbnet_lesson.training.scoring import average_precision

MODEL = "lesson/mask_rcnn_tiny"
TABLE = Path(__file__).parents[2] / "data" / "experiments" / "mask_resolution.csv"
HEADER = ["pooler", "masks", "seed", "mask AP", "AP50", "AP75", "boundary AP", "M multiply-adds"]
KINDS = ((7, "one a class"), (14, "one a class"), (28, "one a class"), (14, "one for all"))
STEPS, BATCH, ROIS = 600, 8, 24


@torch.no_grad()
def to_learn_from(model: nn.Module, scenes: ShapesDataset) -> list[dict]:
    """Of each scene with objects: features, masks, and the positive proposals with their class and
    the index of their object."""
    prepared = []
    for image, target in scenes:
        batch, sizes = model.preprocess([image])
        (target,) = prepare_targets([target], sizes, sizes, model.config, with_masks=True)
        if len(target["boxes"]) == 0:
            continue
        features = model.backbone(batch)[model.roi_features[0]]
        (proposals,), _ = model.rpn([features], sizes, None)
        (sample,) = model.roi_heads.sample([proposals.boxes], [target])
        first = slice(sample["positives"])
        rois = {key: sample[key][first] for key in ("boxes", "labels", "matched")}
        prepared.append({"features": features, "masks": target["masks"], **rois})
    return prepared


@torch.no_grad()
def to_test_on(model: nn.Module, scenes: ShapesDataset) -> list[tuple[Tensor, dict]]:
    """Of each scene its features and its detections, whose masks are still to come."""
    found = []
    for image, _ in scenes:
        batch, _ = model.preprocess([image])
        (detection,) = model.detect([image])
        found.append((model.backbone(batch)[model.roi_features[0]], detection))
    return found


def trained(pooler: int, masks: str, seed: int, scenes: list[dict]) -> nn.Module:
    """A mask head trained from nothing."""
    torch.manual_seed(seed)
    changes = {"mask_pooler_resolution": pooler, "mask_class_agnostic": masks == "one for all"}
    head = fl.create_model(MODEL, **changes).roi_heads.mask_head.train()
    optimizer = torch.optim.AdamW(head.parameters(), 2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    draws = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        picked = [scenes[i] for i in torch.randint(len(scenes), (BATCH,), generator=draws)]
        parts = [torch.randperm(len(s["boxes"]), generator=draws)[: ROIS // BATCH] for s in picked]
        pairs = list(zip(picked, parts, strict=True))
        boxes = [scene["boxes"][part] for scene, part in pairs]
        labels = torch.cat([scene["labels"][part] for scene, part in pairs])
        features = torch.cat([scene["features"] for scene in picked])
        logits = head([features], boxes, labels)
        targets = [
            crop_masks(scene["masks"], scene["matched"][part], scene["boxes"][part], len(logits[0]))
            for scene, part in pairs
        ]
        loss = mask_loss(logits, torch.cat(targets))["loss_mask"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return head.eval()


@torch.no_grad()
def measured(head: nn.Module, found: list[tuple[Tensor, dict]], tests: ShapesDataset) -> list[str]:
    """Mask AP, AP50, AP75, boundary AP, and what a mask costs, as the table has them."""
    detections = []
    for features, detection in found:
        logits = head([features], [detection["boxes"]], detection["labels"])
        detections.append(detection | {"mask_logits": logits})
    results = detections_to_coco(detections, tests.image_ids, tests.category_ids)
    truth = tests.coco_ground_truth()
    scores = average_precision(truth, results, "segm")
    values = [scores[name] for name in ("AP", "AP50", "AP75")] + [boundary_ap(truth, results)]
    channels, pooler = found[0][0].shape[1], head.pooler.resolution
    macs = count_macs(head.body, torch.zeros(1, channels, pooler, pooler))
    return [*(f"{value:.4f}" for value in values), f"{macs / 1e6:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=int, help="stop after so many")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(csv.reader(TABLE.read_text().splitlines()))[1:] if TABLE.exists() else []
    done = {tuple(row[:3]) for row in rows}
    wanted = [(*kind, seed) for seed in range(arguments.seeds) for kind in KINDS]
    todo = [run for run in wanted if tuple(map(str, run)) not in done][: arguments.runs]
    if not todo:
        return
    model = fl.create_model(MODEL, weights="shapes").eval()
    learn = to_learn_from(model, ShapesDataset(1024, seed=1, transform=eval_transform()))
    tests = ShapesDataset(200, seed=0, transform=eval_transform())
    test = to_test_on(model, tests)
    for run in todo:
        rows.append([*map(str, run), *measured(trained(*run, learn), test, tests)])
        print(*rows[-1], flush=True)
        rows.sort(key=lambda row: wanted.index((int(row[0]), row[1], int(row[2]))))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
        with atomic_file(TABLE) as file:
            file.write(text.getvalue().encode())


if __name__ == "__main__":
    main()
