"""``plug``: the package runs with the learner's function, or where it must with its own."""

import dataclasses
import importlib
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch

from fbnet_lesson.course import compare, plug
from fbnet_lesson.course.exercises import EXERCISES
from fbnet_lesson.course.plug import resolve
from fbnet_lesson.detection import boxes, nms

plug_module = importlib.import_module("fbnet_lesson.course.plug")  # not the function
A = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
B = torch.tensor([[0.0, 0.0, 2.0, 1.0]])


def double_area(found):
    return 2 * (found[..., 2] - found[..., 0]) * (found[..., 3] - found[..., 1])


def test_every_module_of_the_package_that_imports_the_function_uses_the_learner_s():
    own = boxes.box_area
    assert nms.box_area is own
    with plug(box_area=double_area):
        assert boxes.box_area is nms.box_area and boxes.box_area is not own
        assert float(boxes.box_iou(A, B)) == pytest.approx(2 / (8 + 4 - 2))
    assert boxes.box_area is nms.box_area is own
    assert float(boxes.box_iou(A, B)) == 0.5


def test_the_package_is_itself_again_after_an_error_in_the_cell():
    own = boxes.box_area
    with pytest.raises(ZeroDivisionError), plug(box_area=double_area):
        raise ZeroDivisionError  # before the learner's function had a part in it
    assert boxes.box_area is own


def unwritten(found):
    raise NotImplementedError


def broken(found):
    return found[17]


def endless(found):
    while True:
        pass


class Escape(BaseException):
    """No ``Exception``."""


def escaping(found):
    raise Escape("me")


@pytest.mark.parametrize(
    "function, said",
    [
        (unwritten, "box_area is not written yet"),
        (broken, "box_area raises IndexError: index 17 is out of bounds"),
        (endless, "box_area does not come to an end, not even on a small case"),
        (lambda found: sys.exit(3), "box_area calls exit(), which would end the notebook"),
        (escaping, "box_area raises Escape: me"),
        (lambda found: None, "box_area returns nothing (None), expected is a tensor"),
        (lambda found: found.long(), "box_area returns shape [0, 4], expected is [0]"),
        (lambda found: double_area(found).long(), "box_area returns dtype int64, expected is"),
    ],
)
def test_what_cannot_be_used_is_said_once_and_the_package_s_own_goes_on(
    function, said, capsys, monkeypatch
):
    monkeypatch.setattr(plug_module, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(plug_module, "FIRST_SECONDS", 0.2)
    with plug(box_area=function):
        assert [float(boxes.box_iou(A, B)) for _ in range(3)] == [0.5] * 3
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(said) and line.endswith("the package's own is used in its place.")


@pytest.mark.parametrize("function", [unwritten, endless])
def test_what_is_not_written_or_never_ends_is_said_before_the_block(function, capsys, monkeypatch):
    monkeypatch.setattr(plug_module, "FIRST_SECONDS", 0.2)
    with plug(box_area=function):
        assert capsys.readouterr().out.startswith("box_area ")
        boxes.box_iou(A, B)
    assert capsys.readouterr().out == ""


def test_one_that_calls_an_unwritten_exercise_is_said_before_too(capsys):
    def nms(*args):
        raise NotImplementedError

    with plug(box_area=lambda found: nms(found)):
        assert capsys.readouterr().out.startswith("box_area calls nms, which is not written yet;")


def test_a_slow_function_is_called_slow_and_the_package_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(plug_module, "CALL_SECONDS", 0.1)
    with plug(box_area=slow_beyond(1, seconds=30)):
        assert float(boxes.box_area(A.expand(2, 4))[0]) == 4
    assert capsys.readouterr().out == (
        "box_area is slow here (no answer within 0 seconds); the package's own is used in its "
        "place.\n"
    )
    monkeypatch.setattr(plug_module, "BLOCK_SECONDS", 0.1)
    monkeypatch.setattr(plug_module, "CALL_SECONDS", 30)
    with plug(box_area=slow_beyond(1, seconds=0.07)):
        areas = [float(boxes.box_area(A.expand(2, 4))[0]) for _ in range(4)]
    assert areas == [8, 8, 4, 4]  # what has come is used
    assert capsys.readouterr().out.startswith("box_area is slow here (2 calls took 0 seconds); ")


def slow_beyond(count, seconds):
    """As ``double_area``, but slow for more than ``count`` boxes."""

    def slow(found):
        if len(found) > count:
            time.sleep(seconds)
        return double_area(found)

    return slow


def swallowing(found):
    while len(found) > 1:
        try:
            torch.ones(3)
        except:  # noqa: E722 (as learners write it)
            pass
    return double_area(found)


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("interrupts", [signal.default_int_handler, signal.SIG_IGN])
def test_a_loop_that_swallows_everything_ends(in_thread, interrupts, capsys, monkeypatch):
    def block():
        with plug(box_area=swallowing):
            boxes.box_area(A.expand(2, 4))

    monkeypatch.setattr(plug_module, "CALL_SECONDS", 0.1)
    before = signal.signal(signal.SIGINT, interrupts)
    try:
        if in_thread:
            thread = threading.Thread(target=block)
            thread.start()
            thread.join(20)
        else:
            block()
        assert signal.getsignal(signal.SIGINT) is interrupts
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().out.startswith("box_area is slow here (no answer within 0 seconds);")


def test_what_the_function_changes_is_put_back_and_said_once(capsys, tmp_path, monkeypatch):
    def moving(found):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.allclose = None
        os.chdir("/")
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(1)
        return double_area(found)

    def state():
        numbers = torch.rand(1), np.random.rand(), random.random()
        settings = torch.get_default_dtype(), torch.is_grad_enabled(), torch.allclose, os.getcwd()
        return *map(float, numbers), *settings

    monkeypatch.chdir(tmp_path)
    states = []
    for function in (double_area, moving):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(5)
        with plug(box_area=function):
            boxes.box_iou(A, B)
            states.append(state())
        states.append(state())
    assert states[:2] == states[2:]
    assert capsys.readouterr().out == (
        "box_area changes torch.allclose, the default dtype, the grad mode, the working "
        "directory; that has been put back.\n"
    )


def test_random_numbers_of_the_function_differ_from_call_to_call():
    drawn = []

    def drawing(found):
        drawn.append(float(torch.rand(1)))
        return double_area(found)

    with plug(box_area=drawing):
        boxes.box_iou(A, B)
    assert len(set(drawn)) == len(drawn) >= 3


def test_gradients_flow_through_the_block_as_it_wants(capsys):
    found = A.clone().requires_grad_()
    with plug(box_area=double_area):
        boxes.box_area(found).sum().backward()
        with torch.no_grad():
            assert not boxes.box_area(found).requires_grad
    assert found.grad.abs().sum() == 16
    assert capsys.readouterr().out == ""


def test_prints_are_bounded_and_come_at_the_end(capsys):
    def talking(found):
        for i in range(1000):
            print("line", i)
        return double_area(found)

    with plug(box_area=talking):
        boxes.box_area(A)
    assert capsys.readouterr().out == (
        "box_area prints\n  line 0\n  line 1\n  line 2\n  ... 997 more lines\n"
    )


def test_a_function_of_torch_that_was_replaced_before_is_back(capsys):
    own, torch.allclose = torch.allclose, lambda *args: True
    with plug(box_area=double_area):
        assert torch.allclose is own
    assert capsys.readouterr().out.startswith("torch.allclose had been replaced by another")


def test_another_number_of_rows_is_passed_on():
    with plug(box_area=lambda found: double_area(found)[:0]):
        assert boxes.box_area(A).shape == (0,)


def test_where_a_wrong_answer_stops_the_detector_the_notebook_goes_on(capsys):
    with plug(box_area=lambda found: double_area(found)[:0]):
        boxes.box_iou(A.expand(3, 4), B.expand(2, 4))
    said = capsys.readouterr().out
    assert said.startswith("with your box_area inside, this cell raises RuntimeError: ")


def test_an_assertion_in_the_block_is_no_trouble_to_be_smoothed_over():
    with pytest.raises(AssertionError), plug(box_area=double_area):
        assert float(boxes.box_area(A)) == 4


def test_an_adapter_puts_the_function_behind_another(monkeypatch, capsys):
    def adapter(function):
        return {"detection.boxes.nonempty": lambda found, min_size=0.0: function(found) > 0}

    exercise = dataclasses.replace(EXERCISES["box_area"], plug=adapter)
    monkeypatch.setitem(EXERCISES, "box_area", exercise)
    with plug(box_area=lambda found: -double_area(found)):
        assert boxes.nonempty(A).tolist() == [False]
    with plug(box_area=unwritten):
        assert boxes.nonempty(A).tolist() == [True]
    assert "not written yet" in capsys.readouterr().out


def test_methods_can_be_replaced_too(monkeypatch):
    import fbnet_lesson.norms

    def adapter(function):
        return {"norms.GN.forward": lambda self, x: function(x)}

    monkeypatch.setitem(
        EXERCISES, "box_area", dataclasses.replace(EXERCISES["box_area"], plug=adapter)
    )
    norm = fbnet_lesson.norms.GN(4)
    with plug(box_area=lambda x: x + 1):
        assert torch.equal(norm(torch.zeros(1, 4, 2, 2)), torch.ones(1, 4, 2, 2))
    assert torch.equal(norm(torch.zeros(1, 4, 2, 2)), torch.zeros(1, 4, 2, 2))


def test_names_without_an_exercise_and_values_that_are_no_functions_are_refused():
    with pytest.raises(ValueError, match="there is no exercise 'box_aera'; there are: box_area"):
        with plug(box_aera=double_area):
            pass
    with pytest.raises(TypeError, match=r"plug\(box_area=...\) takes a function, not a tensor"):
        with plug(box_area=A):
            pass
    with pytest.raises(ValueError, match="nothing can be plugged in at 'nowhere.f'"):
        resolve("nowhere.f")


def test_a_generator_is_drawn_from_once(monkeypatch):
    """The first answer is compared with the package's own, which must not move the numbers on."""
    exercise = dataclasses.replace(
        EXERCISES["box_area"], solution=torch_draw,
        edges={"two numbers": [{"generator": torch.Generator()}]},
        plug=lambda function: {"detection.boxes.nonempty": function},
    )  # fmt: skip
    monkeypatch.setitem(EXERCISES, "torch_draw", exercise)
    monkeypatch.setattr(boxes, "nonempty", torch_draw)
    seeded = torch.Generator().manual_seed(3)
    again = torch.Generator().manual_seed(3)
    expected = [torch_draw(again), torch_draw(again)]
    with plug(torch_draw=torch_draw):
        assert torch.equal(boxes.nonempty(seeded), expected[0])
        assert torch.equal(boxes.nonempty(seeded), expected[1])
    seeded.manual_seed(3)
    with plug(torch_draw=lambda generator: torch_draw(generator).tolist()):  # of no use
        assert torch.equal(boxes.nonempty(seeded), expected[0])


def torch_draw(generator):
    """Two numbers. ``-> [2]``"""
    return torch.rand(2, generator=generator)


# -------------------------------------------------------------------------------------- compare


def right_area(found):
    return (found[..., 2] - found[..., 0]) * (found[..., 3] - found[..., 1])


def iou_and_count():
    found = boxes.box_iou(A, B)
    return float(found), len(found)


def test_compare_prints_both_and_whether_they_are_equal(capsys):
    compare(iou_and_count, box_area=right_area)
    compare(iou_and_count, box_area=double_area)
    assert capsys.readouterr().out == (
        "package 0.5, 1 · yours 0.5, 1 · equal\npackage 0.5, 1 · yours 0.2, 1 · different\n"
    )


def test_compare_says_what_is_not_written_before_it_runs(capsys):
    said_before = []

    def run():
        said_before.append(capsys.readouterr().out)
        return 3

    compare(run, box_area=unwritten)
    assert said_before == ["box_area is not written yet; the package's own is used in its place.\n"]
    assert capsys.readouterr().out == "package 3 · yours is still to come\n"


@pytest.mark.parametrize(
    "result, text",
    [
        (0.123456, "0.1235"),
        ("cat", "cat"),
        ((1, True, torch.tensor(2.5)), "1, True, 2.5"),
        ({"AP": 1 / 3, "kept": 83}, "AP 0.3333, kept 83"),
        ((1, torch.zeros(2, 3)), "1, tensor [2, 3]"),
    ],
)
def test_compare_shows_numbers_strings_and_collections_of_them(result, text, capsys):
    compare(lambda: [boxes.box_area(A), result][1], box_area=right_area)
    assert capsys.readouterr().out == f"package {text} · yours {text} · equal\n"


def test_compare_tells_what_differs_where_it_cannot_be_seen(capsys):
    compare(lambda: boxes.box_area(torch.cat([A, B])), box_area=double_area)
    assert capsys.readouterr().out == (
        "package tensor [2] · yours tensor [2] · different: element [0] is 8, expected 4; "
        "2 of 2 differ\n"
    )


def test_compare_draws_where_the_two_differ(capsys):
    drawn = []
    for function in (right_area, double_area):
        compare(iou_and_count, lambda *both: drawn.append(both), box_area=function)
    assert drawn == [((0.5, 1), (pytest.approx(0.2), 1))]


def test_compare_claims_nothing_where_the_function_had_no_part(capsys):
    def breaks(found):
        return found[17] if len(found) else double_area(found)

    compare(iou_and_count, box_area=breaks)
    compare(lambda: 5, box_area=right_area)
    finding, no_answer, not_called = capsys.readouterr().out.splitlines()
    assert finding.startswith("box_area raises IndexError: ")
    assert no_answer == "package 0.5, 1 · yours gave no answer"
    assert not_called == "package 5 · box_area was not called"


def test_compare_gives_both_runs_the_same_random_numbers(capsys):
    def run():
        boxes.box_area(A)
        return float(torch.rand(1)), random.random(), np.random.rand()

    compare(run, box_area=right_area)
    assert capsys.readouterr().out.endswith("· equal\n")
