"""What makes a set of sections a checkpoint: the steps before and after the ranks have written.

One process (rank 0) prepares the folder, and when every rank's section is on disk reads back each
index from the file system, writes the manifest and renames it into place; or it clears the room
where a rank could not write. This module is imported, never started.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpenglow.train.checkpoint_manifest import listed, remove_unlisted, write_manifest
from alpenglow.train.checkpoint_section import Place
from alpenglow.train.fragments import CheckpointError, read_index

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_node(node: str) -> None:
    """Refuse a node name that cannot name a file.

    Raises:
        CheckpointError: it holds a slash or begins with a dot, say.
    """
    if not _NODE.fullmatch(node):
        raise CheckpointError(f"node name {node!r} cannot name a file")


def prepare(directory: Path) -> int:
    """Make the folder, clear a cut save's leftovers; returns the containers' generation.

    A former checkpoint of this step stays whole until the new manifest names other files.

    Raises:
        CheckpointError: the file system refuses.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = listed(directory)
        remove_unlisted(directory, present)
    except OSError as error:
        raise CheckpointError(f"{directory}: {error.strerror or error}") from error
    return 1 + max(_generation(file) for file in present) if present else 0


def container_name(node: str, generation: int) -> str:
    """File name of a node's container."""
    return f"{node}.fragments" if not generation else f"{node}.{generation}.fragments"


def commit(
    directory: Path, step: int, state: Mapping[str, Any], places: Sequence[Place], generation: int
) -> int:
    """Make the checkpoint; returns the bytes of its containers.

    Args:
        directory: the step's folder, with every section on disk.
        step: optimizer steps done.
        state: JSON-able.
        places: of all ranks' sections.
        generation: as `prepare` gave it.

    Raises:
        CheckpointError: a section is not as its rank wrote it, or the manifest cannot be written.
    """
    containers: dict[str, list[Place]] = {}
    for place in places:
        containers.setdefault(container_name(place.container, generation), []).append(place)
    entries = []
    for file, parts in containers.items():
        size = max(part.offset + part.nbytes for part in parts)
        _, digests = read_index(
            directory / file, size, [(part.offset, part.nbytes, None) for part in parts]
        )
        sections = [
            {"offset": part.offset, "bytes": part.nbytes, "index_xxh3": digest}
            for part, digest in zip(parts, digests, strict=True)
        ]
        entries.append({"file": file, "bytes": size, "sections": sections})
    try:
        write_manifest(directory, step, state, entries)
    except OSError as error:
        raise CheckpointError(f"{directory}: {error.strerror or error}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}: {error}") from error
    return sum(int(entry["bytes"]) for entry in entries)  # type: ignore[call-overload]


def clear(directory: Path) -> None:
    """Remove what an abandoned save wrote; a former checkpoint of this step stays."""
    with contextlib.suppress(OSError):
        remove_unlisted(directory, listed(directory))
        directory.rmdir()  # refused where a checkpoint is


def _generation(file: str) -> int:
    found = re.fullmatch(r".+\.(\d+)\.fragments", file)
    return int(found.group(1)) if found else 0
