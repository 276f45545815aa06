"""The tables that lessons quote: read as written, and each made by a script that is there."""

import pytest

from fbnet_lesson.course.build import ROOT
from fbnet_lesson.course.experiments import table

TABLES = sorted((ROOT / "data" / "experiments").glob("*.csv"))


def test_a_table_is_read_as_numbers_and_words():
    first = table("anchor_sets")[0]
    assert first["anchors"] == "5 sizes x 3 ratios"
    assert first["a cell"] == 15
    assert 0 < first["box AP"] < 1


def test_an_unknown_table_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no table 'anchors' .*; there are: .*anchor_sets"):
        table("anchors")


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_each_table_has_a_script_that_writes_it_and_a_line_on_its_card(path):
    script = (ROOT / "docs" / "experiments" / f"{path.stem}.py").read_text()
    assert f"python docs/experiments/{path.stem}.py" in script
    assert "minutes" in script.split('"""')[1]
    assert f"`{path.name}`" in (path.parent / "README.md").read_text()
