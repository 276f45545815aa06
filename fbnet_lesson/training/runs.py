"""Reading a run folder back: its settings, and the trained model."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS
from fbnet_lesson.training.checkpoint import load_checkpoint
from fbnet_lesson.zoo import create_model, load_weights

CONFIG = {  # what a run notes, and as what; older runs have no category_ids
    "model_name": str, "model_config": dict, "train": dict, "categories": list, "notes": dict,
}  # fmt: skip


def read_config(folder: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a run folder.

    Raises:
        ValueError: if the folder has none, or it cannot be read, or is not what a run writes.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run folder: it has no config.json")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(config).__name__}")
    for key, kind in CONFIG.items():
        if key not in config:
            raise ValueError(f"{path} is damaged: it has no {key!r}")
        if not isinstance(config[key], kind):
            found = type(config[key]).__name__
            raise ValueError(f"{path} is damaged: {key!r} is {found}, not {kind.__name__}")
    names = config["categories"]
    ids = config.get("category_ids", [0] * len(names))
    whole = isinstance(ids, list) and all(isinstance(number, int) for number in ids)
    if not whole or len(ids) != len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is damaged: its categories are not names, each with an id")
    if not isinstance(config.get("pictures", []), list):
        raise ValueError(f"{path} is damaged: 'pictures' is no list")
    return config


def load_run(folder: str | Path, /, **overrides: Any) -> tuple[nn.Module, list[str]]:
    """The model of a run in eval mode, and the names of its classes.

    Its final weights; of a run that is not finished, the average as of its last checkpoint.
    ``overrides`` are fields of its config for use, such as ``score_threshold``.

    Raises:
        ValueError: if the folder holds no run, or no weights yet, or what it says of its model is
            not what a run writes.
    """
    config = read_config(folder)
    final = Path(folder) / "model.safetensors"
    weights = final if final.exists() else _last_weights(Path(folder))
    # Frozen stages concern training: a model to look with has nothing to freeze.
    model = create_model(
        config["model_name"], **{**config["model_config"], "freeze_stages": 0, **overrides}
    )
    report = load_weights(model, weights)
    if report.left_out:
        raise ValueError(
            f"the weights in {folder} do not fit {', '.join(report.left_out[:2])}: num_classes, "
            "box_class_agnostic and mask_class_agnostic have to stay as in the training"
        )
    names = config["categories"]
    if len(names) != (count := model.config.num_classes):
        raise ValueError(f"{folder} names {len(names)} classes, its model tells {count} apart")
    return model.eval(), names


def is_classifier_run(folder: str | Path) -> bool:
    """Whether a run folder is of a classifier.

    Raises:
        ValueError: if the folder holds no run.
    """
    return read_config(folder)["model_name"] in CLASSIFICATION_ARCHS


def run_edge(folder: str | Path) -> int:
    """The edge in pixels of the pictures that a classifier's run was trained on."""
    config = read_config(folder)
    return config["train"].get("image_size") or (
        CLASSIFICATION_ARCHS[config["model_name"]].input_size
    )


def run_classes(folder: str | Path) -> list[int]:
    """The category ids of a run's classes; 1, 2, … in runs that did not note them yet."""
    config = read_config(folder)
    return config.get("category_ids") or list(range(1, len(config["categories"]) + 1))


def _last_weights(folder: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        raise ValueError(f"{folder} has no weights yet: neither model.safetensors nor last.pt")
    return checkpoint
