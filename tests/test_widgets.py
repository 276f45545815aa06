"""A picture with knobs: drawn anew by each turn, and never silent about what went wrong."""

from io import BytesIO

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from PIL import Image

from fbnet_lesson.course import build
from fbnet_lesson.course.widgets import explore


def slider(**options):
    return ipywidgets.FloatSlider(0.5, min=0, max=1, **options)


def grey(level: float):
    """A figure that is grey all over."""
    return plt.figure(figsize=(2, 1), facecolor=str(level))


def shown(explorer) -> tuple[tuple[int, int], float]:
    """Size of the picture that is shown, and its brightness."""
    pixels = Image.open(BytesIO(explorer.view.value)).convert("L")
    return pixels.size, np.array(pixels).mean() / 255


def test_the_controls_stand_above_the_picture_of_their_values():
    level = slider()
    explorer = explore(grey, level=level)
    assert isinstance(explorer, ipywidgets.VBox)
    assert explorer.children == (level, explorer.line, explorer.view)
    size, brightness = shown(explorer)
    assert size == (200, 100) and brightness == pytest.approx(0.5, abs=0.01)
    assert explorer.line.layout.display == "none"


def test_turning_a_control_draws_the_picture_of_the_new_value():
    level = slider()
    explorer = explore(grey, level=level)
    for value in (0.25, 1.0, 0.0):
        level.value = value
        assert shown(explorer)[1] == pytest.approx(value, abs=0.01)


def test_every_control_is_heard_and_all_values_are_handed_over():
    calls = []

    def picture(**values):
        calls.append(values)
        return grey(1)

    which, on = ipywidgets.Dropdown(options={"one": 1, "two": 2}), ipywidgets.ToggleButton()
    explore(picture, which=which, on=on)
    which.value = 2
    on.value = True
    assert calls == [dict(which=1, on=False), dict(which=2, on=False), dict(which=2, on=True)]


def test_a_control_keeps_its_description_and_when_it_answers():
    named, nameless = slider(description="score ≥", continuous_update=False), slider()
    explore(lambda a, b: grey(a), a=named, b=nameless)
    assert (named.description, nameless.description) == ("score ≥", "b")
    assert not named.continuous_update and nameless.continuous_update


def test_no_description_is_cut_off_and_they_end_in_one_column():
    long, short, button = slider(description="a rather long name"), slider(), ipywidgets.Button()
    toggle = ipywidgets.ToggleButton(layout={"width": "90px"})
    explore(lambda **values: grey(0), a=long, b=short, c=toggle)
    assert long.style.description_width == short.style.description_width == "19ch"
    assert (long.layout.width, toggle.layout.width) == ("480px", "90px")
    with pytest.raises(TypeError, match="is no control"):
        explore(grey, a=button)  # it has no value


def test_an_error_is_shown_in_place_of_the_picture_until_it_is_gone(capsys):
    def picture(level):
        figure = grey(level)
        if level > 0.5:
            raise ValueError("level < 0.5\nplease")
        return figure

    level = slider()
    explorer = explore(picture, level=level)
    level.value = 1.0
    assert "ValueError: level &lt; 0.5\nplease" in explorer.line.value
    assert explorer.view.layout.display == "none" and explorer.line.layout.display is None
    level.value = 0.25
    assert explorer.view.layout.display is None and explorer.line.layout.display == "none"
    assert shown(explorer)[1] == pytest.approx(0.25, abs=0.01)
    assert capsys.readouterr() == ("", "")


def test_an_error_at_the_first_picture_is_shown_too():
    explorer = explore(lambda other: grey(other), level=slider())
    assert "unexpected keyword argument" in explorer.line.value and "level" in explorer.line.value
    assert explorer.view.layout.display == "none"


def test_what_is_no_figure_is_named():
    explorer = explore(lambda level: plt.axes(), level=slider())
    assert "picture has to return a Figure, not Axes" in explorer.line.value


def test_what_a_picture_prints_stands_above_it(capsys):
    def picture(level):
        print("a", level, "<b>")
        return grey(level)

    level = slider()
    explorer = explore(picture, level=level)
    assert ">a 0.5 &lt;b&gt;<" in explorer.line.value and explorer.line.layout.display is None
    level.value = 1.0
    assert ">a 1.0 &lt;b&gt;<" in explorer.line.value
    assert capsys.readouterr() == ("", "")


def test_no_figure_is_left_open_but_those_that_were():
    mine = plt.figure()

    def picture(level):
        plt.figure()
        if level > 0.5:
            raise ValueError
        return grey(level)

    level = slider()
    explore(picture, level=level)
    level.value = 1.0
    assert plt.get_fignums() == [mine.number]
    plt.close(mine)


def test_what_is_no_control_is_refused():
    with pytest.raises(TypeError, match="level=0.5 is no control, such as ipywidgets.FloatSlider"):
        explore(grey, level=0.5)
    with pytest.raises(TypeError, match="is no control"):
        explore(grey, level=ipywidgets.Layout())
    with pytest.raises(TypeError, match="explore needs a control"):
        explore(grey)


def test_the_text_form_holds_values_and_errors_and_no_bytes():
    which = ipywidgets.Dropdown(options={"one": object(), "two": object()})
    explorer = explore(lambda level, which: grey(level), level=slider(), which=which)
    assert repr(explorer) == "explore(level=0.5, which='one')"
    assert explorer._repr_mimebundle_()["text/plain"] == repr(explorer)
    assert repr(explore(lambda: None, level=slider())).startswith(
        "explore(level=0.5) failed: TypeError: "
    )


LESSON = """\
# %%
import ipywidgets
import matplotlib.pyplot as plt
from fbnet_lesson.course.widgets import explore

# %%
explore(lambda level: plt.figure(facecolor=str(level)), level=ipywidgets.FloatSlider(0.5, max=1))
"""


def test_a_notebook_stores_the_text_form_and_no_picture(tmp_path):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "00_small.py").write_text(LESSON)
    build.build(root=tmp_path)
    for path in build.notebook_paths("00_small", tmp_path):
        (output,) = nbformat.read(path, as_version=4).cells[1].outputs
        assert output.data == {"text/plain": "explore(level=0.5)"}
