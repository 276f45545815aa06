"""The whole path of a set of one's own, on one that is unruly in every way: see ``unruly.py``."""

import contextlib
import copy
import io
import json

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner
from unruly import write_unruly

from fbnet_lesson import cli
from fbnet_lesson.training.checkpoint import load_checkpoint

FEW = ["--batch-size", 4, "--threads", 1, "--warmup", 0]


def call(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def by_pycocotools(truth, results_file, kind):
    """AP of all classes, and of each category id."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(str(results_file)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]
    return evaluation.stats[0], precision.mean((0, 1)), evaluation.params.catIds


def with_masks(truth):
    """Objects with a box alone as crowds: pycocotools takes no empty outline, and where nobody
    knows the mask, none is wrong."""
    truth = copy.deepcopy(truth)
    for record in truth["annotations"]:
        if record.get("segmentation") in (None, [], [[]]):
            x, y, w, h = record["bbox"]
            record |= {"iscrowd": 1, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
    return truth


@pytest.mark.slow
def test_from_the_check_to_predict_it_is_one_and_the_same_set(tmp_path):
    unruly = write_unruly(tmp_path / "Übung")
    fixed, run = tmp_path / "Übung" / "ganz.json", tmp_path / "run"
    pictures = ["--images", unruly.images]
    check = ["data", "check", unruly.annotations, *pictures]

    assert "EXIF undecided" in call(*check, code=1)
    call(*check, "--exif", "apply", "--fix", fixed)
    call("data", "check", fixed, *pictures, "--exif", "apply")

    train = ["train", "--data", fixed, *pictures, "--out", run, *FEW, "--weights", "shapes"]
    assert "image 101 is the first" in call(*train, code=2)  # its turn is nobody's guess
    said = call(*train, "--iterations", 6, "--lr", 0.01, "--exif", "apply")
    assert "13 images, 35 objects: Nüsse 12, Äpfel 12, Birnen 11" in said
    call("train", "--out", run, "--resume", "--iterations", 20)
    assert load_checkpoint(run)["iteration"] == 20

    evaluated, predicted = tmp_path / "evaluated", tmp_path / "predicted"
    printed = call("eval", "--run", run, "--data", fixed, *pictures, "--exif", "apply",
                   "--out", evaluated)  # fmt: skip
    said = call("predict", unruly.images, "--run", run, "--score", 0, "--out", predicted)
    assert "13 of 13 pictures are of the sets of the run" in said
    assert "1 pictures are annotated in the pixels as stored, and looked at so" in said

    metrics = json.loads((evaluated / "eval.json").read_text())
    truth = json.loads(fixed.read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    for name, kind, known in (("box", "bbox", truth), ("mask", "segm", with_masks(truth))):
        (row,) = (line.split() for line in printed.splitlines() if line.startswith(f"{name} "))
        for folder in (evaluated, predicted):
            ap, by_class, ids = by_pycocotools(known, folder / "detections.json", kind)
            assert ap == pytest.approx(metrics[name]["AP"], abs=1e-6) and ap > 0.05
            assert row[1] == f"{ap:.3f}" and ids == [5, 17, 90]
            told = [metrics[name]["per_class"][names[number]] for number in ids]
            assert by_class == pytest.approx(told, abs=1e-6) and min(by_class) > 0
