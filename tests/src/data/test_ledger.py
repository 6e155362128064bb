"""The ledger: kept and dropped make up what was read, or the job fails."""

from __future__ import annotations

import pytest

from alpenglow.data.document import DataError
from alpenglow.data.ledger import Ledger


def ledger() -> Ledger:
    made = Ledger(skipped={"c4": "c4: raw/c4 is not there"})
    book = made.slice("books")
    book.read.add(5, 500)
    book.kept.add(2, 300, 90)
    book.licence("CC0-1.0").add(2, 300, 90)
    book.drop("too short", 2, 50)
    book.drop("exact duplicate", 1, 150, 45)
    return made


def test_an_account_that_adds_up() -> None:
    made = ledger()
    made.check()
    tables = made.tables(recipe_hash="ab")
    assert tables["recipe_hash"] == "ab"
    assert tables["slices"]["books"]["dropped"] == {
        "exact duplicate": {"documents": 1, "bytes": 150, "tokens": 45},
        "too short": {"documents": 2, "bytes": 50, "tokens": 0},
    }
    assert tables["skipped"] == {"c4": "c4: raw/c4 is not there"}


@pytest.mark.parametrize("what", ["documents", "bytes"])
def test_one_that_does_not(what: str) -> None:
    made = ledger()
    count = made.slice("books").read
    setattr(count, what, getattr(count, what) + 1)
    with pytest.raises(DataError, match=f"ledger of books.*{what}"):
        made.check()
