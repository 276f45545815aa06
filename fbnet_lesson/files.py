"""Writing files so that nobody ever finds half of one, and where what can be made again lies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

CACHE_VARIABLE = "FBNET_LESSON_CACHE"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only when it is complete and on the disk.

    If the block raises, ``path`` is left as it was. After a kill the next writer of ``path`` takes
    the leftover's place.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def cache_dir() -> Path:
    """``$FBNET_LESSON_CACHE``, else ``fbnet_lesson`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``.

    Source: XDG Base Directory Specification, where a relative ``$XDG_CACHE_HOME`` does not count.
    """
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "fbnet_lesson"
