"""The manifest of a checkpoint, and the folders that have one.

`manifest.json` says format, step, state, and each container with its size and its sections
(offset, bytes, checksum of the index); it carries a checksum of itself and is renamed into place
last. This module is imported, never started.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from alpenglow.train.fragments import CheckpointError

FORMAT = 2
MANIFEST = "manifest.json"
STEP = re.compile(r"step-(\d{8,})")


def step_directory(checkpoints: Path, step: int) -> Path:
    """`checkpoints/step-00000100` for step 100."""
    return checkpoints / f"step-{step:08d}"


def steps(checkpoints: Path) -> list[int]:
    """Steps that have a manifest (not necessarily a whole checkpoint), ascending."""
    if not checkpoints.is_dir():
        return []
    found = ((p, STEP.fullmatch(p.name)) for p in checkpoints.iterdir())
    return sorted(int(m.group(1)) for p, m in found if m and (p / MANIFEST).is_file())


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read and check a manifest: keys format, step, state, containers.

    Raises:
        CheckpointError: there is none, or it is damaged or of another format.
    """
    path = directory / MANIFEST
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        digest = body.pop("xxh3")
        whole = digest == _digest(body)
    except FileNotFoundError:
        raise CheckpointError(f"{directory}: no {MANIFEST}, so no checkpoint") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: not a manifest ({error})") from None
    if not whole:
        raise CheckpointError(f"{path}: its contents do not have the checksum that it names")
    if body["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {body['format']}, this version reads {FORMAT}")
    return body


def write_manifest(
    directory: Path, step: int, state: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]
) -> None:
    """Rename a manifest into place: this makes the checkpoint. Former containers go afterwards."""
    body = {"format": FORMAT, "step": step, "state": dict(state), "containers": [*containers]}
    text = json.dumps(body | {"xxh3": _digest(body)}, indent=1) + "\n"
    temporary = directory / f"{MANIFEST}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    # The containers' renames must be on disk before the manifest's is.
    _sync(directory)
    temporary.replace(directory / MANIFEST)
    _sync(directory)
    _sync(directory.parent)
    remove_unlisted(directory, [str(entry["file"]) for entry in containers])


def _digest(body: Mapping[str, Any]) -> str:
    """xxh3-64 of the manifest's canonical JSON (sorted keys, no spaces)."""
    plain = json.loads(json.dumps(body))
    return xxhash.xxh3_64_hexdigest(
        json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    )


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def listed(directory: Path) -> list[str]:
    """Container files that the manifest lists; none where it is absent or damaged."""
    try:
        return [str(entry["file"]) for entry in read_manifest(directory)["containers"]]
    except CheckpointError:
        return []


def remove_unlisted(directory: Path, keep: Iterable[str]) -> None:
    """Remove containers and temporary files that no manifest lists."""
    kept = {MANIFEST, *keep}
    for path in directory.iterdir():
        if path.name not in kept and path.name.endswith((".fragments", ".tmp")):
            path.unlink()
