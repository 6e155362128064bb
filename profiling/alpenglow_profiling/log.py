"""The log of one rank: checksummed blocks, readable to the last whole one after a kill.

    type 0  ABOUT: JSON about the rank, first in the file and again where the rank began anew
    type 1  ROWS: spans (`ROW`)
    type 2  STEPS: steps that ended: number of sums u32 | their sums (`SUM`) | their kept spans
    type 3  UNFINISHED: spans of a step that had not ended

The sums of a step and its STEP span stand in one block, so that no cut parts them. Unfinished spans
count unless the same process wrote sums of their step at a later time: then the step ended, and is
there whole or was not to be kept. Those of outer kinds always count. Rows written twice count once.
The reader steps over what is damaged to the next block that is whole, so a log that was cut, and
appended to later, gives back everything but the cut block. The blocks' form stands in `blocks.py`.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from alpenglow_profiling.blocks import (
    HEADER_BYTES,
    Block,
    block_at,
    clock_pair,
    encode,
    read_blocks,
)
from alpenglow_profiling.kind import OUTER, ROW, SUM, Kind, Rows, Sums
from alpenglow_profiling.self_time import sums

ABOUT, ROWS, STEPS, UNFINISHED = 0, 1, 2, 3
_COUNT = struct.Struct("<I")
_TAIL_BYTES = 1 << 12


class LogError(ValueError):
    """A log that holds nothing usable; the message is one sentence."""


@dataclass(frozen=True)
class State:
    """What tells whether a log has changed: it may have been written over and be as long."""

    size: int
    tail: int
    """xxh3-64 of its last 4 KiB."""

    @classmethod
    def of(cls, size: int, end: bytes) -> State:
        """From its size and its last bytes."""
        return cls(size, xxhash.xxh3_64_intdigest(end[-_TAIL_BYTES:]))


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
    state: State
    """Of the file when it was read."""
    unread: int
    """Bytes that belong to no whole block."""
    sample_every: int
    """Full spans are kept of each step whose number this divides; 1 is every step."""


def encode_steps(sums: bytes, spans: bytes, monotonic_ns: int, wall_ns: int) -> bytes:
    """The block of steps that ended, from packed `SUM` and `ROW` rows."""
    count = _COUNT.pack(len(sums) // SUM.itemsize)
    return encode(count + sums + spans, STEPS, monotonic_ns, wall_ns)


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


def read_about(path: Path) -> tuple[str, State] | None:
    """Node and state of a log from its ends alone; None where its first block is not whole.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        state = State.of(size, file.read(size))
        file.seek(0)
        block = block_at(file.read(1 << 14), 0)
    if block is None or block.kind != ABOUT:
        return None
    return str(json.loads(bytes(block.payload))["node"]), state


def read_log(path: Path) -> Log:
    """Read a log to its last whole block.

    Raises:
        LogError: it cannot be read, or no block in it says which rank wrote it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror}") from None
    blocks, unread = read_blocks(data)
    unread += sum(HEADER_BYTES + len(each.payload) for each in blocks if not fits(each))
    blocks = [each for each in blocks if fits(each)]
    about: dict[str, Any] | None = None
    settled, unfinished = [np.empty(0, ROW)], [np.empty(0, ROW)]
    told = [np.empty(0, SUM)]
    for process in _processes(blocks):
        ended: list[tuple[int, Sums]] = []
        for block in process:
            if block.kind == ABOUT:
                about = json.loads(bytes(block.payload))
            elif block.kind == ROWS:
                settled.append(np.frombuffer(block.payload, ROW))
            elif block.kind == STEPS:
                sums_of, rows_of = decode_steps(block.payload)
                told.append(sums_of)
                settled.append(rows_of)
                ended.append((block.clock[0], sums_of))
        for block in process:
            if block.kind == UNFINISHED:
                later = [part["step"] for when, part in ended if when > block.clock[0]]
                unfinished.append(_counting(np.frombuffer(block.payload, ROW), later))
    if about is None:
        raise LogError(f"{path}: no whole block, {len(data)} bytes: nothing of this rank is known")
    sums_told = np.concatenate(told)
    rows = _once(np.concatenate(settled), np.concatenate(unfinished))
    untold = rows[~np.isin(rows["step"], sums_told["step"]) | np.isin(rows["kind"], _NO_SUM)]
    found = np.concatenate([sums_told, sums(untold)])
    state = State.of(len(data), data)
    clock = np.array([block.clock for block in blocks], dtype=np.int64).reshape(-1, 2)
    rank, node, world = int(about["rank"]), str(about["node"]), int(about["world_size"])
    every = int(about.get("sample_every", 1))
    return Log(path, rank, node, world, rows, found, clock, state, unread, every)


_OUTER = [int(kind) for kind in OUTER]
_NO_SUM = [int(kind) for kind in OUTER - {Kind.STEP}]


def _processes(blocks: list[Block]) -> list[list[Block]]:
    """The blocks by the process that wrote them: each began with a block about the rank."""
    found: list[list[Block]] = [[]]
    for block in blocks:
        if block.kind == ABOUT and found[-1]:
            found.append([])
        found[-1].append(block)
    return found


def _counting(rows: Rows, ended: list[np.ndarray[Any, Any]]) -> Rows:
    """Of unfinished spans those that count: their step has not ended since, or they are outer."""
    gone = np.isin(rows["step"], np.concatenate([np.empty(0, np.uint32), *ended]))
    return rows[~gone | np.isin(rows["kind"], _OUTER)]


def _once(rows: Rows, unfinished: Rows) -> Rows:
    """All rows: of the unfinished steps some may have been written again and again."""
    if not len(unfinished):
        return rows
    again = np.isin(rows["step"], unfinished["step"])
    return np.concatenate([rows[~again], np.unique(np.concatenate([rows[again], unfinished]))])


def decode_steps(payload: memoryview) -> tuple[Sums, Rows]:
    """Sums and spans of the payload of a STEPS block."""
    (count,) = _COUNT.unpack_from(payload)
    start = _COUNT.size + count * SUM.itemsize
    sums_of = np.frombuffer(payload[_COUNT.size : start], SUM)
    return sums_of, np.frombuffer(payload[start:], ROW)


def fits(block: Block) -> bool:
    """Whether a payload has a length that a block of its type can have."""
    size = len(block.payload)
    if block.kind == STEPS:
        if size < _COUNT.size:
            return False
        count: int = _COUNT.unpack_from(block.payload)[0]
        rest = size - _COUNT.size - count * SUM.itemsize
        return rest >= 0 and rest % ROW.itemsize == 0
    return block.kind not in (ROWS, UNFINISHED) or size % ROW.itemsize == 0
