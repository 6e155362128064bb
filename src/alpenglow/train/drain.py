"""The background half of a save on one rank: from host memory to the parallel file system.

A thread seals the image (checksums, index), writes it to node-local storage where there is one,
then copies it from there into the node's container on the parallel file system, comparing the bytes
with those of the snapshot on the way, and removes the local copy. No call of torch.distributed is
made here: the ranks agree at step borders (`alpenglow.train.saver`). Local storage is a help, not a
condition: where it has no room or fails, the image goes straight to the file system. This module is
imported, never started.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from alpenglow.train.checkpoint_section import (
    CALL,
    Abandoned,
    Image,
    PWrite,
    write_section,
)
from alpenglow.train.fragments import CheckpointError
from alpenglow_profiling.events import Kind, SpanRecorder


class _LocalError(CheckpointError):
    """The local storage is of no use for this save."""


class Drain:
    """Writes one image after another, each in a thread of its own.

    Args:
        where: this rank in a sentence: "rank 3 on h41n02".
        local: this rank's file on node-local storage; None writes straight to the file system.
        recorder: gets a DRAIN span for each image.
        pwrite: in place of `os.pwrite`, for writes to the parallel file system.
    """

    def __init__(
        self,
        where: str,
        local: Path | None,
        recorder: SpanRecorder,
        pwrite: PWrite | None = None,
    ) -> None:
        self.where = where
        self.local = local
        self.failure: str | None = None
        """Why this rank could not write; a sentence without a full stop."""
        self.note: str | None = None
        """Why the local storage was left out, where it was."""
        self.seconds = 0.0
        """That the last drain or commit took."""
        self._recorder = recorder
        self._pwrite = pwrite
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, image: Image, path: Path, offset: int) -> None:
        """Start writing; the former image must be done.

        Args:
            image: filled, not to be touched until `done`.
            path: the node's container on the parallel file system.
            offset: where this rank's section begins in it.
        """
        self._abandoned.clear()
        self.failure = self.note = None
        self._start(lambda: self._drain(image, path, offset), image.section.nbytes)

    def commit(self, act: Callable[[], object] | None) -> None:
        """Run the commit in the background too (None: it is rank 0's).

        `seconds` are the commit's from now on.
        """
        self.note = None
        self.seconds = 0.0
        if act is not None:
            self._start(act, -1)

    def done(self) -> bool:
        """Whether nothing is under way."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for what is under way, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def abandon(self) -> None:
        """Stop writing: another rank failed. Returns when this rank's thread has ended."""
        self._abandoned.set()
        if self._thread is not None:
            self._thread.join()

    def _start(self, act: Callable[[], object], nbytes: int) -> None:
        self.seconds = 0.0

        def run() -> None:
            begin = time.monotonic()
            try:
                with self._recorder.span(Kind.DRAIN, bytes=nbytes):
                    act()
            except Abandoned:
                pass
            except Exception as error:  # a silent thread would leave every rank waiting
                self.failure = f"{self.where}: {error}"
            self.seconds = time.monotonic() - begin

        self._thread = threading.Thread(target=run, name="drain", daemon=True)
        self._thread.start()

    def _drain(self, image: Image, path: Path, offset: int) -> None:
        image.seal()
        if self.local is not None:
            try:
                self._keep(image, self.local)
                self._copy(image, self.local, path, offset)
                return
            except _LocalError as error:
                self.note = str(error)
            finally:
                with contextlib.suppress(OSError):
                    self.local.unlink(missing_ok=True)
        write_section(path, image.bytes, offset, pwrite=self._pwrite, abandoned=self._abandoned)

    def _keep(self, image: Image, local: Path) -> None:
        """Write the local copy, once there is room for all of it."""
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            local.unlink(missing_ok=True)  # of a process that was killed
            with local.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, image.section.nbytes)
            write_section(local, image.bytes, 0, abandoned=self._abandoned)
        except OSError as error:
            size = f"{image.section.nbytes / 1e9:.2f} GB"
            raise _LocalError(f"{local}: {error.strerror or error} ({size})") from error
        except Abandoned:
            raise
        except CheckpointError as error:
            raise _LocalError(str(error)) from error

    def _copy(self, image: Image, local: Path, path: Path, offset: int) -> None:
        """Copy the local file into the container; its bytes must be those of the snapshot."""
        try:
            source = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _LocalError(f"{local}: {error.strerror}") from error
        try:
            target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._move(image, (source, local), target, offset)
                os.fsync(target)
            finally:
                os.close(target)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from error
        finally:
            os.close(source)

    def _move(self, image: Image, source: tuple[int, Path], target: int, offset: int) -> None:
        nbytes = image.section.nbytes
        buffer = memoryview(bytearray(min(CALL, nbytes)))
        write = self._pwrite or os.pwrite
        descriptor, local = source
        at = 0
        while at < nbytes:
            if self._abandoned.is_set():
                raise Abandoned(f"{local}: abandoned")
            try:
                count = os.preadv(descriptor, [buffer], at)
            except OSError as error:
                raise _LocalError(f"{local}: {error.strerror}") from error
            if not count or buffer[:count] != image.bytes[at : at + count]:
                raise _LocalError(f"{local}: it gave back other bytes than it got, at {at}")
            sent = 0
            while sent < count:
                sent += write(target, buffer[sent:count], offset + at + sent)
            at += count
