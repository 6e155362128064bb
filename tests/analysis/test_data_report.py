"""The report of a ledger: its numbers are the ledger's, and texts of strangers stay texts."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import browser
import pytest
from small_shards import write_small_shards

from alpenglow.data.ledger import UNITS, Count, Ledger, SliceLedger
from alpenglow.data.published_counts import source, values
from alpenglow_analysis import rendering
from alpenglow_analysis.data_report import build, main
from alpenglow_analysis.data_report_figures import largest_rules
from alpenglow_analysis.data_report_rejects import LONGEST_LINE, SHOWN, rejects, visible
from alpenglow_analysis.page import Group, Page, Samples, Section

EVIL = '</pre><script>alert("x")</script><img src="http://alpenglow.invalid/x">'


def account(book: SliceLedger, scale: int) -> None:
    reading = book.stage("read")
    reading.read.add(10 * scale, 1000 * scale)
    reading.drop("invalid UTF-8", scale, 100 * scale)
    reading.trim("licence header", 3 * scale, 60 * scale)
    reading.kept.add(9 * scale, 840 * scale)
    filters = book.stage("filters")
    filters.rules = ("too short", "too long")
    filters.read.add(9 * scale, 840 * scale, 280 * scale)
    filters.drop("too short", 2 * scale, 40 * scale, 13 * scale)
    filters.kept.add(7 * scale, 800 * scale, 267 * scale)
    last = book.stage("duplicates")
    last.rules = ("exact duplicate",)
    last.read.add(7 * scale, 800 * scale, 267 * scale)
    last.drop("exact duplicate", scale, 200 * scale, 67 * scale)
    last.kept.add(6 * scale, 600 * scale, 200 * scale)
    book.licence("MIT").add(4 * scale, 400 * scale, 150 * scale)
    book.licence(f"=cmd|{EVIL}").add(2 * scale, 200 * scale, 50 * scale)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two slices with a ledger and rejects, some of which are hostile or broken."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    catalogue = write_small_shards(folder, longest=300)
    ledger = Ledger(skipped={"books": "books: raw/books is not there"})
    account(ledger.slice("github"), 1000)
    account(ledger.slice("wikipedia"), 7)
    ledger.check()
    tails = {"sequence_length": 64, "tokens": {"github": 5, "wikipedia": 7}}
    tables = ledger.tables(fingerprint=catalogue.fingerprint, recipe_hash="ab", tails=tails)
    (folder / "ledger.json").write_text(json.dumps(tables))
    row = {"slice": "github", "stage": "filters", "reason": "too short", "source": f"a{EVIL}.py"}
    lines = [json.dumps({**row, "text": f"{EVIL} ``` {n} \x1b[31m\u202egnol"}) for n in range(9)]
    lines += ['{"slice": "github"', '{"slice": "github"}', "[1, 2]", '"' + "x" * LONGEST_LINE]
    lines.append(json.dumps({**row, "slice": "wikipedia", "text": "half \ud800 a pair"}))
    (folder / "rejects.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def page(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(shards, tmp_path_factory.mktemp("report") / "out")


def test_the_csv_is_the_ledger_in_full(page: Path, shards: Path) -> None:
    with (page.parent / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ledger = Ledger.load(shards / "ledger.json")
    for name, book in ledger.slices.items():
        stages = [row for row in rows if row["slice"] == name and row["what"] == "stage"]
        assert [row["stage"] for row in stages] == ["read", "filters", "duplicates"]
        for unit in UNITS[:2]:
            assert int(stages[0][f"{unit}_in"]) == getattr(book.read, unit)
            assert int(stages[-1][f"{unit}_out"]) == getattr(book.kept, unit)
        for stage in stages:
            lost = [
                row for row in rows
                if (row["slice"], row["stage"]) == (name, stage["stage"])
                and row["what"] in ("dropped", "trimmed")
            ]  # fmt: skip
            assert sum(int(row["bytes"]) for row in lost) == int(stage["bytes"])
        # In the order of the rules, the one that took nothing too; each goes on from the last.
        short, long = [
            row for row in rows
            if row["slice"] == name and row["stage"] == "filters" and row["what"] == "dropped"
        ]  # fmt: skip
        assert (short["name"], long["name"], long["documents"]) == ("too short", "too long", "0")
        for unit in UNITS:
            assert short[f"{unit}_out"] == long[f"{unit}_in"]
        assert stages[0]["tokens"] == ""
    # What a spreadsheet would run as a formula is text.
    assert all(not cell.startswith("=") for row in rows for cell in row.values())


def test_the_page_tells_the_numbers_and_what_is_missing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    words = re.sub(r"<[^>]+>|\s+", " ", text)
    assert "1.01 MB" in words  # read: 1,007 times 1,000 bytes
    assert "604 kB" in words  # kept
    assert "· too long" in words
    assert "Books was left out: books: raw/books is not there." in words
    assert "4 of 14 lines cannot be read" in words
    assert "12 tokens are in no training window of 64 tokens" in words
    markdown = (page.parent / "report.md").read_text(encoding="utf-8")
    assert "| · exact duplicate | 7,000 |" in markdown
    for name in ("flow", "rules", "tokens", "lengths"):
        assert (page.parent / "figures" / f"{name}.png").stat().st_size > 5000
        assert f'aria-labelledby="{name}-caption"' in text


def test_texts_of_strangers_stay_texts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    assert "http://alpenglow.invalid" in text  # shown, not asked for
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("&lt;/pre&gt;&lt;script&gt;") > SHOWN
    markdown = (page.parent / "report.md").read_text(encoding="utf-8")
    body = re.search(r"\n  (`{4,})\n(.*?)\n  \1\n", markdown, re.DOTALL)
    assert body is not None
    assert "<script>" in body[2]  # inside a fence longer than the one that it holds


def test_rejects_are_bounded_and_counted(shards: Path) -> None:
    found = rejects(shards)
    key = ("github", "filters", "too short")
    assert (found.lines, found.unreadable) == (14, 4)
    assert found.count[key] == 9
    assert len(found.samples[key]) == SHOWN
    assert found.samples[key][0][1].endswith("\u241b[31m\ufffdgnol")
    assert found.samples["wikipedia", "filters", "too short"] == [
        (f"a{EVIL}.py", "half ? a pair"),
    ]
    assert visible("a\r\nb\tc\x00\x7f") == "a\nb\tc\u2400\u2421"


def test_the_largest_rules_are_those_that_took_most_bytes(shards: Path) -> None:
    rows = largest_rules(Ledger.load(shards / "ledger.json").slices)
    assert [(row.slice, row.rule, row.trims) for row in rows[:3]] == [
        ("github", "exact duplicate", False),
        ("github", "invalid UTF-8", False),
        ("github", "licence header", True),
    ]
    assert [row.taken.bytes for row in rows] == sorted(
        (row.taken.bytes for row in rows), reverse=True
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda ledger: ledger.slice("github").stages.clear(), id="no stage"),
        pytest.param(lambda ledger: ledger.slice("mine").stage("own").read, id="unknown names"),
        pytest.param(
            lambda ledger: ledger.slice("c4").stage("read").read.add(0, 0), id="an empty slice"
        ),
        pytest.param(
            lambda ledger: [
                count.add(0, 0, 10**12)
                for stage in ledger.slice("github").stages[1:]
                for count in (stage.read, stage.kept)
            ],
            id="amounts beside the published",
        ),
    ],
)
def test_ledgers_of_any_shape_have_a_page(change: object, tmp_path: Path) -> None:
    ledger = Ledger()
    account(ledger.slice("github"), 1)
    assert callable(change)
    change(ledger)
    ledger.check()
    (tmp_path / "ledger.json").write_text(json.dumps(ledger.tables()))
    page = build(tmp_path, tmp_path / "report")
    assert "What became of the bytes" in page.read_text(encoding="utf-8")


def test_what_cannot_be_reported_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 1
    assert "no ledger.json here; name a folder of shards" in capsys.readouterr().err
    (tmp_path / "ledger.json").write_text(json.dumps(Ledger().tables()))
    assert main([str(tmp_path)]) == 1
    assert "holds no slice" in capsys.readouterr().err
    ledger = Ledger()
    account(ledger.slice("github"), 1)
    ledger.slice("github").stage("filters").kept.add(1, 0)
    (tmp_path / "ledger.json").write_text(json.dumps(ledger.tables()))
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "github does not add up: filters: kept 8" in said
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.json"]


def test_the_default_place_is_beside_the_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    ledger = Ledger()
    account(ledger.slice("github"), 1)
    (folder / "ledger.json").write_text(json.dumps(ledger.tables()))
    assert main([str(folder)]) == 0
    assert (tmp_path / "mine-report" / "index.html").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["ledger.json"]
    assert "mine-report/index.html" in capsys.readouterr().out


def test_published_counts_add_up_as_published() -> None:
    assert sum(values("redpajama", "tokens").values()) == pytest.approx(1210e9)
    assert sum(values("llama", "mixture").values()) == pytest.approx(1.0)
    assert sum(values("slimpajama_kept", "bytes").values()) == pytest.approx(2567e9, rel=1e-3)
    assert "table 1" in source("llama")
    with pytest.raises(KeyError, match="epochs of redpajama"):
        values("redpajama", "epochs")


def test_a_code_span_holds_backticks() -> None:
    group = Group("t", "a", [("a``b", "x")])
    section = Section("s", "S", [Samples([group])])
    page = Page("t", "s", [], [], [section], "now")
    assert "``` a``b ```" in rendering.markdown(page)


def test_a_sum_of_counts() -> None:
    assert Count.sum([Count(1, 2, 3), Count(4, 5, 6)]) == Count(5, 7, 9)


@pytest.mark.browser
@pytest.mark.skipif(browser.chromium() is None, reason="no Chromium here: no page is looked at")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light")])
def test_a_page_is_legible(width: int, scheme: browser.Scheme, page: Path, tmp_path: Path) -> None:
    found = browser.measured(page, tmp_path, width, scheme)
    assert found["page"] <= width
    assert {key: found[key] for key in ("wide", "cut", "over", "faint")} == {
        "wide": [], "cut": [], "over": [], "faint": [],
    }  # fmt: skip
    assert browser.asked_for(page, tmp_path) == []
