"""A checkpoint written by one process, a section at a time, so that one section is in memory.

This module is imported, never started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from alpenglow.train.checkpoint_commit import clear, commit, container_name, prepare
from alpenglow.train.checkpoint_manifest import step_directory
from alpenglow.train.checkpoint_section import PAGE, Image, Place, write_section
from alpenglow.train.fragments import Fragment

NODE = "imported"


class Writer:
    """Writes `checkpoints/step-N`; it exists after `commit`, and leaves nothing after `clear`.

    Args:
        checkpoints: the run's folder of checkpoints.
        step: optimizer steps done.

    Raises:
        CheckpointError: the file system refuses.
    """

    def __init__(self, checkpoints: Path, step: int) -> None:
        self.directory = step_directory(checkpoints, step)
        self.step = step
        self._generation = prepare(self.directory)
        self._places: list[Place] = []

    def add(self, fragments: Sequence[tuple[Fragment, torch.Tensor]]) -> None:
        """Write one section."""
        image = Image([fragment for fragment, _ in fragments])
        image.take([tensor for _, tensor in fragments])
        image.seal()
        last = self._places[-1] if self._places else Place(NODE, 0, 0)
        offset = -(-(last.offset + last.nbytes) // PAGE) * PAGE
        place = Place(NODE, offset, image.section.nbytes)
        write_section(
            self.directory / container_name(NODE, self._generation), image.bytes, place.offset
        )
        self._places.append(place)

    def commit(self, state: Mapping[str, Any]) -> int:
        """Make the checkpoint; returns its bytes."""
        return commit(self.directory, self.step, state, self._places, self._generation)

    def clear(self) -> None:
        """Remove what was written."""
        clear(self.directory)
        with contextlib.suppress(OSError):
            self.directory.parent.rmdir()  # refused where other checkpoints are
