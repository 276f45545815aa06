"""Memory of a large set and of large photographs, beside the limit of 2 GB and beside others.

    python -m fbnet_lesson.benchmarks.memory [PICTURES [PHOTOGRAPHS [OBJECTS [READ]]]]

Trains on a set of 20,000 pictures (links to one, seven objects each), reads 5,000 of them, which
fills the cache, and evaluates two photographs of 12 megapixels with 250 objects each. Each work
is done in a process of its own; what is printed is the most memory that it had, imports included.
Beside training: pycocotools' index of the same file. Beside evaluation: pycocotools' masks of one
of the photographs, all at once.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from fbnet_lesson.benchmarks.index import make_set, measure

LIMIT = 2000  # MB
SIZE = (4000, 3000)
MODEL = "lesson/mask_rcnn_tiny"
COMMAND = "from fbnet_lesson.cli import app; app({}, standalone_mode=False)"


def make_photographs(folder: Path, photographs: int, objects: int) -> Path:
    """Writes noise with discs of any colour and their outlines; returns the annotation file."""
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    draws = random.Random(0)
    annotations = []
    for image_id in range(1, photographs + 1):
        photograph = Image.effect_noise(SIZE, 60).convert("RGB")
        brush = ImageDraw.Draw(photograph)
        for _ in range(objects):
            size = draws.randint(60, 240)
            x, y = draws.randint(0, SIZE[0] - size), draws.randint(0, SIZE[1] - size)
            colour = tuple(draws.randrange(256) for _ in range(3))
            brush.ellipse((x, y, x + size, y + size), fill=colour)
            corners = [(0.3, 0), (0.8, 0.1), (1, 0.6), (0.7, 1), (0.2, 0.9), (0, 0.4)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [x, y, size, size],
                    "area": 0.7 * size**2,
                    "iscrowd": 0,
                    "segmentation": [[v for u, w in corners for v in (x + u * size, y + w * size)]],
                }
            )
        photograph.save(pictures / f"{image_id}.jpg", quality=80)
    file = folder / "photographs.json"
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": SIZE[0], "height": SIZE[1]}
            for i in range(1, photographs + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "disc"}],
    }
    file.write_text(json.dumps(content))
    return file


def training(file: Path, out: Path, iterations: int = 20) -> str:
    """A program that trains on the set a little."""
    options = ["--model", MODEL, "--iterations", iterations, "--batch-size", 8, "--threads", 1]
    return COMMAND.format(_texts("train", "--data", file, "--out", out, *options))


def reading(count: int) -> str:
    """A program that reads so many samples of the set as a training does, into its cache."""
    return (
        "from fbnet_lesson.data import CocoDataset, train_transform\n"
        "data = CocoDataset(file, folder, transform=train_transform((128, 128)), cache=True,\n"
        f"                   max_edge=512)\nfor i in range({count}): data[i]"
    )


def evaluation(file: Path, out: Path, detections: int) -> str:
    """A program that evaluates the model that finds so many detections in each photograph."""
    fields = {
        "num_classes": 1,
        "post_nms_topk": (2000, 8 * detections),
        "detections_per_image": detections,
        "score_threshold": 0.0,
        "rpn_nms_threshold": 0.95,
        "nms_threshold": 0.95,
    }
    return (
        "import torch\nfrom fbnet_lesson.zoo.models import create_model\n"
        "from fbnet_lesson.data import CocoDataset, eval_transform\n"
        "from fbnet_lesson.training.evaluation import evaluate\n"
        f"torch.manual_seed(0); model = create_model({MODEL!r}, weights='shapes', **{fields!r})\n"
        "data = CocoDataset(file, folder, transform=eval_transform(), masks=False)\n"
        "found = evaluate(model, data)\n"
        f"assert found['detections'] == {detections} * len(data), found['detections']\n"
        "assert found['mask'] is not None"
    )


def whole_masks(detections: int) -> str:
    """A program that has the masks of the first photograph in full size, by pycocotools."""
    return (
        "import numpy as np\nfrom pycocotools.coco import COCO\nfrom pycocotools import mask\n"
        "coco = COCO(file)\n"
        f"outlines = [coco.annToRLE(a) for a in coco.imgToAnns[1][:{detections}]]\n"
        "masks = mask.decode(outlines); masks.sum()"
    )


def main(pictures: int = 20_000, photographs: int = 2, objects: int = 250, read: int = 5000):
    """Print a row for each work."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "set").mkdir()
        large = make_set(folder / "set", pictures, 7 * pictures)
        wide = make_photographs(folder / "photographs", photographs, objects)
        index = "from pycocotools.coco import COCO; COCO(file)"
        works = (
            (f"training on {pictures:,} pictures", large, training(large, folder / "run"), index),
            (f"reading {read:,} of them", large, reading(read), index),
            (f"evaluating {photographs} photographs", wide,
             evaluation(wide, folder / "out", objects), whole_masks(objects)),
        )  # fmt: skip
        print(f"{'':32}{'MB':>8}{'of 2 GB':>9}{'peer, MB':>10}{'ratio':>8}")
        for title, file, work, peer in works:
            ours, theirs = (measure(text, file, folder / "cache")[1] for text in (work, peer))
            print(f"{title:32}{ours:8.0f}{ours / LIMIT:9.2f}{theirs:10.0f}{ours / theirs:8.2f}",
                  flush=True)  # fmt: skip


def _texts(*arguments: object) -> list[str]:
    return list(map(str, arguments))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
