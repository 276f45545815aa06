import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

STAND_IN = str(Path(__file__).with_name("training_stand_in.py"))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def run(folder, processes, *settings):
    launcher = [*TORCHRUN, str(processes)] if processes > 1 else [sys.executable]
    command = [*launcher, STAND_IN, str(folder), *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training on one process and on two, each of which has half of the batch."""
    folder = tmp_path_factory.mktemp("runs")
    for processes in (1, 2):
        run(folder / str(processes), processes, "norm=SyncBN", "batch_size=8", "eval_every=10")
    return folder


def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(runs):
    assert len(losses(runs / "1")) == 30
    assert losses(runs / "2") == pytest.approx(losses(runs / "1"), rel=1e-4)


def test_two_processes_end_with_the_weights_of_one(runs):
    one, two = (load_file(runs / n / "model.safetensors") for n in "12")
    for key in one:
        assert (one[key].float() - two[key].float()).abs().max() < 1e-3, key


def test_two_processes_evaluate_each_image_once_with_the_result_of_one(runs):
    one, two = (json.loads((runs / n / "eval.json").read_text()) for n in "12")
    assert two["images"] == one["images"] == 6
    assert two["detections"] == one["detections"] > 0
    for name, value in one["box"].items():
        if name != "per_class" and value is not None:
            assert two["box"][name] == pytest.approx(value, abs=1e-3), name


def test_a_run_of_two_processes_is_resumed_to_the_same_bits(runs, tmp_path):
    settings = ["norm=SyncBN", "batch_size=8", "eval_every=10"]
    run(tmp_path, 2, *settings, "max_minutes=1e-9")
    assert len(losses(tmp_path)) == 1
    run(tmp_path, 2, *settings)
    whole, resumed = (load_file(f / "model.safetensors") for f in (runs / "2", tmp_path))
    assert all(whole[key].equal(resumed[key]) for key in whole)


def test_with_plain_bn_both_processes_evaluate_the_weights_that_are_saved(tmp_path):
    out = run(tmp_path, 2, "norm=BN", "batch_size=8", "iterations=5")
    assert out.count("iteration 5: loss") == 1  # one process speaks


def test_an_error_of_the_first_process_ends_all_of_them(tmp_path):
    (tmp_path / "run").touch()
    command = [*TORCHRUN, "2", STAND_IN, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "is a file" in done.stderr


def test_the_real_detector_trains_on_two_processes_as_on_one_and_finds_the_same(tmp_path):
    for processes in (1, 2):
        settings = ["model=tiny", "norm=SyncBN", "batch_size=4", "iterations=6"]
        run(tmp_path / str(processes), processes, *settings)
    one, two = tmp_path / "1", tmp_path / "2"
    assert len(losses(one)) == 6
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    assert (two / "eval.json").read_text() == (one / "eval.json").read_text()


def test_in_single_precision_too_the_curves_agree_where_nothing_is_drawn_at_random(tmp_path):
    settings = ["model=all", "norm=SyncBN", "iterations=20", "optimizer=sgd", "lr=1e-3"]
    for processes in (1, 2):
        run(tmp_path / str(processes), processes, *settings)
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)


def test_without_synchronised_norms_the_curves_part(tmp_path):
    settings = ["model=all", "norm=BN", "iterations=4", "optimizer=sgd", "lr=1e-3"]
    for processes in (1, 2):
        run(tmp_path / str(processes), processes, *settings)
    assert losses(tmp_path / "2") != pytest.approx(losses(tmp_path / "1"), rel=1e-4)
