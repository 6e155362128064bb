"""The spans of a segment: rank logs become one HDF5 file a node, and are read back as one table.

    NODE.h5
      rank step kind micro_batch begin_ns end_ns bytes group peer   one dataset a column,
                                                                    sorted by step, begin, rank
      clock     rows of (rank, monotonic_ns, wall_ns), one for each flush
      attributes: format_version, segment, node, world_size, ranks, kinds, logs, damages

Clocks: `begin_ns` and `end_ns` in the file are CLOCK_MONOTONIC. All ranks of a node share that
clock, so `read` moves a node by one offset, the median of (wall - monotonic) over its flushes. What
is left between two nodes is the error of their wall clocks (NTP: about a millisecond); aligning
nodes by their collectives is not done here.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from alpenglow_profiling.kind import ROW, Kind, Rows
from alpenglow_profiling.log import Log, LogError, read_log
from alpenglow_profiling.recorder import log_path

FORMAT_VERSION = 1
CLOCK: np.dtype[np.void] = np.dtype([("rank", "<u4"), ("monotonic_ns", "<i8"), ("wall_ns", "<i8")])
_CHUNK = 1 << 15


class EventsError(ValueError):
    """Events that cannot be read; the message is one sentence."""


@dataclass(frozen=True)
class NodeEvents:
    """All spans of one node, times on its CLOCK_MONOTONIC."""

    node: str
    rows: Rows
    clock: np.ndarray[Any, np.dtype[np.void]]
    world_size: int
    ranks: tuple[int, ...]
    logs: dict[str, int]
    """Name and size of each log that went in: a later call sees whether one has grown."""
    damages: tuple[str, ...] = ()

    @property
    def offset_ns(self) -> int:
        """What to add to a monotonic time of this node to get wall-clock time."""
        return int(np.median(self.clock["wall_ns"] - self.clock["monotonic_ns"]))


@dataclass(frozen=True)
class Events:
    """All spans of one segment, times in wall-clock ns since 1970."""

    rows: Rows
    """dtype `ROW`, sorted by step, begin, rank."""
    nodes: dict[int, str]
    """Rank to host name, for the ranks that left a log."""
    world_size: int
    """Ranks that the segment was started with; more than `nodes` when logs are missing."""
    damages: tuple[str, ...] = field(default=())
    """One sentence for each thing that could not be read."""


def merge(
    directory: Path, *, ranks: Collection[int] | None = None, remove_logs: bool = False
) -> list[Path]:
    """Turn the logs of a segment into one HDF5 file a node; call it again at any time.

    A node whose file already holds its logs as they are is left alone. A log that was cut is read
    to its last whole block.

    Args:
        directory: `events/SEGMENT` of a run.
        ranks: only the logs of these; a node's ranks, where each node merges its own at the
            segment's end. None is all.
        remove_logs: delete each log once the file that holds it is on disk; only for a segment
            that has ended.

    Returns:
        Every node file of the segment, by name.

    Raises:
        OSError: a file cannot be written.
    """
    logs, _ = _read_logs(directory, ranks)
    for node, parts in _by_node(logs).items():
        path = _node_path(directory, node)
        if not _holds(path, parts):
            _write_node(path, _join(node, parts, _earlier(path, parts)), directory.name)
        if remove_logs:
            for log in parts:
                log.path.unlink()
    return sorted(directory.glob("*.h5"))


def read(directory: Path) -> Events:
    """Read all spans of a segment, merging its logs first where that is due.

    Where nothing can be written (another's run, a full disk) the logs are read directly.

    Args:
        directory: `events/SEGMENT` of a run.

    Raises:
        EventsError: the directory does not exist.
    """
    if not directory.is_dir():
        raise EventsError(f"{directory}: no such folder of events")
    try:
        merge(directory)
    except OSError:
        parts, damages = _in_memory(directory)
    else:
        parts, damages = [], _read_logs(directory)[1]
        for path in sorted(directory.glob("*.h5")):
            try:
                parts.append(_read_node(path))
            except (OSError, KeyError, ValueError) as error:
                damages.append(f"{path}: not a readable file of events: {error}")
    return _all_nodes(parts, damages)


def _in_memory(directory: Path) -> tuple[list[NodeEvents], list[str]]:
    logs, damages = _read_logs(directory)
    by_node = _by_node(logs)
    parts = [_join(node, of_node, None) for node, of_node in by_node.items()]
    for path in sorted(directory.glob("*.h5")):
        if path.stem not in by_node:
            parts.append(_read_node(path))
    return parts, damages


def _read_logs(
    directory: Path, ranks: Collection[int] | None = None
) -> tuple[list[Log], list[str]]:
    logs, damages = [], []
    mine = None if ranks is None else {log_path(directory, rank) for rank in ranks}
    for path in sorted(directory.glob("rank-*.log")):
        if mine is not None and path not in mine:
            continue
        try:
            logs.append(read_log(path))
        except LogError as error:
            damages.append(str(error))
    return logs, damages


def _by_node(logs: Iterable[Log]) -> dict[str, list[Log]]:
    nodes: dict[str, list[Log]] = defaultdict(list)
    for log in logs:
        nodes[log.node].append(log)
    return dict(nodes)


def _node_path(directory: Path, node: str) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in node)
    return directory / f"{safe or 'node'}.h5"


def _holds(path: Path, logs: Sequence[Log]) -> bool:
    """Whether the node's file was made from these logs as they are now."""
    try:
        with h5py.File(path, "r") as file:
            held = json.loads(file.attrs["logs"])
    except (OSError, KeyError, ValueError):
        return False
    return all(held.get(log.path.name) == log.size for log in logs)


def _earlier(path: Path, logs: Sequence[Log]) -> NodeEvents | None:
    """What the node's file holds of ranks whose logs are no longer there."""
    try:
        held = _read_node(path)
    except (OSError, KeyError, ValueError):
        return None
    ranks = {log.rank for log in logs}
    keep = tuple(rank for rank in held.ranks if rank not in ranks)
    if not keep:
        return None
    names = {log.path.name for log in logs}
    return NodeEvents(
        held.node,
        held.rows[np.isin(held.rows["rank"], keep)],
        held.clock[np.isin(held.clock["rank"], keep)],
        held.world_size,
        keep,
        {name: size for name, size in held.logs.items() if name not in names},
        held.damages,
    )


def _join(node: str, logs: Sequence[Log], earlier: NodeEvents | None) -> NodeEvents:
    rows = [log.rows for log in logs] + ([earlier.rows] if earlier else [])
    clocks = [] if earlier is None else [earlier.clock]
    for log in logs:
        clock = np.zeros(len(log.clock), CLOCK)
        clock["rank"] = log.rank
        clock["monotonic_ns"], clock["wall_ns"] = log.clock.T
        clocks.append(clock)
    damages = [
        f"{log.path.name} of {node}: {log.unread} of {log.size} bytes belong to no whole block "
        "and were left out"
        for log in logs
        if log.unread
    ]
    ranks = {log.rank for log in logs} | set(earlier.ranks if earlier else ())
    return NodeEvents(
        node,
        _sorted(np.concatenate(rows)),
        np.concatenate(clocks),
        max(log.world_size for log in logs),
        tuple(sorted(ranks)),
        {log.path.name: log.size for log in logs} | (earlier.logs if earlier else {}),
        tuple(damages) + (earlier.damages if earlier else ()),
    )


def _sorted(rows: Rows) -> Rows:
    return rows[np.lexsort((rows["rank"], rows["begin_ns"], rows["step"]))]


def _write_node(path: Path, events: NodeEvents, segment: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with h5py.File(temporary, "w") as file:
            for name in ROW.names or ():
                column = np.ascontiguousarray(events.rows[name])
                options = {"chunks": (min(_CHUNK, len(column)),)} if len(column) else {}
                packing = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
                file.create_dataset(name, data=column, **(options | packing if options else {}))
            file.create_dataset("clock", data=events.clock)
            file.attrs.update(
                format_version=FORMAT_VERSION,
                segment=segment,
                node=events.node,
                world_size=events.world_size,
                ranks=np.array(events.ranks, dtype=np.uint32),
                kinds=json.dumps({int(kind): kind.label for kind in Kind}),
                logs=json.dumps(events.logs),
                damages=json.dumps(events.damages),
            )
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_node(path: Path) -> NodeEvents:
    with h5py.File(path, "r") as file:
        version = int(file.attrs["format_version"])
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, this code reads {FORMAT_VERSION}")
        rows = np.empty(len(file["rank"]), ROW)
        for name in ROW.names or ():
            rows[name] = file[name][:]
        return NodeEvents(
            str(file.attrs["node"]),
            rows,
            file["clock"][:],
            int(file.attrs["world_size"]),
            tuple(int(rank) for rank in file.attrs["ranks"]),
            json.loads(file.attrs["logs"]),
            tuple(json.loads(file.attrs["damages"])),
        )


def _all_nodes(parts: Sequence[NodeEvents], damages: list[str]) -> Events:
    tables = [np.empty(0, ROW)]
    nodes: dict[int, str] = {}
    for part in parts:
        rows = part.rows.copy()
        rows["begin_ns"] += part.offset_ns
        rows["end_ns"] += part.offset_ns
        tables.append(rows)
        nodes.update(dict.fromkeys(part.ranks, part.node))
        damages.extend(part.damages)
    world = max((part.world_size for part in parts), default=0)
    missing = sorted(set(range(world)) - set(nodes))
    if missing:
        some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        damages.append(f"no events of {len(missing)} of {world} ranks ({some})")
    return Events(_sorted(np.concatenate(tables)), nodes, world, tuple(damages))
