"""Signals of a batch of documents: blocks of bounded size, one after another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.document import Document
from alpenglow.data.signals.characters import LETTER, SURROGATE, WORD, normalised
from alpenglow.data.signals.lines import LineSignals
from alpenglow.data.signals.repetition import Repetition
from alpenglow.data.signals.rows import Row
from alpenglow.data.signals.runs import Runs
from alpenglow.data.signals.settings import Lists, SignalSettings
from alpenglow.data.signals.tokens import TokenSignals
from alpenglow.data.signals.words import Words, word_hashes

Columns = dict[str, NDArray[Any]]

BLOCK = 500_000
"""Characters that are looked at together: arrays that fit into a processor's cache, and a bound of
memory. A longer document is a block of its own."""


LONGEST = 10_000_000
"""Of a longer document only what counts characters is of the whole text (`_long`), all else of so
many from its beginning: then a block's memory is bounded whatever the text holds."""


def compute(documents: Sequence[Document], settings: SignalSettings) -> tuple[Columns, Columns]:
    """Return the signals of documents.

    Args:
        documents: some, of any slice.
        settings: which lists of words.

    Returns:
        Columns of documents; shape (documents,) each. Columns of lines, with `offset`, the lines
        before each document, shape (documents + 1,); empty where the settings leave them out.

    Raises:
        DataError: a file of the settings cannot be used.
    """
    lists = settings.lists
    blocks = list(_blocks(documents)) or [np.empty(0, np.int64)]
    parts = []
    for block in blocks:
        texts = [documents[index].text[:LONGEST] for index in block]
        parts += _block(texts, block, settings, lists)
        del texts
    columns = {
        name: _put([part.columns[name] for part in parts], [part.which for part in parts])
        for name in parts[0].columns
    }
    for index, document in enumerate(documents):
        if len(document.text) > LONGEST:
            for name, value in _long(document.text).items():
                columns[name][index] = value
    columns |= _of_facts(documents, columns, settings, lists)
    lines: Columns = {}
    if settings.lines:
        counts = _put([part.lines for part in parts], [part.which for part in parts])
        offset = np.concatenate(([0], np.cumsum(counts)))
        places = [
            np.repeat(offset[part.which] - _before(part.lines), part.lines)
            + np.arange(part.lines.sum())
            for part in parts
        ]
        lines = {
            name: _put([part.line_columns[name] for part in parts], places)
            for name in parts[0].line_columns
        }
        lines["offset"] = offset.astype(np.uint64)
    return columns, lines


@dataclass(frozen=True)
class _Part:
    which: NDArray[np.int64]
    columns: Columns
    lines: NDArray[np.int64]
    line_columns: Columns


def _before(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(counts) - counts


def _put(values: list[NDArray[Any]], places: list[NDArray[np.int64]]) -> NDArray[Any]:
    whole = np.concatenate(values)
    result = np.empty_like(whole)
    result[np.concatenate(places)] = whole
    return result


def _blocks(documents: Sequence[Document]) -> Iterator[NDArray[np.int64]]:
    begin, size = 0, 0
    for index, document in enumerate(documents):
        length = min(len(document.text), LONGEST)
        if size and size + length > BLOCK:
            yield np.arange(begin, index)
            begin, size = index, 0
        size += length + 1
    if begin < len(documents):
        yield np.arange(begin, len(documents))


def _block(
    texts: list[str], which: NDArray[np.int64], settings: SignalSettings, lists: Lists
) -> list[_Part]:
    if not texts:
        part = _part(Row.of([""]), [""], False, which, settings, lists)
        nothing = {name: column[:0] for name, column in part.columns.items()}
        return [_Part(which, nothing, part.lines[:0], part.line_columns)]
    row = Row.of(texts)
    special = row.special()
    if not special.any():
        return [_part(row, texts, False, which, settings, lists)]
    parts = []
    for rewritten in (False, True):
        chosen = np.flatnonzero(special == rewritten)
        if chosen.size:
            some = [texts[index] for index in chosen]
            parts.append(_part(Row.of(some), some, rewritten, which[chosen], settings, lists))
    return parts


def _part(
    row: Row,
    texts: Sequence[str],
    rewritten: bool,
    which: NDArray[np.int64],
    settings: SignalSettings,
    lists: Lists,
) -> _Part:
    words = Words(Row.of([normalised(text) for text in texts]) if rewritten else row, rewritten)
    columns = words.documents(texts, lists.gopher[words.rewritten])
    if lists.phrases is not None:
        blocked = words.blocked(lists.phrases[words.rewritten])
        columns["rps_doc_ldnoobw_words"] = blocked
        columns["bad_words_per_word"] = blocked / np.maximum(words.count, 1)
    if settings.repetition:
        columns |= Repetition(words.hashes, words.offset, words.characters).columns()
    javascript = (
        words.line(words.these(word_hashes(["javascript"], False)[0])) if settings.lines else None
    )
    newlines, characters = words.row.newlines, words.characters
    del words
    runs = Runs.of(row)
    line = LineSignals(row, runs, newlines, characters)
    token = TokenSignals(row, runs)
    columns |= token.documents(lists.stop_words)
    ends = np.sort(np.concatenate((token.enders(), line.lines.ends)), kind="stable")
    columns |= line.documents(token.sentence_ends(ends))
    for name in ("hash_symbols", "ellipses"):
        count = columns.pop(name)
        columns[f"{name}_per_word"] = count / np.maximum(columns["rps_doc_word_count"], 1)
    columns["ccnet_length"] = row.ends - row.begins
    columns["ccnet_nlines"] = row.count(row.of_rare("\n")) + (row.ends > row.begins)
    line_columns = line.columns(javascript) if javascript is not None else {}
    return _Part(which, columns, np.diff(line.lines.offset), line_columns)


def _long(text: str) -> dict[str, float]:
    """Return the columns that count characters, piece by piece."""
    total: dict[str, int] = dict.fromkeys(("alphanumeric", "letters", "curly", "surrogates"), 0)
    for begin in range(0, len(text), BLOCK):
        row = Row.of([text[begin : begin + BLOCK]])
        signs = row.having_bit(WORD) - row.count(np.flatnonzero(row.row == ord("_")))
        total["alphanumeric"] += int(signs[0])
        total["letters"] += int(row.having_bit(LETTER)[0])
        total["surrogates"] += row.having(SURROGATE).size
    total["curly"] = text.count("{") + text.count("}")
    return {
        "characters": len(text),
        "ccnet_length": len(text),
        "ccnet_nlines": text.count("\n") + 1,
        "alphanumeric_share": total["alphanumeric"] / len(text),
        "alphabetic_characters": total["letters"],
        "binary": "\0" in text,
        "not_unicode": total["surrogates"] > 0,
        "curly_brackets": total["curly"],
        "rps_doc_curly_bracket": total["curly"] / len(text),
    }


def _of_facts(
    documents: Sequence[Document], columns: Columns, settings: SignalSettings, lists: Lists
) -> Columns:
    """Return what follows from a document's metadata and address."""
    found: Columns = {}
    for name, default in (
        ("original_length", columns["ccnet_length"].tolist()),
        ("original_nlines", columns["ccnet_nlines"].tolist()),
        ("language_score", [math.nan] * len(documents)),
    ):
        found[f"ccnet_{name}"] = np.array(
            [
                _number(document.metadata, name, other)
                for document, other in zip(documents, default, strict=True)
            ],
            np.float64,
        )
    if settings.blocked_domains is not None:
        domains = [domain(document.url) for document in documents]
        found["rps_doc_ut1_blacklist"] = np.array(
            [lists.domains.get(name, math.nan) for name in domains], np.float64
        )
        found["blocked_domain"] = np.array(
            [any(part in lists.domains for part in _parents(name)) for name in domains], np.uint8
        )
    return found


def _number(metadata: Mapping[str, str], name: str, other: float) -> float:
    try:
        return float(metadata[name])
    except (KeyError, ValueError):
        return other


def domain(url: str) -> str:
    """Return the host of an address in small letters, "" where it has none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for begin in range(len(parts)):
        yield ".".join(parts[begin:])
