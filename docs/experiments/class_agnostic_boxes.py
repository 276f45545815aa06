"""The race of lesson 08: one box for each class of a proposal, or one for all classes?

    python docs/experiments/class_agnostic_boxes.py

About twenty minutes on one core; what was interrupted goes on where it stopped. The trunk and the
RPN keep the shipped weights, and features and proposals are computed once; the box head is new.
Both kinds learn for 600 steps of 8 scenes, from 2048 scenes of seed 1 or from the first 64 of them
again and again; seeds 0 to 3 of the weights, the order and the sampling. Measured on 200 scenes of
seed 0.

Written to ``data/experiments/class_agnostic_boxes.csv``, a row a run.
"""

import argparse
import csv
import io
from pathlib import Path

import torch
from torch import Tensor, nn

import fbnet_lesson as fl
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.detector import prepare_targets
from fbnet_lesson.files import atomic_file
from fbnet_lesson.training.evaluation import evaluate

MODEL = "lesson/mask_rcnn_tiny"
TABLE = Path(__file__).parents[2] / "data" / "experiments" / "class_agnostic_boxes.csv"
HEADER = ["boxes", "scenes", "seed", "box AP", "AP50", "AP75"]
KINDS = ("one a class", "one for all")
SCENES, BATCH, STEPS, RATE = (2048, 64), 8, 600, 2e-3
Scene = tuple[Tensor, Tensor, dict]  # features [1, C, H, W], proposals [R, 4], target


@torch.no_grad()
def prepared(count: int) -> list[Scene]:
    """What a box head learns from, scene by scene."""
    model = fl.create_model(MODEL, weights="shapes").eval()
    scenes = []
    for image, target in ShapesDataset(count, seed=1, transform=eval_transform()):
        batch, sizes = model.preprocess([image])
        (ready,) = prepare_targets([target], sizes, sizes, model.config, with_masks=False)
        features = [model.backbone(batch)[name] for name in model.roi_features]
        proposals, _ = model.rpn(features, sizes, None)
        scenes.append((features[0], proposals[0].boxes, ready))
    return scenes


def with_new_head(kind: str, seed: int, scenes: list[Scene]) -> nn.Module:
    """The shipped detector with a box head of this kind, trained from nothing on ``scenes``."""
    torch.manual_seed(seed)
    new = fl.create_model(MODEL, box_class_agnostic=kind == "one for all")
    shipped = fl.create_model(MODEL, weights="shapes")
    new.backbone, new.rpn = shipped.backbone, shipped.rpn
    heads, mask_head = new.eval().roi_heads, shipped.roi_heads.mask_head
    heads.box_head.train()
    heads.mask_head = None  # it has no part in this
    optimizer = torch.optim.AdamW(heads.box_head.parameters(), RATE, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    order: list[int] = []
    for _ in range(STEPS):
        order = order or torch.randperm(len(scenes)).tolist()  # every scene once, then anew
        picked = [scenes[order.pop()] for _ in range(BATCH)]
        features, proposals, targets = zip(*picked, strict=True)
        losses = heads.losses([torch.cat(features)], list(proposals), list(targets))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        rate.step()
    heads.mask_head = mask_head
    return new.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tests = ShapesDataset(200, seed=0, transform=eval_transform(), cache=True)
    rows = list(csv.reader(TABLE.read_text().splitlines()))[1:] if TABLE.exists() else []
    done = {tuple(row[:3]) for row in rows}
    wanted = [(k, n, s) for s in range(arguments.seeds) for n in SCENES for k in KINDS]
    scenes = prepared(max(SCENES))
    for kind, count, seed in wanted:
        if (kind, str(count), str(seed)) in done:
            continue
        found = evaluate(with_new_head(kind, seed, scenes[:count]), tests)["box"]
        aps = [f"{found[name]:.3f}" for name in ("AP", "AP50", "AP75")]
        rows.append([kind, str(count), str(seed), *aps])
        print(*rows[-1], flush=True)
        rows.sort(key=lambda row: (KINDS.index(row[0]), -int(row[1]), int(row[2])))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
        with atomic_file(TABLE) as file:
            file.write(text.getvalue().encode())


if __name__ == "__main__":
    main()
