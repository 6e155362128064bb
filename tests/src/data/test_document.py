"""Documents and units: ids that last, units that notice changed input."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from alpenglow.data.document import Document, Input, cap, one_each, pack


def document(**changes: Any) -> Document:
    return dataclasses.replace(Document("text", "books", "a.txt", "CC0-1.0"), **changes)


def test_id_is_stable() -> None:
    # Written down: an id that changes would orphan every reference to a document.
    assert document().id.hex() == "307981ce5128b2d50b06d550f3f07906"
    assert len(document().id) == 16


def test_id_depends_on_slice_source_and_text_and_on_nothing_else() -> None:
    assert len({document().id, document(slice="c4").id, document(source="b").id,
                document(text="other").id}) == 4  # fmt: skip
    assert document(licence="MIT").id == document().id


@given(st.text(), st.text(), st.text(), st.text())
def test_parts_of_an_id_do_not_run_into_each_other(a: str, b: str, c: str, d: str) -> None:
    same = (a, b) == (c, d)
    assert (document(source=a, text=b).id == document(source=c, text=d).id) == same


def test_equal_texts_have_equal_hashes() -> None:
    assert document(source="b", slice="c4").text_hash == document().text_hash


@given(st.lists(st.integers(0, 50)), st.integers(1, 100))
def test_packing_keeps_every_input_in_order(sizes: list[int], limit: int) -> None:
    inputs = [Input(str(i), str(i), "", size) for i, size in enumerate(sizes)]
    units = pack("books", inputs, limit)
    assert [item for unit in units for item in unit.inputs] == inputs
    assert all(unit.size <= limit or len(unit.inputs) == 1 for unit in units)
    assert [unit.name for unit in units] == [f"books-{i:05d}" for i in range(len(units))]


def test_a_cap_stops_at_the_input_that_reaches_it() -> None:
    inputs = [Input(str(i), str(i), "", 10) for i in range(5)]
    assert len(cap(inputs, 25)) == 3
    assert cap(inputs, None) == inputs


def test_the_key_notices_changed_input() -> None:
    item = Input("/a/b.txt", "b.txt", "MIT", 10)
    (unit,) = one_each("books", [item], None)
    for changed in ({"size": 11}, {"source": "c.txt"}, {"licence": "BSD"}):
        other = dataclasses.replace(unit, inputs=(dataclasses.replace(item, **changed),))
        assert other.key != unit.key
    moved = dataclasses.replace(unit, inputs=(dataclasses.replace(item, path="/c/b.txt"),))
    assert moved.key == unit.key
