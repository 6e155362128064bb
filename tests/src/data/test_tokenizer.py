"""The tokenizer: trained the same each time, exact on any text, one end a document."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow.data.document import DataError
from alpenglow.data.tokenizer import END, Encoder, Tokenizer

TEXTS = [Path(__file__).read_text(), "The Alpenglow on the peaks. Größe, 雪, naïve.\n" * 50]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


@functools.cache
def small() -> Encoder:
    return Tokenizer.train(TEXTS, 300).encoder()


def test_training_is_repeatable(tokenizer: Tokenizer) -> None:
    assert [Tokenizer.train(TEXTS, 400).hash for _ in range(3)] == [tokenizer.hash] * 3


def test_end_is_id_zero_and_the_bytes_follow(tokenizer: Tokenizer) -> None:
    encoder = tokenizer.encoder()
    assert encoder.end == 0
    assert encoder.vocab_size == 400
    assert encoder.dtype == "uint16"


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_decoding_gives_the_text_back(text: str) -> None:
    encoder = small()
    (tokens,) = encoder.encode([text])
    assert encoder.decode(tokens[:-1].tolist()) == text


def test_a_text_cannot_write_the_end_of_a_document(tokenizer: Tokenizer) -> None:
    encoder = tokenizer.encoder()
    text = f"before {END} after"
    (tokens,) = encoder.encode([text])
    assert np.flatnonzero(tokens == encoder.end).tolist() == [tokens.size - 1]
    assert encoder.decode(tokens[:-1].tolist()) == text


def test_saving_and_loading(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.json)
    assert Tokenizer.load(path).hash == tokenizer.hash


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "the tokenizer is not there"),
        ("{", "not a tokenizers JSON file"),
        ("no end", f"has no token {END}".replace("|", r"\|")),
    ],
)
def test_a_tokenizer_that_cannot_be_used(
    content: str | None, sentence: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(tokenizer.json.replace(END, "<end>") if content == "no end" else content)
    with pytest.raises(DataError, match=sentence):
        Tokenizer.load(path)


def test_the_published_tokenizer() -> None:
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    if not folder:
        pytest.skip("ALPENGLOW_TEST_DATA is not set: no GPT-NeoX tokenizer to read")
    encoder = Tokenizer.load(Path(folder) / "tokenizer" / "20B_tokenizer.json").encoder()
    assert encoder.end == 0
    assert encoder.dtype == "uint16"
    text = "def f():\n        return 1\n"
    (tokens,) = encoder.encode([text])
    assert encoder.decode(tokens[:-1].tolist()) == text
