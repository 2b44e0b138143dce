"""A table shows all cells, safely, and says what it is."""

from xml.etree import ElementTree

import pytest

from kexue_lib.tables import Table


def test_the_markup_is_sound_and_every_cell_is_there():
    table = Table({"law": ["a<b", "π & e"], "share": [0.5, "1 ± 2"]}, caption='What "is" shown.')
    root = ElementTree.fromstring(table._repr_mimebundle_()["text/html"])
    assert [cell.text for cell in root.iter("td")] == ["0.5", "1 ± 2"]
    assert [cell.text for cell in root.iter("th")] == ["law", "share", "a<b", "π & e"]
    assert {cell.get("scope") for cell in root.iter("th")} == {"row", "col"}
    assert root.findtext("caption") == 'What "is" shown.'
    assert str(table).splitlines()[1].split() == ["a<b", "0.5"]


@pytest.mark.parametrize("columns", [{}, {"a": [1], "b": [1, 2]}])
def test_ragged_columns_are_refused(columns):
    with pytest.raises(ValueError, match="columns"):
        Table(columns, caption="Shown.")


def test_a_table_without_a_caption_is_refused():
    with pytest.raises(ValueError, match="caption"):
        Table({"a": [1]}, caption=" ")


def test_the_text_is_aligned():
    table = Table({"n": [1, 22], "volume": ["2", "π"], "area": [3, 4]}, caption="a<b")
    assert str(table) == "n   volume  area\n1   2       3\n22  π       4"
    assert "<caption>a&lt;b</caption>" in table._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(("columns", "caption"), [({"a": "abc"}, "Shown."), ({"a": [1]}, None)])
def test_words_are_no_columns_and_nothing_is_no_caption(columns, caption):
    with pytest.raises(ValueError, match=r"columns|caption"):
        Table(columns, caption=caption)
