"""Energy and power of a segment, from its samples, with how each figure was found.

    from alpenglow_profiling.energy import segment_power

    found = segment_power(run / "samples" / segment)
    for node in found.nodes:
        print(node.node, node.mwh, node.how)
    found.curve["time_ns"], found.curve["power_w"]

The difference of a device's energy counter is exact whatever lay between two samples, so it comes
first. Where the counter fell (a driver that was reloaded) or is absent, power is integrated by the
trapezoid rule. A gap of more than `LONGEST_GAP` sampling periods is not bridged by power: its
seconds are missing in `covered_s`. What is not known is nan, never 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alpenglow_profiling.samples import Samples, each

J_PER_MWH = 3.6e9
LONGEST_GAP = 5.0
CURVE: np.dtype[np.void] = np.dtype([("time_ns", "<i8"), ("power_w", "<f8"), ("devices", "<u4")])
How = Literal["counter", "power", "counter and power", "unknown"]
Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Energy:
    """Energy of one device in one segment."""

    node: str
    device: int
    """-1: the host."""
    joules: float
    """nan where `how` is "unknown"."""
    how: How
    covered_s: float
    """Seconds whose energy is in `joules`."""
    span_s: float
    """Seconds between the first and the last sample."""
    resets: int
    """How often the counter fell."""


@dataclass(frozen=True)
class NodeEnergy:
    """Energy of one node in one segment."""

    node: str
    mwh: float
    """Of the devices that are known; nan where none is."""
    how: How
    """"counter and power" where devices differ."""
    devices: tuple[Energy, ...]
    unknown: tuple[int, ...]
    """Devices that are in the samples but not in `mwh` (-1: the host)."""


@dataclass(frozen=True)
class SegmentPower:
    """Energy and power of a segment."""

    nodes: tuple[NodeEnergy, ...]
    curve: np.ndarray[Any, np.dtype[np.void]]
    """As of `power_curve`."""
    notes: tuple[str, ...]
    """What was not sampled; a sentence each."""
    damages: tuple[str, ...]
    """What was sampled and could not be read; a sentence each."""

    @property
    def mwh(self) -> float:
        """Of what is known; nan where nothing is."""
        known = [node.mwh for node in self.nodes if node.how != "unknown"]
        return sum(known) if known else np.nan


def segment_power(directory: Path, period_s: float = 10.0, *, write: bool = True) -> SegmentPower:
    """Read a segment node by node, so that it fits memory whatever its length.

    Args:
        directory: `samples/SEGMENT` of a run.
        period_s: seconds of a point of the curve.
        write: False reads logs without leaving anything, as while the segment runs.

    Raises:
        SamplesError: the directory does not exist.
    """
    nodes: list[NodeEnergy] = []
    curves = [np.zeros(0, CURVE)]
    notes: list[str] = []
    damages: list[str] = []
    for samples in each(directory, ("power_w", "energy_j"), write=write):
        nodes.extend(energy_mwh(samples))
        curves.append(power_curve(samples, period_s))
        notes.extend(samples.notes)
        damages.extend(samples.damages)
    return SegmentPower(tuple(nodes), _added(np.concatenate(curves)), tuple(notes), tuple(damages))


def energy(samples: Samples) -> tuple[Energy, ...]:
    """Energy of every device of every node."""
    found = []
    for node, device, rows in _devices(samples):
        time = (rows["time_ns"] - rows["time_ns"][0]) / 1e9
        counter, power = rows["energy_j"], rows["power_w"].astype(np.float64)
        joules, covered, how, resets = _of_device(time, counter, power)
        found.append(
            Energy(samples.nodes[node], device, joules, how, covered, float(time[-1]), resets)
        )
    return tuple(found)


def energy_mwh(samples: Samples) -> tuple[NodeEnergy, ...]:
    """Energy of every node, by name."""
    by_node: dict[str, list[Energy]] = {node: [] for node in samples.nodes}
    for device in energy(samples):
        by_node[device.node].append(device)
    found = []
    for node, devices in by_node.items():
        known = [device for device in devices if device.how != "unknown"]
        hows = {device.how for device in known}
        how: How = "unknown" if not known else "counter and power"
        found.append(
            NodeEnergy(
                node,
                sum(device.joules for device in known) / J_PER_MWH if known else np.nan,
                hows.pop() if len(hows) == 1 else how,
                tuple(devices),
                tuple(device.device for device in devices if device.how == "unknown"),
            )
        )
    return tuple(found)


def power_curve(samples: Samples, period_s: float = 10.0) -> np.ndarray[Any, np.dtype[np.void]]:
    """Power of all nodes over time.

    Args:
        samples: of a segment.
        period_s: seconds of one point; points lie at multiples of it, whatever the nodes.

    Returns:
        One row a period in which anything was known: `time_ns` (its middle, wall clock), `power_w`
        (sum over devices of each one's mean power in the period), `devices` (how many that are).
        Fewer devices than in the row before mean that some were not sampled, not that they rested.
    """
    rows = samples.rows[np.isfinite(samples.rows["power_w"])]
    period = round(period_s * 1e9)
    bins = rows["time_ns"] // period
    # One number a (node, device); the host's device is -1.
    source = rows["node"].astype(np.int64) * (1 << 16) + rows["device"].astype(np.int64) + 1
    begin = bins.min() if len(bins) else 0
    keys, where = np.unique((bins - begin) * (1 << 32) + source, return_inverse=True)
    points = np.zeros(len(keys), CURVE)
    points["time_ns"] = ((keys >> 32) + begin) * period + period // 2
    points["power_w"] = np.bincount(where, rows["power_w"]) / np.bincount(where)
    points["devices"] = 1
    return _added(points)


def _added(points: np.ndarray[Any, np.dtype[np.void]]) -> np.ndarray[Any, np.dtype[np.void]]:
    """One row a time, with the sums of its points."""
    moments, at = np.unique(points["time_ns"], return_inverse=True)
    curve = np.zeros(len(moments), CURVE)
    curve["time_ns"] = moments
    curve["power_w"] = np.bincount(at, points["power_w"], len(moments))
    curve["devices"] = np.bincount(at, points["devices"], len(moments))
    return curve


def _devices(samples: Samples) -> Iterator[tuple[int, int, np.ndarray[Any, np.dtype[np.void]]]]:
    """(node, device, its rows by time); rows are sorted by node and device."""
    rows = samples.rows
    changes = (np.diff(rows["node"]) != 0) | (np.diff(rows["device"]) != 0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(rows)]
    for begin, end in itertools.pairwise(edges):
        if end > begin:
            yield int(rows["node"][begin]), int(rows["device"][begin]), rows[begin:end]


def _of_device(time: Numbers, counter: Numbers, power: Numbers) -> tuple[float, float, How, int]:
    """(joules, seconds they cover, how, times the counter fell)."""
    told = np.flatnonzero(np.isfinite(counter))
    longest = LONGEST_GAP * float(np.median(np.diff(time))) if len(time) > 1 else 0.0
    joules = counted = integrated = 0.0
    resets = 0
    pieces = []  # [from, to] in samples, for which the counter says nothing
    if len(told) < 2:
        pieces.append((0, len(time) - 1))
    else:
        rise = np.diff(counter[told])
        seconds = np.diff(time[told])
        good = rise >= 0
        joules, counted = float(rise[good].sum()), float(seconds[good].sum())
        resets = int((~good).sum())
        pieces += [(told[i], told[i + 1]) for i in np.flatnonzero(~good)]
        pieces += [(0, told[0]), (told[-1], len(time) - 1)]
    for begin, end in pieces:
        piece = slice(begin, end + 1)
        known = np.isfinite(power[piece])
        moments, watts = time[piece][known], power[piece][known]
        steps = np.diff(moments)
        near = steps <= longest
        joules += float(((watts[1:] + watts[:-1]) / 2 * steps)[near].sum())
        integrated += float(steps[near].sum())
    if not counted and not integrated:
        return np.nan, 0.0, "unknown", resets
    how: How = "counter and power"
    if not integrated:
        how = "counter"
    elif not counted:
        how = "power"
    return joules, counted + integrated, how, resets
