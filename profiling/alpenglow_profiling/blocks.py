"""Checksummed blocks, of which logs are made: what is damaged costs only itself.

block  = header | payload
header = magic "AGEV" | type u16 | version u16 | payload bytes u32 | monotonic_ns i64 |
wall_ns i64 | xxh3-64 over the header before this field and the payload
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

import xxhash

MAGIC = b"AGEV"
VERSION = 1
_HEAD = struct.Struct("<4sHHIqq")
_CHECK = struct.Struct("<Q")
HEADER_BYTES = _HEAD.size + _CHECK.size


@dataclass(frozen=True)
class Block:
    """One whole block."""

    kind: int
    payload: memoryview
    clock: tuple[int, int]
    """(CLOCK_MONOTONIC, wall clock) in ns when it was written."""


def encode(payload: bytes, kind: int, monotonic_ns: int, wall_ns: int) -> bytes:
    """One block, ready to be appended."""
    head = _HEAD.pack(MAGIC, kind, VERSION, len(payload), monotonic_ns, wall_ns)
    return head + _CHECK.pack(xxhash.xxh3_64_intdigest(head + payload)) + payload


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


def read_blocks(data: bytes) -> tuple[list[Block], int]:
    """Every whole block, and the bytes that belong to none."""
    found: list[Block] = []
    view, position, unread = memoryview(data), 0, 0
    while position < len(data):
        block = block_at(view, position)
        if block is None:
            following = data.find(MAGIC, position + 1)
            following = len(data) if following < 0 else following
            unread += following - position
            position = following
            continue
        position += HEADER_BYTES + len(block.payload)
        found.append(block)
    return found, unread


def block_at(data: bytes | memoryview, position: int) -> Block | None:
    """The block that begins at a byte; None where no whole one does."""
    if position + HEADER_BYTES > len(data):
        return None
    head = data[position : position + _HEAD.size]
    magic, kind, version, length, monotonic, wall = _HEAD.unpack(head)
    start = position + HEADER_BYTES
    if magic != MAGIC or version != VERSION or start + length > len(data):
        return None
    payload = memoryview(data)[start : start + length]
    digest = xxhash.xxh3_64(head)
    digest.update(payload)
    if digest.intdigest() != _CHECK.unpack_from(data, position + _HEAD.size)[0]:
        return None
    return Block(kind, payload, (monotonic, wall))
