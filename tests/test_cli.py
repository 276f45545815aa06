import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

import fbnet_lesson as fl
from fbnet_lesson import cli
from fbnet_lesson.classification.published import PRETRAINED, Pretrained
from fbnet_lesson.cli.threads import wait_politely
from fbnet_lesson.course import workbook
from fbnet_lesson.course.build import LessonError
from fbnet_lesson.data import CATEGORIES, ShapesDataset, write_coco
from fbnet_lesson.data.pictures import read_image
from fbnet_lesson.inference.detections import find, predict_files
from fbnet_lesson.inference.pictures import draw
from fbnet_lesson.training.runs import load_run

HUB = "https://huggingface.co"
ROOT = Path(__file__).resolve().parent.parent
C100 = "timm/fbnetc_100"
FEW = ["--iterations", "2", "--batch-size", "2", "--threads", "1"]
SMALL = ["--set", "min_size=64", "--set", "post_nms_topk=(20, 5)"]


def call(*arguments, answer=None):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=answer)


def fails(*arguments):
    """The one line on stderr of a command that refuses its options."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Six small scenes as a COCO-format folder."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder, 6, seed=3, size=(64, 64))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run folder of a very short training on shapes."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    result = call("train", "--data", "shapes", "--out", folder, *FEW, *SMALL, "--val-length", 3)
    assert result.exit_code == 0, result.output
    return folder


# Help and lists


def test_help_names_all_commands_and_no_command_is_help():
    output = call("--help").output
    for command in "lab update models data train eval predict build progress".split():
        assert re.search(rf"^  {command} ", output, re.MULTILINE)
    assert output.splitlines()[0] in call().output


def test_train_has_an_option_for_each_setting():
    options = call("train", "--help").output
    for field in cli.train.TrainConfig.__dataclass_fields__:
        assert f"--{field.replace('_', '-')} " in options, field


def test_models_are_listed_with_what_is_known_of_them():
    rows = [line.split() for line in call("models").output.splitlines()]
    assert rows[0] == "name kind parameters MACs pixels top-1 weights".split()
    assert [row[0] for row in rows[1:]] == fl.list_models()
    cells = {row[0]: row[1:] for row in rows}
    assert cells["lesson/mask_rcnn_tiny"] == "FBNetV3IS 448,944 - 128 - shapes (shipped)".split()
    assert cells["d2go/faster_rcnn_fbnetv3a_C4"] == "FBNetV3OD 5,306,708 - 224 - -".split()
    kind, parameters, macs, _, pixels, top1, url = cells["mobile_cv/dmasking_l3"]
    assert (kind, parameters, macs, pixels) == ("classifier", "9,464,040", "751.1", "288")
    assert top1 == "78.87" and url == PRETRAINED["mobile_cv/dmasking_l3"].url
    assert cells["timm/fbnetc_100"][-2:] == ["-", f"{HUB}/timm/fbnetc_100.rmsp_in1k"]


def test_the_table_of_models_is_markdown_too():
    lines = call("models", "*c_100", "--markdown").output.splitlines()
    assert lines[0].startswith("| name | kind |") and len(lines) == 3
    assert lines[2].startswith("| `timm/fbnetc_100` | classifier | 5,572,200 | ")
    assert lines[2].endswith(f" | - | [timm hub]({HUB}/timm/fbnetc_100.rmsp_in1k) |")


def test_a_pattern_without_models_is_named():
    assert "no model matches 'resnet*'; known are d2go/" in fails("models", "resnet*")


def test_the_module_is_the_same_program():
    command = [sys.executable, "-m", "fbnet_lesson", "models", "lesson/*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == call("models", "lesson/*").output


def test_lab_opens_the_first_lesson_and_passes_options_on(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(cli.course.Path, "exists", lambda self: True)
    monkeypatch.setattr(
        cli.course.subprocess,
        "run",
        lambda *a, cwd, env: calls.append((*a, cwd, env)) or subprocess.CompletedProcess([], 3),
    )
    monkeypatch.setattr(workbook, "make_copies", lambda root: [f"{root.name} has news"])
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "mine")
    opened = call("lab", "--no-browser", "--port=9999")
    assert opened.exit_code == 3 and opened.output == f"{ROOT.name} has news\n"
    ((command, folder, environment),) = calls
    assert command[1:3] == ["-m", "jupyterlab"] and folder == ROOT
    assert f"--ServerApp.root_dir={ROOT}" in command
    assert "--LabApp.default_url=/lab/tree/workbook/00_welcome.ipynb" in command
    assert command[-2:] == ["--no-browser", "--port=9999"]
    ours, mine = environment["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert json.loads(Path(ours, "labconfig", "default_setting_overrides.json").read_text())
    assert mine == "mine"


# data


def test_data_shapes_writes_a_coco_folder(tmp_path):
    assert call("data", "shapes", "--out", tmp_path, "--images", 3, "--size", 64).exit_code == 0
    annotations, images = cli.data.find_annotations(str(tmp_path), None)
    assert len(json.loads(annotations.read_text())["images"]) == 3
    assert len(list(images.glob("*.png"))) == 3


def test_data_check_ends_with_0_for_a_sound_set_and_1_for_a_defect(coco, tmp_path):
    annotations, images = cli.data.find_annotations(str(coco), None)
    result = call("data", "check", annotations, "--images", images)
    assert result.exit_code == 0 and "no defects: 6 images" in result.output
    result = call("data", "check", annotations, "--images", tmp_path)
    assert result.exit_code == 1 and "missing image" in result.output


def test_lists_of_image_ids():
    assert cli.data.parse_ids("0-3,7, 9-9") == [0, 1, 2, 3, 7, 9]
    for wrong in ("", "a", "1-", "-1", "1,,2", "1-2-3"):
        with pytest.raises(ValueError, match="is no list of image ids; allowed is such as 0-13,20"):
            cli.data.parse_ids(wrong)
    with pytest.raises(ValueError, match="'5-3' of image ids runs backwards"):
        cli.data.parse_ids("1,5-3")


def test_a_folder_stands_for_its_only_annotation_file_and_its_images(coco, tmp_path):
    annotations, images = cli.data.find_annotations(str(coco), None)
    assert cli.data.find_annotations(str(annotations), None) == (annotations, images)
    assert cli.data.find_annotations(str(coco), str(tmp_path)) == (annotations, tmp_path)
    (tmp_path / "a.json").touch()
    (tmp_path / "b.json").touch()
    with pytest.raises(ValueError, match=r"found: a.json, b.json\); name the file"):
        cli.data.find_annotations(str(tmp_path), None)


def test_settings_of_the_model_are_read_as_python_values_or_text():
    pairs = ["norm=GN", "pre_nms_topk=(200, 100)", "resize=False", "min_size=64"]
    expected = {"norm": "GN", "pre_nms_topk": (200, 100), "resize": False, "min_size": 64}
    assert cli.detectors.parse_settings(pairs) == expected


# Wrong options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "shapes", "--lr", "-1"], "lr=-1.0 is not possible; allowed is a number above"),
        (["--data", "shapes", "--optimizer", "x"], "optimizer='x' is not possible"),
        (["--data", "shapes", "--model", "resnet"], "unknown model 'resnet'; known are d2go/"),
        (["--data", "shapes", "--set", "norm=LN"], "norm='LN' is impossible"),
        (["--data", "shapes", "--set", "norms=GN"], "unknown field 'norms'"),
        (["--data", "shapes", "--set", "norm"], "--set norm: expected FIELD=VALUE"),
        (["--data", "shapes", "--weights", "no.pt"], "weights='no.pt': no such file"),
        (["--data", "shapes", "--device", "cuda:99"], "this machine has"),
        (["--data", "nowhere.json"], "--data nowhere.json: no such file"),
        ([], "--data is missing"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(tmp_path, options, message):
    assert message in fails("train", "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_an_image_that_is_trained_on_is_not_evaluated_on(coco, tmp_path):
    ids = ["--train-ids", "0-3", "--val-ids", "3-5"]
    message = fails("train", "--data", coco, "--out", tmp_path / "run", *ids)
    assert "images 3 would be trained on and evaluated on" in message


def test_a_data_set_with_defects_is_refused_or_they_are_dropped_and_counted(coco, tmp_path):
    annotations, images = cli.data.find_annotations(str(coco), None)
    content = json.loads(annotations.read_text())
    content["annotations"][0]["category_id"] = 99
    (tmp_path / "bad.json").write_text(json.dumps(content))
    train = ["train", "--data", tmp_path / "bad.json", "--images", images, *FEW, *SMALL]
    refused = call(*train, "--out", tmp_path / "refused")
    assert refused.exit_code == 2 and "unknown category" in refused.stderr
    assert "with --drop-defects" in refused.stderr
    result = call(*train, "--out", tmp_path / "run", "--drop-defects")
    assert result.exit_code == 0
    assert "training set: 0 images and 1 annotations dropped" in result.output


def test_without_a_run_folder_there_is_nothing_to_predict_with(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    predict = ["predict", tmp_path / "a.png", "--out", tmp_path / "out"]
    assert "is no run folder" in fails(*predict, "--run", tmp_path)
    assert "needs --weights" in fails(*predict, "--model", "lesson/faster_rcnn_tiny")
    assert "leave out --model" in fails(*predict, "--run", tmp_path, "--model", "lesson/x")


# train, eval, predict


def test_training_on_shapes_writes_a_run_and_says_what_it_reached(run):
    assert {"config.json", "metrics.csv", "model.safetensors", "eval.json"} <= {
        path.name for path in run.iterdir()
    }
    config = json.loads((run / "config.json").read_text())
    assert config["categories"] == list(CATEGORIES)
    assert config["train"]["iterations"] == 2 and config["model_config"]["min_size"] == 64
    assert json.loads((run / "eval.json").read_text())["images"] == 3


def test_a_resumed_run_needs_no_other_option(tmp_path, monkeypatch):
    options = ["--data", "shapes", *FEW, *SMALL, "--val-length", 2]
    stopped = call("train", "--out", tmp_path / "a", *options, "--max-minutes", 1e-9)
    assert "stopped after 1e-09 minutes" in stopped.output
    resumed = call("train", "--out", tmp_path / "a", "--resume", "--max-minutes", 9)
    assert resumed.exit_code == 0 and "resumed after iteration 1" in resumed.output
    call("train", "--out", tmp_path / "b", *options)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_folder_with_a_run_is_refused_without_resume(run):
    assert "resume it (--resume)" in fails("train", "--data", "shapes", "--out", run, *FEW, *SMALL)
    other = ["--resume", "--lr", 0.5]
    assert "other settings (lr: 0.002 -> 0.5)" in fails("train", "--out", run, *other)


def test_training_on_a_coco_set_by_image_ids(coco, tmp_path):
    ids = ["--train-ids", "0-3", "--val-ids", "4-5"]
    out = tmp_path / "run"
    result = call("train", "--data", coco, "--out", out, *ids, *FEW, *SMALL)
    assert result.exit_code == 0, result.output
    assert "2 images out of 4, 2 held out" in result.output
    model, names = load_run(out)
    assert names == list(CATEGORIES) and model.config.num_classes == 6
    evaluated = call("eval", "--run", out, "--data", coco, "--ids", "4-5")
    assert evaluated.exit_code == 0 and evaluated.output.startswith("2 images")


def test_weights_of_another_number_of_classes_start_a_training_without_their_predictors(
    coco, run, tmp_path
):
    annotations, images = cli.data.find_annotations(str(coco), None)
    content = json.loads(annotations.read_text())
    for record in content["annotations"]:
        record["category_id"] = 1
    content["categories"] = content["categories"][:1]
    (tmp_path / "one.json").write_text(json.dumps(content))
    train = ["train", "--data", tmp_path / "one.json", "--images", images, *FEW, *SMALL]
    result = call(*train, "--out", tmp_path / "run", "--weights", run / "model.safetensors")
    assert result.exit_code == 0, result.output
    assert "because num_classes differs: roi_heads.box_head." in result.output


def test_evaluation_writes_what_it_found(run, tmp_path):
    result = call("eval", "--run", run, "--length", 3, "--out", tmp_path)
    assert result.exit_code == 0 and "disc: mask AP" in result.output
    metrics = json.loads((tmp_path / "eval.json").read_text())
    found = json.loads((tmp_path / "detections.json").read_text())
    assert metrics["images"] == 3 and metrics["detections"] == len(found)
    expected = json.loads((run / "eval.json").read_text())
    assert metrics["box"] == expected["box"]  # the scenes that the training evaluated on


def test_a_detector_is_not_evaluated_on_other_classes(coco, run, tmp_path):
    annotations, images = cli.data.find_annotations(str(coco), None)
    content = json.loads(annotations.read_text())
    content["categories"][0]["name"] = "plate"
    (tmp_path / "other.json").write_text(json.dumps(content))
    message = fails("eval", "--run", run, "--data", tmp_path / "other.json", "--images", images)
    assert "the detector knows 6 classes (disc, ring" in message


def test_predict_writes_pictures_and_coco_results(run, tmp_path):
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "b" / "a.jpg"):
        Image.new("RGB", (80, 60), (90, 90, 90)).save(path)
    pictures = [tmp_path / "a.png", tmp_path / "b" / "a.jpg"]
    result = call("predict", *pictures, "--run", run, "--out", tmp_path / "out", "--score", 0)
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a_detected.png", "a_2_detected.png", "detections.json"}
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert results, "at score 0 even an untrained detector finds something"
    for found in results:
        assert found["image_id"] in (1, 2) and found["category"] in CATEGORIES
        assert CATEGORIES[found["category_id"] - 1] == found["category"]
        assert rle.decode(found["segmentation"]).shape == (60, 80)
    assert Image.open(tmp_path / "out" / "a_detected.png").size == (80, 60)


def test_a_classifier_names_its_five_likeliest_classes(tmp_path):
    model = fl.create_model(C100).eval()
    with torch.no_grad():
        model.head.classifier.bias[:5] = torch.arange(10.0, 5.0, -1.0)
        model.head.classifier.weight.zero_()
    fl.save_weights(model, tmp_path / "c.safetensors")
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for picture in pictures:
        Image.new("RGB", (50, 40), "red").save(picture)
    result = call("predict", "--model", C100, "--weights", tmp_path / "c.safetensors", *pictures)
    assert result.exit_code == 0, result.output
    total = sum(np.exp([10, 9, 8, 7, 6])) + 995
    p = [f"{np.exp(x) / total:.2f}" for x in (10, 9, 8, 7, 6)]
    expected = (
        f"tench {p[0]}, goldfish {p[1]}, great white shark {p[2]}, tiger shark {p[3]}, "
        f"hammerhead {p[4]}"
    )
    assert result.stdout.splitlines() == [f"{picture}: {expected}" for picture in pictures]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.safetensors"]


def test_a_classifier_without_weights_asks_for_its_published_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("FBNET_LESSON_CACHE", str(tmp_path))
    model = "mobile_cv/FBNetV2_F1"
    monkeypatch.setitem(PRETRAINED, model, Pretrained("http://127.0.0.1:9/model.pth", 128, 152))
    message = fails("predict", "--model", model, tmp_path / "a.png")
    assert "cannot get 127.0.0.1:9.pth from http://127.0.0.1:9/model.pth: no connection" in message


def test_what_is_for_detectors_is_refused_for_a_classifier_and_the_other_way_round(run, tmp_path):
    assert "--cache-mb: for detectors, not for classifiers" in fails(
        "train", "--data", "shapes", "--model", C100, "--out", tmp_path / "run", "--cache-mb", 9
    )
    assert "--ids: for detectors, not for classifiers" in fails("eval", "--model", C100, "--ids", 1)
    picture = tmp_path / "a.png"
    assert "--out is for detectors" in fails("predict", "--model", C100, picture, "--out", tmp_path)
    assert "a detector needs --out FOLDER" in fails("predict", picture, "--run", run)
    torch.save(fl.create_model(C100).state_dict(), tmp_path / "w")
    headless = ["--weights", tmp_path / "w", "--set", "features_only=True"]
    assert "leaves no classes" in fails("predict", "--model", C100, picture, *headless)


def test_a_run_remembers_its_trunk(tmp_path):
    out = tmp_path / "run"
    torch.save(fl.create_model(C100).state_dict(), tmp_path / "c.pth")
    options = ["--data", "shapes", *FEW, *SMALL, "--val-length", 2, "--weights", tmp_path / "c.pth"]
    trunk = ["--set", f"trunk={C100}"]
    stopped = call("train", "--out", out, *options, *trunk, "--max-minutes", 1e-9)
    assert stopped.exit_code == 0, stopped.output
    assert "loaded trunk0, trunk1, trunk2 of timm/fbnetc_100" in stopped.output
    other = ["--resume", "--set", "trunk=mobile_cv/fbnet_a"]
    assert "trunk: 'timm/fbnetc_100' -> 'mobile_cv/fbnet_a'" in fails("train", "--out", out, *other)
    resumed = call("train", "--out", out, "--resume", "--max-minutes", 9)
    assert resumed.exit_code == 0 and "resumed after iteration 1" in resumed.output
    model, _ = load_run(out)
    assert model.trunk_name == C100 and model.trunk.channels["trunk2"] == 32
    found, trained = model.state_dict(), load_file(out / "model.safetensors")
    assert all(torch.equal(found[key], trained[key]) for key in trained)
    with safe_open(out / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"])["trunk"] == C100
    evaluated = call("eval", "--run", out, "--length", 2)
    assert evaluated.exit_code == 0 and evaluated.output.startswith("2 images")


def test_predict_names_the_file_that_is_no_picture(run, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    out = ["--run", run, "--out", tmp_path / "out"]
    assert f"cannot read the picture {tmp_path / 'a.png'}" in fails(
        "predict", tmp_path / "a.png", *out
    )
    assert "no such picture" in fails("predict", tmp_path / "b.png", *out)
    assert not (tmp_path / "out").exists()


# The course


@pytest.fixture
def built(monkeypatch):
    """What ``build`` is asked to build: nothing is."""
    asked = []
    monkeypatch.setattr("fbnet_lesson.course.build.build", asked.append)
    return asked


def test_lessons_are_built_by_their_names_or_numbers(built):
    for lesson in ("00_welcome", "00", "0"):
        assert call("build", lesson).exit_code == 0
    assert call("build", "0", "00_welcome").exit_code == 0
    assert built == [["00_welcome"]] * 4
    assert call("build").exit_code == 0 and built[-1] is None


@pytest.mark.parametrize("lesson", ["99", "00_welcom", "welcome", "-1", "0x0", "²"])
def test_an_unknown_lesson_is_refused_with_those_that_there_are(built, lesson):
    error = fails("build", "0", "--", lesson)
    assert error.startswith(f"error: there is no lesson '{lesson}'; there are: 00_welcome")
    assert not built


def test_a_lesson_with_a_defect_is_an_error(monkeypatch):
    def defective(_):
        raise LessonError("notebooks/00_welcome.ipynb: cell 3 was not executed")

    monkeypatch.setattr("fbnet_lesson.course.build.build", defective)
    result = call("build", "0")
    assert result.exit_code == 1
    assert result.stderr == "error: notebooks/00_welcome.ipynb: cell 3 was not executed\n"


# Pictures


def test_pictures_of_every_mode_and_rotation_are_read_as_upright_rgb(tmp_path):
    pixels = np.zeros((2, 3), np.uint8)
    pixels[0, 0] = 200
    for mode in ("L", "RGB", "RGBA", "P", "CMYK"):
        file = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.fromarray(pixels).convert("RGB").convert(mode).save(file)
        image = read_image(file)
        assert image.mode == "RGB" and image.size == (3, 2)
        assert abs(image.getpixel((0, 0))[0] - 200) < 5  # a palette has no 200
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "16.png")
    assert read_image(tmp_path / "16.png").getpixel((0, 0)) == (200, 200, 200)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    turned.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").size == (2, 3)


def detection():
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, 20:30, 20:40] = True
    return {
        "boxes": torch.tensor([[20.0, 20.0, 39.0, 29.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.75]),
        "masks": mask,
    }


def test_a_detection_is_drawn_where_it_is_and_the_picture_given_stays():
    image = Image.new("RGB", (60, 40))
    drawn = np.array(draw(image, detection(), ["cat", "dog"]))
    assert not np.array(image).any()
    assert drawn[25, 30].any() and drawn[20, 30].sum() > drawn[25, 30].sum()  # mask, edge
    assert not drawn[35, 10].any() and not drawn[25, 50].any()


def test_boxes_without_masks_are_drawn_too():
    without = {key: value for key, value in detection().items() if key != "masks"}
    drawn = np.array(draw(Image.new("RGB", (60, 40)), without, ["cat", "dog"]))
    assert drawn[20, 30].any() and not drawn[25, 30].any()


def test_only_what_scores_enough_is_found(run):
    model, _ = load_run(run)
    image = Image.fromarray(ShapesDataset(1, size=(64, 64))[0][0].permute(1, 2, 0).numpy())
    everything = find(model, image)
    middle = everything["scores"].median().item()
    best = find(model, image, middle)
    assert 0 < len(best["scores"]) < len(everything["scores"])
    assert best["scores"].min() >= middle and len(best["masks"]) == len(best["scores"])
    assert not model.training


def test_predicting_nothing_writes_an_empty_list(run, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    model, names = load_run(run)
    (done,) = predict_files(model, [tmp_path / "a.png"], tmp_path, names, score=1.0)
    file = done.file
    assert done.results == [] and json.loads((tmp_path / "detections.json").read_text()) == []
    assert np.array_equal(np.array(Image.open(file)), np.array(Image.open(tmp_path / "a.png")))


@pytest.mark.slow
def test_two_processes_train_and_evaluate_with_the_same_command(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    train = ["train", "--data", "shapes", "--val-length", "3", *FEW, *SMALL, "--set", "norm=SyncBN"]
    command = [*torchrun, "-m", "fbnet_lesson", *train, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout and done.stdout.count("iteration 2: loss") == 1
    evaluate = ["eval", "--run-folder", str(tmp_path / "run"), "--length", "3"]
    two = subprocess.run(
        [*torchrun, "-m", "fbnet_lesson", *evaluate],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert two.stdout == call(*evaluate).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lr", "-1"], "error: lr=-1.0 is not possible"),  # before the processes have met
        (["--batch-size", "3"], "error: batch_size=3 does not divide among 2 processes"),
        (["--set", "norm=LN"], "error: norm='LN' is impossible"),  # when they have
        (["--cache-mb", "x"], "Error: Invalid value for '--cache-mb'"),  # before all
        (["--resume", "--set", "norm=GN"], "(norm: 'BN' -> 'GN')"),  # which the first one sees
    ],
)
def test_of_two_processes_one_says_what_is_wrong(run, tmp_path, arguments, sentence):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    out = str(run if "--resume" in arguments else tmp_path / "run")
    train = ["train", "--data", "shapes", *FEW, *SMALL, "--out", out, *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [*torchrun, "-m", "fbnet_lesson", *train],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and sentence in done.stderr
    said = [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]
    assert len(said) == 1, done.stderr


def test_a_run_remembers_its_rows(tmp_path):
    rows = {"trunk": ["conv_k3 8 s2; ir_k3 8 e1", "ir_k3 16 s2 e2", "ir_k3 24 s2 e2"]}
    file, out = tmp_path / "rows.json", tmp_path / "run"
    file.write_text(json.dumps(rows))
    options = [*FEW, *SMALL, "--val-length", 2, "--set", f"arch={file}"]
    result = call("train", "--data", "shapes", "--out", out, *options)
    assert result.exit_code == 0, result.output
    file.unlink()
    noted = json.loads((out / "config.json").read_text())
    assert noted["model_config"]["arch"]["trunk"] == rows["trunk"]
    assert str(tmp_path) not in json.dumps(noted["model_config"])
    result = call("eval", "--run", out, "--length", 2)
    assert result.exit_code == 0, result.output


# ---------------------------------------------------------------------------------------- threads


def test_threads_wait_politely_unless_the_user_has_a_say_in_it():
    environment = {"PATH": "/bin"}
    wait_politely(environment)
    assert environment == {"PATH": "/bin", "GOMP_SPINCOUNT": "10000"}
    for name in ("OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        environment = {name: "1"}
        wait_politely(environment)
        assert environment == {name: "1"}


def test_the_command_line_sets_it_before_torch_is_there():
    code = (
        "import os, sys; import fbnet_lesson.cli; "
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    result = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["10000", "False"]
