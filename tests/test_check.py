"""What ``check`` says to functions that are wrong in every way a function can be."""

import _thread
import contextlib
import importlib
import signal
import threading
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import strategies as st

from fbnet_lesson.course import drawing, progress
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.check import brief, check
from fbnet_lesson.course.exercise import Exercise, Mistake, stub_source
from fbnet_lesson.course.guard import TooLong, call, difference, limited

check_module = importlib.import_module("fbnet_lesson.course.check")  # not the function


def double_up(values: torch.Tensor, at_least: float) -> torch.Tensor:
    """Twice every value that is at least ``at_least``, the others as they are. ``[N] -> [N]``."""
    return torch.where(values >= at_least, 2 * values, values)


MISTAKES = (
    Mistake("leaves the limit itself alone", "At least means >=.", edits={">=": ">"}),
    Mistake("adds two", "Twice is times two.", edits={"2 * values": "2 + values"}),
    Mistake(
        "doubles the others", "Look at the order.",
        edits={"2 * values, values": "values, 2 * values"},
    ),
)  # fmt: skip
EXERCISE = Exercise(
    solution=double_up,
    cases=st.fixed_dictionaries(
        {"values": some.tensors(st.integers(0, 3)), "at_least": some.numbers(-2, 2)}
    ),
    edges={"the limit itself counts": [{"values": torch.tensor([1.0, 3.0]), "at_least": 1.0}]},
    mistakes=MISTAKES,
    hint="Look at torch.where.",
)


@pytest.fixture(autouse=True)
def exercises(monkeypatch):
    monkeypatch.setitem(check_module.EXERCISES, "double_up", EXERCISE)
    monkeypatch.setattr(check_module, "CALL_SECONDS", 0.3)
    yield
    plt.close("all")


def answer(body: str, capsys) -> str:
    """What check prints for a function with this body."""
    source = "def double_up(values, at_least):\n" + "".join(f"    {x}\n" for x in body.split("\n"))
    namespace = {"torch": torch}
    exec(source, namespace)
    check(namespace["double_up"])
    return capsys.readouterr().out


def test_a_right_function_is_told_how_much_was_tried(capsys):
    body = "return values + values * (values >= at_least)"
    assert answer(body, capsys) == "✓ double_up: 2 properties, 101 cases\n"
    assert plt.get_fignums() == []


def test_what_passes_is_remembered_and_what_fails_is_not(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FBNET_LESSON_PROGRESS", str(tmp_path / "progress.json"))
    answer("return values * 3", capsys)
    assert progress.passed() == {}
    answer("return values + values * (values >= at_least)", capsys)
    assert list(progress.passed()) == ["double_up"]


def test_a_pass_that_cannot_be_remembered_is_a_pass(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FBNET_LESSON_PROGRESS", str(tmp_path / "file" / "progress.json"))
    said = answer("return values + values * (values >= at_least)", capsys).splitlines()
    assert said[0].startswith("✓") and said[1].startswith("progress: this pass could not")


def test_an_unwritten_one_is_no_mistake(capsys):
    assert answer("raise NotImplementedError", capsys).startswith("double_up: not written yet.")


def test_a_call_of_another_function_that_is_unwritten_is_told_apart(capsys):
    body = "def helper(): raise NotImplementedError\nreturn helper()"
    assert answer(body, capsys).startswith("✗ double_up: raises NotImplementedError\n")


def test_a_known_mistake_is_named_with_its_smallest_case_and_hint(capsys):
    assert answer("return torch.where(values > at_least, values * 2, values)", capsys) == (
        "✗ double_up: leaves the limit itself alone\n"
        "  property  the limit itself counts\n"
        "  input     values = [1, 3]\n"
        "            at_least = 1\n"
        "  expected  [2, 6]\n"
        "  got       [1, 6]\n"
        "  hint      At least means >=.\n"
    )


def test_a_mistake_that_only_random_cases_show_is_shrunk(capsys):
    body = "return torch.where(values >= at_least, 2 * values, values) * (1 + (values == -2) * 8)"
    assert answer(body, capsys) == (
        "✗ double_up: gives other values\n"
        "  input     values = [-2]\n"
        "            at_least = 0\n"
        "  expected  [-2]\n"
        "  got       [-18]\n"
        "  hint      Look at torch.where.\n"
    )


def test_a_known_mistake_beside_another_fault_is_suspected(capsys):
    said = answer(
        "if len(values) == 3: values = values + 0.1 * (values == -4)\n"
        "return torch.where(values > at_least, 2 * values, values)",
        capsys,
    )
    assert said.startswith("✗ double_up: gives other values; perhaps it leaves the limit itself")
    assert said.endswith("hint      At least means >=.\n")


def test_a_mistake_that_answers_the_shown_case_otherwise_is_no_suspect(monkeypatch, capsys):
    def rarely_wrong(values, at_least):
        return double_up(values, at_least) + 5.0 * (len(values) == 3 and bool((values == 3).all()))

    mistakes = (Mistake("goes wrong at three threes", "Look.", wrong=rarely_wrong),)
    monkeypatch.setitem(check_module.EXERCISES, "double_up", replace(EXERCISE, mistakes=mistakes))
    body = "return torch.where(values >= at_least, 2 * values, values) - 1.0 * (values == -4)"
    assert answer(body, capsys).startswith("✗ double_up: gives other values\n")


@pytest.mark.parametrize(
    "body, said",
    [
        ("return values[5]", "raises IndexError"),
        ("return None", "returns nothing (None), expected is a tensor"),
        ("return [1.0, 2.0]", "returns a list, expected is a tensor"),
        ("return values.double()", "returns dtype float64, expected is float32"),
        ("return values[:1]", "returns shape [1], expected is [2]"),
        ("values[values >= at_least] *= 2\nreturn values", "writes into its input values"),
        ("while True: pass", "does not come to an end within 0 seconds"),
        ("while True:\n    try: torch.ones(3)\n    except: pass", "does not come to an end"),
        ("import sys\nsys.exit(3)", "raises SystemExit"),
        ("return double_up(values, at_least)", "raises RecursionError"),
        ("return values * float('nan')", "gives other values"),
    ],
)
# An interrupt that a callback of the garbage collector hears is lost; the next one is not.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_wrong_is_said(body, said, capsys):
    assert answer(body, capsys).startswith(f"✗ double_up: {said}")


def test_the_line_that_raises_is_shown(tmp_path, capsys):
    file = tmp_path / "cell.py"
    file.write_text("def double_up(values, at_least):\n    n = len(values)\n    return values[n]\n")
    namespace = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    check(namespace["double_up"])
    assert "It happened in line 3: return values[n]" in capsys.readouterr().out


def test_a_flood_of_text_is_dammed(capsys):
    said = answer("for i in range(5000): print('line', i)\nreturn values * 3", capsys)
    assert "printed line 0\n            line 1\n            line 2\n" in said
    assert "... 4997 more lines" in said and len(said) < 1000


def test_what_a_right_function_prints_is_not_lost(capsys):
    said = answer("print('at', at_least)\nreturn values + values * (values >= at_least)", capsys)
    assert said.startswith("✓ double_up") and "printed at" in said


def test_a_slow_function_does_not_take_forever(monkeypatch, capsys):
    monkeypatch.setattr(check_module, "CHECK_SECONDS", 0.2)
    start = time.monotonic()
    said = answer(
        "import time\ntime.sleep(0.03)\nreturn values + values * (values >= at_least)", capsys
    )
    assert said.startswith("✗ double_up: is far too slow")
    assert time.monotonic() - start < 5


def test_looking_for_the_smallest_case_ends_in_time(monkeypatch, capsys):
    monkeypatch.setattr(check_module, "CHECK_SECONDS", 1.0)
    start = time.monotonic()
    said = answer(
        "if len(values) == 3 and values.sum() > 1:\n"
        "    import time; time.sleep(0.25)\n"
        "    return values - 1\n"
        "return values + values * (values >= at_least)",
        capsys,
    )
    assert said.startswith("✗ double_up: gives other values")
    assert time.monotonic() - start < 15


def test_a_failing_case_is_drawn(capsys):
    answer("return values * 3", capsys)
    (number,) = plt.get_fignums()
    assert [ax.get_title() for ax in plt.figure(number).axes] == ["values", "expected", "got"]


def test_an_answer_that_cannot_be_drawn_leaves_no_figure_behind(monkeypatch, capsys):
    def painter(case, expected, got):
        drawing.panels(1)
        raise ValueError("cannot")

    monkeypatch.setitem(check_module.EXERCISES, "double_up", replace(EXERCISE, draw=painter))
    answer("return values * 3", capsys)
    assert plt.get_fignums() == []


def test_what_is_not_a_function_or_has_no_exercise_is_refused_kindly(capsys):
    check(torch.zeros(2))
    check(lambda x: x)

    def dubble_up(values):
        pass

    check(dubble_up)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "check takes the function itself, as in check(nms); this is a tensor."
    assert second.startswith("there is no exercise '<lambda>'; there are: ")
    assert third == "there is no exercise 'dubble_up'; did you mean double_up?"


def test_checking_does_not_move_the_random_numbers(capsys):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    answer("return torch.rand(2)", capsys)
    assert torch.equal(torch.rand(2), expected)


def test_a_function_that_draws_gives_the_same_answer_every_time():
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        answers.append(call(lambda: torch.rand(2), {}).value)
    assert torch.equal(*answers)


# -------------------------------------------------------------------------------- its pieces


def test_a_limit_holds_and_the_interrupt_key_works_as_before():
    with pytest.raises(TooLong):
        limited(lambda: [None for _ in iter(int, 1)], 0.05)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        limited(lambda: [_thread.interrupt_main(), sum(range(1000))], 30)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_the_function_runs_all_the_same():
    found = []
    thread = threading.Thread(target=lambda: found.append(limited(lambda: 7, 1)))
    thread.start()
    thread.join(5)
    assert found == [7]


def test_a_limit_that_is_just_reached_never_interrupts_what_comes_after():
    def busy(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    threads = threading.active_count()
    for _ in range(500):
        with contextlib.suppress(TooLong):
            limited(busy, 0.001, 0.001)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert threading.active_count() == threads
    busy(0.05)


@pytest.mark.parametrize(
    "expected, got, said",
    [
        (1, 1, None),
        (1, True, "returns a bool, expected is an int"),
        (1, 1.0, "returns a float, expected is an int"),
        (1.0, 1, None),
        (1.0, 1.2, "gives another value"),
        (float("nan"), float("nan"), None),
        (True, 1, "returns an int, expected is a bool"),
        ((1, 2), [1, 2], None),
        ((1, 2), (1, 3), "gives another value"),
        ((1, 2), (1,), "returns 1 values, expected are 2"),
        ({"a": 1}, {"b": 1}, "returns the keys ['b'], expected are ['a']"),
        ({"a": 1}, {"a": 2}, "gives another value"),
        ("x", "y", "gives another value"),
        (torch.tensor([1.0]), torch.tensor([1.0 + 1e-6]), None),
        (torch.tensor([1]), torch.tensor([2]), "gives other values"),
    ],
)
def test_differences_are_named(expected, got, said):
    assert difference(expected, got, 1e-4, 1e-5) == said


def test_a_call_reports_what_was_written_into_even_deep_inside():
    def spoil(pair):
        pair[0][0] += 1

    assert call(spoil, {"pair": [torch.zeros(2)]}).changed == ("pair",)
    assert call(spoil, {"pair": (torch.zeros(2), 3)}).changed == ("pair",)


@pytest.mark.parametrize(
    "value, text",
    [
        (torch.tensor([[1.0, 2.5], [0, 1e-7]]), "[[1, 2.5],\n [0, 1e-07]]"),
        (torch.tensor([True, False]), "[True, False]"),
        (torch.zeros(0, 4), "[], shape [0, 4]"),
        (torch.zeros(20, 20), "tensor of shape [20, 20]"),
        ((1, torch.tensor(2.0)), "(1, 2)"),
        ((1,), "(1,)"),
        ({"a": 0.123456}, "{a: 0.1235}"),
        (None, "None"),
    ],
)
def test_values_are_short(value, text):
    assert brief(value) == text


def test_a_stub_is_the_signature_and_the_docstring():
    assert stub_source(double_up) == (
        "def double_up(values: torch.Tensor, at_least: float) -> torch.Tensor:\n"
        '    """Twice every value that is at least ``at_least``, the others as they are. '
        '``[N] -> [N]``."""\n'
        "    raise NotImplementedError  # replace this line"
    )
    with pytest.raises(ValueError, match="answer has no docstring"):
        stub_source(undocumented)


def undocumented():
    return 1


undocumented.__name__ = "answer"


def test_cases_are_put_in_the_order_of_the_signature_and_checked():
    edges = {"x": [{"at_least": 1.0, "values": torch.zeros(1)}]}
    exercise = replace(EXERCISE, edges=edges)
    for case in [*exercise.edges["x"], *exercise.random_cases]:
        assert list(case) == ["values", "at_least"]
    for wrong in ({"value": 1}, {"at_least": 1.0}):
        with pytest.raises(ValueError, match="the function takes .*values.*at_least"):
            replace(EXERCISE, edges={"x": [wrong]})


def test_a_mistake_that_no_longer_fits_its_solution_is_refused():
    with pytest.raises(ValueError, match="'<=' occurs 0 times in the source of double_up"):
        Mistake("x", "y", edits={"<=": "<"}).function(double_up)
    with pytest.raises(ValueError, match="needs either edits or a wrong function"):
        Mistake("x", "y")
