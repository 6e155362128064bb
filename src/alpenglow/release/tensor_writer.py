"""Safetensors files written by several threads, each with one tensor at a time in its hands.

The safetensors library writes a file from tensors that are all in memory; a release should need the
memory of two. Every tensor's place is known beforehand (`alpenglow.release.tensors`), so the bytes
of the files do not depend on who writes what when. Reading, casting, hashing and writing all leave
the interpreter's lock, so threads are enough. Read back with the library itself:
`alpenglow.release.verification.verify`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from alpenglow.exchange.error import ExchangeError
from alpenglow.release.error import ReleaseError
from alpenglow.release.heap import return_freed_tensors
from alpenglow.release.tensors import ONE_FILE, Caster, File, Place, Shapes, lay_out
from alpenglow.train.checkpoint import CheckpointError

INDEX = f"{ONE_FILE}.index.json"

_AHEAD = 1 << 25
"""Bytes of a tensor after which their way to the disk begins."""
_WORTH = 1 << 20
"""Fewer are left to the fsync at the end."""


@dataclass(frozen=True)
class Written:
    """What a set of files holds."""

    files: dict[str, str]
    """Tensor name -> file name."""
    hashes: dict[str, str]
    """Tensor name -> xxh3-64 of its bytes as written, in hex."""
    nbytes: int
    """Bytes of all tensors."""
    parameters: int


def write_model(
    folder: Path,
    shapes: Shapes,
    get: Callable[[str], Iterable[torch.Tensor]],
    dtype: torch.dtype,
    *,
    shard_bytes: int,
    workers: int = 1,
    stored: Callable[[str], int] | None = None,
    held: Callable[[str], int] | None = None,
    done: Callable[[int, int], None] = lambda _done, _total: None,
) -> Written:
    """Write `model.safetensors`, or numbered shards with their index above `shard_bytes`.

    The files' bytes are the same for any number of workers. All are on disk when this returns;
    when it raises, what lies in `folder` is no release.

    Args:
        folder: where; must exist.
        shapes: every tensor by the name that it has in the file, in order.
        get: gives a tensor by that name, as consecutive runs of its elements; called once for each,
            from the workers' threads, and only while what they hold stays within `memory_budget`.
        dtype: of every tensor in the file.
        shard_bytes: largest size of one file.
        workers: threads.
        stored: bytes of a tensor in the checkpoint; as many as in the file if absent.
        held: most bytes of a tensor that are in memory while its runs are passed over; `stored` if
            absent.
        done: told (tensors written, tensors in all) after each, by one thread at a time.

    Raises:
        ReleaseError: a tensor of another shape, one that `dtype` cannot hold, a full disk.
    """
    files = lay_out(shapes, dtype, shard_bytes)
    released = {place.name: place.nbytes for file in files for place in file.places}
    sizes = released if stored is None else {name: stored(name) for name in shapes}
    budget = memory_budget(released, sizes)
    if held is not None:
        sizes = {name: held(name) for name in shapes}
    if any(sizes.values()):
        return_freed_tensors()
    work = _Work(folder, files, get, dtype, sizes, budget, done)
    hashes = work.run(max(1, min(workers, len(shapes))))
    names = {place.name: file.name for file in files for place in file.places}
    total = sum(math.prod(shape) for shape in shapes.values())
    if len(files) > 1:
        index = {
            "metadata": {"total_size": total * dtype.itemsize, "total_parameters": total},
            "weight_map": names,
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    ordered = {name: hashes[name] for name in shapes}
    return Written(names, ordered, total * dtype.itemsize, total)


def memory_budget(released: Mapping[str, int], stored: Mapping[str, int]) -> int:
    """Most bytes of tensors that are in memory at a time.

    Twice the largest tensor, counted in the smaller of the two forms that it has (in the checkpoint
    and in the release), so that the bound holds whichever form one means. One tensor alone may
    exceed it where it cannot be had in less.
    """
    return 2 * min(max(released.values(), default=0), max(stored.values(), default=0))


def _begin_writing(descriptor: int, start: int, stop: int) -> int:
    """Have the kernel begin to write a range to disk, without waiting; returns `stop`.

    Linux does so on this advice (mm/fadvise.c) and keeps pages that are not on disk yet. The fsync
    at the end then finds little left.
    """
    with contextlib.suppress(AttributeError, OSError):  # advice: nothing hangs on it
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)
    return stop


class _Stopped(Exception):
    """Another worker failed."""


class _Work:
    """Tensors to write, shared among threads.

    Args:
        folder: where the files go.
        files: what goes into them.
        get: gives a tensor's runs.
        dtype: of the files.
        held: bytes of what `get` gives, by name.
        budget: most bytes of them at a time.
        done: told how many tensors are written.
    """

    def __init__(
        self,
        folder: Path,
        files: list[File],
        get: Callable[[str], Iterable[torch.Tensor]],
        dtype: torch.dtype,
        held: dict[str, int],
        budget: int,
        done: Callable[[int, int], None],
    ) -> None:
        self._folder, self._files = folder, files
        self._get, self._dtype, self._done = get, dtype, done
        self._held, self._budget = held, budget
        self._waiting = [(i, place) for i, file in enumerate(files) for place in file.places]
        self._waiting.reverse()
        self._total = len(self._waiting)
        self._left = [len(file.places) for file in files]
        self._in_memory = 0
        self._hashes: dict[str, str] = {}
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._descriptors: list[int] = []

    def run(self, workers: int) -> dict[str, str]:
        """Write all; returns the hash of every tensor."""
        # One core a worker: torch would start a team of its own for every thread that calls it.
        teams = torch.get_num_threads()
        torch.set_num_threads(1)
        threads = [threading.Thread(target=self._act, daemon=True) for _ in range(workers)]
        try:
            self._open()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as error:  # Ctrl-C among them: it arrives in this thread
            self._fail(error)
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        finally:
            torch.set_num_threads(teams)
            for descriptor in self._descriptors:
                os.close(descriptor)
        if self._error is not None:
            raise self._error
        return self._hashes

    def _open(self) -> None:
        for file in self._files:
            path = self._folder / file.name
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._descriptors.append(os.open(path, flags, 0o666))
                self._put(self._descriptors[-1], memoryview(file.header), 0)
                os.ftruncate(self._descriptors[-1], file.nbytes)
            except OSError as error:
                raise ReleaseError(f"{path}: {error.strerror or error}") from error

    def _act(self) -> None:
        caster = Caster(self._dtype)
        while (taken := self._take()) is not None:
            number, place = taken
            try:
                digest = self._write(caster, self._descriptors[number], place)
                with self._changed:
                    self._in_memory -= self._held[place.name]
                    self._hashes[place.name] = digest
                    self._left[number] -= 1
                    ended = not self._left[number]
                    self._done(len(self._hashes), self._total)
                    self._changed.notify_all()
                if ended:
                    os.fsync(self._descriptors[number])
            except BaseException as error:
                self._fail(self._blamed(error, self._files[number], place))
                return

    def _take(self) -> tuple[int, Place] | None:
        """The next tensor, as soon as there is room for it; None when there is nothing to do."""
        with self._changed:
            while self._waiting and self._error is None:
                need = self._held[self._waiting[-1][1].name]
                if not self._in_memory or self._in_memory + need <= self._budget:
                    self._in_memory += need
                    return self._waiting.pop()
                self._changed.wait()
            return None

    def _write(self, caster: Caster, descriptor: int, place: Place) -> str:
        digest = xxhash.xxh3_64()
        offset, told = place.offset, place.offset
        for run in self._get(place.name):
            offset = self._write_run(caster, descriptor, place, run, offset, digest)
            del run  # before the next one is made
            if offset - told >= _AHEAD:
                told = _begin_writing(descriptor, told, offset)
        if offset - told >= _WORTH:
            _begin_writing(descriptor, told, offset)
        if offset != place.offset + place.nbytes:
            raise ReleaseError(f"{place.name}: less than the model's shape {place.shape}")
        return digest.hexdigest()

    def _write_run(
        self,
        caster: Caster,
        descriptor: int,
        place: Place,
        run: torch.Tensor,
        offset: int,
        digest: xxhash.xxh3_64,
    ) -> int:
        for chunk in caster.chunks(run, place.name):
            if self._error is not None:
                raise _Stopped
            digest.update(chunk)
            if offset + len(chunk) > place.offset + place.nbytes:
                raise ReleaseError(f"{place.name}: more than the model's shape {place.shape}")
            self._put(descriptor, chunk, offset)
            offset += len(chunk)
        return offset

    @staticmethod
    def _put(descriptor: int, data: memoryview[int], offset: int) -> None:
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()

    def _blamed(self, error: BaseException, file: File, place: Place) -> BaseException:
        """The error, with the tensor's name where it says none."""
        told: BaseException
        if isinstance(error, OSError):
            path = self._folder / file.name
            told = ReleaseError(f"{path}: {error.strerror or error} while {place.name} was written")
        elif place.name in str(error):
            return error
        elif isinstance(error, ReleaseError | ExchangeError | CheckpointError):
            told = type(error)(f"{place.name}: {error}")
        elif isinstance(error, RuntimeError | MemoryError):
            told = ReleaseError(f"{place.name}: {str(error) or type(error).__name__}")
        else:
            return error
        told.__cause__ = error
        return told
