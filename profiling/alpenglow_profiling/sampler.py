"""Samples a node once a second: its GPUs and itself, in a thread off the critical path.

    sampler = Sampler(run / "samples" / segment, host, pids=pids_of_this_nodes_ranks)
    ...
    sampler.close()
    merge(run / "samples" / segment, node=host, remove_log=True)

One rank of a node runs it. A thread and not a child process: a sample takes less than half a
millisecond from a rank that computes in Python all the time, and less from one in native code
(`python -m alpenglow_profiling.bench_samplers`; a child on a core of its own takes nothing that
can be measured), and a thread ends with its rank, whatever ends that. What cannot be sampled is
unknown, with one note in the file; nothing here ends the job.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpenglow_profiling.blocks import clock_pair
from alpenglow_profiling.gpu import LIBRARY, Nvml, NvmlError
from alpenglow_profiling.host import Host
from alpenglow_profiling.sample_log import UNKNOWN, About, SampleLogFile
from alpenglow_profiling.samples import log_path

LOG = logging.getLogger(__name__)
LEAVE_S = 5.0
"""How long an end waits for a last sample: a GPU that is lost can keep the driver for ever."""


class NodeReader:
    """Reads all devices of this node.

    Args:
        pids: processes of this node's ranks.
        library: name or path of NVML's library.
    """

    def __init__(self, pids: Sequence[int] = (), library: str = LIBRARY) -> None:
        self._host = Host(pids)
        self._notes: list[str] = []
        self._nvml: Nvml | None = None
        try:
            self._nvml = Nvml(library)
        except NvmlError as error:
            self._notes.append(str(error))
        self.devices = () if self._nvml is None else self._nvml.devices

    def take(self) -> np.ndarray[Any, np.dtype[np.void]]:
        """One row of dtype `SAMPLE` for the host, and one for each GPU."""
        rows = np.repeat(UNKNOWN, 1 + len(self.devices))
        rows["monotonic_ns"], rows["wall_ns"] = clock_pair()
        self._host.sample(rows[0])
        if self._nvml is not None:
            self._nvml.sample(rows[1:])
        return rows

    def take_notes(self) -> list[str]:
        """What could not be read since the last call, a sentence each."""
        notes = self._notes + self._host.notes
        self._notes = []
        self._host.notes.clear()
        if self._nvml is not None:
            notes += self._nvml.notes
            self._nvml.notes.clear()
        return notes

    def close(self) -> None:
        """Give NVML back."""
        if self._nvml is not None:
            self._nvml.close()


class Sampler:
    """Samples this node until it is closed.

    Args:
        directory: `samples/SEGMENT` of the run; made if absent.
        node: host name, names the log.
        period_s: seconds between two samples.
        pids: processes of this node's ranks, whose memory is summed.
        flush_s: longest time that a sample stays in memory; a kill loses as much.
        library: name or path of NVML's library.

    Raises:
        OSError: the directory or the log cannot be made.
    """

    def __init__(
        self,
        directory: Path,
        node: str,
        *,
        period_s: float = 1.0,
        pids: Sequence[int] = (),
        flush_s: float = 10.0,
        library: str = LIBRARY,
    ) -> None:
        self.path = log_path(directory, node)
        self.failure: str | None = None
        """Why sampling has ended before its time; None while it goes on."""
        directory.mkdir(parents=True, exist_ok=True)
        self._about = (node, directory.name, period_s, os.cpu_count() or 1)
        self._period = period_s
        self._flush = flush_s
        self._source = (tuple(pids), library)
        self._pid = os.getpid()
        self._over = threading.Event()
        with self.path.open("ab"):
            pass  # what cannot be made is told to the caller, not found by the thread
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        try:
            self._sample()
        except Exception as error:  # whatever a driver's library does: training goes on
            reason = error.strerror if isinstance(error, OSError) else error
            self.failure = f"{self.path}: sampling ends here: {reason}"
            LOG.warning("%s", self.failure)

    def _sample(self) -> None:
        # NVML takes up to seconds to start, so it starts here.
        reader = NodeReader(*self._source)
        log = SampleLogFile(self.path, About(*self._about, devices=reader.devices))
        waiting: list[np.ndarray[Any, np.dtype[np.void]]] = []
        written = due = time.monotonic()
        try:
            while not self._over.is_set():
                waiting.append(reader.take())
                log.note(reader.take_notes())
                now = time.monotonic()
                if now - written >= self._flush:
                    log.write(np.concatenate(waiting))
                    waiting, written = [], now
                # A sample that took long is no reason for two in a row.
                due = max(due + self._period, now)
                self._over.wait(due - now)
            waiting.append(reader.take())  # the energy up to the end
            log.note(reader.take_notes())
            log.write(np.concatenate(waiting))
        finally:
            reader.close()
            log.close()

    def close(self) -> None:
        """Take a last sample, sync and close. Closing twice is harmless."""
        if os.getpid() != self._pid or self._over.is_set():
            return
        self._over.set()
        self._thread.join(LEAVE_S)
        if self._thread.is_alive():
            self.failure = f"{self.path}: the driver does not answer, the last samples are missing"
            LOG.warning("%s", self.failure)
        atexit.unregister(self.close)
