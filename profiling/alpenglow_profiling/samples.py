"""Samples of a segment: node logs become HDF5 files, and are read back as one table.

    from alpenglow_profiling.samples import read

    samples = read(run / "samples" / segment)
    samples.rows["power_w"][samples.rows["device"] >= 0]

    samples/SEGMENT/NODE.h5
      device monotonic_ns wall_ns utilisation ...    one dataset a column of `SAMPLE`, by time
      attributes: format_version, about (JSON), notes, damages, log (its size)

| column | unit | GPU (device 0, 1, ...) | host (device -1) |
|---|---|---|---|
| time_ns | wall clock, ns since 1970 | yes | yes |
| utilisation | share of the driver's window with a kernel running | yes | |
| power_w | watts | yes | RAPL, where it may be read |
| energy_j | joules of a counter that began somewhere | yes | the same |
| sm_clock_hz, memory_clock_hz | Hz | yes | |
| memory_bytes | bytes in use | yes | yes |
| temperature_c | degrees | yes | |
| throttle | bits of `gpu.THROTTLE_REASONS`; -1: not known | yes | |
| cpu_busy | share of all cores since the sample before | | yes |
| load | of the last minute | | yes |
| rss_bytes | resident memory of the ranks of this node | | yes |
| cpu_clock_hz | mean of a few cores | | where cpufreq tells |

What is not known is nan. Times in a file are CLOCK_MONOTONIC with the wall clock beside it; `read`
moves a node by one offset, the median of (wall - monotonic), as it is done with events.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from alpenglow_profiling.clock_map import ClockMap
from alpenglow_profiling.sample_log import (
    FORMAT_VERSION,
    HOST,
    SAMPLE,
    About,
    SampleLog,
    SampleLogError,
    read_sample_log,
)

__all__ = ["HOST", "TABLE", "Samples", "SamplesError", "each", "log_path", "merge", "read"]

_COLUMNS = tuple(name for name in SAMPLE.names or () if name != "wall_ns")
TABLE: np.dtype[np.void] = np.dtype(
    [("node", "<u2"), ("time_ns", "<i8"), *((name, SAMPLE[name]) for name in _COLUMNS)]
)
_OWN = ("node", "time_ns")
_CHUNK = 1 << 14


class SamplesError(ValueError):
    """Samples that cannot be read; the message is one sentence."""


@dataclass(frozen=True)
class Samples:
    """All samples of a segment."""

    rows: np.ndarray[Any, np.dtype[np.void]]
    """dtype `TABLE` (or the columns asked for), sorted by node, device, time; `node` is an index
    into `nodes`."""
    nodes: tuple[str, ...]
    about: tuple[About, ...]
    """By node: which GPUs, how often, how many cores."""
    notes: tuple[str, ...] = ()
    """What was not sampled, and on which node; a sentence each."""
    damages: tuple[str, ...] = ()
    """What was sampled and could not be read; a sentence each."""


@dataclass(frozen=True)
class _Node:
    about: About
    rows: np.ndarray[Any, np.dtype[np.void]]
    notes: tuple[str, ...]
    damages: tuple[str, ...]
    size: int
    """Bytes of the log that went in: a later call sees whether it has grown."""


def log_path(directory: Path, node: str) -> Path:
    """Where a node logs its samples."""
    return directory / f"{_safe(node)}.log"


def _safe(node: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in node) or "node"


def merge(directory: Path, *, node: str | None = None, remove_log: bool = False) -> list[Path]:
    """Turn the logs of a segment into HDF5 files; call it again at any time.

    Args:
        directory: `samples/SEGMENT` of a run.
        node: only this one's; None is all.
        remove_log: delete each log once its file is on disk; only for a segment that has ended.

    Returns:
        Every file of the segment, by name.

    Raises:
        OSError: a file cannot be written.
    """
    for path in sorted(directory.glob("*.log")):
        if node is not None and path != log_path(directory, node):
            continue
        try:
            found = _of_log(path, read_sample_log(path))
        except (SampleLogError, FileNotFoundError):
            continue  # `read` says so
        target = path.with_suffix(".h5")
        if not _holds(target, found.size):
            _write(target, found)
        if remove_log:
            path.unlink(missing_ok=True)
    return sorted(directory.glob("*.h5"))


def read(directory: Path, columns: Collection[str] | None = None, *, write: bool = True) -> Samples:
    """Read all samples of a segment, whether it has ended or not.

    Logs of a segment that died become HDF5 files on the way, where that can be written.

    Args:
        directory: `samples/SEGMENT` of a run.
        columns: of `SAMPLE`, beside device and time; None is all.
        write: False reads logs without leaving anything, as while the segment runs.

    Raises:
        SamplesError: the directory does not exist.
    """
    parts: list[_Node] = []
    damages: list[str] = []
    for found in _nodes(directory, columns, write):
        if isinstance(found, str):
            damages.append(found)
        else:
            parts.append(found)
    return _together(parts, damages, columns)


def each(
    directory: Path, columns: Collection[str] | None = None, *, write: bool = True
) -> Iterator[Samples]:
    """The same node by node, so that a long segment of many nodes fits memory.

    What cannot be read at all comes as `Samples` of no node with its damage.
    """
    for found in _nodes(directory, columns, write):
        if isinstance(found, str):
            yield _together([], [found], columns)
        else:
            yield _together([found], [], columns)


def _nodes(directory: Path, columns: Collection[str] | None, write: bool) -> Iterator[_Node | str]:
    """Every node by name; a sentence for what cannot be read."""
    if not directory.is_dir():
        raise SamplesError(f"{directory}: no such folder of samples")
    names = {path.stem for pattern in ("*.log", "*.h5") for path in directory.glob(pattern)}
    for name in sorted(names):
        log, file = directory / f"{name}.log", directory / f"{name}.h5"
        try:
            if log.exists() and not _holds(file, log.stat().st_size):
                found = _of_log(log, read_sample_log(log))
                if write:
                    with suppress(OSError):  # another's run, a full disk: the log itself is read
                        _write(file, found)
                yield found
                continue
        except SampleLogError as error:
            yield str(error)
            if not file.exists():
                continue
        except FileNotFoundError:
            pass  # its node has made it into HDF5 meanwhile
        try:
            yield _read(file, columns)
        except (OSError, KeyError, ValueError) as error:
            yield f"{file}: not a readable file of samples: {error}"


def _of_log(path: Path, log: SampleLog) -> _Node:
    damages = []
    if log.unread:
        damages.append(
            f"{path.name}: {log.unread} of {log.size} bytes belong to no whole block and were "
            "left out"
        )
    rows = log.rows[np.argsort(log.rows["monotonic_ns"], kind="stable")]
    found = _Node(log.about, rows, log.notes, tuple(damages), log.size)
    with suppress(OSError, KeyError, ValueError):
        # Of an earlier start in this segment, whose log is no longer there.
        held = _read(path.with_suffix(".h5"))
        first = rows["monotonic_ns"][0] if len(rows) else np.iinfo(np.int64).max
        before = held.rows[held.rows["monotonic_ns"] < first]
        if len(before):
            found = replace(
                found,
                rows=np.concatenate([before, rows]),
                notes=tuple(dict.fromkeys(held.notes + log.notes)),
            )
    return found


def _holds(path: Path, size: int) -> bool:
    """Whether the file was made from the log as it is now."""
    try:
        with h5py.File(path, "r") as file:
            return int(file.attrs["log"]) == size
    except (OSError, KeyError, ValueError):
        return False


def _write(path: Path, node: _Node) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with h5py.File(temporary, "w") as file:
            for name in SAMPLE.names or ():
                column = np.ascontiguousarray(node.rows[name])
                packing = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
                options = {"chunks": (min(_CHUNK, len(column)),), **packing} if len(column) else {}
                file.create_dataset(name, data=column, **options)
            file.attrs.update(
                format_version=FORMAT_VERSION,
                about=node.about.to_json(),
                notes=json.dumps(node.notes),
                damages=json.dumps(node.damages),
                log=node.size,
            )
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, columns: Collection[str] | None = None) -> _Node:
    with h5py.File(path, "r") as file:
        version = int(file.attrs["format_version"])
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, this code reads {FORMAT_VERSION}")
        names = [name for name in SAMPLE.names or () if _wanted(name, columns)]
        rows = np.empty(len(file["device"]), [(name, SAMPLE[name]) for name in names])
        for name in names:
            rows[name] = file[name][:]
        return _Node(
            About.of_json(str(file.attrs["about"])),
            rows,
            tuple(json.loads(file.attrs["notes"])),
            tuple(json.loads(file.attrs["damages"])),
            int(file.attrs["log"]),
        )


def _wanted(name: str, columns: Collection[str] | None) -> bool:
    return columns is None or name in ("device", "monotonic_ns", "wall_ns") or name in columns


def _together(parts: list[_Node], damages: list[str], columns: Collection[str] | None) -> Samples:
    names = [name for name in TABLE.names or () if name in _OWN or _wanted(name, columns)]
    rows = np.zeros(sum(len(part.rows) for part in parts), [(name, TABLE[name]) for name in names])
    notes: list[str] = []
    begin = 0
    for number, part in enumerate(parts):
        own = rows[begin : begin + len(part.rows)]
        begin += len(own)
        order = np.argsort(part.rows["device"], kind="stable")  # they are in order of time
        for name in names:
            if name not in _OWN:
                own[name] = part.rows[name][order]
        own["node"] = number
        own["time_ns"] = ClockMap.of_flushes(part.rows).at(own["monotonic_ns"])
        notes.extend(f"{part.about.node}: {note}" for note in part.notes)
        damages.extend(part.damages)
    return Samples(
        rows,
        tuple(part.about.node for part in parts),
        tuple(part.about for part in parts),
        tuple(notes),
        tuple(damages),
    )
