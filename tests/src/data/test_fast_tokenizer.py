"""The fast path gives the tokens of the `tokenizers` library, or leaves the text to it."""

from __future__ import annotations

import functools
import os
import sysconfig
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from alpenglow.data import alphabet, fast_tokenizer, pieces
from alpenglow.data.bench_tokenizer import main as bench
from alpenglow.data.document import DataError
from alpenglow.data.fast_tokenizer import FastTokenizer, Unsupported, plan
from alpenglow.data.tokenizer import CHECK_EVERY, END, Tokenizer

TEXTS = [
    Path(__file__).read_text(),
    "The Alpenglow on the peaks. Größe, 雪, naïve, it's 'we'll'.\n" * 50,
]
RUNS = [" " * length for length in range(24, 1, -1)]
ATOMS = [
    "", " ", "  ", "\n", "\t", "\r\n", "\r", "\0", "\x1c", "\x85", "\xa0", "\u3000", "\u2003",
    "\u2028", "'", "''", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "’s", "s", "l",
    "ll", "re", "d",
    "0", "42", "½", "²", "٣", "Ⅷ", "a", "Word", "don't", "ß", "İ", "_", "-", "=", "<", "==", "# ",
    "é", "e\u0301", "\u0301", "\u0327\u0301", "a\u0323\u0302", "≠", "=\u0338", "\u212b", "\u2126",
    "か\u3099", "한", "\u1112\u1161\u11ab", "\u1161", "क\u093c", "\u0958", "क्", "中文", "，", "。",
    "日本、", "👨\u200d👩\u200d👧", "🏽", "🇩🇪", "\ufe0f", "\u200b", "\ufeff", "\ufffd",
    "\ue000",
    "\u0378", "\U000f0000", "\U0010ffff", "\U00016d63", "<|endoftext|>", "<|padding|>", "<|", "|>",
    "foo", "<é>", "<e\u0301>", "|||IP|||", "< b>",
    *(" " * n for n in (3, 5, 23, 24, 25, 26, 48, 49, 50, 73)),
]  # fmt: skip
TEXT = st.lists(st.one_of(st.sampled_from(ATOMS), st.text(max_size=4)), max_size=40).map("".join)


def trained(*added: Any, special: tuple[str, ...] = (), **parts: Any) -> Backend:
    """A small byte-level BPE with other parts and added tokens."""
    backend = Tokenizer.train(TEXTS, 600).backend()
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.add_special_tokens(list(special))
    backend.add_tokens(list(added))
    backend.encode_special_tokens = True
    return backend


@functools.cache
def backends() -> dict[str, Backend]:
    """Tokenizers of the kinds that the fast path tells apart."""
    nfc = normalizers.NFC()
    raw = [AddedToken(run, normalized=False) for run in RUNS]
    found = {
        "plain": trained(),
        "as GPT-NeoX": trained(*RUNS, special=("<|padding|>",), normalizer=nfc),
        "runs in raw text": trained(*raw, normalizer=nfc),
        "runs up to 3": trained("  ", "   "),
        "a gap in the runs": trained("  ", "    "),
        "a run that strips": trained("   ", AddedToken("  ", lstrip=True)),
        "other added tokens": trained(
            *RUNS,
            AddedToken("|||IP|||", normalized=False),
            AddedToken("foo", single_word=True),
            AddedToken("<é>", lstrip=True, rstrip=True),
            special=("< b>",),
            normalizer=nfc,
        ),
    }
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    if folder:
        path = Path(folder) / "tokenizer" / "20B_tokenizer.json"
        found["GPT-NeoX"] = Tokenizer.load(path).backend()
    return found


@functools.cache
def fast(name: str) -> FastTokenizer:
    # Few pieces are remembered, so that the table is emptied again and again.
    return FastTokenizer(backends()[name], 0, limit=3000)


def differences(name: str, texts: list[str]) -> list[str]:
    wanted = backends()[name].encode_batch_fast(texts, add_special_tokens=False)
    given = fast(name).encode(texts, "uint32")
    pairs = zip(texts, wanted, given, strict=True)
    return [text for text, one, other in pairs if [*one.ids, 0] != other.tolist()]


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=4))
@example(ATOMS)
@example(["".join(ATOMS)])
@example([" ".join(ATOMS), "'".join(ATOMS), "x".join(ATOMS), "\n".join(ATOMS), "  ".join(ATOMS)])
def test_any_text_has_the_tokens_of_the_library(texts: list[str]) -> None:
    assert {name: found for name in backends() if (found := differences(name, texts))} == {}


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6).map(" and, ".join))
def test_a_long_text_may_be_cut(text: str) -> None:
    before = fast_tokenizer.BLOCK
    fast_tokenizer.BLOCK = 32
    try:
        assert {name for name in backends() if differences(name, [text, text[::-1]])} == set()
    finally:
        fast_tokenizer.BLOCK = before


def test_every_character_beside_those_that_matter() -> None:
    known = np.flatnonzero(alphabet.table() < alphabet.UNKNOWN).tolist()
    assert len(known) > 140_000
    uniform = (range(0x3400, 0xA000), range(0xAC00, 0xD7A4), range(0x17000, 0x18D00))
    rest = [c for c in known if c < 0x20000 and not any(c in codes for codes in uniform)]
    assert len(rest) > 30_000
    parts = [f"a{c}{c}1{c} {c}'s{c}  {c}\n" for c in map(chr, {*rest, *known[::50]})]
    texts = ["".join(parts[i : i + 500]) for i in range(0, len(parts), 500)]
    texts += map(chr, known[:2000])
    for name in ("plain", "as GPT-NeoX"):
        before = fast(name).left_to_library
        assert differences(name, texts) == []
        assert fast(name).left_to_library == before


def test_marks_cover_all_that_nfc_changes() -> None:
    entries = alphabet.table()
    compose = normalizers.NFC().normalize_str
    unmarked = list(map(chr, np.flatnonzero(entries < alphabet.COMPOSES).tolist()))
    assert [c for c in unmarked if compose(c) != c] == []
    assert compose("".join(unmarked)) == "".join(unmarked)
    assert not {chr(c) for c in (0x301, 0x1161, 0x3099, 0x93C)} & set(unmarked)
    assert sum(unicodedata.category(c) == "Lo" for c in unmarked) > 100_000


def test_real_text() -> None:
    library = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(errors="replace") for path in sorted(library.glob("*.py"))[:20]]
    assert sum(map(len, texts)) > 300_000
    for name in [name for name in ("plain", "as GPT-NeoX", "GPT-NeoX") if name in backends()]:
        before = fast(name).left_to_library
        assert differences(name, texts) == []
        assert fast(name).left_to_library == before


def test_a_text_of_one_line_is_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    of = pieces.Block.of

    def noted(texts: list[bytes], ascii_only: bool) -> pieces.Block:
        sizes.append(sum(map(len, texts)))
        return of(texts, ascii_only)

    monkeypatch.setattr(pieces.Block, "of", noted)
    line = "One line, a long one: 日本語、雪。 " * 20_000
    assert differences("as GPT-NeoX", [line]) == []
    assert len(sizes) > 5
    assert max(sizes) < 2 * fast_tokenizer.BLOCK


def _splitter(backend: Backend) -> None:
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), backend.pre_tokenizer]
    )


def _prefix(backend: Backend) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def _normalizer(backend: Backend) -> None:
    backend.normalizer = normalizers.NFKC()


def _dropout(backend: Backend) -> None:
    backend.model.dropout = 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_splitter, "its pre-tokenizer is not ByteLevel"),
        (_prefix, "adds a space in front"),
        (_normalizer, "its normalizer is NFKC"),
        (_dropout, "its model has dropout"),
    ],
)
def test_what_is_not_known_is_refused(change: Callable[[Backend], None], reason: str) -> None:
    backend = trained()
    change(backend)
    with pytest.raises(Unsupported, match=reason):
        plan(backend)


def test_any_other_tokenizer_works_through_the_library() -> None:
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=[END], show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    encoder = Tokenizer(backend.to_str()).encoder()
    assert encoder.reason == "its model is Unigram, not BPE"
    (tokens,) = encoder.encode(["The peaks"])
    assert tokens.tolist() == [*backend.encode("The peaks").ids, encoder.end]


def test_a_fault_of_the_fast_path_stops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.train(TEXTS, 400)
    monkeypatch.setattr(pieces, "_ONE", np.zeros(256, np.bool_))  # no 's, 't, 'm, 'd
    encoder = tokenizer.encoder()
    # Only those that are looked at: the first of a call and every thousandth.
    assert len(encoder.encode(["fine", "it's"])) == 2
    sentence = r"books, b\.txt: token 1 \(character 2\) is \d+, and \d+ by tokenizers: .*'exact'"
    with pytest.raises(DataError, match=sentence):
        encoder.encode(["it's", "fine"], ["books, b.txt", "books, c.txt"])
    texts = ["fine"] * (CHECK_EVERY + 1)
    texts[CHECK_EVERY - 2] = "x" * 9000 + " it's"  # the second call's, behind two of the first
    assert len(encoder.encode(texts)) == len(texts)  # its first 8 KiB are compared, and right
    texts[-1] = texts[CHECK_EVERY - 2]
    texts[CHECK_EVERY - 3] = "it's"
    with pytest.raises(DataError, match=rf"text {CHECK_EVERY - 3}: token 1 "):
        encoder.encode(texts)
    assert len(tokenizer.encoder("exact").encode(["it's"])) == 1


@pytest.mark.parametrize("engine", ["auto", "exact"])
def test_half_a_surrogate_pair_is_named(engine: Any) -> None:
    encoder = Tokenizer.train(TEXTS, 400).encoder(engine)
    with pytest.raises(DataError, match="c4, b: character 2 is half of a surrogate pair"):
        encoder.encode(["fine", "ab\ud800"], ["c4, a", "c4, b"])


def test_engines_agree_and_know_what_was_left(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, 400)
    auto, exact = tokenizer.encoder(), tokenizer.encoder("exact")
    texts = ["", *ATOMS, *TEXTS]
    for one, other in zip(auto.encode(texts), exact.encode(texts), strict=True):
        assert one.dtype == other.dtype == np.uint16
        assert one.tolist() == other.tolist()
    # Characters that are not assigned, or of the private planes.
    assert auto.left_to_library == sum(
        len(text.encode())
        for text in texts
        if any(unicodedata.category(c) == "Cn" or ord(c) >= 0xF0000 for c in text)
    )


def test_the_benchmark_compares_all_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tmp_path / "tokenizer"
    assert bench([str(tokenizer)]) == 1
    assert "the tokenizer is not there" in capsys.readouterr().err
    tokenizer.write_text(Tokenizer.train(TEXTS, 400).json)
    (tmp_path / "a.html").write_text("<p>It is a page.</p>")
    (tmp_path / "a.py").write_text("def it_is() -> None: ...\n" * 100)
    assert bench([str(tokenizer), str(tmp_path), "--megabytes", "1"]) == 0
    said = capsys.readouterr().out
    assert "0.0 MB in 2 documents: code 0.0 MB, HTML as text 0.0 MB" in said
    assert "documents with other tokens than the library's: 0; left to the library: 0.00 MB" in said
