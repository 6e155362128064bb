"""The logs of a segment become one HDF5 file a node, and are read back as `Events`.

The form of the file stands in `node_events.py`, what a segment gives in `segment_events.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from alpenglow_profiling.backwards import without_backwards
from alpenglow_profiling.kind import ROW, SUM
from alpenglow_profiling.log import LogError, State, read_about, read_log
from alpenglow_profiling.node_events import (
    CLOCK,
    ROW_ORDER,
    SUM_ORDER,
    NodeEvents,
    Table,
    read_node,
    sort,
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
    for node in _brought_up_to_date(directory, ranks, []):
        if node.failure is not None:
            raise node.failure
        if remove_logs:
            for path in node.logs:
                path.unlink()
    return sorted(directory.glob("*.h5"))


def read(directory: Path, *, write: bool = True) -> Events:
    """Read what is known of a segment, merging its logs first where that is due.

    Where nothing can be written (another's run, a full disk) the logs are read directly.

    Args:
        directory: `events/SEGMENT` of a run.
        write: merge; False reads logs without leaving anything.

    Raises:
        EventsError: the directory does not exist.
    """
    if not directory.is_dir():
        raise EventsError(f"{directory}: no such folder of events")
    damages: list[str] = []
    parts: list[NodeEvents] = []
    unwritten: set[Path] = set()
    for node in _brought_up_to_date(directory, None, damages, write=write):
        if node.events is not None:
            parts.append(node.events)
            unwritten.add(node.file)
    for path in sorted({*directory.glob("*.h5")} - unwritten):
        try:
            parts.append(read_node(path))
        except (OSError, KeyError, ValueError) as error:
            damages.append(f"{path}: not a readable file of events: {error}")
    for part in parts:
        damages.extend(part.damages)
        damages.extend(without_backwards(part.outer, dict.fromkeys(part.ranks, part.node))[1])
    found = Events(tuple(parts))
    missing = sorted(set(range(found.world_size)) - set(found.nodes))
    if missing:
        some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        damages.append(f"no events of {len(missing)} of {found.world_size} ranks ({some})")
    return Events(tuple(parts), tuple(damages))


@dataclass(frozen=True)
class _Node:
    """A node that has logs."""

    file: Path
    logs: tuple[Path, ...]
    failure: OSError | None = None
    """Why its file is not up to date."""
    events: NodeEvents | None = None
    """What the file should hold, where it was not written."""


def _brought_up_to_date(
    directory: Path, ranks: Collection[int] | None, damages: list[str], *, write: bool = True
) -> Iterator[_Node]:
    """Write the file of each node whose logs have grown, reading only those, and each once."""
    for name, states in sorted(_logs_by_node(directory, ranks, damages).items()):
        file = _node_path(directory, name)
        if _holds(file, states):
            yield _Node(file, tuple(states))
            continue
        events = _join(name, list(states), file, damages)
        if not write:
            yield _Node(file, tuple(states), None, events)
            continue
        try:
            write_node(file, events, directory.name)
            yield _Node(file, tuple(states))
        except OSError as error:
            yield _Node(file, tuple(states), error, events)
        del events  # before the next node's are read


def _logs_by_node(
    directory: Path, ranks: Collection[int] | None, damages: list[str]
) -> dict[str, dict[Path, State]]:
    """Logs that can be read, with their states, by node; told by their first block where whole."""
    mine = None if ranks is None else {log_path(directory, rank) for rank in ranks}
    nodes: dict[str, dict[Path, State]] = defaultdict(dict)
    for path in sorted(directory.glob("rank-*.log")):
        if mine is not None and path not in mine:
            continue
        try:
            about = read_about(path)
            if about is None:
                log = read_log(path)
                about = log.node, log.state
            nodes[about[0]][path] = about[1]
        except LogError as error:
            damages.append(str(error))
        except OSError as error:
            damages.append(f"{path}: cannot be read: {error.strerror}")
    return dict(nodes)


def _node_path(directory: Path, node: str) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in node)
    return directory / f"{safe or 'node'}.h5"


def _holds(path: Path, logs: Mapping[Path, State]) -> bool:
    """Whether the node's file was made from these logs as they are now."""
    try:
        with h5py.File(path, "r") as file:
            sizes, tails = (json.loads(file.attrs[name]) for name in ("logs", "tails"))
    except (OSError, KeyError, ValueError):
        return False
    return all(
        sizes.get(log.name) == state.size and tails.get(log.name) == state.tail
        for log, state in logs.items()
    )


def _join(node: str, paths: Sequence[Path], file: Path, damages: list[str]) -> NodeEvents:
    """All that the logs of a node tell, and its file of ranks whose logs are no longer there."""
    outer, inner, totals, clocks = _empty(ROW), _empty(ROW), _empty(SUM), _empty(CLOCK)
    told: list[str] = []
    states: dict[str, State] = {}
    ranks: set[int] = set()
    world = every = 1
    for path in paths:
        try:
            log = read_log(path)
        except LogError as error:  # it was whole a moment ago
            damages.append(str(error))
            continue
        rows, wrong = without_backwards(log.rows, {log.rank: f"{path.name} of {node}"})
        told.extend(wrong)
        for parts, part in zip((outer, inner), split(rows), strict=True):
            parts.append(part)
        totals.append(log.sums)
        clock = np.zeros(len(log.clock), CLOCK)
        clock["rank"] = log.rank
        clock["monotonic_ns"], clock["wall_ns"] = log.clock.T
        clocks.append(clock)
        ranks.add(log.rank)
        states[path.name] = log.state
        world, every = max(world, log.world_size), max(every, log.sample_every)
        if log.unread:
            told.append(
                f"{path.name} of {node}: {log.unread} of {log.state.size} bytes belong to no whole "
                "block and were left out"
            )
    earlier = _earlier(file, ranks)
    if earlier is not None:
        for parts, part in (
            (outer, earlier.outer), (inner, earlier.spans()), (totals, earlier.sums()),
            (clocks, earlier.clock),
        ):  # fmt: skip
            parts.append(part)
        ranks.update(earlier.ranks)
        for name, size in earlier.logs.items():
            states.setdefault(name, State(size, earlier.tails.get(name, 0)))
        told.extend(earlier.damages)
    return NodeEvents(
        node,
        sort(_joined(outer), ROW_ORDER),
        _joined(clocks),
        world,
        tuple(sorted(ranks)),
        {name: state.size for name, state in states.items()},
        tuple(told),
        every,
        sort(_joined(inner), ROW_ORDER),
        sort(_joined(totals), SUM_ORDER),
        tails={name: state.tail for name, state in states.items()},
    )


def _empty(dtype: np.dtype[np.void]) -> list[Table]:
    return [np.empty(0, dtype)]


def _joined(parts: list[Table]) -> Table:
    """One table of all parts, each of which is let go once it is in it."""
    whole = np.empty(sum(map(len, parts)), parts[0].dtype)
    at = 0
    while parts:
        part = parts.pop(0)
        whole[at : at + len(part)] = part
        at += len(part)
    return whole


def _earlier(path: Path, ranks: Collection[int]) -> NodeEvents | None:
    """What the node's file holds of other ranks than these."""
    try:
        held = read_node(path)
        keep = tuple(rank for rank in held.ranks if rank not in ranks)
        if not keep:
            return None
        held = held.loaded()
    except (OSError, KeyError, ValueError):
        return None
    names = {log_path(path.parent, rank).name for rank in ranks}
    return replace(
        held,
        outer=held.outer[np.isin(held.outer["rank"], keep)],
        clock=held.clock[np.isin(held.clock["rank"], keep)],
        ranks=keep,
        logs={name: size for name, size in held.logs.items() if name not in names},
        inner=held.spans()[np.isin(held.spans()["rank"], keep)],
        totals=held.sums()[np.isin(held.sums()["rank"], keep)],
    )
