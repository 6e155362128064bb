"""The whole job: same shards for any number of workers, restart, deadline, and bad input."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpenglow.config import ConfigError, parse
from alpenglow.data.annotate import Annotating
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.cluster import connect
from alpenglow.data.collect import Collecting
from alpenglow.data.document import DataError, Input, InputAbsent, Unit
from alpenglow.data.filters import Bound, rules
from alpenglow.data.ledger import Ledger
from alpenglow.data.model_settings import ModelSettings
from alpenglow.data.order import Order, natural
from alpenglow.data.pipeline import Job, main
from alpenglow.data.recipe import ClusterRecipe, PrepareRecipe, SliceRecipe
from alpenglow.data.removal_command import main as remove
from alpenglow.data.selection import REMOVED, Staged, choose
from alpenglow.data.signals import SignalSettings
from alpenglow.data.staging import Task, Tokenising, prepare
from alpenglow.data.stored_columns import read_columns
from alpenglow.data.tokenizer import Tokenizer
from alpenglow_lsf.ranks import Ranks

ALONE = Ranks.from_environment({})
SENTENCES = (
    "The glow on the peak number {} was seen from the valley before the sun had set.",
    "Nobody in village {} could say how long the snow would stay on the northern side.",
    "A path of {} steps leads from the last house to the hut below the glacier.",
)


def book(number: int) -> str:
    return "\n".join(SENTENCES[i % 3].format(number * 1000 + i) for i in range(40)) + "\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Books and C4 with known duplicates and a document that is too short."""
    folder = tmp_path / "raw"
    (folder / "books").mkdir(parents=True)
    for number in range(12):
        (folder / "books" / f"{number:02d}.txt").write_text(book(number))
    (folder / "books" / "11b.txt").write_text(book(3))
    (folder / "books" / "short.txt").write_text("too short")
    (folder / "c4").mkdir()
    lines = [{"text": book(n), "url": f"https://a/{n}"} for n in (5, 20, 21, 22, 20)]
    (folder / "c4" / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def recipe(raw: Path, output: Path, **changes: Any) -> PrepareRecipe:
    tables = {
        "output": str(output),
        "shard_tokens": 2000,
        "unit_bytes": 8000,
        "slices": {"books": {"input": str(raw / "books"), "licence": "CC0-1.0"},
                   "c4": {"input": str(raw / "c4"), "licence": "ODC-By 1.0"}},
        "tokenizer": {"vocab_size": 400, "sample_bytes": 20_000},
        "cluster": {"protocol": "tcp", "workers": 1},
    }  # fmt: skip
    return parse(PrepareRecipe, tables | changes, "test")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    recipe = ClusterRecipe(protocol="tcp", workers=1)
    with connect(recipe, tmp_path_factory.mktemp("run"), ALONE) as connected:
        yield connected


def job(recipe: PrepareRecipe, run: Path, ranks: Ranks = ALONE) -> Job:
    return Job(recipe, run, None, ranks)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_job(raw: Path, tmp_path: Path, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    output, run = tmp_path / "shards", tmp_path / "run"
    made = recipe(raw, output, sequence_length=100)
    assert job(made, run).run(client) == 0
    catalogue = Catalogue.load(output)
    catalogue.verify()
    assert set(catalogue.slices) == {"books", "c4"}
    assert len(catalogue.shards) > 4
    assert catalogue.recipe_hash == made.hash
    ledger = json.loads((output / "ledger.json").read_text())["slices"]
    assert ledger["books"]["read"]["documents"] == 14
    # Book 5 is in c4 too, which comes first in the order of slices.
    assert ledger["books"]["kept"]["documents"] == 11
    assert set(ledger["books"]["dropped"]) == {"exact duplicate", "too short"}
    assert ledger["c4"]["kept"]["documents"] == 4
    assert list(ledger["c4"]["licences"]) == ["ODC-By 1.0"]
    tails = json.loads((output / "ledger.json").read_text())["tails"]
    order = Order.of(catalogue, natural(catalogue), sequence_length=100, seed=0)
    assert tails["sequence_length"] == 100
    for name, tokens in catalogue.slices.items():
        assert tails["tokens"][name] == tokens - 100 * order.windows[name]
    assert catalogue.tokens == sum(book["kept"]["tokens"] for book in ledger.values())
    # Every kept document is there, once, whole, with one end.
    encoder = Tokenizer.load(output / "tokenizer.json").encoder()
    texts = []
    for index in range(len(catalogue.shards)):
        shard = catalogue.open(index)
        offsets = shard.offsets()
        assert np.flatnonzero(shard.tokens == 0).tolist() == (offsets[1:] - 1).tolist()
        pairs = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        texts += [encoder.decode(shard.tokens[a : b - 1].tolist()) for a, b in pairs]
    assert texts == [book(n) for n in (0, 1, 2, 3, 4, *range(6, 12), 5, 20, 21, 22)]
    assert not list(tmp_path.glob(".shards.*"))
    assert not (run / "staging").exists()
    # What a budget is told from is what the ledger counts.
    found = read_columns(run, {})
    for name, columns in found.items():
        assert int(columns.tokens[columns.kept].sum()) == ledger[name]["kept"]["tokens"]
        assert len(columns.tokens) == ledger[name]["read"]["documents"]
        assert columns.columns["characters"].shape == columns.tokens.shape
    with pytest.raises(DataError, match="name its run directory"):
        read_columns(output, {})
    progress = json.loads((run / "progress.json").read_text())
    assert (progress["activity"], progress["done"]) == ("prepare", progress["total"])
    assert "tokenising" in capsys.readouterr().out


def test_second_run_is_up_to_date_and_a_damaged_shard_is_not(
    raw: Path, tmp_path: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    made = recipe(raw, output)
    absent = SliceRecipe(input=raw / "arxiv", optional=True)
    made = dataclasses.replace(made, slices={**made.slices, "arxiv": absent})
    assert job(made, tmp_path / "run").run(client) == 0
    before = digests(output)
    capsys.readouterr()
    assert job(made, tmp_path / "run").run(client) == 0
    said = capsys.readouterr().out
    assert "up to date" in said
    assert "left out: arxiv;" in said
    shard = next(output.glob("c4-*.h5"))
    content = bytearray(shard.read_bytes())
    with_tokens = Catalogue.load(output).open(len(list(output.glob("books-*.h5")))).tokens
    at = content.find(with_tokens.tobytes()[:64])
    content[at] ^= 1
    shard.write_bytes(content)
    assert job(made, tmp_path / "run").run(client) == 0
    assert "the shards are made anew" in capsys.readouterr().out
    assert digests(output) == before


def test_changed_recipe_replaces_the_shards(raw: Path, tmp_path: Path, client: Any) -> None:
    output = tmp_path / "shards"
    assert job(recipe(raw, output), tmp_path / "run").run(client) == 0
    first = Catalogue.load(output)
    changed = recipe(raw, output, shard_tokens=1_000_000)
    assert job(changed, tmp_path / "run").run(client) == 0
    second = Catalogue.load(output)
    assert len(first.shards) > len(second.shards) == 2
    assert len(list(output.glob("*.h5"))) == 2


def test_what_was_removed_does_not_come_back(
    raw: Path, tmp_path: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output, run = tmp_path / "shards", tmp_path / "run"
    assert job(recipe(raw, output), run).run(client) == 0
    assert remove([str(output), "--url", "https://a/21", "--why", "asked"]) == 0
    assert job(recipe(raw, output), run).run(client) == 0
    assert "up to date" in capsys.readouterr().out  # a removal is no damage
    for tokens in (3000, 4000):
        assert job(recipe(raw, output, shard_tokens=tokens), run).run(client) == 0
        assert "1 documents were removed here before, and stay away" in capsys.readouterr().out
        ledger = Ledger.load(output / "ledger.json").slices["c4"]
        assert ledger.dropped[REMOVED].documents == 1
        assert ledger.kept.documents == 3
        catalogue = Catalogue.load(output)
        shards = [catalogue.open(index) for index in range(len(catalogue.shards))]
        urls = [url for shard in shards for url in shard.facts("url")]
        assert "https://a/20" in urls
        assert "https://a/21" not in urls
        assert "asked" in (output / "removals.before.jsonl").read_text()
        assert REMOVED not in (output / "rejects.jsonl").read_text()
    (output / "removal.pending.json").write_text("{}")
    with pytest.raises(DataError, match="completes it"):
        job(recipe(raw, output, shard_tokens=5000), run).run(client)


def test_three_workers_write_the_same_bytes_as_one(raw: Path, tmp_path: Path, client: Any) -> None:
    one = recipe(raw, tmp_path / "one")
    assert job(one, tmp_path / "run-one").run(client) == 0
    three = recipe(raw, tmp_path / "three", cluster={"protocol": "tcp", "workers": 3})
    assert three.hash == one.hash
    with connect(three.cluster, tmp_path / "run-three", ALONE) as other:
        assert job(three, tmp_path / "run-three").run(other) == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "three")


def test_both_engines_write_the_same_bytes(
    raw: Path, tmp_path: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        text = f"  Groesse, Gro\u0308\u00dfe:\t it's {number}.\n" * 99
        (raw / "books" / f"x{number}.txt").write_text(text)
    auto = recipe(raw, tmp_path / "auto")
    assert job(auto, tmp_path / "run-auto").run(client) == 0
    assert "without the fast path" not in capsys.readouterr().out
    tokenizer = {"vocab_size": 400, "sample_bytes": 20_000, "engine": "exact"}
    exact = recipe(raw, tmp_path / "exact", tokenizer=tokenizer)
    assert exact.hash == auto.hash
    assert job(exact, tmp_path / "run-exact").run(client) == 0
    assert "without the fast path: tokenizer.engine = 'exact'" in capsys.readouterr().out
    assert digests(tmp_path / "auto") == digests(tmp_path / "exact")


def test_near_its_end_the_job_stops_and_goes_on_later(
    raw: Path, tmp_path: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output, run = tmp_path / "shards", tmp_path / "run"
    late = dataclasses.replace(ALONE, deadline=time.time() + 10)
    assert job(recipe(raw, output), run, late).run(client) == 85
    assert "submit the job again" in capsys.readouterr().out
    assert not output.exists()
    assert not list(tmp_path.glob(".shards.*"))
    assert job(recipe(raw, output), run).run(client) == 0


def task(folder: Path) -> tuple[Task, Tokenising]:
    tokenizer = Tokenizer.train([book(0)], 300)
    path = folder / "tokenizer.json"
    path.write_text(tokenizer.json)
    collecting = Collecting(folder / "documents", SliceRecipe(), "slice")
    collecting.folder.mkdir(exist_ok=True)
    annotating = Annotating.of(SignalSettings(), ModelSettings())
    return Task(collecting, annotating), Tokenising(path, tokenizer.hash)


def test_a_unit_that_is_done_is_not_read_again(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text(book(1))
    item = Input(str(text), "a.txt", "CC0-1.0", text.stat().st_size)
    unit, (about, tokenising) = Unit("books", "books-00000", (item,)), task(tmp_path)

    def chosen(**thresholds: Bound) -> Staged:
        prepared = prepare(unit, about, None, tokenising)
        return choose("a", prepared, rules(("basic",), thresholds), 5)

    first = chosen()
    text.unlink()
    again = chosen()
    assert again.stages == first.stages
    read = again.stages[0].read
    assert (read.documents, read.bytes) == (1, item.size)
    assert (again.tokens == first.tokens).all()
    # Another recipe, or other input of that name, is no longer that unit.
    other = dataclasses.replace(about, collecting=dataclasses.replace(about.collecting, key="b"))
    moved = dataclasses.replace(unit, inputs=(dataclasses.replace(item, size=1),))
    for changed in ((unit, other), (moved, about)):
        with pytest.raises(FileNotFoundError):
            prepare(*changed, None, tokenising)
    # Other filters read columns, and no text.
    files = {path: path.stat().st_mtime_ns for path in about.collecting.folder.iterdir()}
    stricter = chosen(**{"too short": Bound(least=1e6)})
    assert stricter.stages[-1].dropped["too short"].documents == 1
    assert [item.reason for item in stricter.rejects] == ["too short"]
    assert files == {path: path.stat().st_mtime_ns for path in about.collecting.folder.iterdir()}
    # What was cut is made again from what is whole; a store that was cut counts as none.
    prepared = prepare(unit, about, None, tokenising)
    for path in (prepared.tokens, *prepared.annotated.files):
        path.write_bytes(path.read_bytes()[:-100])
        assert (chosen().tokens == again.tokens).all()
    prepared.store.write_bytes(prepared.store.read_bytes()[:-100])
    with pytest.raises(FileNotFoundError):
        prepare(unit, about, None, tokenising)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"slices": {"books": {"input": "nowhere"}}}, InputAbsent, "books: nowhere is not there"),
        ({"slices": {"books": {"input": "nowhere", "optional": True}}}, DataError, "no slice has"),
        ({"tokenizer": {"origin": "file", "file": "no.json"}}, DataError, "tokenizer is not there"),
        ({"filters": {"thresholds": {"too short": {"least": 10**6}}}}, DataError,
         "the filters left no text"),
    ],
)  # fmt: skip
def test_input_that_cannot_be_used(
    changes: dict[str, Any], error: type[Exception], sentence: str, raw: Path, tmp_path: Path,
    client: Any,
) -> None:  # fmt: skip
    output = tmp_path / "shards"
    with pytest.raises(error, match=sentence):
        job(recipe(raw, output, **changes), tmp_path / "run").run(client)
    assert not output.exists()
    assert not list(tmp_path.glob(".shards.*"))


def cut_short(path: Path) -> None:
    """Replace a file by a gzip file whose end is missing."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()


def test_damaged_input_keeps_the_former_shards(raw: Path, tmp_path: Path, client: Any) -> None:
    output = tmp_path / "shards"
    assert job(recipe(raw, output), tmp_path / "run").run(client) == 0
    before = digests(output)
    cut_short(raw / "c4" / "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        job(recipe(raw, output, shard_tokens=3000), tmp_path / "run").run(client)
    assert digests(output) == before


def stores(run: Path) -> dict[str, int]:
    """Stores of documents, without columns and tokens, and when they were written."""
    paths = (run / "documents").glob("*.h5")
    return {p.name: p.stat().st_mtime_ns for p in paths if p.name.count(".") == 1}


def test_failed_units_are_listed_and_the_others_done_once(
    raw: Path, tmp_path: Path, client: Any
) -> None:
    output, run = tmp_path / "shards", tmp_path / "run"
    good = (raw / "c4" / "a.jsonl").read_text()
    (raw / "c4" / "b.jsonl").write_text(good)
    cut_short(raw / "c4" / "a.jsonl")
    cut_short(raw / "c4" / "b.jsonl")
    made = recipe(raw, output)
    with pytest.raises(DataError, match=r"2 of \d+ units failed, .* c4-00000: .*a\.jsonl\.gz"):
        job(made, run).run(client)
    assert not output.exists()
    before = stores(run)
    assert len(before) > 1
    (raw / "c4" / "a.jsonl").write_text(good)
    for name in ("a", "b"):
        (raw / "c4" / f"{name}.jsonl.gz").unlink()
    assert job(made, run).run(client) == 0
    after = stores(run)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1


def test_a_store_that_nothing_names_is_removed(raw: Path, tmp_path: Path, client: Any) -> None:
    run = tmp_path / "run"
    assert job(recipe(raw, tmp_path / "shards"), run).run(client) == 0
    before, files = stores(run), len(list((run / "documents").iterdir()))
    assert files == 3 * len(before)
    (raw / "books" / "00.txt").write_text(book(100))
    assert job(recipe(raw, tmp_path / "shards", shard_tokens=1999), run).run(client) == 0
    after = stores(run)
    assert len(before) == len(after) == len(before.items() & after.items()) + 1
    assert len(list((run / "documents").iterdir())) == files


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"slices": {"book": {}}}, "unknown slice book; did you mean books?"),
        ({"slices": {}}, "no slice is named"),
        ({"slices": {"wikipedia": {"origin": "wheel"}}}, "origin = 'wheel' needs wheel"),
        ({"tokenizer": {"vocab_size": 200}}, "vocab_size = 200"),
        ({"tokenizer": {"origin": "file"}}, "needs file"),
        ({"cluster": {"workers": 0}}, "workers = 0"),
        ({"filters": {"threshold": {}}}, "did you mean filters.thresholds?"),
        ({"slices": {"books": {"mask": ["emial"]}}}, "did you mean 'email'?"),
        ({"filters": {"thresholds": {"too short": {"least": []}}}}, "should be of type"),
    ],
)
def test_recipe_that_is_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(tmp_path, tmp_path / "shards", **changes)
    assert sentence in str(caught.value)


def test_hash_covers_what_decides_the_content(raw: Path, tmp_path: Path) -> None:
    made = recipe(raw, tmp_path / "a")
    assert recipe(raw, tmp_path / "b", run="elsewhere", documents="d", retries=9).hash == made.hash
    assert (
        recipe(raw, tmp_path / "a", filters={"thresholds": {"too short": {"least": 99}}}).hash
        != made.hash
    )
    file = tmp_path / "tokenizer.json"
    given = {"origin": "file", "file": str(file)}
    file.write_text("one")
    one = recipe(raw, tmp_path / "a", tokenizer=given).hash
    file.write_text("two")
    assert recipe(raw, tmp_path / "a", tokenizer=given).hash != one


def test_main_says_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALPENGLOW_MACHINE", raising=False)
    monkeypatch.delenv("ALPENGLOW_RUN", raising=False)
    path = tmp_path / "prepare.toml"
    path.write_text('outputs = "x"\n[slices.books]\n')
    rules = tmp_path / "rules.toml"
    rules.write_text("[slices.books.rules]\nlength = 3\n")
    assert main([str(path)]) == 1
    assert main([str(tmp_path / "absent.toml")]) == 1
    assert main([str(rules)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        f"prepare: {path}: unknown key outputs; did you mean output?",
        f"prepare: {tmp_path / 'absent.toml'}: no such recipe",
        "prepare: slices.books.rules: unknown key length; known: splits",
    ]
