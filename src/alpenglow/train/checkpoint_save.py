"""Writing a checkpoint in the foreground: all ranks together, one container a node.

A training run saves in the background instead (`alpenglow.train.saver`); the files are the same.
This module is imported, never started.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from alpenglow.train.checkpoint_commit import check_node, clear, commit, container_name, prepare
from alpenglow.train.checkpoint_group import Group
from alpenglow.train.checkpoint_section import Image, Place, write_section
from alpenglow.train.fragments import CheckpointError, Fragment

T = TypeVar("T")


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

    Ranks of one node write one container, each a section at its own place; rank 0 renames the
    manifest into place when every section is on disk. A crash or an error at any point leaves what
    was there before: no checkpoint, or the step's former one, whole (its containers have other
    names, and the manifest's rename is the one moment of change).

    Args:
        directory: the step's own folder (`step_directory`); made if absent.
        fragments: this rank's fragments with their tensors, any device; they are copied once into
            host memory. A replicated tensor is given by one rank only; equal copies do no harm but
            take room.
        step: optimizer steps done.
        state: JSON-able; rank 0's is stored.
        group: the ranks.

    Raises:
        CheckpointError: on every rank alike, when any rank could not write.
    """
    begin = time.monotonic()
    first = group.rank == 0

    def taken() -> tuple[Image, int]:
        check_node(group.node)
        image = Image([fragment for fragment, _ in fragments])
        image.take([tensor for _, tensor in fragments])
        image.seal()
        return image, prepare(directory) if first else 0

    try:
        image, generation = together(group, taken)
        (generation,) = group.all_reduce_max([generation])
        places = Place.of(group.all_gather_object((group.node, image.section.nbytes)))
        place = places[group.rank]
        path = directory / container_name(place.container, generation)
        together(group, lambda: write_section(path, image.bytes, place.offset))
        nbytes = together(
            group, lambda: commit(directory, step, state, places, generation) if first else 0
        )
        (nbytes,) = group.all_reduce_max([nbytes])
    except CheckpointError:
        if first:
            # Everyone has stopped writing; a full disk must not stay full of what nobody will read.
            clear(directory)
        raise
    containers = len({place.container for place in places})
    return CheckpointInfo(directory, step, nbytes, containers, time.monotonic() - begin)


def together(group: Group, act: Callable[[], T]) -> T:
    """Run `act` on every rank and return its result; if it failed anywhere, fail everywhere.

    Raises:
        CheckpointError: on every rank alike, with the sentence of the first rank that failed.
    """
    result: T | None = None
    failure: str | None = None
    try:
        result = act()
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        failure = f"rank {group.rank} on {group.node}: {error}"
    failures = [text for text in group.all_gather_object(failure) if text is not None]
    if failures:
        raise CheckpointError(f"the checkpoint was not written: {one_of(failures)}")
    return result  # type: ignore[return-value]


def one_of(failures: Sequence[str]) -> str:
    """The first failure, and how many more there are."""
    more = f" (and {len(failures) - 1} ranks more)" if len(failures) > 1 else ""
    return f"{failures[0]}{more}"
