"""Which documents of a store are kept: rules over its columns; no text is read.

    rules = of_slice(recipe, "commoncrawl")
    rules = resolve(rules, columns of all units)     percentiles become numbers
    staged = choose(prepared, rules, ...)            what the client needs to know of a unit

Columns are those of `annotate`, and two that the tokens give: `tokens` and `letters_per_token`.
Exact duplicates are not found here: that needs all documents, see `assembly`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data import filters, token_file
from alpenglow.data.annotate import Annotated
from alpenglow.data.collect import BATCH_BYTES
from alpenglow.data.document import DataError
from alpenglow.data.document_store import REJECT_CHARACTERS, Store
from alpenglow.data.filters import Rule
from alpenglow.data.ledger import Count, Stage
from alpenglow.data.recipe import PrepareRecipe

BEFORE_TOKENS = frozenset({"tokens", "letters_per_token"})
"""Columns that are not there before a tokenizer is."""
CODE = frozenset({"github"})
"""Slices whose documents are programs; the others hold prose."""
LETTERS = "alphabetic_characters"
"""The column that `letters_per_token` is made of."""
PERPLEXITY = ("ccnet_perplexity", "ccnet_bucket")
"""Columns of a language model."""
REMOVED = "removed on request"
"""The reason for a document that somebody removed from the shards that these replace."""
PRESETS = {"prose": ("basic", "prose"), "code": ("basic", "code")}
"""What holds for a slice whose recipe names no presets."""
FAITHFUL = {
    "commoncrawl": ("redpajama_commoncrawl",),
    "github": ("redpajama_github",),
}
"""With mode = 'faithful'; RedPajama v1 filtered no other slice after reading it."""


@dataclass(frozen=True)
class Prepared:
    """The files of one unit that choosing needs."""

    store: Path
    raw: Path
    """The store before repeated paragraphs went; the same one where none did."""
    annotated: Annotated
    tokens: Path


@dataclass(frozen=True)
class Reject:
    """The beginning of a document that was dropped, for people to read."""

    slice: str
    stage: str
    reason: str
    source: str
    text: str


@dataclass(frozen=True)
class Staged:
    """One unit's result, as the client needs it: a few numbers a kept document, no text."""

    unit: str
    slice: str
    store: Path
    path: Path
    """Its tokens."""
    rows: NDArray[np.int64]
    """Places in the store of what the rules keep; the other arrays follow them."""
    text_hash: NDArray[np.uint64]
    """Shape (documents, 2)."""
    bytes: NDArray[np.int64]
    tokens: NDArray[np.int64]
    licence: NDArray[np.int32]
    """Index into `licences`."""
    licences: tuple[str, ...]
    stages: tuple[Stage, ...]
    """The account, up to the filters."""
    rejects: tuple[Reject, ...] = ()


def of_slice(recipe: PrepareRecipe, name: str) -> tuple[Rule, ...]:
    """Return the rules of a slice, in the order in which they are tried.

    A threshold of [filters] that names a rule of a preset holds where that preset does.

    Raises:
        ValueError: no such preset or threshold, which names the nearest; or a rule over a column of
            a model that the recipe does not name.
    """
    config = recipe.slices[name]
    presets = config.presets or recipe.filters.presets
    if not presets and config.mode == "faithful":
        presets = FAITHFUL.get(name, ())
    elif not presets:
        presets = PRESETS["code" if name in CODE else "prose"]
    rules_of = {preset: {rule.name for rule in rules} for preset, rules in filters.PRESETS.items()}
    elsewhere = set().union(*rules_of.values()) - set().union(
        *(rules_of.get(preset, set()) for preset in presets)
    )
    general = {
        key: bound for key, bound in recipe.filters.thresholds.items() if key not in elsewhere
    }
    found = filters.rules(presets, {**general, **config.thresholds})
    for rule in found:
        if not rule.optional and _of_models(rule.signal) and rule.signal not in _given(recipe):
            raise ValueError(
                f"rule {rule.name!r} needs the column {rule.signal}: name the model that gives it "
                "under [models], or take the rule out"
            )
    return found


def _of_models(column: str) -> bool:
    return column in PERPLEXITY or column.startswith("rps_doc_ml_")


def _given(recipe: PrepareRecipe) -> set[str]:
    """Columns that the recipe's models give; the bucket is there if the model has cutoffs."""
    return {*recipe.models.columns, *(PERPLEXITY if recipe.models.language_model else ())}


def resolve(rules: Sequence[Rule], units: Sequence[Prepared]) -> tuple[Rule, ...]:
    """Replace percentiles by numbers: those of the slice's own documents, all of them.

    Raises:
        DataError: a column was not computed.
    """
    ranked = [rule for rule in rules if not rule.resolved]
    parts = [columns_of(unit, ranked) for unit in units if _documents(unit)]
    if not ranked or not parts:
        return tuple(rules)
    names = set.intersection(*(set(part) for part in parts))
    found = {name: np.concatenate([part[name] for part in parts]) for name in names}
    with _cured(units[0].store):
        return filters.resolve(rules, found)


def columns_of(unit: Prepared, rules: Sequence[Rule]) -> dict[str, NDArray[Any]]:
    """Read the columns of a unit that rules ask for; those that were not computed are absent.

    Raises:
        DataError: a file is gone or cut.
    """
    return unit_columns(unit, sorted({rule.signal for rule in rules}))


def unit_columns(unit: Prepared, names: Sequence[str] | None) -> dict[str, NDArray[Any]]:
    """Read columns of a unit by name, all if None, with `tokens` and `letters_per_token`.

    Raises:
        DataError: a file is gone or cut.
    """
    found = unit.annotated.read(None if names is None else [*names, LETTERS])
    found["tokens"] = np.diff(token_file.offsets(unit.tokens))
    if LETTERS in found:
        found["letters_per_token"] = found[LETTERS] / np.maximum(1, found["tokens"])
    return found


def first_kept(store: Store, annotated: Annotated, rules: Sequence[Rule]) -> NDArray[np.int64]:
    """Return places of the documents that rules keep, those left out that ask for tokens or ranks.

    Raises:
        DataError: a column was not computed.
    """
    rules = [rule for rule in rules if rule.signal not in BEFORE_TOKENS and rule.resolved]
    if not rules or not len(store):
        return np.arange(len(store))
    found = annotated.read(sorted({rule.signal for rule in rules}))
    with _cured(store.path):
        return np.flatnonzero(filters.select(found, rules) < 0)


@contextlib.contextmanager
def _cured(store: Path) -> Iterator[None]:
    """Say what to do where a rule asks for a column that was not computed."""
    try:
        yield
    except ValueError as error:
        raise DataError(
            f"{store}: {error}; name the model or list that gives it under [models] or [signals], "
            "or take the rule out"
        ) from None


def choose(
    name: str, unit: Prepared, rules: Sequence[Rule], rejects: int, removed: Path | None = None
) -> Staged:
    """Apply rules, already resolved, to a unit.

    Args:
        name: of the unit.
        unit: its files.
        rules: as `resolve` returns them.
        rejects: dropped documents of each reason to show.
        removed: ids of documents that were removed from the shards here before, ascending, .npy.

    Raises:
        DataError: a file is gone or cut, or a column was not computed.
    """
    with Store(unit.raw) as raw, Store(unit.store) as store:
        tokens = np.diff(token_file.offsets(unit.tokens))
        verdict = np.full(len(store), -1, np.int32)
        if rules and len(store):  # a store without documents has no columns
            with _cured(store.path):
                verdict = np.asarray(filters.select(columns_of(unit, rules), rules), np.int32)
        licences: dict[str, int] = {}
        licence = np.array([licences.setdefault(text, len(licences)) for text in _licences(store)],
                           np.int32)  # fmt: skip
        names = [rule.name for rule in rules]
        if removed is not None:
            names.append(REMOVED)
            verdict[(verdict < 0) & np.isin(store.ids, np.load(removed))] = len(names) - 1
        rows = np.flatnonzero(verdict < 0)
        return Staged(
            unit=name,
            slice=store.slice,
            store=store.path,
            path=unit.tokens,
            rows=rows,
            text_hash=store.text_hash[rows],
            bytes=store.sizes[rows],
            tokens=tokens[rows],
            licence=licence[rows],
            licences=tuple(licences),
            stages=_stages(raw, store, verdict, names, tokens),
            rejects=tuple(_rejects(raw, store, verdict, names, rejects)),
        )


def _documents(unit: Prepared) -> int:
    return len(token_file.offsets(unit.tokens)) - 1


def _stages(
    raw: Store, store: Store, verdict: NDArray[np.int32], names: list[str],
    tokens: NDArray[np.int64],
) -> tuple[Stage, ...]:  # fmt: skip
    stages = [_reading("read", raw)]
    if store.path != raw.path:
        stages.append(_reading("paragraphs", store))
    filtering = Stage("filters", rules=tuple(names))
    filtering.read.add(len(store), int(store.sizes.sum()), int(tokens.sum()))
    for index, rule in enumerate(names):
        rows = verdict == index
        if rows.any():
            filtering.drop(
                rule, int(rows.sum()), int(store.sizes[rows].sum()), int(tokens[rows].sum())
            )
    filtering.kept = filtering.read.less(Count.sum(filtering.dropped.values()))
    return (*stages, filtering)


def _reading(name: str, store: Store) -> Stage:
    stage = Stage(name)
    stage.read.add(*store.read)
    stage.kept.add(len(store), int(store.sizes.sum()))
    for reason, count in store.dropped.items():
        stage.drop(reason, *count)
    for rule, count in store.trimmed.items():
        stage.trim(rule, *count)
    return stage


def _rejects(
    raw: Store, store: Store, verdict: NDArray[np.int32], names: list[str], most: int
) -> Iterable[Reject]:
    stages = [("read", raw)] if store.path == raw.path else [("read", raw), ("paragraphs", store)]
    for stage, where in stages:
        for reason, items in where.rejects.items():
            for item in items[:most]:
                yield Reject(store.slice, stage, reason, item["source"], item["text"])
    for index, rule in enumerate(names):
        if rule == REMOVED:
            continue  # nobody should read it
        for row in np.flatnonzero(verdict == index)[:most].tolist():
            (text,), (facts,) = store.texts(row, row + 1), store.facts(row, row + 1)
            beginning = text[:REJECT_CHARACTERS].encode("utf-8", "replace").decode()
            yield Reject(store.slice, "filters", rule, facts["source"], beginning)


def _licences(store: Store) -> Iterable[str]:
    for first, last in store.batches(BATCH_BYTES):
        for facts in store.facts(first, last):
            yield facts["licence"]


def write_rejects(path: Path, rejects: Iterable[Reject], most: int) -> None:
    """Write at most so many of each slice, stage and reason, a JSON object a line."""
    seen: dict[tuple[str, str, str], int] = {}
    with path.open("w", encoding="utf-8") as file:
        for item in rejects:
            key = (item.slice, item.stage, item.reason)
            seen[key] = seen.get(key, 0) + 1
            if seen[key] <= most:
                file.write(json.dumps(vars(item), ensure_ascii=False) + "\n")
