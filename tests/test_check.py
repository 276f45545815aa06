"""What ``check`` says to functions that are wrong in every way a function can be."""

import _thread
import builtins
import contextlib
import functools
import importlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from nbclient import NotebookClient

from fbnet_lesson.course import drawing, isolation, progress
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.check import brief, check
from fbnet_lesson.course.differences import Described, difference
from fbnet_lesson.course.exercise import Exercise, Mistake, stub_source
from fbnet_lesson.course.guard import TooLong, call, limited

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
        "✗ double_up: element [0] is -18, expected -2\n"
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
    assert said.startswith("✗ double_up: element [0] is 1, expected 2; 1 of 2 differ; perhaps it l")
    assert said.endswith("hint      At least means >=.\n")


def test_a_mistake_that_answers_the_shown_case_otherwise_is_no_suspect(monkeypatch, capsys):
    def rarely_wrong(values, at_least):
        return double_up(values, at_least) + 5.0 * (len(values) == 3 and bool((values == 3).all()))

    mistakes = (Mistake("goes wrong at three threes", "Look.", wrong=rarely_wrong),)
    monkeypatch.setitem(check_module.EXERCISES, "double_up", replace(EXERCISE, mistakes=mistakes))
    body = "return torch.where(values >= at_least, 2 * values, values) - 1.0 * (values == -4)"
    assert answer(body, capsys).startswith("✗ double_up: element [0] is -5, expected -4\n")


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
        ("import sys\nsys.exit(3)", "calls exit(), which would end the notebook"),
        ("return double_up(values, at_least)", "raises RecursionError"),
        ("return values * float('nan')", "element [0] is nan, expected 2; 2 of 2 differ"),
    ],
)
def test_what_is_wrong_is_said(body, said, capsys):
    assert answer(body, capsys).startswith(f"✗ double_up: {said}")


def test_the_line_that_raises_is_shown(tmp_path, capsys):
    file = tmp_path / "cell.py"
    file.write_text("def double_up(values, at_least):\n    n = len(values)\n    return values[n]\n")
    namespace = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    check(namespace["double_up"])
    assert "It happened in line 3 of double_up: return values[n]" in capsys.readouterr().out


def test_a_flood_of_text_is_dammed(capsys):
    said = answer("for i in range(5000): print('line', i)\nreturn values * 3", capsys)
    assert "  printed   line 0\n            line 1\n            line 2\n" in said
    assert "... 4997 more lines" in said and len(said) < 1000


def test_what_a_right_function_prints_is_not_lost(capsys):
    said = answer("print('at', at_least)\nreturn values + values * (values >= at_least)", capsys)
    assert said.startswith("✓ double_up") and said.endswith("  printed   at 0.0\n")


def test_a_slow_function_passes_on_fewer_cases(monkeypatch, capsys):
    monkeypatch.setattr(check_module, "CHECK_SECONDS", 0.2)
    body = "import time\ntime.sleep(0.03)\nreturn values + values * (values >= at_least)"
    said = re.fullmatch(
        r"✓ double_up: 2 properties, (\d+) cases; it is slow, .*\n", answer(body, capsys)
    )
    assert 1 < int(said[1]) < 50


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
    assert said.startswith("✗ double_up: element [0] is ")
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
    assert second.endswith("a lambda has none: write it with def.")
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


# ------------------------------------------------------------------------- hostile and unlucky code

RIGHT = "return values + values * (values >= at_least)"


def state() -> tuple:
    """What a learner's function must not change in this process."""
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        os.getcwd(),
        dict(os.environ),
        torch.allclose,
        torch.get_num_threads(),
        builtins.input,
        signal.getsignal(signal.SIGINT),
    )


HOSTILE = {
    "while True:\n    try: torch.ones(3)\n    except: pass": "✗ double_up: does not come to an end",
    "while True: print('x')": "✗ double_up: does not come to an end",
    "import os\nwhile True: os.write(1, b'x' * 10000)": "✗ double_up: raises OSError",  # too large
    "exit()": "✗ double_up: calls exit(), which would end the notebook",
    "raise KeyboardInterrupt": "✗ double_up: raises KeyboardInterrupt",
    "import os\nos._exit(3)": "✗ double_up: ends its process with exit code 3",
    "import os\nos.kill(os.getpid(), 11)": "✗ double_up: ends its process by SIGSEGV",
    "import os\nos.closerange(0, 100)": "✗ double_up: ends its process",
    "input('? ')": "✗ double_up: asks for input(), but nobody is there to type",
    "return torch.zeros(2_000_000_000)": "✗ double_up: asks for more memory than there is",
    "return type('Odd', (), {'__repr__': lambda self: 1 / 0})()": (
        "✗ double_up: returns an Odd, expected is a tensor"
    ),
    "return (v for v in values)": "✗ double_up: returns a generator, expected is a tensor",
    "circle = []\ncircle.append(circle)\nreturn circle": "✗ double_up: raises RecursionError",
    "torch.allclose = lambda *args, **kwargs: True\nreturn values": "✗ double_up: element [0] is 1",
    "torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n" + RIGHT: (
        "✓ double_up: 2 properties, 101 cases\n"
        "  note      it changes the default dtype, the grad mode; that has been put back."
    ),
    "import os\nos.chdir('/')\nos.environ['X'] = '1'\n" + RIGHT: (
        "✓ double_up: 2 properties, 101 cases\n"
        "  note      it changes the working directory; that has been put back."
    ),
    "import random, numpy\nrandom.seed(1)\nnumpy.random.seed(1)\ntorch.manual_seed(1)\n" + RIGHT: (
        "✓ double_up: 2 properties, 101 cases\n"
    ),
    "import os\nos.system('echo by another program')\n" + RIGHT: (
        "✓ double_up: 2 properties, 101 cases\n  printed   by another program\n"
    ),
}


@pytest.mark.parametrize("body", HOSTILE)
def test_whatever_the_function_does_is_a_finding_and_nothing_is_left_of_it(body, capfd):
    before = state()
    said = answer(body, capfd)
    assert said.startswith(HOSTILE[body])
    assert len(said.splitlines()) < 12
    assert state() == before
    with pytest.raises(ChildProcessError):  # no process is left
        os.waitpid(-1, os.WNOHANG)


IN_PROCESS = {
    body: said
    for body, said in HOSTILE.items()
    if not re.search(r"os\.(_exit|kill|close|write|system)|2_000_000|Keyboard", body)
}


# An interrupt that a callback of the garbage collector hears is lost; the next one is not.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("body", IN_PROCESS)
def test_where_no_process_can_be_forked_the_same_is_found_in_this_one(body, capfd, monkeypatch):
    monkeypatch.setattr(isolation.sys, "platform", "another")
    monkeypatch.setattr(isolation, "Child", None)
    before = state()
    assert answer(body, capfd).startswith(IN_PROCESS[body])
    assert state() == before


def test_where_the_process_does_not_answer_the_function_runs_in_this_one(capfd, monkeypatch):
    def serve(function, channel):
        raise RuntimeError("as where autograd has threads for a GPU")

    monkeypatch.setattr(isolation, "serve", serve)
    ran_here = []
    monkeypatch.setattr(isolation, "call", lambda *args: ran_here.append(1) or call(*args))
    assert answer(RIGHT, capfd).startswith("✓")
    assert len(ran_here) == 101
    with pytest.raises(ChildProcessError):  # no process is left
        os.waitpid(-1, os.WNOHANG)


def test_a_function_of_torch_that_was_replaced_earns_nothing_and_comes_back(monkeypatch, capsys):
    own = torch.where, torch.allclose, torch.Tensor.sum, torch.nn.functional.relu
    torch.where = lambda *args: args[1]
    torch.allclose = torch.equal = lambda *args, **kwargs: True
    torch.Tensor.sum = lambda self: 3
    torch.nn.functional.relu = abs
    said = answer("return values * 3", capsys)
    assert said.startswith("✗ double_up: ")
    assert said.endswith(
        "  note      Tensor.sum, torch.allclose, torch.equal, torch.nn.functional.relu, "
        "torch.where\n            had been replaced by another function; torch's own is back.\n"
    )
    assert own == (torch.where, torch.allclose, torch.Tensor.sum, torch.nn.functional.relu)


def test_what_torch_replaces_by_itself_is_nothing_to_tell():
    program = (
        "import torch\nfrom fbnet_lesson.course import originals\nown = torch.manual_seed\n"
        "import torch._dynamo\n"
        "print(originals.restore(), torch.manual_seed is not own)\n"
        "torch.floor, torch.manual_seed = torch.round, lambda seed: None\n"
        "print(originals.restore())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[] True\n['torch.floor', 'torch.manual_seed']\n", done.stderr


def test_settings_of_an_earlier_cell_neither_help_nor_harm_and_stay(capsys):
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    try:
        assert answer("return torch.zeros(len(values)) + " + RIGHT[7:], capsys).startswith("✓")
        assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)


def test_a_case_that_ends_the_process_leaves_the_others_to_be_tried(capsys):
    said = answer(f"import os\nif len(values) == 3: os._exit(1)\n{RIGHT}", capsys)
    assert said.startswith("✗ double_up: ends its process with exit code 1\n  input     values = [")


def test_processes_that_the_function_starts_end_with_it(tmp_path, capsys):
    file = tmp_path / "pid"
    said = answer(
        f"import os, time\nif os.path.exists({str(file)!r}): return 3\nif os.fork() == 0:\n"
        f"    open({str(file)!r}, 'w').write(str(os.getpid()))\n    time.sleep(60)\n"
        "time.sleep(0.1)\nreturn 3",
        capsys,
    )
    assert said.startswith("✗ double_up: returns an int")
    assert has_ended(int(file.read_text()))


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or will be none soon."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_the_process_ends_when_the_notebook_is_killed():
    program = (
        "import os\nfrom fbnet_lesson.course.isolation import Child\n"
        "child = Child(len)\nassert child.start()\nprint(child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert has_ended(int(done.stdout))


# ------------------------------------------------------------------------------ where it happened


def cell(path, text: str, **names):
    """What a cell of a notebook defines: its code comes from a file of its own."""
    path.write_text(text)
    namespace = {"torch": torch, **names}
    exec(compile(text, str(path), "exec"), namespace)
    return namespace


def test_a_line_of_a_helper_in_another_cell_is_told_with_its_name(tmp_path, capsys):
    helper = cell(tmp_path / "1.py", "\n\n\ndef third(values):\n    return values[2]\n")["third"]
    text = "def double_up(values, at_least):\n    return [third(v) for v in [values]]\n"
    check(cell(tmp_path / "2.py", text, third=helper)["double_up"])
    assert "It happened in line 2 of third: return values[2]" in capsys.readouterr().out


def test_a_line_in_a_comprehension_counts_from_the_function_around_it(tmp_path, capsys):
    text = "\ndef double_up(values, at_least):\n    return [\n        v[0] for v in values\n    ]\n"
    check(cell(tmp_path / "1.py", text)["double_up"])
    assert "It happened in line 3 of double_up: v[0] for v in values" in capsys.readouterr().out


def test_a_helper_that_is_an_exercise_and_not_written_is_told(monkeypatch, capsys):
    body = "def nms(): raise NotImplementedError\nreturn nms()"
    assert answer(body, capsys).startswith("✗ double_up: calls nms, which is not written yet\n")


def test_an_operation_that_torch_lacks_is_no_stub(capsys):
    body = "raise NotImplementedError('\"where\" not implemented for Half')"
    assert answer(body, capsys).startswith("✗ double_up: raises NotImplementedError\n")


STUB = "def double_up(values, at_least):\n    raise NotImplementedError\n"


def test_decorators_partials_and_objects_get_plain_answers(capsys):
    def unnamed(function):
        return lambda *args: function(*args)

    def hiding(function):
        def wrapper(*args):
            return function(*args)

        return wrapper

    class DoubleUp:
        def __call__(self, values, at_least):
            return values

    double_up.__name__ = "double_up"
    check(torch.no_grad()(cell_function(STUB)))
    check(torch.no_grad()(double_up))
    check(functools.lru_cache(double_up))
    check(hiding(double_up))
    check(unnamed(double_up))
    check(functools.partial(double_up, at_least=1.0))
    check(DoubleUp())
    check(DoubleUp)
    check(None)
    assert capsys.readouterr().out.splitlines() == [
        "double_up: not written yet. Write it in the cell above, then run this one again.",
        "✓ double_up: 2 properties, 101 cases",
        "✓ double_up: 2 properties, 101 cases",
        "the decorator of double_up hides its name behind 'wrapper': put functools.wraps into the "
        "decorator, or take it off.",
        "check knows an exercise by the function's name, and a lambda has none: write it with def.",
        "check takes the function itself, as in check(nms); this is a partial.",
        "check takes the function itself, as in check(nms); this is a DoubleUp.",
        "check takes the function itself, as in check(nms); this is the class DoubleUp.",
        "check takes the function itself, as in check(nms); this is nothing (None).",
    ]


def cell_function(text: str):
    namespace = {}
    exec(text, namespace)
    return namespace["double_up"]


# ------------------------------------------------------------------------------------ its names


def test_two_mistakes_at_once_are_both_named(capsys):
    said = answer("return torch.where(values > at_least, 2 + values, values)", capsys)
    assert said.startswith("✗ double_up: leaves the limit itself alone, and adds two\n")
    assert said.endswith("  hint      At least means >=. Twice is times two.\n")


def test_a_suspect_that_is_wrong_where_the_learner_is_right_is_not_named(capsys):
    """Wrong at the limit, as the mistake is, but not for a single value."""
    body = (
        f"if len(values) == 1: {RIGHT}\nreturn torch.where(values > at_least, 2 * values, values)"
    )
    said = answer(body, capsys)
    assert said.startswith("✗ double_up: element [0] is 1, expected 2; 1 of 2 differ\n")
    assert "limit itself alone" not in said


def test_errors_alone_name_no_mistake_unless_they_are_the_same_error(monkeypatch, capsys):
    def stumbles(values, at_least):
        raise ValueError("of one thing")

    mistakes = (Mistake("stumbles", "Look.", wrong=stumbles),)
    monkeypatch.setitem(check_module.EXERCISES, "double_up", replace(EXERCISE, mistakes=mistakes))
    said = answer("raise ValueError('of another')", capsys)
    assert said.startswith("✗ double_up: raises ValueError\n")
    assert answer("raise ValueError('of one thing')", capsys).startswith("✗ double_up: stumbles\n")


def test_of_mistakes_that_fit_equally_none_is_named(monkeypatch, capsys):
    mistakes = (MISTAKES[0], replace(MISTAKES[0], name="is strict"))
    monkeypatch.setitem(check_module.EXERCISES, "double_up", replace(EXERCISE, mistakes=mistakes))
    said = answer("return torch.where(values > at_least, 2 * values, values)", capsys)
    assert said.startswith("✗ double_up: element [0] is 1, expected 2; 1 of 2 differ\n")


def test_a_gradient_that_has_to_flow(monkeypatch, capsys):
    edges = {
        "the gradient": [{"values": torch.tensor([1.0, 3.0], requires_grad=True), "at_least": 2.0}]
    }
    monkeypatch.setitem(check_module.EXERCISES, "double_up", replace(EXERCISE, edges=edges))
    assert answer(RIGHT, capsys) == "✓ double_up: 2 properties, 101 cases\n"
    said = answer(f"values = values.detach()\n{RIGHT}", capsys)
    assert said.startswith(
        "✗ double_up: returns an answer through which no gradient reaches values\n"
        "  property  the gradient\n"
    )
    assert "It is cut off by .item(), .tolist(), .numpy(), .detach()" in said
    said = answer("return values + (values * (values >= at_least)).detach()", capsys)
    assert said.startswith(
        "✗ double_up: in the gradient of values: element [1] is 2, expected 4; 1 of 2 differ\n"
    )


def test_expected_and_got_are_shaded_by_one_scale(capsys):
    answer("return values * 10", capsys)
    given, expected, got = plt.gcf().axes
    limits = [ax.images[0].get_clim() for ax in (given, expected, got)]
    assert limits == [(1, 3), (2, 30), (2, 30)]


# --------------------------------------------------------------------------------- in a notebook

FIRST_CELL = """
import atexit, importlib, os, random, torch
import numpy as np
from fbnet_lesson.course import check, plug
from fbnet_lesson.detection import boxes as package
importlib.import_module("fbnet_lesson.course.check").CALL_SECONDS = 0.5
importlib.import_module("fbnet_lesson.course.plug").FIRST_SECONDS = 0.5
atexit.register(lambda: open("ends.txt", "a").write("x"))
torch.set_num_threads(2)
big = torch.rand(600, 600)
(big @ big).sum()  # OpenMP has its threads before the process forks
big.requires_grad_().sum().backward()
def after():
    print(torch.get_default_dtype(), os.getcwd() == folder, torch.get_num_threads(), end="; ")
    print(random.random() == 0.6229016948897019, float(torch.ones(3) @ torch.ones(3)))
folder = os.getcwd()
random.seed(5)
"""
CELLS = {
    "while True:\n        try: torch.ones(3)\n        except: pass": (
        "✗ box_area: does not come to an end within 0 seconds"
    ),
    "exit()": "✗ box_area: calls exit(), which would end the notebook",
    "quit()": "✗ box_area: calls exit(), which would end the notebook",
    "os._exit(1)": "✗ box_area: ends its process with exit code 1",
    "return input('how large? ')": "✗ box_area: asks for input(), but nobody is there to type",
    "return torch.zeros(2_000_000_000)": "✗ box_area: asks for more memory than there is",
    "display(boxes); os.chdir('/')\n    return [6.0]": "✗ box_area: returns a list, expected",
    "m = torch.rand(400, 400, requires_grad=True)\n    (m @ m).sum().backward()\n"
    "    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)": "✓ box_area: 8 properties, 108 cases",
}


@pytest.mark.slow
def test_in_a_kernel_whatever_the_function_does_is_a_finding_and_the_kernel_lives(tmp_path):
    book = nbformat.v4.new_notebook()
    texts = [FIRST_CELL]
    texts += [f"def box_area(boxes):\n    {body}\n\ncheck(box_area)" for body in CELLS]
    texts += [
        "with plug(box_area=lambda boxes: exit()): package.box_area(torch.ones(1, 4))",
        "after()",
    ]
    book.cells = [nbformat.v4.new_code_cell(text) for text in texts]
    NotebookClient(book, resources={"metadata": {"path": tmp_path}}, timeout=120).execute()
    said = ["".join(out.get("text", "[picture]") for out in cell.outputs) for cell in book.cells]
    for body, text in zip(CELLS, said[1:], strict=False):
        assert text.startswith(CELLS[body]), text
        assert "[picture]" not in text  # of what the function displays
    assert said[-2].startswith("box_area calls exit(), which would end the notebook; the package's")
    assert said[-1] == "torch.float32 True 2; True 3.0\n"
    assert (tmp_path / "ends.txt").read_text() == "x"  # at the end of the kernel, and of it alone


# -------------------------------------------------------------------------------- its pieces


@pytest.fixture(params=["handled", "ignored"])
def interrupts(request):
    """SIGINT as it is in a shell, and in what ``nohup`` starts there in the background."""
    ways = {"handled": signal.default_int_handler, "ignored": signal.SIG_IGN}
    before = signal.signal(signal.SIGINT, ways[request.param])
    yield ways[request.param]
    signal.signal(signal.SIGINT, before)


def swallow_everything():
    while True:
        try:
            torch.ones(3)
        except:  # noqa: E722 (as learners write it)
            pass


def swallow_everything_inside():
    while True:
        try:
            while True:
                time.sleep(0.001)
        except:  # noqa: E722 (as learners write it)
            pass


def test_a_limit_holds_and_the_interrupt_key_works_as_before(interrupts):
    for endless in (
        lambda: [None for _ in iter(int, 1)],
        swallow_everything,
        swallow_everything_inside,
    ):
        with pytest.raises(TooLong):
            limited(endless, seconds=0.05)
        assert signal.getsignal(signal.SIGINT) is interrupts
    assert sys.gettrace() is None
    if interrupts is signal.default_int_handler:
        with pytest.raises(KeyboardInterrupt):
            limited(lambda: [_thread.interrupt_main(), sum(range(1000))], seconds=30)


def test_in_another_thread_the_limit_holds_too():
    found = []

    def calls():
        found.append(limited(lambda: 7, seconds=30))
        for endless in (lambda: [None for _ in iter(int, 1)], swallow_everything):
            try:
                limited(endless, seconds=0.05)
            except TooLong:
                found.append("too long")
        found.append(sum(range(100_000)))  # nothing comes late

    thread = threading.Thread(target=calls)
    thread.start()
    thread.join(20)
    assert found == [7, "too long", "too long", 4999950000]


def test_a_limit_that_is_just_reached_never_interrupts_what_comes_after():
    def busy(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    threads = threading.active_count()
    for _ in range(500):
        with contextlib.suppress(TooLong):
            limited(busy, 0.001, seconds=0.001)
    assert threading.active_count() == threads
    busy(0.05)


@pytest.mark.parametrize(
    "expected, got, said",
    [
        (1, 1, None),
        (1, True, "returns a bool, expected is an int"),
        (1, 1.0, "returns a float, expected is an int"),
        (1, np.int32(1), None),
        (1, torch.tensor(1), None),
        (1, np.float64(1), "returns a NumPy float64, expected is an int"),
        (1, torch.tensor([1]), "returns a tensor, expected is an int"),
        (1.0, 1, None),
        (1.0, np.float32(1), None),
        (1.0, torch.tensor(1.0), None),
        (1.0, True, "returns a bool, expected is a float"),
        (1.0, 1.2, "gives 1.2, expected 1"),
        (100000.0, 100060.0, "gives 100060, expected 100000"),
        (True, np.bool_(True), None),
        (float("nan"), float("nan"), None),
        (True, 1, "returns an int, expected is a bool"),
        ((1, 2), [1, 2], None),
        ((1, 2), (1, 3), "value 2 of 2: gives 3, expected 2"),
        ((1, 2), ("x", 2.5), "value 1 of 2: returns a str, expected is an int"),
        ((1, 2), (7, 2.5), "value 2 of 2: returns a float, expected is an int"),
        ((1, 2), torch.tensor([1, 2]), "returns a tensor, expected are 2 values"),
        ((1, 2), (1,), "returns 1 values, expected are 2"),
        ({"a": 1}, {"b": 1}, "returns the keys ['b'], expected are ['a']"),
        ({"a": 1}, {"a": 2}, "key 'a': gives 2, expected 1"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, None),
        ("x", "y", "gives another value"),
        (torch.tensor([1.0]), torch.tensor([1.0 + 1e-6]), None),
        (torch.tensor([1.0]), torch.tensor([1.0], requires_grad=True), None),
        (torch.tensor([1]), torch.tensor([2]), "element [0] is 2, expected 1"),
        (torch.tensor(1.0), torch.tensor(2.0), "gives 2, expected 1"),
        (torch.tensor(1.0), 1.0, "returns a float, expected is a tensor"),
        (torch.tensor(1.0), np.ones(1), "returns a NumPy array, expected is a tensor"),
        (
            torch.tensor([[1.0, 2], [3, 4]]),
            torch.tensor([[1.0, 2], [5, torch.inf]]),
            "element [1, 0] is 5, expected 3; 2 of 4 differ",
        ),
    ],
)
def test_differences_are_named(expected, got, said):
    found = difference(expected, got, 1e-4, 1e-5)
    assert (found and found.text) == said


@pytest.mark.parametrize(
    "expected, got, hint",
    [
        (torch.ones(2), [1.0, 1.0], "torch.tensor makes a tensor of a list of numbers"),
        (torch.ones(2), [torch.ones(()), torch.ones(())], "torch.stack makes one tensor"),
        (torch.ones(2), np.ones(2), "torch.from_numpy turns a NumPy array into a tensor"),
        (torch.ones(()), 1.0, "leave out .item()"),
        (torch.ones(2), None, "Is there a return on every way"),
        (torch.ones(2), Described("a generator"), "makes its values only when it is asked"),
        (torch.ones(2), Described("a function"), "A pair of brackets is missing"),
        (torch.ones(2), torch.ones(2).double(), ".to(torch.float32)"),
        (torch.ones(2), torch.ones(2).long(), "Fractions need a float"),
        (torch.ones(2).bool(), torch.ones(2), "True and False are asked for"),
        (torch.ones(2).long(), torch.ones(2), ".to(torch.int64) makes them"),
        (torch.ones(2, 3), torch.ones(3, 2), "two axes are swapped"),
        (torch.ones(2), torch.ones(2, 1), "an axis of size 1 too many"),
        (torch.ones(2, 1), torch.ones(2), "An axis of size 1 is missing"),
        (torch.ones(2), torch.ones(2, 2), "as broadcasting [N] with [N, 1]"),
        (torch.ones(3, 2), torch.ones(1, 2), "One row was worked out"),
        (torch.ones(2), torch.ones(2, 3), "more axes than asked for"),
        (torch.ones(2, 3), torch.ones(2), "An axis is missing"),
        ((1, 2), torch.tensor([1, 2]), "Return 2 values, separated by commas"),
        (1, 1.0, "A whole number is asked for"),
        (1.0, torch.ones(3), ".item() takes it out"),
        (torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[1.0, 3], [2, 4]]), "rows and columns"),
        (torch.tensor([1.0, 2, 4]), torch.tensor([4.0, 2, 1]), "in the opposite order"),
        (torch.tensor([1.0, 2, 4]), torch.tensor([2.0, 1, 4]), "in another order"),
        (torch.tensor([1.0, 2]), torch.tensor([-1.0, -2]), "Every sign is the other way round"),
        (torch.tensor([1.0, 2]), torch.tensor([2.0, 4]), "Every value is 2 times what is expected"),
        (torch.tensor([1.0, 2]), torch.tensor([0.0, 1]), "Every value is 1 too small"),
        (torch.tensor([1.0, 2]), torch.zeros(2), "Every value is 0."),
        (torch.tensor([1.0, 2]), torch.tensor([torch.nan, 2]), "A nan comes from 0 / 0"),
        (torch.tensor([True, False]), torch.tensor([False, True]), "True and False are swapped"),
        (torch.tensor([1.0, 2, 4]), torch.tensor([5.0, 2, 4]), ""),
    ],
)
def test_mistakes_of_kind_and_patterns_have_hints_of_their_own(expected, got, hint):
    found = difference(expected, got, 1e-4, 1e-5).hint
    assert hint in found and bool(hint) == bool(found)


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
    with pytest.raises(ValueError, match="'<=' occurs 0 times in the source"):
        Mistake("x", "y", edits={"<=": "<"}).function(double_up)
    with pytest.raises(ValueError, match="needs either edits or a wrong function"):
        Mistake("x", "y")
