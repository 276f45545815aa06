"""``data``: make and check data sets; and what ``--data`` means to the other commands."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fbnet_lesson.cli.errors import one_line_errors
from fbnet_lesson.training.config import TrainConfig

MOST_IDS = 10_000_000  # in one range: more are a slip of the hand
SHAPES_SEEDS = {"train": 1, "val": 0}  # no scene is in both, nor in data/shapes (150)


def shapes(
    out: Annotated[Path, typer.Option(help="folder to write to")],
    images: Annotated[int, typer.Option(help="number of scenes")],
    seed: Annotated[int, typer.Option(help="which series of scenes")] = 0,
    size: Annotated[int, typer.Option(help="edge in pixels")] = 128,
) -> None:
    """Write procedural scenes with exact masks as a COCO-format folder."""
    from fbnet_lesson.data import write_coco

    with one_line_errors():
        if (out / "annotations.json").exists():
            raise ValueError(f"{out / 'annotations.json'} is there already; name another folder")
        write_coco(out, images, seed=seed, size=(size, size))
    typer.echo(f"{images} scenes in {out}")


def check(
    annotations: Annotated[Path, typer.Argument(help="COCO-format JSON file")],
    images: Annotated[Path, typer.Option(help="folder of the pictures")],
    fix: Annotated[
        Path | None, typer.Option(help="write the repaired annotations to this new file")
    ] = None,
    exif: Annotated[
        str | None, typer.Option(help="ignore or apply, where the size does not tell which")
    ] = None,
    pictures: Annotated[
        bool, typer.Option(help="decode the pictures; without, only look whether they are there")
    ] = True,
) -> None:
    """Report every defect of a COCO-format data set; exit code 1 if there is one.

    With --fix each repair is listed, and the exit code is 0 if the new file has no defect.
    """
    from fbnet_lesson.data import check_dataset

    depth = "whole" if pictures else "none"
    with one_line_errors():
        if exif not in (None, "ignore", "apply"):
            raise ValueError(f"--exif {exif}: allowed is ignore or apply")
        report = check_dataset(annotations, images, fix, exif, depth)
        after = check_dataset(fix, images, exif=exif, pictures=depth) if fix else report
    typer.echo(report.table())
    for note in report.notes:
        typer.echo(f"note: {note}")
    if report.classes:
        typer.echo(f"\n{report.class_table()}")
    if fix:
        typer.echo("\nrepairs:")
        for defect in report.defects:
            done = defect.repair or "left out"
            typer.echo(f"  {defect.where}: {defect.kind} ({defect.found}): {done}")
        typer.echo(f"{fix}: {after.table()}")
    raise typer.Exit(1 if after.defects else 0)


def parse_ids(text: str) -> list[int]:
    """``"0-3,7"`` as [0, 1, 2, 3, 7].

    Raises:
        ValueError: for anything but numbers and ranges of numbers, or one of no end.
    """
    ids: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is no list of image ids; allowed is such as 0-13,20")
        if dash and int(last) < int(first):
            raise ValueError(f"the range {part.strip()!r} of image ids runs backwards")
        if dash and int(last) - int(first) > MOST_IDS:
            raise ValueError(f"the range {part.strip()!r} has more than {MOST_IDS:,} image ids")
        ids += range(int(first), int(last or first) + 1)
    return ids


def find_annotations(data: str, images: str | None) -> tuple[Path, Path]:
    """The annotation file and the image folder that ``--data`` and ``--images`` mean.

    Raises:
        ValueError: if the file or the folder is not there, or it is not clear which file.
    """
    path = Path(data)
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if len(files) != 1:
            found = ", ".join(file.name for file in files) or "none"
            raise ValueError(
                f"--data {data} should hold one annotation file *.json (found: {found}); "
                "name the file instead"
            )
        path = files[0]
    if not path.is_file():
        raise ValueError(f"--data {data}: no such file; allowed is shapes, a COCO file or folder")
    beside = path.parent / "images"
    folder = Path(images) if images else beside if beside.is_dir() else path.parent
    if not folder.is_dir():
        raise ValueError(f"--images {folder}: no such folder")
    return path, folder


NOTED = {
    **dict.fromkeys(("data", "images", "train_ids", "val_ids", "val_data", "val_images"), str),
    **dict.fromkeys(("exif", "classes", "map_classes", "weights", "recipe"), str),
    **dict.fromkeys(("train_length", "val_length", "cache_mb"), int),
    **dict.fromkeys(("drop_defects", "boxes_as_masks"), bool),
}  # the options of ``train`` that a run notes, and as what


def noted_options(run: Path) -> dict[str, Any]:
    """What a run folder notes of the options of its training.

    Raises:
        ValueError: if it is no run folder, or damaged.
    """
    from fbnet_lesson.training.runs import read_config

    notes = read_config(run)["notes"]
    for name, kind in NOTED.items():
        value = notes.get(name)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{run / 'config.json'} is damaged: it notes {name}={value!r}")
    return notes


def refuse_unused(given: dict[str, Any], why: str) -> None:
    """ValueError that names those options that were given and would do nothing."""
    unused = [name for name, value in given.items() if value is not None and value is not False]
    if unused:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise ValueError(f"{names}: {why}")


def parse_classes(text: str | None) -> list[str] | None:
    """``"fig, date"`` as ["fig", "date"]."""
    return None if text is None else [name.strip() for name in text.split(",")]


def parse_class_map(text: str | None) -> dict[str, str]:
    """``"car=vehicle,truck=vehicle"`` as {"car": "vehicle", "truck": "vehicle"}.

    Raises:
        ValueError: for anything but pairs of names.
    """
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    if not all(old.strip() and new.strip() for old, _, new in pairs):
        raise ValueError(f"--map-classes {text}: allowed is such as car=vehicle,truck=vehicle")
    return {old.strip(): new.strip() for old, _, new in pairs}


OPTIONS = {  # what CocoDataset calls it, and what the command line does
    'on_defect="drop"': "--drop-defects",
    'exif="ignore"': "--exif ignore",
    'exif="apply"': "--exif apply",
    "exif is": "--exif is",
    "map_classes has": "--map-classes has",
    "classes is": "--classes is",
    "image_ids has": "the image ids asked for have",
    "cache is": "--cache-mb is",
}


def coco_dataset(data: str, images: str | None, ids: str | None, drop: bool, **options: Any) -> Any:
    """A ``CocoDataset`` of some, or all, of its images; see ``find_annotations``."""
    from fbnet_lesson.data import CocoDataset

    annotations, folder = find_annotations(data, images)
    only = None if ids is None else parse_ids(ids)
    on_defect = "drop" if drop else "refuse"
    try:
        return CocoDataset(annotations, folder, only, on_defect=on_defect, **options)
    except ValueError as error:  # it speaks of Python, we of options
        text = str(error)
        for ours, theirs in OPTIONS.items():
            text = text.replace(ours, theirs)
        raise ValueError(text) from error


def class_options(source: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``CocoDataset`` that ``--exif``, ``--classes``, ``--map-classes`` mean."""
    return {
        "exif": source.get("exif"),
        "classes": parse_classes(source.get("classes")),
        "map_classes": parse_class_map(source.get("map_classes")),
    }


def training_data(source: dict[str, Any], config: TrainConfig, size: int) -> tuple[Any, Any]:
    """The data sets to train on and to evaluate on; the latter may be None.

    source: the values of the options ``data images train_ids val_ids val_data val_images
    drop_defects`` and, where they are set, ``exif classes map_classes cache_mb``. Prints what
    there is to train on.

    Raises:
        ValueError: if an image would be in both, or no object reaches the model.
    """
    from fbnet_lesson.data import eval_transform, train_transform
    from fbnet_lesson.data.reach import reach
    from fbnet_lesson.data.samples import CACHE_MB

    if source["data"] == "shapes":
        return shapes_data(source, config, size)
    if source["val_data"] is None and source["val_images"] is not None:
        raise ValueError("--val-images needs --val-data")
    drop, chosen = source["drop_defects"], class_options(source)
    cache = CACHE_MB if source.get("cache_mb") is None else source["cache_mb"]
    # Pictures larger than the largest jitter are shrunk when read: the same result, sooner.
    shrunk = int(2 * size * max(1.0, config.scale_range[1]))
    train_set = coco_dataset(
        source["data"], source["images"], source["train_ids"], drop, **chosen,
        transform=train_transform(
            (size, size), config.scale_range, config.flip, config.colour, config.min_visible
        ),
        cache=cache, max_edge=shrunk,
    )  # fmt: skip
    reached = reach(train_set, (size, size), config.scale_range)
    if reached.expected == 0:
        found = reached.sentence((size, size)) or "the training set has no objects"
        raise ValueError(f"nothing to learn from: {found}")
    lines = ["training set: " + summary(train_set), *train_set.report.notes]
    lines += filter(None, [reached.sentence((size, size))])
    val_set = None
    if source["val_data"] is not None or source["val_ids"] is not None:
        val_data, val_images = source["val_data"], source["val_images"]
        if val_data is None:
            val_data, val_images = source["data"], source["images"]
        val_set = coco_dataset(
            val_data, val_images, source["val_ids"], drop,
            **chosen | {"classes": train_set.categories},
            transform=eval_transform(), masks=False,
        )  # fmt: skip
        lines += compare_sets(train_set, val_set, same_file=source["val_data"] is None)
    for line in lines:
        typer.echo(line)
    return train_set, val_set


def summary(dataset: Any) -> str:
    """``120 images, 840 objects: fig 500, date 340``."""
    counts = dataset.class_counts()
    shown = sorted(counts.items(), key=lambda item: -item[1])
    classes = ", ".join(f"{name} {count:,}" for name, count in shown[:20])
    more = f" and {len(shown) - 20} more classes" if len(shown) > 20 else ""
    return f"{len(dataset):,} images, {sum(counts.values()):,} objects: {classes}{more}"


def compare_sets(train_set: Any, val_set: Any, same_file: bool) -> list[str]:
    """What there is to say of the two sets together.

    Raises:
        ValueError: if a picture is in both, or the evaluation set has objects of a class that the
            training set has not.
    """
    from fbnet_lesson.data.copies import shared_contents, shared_files

    both = [i for i in val_set.image_ids if i in set(train_set.image_ids)] if same_file else []
    if both:
        raise ValueError(
            f"images {', '.join(map(str, sorted(both)[:5]))} would be trained on and evaluated on; "
            "give --train-ids and --val-ids without common ids"
        )
    unknown = [  # those of the training set are left out on purpose, by --classes
        f"{name} ({count})"
        for name, count in val_set.left_out.items()
        if count and name not in train_set.left_out
    ]
    if unknown:
        raise ValueError(
            f"the evaluation set has objects of classes that the training set has not: "
            f"{', '.join(unknown)}; name those to use with --classes, or make them one with "
            "--map-classes"
        )
    lines = ["evaluation set: " + summary(val_set), *val_set.report.notes]
    lines += mapped_by_name("evaluation set", val_set, "those of training", train_set.category_ids)
    for shared, how in ((shared_files, "file"), (shared_contents, "content")):
        if pairs := shared(train_set, val_set):
            ours, theirs = pairs[0]
            lines.append(
                f"{len(pairs)} pictures of the evaluation set are trained on too, by their {how}: "
                f"{val_set.file_names[theirs]} is {train_set.file_names[ours]}; what is measured "
                "on them says nothing about new pictures"
            )
            break
    return lines


def mapped_by_name(what: str, dataset: Any, whose: str, category_ids: list[int]) -> list[str]:
    """A sentence if the categories of the set are not those with these ids: if they are in another
    order, numbered otherwise, or fewer."""
    if dataset.category_ids == category_ids and not dataset.absent:
        return []
    fewer = f"it has no category {', '.join(dataset.absent)}; " if dataset.absent else ""
    return [f"{what}: {fewer}its categories are mapped to {whose} by name"]


def shapes_data(source: dict[str, Any], config: TrainConfig, size: int) -> tuple[Any, Any]:
    """Scenes that are new each time and so need no augmentation, and held-out ones."""
    from fbnet_lesson.data import ShapesDataset, eval_transform

    length = source["train_length"]
    length = config.iterations * config.batch_size if length is None else length
    scenes = {"size": (size, size), "transform": eval_transform()}
    return (
        ShapesDataset(length, seed=SHAPES_SEEDS["train"], **scenes),
        ShapesDataset(source["val_length"], seed=SHAPES_SEEDS["val"], **scenes),
    )


def parts_of(folder: str) -> tuple[Path, Path | None]:
    """The folders of classes to train on and to evaluate on: ``train`` and ``val`` of a folder, or
    itself and None."""
    path = Path(folder)
    parts = path / "train", path / "val"
    return parts if all(part.is_dir() for part in parts) else (path, None)


def classification_data(source: dict[str, Any], config: TrainConfig, edge: int) -> tuple[Any, Any]:
    """The data sets of a classifier, to train on and to evaluate on; the latter may be None.

    source: the values of the options ``data val_data train_length val_length``. A folder holds one
    folder a class, or ``train`` and ``val`` with one a class. Prints what there is to train on.
    """
    from fbnet_lesson.data.classes import FolderClasses, ShapesClasses, middle_crop, train_crops

    if source["data"] == "shapes":
        length = source["train_length"]
        length = config.iterations * config.batch_size if length is None else length
        return (
            ShapesClasses(length, SHAPES_SEEDS["train"], edge),
            ShapesClasses(source["val_length"], SHAPES_SEEDS["val"], edge),
        )
    folder, val_folder = parts_of(source["data"])
    val_folder = source["val_data"] or val_folder
    train_set = FolderClasses(folder, train_crops(edge, config.flip, config.colour))
    val_set = None
    if val_folder is not None:
        val_set = FolderClasses(val_folder, middle_crop(edge), train_set.categories)
    for name, dataset in (("training", train_set), ("evaluation", val_set)):
        if dataset is not None:
            counts = ", ".join(f"{k} {n:,}" for k, n in list(dataset.class_counts().items())[:20])
            typer.echo(f"{name} set: {len(dataset):,} pictures: {counts}")
    return train_set, val_set


def evaluation_data(
    data: str,
    images: str | None,
    ids: str | None,
    length: int,
    drop: bool,
    size: int,
    source: dict[str, Any] | None = None,
    categories: list[str] | None = None,
) -> Any:
    """The held-out scenes, or the images of a COCO set in their own size.

    source: ``exif map_classes``, as in ``training_data``. categories: the classes of the detector
    in the order of its labels, to which those of the set are mapped by name; None where it does
    not name them.
    """
    from fbnet_lesson.data import ShapesDataset, eval_transform

    if data == "shapes":
        scenes = {"size": (size, size), "transform": eval_transform()}
        return ShapesDataset(length, seed=SHAPES_SEEDS["val"], **scenes)
    chosen = class_options(source or {}) | {"classes": categories}
    return coco_dataset(data, images, ids, drop, **chosen, transform=eval_transform(), masks=False)


def check_names(names: list[str], categories: list[str]) -> None:
    """ValueError unless the classes of the detector can be those of the data set."""
    if len(names) != len(categories) or (names != list(categories) and names[0] != "class 0"):
        raise ValueError(
            f"the detector knows {len(names)} classes ({', '.join(names)}), "
            f"the data set has {len(categories)} ({', '.join(categories)})"
        )
