"""``predict``: objects in pictures, or what pictures show."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from fbnet_lesson.cli.data import find_annotations, noted_options
from fbnet_lesson.cli.detectors import (
    EXIF,
    MODEL,
    RUN,
    SET,
    WEIGHTS,
    load_detector,
    means_classifier,
    parse_settings,
)
from fbnet_lesson.cli.errors import check_out, fail, whole_command
from fbnet_lesson.training.config import TrainConfig


@whole_command
def predict(
    pictures: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
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
    tiles: Annotated[
        int | None,
        typer.Option(min=32, help="look at tiles of so many pixels, too: for small objects"),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="COCO file that has the pictures: take its ids")
    ] = None,
    images: Annotated[str | None, typer.Option(help="folder of the pictures of --data")] = None,
    exif: EXIF = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
) -> None:
    """Find objects in pictures: annotated pictures and COCO results; a classifier names them.

    A picture that cannot be read is listed; then the exit code is 1.
    """
    from fbnet_lesson.data.pictures import check_image
    from fbnet_lesson.inference.detections import pictures_in, predict_files
    from fbnet_lesson.training.distributed import choose_device
    from fbnet_lesson.training.evaluation import limit_reached

    if means_classifier(run, model):
        return name_pictures(pictures, out, run, model, weights, set_ or [], device)
    if out is None:
        raise ValueError("a detector needs --out FOLDER for its pictures and detections.json")
    check_out(out)
    chosen = choose_device(TrainConfig(device=device).device)
    detector, names, ids = load_detector(run, model, weights, set_ or [])
    files = pictures_in(pictures)
    known, ids, lines = identify(files, run, data, images, exif, names, ids)
    if len(problems := list(filter(None, (problem_of(check_image, f) for f in files)))) == len(
        files
    ):
        raise ValueError("; ".join(problems[:3]))
    for line in lines:
        typer.echo(line)
    failed, limits = [], Counter()
    for done in predict_files(
        detector.to(chosen), files, out, names, score,
        category_ids=ids, image_ids=known.image_ids, exif=known.exif, tiles=tiles,
    ):  # fmt: skip
        if done.error:
            failed.append(done.error)
            typer.echo(f"{done.picture}: left out")
            continue
        shown = ", ".join(f"{r['category']} {r['score']:.2f}" for r in done.results)
        typer.echo(f"{done.picture}: {shown or 'nothing found'} -> {done.file}")
        limits.update(done.limits)
    typer.echo(f"COCO results: {out / 'detections.json'}")
    for name, count in limits.items():
        typer.echo(limit_reached(detector, name, count, len(files)))
    if failed:
        fail(f"{len(failed)} of {len(files)} pictures were left out: {'; '.join(failed)}", code=1)


def problem_of(check: Callable[[Path], None], path: Path) -> str:
    try:
        check(path)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"cannot read the picture {path}: {error.strerror}"
    return ""


@dataclass
class Known:
    """What annotation files say of pictures: the image id, and which of their pixels are meant,
    ``"apply"`` for the upright ones or ``"ignore"`` for those stored."""

    image_ids: dict[Path, int] = field(default_factory=dict)
    exif: dict[Path, str] = field(default_factory=dict)


def identify(
    files: list[Path],
    run: Path | None,
    data: str | None,
    images: str | None,
    exif: str | None,
    names: list[str],
    ids: list[int],
) -> tuple[Known, list[int], list[str]]:
    """What is known of the pictures, the category ids of the classes, and what is to be said.

    By the set of ``--data``; without it, by the set that the run was trained on, where its
    annotation file is still there. ``exif``: where a picture's size does not tell which of its
    pixels the annotations are in; by default as the run did, else ``"apply"``.
    """
    from fbnet_lesson.inference.identity import (
        ids_of_classes,
        ids_of_pictures,
        pixels_of_pictures,
        read_annotations,
    )

    if data is None and images is not None:
        raise ValueError("--images needs --data: the annotation file that has the pictures")
    if exif not in (None, "ignore", "apply"):
        raise ValueError(f"--exif {exif}: allowed is ignore or apply")
    notes = noted_options(run) if run is not None else {}
    exif = exif or notes.get("exif") or "apply"

    def known_of(content: dict[str, Any], folder: Path) -> Known:
        found = ids_of_pictures(files, content["images"], folder)
        return Known(found, pixels_of_pictures(found, content["sizes"], exif))

    if data is None:
        known, lines = Known(), []
        for prefix in ("val_", ""):
            source = notes.get(f"{prefix}data")
            if source in (None, "shapes") or not Path(source).exists():
                continue
            try:
                annotations, folder = find_annotations(source, notes.get(f"{prefix}images"))
                part = known_of(read_annotations(annotations), folder)
            except ValueError as error:  # nobody has asked for it
                lines.append(f"no image ids are taken from the run's set {source}: {error}")
                continue
            known.image_ids |= part.image_ids
            known.exif |= part.exif
        if known.image_ids:
            counts = f"{len(known.image_ids)} of {len(files)}"
            lines.append(f"{counts} pictures are of the sets of the run: their ids are taken")
        return known, ids, lines + as_stored(known)
    annotations, folder = find_annotations(data, images)
    content = read_annotations(annotations)
    known = known_of(content, folder)
    category_ids, missing = ids_of_classes(names, ids, content["categories"])
    counts = f"{len(known.image_ids)} of {len(files)}"
    lines = [f"{counts} pictures are in {annotations}: its image ids are taken"]
    if missing:
        lines.append(f"{annotations} has no category {', '.join(missing)}: those keep their ids")
    if category_ids != ids:
        lines.append(f"category ids are those of {annotations}, mapped by name")
    return known, category_ids, lines + as_stored(known)


def as_stored(known: Known) -> list[str]:
    """A sentence if pictures are looked at as nobody sees them."""
    count = sum(how == "ignore" for how in known.exif.values())
    what = "are annotated in the pixels as stored, and looked at so: their EXIF turn is ignored"
    return [f"{count} pictures {what}"] if count else []


def name_pictures(
    pictures: list[Path],
    out: Path | None,
    run: Path | None,
    name: str | None,
    weights: str | None,
    settings: list[str],
    device: str,
) -> None:
    """Print the five likeliest classes of each picture."""
    import fbnet_lesson as fl
    from fbnet_lesson.inference.classes import classify
    from fbnet_lesson.training.distributed import choose_device
    from fbnet_lesson.training.runs import load_run, run_edge
    from fbnet_lesson.training.tasks import prepare_middle
    from fbnet_lesson.zoo.models import restore_model

    if out is not None:
        raise ValueError("--out is for detectors; the answer of a classifier is printed")
    fields = parse_settings(settings)
    if fields.get("features_only"):
        raise ValueError("features_only=True leaves no classes to predict")
    chosen, prepare, names = choose_device(TrainConfig(device=device).device), None, None
    if run is None and weights in (None, "pretrained"):
        model = fl.create_model(name, weights="pretrained", **fields)
    elif run is None:
        model, notes = restore_model(weights, name, **fields)
        names = notes.get("categories")
    elif name or weights:
        raise ValueError("--run has its own model and weights; leave out --model and --weights")
    else:
        model, names = load_run(run, **fields)
        prepare = prepare_middle(run_edge(run))
    top = min(5, model.config.num_classes)
    answers = classify(model.to(chosen), pictures, top, prepare, names)
    for picture, classes in zip(pictures, answers, strict=True):
        typer.echo(f"{picture}: {', '.join(f'{c} {p:.2f}' for c, p in classes)}")
