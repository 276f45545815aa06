"""The settings of a training run: one frozen dataclass, with the reason beside each default.

No torch in here: the command line builds its options from these fields, and ``--help`` is fast.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any


def setting(default: Any, rule: tuple[str, Callable[[Any], bool]], help: str) -> Any:
    """A field with its rule (in words, and as a test) and what the command line says of it."""
    allowed, check = rule
    return dataclasses.field(
        default=default, metadata={"allowed": allowed, "check": check, "help": help}
    )


def _integer(low: int, high: float = math.inf):
    most = "" if math.isinf(high) else f" and at most {high}"
    return f"an integer of at least {low}{most}", lambda v: _is_int(v) and low <= v <= high


def _number(low: float, high: float = math.inf, *, low_too: bool = True):
    bound = "at least" if low_too else "above"
    text = f"a number {bound} {low:g}" + ("" if math.isinf(high) else f" and below {high:g}")
    return text, lambda v: _is_number(v) and (low < v < high or (low_too and v == low))


def _share():
    return "a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_int(value) or isinstance(value, float)) and math.isfinite(value)


def _scale_range(value: Any) -> bool:
    pair = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    return pair and 0 < value[0] <= value[1]


def _one_of(*values: Any):
    return " or ".join(map(repr, values)), lambda v: any(v is w or v == w for w in values)


def _optional(allowed_and_check):
    allowed, check = allowed_and_check
    return f"{allowed}, or None", lambda v: v is None or check(v)


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The model's own settings are in ``DetectorConfig``, not here.

    Raises:
        ValueError: for an impossible value; names the field, the value and what is allowed.
    """

    # What decides the result. A run can only be resumed with these unchanged, but for more
    # iterations.
    optimizer: str = setting(
        "adamw",  # needs the least tuning in runs of minutes; the original's sgd took 540k steps
        _one_of("adamw", "sgd", "rmsprop"),
        "adamw, or with momentum sgd or rmsprop",
    )
    lr: float = setting(
        2e-3,  # right for adamw at batch 8 from scratch; sgd wants about 0.02
        _number(0, low_too=False),
        "highest learning rate, reached after the warm-up",
    )
    momentum: float = setting(
        0.9,  # that of the original and of nearly all detectors
        _number(0, 1),
        "momentum of sgd and rmsprop; adamw has its own",
    )
    weight_decay: float = setting(
        0.05,  # the original's 1e-4 is for sgd; adamw's is multiplied by the learning rate
        _number(0),
        "weight decay; never on the weights and biases of norms",
    )
    batch_size: int = setting(
        8,  # about the smallest at which the batch statistics of BN are steady
        _integer(1),
        "images per iteration, over all processes together",
    )
    iterations: int = setting(
        1000,  # some minutes on a laptop's CPU with the tiny models
        _integer(1),
        "optimizer steps",
    )
    warmup: int | None = setting(
        None,  # the first gradients are the largest, as the heads start from noise
        _optional(_integer(0)),
        "iterations over which the learning rate rises; by default a tenth, at most 1000",
    )
    schedule: str = setting(
        "cosine",  # nothing to choose but the length
        _one_of("cosine", "step"),
        "after the warm-up: half a cosine, or a staircase of equal factors",
    )
    final_lr: float = setting(
        0.01,  # not 0, or the last steps would change nothing
        _number(0, 1),
        "learning rate at the end of the schedule, as a part of lr",
    )
    stairs: int = setting(
        10,
        _integer(1),
        "with schedule step: how often the learning rate falls",
    )
    ema_decay: float = setting(
        0.998,  # averages about the last 500 steps; for 540k steps the original took 0.9998
        _number(0, 1),
        "decay of the average of the weights; 0 for none",
    )
    grad_clip: float = setting(
        10.0,  # healthy runs rarely reach it; caps the step that one odd image can cause
        _number(0),
        "clip the gradient's norm to this; 0 for no clipping",
    )
    seed: int = setting(
        0,
        _integer(0, 2**32 - 1),
        "decides batches, augmentation and sampling",
    )
    amp: bool | None = setting(
        None,  # bf16 is faster on GPUs and slower on most CPUs
        _one_of(None, True, False),
        "bf16 autocast; by default on CUDA only",
    )
    image_size: int | None = setting(
        None,  # what the model was made for
        _optional(_integer(32)),
        "edge in pixels of the pictures trained on; by default the model's min_size",
    )
    scale_range: tuple[float, float] = setting(
        (0.8, 2.0),  # 1 fits the long edge to the canvas; the model, in use, the short one
        ("two numbers 0 < low <= high", _scale_range),
        "range of the scale jitter",
    )
    flip: float = setting(
        0.5,  # nearly all objects have a mirror image; 0 where left and right differ, as in text
        _share(),
        "probability of mirroring a picture left to right",
    )
    colour: bool = setting(
        True,  # light and cameras differ; not where the colour decides the class
        _one_of(True, False),
        "change brightness, contrast, saturation and hue at random",
    )
    min_visible: float = setting(
        0.25,  # what shows less can hardly be told by anyone
        _share(),
        "share of an object that has to be left in a crop, or it is left out",
    )

    # What decides only how, where and how often. May change at a resume.
    eval_every: int = setting(
        0,  # it costs time
        _integer(0),
        "evaluate each so many iterations; 0 for only at the end",
    )
    checkpoint_every: int = setting(
        100,  # a kill costs at most so many iterations: about a minute on 2 cores
        _integer(1),
        "write a checkpoint each so many iterations",
    )
    num_workers: int = setting(
        0,  # both cores of a laptop for the network; a GPU wants about one a core
        _integer(0, 1024),
        "processes that load and augment images, for each training process",
    )
    threads: int | None = setting(
        None,  # PyTorch's choice; another number of threads may round the last bits differently
        _optional(_integer(1, 1024)),  # of a million, OpenMP dies without a word
        "CPU threads for each training process",
    )
    max_minutes: float | None = setting(
        None,
        _optional(_number(0, low_too=False)),
        "stop, with checkpoint and evaluation, after so many minutes; --resume goes on",
    )
    device: str = setting(
        "auto",  # CUDA where there is one for each process, else the CPU
        (
            "'auto', 'cpu', 'cuda' or 'cuda:N'",
            lambda v: isinstance(v, str) and bool(re.fullmatch(r"auto|cpu|cuda(:\d+)?", v)),
        ),
        "auto, cpu, cuda or cuda:N",
    )

    def __post_init__(self):
        if isinstance(self.scale_range, list):  # what JSON makes of a tuple
            object.__setattr__(self, "scale_range", tuple(self.scale_range))
        for field in fields(self):
            value = getattr(self, field.name)
            if not field.metadata["check"](value):
                allowed = field.metadata["allowed"]
                raise ValueError(f"{field.name}={value!r} is not possible; allowed is {allowed}")
        if self.schedule == "step" and self.final_lr == 0:
            raise ValueError(
                "final_lr=0.0 is not possible with schedule='step', whose factors are equal; "
                "allowed is a number above 0"
            )
        if self.warmup_iterations > self.iterations:
            raise ValueError(
                f"warmup={self.warmup} is longer than the run; allowed is at most "
                f"iterations={self.iterations}"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The config with these fields.

        Raises:
            ValueError: for an unknown field.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise ValueError(f"TrainConfig has no field {name!r}; it has {', '.join(names)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def warmup_iterations(self) -> int:
        """``warmup``, or by default a tenth of the run, at most the original's 1000."""
        return min(1000, self.iterations // 10) if self.warmup is None else self.warmup

    def learning_rate_factor(self, iteration: int) -> float:
        """What multiplies ``lr`` at this iteration (from 0): a line up, then the schedule down.

        warm-up  (t + 1) / warmup                       for t < warmup; after that, with
                 s = (t − warmup) / (iterations − warmup)
        cosine   end + (1 − end)·(1 + cos(π·s)) / 2
        step     end^(⌊s·stairs⌋ / stairs)
        """
        warmup = self.warmup_iterations
        if iteration < warmup:
            return (iteration + 1) / warmup
        passed = min(1.0, (iteration - warmup) / max(1, self.iterations - warmup))
        if self.schedule == "step":
            return self.final_lr ** (math.floor(passed * self.stairs) / self.stairs)
        cosine = (1 + math.cos(math.pi * passed)) / 2
        return self.final_lr + (1 - self.final_lr) * cosine


MAY_CHANGE_AT_RESUME = (
    "eval_every", "checkpoint_every", "num_workers", "threads", "max_minutes", "device",
)  # fmt: skip


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The fields that decide the result and differ, each as ``lr: 0.1 -> 0.2``.

    More iterations are no difference: the run goes on.
    """
    same = {*MAY_CHANGE_AT_RESUME, *(["iterations"] if new.iterations > old.iterations else [])}
    return [
        f"{field.name}: {getattr(old, field.name)!r} -> {getattr(new, field.name)!r}"
        for field in fields(TrainConfig)
        if field.name not in same and getattr(old, field.name) != getattr(new, field.name)
    ]
