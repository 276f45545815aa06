"""Training of classifiers: recipes, data, the same run folders, and what is refused."""

import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import fbnet_lesson as fl
from fbnet_lesson import cli
from fbnet_lesson.data.classes import (
    FolderClasses,
    ShapesClasses,
    middle_crop,
    square_around,
    train_crops,
)
from fbnet_lesson.data.shapes import CATEGORIES
from fbnet_lesson.training.config import TrainConfig
from fbnet_lesson.training.recipes import IMAGENET, RECIPES, recipe_fields
from fbnet_lesson.training.tasks import accuracy, task_of

TINY = "lesson/classifier_tiny"
FEW = ["--iterations", 6, "--batch-size", 4, "--threads", 1, "--image-size", 32]


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def fails(*arguments):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Twelve pictures in a folder a class, six to train on and six to evaluate on."""
    folder = tmp_path_factory.mktemp("colours")
    for part in ("train", "val"):
        for name, colour in (("blue", (20, 30, 200)), ("red", (210, 40, 30))):
            (folder / part / name).mkdir(parents=True)
            for n in range(3):
                picture = Image.new("RGB", (40 + n, 50), colour)
                picture.save(folder / part / name / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, colours):
    out = tmp_path_factory.mktemp("runs") / "colours"
    result = call("train", "--model", TINY, "--data", colours, "--out", out, *FEW)
    assert result.exit_code == 0, result.output
    return out


# ------------------------------------------------------------------------------------------ recipes


def test_a_recipe_keeps_the_rate_for_each_image_and_the_averaged_share_of_the_run():
    published = RECIPES["rmsprop"].fields
    scaled = recipe_fields("rmsprop", batch_size=64, iterations=100_000)
    assert scaled["lr"] == pytest.approx(0.016 / 4)
    assert scaled["weight_decay"] == 1e-5 and scaled["stairs"] == 187
    of_all = 1 / (1 - published["ema_decay"]) / (450 * IMAGENET / 256)
    assert 1 / (1 - scaled["ema_decay"]) / 100_000 == pytest.approx(of_all)
    assert recipe_fields("rmsprop", 256, 450 * IMAGENET // 256)["ema_decay"] == pytest.approx(
        0.9999
    )
    assert recipe_fields("sgd", 32, 10)["lr"] == pytest.approx(0.1 / 8)
    assert recipe_fields("sgd", 32, 10)["ema_decay"] == 0


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_possible_config(name):
    assert TrainConfig(**recipe_fields(name, 8, 20)).batch_size == 8


def test_the_staircase_has_equal_factors_and_ends_at_final_lr():
    config = TrainConfig(iterations=120, warmup=20, schedule="step", stairs=4, final_lr=0.0001)
    factors = [config.learning_rate_factor(t) for t in range(121)]
    assert factors[:2] == pytest.approx([1 / 20, 2 / 20])
    assert sorted({round(f, 6) for f in factors[20:]}, reverse=True) == pytest.approx(
        [1, 0.1, 0.01, 0.001, 0.0001]
    )
    assert [t for t in range(21, 121) if factors[t] < factors[t - 1]] == [45, 70, 95, 120]


def test_a_staircase_down_to_nothing_is_refused():
    with pytest.raises(ValueError, match="final_lr=0.0 is not possible with schedule='step'"):
        TrainConfig(schedule="step", final_lr=0.0)


def test_the_recipe_s_numbers_are_the_run_s_unless_one_is_given(tmp_path, colours):
    out = tmp_path / "run"
    options = ["--model", TINY, "--data", colours, *FEW, "--recipe", "rmsprop", "--momentum", 0.5]
    result = call("train", *options, "--out", out)
    assert result.exit_code == 0, result.output
    noted = json.loads((out / "config.json").read_text())["train"]
    assert noted["optimizer"] == "rmsprop" and noted["schedule"] == "step"
    assert noted["lr"] == pytest.approx(0.016 * 4 / 256) and noted["momentum"] == 0.5


# --------------------------------------------------------------------------------------------- data


def test_shapes_are_cut_out_with_their_class_and_are_the_same_each_time():
    pieces, again = ShapesClasses(60, seed=0, edge=48), ShapesClasses(60, seed=0, edge=48)
    image, target = pieces[7]
    assert image.shape == (3, 48, 48) and image.dtype == torch.uint8
    assert torch.equal(image, again[7][0]) and target == again[7][1]
    assert not torch.equal(image, ShapesClasses(60, seed=1, edge=48)[7][0])
    assert {pieces[i][1]["label"] for i in range(60)} == set(range(len(CATEGORIES)))
    with pytest.raises(IndexError):
        pieces[60]


def test_a_piece_at_the_border_is_in_the_middle_of_its_square():
    image = torch.arange(20 * 30 * 3, dtype=torch.uint8).reshape(20, 30, 3).numpy()
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[0:4, 26:30] = True
    cut = square_around(image, mask.numpy())
    assert cut.shape == (6, 6, 3)  # 4, and a margin of 15 % rounded up on each side
    assert (cut[1:5, 1:5] == image[0:4, 26:30]).all()
    assert (cut[0, 1:5] == image[0, 26:30]).all()  # the edge repeated


def test_a_folder_s_classes_are_its_sorted_folders(colours):
    train = FolderClasses(colours / "train", middle_crop(32))
    assert train.categories == ["blue", "red"] and len(train) == 6
    image, target = train[5]
    assert image.shape == (3, 32, 32) and target["label"] == 1
    assert image[:, 16, 16].tolist() == [210, 40, 30]
    assert train_crops(32)(torch.zeros(3, 50, 40, dtype=torch.uint8)).shape == (3, 32, 32)


def test_folders_that_cannot_be_learned_from_are_named(tmp_path, colours):
    with pytest.raises(ValueError, match="is no folder: expected one with a folder for each class"):
        FolderClasses(tmp_path / "nothing", None)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="has 1 folders; a classifier needs one for each class"):
        FolderClasses(tmp_path, None)
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="no picture of cat, dog"):
        FolderClasses(tmp_path, None)
    with pytest.raises(ValueError, match="has the classes blue, red, which the training set has"):
        FolderClasses(colours / "val", None, ["cat", "dog"])


# ---------------------------------------------------------------------------------------- accuracy


class Says(nn.Module):
    """A classifier of seven classes that ranks the picture's red value first, then the next."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        said = (x[:, 0, 0, 0] * 0.229 + 0.485).mul(255).round().long()  # undo the normalisation
        return -((torch.arange(7) - said[:, None]) % 7).float()


class Numbers:
    categories = [str(k) for k in range(7)]

    def __init__(self, said, labels):
        self.rows = list(zip(said, labels, strict=True))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        said, label = self.rows[index]
        return torch.full((3, 2, 2), said, dtype=torch.uint8), {"label": label}


def test_accuracy_counts_the_first_and_the_first_five():
    # Said 0 ranks 0 1 2 3 4 5 6: right for 0, among five for 4, not for 5 and 6.
    metrics = accuracy(Says(), Numbers([0, 0, 0, 0, 3], [0, 4, 5, 6, 3]), batch_size=2)
    assert metrics["images"] == 5
    assert metrics["top1"] == pytest.approx(2 / 5) and metrics["top5"] == pytest.approx(3 / 5)
    assert metrics["objects"] == {"0": 1, "1": 0, "2": 0, "3": 1, "4": 1, "5": 1, "6": 1}
    assert metrics["per_class"] == {"0": 1.0, "3": 1.0, "4": 0.0, "5": 0.0, "6": 0.0}


def test_without_pictures_there_is_no_accuracy():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        accuracy(Says(), Numbers([], []))


def test_the_loss_of_a_classifier_is_the_mean_cross_entropy():
    model = fl.create_model(TINY).eval()
    images = list(torch.rand(4, 3, 32, 32))
    loss = task_of(model).losses(model, images, [{"label": k} for k in (0, 3, 3, 5)])["loss_cls"]
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        shares = model(torch.stack([(image - mean) / std for image in images])).softmax(1)
    expected = -sum(math.log(shares[i, k]) for i, k in enumerate((0, 3, 3, 5))) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)


# -------------------------------------------------------------------------------------------- a run


def test_a_run_has_the_folder_s_classes_and_its_accuracy(run, colours):
    config = json.loads((run / "config.json").read_text())
    assert config["categories"] == ["blue", "red"] and config["model_config"]["num_classes"] == 2
    metrics = json.loads((run / "eval.json").read_text())
    assert metrics["images"] == 6
    header, *_, last = (run / "metrics.csv").read_text().splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    assert float(row["top1"]) == metrics["top1"] and "box_AP" not in row
    result = call("eval", "--run", run, "--data", colours)
    assert result.stdout.splitlines()[0] == (
        f"top-1 {metrics['top1']:.3f}, top-5 1.000 of 6 pictures"
    )


def test_a_stopped_run_goes_on_to_the_same_bits(run, colours, tmp_path):
    out = tmp_path / "run"
    options = ["train", "--model", TINY, "--data", colours, "--out", out, *FEW]
    options += ["--checkpoint-every", 3]
    stopped = call(*options, "--max-minutes", 1e-9)  # after the first step
    assert "stopped after" in stopped.stdout, stopped.output
    assert torch.load(out / "last.pt", weights_only=True)["iteration"] == 1
    resumed = call("train", "--out", out, "--resume", "--max-minutes", 60)
    assert resumed.exit_code == 0, resumed.output
    whole, parts = (load_file(folder / "model.safetensors") for folder in (run, out))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_run_names_pictures(run, colours):
    result = call("predict", colours / "val" / "red" / "0.png", "--run", run)
    assert result.exit_code == 0, result.output
    named = result.stdout.rpartition(": ")[2]
    assert "blue" in named and "red" in named
    shares = [float(part.split()[1]) for part in named.split(",")]
    assert sum(shares) == pytest.approx(1, abs=0.011)


def test_weights_of_other_classes_name_pictures_by_their_own_and_never_at_random(run, colours):
    picture = colours / "val" / "red" / "0.png"
    file = ["--model", TINY, "--weights", run / "model.safetensors"]
    result = call("predict", picture, *file)
    assert result.exit_code == 0 and "blue" in result.stdout, result.output
    assert "num_classes=6" in fails("predict", picture, *file, "--set", "num_classes=6")


def test_frozen_stages_stay_and_the_rest_learns_from_a_run_s_weights(run, colours, tmp_path):
    out = tmp_path / "run"
    start = load_file(run / "model.safetensors")
    result = call(
        "train", "--model", TINY, "--data", colours, "--out", out, *FEW,
        "--weights", run / "model.safetensors", "--set", "freeze_stages=2", "--ema-decay", 0,
    )  # fmt: skip
    assert result.exit_code == 0 and "frozen: trunk0, trunk1" in result.stdout, result.output
    after = load_file(out / "model.safetensors")
    moved = {key for key in start if not torch.equal(start[key], after[key])}
    assert moved and not any(".trunk0." in key or ".trunk1." in key for key in moved)
    assert any(".trunk2." in key for key in moved) and any("classifier" in key for key in moved)


def test_other_classes_take_over_the_trunk(run, tmp_path):
    out = tmp_path / "run"
    result = call(
        "train", "--model", TINY, "--data", "shapes", "--out", out, *FEW, "--val-length", 4,
        "--weights", run / "model.safetensors",
    )  # fmt: skip
    assert result.exit_code == 0 and "random" in result.stdout, result.output
    assert load_file(out / "model.safetensors")["head.classifier.weight"].shape[0] == 6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--train-ids", "1-3"], "--train-ids: for detectors, not for classifiers"),
        (["--min-visible", "0.5"], "--min-visible: for detectors, not for classifiers"),
        (["--recipe", "adam"], "there is no recipe 'adam'; there are sgd, rmsprop"),
        (["--set", "features_only=True"], "features_only=True leaves nothing to train"),
        (["--set", "freeze_stages=9"], "freeze_stages=9 is not possible; allowed is 0 to"),
        (["--set", "norm=GN"], "unknown field 'norm'; allowed are num_classes"),
    ],
)
def test_what_a_classifier_s_training_cannot_do_is_said(options, sentence, tmp_path, colours):
    out = tmp_path / "run"
    error = fails("train", "--model", TINY, "--data", colours, "--out", out, *FEW, *options)
    assert sentence in error
    assert not out.exists()


def test_recipes_are_for_classifiers(tmp_path):
    error = fails("train", "--data", "shapes", "--out", tmp_path / "run", "--recipe", "sgd")
    assert "--recipe sgd is a classifier's; lesson/mask_rcnn_tiny is a detector" in error


def test_other_classes_than_the_run_s_are_refused(run, tmp_path):
    said = "the model's classes are blue, red"
    assert said in fails("eval", "--run", run, "--data", "shapes")
    file = ["--model", TINY, "--weights", run / "model.safetensors"]
    assert said in fails("eval", *file, "--data", "shapes")


def test_a_weights_file_is_evaluated_with_its_own_classes(run, colours):
    shown = [
        call("eval", *which, "--data", colours, "--batch-size", 4, "--set", "dropout=0.1").stdout
        for which in (["--run", run], ["--model", TINY, "--weights", run / "model.safetensors"])
    ]
    assert all("of 6 pictures\nblue: " in text for text in shown)


def test_without_a_head_there_is_nothing_to_evaluate(run, colours):
    error = fails("eval", "--run", run, "--data", colours, "--set", "features_only=True")
    assert "leaves no classes to tell apart" in error
