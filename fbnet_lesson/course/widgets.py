"""Knobs to turn: a picture that is drawn anew whenever a control changes."""

import html
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fbnet_lesson.course.drawing import figure_png

CONTROL_WIDTH = "480px"  # with its description; a figure is 700 pixels wide


class Explorer(ipywidgets.VBox):
    """Controls above a line of text and a live image; made by ``explore``.

    Its text form, which a notebook stores and nbval compares, holds the values of the controls
    and, if the picture could not be drawn, why: nothing of the image's bytes.
    """

    def __init__(self, picture: Callable[..., Figure], controls: dict[str, ipywidgets.Widget]):
        self.picture = picture
        self.controls = controls
        self.error = ""
        self.line = ipywidgets.HTML()
        # Without align_self the column stretches the image to its own width.
        self.view = ipywidgets.Image(
            format="png", layout={"max_width": "100%", "align_self": "flex-start"}
        )
        super().__init__([*controls.values(), self.line, self.view])
        self.redraw()
        for control in controls.values():
            control.observe(self.redraw, "value")

    def redraw(self, _change: object = None) -> None:
        """Show the picture for the values of now; what it prints, or what goes wrong, above it."""
        open_before = set(plt.get_fignums())
        printed = StringIO()
        self.error = ""
        try:
            with redirect_stdout(printed):  # of a callback, it would end in the kernel's log
                figure = self.picture(**{name: c.value for name, c in self.controls.items()})
            if not isinstance(figure, Figure):
                raise TypeError(f"picture has to return a Figure, not {type(figure).__name__}")
            self.view.value = figure_png(figure)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:  # one left open would appear under the next cell
            for number in set(plt.get_fignums()) - open_before:
                plt.close(number)
        self.view.layout.display = "none" if self.error else None  # never an old picture
        text = html.escape((printed.getvalue() + self.error).rstrip())
        self.line.value = f"<pre style='margin: 0; white-space: pre-wrap'>{text}</pre>"
        self.line.layout.display = None if text else "none"

    def __repr__(self) -> str:
        # Of a list to choose from, the label: a value may be any object.
        values = {n: getattr(c, "label", c.value) for n, c in self.controls.items()}
        shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return f"explore({shown})" + (f" failed: {self.error}" if self.error else "")


def explore(picture: Callable[..., Figure], **controls: ipywidgets.Widget) -> Explorer:
    """Show ``controls`` above ``picture(**their values)``, and draw it again when one changes.

    ``explore(picture, score=ipywidgets.FloatSlider(0.5, max=1))`` calls ``picture(score=0.5)``,
    which returns a matplotlib figure. A control that has no description is called by its name
    here. If ``picture`` raises, the message stands in place of the picture.

    Raises:
        TypeError: for something that is not a control of ipywidgets, or none at all.
    """
    if not controls:
        raise TypeError("explore needs a control, such as score=ipywidgets.FloatSlider(0.5, max=1)")
    for name, control in controls.items():
        if not (isinstance(control, ipywidgets.Widget) and control.has_trait("value")):
            raise TypeError(f"{name}={control!r} is no control, such as ipywidgets.FloatSlider()")
    described = {name: c for name, c in controls.items() if c.has_trait("description")}
    for name, control in described.items():
        control.description = control.description or name
    longest = max((len(control.description) for control in described.values()), default=0)
    for control in described.values():  # in one column, and none cut off
        if control.style.has_trait("description_width"):
            control.style.description_width = f"{longest + 1}ch"
        control.layout.width = control.layout.width or CONTROL_WIDTH
    return Explorer(picture, controls)
