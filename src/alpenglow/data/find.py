"""`alpenglow data find`: documents of finished shards, by id, URL, domain, licence or source.

    alpenglow data find shards --domain example.org
    alpenglow data find shards --licence GPL-2.0 --only-ids --limit 0 > ids.txt

A table of where each lies and what is known of it, or the ids alone, for `remove --ids`. The index
is built first where there is none. Exit code 0 where any was found, else 1 after a sentence.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow.data.catalogue import Catalogue, CatalogueError
from alpenglow.data.document import DataError
from alpenglow.data.document_index import DocumentIndex
from alpenglow.data.document_rows import Record, candidates, choose, nearest, records
from alpenglow.data.selectors import add_selectors, selected
from alpenglow.data.shards import ShardError

HEAD = f"{'id':<32}  {'shard':<24} {'row':>9} {'tokens':>9}  state    licence, source, URL"


def main(arguments: Sequence[str] | None = None) -> int:
    """Find documents; see the module."""
    parser = argparse.ArgumentParser(
        prog="alpenglow data find", description="Find documents in finished shards."
    )
    parser.add_argument("shards", type=Path, help="folder of the shards, or their catalogue")
    add_selectors(parser)
    parser.add_argument("--limit", type=int, default=20, help="show so many; 0 shows all")
    parser.add_argument("--only-ids", action="store_true", help="print ids alone, one a line")
    options = parser.parse_args(arguments)
    if options.limit < 0:
        parser.error(f"--limit {options.limit}: 0 shows all")
    try:
        named = selected(options)
        if named is None:
            parser.error("name documents by --ids, --url, --domain, --licence or --source")
        catalogue = Catalogue.load(options.shards)
        index = DocumentIndex.open(catalogue, _say)
        kind, values = named
        shown = 0
        for shard, rows in choose(catalogue, index, kind, values):
            few = rows[: options.limit - shown] if options.limit else rows
            for record in records(catalogue, shard, few):
                if not shown and not options.only_ids:
                    sys.stdout.write(HEAD + "\n")
                text = record.id.hex() if options.only_ids else line(catalogue, record)
                sys.stdout.write(text + "\n")
                shown += 1
            if shown == options.limit:
                break
        if not shown:
            hint = nearest(catalogue, kind, values[0])
            raise DataError(f"{catalogue.folder}: no document of {kind} {', '.join(values)}{hint}")
        count = len(candidates(index, kind, values))
    except (CatalogueError, DataError, ShardError) as error:
        sys.stderr.write(f"find: {error}\n")
        return 1
    if options.limit and shown == options.limit < count:
        sys.stderr.write(f"find: {shown} of {count:,} shown; --limit 0 shows all\n")
    return 0


def line(catalogue: Catalogue, record: Record) -> str:
    """One document as a line of the table."""
    facts = ", ".join(filter(None, (record.facts[name] for name in ("licence", "source", "url"))))
    state = "removed" if record.removed else "here"
    return (
        f"{record.id.hex()}  {catalogue.shards[record.shard].file:<24} {record.row:>9} "
        f"{record.tokens:>9}  {state:<7}  {facts}"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
