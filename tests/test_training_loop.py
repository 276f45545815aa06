import csv
import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_stand_in import Squares, StandIn, augmentation

from fbnet_lesson.training import checkpoint, loop, tasks
from fbnet_lesson.training.config import TrainConfig
from fbnet_lesson.training.loop import NonFiniteError, RunFolderError, make_optimizer, train

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = str(Path(__file__).with_name("training_stand_in.py"))
QUICK = TrainConfig(
    iterations=8, warmup=2, batch_size=4, lr=5e-3, ema_decay=0.9, threads=1, checkpoint_every=3
)


def quiet(line):
    pass


def run(folder, config=QUICK, **options):
    train_set, val_set = Squares(20, transform=augmentation()), Squares(4)
    return train(StandIn(), train_set, val_set, config, folder, log=quiet, **options)


def changed(**settings):
    return TrainConfig.from_dict({**QUICK.to_dict(), **settings})


def read_rows(folder, *, timing=False):
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows if timing else [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_same_run(folder, expected):
    weights, expected_weights = (load_file(f / "model.safetensors") for f in (folder, expected))
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[key], expected_weights[key]) for key in weights)
    assert read_rows(folder) == read_rows(expected)
    assert (folder / "eval.json").read_text() == (expected / "eval.json").read_text()


def test_a_run_leaves_everything_in_its_folder(tmp_path):
    result = run(tmp_path / "run", notes={"data": "squares"})
    names = {path.name for path in (tmp_path / "run").iterdir()}
    files = {"config.json", "metrics.csv", "tensorboard", "last.pt", "previous.pt", "best.pt"}
    assert names == files | {"model.safetensors", "eval.json"}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model_name"] == "tests/stand_in"
    assert config["model_config"] == {"num_classes": 2, "norm": "BN"}
    assert config["train"]["iterations"] == 8
    assert config["categories"] == ["red", "green"] and config["notes"] == {"data": "squares"}
    assert result["iteration"] == 8 and set(result["losses"]) == {"loss_cls", "loss_box_reg"}
    rows = read_rows(tmp_path / "run")
    assert [row["iteration"] for row in rows] == [str(i) for i in range(1, 9)]
    assert rows[-2]["box_AP"] == "" and float(rows[-1]["box_AP"]) >= 0


def test_training_lowers_the_loss(tmp_path):
    run(tmp_path, changed(iterations=60, lr=0.01))
    losses = [float(row["loss"]) for row in read_rows(tmp_path)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_the_model_ends_with_the_weights_of_the_file_in_eval_mode(tmp_path):
    model = StandIn()
    train(model, Squares(), None, QUICK, tmp_path, log=quiet)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    assert not model.training


def test_the_same_seed_is_the_same_run_to_the_last_bit_whatever_the_number_of_workers(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b", changed(num_workers=2))
    assert_same_run(tmp_path / "b", tmp_path / "a")
    run(tmp_path / "c", changed(seed=1))
    assert read_rows(tmp_path / "c") != read_rows(tmp_path / "a")


def stop_after_5(folder, config, monkeypatch):
    """A run that is killed after iteration 5; its last checkpoint is that of 3."""
    step = loop.train_step

    def killed(state, *args):
        if state.iteration == 5:
            raise KeyboardInterrupt
        return step(state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(folder, config)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_stopped_after_any_iteration_and_resumed_it_is_the_same_run(
    tmp_path, monkeypatch, optimizer, ema_decay
):
    config = changed(optimizer=optimizer, ema_decay=ema_decay)
    run(tmp_path / "whole", config)
    stop_after_5(tmp_path / "stopped", config, monkeypatch)
    run(tmp_path / "stopped", config, resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_killed_after_the_last_checkpoint_it_still_writes_the_results(tmp_path, monkeypatch):
    run(tmp_path / "whole")

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "write_results", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.undo()
    result = run(tmp_path / "killed", resume=True)
    assert result["metrics"]["images"] == 4
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def kill_often(command, folder, kills, iterations, step_seconds):
    """Run the command to its end, but kill it ``kills`` times on the way, at random moments."""
    for left in range(kills, 0, -1):
        done = rows_in(folder)
        goal = done + random.randint(0, (iterations - done) // (left + 1))
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while rows_in(folder) <= goal and child.poll() is None:
            time.sleep(step_seconds / 10)
        time.sleep(random.uniform(0, step_seconds))
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.returncode == -signal.SIGKILL, "it ended before it was killed"
        loop.load_checkpoint(folder)  # raises where none is readable
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def rows_in(folder):
    path = folder / "metrics.csv"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_with_sigkill_at_random_moments_it_ends_with_the_same_bits(tmp_path):
    settings = ["iterations=120", "checkpoint_every=2", "batch_size=4"]
    command = [sys.executable, STAND_IN, str(tmp_path / "killed"), *settings]
    kill_often(command, tmp_path / "killed", kills=3, iterations=120, step_seconds=0.01)
    command[2] = str(tmp_path / "whole")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_resuming_a_complete_run_changes_nothing(tmp_path):
    run(tmp_path)
    before = read_rows(tmp_path, timing=True)
    result = run(tmp_path, resume=True)
    assert read_rows(tmp_path, timing=True) == before
    assert result["iteration"] == 8


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stop_after_5(tmp_path, QUICK, monkeypatch)
    assert len(read_rows(tmp_path)) == 5
    run(tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))


def test_random_numbers_in_the_model_are_new_in_each_iteration_and_the_same_after_a_resume(
    tmp_path,
):
    class Dice(StandIn):
        def losses(self, *args):
            thrown.append(torch.rand(1).item())
            return super().losses(*args)

    thrown = []
    train(Dice(), Squares(), None, changed(max_minutes=1e-9), tmp_path / "a", log=quiet)
    train(Dice(), Squares(), None, QUICK, tmp_path / "a", resume=True, log=quiet)
    stopped, thrown = thrown, []
    train(Dice(), Squares(), None, QUICK, tmp_path / "b", log=quiet)
    assert stopped == thrown and len(set(thrown)) == 8


def test_a_model_given_in_eval_mode_is_trained_all_the_same(tmp_path):
    train(StandIn().eval(), Squares(), None, QUICK, tmp_path, log=quiet)
    assert len(read_rows(tmp_path)) == 8


def scripted(monkeypatch, *scores):
    """Evaluations come out with these APs, one after the other."""
    left = iter(scores)

    def evaluate(model, dataset, **options):
        ap = next(left)
        return {"box": {"AP": 1 - ap, "AP50": 0.5}, "mask": {"AP": ap, "AP50": 0.5}}

    monkeypatch.setattr(tasks.evaluation, "evaluate", evaluate)


def best_of(folder):
    score = checkpoint.best_score(folder)
    return score and (score["iteration"], score["kind"], score["value"])


def test_the_weights_of_the_highest_mask_ap_are_kept_and_said(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.2, 0.5, 0.5, 0.4)
    train_set, lines = Squares(20, transform=augmentation()), []
    config = changed(eval_every=2)
    train(StandIn(), train_set, Squares(4), config, tmp_path / "run", log=lines.append)
    assert best_of(tmp_path / "run") == (4, "mask AP", 0.5)  # the first of two that are as good
    path = tmp_path / "run" / "best.pt"
    assert lines[-1] == f"the best mask AP was 0.500, after iteration 4: its weights are in {path}"
    kept = torch.load(path, weights_only=True)
    assert kept["iteration"] == 4 and kept["categories"] == ["red", "green"]


def test_an_ap_that_is_no_number_is_not_the_best_and_a_damaged_best_is_replaced(
    tmp_path, monkeypatch
):
    scripted(monkeypatch, math.nan, 0.1)
    run(tmp_path, changed(max_minutes=1e-9))
    assert best_of(tmp_path) is None
    (tmp_path / "best.pt").write_bytes(b"half a file")
    run(tmp_path, resume=True)
    assert best_of(tmp_path) == (8, "mask AP", 0.1)


def test_the_best_of_a_run_that_never_got_to_a_checkpoint_is_forgotten(tmp_path, monkeypatch):
    checkpoint.save_best(tmp_path, {"iteration": 3}, "mask AP", 0.9)
    scripted(monkeypatch, 0.1)
    run(tmp_path)
    assert best_of(tmp_path) == (8, "mask AP", 0.1)


def test_a_killed_run_ends_with_the_best_of_an_unbroken_one(tmp_path, monkeypatch):
    config = changed(eval_every=2)
    scripted(monkeypatch, 0.2, 0.6, 0.3, 0.4)
    run(tmp_path / "whole", config)
    scripted(monkeypatch, 0.2, 0.6)
    stop_after_5(tmp_path / "killed", config, monkeypatch)  # goes on from 3
    scripted(monkeypatch, 0.6, 0.3, 0.4)
    run(tmp_path / "killed", config, resume=True)
    assert best_of(tmp_path / "killed") == best_of(tmp_path / "whole") == (4, "mask AP", 0.6)
    whole, killed = (
        torch.load(tmp_path / name / "best.pt", weights_only=True)["ema"]
        for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


def test_a_run_made_longer_is_the_same_whether_it_was_killed_or_not(tmp_path, monkeypatch):
    longer = changed(iterations=14)
    for name in ("whole", "killed"):
        run(tmp_path / name)
    run(tmp_path / "whole", longer, resume=True)
    step = loop.train_step

    def killed(state, *args):
        if state.iteration == 11:
            raise KeyboardInterrupt
        return step(state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", longer, resume=True)
    run(tmp_path / "killed", longer, resume=True)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    expected = [longer.lr * longer.learning_rate_factor(i) for i in range(8, 14)]
    rates = [float(row["lr"]) for row in read_rows(tmp_path / "whole")]
    assert rates[8:] == pytest.approx(expected)


# The run folder


def test_a_folder_with_a_run_is_refused_without_resume(tmp_path):
    run(tmp_path)
    with pytest.raises(RunFolderError, match="holds a run at iteration 8; resume it"):
        run(tmp_path)


def test_resuming_with_other_settings_is_refused_and_says_which(tmp_path):
    run(tmp_path)
    expected = r"other settings \(lr: 0.005 -> 0.1; norm: 'BN' -> 'GN'\)"
    with pytest.raises(RunFolderError, match=expected):
        train(StandIn("GN"), Squares(), None, changed(lr=0.1), tmp_path, resume=True, log=quiet)
    assert json.loads((tmp_path / "config.json").read_text())["train"]["lr"] == 0.005


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        run(tmp_path / "run")


def test_resuming_what_never_began_begins(tmp_path):
    assert run(tmp_path / "new", resume=True)["iteration"] == 8


def test_another_number_of_classes_than_the_data_has_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="num_classes=5 and the training set 2 categories"):
        train(StandIn(num_classes=5), Squares(), None, QUICK, tmp_path, log=quiet)


def test_it_stops_when_the_minutes_are_over_with_results_and_can_go_on(tmp_path):
    lines = []
    config = changed(max_minutes=1e-9)
    train(StandIn(), Squares(), Squares(4), config, tmp_path, log=lines.append)
    assert lines[-1].startswith("stopped after 1e-09 minutes")
    assert json.loads((tmp_path / "eval.json").read_text())["iteration"] == 1
    assert (tmp_path / "model.safetensors").exists()


def test_it_says_how_many_defects_the_data_sets_dropped(tmp_path):
    lines, dataset = [], Squares()
    dataset.dropped_records = {"images": 1, "annotations": 23}
    train(StandIn(), dataset, None, QUICK, tmp_path, log=lines.append)
    assert "training set: 1 images and 23 annotations dropped for their defects" in lines


# Losses that are not finite


def test_an_image_that_makes_the_loss_nan_stops_the_run_and_is_named(tmp_path):
    dataset = Squares(20, poison=[7])
    with pytest.raises(NonFiniteError) as error:
        train(StandIn(), dataset, None, changed(iterations=40), tmp_path, log=quiet)
    assert error.value.image_ids == [107]
    message = str(error.value)
    assert f"iteration {error.value.iteration}: the loss is not finite (loss_cls=nan" in message
    assert "caused by image 107." in message
    batch = torch.load(next(tmp_path.glob("nonfinite_*.pt")), weights_only=True)
    position = batch["image_ids"].index(107)
    assert batch["images"][position].isnan().all() and len(batch["targets"]) == 4
    assert all(
        weight.isfinite().all()
        for name, weight in batch["model"].items()
        if not name.endswith(("running_mean", "running_var"))
    )


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(tmp_path):
    class RootAtZero(StandIn):
        def losses(self, features, logits, targets):
            bad = any(target["image_id"] == 103 for target in targets)
            spike = torch.sqrt(features.sum() * 0) if bad else features.sum() * 0
            return {"loss_cls": logits.square().mean(), "loss_box_reg": spike}

    model = RootAtZero()
    with pytest.raises(NonFiniteError, match="the gradient is not finite .*image 103") as error:
        train(model, Squares(), None, changed(iterations=20), tmp_path, log=quiet)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert error.value.losses["loss_box_reg"] == 0.0


def test_a_loss_that_no_image_causes_alone_names_the_whole_batch(tmp_path):
    class TooMany(StandIn):
        def losses(self, features, logits, targets):
            return {"loss_cls": logits.sum() * (torch.inf if len(targets) > 1 else 1)}

    with pytest.raises(NonFiniteError, match=r"no image of the batch \(1\d\d, 1\d\d, 1\d\d, 1"):
        train(TooMany(), Squares(), None, QUICK, tmp_path, log=quiet)


# The step


def test_weight_decay_spares_the_norms_and_nothing_frozen_is_optimised():
    model = StandIn()
    model.boxes.weight.requires_grad_(False)
    decayed, spared = make_optimizer(model, QUICK).param_groups
    assert decayed["weight_decay"] == QUICK.weight_decay and spared["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in spared["params"]} == {
        f"backbone.trunk{stage}.1.{kind}" for stage in range(3) for kind in ("weight", "bias")
    }
    assert len(decayed["params"]) == 3 + 2 + 1


def test_a_model_that_is_frozen_altogether_is_an_error():
    with pytest.raises(ValueError, match="everything is frozen"):
        make_optimizer(StandIn().requires_grad_(False), QUICK)


def test_the_gradient_is_clipped_to_its_norm(tmp_path):
    config = changed(optimizer="sgd", momentum=0.0, weight_decay=0.0, warmup=0, lr=1.0)
    config = TrainConfig.from_dict({**config.to_dict(), "iterations": 1, "grad_clip": 0.01})
    model = StandIn()
    before = [p.detach().clone() for p in model.parameters()]
    train(model, Squares(), None, config, tmp_path, log=quiet)
    moved = torch.cat([(p - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert float(read_rows(tmp_path)[0]["grad_norm"]) > 1


def test_the_learning_rates_recorded_are_those_of_the_schedule(tmp_path):
    run(tmp_path)
    expected = [QUICK.lr * QUICK.learning_rate_factor(i) for i in range(8)]
    assert [float(row["lr"]) for row in read_rows(tmp_path)] == pytest.approx(expected)


def test_training_leaves_the_settings_of_torch_as_they_were(tmp_path):
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(tmp_path, changed(threads=threads + 1))
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.rand(1) == expected


# The real detector


def tiny_command(folder, *options):
    """The command that trains lesson/mask_rcnn_tiny; resumes what was killed."""
    options = ["--data", "shapes", "--val-length", "4", "--threads", "1", *options]
    train_it = ["-m", "fbnet_lesson", "train", "--resume", "--out", str(folder), *options]
    return [sys.executable, *train_it]


@pytest.mark.slow
def test_the_real_detector_killed_ten_times_ends_with_the_same_bits(tmp_path):
    small = ["--iterations", "80", "--batch-size", "2", "--checkpoint-every", "2"]
    small += ["--image-size", "64", "--set", "min_size=64", "--train-length", "20"]
    subprocess.run(tiny_command(tmp_path / "whole", *small), check=True, cwd=ROOT)
    kill_often(tiny_command(tmp_path / "killed", *small), tmp_path / "killed", 10, 80, 0.06)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
