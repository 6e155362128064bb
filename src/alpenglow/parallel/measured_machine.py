"""Machine files with measured numbers: an old file edited, or a machine described from its curves.

Torch-free. Editing touches the lines of the keys that were measured and no other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from alpenglow.parallel.collectives import NETWORK_SHARE, NVLINK_SHARE
from alpenglow_lsf.machine import (
    Bin,
    GpuRates,
    Links,
    Machine,
    MachineError,
    Node,
    Queue,
    Signals,
    load,
)
from alpenglow_profiling.curve import Curve, CurveError

Tables = Mapping[str, Mapping[str, tuple[float, str]]]
"""Table -> key -> value and the comment behind it."""
FREE = 1.5
"""How far above the best measured product the peak is taken while the rate is fitted."""


def number(value: Any) -> str:
    """Write a value as a machine file has it: four digits, powers of thousand."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(number, value))}]"
    if isinstance(value, int):
        return str(value)
    for power in (12, 9, 6, -6, -9):
        scaled = value / 10.0**power
        if (power > 0 and scaled >= 1) or (power < 0 and abs(value) < 1e-3 and scaled >= 1):
            return f"{scaled:.4g}e{power}"
    return f"{value:.4g}"


def blank(curves: Mapping[str, Curve], name: str) -> Machine:
    """A machine as its curves' headers and best points describe it, constants still a guess.

    Its ranks count as GPUs: on CPUs too, each with its share of the node's memory, joined by a
    switch, since any rank reaches any other.

    Raises:
        CurveError: products or copies were not measured.
    """
    for needed in ("products", "copies"):
        if needed not in curves:
            raise CurveError(f"no {needed} were measured, and nothing else says how fast it is")
    header = curves["products"].header
    each, cpu = int(header["each"]), header["device"] == "cpu"
    best = max(_flops(point) / float(point["seconds"]) for point in curves["products"].points)
    bandwidth = max(p["bytes"] / p["seconds"] for p in curves["copies"].points)
    socket = int(header["socket"])
    sockets = each // socket if not cpu and socket and each % socket == 0 else 1
    cores = int(header["cores"]) // sockets * sockets
    rates = {"node": 0.0, "nodes": 0.0}
    if "network" in curves:
        for point in curves["network"].points:
            local = int(point["first"]) % each
            inside = local + (point["ranks"] - 1) * point["stride"] < each
            kind = "node" if inside else "nodes"
            rates[kind] = max(rates[kind], float(point["bus_rate"]))
    link = (rates["node"] or rates["nodes"] or bandwidth) / NVLINK_SHARE
    network = rates["nodes"] / NETWORK_SHARE or link
    count = len(header["hosts"])
    return Machine(
        name=name,
        description=f"{header['device']}, {each} ranks a node",
        scheduler="local",
        node=Node(
            nodes=count,
            cores=max(sockets, cores),
            sockets=sockets,
            smt=1,
            gpus=each,
            memory_bytes=float(header["memory_bytes"]),
            gpu_memory_bytes=float(
                header.get("device_memory_bytes") or header["memory_bytes"] / each
            ),
            gpu_memory_bandwidth=bandwidth,
        ),
        peak_flops={header["dtype"]: FREE * best},
        links=Links(
            network=network,
            nvlink=link,
            socket=link if sockets > 1 else None,
            network_port=network,
            switched=cpu,
            library=header["backend"],
        ),
        gpu=GpuRates(
            multiprocessors=int(header.get("multiprocessors") or header["threads"]),
            sustained=1 / FREE,
            stream=0.8,
            cache_ratio=3.0,
            fill_seconds=1e-6,
            kernel_seconds=3e-6,
        ),
        signals=Signals(10, 10),
        queues=(Queue("batch", (Bin((1, count), 24),), chains=True),),
    )


def settled(machine: Machine, dtype: str, best: float) -> Machine:
    """The machine with the peak that was measured: the best product, or the rate of its loop."""
    gpu = machine.gpu
    if gpu is None:
        return machine
    rate = machine.peak_flops[dtype] * gpu.sustained
    peak = max(rate, best)
    return replace(
        machine, peak_flops={dtype: peak}, gpu=replace(gpu, sustained=min(1.0, rate / peak))
    )


def best_product(curve: Curve) -> float:
    """FLOP/s of the fastest product."""
    return max(_flops(point) / float(point["seconds"]) for point in curve.points)


def _flops(point: Mapping[str, Any]) -> float:
    m, n, k, batch = (int(point[key]) for key in ("m", "n", "k", "batch"))
    return 2.0 * batch * m * n * k


def described(machine: Machine, comments: Tables, origin: str) -> str:
    """A whole machine file."""
    lines = [
        f"# {origin}",
        "# Bytes, bytes a second, FLOP/s, seconds. Queue and signals hold places only.",
    ]
    own = {k: getattr(machine, k) for k in ("name", "description", "scheduler")}
    lines += [f"{key} = {number(value)}" for key, value in own.items()]
    tables: dict[str, Any] = {
        "node": machine.node,
        "peak_flops": dict(machine.peak_flops),
        "links": machine.links,
        "gpu": machine.gpu,
        "signals": machine.signals,
    }
    for table, values in tables.items():
        lines += ["", f"[{table}]"]
        plain = values if isinstance(values, dict) else _plain(values)
        for key, value in plain.items():
            comment = comments.get(table, {}).get(key, (0.0, ""))[1]
            lines.append(f"{key} = {number(value)}" + (f"  # {comment}" if comment else ""))
    queue = machine.queues[0]
    most = queue.bins[0].nodes[1]
    lines += [
        "", "[[queues]]", f'name = "{queue.name}"', "chains = true",
        f"bins = [{{ nodes = [1, {most}], hours = 24 }}]",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _plain(table: Any) -> dict[str, Any]:
    found = {spec.name: getattr(table, spec.name) for spec in fields(table)}
    return {key: value for key, value in found.items() if value is not None and value != ()}


def edited(text: str, tables: Tables) -> str:
    """A machine file's text with measured numbers in place of its own; all else as it was."""
    lines = text.splitlines()
    for table, values in tables.items():
        begin = next(
            (i for i, line in enumerate(lines) if re.match(rf"\[{table}\]\s*(#|$)", line)), None
        )
        if begin is None:
            lines += ["", f"[{table}]"]
            begin = len(lines) - 1
        for key, (value, comment) in values.items():
            end = next(
                (i for i in range(begin + 1, len(lines)) if lines[i].startswith("[")), len(lines)
            )
            place = next(
                (i for i in range(begin + 1, end) if re.match(rf"{key}\s*=", lines[i])), None
            )
            line = f"{key} = {number(value)}"
            if place is None:
                last = max(i for i in range(begin, end) if lines[i].strip())
                lines.insert(last + 1, f"{line}  # {comment}")
                continue
            was = lines[place].partition("=")[2].partition("#")[0].strip()
            lines[place] = f"{line}  # {comment}; was {was}"
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> Machine:
    """Write a machine file that can be read, or none.

    Raises:
        MachineError: the text is no machine.
        OSError: the folder takes no file.
    """
    if path.suffix != ".toml":
        raise MachineError(f"{path}: the name of a machine file ends in .toml")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.toml")
    try:
        temporary.write_text(text, encoding="utf-8")
        machine = load(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return machine
