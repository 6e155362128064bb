"""Power and energy of a run, from the samples of its segments; None where there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.run import Run
from alpenglow_analysis.style import FAINT, figure, grid
from alpenglow_profiling.energy import J_PER_MWH, segment_power

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 1200


@dataclass(frozen=True)
class Power:
    """What the samples of a run say."""

    time_s: npt.NDArray[np.float64]
    """[points]: seconds since the first segment started."""
    watts: npt.NDArray[np.float64]
    """[points]: of all sampled devices together."""
    devices: npt.NDArray[np.int64]
    """[points]: how many devices that is; fewer than before says that some were not sampled."""
    joules: dict[str, float | None]
    """Energy of each segment, all its charged nodes at the mean power of those that were sampled;
    None where nothing is known of it."""
    how: str
    """From which counter or curve."""
    nodes: int
    """Nodes that were sampled."""
    covered: float
    """Share of the charged node-hours whose energy was measured."""
    notes: tuple[str, ...]
    """What was not sampled, or could not be read; a sentence each."""

    @property
    def mwh(self) -> float:
        """Energy of the segments that were sampled."""
        return sum(value for value in self.joules.values() if value is not None) / J_PER_MWH


def power(run: Run, *, write: bool = True) -> Power | None:
    """Add up the samples of the run's own segments; None where none holds an energy.

    Args:
        run: the run.
        write: False leaves nothing in its directory, as for a run that is still going on.
    """
    zero = run.segments[0].started
    charged_s = sum(segment.elapsed_ns for segment in run.segments) / 1e9
    curves: list[tuple[Any, Any, Any]] = []
    notes: list[str] = []
    hows: set[str] = set()
    nodes: set[str] = set()
    joules: dict[str, float | None] = {}
    covered_hours = 0.0
    for segment in run.segments:
        joules[segment.name] = None
        folder = run.path / "samples" / segment.name
        if not folder.is_dir():
            continue
        found = segment_power(folder, max(10.0, charged_s / MOST_POINTS), write=write)
        notes += [
            f"samples of segment {segment.name}: {text}" for text in found.damages + found.notes
        ]
        curve = found.curve
        curves.append((curve["time_ns"] / 1e9 - zero, curve["power_w"], curve["devices"]))
        known = [node for node in found.nodes if np.isfinite(node.mwh)]
        hours = 0.0
        for node in known:
            devices = [device for device in node.devices if device.how != "unknown"]
            hours += sum(device.covered_s for device in devices) / len(devices) / 3600
            nodes.add(node.node)
            hows.add(node.how)
        if known and hours:
            measured = sum(node.mwh for node in known) * J_PER_MWH
            # What lies before, between and after the samples of a segment goes on at their mean.
            joules[segment.name] = measured * max(1.0, segment.node_hours / hours)
            covered_hours += min(hours, segment.node_hours)
    if not nodes or not curves:
        return None
    charged = sum(segment.node_hours for segment in run.segments)
    parts: list[Any] = [np.concatenate(part) for part in zip(*curves, strict=True)]
    return Power(
        parts[0],
        parts[1],
        parts[2].astype(np.int64),
        joules,
        " and ".join(sorted(hows)),
        len(nodes),
        covered_hours / charged if charged else 0.0,
        tuple(dict.fromkeys(notes)),
    )


def power_figure(run: Run, found: Power) -> Figure:
    """Draw power over the time of the run, and how many devices it is the sum of."""
    span = float(found.time_s[-1]) if len(found.time_s) else 0.0
    scale, unit = (3600.0, "hours") if span >= 3 * 3600 else (60.0, "minutes")
    if span < 180:
        scale, unit = 1.0, "s"
    factor, watts = (1e6, "MW") if found.watts.max() >= 1e6 else (1e3, "kW")
    if found.watts.max() < 1e3:
        factor, watts = 1.0, "W"
    made = figure(2.9)
    axes = made.add_subplot()
    gaps = (
        np.flatnonzero(np.diff(found.time_s) > 5 * np.median(np.diff(found.time_s))) + 1
        if (len(found.time_s) > 2)
        else np.zeros(0, np.int64)
    )
    for part in np.split(np.arange(len(found.time_s)), gaps):
        x, y = found.time_s[part] / scale, found.watts[part] / factor
        axes.fill_between(x, y, color="#56B4E9", alpha=0.25, lw=0)
        axes.plot(x, y, color="#0072B2", lw=1.2)
    for segment in run.segments[1:]:
        axes.axvline(
            (segment.started - run.segments[0].started) / scale, color=FAINT, lw=0.9,
            ls=(0, (2, 2)),
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_ylabel(f"power ({watts})")
    axes.set_xlabel(f"{unit} since the first job began")
    many = int(found.devices.max()) if len(found.devices) else 0
    axes.set_title(f"Power of {many:,} sampled device{'' if many == 1 else 's'}")
    grid(axes, "both")
    return made
