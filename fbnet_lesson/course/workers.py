"""Several processes from a notebook: a function of a cell runs on each, as it would on machines.

    pair = Workers(2)
    on_first, on_second = pair.run(function, [(a0, b0), (a1, b1)])

The processes are one group of ``torch.distributed`` on gloo, reach each other over this machine's
loopback only, and stay until ``close`` or the end of the notebook: to start one takes seconds,
mostly for importing torch; a run takes milliseconds.
"""

import builtins
import contextlib
import dis
import importlib
import io
import marshal
import os
import pickle
import queue
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

GRACE_SECONDS = 2.0  # for the others once one has failed: they may be waiting for it


class WorkerError(RuntimeError):
    """What went wrong in the workers, in a line."""


class Answer(NamedTuple):
    """What one call came to in one worker."""

    value: bytes = b""  # pickled
    error: str = ""  # "ValueError: ..."
    printed: str = ""


class Workers:
    """``count`` processes that wait for functions to run; they start at once, in the background.

    When an error leaves one of them waiting for another, all are stopped, and the next ``run``
    starts new ones.
    """

    def __init__(self, count: int, seconds: float = 60.0):
        if count < 1:
            raise ValueError(f"count={count}: at least one worker is needed")
        self.count = count
        self.seconds = seconds  # for one run, with the start of the processes
        self._start()

    def run(self, function: Callable, arguments: Sequence[tuple] = ()) -> list[Any]:
        """``function(*arguments[rank])`` on each worker; the results in the order of the ranks.

        Without ``arguments`` the function is called with none. It may be one of a notebook: it is
        sent with the modules, functions and values of the notebook that it names. Classes have to
        come from modules. What the workers print is printed here, once if it is the same from all.

        Raises:
            WorkerError: if the function raises on any worker, with its message; if a worker ends,
                or has no answer in time.
        """
        calls = list(arguments) or [()] * self.count
        if len(calls) != self.count:
            raise ValueError(f"{self.count} workers, but arguments for {len(calls)}")
        jobs = [_pickled((function, tuple(own))) for own in calls]
        if not self._stop.alive:
            self._start()
        try:
            answers = self._ask(jobs)
        except BaseException:  # KeyboardInterrupt too: a late answer would be taken for the next
            self.close()
            raise
        _show([answer.printed for answer in answers])
        errors = {rank: answer.error for rank, answer in enumerate(answers) if answer.error}
        if errors:
            raise WorkerError(_summary(errors, self.count))
        return [pickle.loads(answer.value) for answer in answers]

    def close(self) -> None:
        """Stop the processes."""
        self._stop()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _start(self) -> None:
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._logs = [Path(folder.name) / f"worker{rank}.txt" for rank in range(self.count)]
        self._processes: list[subprocess.Popen] = []
        self._stop = weakref.finalize(self, _stop, self._processes, folder)  # or when python ends
        for rank, log in enumerate(self._logs):
            settings = (rank, self.count, str(Path(folder.name) / "group"), self.seconds)
            with open(log, "wb") as stderr:
                process = subprocess.Popen(
                    [sys.executable, "-c", f"from {__name__} import serve; serve{settings!r}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=_environment(),
                    # Ctrl-C or "interrupt kernel" is for the notebook, which then stops them.
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
            self._processes.append(process)

    def _ended(self, rank: int) -> str:
        """Why a worker is not there any more: its last words, if it had any."""
        words = self._logs[rank].read_text(errors="replace").splitlines()
        return "it has ended" + (f": {words[-1]}" if words else "")

    def _ask(self, jobs: list[bytes]) -> list[Answer]:
        """The workers' answers; after an error the others get a little time to end by themselves.

        Raises:
            WorkerError: if there are not answers of all.
        """
        pool = ThreadPoolExecutor(self.count)  # its threads end with the answers, or with the pipes
        ranks = {
            pool.submit(_exchange, process, job): rank
            for rank, (process, job) in enumerate(zip(self._processes, jobs, strict=True))
        }
        pool.shutdown(wait=False)
        answers: dict[int, Answer] = {}
        pending, lost, in_time = set(ranks), False, True
        end = time.monotonic() + self.seconds
        while pending and in_time:
            done, pending = wait(pending, max(0, end - time.monotonic()), FIRST_COMPLETED)
            for future in done:
                ended = future.exception() is not None
                answer = Answer(error=self._ended(ranks[future])) if ended else future.result()
                answers[ranks[future]] = answer
                lost |= ended
                if answer.error:
                    end = min(end, time.monotonic() + GRACE_SECONDS)
            in_time = bool(done)
        errors = {rank: answer.error for rank, answer in answers.items() if answer.error}
        if errors and (pending or lost):
            raise WorkerError(_summary(errors, self.count))
        if pending:
            slow = ", ".join(str(rank) for rank in sorted(ranks[future] for future in pending))
            raise WorkerError(f"no answer from worker {slow} within {self.seconds:.0f} seconds")
        return [answers[rank] for rank in range(self.count)]


def serve(rank: int, count: int, store: str, seconds: float) -> None:
    """What a worker process does until the notebook is gone: answer one job after the other."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # other text would come between the answers
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, count),
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=seconds),
    )
    jobs: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_receive, args=(jobs,), daemon=True).start()
    while True:
        pickle.dump(_answer(jobs.get()), answers)
        answers.flush()


def _receive(jobs: queue.Queue) -> None:
    """Put what the notebook sends into ``jobs``; when it is gone, end this process, busy or not."""
    try:
        while True:
            jobs.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)


def _answer(job: bytes) -> Answer:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            function, arguments = pickle.loads(job)
            value = pickle.dumps(function(*arguments))
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        return Answer(error=f"{type(error).__name__}: {first_line}", printed=printed.getvalue())
    return Answer(value, printed=printed.getvalue())


def _exchange(process: subprocess.Popen, job: bytes) -> Answer:
    pickle.dump(job, process.stdin)
    process.stdin.flush()
    return pickle.load(process.stdout)


def _stop(processes: list[subprocess.Popen], folder: tempfile.TemporaryDirectory) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError, ValueError):  # half a job may still lie in it
                pipe.close()
    folder.cleanup()


def _environment() -> dict[str, str]:
    """The modules of this process, one thread, and the loopback: its name may lead nowhere."""
    changes = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for _, interface in socket.if_nameindex():
        if interface in ("lo", "lo0"):  # Linux, macOS
            changes["GLOO_SOCKET_IFNAME"] = interface
    return {**os.environ, **changes}


def _summary(errors: dict[int, str], count: int) -> str:
    """One line about the workers that failed; of different errors, the one that is no echo."""
    if len(errors) == count > 1 and len(set(errors.values())) == 1:
        return f"on every worker, {errors[0]}"
    rank = min(errors, key=lambda rank: ("gloo" in errors[rank].lower(), rank))
    return f"on worker {rank}, {errors[rank]}"


def _show(printed: list[str]) -> None:
    if len(set(printed)) == 1:
        print(printed[0], end="")
        return
    for rank, text in enumerate(printed):
        print(textwrap.indent(text, f"worker {rank}: "), end="")


class _Pickler(pickle.Pickler):
    """Sends functions of a notebook whole, as a worker has no notebook to import them from."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType):
            return importlib.import_module, (value.__name__,)
        if isinstance(value, types.FunctionType) and not _importable(value):
            known = value.__globals__.keys() & _names(value.__code__) - {value.__name__}
            return _function, (
                marshal.dumps(value.__code__),
                value.__name__,
                {name: value.__globals__[name] for name in known},
                value.__defaults__,
                value.__kwdefaults__,
                [cell.cell_contents for cell in value.__closure__ or ()],
            )
        return NotImplemented


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def _importable(function: Callable) -> bool:
    module = sys.modules.get(function.__module__)
    return (
        function.__module__ != "__main__"
        and getattr(module, function.__qualname__, None) is function
    )


def _names(code: types.CodeType) -> set[str]:
    """The global names that a piece of code reads, and the functions inside it."""
    reads = ("LOAD_GLOBAL", "LOAD_NAME")  # the second in the body of a class
    found = {step.argval for step in dis.get_instructions(code) if step.opname in reads}
    return found.union(*(_names(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def _function(code: bytes, name: str, known: dict, defaults, kwdefaults, closure) -> Callable:
    names = {"__builtins__": builtins, **known}
    cells = tuple(map(types.CellType, closure))
    function = types.FunctionType(marshal.loads(code), names, name, defaults, cells)
    function.__kwdefaults__ = kwdefaults
    names[name] = function  # it may call itself
    return function
