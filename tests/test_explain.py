"""``eval`` says why an AP is 0 or undefined: the clinic of spoiled predictions, and honest ones."""

import json

import pytest
import torch
from typer.testing import CliRunner

import fbnet_lesson as fl
from fbnet_lesson.cli import app
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.training.config import TrainConfig
from fbnet_lesson.training.detecting import detect
from fbnet_lesson.training.explain import explain
from fbnet_lesson.training.loop import train
from fbnet_lesson.training.results import read_results, read_truth, score_results
from fbnet_lesson.training.scoring import average_precision

TINY = "lesson/mask_rcnn_tiny"


@pytest.fixture(scope="module")
def scenes():
    return ShapesDataset(40, seed=0, transform=eval_transform())


@pytest.fixture(scope="module")
def truth(scenes):
    return scenes.coco_ground_truth()


def boxes_of(model, scenes):
    found = detect(model.eval(), scenes).results
    return [{k: v for k, v in r.items() if k != "segmentation"} for r in found]


@pytest.fixture(scope="module")
def good(scenes):
    return boxes_of(fl.create_model(TINY, weights="shapes"), scenes)


def sentences(truth, found) -> list[str]:
    """What is said, but for the sizes and classes that do not occur."""
    metrics = {"box": average_precision(truth, found, "bbox"), "mask": None}
    return [s for s in explain(truth, found, metrics) if "undefined" not in s]


def boxed(found, change):
    return [{**r, "bbox": change(*r["bbox"], r)} for r in found]


def labelled(found, change):
    return [{**r, "category_id": change(r["category_id"])} for r in found]


CLINIC = {
    "ids off by one": (
        lambda f: [{**r, "image_id": r["image_id"] + 1} for r in f],
        "The image_ids look shifted by +1",
    ),
    "xyxy for xywh": (
        lambda f: boxed(f, lambda x, y, w, h, r: [x, y, x + w, y + h]),
        "The boxes look like [x1, y1, x2, y2]; COCO's bbox is",
    ),
    "boxes of the resized image": (
        lambda f: boxed(f, lambda *b: [1.75 * v for v in b[:4]]),
        "The boxes look like those of another image size: they fit when multiplied by about 0.57",
    ),
    "0..1 coordinates": (
        lambda f: boxed(f, lambda *b: [v / 128 for v in b[:4]]),
        "The boxes look like shares of the picture, 0..1",
    ),
    "labels shifted": (
        lambda f: labelled(f, lambda k: k - 1),
        "The category_ids look shifted by -1",
    ),
    "scores reversed": (
        lambda f: [{**r, "score": 1 - r["score"]} for r in f],
        "The scores look reversed",
    ),
    "categories in another order": (
        lambda f: labelled(f, {1: 4, 2: 1, 3: 6, 4: 2, 5: 3, 6: 5}.get),
        "The categories look as if they were in another order",
    ),
    "images missing": (
        lambda f: [r for r in f if r["image_id"] % 4],
        "images with objects have no detection at all",
    ),
}
NAMES = [sentence for _, sentence in CLINIC.values()]


@pytest.mark.parametrize("case", CLINIC)
def test_each_way_to_spoil_predictions_is_told_and_no_other(truth, good, case):
    spoil, sentence = CLINIC[case]
    said = "\n".join(sentences(truth, spoil(good)))
    assert sentence in said
    assert [name for name in NAMES if name.partition(" by")[0] in said] == [sentence]


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda f: labelled(f, lambda k: k % 6 + 1), "The category_ids look shifted by +1"),
        (
            lambda f: boxed(
                f, lambda x, y, w, h, r: [x / 128, y / 128, (x + w) / 128, (y + h) / 128]
            ),
            "[x1, y1, x2, y2] in shares of the picture",
        ),
        (
            lambda f: boxed(f, lambda x, y, w, h, r: [2.5 * x, 1.5 * y, 2.5 * w, 1.5 * h]),
            "those of another image size",
        ),
        (lambda f: [{**r, "image_id": r["image_id"] - 1} for r in f], "look shifted by -1"),
    ],
)
def test_variants_are_told_too(truth, good, spoil, sentence):
    assert sentence in "\n".join(sentences(truth, spoil(good)))


def test_pictures_of_several_sizes_that_were_resized_to_one_short_edge():
    """Each picture has its own factor: 800 / its short edge."""
    images = [{"id": n, "width": 300 + 40 * n, "height": 500 - 10 * n} for n in range(12)]
    truth = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [50 + n, 60, 100, 80 + n],
         "area": 100 * (80 + n), "iscrowd": 0} for n in range(12)]}  # fmt: skip
    found = []
    for image, a in zip(images, truth["annotations"], strict=True):
        factor = 800 / min(image["width"], image["height"])
        box = [v * factor for v in a["bbox"]]
        found.append({"image_id": image["id"], "category_id": 1, "bbox": box, "score": 0.9})
    assert "another image size" in "\n".join(sentences(truth, found))


def test_a_good_model_s_predictions_need_no_explanation(truth, good):
    assert sentences(truth, good) == []


def test_an_untrained_model_is_called_that_and_nothing_else(truth, scenes):
    torch.manual_seed(0)
    found = boxes_of(fl.create_model(TINY, score_threshold=0.01), scenes)
    assert len(found) > 100
    (said,) = sentences(truth, found)
    assert "Has the model learned for long enough?" in said


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [40, 120])
def test_a_half_trained_model_has_none_of_the_eight(truth, scenes, tmp_path, iterations):
    torch.manual_seed(0)
    model = fl.create_model(TINY)
    data = ShapesDataset(4 * iterations, seed=1, transform=eval_transform())
    config = TrainConfig(iterations=iterations, batch_size=4, threads=1)
    train(model, data, None, config, tmp_path)
    assert sentences(truth, boxes_of(model, scenes)) == []


def test_no_detection_and_no_truth_are_said(truth):
    assert sentences(truth, []) == [
        "There is no detection at all: nothing scored over the score threshold."
    ]
    empty = {**truth, "annotations": []}
    metrics = {"box": average_precision(empty, [], "bbox")}
    assert explain(empty, [], metrics) == [
        "AP is undefined: the images that were evaluated have no object."
    ]
    crowds = {**truth, "annotations": [{**a, "iscrowd": 1} for a in truth["annotations"]]}
    metrics = {"box": average_precision(crowds, [], "bbox")}
    assert "are crowds" in explain(crowds, [], metrics)[0]


def test_sizes_and_classes_that_do_not_occur_are_said(truth, good):
    few = [a for a in truth["annotations"] if a["category_id"] != 2]
    without = {**truth, "annotations": few}
    metrics = {"box": average_precision(without, good, "bbox")}
    said = "\n".join(explain(without, good, metrics))
    assert "APl is undefined: no object has an area over 96² pixels." in said
    assert "AP of ring is undefined: no such object" in said


def test_ids_that_do_not_meet_are_counted(truth, good):
    found = [{**r, "image_id": 10_000 + n} for n, r in enumerate(good)]
    assert f"{len(good)} of {len(good)} detections have an image_id that the set has not" in (
        "\n".join(sentences(truth, found))
    )


# ------------------------------------------------------------------------------- files of results


def test_a_file_of_results_scores_as_the_model_does(scenes, truth, good, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(good))
    metrics = score_results(
        read_truth(tmp_path / "truth.json"), read_results(tmp_path / "found.json")
    )
    own = average_precision(truth, good, "bbox")
    assert metrics["box"].pop("per_class") == pytest.approx(own.pop("per_class"))
    assert metrics["box"] == pytest.approx(own, nan_ok=True)
    assert metrics["mask"] is None and metrics["detections"] == len(good)


def test_masks_alone_give_boxes_too(scenes, truth, tmp_path):
    found = detect(fl.create_model(TINY, weights="shapes").eval(), scenes).results
    (tmp_path / "found.json").write_text(
        json.dumps([{k: v for k, v in r.items() if k != "bbox"} for r in found])
    )
    metrics = score_results(truth, read_results(tmp_path / "found.json"))
    assert metrics["mask"]["AP"] == pytest.approx(average_precision(truth, found, "segm")["AP"])
    assert metrics["box"]["AP"] > 0.6


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is no JSON"),
        ('"text"', "holds a str; expected a list of detections"),
        ("[3]", "detection 0 is 3; expected image_id"),
        (json.dumps([{k: GOOD[k] for k in ("image_id", "bbox", "score")}]), "has no category_id"),
        (json.dumps([GOOD, {**GOOD, "bbox": [1, 2, 3]}]), r"detection 1: bbox \[1, 2, 3\]"),
        (json.dumps([{**GOOD, "score": "high"}]), "score 'high'"),
        (json.dumps([{**GOOD, "segmentation": [[1, 2, 3, 4, 5, 6]]}]), "no run-length encoding"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, content, message):
    file = tmp_path / "found.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results(file)


def test_a_truth_that_is_none_is_named(tmp_path):
    file = tmp_path / "truth.json"
    file.write_text("[]")
    with pytest.raises(ValueError, match="no list 'images'"):
        read_truth(file)
    with pytest.raises(ValueError, match="cannot read"):
        read_truth(tmp_path / "absent.json")


# ------------------------------------------------------------------------------ the command line


def test_eval_says_of_a_file_of_predictions_what_is_wrong_with_it(truth, good, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    spoil, sentence = CLINIC["xyxy for xywh"]
    (tmp_path / "found.json").write_text(json.dumps(spoil(good)))
    options = ["--predictions", str(tmp_path / "found.json"), "--data"]
    result = CliRunner().invoke(app, ["eval", *options, str(tmp_path / "truth.json")])
    assert result.exit_code == 0, result.output
    assert f"40 images, {len(good)} detections" in result.output and sentence in result.output
    result = CliRunner().invoke(app, ["eval", *options, str(tmp_path / "absent.json")])
    assert result.exit_code == 2 and "absent.json" in result.output
    result = CliRunner().invoke(app, ["eval", *options, "shapes"])
    assert result.exit_code == 2 and "--predictions needs --data" in result.output
