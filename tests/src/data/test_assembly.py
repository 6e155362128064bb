"""From units to shards: duplicates, cuts, and the swap of folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alpenglow.data import assembly
from alpenglow.data.document import DataError
from alpenglow.data.ledger import Stage
from alpenglow.data.selection import Staged


def staged(unit: str, slice_name: str, texts: list[int], tokens: list[int]) -> Staged:
    count = len(texts)
    filters = Stage("filters")
    for each in (filters.read, filters.kept):
        each.add(count, 10 * count, sum(tokens))
    return Staged(
        unit, slice_name, Path(unit), Path(unit), np.arange(count) * 2,
        np.array([[t, t] for t in texts], np.uint64).reshape(-1, 2),
        np.full(count, 10), np.array(tokens, np.int64), np.zeros(count, np.int32), ("MIT",),
        (filters,),
    )  # fmt: skip


def test_the_earliest_of_equal_texts_is_kept_over_all_slices() -> None:
    units = [staged("a", "books", [1, 2, 1], [5, 5, 5]), staged("b", "books", [], []),
             staged("c", "c4", [2, 3, 3], [5, 5, 5])]  # fmt: skip
    kept = assembly.first_of_each(units)
    assert [k.tolist() for k in kept] == [[True, True, False], [], [False, True, False]]
    ledger = assembly.account(units, kept, {})
    assert ledger.slice("c4").dropped[assembly.DUPLICATE].documents == 2


def test_shards_are_cut_at_documents() -> None:
    units = [staged("a", "books", [1, 2, 3], [60, 30, 50]), staged("b", "books", [4, 5], [10, 99])]
    plans = assembly.plan_shards(units, assembly.first_of_each(units), 100)
    cut = [[(str(p.path), p.rows.tolist()) for p in plan.pieces] for plan in plans]
    assert cut == [[("a", [0, 2, 4])], [("b", [0, 2])]]
    assert [plan.file for plan in plans] == ["books-00000.h5", "books-00001.h5"]
    plans = assembly.plan_shards(units, assembly.first_of_each(units), 90)
    cut = [[(str(p.path), p.rows.tolist()) for p in plan.pieces] for plan in plans]
    assert cut == [[("a", [0, 2])], [("a", [4]), ("b", [0, 2])]]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter.tex").write_text("years of work")
    with pytest.raises(DataError, match="no folder of shards, and it would be replaced"):
        assembly.open_building(output)
    assert (output / "chapter.tex").exists()


def test_a_swap_that_was_cut_short_is_put_right(tmp_path: Path) -> None:
    aside = tmp_path / ".shards.old"
    aside.mkdir()
    (aside / "catalogue.json").write_text("{}")
    building = assembly.open_building(tmp_path / "shards")
    assert (tmp_path / "shards" / "catalogue.json").exists()
    assembly.swap(building, tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
