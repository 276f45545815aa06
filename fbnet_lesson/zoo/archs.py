"""``arch=``: other rows in the place of a model's own, by name, from a file, or as they are.

A file is JSON with the keys ``trunk`` (a list of stages), ``rpn``, ``bbox``, ``mask`` and ``kpts``
(a string each), in the notation of ``rows``. A trunk alone takes the heads of the named model. Of a
classifier the keys are ``trunk`` and ``head``.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from difflib import get_close_matches
from pathlib import Path

from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS, ClassifierArch
from fbnet_lesson.detection.architectures import DETECTION_ARCHS, DetectionArch
from fbnet_lesson.rows import parse_rows

Arch = str | os.PathLike | Mapping
HEADS = ("rpn", "bbox", "mask", "kpts")
FPN_STRIDES = [4, 8, 16, 32]  # of the last four stages under a pyramid


def detection_arch(arch: Arch, own: DetectionArch, needed: tuple[str, ...], fpn: bool) -> dict:
    """The rows that ``arch`` stands for, as plain values: what a run's config notes.

    Args:
        arch: a name of ``DETECTION_ARCHS``, a JSON file, or the rows themselves.
        own: the named model's, whose heads a trunk alone takes.
        needed: the heads that the model has.
        fpn: whether it stands on a pyramid.

    Raises:
        ValueError: names what is unknown, cannot be read, is missing or does not fit.
    """
    if isinstance(arch, str) and arch in DETECTION_ARCHS:
        if arch.endswith("_fpn") != fpn:
            here, there = ("a pyramid", "one feature map") if fpn else ("one feature map",
                                                                       "a pyramid")  # fmt: skip
            raise ValueError(
                f"arch={arch!r} is made for {there}, this model has {here}: C4 and FPN are not "
                f"mixed; allowed: {', '.join(_fitting(needed, fpn))}"
            )
        rows = {k: v for k, v in asdict(DETECTION_ARCHS[arch]).items() if v is not None}
    else:
        rows = _read(arch, ("trunk", *HEADS), DETECTION_ARCHS)
        if set(rows) == {"trunk"}:
            heads = {name: getattr(own, name) for name in needed}
            rows |= heads
    missing = [head for head in needed if head not in rows]
    if missing:
        raise ValueError(
            f"{_called(arch)} has no {' and no '.join(missing)} rows, which this model needs (it "
            f"has {', '.join(rows)}); allowed: {', '.join(_fitting(needed, fpn))}, or a trunk "
            "alone, which takes the model's own heads"
        )
    if _stride(rows["rpn"]) != 1:
        raise ValueError(
            f"{_called(arch)}: rpn has stride {_stride(rows['rpn']):g}; it has to be 1, as its "
            "anchors lie on the trunk's own cells"
        )
    strides = _strides(rows["trunk"])
    if fpn and strides[1:] != FPN_STRIDES:
        raise ValueError(
            f"{_called(arch)} has stages of strides {strides}; a pyramid needs five, the last four "
            f"of strides {', '.join(map(str, FPN_STRIDES))}"
        )
    return {"trunk": list(rows["trunk"]), **{head: rows[head] for head in HEADS if head in rows}}


def classifier_arch(arch: Arch, own: ClassifierArch) -> ClassifierArch:
    """The classifier ``own`` with other rows; its style and input size stay.

    Args: ``arch`` as of ``detection_arch``, a name being one of ``CLASSIFICATION_ARCHS``.
    """
    if isinstance(arch, str) and arch in CLASSIFICATION_ARCHS:
        named = CLASSIFICATION_ARCHS[arch]
        return replace(own, stages=named.stages, head=named.head)
    rows = _read(arch, ("trunk", "head"), CLASSIFICATION_ARCHS)
    return replace(own, stages=tuple(rows["trunk"]), head=rows.get("head", own.head))


def _read(arch: Arch, keys: tuple[str, ...], known: Mapping) -> dict:
    """The rows of a file or a mapping, each of them understood."""
    rows = arch
    if isinstance(arch, str | os.PathLike):
        path = Path(arch)
        if not path.is_file():
            near = get_close_matches(str(arch), known, n=1)
            meant = f"; did you mean {near[0]}?" if near else "."
            raise ValueError(
                f"arch={str(arch)!r} is neither a file nor a known architecture{meant} Known are "
                f"{', '.join(known)}"
            )
        try:
            rows = json.loads(path.read_text("utf-8"))
        except (ValueError, OSError) as error:
            raise ValueError(f"arch={str(arch)!r} cannot be read as JSON: {error}") from error
    called = _called(arch)
    if not isinstance(rows, Mapping):
        raise ValueError(f"{called} holds a {type(rows).__name__}; expected {', '.join(keys)}")
    unknown = [key for key in rows if key not in keys]
    if unknown:
        raise ValueError(f"{called} has the key {unknown[0]!r}; allowed are {', '.join(keys)}")
    rows = {key: value for key, value in rows.items() if value is not None}
    trunk = rows.get("trunk")
    if not isinstance(trunk, list | tuple) or not trunk:
        raise ValueError(f"{called}: trunk is {trunk!r}; expected a list of stages, each a string")
    for name, texts in rows.items():
        for i, text in enumerate(texts if name == "trunk" else [texts]):
            place = f"{called}: {name}" + f"[{i}]" * (name == "trunk")
            if not isinstance(text, str):
                raise ValueError(f"{place} is {text!r}; expected rows such as 'ir_k5 40 x3 s2 e4'")
            try:
                parse_rows(text)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
    strides = _strides(trunk)
    if any(stride != int(stride) for stride in strides):
        raise ValueError(f"{called}: the stages have strides {strides}; a trunk does not upsample")
    return rows


def _fitting(needed: tuple[str, ...], fpn: bool) -> list[str]:
    """The known architectures that have all that a model needs."""
    return [
        name
        for name, arch in DETECTION_ARCHS.items()
        if name.endswith("_fpn") == fpn and all(getattr(arch, head) for head in needed)
    ]


def _called(arch: Arch) -> str:
    return "arch" if isinstance(arch, Mapping) else f"arch={str(arch)!r}"


def _stride(text: str) -> float:
    """The stride of some rows; one half where they upsample once."""
    stride = 1.0
    for row in parse_rows(text):
        stride *= row.stride if row.stride > 0 else -1 / row.stride
    return stride


def _strides(stages) -> list[float]:
    """The stride of each stage's output to the image."""
    strides, stride = [], 1.0
    for text in stages:
        stride *= _stride(text)
        strides.append(int(stride) if stride == int(stride) else stride)
    return strides
