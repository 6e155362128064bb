"""What a rank can spend its time on, and the rows that say so.

A `ROW` is one span of one rank; a `SUM` is what a rank spent on one kind in one step. Both are the
layout in memory and the layout in the log.
"""

from __future__ import annotations

import enum
import struct

import numpy as np
import numpy.typing as npt


class Kind(enum.IntEnum):
    """The kind of a span. The numbers are on disk: never change or reuse one."""

    STARTUP = 1
    """From the start of the process to the first step."""
    RESTART = 2
    """Reading a checkpoint to go on from."""
    DATA_WAIT = 3
    """Waiting for the next micro-batch of tokens."""
    FORWARD = 4
    """Forward pass of one micro-batch through one stage."""
    RECOMPUTE = 5
    """Forward pass done again because activations were not kept."""
    BACKWARD = 6
    """Backward pass of one micro-batch (both gradients, or the input's alone)."""
    WEIGHT_GRAD = 7
    """Weight gradient where the schedule separates it from the backward pass."""
    P2P = 8
    """Sending to or receiving from a neighbouring pipeline stage, waiting included. `group` says
    what moves: `ACTIVATION` from the lower stage to the higher, `GRADIENT` from the higher to the
    lower; -1 in runs recorded before it was told."""
    TENSOR_REDUCE = 9
    """A collective of the tensor-parallel group, usually inside forward or backward."""
    GRADIENT_REDUCE = 10
    """Reduction of gradients over the data-parallel group (tied weights too)."""
    OPTIMIZER = 11
    """Optimizer step, with the gathering of updated weights under ZeRO."""
    CHECKPOINT = 12
    """The part of a checkpoint that keeps the rank from training."""
    DRAIN = 13
    """Copying a checkpoint to durable storage; it may run beside training."""
    EVALUATE = 14
    """Validation during a run."""
    STEP = 15
    """One whole training step; the other kinds lie inside it."""

    @property
    def label(self) -> str:
        """The kind's name as written in formats and reports, such as `data_wait`."""
        return self.name.lower()


ACTIVATION, GRADIENT = 0, 1
"""`group` of a P2P row. With `peer` it tells which end sends."""

OUTER = frozenset(
    {Kind.STARTUP, Kind.RESTART, Kind.CHECKPOINT, Kind.DRAIN, Kind.EVALUATE, Kind.STEP}
)
"""Kinds whose every span is kept. The others lie inside a step: their sums are kept for every
step, their spans for some."""

ROW: np.dtype[np.void] = np.dtype(
    [
        ("rank", "<u4"),
        ("step", "<u4"),
        ("kind", "u1"),
        ("micro_batch", "<i2"),
        ("begin_ns", "<i8"),
        ("end_ns", "<i8"),
        ("bytes", "<i8"),
        ("group", "<i2"),
        ("peer", "<i4"),
    ]
)
"""One span, 41 bytes, little-endian. -1 says 'none' in micro_batch, bytes, group and peer; `group`
is the number of the tensor-parallel group, in P2P rows what moves."""

# The same 41 bytes for `struct`, which writes a row three times as fast as a numpy assignment.
PACKED = struct.Struct("<IIBhqqqhi")

Rows = npt.NDArray[np.void]
"""A one-dimensional array of dtype `ROW`."""

SUM: np.dtype[np.void] = np.dtype(
    [
        ("rank", "<u4"),
        ("step", "<u4"),
        ("kind", "u1"),
        ("count", "<u4"),
        ("own_ns", "<i8"),
        ("bytes", "<i8"),
    ]
)
"""What a rank spent on one kind in one step, 29 bytes: spans, ns in which none of them had another
span open inside it, bytes where they are known. STEP's `own_ns` is the time in no other span."""

SUM_PACKED = struct.Struct("<IIBIqq")

Sums = npt.NDArray[np.void]
"""A one-dimensional array of dtype `SUM`."""
