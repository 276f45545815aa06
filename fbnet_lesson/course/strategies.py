"""Hypothesis strategies for the inputs of exercises: small tensors of small numbers.

Values are whole numbers or dyadic fractions, which floats hold exactly: a correct answer does not
differ by rounding, thresholds are really hit, and what is shrunk can be read.
"""

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor


def numbers(low: float, high: float, step: float = 1.0) -> SearchStrategy[float]:
    """The multiples of ``step`` from ``low`` to ``high``; the simplest is the one nearest to 0."""
    return st.integers(round(low / step), round(high / step)).map(lambda k: k * step)


def tensors(
    *shape: int | SearchStrategy[int], low: float = -4, high: float = 4, step: float = 1.0
) -> SearchStrategy[Tensor]:
    """Float tensors of ``shape``; a dimension may itself be drawn, as ``st.integers(0, 3)``."""

    @st.composite
    def draw_tensor(draw):
        sizes = [n if isinstance(n, int) else draw(n) for n in shape]
        count = int(torch.tensor(sizes).prod())
        values = draw(st.lists(numbers(low, high, step), min_size=count, max_size=count))
        return torch.tensor(values, dtype=torch.float32).reshape(sizes)

    return draw_tensor()


def labels(count: int | SearchStrategy[int], low: int, high: int) -> SearchStrategy[Tensor]:
    """int64 tensors [count] of ``low`` to ``high``, both included."""
    return tensors(count, low=low, high=high).map(lambda t: t.long())


@st.composite
def boxes(
    draw, min_count: int = 0, max_count: int = 4, edge: int = 8, empty: bool = True
) -> Tensor:
    """[N, 4] xyxy with whole corners in 0..edge; ``empty`` allows boxes without area."""
    least = 0 if empty else 1
    rows = []
    for _ in range(draw(st.integers(min_count, max_count))):
        x1, y1 = draw(st.integers(0, edge - least)), draw(st.integers(0, edge - least))
        x2, y2 = draw(st.integers(x1 + least, edge)), draw(st.integers(y1 + least, edge))
        rows.append([x1, y1, x2, y2])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@st.composite
def scored_boxes(draw, min_count: int = 0, max_count: int = 5, edge: int = 4) -> dict[str, Tensor]:
    """``{"boxes": [N, 4], "scores": [N]}``; on so small a field they overlap, and scores tie."""
    found = draw(boxes(min_count, max_count, edge))
    return {"boxes": found, "scores": draw(tensors(len(found), low=0, high=1, step=0.25))}
