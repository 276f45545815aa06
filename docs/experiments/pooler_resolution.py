"""The race of lesson 07: new box heads at several pooler resolutions, on the trained trunk and RPN.

    python docs/experiments/pooler_resolution.py --resolutions 3 6

About two minutes for each resolution on one core. Everything but the box head keeps the shipped
weights, so that features and proposals are computed once; each head begins with the same random
numbers and sees the same 1200 batches of 8 scenes. Prints AP on 200 other scenes.
"""

import argparse

import torch
from torch import Tensor, nn

import fbnet_lesson as fl
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.detection.detector import prepare_targets
from fbnet_lesson.training.evaluation import evaluate

MODEL = "lesson/mask_rcnn_tiny"
BATCH = 8
Prepared = tuple[list[Tensor], list[Tensor], list[dict]]  # features, proposals, targets


@torch.no_grad()
def prepare(scenes: ShapesDataset) -> list[Prepared]:
    """What a box head learns from, batch by batch."""
    model = fl.create_model(MODEL, weights="shapes").eval()
    batches = []
    for start in range(0, len(scenes), BATCH):
        images, targets = zip(*(scenes[start + i] for i in range(BATCH)), strict=True)
        batch, sizes = model.preprocess(images)
        targets = prepare_targets(targets, sizes, sizes, model.config, with_masks=False)
        features = [model.backbone(batch)[name] for name in model.roi_features]
        proposals, _ = model.rpn(features, sizes, None)
        batches.append((features, [p.boxes for p in proposals], targets))
    return batches


def with_new_head(resolution: int, batches: list[Prepared], steps: int) -> nn.Module:
    """The shipped detector with a box head trained from nothing at ``resolution``."""
    torch.manual_seed(0)
    model = fl.create_model(MODEL, weights="shapes", box_pooler_resolution=resolution).eval()
    new = fl.create_model(MODEL, box_pooler_resolution=resolution)
    heads, mask_head = model.roi_heads, model.roi_heads.mask_head
    heads.box_head = new.roi_heads.box_head.train()
    heads.mask_head = None  # it has no part in this
    optimizer = torch.optim.AdamW(heads.box_head.parameters(), 2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        loss = sum(heads.losses(*batches[step % len(batches)]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    heads.mask_head = mask_head
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolutions", type=int, nargs="+", default=[2, 3, 4, 6, 8])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--scenes", type=int, default=2048, help="to learn from")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batches = prepare(ShapesDataset(arguments.scenes, seed=1, transform=eval_transform()))
    tests = ShapesDataset(200, seed=0, transform=eval_transform(), cache=True)
    for resolution in arguments.resolutions:
        model = with_new_head(resolution, batches, arguments.steps)
        print(f"{resolution} × {resolution}: box AP {evaluate(model, tests)['box']['AP']:.3f}")


if __name__ == "__main__":
    main()
