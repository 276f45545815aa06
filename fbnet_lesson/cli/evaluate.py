"""``eval``."""

from pathlib import Path
from typing import Annotated

import typer

from fbnet_lesson.cli.data import check_names, evaluation_data
from fbnet_lesson.cli.detectors import MODEL, RUN, SET, WEIGHTS, load_detector, refuse_classifier
from fbnet_lesson.cli.errors import one_line_errors, quiet_unless_first
from fbnet_lesson.training.config import TrainConfig


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
    length: Annotated[int, typer.Option(help="with shapes: so many scenes")] = 200,
    drop_defects: Annotated[
        bool, typer.Option("--drop-defects", help="leave out what is broken in the data")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="images at once")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="write eval.json and detections.json to this folder")
    ] = None,
) -> None:
    """COCO average precision of a detector; under torchrun on many processes."""
    with quiet_unless_first():
        from fbnet_lesson.training import distributed
        from fbnet_lesson.training.checkpoint import write_json
        from fbnet_lesson.training.evaluation import detect, score, table

        with one_line_errors():
            refuse_classifier("eval", model)
            chosen = distributed.start(TrainConfig(device=device).device)
            detector, names = load_detector(run, model, weights, set_ or [])
            size = detector.config.min_size
            dataset = evaluation_data(data, images, ids, length, drop_defects, size)
            check_names(names, dataset.categories)
        found, with_masks = detect(detector.to(chosen), dataset, batch_size=batch_size)
        if distributed.is_first():
            metrics = score(dataset, found, with_masks)
            typer.echo(f"{metrics['images']} images, {metrics['detections']} detections")
            typer.echo(table(metrics))
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                write_json(out / "eval.json", metrics)
                write_json(out / "detections.json", found)
        distributed.stop()
