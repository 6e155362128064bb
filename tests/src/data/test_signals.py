"""Signals: whole blocks with numpy give what a plain loop over one document gives."""

from __future__ import annotations

import math
import sys
import sysconfig
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow.data import bench_signals
from alpenglow.data.document import DataError, Document
from alpenglow.data.signals import SignalSettings, characters, columns, compute, reference
from alpenglow.data.signals.hashes import Groups, HashSet
from alpenglow.data.signals.stop_words import ENGLISH, GOPHER

PLAIN = SignalSettings()

# Characters that a rule asks for, that Unicode treats oddly, and that break lines.
ODD = (
    " \t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\u00a0\u3000\0\x01\x7f.!?#{}_-'\",;:()0129aAbBzZ"
    "\u2022\u2013\u25a0\u201d\u2019\u2026\u3002\u00e9\u00c9\u0301\u0323\u0130\u0131\u03a3\u03c3"
    "\u03c2\u212a\u212b\u037e\u1fef\u2260\u1e9e\u00df\u01c5\u24b6\u2160\u00bd\u0661\u4e00\uf9d1"
    "\uac00\u1100\u1161\u11a8\u0e33\u09cb\u09c7\u09be\ud800\udfff\U0001d400\U0001f600\U0001f1e6"
    "\u2000\u2001\u0345\u0f73\u0f71\u0f72\u0344"
)
PIECES = (
    "the", "The", "THE", "of", "with", "javascript", "JavaScript", "lorem ipsum", "Lorem\nIpsum",
    "lorem ipsu\u1e3f", "terms of use", "Cookie Policy", "a b c d e f", "one two three. ", "...",
    "....", "......", "\n\n", "\r\n", " \n ", "-----", "don't", "\u03b1\u03a3'\u03b2", "x\u0301",
)  # fmt: skip
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(PIECES),
        st.text(st.sampled_from(ODD), max_size=6),
        st.text(st.sampled_from("ab \n."), max_size=30),
        st.text(max_size=6),
        st.sampled_from([" ", "\n"]),
    ),
    max_size=30,
).map("".join)


def documents(texts: Sequence[str]) -> list[Document]:
    return [Document(text, "books", "a", "CC0-1.0") for text in texts]


def differences(texts: Sequence[str], settings: SignalSettings = PLAIN) -> list[str]:
    """Return what is not as the reference has it."""
    found, lines = compute(documents(texts), settings)
    wrong = []
    for index, text in enumerate(texts):
        wanted = reference.document(text, ENGLISH, GOPHER)
        for name, value in wanted.items():
            given = float(found[name][index])
            if given != pytest.approx(float(value), rel=1e-9, abs=1e-9, nan_ok=True):
                wrong.append(f"{name} of {text[:80]!r}: {given}, not {value}")
        begin, end = lines["offset"][index : index + 2].tolist()
        wanted_lines = reference.lines(text)
        if end - begin != len(wanted_lines):
            wrong.append(f"lines of {text[:80]!r}: {end - begin}, not {len(wanted_lines)}")
            continue
        for number, values in enumerate(wanted_lines):
            for name, value in values.items():
                given = float(lines[name][begin + number])
                if not math.isclose(given, value, rel_tol=1e-6, abs_tol=1e-7):
                    wrong.append(f"{name} of line {number} of {text[:80]!r}: {given}, not {value}")
    assert set(wanted) <= set(found)
    return wrong


@settings(max_examples=250, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_blocks_give_what_the_reference_gives(texts: list[str]) -> None:
    assert differences(texts) == []


SMALL = ("", "\n", " ", "a", ".", "...", "\u2026", "\0", "\r\n", "a\r", "\u00e9", "\u0301",
         "\n\n\n", "a\n\n", "\ud800", "..a")  # fmt: skip


@pytest.mark.parametrize("text", SMALL)
def test_small_texts(text: str) -> None:
    assert differences([text]) == []
    assert differences(["ab. cd", text, "x", text]) == []


def test_no_documents() -> None:
    found, lines = compute([], PLAIN)
    some, _ = compute(documents(["a"]), PLAIN)
    assert set(found) == set(some)
    assert all(column.shape == (0,) for column in found.values())
    assert lines["offset"].tolist() == [0]


def real_texts(megabytes: float) -> list[str]:
    """Texts of this Python's own library, and some that hold more than ASCII."""
    folders = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    texts: list[str] = []
    size = 0.0
    for folder in folders:
        for path in sorted(folder.rglob("*"))[::7]:
            if path.suffix in (".py", ".txt", ".rst", ".md", ".html") and path.is_file():
                text = path.read_bytes()[:60_000].decode("utf-8", "replace")
                texts.append(text)
                size += len(text) / 1e6
                if size > megabytes:
                    return texts
    return texts


def test_real_texts() -> None:
    texts = real_texts(1.5)
    assert len(texts) > 50
    assert any(not text.isascii() for text in texts)
    assert differences(texts) == []


def test_blocks_and_their_order_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*real_texts(0.3), "\u03a3\u0301 x", "", "a b"]
    whole, lines = compute(documents(texts), PLAIN)
    monkeypatch.setattr(columns, "BLOCK", 1000)
    small, small_lines = compute(documents(texts), PLAIN)
    for before, after in ((whole, small), (lines, small_lines)):
        assert set(before) == set(after)
        for name, column in before.items():
            # Sums run over other blocks: equal but for the last bits of a logarithm.
            np.testing.assert_allclose(after[name], column, rtol=1e-12, err_msg=name)


def test_long_documents_are_looked_at_from_their_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "Some words, {and} more \u00e9 x_1.\n" * 100 + "\ud800\0}}} end" * 50
    whole, _ = compute(documents([text]), PLAIN)
    monkeypatch.setattr(columns, "LONGEST", 1000)
    monkeypatch.setattr(columns, "BLOCK", 300)
    cut, _ = compute(documents(["a", text, "b"]), PLAIN)
    short, _ = compute(documents([text[:1000]]), PLAIN)
    of_all = {"characters", "ccnet_length", "ccnet_nlines", "alphanumeric_share", "binary",
              "alphabetic_characters", "not_unicode", "curly_brackets", "rps_doc_curly_bracket",
              "ccnet_original_length", "ccnet_original_nlines"}  # fmt: skip
    assert whole["binary"].tolist() == whole["not_unicode"].tolist() == [1]
    for name in whole:
        wanted = whole if name in of_all else short
        np.testing.assert_allclose(cut[name][1], wanted[name][0], rtol=1e-12, err_msg=name)


def test_memory_is_bounded() -> None:
    """Words of one letter are what takes most; the bound of a worker has room for it."""
    assert bench_signals.memory("a b c d e f g h\n" * 125_000) < 250
    assert columns.LONGEST <= 10_000_000


def test_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_signals.main([str(tmp_path)]) == 1
    assert "no text in the folders" in capsys.readouterr().err
    for number, text in enumerate(real_texts(0.1)):
        (tmp_path / f"{number}.txt").write_text(text, "utf-8")
    assert bench_signals.main([str(tmp_path), "--megabytes", "0.05"]) == 0
    assert "differ from the reference's: none" in capsys.readouterr().out


def test_normalisation_goes_by_characters() -> None:
    """What the table of characters takes for granted, over all of Unicode."""
    following = characters._following()
    assert not any(map(str.isascii, following))
    for code in range(0x80, sys.maxunicode + 1):
        character = chr(code)
        whole = unicodedata.normalize("NFD", character.lower())
        again = unicodedata.normalize("NFD", whole.lower())
        assert whole == again, hex(code)
        assert set(whole[1:]) <= following, hex(code)
        assert character.isspace() == any(map(str.isspace, whole)), hex(code)
        if characters.bits(character) & characters.BREAK:
            assert character.isspace()


def test_columns_of_metadata_and_address(tmp_path: Path) -> None:
    domains = tmp_path / "domains"
    domains.write_text("# a list\nbad.example 3\nworse.example\n")
    given = [
        Document("a\nb", "commoncrawl", "x", "", {"original_length": "9", "language_score": "0.5"},
                 url="https://bad.example/x"),
        Document("a", "commoncrawl", "y", "", {"language_score": "?"}, url="http://www.BAD.example"),
        Document("a", "commoncrawl", "z", "", url="http://[broken"),
    ]  # fmt: skip
    found, _ = compute(given, SignalSettings(blocked_domains=domains))
    assert found["ccnet_original_length"].tolist() == [9, 1, 1]
    assert found["ccnet_original_nlines"].tolist() == [2, 1, 1]
    np.testing.assert_array_equal(found["ccnet_language_score"], [0.5, math.nan, math.nan])
    np.testing.assert_array_equal(found["rps_doc_ut1_blacklist"], [3, math.nan, math.nan])
    assert found["blocked_domain"].tolist() == [1, 1, 0]
    table = tmp_path / "table.json"
    table.write_text('{"bad.example": 7}')
    found, _ = compute(given, SignalSettings(blocked_domains=table))
    np.testing.assert_array_equal(found["rps_doc_ut1_blacklist"], [7, math.nan, math.nan])


def test_bad_words_are_counted_as_runs_of_words(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("darn\nheck of a\nzut alors\n\u00e9crase\n")
    with_words = SignalSettings(bad_words=words)
    texts = ["Darn, darn!", "what a heck of a-lot of a heck", "zut", "alors zut, ALORS",
             "heck of a", "e\u0301crase \u00c9CRASE"]  # fmt: skip
    found, _ = compute(documents(texts), with_words)
    assert found["rps_doc_ldnoobw_words"].tolist() == [2, 0, 0, 1, 1, 2]
    # Nothing goes across documents.
    found, _ = compute(documents(["heck of", "a"]), with_words)
    assert found["rps_doc_ldnoobw_words"].tolist() == [0, 0]
    assert "rps_doc_ldnoobw_words" not in compute(documents(["a"]), PLAIN)[0]


def test_stop_words_of_another_language(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="language = 'de' needs stop_words"):
        SignalSettings(language="de")
    words = tmp_path / "de"
    words.write_text("der\nund\nf\u00fcr\n")
    german = SignalSettings(language="de", stop_words=words)
    found, _ = compute(documents(["Brot f\u00fcr der Welt und", "the of"]), german)
    assert found["rps_doc_stop_word_fraction"].tolist() == [3 / 5, 0]
    assert found["stop_words"].tolist() == [3, 0]


def test_the_hash_covers_what_the_files_hold(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("a\n")
    one = SignalSettings(bad_words=words)
    before = one.hash
    assert before == SignalSettings(bad_words=words).hash != PLAIN.hash
    words.write_text("a\nb\n")
    assert one.hash != before
    assert compute(documents(["b"]), one)[0]["rps_doc_ldnoobw_words"].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad_words", None, "cannot be read"),
        ("stop_words", b"\n", "no stop word is in it"),
        ("stop_words", b"\xff", "not UTF-8 at byte 0"),
        ("blocked_domains", b"a.example b c", "not a domain"),
    ],
)
def test_lists_that_cannot_be_used(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / "list"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        compute([], SignalSettings(**{name: path}))  # type: ignore[arg-type]


def test_without_lines_and_repetition() -> None:
    some, lines = compute(documents(["a b"]), SignalSettings(lines=False, repetition=False))
    assert lines == {}
    assert "rps_doc_word_count" in some
    assert "rps_doc_unigram_entropy" not in some


def test_groups_of_keys_whose_high_bits_are_equal() -> None:
    keys = np.array([5, 3, 5, 4, 3, 5], np.uint64)  # all bits that differ make room for places
    groups = Groups.of(keys)
    assert sorted(groups.again.tolist()) == [2, 4, 5]
    assert keys[groups.order[groups.begins]].tolist() == [3, 4, 5]


def test_hash_sets_of_any_size() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 150, 100_000):
        members = rng.integers(0, 2**63, size, dtype=np.uint64)
        found = HashSet(members)
        others = rng.integers(0, 2**63, 1000, dtype=np.uint64)
        which, index = found.find(members)
        assert which.tolist() == list(range(size))
        assert (found.members[index] == members).all()
        assert found.find(others)[0].size == 0
