"""Repeated paragraphs: which lines go, in groups of units, in both modes, through a whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from alpenglow.config import parse
from alpenglow.data import slices
from alpenglow.data.cluster import connect
from alpenglow.data.collect import Collecting
from alpenglow.data.document import DataError, Unit
from alpenglow.data.document_store import Store
from alpenglow.data.ledger import Ledger
from alpenglow.data.pipeline import Job
from alpenglow.data.recipe import PrepareRecipe, SliceRecipe
from alpenglow.data.refine import NOTHING_LEFT, REPEATED, Earlier, hash_lines, refine
from alpenglow.data.slices.source import Source
from alpenglow_lsf.ranks import Ranks

PAGES = (
    "Menu of the site\nThe first page speaks of the peak.\nCopyright 2019",
    "Menu of the site\nThe second page speaks of the hut.\nCopyright 2020",
    "Menu of the site\nThe third page speaks of the path.\nThe third page speaks of the path.",
    "Menu of the site",
)
"""A unit each; numbers count as the same in a line, as cc_net has it."""


def write(folder: Path) -> list[Unit]:
    folder.mkdir()
    for number, page in enumerate(PAGES):
        (folder / f"{number}.txt").write_text(page)
    found = slices.of_name("commoncrawl").units(
        Source.of("commoncrawl", SliceRecipe(input=folder), unit_bytes=1)
    )
    assert len(found) == len(PAGES)
    return found


def refined(unit: Unit, about: Collecting, others: tuple[Unit, ...]) -> tuple[list[str], Store]:
    store = refine(unit, about, Earlier.of(others, about))
    return store.texts(0, len(store)), store


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("fixed", [PAGES[0], "The second page speaks of the hut.",
                   "The third page speaks of the path.", None]),
        ("faithful", ["The first page speaks of the peak.", "The second page speaks of the hut.",
                      "The third page speaks of the path.", None]),
    ],
)  # fmt: skip
def test_the_first_of_a_group_stays_and_cc_net_keeps_none(
    mode: Literal["fixed", "faithful"], expected: list[str | None], tmp_path: Path
) -> None:
    units = write(tmp_path / "raw")
    about = Collecting(tmp_path, SliceRecipe(mode=mode), "key")
    for unit in units:
        hash_lines(unit, about)
    for place, (unit, text) in enumerate(zip(units, expected, strict=True)):
        others = tuple(units[:place]) + (tuple(units[place + 1 :]) if mode == "faithful" else ())
        texts, store = refined(unit, about, others)
        with store:
            assert texts == ([] if text is None else [text])
            page = PAGES[place]
            if text is None:
                assert store.dropped == {NOTHING_LEFT: (1, len(page))}
            elif text != page:
                assert store.trimmed == {REPEATED: (1, len(page) - len(text))}
                (facts,) = store.facts(0, 1)
                assert facts["metadata"]["original_length"] == str(len(page))
                assert facts["metadata"]["original_nlines"] == "3"
            assert store.read == (1, len(page))


def test_the_id_stays_and_lost_hashes_are_named(tmp_path: Path) -> None:
    first, second, *_ = write(tmp_path / "raw")
    about = Collecting(tmp_path, SliceRecipe(), "key")
    with pytest.raises(DataError, match=r"lines\.npy: the hashes of an earlier unit are gone"):
        refine(second, about, Earlier.of((first,), about))
    hash_lines(first, about)
    _, store = refined(second, about, (first,))
    with store, Store(about.path(second)) as raw:
        assert bytes(store.ids[0]) == bytes(raw.ids[0])
        assert (store.text_hash != raw.text_hash).any()
    path = about.path(first).with_suffix(".lines.npy")
    path.write_bytes(path.read_bytes()[:-3])
    hash_lines(first, about)  # what is cut is no mark: it is made again
    assert path.stat().st_size % 8 == 0


def stores(run: Path) -> dict[str, int]:
    paths = (run / "documents").glob("*.h5")
    return {path.name: path.stat().st_mtime_ns for path in paths if path.name.count(".") == 1}


def test_groups_in_a_job(tmp_path: Path) -> None:
    write(tmp_path / "raw")
    rules = {"paragraphs": True, "paragraph_group": 2}
    tables = {
        "output": str(tmp_path / "shards"),
        "unit_bytes": 1,
        "slices": {"commoncrawl": {"input": str(tmp_path / "raw"), "rules": rules}},
        "filters": {"thresholds": {"too short": {"least": 1}}},
        "tokenizer": {"vocab_size": 300},
        "cluster": {"protocol": "tcp", "workers": 1},
    }
    recipe = parse(PrepareRecipe, tables, "test")
    alone = Ranks.from_environment({})
    with connect(recipe.cluster, tmp_path / "run", alone) as client:
        assert Job(recipe, tmp_path / "run", None, alone).run(client) == 0
        # Units 2 and 3 are a group of their own: the menu stays in its first page.
        account = Ledger.load(tmp_path / "shards" / "ledger.json").slices["commoncrawl"]
        stage = account.stage("paragraphs")
        assert stage.read.documents == 4
        assert stage.dropped[NOTHING_LEFT].documents == 1
        assert stage.trimmed[REPEATED].documents == 2
        menu, copyright_ = len("Menu of the site\n"), len("\nCopyright 2020")
        repeated = len("\nThe third page speaks of the path.")
        assert stage.trimmed[REPEATED].bytes == menu + copyright_ + repeated
        # Only what others are compared with is hashed.
        assert len(list((tmp_path / "run" / "documents").glob("*.lines.npy"))) == 2
        # Another group size reads no raw text.
        before = stores(tmp_path / "run")
        assert len(before) == len(PAGES)
        rules["paragraph_group"] = 4
        wider = parse(PrepareRecipe, tables, "test")
        assert Job(wider, tmp_path / "run", None, alone).run(client) == 0
        assert stores(tmp_path / "run") == before
        account = Ledger.load(tmp_path / "shards" / "ledger.json").slices["commoncrawl"]
        assert account.stage("paragraphs").trimmed[REPEATED].documents == 2
        assert account.stage("paragraphs").trimmed[REPEATED].bytes > menu + copyright_ + repeated
