"""The public functions of torch as they were when the course was imported.

A cell may have put another function in the place of ``torch.allclose``, by a slip or to see what
happens. Then nothing that is computed can be trusted, the judging included, until it is back.
"""

import math
import os
from operator import is_

import torch
from torch import Tensor
from torch.nn import functional

HOLDERS = {"torch.": torch, "torch.nn.functional.": functional, "Tensor.": Tensor, "math.": math}
ORIGINALS = {
    (prefix, name): value
    for prefix, holder in HOLDERS.items()
    for name, value in vars(holder).items()
    if callable(value)
    and not isinstance(value, type)  # torch.Storage goes with the default dtype
    and (not name.startswith("_") or name.endswith("__"))
}
# As they were looked at last: as long as nothing has moved, a look takes microseconds.
_seen = {prefix: dict(vars(holder)) for prefix, holder in HOLDERS.items()}


def restore() -> list[str]:
    """Put back what has been replaced; the names of it, as ``"torch.allclose"``."""
    replaced = []
    for prefix, holder in HOLDERS.items():
        seen, now = _seen[prefix], vars(holder)
        if len(seen) == len(now) and all(map(is_, seen.values(), now.values())):
            continue
        for (place, name), original in ORIGINALS.items():
            if place != prefix or now.get(name) is original or _by_torch(now.get(name), name):
                continue
            setattr(holder, name, original)
            replaced.append(prefix + name)
        for name in now.keys() - seen.keys():
            if holder is Tensor and any(name in vars(base) for base in Tensor.__mro__[1:]):
                delattr(Tensor, name)  # it hid an inherited method
                replaced.append(prefix + name)
        _seen[prefix] = dict(vars(holder))
    return sorted(replaced)


def _by_torch(value, name: str) -> bool:
    """Whether torch itself has wrapped its function, as it does with ``manual_seed`` for its
    compiler, which an optimizer may load."""
    code = getattr(value, "__code__", None)
    folder = os.path.dirname(torch.__file__) + os.sep
    return code is not None and value.__name__ == name and code.co_filename.startswith(folder)
