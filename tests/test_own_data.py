"""What people do with a set of their own on the command line, beyond the shortest way."""

import argparse
import contextlib
import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file
from typer.testing import CliRunner

import fbnet_lesson as fl
from fbnet_lesson import cli
from fbnet_lesson.data import CATEGORIES, write_coco
from fbnet_lesson.training.checkpoint import load_checkpoint
from fbnet_lesson.zoo.checkpoints import d2go_key
from fbnet_lesson.zoo.weight_files import read_weights

FEW = ["--iterations", "2", "--batch-size", "2", "--threads", "1"]
SMALL = ["--set", "min_size=64", "--set", "post_nms_topk=(20, 5)"]
TINY = "lesson/mask_rcnn_tiny"


def call(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Eight small scenes as a COCO-format folder."""
    folder = tmp_path_factory.mktemp("scenes")
    write_coco(folder, 8, seed=3, size=(64, 64))
    return folder


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    """A run on six of the scenes, evaluated on two after each of its iterations."""
    out = tmp_path_factory.mktemp("runs") / "run"
    ids = ["--train-ids", "0-5", "--val-ids", "6-7", "--eval-every", 1]
    call("train", "--data", scenes, "--out", out, *ids, *FEW, *SMALL)
    return out


def told(folder):
    return json.loads((folder / "annotations.json").read_text())


def copy_of(scenes, folder, change):
    """The scenes with other annotations."""
    shutil.copytree(scenes, folder)
    annotations = told(folder)
    change(annotations)
    (folder / "annotations.json").write_text(json.dumps(annotations))
    return folder


def state_of(path):
    return {key: value.clone() for key, value in read_weights(path).state.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# What is predicted is what is evaluated


def test_pycocotools_loads_what_predict_wrote_and_finds_the_ap_that_eval_printed(scenes, tmp_path):
    """The file's own ids: the categories are numbered 5, 15, … and stand in another order."""

    def renumber(annotations):
        new = {c["id"]: 10 * c["id"] + 5 for c in annotations["categories"]}
        annotations["categories"] = [
            c | {"id": new[c["id"]]} for c in reversed(annotations["categories"])
        ]
        for record in annotations["annotations"]:
            record["category_id"] = new[record["category_id"]]

    folder = copy_of(scenes, tmp_path / "set", renumber)
    evaluated = call("eval", "--data", folder, "--out", tmp_path / "evaluated")
    assert "its categories are mapped to the detector's by name" in evaluated
    options = ["--data", folder, "--score", 0, "--out", tmp_path / "predicted"]
    call("predict", folder / "images", *options)
    expected = json.loads((tmp_path / "evaluated" / "eval.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations.json"))
        found = truth.loadRes(str(tmp_path / "predicted" / "detections.json"))
        for kind, name in (("bbox", "box"), ("segm", "mask")):
            evaluation = COCOeval(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(expected[name]["AP"], abs=1e-6)
            assert evaluation.stats[0] > 0.3


def test_a_picture_that_is_named_twice_is_looked_at_once(scenes, tmp_path):
    picture = sorted((scenes / "images").iterdir())[0]
    call("predict", scenes / "images", picture, picture, "--out", tmp_path, "--score", 0.3)
    found = json.loads((tmp_path / "detections.json").read_text())
    assert len({result["image_id"] for result in found}) == len(list(tmp_path.glob("*.png"))) == 8


def test_pictures_of_the_runs_own_sets_keep_their_ids_where_those_can_be_read(
    run, scenes, tmp_path
):
    pictures = sorted((scenes / "images").iterdir())[3:5]
    own = shutil.copytree(run, tmp_path / "run")
    predict = ["predict", *pictures, "--run", own, "--score", 0, "--out"]
    said = call(*predict, tmp_path / "a")
    assert "2 of 2 pictures are of the sets of the run: their ids are taken" in said
    ids = {image["file_name"]: image["id"] for image in told(scenes)["images"]}
    for result in json.loads((tmp_path / "a" / "detections.json").read_text()):
        assert result["image_id"] == ids[Path(result["file_name"]).name]
    config = json.loads((own / "config.json").read_text())
    (tmp_path / "gone").mkdir()
    config["notes"] |= {"data": str(tmp_path / "gone"), "val_data": None}
    (own / "config.json").write_text(json.dumps(config))
    said = call(*predict, tmp_path / "b")
    assert f"no image ids are taken from the run's set {tmp_path / 'gone'}: --data" in said
    found = json.loads((tmp_path / "b" / "detections.json").read_text())
    assert {result["image_id"] for result in found} == {1, 2}


# eval


def crowded(count):
    """An annotation file of one picture with ``count`` objects side by side, and its results."""
    boxes = [[4 * (i % 16), 4 * (i // 16), 3, 3] for i in range(count)]
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 9, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "nut"}],
    }
    found = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9 - i / 1000}
        for i, box in enumerate(boxes)
    ]
    return truth, found


def test_max_dets_scores_more_detections_of_a_class_and_the_limit_is_said(tmp_path):
    truth, found = crowded(130)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    files = ["--predictions", tmp_path / "found.json", "--data", tmp_path / "truth.json"]
    few = call("eval", *files, "--out", tmp_path / "few")
    assert "image 1 has 130 objects of nut: only the best 100" in few
    assert "--max-dets 130 scores all" in few and "AR100" in few
    most = call("eval", *files, "--max-dets", 130, "--out", tmp_path / "all")
    assert "only the best" not in most and "AR130" in most
    few, most = (json.loads((tmp_path / n / "eval.json").read_text()) for n in ("few", "all"))
    assert few["box"]["AP"] == pytest.approx(77 / 101)  # recall 100/130: 77 of 101 points
    assert most["box"]["AP"] == 1


@pytest.mark.parametrize("most", [1, 10])
def test_max_dets_counts_for_a_model_as_for_its_results(scenes, tmp_path, most):
    score = ["--max-dets", most, "--out"]
    said = call("eval", "--data", scenes, *score, tmp_path / "model")
    assert said.splitlines()[1].endswith(f" AR{most}")  # of more, nothing is scored
    results = ["--predictions", tmp_path / "model" / "detections.json"]
    call("eval", "--data", scenes / "annotations.json", *results, *score, tmp_path / "results")
    model, results = (
        json.loads((tmp_path / name / "eval.json").read_text()) for name in ("model", "results")
    )
    model.pop("limits"), results.pop("limits")  # those of the model's config, too
    assert model == results and max(
        int(name[2:]) for name in model["box"] if name.startswith("AR") and name[2:].isdecimal()
    ) == most  # fmt: skip


def test_classes_scores_some_of_the_classes_whatever_their_order(scenes, tmp_path):
    call("eval", "--data", scenes, "--out", tmp_path / "all")
    call("eval", "--data", scenes, "--classes", "star,disc", "--out", tmp_path / "two")
    every, two = (json.loads((tmp_path / n / "eval.json").read_text()) for n in ("all", "two"))
    assert set(two["mask"]["per_class"]) == {"disc", "star"}
    for name, value in two["mask"]["per_class"].items():
        assert value == pytest.approx(every["mask"]["per_class"][name])
    found = json.loads((tmp_path / "all" / "detections.json").read_text())
    assert two["detections"] == sum(
        CATEGORIES[r["category_id"] - 1] in ("disc", "star") for r in found
    )
    assert "--classes has 'moon'; the detector knows disc, ring" in call(
        "eval", "--data", scenes, "--classes", "moon", code=2
    )


def fewer(annotations):
    """No stars, and the rest in another order under other ids."""
    gone = next(c["id"] for c in annotations["categories"] if c["name"] == "star")
    annotations["annotations"] = [a for a in annotations["annotations"] if a["category_id"] != gone]
    kept = [c for c in annotations["categories"] if c["id"] != gone]
    new = {c["id"]: number for number, c in enumerate(reversed(kept), 31)}
    annotations["categories"] = [c | {"id": new[c["id"]]} for c in kept]
    for record in annotations["annotations"]:
        record["category_id"] = new[record["category_id"]]


def test_fewer_categories_in_another_order_are_mapped_by_name_and_it_is_said(scenes, tmp_path):
    folder = copy_of(scenes, tmp_path / "fewer", fewer)
    said = call("eval", "--data", folder, "--out", tmp_path / "found")
    assert "the set: it has no category star; its categories are mapped to the detector's" in said
    metrics = json.loads((tmp_path / "found" / "eval.json").read_text())
    assert metrics["mask"]["AP"] > 0.3  # mapped wrongly, it would be 0
    train = ["train", "--data", scenes, "--val-data", folder, "--out", tmp_path / "run"]
    said = call(*train, *FEW, *SMALL)
    assert "evaluation set: it has no category star; its categories are mapped to those" in said


def test_training_on_some_classes_leaves_the_others_out_of_the_evaluation_too(scenes, tmp_path):
    ids = ["--train-ids", "0-5", "--val-ids", "6-7", "--classes", "disc,ring"]
    call("train", "--data", scenes, "--out", tmp_path / "run", *ids, *FEW, *SMALL)
    metrics = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert set(metrics["objects"]) == {"disc", "ring"}


# The run: what it keeps, and how it goes on


def test_the_best_evaluation_keeps_its_weights(run, tmp_path):
    best = torch.load(run / "best.pt", weights_only=True)
    assert best["score"]["kind"] == "mask AP" and best["score"]["iteration"] == best["iteration"]
    assert best["categories"] == list(CATEGORIES)
    said = call("eval", "--weights", run / "best.pt", "--length", 2)
    assert said.startswith("2 images")
    assert same(state_of(run / "best.pt"), {k.removeprefix("module."): v for k, v in
                best["ema"].items() if k.startswith("module.")})  # fmt: skip


def test_a_run_can_go_on_from_its_best_checkpoint(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "run")
    shutil.copy(out / "best.pt", out / "last.pt")
    iteration = load_checkpoint(out)["iteration"]
    said = call("train", "--resume", "--out", out, "--iterations", 3)
    assert f"resumed after iteration {iteration} of 2, now of 3" in said


def test_a_finished_run_takes_more_iterations(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "run")
    assert "the last: for more, give --iterations more than 2" in call(
        "train", "--resume", "--out", out
    )
    said = call("train", "--resume", "--out", out, "--iterations", 4)
    assert "resumed after iteration 2 of 2, now of 4: the learning rate goes on from 0.00" in said
    rows = (out / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["iteration", "1", "2", "3", "4"]
    config = cli.train.TrainConfig(iterations=4)
    rates = [float(row.split(",")[1]) for row in rows[3:]]
    assert rates == pytest.approx([config.lr * config.learning_rate_factor(i) for i in (2, 3)])
    assert json.loads((out / "config.json").read_text())["train"]["iterations"] == 4
    assert not same(load_file(out / "model.safetensors"), load_file(run / "model.safetensors"))


def test_checkpoint_and_weights_know_the_classes(run):
    for name in ("last.pt", "best.pt", "model.safetensors"):
        notes = read_weights(run / name).notes
        assert notes["categories"] == list(CATEGORIES), name
        assert notes["category_ids"] == [1, 2, 3, 4, 5, 6], name
        assert notes["name"] == TINY and notes["config"]["min_size"] == 64


def test_the_classes_of_a_checkpoint_alone_name_what_is_predicted(run, scenes, tmp_path):
    shutil.copy(run / "last.pt", tmp_path / "sent.pt")
    options = ["--weights", tmp_path / "sent.pt", "--out", tmp_path / "out", "--score", 0]
    call("predict", sorted((scenes / "images").iterdir())[0], *options)
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert found and {r["category"] for r in found} <= set(CATEGORIES)
    assert all(CATEGORIES[r["category_id"] - 1] == r["category"] for r in found)


def test_our_checkpoint_gives_its_average(run):
    state = torch.load(run / "last.pt", weights_only=True)
    average = {k.removeprefix("module."): v for k, v in state["ema"].items() if k != "n_averaged"}
    assert not same(average, state["model"])
    assert same(state_of(run / "last.pt"), average)
    assert same(average, load_file(run / "model.safetensors"))


# Weights of wrappers


WRAPPED = {
    "torch.compile": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "DDP": lambda s: {f"module.{k}": v for k, v in s.items()},
    "DDP of compiled": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "compiled parts": lambda s: {k.replace("rpn.", "rpn._orig_mod.", 1): v for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3},
    "Lightning, compiled": lambda s: {
        "state_dict": {f"model._orig_mod.{k}": v for k, v in s.items()} | {"loss.w": torch.ones(1)}
    },
    "AveragedModel": lambda s: (
        {"n_averaged": torch.tensor(7)} | {f"module.{k}": v for k, v in s.items()}
    ),
    "model and average": lambda s: {"model": {k: v * 0 for k, v in s.items()}, "ema": s},
    "average in the state": lambda s: (
        {f"model.{k}": v * 0 for k, v in s.items()}
        | {f"ema_model.module.{k}": v for k, v in s.items()}
    ),
    "arrays beside": lambda s: {"model": s, "curve": torch.ones(3).numpy(), "best": torch.ones(1)},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_a_wrapper_puts_around_the_names_is_taken_off(wrapper, tmp_path):
    state = {
        key: value.float() + 1 for key, value in fl.create_model(TINY).state_dict().items()
        if not key.endswith("num_batches_tracked")
    }  # fmt: skip
    torch.save(WRAPPED[wrapper](state), tmp_path / "w.pth")
    model = fl.create_model(TINY)
    report = fl.load_weights(model, tmp_path / "w.pth")
    assert not report.problems() and len(report.loaded) == len(state)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.mark.parametrize("protocol", [2, 4])
def test_detectron2s_pickle_of_arrays_is_read_without_executing_it(protocol, tmp_path):
    state = fl.create_model(TINY).state_dict()
    arrays = {d2go_key(key): value.numpy() for key, value in state.items()}
    told = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(told, protocol))
    model = fl.create_model(TINY)
    assert fl.load_weights(model, tmp_path / "model_final.pkl").layout == "d2go"
    assert same(model.state_dict(), state)


def test_options_and_numpys_numbers_beside_the_weights_do_not_matter(tmp_path):
    state = fl.create_model(TINY).state_dict()
    options = argparse.Namespace(lr=0.1, best=np.float64(0.5), steps=np.int64(3))
    torch.save({"model": state, "args": options, "best_AP": np.float32(0.5)}, tmp_path / "w.pth")
    model = fl.create_model(TINY)
    fl.load_weights(model, tmp_path / "w.pth")
    assert same(model.state_dict(), state)


# Augmentation


def test_augmentation_is_chosen_on_the_command_line(scenes, tmp_path):
    config = cli.train.TrainConfig
    ids = {"train_ids": "0-5", "data": str(scenes), "images": None, "val_ids": None,
           "val_data": None, "val_images": None, "drop_defects": False}  # fmt: skip

    def first(**settings):
        torch.manual_seed(4)
        return cli.training_data(ids, config(scale_range=(1.0, 1.0), **settings), 64)[0][0]

    plain, target = first(flip=0.0, colour=False)
    mirrored, turned = first(flip=1.0, colour=False)
    assert torch.equal(mirrored, plain.flip(2))
    assert torch.equal(turned["boxes"][:, 0], 64 - target["boxes"][:, 2])
    coloured, _ = first(flip=0.0, colour=True)
    assert not torch.equal(coloured, plain)
    options = ["--flip", 0, "--no-colour", "--min-visible", 0.5, "--scale-range", 1, 1.5]
    call("train", "--data", scenes, "--out", tmp_path / "run", *FEW, *SMALL, *options)
    noted = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert (noted["flip"], noted["colour"], noted["min_visible"]) == (0, False, 0.5)
    assert noted["scale_range"] == [1, 1.5]


def test_an_object_that_shows_too_little_in_the_crop_is_left_out(scenes):
    source = {"data": str(scenes), "images": None, "train_ids": None, "val_ids": None,
              "val_data": None, "val_images": None, "drop_defects": False}  # fmt: skip

    def objects(share):
        torch.manual_seed(0)
        settings = {"scale_range": (2.0, 2.0), "min_visible": share}
        dataset, _ = cli.training_data(source, cli.train.TrainConfig(**settings), 64)
        return sum(len(dataset[i][1]["labels"]) for i in range(8))

    assert objects(1.0) < objects(0.25) < objects(0.0)


# Limits, and masks


def test_limits_that_bite_are_said_before_the_training(tmp_path):
    truth, _ = crowded(130)
    (tmp_path / "nuts.json").write_text(json.dumps(truth))
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "a.png")
    model = ["--model", "lesson/faster_rcnn_tiny", "--set", "min_size=64"]
    train = [
        "train",
        "--data",
        tmp_path / "nuts.json",
        "--iterations",
        1,
        "--batch-size",
        1,
        *model,
    ]
    lines = call(*train, "--out", tmp_path / "a").splitlines()
    for field, value in (("post_nms_topk=50", '"post_nms_topk=(100, 260)"'),
                         ("detections_per_image=100", "detections_per_image=260")):  # fmt: skip
        sentence = (
            f"a.png has 130 objects and the model keeps at most {field} in a picture: it cannot "
            f"find all; --set {value} raises it"
        )
        assert sentence in lines
    higher = ["--set", "post_nms_topk=(100, 260)", "--set", "detections_per_image=260"]
    assert "cannot find all" not in call(*train, *higher, "--out", tmp_path / "b")


def without_outlines(annotations):
    for record in annotations["annotations"]:
        record["segmentation"] = []


def test_a_mask_model_on_boxes_alone_is_refused_unless_asked_for(scenes, tmp_path):
    folder = copy_of(scenes, tmp_path / "boxes", without_outlines)
    train = ["train", "--data", folder, "--train-ids", "0-5", "--val-ids", "6-7", *FEW, *SMALL]
    refused = call(*train, "--out", tmp_path / "a", code=2)
    assert (
        "lesson/mask_rcnn_tiny learns masks and the training set has boxes alone: take" in refused
    )
    assert "the masks learned are filled boxes" in call(
        *train, "--out", tmp_path / "b", "--boxes-as-masks"
    )
    best = torch.load(tmp_path / "b" / "best.pt", weights_only=True)
    assert best["score"]["kind"] == "box AP"  # there are no masks to measure
    call(*train, "--out", tmp_path / "c", "--model", "lesson/faster_rcnn_tiny")


def test_masks_are_not_scored_against_boxes_alone_and_it_is_said(scenes, tmp_path):
    folder = copy_of(scenes, tmp_path / "boxes", without_outlines)
    said = call("eval", "--data", folder, "--out", tmp_path / "found")
    assert "the set has boxes alone: the masks are not scored" in said
    assert json.loads((tmp_path / "found" / "eval.json").read_text())["mask"] is None
