"""Checkpoints by global tensor name: written by any layout, read by any other.

`checkpoints/step-00000100/` holds one container a node (`NODE.fragments`, see
`alpenglow.train.fragments`) and `manifest.json`, which is renamed into place last: until then there
is no checkpoint. Because fragments say which part of which global tensor they are, a reader asks
for any slice of any tensor and never learns which pipeline, tensor or data parallel degree wrote
it.

    save(folder, [(Fragment.of("weight", name, tensor, global_shape=..., slice=...), tensor)],
         step=100, state={"model": {...}}, group=DistributedGroup(node))
    checkpoint = Checkpoint.newest(run / "checkpoints", log.warning)
    rows = checkpoint.tensor("weight", "embed_in.weight", slice=[(0, 128), (0, 64)])

torch and xxhash are needed, DeepSpeed is not. This module is imported, never started.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from alpenglow.train.checkpoint_group import DistributedGroup, Group, SingleProcess
from alpenglow.train.checkpoint_manifest import MANIFEST, STEP, read_manifest, step_directory, steps
from alpenglow.train.checkpoint_save import CheckpointInfo, save
from alpenglow.train.fragment_read import CHUNK, RowReader, check_bytes, read_shared
from alpenglow.train.fragments import (
    DTYPES,
    Box,
    CheckpointError,
    Fragment,
    Range,
    Stored,
    as_box,
    carrier,
    describe_box,
    dtype_name,
    flat_boxes,
    intersect,
    read_index,
    uncovered,
    volume,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointInfo",
    "DistributedGroup",
    "Fragment",
    "Group",
    "SingleProcess",
    "dtype_name",
    "prune",
    "save",
    "step_directory",
    "steps",
]


class Checkpoint:
    """A checkpoint on disk, addressed by global tensor names; get one by `open` or `newest`."""

    def __init__(
        self, directory: Path, step: int, state: dict[str, Any], stored: Iterable[Stored]
    ) -> None:
        self.directory = directory
        self.step = step
        self.state = state
        self._stored: dict[tuple[str, str], list[Stored]] = {}
        self._checked: set[tuple[str, int]] = set()
        for item in stored:
            group = self._stored.setdefault((item.fragment.kind, item.fragment.name), [])
            one, other = item.fragment, group[0].fragment if group else item.fragment
            if (one.global_shape, one.dtype) != (other.global_shape, other.dtype):
                raise CheckpointError(
                    f"{directory}: fragments of {one.kind} {one.name} disagree: {one.dtype} "
                    f"{one.global_shape} and {other.dtype} {other.global_shape}"
                )
            group.append(item)

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Open one checkpoint: manifest, sizes and indexes are checked, contents as they are read.

        Raises:
            CheckpointError: no checkpoint here, or a damaged one.
        """
        body = read_manifest(directory)
        stored: list[Stored] = []
        for entry in body["containers"]:
            path = directory / Path(str(entry["file"])).name
            sections = [
                (int(part["offset"]), int(part["bytes"]), str(part["index_xxh3"]))
                for part in entry["sections"]
            ]
            stored += read_index(path, int(entry["bytes"]), sections)[0]
        return cls(directory, int(body["step"]), body["state"], stored)

    @classmethod
    def newest(
        cls,
        checkpoints: Path,
        log: Callable[[str], None],
        *,
        group: Group | None = None,
        below: int | None = None,
    ) -> Checkpoint | None:
        """Find the newest whole checkpoint, every byte verified; None if there is none.

        Args:
            checkpoints: the run's folder of checkpoints.
            log: told, on rank 0, one sentence for each damaged checkpoint passed over.
            group: share the verification among these ranks (collective then).
            below: look only at steps below this one.
        """
        group = group or SingleProcess()
        for step in reversed(group.all_gather_object(steps(checkpoints))[0]):
            if below is not None and step >= below:
                continue
            directory = step_directory(checkpoints, step)
            checkpoint = None
            try:
                checkpoint = cls.open(directory)
                damages = checkpoint.verify(part=(group.rank, group.world_size))
            except CheckpointError as error:
                damages = [str(error)]
            found = [damage for some in group.all_gather_object(damages) for damage in some]
            if checkpoint is not None and not found:
                return checkpoint
            if group.rank == 0:
                log(f"checkpoint {directory.name} is damaged and passed over: {found[0]}")
        return None

    def kinds(self) -> list[str]:
        """Kinds present."""
        return sorted({kind for kind, _ in self._stored})

    def names(self, kind: str) -> list[str]:
        """Names of one kind, in the order in which they were written."""
        return [name for k, name in self._stored if k == kind]

    def fragments(self, kind: str, name: str) -> list[Fragment]:
        """The fragments of one tensor, as written."""
        return [item.fragment for item in self._of(kind, name)]

    def shape(self, kind: str, name: str) -> tuple[int, ...]:
        """Global shape."""
        return self._of(kind, name)[0].fragment.global_shape

    def dtype(self, kind: str, name: str) -> torch.dtype:
        """Dtype."""
        return DTYPES[self._of(kind, name)[0].fragment.dtype]

    def tensor(
        self, kind: str, name: str, slice: Sequence[Sequence[int]] | None = None
    ) -> torch.Tensor:
        """Assemble a global tensor, or a box of it, from the fragments that touch it.

        Takes the memory of the result and of one small chunk; each fragment's checksum is verified
        the first time that it is read. Several threads may call it at once.

        Args:
            kind: fragment kind.
            name: global tensor name.
            slice: [start, stop] for each dimension; None is the whole tensor.

        Raises:
            CheckpointError: unknown name, a fragment missing, fragments that overlap without being
                equal, or damaged bytes.
        """
        stored = self._of(kind, name)
        shape = stored[0].fragment.global_shape
        target = tuple((0, n) for n in shape) if slice is None else as_box(slice)
        # A slice outside the tensor is refused by the fragment that it would be.
        Fragment(kind, name, shape, target, None, stored[0].fragment.dtype)
        out = torch.empty([b - a for a, b in target], dtype=self.dtype(kind, name))
        if not out.numel():
            return out
        for item in self._touching(stored, target):
            key = (item.file, item.offset)
            check = key not in self._checked
            read_shared(self.directory / item.file, item, target, out, check=check)
            self._checked.add(key)
        return out

    def rows(self, kind: str, name: str, stop: int | None = None) -> Iterator[torch.Tensor]:
        """The rows of a tensor from the first, some at a time; each is valid until the next.

        Takes the memory of two small chunks, however large the tensor is. Checksums are verified on
        the way, so what has been given is sound only when the iterator ends.

        Args:
            kind: fragment kind.
            name: global tensor name, of at least one dimension.
            stop: rows wanted; None is all.

        Raises:
            CheckpointError: as `tensor`.
        """
        stored = self._of(kind, name)
        shape = stored[0].fragment.global_shape
        target = ((0, shape[0] if stop is None else stop), *((0, n) for n in shape[1:]))
        Fragment(kind, name, shape, target, None, stored[0].fragment.dtype)
        if not volume(target):
            return
        items = self._touching(stored, target)
        keys = [(item.file, item.offset) for item in items]
        readers = [
            RowReader(self.directory / item.file, item, check=key not in self._checked)
            for item, key in zip(items, keys, strict=True)
        ]
        dtype = self.dtype(kind, name)
        step = max(1, CHUNK // (volume(target[1:]) * dtype.itemsize))
        chunk = torch.empty((min(step, target[0][1]), *shape[1:]), dtype=dtype)
        try:
            for start in range(0, target[0][1], step):
                piece = chunk[: target[0][1] - start]
                for reader in readers:
                    reader.read((start, start + len(piece)), carrier(piece))
                yield piece
            for reader in readers:
                reader.finish()
            self._checked.update(keys)
        finally:
            for reader in readers:
                reader.close()

    def flat(
        self, kind: str, name: str, slice: Sequence[Sequence[int]] | None, flat: Range
    ) -> torch.Tensor:
        """Assemble the row-major element range `flat` of a box (None: of the whole tensor), 1-D."""
        shape = self.shape(kind, name)
        box = tuple((0, n) for n in shape) if slice is None else as_box(slice)
        Fragment(kind, name, shape, box, flat, dtype_name(self.dtype(kind, name)))
        pieces = [self.tensor(kind, name, part).reshape(-1) for part in flat_boxes(box, flat)]
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat(pieces) if pieces else torch.empty(0, dtype=self.dtype(kind, name))

    def verify(self, *, part: tuple[int, int] = (0, 1)) -> list[str]:
        """Read fragments and compare checksums, and look for gaps; one sentence for each damage.

        Args:
            part: (index, count): look only at every count-th fragment and tensor, so that ranks
                share the work.
        """
        damages: list[str] = []
        index, count = part
        for i, item in enumerate(item for group in self._stored.values() for item in group):
            if i % count == index:
                try:
                    check_bytes(self.directory / item.file, item)
                    self._checked.add((item.file, item.offset))
                except CheckpointError as error:
                    damages.append(str(error))
        for i, ((kind, name), group) in enumerate(self._stored.items()):
            whole = tuple((0, n) for n in group[0].fragment.global_shape)
            if i % count == index and volume(whole):
                gap, _ = uncovered(whole, [box for it in group for box in it.fragment.boxes()])
                if gap is not None:
                    text = f"fragment of {kind} {name} {describe_box(gap)} missing"
                    damages.append(f"{self.directory}: {text}")
        return damages

    def _touching(self, stored: Sequence[Stored], target: Box) -> list[Stored]:
        """The fragments that make up a box, one of each set of replicas."""
        touching: dict[tuple[Box, ...], Stored] = {}
        for item in stored:
            boxes = tuple(item.fragment.boxes())
            if any(intersect(box, target) is not None for box in boxes):
                touching.setdefault(boxes, item)
        gap, overlap = uncovered(target, [box for boxes in touching for box in boxes])
        what = f"{stored[0].fragment.kind} {stored[0].fragment.name}"
        if gap is not None:
            text = f"fragment of {what} {describe_box(gap)} missing"
            raise CheckpointError(f"{self.directory}: {text}")
        if overlap:
            raise CheckpointError(f"{self.directory}: fragments of {what} overlap")
        return [*touching.values()]

    def _of(self, kind: str, name: str) -> list[Stored]:
        try:
            return self._stored[kind, name]
        except KeyError:
            raise CheckpointError(f"{self.directory}: it holds no {kind} {name}") from None


def prune(checkpoints: Path, keep_last: int, keep_every: int = 0) -> list[int]:
    """Remove old checkpoints; returns the steps removed. For one process (rank 0), between saves.

    Kept are the newest `keep_last` whole ones and every step that `keep_every` divides (0: none).
    Whole means here: manifest, sizes and indexes agree. The newest whole one is never removed, nor
    anything newer than it; folders that a crashed save left below it go as well.

    Raises:
        CheckpointError: keep_last below 1.
    """
    if keep_last < 1:
        raise CheckpointError(f"keep_last = {keep_last}: the newest checkpoint is always kept")
    whole: list[int] = []
    for step in steps(checkpoints):
        try:
            Checkpoint.open(step_directory(checkpoints, step))
            whole.append(step)
        except CheckpointError:
            continue
    if not whole:
        return []
    removed = []
    for path in sorted(checkpoints.iterdir()):
        found = STEP.fullmatch(path.name)
        step = int(found.group(1)) if found else whole[-1]
        chosen = step in whole and keep_every > 0 and step % keep_every == 0
        if step < whole[-1] and step not in whole[-keep_last:] and not chosen:
            # Without its manifest it is no checkpoint, should the removal be cut short.
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path)
            removed.append(step)
    return removed
