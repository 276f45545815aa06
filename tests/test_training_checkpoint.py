import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from fbnet_lesson.files import atomic_file
from fbnet_lesson.training import checkpoint
from fbnet_lesson.training.checkpoint import (
    MetricsFile,
    load_checkpoint,
    save_checkpoint,
    write_json,
)


def state(iteration):
    return {"iteration": iteration, "weight": torch.full((4,), float(iteration))}


def test_the_newest_checkpoint_is_loaded_and_the_one_before_is_kept(tmp_path):
    for iteration in (1, 2, 3):
        save_checkpoint(tmp_path, state(iteration))
    assert load_checkpoint(tmp_path)["iteration"] == 3
    assert torch.load(tmp_path / "previous.pt", weights_only=True)["iteration"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


def test_a_folder_without_checkpoints_gives_none(tmp_path):
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("crash_at", [1, 2, 3])
def test_a_crash_between_any_two_renames_leaves_a_readable_checkpoint(
    tmp_path, monkeypatch, crash_at
):
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    renames = []

    def crashing_replace(source, destination, replace=os.replace):
        renames.append(destination)
        if len(renames) == crash_at:
            raise KeyboardInterrupt
        replace(source, destination)

    monkeypatch.setattr(checkpoint.os, "replace", crashing_replace)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, state(3))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)["iteration"] == 2
    save_checkpoint(tmp_path, state(4))
    assert load_checkpoint(tmp_path)["iteration"] == 4


def test_a_crash_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, state(1))

    def half(value, file):
        file.write(b"half a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, state(2))
    assert load_checkpoint(tmp_path)["iteration"] == 1


SAVE_FOR_EVER = """
import sys, torch
from pathlib import Path
from fbnet_lesson.training.checkpoint import save_checkpoint
iteration = 0
while True:
    iteration += 1
    state = {"iteration": iteration, "weights": torch.full((300_000,), float(iteration))}
    save_checkpoint(Path(sys.argv[1]), state)
"""


@pytest.mark.slow
def test_killed_while_saving_all_the_time_there_is_always_a_whole_checkpoint(tmp_path):
    for _ in range(3):
        (tmp_path / "last.pt").unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)])
        while not (tmp_path / "last.pt").exists():
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(random.uniform(0.05, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        loaded = load_checkpoint(tmp_path)
        assert loaded["iteration"] >= 1
        assert (loaded["weights"] == loaded["iteration"]).all()


def test_an_unreadable_last_checkpoint_falls_back_to_the_one_before(tmp_path):
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    (tmp_path / "last.pt").write_bytes(b"damaged by the disk")
    assert load_checkpoint(tmp_path)["iteration"] == 1
    (tmp_path / "previous.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="no readable checkpoint: .*last.pt.*previous.pt"):
        load_checkpoint(tmp_path)


def test_a_crash_while_writing_leaves_the_file_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"AP": 1})
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "a.json") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert json.loads((tmp_path / "a.json").read_text()) == {"AP": 1}


def test_json_has_null_for_what_is_not_a_finite_number(tmp_path):
    write_json(tmp_path / "a.json", {"AP": float("nan"), "list": [1, (2.5, float("inf"))]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"AP": None, "list": [1, [2.5, None]]}


# metrics.csv


def rows(path):
    return path.read_text().splitlines()


def write_rows(path, start, stop):
    metrics = MetricsFile(path, start)
    for iteration in range(start + 1, stop + 1):
        metrics.write({"iteration": iteration, "loss": iteration / 4})
    return metrics


def test_metrics_have_a_header_and_a_row_for_each_iteration(tmp_path):
    write_rows(tmp_path / "m.csv", 0, 2)
    assert rows(tmp_path / "m.csv") == ["iteration,loss", "1,0.25", "2,0.5"]


def test_rows_after_the_resumed_iteration_are_dropped_and_written_again_once(tmp_path):
    write_rows(tmp_path / "m.csv", 0, 5)
    write_rows(tmp_path / "m.csv", 3, 6)
    expected = ["iteration,loss", "1,0.25", "2,0.5", "3,0.75", "4,1.0", "5,1.25", "6,1.5"]
    assert rows(tmp_path / "m.csv") == expected


def test_a_torn_last_line_is_dropped(tmp_path):
    write_rows(tmp_path / "m.csv", 0, 3)
    text = (tmp_path / "m.csv").read_text()
    for torn in ("4", "4,0.1", "4,"):
        (tmp_path / "m.csv").write_text(text + torn)
        MetricsFile(tmp_path / "m.csv", 4)
        assert rows(tmp_path / "m.csv") == text.splitlines()


def test_a_run_that_starts_anew_starts_an_empty_file(tmp_path):
    write_rows(tmp_path / "m.csv", 0, 3)
    write_rows(tmp_path / "m.csv", 0, 1)
    assert rows(tmp_path / "m.csv") == ["iteration,loss", "1,0.25"]


def test_a_row_is_readable_at_once(tmp_path):
    metrics = MetricsFile(tmp_path / "m.csv")
    metrics.write({"iteration": 1, "loss": 2.0})
    assert rows(tmp_path / "m.csv")[-1] == "1,2.0"
