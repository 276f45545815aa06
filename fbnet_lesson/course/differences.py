"""How an answer differs from the one that is expected, in a sentence, and what that suggests."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Described:
    """Stands for a value that cannot be shown or sent, such as a generator: what it is."""

    text: str


class Difference(NamedTuple):
    """``text`` is the end of "it ..."."""

    text: str  # "returns a list, expected is a tensor", "element [1] is 3, expected 4; 2 of 6 ..."
    hint: str = ""
    of_kind: bool = True  # in type, dtype, shape or number, and not only in values

    def within(self, where: str) -> "Difference":
        return self._replace(text=f"{where}: {self.text}")


def difference(expected: Any, got: Any, rtol: float, atol: float) -> Difference | None:
    """How ``got`` differs from ``expected``, or None if it is as good.

    Tensors have to agree in dtype and shape, then in their values, floats within ``rtol`` and
    ``atol``; whether they require a gradient does not matter. A tuple may be given as a list and
    the other way round. A float may be given as any number, an int as any whole number, a bool as
    any truth value: by Python, by NumPy, or by a tensor without dimensions.
    """
    if isinstance(expected, Tensor):
        return _of_tensors(expected, got, rtol, atol)
    if isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple):
            text = f"returns {kind(got)}, expected are {len(expected)} values"
            return Difference(text, _kind_hint(expected, got))
        if len(got) != len(expected):
            return Difference(f"returns {len(got)} values, expected are {len(expected)}")
        pairs = zip(expected, got, strict=True)
        found = (
            d.within(f"value {i + 1} of {len(expected)}")
            for i, (a, b) in enumerate(pairs)
            if (d := difference(a, b, rtol, atol))
        )
        return _first(found)
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return Difference(f"returns {kind(got)}, expected is a dict")
        if set(got) != set(expected):
            keys = sorted(map(str, got))
            return Difference(f"returns the keys {keys}, expected are {sorted(expected)}")
        found = (
            d.within(f"key {key!r}")
            for key in expected
            if (d := difference(expected[key], got[key], rtol, atol))
        )
        return _first(found)
    if isinstance(expected, bool | int | float):
        return _of_numbers(expected, got, rtol, atol)
    if type(got) is not type(expected):
        return Difference(*_kinds(expected, got))
    return None if got == expected else Difference("gives another value", of_kind=False)


def _first(found: Iterator[Difference]) -> Difference | None:
    """The first difference of kind, else the first of all."""
    found = list(found)
    return next((d for d in found if d.of_kind), found[0] if found else None)


def _of_numbers(expected: float, got: Any, rtol: float, atol: float) -> Difference | None:
    number = got
    if isinstance(got, Tensor | np.generic | np.ndarray) and got.ndim == 0:
        number = got.item()
    # Not by type(expected): a wrong answer that stands for the expected one may be a NumPy float.
    allowed = next(kinds for kinds in (bool, int, int | float) if isinstance(expected, kinds))
    if not isinstance(number, allowed) or (isinstance(number, bool) and allowed is not bool):
        return Difference(*_kinds(expected, got))
    if number == expected or (number != number and expected != expected):
        return None
    if allowed is not bool and abs(number - expected) <= atol + rtol * abs(expected):
        return None
    return Difference(f"gives {_apart(number, expected)}", of_kind=False)


def _of_tensors(expected: Tensor, got: Any, rtol: float, atol: float) -> Difference | None:
    if not isinstance(got, Tensor):
        return Difference(*_kinds(expected, got))
    if got.shape != expected.shape:
        text = f"returns shape {list(got.shape)}, expected is {list(expected.shape)}"
        return Difference(text, _shape_hint(list(expected.shape), list(got.shape)))
    if got.dtype != expected.dtype:
        text = f"returns dtype {_dtype(got)}, expected is {_dtype(expected)}"
        return Difference(text, _dtype_hint(expected, got))
    expected, got = expected.detach(), got.detach()
    if expected.dtype.is_floating_point or expected.dtype.is_complex:
        if torch.allclose(got, expected, rtol, atol, equal_nan=True):
            return None
        differ = ~torch.isclose(got, expected, rtol, atol, equal_nan=True)
    else:
        if torch.equal(got, expected):
            return None
        differ = got != expected
    if not expected.dim():
        return Difference(f"gives {_apart(got.item(), expected.item())}", of_kind=False)
    count, total = int(differ.sum()), expected.numel()
    where = differ.nonzero()[0].tolist() if count else [0] * expected.dim()
    text = f"element {where} is {_apart(got[tuple(where)].item(), expected[tuple(where)].item())}"
    if total > 1:
        text += f"; {count} of {total} differ"
    return Difference(text, _pattern(expected, got, rtol, atol), of_kind=False)


def _apart(got: Any, expected: Any) -> str:
    """Both numbers, with as many digits as it takes to tell them apart."""
    for digits in (4, 6, 8, 12, 17):
        a, b = (f"{v:.{digits}g}" if isinstance(v, float) else str(v) for v in (got, expected))
        if a != b and "e+" not in a + b:
            break
    return f"{a}, expected {b}"


def kind(value: Any) -> str:
    """``"a list"``, ``"nothing (None)"``, ``"a tensor"``."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, Described):
        return value.text
    if isinstance(value, np.ndarray):
        return "a NumPy array"
    if isinstance(value, np.generic):
        return f"a NumPy {type(value).__name__}"
    if isinstance(value, Tensor):
        return "a tensor"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# --------------------------------------------------------------------- hints about mistakes of kind


def _kinds(expected: Any, got: Any) -> tuple[str, str]:
    return f"returns {kind(got)}, expected is {kind(expected)}", _kind_hint(expected, got)


def _kind_hint(expected: Any, got: Any) -> str:
    if got is None:
        return "Is there a return on every way through the function?"
    if isinstance(got, Described):
        if got.text in ("a generator", "a map", "a zip", "a filter"):
            return "It makes its values only when it is asked for them: put them all together."
        if got.text in ("a function", "a method", "a builtin_function_or_method"):
            return "A pair of brackets is missing: the function itself is returned, not its answer."
        return ""
    if isinstance(expected, Tensor):
        if isinstance(got, np.ndarray):
            return (
                "torch.from_numpy turns a NumPy array into a tensor; mind its dtype, as NumPy "
                "counts in float64."
            )
        if isinstance(got, list | tuple):
            if any(isinstance(item, Tensor) for item in got):
                return (
                    "torch.stack makes one tensor of a list of tensors of the same shape; "
                    "torch.cat joins them along a dimension that they have."
                )
            return "torch.tensor makes a tensor of a list of numbers; state the dtype with it."
        if isinstance(got, bool | int | float | np.generic):
            return (
                "A tensor without dimensions is asked for: leave out .item(), or make one with "
                "torch.tensor."
            )
    if isinstance(expected, list | tuple) and isinstance(got, Tensor | np.ndarray):
        return f"Return {len(expected)} values, separated by commas, or a list of them."
    if isinstance(expected, int) and isinstance(got, float | np.floating):
        return "A whole number is asked for: // divides without a remainder, int() makes one."
    if isinstance(expected, bool | int | float) and isinstance(got, Tensor | np.ndarray):
        return "A single number is asked for: .item() takes it out of a tensor of one element."
    return ""


def _shape_hint(expected: list[int], got: list[int]) -> str:
    without = [n for n in expected if n != 1], [n for n in got if n != 1]
    if len(expected) == len(got) and sorted(expected) == sorted(got):
        return "The sizes are right, in another order: two axes are swapped."
    if without[0] == without[1]:
        if len(got) > len(expected):
            return "There is an axis of size 1 too many: index it away, or squeeze it."
        return "An axis of size 1 is missing: keepdim=True keeps it, None in an index adds one."
    if len(got) == len(expected) + 1 and got[1:] == expected:
        return "There is an axis too many in front, as broadcasting [N] with [N, 1] makes [N, N]."
    if len(got) == len(expected) and all(
        a == b or b == 1 for a, b in zip(expected, got, strict=True)
    ):
        return "One row was worked out where one for each of the input is asked for."
    if len(got) > len(expected):
        return "There are more axes than asked for: is one not yet summed up or indexed?"
    if len(got) < len(expected):
        return "An axis is missing: was one summed up, indexed or flattened too many?"
    return ""


def _dtype_hint(expected: Tensor, got: Tensor) -> str:
    wanted = f".to(torch.{_dtype(expected)})"
    if got.dtype == torch.float64 and expected.dtype == torch.float32:
        return (
            "NumPy and torch.float64 count in 64 bits; the answer is to have the dtype of the "
            f"input: {wanted}."
        )
    if expected.dtype == torch.bool:
        return "True and False are asked for: a comparison gives them, and ~ & | keep them."
    if expected.dtype.is_floating_point:
        return f"Fractions need a float: begin with one, or end with {wanted}."
    return f"Whole numbers are asked for: {wanted} makes them."


def _pattern(expected: Tensor, got: Tensor, rtol: float, atol: float) -> str:
    """What all values have in common, where they are wrong in a way that is easy to name."""
    if expected.numel() < 2 or expected.dtype.is_complex:
        return ""

    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and torch.allclose(a, b, rtol, atol, equal_nan=True)

    if expected.dtype == torch.bool:
        return "True and False are swapped." if torch.equal(got, ~expected) else ""
    a, b = expected.double(), got.double()
    if bool(b.isnan().any()) and not bool(a.isnan().any()):
        return "A nan comes from 0 / 0, from inf - inf, or from the root of a negative number."
    if not bool(b.any()):
        return "Every value is 0."
    if expected.dim() >= 2 and same(a.mT, b):
        return "Every value is there, but rows and columns are swapped."
    if same(a.flip(0), b):
        return "Every value is there, but in the opposite order."
    if same(a.flatten().sort().values, b.flatten().sort().values):
        return "Every value is there, but in another order."
    if same(-a, b):
        return "Every sign is the other way round."
    if bool((a != a.flatten()[0]).any()):
        if bool(a.all()) and same(b, a * (factor := (b / a).flatten()[0])):
            return f"Every value is {float(factor):.4g} times what is expected."
        if same(b, a + (more := (b - a).flatten()[0])):
            return f"Every value is {abs(float(more)):.4g} too {'large' if more > 0 else 'small'}."
    return ""
