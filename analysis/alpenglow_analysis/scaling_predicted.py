"""What the planner predicts for the sizes of a scaling study, to stand beside what was measured."""

from __future__ import annotations

from alpenglow.config import ConfigError, parse
from alpenglow.parallel.layout import LayoutError
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_analysis.calibration import UNCALIBRATED, Calibration
from alpenglow_analysis.planned_run import PlannedRun
from alpenglow_analysis.run import Facts
from alpenglow_analysis.scaling_study import Point, ScalingStudy, StudyError
from alpenglow_lsf.machine import Machine, MachineError, load

Predicted = dict[int, float]
"""Place in a series -> seconds of a step."""


def predicted(
    study: ScalingStudy, calibration: Calibration | None, machine: str | None = None
) -> tuple[dict[str, Predicted], float, str]:
    """Predict every point.

    Args:
        study: the study.
        calibration: of its machine.
        machine: a machine file instead of the study's.

    Returns:
        Series kind -> predicted seconds by place; half of their 90 % interval; and, where nothing
        can be predicted, why.

    Raises:
        MachineError: the named machine file cannot be read.
    """
    error = UNCALIBRATED if calibration is None else calibration.error
    found = load(machine or study.machine)
    if found.stand_in is not None:
        return {}, error, (
            f"{found.name} stands in for another machine and has no rates of its own: "
            "nothing is predicted without --machine FILE"
        )  # fmt: skip
    if calibration is not None and calibration.machine != found.name:
        raise StudyError(f"the calibration is of {calibration.machine}, the study of {found.name}")
    try:
        values = {
            series.kind: {
                place: _point(study, point, found, calibration)
                for place, point in enumerate(series.points)
            }
            for series in study.series
        }
    except (ConfigError, LayoutError, MachineError, ValueError) as why:
        return {}, error, f"nothing is predicted: {why}"
    return values, error, ""


def _point(
    study: ScalingStudy, point: Point, machine: Machine, calibration: Calibration | None
) -> float:
    facts = Facts.load(study.path / point.repeats[0].run / "run.toml")
    recipe = parse(PretrainRecipe, facts.recipe, f"{point.repeats[0].run}/run.toml")
    layout = recipe.layout(point.ranks, machine)
    run = PlannedRun(
        study.recipe, recipe.model, machine, point.ranks, point.global_batch_size,
        recipe.work(layout), calibration=calibration,
    )  # fmt: skip
    return run.cost(layout, run.work).seconds
