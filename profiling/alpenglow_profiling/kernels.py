"""Kernels on demand: torch.profiler over a few steps of one rank, written as Kineto's JSON.

    traces/SEGMENT/rank-00000-step-000120.json.gz      rank and first step

Never always on: a window costs its steps a good part of their time, and its rank a stop while the
trace is written (about 300 bytes an event; packing goes on beside training). Activities are the CPU
and, where there is a GPU, CUDA; no stacks, no shapes. Each step is marked `ProfilerStep#N` with the
run's own number, which Holistic Trace Analysis and our readers look for.
"""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)
_LEVEL = 5  # zlib's default is 6; the rank's cores have better to do


class KernelWindow:
    """One window on this rank; begun between two steps.

    Args:
        directory: `traces/SEGMENT` of the run; made if absent.
        rank: of the job, names the file.
        first: the step (1-based) that comes next, names the file.

    Raises:
        OSError: the directory cannot be made.
        RuntimeError: another profiler runs, or torch's does not start.
    """

    def __init__(self, directory: Path, rank: int, first: int) -> None:
        import torch

        if torch._C._autograd._profiler_enabled():  # a second one would end the first unasked
            raise RuntimeError("another profiler runs in this process")
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"rank-{rank:05d}-step-{first:06d}.json.gz"
        kinds = torch.profiler.ProfilerActivity
        activities = [kinds.CPU]
        if torch.cuda.is_available():
            activities.append(kinds.CUDA)
        self._mark = torch.profiler.record_function
        self._profiler: Any = torch.profiler.profile(
            activities=activities, record_shapes=False, profile_memory=False, with_stack=False
        )
        self._profiler.start()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Mark a step."""
        with self._mark(f"ProfilerStep#{number}"):
            yield

    def end(self) -> Packing:
        """Stop the profiler and write what it saw; packing goes on in a thread.

        Raises:
            OSError: the trace cannot be written.
            RuntimeError: the profiler has no trace to give.
        """
        self._profiler.stop()
        plain = self.path.with_name(f".{self.path.name}.{os.getpid()}.json")
        try:
            self._profiler.export_chrome_trace(str(plain))
            if not plain.exists():  # Kineto only prints that it could not write
                raise OSError(f"{plain.parent}: the trace could not be written there")
        except BaseException:
            plain.unlink(missing_ok=True)
            raise
        return Packing(plain, self.path)


class Packing:
    """A trace on its way into its packed file.

    Args:
        plain: the JSON; deleted at the end.
        path: where it goes.
    """

    def __init__(self, plain: Path, path: Path) -> None:
        self.path = path
        self.failure: str | None = None
        """Why there is no file; to be looked at when `done`."""
        self._plain = plain
        # The interpreter waits for it: half a trace is of no use to anybody.
        self._thread = threading.Thread(target=self._run, name="trace-packing")
        self._thread.start()

    def _run(self) -> None:
        packed = self._plain.with_suffix(".part")
        try:
            with self._plain.open("rb") as source, gzip.open(packed, "wb", _LEVEL) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            packed.replace(self.path)
        except OSError as error:
            self.failure = f"{self.path}: the trace cannot be written: {error.strerror}"
            LOG.warning("%s", self.failure)
        finally:
            packed.unlink(missing_ok=True)
            self._plain.unlink(missing_ok=True)

    @property
    def done(self) -> bool:
        """Whether the file is there, or `failure` says why not."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Until it is done."""
        self._thread.join()
