"""The node itself, from /proc and /sys: how busy its cores are, its memory, its power.

Nothing here needs a permission; what this kernel or this user does not give stays unknown. Energy
is RAPL's counter of the packages and their memory (Linux, power capping framework), which wraps;
on many machines only root may read it. Machines without RAPL (POWER9) show no energy here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpenglow_profiling.sample_log import HOST

MOST_CLOCKS = 4
"""Cores whose clock is read: asking a core may interrupt it."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Host:
    """The node that this process runs on.

    Args:
        pids: processes of this node's ranks.
        root: where /proc and /sys lie.
    """

    def __init__(self, pids: Sequence[int] = (), root: Path = Path("/")) -> None:
        self.notes: list[str] = []
        """Sentences about what could not be read, each once; whoever writes them empties it."""
        self._proc = root / "proc"
        self._pids = list(pids)
        self._before = self._ticks()
        self._clocks = _clocks(root)
        self._energy = _Rapl(root, self.notes)
        self._last: tuple[int, float] | None = None

    def sample(self, row: Any) -> None:
        """Read everything.

        Args:
            row: of dtype `SAMPLE`, with its time, in which nothing else is known; filled in.
        """
        row["device"] = HOST
        row["cpu_busy"] = self._busy()
        row["load"] = _load(self._proc)
        row["memory_bytes"] = _memory(self._proc)
        row["rss_bytes"] = self._rss()
        row["cpu_clock_hz"] = _mean_clock(self._clocks)
        row["energy_j"] = joules = self._energy.joules()
        now = int(row["monotonic_ns"])
        if self._last is not None and now > self._last[0]:
            row["power_w"] = (joules - self._last[1]) / ((now - self._last[0]) / 1e9)
        self._last = (now, joules)

    def _ticks(self) -> tuple[int, int] | None:
        """(all, idle) ticks of all cores since boot."""
        try:
            words = _head(self._proc / "stat").split(b"\n", 1)[0].split()[1:9]
            ticks = [int(word) for word in words]
            return sum(ticks), ticks[3] + ticks[4]
        except (OSError, ValueError, IndexError):
            return None

    def _busy(self) -> float:
        before, self._before = self._before, self._ticks()
        if before is None or self._before is None or self._before[0] <= before[0]:
            return np.nan
        idle = self._before[1] - before[1]
        return min(1.0, max(0.0, 1 - idle / (self._before[0] - before[0])))

    def _rss(self) -> float:
        """Resident bytes of the ranks that live; a page that they share counts in each."""
        pages, known = 0, False
        for pid in self._pids:
            try:
                pages += int(_head(self._proc / f"{pid}/statm").split()[1])
                known = True
            except (OSError, ValueError, IndexError):
                continue  # this rank is gone
        return pages * _PAGE if known else np.nan


def _head(path: Path, size: int = 4096) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, size)
    finally:
        os.close(file)


def _load(proc: Path) -> float:
    try:
        return float(_head(proc / "loadavg").split()[0])
    except (OSError, ValueError, IndexError):
        return np.nan


def _memory(proc: Path) -> float:
    """Bytes that are not available to a new program."""
    try:
        lines = dict(line.split(b":", 1) for line in _head(proc / "meminfo").splitlines())
        total, free = (int(lines[name].split()[0]) for name in (b"MemTotal", b"MemAvailable"))
    except (OSError, ValueError, KeyError, IndexError):
        return np.nan
    return (total - free) * 1024


def _clocks(root: Path) -> list[Path]:
    """The files with the clocks of a few cores, spread over the node."""
    folder = root / "sys/devices/system/cpu/cpufreq"
    policies = sorted(folder.glob("policy[0-9]*"), key=lambda path: int(path.name[6:]))
    stride = max(1, -(-len(policies) // MOST_CLOCKS))
    return [path / "scaling_cur_freq" for path in policies[::stride]]


def _mean_clock(files: Sequence[Path]) -> float:
    try:
        khz = [int(_head(path)) for path in files]
    except (OSError, ValueError):
        return np.nan
    return sum(khz) / len(khz) * 1e3 if khz else np.nan


class _Rapl:
    """The sum of the energy counters of packages and their memory, unwrapped."""

    def __init__(self, root: Path, notes: list[str]) -> None:
        self._zones: list[tuple[Path, int]] = []
        self._last: list[int] = []
        self._total = 0
        try:
            for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
                name = (zone / "name").read_text(encoding="ascii").strip()
                if not name.startswith(("package", "dram")):
                    continue  # cores are within packages, psys holds everything
                largest = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
                self._zones.append((zone / "energy_uj", largest))
            self._last = [int(_head(path)) for path, _ in self._zones]
            self._total = sum(self._last)
        except (OSError, ValueError) as error:
            self._zones = []
            reason = error.strerror if isinstance(error, OSError) else str(error)
            notes.append(f"the energy of the host is not known: RAPL cannot be read: {reason}")

    def joules(self) -> float:
        """Joules since some moment before the first call; nan where there is no counter."""
        if not self._zones:
            return np.nan
        for i, (path, largest) in enumerate(self._zones):
            try:
                now = int(_head(path))
            except (OSError, ValueError):
                return np.nan
            rise = now - self._last[i]
            # A counter that fell has wrapped once: it takes minutes, samples are seconds apart.
            self._total += rise if rise >= 0 else rise + largest
            self._last[i] = now
        return self._total / 1e6
