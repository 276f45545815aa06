"""How the time grows with the batch, the picture, the ROIs, the threads and the processes."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import fbnet_lesson as fl
from fbnet_lesson.benchmarks.cases import (
    DSMASK,
    TINY,
    build_mask_head,
    build_roi_align,
    scenes,
    torchvision_detector,
    training_step,
    without_gradient,
    yardstick,
)
from fbnet_lesson.benchmarks.measure import take_turns


@dataclass
class Curves:
    """One plot: for each ``x`` how many yardsticks a curve's work takes (or what ``y`` says)."""

    title: str
    x_label: str
    y_label: str
    x: list[float]
    y: dict[str, list[float]] = field(default_factory=dict)
    ideal: list[float] | None = None


def in_yardsticks(work: Callable, seconds: float) -> float:
    """The time of ``work`` as a multiple of the yardstick's, taken in turn with it."""
    ours, unit = take_turns([work, yardstick()], seconds)
    return ours / unit


def pictures(count: int, height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(13)
    return [torch.rand(3, height, width, generator=generator) for _ in range(count)]


def batch_curves(seconds: float) -> Curves:
    """Inference and training of the tiny model, for each picture of the batch."""
    sizes = [1, 2, 4, 8, 16]
    curves = Curves(
        f"Batch size: {TINY}, 128x128", "pictures in a batch", "yardsticks a picture", sizes
    )
    model = fl.create_model(TINY, weights="shapes")
    fused = fl.fuse(model)
    images, targets = scenes(max(sizes), (128, 128))
    step = partial(training_step, model)
    for name, make in (
        ("training step", lambda n: step(images[:n], targets[:n])),
        ("inference", lambda n: without_gradient(partial(fused, images[:n]))),
    ):
        curves.y[name] = [in_yardsticks(make(n), seconds) / n for n in sizes]
    return curves


def size_curves(seconds: float) -> Curves:
    """Inference on pictures of growing edge, beside torchvision's detector on the same."""
    edges = [128, 192, 256, 384, 512, 640]
    curves = Curves("Picture size: inference of one picture", "edge, pixels", "yardsticks", edges)
    torch.manual_seed(14)
    ours = fl.fuse(fl.create_model(DSMASK, resize=False))
    for edge in edges:
        theirs = torchvision_detector(edge).eval()
        theirs.transform.max_size = 2 * edge
        for name, model in (
            (DSMASK + ", fused", ours),
            ("torchvision, small Faster R-CNN", theirs),
        ):
            work = without_gradient(partial(model, pictures(1, edge, edge)))
            curves.y.setdefault(name, []).append(in_yardsticks(work, seconds))
    return curves


def roi_curves(seconds: float) -> Curves:
    """ROIAlign and the mask head, ours and the peer's, for more and more ROIs."""
    counts = [10, 30, 100, 300, 1000]
    curves = Curves("ROIs on a map of 14x20x112", "ROIs", "yardsticks", counts)
    for count in counts:
        pool = build_roi_align(count, 14, 112, (14, 20), 16, False)
        head = build_mask_head(count) if count <= 300 else (None, None)
        for name, work in (
            ("ROIAlign 14x14", pool[0]),
            ("torchvision roi_align 14x14", pool[1]),
            ("mask head, fused", head[0]),
            ("mask head, published order", head[1]),
        ):
            value = in_yardsticks(work, seconds) if work else float("nan")
            curves.y.setdefault(name, []).append(value)
    return curves


def thread_curves(seconds: float) -> Curves:
    """Speed-up over one thread."""
    before, most = torch.get_num_threads(), os.cpu_count() or 1
    counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= most]
    images, targets = scenes(8, (128, 128))
    works = {
        "training step, batch 8": training_step(
            fl.create_model(TINY, weights="shapes"), images, targets
        ),
        "inference, batch 8": without_gradient(
            partial(fl.fuse(fl.create_model(TINY, weights="shapes")), images)
        ),
        "yardstick": yardstick(),
    }
    curves = Curves(
        f"Threads: {TINY}, 128x128", "threads", "times as fast as one", counts, ideal=list(counts)
    )
    try:
        for name, work in works.items():
            # The numbers of threads take turns, as everything here does.
            times = take_turns([partial(_on_threads, n, work) for n in counts], 2 * seconds)
            curves.y[name] = [times[0] / ms for ms in times]
    finally:
        torch.set_num_threads(before)
    return curves


def _on_threads(count: int, work: Callable) -> None:
    torch.set_num_threads(count)
    work()


def process_curves(seconds: float) -> Curves:
    """Pictures a second of distributed training, one thread a process, over one process."""
    counts = [n for n in (1, 2, 4, 8) if n <= (os.cpu_count() or 1)]
    curves = Curves(
        f"Processes: training {TINY}, a thread each",
        "processes (gloo)",
        "times the pictures a second of one",
        counts,
        ideal=list(counts),
    )
    for norm in ("BN", "SyncBN"):
        speeds = [_speed_of_processes(count, norm, seconds) for count in counts]
        curves.y[norm] = [speed / speeds[0] for speed in speeds]
    return curves


def _speed_of_processes(count: int, norm: str, seconds: float) -> float:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "speed.json"
        program = ["-m", "fbnet_lesson.benchmarks.scaling", str(answer), norm, str(seconds)]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        subprocess.run(
            [sys.executable, *launcher, *program],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return json.loads(answer.read_text())


def _one_process(answer: str, norm: str, seconds: str) -> None:
    """What each process of ``process_curves`` does; the first writes pictures a second."""
    from torch.nn.parallel import DistributedDataParallel

    from fbnet_lesson.training import distributed

    torch.set_num_threads(1)
    distributed.start("cpu")
    batch = 8
    images, targets = scenes(batch, (128, 128))
    model = fl.create_model(TINY, weights="shapes", norm=norm)
    if distributed.is_distributed():
        model = DistributedDataParallel(model)
    step = training_step(model, images, targets)
    (ms,) = take_turns([step], 0.0)  # of 5 steps, in every process as many
    rounds = torch.tensor(1 + int(float(seconds) * 1e3 / (5 * ms)))
    if distributed.is_distributed():
        torch.distributed.broadcast(rounds, 0)  # or one would wait for the others' next step
    times = [take_turns([step], 0.0)[0] for _ in range(int(rounds))]
    if distributed.is_first():
        processes = int(os.environ["WORLD_SIZE"])
        Path(answer).write_text(json.dumps(processes * batch / statistics.median(times) * 1e3))
    distributed.stop()


def all_curves(seconds: float):
    """The five plots, one after the other, with the file name of each."""
    yield "batch", batch_curves(seconds)
    yield "size", size_curves(seconds)
    yield "rois", roi_curves(seconds)
    yield "threads", thread_curves(seconds)
    yield "processes", process_curves(seconds)


def draw(curves: Curves) -> Figure:
    """The plot: readable in greyscale, by marks and line styles."""
    figure = Figure(figsize=(6.4, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    styles = zip(("-", "--", "-.", ":"), "osv^", strict=True)
    for (name, y), (style, mark) in zip(curves.y.items(), styles, strict=False):
        axes.plot(curves.x, y, style, marker=mark, label=name)
    if curves.ideal is not None:
        axes.plot(curves.x, curves.ideal, color="0.6", linewidth=1, label="ideal")
    values = [v for series in [*curves.y.values(), curves.ideal or []] for v in series if v == v]
    axes.set_xscale("log")
    axes.set_xticks(curves.x, [f"{x:g}" for x in curves.x])
    axes.xaxis.set_minor_locator(NullLocator())
    # Above the curves is room for the legend.
    if curves.ideal is None and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.set_ylim(top=8 * max(values))
    else:
        axes.set_ylim(0, 1.3 * max(values))
    axes.set(title=curves.title, xlabel=curves.x_label, ylabel=curves.y_label)
    axes.grid(color="0.9")
    axes.legend(loc="upper left", ncols=1 + (len(curves.y) > 2), fontsize="small")
    return figure


if __name__ == "__main__":
    _one_process(*sys.argv[1:])
