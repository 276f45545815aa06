"""What a learner predicted stands beside what came out, whatever they have written."""

import numpy as np
import pytest
import torch

from fbnet_lesson.course import reveal
from fbnet_lesson.course.predictions import _in_words


def shown(capsys, *arguments, **named) -> list[str]:
    assert reveal(*arguments, **named) is None
    return capsys.readouterr().out.splitlines()


def test_each_prediction_has_a_line_with_both_numbers_and_how_they_compare(capsys):
    guess = {"boxes kept of 300": 60, "recall with 10": 0.9, "which is less": "nms"}
    results = {"boxes kept of 300": 83, "recall with 10": 0.941234, "which is less": "NMS"}
    assert shown(capsys, guess, results) == [
        "boxes kept of 300   you 60    it is 83       more",
        "recall with 10      you 0.9   it is 0.9412   close",
        "which is less       you nms   it is NMS      as you said",
    ]
    assert shown(capsys, guess, **results) == shown(capsys, guess, results)


@pytest.mark.parametrize("blank", [None, "", " ", ...])
def test_a_blank_guess_reads_as_in_the_built_notebook(capsys, blank):
    assert shown(capsys, {"kept": blank}, kept=83) == ["kept   no guess   it is 83"]


def test_a_part_of_the_predictions_may_be_revealed_later(capsys):
    guess = {"kept": 3, "recall": None}
    assert shown(capsys, guess, recall=0.5) == ["recall   no guess   it is 0.5"]


@pytest.mark.parametrize(
    "guess, result, words",
    [
        (83, 83, "as you said"),
        (75, 83, "close"),
        (90, 83, "close"),
        (74, 83, "more"),
        (92, 83, "less"),
        (10, 83, "8 times as much"),
        (830, 83, "10 times less"),
        (1, 7_225_344, "over 1000 times as much"),
        (-10, -20, "2 times as much"),
        (-1, 1, "more"),
        (0, 0, "as you said"),
        (1, 0, "less"),
        (0, 1, "more"),
        (1e-310, 1e300, "over 1000 times as much"),
    ],
)
def test_numbers_are_compared_in_words(guess, result, words):
    assert _in_words(guess, result) == words


@pytest.mark.parametrize(
    "guess, words",
    [
        ("50%", "as you said"),
        ("50 %", "as you said"),
        ("0.5", "as you said"),
        (np.float32(0.5), "as you said"),
        (torch.tensor(0.5), "as you said"),
        (torch.tensor([0.5]), "as you said"),
        ("about half", ""),
        ([0.5], ""),
        (True, ""),
        (1j, ""),
        (float("nan"), ""),
        (torch.tensor([0.5, 1]), ""),
        (np.array([0.5, 1]), ""),
    ],
    ids=str,
)
def test_a_guess_may_be_written_in_many_ways(capsys, guess, words):
    (line,) = shown(capsys, {"share": guess}, share=0.5)
    assert line.startswith("share   you ")
    assert line.endswith("it is 0.5" + ("   " + words if words else ""))


class Unprintable:
    def __repr__(self):
        raise RuntimeError

    __eq__ = __repr__
    __hash__ = None


def test_whatever_was_written_nothing_is_raised(capsys):
    for guess in (Unprintable(), 10**400, lambda: 3, "x\ny" * 100, [1] * 100):
        (line,) = shown(capsys, {"kept": guess}, kept=83)
        assert "it is 83" in line and len(line) < 80


@pytest.mark.parametrize("guess", [None, 3, [1, 2], Unprintable()])
def test_a_guess_that_is_no_dict_is_an_error_in_a_sentence(capsys, guess):
    first, second = shown(capsys, guess, kept=83)
    assert first.startswith("reveal: guess is ") and "not a dict such as" in first
    assert second == "kept   no guess   it is 83"


def test_a_name_without_a_prediction_is_an_error_in_a_sentence(capsys):
    assert shown(capsys, {"kept": 1, "recall": 2}, kep=83) == [
        "kep   no guess   it is 83",
        "reveal: guess has no 'kep'; it has 'kept', 'recall'",
    ]


def test_results_are_numbers_or_short_strings(capsys):
    results = {"a": 7_225_344, "b": torch.tensor(3), "c": 1 / 3, "d": True, "e": np.int64(12)}
    lines = shown(capsys, dict.fromkeys(results), results)
    assert [line.rpartition("it is ")[2] for line in lines] == [
        "7,225,344", "3", "0.3333", "True", "12"
    ]  # fmt: skip
