"""Where the time of a training step and of an inference goes, and the least it could be."""

import torch
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

import fbnet_lesson as fl
from fbnet_lesson.benchmarks.cases import (
    DSMASK,
    SIZE,
    TINY,
    Work,
    detector,
    picture,
    scenes,
    training_step,
)
from fbnet_lesson.benchmarks.measure import take_turns

EDGE = 2048  # of the matrices whose product tells how fast this machine multiplies


def matmul_speed(seconds: float = 2.0) -> float:
    """Multiply-adds a second of a large float32 matrix product, on the threads in use."""
    a, b = torch.rand(EDGE, EDGE), torch.rand(EDGE, EDGE)
    (ms,) = take_turns([lambda: a @ b], seconds)
    return EDGE**3 / ms * 1e3


def profile(work: Work, forward: Work, passes: int, rows: int = 15, repeats: int = 5) -> str:
    """By operator, of one call of ``work``: share of the time, ms, calls. And the floor.

    ``forward`` is the part whose multiply-adds are counted, ``passes`` how often they are made: a
    training step makes them three times, forward, for the inputs' and for the weights' gradients.

    The floor is the time that the multiply-adds of all convolutions and matrix products would
    take at the speed of one large matrix product, measured right here. What a network does besides
    (norms, activations, depthwise convolutions, boxes) moves memory, and has no part in it.
    """
    speed = matmul_speed()
    (ms,) = take_turns([work], 3.0)
    with FlopCounterMode(display=False) as counter:
        forward()
    macs = passes * counter.get_total_flops() / 2
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(repeats):
            work()
    operators = [e for e in recorded.key_averages() if e.self_cpu_time_total > 0]
    operators.sort(key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in operators)
    lines = [
        f"median of one call       {ms:9.1f} ms",
        f"multiply-adds            {macs / 1e9:9.3f} billion",
        f"a large matrix product   {speed / 1e9:9.1f} billion multiply-adds a second",
        f"floor                    {macs / speed * 1e3:9.1f} ms; it takes "
        f"{ms / (macs / speed * 1e3):.1f} times that",
        "",
        f"{'operator':44} {'share':>6} {'ms':>8} {'calls':>6}",
    ]
    for event in operators[:rows]:
        time, calls = event.self_cpu_time_total, event.count / repeats
        lines.append(
            f"{event.key[:44]:44} {time / total:6.1%} {time / repeats / 1e3:8.2f} {calls:6.0f}"
        )
    rest = sum(e.self_cpu_time_total for e in operators[rows:])
    lines.append(f"{'the others':44} {rest / total:6.1%} {rest / repeats / 1e3:8.2f}")
    return "\n".join(lines) + "\n"


def profiles() -> dict[str, str]:
    """``{title: text}`` of a training step and of inference with and without detections."""
    height, width = SIZE

    def inference(detections: int):
        model, images = detector(True, detections), [picture()]

        def run():
            with torch.no_grad():
                return model(images)

        return run

    images, targets = scenes(8, (128, 128))
    model = fl.create_model(TINY, weights="shapes")
    step = training_step(model, images, targets)
    nothing, hundred = inference(0), inference(100)
    return {
        f"{DSMASK}, fused, {height}x{width}, no detection": profile(nothing, nothing, 1),
        f"{DSMASK}, fused, {height}x{width}, 100 detections": profile(hundred, hundred, 1),
        f"training step of {TINY}, 8 scenes of 128x128": profile(
            step, lambda: model(images, targets), 3
        ),
    }
