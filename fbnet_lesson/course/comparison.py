"""``compare(run, nms=nms)``: the package's numbers beside those with the learner's function."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fbnet_lesson.course.differences import difference
from fbnet_lesson.course.guard import portable, random_states, set_random_states
from fbnet_lesson.course.plug import plugged, tell, watch


def compare(
    run: Callable[[], Any],
    /,
    picture: Callable[[Any, Any], None] | None = None,
    **functions: Callable,
) -> None:
    """Call ``run`` with the package's own functions, and again with the learner's plugged in; print
    what it returned both times, as ``package 3.4, 6.3 · yours 3.4, 6.3 · equal``.

    ``run`` returns a number, a string, or a tuple or dict of them. Tensors may stand among them:
    they are compared, and of what is printed only their shape. Both calls see the same random
    numbers. ``picture`` is called with the two results where they differ. A function that is not
    written is said so first; what else ``plug`` finds is said before the result.

    Raises:
        ValueError, TypeError: as ``plug``.
    """
    watchers = watch(functions)
    numbers, missing = random_states(), [w.name for w in watchers if w.finding]
    own = run()
    if missing:
        print(f"package {shown(own)} · yours is still to come")
        return
    set_random_states(numbers)
    yours = None
    with plugged(watchers):
        yours = run()
    tell(watchers)
    if yours is None or any(w.finding for w in watchers):
        print(f"package {shown(own)} · yours gave no answer")
        return
    if unused := [w.name for w in watchers if not w.answered]:
        print(f"package {shown(own)} · {' and '.join(unused)} was not called")
        return
    found = difference(portable(own), portable(yours), 1e-4, 1e-5)
    verdict = "equal"
    if found:
        told = shown(own) != shown(yours)
        verdict = "different" if told else f"different: {found.text}"
    print(f"package {shown(own)} · yours {shown(yours)} · {verdict}")
    if found and picture:
        picture(own, yours)


def shown(value: Any) -> str:
    """Numbers with four digits, separated by commas; entries of a dict behind their keys."""
    if isinstance(value, Tensor):
        return shown(value.item()) if not value.dim() else f"tensor {list(value.shape)}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
