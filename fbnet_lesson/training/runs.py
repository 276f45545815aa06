"""Reading a run folder back: its settings, and the trained model."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from fbnet_lesson.training.checkpoint import load_checkpoint
from fbnet_lesson.zoo import create_model


def read_config(folder: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a run folder.

    Raises:
        ValueError: if the folder has none, or it cannot be read.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run folder: it has no config.json")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def load_run(folder: str | Path) -> tuple[nn.Module, list[str]]:
    """The model of a run in eval mode, and the names of its classes.

    Its final weights; of a run that is not finished, the average as of its last checkpoint.

    Raises:
        ValueError: if the folder holds no run, or no weights yet.
    """
    config = read_config(folder)
    final = Path(folder) / "model.safetensors"
    weights = final if final.exists() else _last_weights(Path(folder))
    # Frozen stages concern training: a model to look with has nothing to freeze.
    fields = {**config["model_config"], "freeze_stages": 0}
    model = create_model(config["model_name"], weights=weights, **fields)
    return model.eval(), config["categories"]


def _last_weights(folder: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        raise ValueError(f"{folder} has no weights yet: neither model.safetensors nor last.pt")
    if checkpoint["ema"] is None:
        return checkpoint["model"]
    average = checkpoint["ema"]
    return {key.removeprefix("module."): v for key, v in average.items() if key != "n_averaged"}
