"""`alpenglow data compact`: a new catalogue and shards, without the documents that were removed.

    alpenglow data compact shards --output shards-2 --shard-tokens 500000000

Same slices, documents in their order, shards cut anew: the document that reaches `--shard-tokens`
closes one. Every shard and the catalogue name what they were made from; `compaction.json` is the
account: for each slice, documents and tokens read = kept + removed, exactly;
`removals.before.jsonl` keeps the log of what was removed. The source is read,
each block against its checksum, and never changed. The new folder appears whole or not at all; it
has another order of samples, so a run that began on the source goes on with the source.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alpenglow.data import removal_log
from alpenglow.data.assembly import open_building, swap
from alpenglow.data.catalogue import PENDING, Catalogue, CatalogueError
from alpenglow.data.checksums import FACTS
from alpenglow.data.document import DataError
from alpenglow.data.recipe import PrepareRecipe
from alpenglow.data.shards import ShardError, ShardInfo, ShardWriter
from alpenglow_lsf.files import write_json

ACCOUNT = "compaction.json"
FORMAT = 1
COPIED = ("ledger.json",)
"""Of the source, beside its tokenizer: how the documents came to be."""


@dataclass
class Count:
    """Documents and their tokens, end tokens included."""

    documents: int = 0
    tokens: int = 0

    def add(self, tokens: int) -> None:
        """Count one more document."""
        self.documents += 1
        self.tokens += tokens


@dataclass
class SliceAccount:
    """What became of a slice."""

    read: Count = field(default_factory=Count)
    kept: Count = field(default_factory=Count)
    removed: Count = field(default_factory=Count)


@dataclass
class _Cut:
    """Shards of one slice while they are written."""

    folder: Path
    slice: str
    source: Catalogue
    dtype: str
    shard_tokens: int
    attributes: dict[str, str]
    done: list[ShardInfo] = field(default_factory=list)
    writer: ShardWriter | None = None

    def add(self, tokens: Any, identity: bytes, facts: Sequence[str]) -> None:
        if self.writer is None:
            self.writer = ShardWriter(
                self.folder / f"{self.slice}-{len(self.done):05d}.h5",
                slice=self.slice,
                dtype=self.dtype,
                tokenizer_hash=self.source.tokenizer_hash,
                recipe_hash=self.source.recipe_hash,
            )
            self.writer.attributes |= self.attributes
        source, url, licence, timestamp = facts
        self.writer.add(tokens, identity, source, url=url, licence=licence, timestamp=timestamp)
        if self.writer.tokens >= self.shard_tokens:
            self.close()

    def close(self) -> None:
        if self.writer is not None:
            self.done.append(self.writer.close())
            self.writer = None

    def forget(self) -> None:
        """Leave nothing of the shard that is open."""
        if self.writer is not None:
            with self.writer:
                self.writer = None


def compact(source: Catalogue, output: Path, shard_tokens: int) -> dict[str, SliceAccount]:
    """Write the new folder; returns the account by slice.

    Raises:
        DataError: nothing was removed, a removal is half done or was done meanwhile, all documents
            are removed, or `output` is there already.
        ShardError: a shard is damaged or the file system refuses; nothing is left behind.
    """
    if (source.folder / PENDING).exists():
        raise DataError(
            f"{source.folder}: a removal was broken off; `alpenglow data remove {source.folder}` "
            f"completes it"
        )
    if not source.removals:
        raise DataError(f"{source.folder}: nothing was removed, so there is nothing to leave out")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: there is something here; name a new folder as --output")
    made_from = {
        "catalogue": str(source.folder / "catalogue.json"),
        "fingerprint": source.fingerprint,
        "content": source.content,
        "removals": source.removals,
        "removals_hash": source.removals_hash,
    }
    building = open_building(output)
    try:
        accounts, shards = _write(source, building, shard_tokens, made_from)
        if (source.folder / PENDING).exists() or Catalogue.load(source.folder) != source:
            raise DataError(f"{source.folder}: was changed meanwhile; compact it again")
        if not shards:
            raise DataError(f"{source.folder}: all documents are removed: none is left")
        for name in (source.tokenizer, *COPIED):
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, building / name)
        removal_log.carry(source.folder, building)
        slices = {name: dataclasses.asdict(account) for name, account in accounts.items()}
        tables = {"format": FORMAT, "made_from": made_from, "shard_tokens": shard_tokens}
        write_json(building / ACCOUNT, {**tables, "slices": slices})
        new = Catalogue.build(
            building,
            shards,
            tokenizer=source.tokenizer,
            tokenizer_hash=source.tokenizer_hash,
            vocab_size=source.vocab_size,
            recipe_hash=source.recipe_hash,
        )
        dataclasses.replace(new, made_from=made_from).write()
        swap(building, output)
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return accounts


def _write(
    source: Catalogue, building: Path, shard_tokens: int, made_from: dict[str, Any]
) -> tuple[dict[str, SliceAccount], list[ShardInfo]]:
    attributes = {f"made_from_{key}": str(value) for key, value in made_from.items()}
    accounts: dict[str, SliceAccount] = {}
    shards: list[ShardInfo] = []
    for name in source.slices:
        accounts[name] = SliceAccount()
        numbers = [at for at, info in enumerate(source.shards) if info.slice == name]
        dtype = source.shards[numbers[0]].dtype
        cut = _Cut(building, name, source, dtype, shard_tokens, attributes)
        try:
            for number in numbers:
                _copy(source, number, cut, accounts[name])
            cut.close()
        finally:
            cut.forget()
        shards += cut.done
    _prove(source, shards, accounts)
    return accounts, shards


def _copy(source: Catalogue, number: int, cut: _Cut, account: SliceAccount) -> None:
    """Add what is left of one shard."""
    shard = source.open(number)
    starts = shard.document_starts.astype(np.int64).tolist()
    removed = shard.removed
    ids = shard.identities()
    facts = list(zip(*(shard.facts(name) for name in FACTS), strict=True))
    for row, (first, last) in enumerate(itertools.pairwise(starts)):
        account.read.add(last - first)
        if removed is not None and removed[row]:
            account.removed.add(last - first)
            continue
        if first < last:
            shard.check(first, last)
        account.kept.add(last - first)
        cut.add(shard.tokens[first:last], ids[row], facts[row])


def _prove(
    source: Catalogue, shards: Sequence[ShardInfo], accounts: dict[str, SliceAccount]
) -> None:
    for name, account in accounts.items():
        listed = [info for info in source.shards if info.slice == name]
        made = [info for info in shards if info.slice == name]
        for what in ("documents", "tokens"):
            read, kept, gone = (
                getattr(one, what) for one in (account.read, account.kept, account.removed)
            )
            wrote, had = (sum(getattr(i, what) for i in infos) for infos in (made, listed))
            if not (read == kept + gone == had and kept == wrote):
                raise DataError(
                    f"{name}: {read} {what} read of {had} listed, {kept} kept, {gone} removed and "
                    f"{wrote} written do not add up: is the source being changed?"
                )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compact and print the account; see the module."""
    parser = argparse.ArgumentParser(
        prog="alpenglow data compact", description="Make new shards without removed documents."
    )
    parser.add_argument("shards", type=Path, help="folder of the shards, or their catalogue")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    parser.add_argument(
        "--shard-tokens",
        type=int,
        default=PrepareRecipe.shard_tokens,
        help="as in the recipe; default %(default)s",
    )
    options = parser.parse_args(arguments)
    if options.shard_tokens < 1:
        parser.error(f"--shard-tokens {options.shard_tokens}: a shard holds at least one")
    try:
        source = Catalogue.load(options.shards)
        accounts = compact(source, options.output, options.shard_tokens)
    except (CatalogueError, DataError, ShardError) as error:
        sys.stderr.write(f"compact: {error}\n")
        return 1
    for name, account in accounts.items():
        sys.stdout.write(
            f"{name:<16} {account.read.documents:>12,} documents, {account.removed.documents:,} "
            f"removed, {account.kept.documents:,} kept; {account.kept.tokens:,} of "
            f"{account.read.tokens:,} tokens\n"
        )
    sys.stdout.write(f"{options.output}: {len(Catalogue.load(options.output).shards)} shards\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
