"""The command line: ``fbnet-lesson``, or ``python -m fbnet_lesson`` under torchrun.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

import os

import typer

from fbnet_lesson.cli import bench, course, data, evaluate, models, predict, train
from fbnet_lesson.cli.data import training_data
from fbnet_lesson.cli.threads import wait_politely

__all__ = ["app", "training_data"]

wait_politely(os.environ)  # which the kernels that ``lab`` starts inherit

app = typer.Typer(
    help="FBNet object detection, to learn and to use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
passes_on = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command(context_settings=passes_on)(course.lab)
app.command()(course.update)
app.command()(course.build)
app.command()(course.progress)
app.command()(models.models)
app.command()(train.train)
app.command("eval")(evaluate.evaluate)
app.command()(predict.predict)
app.command()(bench.bench)

data_app = typer.Typer(help="Make and check data sets.", no_args_is_help=True)
data_app.command()(data.shapes)
data_app.command()(data.check)
app.add_typer(data_app, name="data")
