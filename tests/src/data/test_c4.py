"""C4: published lines as they are, WET texts by its rules, bad lines counted, cut files named."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import warc_files

from alpenglow.config import ConfigError
from alpenglow.data import slices
from alpenglow.data.document import DataError, Document
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import c4, json_lines
from alpenglow.data.slices.c4_cleaning import Cleaner, Rules, count_sentences
from alpenglow.data.slices.source import LARGEST, Source

GOOD = "The glow on the summits comes after the sun has set."


def read(root: Path, **changes: Any) -> list[Document]:
    recipe = SliceRecipe(input=root, **changes)
    units = c4.units(Source.of("c4", recipe, 1 << 20))
    return [document for unit in units for document in c4.read(unit, recipe)]


def clean(page: str, **rules: Any) -> tuple[str, str, dict[str, int]]:
    size = len(page.encode())
    found = Cleaner(Rules(**rules)).clean(page, size)
    if not found.fault:
        assert len(found.text.encode()) + sum(found.trimmed.values()) == size
    return found.text, found.fault, dict(found.trimmed)


@pytest.mark.parametrize("mode", ["fixed", "faithful"])
def test_published_lines(mode: str, tmp_path: Path) -> None:
    lines = [{"text": f"text {i}", "url": f"https://a/{i}", "timestamp": "2019"} for i in range(3)]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    (tmp_path / "c4-train.00000.json.gz").write_bytes(gzip.compress(content))
    found = read(tmp_path, mode=mode)
    assert [(d.text, d.url, d.timestamp) for d in found] == [
        (line["text"], line["url"], line["timestamp"]) for line in lines
    ]
    assert [d.source for d in found] == [f"c4-train.00000.json.gz#{n}" for n in (1, 2, 3)]
    assert [d.text for d in read(tmp_path, max_bytes=7)] == ["text 0", "text 1"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"\xff", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"url": ""}', "no text in the JSON object"),
        (b'{"text": 1}', "no text in the JSON object"),
    ],
)
def test_a_bad_line_is_counted_and_the_next_is_read(
    line: bytes, fault: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n\n' + line + b'\r\n{"text": "y"}')
    found = read(tmp_path)
    assert [(d.source, d.fault) for d in found] == [
        ("a.jsonl#1", ""), ("a.jsonl#3", fault), ("a.jsonl#4", ""),
    ]  # fmt: skip
    assert (found[1].size, found[2].text) == (len(line), "y")


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_cut_file(tenth: int, tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % (n * n) for n in range(3000))
    whole = gzip.compress(lines)
    (tmp_path / "a.json.gz").write_bytes(whole[: len(whole) * tenth // 10])
    with pytest.raises(DataError, match=r"a\.json\.gz: cannot be read after line \d+ .*again"):
        read(tmp_path)


def test_damaged_gzip(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b'{"text": "x"}\n' * 1000))
    data[20] ^= 255
    (tmp_path / "a.json.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.json\.gz: cannot be read after line"):
        read(tmp_path)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_a_line_without_end(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    with gzip.open(path, "wb", 1) if ending.endswith("gz") else path.open("wb") as file:
        file.write(b'{"text": "a"}\n{"text": "')
        for _ in range(LARGEST // 1_000_000 + 70):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "b"}\n')
    tracemalloc.start()
    try:
        found = [(line.record, line.fault, line.size) for line in json_lines.json_lines(path)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [
        ({"text": "a"}, "", 13),
        ({}, "larger than 50 MB", 120_000_013),
        ({"text": "b"}, "", 13),
    ]
    assert peak < 2.5 * LARGEST


def test_lines_that_are_prose_stay() -> None:
    page = "\n".join(
        [
            "Home | About | Contact",
            GOOD,
            "  Too short.  ",
            "It ends with an ellipsis and so it goes...",
            "Please enable JavaScript to see the comments here.",
            "By going on you accept our Privacy Policy and all of it.",
            f"A word of {'x' * 1001} is too long to be one.",
            '"It lasts for some minutes," he said, "and then it fades."',
            "It was described[12] by painters[citation needed] long ago.[3]",
            "",
            "Where does it last the longest?",
        ]
    )
    text, fault, trimmed = clean(page)
    assert fault == ""
    assert text.split("\n") == [
        GOOD,
        '"It lasts for some minutes," he said, "and then it fades."',
        "It was described by painters long ago.",
        "Where does it last the longest?",
    ]
    assert set(trimmed) == {"no end mark", "too few words", "javascript", "policy",
                            "too long word", "citation", "white space"}  # fmt: skip
    assert trimmed["citation"] == len("[12][citation needed][3]")
    assert trimmed["no end mark"] == len("Home | About | Contact") + 42
    assert trimmed["white space"] == 4 + 10 - 3  # two on each side, ten line ends, three stay


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("This is a lorem ipsum text of no use.", "lorem ipsum"),
        ("And then if (x) { y = 1 } it ends well.", "curly bracket"),
        ("And { this line has no end mark", ""),
        ("Lorem ipsum dolor", ""),
        ("Nobody says darn words in here at all.", "bad word"),
        ("Nobody is darned in here at all, ever.", ""),
        ("Nobody darns socks: old Fudge, he does.", "bad word"),
    ],
)
def test_pages_that_go(line: str, fault: str, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Darn\n\nold fudge\n")
    assert clean("\n".join([GOOD, GOOD, GOOD, line]), bad_words=words)[1] == fault
    if fault == "bad word":
        assert clean("\n".join([GOOD, GOOD, GOOD, line]))[1] == ""


def test_sizes_of_pages() -> None:
    assert clean(f"{GOOD}\n{GOOD}")[1] == "too few sentences"
    assert clean(f"{GOOD} {GOOD}\n{GOOD}")[1] == ""
    assert clean("")[1] == "too few sentences"
    assert clean("x", sentences_per_page=0)[1] == "too few sentences"
    # The paper's numbers in the place of the builder's.
    assert clean(f"{GOOD} {GOOD}\n{GOOD}", sentences_per_page=5)[1] == "too few sentences"
    assert clean(f"It goes on.\n{GOOD}\n{GOOD}", words_per_line=3)[0].startswith("It goes on.")
    long = f"{GOOD}\n" * (190_000 // (len(GOOD) + 1))
    assert clean(long)[1] == ""
    assert clean(long + GOOD * 100)[1] == "longer than max_characters"


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("One. Two! Three?", 3),
        ("Dr. Who met Mrs. Peel, e.g. at 3.14 p.m. on Jan. 5.", 1),
        ('"Stop!" she said. "Now."', 3),
        ("It was J. R. R. Tolkien.", 1),
        ("Really?! Yes... No.", 3),
        ("no mark at all", 1),
        ("It ends. and then", 2),
        ("", 0),
    ],
)
def test_sentences(line: str, count: int) -> None:
    assert count_sentences(line) == count


def test_wet(tmp_path: Path) -> None:
    german = "Das Leuchten der Gipfel beginnt, wenn die Sonne schon untergegangen ist.\n" * 3
    garbled = b"\xff\xfe\xfd" * 400
    texts = [f"Title\n\n{GOOD}\n" * 3, german, "Menu\nHome\n", "x" * 200_000]
    parts = [warc_files.record("conversion", text.encode(), n) for n, text in enumerate(texts)]
    parts += [warc_files.record("warcinfo", b""), warc_files.record("conversion", garbled, 8)]
    warc_files.write(tmp_path / "a.warc.wet.gz", parts)
    found = read(tmp_path)
    assert [(d.source, d.fault) for d in found] == [
        ("a.warc.wet.gz#0", ""),
        ("a.warc.wet.gz#1", "another language"),
        ("a.warc.wet.gz#2", "too few sentences"),
        ("a.warc.wet.gz#3", "longer than max_characters"),
        ("a.warc.wet.gz#8", "undecodable"),
    ]
    assert found[0].text == "\n".join([GOOD] * 3)
    assert found[0].trimmed == {"no end mark": 15, "white space": 7}
    assert (found[0].url, found[0].timestamp[:4]) == ("http://example.org/0", "2023")
    assert found[0].metadata["language"] == "en"
    sizes = [len(text.encode()) for text in texts] + [len(garbled)]
    assert [d.read_bytes for d in found] == sizes
    (unsure,) = read(tmp_path, rules={"language_score": 1.0})[:1]
    assert unsure.fault == "language unsure"
    german_too = read(tmp_path, rules={"language": "de"})
    assert [d.fault for d in german_too[:2]] == ["another language", ""]
    whole = (tmp_path / "a.warc.wet.gz").read_bytes()
    (tmp_path / "a.warc.wet.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.warc\.wet\.gz, .*fetch the file again"):
        read(tmp_path)


def test_rules_that_are_none(tmp_path: Path) -> None:
    for rules, sentence in (
        ({"min_words": 3}, "min_words"),
        ({"language_score": -1}, "language_score = -1"),
        ({"longest_word": 0}, "longest_word = 0"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            slices.check("c4", SliceRecipe(rules=rules))
    with pytest.raises(DataError, match="not a list of words"):
        Cleaner(Rules(bad_words=tmp_path / "absent"))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DataError, match="holds no word"):
        Cleaner(Rules(bad_words=tmp_path / "empty"))
