"""A lesson in the real JupyterLab, in a real browser: it runs, and its slider moves the picture."""

import os
import subprocess
import sys
from io import BytesIO

import nbformat
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright, of the test extra, is not installed")
import lab_driver  # noqa: E402

pytestmark = pytest.mark.slow
NOTEBOOK = "workbook/00_welcome.ipynb"


@pytest.fixture(scope="module")
def browser():
    found = lab_driver.find_browser()
    if found is None:
        pytest.skip("no browser: install Chromium or Chrome to test the notebooks in JupyterLab")
    return found


def pixels(element) -> np.ndarray:
    return np.array(Image.open(BytesIO(element.screenshot())).convert("RGB"), dtype=int)


def test_a_lesson_runs_in_jupyterlab_and_its_slider_changes_the_picture(browser, tmp_path):
    clone = lab_driver.copy_clone(tmp_path)
    failed = tmp_path / "failed.png"
    with lab_driver.lab(clone) as address, lab_driver.page(address, browser, failed) as tab:
        lab_driver.open_notebook(tab, NOTEBOOK)
        cells = lab_driver.run_all(tab)
        assert lab_driver.failures(cells) == []
        assert tab.get_by_text("Jupyter news").count() == 0  # JupyterLab's first question

        # Cells out of sight are not on the page: scroll to the one with the slider.
        index = next(i for i, cell in enumerate(cells) if "Slider(" in "".join(cell["source"]))
        lab_driver.scroll_to_cell(tab, index)
        output = tab.locator(".jp-OutputArea-output", has=tab.locator(".widget-slider"))
        picture = output.locator("img.widget-image")
        picture.wait_for()
        readout = output.locator(".widget-readout").first
        before, value, source = pixels(picture), readout.inner_text(), picture.get_attribute("src")

        output.locator(".noUi-handle").first.focus()
        tab.keyboard.press("ArrowRight")
        tab.wait_for_function(
            "([image, old]) => image.src !== old && image.complete",
            arg=[picture.element_handle(), source],
        )
        assert float(readout.inner_text()) > float(value)
        after = pixels(picture)
        assert before.shape != after.shape or np.abs(before - after).max() > 50


def test_what_is_written_in_jupyterlab_is_there_after_an_update(browser, tmp_path):
    clone = lab_driver.copy_clone(tmp_path)
    built, copy = clone / "notebooks" / "00_welcome.ipynb", clone / NOTEBOOK
    lesson = nbformat.read(built, as_version=4)
    index = next(i for i, cell in enumerate(lesson.cells) if "exercise" in cell.metadata)
    written = "def box_area(boxes):\n    return 1"
    before = built.read_bytes()
    with (
        lab_driver.lab(clone) as address,
        lab_driver.page(address, browser, tmp_path / "failed.png") as tab,
    ):
        lab_driver.open_notebook(tab, NOTEBOOK)
        lab_driver.write_cell(tab, index, written)
    assert built.read_bytes() == before
    assert nbformat.read(copy, as_version=4).cells[index].source == written

    lesson.cells.insert(1, nbformat.v4.new_markdown_cell("A new text."))
    nbformat.write(lesson, built)
    path = os.pathsep.join(filter(None, [str(clone), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "fbnet_lesson", "update"]
    done = subprocess.run(
        command, cwd=clone, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.startswith("00_welcome: new version; kept: 1 exercise (box_area). Your old")
    cells = nbformat.read(copy, as_version=4).cells
    assert cells[1].source == "A new text." and cells[index + 1].source == written


def test_functions_of_a_file_take_the_place_of_the_cells_that_define_them(tmp_path):
    from nbformat.v4 import new_code_cell, new_notebook

    path, answers = tmp_path / "a.ipynb", tmp_path / "answers.py"
    sources = ["def area(box):\n    raise NotImplementedError", "area(1)", "%time 2"]
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    answers.write_text("import torch\n\n\ndef area(box):\n    return 1\n")
    assert lab_driver.replace_cells(path, answers) == ["area"]
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.source for cell in cells] == ["def area(box):\n    return 1", *sources[1:]]
    answers.write_text("def volume(box): ...")
    with pytest.raises(ValueError, match="no cell of a.ipynb defines volume"):
        lab_driver.replace_cells(path, answers)
