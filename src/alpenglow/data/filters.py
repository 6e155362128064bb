"""Rules that decide which documents are kept: over columns of signals, never over text.

`rules(presets, thresholds)` puts rules together, `select(columns, rules)` tries them in their order
on whole columns. Exact duplicates are not found here: that needs all documents, see `pipeline`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.presets import PRESETS
from alpenglow.data.rule import Bound, Limit, Rule, percentile

__all__ = [
    "PRESETS",
    "Bound",
    "Limit",
    "Rule",
    "resolve",
    "rules",
    "select",
    "select_all",
]

Columns = Mapping[str, NDArray[Any]]


def rules(presets: Sequence[str], thresholds: Mapping[str, Bound]) -> tuple[Rule, ...]:
    """Put rules together, in the order of the presets.

    Args:
        presets: names of `PRESETS`.
        thresholds: name of a rule of theirs -> what replaces both its bounds. Or name of a column
            -> a bound that replaces the ones on its side in all their rules over that column, and
            makes a rule of its own, after the others, where there is none.

    Raises:
        ValueError: a preset is named twice or unknown, or a threshold names neither.
    """
    chosen: dict[str, Rule] = {}
    for number, name in enumerate(presets):
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; {_cure(name, PRESETS)}")
        if name in presets[:number]:
            raise ValueError(f"preset {name!r} is named twice")
        chosen |= {rule.name: rule for rule in PRESETS[name]}
    for name, bound in thresholds.items():
        if name in chosen:
            chosen[name] = dataclasses.replace(chosen[name], least=bound.least, most=bound.most)
        elif name in SIGNALS or name.startswith(_OF_MODELS):
            _bound_column(chosen, name, bound)
        else:
            raise ValueError(
                f"thresholds: no rule or column is named {name!r}; "
                f"{_cure(name, [*chosen, *sorted(SIGNALS)])}"
            )
    return tuple(chosen.values())


def _bound_column(chosen: dict[str, Rule], column: str, bound: Bound) -> None:
    left = {side: getattr(bound, side) for side in ("least", "most")}
    over = [rule for rule in chosen.values() if rule.signal == column]
    for side, limit in list(left.items()):
        sides = [rule for rule in over if limit is not None and getattr(rule, side) is not None]
        for rule in sides:
            changed = dataclasses.replace(chosen[rule.name], **{side: limit})
            chosen[rule.name] = changed
            left[side] = None
    if any(limit is not None for limit in left.values()):
        chosen[column] = Rule(column, column, left["least"], left["most"])


_OF_MODELS = ("rps_doc_ml_", "rps_doc_wikipedia_", "rps_doc_books_", "rps_doc_openwebtext_")
"""How the columns of models begin that the user trains under names of their own."""

_SIGNALS = """
alphabetic_characters alphabetic_word_share alphanumeric_share bad_words_per_word binary
blocked_domain bullet_line_share c4_line_share c4_sentences ccnet_bucket ccnet_language_score
ccnet_length ccnet_nlines ccnet_original_length ccnet_original_nlines ccnet_perplexity characters
curly_brackets duplicate_line_characters duplicate_line_characters_of_lines duplicate_line_share
duplicate_paragraph_characters duplicate_paragraph_share ellipses_per_word hash_symbols_per_word
javascript_lines letters_per_token longest_line mean_line_length newlines_per_word
not_unicode policy_lines prose_line_share rps_doc_curly_bracket rps_doc_frac_all_caps_words
rps_doc_frac_chars_dupe_10grams rps_doc_frac_chars_dupe_5grams rps_doc_frac_chars_dupe_6grams
rps_doc_frac_chars_dupe_7grams rps_doc_frac_chars_dupe_8grams rps_doc_frac_chars_dupe_9grams
rps_doc_frac_chars_top_2gram rps_doc_frac_chars_top_3gram rps_doc_frac_chars_top_4gram
rps_doc_frac_lines_end_with_ellipsis rps_doc_frac_no_alph_words rps_doc_frac_unique_words
rps_doc_ldnoobw_words rps_doc_lorem_ipsum rps_doc_mean_word_length rps_doc_num_sentences
rps_doc_stop_word_fraction rps_doc_symbol_to_word_ratio rps_doc_unigram_entropy
rps_doc_ut1_blacklist rps_doc_word_count short_line_share stop_words terminal_line_share tokens
"""
SIGNALS = frozenset(_SIGNALS.split())
"""Columns of `alpenglow.data.signals`, `alpenglow.data.models` and the staging."""


def _cure(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def resolve(chosen: Sequence[Rule], columns: Columns) -> tuple[Rule, ...]:
    """Replace percentiles by the values that they have in columns.

    Args:
        chosen: rules.
        columns: of all documents of a slice; values that are no number count for nothing.

    Raises:
        ValueError: a rule's column is absent.
    """
    return tuple(
        dataclasses.replace(
            rule, least=_value(rule, rule.least, columns), most=_value(rule, rule.most, columns)
        )
        for rule in chosen
    )


def _value(rule: Rule, limit: Limit, columns: Columns) -> float | None:
    rank = percentile(limit)
    if rank is None:
        return limit if not isinstance(limit, str) else None
    column = _column(rule, columns)
    if column is None:
        return None
    numbers = np.asarray(column, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    # A value that some document has, so that the rule keeps that document whichever side it is.
    return float(np.percentile(numbers, rank, method="nearest")) if numbers.size else None


def select(columns: Columns, chosen: Sequence[Rule]) -> NDArray[np.int16]:
    """Return for each document the index of the first rule that it breaks, -1 where it is kept.

    Args:
        columns: name -> a number a document; shape (documents,) each, one at least.
        chosen: rules without percentiles, see `resolve`.

    Raises:
        ValueError: a rule's column is absent, or a bound is a percentile still.
    """
    broken = select_all(columns, chosen)
    if not chosen:
        return np.full(broken.shape[1], -1, np.int16)
    first: NDArray[np.int16] = broken.argmax(axis=0).astype(np.int16)
    first[~broken.any(axis=0)] = -1
    return first


def select_all(columns: Columns, chosen: Sequence[Rule]) -> NDArray[np.bool_]:
    """Return which rules each document breaks; shape (rules, documents). See `select`."""
    documents = len(next(iter(columns.values())))
    broken = np.zeros((len(chosen), documents), np.bool_)
    for index, rule in enumerate(chosen):
        if not rule.resolved:
            raise ValueError(f"rule {rule.name!r}: its percentile is not resolved")
        column = _column(rule, columns)
        if column is None:
            continue
        least, most = rule.least, rule.most
        kept = np.ones(documents, np.bool_)
        if least is not None:
            kept &= column >= np.float64(least)
        if most is not None:
            kept &= column <= np.float64(most)
        np.logical_not(kept, out=broken[index])
    return broken


def _column(rule: Rule, columns: Columns) -> NDArray[Any] | None:
    if rule.signal in columns:
        return columns[rule.signal]
    if rule.optional:
        return None
    near = difflib.get_close_matches(rule.signal, list(columns), n=1)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    raise ValueError(f"rule {rule.name!r} needs the column {rule.signal!r}, which is absent{hint}")
