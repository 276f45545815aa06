"""Memory does not grow with the masks of large photographs, which would be there all at once."""

import pytest

from fbnet_lesson.benchmarks import measure
from fbnet_lesson.benchmarks.index import measure as measured
from fbnet_lesson.benchmarks.memory import LIMIT, evaluation, make_photographs

OBJECTS = 60


@pytest.mark.slow
@pytest.mark.skipif(
    not measure.STATUS.exists(), reason="only Linux tells how much memory a process had at most"
)
def test_objects_of_a_large_photograph_take_less_than_their_whole_masks(tmp_path):
    file = make_photographs(tmp_path, 1, OBJECTS)
    _, few = measured(evaluation(file, tmp_path, 1), file, tmp_path / "cache")
    _, many = measured(evaluation(file, tmp_path, OBJECTS), file, tmp_path / "cache")
    whole = OBJECTS * 12  # MB, a byte a pixel
    assert many - few < whole / 4 and many < LIMIT
