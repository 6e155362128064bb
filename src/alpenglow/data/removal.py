"""Removing documents from finished shards, in place: same lengths, so the same order of samples.

Every token of a removed document becomes the end token, the shard's `documents/removed` marks it,
and training leaves its labels out (`Loader`). What is known of it (id, source, URL, licence) stays,
so that a second request finds that it was done.

**Order of writes**, each file whole and flushed before it gets its name:

1. `removal.pending.json`, and before it the rows it means (`removal.pending.rows.json`): from here
   on the removal is certain, and any later start completes it.
2. For each shard a changed copy beside it; its new checksums into the pending file; the rename.
3. The log with its new line, as `removals.jsonl.next`.
4. `catalogue.json` with the shards' new checksums, the number of removals and their hash.
5. `removals.jsonl.next` takes its name; the pending files go.

A kill or a full disk leaves each shard old or new, never between; a catalogue with a removal
pending takes either size. A copy needs the room of one shard. A shard that is damaged already is
not changed: its checksums would hide that.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from alpenglow.data import removal_log
from alpenglow.data.catalogue import PENDING, Catalogue
from alpenglow.data.checksums import (
    BLOCK_BYTES,
    checksum,
    content_hash,
    documents_hash,
    file_hash,
)
from alpenglow.data.document import DataError
from alpenglow.data.document_rows import Chosen
from alpenglow.data.shards import Shard, ShardError, ShardInfo
from alpenglow.data.tokenizer import END
from alpenglow_lsf.files import read_json, write_json, write_text

ROWS = "removal.pending.rows.json"
LOCK = ".removal.lock"
_HALF_WRITTEN = (
    ".removal.pending.*", ".removals.jsonl.next.*", ".catalogue.json.*", ".*.h5.removal",
)  # fmt: skip
"""What a kill leaves of files that never got their names."""
Say = Callable[[str], None]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other removals and compactions out of a folder of shards.

    Raises:
        DataError: one is at work there, or the folder cannot be written.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for pattern in _HALF_WRITTEN:
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        if not (folder / PENDING).exists():  # rows without it mean nothing
            (folder / ROWS).unlink(missing_ok=True)
        yield
    except BlockingIOError:
        raise DataError(f"{folder}: another removal is at work here; wait for its end") from None
    finally:
        os.close(descriptor)


def end_token(catalogue: Catalogue) -> int:
    """The id of the end token, from the tokenizer beside the catalogue.

    Raises:
        DataError: the tokenizer is missing or has none.
    """
    path = catalogue.tokenizer_path
    found = read_json(path)
    if found is None:
        raise DataError(
            f"{path}: the tokenizer is missing or unreadable, and it says which token a blank is; "
            f"put it back, or give its number with --end-token"
        )
    for added in found.get("added_tokens") or ():
        if added.get("content") == END:
            return int(added["id"])
    vocabulary = (found.get("model") or {}).get("vocab")
    if isinstance(vocabulary, dict) and END in vocabulary:
        return int(vocabulary[END])
    raise DataError(f"{path}: has no token {END}; give the number of a blank with --end-token")


@dataclass(frozen=True)
class Request:
    """What was asked for, and by whom; kept in the log."""

    kind: str
    values: tuple[str, ...]
    who: str
    why: str
    not_found: tuple[str, ...] = ()
    """Ids that were asked for and are not here."""


def begin(catalogue: Catalogue, chosen: Chosen, end: int, request: Request) -> None:
    """Note what is to be removed; `complete` does it. Call it `alone`.

    Args:
        catalogue: of the shards.
        chosen: documents that are not removed yet.
        end: the token that a blank is.
        request: for the log.

    Raises:
        DataError: a token that does not fit, not enough room for a copy of the largest shard, or
            the file system refuses.
    """
    folder = catalogue.folder
    most = min(int(np.iinfo(catalogue.shards[shard].dtype).max) for shard in chosen)
    if not 0 <= end <= most:
        raise DataError(f"--end-token {end}: a token of these shards lies from 0 to {most}")
    largest = max(catalogue.shards[shard].bytes for shard in chosen)
    free = shutil.disk_usage(folder).free
    if free < largest + BLOCK_BYTES:
        raise DataError(
            f"{folder}: {free / 1e6:,.0f} MB are free, and a copy of a shard needs "
            f"{largest / 1e6:,.0f} MB; nothing was changed"
        )
    try:
        rows = {catalogue.shards[shard].file: rows.tolist() for shard, rows in chosen.items()}
        write_text(folder / ROWS, json.dumps(rows))
        pending = {
            "number": catalogue.removals + 1,
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "who": request.who,
            "why": request.why,
            "selector": {request.kind: list(request.values)},
            "not_found": list(request.not_found),
            "end": end,
            "before": catalogue.content,
            "new": {},
        }
        write_json(folder / PENDING, pending)
        _flush(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error}); nothing was changed") from None


def complete(folder: Path, say: Say) -> dict[str, Any] | None:
    """Do what is pending in a folder of shards; call it `alone`.

    Returns:
        The line of the log; None where nothing was pending.

    Raises:
        DataError: the file system refuses, or a file of the removal is damaged; what is done is
            kept, and another call goes on.
        ShardError: a shard is damaged; it is not changed. The removal stays pending where another
            shard has been changed already, else it is given up.
    """
    if not (folder / PENDING).exists():
        return None
    pending, chosen = read_json(folder / PENDING), read_json(folder / ROWS)
    if pending is None or chosen is None:
        raise DataError(f"{folder / PENDING}: not readable, nor is what it would remove")
    catalogue = Catalogue.load(folder)
    number = int(pending["number"])
    try:
        if catalogue.removals < number:
            for info in catalogue.shards:
                if info.file in chosen:
                    rows = np.array(chosen[info.file], np.int64)
                    _shard(folder, info, rows, pending, say)
            _finish(catalogue, pending, chosen)
        following = folder / f"{removal_log.NAME}.next"
        if following.exists():
            following.replace(folder / removal_log.NAME)
            _flush(folder)
        _forget(folder)
    except ShardError:
        if not pending["new"]:
            _forget(folder)
        raise
    except OSError as error:
        raise DataError(
            f"{folder}: the removal stopped half-way ({error}): every shard is whole, old or new; "
            f"make room and run `alpenglow data remove {folder}` to complete it"
        ) from None
    return list(removal_log.entries(folder))[number - 1]


def _forget(folder: Path) -> None:
    (folder / PENDING).unlink()
    (folder / ROWS).unlink(missing_ok=True)


def _shard(
    folder: Path, info: ShardInfo, rows: NDArray[np.int64], pending: dict[str, Any], say: Say
) -> None:
    """Blank rows of one shard; one that is done already stays."""
    path, number = folder / info.file, int(pending["number"])
    done = Shard(path)
    if int(done.attributes.get("removals", 0)) >= number and info.file in pending["new"]:
        return
    beside = folder / f".{info.file}.removal"
    try:
        whole = file_hash(path, copy_to=beside)
        if info.file_hash and whole != info.file_hash:
            raise ShardError(
                f"{path}: damaged: it does not have its checksum, and was not changed; `alpenglow "
                f"data verify {folder}` says where"
            )
        blank(beside, path, rows, int(pending["end"]), number)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        changed = Shard(beside)
        removed = changed.removed
        new = dataclasses.replace(
            info,
            bytes=beside.stat().st_size,
            content=content_hash(changed.checksums),
            removed=0 if removed is None else int(removed.sum()),
            file_hash=file_hash(beside),
            documents_hash=documents_hash(beside),
        )
        pending["new"][info.file] = dataclasses.asdict(new)
        write_json(folder / PENDING, pending)
        beside.replace(path)
        _flush(folder)
    finally:
        beside.unlink(missing_ok=True)
    say(f"{path}: {len(rows)} documents blanked")


def blank(path: Path, name: Path, rows: NDArray[np.int64], end: int, number: int) -> None:
    """Blank documents of a shard that nobody reads yet, and bring its checksums up to date.

    Args:
        path: the file to change.
        name: of the shard, for sentences.
        rows: documents, ascending.
        end: the token that a blank is.
        number: of the removal.

    Raises:
        ShardError: a block that would be changed does not have its checksum.
        OSError: the file system refuses.
    """
    with h5py.File(path, "r+", libver="latest") as file:
        starts = np.asarray(file["documents/offset"]).astype(np.int64)
        tokens, checksums = file["tokens"], file["checksums"]
        each = BLOCK_BYTES // tokens.dtype.itemsize
        begins, ends = starts[rows], starts[rows + 1]
        touched = {
            block
            for first, last in zip(begins.tolist(), ends.tolist(), strict=True)
            for block in range(first // each, -(-last // each))
            if first < last
        }
        for block in sorted(touched):
            at = block * each
            values = np.asarray(tokens[at : at + each])
            if checksum(values)[0] != checksums[block]:
                raise ShardError(
                    f"{name}: MiB block {block} of its tokens does not have its checksum; the "
                    f"shard was not changed"
                )
            inside = slice(
                np.searchsorted(ends, at, "right"), np.searchsorted(begins, at + each, "left")
            )
            pairs = zip(begins[inside].tolist(), ends[inside].tolist(), strict=True)
            for first, last in pairs:
                values[max(0, first - at) : max(0, last - at)] = end
            tokens[at : at + len(values)] = values
            checksums[block] = checksum(values)[0]
        if "removed" not in file["documents"]:
            file.create_dataset("documents/removed", data=np.zeros(len(starts) - 1, np.uint8))
        removed = np.asarray(file["documents/removed"])
        removed[rows] = 1
        file["documents/removed"][:] = removed
        file.attrs["removals"] = number


def _finish(catalogue: Catalogue, pending: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Write the next log and the catalogue that goes with it."""
    folder, number = catalogue.folder, int(pending["number"])
    shards = tuple(
        ShardInfo(**pending["new"][info.file]) if info.file in chosen else info
        for info in catalogue.shards
    )
    ids: list[str] = []
    tokens = 0
    for file, rows in chosen.items():
        shard = Shard(folder / file)
        known, starts = shard.identities(), shard.document_starts.astype(np.int64)
        ids += [known[row].hex() for row in rows]
        tokens += int((starts[np.array(rows) + 1] - starts[rows]).sum())
    fields = {
        **{key: pending[key] for key in ("number", "when", "who", "why", "selector")},
        "documents": ids,
        "not_found": pending["not_found"],
        "tokens": tokens,
        "files": list(chosen),
        "before": pending["before"],
    }
    log = folder / removal_log.NAME
    former = log.read_text(encoding="utf-8") if number > 1 else ""
    new = dataclasses.replace(
        catalogue,
        shards=shards,
        removals=number,
        removals_hash=removal_log.chain(catalogue.removals_hash, fields),
    )
    text = former + removal_log.line(fields, new.content)
    write_text(folder / f"{removal_log.NAME}.next", text)
    new.write()
    _flush(folder)


def _flush(folder: Path) -> None:
    """Make renames in a folder lasting."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
