"""CommonCrawl: pages of WARC and WET files, each with a text or with the reason why not."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import warc_files
from crawl_pages import GERMAN, PAGE, PROSE, SMALL, long, of_records, page, read, units

from alpenglow.config import ConfigError
from alpenglow.data import slices
from alpenglow.data.collect import Collecting, collect
from alpenglow.data.document import DataError, Input, Unit
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import commoncrawl, page_text


@pytest.fixture
def crawl() -> Path:
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    if not folder:
        pytest.skip("ALPENGLOW_TEST_DATA is not set: no pages of a real crawl to read")
    return Path(folder) / "warc"


def test_a_page(tmp_path: Path) -> None:
    record = warc_files.record("response", warc_files.http(PAGE.encode()), 7)
    (found,) = of_records(tmp_path, [record], "a.warc.gz")
    assert found.text == f"Glow\n\n{PROSE}"
    assert (found.source, found.url) == ("a.warc.gz#7", "http://example.org/7")
    assert (found.timestamp, found.fault) == ("2023-03-20T10:00:00Z", "")
    assert found.metadata["record"] == "7"
    assert found.metadata["digest"].startswith("sha1:")
    assert found.metadata["language"] == "en"
    assert float(found.metadata["language_score"]) > 0.8
    assert found.trimmed == {"markup": len(PAGE) - len(found.text)}
    assert found.read_bytes == len(PAGE)


def test_pages_of_a_real_crawl(crawl: Path) -> None:
    found = [d for d in read(crawl) if ".warc.gz#" in d.source]
    assert Counter(d.fault for d in found) == {
        "": 3, "shorter than min_characters": 1, "revisit: the page is in another record": 1,
    }  # fmt: skip
    pages = [d for d in found if not d.fault]
    assert [d.text.partition("\n")[0] for d in pages] == [
        "Who We Are",
        "CC Joins Civil Society Letter Urging U.S. to Support Openness and Transparency in AI",
        "CC at WIPO: Slow progress on copyright exceptions for cultural heritage institutions",
    ]
    assert all(d.url.startswith("https://creativecommons.org/") for d in pages)
    assert all(d.timestamp.startswith("2024-04-25T16:27") for d in pages)
    assert all(d.metadata["language"] == "en" for d in pages)
    assert not any("<" in d.text or "cookie" in d.text.lower() for d in pages)
    short = next(d for d in found if d.fault.startswith("shorter"))
    assert short.text.startswith("Example Domain")  # its body was gzip inside the record


@pytest.mark.parametrize("tenth", range(10))
def test_a_real_crawl_cut_at_a_tenth(tenth: int, crawl: Path, tmp_path: Path) -> None:
    whole = crawl / "creativecommons_3pages.warc.gz"
    texts = [d.text for d in read(whole, rules=SMALL)]
    data = whole.read_bytes()
    path = tmp_path / "cut.warc.gz"
    path.write_bytes(data[: len(data) * tenth // 10])
    (unit,) = units(path)
    found: list[str] = []
    with pytest.raises(DataError, match=r"cut\.warc\.gz, .*byte \d+: .*; fetch the file again"):
        found.extend(d.text for d in commoncrawl.read(unit, SliceRecipe(rules=SMALL)))
    assert found == texts[: len(found)]
    about = Collecting(tmp_path, SliceRecipe(rules=SMALL), "key")
    with pytest.raises(DataError):
        collect(unit, about)
    assert not about.path(unit).exists()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (warc_files.http(b"%PDF-1.4", "application/pdf"), "not HTML"),
        (warc_files.http(b"plain words", None), "not HTML"),
        (warc_files.http(b"<html>\0\0\1\2" + bytes(range(256)) * 9), "not HTML"),
        (warc_files.http(b""), "no text"),
        (warc_files.http(b"<html><body><script>x()</script></body></html>"), "no text"),
        (warc_files.http(long("Short.")), "shorter than min_characters"),
        (warc_files.http(long(GERMAN)), "another language"),
        (warc_files.http(long("xq zzv 3141 qqk 59 vvx " * 30)), "language unsure"),
        (warc_files.http(long(PROSE), status=404), "HTTP status is not 200"),
        (warc_files.http(long(PROSE), status=301, Location="/"), "HTTP status is not 200"),
        (b"\x16\x03\x01 no http", "not an HTTP response"),
        (warc_files.http(gzip.compress(long(PROSE))[:-20], Content_Encoding="gzip"),
         "body cannot be unpacked"),
        (warc_files.http(b"5\r\nabcde\r\nffff\r\nabc", Transfer_Encoding="chunked"),
         "body cannot be unpacked"),
        (warc_files.http(b"\xfe\xff" + b"\xd8\x01" * 900), "undecodable"),
        (warc_files.http(b"<div>" * 100_000 + long(PROSE)), "nested too deeply"),
        (warc_files.http(b"<p>" + b"x" * page_text.LARGEST_PAGE), "page larger than 10 MB"),
    ],
)  # fmt: skip
def test_why_a_page_gives_no_text(content: bytes, fault: str, tmp_path: Path) -> None:
    found = page(tmp_path, content)
    assert found.fault == fault
    assert found.bytes == found.read_bytes > 0 or not content.partition(b"\r\n\r\n")[2]


def test_records_that_are_no_page(tmp_path: Path) -> None:
    good = warc_files.http(PAGE.encode())
    found = of_records(tmp_path, [
        warc_files.record("warcinfo", b"by hand"),
        warc_files.record("request", b"GET / HTTP/1.1\r\n\r\n"),
        warc_files.record("metadata", b"fetchTimeMs: 1"),
        warc_files.record("revisit", b"HTTP/1.1 200 OK\r\n\r\n", 1),
        warc_files.record("response", good, 2, WARC_Segment_Number="1"),
        warc_files.record("response", good, 3, WARC_Truncated="length"),
        warc_files.record("resource", PAGE.encode(), 4, Content_Type="text/html"),
        warc_files.record("resource", b"\x89PNG", 5, Content_Type="image/png"),
    ])  # fmt: skip
    assert [(d.source, d.fault) for d in found] == [
        ("a.warc#1", "revisit: the page is in another record"),
        ("a.warc#2", "record in segments"),
        ("a.warc#3", "cut by the crawler"),
        ("a.warc#4", ""),
        ("a.warc#5", "not HTML"),
    ]
    cut = of_records(
        tmp_path, [warc_files.record("response", good, 3, WARC_Truncated="length")], truncated=True
    )
    assert [(d.fault, d.metadata["truncated"]) for d in cut] == [("", "length")]


def wet(text: str, number: int = 1) -> bytes:
    return warc_files.record("conversion", text.encode(), number, Content_Type="text/plain",
                             WARC_Block_Digest="sha1:ABC")  # fmt: skip


def test_wet_fixed_and_faithful(tmp_path: Path) -> None:
    text = f"A title\n\n  {PROSE}  \n\n\nSecond  line.\n"
    warc_files.write(tmp_path / "a.warc.wet.gz", [wet(text)])
    (fixed,), (faithful,) = read(tmp_path), read(tmp_path, mode="faithful")
    assert fixed.text == text.strip()
    # cc_net takes the first line away as the title, and blank lines and outer white space.
    assert faithful.text == f"{PROSE}\nSecond  line."
    assert (faithful.metadata["title"], faithful.metadata["digest"]) == ("A title", "sha1:ABC")
    assert faithful.trimmed == {"title": 7, "white space": 9}
    for found in (fixed, faithful):
        assert found.read_bytes == len(text.encode())
    # A page of its title alone has no text; a text that its title made long enough is short.
    warc_files.write(tmp_path / "a.warc.wet.gz", [wet(PROSE), wet(f"{PROSE[:250]}\n{PROSE[:90]}")])
    assert [d.fault for d in read(tmp_path)] == ["", ""]
    faults = [d.fault for d in read(tmp_path, mode="faithful")]
    assert faults == ["no text", "shorter than min_characters"]


def test_language_scores_are_rounded_in_faithful_mode(tmp_path: Path) -> None:
    mixed = [f"{PROSE[:at]} {GERMAN[at:]}" for at in range(0, 300, 4)]
    warc_files.write(tmp_path / "a.wet", [wet(f"t\n{m}", n) for n, m in enumerate(mixed)])
    first = read(tmp_path, mode="faithful", rules={"languages": []})
    scores = sorted(float(d.metadata["language_score"]) for d in first)
    # A threshold just above a score that rounds up to it.
    score = next(s for s in scores if round(s, 2) > s)
    rules = {"language_score": round(score, 2), "languages": ["en", "de"]}

    def kept(mode: str) -> set[str]:
        found = read(tmp_path, mode=mode, rules=rules)
        assert {d.fault for d in found} <= {"", "language unsure", "another language"}
        return {d.source for d in found if d.fault != "language unsure"}

    exact = {d.source for d in first if float(d.metadata["language_score"]) >= round(score, 2)}
    assert kept("faithful") > exact


def test_records_of_ccnet(tmp_path: Path) -> None:
    base = {"url": "http://example.org/", "date_download": "2019-07-15T20:33:53Z",
            "digest": "sha1:X", "raw_content": PROSE, "language": "en", "language_score": 0.96,
            "bucket": "head", "title": "Glow", "perplexity": 200.5}  # fmt: skip
    changes: list[dict[str, Any]] = [
        {}, {"bucket": "middle"}, {"bucket": "tail"}, {"language": "de"},
        {"language_score": 0.4}, {"raw_content": "x"}, {"raw_content": None},
    ]  # fmt: skip
    lines = [json.dumps(base | change) for change in changes]
    lines += ["{", json.dumps({"url": "u", "raw_content": PROSE})]
    (tmp_path / "en_head_0000.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    found = read(tmp_path)
    assert [d.fault for d in found] == [
        "", "", "bucket not asked for", "another language", "language unsure",
        "shorter than min_characters", "no raw_content", "not a JSON object", "",
    ]  # fmt: skip
    assert (found[0].text, found[0].timestamp) == (PROSE, "2019-07-15T20:33:53Z")
    assert (found[0].source, found[0].url) == ("en_head_0000.json.gz#1", "http://example.org/")
    assert found[0].metadata["perplexity"] == "200.5"
    assert found[8].metadata["language"] == "en"  # none was stated: it is identified
    assert found[7].size == 1


def test_everything_that_was_read_is_accounted_for(tmp_path: Path) -> None:
    bodies = [PAGE.encode(), b"<html></html>", long(GERMAN), long(PROSE * 3)]
    parts = [warc_files.record("response", warc_files.http(b), n) for n, b in enumerate(bodies)]
    warc_files.write(tmp_path / "a.warc.gz", [*parts, wet(f"t\n\n{PROSE}\n", 9), wet("x", 10)])
    (unit,) = units(tmp_path)
    store = collect(unit, Collecting(tmp_path, SliceRecipe(), "key"))
    kept = int(store.sizes.sum())
    dropped = sum(size for _, size in store.dropped.values())
    trimmed = sum(size for _, size in store.trimmed.values())
    total = sum(map(len, bodies)) + len(f"t\n\n{PROSE}\n") + 1
    assert store.read == (6, total)
    assert kept + dropped + trimmed == total
    assert len(store) + sum(count for count, _ in store.dropped.values()) == 6
    assert store.rejects["another language"][0]["text"] == GERMAN


def test_units_and_caps(tmp_path: Path) -> None:
    for number in range(4):
        record = warc_files.record("response", os.urandom(400_000))
        warc_files.write(tmp_path / f"{number}.warc", [record])
    (tmp_path / "z.txt").write_text("ready")
    assert [len(unit.inputs) for unit in units(tmp_path)] == [2, 3]
    assert [unit.limit for unit in units(tmp_path)] == [None, None]
    first, second = units(tmp_path, max_bytes=1_000_000)
    assert (first.limit, second.limit) == (500_000, 500_000)
    pages = [warc_files.record("response", warc_files.http(PAGE.encode()), n) for n in range(9)]
    (tmp_path / "pages").mkdir()
    warc_files.write(tmp_path / "pages" / "a.warc", pages)
    found = read(tmp_path / "pages", max_bytes=1000)
    assert sum(d.bytes for d in found[:-1]) < 1000 <= sum(d.bytes for d in found)


def test_ready_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Kurz")
    (found,) = read(tmp_path)
    assert (found.text, found.fault, found.source) == ("# Kurz", "", "a.md")


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"min_chars": 3}, "min_chars"),
        ({"language_score": 2}, "language_score = 2"),
        ({"min_characters": 0}, "min_characters = 0"),
        ({"paragraph_group": 0}, "paragraph_group = 0"),
    ],
)
def test_rules_that_are_none(rules: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        slices.check("commoncrawl", SliceRecipe(rules=rules))


def test_documentation_pages(tmp_path: Path) -> None:
    module = tmp_path / "pkg.py"
    module.write_text('"""About."""\n\ndef f(a, b=1):\n    """Add.\n\n    More.\n    """\n')
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    broken = tmp_path / "broken.py"
    broken.write_text("def (:\n")
    inputs = tuple(
        Input(str(p), f"pkg-1/{p.name}#documentation", "MIT", 1) for p in (module, empty, broken)
    )
    unit = Unit("commoncrawl", "commoncrawl-00000", inputs)
    pages = list(commoncrawl.read(unit, SliceRecipe(origin="installed")))
    assert pages[0].text == "pkg\n\nAbout.\n\n\npkg.f(a, b=1)\n\nAdd.\n\nMore."
    assert [page.fault for page in pages] == ["", "no docstring", "not Python"]
