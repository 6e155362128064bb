"""The log of removals, `removals.jsonl` beside the catalogue: a line for each, never changed.

A line has number (from 1), when (UTC), who, why, selector (kind and values), documents (ids, hex),
not_found (ids that were asked for and are not here), tokens, files, and the catalogue's content
before and after. The catalogue keeps one hash of all lines, each hashed with that of the lines
before it; `after`, which depends on it, is checked against the next line or the catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from alpenglow.data.catalogue import PENDING, Catalogue
from alpenglow.data.document import DataError
from alpenglow_lsf.files import write_text

NAME = "removals.jsonl"
BEFORE = "removals.before.jsonl"
"""The logs of the shards that compacted ones were made from."""


def entries(folder: Path, name: str = NAME) -> Iterator[dict[str, Any]]:
    """The removals that shards have seen, in their order.

    Raises:
        DataError: a line is no JSON object.
    """
    for number, text in enumerate(lines(folder, name), 1):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DataError(f"{folder / name}: line {number} is no removal: the log is damaged")
        yield found


def lines(folder: Path, name: str = NAME) -> Iterator[str]:
    """The lines of the log with their line ends; none where there is no log.

    Raises:
        DataError: not readable as text.
    """
    path = folder / name
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the log is damaged: {error}") from None


def line(fields: Mapping[str, Any], after: str) -> str:
    """A line of the log.

    Args:
        fields: all but the content that the catalogue has afterwards.
        after: that one.
    """
    return _before_after(fields) + _after(after)


def chain(former: str, fields: Mapping[str, Any]) -> str:
    """The hash of the log up to and with a line, 32 hex digits (xxh3-128).

    Args:
        former: that of the lines before it; empty for the first.
        fields: of the line, all but `after`, which depends on this hash.
    """
    return _chain(former, _before_after(fields))


def damage(catalogue: Catalogue) -> str:
    """What is wrong with the log beside a catalogue; empty where every byte is as written."""
    found, after, number = "", "", 0
    try:
        texts = zip(lines(catalogue.folder), entries(catalogue.folder), strict=True)
        for number, (text, entry) in enumerate(texts, 1):
            if entry.get("number") != number or (after and entry.get("before") != after):
                return f"line {number} does not follow the one before it"
            after = str(entry.get("after"))
            if not text.endswith(_after(after)):
                return f"line {number} is not as it was written"
            found = _chain(found, text.removesuffix(_after(after)))
    except DataError as error:
        return str(error).removeprefix(f"{catalogue.folder / NAME}: ")
    if number != catalogue.removals:
        return f"{number} removals, and the catalogue has seen {catalogue.removals}"
    if found != catalogue.removals_hash or (after and after != catalogue.content):
        return "it does not have the checksum that the catalogue has"
    return ""


def removed_ids(folder: Path) -> set[bytes]:
    """Ids of all documents that were ever removed from shards, 16 bytes each.

    Those of shards that these were compacted from are among them: who makes the shards anew from
    the same text leaves them out.

    Raises:
        DataError: a log is damaged.
    """
    return {
        bytes.fromhex(one)
        for name in (BEFORE, NAME)
        for entry in entries(folder, name)
        for one in entry["documents"]
    }


def refuse_pending(folder: Path) -> None:
    """Keep shards from being made anew while documents are being removed from them.

    Raises:
        DataError: a removal is going on, or was broken off.
    """
    if (folder / PENDING).exists():
        raise DataError(
            f"{folder}: a removal is going on here, or was broken off; "
            f"`alpenglow data remove {folder}` completes it"
        )


def carry(source: Path, target: Path) -> None:
    """Write `removals.before.jsonl` of shards that are made anew: all that was removed so far.

    Raises:
        DataError: a log is damaged.
    """
    former = [*lines(source, BEFORE), *lines(source)]
    if former:
        write_text(target / BEFORE, "".join(former))


def leads_to(folder: Path, before: str, after: str) -> bool:
    """Whether shards of content `before` have content `after` by removals alone."""
    if before != after:
        try:
            for entry in entries(folder):
                if entry.get("before") == before:
                    before = str(entry.get("after"))
        except (DataError, OSError):
            return False
    return before == after


def _before_after(fields: Mapping[str, Any]) -> str:
    return json.dumps(dict(fields), ensure_ascii=False)[:-1]


def _after(content: str) -> str:
    return f', "after": "{content}"}}\n'


def _chain(former: str, text: str) -> str:
    return xxhash.xxh3_128_hexdigest((former + text).encode("utf-8", "surrogatepass"))
