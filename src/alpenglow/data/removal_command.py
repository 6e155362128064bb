"""`alpenglow data remove`: take documents out of finished shards, in place.

    alpenglow data remove shards --ids takedown.txt --why "request 2026-031"
    alpenglow data remove shards --domain example.org --dry-run
    alpenglow data remove shards                      complete a removal that was broken off

Their tokens are blanked, their labels count in no loss, and the order of samples stays; see
`alpenglow.data.removal`. Documents that were removed before are left as they are. Exit code 0, or 1
after one sentence; a dry run changes nothing.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpenglow.data import removal
from alpenglow.data.catalogue import PENDING, Catalogue, CatalogueError
from alpenglow.data.document import DataError
from alpenglow.data.document_index import DocumentIndex
from alpenglow.data.document_rows import Chosen, choose, column_of, nearest, records
from alpenglow.data.find import HEAD, line
from alpenglow.data.selectors import add_selectors, selected
from alpenglow.data.shards import ShardError

SHOWN = 20
"""Documents that a dry run lists."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Remove documents; see the module."""
    parser = argparse.ArgumentParser(
        prog="alpenglow data remove", description="Remove documents from finished shards, in place."
    )
    parser.add_argument("shards", type=Path, help="folder of the shards, or their catalogue")
    add_selectors(parser)
    parser.add_argument("--why", default="", help="kept in the log")
    parser.add_argument("--who", default="", help="kept in the log; default: the login name")
    parser.add_argument("--dry-run", action="store_true", help="say what would go; change nothing")
    parser.add_argument("--end-token", type=int, help="what a blank is, if not the tokenizer's own")
    options = parser.parse_args(arguments)
    try:
        named = selected(options)
        catalogue = Catalogue.load(options.shards)
        if options.dry_run:
            if named is None:
                parser.error("name documents by --ids, --url, --domain, --licence or --source")
            return _show(catalogue, *named)
        with removal.alone(catalogue.folder):
            finished = removal.complete(catalogue.folder, _say)
            if finished is not None:
                _say(f"removal {finished['number']}, which was broken off, is complete")
                _tell(finished)
                catalogue = Catalogue.load(catalogue.folder)
            if named is None:
                if finished is None:
                    parser.error("name documents by --ids, --url, --domain, --licence or --source")
                return 0
            _remove(catalogue, *named, options)
    except (CatalogueError, DataError, ShardError) as error:
        sys.stderr.write(f"remove: {error}\n")
        return 1
    return 0


def _remove(
    catalogue: Catalogue, kind: str, values: Sequence[str], options: argparse.Namespace
) -> None:
    end = removal.end_token(catalogue) if options.end_token is None else options.end_token
    chosen, before, missing = _chosen(catalogue, kind, values)
    if before:
        _say(f"{before:,} documents were removed before")
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        _say(f"{len(missing):,} ids are not here: {', '.join(missing[:3])}{more}")
    if not chosen:
        return
    who = options.who or _login()
    request = removal.Request(kind, tuple(values), who, options.why, tuple(missing))
    removal.begin(catalogue, chosen, end, request)
    done = removal.complete(catalogue.folder, _say)
    if done is not None:
        _tell(done)


def _chosen(
    catalogue: Catalogue, kind: str, values: Sequence[str]
) -> tuple[Chosen, int, list[str]]:
    """Documents still to remove, how many were before, and ids that are not here.

    Raises:
        DataError: there is no such document at all.
    """
    index = DocumentIndex.open(catalogue, _say)
    found = dict(choose(catalogue, index, kind, values))
    if not found:
        hint = nearest(catalogue, kind, values[0])
        raise DataError(
            f"{catalogue.folder}: no document of {kind} {', '.join(values[:3])}"
            f"{' ...' if len(values) > 3 else ''}{hint}; nothing was changed"
        )
    chosen: dict[int, Any] = {}
    before, here = 0, set()
    for shard, rows in found.items():
        removed = catalogue.open(shard).removed
        gone = np.zeros(len(rows), bool) if removed is None else removed[rows] != 0
        before += int(gone.sum())
        if not gone.all():
            chosen[shard] = rows[~gone]
        if kind == "id":
            here |= set(column_of(catalogue.folder / catalogue.shards[shard].file, "id", rows))
    missing = [value for value in values if value not in here] if kind == "id" else []
    return chosen, before, missing


def _show(catalogue: Catalogue, kind: str, values: Sequence[str]) -> int:
    """List what a removal would do."""
    if (catalogue.folder / PENDING).exists():
        _say("a removal was broken off here; the next `remove` without --dry-run completes it")
    chosen, before, missing = _chosen(catalogue, kind, values)
    documents = tokens = 0
    if chosen:
        sys.stdout.write(HEAD + "\n")
    for shard, rows in chosen.items():
        for record in records(catalogue, shard, rows[: max(0, SHOWN - documents)]):
            sys.stdout.write(line(catalogue, record) + "\n")
        starts = catalogue.open(shard).document_starts
        documents += len(rows)
        tokens += int((starts[rows + 1] - starts[rows]).sum())
    if documents > SHOWN:
        sys.stdout.write(f"... and {documents - SHOWN:,} more\n")
    size = sum(catalogue.shards[shard].bytes for shard in chosen)
    sys.stdout.write(
        f"would remove {documents:,} documents, {tokens:,} tokens, rewriting {len(chosen)} of "
        f"{len(catalogue.shards)} shards ({size / 1e6:,.1f} MB); {before:,} were removed before, "
        f"{len(missing):,} ids are not here; nothing was changed\n"
    )
    return 0


def _tell(done: dict[str, Any]) -> None:
    sys.stdout.write(
        f"removal {done['number']}: {len(done['documents']):,} documents, {done['tokens']:,} "
        f"tokens in {len(done['files'])} shards; content {done['before'][:12]} -> "
        f"{done['after'][:12]}, order of samples unchanged\n"
    )


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return f"user {os.getuid()}"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
