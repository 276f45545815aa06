"""One program on one process or on many: the few places where it makes a difference.

Every function here does the obvious with a single process, so that the loop needs no ``if``.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def start(device: str = "auto") -> torch.device:
    """Join the processes that ``torchrun`` started, if it did, and choose this one's device.

    Raises:
        ValueError: for a CUDA device on a machine without it.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_distributed():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return chosen


def check_batch(batch_size: int) -> None:
    """ValueError unless the batch divides among the processes that ``torchrun`` started."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size % processes:
        raise ValueError(
            f"batch_size={batch_size} does not divide among {processes} processes; "
            f"allowed are multiples of {processes}"
        )


def stop() -> None:
    """Leave the group that ``start`` joined."""
    if is_distributed():
        dist.destroy_process_group()


def choose_device(device: str) -> torch.device:
    """``"auto"`` is this process's own GPU where there are enough for all, otherwise the CPU.

    Raises:
        ValueError: for a CUDA device on a machine without it.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count()
    if device == "auto":
        enough = gpus >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        device = f"cuda:{local_rank}" if gpus and enough else "cpu"
    if device == "cuda":
        device = f"cuda:{local_rank}"
    chosen = torch.device(device)
    if chosen.type == "cuda" and chosen.index >= gpus:
        raise ValueError(f"device={device!r} is not here: this machine has {gpus} CUDA devices")
    return chosen


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def is_first() -> bool:
    """Whether this is the process that prints and writes files."""
    return rank() == 0


def mean_over_workers(values: Tensor) -> Tensor:
    """The element-wise mean over all processes; NaN or infinite on all where it is on one."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def on_first(function: Callable[[], Any]) -> Any:
    """Call the function on the first process; all get its value, or raise its exception.

    So a file is read once, machines need no common disk, and no process waits for one that died.
    """
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = function()
        except Exception as error:
            outcome[1] = error
    if world_size() > 1:
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def gather(value: Any) -> list[Any]:
    """Every process's value, in the order of their ranks; on all processes."""
    values = [None] * world_size()
    if world_size() == 1:
        return [value]
    dist.all_gather_object(values, value)
    return values


def copy_from_first(module: nn.Module) -> None:
    """Overwrite parameters and buffers with those of the first process."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def parallel(model: nn.Module) -> nn.Module:
    """The model whose backward pass averages the gradients over all processes.

    Every parameter must get a gradient in every step, also from images without objects: our heads
    run on no ROIs too. DDP has a process group of its own, so that the order of its reductions
    cannot cross with those of the norms and losses, which use the default group.
    """
    if world_size() == 1:
        return model
    # Of 1x1 convolutions, whose strides mean nothing: DDP copies a few bytes more.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(model, process_group=dist.new_group())
