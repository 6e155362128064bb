"""Train a language model on seed text: subwords, n-gram counts, probabilities, cutoffs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import DataError
from alpenglow.data.language_model import (
    PERCENTILES,
    LanguageModel,
    lines_of,
    normalise,
    subwords,
)
from alpenglow.data.language_model_estimate import Vocabulary, as_lines, estimate
from alpenglow.data.seed_text import Seed
from alpenglow.data.word_table import WordTable

UNKNOWN = "<unk>"
LEAST_TOKENS = 100
SAMPLE = 10_000
"""Documents whose perplexity the cutoffs are measured on."""
LEAST_SAMPLE = 10


@dataclass(frozen=True)
class LanguageModelSettings:
    """What a language model is made of, beside its seed text."""

    language: str
    """Name that is kept, such as `de`."""
    order: int = 5
    """Longest n-gram (cc_net: 5)."""
    vocabulary: int = 32_000
    """Subwords at most."""
    prune: int = 1
    """N-grams of three tokens or more seen so often or less are left out; 0 keeps all."""
    max_bytes: int = 100_000_000
    """Of more seed text than this, a random part of its documents is taken (4 GB of memory)."""

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 8:
            raise ValueError(f"order = {self.order} should be 1 to 8")
        if self.vocabulary < 100:
            raise ValueError(f"vocabulary = {self.vocabulary} should be 100 or more")
        if self.prune < 0 or self.max_bytes < 1:
            raise ValueError("prune should be 0 or more, and the seed at least a byte")


def train(seed: Seed, settings: LanguageModelSettings) -> LanguageModel:
    """Train on seed text; the same documents in the same order give the same model.

    Memory is about 40 bytes a byte of the seed text that is taken.

    Raises:
        DataError: too little text, or seed text that cannot be read.
    """
    from tokenizers import Tokenizer as Backend

    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in seed.texts())
    share = min(1.0, settings.max_bytes / max(1, size))
    json = train_subwords(seed.part(share), settings.vocabulary)
    backend = Backend.from_str(json)
    vocabulary = Vocabulary(int(backend.get_vocab_size()))
    stream, place = _tokens(seed.part(share), backend, vocabulary)
    tokens = int((place > 0).sum())
    if tokens < LEAST_TOKENS:
        raise DataError(
            f"{', '.join(map(str, seed.paths))}: {tokens} tokens of seed text; a language model "
            f"needs {LEAST_TOKENS} at the very least, and is worth something from millions on"
        )
    levels, discounts = estimate(stream, place, vocabulary, settings.order, settings.prune)
    about: dict[str, Any] = {
        "language": settings.language,
        "vocabulary": vocabulary.size,
        "prune": settings.prune,
        "seed": seed.about,
        "share": share,
        "lines": int((place == 0).sum()),
        "tokens": tokens,
        "n_grams": [len(level.token) for level in levels],
        "discounts": discounts,
        "cutoffs": None,
    }
    return LanguageModel.of(json, levels, about)


def train_subwords(texts: Iterable[str], size: int) -> str:
    """Learn byte-pair merges of characters, inside runs of letters, of digits and of other signs.

    A space before a word belongs to its first subword, as in SentencePiece; so do runs end where
    the kind of sign changes. Returns JSON of the `tokenizers` library.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    runs = Regex(r"▁?[\p{L}\p{M}]+|▁?\p{N}+|▁?[^\p{L}\p{M}\p{N}▁]+|▁")
    backend = Tokenizer(models.BPE(unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace("▁", "always", True), pre_tokenizers.Split(runs, "isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[UNKNOWN], show_progress=False, min_frequency=2
    )
    words = (" ".join(normalise(text).split()) for text in texts)
    backend.train_from_iterator(words, trainer)
    return str(backend.to_str(pretty=False))


def _tokens(
    texts: Iterable[str], backend: Any, vocabulary: Vocabulary
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    table = WordTable(lambda words: subwords(backend, words), np.int32)
    streams, places = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for text in texts:
        lines = lines_of(text)
        if lines:
            tokens, counts = table.numbers(lines)
            stream, place = as_lines(tokens, counts, vocabulary)
            streams.append(stream)
            places.append(place)
    return np.concatenate(streams), np.concatenate(places)


def measure_cutoffs(model: LanguageModel, sample: Seed) -> tuple[float, float]:
    """Measure the perplexities where middle and tail begin, on a random sample of documents.

    Raises:
        DataError: fewer than ten documents.
    """
    texts = sample.sample(SAMPLE)
    if len(texts) < LEAST_SAMPLE:
        raise DataError(
            f"{', '.join(map(str, sample.paths))}: {len(texts)} different documents; cutoffs need "
            f"{LEAST_SAMPLE} or more, and thousands to mean something"
        )
    middle, tail = np.percentile(model.perplexity(texts), PERCENTILES)
    model.cutoffs = float(middle), float(tail)
    model.about |= {"cutoffs": model.cutoffs, "cutoffs_of": sample.about, "sample": len(texts)}
    return model.cutoffs
