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


def read_headers(folder, names, whole=False):
    """For each name of a file of ``folder``: its ``Header``, or the ValueError of reading it.

    whole: every picture is decoded, once, so that a file broken in the middle is found, and its
    ``content`` is known. ``names`` has no file twice.
    """
    notes = _Notes(folder)
    stats = {name: _stat(folder, name) for name in names}
    found = {name: notes.get(name, stats[name], whole) for name in names}
    missing = [name for name in names if found[name] is None]
    parts = [missing[i : i + TOGETHER] for i in range(0, len(missing), TOGETHER)]
    read = read_whole if whole else read_header

    def read_all(part):
        return [_try(read, os.path.join(folder, name)) for name in part]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(total=len(missing), desc="checking images", delay=2, leave=False)
        for part, headers in zip(parts, pool.map(read_all, parts), strict=True):
            found.update(zip(part, headers, strict=True))
            bar.update(len(part))
        bar.close()
    if missing:
        notes.put({name: (stats[name], found[name]) for name in missing})
    return found


def _try(read, path):
    try:
        return read(path)
    except ValueError as error:
        return error


def _stat(folder, name):
    """Size in bytes and time of change in ns, of the file itself where it is a link to one."""
    try:
        stat = os.stat(os.path.join(folder, name))
    except (OSError, ValueError):
        return None
    return [stat.st_size, stat.st_mtime_ns]


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

    def get(self, name, stat, whole):
        """The header of a file that has not changed, if it is known well enough."""
        try:
            size, time, width, height, orientation, content, values = self.known[name]
        except (KeyError, TypeError, ValueError):
            return None
        if stat != [size, time] or (whole and not content):
            return None
        return Header(width, height, orientation, content, values and tuple(values))

    def put(self, found):
        """Note the headers of ``{name: (stat, header or error)}``; errors are not noted."""
        for name, (stat, header) in found.items():
            if stat and isinstance(header, Header):
                self.known[name] = [*stat, *astuple(header)]
        text = json.dumps({"version": VERSION, "folder": self.folder, "pictures": self.known})
        with contextlib.suppress(OSError, ValueError):  # a full disk, nothing to write to
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(Path(self.path)) as file:
                file.write(text.encode())
