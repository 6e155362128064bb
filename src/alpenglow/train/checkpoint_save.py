"""Writing a checkpoint: all ranks together, one container a node, the manifest last.

This module is imported, never started.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alpenglow.train.checkpoint_group import Group
from alpenglow.train.checkpoint_manifest import listed, remove_unlisted, write_manifest
from alpenglow.train.fragments import (
    HEADER,
    CheckpointError,
    Fragment,
    Stored,
    aligned,
    encode,
    write_fragment,
    write_index,
)

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class CheckpointInfo:
    """What `save` wrote."""

    directory: Path
    step: int
    nbytes: int
    """Size of all containers."""
    containers: int
    seconds: float
    """Wall time of this rank inside `save`."""


def save(
    directory: Path,
    fragments: Sequence[tuple[Fragment, torch.Tensor]],
    *,
    step: int,
    state: Mapping[str, Any],
    group: Group,
) -> CheckpointInfo:
    """Write a checkpoint; collective: every rank of the group calls it with its own fragments.

    Ranks of one node write one container at offsets agreed by a gather; the node's first rank
    closes it; rank 0 renames the manifest into place when every container is on disk. A crash or an
    error at any point leaves what was there before: no checkpoint, or the step's former one, whole
    (its containers have other names, and the manifest's rename is the one moment of change).

    Args:
        directory: the step's own folder (`step_directory`); made if absent.
        fragments: this rank's fragments with their tensors (any device; moved to the CPU one by
            one). A replicated tensor is given by one rank only; equal copies do no
            harm but take room.
        step: optimizer steps done.
        state: JSON-able; rank 0's is stored.
        group: the ranks.

    Raises:
        CheckpointError: on every rank alike, when any rank could not write.
    """
    begin = time.monotonic()
    try:
        entries = _save(directory, fragments, step, state, group)
    except CheckpointError:
        if group.rank == 0:
            # Everyone has stopped writing; a full disk must not stay full of what nobody will read.
            with contextlib.suppress(OSError):
                remove_unlisted(directory, listed(directory))
        raise
    nbytes = sum(int(entry["bytes"]) for entry in entries)
    return CheckpointInfo(directory, step, nbytes, len(entries), time.monotonic() - begin)


def _save(
    directory: Path,
    fragments: Sequence[tuple[Fragment, torch.Tensor]],
    step: int,
    state: Mapping[str, Any],
    group: Group,
) -> list[dict[str, Any]]:
    generation = _together(group, lambda: _prepare(directory, group) if group.rank == 0 else 0)[0]
    total = sum(aligned(fragment.nbytes) for fragment, _ in fragments)
    members = [
        (rank, nbytes)
        for rank, (node, nbytes) in enumerate(group.all_gather_object((group.node, total)))
        if node == group.node
    ]
    container = (
        f"{group.node}.fragments" if not generation else f"{group.node}.{generation}.fragments"
    )
    temporary = directory / f"{container}.tmp"
    start = len(HEADER) + sum(nbytes for rank, nbytes in members if rank < group.rank)
    lines = _together(group, lambda: _write_own(temporary, container, start, fragments))
    first = group.rank == members[0][0]
    end = len(HEADER) + sum(nbytes for _, nbytes in members)
    own_lines = [lines[rank] for rank, _ in members]
    closed = _together(
        group, lambda: _close(temporary, container, end, own_lines, len(members)) if first else None
    )
    entries = [entry for entry in closed if entry is not None]
    _together(
        group,
        lambda: write_manifest(directory, step, state, entries) if group.rank == 0 else None,
    )
    return entries


def _together(group: Group, act: Callable[[], Any]) -> list[Any]:
    """Run `act` on every rank and gather the results; if it failed anywhere, fail everywhere."""
    try:
        outcome: tuple[Any, str | None] = (act(), None)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        outcome = (None, f"rank {group.rank} on {group.node}: {error}")
    outcomes = group.all_gather_object(outcome)
    failures = [failure for _, failure in outcomes if failure is not None]
    if failures:
        more = f" (and {len(failures) - 1} ranks more)" if len(failures) > 1 else ""
        raise CheckpointError(f"the checkpoint was not written: {failures[0]}{more}")
    return [result for result, _ in outcomes]


def _prepare(directory: Path, group: Group) -> int:
    """Make the folder, clear a crashed save's leftovers; returns the containers' generation."""
    if not _NODE.fullmatch(group.node):
        raise CheckpointError(f"node name {group.node!r} cannot name a file")
    directory.mkdir(parents=True, exist_ok=True)
    present = listed(directory)
    remove_unlisted(directory, present)
    # A former checkpoint of this step stays whole until the new manifest names other files.
    return 1 + max(_generation(file) for file in present) if present else 0


def _generation(file: str) -> int:
    found = re.fullmatch(r".+\.(\d+)\.fragments", file)
    return int(found.group(1)) if found else 0


def _write_own(
    path: Path, container: str, start: int, fragments: Sequence[tuple[Fragment, torch.Tensor]]
) -> bytes:
    stored, offset = [], start
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for fragment, tensor in fragments:
            xxh3 = write_fragment(descriptor, offset, fragment, tensor)
            stored.append(Stored(fragment, container, offset, xxh3))
            offset += aligned(fragment.nbytes)
        os.fsync(descriptor)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    finally:
        os.close(descriptor)
    return encode(stored)


def _close(
    temporary: Path, container: str, end: int, lines: Sequence[bytes], ranks: int
) -> dict[str, Any]:
    descriptor = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
    try:
        size, digest = write_index(descriptor, end, lines)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(temporary.with_name(container))
    return {"file": container, "bytes": size, "index_xxh3": digest, "ranks": ranks}
