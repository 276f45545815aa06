"""Several processes from a notebook: results in order, errors in a line, nobody left waiting."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
import torch.distributed as dist

from fbnet_lesson import norms
from fbnet_lesson.course.workers import WorkerError, Workers
from fbnet_lesson.norms import make_norm


@pytest.fixture(scope="module")
def pair():
    with Workers(2) as workers:
        yield workers


def rank_and(value):
    return dist.get_rank(), value


def summed(x):
    dist.all_reduce(x)
    return x


def fails_on_the_second(x):
    if dist.get_rank() == 1:
        raise ValueError("the second has no images\nand much more to say")
    return summed(x)


def naive(x):
    return make_norm("naiveSyncBN", 1).train()(x)


def process_id():
    return os.getpid()


def speak(text):
    print(text)


def end_at_once():
    os._exit(3)


def sleep_long():
    time.sleep(100)


def children_of(workers):
    return [process.pid for process in workers._processes]


# ---------------------------------------------------------------------------------------- results


def test_results_come_in_the_order_of_the_ranks(pair):
    assert pair.run(rank_and, [("a",), ("b",)]) == [(0, "a"), (1, "b")]


def test_the_workers_are_one_group(pair):
    first, second = pair.run(summed, [(torch.ones(2),), (torch.full((2,), 3.0),)])
    assert first.tolist() == second.tolist() == [4.0, 4.0]


def test_the_processes_stay_from_run_to_run(pair):
    pids = pair.run(process_id)
    assert pair.run(process_id) == pids == children_of(pair)
    assert len({os.getpid(), *pids}) == 3


def test_each_worker_has_one_thread(pair):
    assert pair.run(torch.get_num_threads) == [1, 1]


def test_arguments_for_another_number_of_workers_are_refused(pair):
    with pytest.raises(ValueError, match="2 workers, but arguments for 3"):
        pair.run(rank_and, [(1,), (2,), (3,)])
    with pytest.raises(ValueError, match="count=0"):
        Workers(0)


# ---------------------------------------------------------------------------- functions of a cell


def notebook_function(tmp_path, source, name, **known):
    """The function as a notebook would have it: of no module that a worker could import."""
    file = tmp_path / "cell.py"
    file.write_text(textwrap.dedent(source))
    namespace = {"__name__": "__main__", **known}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    return namespace[name]


def test_a_function_of_a_cell_takes_along_what_it_names(pair, tmp_path):
    source = """
        def doubled(x: Tensor) -> Tensor:
            return factor * x

        def job(x: Tensor, norm: str = NAME):
            layers = [norms.make_norm(norm, 1) for _ in range(factor)]
            return torch.stack([doubled(x) for _ in layers])
    """
    known = {"torch": torch, "norms": norms, "Tensor": torch.Tensor, "factor": 2, "NAME": "BN"}
    job = notebook_function(tmp_path, source, "job", **known, model=sys.stdin)  # not to be sent
    first, second = pair.run(job, [(torch.ones(1),), (torch.zeros(1),)])
    assert first.tolist() == [[2.0], [2.0]] and second.tolist() == [[0.0], [0.0]]


def test_a_function_of_a_cell_may_be_an_argument(pair, tmp_path):
    source = "def mine(x):\n    return x + 1\n\ndef job(function, x):\n    return function(x)\n"
    job, mine = (notebook_function(tmp_path, source, name) for name in ("job", "mine"))
    assert pair.run(job, [(mine, 1), (mine, 2)]) == [2, 3]


def test_functions_of_a_cell_may_be_nested_nameless_or_call_themselves(pair, tmp_path):
    source = """
        def outer(n):
            def inner(*, more=1):
                return n + more
            return inner

        def factorial(n):
            return n * factorial(n - 1) if n else 1

        nameless = lambda n=5: n
    """
    outer, factorial, nameless = (
        notebook_function(tmp_path, source, name) for name in ("outer", "factorial", "nameless")
    )
    assert pair.run(outer(1)) == [2, 2]
    assert pair.run(factorial, [(3,), (4,)]) == [6, 24]
    assert pair.run(nameless) == [5, 5]


def test_what_cannot_be_sent_is_refused_before_anything_runs(pair):
    with pytest.raises(TypeError, match="pickle"):
        pair.run(rank_and, [(1,), (threading.Lock(),)])
    assert pair.run(rank_and, [(1,), (2,)]) == [(0, 1), (1, 2)]


# ----------------------------------------------------------------------------------------- errors


def test_an_error_on_one_worker_arrives_in_a_line_and_leaves_nobody_waiting(pair):
    start = time.monotonic()
    with pytest.raises(WorkerError) as error:
        pair.run(fails_on_the_second, [(torch.ones(1),)] * 2)
    assert str(error.value) == "on worker 1, ValueError: the second has no images"
    assert time.monotonic() - start < 20
    assert pair.run(rank_and, [(1,), (2,)]) == [(0, 1), (1, 2)]  # new ones have been started


def test_an_error_of_all_workers_is_told_once_and_they_go_on(pair):
    pids = pair.run(process_id)
    with pytest.raises(WorkerError, match="^on every worker, ValueError: naiveSyncBN: empty batch"):
        pair.run(naive, [(torch.ones(4, 1, 1, 1),), (torch.ones(0, 1, 1, 1),)])
    assert pair.run(process_id) == pids


def test_a_result_that_cannot_be_sent_back_is_an_error(pair):
    with pytest.raises(WorkerError, match="on every worker, .*pickle"):
        pair.run(open, [(os.devnull,)] * 2)


def test_a_worker_that_ends_is_reported_and_replaced():
    with Workers(1) as workers:
        with pytest.raises(WorkerError, match="^on worker 0, it has ended"):
            workers.run(end_at_once)
        assert workers.run(rank_and, [(1,)]) == [(0, 1)]


def test_no_answer_in_time_is_an_error_and_the_workers_are_gone():
    with Workers(1) as workers:
        workers.run(process_id)
        workers.seconds = 0.5
        (process,) = workers._processes
        with pytest.raises(WorkerError, match="^no answer from worker 0 within 0 seconds"):
            workers.run(sleep_long)
        assert process.poll() is not None


# ---------------------------------------------------------------------------- printing and ending


def test_what_all_print_is_shown_once_and_what_differs_by_worker(pair, capfd):
    pair.run(speak, [("same",), ("same",)])
    pair.run(speak, [("one\nline",), ("two",)])
    shown = capfd.readouterr()
    assert shown.out == "same\nworker 0: one\nworker 0: line\nworker 1: two\n"
    assert shown.err == ""


def test_closed_workers_are_gone_even_if_they_were_only_starting():
    workers = Workers(2)
    processes, folder = workers._processes, workers._logs[0].parent
    workers.close()
    assert all(process.poll() is not None for process in processes)
    assert not folder.exists()


def test_workers_end_with_the_notebook_busy_or_not(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(
        "import os, threading, time\n"
        "from fbnet_lesson.course.workers import Workers\n"
        "workers = Workers(2)\n"
        "pids = workers.run(os.getpid)\n"
        "threading.Thread(target=workers.run, args=(time.sleep, [(100,)] * 2)).start()\n"
        "time.sleep(1)\n"
        "print(*pids, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    end = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_running, pids))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"  # a zombie has ended
    except OSError:
        return False


def test_the_course_does_without_torchvision_until_it_is_needed():
    """Each worker imports the course, and the memory of all counts in the lesson's budget."""
    program = (
        "import sys, fbnet_lesson.course, fbnet_lesson.zoo; print('torchvision' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "False\n"
