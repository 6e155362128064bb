"""The logs of a segment become one HDF5 file a node, and are read back as `Events`.

The form of the file stands in `node_events.py`, what a segment gives in `segment_events.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from alpenglow_profiling.log import Log, LogError, read_log
from alpenglow_profiling.node_events import (
    CLOCK,
    NodeEvents,
    read_node,
    sorted_rows,
    sorted_sums,
    split,
    write_node,
)
from alpenglow_profiling.recorder import log_path
from alpenglow_profiling.segment_events import Events


class EventsError(ValueError):
    """Events that cannot be read; the message is one sentence."""


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
            write_node(path, _join(node, parts, _earlier(path, parts)), directory.name)
        if remove_logs:
            for log in parts:
                log.path.unlink()
    return sorted(directory.glob("*.h5"))


def read(directory: Path) -> Events:
    """Read what is known of a segment, merging its logs first where that is due.

    Where nothing can be written (another's run, a full disk) the logs are read directly.

    Args:
        directory: `events/SEGMENT` of a run.

    Raises:
        EventsError: the directory does not exist.
    """
    if not directory.is_dir():
        raise EventsError(f"{directory}: no such folder of events")
    parts: list[NodeEvents] = []
    logs, damages = _read_logs(directory)
    by_node = _by_node(logs)
    try:
        merge(directory)
        by_node = {}
    except OSError:
        parts = [_join(node, of_node, None) for node, of_node in by_node.items()]
    for path in sorted(directory.glob("*.h5")):
        if path.stem in by_node:
            continue
        try:
            parts.append(read_node(path))
        except (OSError, KeyError, ValueError) as error:
            damages.append(f"{path}: not a readable file of events: {error}")
    for part in parts:
        damages.extend(part.damages)
    found = Events(tuple(parts))
    missing = sorted(set(range(found.world_size)) - set(found.nodes))
    if missing:
        some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        damages.append(f"no events of {len(missing)} of {found.world_size} ranks ({some})")
    return Events(tuple(parts), tuple(damages))


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
        held = read_node(path).loaded()
    except (OSError, KeyError, ValueError):
        return None
    ranks = {log.rank for log in logs}
    keep = tuple(rank for rank in held.ranks if rank not in ranks)
    if not keep:
        return None
    names = {log.path.name for log in logs}
    assert held.inner is not None and held.totals is not None  # loaded
    return NodeEvents(
        held.node,
        held.outer[np.isin(held.outer["rank"], keep)],
        held.clock[np.isin(held.clock["rank"], keep)],
        held.world_size,
        keep,
        {name: size for name, size in held.logs.items() if name not in names},
        held.damages,
        held.sample_every,
        held.inner[np.isin(held.inner["rank"], keep)],
        held.totals[np.isin(held.totals["rank"], keep)],
    )


def _join(node: str, logs: Sequence[Log], earlier: NodeEvents | None) -> NodeEvents:
    outer, inner = split(np.concatenate([log.rows for log in logs]))
    totals = [log.sums for log in logs]
    clocks = []
    if earlier is not None:
        outer = np.concatenate([outer, earlier.outer])
        inner = np.concatenate([inner, earlier.spans()])
        totals.append(earlier.sums())
        clocks.append(earlier.clock)
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
        sorted_rows(outer),
        np.concatenate(clocks),
        max(log.world_size for log in logs),
        tuple(sorted(ranks)),
        {log.path.name: log.size for log in logs} | (earlier.logs if earlier else {}),
        tuple(damages) + (earlier.damages if earlier else ()),
        max(log.sample_every for log in logs),
        sorted_rows(inner),
        sorted_sums(np.concatenate(totals)),
    )
