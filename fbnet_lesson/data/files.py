"""Which file of the picture folder a ``file_name`` of an annotation file means."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from pathlib import PurePosixPath

from .headers import stamp
from .mending import Problem
from .outlines import show

DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class PictureFolder:
    """The pictures of a folder, found by the names that an annotation file gives them.

    A name is a relative path that stays inside. A symbolic link is what it leads to: it is the
    owner's. Where there is no file of a name, one is looked for under the names that other
    systems make of it: with backslashes, with the folder named twice, in another Unicode form.
    """

    def __init__(self, folder):
        self.folder = os.fspath(folder)
        self._listing = None

    def find(self, name):
        """(name of the file, its ``stamp``, None) or (None or another name, stamp, Problem)."""
        allowed = f"a file in the image folder {self.folder}"
        if self._leaves(name):
            kind, found = "path leaves the image folder", show(name)
            allowed = "a relative path that stays inside " + self.folder
            return self._elsewhere(name, Problem(kind, found, allowed))
        try:
            state = os.stat(os.path.join(self.folder, name))
        except (OSError, ValueError):  # not there; too long, NUL inside, a loop of links
            return self._elsewhere(name, Problem("missing image", self._shown(name), allowed))
        if not stat.S_ISREG(state.st_mode):
            return None, None, Problem("unreadable image", show(name), "a file")
        return name, stamp(state), None

    @staticmethod
    def _leaves(name):
        if name[0] not in "/\\" and ".." not in name and ":" not in name:
            return False
        absolute = name[0] in "/\\" or DRIVE.match(name)
        return bool(absolute) or ".." in PurePosixPath(name.replace("\\", "/")).parts

    def _shown(self, name):
        try:
            target = os.readlink(os.path.join(self.folder, name))
        except (OSError, ValueError):
            return show(name)
        return f"{show(name)}, a link to {show(target)}, which is not there"

    def _elsewhere(self, name, problem):
        """A file that ``name`` may mean, with the problem that tells so."""
        parts = [p for p in DRIVE.sub("", name).replace("\\", "/").split("/") if p not in ("", ".")]
        for start in range(len(parts)):
            wanted = "/".join(parts[start:])
            there = self._files().get(_key(wanted))
            if there is None:
                continue
            if "\\" in name:
                how = "with backslashes as separator"
            elif start:
                how = "of which the beginning is not in the folder"
            elif unicodedata.normalize("NFC", there) == unicodedata.normalize("NFC", wanted):
                how = "in another Unicode form than the file's name"
            else:
                how = "in other upper and lower case than the file's name"
            found, repair = f"{problem.found}, {how}", f"taken as {show(there)}"
            state = os.stat(os.path.join(self.folder, there))
            return there, stamp(state), Problem(problem.kind, found, problem.allowed, repair)
        return None, None, problem

    def _files(self):
        """The files of the folder by ``_key``; None for a key that two of them have."""
        if self._listing is None:
            self._listing = {}
            for folder, _, names in os.walk(self.folder):
                within = os.path.relpath(folder, self.folder).replace(os.sep, "/")
                for name in names:
                    path = name if within == "." else f"{within}/{name}"
                    if os.path.isfile(os.path.join(self.folder, path)):
                        key = _key(path)
                        self._listing[key] = None if key in self._listing else path
        return self._listing


def _key(name):
    return unicodedata.normalize("NFC", name).casefold()
