"""Power and energy of a run, from the samples of its segments; None where there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.run import Run
from alpenglow_analysis.style import FAINT, figure, grid
from alpenglow_profiling.energy import energy_mwh, power_curve
from alpenglow_profiling.samples import Samples, SamplesError, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 1200
_COLUMNS = ("power_w", "energy_j")


@dataclass(frozen=True)
class Power:
    """What the samples of a run say."""

    time_s: npt.NDArray[np.float64]
    """[points]: seconds since the first segment started."""
    watts: npt.NDArray[np.float64]
    """[points]: of all sampled devices together."""
    devices: npt.NDArray[np.int64]
    """[points]: how many devices that is; fewer than before says that some were not sampled."""
    mwh: float
    """Energy of what was sampled, in MWh; nan where nothing is known of it."""
    how: str
    """From which counter or curve."""
    nodes: int
    """Nodes whose energy is in `mwh`."""
    covered: float
    """Share of the charged node-hours whose energy is in `mwh`."""
    notes: tuple[str, ...]
    """What was not sampled, or could not be read; a sentence each."""

    @property
    def whole_mwh(self) -> float:
        """Energy of everything that was charged, at the mean power of what was sampled."""
        return self.mwh / self.covered if self.covered > 0 else float("nan")


def power(run: Run, *, write: bool = True) -> Power | None:
    """Add up the samples of the run's own segments; None where none holds a power or an energy.

    Args:
        run: the run.
        write: False leaves nothing in its directory, as for a run that is still going on.
    """
    zero = run.segments[0].started
    curves, hows = [], set()
    notes: list[str] = []
    joules, covered_hours, nodes = 0.0, 0.0, set()
    for segment in run.segments:
        samples = _samples(run, segment.name, notes, write)
        if samples is None:
            continue
        period = max(1.0, segment.elapsed_ns / 1e9 / MOST_POINTS * len(run.segments))
        curve = power_curve(samples, period)
        curves.append((curve["time_ns"] / 1e9 - zero, curve["power_w"], curve["devices"]))
        for node in energy_mwh(samples):
            if np.isfinite(node.mwh):
                known = [device for device in node.devices if device.how != "unknown"]
                joules += node.mwh
                covered_hours += sum(device.covered_s for device in known) / len(known) / 3600
                nodes.add(node.node)
                hows.add(node.how)
    if not curves or not nodes:
        return None
    charged = sum(segment.node_hours for segment in run.segments)
    time_s, watts, devices = (np.concatenate(part) for part in zip(*curves, strict=True))
    return Power(
        time_s,
        watts,
        devices.astype(np.int64),
        joules,
        " and ".join(sorted(hows)),
        len(nodes),
        min(1.0, covered_hours / charged) if charged else 0.0,
        tuple(dict.fromkeys(notes)),
    )


def _samples(run: Run, segment: str, notes: list[str], write: bool) -> Samples | None:
    try:
        samples = read(run.path / "samples" / segment, _COLUMNS, write=write)
    except SamplesError:
        return None
    notes += [f"samples of segment {segment}: {text}" for text in samples.damages + samples.notes]
    return samples if len(samples.rows) else None


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
