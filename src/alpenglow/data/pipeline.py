"""Raw text to token shards, on Dask.

    jsrun -r2 -a1 -c21 ... python -m mpi4py -m alpenglow.data.pipeline jobs/prepare_data.toml
    python -m alpenglow.data.pipeline jobs/prepare_data.toml output=elsewhere

Under MPI rank 0 is Dask's scheduler, rank 1 the client, the others work; without MPI worker
processes on this machine do. A job that ends early goes on where it was when it is submitted again.
Exit code 0: the shards are in place (or were); 85: the time is over, submit again; else it failed,
after one sentence on stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

import alpenglow
from alpenglow.config import ConfigError, load, to_tables
from alpenglow.data import assembly, removal_log, selection, slices
from alpenglow.data.assembly import LEDGER, REJECTS
from alpenglow.data.catalogue import Catalogue, CatalogueError
from alpenglow.data.cluster import WorkersAbsent, connect
from alpenglow.data.crew import FAILURES, MEGABYTE, Crew, TimeOver
from alpenglow.data.document import DataError, InputAbsent, Unit
from alpenglow.data.progress import Progress
from alpenglow.data.recipe import SLICES, PrepareRecipe
from alpenglow.data.shards import ShardError
from alpenglow.data.slices.source import Source
from alpenglow.data.steps import Steps
from alpenglow.data.tokenizer import NAME as TOKENIZER
from alpenglow.data.tokenizer import Tokenizer
from alpenglow_lsf.files import write_json, write_text
from alpenglow_lsf.machine import Machine, current, names
from alpenglow_lsf.ranks import Ranks

if TYPE_CHECKING:
    from distributed import Client

FAILED = 1
MORE_TO_DO = 85
VERIFY_TOKENS = 1_000_000_000
"""Up to here a second run reads all shards again, beyond it looks at names and sizes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job, or this rank's part of it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.data.pipeline", description="Raw text to HDF5 token shards."
    )
    parser.add_argument("recipe", type=Path, help="TOML recipe, such as jobs/prepare_data.toml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted.key=value")
    parser.add_argument("--run", type=Path, help="run directory; default $ALPENGLOW_RUN")
    options = parser.parse_intermixed_args(arguments)
    rank, where = 0, ""
    try:
        ranks = Ranks.from_environment()
        rank = ranks.rank
        machine = current() if os.environ.get("ALPENGLOW_MACHINE") else None
        recipe = read_recipe(options.recipe, machine, options.overrides)
        named = options.run or os.environ.get("ALPENGLOW_RUN")
        run = Path(named) if named else recipe.run
        where = f"{run} or {recipe.output}: "
        with connect(recipe.cluster, run, ranks) as client:
            rank = 0  # from here on this is the only rank that has something to say
            job = Job(recipe, run, machine, ranks)
            return job.run(client)
    except FAILURES as error:
        # What stops every rank is said once; what stops one is said by that one.
        if rank == 0 or isinstance(error, WorkersAbsent | OSError):
            bare = isinstance(error, OSError) and error.filename is None
            sys.stderr.write(f"prepare: {where if bare else ''}{error}\n")
        return FAILED


def read_recipe(
    path: Path, machine: Machine | None, overrides: Sequence[str] = ()
) -> PrepareRecipe:
    """Read a recipe with the overlay of this machine."""
    name = None if machine is None else machine.name
    known = {*names(), *([] if name is None else [name])}
    recipe = load(path, PrepareRecipe, machine=name, machines=known, overrides=overrides)
    for each, part in recipe.slices.items():
        slices.check(each, part)
        try:
            selection.of_slice(recipe, each)
        except ValueError as error:
            raise ConfigError(f"{path}: slices.{each}: {error}") from None
    return recipe


class Job:
    """The client's part: what is to be done, in which order.

    Args:
        recipe: what to make.
        run: the run directory.
        machine: this machine, if its name is known.
        ranks: who this process is.
    """

    def __init__(
        self, recipe: PrepareRecipe, run: Path, machine: Machine | None, ranks: Ranks
    ) -> None:
        self.recipe = recipe
        self.directory = run
        self.machine = machine
        self.ranks = ranks
        self.began = time.time()
        run.mkdir(parents=True, exist_ok=True)
        self.progress = Progress(run, "prepare", "MB", bar=ranks.world_size == 1)
        self.skipped: dict[str, str] = {}
        self.units: list[Unit] = []

    def run(self, client: Client) -> int:
        """Do the job; returns its exit code.

        Raises:
            DataError: raw input or tokenizer absent or damaged, or a worker is gone.
        """
        if self._up_to_date():
            return 0
        if self.recipe.cluster.dashboard:
            self.progress.say(f"status pages: {client.dashboard_link} on the scheduler's node")
        if self.recipe.tokenizer.origin == "file" and self.recipe.tokenizer.file is not None:
            Tokenizer.load(self.recipe.tokenizer.file)  # said now, not after the text is collected
        removal_log.refuse_pending(self.recipe.output)
        building = assembly.open_building(self.recipe.output)
        try:
            self._describe(None)
            catalogue, used = self._build(client, building)
        except TimeOver:
            self.progress.say("the time is over; submit the job again, and it goes on from here")
            return MORE_TO_DO
        finally:
            shutil.rmtree(building, ignore_errors=True)
        self._describe(catalogue)
        shutil.rmtree(self.directory / "staging", ignore_errors=True)
        self._forget_old_files(used)
        parts = ", ".join(f"{name} {tokens:,}" for name, tokens in catalogue.slices.items())
        self.progress.say(
            f"{self.recipe.output}: {catalogue.tokens:,} tokens in {len(catalogue.shards)} shards "
            f"({parts}), {time.time() - self.began:.0f} s"
        )
        return 0

    def _up_to_date(self) -> bool:
        """Whether the shards of this recipe are there, whole."""
        output = self.recipe.output
        if not (output / "catalogue.json").exists():
            return False
        try:
            catalogue = Catalogue.load(output)
            if catalogue.recipe_hash != self.recipe.hash:
                self.progress.say(f"{output}: made by another recipe; the shards are made anew")
                return False
            if catalogue.tokens <= VERIFY_TOKENS:
                catalogue.verify()
            ledger = json.loads((output / LEDGER).read_text(encoding="utf-8"))
            whole = Tokenizer.load(catalogue.tokenizer_path).hash == catalogue.tokenizer_hash
            if not whole or ledger["fingerprint"] != catalogue.fingerprint:
                raise DataError(f"{output}: the tokenizer or the ledger is not the catalogue's")
            left_out = f", left out: {', '.join(ledger['skipped'])}" if ledger["skipped"] else ""
        except (CatalogueError, DataError, ShardError, OSError, ValueError, KeyError) as error:
            self.progress.say(f"{error}: the shards are made anew")
            return False
        self._describe(catalogue)
        self.progress.say(
            f"{output}: up to date, {catalogue.tokens:,} tokens in {len(catalogue.shards)} shards"
            f"{left_out}; remove the folder to collect the text again"
        )
        return True

    def _build(self, client: Client, building: Path) -> tuple[Catalogue, frozenset[str]]:
        recipe = self.recipe
        units = self.units = self._units()
        size = sum(unit.size for unit in units)
        self.progress.say(
            f"collected {size / MEGABYTE:.1f} MB in {len(units)} units of "
            f"{', '.join(dict.fromkeys(unit.slice for unit in units))}"
        )
        steps = Steps(
            recipe, self.directory, units, Crew(client, recipe, self.ranks), self.progress
        )
        tokenizer = steps.tokenizer()
        encoder = tokenizer.encoder(recipe.tokenizer.engine)
        if encoder.reason:
            self.progress.say(
                f"tokens come from tokenizers, without the fast path: {encoder.reason}"
            )
        gone = removal_log.removed_ids(recipe.output)
        staged = steps.staged(gone)
        kept = assembly.first_of_each(staged)
        ledger = assembly.account(staged, kept, self.skipped)
        plans = assembly.plan_shards(staged, kept, recipe.shard_tokens)
        if not plans:
            raise DataError("the filters left no document: see [filters] of the recipe")
        shards = steps.shards(building, plans)
        rejects = (item for unit in staged for item in unit.rejects)
        selection.write_rejects(building / REJECTS, rejects, recipe.rejects)
        write_text(building / TOKENIZER, tokenizer.json)
        catalogue = Catalogue.build(
            recipe.output,
            shards,
            tokenizer=TOKENIZER,
            tokenizer_hash=tokenizer.hash,
            vocab_size=encoder.vocab_size,
            recipe_hash=recipe.hash,
        )
        facts = {
            "recipe_hash": recipe.hash,
            "fingerprint": catalogue.fingerprint,
            "tails": assembly.tails(catalogue, recipe.sequence_length),
        }
        write_json(building / LEDGER, ledger.tables(**facts))
        if gone:
            self.progress.say(f"{len(gone)} documents were removed here before, and stay away")
            removal_log.carry(recipe.output, building)
        dataclasses.replace(catalogue, folder=building).write()  # last: it has their checksums
        assembly.swap(building, recipe.output)
        return catalogue, steps.used()

    def _units(self) -> list[Unit]:
        units: list[Unit] = []
        for name in SLICES:
            if name not in self.recipe.slices:
                continue
            config = self.recipe.slices[name]
            try:
                source = Source.of(name, config, self.recipe.unit_bytes)
                units += slices.of_name(name).units(source)
            except InputAbsent as error:
                if not config.optional:
                    raise
                self.skipped[name] = str(error)
                self.progress.say(f"left out: {error}")
        if not units:
            raise DataError("no slice has raw input; see the sentences above for what they need")
        return units

    def _forget_old_files(self, used: frozenset[str]) -> None:
        """Remove stores, columns and tokens in the run directory that this recipe did not use."""
        if self.recipe.documents is not None:
            return  # a folder of the user's own may serve several recipes
        for path in (self.directory / "documents").iterdir():
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _describe(self, catalogue: Catalogue | None) -> None:
        """Write run.toml; the data's fingerprint is known at the end only."""
        ranks = self.ranks
        began = datetime.datetime.fromtimestamp(self.began, datetime.UTC)
        tables: dict[str, Any] = {
            "run": {
                "name": self.directory.name,
                "activity": "prepare",
                "created": began.isoformat(timespec="seconds"),
                "code_version": alpenglow.__version__,
            },
            "machine": {
                "name": "unknown" if self.machine is None else self.machine.name,
                "nodes": max(1, ranks.world_size // ranks.local_size),
                "ranks": ranks.world_size,
                "ranks_per_node": ranks.local_size,
            },
            "recipe": to_tables(self.recipe),
        }
        if catalogue is not None:
            tables["data"] = {
                "catalogue": str(self.recipe.output / "catalogue.json"),
                "fingerprint": catalogue.fingerprint,
                "tokenizer": str(catalogue.tokenizer_path),
            }
        write_text(self.directory / "run.toml", tomli_w.dumps(tables))


if __name__ == "__main__":
    sys.exit(main())
