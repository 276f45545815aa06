"""Opens notebooks in the real JupyterLab, as ``fbnet-lesson lab`` starts it, in a headless browser.

For tests/test_lab.py, and to look at a lesson as its reader sees it:

    python tests/lab_driver.py notebooks/06_nms.ipynb --screenshots shots [--replace-cells FILE]

works on a copy of the clone, in the learner's copy of the lesson as ``lab`` makes it, runs all
cells, names those that fail, and writes pictures of the whole notebook. FILE is Python: each of its
functions takes the place of the cell that defines a function of that name, so that exercises can be
tried solved and solved wrongly.
"""

import argparse
import ast
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)  # fmt: skip
BROWSER_OPTIONS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]  # fmt: skip
START_SECONDS = 120  # for the server, the page, the kernel: each takes seconds, a busy machine more
RUN_SECONDS = 600  # for all cells
OVERLAP = 60  # pixels that two pictures share, so that no line is cut in both
# The notebook in front; `jupyterapp` is there because of expose_app_in_browser.
PANEL = "const panel = jupyterapp.shell.currentWidget;"


def find_browser() -> str | None:
    """The program of a Chromium or Chrome on this machine: the system's, or playwright's own."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


# --------------------------------------------------------------------------------------- a server


def copy_clone(folder: Path, notebook: Path | None = None) -> Path:
    """A clone in ``folder`` with its own notebooks and package, which runs may change.

    ``notebook`` from elsewhere is put among its notebooks.
    """
    clone = folder / "clone"
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("notebooks", "solutions", "fbnet_lesson"):
        shutil.copytree(ROOT / name, clone / name, ignore=ignore)
    (clone / "data").symlink_to(ROOT / "data")
    if notebook is not None:
        shutil.copy(notebook, clone / "notebooks")
    return clone


@contextmanager
def lab(clone: Path) -> Iterator[str]:
    """``fbnet-lesson lab`` of the clone, without a browser; gives its address, up to the ``?``."""
    home = clone.parent / "home"  # no settings, workspaces or kernels of the person who tests
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    path = os.pathsep.join(filter(None, [str(clone), os.environ.get("PYTHONPATH")]))
    own = {"HOME": str(home), "PYTHONPATH": path, "FBNET_LESSON_PROGRESS": str(home / "p.json")}
    others = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "XDG_"))}
    command = [
        sys.executable, "-m", "fbnet_lesson", "lab", "--no-browser", "--allow-root",
        "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}", "--expose-app-in-browser",
    ]  # fmt: skip
    with open(home / "lab.log", "wb") as log:
        server = subprocess.Popen(command, cwd=clone, env=others | own, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(server, f"{address}/api/status?token={token}", home / "lab.log")
        yield f"{address}/lab?token={token}"
    finally:
        stop = urllib.request.Request(f"{address}/api/shutdown?token={token}", method="POST")
        try:
            urllib.request.urlopen(stop, timeout=10).close()
            server.wait(30)  # with its kernels
        except (OSError, subprocess.TimeoutExpired):
            server.terminate()
            server.wait(30)


def wait_for_server(server: subprocess.Popen, address: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


# ----------------------------------------------------------------------------------------- a page


@contextmanager
def page(
    address: str, executable: str, failed: Path, width: int = 1100, height: int = 1400, whole=False
):
    """JupyterLab in a headless browser; with ``whole``, cells out of sight are drawn too.

    If the block raises, the picture ``failed`` shows what the browser showed.
    """
    from playwright.sync_api import sync_playwright

    if whole:
        set_whole(address)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=BROWSER_OPTIONS)
        tab = browser.new_page(viewport={"width": width, "height": height})
        tab.set_default_timeout(START_SECONDS * 1000)
        try:
            tab.goto(address)
            tab.wait_for_function("() => window.jupyterapp && jupyterapp.restored.then(() => true)")
            yield tab
        except BaseException as error:
            tab.screenshot(path=failed)
            print(f"{type(error).__name__}: what the browser showed is in {failed}")
            raise
        finally:
            browser.close()


def set_whole(address: str) -> None:
    """Tell JupyterLab to keep all cells of a notebook on the page, and nothing below them."""
    place, _, token = address.partition("/lab?")
    settings = json.dumps({"windowingMode": "none", "scrollPastEnd": False})
    request = urllib.request.Request(
        f"{place}/lab/api/settings/@jupyterlab/notebook-extension:tracker?{token}",
        data=json.dumps({"raw": settings}).encode(),
        headers={"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=START_SECONDS).close()


def open_notebook(tab, path: str) -> None:
    """Open the notebook, alone on the page, and wait until its kernel is there."""
    tab.evaluate(
        "async path => { await jupyterapp.commands.execute('application:set-mode',"
        " {mode: 'single-document'}); jupyterapp.shell.collapseLeft();"
        " await jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'}); }",
        path,
    )
    tab.wait_for_function(
        "path => {" + PANEL + " return panel?.context?.path === path && panel.revealed.then("
        "() => panel.sessionContext.ready).then(() => true); }",
        arg=path,
    )


def run_all(tab) -> list[dict]:
    """Run all cells and return them, as a notebook's file holds them."""
    tab.evaluate(
        "() => { window.allRan = null; jupyterapp.commands.execute('notebook:run-all-cells')"
        ".then(() => { window.allRan = true; }, () => { window.allRan = false; }); }"
    )
    tab.wait_for_function("() => window.allRan !== null", timeout=RUN_SECONDS * 1000)
    return tab.evaluate("() => {" + PANEL + " return panel.content.model.toJSON().cells; }")


def write_cell(tab, index: int, source: str) -> None:
    """Put ``source`` into a cell and save the notebook, as by typing and Ctrl-S."""
    tab.evaluate(
        "([index, source]) => {" + PANEL + " panel.content.widgets[index].model.sharedModel"
        ".setSource(source); return panel.context.save(); }",
        [index, source],
    )


def scroll_to_cell(tab, index: int) -> None:
    tab.evaluate(
        "index => {" + PANEL + " panel.content.activeCellIndex = index;"
        " return panel.content.scrollToItem(index, 'start'); }",
        index,
    )


def failures(cells: list[dict]) -> list[str]:
    """The code cells that raised or did not run, one line each."""
    found = []
    for index, cell in enumerate(cells):
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        errors = [o for o in cell["outputs"] if o["output_type"] == "error"]
        streams = [o for o in cell["outputs"] if o.get("name") == "stderr"]
        if errors:
            found.append(f"cell {index} raises {errors[0]['ename']}: {errors[0]['evalue']}")
        elif cell["execution_count"] is None:
            found.append(f"cell {index} did not run")
        for stream in streams:
            found.append(f"cell {index} writes to stderr: {''.join(stream['text'])[:200]!r}")
    return found


def screenshots(tab, folder: Path, stem: str) -> list[Path]:
    """Pictures of the whole notebook, one below the other: ``STEM-00.png``, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    box = tab.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer")
    total, shown = box.evaluate("e => [e.scrollHeight, e.clientHeight]")
    paths = []
    for number, top in enumerate(range(0, max(total - OVERLAP, 1), shown - OVERLAP)):
        box.evaluate("(e, top) => { e.scrollTop = top; }", top)
        # Two frames later it is drawn.
        tab.evaluate(
            "() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
        )
        paths.append(folder / f"{stem}-{number:02d}.png")
        box.screenshot(path=paths[-1])
    return paths


# --------------------------------------------------------------------------------------- a script


def replace_cells(path: Path, functions: Path) -> list[str]:
    """Put each function of ``functions`` in the cell that defines one of its name; their names.

    Raises:
        ValueError: for a function without a cell.
    """
    notebook = nbformat.read(path, as_version=4)
    text = functions.read_text()
    replaced = []
    for new in ast.parse(text).body:
        if not isinstance(new, ast.FunctionDef):
            continue
        cells = [
            cell for cell in notebook.cells
            if cell.cell_type == "code" and new.name in defined(cell.source)
        ]  # fmt: skip
        if not cells:
            raise ValueError(f"no cell of {path.name} defines {new.name}")
        cells[0].source = ast.get_source_segment(text, new)
        replaced.append(new.name)
    nbformat.write(notebook, path)
    return replaced


def defined(source: str) -> list[str]:
    """The functions that a cell defines; none, if it is no plain Python."""
    try:
        return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError:
        return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path, help="notebooks/NN_slug.ipynb, or any other file")
    parser.add_argument("--screenshots", type=Path, help="folder to write pictures to")
    parser.add_argument("--unfold", action="store_true", help="show hints and answers too")
    parser.add_argument("--replace-cells", type=Path, help="Python file with functions")
    parser.add_argument("--width", type=int, default=1000, help="of the window, in pixels")
    arguments = parser.parse_args()
    if not arguments.notebook.is_file():
        parser.error(f"{arguments.notebook} is not there")
    browser = find_browser()
    if browser is None:
        parser.error("no Chromium or Chrome is installed here")
    with tempfile.TemporaryDirectory() as folder:
        given = arguments.notebook.resolve()
        inside = given.is_relative_to(ROOT)
        relative = given.relative_to(ROOT) if inside else Path("notebooks", given.name)
        clone = copy_clone(Path(folder), None if inside else given)
        if arguments.replace_cells:
            names = replace_cells(clone / relative, arguments.replace_cells)
            print("replaced:", ", ".join(names))
        if relative.parent == Path("notebooks"):
            relative = Path("workbook", relative.name)
        failed = Path(arguments.screenshots or tempfile.gettempdir()) / "failed.png"
        size = {"width": arguments.width, "whole": True}
        with lab(clone) as address, page(address, browser, failed, **size) as tab:
            open_notebook(tab, relative.as_posix())
            start = time.perf_counter()
            cells = run_all(tab)
            print(f"{relative}: ran in {time.perf_counter() - start:.0f} s")
            problems = failures(cells)
            print("\n".join(problems) or "no cell failed")
            if arguments.unfold:
                tab.evaluate(
                    "document.querySelectorAll('details').forEach(d => { d.open = true; })"
                )
            if arguments.screenshots:
                for path in screenshots(tab, arguments.screenshots, relative.stem):
                    print(path)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
