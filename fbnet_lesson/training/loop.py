"""The training loop.

    for each iteration:   losses → backward → clip → step → learning rate → average of the weights

around it: the batch and all random numbers as functions of (seed, iteration), a checkpoint now and
then, and a row of metrics each time. Killed at any moment and resumed, it ends with the same bits.
"""

from __future__ import annotations

import copy
import ctypes
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fbnet_lesson.training import distributed
from fbnet_lesson.training.checkpoint import (
    MetricsFile,
    best_score,
    first_line,
    load_checkpoint,
    save_best,
    save_checkpoint,
    write_json,
)
from fbnet_lesson.training.config import TrainConfig, differences
from fbnet_lesson.training.ema import EMA
from fbnet_lesson.training.limits import limits_in_the_way
from fbnet_lesson.training.runs import read_config
from fbnet_lesson.training.sampling import BatchSampler, mix, to_device, training_loader
from fbnet_lesson.training.tasks import task_of
from fbnet_lesson.zoo.checkpoints import model_fields, save_weights


class RunFolderError(ValueError):
    """The run folder holds something else than what is about to be trained."""


class NonFiniteError(RuntimeError):
    """A loss or a gradient is NaN or infinite; the step was not taken.

    ``iteration``, ``losses`` (name -> value) and ``image_ids`` say where.
    """

    exit_code = 1  # of the command: nothing is wrong with its options

    def __init__(self, message: str, iteration: int, losses: dict[str, float], image_ids: list):
        super().__init__(message)
        self.iteration, self.losses, self.image_ids = iteration, losses, image_ids


def train(
    model: nn.Module,
    train_dataset: Any,
    val_dataset: Any | None,
    config: TrainConfig,
    run_folder: str | Path,
    *,
    resume: bool = False,
    notes: dict[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a detector or a classifier; at the end ``model`` holds the (averaged) weights of
    ``model.safetensors`` and is in eval mode.

    The data sets give ``(image, target)`` as in ``fbnet_lesson.data``. With ``resume`` a run that
    was stopped goes on where its last checkpoint is; one that has none starts. ``notes`` are kept
    in ``config.json``. Under ``torchrun``, call ``distributed.start()`` first: the batch is divided
    among the processes.

    Returns:
        ``{"iteration": …, "losses": {…} of the last step, "metrics": evaluate(…) or None}``

    Raises:
        RunFolderError: if the folder holds another run, or one that is not to be resumed.
        NonFiniteError: if a loss or gradient is not finite; the folder gets the batch.
        ValueError: if the batch cannot be divided, the training set is empty, or the model has
            another number of classes.
    """
    _check_classes(model, train_dataset)
    device = distributed.choose_device(config.device)
    world = distributed.world_size(), distributed.rank()
    folder = Path(run_folder)
    say = log if distributed.is_first() else lambda line: None
    checkpoint = distributed.on_first(
        lambda: open_run_folder(folder, model, config, train_dataset, notes, resume)
    )
    state = TrainingState(model.to(device).train(), config, classes_of(train_dataset))
    if checkpoint is not None:
        planned = restore(state, checkpoint, folder)
        say(_resumed_line(state, planned))
    iterations = range(state.iteration, config.iterations)
    length = len(train_dataset)
    sampler = BatchSampler(length, config.batch_size, config.seed, iterations, world[1], world[0])
    loader = training_loader(train_dataset, sampler, config.num_workers, device.type == "cuda")
    say(_first_line(state, train_dataset, val_dataset, device))
    for line in _dropped_lines(train_dataset, val_dataset):
        say(line)
    for line in limits_in_the_way(model, train_dataset, val_dataset):
        say(line)
    keep_freed_memory()
    records = Records(folder, state.task.columns, state.iteration, config.iterations)
    with numerics(config), records:
        metrics = _run(state, loader, val_dataset, folder, device, records, say)
        state.averaged_into_model()
        model.eval()
        if val_dataset is not None and metrics is None:  # killed after the last checkpoint
            metrics = state.task.evaluate(model, val_dataset, config.batch_size)
            keep_best(folder, state, metrics)
    if distributed.is_first():
        write_results(folder, state, metrics)
        best = best_score(folder)
        if best is not None and best["iteration"] != state.iteration:
            say(
                f"the best {best['kind']} was {best['value']:.3f}, after iteration "
                f"{best['iteration']:,}: its weights are in {folder / 'best.pt'}"
            )
    return {"iteration": state.iteration, "losses": state.losses, "metrics": metrics}


class TrainingState:
    """All that changes from step to step, and nothing that the iteration's number can tell."""

    def __init__(self, model: nn.Module, config: TrainConfig, classes: dict[str, Any]):
        self.model, self.config, self.classes = model, config, classes
        self.task = task_of(model)
        self.ema = EMA(model, config.ema_decay) if config.ema_decay else None
        self.optimizer = make_optimizer(model, config)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda iteration: config.learning_rate_factor(iteration)
        )
        self.parallel_model = distributed.parallel(model)
        self.iteration = 0
        self.losses: dict[str, float] = {}

    def averaged(self) -> nn.Module:
        """The model to evaluate and to keep: the average, or without EMA the model itself."""
        return self.model if self.ema is None else self.ema.module

    def averaged_into_model(self) -> None:
        if self.ema is not None:
            self.model.load_state_dict(self.ema.module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """What ``torch.load(weights_only=True)`` reads back."""
        return {
            "iteration": self.iteration,
            "losses": self.losses,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "config": self.config.to_dict(),
            **model_description(self.model),
            **self.classes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration, self.losses = state["iteration"], state["losses"]
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        for group in self.optimizer.param_groups:  # that of the schedule, if it was made longer
            group["lr"] = group["initial_lr"] * self.config.learning_rate_factor(self.iteration)


def restore(state: TrainingState, checkpoint: dict[str, Any], folder: Path) -> int:
    """Go back to a checkpoint of the folder; returns the iterations that were planned then.

    Raises:
        RunFolderError: if something is missing in it, or does not fit.
    """
    try:
        state.load_state_dict(checkpoint)
        planned = checkpoint["config"]["iterations"]
        if not 0 <= state.iteration <= planned:
            raise ValueError(f"iteration {state.iteration:,} of {planned:,}")
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"the checkpoint in {folder} is damaged, or of another run ({type(error).__name__}: "
            f"{first_line(error)}); start anew in another folder"
        ) from error
    return planned


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, SGD or RMSProp over what is trainable; no weight decay for norms.

    RMSProp is as in TensorFlow, whose recipes it comes from, but for where eps is added.

    A norm is known by its one-dimensional weight: decay would pull its scale towards 0 and so
    change what the layer outputs, where a convolution before a norm only changes its scale.
    """
    decayed, spared = [], []
    for module in model.modules():
        weight = getattr(module, "weight", None)
        is_norm = isinstance(weight, Tensor) and weight.ndim == 1
        trainable = [p for p in module.parameters(recurse=False) if p.requires_grad]
        (spared if is_norm else decayed).extend(trainable)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("the model has no trainable parameter: everything is frozen")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    if config.optimizer == "rmsprop":
        constants = {"alpha": 0.9, "eps": 1e-3, "momentum": config.momentum}
        return torch.optim.RMSprop(groups, lr=config.lr, **constants)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)  # one pass over each tensor


def train_step(
    state: TrainingState, images: list[Tensor], targets: list[dict], out_of_time: bool = False
) -> dict[str, float]:
    """One step on this process's part of the batch, on its device; returns what to record.

    The losses are means over all processes. ``out_of_time`` of the first process is returned too:
    it travels with the losses, so that all stop after the same step.

    Raises:
        FloatingPointError: if a loss or gradient is not finite, on all processes alike; its
            ``args`` are what is wrong and the losses. The weights are untouched.
    """
    config, model = state.config, state.parallel_model
    device = images[0].device
    torch.manual_seed(mix(config.seed, "model", state.iteration, distributed.rank()))
    amp = config.amp if config.amp is not None else device.type == "cuda"
    with torch.autocast(device.type, torch.bfloat16, enabled=amp):
        losses = state.task.losses(model, images, targets)
    values = [loss.detach().float() for loss in losses.values()]
    values.append(torch.tensor(float(out_of_time), device=device))
    *means, stop = distributed.mean_over_workers(torch.stack(values)).tolist()
    state.losses = dict(zip(losses, means, strict=True))
    if not all(map(math.isfinite, means)):
        raise FloatingPointError("the loss", state.losses)

    state.optimizer.zero_grad()
    sum(losses.values()).backward()
    trainable = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = clip_grad_norm_(trainable, config.grad_clip or math.inf).item()
    if not math.isfinite(norm):
        raise FloatingPointError("the gradient", state.losses)

    lr = state.optimizer.param_groups[0]["lr"]
    state.optimizer.step()
    state.scheduler.step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    state.iteration += 1
    return {
        "iteration": state.iteration,
        "lr": lr,
        "loss": sum(means),
        **state.losses,
        "grad_norm": norm,
        "stop": stop,
    }


def _run(state, loader, val_dataset, folder, device, records, say) -> dict[str, Any] | None:
    """All iterations; the metrics of the evaluation after the last, if there was one."""
    config, started = state.config, time.monotonic()
    previous = started
    for images, targets in loader:
        images, targets = to_device(images, targets, device)
        minutes = (time.monotonic() - started) / 60
        out_of_time = config.max_minutes is not None and minutes >= config.max_minutes
        try:
            row = train_step(state, images, targets, out_of_time)
        except FloatingPointError as error:
            raise report_non_finite(state, images, targets, folder, *error.args) from None
        stop = row.pop("stop") > 0
        row["seconds"] = round(time.monotonic() - previous, 4)
        last = stop or state.iteration == config.iterations
        metrics = None
        if val_dataset is not None and (last or _due(state.iteration, config.eval_every)):
            model = state.averaged()
            distributed.copy_from_first(model)  # BN without sync has statistics for each process
            metrics = state.task.evaluate(model, val_dataset, config.batch_size)
            keep_best(folder, state, metrics)
            words = state.task.headline(metrics)
            say(f"iteration {state.iteration:,}: loss {row['loss']:.4f}, {words}")
        records.write(row, state.task.values(metrics) if metrics else {})
        if last or _due(state.iteration, config.checkpoint_every):
            records.to_disk()  # first the rows, then the checkpoint that says they are there
            if distributed.is_first():
                save_checkpoint(folder, state.state_dict())
        if stop and state.iteration < config.iterations:
            say(f"stopped after {config.max_minutes:g} minutes; --resume goes on from here")
        if last:
            return metrics
        previous = time.monotonic()
    return None


def _due(iteration: int, every: int) -> bool:
    return every > 0 and iteration % every == 0


# What is found in, and left in, the run folder.


def model_description(model: nn.Module) -> dict[str, Any]:
    """The model's name and its config as plain values: what ``create_model`` needs."""
    name = getattr(model, "name", type(model).__name__)
    return {"model_name": name, "model_config": model_fields(model)}


def classes_of(dataset: Any) -> dict[str, Any]:
    """The names of the classes and their ids."""
    return {k: list(getattr(dataset, k, [])) for k in ("categories", "category_ids")}


def identity(dataset: Any) -> dict[str, Any]:
    """What a training set is: its classes, and of a COCO set its ``pictures``,
    [[image id, file name], …]."""
    known = classes_of(dataset)
    if hasattr(dataset, "folder"):
        pairs = zip(dataset.image_ids, dataset.file_names, strict=True)
        known["pictures"] = [list(pair) for pair in pairs]
    return known


def open_run_folder(
    folder: Path,
    model: nn.Module,
    config: TrainConfig,
    train_dataset: Any,
    notes: dict[str, Any] | None,
    resume: bool,
) -> dict[str, Any] | None:
    """Make sure that the folder is this run's and return its checkpoint, if it is to be resumed.

    Raises:
        RunFolderError: if the folder holds another run, or one that is not to be resumed.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; a run needs a folder of its own")
    description = {
        **model_description(model),
        "train": config.to_dict(),
        **identity(train_dataset),
        "notes": notes or {},
        "torch": torch.__version__,
    }
    path = folder / "config.json"
    checkpoint = load_checkpoint(folder)
    if not resume:
        refuse_run(folder, checkpoint)
    if path.exists() and checkpoint is not None:
        _refuse_other_run(folder, read_config(folder), description)
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is None:
        (folder / "best.pt").unlink(missing_ok=True)  # of a run that never got to a checkpoint
    write_json(path, description)
    return checkpoint


def refuse_run(folder: Path, checkpoint: dict[str, Any] | None) -> None:
    """RunFolderError if there is a checkpoint: the folder's, that is not to be resumed."""
    if checkpoint is not None:
        raise RunFolderError(
            f"{folder} holds a run at iteration {checkpoint['iteration']:,}; resume it (--resume) "
            "or choose another folder"
        )


def _refuse_other_run(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = differences(TrainConfig.from_dict(old["train"]), TrainConfig.from_dict(new["train"]))
    new = json.loads(json.dumps(new))  # tuples become lists, as in the file
    if old["model_name"] != new["model_name"]:
        changed.append(f"model: {old['model_name']} -> {new['model_name']}")
    for name in old["model_config"].keys() | new["model_config"].keys():
        before, after = old["model_config"].get(name), new["model_config"].get(name)
        if before != after:
            changed.append(f"{name}: {before!r} -> {after!r}")
    for name in ("categories", "category_ids"):
        if old.get(name, new[name]) != new[name]:
            changed.append(f"{name}: {old[name]} -> {new[name]}")
    if "category_ids" in old and old.get("pictures") != new.get("pictures"):
        counts = [len(run["pictures"]) if "pictures" in run else "shapes" for run in (old, new)]
        changed.append(f"training pictures: {counts[0]} -> {counts[1]}, not the same")
    refuse_changes(folder, changed)


def refuse_changes(folder: Path, changed: list[str]) -> None:
    """RunFolderError if anything is to be changed in the folder's run."""
    if changed:
        raise RunFolderError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}); "
            "resume it with its own or choose another folder"
        )


def keep_best(folder: Path, state: TrainingState, metrics: dict[str, Any]) -> None:
    """Keep the state as ``best.pt`` if no evaluation before had as high a score."""
    if distributed.is_first():
        save_best(folder, state.state_dict(), *state.task.best(metrics))


def write_results(folder: Path, state: TrainingState, metrics: Any) -> None:
    """Write ``model.safetensors`` and ``eval.json``."""
    path = folder / "model.safetensors"
    save_weights(state.averaged(), path, **state.classes, iteration=state.iteration)
    if metrics is not None:
        write_json(folder / "eval.json", {"iteration": state.iteration, **metrics})


def report_non_finite(
    state: TrainingState,
    images: list[Tensor],
    targets: list[dict],
    folder: Path,
    what: str,
    losses: dict[str, float],
) -> NonFiniteError:
    """Write the batch to the folder and return the error that names the images at fault."""
    iteration = state.iteration + 1
    suffix = f"_rank{distributed.rank()}" if distributed.world_size() > 1 else ""
    path = folder / f"nonfinite_{iteration:06d}{suffix}.pt"
    image_ids = [_image_id(target) for target in targets]
    probe = copy.deepcopy(state.model)
    guilty = [
        image_id
        for image_id, image, target in zip(image_ids, images, targets, strict=True)
        if not _is_finite_alone(state.task, probe, image, target)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    batch = {"images": images, "targets": targets, "image_ids": image_ids, "losses": losses}
    torch.save({**batch, "model": state.model.state_dict()}, path)
    everyone = distributed.gather((image_ids, guilty))
    guilty = [image_id for _, found in everyone for image_id in found]
    image_ids = [image_id for found, _ in everyone for image_id in found]
    values = ", ".join(f"{name}={value:.4g}" for name, value in losses.items())
    cause = (
        f"caused by image {', '.join(map(str, guilty))}"
        if guilty
        else f"no image of the batch ({', '.join(map(str, image_ids))}) causes it alone"
    )
    message = (
        f"iteration {iteration}: {what} is not finite ({values}); {cause}. "
        f"The batch is in {path}; the step was not taken. A lower lr or a longer warmup helps "
        "where every image is at fault."
    )
    return NonFiniteError(message, iteration, losses, guilty or image_ids)


def _is_finite_alone(task: Any, model: nn.Module, image: Tensor, target: dict) -> bool:
    model.zero_grad()
    losses = task.losses(model, [image] * task.fewest, [target] * task.fewest)
    total = sum(losses.values())
    if not torch.isfinite(total):
        return False
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def _image_id(target: dict) -> Any:
    value = target.get("image_id", "?")
    return value.item() if isinstance(value, Tensor) else value


# Around the loop.


def _check_classes(model: nn.Module, dataset: Any) -> None:
    classes = getattr(getattr(model, "config", None), "num_classes", None)
    categories = getattr(dataset, "categories", None)
    if None not in (classes, categories) and classes != len(categories):
        raise ValueError(
            f"the model has num_classes={classes} and the training set {len(categories)} "
            f"categories ({', '.join(map(str, categories))}); create it with "
            f"num_classes={len(categories)}"
        )


class Records:
    """Progress bar, ``metrics.csv`` and TensorBoard of the first process; nothing on the others."""

    def __init__(self, folder: Path, columns: Sequence[str], iteration: int, iterations: int):
        self.columns = columns
        self.active = distributed.is_first()
        if not self.active:
            return
        self.csv = MetricsFile(folder / "metrics.csv", iteration)
        # Steps from purge_step on are of before the kill: TensorBoard forgets them.
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)
        self.bar = tqdm(total=iterations, initial=iteration, disable=None, unit="step")

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.active:
            self.csv.close()
            self.board.close()
            self.bar.close()

    def write(self, row: dict[str, Any], scores: dict[str, float]) -> None:
        if not self.active:
            return
        scores = dict.fromkeys(self.columns, "") | scores
        self.csv.write({**row, **scores})
        for name, value in {**row, **scores}.items():
            if name != "iteration" and value != "":
                self.board.add_scalar(name, value, row["iteration"])
        self.bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
        self.bar.update()

    def to_disk(self) -> None:
        if self.active:
            self.csv.to_disk()
            self.board.flush()


def keep_freed_memory() -> None:
    """Ask glibc to keep the large blocks that are freed; elsewhere, do nothing.

    By default it returns each to the kernel, and the next step pays a page fault for every 4 KB it
    writes to a new one: a tenth of a step of the tiny model on the CPU.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_threshold, 2**25)
    mallopt(trim_threshold, 2**31 - 1)


@contextmanager
def numerics(config: TrainConfig) -> Iterator[None]:
    """Within it, the same calculation gives the same bits; afterwards all is as before."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    threads = torch.get_num_threads()
    random_state = torch.get_rng_state()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, hides no bug of ours
    torch.set_num_threads(config.threads or threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)
        torch.set_rng_state(random_state)


def _resumed_line(state: TrainingState, planned: int) -> str:
    iterations = state.config.iterations
    text = f"resumed after iteration {state.iteration:,}"
    if iterations > planned:
        lr = state.optimizer.param_groups[0]["lr"]
        text += f" of {planned:,}, now of {iterations:,}: the learning rate goes on from {lr:.2g}"
    elif state.iteration >= iterations:
        text += f", the last: for more, give --iterations more than {iterations:,}"
    return text


def _first_line(state: TrainingState, train_dataset, val_dataset, device) -> str:
    parameters = list(state.model.parameters())
    count = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    config, processes = state.config, distributed.world_size()
    held_out = "no evaluation" if val_dataset is None else f"{len(val_dataset):,} held out"
    return (
        f"{model_description(state.model)['model_name']}: {count:,} parameters, "
        f"{trainable:,} trainable; {device}, {processes} process{'es' * (processes > 1)}; "
        f"{config.iterations:,} iterations of {config.batch_size} images out of "
        f"{len(train_dataset):,}, {held_out}"
    )


def _dropped_lines(train_dataset: Any, val_dataset: Any) -> list[str]:
    """What the data sets left out because of defects, as one line for each that did."""
    lines = []
    for name, dataset in (("training", train_dataset), ("evaluation", val_dataset)):
        dropped = getattr(dataset, "dropped_records", {})
        if any(dropped.values()):
            counts = " and ".join(f"{count:,} {kind}" for kind, count in dropped.items())
            lines.append(f"{name} set: {counts} dropped for their defects")
    return lines
