"""``data``: make and check data sets; and what ``--data`` means to the other commands."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fbnet_lesson.cli.errors import one_line_errors
from fbnet_lesson.training.config import TrainConfig

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
        write_coco(out, images, seed=seed, size=(size, size))
    typer.echo(f"{images} scenes in {out}")


def check(
    annotations: Annotated[Path, typer.Argument(help="COCO-format JSON file")],
    images: Annotated[Path, typer.Option(help="folder of the pictures")],
) -> None:
    """Report every defect of a COCO-format data set; exit code 1 if there is one."""
    from fbnet_lesson.data import check_dataset

    with one_line_errors():
        report = check_dataset(annotations, images)
    typer.echo(report.table())
    raise typer.Exit(1 if report.defects else 0)


def parse_ids(text: str) -> list[int]:
    """``"0-3,7"`` as [0, 1, 2, 3, 7].

    Raises:
        ValueError: for anything but numbers and ranges of numbers.
    """
    ids: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is no list of image ids; allowed is such as 0-13,20")
        if dash and int(last) < int(first):
            raise ValueError(f"the range {part.strip()!r} of image ids runs backwards")
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


def coco_dataset(data: str, images: str | None, ids: str | None, drop: bool, **options: Any) -> Any:
    """A ``CocoDataset`` of some, or all, of its images; see ``find_annotations``."""
    from fbnet_lesson.data import CocoDataset

    annotations, folder = find_annotations(data, images)
    only = None if ids is None else parse_ids(ids)
    on_defect = "drop" if drop else "refuse"
    try:
        return CocoDataset(annotations, folder, only, on_defect=on_defect, **options)
    except ValueError as error:  # it speaks of Python, we of options
        raise ValueError(str(error).replace('on_defect="drop"', "--drop-defects")) from error


def training_data(source: dict[str, Any], config: TrainConfig, size: int) -> tuple[Any, Any]:
    """The data sets to train on and to evaluate on; the latter may be None.

    Raises:
        ValueError: if an image would be in both.
    """
    from fbnet_lesson.data import eval_transform, train_transform

    if source["data"] == "shapes":
        return shapes_data(source, config, size)
    if source["val_data"] is None and source["val_images"] is not None:
        raise ValueError("--val-images needs --val-data")
    drop = source["drop_defects"]
    # Pictures larger than the largest jitter are shrunk when read: the same result, sooner.
    shrunk = int(2 * size * max(1.0, config.scale_range[1]))
    train_set = coco_dataset(
        source["data"], source["images"], source["train_ids"], drop,
        transform=train_transform((size, size), config.scale_range), cache=True, max_edge=shrunk,
    )  # fmt: skip
    if source["val_data"] is None and source["val_ids"] is None:
        return train_set, None
    val_data, val_images = source["val_data"], source["val_images"]
    if val_data is None:
        val_data, val_images = source["data"], source["images"]
    val_set = coco_dataset(
        val_data, val_images, source["val_ids"], drop, transform=eval_transform()
    )
    both = set(train_set.image_ids) & set(val_set.image_ids)
    if source["val_data"] is None and both:
        raise ValueError(
            f"images {', '.join(map(str, sorted(both)[:5]))} would be trained on and evaluated on; "
            "give --train-ids and --val-ids without common ids"
        )
    if list(train_set.categories) != list(val_set.categories):
        raise ValueError(
            f"the training set has the categories {', '.join(train_set.categories)}, "
            f"the evaluation set {', '.join(val_set.categories)}"
        )
    return train_set, val_set


def shapes_data(source: dict[str, Any], config: TrainConfig, size: int) -> tuple[Any, Any]:
    """Scenes that are new each time and so need no augmentation, and held-out ones."""
    from fbnet_lesson.data import ShapesDataset, eval_transform

    length = source["train_length"] or config.iterations * config.batch_size
    scenes = {"size": (size, size), "transform": eval_transform()}
    return (
        ShapesDataset(length, seed=SHAPES_SEEDS["train"], **scenes),
        ShapesDataset(source["val_length"], seed=SHAPES_SEEDS["val"], **scenes),
    )


def evaluation_data(data, images, ids, length: int, drop: bool, size: int) -> Any:
    """The held-out scenes, or the images of a COCO set in their own size."""
    from fbnet_lesson.data import ShapesDataset, eval_transform

    if data == "shapes":
        scenes = {"size": (size, size), "transform": eval_transform()}
        return ShapesDataset(length, seed=SHAPES_SEEDS["val"], **scenes)
    return coco_dataset(data, images, ids, drop, transform=eval_transform())


def check_names(names: list[str], categories: list[str]) -> None:
    """ValueError unless the classes of the detector can be those of the data set."""
    if len(names) != len(categories) or (names != list(categories) and names[0] != "class 0"):
        raise ValueError(
            f"the detector knows {len(names)} classes ({', '.join(names)}), "
            f"the data set has {len(categories)} ({', '.join(categories)})"
        )
