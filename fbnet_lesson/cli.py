"""The command line: ``fbnet-lesson``, or ``python -m fbnet_lesson`` under torchrun.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import os
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fbnet_lesson.training.config import TrainConfig

app = typer.Typer(
    help="FBNet object detection, to learn and to use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make and check data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

DEFAULT_MODEL = "lesson/mask_rcnn_tiny"
SHAPES_SEEDS = {"train": 1, "val": 0}  # no scene is in both, nor in data/shapes (150)


def fail(message: str, code: int = 2) -> typing.NoReturn:
    """End with the message, mostly one line, on stderr."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What is wrong with the options is said, with exit code 2 and never a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        fail(str(error))


# lab, build, progress, models


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open the course in JupyterLab; further options, such as --no-browser, are Jupyter's."""
    root = Path(__file__).resolve().parent.parent
    notebook = root / "notebooks" / "00_welcome.ipynb"
    if not notebook.exists():
        fail(f"{notebook} is not there: the course is opened from a clone of the repository")
    # The whole clone in the file browser, so that solutions/ is one click away; no news from afar,
    # nor a question about them: the folder course/jupyter holds those defaults.
    command = [
        sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}",
        "--LabApp.default_url=/lab/tree/notebooks/00_welcome.ipynb",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", *context.args,
    ]  # fmt: skip
    defaults = Path(__file__).parent / "course" / "jupyter"
    paths = [str(defaults), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    environment = {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}
    with contextlib.suppress(KeyboardInterrupt):  # Jupyter has answered it already
        raise typer.Exit(subprocess.run(command, cwd=root, env=environment).returncode)


@app.command()
def build(
    lessons: Annotated[
        list[str] | None, typer.Argument(help="such as 06_nms, or its number; by default all")
    ] = None,
) -> None:
    """Build notebooks/ and solutions/*.ipynb from solutions/*.py."""
    from fbnet_lesson.course.build import LessonError, build

    with one_line_errors():
        slugs = list(dict.fromkeys(map(lesson_slug, lessons))) if lessons else None
    try:
        build(slugs)
    except LessonError as error:
        fail(str(error), code=1)


def lesson_slug(lesson: str) -> str:
    """``"06_nms"`` of itself, ``"06"`` or ``"6"``.

    Raises:
        ValueError: names the lessons that there are.
    """
    from fbnet_lesson.course.build import lesson_slugs

    slugs = lesson_slugs()
    for slug in slugs:
        number = slug.partition("_")[0]
        if lesson == slug or (lesson.isdecimal() and int(lesson) == int(number)):
            return slug
    raise ValueError(f"there is no lesson {lesson!r}; there are: {', '.join(slugs) or 'none'}")


@app.command()
def progress(
    reset: Annotated[bool, typer.Option("--reset", help="forget all passed checks")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="with --reset: do not ask")] = False,
) -> None:
    """Show which checks have passed; they are remembered on this machine only."""
    from fbnet_lesson.course import progress

    with one_line_errors():
        if not reset:
            typer.echo(progress.table(course_exercises()))
            return
        path = progress.progress_file()
        if path is None or not path.exists():
            typer.echo("nothing is remembered")
            return
        if on_a_terminal() and not yes:
            typer.confirm(f"Forget all that {path} remembers?", abort=True)
        progress.reset()
    typer.echo("all passed checks are forgotten")


def on_a_terminal() -> bool:
    return sys.stdin.isatty()


def course_exercises() -> dict[str, list[str]]:
    """The names of each lesson's exercises; a lesson by its slug where its source is at hand."""
    from fbnet_lesson.course.build import lesson_slugs
    from fbnet_lesson.course.exercises import LESSONS

    slugs = {slug.partition("_")[0]: slug for slug in lesson_slugs()}
    return {slugs.get(n, n): [e.name for e in exercises] for n, exercises in LESSONS.items()}


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="such as 'd2go/*'")] = "*",
    markdown: Annotated[bool, typer.Option("--markdown", help="as the README shows it")] = False,
) -> None:
    """List the models by name, with their size, published accuracy and weights."""
    import fbnet_lesson as fl
    from fbnet_lesson.model_table import as_markdown, as_text

    names = fl.list_models(pattern)
    if not names:
        fail(f"no model matches {pattern!r}; known are {', '.join(fl.list_models())}")
    typer.echo(as_markdown(names) if markdown else as_text(names))


# data


@data_app.command()
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


@data_app.command()
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


# train, eval, predict


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


@app.command()
@with_train_options
def train(
    out: Annotated[Path, typer.Option(help="run folder: config, metrics, checkpoints, weights")],
    data: Annotated[
        str | None, typer.Option(help="shapes, a COCO annotation file, or a folder with one")
    ] = None,
    images: Annotated[str | None, typer.Option(help="folder of the pictures of --data")] = None,
    train_ids: Annotated[
        str | None, typer.Option(help="train on these image ids only, such as 0-13,20")
    ] = None,
    val_ids: Annotated[str | None, typer.Option(help="evaluate on these image ids")] = None,
    val_data: Annotated[str | None, typer.Option(help="evaluate on another COCO set")] = None,
    val_images: Annotated[
        str | None, typer.Option(help="folder of the pictures of --val-data")
    ] = None,
    drop_defects: Annotated[
        bool | None, typer.Option("--drop-defects", help="leave out what is broken in the data")
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
        typer.Option(help="start from these: shapes, a file, or pretrained, with --set trunk=NAME"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="a field of DetectorConfig, such as norm=GN, or trunk=CLASSIFIER; may be repeated",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the run in --out, with its settings")
    ] = False,
    *,
    train_options: dict[str, Any],
) -> None:
    """Train a detector; under torchrun on many processes.

    With shapes, training and evaluation scenes are rendered; otherwise any COCO-format data set.
    """
    given = {
        "data": data, "images": images, "train_ids": train_ids, "val_ids": val_ids,
        "val_data": val_data, "val_images": val_images, "drop_defects": drop_defects,
        "train_length": train_length, "val_length": val_length, "weights": weights,
    }  # fmt: skip
    with one_line_errors(), quiet_unless_first():
        from fbnet_lesson.training import distributed

        plan = plan_training(out, given, model, set_ or [], train_options, resume)
        distributed.start(plan.config.device)
    try:
        with quiet_unless_first():
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
    refuse_classifier("train", model)
    source = {"drop_defects": False, "val_length": 200}
    noted: dict[str, Any] = {}
    if resume and (out / "config.json").exists():
        from fbnet_lesson.training.runs import read_config

        noted = read_config(out)
        source = noted["notes"]
    source = {key: source.get(key) if value is None else value for key, value in given.items()}
    if source["data"] is None:
        raise ValueError("--data is missing: shapes, a COCO annotation file, or a folder with one")
    return Plan(
        model or noted.get("model_name", DEFAULT_MODEL),
        {**noted.get("model_config", {}), **parse_settings(settings)},
        source,
        TrainConfig.from_dict({**noted.get("train", {}), **train_options}),
    )


def run_training(out: Path, plan: Plan, resume: bool) -> None:
    """Build data and model, train, print the result."""
    import torch

    import fbnet_lesson as fl
    from fbnet_lesson.training.evaluation import table
    from fbnet_lesson.training.loop import NonFiniteError, RunFolderError, train

    with one_line_errors():
        size = plan.config.image_size or model_size(plan.model, plan.model_fields)
        train_set, val_set = training_data(plan.source, plan.config, size)
        fields = {"num_classes": len(train_set.categories), **plan.model_fields}
        torch.manual_seed(plan.config.seed)
        begun = any((out / name).exists() for name in ("last.pt", "previous.pt"))
        weights = None if begun else plan.source["weights"]  # of a begun run: its checkpoint's
        model = fl.create_model(plan.model, weights=weights, **fields)
    try:
        result = train(
            model, train_set, val_set, plan.config, out, resume=resume, notes=plan.source
        )
    except RunFolderError as error:
        fail(str(error))
    except NonFiniteError as error:
        fail(str(error), code=1)
    if result["metrics"] is not None:
        typer.echo(table(result["metrics"]))
    typer.echo(f"weights: {out / 'model.safetensors'}")


def model_size(name: str, fields: dict[str, Any]) -> int:
    """The short edge in pixels that the model resizes to."""
    import torch

    import fbnet_lesson as fl

    with torch.device("meta"), contextlib.redirect_stdout(None):
        return fl.create_model(name, **fields).config.min_size


@contextlib.contextmanager
def quiet_unless_first() -> Iterator[None]:
    """One of many processes speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def is_classifier(name: str | None) -> bool:
    from fbnet_lesson.classification_archs import CLASSIFICATION_ARCHS

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
    from fbnet_lesson.predict import class_names

    return list(CATEGORIES) if weights == "shapes" else class_names(weights, count)


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


@app.command("eval")
def evaluate_command(
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


@app.command()
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
    from fbnet_lesson.predict import predict_files
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
    from fbnet_lesson.classify import classify
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


@app.command()
def bench(
    only: Annotated[str, typer.Option(help="rows whose section or name contains this")] = "",
    threads: Annotated[int, typer.Option(min=1, help="of PyTorch")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="for each row, about")] = 3.0,
    table: Annotated[bool, typer.Option(help="the comparison, row by row")] = True,
    memory: Annotated[bool, typer.Option(help="measure peak memory too (Linux)")] = True,
    profile: Annotated[bool, typer.Option("--profile", help="and where the time goes")] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="and plots over batch, size, ROIs, threads, processes")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="write table, profiles and plots to this folder")
    ] = None,
) -> None:
    """Ours against the peers in the same run: time and memory, as ratios."""
    if scaling and out is None:
        fail("--scaling draws plots: --out says to which folder")
    from fbnet_lesson.benchmarks.command import run

    with one_line_errors():
        for text in run(only, threads, seconds, table, memory, profile, scaling, out):
            typer.echo(text)


if __name__ == "__main__":
    app()
