"""alpenglow plan calibrate: factors of a machine from measured runs, and what they predict.

    alpenglow plan calibrate runs/small-1 runs/small-2 --output summit.calibration.toml
    alpenglow plan calibrate runs/small --predict 64,512          the same layout on more nodes
    alpenglow plan layout --model 7b --machine summit --nodes 512 --calibration FILE

A run needs three steps with the spans of all ranks (`measure.spans_every = 1` in a short one). Runs
of few stages of the same shape serve for a longer pipeline. On a computer whose ranks are CPU
processes, measure its curves first: `bsub jobs/calibrate.lsf`, then `python -m
alpenglow.parallel.curve_fit RUN --write FILE.toml`, and give FILE.toml as --machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.calibration import FACTORS, MEANINGS
from alpenglow_analysis.calibration_fit import Fitted, PartError, fit
from alpenglow_analysis.calibration_model import Setting
from alpenglow_analysis.calibration_run import CalibrationError, ObservedRun, observe
from alpenglow_analysis.columns import laid
from alpenglow_analysis.layout_command import numbers
from alpenglow_analysis.page import Table
from alpenglow_analysis.plan_ending import ended
from alpenglow_analysis.planned_run import model_of
from alpenglow_analysis.units import percent, seconds
from alpenglow_lsf.machine import Machine, load, names

SHOWN = 0.01
"""Parts below this share of their run's time are not printed."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="alpenglow plan calibrate", description="Factors of a machine from measured runs."
    )
    made.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    made.add_argument("--machine", help="name or path of a machine file; default: the runs'")
    made.add_argument("--model", help="what the runs trained, where their run.toml does not say")
    made.add_argument("--predict", type=numbers, default=(), metavar="NODES,...",
                      help="the last run's layout with more replicas")  # fmt: skip
    made.add_argument("--output", type=Path, metavar="FILE", help="the calibration, as TOML")
    return made


def machine_of(runs: Sequence[ObservedRun], named: str | None) -> Machine:
    """The machine file of the runs.

    Raises:
        CalibrationError: runs of several machines, of another one than the file, or of a stand-in
            whose own ranks no file describes.
        MachineError: no such file.
    """
    known = sorted({run.machine for run in runs})
    if len(known) > 1:
        raise CalibrationError(
            f"the runs are of {' and '.join(known)}: calibrate one machine at a time"
        )
    ran = known[0]
    machine = load(named or ran)
    stood_in = ran in names() and load(ran).stand_in is not None
    if machine.stand_in is not None or (stood_in and Setting(machine).cores is None):
        here = machine if machine.stand_in is not None else load(ran)
        raise CalibrationError(
            f"the runs are of {here.name}, which stands in for {here.target.name} and has no rates "
            "of its own: measure it (bsub jobs/calibrate.lsf), write its file (python -m "
            "alpenglow.parallel.curve_fit RUN --write FILE.toml), and give --machine FILE.toml"
        )
    if not stood_in and machine.target.name != ran:
        raise CalibrationError(f"the runs were measured on {ran}, not on {machine.target.name}")
    return machine


def factors(found: Fitted) -> Table:
    """What was fitted, and what was left as the machine file has it."""
    own = found.calibration
    rows = []
    for name in (*FACTORS, "beside"):
        if name in found.deviations:
            spread = 100 * found.deviations[name]
            rows.append([name, f"{getattr(own, name):.3g}", f"± {spread:.2g} %", MEANINGS[name]])
        elif own.kept is not None and name in own.kept:
            rows.append([name, "1", "", own.kept[name]])
    if own.rest_s:
        rows.append(["rest", seconds(own.rest_s), "", "of a step in none of its parts"])
    return Table(["factor", "value", "", ""], rows, text=frozenset({3}))


def errors(parts: Sequence[PartError]) -> Table:
    """Parts of the runs beside their predictions."""
    rows = [
        [p.run, p.key[0], str(p.key[1]), percent(p.share), seconds(p.measured),
         seconds(p.predicted), f"{100 * p.error:+.1f} %".replace("-", "−")]
        for p in parts if p.share >= SHOWN
    ]  # fmt: skip
    heads = ["run", "part", "stage", "share", "measured", "predicted", "error"]
    return Table(heads, rows, text=frozenset({1}))


def steps(found: Fitted) -> Table:
    """Whole steps, fitted and, where there are enough runs, each predicted by the others."""
    rows = [
        [p.run, how, seconds(p.measured), seconds(p.predicted),
         f"{100 * p.error:+.1f} %".replace("-", "−")]
        for how, each in (("fitted", found.steps), ("by the other runs", found.left_out))
        for p in each
    ]  # fmt: skip
    return Table(["step of run", "", "measured", "predicted", "error"], rows, text=frozenset({1}))


def larger(last: ObservedRun, setting: Setting, found: Fitted, nodes: Sequence[int]) -> Table:
    """The last run's layout on other nodes; micro-batches of a replica are kept.

    Raises:
        CalibrationError: its replicas do not fill them.
    """
    each, degrees = setting.machine.compute.gpus, last.layout.pipeline * last.layout.tensor
    rows = []
    for many in nodes:
        if many * each % degrees:
            raise CalibrationError(
                f"--predict {many}: {many * each:,} ranks hold no whole number of replicas of "
                f"{degrees}"
            )
        layout = Layout(
            last.layout.pipeline, last.layout.tensor, many * each // degrees, last.layout.order,
            layers=last.layout.layers,
        )  # fmt: skip
        step = setting.predict(last.model, layout, last.work, found.calibration).step_s
        error = found.calibration.error
        tokens = last.work.tokens * last.work.micro_batches * layout.data
        rows.append([
            f"{many:,}", f"{layout.world:,}", seconds(step),
            f"{seconds(step * (1 - error))} to {seconds(step * (1 + error))}",
            f"{tokens / step:,.0f}",
        ])  # fmt: skip
    heads = ["nodes", "ranks", "step, predicted", "nine in ten", "tokens/s"]
    return Table(heads, rows)


def run(arguments: Sequence[str]) -> None:
    """Fit, print, write.

    Raises:
        CalibrationError, PlanError, RunError, ConfigError, MachineError, LayoutError: one sentence
            on what cannot be.
        OSError: the file cannot be written.
    """
    given = parser().parse_args(list(arguments))
    model = None if given.model is None else model_of(given.model)
    runs = [observe(path, model) for path in given.runs]
    machine = machine_of(runs, given.machine)
    setting = Setting(machine)
    source = ", ".join(str(path) for path in given.runs)
    found = fit(runs, setting, source)
    own = found.calibration
    parts = [laid(factors(found)), "", laid(errors(found.parts)), "", laid(steps(found)), ""]
    parts.append(
        f"Parts are off by {percent(found.residual)} in the mean (root mean square, by share), "
        f"steps vary by {percent(found.scatter)} within a run; a step predicted with this is taken "
        f"to be within ± {100 * own.error:.3g} % in nine of ten cases."
    )
    if given.predict:
        parts += ["", laid(larger(runs[-1], setting, found, given.predict))]
    sys.stdout.write("\n".join(parts) + "\n")
    if given.output is not None:
        replace(own, machine=machine.target.name).write(given.output)
        sys.stdout.write(f"calibration: {given.output}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, or 1 after one sentence on stderr, 2 for wrong usage."""
    return ended("calibrate", run, arguments)


if __name__ == "__main__":
    sys.exit(main())
