"""What a finished job stored of its documents, as arrays by slice: what a budget is told from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.config import ConfigError, parse
from alpenglow.data import assembly, inventory, selection
from alpenglow.data.budget import Cut, SliceColumns
from alpenglow.data.document import DataError
from alpenglow.data.filters import Rule
from alpenglow.data.inventory import Entry
from alpenglow.data.recipe import PrepareRecipe
from alpenglow.data.selection import Staged

MODELS = ("ccnet_perplexity", "ccnet_bucket", "rps_doc_ml_", "_importance")
"""Parts of the names of columns that models give: a budget seeks bounds of these."""


def read_columns(run: Path, cuts: Mapping[str, Cut | None]) -> dict[str, SliceColumns]:
    """Read tokens and columns of all documents of a run, a slice each.

    `kept` is what the recipe's other rules keep: not those over a column that models give or that
    `cuts` names, since their bound is what is sought; exact duplicates are left out.

    Args:
        run: the run directory.
        cuts: slice -> the column that its bound is sought for, if not a model's.

    Raises:
        DataError: no such run, or one of its files is gone or cut.
    """
    recipe, entries = _recipe(run), inventory.load(run)
    others: dict[str, tuple[Rule, ...]] = {}
    for name in dict.fromkeys(entry.slice for entry in entries):
        cut = cuts.get(name)
        sought = (*MODELS, *([] if cut is None else [cut.signal]))
        rules = [
            rule
            for rule in selection.of_slice(recipe, name)
            if not any(part in rule.signal for part in sought)
        ]
        others[name] = selection.resolve(
            rules, [entry.files for entry in entries if entry.slice == name]
        )
    staged = [
        selection.choose(entry.unit, entry.files, others[entry.slice], 0) for entry in entries
    ]
    first = assembly.first_of_each(staged)
    return {name: _slice(name, entries, staged, first) for name in others}


def _slice(
    name: str, entries: Sequence[Entry], staged: Sequence[Staged], first: Sequence[NDArray[Any]]
) -> SliceColumns:
    parts, kept = [], []
    for entry, unit, new in zip(entries, staged, first, strict=True):
        if entry.slice != name:
            continue
        parts.append(selection.unit_columns(entry.files, None))
        mask = np.zeros(len(parts[-1]["tokens"]), bool)
        mask[unit.rows[new]] = True
        kept.append(mask)
    names = set.union(*map(set, parts))
    # A store without documents has no columns; every other one has the same.
    full = [part for part in parts if len(part["tokens"])]
    columns = {key: np.concatenate([part[key] for part in full]) for key in names if full}
    tokens = columns.pop("tokens", np.empty(0, np.int64))
    return SliceColumns(tokens, columns, np.concatenate(kept))


def _recipe(run: Path) -> PrepareRecipe:
    path = run / "run.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))["recipe"]
        return parse(PrepareRecipe, tables, str(path))
    except (OSError, KeyError, ValueError, ConfigError) as error:
        raise DataError(
            f"{path}: no recipe of a job that prepared data ({error}); name its run directory"
        ) from None
