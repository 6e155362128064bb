"""An n-gram language model over subwords: how well a text reads like the seed text.

cc_net (Wenzek et al. 2020) scores each page with a 5-gram model over subwords trained on Wikipedia,
and sorts pages of a language into head, middle and tail by the 30th and 60th percentile of their
perplexity. This is that model without another program: probabilities as KenLM estimates them
(alpenglow.data.language_model_estimate), subwords by byte-pair merges learnt from the same text.

    model = LanguageModel.load(Path("models/de.h5"))
    model.perplexity(["Der Zug nach Bern fährt um neun."])

A text is scored line by line, each from its beginning to its end; blank lines are left out. Before,
as in cc_net, letters become small, accents go, every digit becomes 0.

Tables are open hash tables by exact keys (n-gram of one token less, token): no two n-grams are ever
taken for each other. They are mapped from the file, so that the processes of a node share them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import DataError
from alpenglow.data.language_model_estimate import Level, Vocabulary, as_lines
from alpenglow.data.model_file import ModelFile
from alpenglow.data.word_table import PIECE, WordTable, pieces

KIND = "language model"
HEAD, MIDDLE, TAIL = 0, 1, 2
"""cc_net's buckets, by the cutoffs."""
PERCENTILES = (30, 60)
"""Of the perplexity of a sample: where middle and tail begin (cc_net)."""
FULL = 0.6
"""Share of a hash table's slots that are taken."""
IMPOSSIBLE = -99.0
"""Base-10 logarithm for what is never predicted: the beginning of a line."""

_ACCENT = re.compile("[\u0300-\u036f]")
_PLAIN = str.maketrans(
    {**dict.fromkeys(map(str, range(10)), "0"), **dict.fromkeys("‘’‚′`´", "'")}
    | {**dict.fromkeys("“”„«»″", '"'), **dict.fromkeys("–—―−‐‑", "-"), "…": "..."}
)
_EMPTY = -1
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class _Table:
    """The n-grams of one order; of order 1 a row a token, above an open hash table."""

    key: NDArray[np.int64]
    """Slot of the prefix in the table below x numbers of tokens + token; -1 where empty."""
    slots: int
    """Where a key may begin to look; a few more follow."""
    probability: NDArray[Any]
    """Base-10 logarithm."""
    backoff: NDArray[Any]
    """Base-10 logarithm."""

    def find(self, key: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slot of each key, -1 where it is not there."""
        found = np.full(len(key), -1, np.int64)
        slot = _home(key, self.slots)
        left = np.arange(len(key))
        while len(left):
            there = self.key[slot]
            hit = there == key
            found[left[hit]] = slot[hit]
            on = ~hit & (there != _EMPTY)
            left, key, slot = left[on], key[on], slot[on] + 1
        return found


class LanguageModel:
    """A model that is ready to score.

    Args:
        tokenizer: JSON of the `tokenizers` library.
        tables: of order 1 upwards.
        about: language, seed text, cutoffs and settings.

    Attributes:
        language: as it was named at training.
        order: of the longest n-gram.
        cutoffs: perplexities where middle and tail begin; None before they were measured.
    """

    def __init__(self, tokenizer: str, tables: Sequence[_Table], about: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer as Backend

        self._json = tokenizer
        self._tables = list(tables)
        self.about = dict(about)
        self.language = str(about["language"])
        self.order = len(self._tables)
        cutoffs = about.get("cutoffs")
        self.cutoffs: tuple[float, float] | None = tuple(cutoffs) if cutoffs else None
        backend = Backend.from_str(tokenizer)
        self.vocabulary = Vocabulary(int(backend.get_vocab_size()))
        self._words = WordTable(lambda words: subwords(backend, words), np.int32)

    @classmethod
    def of(cls, tokenizer: str, levels: Sequence[Level], about: Mapping[str, Any]) -> LanguageModel:
        """Make the tables of what was estimated, in the same precision (float64)."""
        numbers = len(levels[0].token)
        first = levels[0]
        row = np.arange(numbers)
        tables = [_Table(row, numbers, _log10(first.probability), _log10(first.backoff))]
        slot_below = row
        for level in levels[1:]:
            key = slot_below[level.prefix] * numbers + level.token
            slots = max(1, int(len(key) / FULL))
            home = _home(key, slots)
            order = np.argsort(home, kind="stable")
            rank = np.arange(len(key))
            # Linear probing in one go: each key takes its own slot or the one after its neighbour.
            place = rank + np.maximum.accumulate(home[order] - rank)
            slot = np.empty(len(key), np.int64)
            slot[order] = place
            size = max(slots, int(place[-1]) + 1 if len(place) else 0) + 1
            table = _Table(np.full(size, _EMPTY, np.int64), slots, np.zeros(size), np.zeros(size))
            table.key[slot] = key
            table.probability[slot] = _log10(level.probability)
            table.backoff[slot] = _log10(level.backoff)
            tables.append(table)
            slot_below = slot
        return cls(tokenizer, tables, about)

    def save(self, path: Path) -> None:
        """Write the model; probabilities in float32.

        Raises:
            DataError: the file system refuses.
        """
        arrays: dict[str, NDArray[Any]] = {
            "tokenizer": np.frombuffer(self._json.encode(), np.uint8)
        }
        for n, table in enumerate(self._tables, start=1):
            arrays[f"{n}/key"] = table.key
            arrays[f"{n}/probability"] = np.asarray(table.probability, np.float32)
            arrays[f"{n}/backoff"] = np.asarray(table.backoff, np.float32)
        about = self.about | {"slots": [table.slots for table in self._tables]}
        ModelFile(KIND, about, arrays).write(path)

    @classmethod
    def load(cls, path: Path) -> LanguageModel:
        """Open a model.

        Raises:
            DataError: missing, cut, of another kind or version.
        """
        file = ModelFile.read(path, KIND)
        try:
            tables = [
                _Table(*(file.arrays[f"{n}/key"], slots),
                       *(file.arrays[f"{n}/{name}"] for name in ("probability", "backoff")))
                for n, slots in enumerate(file.about["slots"], start=1)
            ]  # fmt: skip
            return cls(file.arrays["tokenizer"].tobytes().decode(), tables, file.about)
        except KeyError as error:
            raise DataError(f"{path}: the language model lacks {error}; train it again") from None

    def perplexity(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the perplexity of each text: 10 ** (-log10 score / length), float64 [n].

        Length counts subwords and line ends, as cc_net does; NaN for a text of white space alone.
        """
        score, length = np.zeros(len(texts)), np.zeros(len(texts))
        for lines, owners in _batches(texts):
            stream, place = self.stream(lines)
            predicted = place > 0
            of_text = np.repeat(owners, np.diff(np.flatnonzero(np.append(~predicted, True))) - 1)
            scores = self.scores(stream, place)[predicted]
            score += np.bincount(of_text, scores, minlength=len(texts))
            length += np.bincount(of_text, minlength=len(texts))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(10.0 ** (-score / length), np.float64)

    def stream(self, lines: Sequence[Sequence[str]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Tokens of lines of words with begin and end, and the place of each in its line."""
        tokens, counts = self._words.numbers(lines)
        return as_lines(tokens, counts, self.vocabulary)

    def scores(self, stream: NDArray[np.int32], place: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return log10 p(token | those before it in its line), float64 [n].

        Args:
            stream: tokens of lines with begin and end.
            place: of each in its line.
        """
        first = self._tables[0]
        score = np.asarray(first.probability[stream], np.float64)
        slot = stream.astype(np.int64)  # of the longest n-gram that ends here, at this order
        for n, (below, table) in enumerate(zip(self._tables, self._tables[1:], strict=False), 2):
            ends = np.flatnonzero(place >= n - 1)
            context = slot[ends - 1]
            ends, context = ends[context >= 0], context[context >= 0]
            score_below = score[ends] + below.backoff[context]
            # An n-gram is only listed where its last n - 1 tokens are.
            maybe = np.flatnonzero(slot[ends] >= 0)
            found = np.full(len(ends), -1, np.int64)
            found[maybe] = table.find(context[maybe] * self.vocabulary.all + stream[ends[maybe]])
            there = found >= 0
            score[ends] = np.where(there, table.probability[found], score_below)
            slot = np.full(len(stream), -1, np.int64)
            slot[ends] = found
        return score

    def buckets(self, perplexity: NDArray[np.float64]) -> NDArray[np.int8]:
        """Return cc_net's bucket of each: 0 head, 1 middle, 2 tail (NaN is tail).

        Raises:
            DataError: no cutoffs were measured.
        """
        if self.cutoffs is None:
            raise DataError(
                "the language model has no cutoffs; measure them with "
                "`alpenglow data train-lm --cutoffs SAMPLE --output FILE`"
            )
        middle, tail = self.cutoffs
        buckets = np.full(len(perplexity), TAIL, np.int8)
        buckets[perplexity < tail] = MIDDLE
        buckets[perplexity < middle] = HEAD
        return buckets


def subwords(backend: Any, words: Sequence[str]) -> list[list[int]]:
    """Numbers of the subwords of each word."""
    plain = [normalise(word) for word in words]
    return [item.ids for item in backend.encode_batch_fast(plain, add_special_tokens=False)]


def normalise(text: str) -> str:
    """Small letters, digits as 0, plain quotes and dashes, no accents (Latin, Greek, Cyrillic).

    cc_net's `text_normalizer` does so before its subwords. Half a surrogate pair becomes U+FFFD.
    """
    text = text.lower()
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = _ACCENT.sub("", unicodedata.normalize("NFKD", text))
        text = unicodedata.normalize("NFKC", text)
    return text.translate(_PLAIN)


def lines_of(text: str) -> list[list[str]]:
    """Words of each line that has any; a line of more than a megabyte becomes several."""
    if len(text) <= PIECE:
        return [words for line in text.split("\n") if (words := line.split())]
    return [
        words for line in text.split("\n") for piece in pieces(line) if (words := piece.split())
    ]


def _batches(texts: Iterable[str]) -> Iterator[tuple[list[list[str]], NDArray[np.int64]]]:
    """Lines of about two megabytes of text at a time, with the number of each one's text."""
    lines: list[list[str]] = []
    owners: list[int] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in _line_pieces(text):
            found = lines_of(piece)
            lines += found
            owners += [number] * len(found)
            size += len(piece)
            if size >= 4 * PIECE:
                yield lines, np.array(owners, np.int64)
                lines, owners, size = [], [], 0
    if lines:
        yield lines, np.array(owners, np.int64)


def _line_pieces(text: str) -> Iterator[str]:
    """Cut a long text at the end of a line if there is one in a megabyte, anywhere if not."""
    begin = 0
    while len(text) - begin > 2 * PIECE:
        end = text.rfind("\n", begin + 1, begin + 2 * PIECE)
        end = begin + 2 * PIECE if end < 0 else end
        yield text[begin:end]
        begin = end
    yield text[begin:] if begin else text


def _home(key: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    mixed = (key.astype(np.uint64) * _FACTOR) >> _HALF
    return ((mixed * np.uint64(slots)) >> _HALF).astype(np.int64)


def _log10(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log10(values, out=np.full(len(values), IMPOSSIBLE), where=values > 0)
