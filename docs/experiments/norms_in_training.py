"""The race of lesson 03: does normalization shorten training?

    python docs/experiments/norms_in_training.py

About twelve minutes on one core; what was interrupted goes on where it stopped. A classifier of
crops of 32 x 32 pixels, each of one piece of a ``shapes`` scene, is trained from nothing for 300
steps of 32 crops (SGD, momentum 0.9, constant learning rate). Five seeds, 0 to 4, of the weights
and the batches for every kind and learning rate. Written to ``data/experiments/norms_in_training.csv``, a
row a run: the step at which 70 % of 400 crops of other scenes are named right for the first time,
looked at every 20 steps (320: not within 300), and the share in the end.

The kinds differ in what stands behind the convolutions; all have a learned slope and shift there:

- BN, GN: that norm.
- nothing: slope and shift only.
- once: slope and shift only; but before the first step each convolution is scaled so that on 256
  crops every channel of its answer has the standard deviation 1. (All You Need is a Good Init,
  arXiv 1511.06422, does so for whole layers.)
"""

import argparse
import csv
import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fbnet_lesson as fl
from fbnet_lesson.blocks import ConvNormAct
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.files import atomic_file
from fbnet_lesson.norms import make_norm

TABLE = Path(__file__).parents[2] / "data" / "experiments" / "norms_in_training.csv"
HEADER = ["kind", "learning rate", "seed", "steps to 70 %", "right in the end"]
KINDS = ("BN", "GN", "once", "nothing")
RATES = (0.01, 0.03, 0.1)
STEPS, EVERY, BATCH, EDGE = 300, 20, 32, 32


class SlopeAndShift(nn.Module):
    """``x * weight + bias``, one of each a channel of ``[N, C, H, W]``."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


@torch.no_grad()
def scale_to_one(conv: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Scale the weights of a convolution so that each channel of its answer varies by 1."""
    std = output.std((0, 2, 3)) + 1e-5
    conv.weight /= std[:, None, None, None]
    if conv.bias is not None:
        conv.bias /= std
    return output / std[:, None, None]


def classifier(kind: str, first: Tensor) -> nn.Module:
    """A new network; ``first`` are the crops that "once" looks at."""
    model = fl.create_model("lesson/classifier_tiny", dropout=0.0).train()
    for part in model.modules():
        if isinstance(part, ConvNormAct) and hasattr(part, "norm") and kind != "BN":
            channels = part.norm.num_features
            part.norm = make_norm("GN", channels) if kind == "GN" else SlopeAndShift(channels)
    if kind == "once":
        convs = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
        hooks = [conv.register_forward_hook(scale_to_one) for conv in convs]
        with torch.no_grad():
            model(first)
        for hook in hooks:
            hook.remove()
    return model


def crops(scenes: int, seed: int) -> tuple[Tensor, Tensor]:
    """One crop ``[3, EDGE, EDGE]``, values about -1 to 1, and one label for each piece."""
    images, labels = [], []
    for image, target in ShapesDataset(scenes, seed, transform=eval_transform()):
        for (x1, y1, x2, y2), label, crowd in zip(
            target["boxes"].round().int().tolist(), target["labels"], target["iscrowd"], strict=True
        ):
            if not crowd and x2 > x1 and y2 > y1:
                crop = image[None, :, y1:y2, x1:x2].as_subclass(Tensor)
                images.append(F.interpolate(crop, (EDGE, EDGE), mode="bilinear", antialias=True))
                labels.append(label)
    return 2 * torch.cat(images) - 1, torch.stack(labels)


@torch.no_grad()
def share_right(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    named = torch.cat([model.eval()(part).argmax(1) for part in images.split(200)])
    return float((named == labels).float().mean())


def race(kind: str, rate: float, seed: int, learn, test) -> tuple[int, float]:
    """Steps to 70 % right, and the share that is right in the end."""
    torch.manual_seed(seed)
    order = torch.randint(len(learn[1]), (STEPS, BATCH))
    model = classifier(kind, learn[0][torch.randperm(len(learn[1]))[:256]])
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    reached, share = STEPS + EVERY, 0.0
    for step, picked in enumerate(order, start=1):
        loss = F.cross_entropy(model.train()(learn[0][picked]), learn[1][picked])
        if not loss.isfinite():
            return STEPS + EVERY, 1 / 6  # it has blown up, and guesses
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVERY == 0:
            share = share_right(model, *test)
            reached = min(reached, step) if share >= 0.7 else reached
    return reached, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    learn, test = crops(1200, seed=1), crops(200, seed=0)
    test = tuple(part[:400] for part in test)
    rows = list(csv.reader(TABLE.read_text().splitlines()))[1:] if TABLE.exists() else []
    done = {tuple(row[:3]) for row in rows}
    wanted = [
        (kind, rate, seed) for seed in range(arguments.seeds) for rate in RATES for kind in KINDS
    ]
    for run in wanted:
        if tuple(map(str, run)) in done:
            continue
        reached, share = race(*run, learn, test)
        rows.append([*map(str, run), str(reached), f"{share:.3f}"])
        print(*rows[-1], flush=True)
        rows.sort(key=lambda row: wanted.index((row[0], float(row[1]), int(row[2]))))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
        with atomic_file(TABLE) as file:
            file.write(text.getvalue().encode())


if __name__ == "__main__":
    main()
