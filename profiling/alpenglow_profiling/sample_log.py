"""The running log of a node's samples: checksummed blocks, readable to the last whole one.

    samples/SEGMENT/NODE.log

The blocks are those of `alpenglow_profiling.log`, with kinds of their own: JSON about the node
(first in the file), rows, and notes (JSON, a list of sentences). A kill loses what was not yet
written, and no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alpenglow_profiling.blocks import HEADER_BYTES, clock_pair, encode, read_blocks

FORMAT_VERSION = 1
HOST = -1
"""The device number of the node itself."""
ABOUT, SAMPLES, NOTES = 16, 17, 18

SAMPLE: np.dtype[np.void] = np.dtype(
    [
        ("device", "<i2"),
        ("monotonic_ns", "<i8"),
        ("wall_ns", "<i8"),
        ("utilisation", "<f4"),
        ("power_w", "<f4"),
        ("energy_j", "<f8"),
        ("sm_clock_hz", "<f4"),
        ("memory_clock_hz", "<f4"),
        ("memory_bytes", "<f8"),
        ("temperature_c", "<f4"),
        ("throttle", "<i8"),
        ("cpu_busy", "<f4"),
        ("load", "<f4"),
        ("rss_bytes", "<f8"),
        ("cpu_clock_hz", "<f4"),
    ]
)
"""One device at one moment; what is not known is nan (`throttle`: -1), never 0. The fields are
explained in `alpenglow_profiling.samples`."""

UNKNOWN = np.array(
    [tuple(-1 if np.issubdtype(SAMPLE[n], np.integer) else np.nan for n in SAMPLE.names or ())],
    SAMPLE,
)
"""A row of which nothing is known."""


class SampleLogError(ValueError):
    """A log that holds nothing usable; the message is one sentence."""


@dataclass(frozen=True)
class About:
    """Who was sampled, and how."""

    node: str
    segment: str
    period_s: float
    """Seconds between two samples, as asked for."""
    cpus: int
    devices: tuple[dict[str, Any], ...] = ()
    """index, name and uuid of each GPU."""

    @classmethod
    def of_json(cls, text: str | bytes) -> About:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else, or of another version.
        """
        told = json.loads(text)
        version = told.get("format_version") if isinstance(told, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, this code reads {FORMAT_VERSION}")
        try:
            node, segment = str(told["node"]), str(told["segment"])
            period, cpus = float(told["period_s"]), int(told["cpus"])
            return cls(node, segment, period, cpus, tuple(dict(d) for d in told["devices"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"it does not say its {error}") from None

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps({"format_version": FORMAT_VERSION, **vars(self)})


@dataclass(frozen=True)
class SampleLog:
    """What a node's log gave back."""

    about: About
    rows: np.ndarray[Any, np.dtype[np.void]]
    """dtype `SAMPLE`, in the order of writing."""
    notes: tuple[str, ...]
    """What could not be sampled, a sentence each."""
    size: int
    """Bytes of the file when it was read."""
    unread: int
    """Bytes that belong to no whole block."""


class SampleLogFile:
    """Appends blocks to a node's log.

    Args:
        path: the log; a second start in one segment is appended to the first.
        about: who is sampled.

    Raises:
        OSError: the log cannot be made or written to.
    """

    def __init__(self, path: Path, about: About) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._write(about.to_json().encode(), ABOUT)
        except OSError:
            os.close(self._file)
            raise

    def write(self, rows: np.ndarray[Any, np.dtype[np.void]]) -> None:
        """Append rows of dtype `SAMPLE` as one block."""
        if len(rows):
            self._write(rows.tobytes(), SAMPLES)

    def note(self, sentences: Sequence[str]) -> None:
        """Append what is to be said of this node's samples."""
        if sentences:
            self._write(json.dumps(list(sentences)).encode(), NOTES)

    def close(self, *, sync: bool = True) -> None:
        """Sync to disk and close."""
        if sync:
            os.fsync(self._file)
        os.close(self._file)

    def _write(self, payload: bytes, kind: int) -> None:
        view = memoryview(encode(payload, kind, *clock_pair()))
        while view:
            view = view[os.write(self._file, view) :]


def read_sample_log(path: Path) -> SampleLog:
    """Read a log to its last whole block.

    Raises:
        FileNotFoundError: it is gone (its node has just made it into HDF5).
        SampleLogError: it cannot be read, or no block in it says which node wrote it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SampleLogError(f"{path}: cannot be read: {error.strerror}") from None
    about: About | None = None
    parts: list[bytes] = []
    notes: list[str] = []
    blocks, unread = read_blocks(data)
    for block in blocks:
        kind, payload = block.kind, bytes(block.payload)
        if kind == ABOUT:
            try:
                about = About.of_json(payload)
            except ValueError as error:
                raise SampleLogError(f"{path}: not a log of samples: {error}") from None
        elif kind == NOTES:
            notes.extend(str(note) for note in json.loads(payload))
        elif kind == SAMPLES and len(payload) % SAMPLE.itemsize == 0:
            parts.append(payload)
        else:
            unread += HEADER_BYTES + len(payload)
    if about is None:
        raise SampleLogError(
            f"{path}: no whole block, {len(data)} bytes: nothing of this node is known"
        )
    rows = np.frombuffer(b"".join(parts), dtype=SAMPLE)
    return SampleLog(about, rows, tuple(dict.fromkeys(notes)), len(data), unread)
