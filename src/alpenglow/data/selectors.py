"""How documents are named on the command line, for `find` and `remove` alike."""

from __future__ import annotations

import argparse
from pathlib import Path

from alpenglow.data.document import DataError
from alpenglow.data.document_rows import lawful
from alpenglow.data.index_keys import KINDS


def add_selectors(parser: argparse.ArgumentParser) -> None:
    """Add --ids, --url, --domain, --licence and --source."""
    parser.add_argument(
        "--ids", action="append", metavar="FILE|HEX,...", help="ids: a file of one a line, or some"
    )
    parser.add_argument(
        "--url", action="append", help="address; http or https, with or without www."
    )
    parser.add_argument("--domain", action="append", help="host, and all hosts below it")
    parser.add_argument("--licence", action="append", help="as the shards have it")
    parser.add_argument("--source", action="append", help="name of where a text came from")


def selected(options: argparse.Namespace) -> tuple[str, list[str]] | None:
    """Kind and values that were named; None where nothing was.

    Raises:
        DataError: two kinds at once, a value that cannot be, or a file that cannot be read.
    """
    given = {
        kind: values
        for kind in KINDS
        if (values := getattr(options, "ids" if kind == "id" else kind)) is not None
    }
    if len(given) > 1:
        names = " and ".join(f"--{'ids' if kind == 'id' else kind}" for kind in given)
        raise DataError(f"{names}: name documents in one way at a time")
    for kind, values in given.items():
        each = [one for value in values for one in _ids(value)] if kind == "id" else values
        if not each:
            raise DataError("--ids: the list is empty")
        return kind, lawful(kind, each)
    return None


def _ids(value: str) -> list[str]:
    """Ids from a file (one a line; # begins a comment) or from a list with commas."""
    path = Path(value)
    if not set(value.lower()) - set("0123456789abcdef, "):
        return [one.strip() for one in value.split(",") if one.strip()]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(
            f"{value}: no such file of ids, and no ids: an id has 32 hexadecimal digits"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{value}: not readable as a list of ids: {error}") from None
    return [one for line in lines if (one := line.partition("#")[0].strip())]
