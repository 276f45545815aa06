"""Broken input to the commands: each kind is one error that names it, found before the work."""

import io
import json
import os
import pickle
import shutil
import zipfile

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import fbnet_lesson as fl
from fbnet_lesson import cli
from fbnet_lesson.data import write_coco
from fbnet_lesson.data.outlines import box_rle

FEW = ["--iterations", "2", "--batch-size", "2", "--threads", "1"]
SMALL = ["--set", "min_size=64", "--set", "post_nms_topk=(20, 5)"]
TINY = "lesson/mask_rcnn_tiny"


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a finished run, a set of six scenes, and a picture."""
    folder = tmp_path_factory.mktemp("made")
    write_coco(folder / "scenes", 6, seed=3, size=(64, 64))
    train = ["train", "--data", folder / "scenes", "--out", folder / "run", *FEW, *SMALL]
    done = call(*train, "--train-ids", "0-3", "--val-ids", "4-5")
    assert done.exit_code == 0, done.output
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """The working directory of a command: the run and the set are its own copies."""
    for name in ("run", "scenes"):
        shutil.copytree(made / name, tmp_path / name)
    shutil.copy(made / "a.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(sentence, *arguments, code=2):
    """The command ends with one error that holds the sentence, and without a traceback."""
    result = call(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert result.stderr.count("error: ") == 1 and result.stderr.startswith("error: ")
    assert sentence in result.stderr
    return result


# Weights files

WEB_PAGE = b"<!DOCTYPE html><html><title>Sign in</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.pth", b"weights")
    return file.getvalue()


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), file)
    return file.getvalue()


def tiny_state(**changes):
    return fl.create_model(TINY).state_dict() | changes


BIAS = "roi_heads.box_head.cls_score.bias"
WEIGHTS = {  # what the file holds, or a function that makes it: what is said
    "web page": (WEB_PAGE, "is a web page, not weights"),
    "Git LFS pointer": (POINTER, "is a Git LFS pointer, not the weights; fetch them with"),
    "empty": (b"", "is empty: the download or copy has not come about"),
    "text": (b"404: Not Found", "is a text file ('404: Not Found'); expected a torch or"),
    "one word": (b"null", "is a text file ('null')"),
    "gzip": (b"\x1f\x8b\x08\x00 and so on", "is compressed with gzip; unpack it first"),
    "Keras": (b"\x89HDF\r\n\x1a\n and so on", "is an HDF5 file, as Keras writes"),
    "zip": (zipped, "is a zip archive (model.pth, ...); unpack it"),
    "TorchScript": (scripted, "is a TorchScript program, not weights"),
    "any bytes": (bytes(range(256)), "it is damaged, or no weights file"),
    "torch file cut short": (lambda: saved(tiny_state())[:9000], "it is damaged or cut off"),
    "old torch file cut short": (
        lambda: saved(tiny_state(), _use_new_zipfile_serialization=False)[:9000],
        "it is damaged",
    ),
    "pickle that runs code": (
        lambda: pickle.dumps({"model": Payload()}),
        "was not executed (it asks for posix.mkdir)",
    ),
    "torch file that runs code": (
        lambda: saved({"model": Payload()}),
        "was not executed (it asks for posix.mkdir)",
    ),
    "a whole model": (
        lambda: saved(nn.Linear(1, 1)),
        "(it asks for torch.nn.modules.linear.Linear); save its",
    ),
    "list": (lambda: saved([1, 2]), "holds a list; expected a state dict"),
    "tensor": (lambda: saved(torch.ones(2)), "holds a Tensor; expected a state dict"),
    "empty dict": (lambda: saved({}), "not a state dict: it is empty"),
    "numbers": (lambda: saved({"loss": 0.5}), "not a state dict: 'loss' is float"),
    "another network": (
        lambda: saved(fl.create_model("timm/fbnetc_100").state_dict()),
        "do not fit the model lesson/mask_rcnn_tiny: found 392 entries in native layout",
    ),
    "a model without masks": (
        lambda: saved(fl.create_model("lesson/faster_rcnn_tiny").state_dict()),
        "missing: roi_heads.mask_head.",
    ),
    "NaN": (
        lambda: saved(tiny_state(**{BIAS: torch.full((7,), torch.nan)})),
        f"hold NaN or infinite numbers, in 1 entries: {BIAS}",
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_file_that_holds_no_weights_for_the_model_is_named(here, kind):
    content, sentence = WEIGHTS[kind]
    (here / "w.pth").write_bytes(content() if callable(content) else content)
    refused(sentence, "eval", "--model", TINY, "--weights", "w.pth", "--length", 1)
    assert not (here / "executed").exists()


def test_weights_that_are_not_there_or_do_not_say_enough_are_named(here):
    at = ["eval", "--length", 1, "--weights"]
    refused("no such weights file: none.pth", *at, "none.pth")
    refused("run is a folder; expected a weights file", *at, "run")
    save_file({k: v.contiguous() for k, v in tiny_state().items()}, "bare.safetensors")
    refused("bare.safetensors does not say of which model it is: name the model", *at,
            "bare.safetensors")  # fmt: skip
    ours = [*at, "run/model.safetensors"]
    refused("holds weights of lesson/mask_rcnn_tiny, not of d2go/", *ours, "--model",
            "d2go/mask_rcnn_fbnetv3a_C4")  # fmt: skip
    refused("it is of another number of classes than num_classes=3", *ours, "--set",
            "num_classes=3")  # fmt: skip
    fl.save_weights(fl.create_model("timm/fbnetc_100"), here / "c.safetensors")
    refused("holds weights of the classifier timm/fbnetc_100", *at, "c.safetensors")
    fl.save_weights(fl.create_model(TINY), here / "two.safetensors", categories=["a", "b"])
    refused("two.safetensors tells 6 classes apart and names 2", *at, "two.safetensors")
    fl.save_weights(fl.create_model(TINY), here / "odd.safetensors", categories=3)
    refused("odd.safetensors: its note 'categories' is damaged", *at, "odd.safetensors")


def test_a_cut_safetensors_file_is_called_damaged(here):
    whole = (here / "run" / "model.safetensors").read_bytes()
    (here / "run" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused("model.safetensors: it is damaged or cut off", "eval", "--run", "run", "--length", 1)


# Run folders


def change_config(**changes):
    def change(run):
        config = json.loads((run / "config.json").read_text())
        for key, value in changes.items():
            if value is None:
                del config[key]
            elif isinstance(value, dict):
                config[key] |= value
            else:
                config[key] = value
        (run / "config.json").write_text(json.dumps(config))

    return change


def content(name, data):
    """Change a file's content; the checkpoint is then the only one."""

    def change(run):
        if name == "last.pt":
            (run / "previous.pt").unlink(missing_ok=True)
        (run / name).write_bytes(data() if callable(data) else data)

    return change


def change_checkpoint(**changes):
    def change(run):
        state = torch.load(run / "last.pt", weights_only=True) | changes
        torch.save({k: v for k, v in state.items() if v is not ...}, run / "last.pt")

    return change


def other_pictures(run):
    annotations = run.parent / "scenes" / "annotations.json"
    told = json.loads(annotations.read_text())
    told["images"] = [image for image in told["images"] if image["id"] != 2]
    told["annotations"] = [a for a in told["annotations"] if a["image_id"] != 2]
    annotations.write_text(json.dumps(told))
    change_config(notes={"train_ids": "0-1,3"})(run)


def other_names(run):
    annotations = run.parent / "scenes" / "annotations.json"
    told = json.loads(annotations.read_text())
    told["categories"][1]["name"] = "annulus"
    annotations.write_text(json.dumps(told))


DAMAGED = "run/config.json is damaged: "
RESUMED = {  # what happened to the run folder: options, what is said
    "an empty config": (content("config.json", b""), [], DAMAGED + "Expecting value"),
    "half a config": (content("config.json", b'{"train": '), [], DAMAGED + "Expecting value"),
    "a config of bytes": (content("config.json", bytes(range(256))), [], DAMAGED + "'utf-8'"),
    "a config that is a list": (content("config.json", b"[1]"), [], DAMAGED + "it holds a list"),
    "a config without model": (change_config(model_name=None), [], DAMAGED + "it has no 'model_n"),
    "a config without settings": (change_config(train=None), [], DAMAGED + "it has no 'train'"),
    "settings that are a list": (change_config(train=[1]), [], DAMAGED + "'train' is list, not"),
    "an impossible setting": (change_config(train={"lr": "x"}), [], DAMAGED + "lr='x' is not"),
    "a setting of another version": (
        change_config(train={"epochs": 3}), [], DAMAGED + "TrainConfig has no field 'epochs'"
    ),
    "an odd note": (change_config(notes={"data": 3}), [], DAMAGED + "it notes data=3"),
    "categories that are no names": (
        change_config(categories=[1, 2]), [], DAMAGED + "its categories are not names, each with"
    ),
    "a checkpoint of no bytes": (content("last.pt", b""), [], "last.pt is empty: the download or"),
    "a checkpoint of text": (content("last.pt", b"moved"), [], "last.pt is a text file ('moved')"),
    "a checkpoint cut short": (
        lambda run: content("last.pt", (run / "last.pt").read_bytes()[:5000])(run), [],
        "no readable checkpoint: cannot read run/last.pt: it is damaged or cut off",
    ),
    "a checkpoint of a list": (content("last.pt", lambda: saved([1])), [], "last.pt holds a list"),
    "a checkpoint of weights alone": (
        content("last.pt", lambda: saved(tiny_state())), [],
        "last.pt is not what a run writes: it has no iteration",
    ),
    "a checkpoint without optimizer": (
        change_checkpoint(optimizer=...), [], "is damaged, or of another run (KeyError: 'optimizer'"
    ),
    "a checkpoint of another model": (
        change_checkpoint(model={"a": torch.ones(1)}), [], "damaged, or of another run (RuntimeErr"
    ),
    "a checkpoint beyond its end": (
        change_checkpoint(iteration=99), [], "another run (ValueError: iteration 99 of 2)"
    ),
    "another learning rate": (None, ["--lr", 0.5], "other settings (lr: 0.002 -> 0.5)"),
    "fewer iterations": (None, ["--iterations", 1], "other settings (iterations: 2 -> 1)"),
    "another model": (
        None, ["--model", "lesson/faster_rcnn_tiny"], "(model: lesson/mask_rcnn_tiny -> lesson/fa"
    ),
    "another field of the model": (None, ["--set", "norm=GN"], "(norm: 'BN' -> 'GN')"),
    "other pictures": (other_pictures, [], "(training pictures: 4 -> 3, not the same)"),
    "other image ids": (None, ["--train-ids", "1-3"], "(training pictures: 4 -> 3, not the same)"),
    "other classes": (other_names, [], "'annulus', "),
    "another set": (None, ["--data", "shapes"], "(training pictures: 4 -> shapes, not the same)"),
    "weights that come too late": (
        None, ["--weights", "shapes"], "the run in run has begun, from weights=None: --weights sha"
    ),
    "no set any more": (
        lambda run: shutil.rmtree(run.parent / "scenes"), [], "scenes: no such file; allowed is"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_that_cannot_go_on_says_why(here, kind):
    change, options, sentence = RESUMED[kind]
    change_config(notes={"data": "scenes"})(here / "run")
    if change:
        change(here / "run")
    before = (here / "run" / "metrics.csv").read_text()
    refused(sentence, "train", "--resume", "--out", "run", *options)
    assert (here / "run" / "metrics.csv").read_text() == before


def test_a_folder_that_cannot_take_a_run_is_named_before_anything_is_read(here, monkeypatch):
    train = ["train", "--data", "nowhere.json", *FEW, "--out"]
    refused("--out a.png: ", *train, "a.png")
    refused("is a file; name a folder", *train, "a.png/run")

    def full(dir):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    refused("is not to be written to (No space left on device); name another", *train, "new/run")


def test_what_the_files_tell_is_found_before_the_data_are_read(here, monkeypatch):
    def data(*arguments):
        raise AssertionError("the data were read")

    monkeypatch.setattr("fbnet_lesson.cli.train.training_data", data)
    train = ["train", "--data", "scenes", "--train-ids", "0-3", *FEW, *SMALL, "--out"]
    refused("run holds a run at iteration 2; resume it (--resume) or choose", *train, "run")
    for content, sentence in ((WEB_PAGE, "is a web page"), (POINTER, "is a Git LFS pointer")):
        (here / "w.pth").write_bytes(content)
        refused(sentence, *train, "new", "--weights", "w.pth")
    refused("weights='no.pth': no such file", *train, "new", "--weights", "no.pth")
    refused("unknown field 'norms'", *train, "new", "--set", "norms=GN")
    change_config(notes={"data": "scenes"})(here / "run")
    resume = ["train", "--resume", "--out", "run"]
    refused("run holds a run with other settings (lr: 0.002 -> 0.5)", *resume, "--lr", 0.5)
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda run: (run / "config.json").unlink(), "run is no run folder: it has no config.json"),
        (change_config(model_name="lesson/none"), "unknown model 'lesson/none'; known are d2go/"),
        (change_config(model_config={"num_classes": 2**70}), "allowed: a whole number, 1 or more"),
        (
            change_config(model_config={"num_classes": 3}),
            "the weights in run do not fit roi_heads.box_head.",
        ),
        (
            change_config(model_config={"box_class_agnostic": True}),
            "bbox_pred.weight: num_classes, box_class_agnostic and mask_class_agnostic have to",
        ),
        (change_config(model_config={"depth": 3}), "unknown field 'depth'; allowed are num_cla"),
        (change_config(model_config={"anchor_sizes": 3}), "anchor_sizes=3 is impossible; allowed"),
        (change_config(model_config=[1]), DAMAGED + "'model_config' is list, not dict"),
        (change_config(categories=["a"], category_ids=[1]), "run names 1 classes, its model tells"),
        (change_config(category_ids=["x"] * 6), DAMAGED + "its categories are not names, each"),
        (change_config(category_ids=[1]), DAMAGED + "its categories are not names, each with an"),
        (content("model.safetensors", WEB_PAGE), "model.safetensors"),
    ],
)
def test_a_run_that_nothing_can_be_found_with_says_why(here, change, sentence):
    change(here / "run")
    refused(sentence, "eval", "--run", "run", "--length", 1)
    refused(sentence, "predict", "a.png", "--run", "run", "--out", "out")
    assert not (here / "out").exists()


def test_a_run_without_weights_says_so(here):
    for name in ("model.safetensors", "last.pt", "previous.pt"):
        (here / "run" / name).unlink(missing_ok=True)
    refused("run has no weights yet: neither model.safetensors", "eval", "--run", "run")


# Options

TRAIN = ["train", "--out", "new", *FEW, *SMALL]
SHAPES = [*TRAIN, "--data", "shapes", "--val-length", 1]
SCENES = [*TRAIN, "--data", "scenes", "--train-ids", "0-3"]
EVAL = ["eval", "--run", "run", "--data", "scenes"]
OPTIONS = [
    ([*SHAPES, "--set", "norms=GN"], "unknown field 'norms'; allowed are num_classes, norm"),
    ([*SHAPES, "--set", "norm=LN"], "norm='LN' is impossible; allowed: BN, GN"),
    ([*SHAPES, "--set", "norm"], "--set norm: expected FIELD=VALUE, such as --set norm=GN"),
    ([*SHAPES, "--set", "weights=x"], "weights is no field; the option is --weights"),
    ([*SHAPES, "--set", "name=x"], "name is no field; the option is --model"),
    ([*SHAPES, "--set", "self=1"], "unknown field 'self'"),
    ([*SHAPES, "--set", "config=1"], "unknown field 'config'"),
    ([*SHAPES, "--set", "anchor_sizes=32"], "anchor_sizes=32 is impossible; allowed: one tuple"),
    ([*SHAPES, "--set", "post_nms_topk=5"], "post_nms_topk=5 is impossible; allowed: a tuple of"),
    ([*SHAPES, "--set", "trunk=[1]"], "trunk=[1] is impossible; allowed: a classifier"),
    ([*SHAPES, "--set", "arch=none"], "arch='none' is neither a file nor a known architecture"),
    ([*SHAPES, "--set", "arch=a.png"], "arch='a.png' cannot be read as JSON"),
    ([*SHAPES, "--set", "num_classes=3"], "num_classes=3 and the training set 6 categories"),
    ([*SHAPES, "--lr", "nan"], "lr=nan is not possible; allowed is a number above 0"),
    ([*SHAPES, "--seed", 2**70], "is not possible; allowed is an integer of at least 0 and at"),
    ([*SHAPES, "--threads", 10**6], "threads=1000000 is not possible; allowed is an integer"),
    ([*SHAPES, "--warmup", 99], "warmup=99 is longer than the run; allowed is at most iterations"),
    ([*SHAPES, "--device", "tpu"], "device='tpu' is not possible; allowed is 'auto', 'cpu'"),
    ([*SHAPES, "--weights", "pretrained"], "are published for classifiers; lesson/mask_rcnn_tiny"),
    ([*SHAPES, "--train-ids", "0-3"], "--train-ids: for a COCO set, not for shapes"),
    ([*SHAPES, "--flip", 0], "--flip: shapes are new scenes each time, nothing is augmented"),
    ([*SHAPES, "--no-colour"], "--colour: shapes are new scenes each time, nothing is augmented"),
    ([*SCENES, "--flip", 2], "flip=2.0 is not possible; allowed is a number from 0 to 1"),
    ([*SCENES, "--min-visible", -1], "min_visible=-1.0 is not possible; allowed is a number from"),
    ([*SCENES, "--scale-range", 2, 1], "scale_range=(2.0, 1.0) is not possible; allowed is two"),
    ([*SCENES, "--val-length", 3], "--val-length: for --data shapes alone"),
    ([*SCENES, "--val-images", "scenes"], "--val-images needs --val-data"),
    ([*SCENES, "--train-ids", "x"], "'x' is no list of image ids; allowed is such as 0-13,20"),
    ([*SCENES, "--train-ids", "98"], "the image ids asked for have unknown ids, as [98]; the"),
    ([*SCENES, "--train-ids", "0-999999999999"], "'0-999999999999' has more than 10,000,000 image"),
    ([*SHAPES, "--train-length", 0], "length is 0; it must be a whole number of scenes, 1 or"),
    ([*SCENES, "--images", "nowhere"], "--images nowhere: no such folder"),
    ([*SCENES, "--images", "a.png"], "--images a.png: no such folder"),
    ([*SCENES, "--classes", "disk"], "--classes is ['disk']; the file has ['disc', 'ring'"),
    ([*SCENES, "--classes", "disc,disc"], "--classes is ['disc', 'disc']; it must be names, each"),
    ([*SCENES, "--map-classes", "disk=ring"], "--map-classes has 'disk'; the file has 'disc', "),
    ([*SCENES, "--map-classes", "disc"], "--map-classes disc: allowed is such as car=vehicle"),
    ([*SCENES, "--exif", "turn"], "--exif is 'turn'; it must be"),
    ([*EVAL, "--map-classes", "disk=ring"], "--map-classes has 'disk'; the file has 'disc', "),
    ([*EVAL, "--classes", "disk"], "--classes has 'disk'; the detector knows disc, ring"),
    ([*EVAL, "--ids", "77"], "the image ids asked for have unknown ids, as [77]; the file has"),
    ([*EVAL, "--length", 3], "--length: for --data shapes alone"),
    (["eval", "--run", "run", "--ids", "1"], "--ids: for a COCO set; --data names it"),
    ([*EVAL, "--weights", "shapes"], "--run has its own model and weights"),
    (["eval", "--model", "lesson/faster_rcnn_tiny"], "needs --weights FILE: it would only guess"),
    (["predict", "a.png", "--run", "run"], "a detector needs --out FOLDER"),
    (["predict", "b.png", "--run", "run", "--out", "new"], "no such picture: b.png"),
    (["predict", "run", "--run", "run", "--out", "new"], "no picture in the folder run"),
    (["predict", "a.png", "--run", "run", "--out", "new", "--images", "x"], "needs --data"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"), OPTIONS, ids=[" ".join(map(str, a[-2:])) for a, _ in OPTIONS]
)
def test_an_option_that_cannot_be_is_one_line_before_the_work(here, arguments, sentence):
    refused(sentence, *arguments)
    assert not (here / "new").exists()


def test_a_batch_that_does_not_divide_among_the_processes_is_refused(here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused("batch_size=3 does not divide among 2 processes; allowed are multiples of 2",
            "train", "--data", "shapes", "--out", "new", "--batch-size", 3)  # fmt: skip
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [*EVAL, "--max-dets", "0"],
        [*EVAL, "--max-dets", "all"],
        [*EVAL, "--batch-size", "0"],
        ["predict", "a.png", "--run", "run", "--score", "2"],
        ["predict", "a.png", "--run", "run", "--tiles", "1"],
        [*SCENES, "--flip", "often"],
        [*SCENES, "--cache-mb", "-1"],
    ],
    ids=" ".join,
)
def test_a_number_out_of_range_is_named_with_its_range(here, arguments):
    result = call(*arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert f"Invalid value for '{arguments[-2]}': " in result.stderr


# Annotations and results, of which only the file is needed

GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
TRUTH = {
    "images": [{"id": 1, "width": 64, "height": 48}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    ],
    "categories": [{"id": 1, "name": "fig"}],
}


def other(record, **changes):
    return {key: value for key, value in (record | changes).items() if value is not ...}


def one(section, **changes):
    return TRUTH | {section: [other(TRUTH[section][0], **changes)]}


RESULTS = {  # what stands in the file of results: what is said
    "no JSON": ("{", "is no JSON"),
    "a number": ("3", "holds a int; expected a list of detections"),
    "brackets without end": ("[" * 100_000, "is no JSON: maximum recursion depth"),
    "a text": ('["fig"]', "detection 0 is 'fig'; expected image_id, category_id, bbox, score"),
    "no score": ([other(GOOD, score=...)], "detection 0 has no score; it has image_id"),
    "score of text": ([other(GOOD, score="high")], "score 'high'; expected four numbers"),
    "score that is no number": ([other(GOOD, score=float("nan"))], "score nan; expected four"),
    "image id of text": ([other(GOOD, image_id="1")], "image_id is '1'; expected a whole number"),
    "image id of a list": ([other(GOOD, image_id=[1])], "image_id is [1]; expected a whole number"),
    "no category": ([other(GOOD, category_id=None)], "category_id is None; expected a whole"),
    "box of three": ([other(GOOD, bbox=[1, 2, 3])], "bbox [1, 2, 3], score 0.5; expected four"),
    "box of NaN": ([other(GOOD, bbox=[1, 2, 3, float("nan")])], "bbox [1, 2, 3, nan]"),
    "polygon": ([other(GOOD, segmentation=[[1, 2, 3, 4, 5, 6]])], "is no run-length encoding"),
    "mask of no size": (
        [other(GOOD, segmentation={"size": [48], "counts": "0"})], "size [48]; expected [height, w"
    ),
    "mask of broken counts": (
        [other(GOOD, segmentation={"size": [48, 64], "counts": "~~"})], "expected COCO's compressed"
    ),
    "mask of too few pixels": (
        [other(GOOD, segmentation={"size": [48, 64], "counts": "1"})], "1 pixels; expected 3072"
    ),
    "mask of another image": (
        [other(GOOD, segmentation={"size": [4, 4], "counts": "`0"})],
        "has a mask of [4, 4]; its image 1 is of [48, 64] (height, width)",
    ),
    "other image": ([other(GOOD, image_id=7)], "detection 0: image_id 7; the annotations are"),
    "other category": ([other(GOOD, category_id=7)], "detection 0: category_id 7; the annotations"),
}  # fmt: skip
TRUTHS = {
    "a list": ([], "has no list 'images': it is no COCO annotation file"),
    "images of another kind": (TRUTH | {"images": {}}, "has no list 'images'"),
    "image without size": (one("images", width=...), "images[0] has no width; it has id, height"),
    "image of text": (TRUTH | {"images": ["a.png"]}, "images[0] is 'a.png'; expected id, width"),
    "annotation without image": (one("annotations", image_id=...), "annotations[0] has no image_"),
    "annotation without box": (one("annotations", bbox=...), "annotations[0] has no bbox"),
    "box of text": (one("annotations", bbox="1234"), "annotations[0]: bbox '1234'; expected [x"),
    "id of a list": (one("annotations", category_id=[1]), "category_id is [1]; expected a whole"),
    "polygon of two points": (
        one("annotations", segmentation=[[1, 2, 3, 4]]), "expected polygons [[x1, y1, x2, y2, x3"
    ),
    "mask of another size": (
        one("annotations", segmentation={"size": [2, 2], "counts": [4]}), "size [2, 2]; expected [4"
    ),
    "category without name": (one("categories", name=...), "categories[0] has no name; it has id"),
    "category of a list": (one("categories", name=["fig"]), "categories[0]: name ['fig']; data ch"),
    "two images of one id": (
        TRUTH | {"images": 2 * TRUTH["images"]}, "2 of its images have the id 1; data check --fix"
    ),
    "two categories of one id": (
        TRUTH | {"categories": 2 * TRUTH["categories"]}, "2 of its categories have the id 1; data"
    ),
    "image of no pixels": (one("images", width=0), "images[0] is of 0 x 48 pixels; data check"),
    "annotation of another image": (one("annotations", image_id=7), "image_id 7; the file has"),
    "annotation of another class": (one("annotations", category_id=7), "category_id 7; the file"),
    "crowd of text": (one("annotations", iscrowd="1"), "iscrowd '1'; expected 0 or 1"),
}  # fmt: skip


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize("kind", RESULTS)
def test_results_that_cannot_be_scored_are_named(tmp_path, kind):
    found, sentence = RESULTS[kind]
    write(tmp_path / "truth.json", TRUTH)
    write(tmp_path / "found.json", found)
    files = ["--predictions", tmp_path / "found.json", "--data", tmp_path / "truth.json"]
    refused(sentence, "eval", *files)


@pytest.mark.parametrize("kind", TRUTHS)
def test_annotations_that_nothing_can_be_scored_against_are_named(tmp_path, kind):
    truth, sentence = TRUTHS[kind]
    write(tmp_path / "truth.json", truth)
    write(tmp_path / "found.json", [GOOD])
    files = ["--predictions", tmp_path / "found.json", "--data", tmp_path / "truth.json"]
    refused(sentence, "eval", *files)


def test_the_sound_pair_is_scored(tmp_path):
    write(tmp_path / "truth.json", TRUTH)
    write(tmp_path / "found.json", [GOOD])
    files = ["--predictions", tmp_path / "found.json", "--data", tmp_path / "truth.json"]
    result = call("eval", *files)
    assert result.exit_code == 0 and "fig: box AP 1.000, 1 objects" in result.output
    refused("--ids: --predictions are scored as they are", "eval", *files, "--ids", "1")


@pytest.mark.parametrize("nothing", [[], [[]], {}, None, ...], ids=str)
def test_where_some_have_an_outline_the_mask_of_a_box_alone_is_neither_right_nor_wrong(
    tmp_path, nothing
):
    outlined = TRUTH["annotations"][0] | {"segmentation": [[1, 2, 11, 2, 11, 12, 1, 12]]}
    outlined["bbox"] = [1, 2, 10, 10]
    bare = other(outlined, id=2, bbox=[30, 2, 10, 10], segmentation=nothing)
    found = [  # of the box alone the mask that is found fills a quarter
        GOOD | {"bbox": box, "score": score, "segmentation": box_rle(mask, (48, 64))}
        for score, box, mask in (
            (0.9, [30, 2, 10, 10], [30, 2, 5, 5]), (0.8, [1, 2, 10, 10], [1, 2, 10, 10])
        )
    ]  # fmt: skip
    write(tmp_path / "truth.json", TRUTH | {"annotations": [outlined, bare]})
    write(tmp_path / "found.json", found)
    files = ["--predictions", tmp_path / "found.json", "--data", tmp_path / "truth.json"]
    assert call("eval", *files, "--out", tmp_path).exit_code == 0
    metrics = json.loads((tmp_path / "eval.json").read_text())
    assert [metrics[kind]["AP"] for kind in ("box", "mask")] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is no COCO annotation file: Expecting value"),
        ("[]", "is no COCO annotation file: it has no list 'images'"),
        ({"images": [], "categories": None}, "it has no list 'categories'"),
        ({"images": [{"id": 1}], "categories": []}, "one of its images has no file_name, or no"),
    ],
)
def test_a_set_that_predict_cannot_take_ids_from_is_named(here, content, sentence):
    write(here / "set.json", content)
    out = ["--out", "new", "--data", "set.json", "--images", "."]
    refused(sentence, "predict", "a.png", "--run", "run", *out)
    assert not (here / "new").exists()


def test_what_a_folder_or_file_in_the_place_of_another_is_said(here):
    (here / "folder.json").mkdir()
    (here / "bytes.json").write_bytes(bytes(range(256)))
    refused("folder.json should hold one annotation file *.json (found: none)", "train", "--data",
            "folder.json", "--out", "new")  # fmt: skip
    refused("unreadable annotations", *TRAIN, "--data", "bytes.json", "--images", ".")
    refused("cannot read folder.json: Is a directory", "eval", "--predictions", "bytes.json",
            "--data", "folder.json")  # fmt: skip


def test_scenes_are_not_written_over_a_set_that_is_there(here):
    before = (here / "scenes" / "annotations.json").read_text()
    refused("scenes/annotations.json is there already; name another folder", "data", "shapes",
            "--out", "scenes", "--images", 1)  # fmt: skip
    assert (here / "scenes" / "annotations.json").read_text() == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    ],
)
def test_what_helps_where_memory_ends_is_said(here, monkeypatch, error):
    def detect(*arguments, **options):
        raise error

    monkeypatch.setattr("fbnet_lesson.training.detecting.detect", detect)
    refused("out of memory: a smaller --batch-size or smaller pictures help", *EVAL)


def test_the_run_itself_is_sound(here):
    assert load_file(here / "run" / "model.safetensors").keys() == tiny_state().keys()
    assert call(*EVAL, "--ids", "4-5").exit_code == 0
