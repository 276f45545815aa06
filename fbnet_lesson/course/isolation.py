"""A forked process in which a learner's function runs: whatever it does ends with that process.

The process is a copy of this one, so that the function, its helpers and all it imported are there
without being sent; it costs milliseconds. Only cases go in and outcomes come out. It is used where
a fork is safe: on Linux, as long as torch has not started threads for a GPU. Elsewhere the function
runs in this process, as ``guard.call`` does it.
"""

import contextlib
import faulthandler
import gc
import io
import os
import pickle
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from fbnet_lesson.course.guard import Failure, Outcome, call

MEMORY = 2 << 30  # bytes that a learner's function may allocate
FILE = 16 << 20  # bytes that it may write into a file
CPU_SECONDS = 600  # should the notebook be gone, and with it whoever would end an endless loop
START_SECONDS = 10.0  # a fork answers in milliseconds, or never
TEXT_READ = 1 << 16  # bytes of what is printed past Python, by C or by another program

Caller = Callable[[Sequence[dict], float], Iterator[Outcome]]  # (cases, seconds for each)


@contextlib.contextmanager
def caller(function: Callable, isolated: bool) -> Iterator[Caller]:
    """What calls ``function`` on cases: in a process of its own, if asked for and possible."""

    def here(cases: Sequence[dict], seconds: float) -> Iterator[Outcome]:
        return (call(function, case, seconds) for case in cases)

    child = Child(function) if isolated and sys.platform == "linux" else None
    try:
        yield child.calls if child is not None and child.start() else here
    finally:
        if child is not None:
            child.close()


class Child:
    """The process; when a call ends it, or takes too long, the next call has a new one."""

    def __init__(self, function: Callable):
        self.function, self.pid = function, 0

    def start(self) -> bool:
        """Whether there is now a process that answers."""
        self.channel, theirs = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: see serve
            self.pid = os.fork()
        if self.pid == 0:
            try:
                self.channel.close()  # so that nobody but the notebook holds this end of it
                serve(self.function, theirs)
            finally:
                os._exit(0)  # nothing of the notebook's may run at the end of this copy of it
        theirs.close()
        with contextlib.suppress(EOFError, OSError):
            if self.channel.poll(START_SECONDS) and self.channel.recv_bytes() == b"ready":
                return True
        return False

    def calls(self, cases: Sequence[dict], seconds: float) -> Iterator[Outcome]:
        """The outcomes, in order; the process works ahead. None follows one that ends it."""
        complete = False
        try:
            if not self.pid and not self.start():
                raise EOFError
            self.channel.send_bytes(packed(list(cases)))
            for left in reversed(range(len(cases))):
                if not self.channel.poll(seconds):
                    yield Outcome(error=Failure("TooLong"))
                    return
                outcome = pickle.loads(self.channel.recv_bytes())
                complete = left == 0
                yield outcome
        except (EOFError, OSError):
            yield Outcome(error=Failure("Ended", self._how_it_ended()))
        finally:
            if not complete:  # a late answer would be taken for the next
                self.close()

    def close(self) -> None:
        """End the process, and those that it has started."""
        if not self.pid:
            return
        for kill in (os.killpg, os.kill):  # it may not be the first of a group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.pid = 0
        self.channel.close()

    def _how_it_ended(self) -> str:
        for _ in range(100 if self.pid else 0):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            time.sleep(0.01)
        return "or closes its files"


def serve(function: Callable, channel: Connection) -> None:
    """What the process does: answer one case after the other, until nobody asks any more.

    Threads are not copied by a fork. So whatever speaks through them is cut off: IPython's streams
    (its displays are silent in a copy by themselves), the signals that asyncio listens to, and
    torch's own threads.
    """
    faulthandler.disable()  # under pytest it would write about a crash that is a finding
    gc.freeze()  # what is garbage here is garbage of the notebook's, with ends of its own
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    past_python = tempfile.TemporaryFile()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    torch.set_num_threads(1)
    torch.ones((), requires_grad=True).backward()  # fails where a GPU's threads are missing
    for stream in (1, 2):
        os.dup2(past_python.fileno(), stream)
    sys.stdin = sys.__stdin__ = open(os.devnull)
    sys.__stdout__ = sys.__stderr__ = sys.stdout = sys.stderr = open(1, "w", closefd=False)
    limit_resources()
    own = os.getpid()
    channel.send_bytes(b"ready")
    while True:
        for case in pickle.loads(channel.recv_bytes()):
            outcome = call(function, case, None, lambda: drained(past_python.fileno()))
            if os.getpid() != own:
                return  # a copy that the function has made of this process
            try:
                channel.send_bytes(packed(outcome))
            except MemoryError:
                channel.send_bytes(packed(Outcome(error=Failure("MemoryError"))))


def drained(file: int) -> str:
    """The beginning of what lies in a file, which is empty afterwards."""
    with contextlib.suppress(OSError, ValueError):  # the function may have closed them
        sys.__stdout__.flush()
        if os.fstat(file).st_size:
            text = os.pread(file, TEXT_READ, 0).decode(errors="replace")
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            return text
    return ""


def limit_resources() -> None:
    """Memory beyond what the copy has already, files, and processor time."""
    import resource  # not on Windows

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    for what, limit in (
        (resource.RLIMIT_AS, used + MEMORY),
        (resource.RLIMIT_FSIZE, FILE),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (limit if hard < 0 else min(limit, hard), hard))


class _Pickler(pickle.Pickler):
    """Sends tensors as their bytes: ten times faster than torch's own way, which makes a file."""

    def reducer_override(self, value):
        if type(value) is not Tensor:
            return NotImplemented
        data = (
            value.detach()
            .resolve_conj()
            .resolve_neg()
            .reshape(-1)
            .clone(memory_format=torch.contiguous_format)
        )
        raw = data.view(torch.uint8).numpy().tobytes() if data.numel() else b""
        return _tensor, (raw, value.dtype, tuple(value.shape), value.requires_grad)


def packed(value) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _tensor(raw: bytes, dtype: torch.dtype, shape: tuple[int, ...], requires_grad: bool) -> Tensor:
    if raw:
        tensor = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
    else:
        tensor = torch.empty(shape, dtype=dtype)
    return tensor.requires_grad_(requires_grad)
