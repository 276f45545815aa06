"""The benchmarks: that both sides do the same work, and that what is measured is measured."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close
from typer.testing import CliRunner

from fbnet_lesson.benchmarks import cases, measure, scaling
from fbnet_lesson.benchmarks.profiles import profile
from fbnet_lesson.benchmarks.report import choose
from fbnet_lesson.cli import app

LINUX = pytest.mark.skipif(
    not measure.CLEAR.exists(), reason="only Linux tells how much memory a process had at most"
)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("grid, stride", [((14, 20), 16), ((50, 68), 4)])
def test_both_sides_of_the_roi_align_case_give_the_same(grid, stride, backward):
    ours, theirs = cases.build_roi_align(20, 6, 16, grid, stride, backward)
    assert_close(ours(), theirs(), rtol=0, atol=1e-4 if backward else 1e-5)


@pytest.mark.parametrize("classes", [1, 80])
def test_both_sides_of_the_nms_case_keep_the_same(classes):
    ours, theirs = cases.build_nms(1000, classes)
    assert torch.equal(ours().sort().values, theirs().sort().values)


def test_both_sides_of_the_pasting_case_give_nearly_the_same_masks():
    ours, theirs = cases.build_pasting((224, 320))
    # torchvision rounds the boxes to whole pixels: the edges differ.
    assert (ours() != theirs()[:, 0]).float().mean() < 0.01


@pytest.mark.slow
def test_both_sides_of_the_mask_head_case_give_the_same_logits():
    ours, theirs = cases.build_mask_head(7)
    reference = theirs()
    assert_close(ours(), reference, rtol=0, atol=1e-5 * float(reference.abs().max()))


@pytest.mark.slow
@pytest.mark.skipif(not cases.HAS_TIMM, reason="timm, of the test extra, is not installed")
def test_both_sides_of_the_classifier_case_give_the_same_logits():
    ours, theirs = cases.build_classifier(1)
    reference = theirs()
    assert_close(ours(), reference, rtol=0, atol=1e-5 * float(reference.abs().max()))


@pytest.mark.slow
def test_the_detector_of_the_cases_finds_as_much_as_they_say():
    for fused, detections in itertools.product((False, True), (0, 100)):
        ours, _ = cases.build_detector(fused, detections)
        assert len(ours()[0]["boxes"]) == detections


def test_a_training_step_of_the_cases_changes_no_weight():
    model = cases.fl.create_model(cases.TINY, num_classes=len(cases.CATEGORIES))
    before = [p.clone() for p in model.parameters()]
    cases.training_step(model, *cases.scenes(1, (64, 64)))()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is not None for p in model.parameters())


def test_without_timm_the_yardstick_is_our_own_of_the_same_layers(monkeypatch):
    monkeypatch.setattr(cases, "HAS_TIMM", False)
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it would fail
    assert cases.yardstick.__wrapped__()().shape == (1, 1000)
    assert not any(case.section == "timm/fbnetc_100" for case in cases.all_cases())


def test_every_case_has_a_name_of_its_own():
    keys = [case.key for case in cases.all_cases()]
    assert len(set(keys)) == len(keys) > 30


def test_the_two_sides_take_turns_and_the_median_is_taken(monkeypatch):
    order, clock = [], itertools.count()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(clock)))
    medians = measure.take_turns([lambda: order.append("a"), lambda: order.append("b")], 0.0)
    assert order == ["a", "b"] * 6  # one untimed call each, five rounds
    assert medians == [1000.0, 1000.0]  # the clock advances a second a look


@LINUX
def test_the_peak_is_what_a_call_holds_at_once_not_what_it_uses_in_all():
    program = """
import torch
from fbnet_lesson.benchmarks.measure import peak_memory
def one_after_the_other():
    for _ in range(4):
        torch.ones(2**22)
def together():
    return [torch.ones(2**22) for _ in range(4)]
print(peak_memory(one_after_the_other), peak_memory(together), peak_memory(lambda: None))
"""
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **measure.GIVE_BACK},
        check=True,
        capture_output=True,
        text=True,
    )
    one, four, nothing = map(float, answer.stdout.split())
    assert 15 < one < 20 and 63 < four < 70 and nothing < 1


def test_the_profile_names_the_operators_and_the_floor():
    a = torch.rand(256, 256)
    text = profile(lambda: (a @ a).relu(), lambda: a @ a, passes=3, repeats=1)
    assert "multiply-adds                0.050 billion" in text  # 3 times 256 ** 3
    assert "aten::mm" in text and "floor" in text


def test_rows_are_chosen_by_a_part_of_their_name():
    chosen = choose(cases.all_cases(), "512 ROIs, 14x14")
    assert len(chosen) == 2 and all("512 ROIs, 14x14" in case.name for case in chosen)
    with pytest.raises(
        ValueError, match="no benchmark matches 'gpu'; sections are: data, ROIAlign"
    ):
        choose(cases.all_cases(), "gpu")


def test_the_command_writes_the_table_it_prints(tmp_path):
    arguments = ["bench", "--only", "1000 boxes", "--seconds", "0", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "table.txt").read_text() == result.stdout
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["name"] for row in rows] == ["1000 boxes", "1000 boxes, 80 classes"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["ms"][0] / row["ms"][1])
        assert f"{row['ratio']:.2f}" in result.stdout


def test_plots_need_a_folder():
    result = CliRunner().invoke(app, ["bench", "--scaling"])
    assert result.exit_code == 2
    assert "--out says to which folder" in result.output


def test_a_plot_shows_every_curve():
    curves = scaling.Curves("title", "threads", "speed", [1, 2], {"a": [1, 1.5], "b": [1, 1.2]})
    curves.ideal = [1, 2]
    (axes,) = scaling.draw(curves).axes
    shown = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert shown == {"a": [1, 1.5], "b": [1, 1.2], "ideal": [1, 2]}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(shown)
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 2
