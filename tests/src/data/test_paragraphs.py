"""Repeated paragraphs: cc_net's normalisation and hashes, the first occurrence kept."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow.data.paragraphs import (
    PUNCTUATION,
    line_hashes,
    normalised_lines,
    repeated_hashes,
    unique_hashes,
    without_repeated,
)

CHARACTERS = st.one_of(
    st.sampled_from("aAéÉßİΣς09٣１ \t\n\n\x00\x1c\x7f\x85\xa0\u2028.,-" + PUNCTUATION),
    st.characters(),
)


def normalised_line(line: str) -> str:
    """cc_net's normalize_for_dedup in so many words, a line at a time."""
    line = re.sub(r"\d", "0", line.strip().lower())
    gone = set(PUNCTUATION) | {chr(code) for code in (*range(32), *range(127, 160))}
    return "".join(character for character in line if character not in gone)


@given(st.text(CHARACTERS))
def test_lines_are_normalised_as_one_by_one(text: str) -> None:
    lines = [normalised_line(line).encode("utf-8", "surrogatepass") for line in text.split("\n")]
    assert normalised_lines(text) == lines
    heads = [hashlib.sha1(line).digest()[:8] for line in lines]
    assert line_hashes(text).tolist() == [int.from_bytes(head, "little") for head in heads]


@pytest.mark.parametrize(
    ("line", "other", "same"),
    [
        ("Page 12 of 99", "page 37 of 04", True),
        ("  Read more \t", "read MORE", True),
        ("Größe", "Grosse", False),
        ("Café", "Cafe", False),  # accents stay: cc_net strips them before its language model only
        ("“Hello” – world…", "hello  world", True),
        ("Hello, world!", "hello world", False),  # ASCII punctuation stays
        ("１２", "00", True),
        ("a\x00b", "ab", True),
        ("read more", "read  more", False),
    ],
)
def test_what_is_the_same_line(line: str, other: str, same: bool) -> None:
    assert (line_hashes(line)[0] == line_hashes(other)[0]) == same


def test_known_hashes() -> None:
    # SHA-1 of nothing begins da39a3ee5e6b4b0d, of "abc" a9993e364706816a.
    found = line_hashes("\n—\nABC")
    assert found.dtype == np.uint64
    assert [int(value).to_bytes(8, "little").hex() for value in found] == [
        "da39a3ee5e6b4b0d", "da39a3ee5e6b4b0d", "a9993e364706816a",
    ]  # fmt: skip
    assert len(line_hashes("")) == 1


def test_the_first_occurrence_stays(tmp_path: Path) -> None:
    texts = ["Menu\none\nMENU\ntwo", "menu\nthree\n", "Menu", "one\n\nfour"]
    seen: set[int] = set()
    # A blank line is a line as any other: the first one stays.
    assert without_repeated(texts, [], seen) == ["Menu\none\ntwo", "three\n", "", "four"]
    assert len(seen) == 6
    # The unit goes on where it was.
    assert without_repeated(["Three\nfive"], [], seen) == ["five"]
    assert without_repeated([], [], seen) == []


def test_lines_of_earlier_units(tmp_path: Path) -> None:
    first = unique_hashes(["Menu\none", "two\nmenu", ""])
    assert first.tolist() == sorted({*line_hashes("menu\none\ntwo\n").tolist()})
    np.save(tmp_path / "first.npy", first)
    mapped = np.load(tmp_path / "first.npy", mmap_mode="r")
    second = unique_hashes(["three"])
    texts = ["Menu\nnew\nThree", "new\ntwo\nnewer"]
    for earlier in ([mapped, second], [second, np.empty(0, np.uint64), first]):
        assert without_repeated(texts, earlier, set()) == ["new", "newer"]
    assert without_repeated(texts, [], set()) == ["Menu\nnew\nThree", "two\nnewer"]
    assert unique_hashes([]).tolist() == []


def test_every_occurrence_goes_as_in_cc_net() -> None:
    texts = ["Menu\none\none", "menu\ntwo", "three\nthree"]
    repeated = repeated_hashes(texts)
    assert repeated.tolist() == line_hashes("menu").tolist()
    # Lines that one document alone repeats are kept once.
    kept = [without_repeated([text], [repeated], set())[0] for text in texts]
    assert kept == ["one", "two", "three"]
    assert repeated_hashes([]).tolist() == []


def test_many_lines_against_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, 26**3, 20_000)
    words = ["".join(chr(97 + n // 26**k % 26) for k in range(3)) for n in numbers.tolist()]
    earlier = [unique_hashes(words[:3000]), unique_hashes(words[3000:6000])]
    gone = set(words[:6000])
    expected = []
    for word in words[6000:]:
        expected += [] if word in gone else [word]
        gone.add(word)
    seen: set[int] = set()
    found = without_repeated(["\n".join(words[6000:13_000])], earlier, seen)
    found += without_repeated(["\n".join(words[13_000:])], earlier, seen)
    assert "\n".join(found).split("\n") == expected
