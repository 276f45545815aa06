"""What is known of the picture files of a folder, remembered from one check to the next.

One JSON file a picture folder, in ``cache_dir()``: names, sizes and times of change of the files,
and their ``Header``. A file that has changed since, by size or time, is read again; a file of
notes that cannot be read, or cannot be written, costs only time.
"""

from __future__ import annotations

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from hashlib import blake2b
from pathlib import Path

from tqdm import tqdm

from fbnet_lesson.files import atomic_file, cache_dir

from .pictures import Header, read_header, read_whole

VERSION = 1
TOGETHER = 32  # files that a thread reads before it takes more


def read_headers(folder, files, whole=False):
    """For each file of ``folder``: its ``Header``, or the ValueError of reading it, by name.

    files: {name: ``stamp`` of the file}. whole: every picture is decoded, once, so that a file
    broken in the middle is found, and its ``content`` is known.
    """
    notes = _Notes(folder)
    found = {name: notes.get(name, stamp, whole) for name, stamp in files.items()}
    missing = [name for name, header in found.items() if header is None]
    if not missing:
        return found
    parts = [missing[i : i + TOGETHER] for i in range(0, len(missing), TOGETHER)]
    read = read_whole if whole else read_header

    def read_all(part):
        return [_try(read, os.path.join(folder, name)) for name in part]

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(missing), desc="checking images", delay=2, leave=False) as bar,
    ):
        for part, headers in zip(parts, pool.map(read_all, parts), strict=True):
            found.update(zip(part, headers, strict=True))
            bar.update(len(part))
    notes.put({name: (files[name], found[name]) for name in missing})
    return found


def stamp(stat):
    """What tells a changed file, of an ``os.stat``: its size in bytes, its time of change in ns."""
    return stat.st_size, stat.st_mtime_ns


def _try(read, path):
    try:
        return read(path)
    except ValueError as error:
        return error


class _Notes:
    """The notes about one folder."""

    def __init__(self, folder):
        folder = os.path.realpath(folder)
        digest = blake2b(os.fsencode(folder), digest_size=12).hexdigest()
        self.path = cache_dir() / "pictures" / f"{digest}.json"
        self.known = {}
        with contextlib.suppress(OSError, ValueError, AttributeError):
            notes = json.loads(self.path.read_bytes())
            if notes.get("version") == VERSION and notes.get("folder") == folder:
                self.known = notes["pictures"]
        self.folder = folder

    def get(self, name, stamp, whole):
        """The header of a file that has not changed, if it is known well enough."""
        try:
            size, time, width, height, orientation, content, values = self.known[name]
        except (KeyError, TypeError, ValueError):
            return None
        if stamp != (size, time) or (whole and not content):
            return None
        return Header(width, height, orientation, content, values and tuple(values))

    def put(self, found):
        """Note the headers of ``{name: (stamp, header or error)}``; errors are not noted."""
        for name, (stamp, header) in found.items():
            if isinstance(header, Header):
                self.known[name] = [*stamp, *astuple(header)]
        text = json.dumps({"version": VERSION, "folder": self.folder, "pictures": self.known})
        with contextlib.suppress(OSError, ValueError):  # a full disk, nothing to write to
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(Path(self.path)) as file:
                file.write(text.encode())
