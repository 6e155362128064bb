"""Runs as they come back from machines on a bad day, made from whole ones.

    DAMAGES["a node file is missing"](run)     changes the run directory in place

Each maker takes a run whose events are node files and returns a text that a damage sentence of the
run holds afterwards, or None where reading alone cannot know.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from alpenglow_profiling.node_events import read_node, write_node

Damage = Callable[[Path], str | None]


def node_files(run: Path) -> list[Path]:
    """Node files of the first segment."""
    return sorted(min((run / "events").iterdir()).glob("*.h5"))


def miss_a_node(run: Path) -> str:
    """One node's file was never copied."""
    path = node_files(run)[1]
    ranks = read_node(path).ranks
    path.unlink()
    return f"no events of {len(ranks)} of"


def cut_a_node_file(run: Path) -> str:
    """One node's file ends in the middle."""
    path = node_files(run)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return f"{path}: not a readable file of events"


def cut_a_column(run: Path) -> str:
    """One node's file lacks a column: a copy that was made of parts."""
    path = node_files(run)[0]
    with h5py.File(path, "r+") as file:
        del file["sums/rank"]
    return f"{path}: not a readable file of events"


def mix_versions(run: Path) -> str:
    """One node's file is of the first version, one of a version to come."""
    old, new = node_files(run)[:2]
    write_version_1(old)
    with h5py.File(new, "r+") as file:
        file.attrs["format_version"] = 99
    return "format version 99"


def write_version_1(path: Path) -> None:
    """Write a node's file again as the first version was: one table of spans, no sums."""
    held = read_node(path).loaded()
    rows = np.concatenate([held.outer, held.spans()])
    rows = rows[np.lexsort((rows["begin_ns"], rows["rank"]))]
    with h5py.File(path, "r") as file:
        attributes = {name: file.attrs[name] for name in file.attrs if name != "sample_every"}
    with h5py.File(path, "w") as file:
        for name in rows.dtype.names or ():
            file.create_dataset(name, data=rows[name])
        file.create_dataset("clock", data=held.clock)
        file.attrs.update(attributes | {"format_version": 1})


def run_clocks_backwards(run: Path) -> None:
    """One node's clock was set back while it ran: spans that end before they begin."""
    path = node_files(run)[0]
    held = read_node(path).loaded()
    assert held.inner is not None
    middle = np.median(held.inner["begin_ns"])
    for rows in (held.inner, held.outer):
        across = (rows["begin_ns"] <= middle) & (rows["end_ns"] > middle)
        rows["end_ns"][across] -= 10**10
        rows["begin_ns"][rows["begin_ns"] > middle] -= 10**10
        rows["end_ns"][(rows["begin_ns"] <= middle) & (rows["end_ns"] > middle)] -= 10**10
    write_node(path, held, path.parent.name)


DAMAGES: dict[str, Damage] = {
    "a node file is missing": miss_a_node,
    "a node file is cut": cut_a_node_file,
    "a node file lacks a column": cut_a_column,
    "versions are mixed": mix_versions,
    "a clock runs backwards": run_clocks_backwards,
}
