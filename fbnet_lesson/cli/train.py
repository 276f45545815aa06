"""``train``."""

import contextlib
import dataclasses
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fbnet_lesson.cli.data import noted_options, refuse_unused, training_data
from fbnet_lesson.cli.detectors import (
    CLASSES,
    DEFAULT_MODEL,
    EXIF,
    MAP_CLASSES,
    is_classifier,
    parse_settings,
)
from fbnet_lesson.cli.errors import check_out, fail, whole_command
from fbnet_lesson.training.config import TrainConfig, differences

AUGMENTATION = ("scale_range", "flip", "colour", "min_visible")
FOR_COCO = (
    "images", "train_ids", "val_ids", "val_data", "val_images", "drop_defects", "exif", "classes",
    "map_classes", "cache_mb", "boxes_as_masks",
)  # fmt: skip
FOR_SHAPES = ("train_length", "val_length")
FOR_DETECTORS = tuple(name for name in FOR_COCO if name != "val_data")


def with_train_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command an option for each field of ``TrainConfig``; it gets those that are set."""
    hints = typing.get_type_hints(TrainConfig)
    own = [
        p for p in inspect.signature(command, eval_str=True).parameters.values()
        if p.name != "train_options"
    ]  # fmt: skip
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[hints[name] | None, typer.Option(help=_help(field))],
        )
        for name, field in fields.items()
    ]

    def with_options(**values: Any) -> None:
        given = {name: values.pop(name) for name in fields}
        command(**values, train_options={k: v for k, v in given.items() if v is not None})

    with_options.__signature__ = inspect.Signature(own + options)
    with_options.__annotations__ = {}
    with_options.__doc__, with_options.__name__ = command.__doc__, command.__name__
    return with_options


def _help(field: dataclasses.Field) -> str:
    default = field.default
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    shown = "" if default is None else f" [default: {default}]"
    return field.metadata["help"] + shown


@whole_command
@with_train_options
def train(
    out: Annotated[Path, typer.Option(help="run folder: config, metrics, checkpoints, weights")],
    data: Annotated[
        str | None,
        typer.Option(
            help="shapes, a COCO annotation file, or a folder with one; of a classifier, shapes or "
            "a folder with one folder a class"
        ),
    ] = None,
    images: Annotated[str | None, typer.Option(help="folder of the pictures of --data")] = None,
    train_ids: Annotated[
        str | None, typer.Option(help="train on these image ids only, such as 0-13,20")
    ] = None,
    val_ids: Annotated[str | None, typer.Option(help="evaluate on these image ids")] = None,
    val_data: Annotated[
        str | None, typer.Option(help="evaluate on another COCO set, or folder of classes")
    ] = None,
    val_images: Annotated[
        str | None, typer.Option(help="folder of the pictures of --val-data")
    ] = None,
    drop_defects: Annotated[
        bool | None, typer.Option("--drop-defects", help="leave out what is broken in the data")
    ] = None,
    exif: EXIF = None,
    classes: CLASSES = None,
    map_classes: MAP_CLASSES = None,
    cache_mb: Annotated[
        int | None, typer.Option(min=0, help="megabytes of pictures kept in memory")
    ] = None,
    boxes_as_masks: Annotated[
        bool | None,
        typer.Option(
            "--boxes-as-masks", help="train masks on filled boxes, where there are no others"
        ),
    ] = None,
    train_length: Annotated[
        int | None, typer.Option(help="with shapes: so many scenes; by default new ones each time")
    ] = None,
    val_length: Annotated[
        int | None, typer.Option(help="with shapes: so many held-out scenes [default: 200]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help=f"see fbnet-lesson models [default: {DEFAULT_MODEL}]")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="start from these: shapes, a file, or pretrained, a classifier's own, or with "
            "--set trunk=NAME"
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="of a classifier: a published recipe, sgd or rmsprop, scaled to the run"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="a field of DetectorConfig, such as norm=GN, or trunk=CLASSIFIER, or of "
            "ClassifierConfig; may be repeated",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the run in --out, with its settings")
    ] = False,
    *,
    train_options: dict[str, Any],
) -> None:
    """Train a detector, or a classifier; under torchrun on many processes.

    With shapes, training and evaluation scenes are rendered; otherwise any COCO-format data set,
    or for a classifier any folder with one folder of pictures a class.
    """
    given = {
        "data": data, "images": images, "train_ids": train_ids, "val_ids": val_ids,
        "val_data": val_data, "val_images": val_images, "drop_defects": drop_defects,
        "train_length": train_length, "val_length": val_length, "weights": weights,
    }  # fmt: skip
    given |= {
        "exif": exif, "classes": classes, "map_classes": map_classes, "cache_mb": cache_mb,
        "boxes_as_masks": boxes_as_masks, "recipe": recipe,
    }  # fmt: skip
    from fbnet_lesson.training import distributed

    check_out(out)
    plan = plan_training(out, given, model, set_ or [], train_options, resume)
    distributed.check_batch(plan.config.batch_size)
    check_files(out, plan, resume)
    distributed.start(plan.config.device)
    try:
        run_training(out, plan, resume)
    except KeyboardInterrupt:
        fail(f"stopped; the same command with --resume goes on from {out}", code=130)
    finally:
        distributed.stop()


@dataclasses.dataclass
class Plan:
    """What a ``train`` command asks for, with what a resumed run has noted already."""

    model: str
    model_fields: dict[str, Any]
    source: dict[str, Any]
    config: TrainConfig


def plan_training(
    out: Path,
    given: dict[str, Any],
    model: str | None,
    settings: list[str],
    train_options: dict[str, Any],
    resume: bool,
) -> Plan:
    """What was given on the command line, else what the resumed run noted, else the defaults.

    Raises:
        ValueError: for impossible or missing values.
    """
    source = {"drop_defects": False, "val_length": 200}
    noted: dict[str, Any] = {}
    if resume and (out / "config.json").exists():
        from fbnet_lesson.training.runs import read_config

        noted = read_config(out)
        source = noted_options(out)
        if begun(out) and given["weights"] not in (None, source.get("weights")):
            raise ValueError(
                f"the run in {out} has begun, from weights={source.get('weights')!r}: --weights "
                f"{given['weights']} would do nothing; leave it out, or choose another folder"
            )
    source = {key: source.get(key) if value is None else value for key, value in given.items()}
    if source["data"] is None:
        raise ValueError("--data is missing: shapes, a COCO annotation file, or a folder with one")
    name = model or noted.get("model_name", DEFAULT_MODEL)
    if is_classifier(name):
        refuse_for_classifier(given, train_options)
        if given["recipe"] is not None:
            train_options = published(given["recipe"], noted.get("train", {}) | train_options)
    elif given["recipe"] is not None:
        raise ValueError(f"--recipe {given['recipe']} is a classifier's; {name} is a detector")
    if source["data"] == "shapes":
        refuse_unused({name: given[name] for name in FOR_COCO}, "for a COCO set, not for shapes")
        refuse_unused(
            {name: True for name in AUGMENTATION if name in train_options},
            "shapes are new scenes each time, nothing is augmented; for a COCO set",
        )
    else:
        refuse_unused({name: given[name] for name in FOR_SHAPES}, "for --data shapes alone")
    try:
        config = TrainConfig.from_dict(noted.get("train", {}))
    except ValueError as error:
        raise ValueError(f"{out / 'config.json'} is damaged: {error}") from error
    plan = Plan(
        name,
        {**noted.get("model_config", {}), **parse_settings(settings)},
        source,
        TrainConfig.from_dict({**config.to_dict(), **train_options}),
    )
    if noted and begun(out):  # what differs is told before a large data set is read
        from fbnet_lesson.training.loop import refuse_changes

        refuse_changes(out, differences(config, plan.config))
    return plan


def check_files(out: Path, plan: Plan, resume: bool) -> None:
    """ValueError for a folder that holds a run and for weights that are none, both of which are
    to be seen before a large data set is read."""
    from fbnet_lesson.training.checkpoint import load_checkpoint
    from fbnet_lesson.training.loop import refuse_run
    from fbnet_lesson.zoo.models import find_weights
    from fbnet_lesson.zoo.weight_files import read_weights

    if begun(out) and not resume:
        refuse_run(out, load_checkpoint(out))
    weights = plan.source["weights"]
    if weights not in (None, "pretrained") and not begun(out):
        read_weights(find_weights(plan.model, weights))


def begun(out: Path) -> bool:
    """Whether the run folder has a checkpoint to go on from."""
    return any((out / name).exists() for name in ("last.pt", "previous.pt"))


def refuse_for_classifier(given: dict[str, Any], train_options: dict[str, Any]) -> None:
    """ValueError for an option that is for detectors."""
    unused = {name: given[name] for name in FOR_DETECTORS}
    unused |= {name: True for name in ("scale_range", "min_visible") if name in train_options}
    refuse_unused(unused, "for detectors, not for classifiers")


def published(recipe: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of training with those of a published recipe, where they say nothing."""
    from fbnet_lesson.training.recipes import recipe_fields

    own = TrainConfig.from_dict(options)
    return {**recipe_fields(recipe, own.batch_size, own.iterations), **options}


def run_training(out: Path, plan: Plan, resume: bool) -> None:
    """Build data and model, train, print the result."""
    from fbnet_lesson.training.loop import train
    from fbnet_lesson.training.tasks import task_of

    build = build_classifier if is_classifier(plan.model) else build_detector
    model, train_set, val_set = build(plan, None if begun(out) else plan.source["weights"])
    result = train(model, train_set, val_set, plan.config, out, resume=resume, notes=plan.source)
    if result["metrics"] is not None:
        typer.echo(task_of(model).table(result["metrics"]))
    typer.echo(f"weights: {out / 'model.safetensors'}")


def build_detector(plan: Plan, weights: str | None) -> tuple[Any, Any, Any]:
    """The detector with the weights to start from, the set to train on, and that to evaluate on.

    Raises:
        ValueError: for impossible values, or masks to learn from boxes alone.
    """
    import torch

    import fbnet_lesson as fl

    size = plan.config.image_size or model_size(plan.model, plan.model_fields)
    train_set, val_set = training_data(plan.source, plan.config, size)
    fields = {"num_classes": len(train_set.categories), **plan.model_fields}
    torch.manual_seed(plan.config.seed)
    model = fl.create_model(plan.model, weights=weights, **fields)
    if model.has_masks and not getattr(train_set, "has_masks", True):
        if not plan.source["boxes_as_masks"]:
            raise ValueError(
                f"{plan.model} learns masks and the training set has boxes alone: take a "
                "faster_rcnn model, or --boxes-as-masks to learn the filled boxes as masks"
            )
        typer.echo("the training set has boxes alone: the masks learned are filled boxes")
    return model, train_set, val_set


def build_classifier(plan: Plan, weights: str | None) -> tuple[Any, Any, Any]:
    """As ``build_detector``; a classifier without a head is refused."""
    import torch

    import fbnet_lesson as fl
    from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS
    from fbnet_lesson.cli.data import classification_data

    edge = plan.config.image_size or CLASSIFICATION_ARCHS[plan.model].input_size
    train_set, val_set = classification_data(plan.source, plan.config, edge)
    fields = {"num_classes": len(train_set.categories), **plan.model_fields}
    torch.manual_seed(plan.config.seed)
    model = fl.create_model(plan.model, weights=weights, **fields)
    if model.head is None:
        raise ValueError("features_only=True leaves nothing to train a classifier with")
    return model, train_set, val_set


def model_size(name: str, fields: dict[str, Any]) -> int:
    """The short edge in pixels that the model resizes to."""
    import torch

    import fbnet_lesson as fl

    with torch.device("meta"), contextlib.redirect_stdout(None):
        return fl.create_model(name, **fields).config.min_size
