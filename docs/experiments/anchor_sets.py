"""The race of lesson 04: RPNs trained from nothing on several sets of anchors.

    python docs/experiments/anchor_sets.py

About five minutes on one core. The trunk and the box head keep the shipped weights, and the
trunk's features are computed once; of the RPN every layer is new. Each set begins with the same
random numbers and sees the same 800 batches of 8 scenes of seed 1 (two seeds of the weights).
Measured on 200 scenes of seed 0, and written to ``data/experiments/anchor_sets.csv``: what the
anchors could reach, and what the trained proposals do reach.
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
from fbnet_lesson.detection.anchors import cell_anchors, grid_anchors
from fbnet_lesson.detection.boxes import box_iou
from fbnet_lesson.files import atomic_file
from fbnet_lesson.training.evaluation import evaluate

MODEL = "lesson/mask_rcnn_tiny"
TABLE = Path(__file__).parents[2] / "data" / "experiments" / "anchor_sets.csv"
OWN, RATIOS = (16.0, 24.0, 36.0, 54.0, 80.0), (0.5, 1.0, 2.0)
D2GO = (32.0, 64.0, 96.0, 128.0, 160.0)
BATCH = 8


@torch.no_grad()
def seen_by_the_rpn(model: nn.Module, scenes: ShapesDataset) -> tuple[Tensor, list[Tensor]]:
    """Of the scenes with objects: the last feature map, and the objects without crowds."""
    features, objects = [], []
    for image, target in scenes:
        boxes = target["boxes"][~target["iscrowd"]].as_subclass(Tensor)
        if len(boxes):
            found = model.backbone(model.preprocess([image])[0])
            features.append(found[model.rpn_features[0]])
            objects.append(boxes)
    return torch.cat(features), objects


def sets_of_anchors(objects: list[Tensor]) -> dict[str, tuple[tuple, tuple]]:
    """Name -> (sizes, ratios); the chosen sizes are quantiles of sqrt(area)."""
    boxes = torch.cat(objects)
    side = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()

    def quantiles(count: int) -> tuple[float, ...]:
        return tuple(side.quantile((torch.arange(count) + 0.5) / count).tolist())

    return {
        "5 sizes x 3 ratios": (OWN, RATIOS),
        "5 sizes, ratio 1": (OWN, (1.0,)),
        "d2go's sizes x 3 ratios": (D2GO, RATIOS),
        "15 chosen sizes": (quantiles(15), (1.0,)),
        "5 chosen sizes": (quantiles(5), (1.0,)),
        "3 chosen sizes": (quantiles(3), (1.0,)),
        "1 chosen size": (quantiles(1), (1.0,)),
    }


def trained(anchors: tuple, features: Tensor, objects: list[Tensor], steps: int, seed: int):
    """The shipped detector with an RPN for ``anchors`` (sizes, ratios), trained from nothing."""
    changes = {"anchor_sizes": (anchors[0],), "anchor_ratios": anchors[1]}
    torch.manual_seed(seed)
    model = fl.create_model(MODEL, **changes)  # whose RPN is new ...
    shipped = fl.create_model(MODEL, weights="shapes")
    model.backbone, model.roi_heads = shipped.backbone, shipped.roi_heads  # ... and nothing else
    rpn = model.eval().rpn.train()
    optimizer = torch.optim.AdamW(rpn.parameters(), 2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    batches = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        picked = torch.randint(len(objects), (BATCH,), generator=batches)
        targets = [{"boxes": objects[i]} for i in picked]
        _, losses = rpn([features[picked]], [(128, 128)] * BATCH, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        rate.step()
    return model.eval()


@torch.no_grad()
def recalls(model: nn.Module, features: Tensor, objects: list[Tensor]) -> list[float]:
    """The share of objects that the proposals cover: 10 and 50 of them, IoU 0.5 and 0.75."""
    proposals = []
    for start in range(0, len(features), 50):
        part = features[start : start + 50]
        proposals += model.rpn([part], [(128, 128)] * len(part), None)[0]
    shares = []
    for count in (10, 50):
        pairs = zip(objects, proposals, strict=True)
        best = torch.cat([box_iou(boxes, p.boxes[:count]).amax(1) for boxes, p in pairs])
        shares += [float((best >= threshold).float().mean()) for threshold in (0.5, 0.75)]
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=1024, help="to learn from")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shipped = fl.create_model(MODEL, weights="shapes").eval()
    learn = seen_by_the_rpn(shipped, ShapesDataset(arguments.scenes, 1, transform=eval_transform()))
    tests = ShapesDataset(200, seed=0, transform=eval_transform(), cache=True)
    test = seen_by_the_rpn(shipped, tests)
    names = ["recall 10 at 0.5", "recall 10 at 0.75", "recall 50 at 0.5", "recall 50 at 0.75"]
    header = [
        "anchors",
        "a cell",
        "possible at 0.5",
        "possible at 0.7",
        *names,
        "box AP",
        "seeds apart",
    ]
    rows = [header]
    for name, (sizes, ratios) in sets_of_anchors(learn[1]).items():
        laid = grid_anchors(cell_anchors(sizes, ratios), (16, 16), 8)
        best = torch.cat([box_iou(boxes, laid).amax(1) for boxes in test[1]])
        possible = [float((best >= t).float().mean()) for t in (0.5, 0.7)]
        found = []
        for seed in range(arguments.seeds):
            model = trained((sizes, ratios), *learn, arguments.steps, seed)
            found.append([*recalls(model, *test), evaluate(model, tests)["box"]["AP"]])
        measured = torch.tensor(found).mean(0).tolist()
        aps = [row[-1] for row in found]
        numbers = [f"{value:.3f}" for value in (*possible, *measured, max(aps) - min(aps))]
        rows.append([name, len(sizes) * len(ratios), *numbers])
        print(*rows[-1], flush=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    TABLE.parent.mkdir(exist_ok=True)
    with atomic_file(TABLE) as file:
        file.write(text.getvalue().encode())


if __name__ == "__main__":
    main()
