"""Pictures that two data sets share: who is trained on them must not be measured on them."""

from __future__ import annotations

import os
from collections import defaultdict
from hashlib import blake2b

PROBE = 4096  # bytes from the middle of a file, which tell most files of one length apart


def shared_files(ours, theirs):
    """Pairs (index of ours, index of theirs) of pictures that are one file, by links too.

    ours, theirs: ``CocoDataset``.
    """
    return _pairs(ours, theirs, lambda path: (os.stat(path).st_dev, os.stat(path).st_ino))


def shared_contents(ours, theirs):
    """Pairs (index of ours, index of theirs) of pictures whose files hold the same bytes."""
    return _pairs(ours, theirs, lambda path: os.stat(path).st_size, _probe, _digest)


def _pairs(ours, theirs, *keys):
    """Pairs whose files have all ``keys`` in common; a later key is asked of few files only."""
    paths = [[os.path.join(s.folder, name) for name in s.file_names] for s in (ours, theirs)]
    groups = [(range(len(paths[0])), range(len(paths[1])))]
    for key in keys:
        finer = []
        for group in groups:
            by_key = defaultdict(lambda: ([], []))
            for side, indices in enumerate(group):
                for index in indices:
                    by_key[key(paths[side][index])][side].append(index)
            finer += [pair for pair in by_key.values() if pair[0] and pair[1]]
        groups = finer
    return sorted((group[0][0], their) for group in groups for their in group[1])


def _probe(path):
    with open(path, "rb") as file:
        file.seek(max(0, os.stat(path).st_size // 2 - PROBE // 2))
        return file.read(PROBE)


def _digest(path):
    digest = blake2b()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.digest()
