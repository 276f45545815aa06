"""``predict``: objects in pictures, or what pictures show."""

from pathlib import Path
from typing import Annotated

import typer

from fbnet_lesson.cli.detectors import (
    MODEL,
    RUN,
    SET,
    WEIGHTS,
    is_classifier,
    load_detector,
    parse_settings,
)
from fbnet_lesson.cli.errors import one_line_errors
from fbnet_lesson.training.config import TrainConfig


def predict(
    pictures: Annotated[list[Path], typer.Argument(help="image files")],
    out: Annotated[
        Path | None, typer.Option(help="of a detector: folder for pictures and detections.json")
    ] = None,
    run: RUN = None,
    model: MODEL = None,
    weights: WEIGHTS = None,
    set_: SET = None,
    score: Annotated[
        float, typer.Option(min=0, max=1, help="of a detector: leave out what scores less")
    ] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
) -> None:
    """Find objects in pictures: annotated pictures and COCO results; a classifier names them."""
    from fbnet_lesson.inference.detections import predict_files
    from fbnet_lesson.training.distributed import choose_device

    if run is None and is_classifier(model):
        return name_pictures(pictures, out, model, weights, set_ or [], device)
    with one_line_errors():
        if out is None:
            raise ValueError("a detector needs --out FOLDER for its pictures and detections.json")
        chosen = choose_device(TrainConfig(device=device).device)
        detector, names = load_detector(run, model, weights, set_ or [])
        written = predict_files(detector.to(chosen), pictures, out, names, score)
    for picture, (file, results) in zip(pictures, written, strict=True):
        found = ", ".join(f"{r['category']} {r['score']:.2f}" for r in results) or "nothing found"
        typer.echo(f"{picture}: {found} -> {file}")
    typer.echo(f"COCO results: {out / 'detections.json'}")


def name_pictures(
    pictures: list[Path],
    out: Path | None,
    name: str,
    weights: str | None,
    settings: list[str],
    device: str,
) -> None:
    """Print the five likeliest classes of each picture."""
    import fbnet_lesson as fl
    from fbnet_lesson.inference.classes import classify
    from fbnet_lesson.training.distributed import choose_device

    with one_line_errors():
        if out is not None:
            raise ValueError(f"--out is for detectors; {name} is a classifier, its answer printed")
        chosen = choose_device(TrainConfig(device=device).device)
        model = fl.create_model(name, weights=weights or "pretrained", **parse_settings(settings))
        if model.head is None:
            raise ValueError("features_only=True leaves no classes to predict")
        top = min(5, model.config.num_classes)
        answers = classify(model.to(chosen), pictures, top)
    for picture, classes in zip(pictures, answers, strict=True):
        typer.echo(f"{picture}: {', '.join(f'{c} {p:.2f}' for c, p in classes)}")
