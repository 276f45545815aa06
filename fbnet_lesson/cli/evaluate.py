"""``eval``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fbnet_lesson.cli.data import (
    check_names,
    evaluation_data,
    mapped_by_name,
    parse_classes,
    refuse_unused,
)
from fbnet_lesson.cli.detectors import (
    CLASSES,
    EXIF,
    MAP_CLASSES,
    MODEL,
    RUN,
    SET,
    WEIGHTS,
    load_detector,
    means_classifier,
    parse_settings,
)
from fbnet_lesson.cli.errors import check_out, whole_command
from fbnet_lesson.training.config import TrainConfig


@whole_command
def evaluate(
    run: RUN = None,
    model: MODEL = None,
    weights: WEIGHTS = None,
    set_: SET = None,
    data: Annotated[
        str, typer.Option(help="shapes, a COCO annotation file, or a folder with one")
    ] = "shapes",
    images: Annotated[str | None, typer.Option(help="folder of the pictures of --data")] = None,
    ids: Annotated[str | None, typer.Option(help="these image ids only, such as 14-17")] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="with shapes: so many scenes [default: 200]")
    ] = None,
    drop_defects: Annotated[
        bool, typer.Option("--drop-defects", help="leave out what is broken in the data")
    ] = False,
    exif: EXIF = None,
    classes: CLASSES = None,
    map_classes: MAP_CLASSES = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="score this file of COCO results against --data, instead of a model"),
    ] = None,
    max_dets: Annotated[
        int, typer.Option(min=1, help="detections of a class in an image that are scored")
    ] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="images at once")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="write eval.json and detections.json to this folder")
    ] = None,
) -> None:
    """COCO average precision of a detector, or accuracy of a classifier; under torchrun on many
    processes."""
    from fbnet_lesson.training import distributed
    from fbnet_lesson.training.checkpoint import write_json
    from fbnet_lesson.training.detecting import detect
    from fbnet_lesson.training.evaluation import metrics_of

    of_a_set = {
        "ids": ids, "drop_defects": drop_defects, "exif": exif, "classes": classes,
        "map_classes": map_classes,
    }  # fmt: skip
    if predictions is not None:
        refuse_unused(of_a_set | {"length": length}, "--predictions are scored as they are")
        if run or model or weights or set_:
            raise ValueError("--predictions has no model: leave out --run, --model and --weights")
        return evaluate_predictions(predictions, data, images, max_dets, out)
    if means_classifier(run, model):
        refuse_unused(of_a_set | {"images": images}, "for detectors, not for classifiers")
        settings = parse_settings(set_ or [])
        return evaluate_classifier(
            run, model, weights, settings, data, length, batch_size, device, out
        )
    if data == "shapes":
        refuse_unused(of_a_set | {"images": images}, "for a COCO set; --data names it")
    else:
        refuse_unused({"length": length}, "for --data shapes alone")
    if out is not None:
        check_out(out)
    chosen = distributed.start(TrainConfig(device=device).device)
    try:
        detector, names, category_ids = load_detector(run, model, weights, set_ or [])
        source = {"exif": exif, "map_classes": map_classes}
        known = None if names[0] == "class 0" else names
        dataset = evaluation_data(
            data, images, ids, length or 200, drop_defects, detector.config.min_size, source, known
        )
        only = parse_classes(classes)
        check_classes(names, category_ids, dataset, known, only)
        if out is not None and distributed.is_first():
            out.mkdir(parents=True, exist_ok=True)
        found = detect(detector.to(chosen), dataset, batch_size=batch_size)
        if distributed.is_first():
            if only is not None:
                dataset, found.results = of_classes(dataset, found.results, only)
            metrics = metrics_of(detector, dataset, found, max_dets)
            if found.with_masks and metrics["mask"] is None:
                typer.echo("the set has boxes alone: the masks are not scored")
            say(dataset.coco_ground_truth(), found.results, metrics)
            if out is not None:
                write_json(out / "eval.json", metrics)
                write_json(out / "detections.json", found.results)
    finally:
        distributed.stop()


def evaluate_classifier(
    run: Path | None,
    name: str | None,
    weights: str | None,
    settings: dict[str, Any],
    data: str,
    length: int | None,
    batch_size: int,
    device: str,
    out: Path | None,
) -> None:
    """Top-1 and top-5 accuracy on single shapes, or on a folder with one folder a class.

    Raises:
        ValueError: if the weights leave the predictor random, or the data have other classes.
    """
    import fbnet_lesson as fl
    from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS
    from fbnet_lesson.cli.data import SHAPES_SEEDS, parts_of
    from fbnet_lesson.data.classes import FolderClasses, ShapesClasses, middle_crop
    from fbnet_lesson.training import distributed
    from fbnet_lesson.training.checkpoint import write_json
    from fbnet_lesson.training.runs import load_run, run_edge
    from fbnet_lesson.training.tasks import task_of
    from fbnet_lesson.zoo.models import restore_model

    if settings.get("features_only"):
        raise ValueError("features_only=True leaves no classes to tell apart")
    if out is not None:
        check_out(out)
    chosen = distributed.start(TrainConfig(device=device).device)
    try:
        names = None  # of the classes, where they are known
        if run is not None:
            if weights:
                raise ValueError("--run has its own model and weights; leave out --weights")
            (model, names), edge = load_run(run, **settings), run_edge(run)
        else:
            edge = CLASSIFICATION_ARCHS[name].input_size
            if weights in (None, "pretrained"):
                model = fl.create_model(name, weights="pretrained", **settings)
            else:
                model, notes = restore_model(weights, name, **settings)
                names = notes.get("categories")
        if data == "shapes":
            dataset = ShapesClasses(length or 200, SHAPES_SEEDS["val"], edge)
        else:
            refuse_unused({"length": length}, "for --data shapes alone")
            folder, val_folder = parts_of(data)
            dataset = FolderClasses(val_folder or folder, middle_crop(edge), names)
        if names is not None and dataset.categories != names:
            raise ValueError(f"the model's classes are {', '.join(names)}, not those of {data}")
        if len(dataset.categories) != model.config.num_classes:
            raise ValueError(
                f"{data} has {len(dataset.categories)} classes and the model tells "
                f"{model.config.num_classes} apart"
            )
        task = task_of(model)
        metrics = task.evaluate(model.to(chosen), dataset, batch_size)
        if distributed.is_first():
            typer.echo(task.table(metrics))
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                write_json(out / "eval.json", metrics)
    finally:
        distributed.stop()


def evaluate_predictions(
    predictions: Path, data: str, images: str | None, max_dets: int, out: Path | None
) -> None:
    """Score anybody's COCO results; of the data set only the annotation file is needed."""
    from fbnet_lesson.training.checkpoint import write_json
    from fbnet_lesson.training.results import (
        check_match,
        read_results,
        read_truth,
        score_results,
    )

    if data == "shapes" or images is not None:
        raise ValueError("--predictions needs --data ANNOTATIONS.json, and no --images")
    if out is not None:
        check_out(out)
    truth, found = read_truth(data), read_results(predictions)
    check_match(found, truth)
    metrics = score_results(truth, found, max_dets)
    say(truth, found, metrics)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "eval.json", metrics)


def say(truth: dict[str, Any], found: list[dict[str, Any]], metrics: dict[str, Any]) -> None:
    """The table, and what stands behind odd numbers."""
    from fbnet_lesson.training.evaluation import table
    from fbnet_lesson.training.explain import explain

    typer.echo(f"{metrics['images']} images, {metrics['detections']} detections")
    typer.echo(table(metrics))
    for sentence in explain(truth, found, metrics):
        typer.echo(sentence)


def of_classes(dataset: Any, found: list[dict[str, Any]], only: list[str]) -> tuple[Any, list]:
    """The truth and the detections of some classes."""
    from fbnet_lesson.training.results import Truth

    truth = dataset.coco_ground_truth()
    categories = [c for c in truth["categories"] if c["name"] in only]
    ids = {category["id"] for category in categories}
    annotations = [a for a in truth["annotations"] if a["category_id"] in ids]
    truth = truth | {"categories": categories, "annotations": annotations}
    has_masks = getattr(dataset, "has_masks", True)
    return Truth(truth, has_masks), [r for r in found if r["category_id"] in ids]


def check_classes(
    names: list[str],
    category_ids: list[int],
    dataset: Any,
    known: list[str] | None,
    only: list[str] | None,
) -> None:
    """Say how the set's categories are mapped; ValueError for objects of a class that the detector
    has not, unless ``only`` some classes are to be looked at, and for one of those that is not
    there."""
    strange = [name for name in only or [] if name not in dataset.categories]
    if strange:
        raise ValueError(
            f"--classes has {strange[0]!r}; the detector knows {', '.join(dataset.categories)}"
        )
    others = [f"{n} ({count})" for n, count in getattr(dataset, "left_out", {}).items() if count]
    if others and only is None:
        raise ValueError(
            f"the detector knows {len(names)} classes ({', '.join(names)}), the data set has "
            f"objects of others: {', '.join(others)}; leave them out with --classes or map them "
            "with --map-classes"
        )
    if known is None:
        check_names(names, dataset.categories)
    elif hasattr(dataset, "labels"):
        for sentence in mapped_by_name("the set", dataset, "the detector's", category_ids):
            typer.echo(sentence)
