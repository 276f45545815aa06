"""The shipped weights are what their card says."""

import re
from pathlib import Path

import pytest
from safetensors import safe_open

import fbnet_lesson as fl
from fbnet_lesson.data.shapes import CATEGORIES, ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.training.evaluation import evaluate

FOLDER = Path(__file__).parents[1] / "data" / "weights"
FILE = FOLDER / "mask_rcnn_tiny_shapes.safetensors"
CARD = (FOLDER / "README.md").read_text()


def test_the_file_is_small_and_notes_its_classes():
    assert FILE.stat().st_size <= 3_000_000
    with safe_open(FILE, "pt") as file:
        notes = file.metadata()
    assert notes["name"] == "lesson/mask_rcnn_tiny"
    assert all(f'"{name}"' in notes["categories"] for name in CATEGORIES)


@pytest.mark.slow
def test_the_average_precision_of_the_card_is_measured_again():
    model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes")
    metrics = evaluate(model, ShapesDataset(200, seed=0, transform=eval_transform()))
    for kind in ("box", "mask"):
        names = ("AP", "AP50", "AP75")
        row = rf"\| {kind} AP \| ([\d.]+) \(AP50 ([\d.]+), AP75 ([\d.]+)\)"
        stated = [float(number) for number in re.search(row, CARD).groups()]
        measured = [metrics[kind][name] for name in names]
        assert measured == pytest.approx(stated, abs=0.002), kind  # other CPUs round differently
