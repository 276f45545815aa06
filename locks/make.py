"""Resolves the locks anew from pyproject.toml: ``make lock``, which needs uv.

``base.lock`` is what the package needs; ``EXTRA.lock`` holds only what that extra adds, in versions
that go with the base. Every line is one version with its hashes, and none names an index.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
OPTIONS = [
    "--quiet", "--no-config", "--universal", "--python-version", "3.10", "--generate-hashes",
    "--no-header", "--no-annotate", "--no-emit-index-url", *sys.argv[1:],
]  # fmt: skip


def resolve(output: Path, *options: str) -> None:
    subprocess.run(
        ["uv", "pip", "compile", "pyproject.toml", *OPTIONS, *options, "--output-file", output],
        cwd=LOCKS.parent, check=True, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def entries(lock: Path) -> list[str]:
    """A lock's lines, each with its hashes."""
    return re.findall(r"^\S.*(?:\n {4}.*)*\n", lock.read_text(), re.MULTILINE)


def main() -> None:
    project = (LOCKS.parent / "pyproject.toml").read_text()
    extras = re.search(
        r"^\[project\.optional-dependencies\]\n(.*?)^\[", project, re.MULTILINE | re.DOTALL
    )
    base = LOCKS / "base.lock"
    resolve(base)
    known = set(entries(base))
    for extra in re.findall(r"^([\w-]+) = \[", extras[1], re.MULTILINE):
        lock = LOCKS / f"{extra}.lock"
        if lock.exists():  # what the base has is preferred again
            lock.write_text(base.read_text() + lock.read_text())
        resolve(lock, "--extra", extra, "--constraint", str(base))
        lock.write_text("".join(e for e in entries(lock) if e not in known))


if __name__ == "__main__":
    main()
