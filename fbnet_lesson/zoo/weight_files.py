"""Weights files of any origin, read without executing anything that is in them.

A file is recognised by its first bytes, not by its name. What wrappers put around a model's names
(DDP, torch.compile, Lightning, averages) is taken off.
"""

import json
import os
import pickle
import re
import struct
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What checkpoints call the weights, and the average of the weights, which wins where there is one.
PLAIN = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "weights")
AVERAGES = ("ema", "ema_state", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model")
# Names that wrappers put before a module, wherever it is.
WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Where the name of a network of any known layout begins, and so the name of its wrapper ends.
ROOT = re.compile(
    r"(?<![^.])(backbone\.(trunk|stages|body|bottom_up|fpn_|lateral|output)|rpn\.head\.|"
    r"proposal_generator\.|roi_heads\.|conv_stem\.)"
)
AVERAGE = re.compile(r"ema|averag|swa|shadow", re.IGNORECASE)
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch
# What training scripts put beside the weights and runs nothing: options, and NumPy's numbers.
PLAIN_DATA = [
    Namespace, np.dtype, np.float32(0).__reduce__()[0], np.ndarray, np.array(0).__reduce__()[0],
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]  # fmt: skip
ASKS_FOR = re.compile(r"(?:asks for|GLOBAL|Unsupported class) ([\w.]+)")
SAVE = "save its state dict with torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True)
class Weights:
    """The content of a weights file.

    ``state``: tensors by their names, without those of wrappers. ``notes``: what the file says of
    itself, where it does: ``name`` and ``config`` of the model, ``categories``, ``category_ids``.
    ``left_aside``: entries of a wrapper that are no part of the network.
    """

    state: dict[str, Tensor]
    notes: dict[str, Any] = field(default_factory=dict)
    left_aside: tuple[str, ...] = ()


def read_weights(source: str | os.PathLike | Mapping) -> Weights:
    """The weights in a file, or in what ``torch.load`` made of one.

    Raises ValueError that says what is wrong with a file, or what it is instead.
    """
    notes: dict[str, Any] = {}
    checkpoint = source
    if isinstance(source, str | os.PathLike):
        checkpoint, notes = read_file(Path(source))
    if not isinstance(checkpoint, Mapping):
        found = type(checkpoint).__name__
        raise ValueError(
            f"weights are a {found}; expected a file, or a state dict, as of model.state_dict()"
        )
    plain, average = _parts(checkpoint)
    notes = notes or _notes_of_checkpoint(checkpoint)
    kinds = {"name": str, "config": dict, "categories": list, "category_ids": list}
    for key, value in notes.items():
        if not isinstance(value, kinds[key]):
            raise ValueError(f"{source}: its note {key!r} is damaged; it holds {str(value)[:40]!r}")
    aside: list[str] = []
    state = {**_unwrapped(plain, aside), **_unwrapped(average, aside)}
    state = {k: torch.from_numpy(v) if _is_array(v) else v for k, v in state.items()}
    wrong = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if wrong or not state:
        found = f"{wrong[0]!r} is {type(state[wrong[0]]).__name__}" if wrong else "it is empty"
        where = f"{source}: " if isinstance(source, str | os.PathLike) else ""
        raise ValueError(f"{where}not a state dict: {found}; expected names of tensors")
    return Weights(state, notes, tuple(aside))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _parts(checkpoint: Mapping) -> tuple[Mapping, Mapping]:
    """The weights in a checkpoint, and their average; where it has no such parts, itself."""
    plain, average = (
        next((checkpoint[k] for k in keys if isinstance(checkpoint.get(k), Mapping)), {})
        for keys in (PLAIN, AVERAGES)
    )
    if not plain and not average:
        return checkpoint, {}
    if plain:  # {"state_dict": {"model": ..., "ema": ...}}
        plain, inner = _parts(plain)
        average = average or inner
    return plain, _parts(average)[0] if average else {}


def _unwrapped(state: Mapping, aside: list[str]) -> dict[str, Any]:
    """The entries of the network with the names of wrappers taken off; adds others to ``aside``.

    Of several networks in one state dict the average is taken, else the one with most entries.
    """
    plain = {WRAPPERS.sub("", str(key)): value for key, value in state.items()}
    # A lone number, such as n_averaged, is a wrapper's counter: no network of ours has one.
    plain = {k: v for k, v in plain.items() if "." in k or not _is_number(v)}
    found = Counter(key[: match.start()] for key in plain if (match := ROOT.search(key)))
    if not found:
        return plain
    prefix = max(found, key=lambda p: (bool(AVERAGE.search(p)), found[p], -len(p)))
    others = tuple(p for p in found if p != prefix and not prefix.startswith(p or "."))
    if prefix:
        aside += [key for key in plain if not key.startswith((prefix, *found))]
        return {k[len(prefix) :]: v for k, v in plain.items() if k.startswith(prefix)}
    return {k: v for k, v in plain.items() if not (others and k.startswith(others))}


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _notes_of_checkpoint(checkpoint: Mapping) -> dict[str, Any]:
    """What a run's ``last.pt`` says of its model."""
    names = {"model_name": "name", "model_config": "config"}
    names |= {"categories": "categories", "category_ids": "category_ids"}
    if not isinstance(checkpoint.get("model_name"), str):
        return {}
    return {new: checkpoint[old] for old, new in names.items() if old in checkpoint}


def read_file(path: Path) -> tuple[Mapping, dict[str, Any]]:
    """The content of a file of tensors or arrays, and its notes.

    Raises ValueError that says what is wrong with it, or what it is instead.
    """
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; expected a weights file, such as the model.safetensors of a run"
        )
    if not path.is_file():
        raise ValueError(f"no such weights file: {path}")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    _refuse_what_is_no_weights_file(path, head)
    try:
        if path.suffix == ".safetensors" or _is_safetensors(path, head):
            return _read_safetensors(path)
        if head[:1] == b"\x80" and not head.startswith(LEGACY_TORCH):
            content = _ArraysOnly(path).load()
        else:
            with torch.serialization.safe_globals(PLAIN_DATA):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # all libraries raise many kinds for broken files
        if asked := ASKS_FOR.search(str(error)):
            raise ValueError(
                f"{path} holds more than tensors and was not executed (it asks for {asked[1]}); "
                f"{SAVE}. Where you trust it: torch.load(FILE, weights_only=False)"
            ) from error
        if isinstance(error, pickle.UnpicklingError):  # torch's text speaks of its own versions
            raise ValueError(f"cannot read {path}: it is damaged, or no weights file") from error
        raise ValueError(
            f"cannot read {path}: it is damaged or cut off ({_first_line(error)})"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a state dict")
    return content, {}


def _first_line(error: Exception) -> str:
    """The first line of an error's text, without the colours that torch puts in it."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_what_is_no_weights_file(path: Path, head: bytes) -> None:
    """ValueError that says what the file is instead, by its first bytes."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text:
        what = "is empty: the download or copy has not come about; fetch it again"
    elif text.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer, not the weights; fetch them with: git lfs pull"
    elif text[:1] == b"<":
        what = "is a web page, not weights; open its address in a browser and save the file itself"
    elif head[:2] == b"\x1f\x8b":
        what = "is compressed with gzip; unpack it first"
    elif head[:4] == b"\x89HDF":
        what = "is an HDF5 file, as Keras writes; expected a torch or safetensors file"
    elif head[:2] == b"PK":
        what = _zip_that_is_not_weights(path)
    elif _is_text(text):
        shown = text.decode(errors="replace").splitlines()[0][:40]
        what = f"is a text file ({shown!r}); expected a torch or safetensors file"
    else:
        return
    if what:
        raise ValueError(f"{path} {what}")


def _zip_that_is_not_weights(path: Path) -> str:
    """What a zip archive is that torch has not written as weights; empty if it has, or is cut."""
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, NotImplementedError):  # the latter of a broken version number
        return ""
    if any(name.endswith("constants.pkl") for name in names):
        return (
            "is a TorchScript program, not weights; "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW) writes its weights"
        )
    if not any(name.endswith("data.pkl") for name in names):
        return f"is a zip archive ({', '.join(names[:3])}, ...); unpack it, or {SAVE}"
    return ""


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head)


def _is_safetensors(path: Path, head: bytes) -> bool:
    """The length of the header in 8 bytes, and the header, which is JSON."""
    return (
        len(head) > 9
        and head[8:9] == b"{"
        and struct.unpack("<Q", head[:8])[0] <= path.stat().st_size
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    notes = {}
    for key in ("config", "categories", "category_ids"):
        if key in metadata:
            notes[key] = json.loads(metadata[key])
    return state, notes | {key: metadata[key] for key in ("name",) if key in metadata}


class _NotArrays(Exception):
    """A pickle asks for something that is neither an array nor a plain container."""


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of NumPy arrays, numbers, texts and containers, as detectron2's; calls nothing
    but what puts an array together."""

    ALLOWED = {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "_reconstruct": np.array(0).__reduce__()[0],
        "scalar": np.float32(0).__reduce__()[0],
        "OrderedDict": OrderedDict,
    }
    HOMES = {"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "collections"}

    def __init__(self, path: Path):
        import io

        super().__init__(io.BytesIO(path.read_bytes()), encoding="latin1")  # as Python 2 wrote

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin1_bytes
        if module in self.HOMES and name in self.ALLOWED:
            return self.ALLOWED[name]
        raise _NotArrays(f"it asks for {module}.{name}")


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _NotArrays(f"it asks for the encoding {encoding}")
    return text.encode("latin1")
