"""``--run``, ``--model``, ``--weights`` and ``--set``: which model a command is for."""

import ast
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_MODEL = "lesson/mask_rcnn_tiny"
# torchrun takes --run for an abbreviation of its own --run-path: there, --run-folder is meant.
RUN = Annotated[
    Path | None,
    typer.Option("--run", "--run-folder", help="run folder of a training; the longer for torchrun"),
]
MODEL = Annotated[str | None, typer.Option(help=f"instead of --run [default: {DEFAULT_MODEL}]")]
WEIGHTS = Annotated[
    str | None,
    typer.Option(help="of --model: shapes, or a file; a classifier's are pretrained by default"),
]
SET = Annotated[list[str] | None, typer.Option("--set", help="a field of DetectorConfig")]


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """``["norm=GN", "pre_nms_topk=(200, 100)"]`` as fields of ``DetectorConfig``.

    Raises:
        ValueError: for an entry without ``=``.
    """
    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair}: expected FIELD=VALUE, such as --set norm=GN")
        try:
            settings[name.strip()] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name.strip()] = text
    return settings


def is_classifier(name: str | None) -> bool:
    from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS

    return name in CLASSIFICATION_ARCHS


def refuse_classifier(command: str, name: str | None) -> None:
    """ValueError if the model that a detector's command is given is a classifier."""
    if is_classifier(name):
        raise ValueError(
            f"{command} takes a detector, {name} is a classifier; a detector stands on it with "
            f"--set trunk={name}"
        )


def load_detector(run: Path | None, model: str | None, weights: str | None, settings: list[str]):
    """The detector that ``--run``, or ``--model`` with ``--weights``, means; and its class names.

    Raises:
        ValueError: if that is not clear, or not there.
    """
    import fbnet_lesson as fl
    from fbnet_lesson.training.runs import load_run

    if run is not None:
        if model or weights or settings:
            raise ValueError("--run has its own model and weights; leave out --model and --weights")
        return load_run(run)
    name = model or DEFAULT_MODEL
    if weights is None and name != DEFAULT_MODEL:
        raise ValueError(f"--model {name} needs --weights FILE: it would only guess without")
    weights = weights or "shapes"
    detector = fl.create_model(name, weights=weights, **parse_settings(settings)).eval()
    return detector, names_of_classes(weights, detector.config.num_classes)


def names_of_classes(weights: str, count: int) -> list[str]:
    """What the classes of these weights are called."""
    from fbnet_lesson.data import CATEGORIES
    from fbnet_lesson.inference.detections import class_names

    return list(CATEGORIES) if weights == "shapes" else class_names(weights, count)
