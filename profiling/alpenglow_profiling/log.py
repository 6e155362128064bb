"""The log of one rank: checksummed blocks, readable to the last whole one after a kill.

    block  = header | payload
    header = magic "AGEV" | type u16 | version u16 | payload bytes u32 | monotonic_ns i64 |
             wall_ns i64 | xxh3-64 over the header before this field and the payload

A block of type 0 is JSON about the rank (first in the file), one of type 1 holds spans (`ROW`), one
of type 2 sums (`SUM`). One of type 3 holds spans of a step that had not ended: they count unless
the log has sums of that step, which say that it ended and was not kept, or has been written whole.
The reader steps over what is damaged to the next block that is whole, so a log that was cut, and
appended to later, gives back everything but the cut block.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from alpenglow_profiling.kind import OUTER, ROW, SUM, Kind, Rows, Sums
from alpenglow_profiling.self_time import Times, sums

MAGIC = b"AGEV"
VERSION = 1
ABOUT, ROWS, SUMS, UNFINISHED = 0, 1, 2, 3
_HEAD = struct.Struct("<4sHHIqq")
_SUM = struct.Struct("<Q")
HEADER_BYTES = _HEAD.size + _SUM.size


class LogError(ValueError):
    """A log that holds nothing usable; the message is one sentence."""


@dataclass(frozen=True)
class Log:
    """What one rank's log gave back."""

    path: Path
    rank: int
    node: str
    world_size: int
    rows: Rows
    """In the order of writing, times on this node's CLOCK_MONOTONIC in ns."""
    sums: Sums
    """Of every step that ended, and of what spans tell of the others."""
    clock: np.ndarray[Any, np.dtype[np.int64]]
    """Shape [blocks, 2]: (monotonic_ns, wall_ns), read together at each flush."""
    size: int
    """Bytes of the file when it was read."""
    unread: int
    """Bytes that belong to no whole block."""
    sample_every: int
    """Full spans are kept of each step whose number this divides; 1 is every step."""


def encode(payload: bytes, kind: int, monotonic_ns: int, wall_ns: int) -> bytes:
    """One block, ready to be appended."""
    head = _HEAD.pack(MAGIC, kind, VERSION, len(payload), monotonic_ns, wall_ns)
    return head + _SUM.pack(xxhash.xxh3_64_intdigest(head + payload)) + payload


def encode_about(
    rank: int,
    node: str,
    world_size: int,
    clock: tuple[int, int] | None = None,
    sample_every: int = 1,
) -> bytes:
    """The block that opens a log and says whose it is; `clock` as of `clock_pair`, now if None."""
    about = {"rank": rank, "node": node, "world_size": world_size, "sample_every": sample_every}
    return encode(json.dumps(about).encode(), ABOUT, *(clock or clock_pair()))


def clock_pair() -> tuple[int, int]:
    """(CLOCK_MONOTONIC, wall clock) in ns, read as closely together as Python can.

    The wall clock is read between two readings of the monotonic one; the closest of three tries
    counts, so that being descheduled in between does not move the rank in time.
    """
    best: tuple[int, int, int] | None = None
    for _ in range(3):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, wall)
    assert best is not None
    return best[1], best[2]


def read_log(path: Path) -> Log:
    """Read a log to its last whole block.

    Raises:
        LogError: it cannot be read, or no block in it says which rank wrote it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror}") from None
    about: dict[str, Any] | None = None
    parts: dict[int, list[bytes]] = {ROWS: [], SUMS: [], UNFINISHED: []}
    pairs: list[tuple[int, int]] = []
    position = unread = 0
    while position < len(data):
        block = _block_at(data, position)
        if block is None:
            following = data.find(MAGIC, position + 1)
            following = len(data) if following < 0 else following
            unread += following - position
            position = following
            continue
        kind, payload, pair = block
        position += HEADER_BYTES + len(payload)
        pairs.append(pair)
        if kind == ABOUT:
            about = json.loads(payload)
        elif kind in parts:
            parts[kind].append(payload)
    if about is None:
        raise LogError(f"{path}: no whole block, {len(data)} bytes: nothing of this rank is known")
    told = np.frombuffer(b"".join(parts[SUMS]), dtype=SUM)
    rows = _with_unfinished(
        np.frombuffer(b"".join(parts[ROWS]), dtype=ROW),
        np.frombuffer(b"".join(parts[UNFINISHED]), dtype=ROW),
        told["step"],
    )
    untold = rows[~np.isin(rows["step"], told["step"]) | np.isin(rows["kind"], _NO_SUM)]
    found = np.concatenate([told, sums(untold)])
    clock = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    rank, node, world = int(about["rank"]), str(about["node"]), int(about["world_size"])
    every = int(about.get("sample_every", 1))
    return Log(path, rank, node, world, rows, found, clock, len(data), unread, every)


_NO_SUM = [int(kind) for kind in OUTER - {Kind.STEP}]


def _with_unfinished(rows: Rows, unfinished: Rows, ended: Times) -> Rows:
    """All spans that count: those of an unfinished step may have been written again and again."""
    unfinished = unfinished[~np.isin(unfinished["step"], ended)]
    if not len(unfinished):
        return rows
    again = np.isin(rows["step"], unfinished["step"])
    return np.concatenate([rows[~again], np.unique(np.concatenate([rows[again], unfinished]))])


def _block_at(data: bytes, position: int) -> tuple[int, bytes, tuple[int, int]] | None:
    if position + HEADER_BYTES > len(data):
        return None
    head = data[position : position + _HEAD.size]
    magic, kind, version, length, monotonic, wall = _HEAD.unpack(head)
    start = position + HEADER_BYTES
    if magic != MAGIC or version != VERSION or start + length > len(data):
        return None
    (checksum,) = _SUM.unpack_from(data, position + _HEAD.size)
    payload = data[start : start + length]
    if xxhash.xxh3_64_intdigest(head + payload) != checksum:
        return None
    size = {ROWS: ROW.itemsize, UNFINISHED: ROW.itemsize, SUMS: SUM.itemsize}.get(kind, 1)
    if length % size:
        return None
    return kind, payload, (monotonic, wall)
