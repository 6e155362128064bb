"""alpenglow plan scaling: what a scaling study measured, beside ideal, laws and prediction.

    bsub -P PROJECT jobs/scaling_study.lsf
    alpenglow plan scaling runs/scaling_study [--calibration FILE] [--output DIR]

Prints OLCF's tables (nProc, actual, ideal), everything of each size, and the laws fitted. Writes
index.html, scaling.md, scaling.json and figures/ into STUDY/report, or where --output says.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from alpenglow_analysis.calibration import Calibration
from alpenglow_analysis.columns import laid
from alpenglow_analysis.plan_ending import ended
from alpenglow_analysis.plan_writing import Picture, draw, write
from alpenglow_analysis.scaling_fit import Fit, fits
from alpenglow_analysis.scaling_page import (
    TITLES,
    fits_table,
    headline,
    notes,
    olcf,
    page,
    points_table,
    scaling_json,
)
from alpenglow_analysis.scaling_predicted import Predicted, predicted
from alpenglow_analysis.scaling_study import ScalingStudy


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="alpenglow plan scaling", description="What a scaling study measured."
    )
    made.add_argument("study", type=Path, help="folder, such as runs/scaling_study")
    made.add_argument("--machine", help="machine file to predict with; default: the study's")
    made.add_argument("--calibration", type=Path, metavar="FILE", help="that plan calibrate wrote")
    made.add_argument("--output", type=Path, metavar="DIR", help="default: STUDY/report")
    return made


def run(arguments: Sequence[str]) -> None:
    """Read, print and write.

    Raises:
        StudyError, ConfigError, MachineError: one sentence on what cannot be.
        OSError: the output cannot be written.
    """
    given = parser().parse_args(list(arguments))
    study = ScalingStudy.load(given.study)
    calibration = None if given.calibration is None else Calibration.read(given.calibration)
    ahead, error, why = predicted(study, calibration, given.machine)
    laws = {series.kind: fits(series) for series in study.series}
    told = notes(study, why, bool(ahead), error)
    parts = [headline(study), ""]
    for series in study.series:
        parts += [TITLES[series.kind], laid(olcf(series)), ""]
        parts += [laid(points_table(series, ahead.get(series.kind, {}))), ""]
    if any(laws.values()):
        parts += [laid(fits_table(laws)), ""]
    sys.stdout.write("\n".join([*parts, *told]) + "\n")
    folder = given.output or given.study / "report"
    _write(folder, study, ahead, error, laws, told)
    sys.stdout.write(f"report: {folder / 'index.html'}\n")


def _write(
    folder: Path, study: ScalingStudy, ahead: Mapping[str, Predicted], error: float,
    laws: Mapping[str, list[Fit]], told: Sequence[str],
) -> None:  # fmt: skip
    from alpenglow_analysis import style
    from alpenglow_analysis.scaling_figure import rates_figure, series_figure

    with style.settings():
        pictures = [
            Picture(s.kind, series_figure(s, laws[s.kind], ahead.get(s.kind, {}), error),
                    f"{TITLES[s.kind]}: seconds of a step and efficiency by ranks",
                    "Dashes are single runs.")
            for s in study.series
        ]  # fmt: skip
        rates = "Tokens a second and communication by ranks"
        pictures.append(Picture("rates", rates_figure(study), rates, "Both series."))
        drawn = draw(folder, pictures)
    made = page(study, ahead, laws, told, drawn, time.time())
    write(folder, "scaling", made, scaling_json(study, ahead, laws, told))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, or 1 after one sentence on stderr, 2 for wrong usage."""
    return ended("scaling", run, arguments)


if __name__ == "__main__":
    sys.exit(main())
