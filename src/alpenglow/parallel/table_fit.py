"""One table of a machine file fitted to measured points: `[gpu]` or `[links]`.

Torch-free. Which constants there are to fit, what the model says of points under them, and how far
off it is: on all points, and on a third that was held out of a fit to the rest.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from alpenglow.parallel import curve_points
from alpenglow.parallel.hardware import DEFAULTS, Hardware
from alpenglow.parallel.robust_fit import Constant, Errors, Estimate, Fit, errors
from alpenglow.parallel.work import BYTES
from alpenglow_lsf.machine import Machine
from alpenglow_profiling.curve import CurveError

SHARES = ("sustained", "stream", "transposed", "transposed_stream", "fused_attention")
LEAST_S = {"gpu": 1e-7, "cpu": 1e-8}
"""A trip to memory takes at least that, and so does a kernel."""
Point = tuple[str, Mapping[str, Any]]
"""Curve, and a point of it."""


@dataclass(frozen=True)
class TableFit:
    """What was fitted of one table of a machine file."""

    table: str
    estimates: tuple[Estimate, ...]
    left: tuple[str, ...]
    """Constants that nothing was learnt of: they stay as they were."""
    errors: Errors
    """Of all points, which the numbers were fitted to."""
    held_out: Errors
    """Of the third that was left out of a fit to the other two."""
    parts: Mapping[str, Errors] = field(default_factory=dict)
    """Errors by what was timed."""
    worst: str = ""
    """The point that is worst predicted."""


def gpu_constants(machine: Machine, cpu: bool = False) -> list[Constant]:
    """Constants of `[gpu]` to fit, beginning at the machine's own."""
    gpu = machine.gpu or DEFAULTS
    least = LEAST_S["cpu" if cpu else "gpu"]
    found = [Constant(n, getattr(gpu, n), 0.01, 1.0) for n in SHARES]
    found.append(Constant("cache_ratio", gpu.cache_ratio, 0.2, 50.0))
    return found + [
        Constant(n, getattr(gpu, n), least, 1e-2) for n in ("fill_seconds", "kernel_seconds")
    ]


def link_constants(
    machine: Machine, points: Sequence[Point], each: int, dtype: str
) -> list[Constant]:
    """Constants of `[links]` to fit: those of links that points go over."""
    links = machine.target.links
    hardware = Hardware.of(machine, 2 * each, dtype)
    if links is None:
        return []
    kinds = {curve_points.link(hardware, point, each) for _, point in points}
    gloo = links.library == "gloo"
    rates = {"nvlink": "nvlink", "bus": "socket", "network": "network"}
    found = []
    latencies = ["start_seconds"]
    for kind in ("nvlink", "bus", "network"):
        if kind in kinds:
            found.append(Constant(rates[kind], getattr(links, rates[kind]), 1e6, 1e13))
            latencies.append(f"{rates[kind]}_seconds")
    alone = {"network"} & kinds and each > 1 and any(p["on_node"] == 1 for _, p in points)
    if alone:
        port = links.network_port or links.network
        found.append(Constant("network_port", port, 1e6, 1e13))
    if any(point["what"] in curve_points.MESSAGES for _, point in points):
        latencies.append("message_seconds")
    usual = {"start_seconds": 8.4e-6, "message_seconds": 8.4e-6, "nvlink_seconds": 3.4e-6}
    usual |= {"socket_seconds": 5.7e-6, "network_seconds": 9.6e-6}
    for name in latencies:
        start = getattr(links, name) or (1e-4 if gloo else usual[name])
        found.append(Constant(name, start, 1e-8, 1.0))
    return found


def fitted(machine: Machine, table: str, values: Mapping[str, float]) -> Machine:
    """The machine with constants of one table replaced."""
    target, rates = machine.target, cast(dict[str, Any], values)
    if table == "gpu":
        return replace(target, gpu=replace(target.gpu or DEFAULTS, **rates))
    links = target.links
    return target if links is None else replace(target, links=replace(links, **rates))


def predict(
    machine: Machine, table: str, points: Sequence[Point], each: int, dtype: str,
    values: Mapping[str, float],
) -> list[float]:  # fmt: skip
    """Seconds of each point on the machine with these constants."""
    hardware = Hardware.of(fitted(machine, table, values), 1 << 30, dtype)
    return [
        curve_points.seconds(hardware, curve, point, BYTES[dtype], each) for curve, point in points
    ]


def fit_table(
    machine: Machine,
    table: str,
    points: Sequence[Point],
    constants: Sequence[Constant],
    each: int,
    dtype: str,
) -> tuple[Machine, TableFit]:
    """Fit one table: to two thirds of the points, for the error on the rest, and then to all.

    Args:
        machine: where to begin; its data-sheet numbers hold.
        table: gpu or links.
        points: measured.
        constants: to fit.
        each: ranks of a node in the measured job.
        dtype: of the elements.

    Raises:
        CurveError: too few points.
        MachineError: the file lacks GPUs, links or a peak.
    """
    if len(points) < 3 * len(constants):
        raise CurveError(
            f"[{table}]: {len(points)} points are too few for {len(constants)} constants: give "
            "the curves a larger budget_s in jobs/calibrate.toml"
        )
    order = list(range(len(points)))
    random.Random(3).shuffle(order)
    shown = [points[i] for i in sorted(order[len(order) // 3 :])]
    hidden = [points[i] for i in sorted(order[: len(order) // 3])]

    def seconds(of: Sequence[Point]) -> list[float]:
        return [float(point["seconds"]) for _, point in of]

    model = partial(predict, machine, table)
    first = Fit(lambda v: model(shown, each, dtype, v), seconds(shown), constants)
    held_out = errors(model(hidden, each, dtype, first.values), seconds(hidden))
    again = [replace(c, start=first.values[c.name]) for c in constants if c.name in first.learnt]
    fit = Fit(
        lambda v: model(points, each, dtype, v), seconds(points), again, starts=1, screen=False
    )
    known = {name: fit.values[name] for name in fit.learnt}
    predicted = model(points, each, dtype, known)
    all_of_them = errors(predicted, seconds(points))
    parts: dict[str, list[float]] = {}
    for (curve, point), value in zip(points, all_of_them.values, strict=True):
        name = str(point["what"]) if curve == "network" else curve
        parts.setdefault(name, []).append(value)
    at = max(range(len(points)), key=lambda i: abs(all_of_them.values[i]))
    return fitted(machine, table, known), TableFit(
        table,
        tuple(fit.estimates()),
        tuple(c.name for c in constants if c.name not in known),
        all_of_them,
        held_out,
        {name: Errors(tuple(values)) for name, values in parts.items()},
        named(*points[at]),
    )


def named(curve: str, point: Mapping[str, Any]) -> str:
    """A point in words."""
    if curve == "products":
        many = f"{point['batch']} x " if point.get("batch", 1) > 1 else ""
        kind = f"{point['transposed_a']}{point['transposed_b']}"
        return f"{many}{point['m']}x{point['n']}x{point['k']} {kind}"
    keys = ("what", "group", "ranks", "pass", "sequence", "bytes")
    return " ".join(str(point[key]) for key in keys if key in point)
