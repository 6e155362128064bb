"""The laptop demo predicted: calibrated on 1 and 2 ranks, 4 and 8 predicted and measured.

    python -m alpenglow_analysis.bench_predict runs/predict [--repeats 2] [--steps 40]

Measures this computer's curves (jobs/calibrate.toml) into a machine file, trains the demo through
the stand-in for jsrun in layouts of 1, 2, 4 and 8 ranks, in an order drawn anew for each repeat,
fits the factors to the runs of 1 and 2 ranks, and prints what that predicts of the others. Of a
layout the repeat with the least median step counts, on both sides: others use the computer too.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow.parallel import curve_fit
from alpenglow.parallel.layout import Layout
from alpenglow_analysis.calibration_fit import fit
from alpenglow_analysis.calibration_model import Setting
from alpenglow_analysis.calibration_run import ObservedRun, observe
from alpenglow_analysis.columns import laid
from alpenglow_analysis.demo_runs import DEMO, WIDER, draw_tokens, launched, train
from alpenglow_analysis.page import Table
from alpenglow_analysis.units import seconds
from alpenglow_lsf.machine import folder, load

CALIBRATED = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))
"""Pipeline, tensor and data degrees of what is fitted."""
PREDICTED = ((2, 2, 1), (2, 1, 2), (1, 1, 4), (2, 2, 2), (2, 1, 4))


def machine_file(where: Path) -> Path:
    """Measure this computer and describe it.

    Raises:
        DemoError: the ranks did not measure.
    """
    run, file = where / "curves", where / "here.toml"
    most = max(p * t * d for p, t, d in PREDICTED)
    recipe = folder().parents[1] / "jobs" / "calibrate.toml"
    words = ["-m", "alpenglow_profiling.curves", str(recipe), "--run", str(run)]
    launched(2, words, "the curves")
    if curve_fit.main([str(run), "--write", str(file), "--least"]):
        raise SystemExit(1)
    # Ranks of every layout share this one computer: it is one node that holds them all.
    text, many = re.subn(r"^gpus = 2\b", f"gpus = {most}", file.read_text(), flags=re.M)
    if many != 1:
        raise ValueError(f"{file}: does not say gpus = 2, the ranks that were measured")
    file.write_text(text)
    return file


def best(runs: Sequence[Path]) -> ObservedRun:
    """The repeat with the least median step."""
    return min((observe(path) for path in runs), key=lambda run: run.step_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, fit, predict, print."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_analysis.bench_predict")
    parser.add_argument("folder", type=Path, help="to be made")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--wider", action="store_true", help="8 layers of 384 instead of 4 of 128")
    parser.add_argument("--machine", type=Path, help="a file that was measured before")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True)
    demo = WIDER if given.wider else DEMO
    machine = load(given.machine or machine_file(given.folder))
    catalogue = draw_tokens(given.folder / "shards")
    runs: dict[tuple[int, int, int], list[Path]] = {}
    dice = random.Random(1)
    for repeat in range(given.repeats):
        turn = [*CALIBRATED, *PREDICTED]
        dice.shuffle(turn)
        for degrees in turn:
            name = "x".join(map(str, degrees))
            path = given.folder / f"{demo.name}-{name}-{repeat + 1}"
            train(demo, Layout(*degrees), path, catalogue, given.steps)
            runs.setdefault(degrees, []).append(path)
            sys.stdout.write(f"{path.name}: load {os.getloadavg()[0]:.1f}\n")
            sys.stdout.flush()
    setting = Setting(machine)
    found = fit([best(runs[d]) for d in CALIBRATED], setting, "1 and 2 ranks")
    rows = []
    for degrees in (*CALIBRATED, *PREDICTED):
        measured = best(runs[degrees])
        guess = setting.of_run(measured, found.calibration).step_s
        every = sorted(observe(path).step_s for path in runs[degrees])
        rows.append([
            "PP{} x TP{} x DP{}".format(*degrees), str(measured.layout.world),
            "fitted" if degrees in CALIBRATED else "predicted", seconds(measured.step_s),
            f"{100 * (every[-1] / every[0] - 1):.0f} %", seconds(guess),
            f"{100 * (guess / measured.step_s - 1):+.1f} %",
        ])  # fmt: skip
    heads = ["layout", "ranks", "", "measured", "repeats apart", "model", "error"]
    sys.stdout.write(laid(Table(heads, rows, text=frozenset({2}))) + "\n")
    sys.stdout.write(
        f"{os.cpu_count()} cores; stated interval +- {100 * found.calibration.error:.0f} %\n"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"bench_predict: {error}\n")
        sys.exit(1)
