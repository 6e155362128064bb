"""The steps of a job on the workers, in their order; each waits only for what it needs.

    paragraphs   hashes of lines, for slices whose repeated paragraphs go
    reading      documents and columns, where a tokenizer is to be trained on them
    tokenising   all that has to do with text
    choosing     rules over columns: needs every unit, where a threshold is a percentile
    shards

Every call finds by itself what is done already, so a job goes on wherever it was broken off.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from alpenglow.data import inventory, selection, slices
from alpenglow.data.annotate import Annotating
from alpenglow.data.assembly import Plan
from alpenglow.data.collect import Collecting
from alpenglow.data.crew import MEGABYTE, Crew
from alpenglow.data.document import DataError, Unit
from alpenglow.data.filters import Rule
from alpenglow.data.progress import Progress
from alpenglow.data.recipe import PrepareRecipe
from alpenglow.data.refine import Earlier, hash_lines, hashes_of
from alpenglow.data.selection import Prepared, Staged, choose
from alpenglow.data.shards import ShardInfo
from alpenglow.data.staging import Task, Tokenising, prepare, read_once, sample, write_shard
from alpenglow.data.tokenizer import NAME as TOKENIZER
from alpenglow.data.tokenizer import Tokenizer
from alpenglow_lsf.files import write_text

SAMPLED_UNITS = 512
"""A tokenizer's sample is taken from at most so many units, evenly spread."""


class Steps:
    """What the client has the workers do.

    Args:
        recipe: what to make.
        run: the run directory.
        units: all of them, in the order of the shards.
        crew: the workers.
        progress: where it is shown.
    """

    def __init__(
        self, recipe: PrepareRecipe, run: Path, units: list[Unit], crew: Crew, progress: Progress
    ) -> None:
        self._recipe, self._units, self._crew, self._progress = recipe, units, crew, progress
        folder = (recipe.documents or run / "documents").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._run = folder, run
        self._staging = run / "staging" / recipe.hash
        self._staging.mkdir(parents=True, exist_ok=True)
        annotating = Annotating.of(recipe.signals, recipe.models)
        self._tasks = {
            name: Task(Collecting(folder, config, recipe.collecting(name)), annotating)
            for name, config in recipe.slices.items()
        }
        self._rules = {name: selection.of_slice(recipe, name) for name in recipe.slices}
        self._earlier = self._groups()
        self._prepared: list[Prepared] = []
        self._tokenising: Tokenising | None = None

    def _groups(self) -> list[Earlier | None]:
        """Tell each unit of a slice whose repeated paragraphs go which units it is compared with.

        Groups are of so many units as the slice's rules say, in their order.
        """
        found: dict[str, Earlier] = {}
        for name, config in self._recipe.slices.items():
            rules = slices.rules_of(name, config)
            if not getattr(rules, "paragraphs", False):
                continue
            units = [unit for unit in self._units if unit.slice == name]
            about, size = self._tasks[name].collecting, int(rules.paragraph_group)
            for place, unit in enumerate(units):
                begin = place - place % size
                others = units[begin:place]
                if config.mode == "faithful":
                    others += units[place + 1 : begin + size]
                found[unit.name] = Earlier.of(tuple(others), about)
        return [found.get(unit.name) for unit in self._units]

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer that is given, or that an earlier start trained, or train one.

        Raises:
            DataError: it cannot be read, or there is no text to train it on.
        """
        config, path = self._recipe.tokenizer, self._staging / TOKENIZER
        self._hash_lines()
        if config.origin == "file" and config.file is not None:
            tokenizer = Tokenizer.load(config.file)
            write_text(path, tokenizer.json)
        elif path.is_file():
            tokenizer = Tokenizer.load(path)
        else:
            tokenizer = self._train()
            write_text(path, tokenizer.json)
        self._tokenising = Tokenising(path.absolute(), tokenizer.hash, config.engine)
        return tokenizer

    def _hash_lines(self) -> None:
        """Hash the lines of units that others are compared with; a group of one needs none."""
        wanted = {file for earlier in self._earlier if earlier for file in earlier.files}
        chosen = [
            unit
            for unit in self._units
            if hashes_of(self._tasks[unit.slice].collecting, unit) in wanted
        ]
        if chosen:
            calls = [(hash_lines, (unit, self._tasks[unit.slice].collecting)) for unit in chosen]
            self._crew.over(chosen, calls, "paragraphs", self._progress)

    def _train(self) -> Tokenizer:
        config, units, began = self._recipe.tokenizer, self._units, time.time()
        each = list(zip(units, self._earlier, strict=True))
        reading = [(read_once, (unit, self._tasks[unit.slice], earlier)) for unit, earlier in each]
        self._crew.over(units, reading, "reading", self._progress)
        chosen = each[:: -(-len(units) // SAMPLED_UNITS)]
        share = config.sample_bytes / max(1, sum(unit.size for unit, _ in chosen))
        calls = [
            (
                sample,
                (
                    unit,
                    self._tasks[unit.slice],
                    earlier,
                    self._rules[unit.slice],
                    max(1, int(unit.size * share)),
                ),
            )
            for unit, earlier in chosen
        ]
        found = dict(self._crew.gather(calls))
        texts = [text for index in range(len(chosen)) for text in found[index]]
        if not texts:
            raise DataError("the filters left no text to train a tokenizer on: see [filters]")
        tokenizer = Tokenizer.train(texts, config.vocab_size)
        size = sum(len(text) for text in texts) / MEGABYTE
        self._progress.say(
            f"trained a tokenizer of {tokenizer.encoder().vocab_size} tokens on {size:.1f} MB "
            f"in {time.time() - began:.1f} s"
        )
        return tokenizer

    def staged(self, gone: Collection[bytes] = ()) -> list[Staged]:
        """Do all that has to do with text, then choose; returns the units in their order.

        Args:
            gone: ids of documents that were removed from the shards here before.

        Raises:
            DataError: units failed again and again, or a rule asks for a column that is not there.
        """
        calls = [
            (prepare, (unit, self._tasks[unit.slice], earlier, self._tokenising))
            for unit, earlier in zip(self._units, self._earlier, strict=True)
        ]
        self._prepared = self._crew.over(self._units, calls, "tokenising", self._progress)
        each = zip(self._units, self._prepared, strict=True)
        entries = (inventory.Entry(unit.name, unit.slice, files) for unit, files in each)
        inventory.write(self._run, self._folder, entries)
        rules = {name: self._resolved(name) for name in self._rules}
        most, removed = self._recipe.rejects, None
        if gone:
            removed = (self._staging / "removed.npy").absolute()
            np.save(removed, np.array(sorted(gone), "V16"))
        filtering = [
            (choose, (unit.name, prepared, rules[unit.slice], most, removed))
            for unit, prepared in zip(self._units, self._prepared, strict=True)
        ]
        found = dict(self._crew.gather(filtering))
        return [found[index] for index in range(len(self._units))]

    def _resolved(self, name: str) -> tuple[Rule, ...]:
        pairs = zip(self._units, self._prepared, strict=True)
        units = [prepared for unit, prepared in pairs if unit.slice == name]
        return selection.resolve(self._rules[name], units)

    def shards(self, building: Path, plans: Sequence[Plan]) -> list[ShardInfo]:
        """Write the shards; as they come, which is no order."""
        calls = [
            (
                write_shard,
                (
                    (building / plan.file).absolute(),
                    plan.slice,
                    plan.pieces,
                    self._tokenising,
                    self._recipe.hash,
                ),
            )
            for plan in plans
        ]
        return [info for _, info in self._crew.gather(calls)]

    def used(self) -> frozenset[str]:
        """Names of all files of the documents' folder that this recipe's units go back to."""
        names: set[str] = set()
        for unit, prepared in zip(self._units, self._prepared, strict=True):
            raw = self._tasks[unit.slice].collecting.path(unit)
            lines = hashes_of(self._tasks[unit.slice].collecting, unit)
            names |= {raw.name, lines.name, prepared.store.name}
            names |= {prepared.tokens.name, *(path.name for path in prepared.annotated.files)}
        return frozenset(names)
