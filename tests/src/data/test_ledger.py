"""The ledger: what every stage kept and dropped makes up what it read, or the job fails."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from alpenglow.data.document import DataError
from alpenglow.data.ledger import Count, Ledger, Stage


def ledger() -> Ledger:
    made = Ledger(skipped={"c4": "c4: raw/c4 is not there"})
    book = made.slice("books")
    # Opened out of order, as units of other slices may: they stand in the order of the stages.
    duplicates, reading = book.stage("duplicates"), book.stage("read")
    reading.read.add(7, 700)
    reading.drop("binary", 1, 100)
    reading.trim("licence header", 2, 40)
    reading.kept.add(6, 560)
    filters = book.stage("filters")
    filters.rules = ("too short", "too long", "few letters")
    filters.read.add(6, 560, 160)
    filters.drop("few letters", 1, 60, 20)
    filters.drop("too short", 2, 50, 15)
    filters.kept.add(3, 450, 125)
    duplicates.rules = ("exact duplicate",)
    duplicates.read.add(3, 450, 125)
    duplicates.drop("exact duplicate", 1, 150, 45)
    duplicates.kept.add(2, 300, 80)
    book.licence("CC0-1.0").add(2, 300, 80)
    return made


def test_an_account_that_adds_up_and_its_sums() -> None:
    made = ledger()
    made.check()
    tables = made.tables(recipe_hash="ab")
    assert tables["recipe_hash"] == "ab"
    book = tables["slices"]["books"]
    assert book["read"] == {"documents": 7, "bytes": 700, "tokens": 0}
    assert book["kept"] == {"documents": 2, "bytes": 300, "tokens": 80}
    assert book["dropped"] == {
        "binary": {"documents": 1, "bytes": 100, "tokens": 0},
        "exact duplicate": {"documents": 1, "bytes": 150, "tokens": 45},
        "few letters": {"documents": 1, "bytes": 60, "tokens": 20},
        "too short": {"documents": 2, "bytes": 50, "tokens": 15},
    }
    assert book["trimmed"] == {"licence header": {"documents": 2, "bytes": 40, "tokens": 0}}
    assert [stage["name"] for stage in book["stages"]] == ["read", "filters", "duplicates"]
    assert list(book["stages"][1]["dropped"]) == ["too short", "few letters"]
    assert tables["skipped"] == {"c4": "c4: raw/c4 is not there"}


def test_each_rule_tells_what_came_in_and_went_on() -> None:
    account = ledger().slice("books")
    passages = account.stage("filters").passages()
    assert [
        (p.rule, dataclasses.astuple(p.read), dataclasses.astuple(p.kept)) for p in passages
    ] == [
        ("too short", (6, 560, 160), (4, 510, 145)),
        ("too long", (4, 510, 145), (4, 510, 145)),
        ("few letters", (4, 510, 145), (3, 450, 125)),
    ]
    assert passages[-1].kept == account.stage("filters").kept
    # Faults of a reader are no rules of an order: they come by name.
    assert [p.rule for p in account.stage("read").passages()] == ["binary"]


@pytest.mark.parametrize("unit", ["documents", "bytes", "tokens"])
@pytest.mark.parametrize("stage", ["read", "filters", "duplicates"])
@pytest.mark.parametrize("side", ["read", "kept"])
def test_one_too_many_at_any_place_is_found(unit: str, stage: str, side: str) -> None:
    made = ledger()
    count: Count = getattr(made.slice("books").stage(stage), side)
    setattr(count, unit, getattr(count, unit) + 1)
    with pytest.raises(DataError, match=f"ledger of books.*{unit}"):
        made.check()


def test_two_errors_that_cancel_inside_a_stage_are_found_between_stages() -> None:
    made = ledger()
    filters = made.slice("books").stage("filters")
    filters.read.add(1, 10, 5)
    filters.kept.add(1, 10, 5)
    filters.check()
    with pytest.raises(DataError, match="filters read 7 documents, but read kept 6"):
        made.check()


def test_tokens_may_begin_at_any_stage() -> None:
    """A stage that only tokenises what it keeps has none to prove."""
    made = Ledger()
    account = made.slice("c4")
    account.stages = [
        Stage("filters", Count(2, 20), Count(1, 15, 4), {"too short": Count(1, 5)}),
        Stage("duplicates", Count(1, 15, 4), Count(1, 15, 4)),
    ]
    made.check()
    account.stages[1].read.tokens = account.stages[1].kept.tokens = 3
    with pytest.raises(DataError, match="duplicates read 3 tokens, but filters kept 4"):
        made.check()


def test_a_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps(ledger().tables(fingerprint="f")))
    found = Ledger.load(path)
    assert found.facts == {"fingerprint": "f"}
    assert found.slices == ledger().slices
    assert found.skipped == ledger().skipped
    assert found.tables() == json.loads(path.read_text())


def test_format_1_is_one_stage(tmp_path: Path) -> None:
    tables = ledger().tables()
    for account in tables["slices"].values():
        del account["stages"]
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps({**tables, "format": 1}))
    account = Ledger.load(path).slice("books")
    assert [stage.name for stage in account.stages] == ["read"]
    assert (account.read.bytes, account.kept.tokens) == (700, 80)
    assert account.dropped["too short"] == Count(2, 50, 15)


def test_what_is_no_ledger_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    with pytest.raises(DataError, match=r"ledger.json: cannot be read"):
        Ledger.load(path)
    good = json.dumps(ledger().tables())
    for text, said in (
        (good[: len(good) // 2], "cut, or no ledger"),
        ("[]", "cut, or no ledger"),
        ('{"format": 2, "slices": {"books": []}}', "cut, or no ledger"),
        (good.replace('"format": 2', '"format": 3'), "format 3, this reads 1 and 2"),
        (good.replace('"documents": 6', '"documents": 5', 1), "books does not add up: read"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            Ledger.load(path)
