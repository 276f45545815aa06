"""``reveal(guess, ...)``: what a learner predicted, beside what came out.

A lesson begins with ``guess = {"boxes kept": None, ...}``. Whoever writes a number or a word there
meets it again where the answer has come out; whoever does not reads what the built notebook shows.
"""

from collections.abc import Mapping
from numbers import Integral, Number
from typing import Any

from torch import Tensor

CLOSE = 0.1  # of what came out: nobody predicts digits
LONGEST = 40  # characters of a guess that are shown


def reveal(guess: Any, results: Mapping[str, Any] | None = None, /, **named: Any) -> None:
    """Print each result beside the learner's guess of that name, one line a prediction.

    ``reveal(guess, kept=83)`` or ``reveal(guess, {"recall with 10": 0.94})``; the results are
    numbers or short strings. A guess of None is blank. Whatever a learner has written, nothing is
    raised: what is no number is shown as it stands.
    """
    results = {**(results or {}), **named}
    if not isinstance(guess, Mapping):
        print(f"reveal: guess is {_text(guess)}, not a dict such as {{'boxes kept': 60}}")
        guess = dict.fromkeys(results)
    unknown = [name for name in results if name not in guess]
    rows = [(name, *_compared(guess.get(name), result)) for name, result in results.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        parts = [f"{part:{width}}" for part, width in zip(row, widths, strict=True)]
        print("   ".join(parts).rstrip())
    if unknown:
        named = ", ".join(map(repr, unknown))
        print(f"reveal: guess has no {named}; it has {', '.join(map(repr, guess)) or 'nothing'}")


def _compared(guess: Any, result: Any) -> tuple[str, str, str]:
    """The guess, what came out, and how the two compare."""
    shown = f"it is {_text(result)}"
    if guess is None or guess is ... or (isinstance(guess, str) and not guess.strip()):
        return "no guess", shown, ""
    a, b = _number(guess), _number(result)
    if a is None or b is None:
        same = _text(guess).strip().casefold() == _text(result).strip().casefold()
        return f"you {_text(guess)}", shown, "as you said" if same else ""
    return f"you {_text(guess)}", shown, _in_words(a, b)


def _in_words(guess: float, result: float) -> str:
    """How a result lies to its guess: "close", "more", "14 times as much"."""
    if guess == result:
        return "as you said"
    if abs(guess - result) <= CLOSE * abs(result):
        return "close"
    if guess * result > 0:  # a factor says more than a difference
        factor = max(guess / result, result / guess)
        if factor >= 2:
            times = f"{factor:.0f} times" if factor < 1000 else "over 1000 times"
            return f"{times} as much" if abs(result) > abs(guess) else f"{times} less"
    return "more" if result > guess else "less"


def _number(value: Any) -> float | None:
    """A finite number, also written as "7,200", "60 %" or a tensor of one; None of all else."""
    try:
        if isinstance(value, str):
            text = value.replace(",", "").strip()
            value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        if isinstance(value, bool) or not isinstance(value, Number | Tensor):
            return None
        number = float(value)
    except (ArithmeticError, TypeError, ValueError, RuntimeError):
        return None
    return number if abs(number) < float("inf") else None


def _text(value: Any) -> str:
    """A value as a person would write it, on one line."""
    try:
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, Number):
            text = " ".join((value if isinstance(value, str) else repr(value)).split())
        elif isinstance(value, Integral):
            text = f"{value:,}" if abs(value) >= 10_000 else str(value)
        else:
            text = f"{value:.4g}"
    except Exception:  # of the learner's own making
        text = type(value).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
