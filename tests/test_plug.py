"""``plug``: the package runs with the learner's function, or where it must with its own."""

import dataclasses
import importlib

import pytest
import torch

from fbnet_lesson.course import plug
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


@pytest.mark.parametrize(
    "function, said",
    [
        (unwritten, "box_area is not written yet"),
        (broken, "box_area raises IndexError: index 17 is out of bounds"),
        (endless, "box_area does not come to an end within 0 seconds"),
        (lambda found: None, "box_area returns nothing (None), expected is a tensor"),
        (lambda found: found.long(), "box_area returns shape [0, 4], expected is [0]"),
        (lambda found: double_area(found).long(), "box_area returns dtype int64, expected is"),
    ],
)
def test_what_cannot_be_used_is_said_once_and_the_package_s_own_goes_on(
    function, said, capsys, monkeypatch
):
    monkeypatch.setattr(plug_module, "CALL_SECONDS", 0.2)
    with plug(box_area=function):
        assert [float(boxes.box_iou(A, B)) for _ in range(3)] == [0.5] * 3
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(said) and line.endswith("the package's own is used in its place.")


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
        EXERCISES["box_area"], solution=torch_draw, edges={},
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
