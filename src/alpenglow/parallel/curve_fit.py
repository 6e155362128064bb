"""The few constants of a machine from its curves: `python -m alpenglow.parallel.curve_fit`.

    python -m alpenglow.parallel.curve_fit runs/calibrate/17 --machine summit --write summit.toml
    python -m alpenglow.parallel.curve_fit runs/calibrate/17 --write here.toml     # described anew

Torch-free. RUN holds what jobs/calibrate.lsf measured (alpenglow_profiling.curves). `[gpu]` is
fitted to products, copies and attention together with the model of alpenglow.parallel.gemm and
kernels, `[links]` to collectives and messages with that of collectives and spans. A third of the
points is held out first and predicted; then all are fitted, for the numbers that are written. With
--machine the file of that machine gets them, every other line as it was; without, the machine is
described as it was measured, its ranks as GPUs, on CPUs too.

On a CPU nothing hides what the host does: there a kernel's least time is what an operation of a
layer takes through autograd, call and all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpenglow.parallel.hardware import DEFAULTS
from alpenglow.parallel.measured_machine import (
    Tables,
    best_product,
    blank,
    described,
    edited,
    number,
    settled,
    write,
)
from alpenglow.parallel.robust_fit import Estimate
from alpenglow.parallel.table_fit import (
    Point,
    TableFit,
    fit_table,
    gpu_constants,
    link_constants,
)
from alpenglow_lsf.machine import Machine, MachineError, folder, load
from alpenglow_profiling.curve import SUFFIX, Curve, CurveError, newest

GPU_CURVES = ("products", "copies", "attention")


@dataclass(frozen=True)
class MachineFit:
    """A machine as its curves have it."""

    machine: Machine
    tables: tuple[TableFit, ...]
    notes: tuple[str, ...]
    run: str
    date: str
    dtype: str

    def numbers(self) -> dict[str, dict[str, tuple[float, str]]]:
        """What goes into the file, with its comments."""
        found: dict[str, dict[str, tuple[float, str]]] = {}
        for each in self.tables:
            now = getattr(self.machine, each.table)
            stated = (
                f"fit error {each.errors.mean:.1%} mean, {each.errors.worst:+.0%} worst, "
                f"{each.held_out.mean:.1%} held out"
            )
            for e in each.estimates:
                text = f"measured: {self.run}, {self.date}; 95 % {number(e.low)} to "
                text += f"{number(e.high)}; {stated}"
                found.setdefault(each.table, {})[e.name] = (getattr(now, e.name), text)
        return found

    def text(self, source: str | None = None) -> str:
        """A machine file: `source` with the numbers in place, or a description."""
        if source is not None:
            return edited(source, self._complete(source))
        comments = {table: dict(values) for table, values in self.numbers().items()}
        plain = f"measured: {self.run}, {self.date}"
        node = self.machine.node
        comments["peak_flops"] = {
            self.dtype: (0.0, f"{plain}; the best product, or its inner loop")
        }
        comments["node"] = {
            "gpus": (0.0, "ranks that were measured"),
            "gpu_memory_bandwidth": (0.0, f"{plain}; the best copy, of any size"),
            "gpu_memory_bytes": (0.0, "a rank's share" if node and self._cpu() else plain),
        }
        for each in self.tables:
            for name in each.left:
                comments.setdefault(each.table, {})[name] = (0.0, "assumed: no point feels it")
        links = comments.setdefault("links", {})
        for name in ("network", "network_port", "nvlink"):
            links.setdefault(name, (0.0, "assumed: not measured apart"))
        return described(self.machine, comments, f"{plain}, python -m alpenglow.parallel.curve_fit")

    def _cpu(self) -> bool:
        return self.machine.links is not None and self.machine.links.library == "gloo"

    def _complete(self, source: str) -> Tables:
        """The numbers, and what a new [gpu] table cannot be without."""
        found = self.numbers()
        gpu = self.machine.gpu
        if "gpu" in found and gpu is not None and "\n[gpu]" not in source:
            for name in ("multiprocessors", "sustained", "stream", "cache_ratio", "fill_seconds",
                         "kernel_seconds"):  # fmt: skip
                found["gpu"].setdefault(name, (getattr(gpu, name), "not measured: assumed"))
        return found

    def __str__(self) -> str:
        lines = [f"{self.machine.name} by {self.run} ({self.date}, {self.dtype})"]
        for each in self.tables:
            lines += ["", f"[{each.table}]                    value   95 % interval"]
            now = getattr(self.machine, each.table)
            for e in each.estimates:
                low, high = number(e.low), number(e.high)
                lines.append(f"  {e.name:<20} {number(getattr(now, e.name)):>9}   {low} to {high}")
            lines += [f"  {name:<20} nothing learnt" for name in each.left]
            lines.append("  errors: predicted over measured, less one")
            for name, of in {**each.parts, "all": each.errors, "held out": each.held_out}.items():
                lines.append(
                    f"    {name:<18} {len(of.values):4d} points: mean {of.mean:6.1%}, worst "
                    f"{of.worst:+.0%}"
                )
            lines.append(f"    worst: {each.worst}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)]) + "\n"


def read(run: Path) -> tuple[Path, dict[str, Curve]]:
    """Curves of a run, by name.

    Raises:
        CurveError: none are there, or one is damaged.
    """
    if not run.is_dir():
        raise CurveError(f"{run}: no such folder")
    where = newest(run)
    found = [Curve.read(path) for path in sorted(where.glob(f"*{SUFFIX}"))]
    return where, {curve.name: curve for curve in found}


def fastest(curve: Curve) -> Curve:
    """The curve with the least seconds of each point in place of the median."""
    points = [{**point, "seconds": point.get("least", point["seconds"])} for point in curve.points]
    return replace(curve, points=points)


def fit_machine(
    run: Path, machine: Machine | None = None, name: str = "measured", *, least: bool = False
) -> MachineFit:
    """Fit a machine to the curves of a run.

    Args:
        run: run directory, or the folder of the curves.
        machine: whose data-sheet numbers hold; None describes the machine anew.
        name: of a machine that is described anew.
        least: fit the fastest repeats, not the medians: where others use the machine, too.

    Raises:
        CurveError: no curves, or too few points.
        MachineError: the machine's file lacks what the cost of a step needs.
    """
    where, curves = read(run)
    if least:
        curves = {name: fastest(curve) for name, curve in curves.items()}
    header = next(iter(curves.values())).header
    dtype, each, cpu = str(header["dtype"]), int(header["each"]), header["device"] == "cpu"
    base = blank(curves, name) if machine is None else _checked(machine, each, cpu, header)
    notes = ["the fastest repeats, not the medians"] if least else []
    notes += [] if (where / "done.json").exists() else [f"{where}: its job did not end well"]
    for curve in curves.values():
        if curve.header.get("left_out"):
            notes.append(f"{curve.name}: {curve.header['left_out']} points were not measured")
    tables = []
    points: list[Point] = [
        (name, point)
        for name in GPU_CURVES
        if name in curves
        for point in curves[name].points
        if point.get("what") != "host"
    ]
    if points:
        base, table = fit_table(base, "gpu", points, gpu_constants(base, cpu), each, dtype)
        hosts = (
            [p for p in curves["copies"].points if p["what"] == "host"]
            if "copies" in curves
            else []
        )
        base, table = _with_host(base, table, hosts, cpu)
        tables.append(table)
        if machine is None:
            base, tables[-1] = _settled(base, tables[-1], dtype, curves["products"])
        elif base.gpu is not None and base.gpu.sustained > 0.999:
            notes.append(f"products are faster than peak_flops.{dtype} of {base.name} allows")
    if "network" in curves:
        talks: list[Point] = [("network", point) for point in curves["network"].points]
        constants = link_constants(base, talks, each, dtype)
        base, table = fit_table(base, "links", talks, constants, each, dtype)
        tables.append(table)
    else:
        notes.append("no collectives were measured: [links] is as it was")
    date = str(header["date"])[:10]
    return MachineFit(base, tuple(tables), tuple(notes), str(run), date, dtype)


def _checked(machine: Machine, each: int, cpu: bool, header: Mapping[str, Any]) -> Machine:
    if machine.target is not machine:
        raise MachineError(
            f"machine {machine.name} stands in for {machine.target.name}, which was not measured: "
            "leave --machine out to describe this computer"
        )
    gpus = 0 if machine.node is None else machine.node.gpus
    if gpus != each:
        raise MachineError(
            f"{each} ranks a node were measured, and {machine.name} has {gpus} GPUs: measure with "
            "a rank on each, or leave --machine out to describe what was measured"
        )
    if cpu:
        raise MachineError(
            f"{header['host']} was measured on its CPUs, and {machine.name} has GPUs: leave "
            "--machine out to describe what was measured"
        )
    if machine.gpu is None and header.get("multiprocessors"):
        own = replace(DEFAULTS, multiprocessors=int(header["multiprocessors"]))
        return replace(machine, gpu=own)
    return machine


def _with_host(
    machine: Machine, table: TableFit, hosts: Sequence[Mapping[str, Any]], cpu: bool
) -> tuple[Machine, TableFit]:
    if not hosts or machine.gpu is None:
        return machine, table
    host = hosts[0]
    found = [Estimate("host_seconds", host["seconds"], host["least"], host["worst"])]
    gpu = replace(machine.gpu, host_seconds=found[0].value)
    if cpu and found[0].value > gpu.kernel_seconds:
        gpu = replace(gpu, kernel_seconds=found[0].value)
        found.insert(0, replace(found[0], name="kernel_seconds"))
    names = {e.name for e in found}
    kept = [e for e in table.estimates if e.name not in names]
    return replace(machine, gpu=gpu), replace(table, estimates=(*kept, *found))


def _settled(
    machine: Machine, table: TableFit, dtype: str, products: Curve
) -> tuple[Machine, TableFit]:
    """Share and interval of the rate in units of the peak that was measured."""
    found = settled(machine, dtype, best_product(products))
    units = machine.peak_flops[dtype] / found.peak_flops[dtype]
    estimates = tuple(
        replace(e, value=units * e.value, low=units * e.low, high=min(1.0, units * e.high))
        if e.name == "sustained"
        else e
        for e in table.estimates
    )
    return found, replace(table, estimates=estimates)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the fit, and write a machine file where one is asked for."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.parallel.curve_fit")
    parser.add_argument("run", type=Path, help="run directory of jobs/calibrate.lsf")
    parser.add_argument("--machine", help="whose file gets the numbers; else it is described anew")
    parser.add_argument("--write", type=Path, metavar="FILE.toml", help="the machine file to write")
    parser.add_argument(
        "--least", action="store_true", help="fit the fastest repeats: others use the machine, too"
    )
    given = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))
    try:
        machine = None if given.machine is None else load(given.machine)
        name = "measured" if given.write is None else given.write.stem
        found = fit_machine(given.run, machine, name, least=given.least)
        sys.stdout.write(str(found))
        if given.write is not None:
            source = None
            if given.machine is not None:
                path = Path(given.machine)
                path = path if path.suffix == ".toml" else folder() / f"{given.machine}.toml"
                source = path.read_text(encoding="utf-8")
            write(given.write, found.text(source))
            sys.stdout.write(f"{given.write}: written\n")
    except (CurveError, MachineError, OSError) as error:
        sys.stderr.write(f"curve_fit: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
