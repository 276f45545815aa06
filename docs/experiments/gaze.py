"""The experiment of lesson 02: which pixel does a cell look at, once it is trained?

    python docs/experiments/gaze.py

About twenty minutes on one core; what was interrupted goes on where it stopped. The small box
detector is trained from nothing, 300 steps of 8 scenes (AdamW, one cycle, 2e-3), two seeds. What
differs is where the heads take the value of a cell to be: published is the middle, 4 pixels behind
the cell's first; here also 0 and 8. ROIAlign is given boxes moved by the difference.

Written to ``data/experiments/gaze.csv``: where the cells of the last stage look, in pixels behind
their first one (the centre of gravity of the gradient, 16 cells in the middle of 32 scenes, both
axes), and the box AP on 100 other scenes. ``shipped`` are the shipped weights, which took 15
minutes of training, ``untrained`` the weights that training begins with.
"""

import argparse
import csv
import io
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

import fbnet_lesson as fl
from fbnet_lesson.course.exercises.lesson02 import gaze
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.roi_align import Pooler
from fbnet_lesson.files import atomic_file
from fbnet_lesson.training.evaluation import evaluate

TABLE = Path(__file__).parents[2] / "data" / "experiments" / "gaze.csv"
HEADER = ["heads read at", "seed", "cells look at", "box AP"]
MODEL = "lesson/faster_rcnn_tiny"
STRIDE, STEPS, BATCH = 8, 300, 8


def read_at(pixel: int):
    """The pooler takes the value of a cell to be ``pixel`` pixels behind the cell's first one."""
    own, shift = Pooler._pool, STRIDE / 2 - pixel

    def pool(self, feature: Tensor, boxes: list[Tensor], stride: int) -> Tensor:
        return own(self, feature, [b + shift for b in boxes], stride)

    return patch.object(Pooler, "_pool", pool)


def trained(pixel: int, seed: int, scenes: ShapesDataset) -> nn.Module:
    torch.manual_seed(seed)
    model = fl.create_model(MODEL).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    with read_at(pixel):
        for picked in torch.randint(len(scenes), (STEPS, BATCH)).tolist():
            images, targets = zip(*(scenes[i] for i in picked), strict=True)
            losses = model(list(images), list(targets))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            rate.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=99, help="stop after so many")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    learn = ShapesDataset(1000, seed=1, transform=eval_transform(), cache=True)
    test = ShapesDataset(100, seed=0, transform=eval_transform(), cache=True)
    images = [test[i][0] for i in range(32)]
    rows = list(csv.reader(TABLE.read_text().splitlines()))[1:] if TABLE.exists() else []
    done = {tuple(row[:2]) for row in rows}
    wanted = [("untrained", "0"), ("shipped", "0")]
    wanted += [(pixel, seed) for seed in "01" for pixel in "048"]
    for kind, seed in [run for run in wanted if run not in done][: arguments.runs]:
        if kind.isdigit():
            model = trained(int(kind), int(seed), learn)
            with read_at(int(kind)):
                ap = evaluate(model, test)["box"]["AP"]
        else:
            torch.manual_seed(int(seed))
            weights = "shapes" if kind == "shipped" else None
            model = fl.create_model("lesson/mask_rcnn_tiny" if weights else MODEL, weights=weights)
            ap = evaluate(model.eval(), test)["box"]["AP"]
        batch, _ = model.preprocess(images)
        looks = gaze(model.backbone, batch, "trunk2", STRIDE)
        rows.append([kind, seed, f"{looks:.2f}", f"{ap:.3f}"])
        print(*rows[-1], flush=True)
        rows.sort(key=lambda row: wanted.index(tuple(row[:2])))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
        with atomic_file(TABLE) as file:
            file.write(text.getvalue().encode())


if __name__ == "__main__":
    main()
