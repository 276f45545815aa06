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
EXIF = Annotated[
    str | None,
    typer.Option(help="ignore or apply, where a picture's size does not tell about its turn"),
]
CLASSES = Annotated[str | None, typer.Option(help="use these classes only, such as fig,date")]
MAP_CLASSES = Annotated[
    str | None, typer.Option(help="take classes as others, such as car=vehicle,truck=vehicle")
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
        if name.strip() in ("name", "weights"):  # of create_model, but no fields
            option = {"name": "--model", "weights": "--weights"}[name.strip()]
            raise ValueError(f"--set {pair}: {name.strip()} is no field; the option is {option}")
        try:
            settings[name.strip()] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name.strip()] = text
    return settings


def is_classifier(name: str | None) -> bool:
    from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS

    return name in CLASSIFICATION_ARCHS


def means_classifier(run: Path | None, model: str | None) -> bool:
    """Whether ``--run`` or ``--model`` is a classifier's."""
    from fbnet_lesson.training.runs import is_classifier_run

    if run is not None and model:
        raise ValueError("--run has its own model and weights; leave out --model and --weights")
    return is_classifier(model) if run is None else is_classifier_run(run)


def load_detector(
    run: Path | None, model: str | None, weights: str | None, settings: list[str]
) -> tuple[Any, list[str], list[int]]:
    """The detector that ``--run``, or ``--weights`` with or without ``--model``, means; the names
    and the category ids of its classes.

    Raises:
        ValueError: if that is not clear, or not there, or would leave predictors random.
    """
    from fbnet_lesson.training.runs import load_run, run_classes
    from fbnet_lesson.zoo.models import restore_model

    fields = parse_settings(settings)
    if run is not None:
        if model or weights:
            raise ValueError("--run has its own model and weights; leave out --model and --weights")
        detector, names = load_run(run, **fields)
        return detector, names, run_classes(run)
    if weights is None and model not in (None, DEFAULT_MODEL):
        raise ValueError(f"--model {model} needs --weights FILE: it would only guess without")
    if weights in (None, "shapes"):
        detector, notes = restore_model("shapes", model or DEFAULT_MODEL, **fields)
    else:
        detector, notes = restore_model(weights, model, **fields)
    if not hasattr(detector, "roi_heads"):
        raise ValueError(
            f"{weights} holds weights of the classifier {detector.name}; predict --model "
            f"{detector.name} --weights {weights} names pictures with it"
        )
    count = detector.config.num_classes
    names = notes.get("categories") or [f"class {label}" for label in range(count)]
    ids = notes.get("category_ids") or list(range(1, count + 1))
    if not len(names) == len(ids) == count:
        raise ValueError(f"{weights} tells {count} classes apart and names {len(names)}")
    return detector, names, ids
