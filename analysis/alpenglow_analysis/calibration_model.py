"""What a run's parts and its step should take on a machine with a calibration on it.

Two kinds of machine. Accelerators: a part takes what `alpenglow.parallel.step_parts` says, a step
what `step_cost` does. CPU ranks (a machine file whose collectives are gloo's): the step is played on
the node's cores, which its ranks share, and a part takes as long as it did in that play.
"""

from __future__ import annotations

from dataclasses import dataclass

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.framework import IDEAL, Framework
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.shared_step import play_step
from alpenglow.parallel.step_cost import step_cost
from alpenglow.parallel.step_parts import StepParts, step_parts
from alpenglow.parallel.work import Work
from alpenglow_analysis.calibration import Calibration
from alpenglow_analysis.calibration_run import Key, ObservedRun
from alpenglow_lsf.machine import Machine


@dataclass(frozen=True)
class Predicted:
    """A step and its parts; seconds."""

    step_s: float
    parts: dict[Key, float]


@dataclass(frozen=True)
class Setting:
    """A machine to be calibrated, and the framework whose runs are read."""

    machine: Machine
    how: Framework = IDEAL

    @property
    def cores(self) -> int | None:
        """Cores of a node that its ranks share; None where ranks have accelerators."""
        target = self.machine.target
        if target.links is None or target.links.library != "gloo":
            return None
        return target.compute.cores

    def predict(
        self, model: ModelConfig, layout: Layout, work: Work, calibration: Calibration
    ) -> Predicted:
        """Predict a step with its parts; errors as of `step_cost`."""
        hardware = Hardware.of(self.machine, layout.world, work.dtype)
        hardware = calibration.applied(hardware)
        parts = step_parts(model, layout, work, hardware, self.how)
        if self.cores is not None:
            step = play_step(
                parts,
                self.cores * max(1, -(-layout.world // self.machine.target.compute.gpus)),
                beside=calibration.beside,
                rest=calibration.rest_s,
                updates=calibration.update,
            )
            return Predicted(step.seconds, step.parts)
        cost = step_cost(model, layout, work, hardware, self.how)
        cost = calibration.finished(cost, self.how)
        return Predicted(cost.seconds, _alone(parts, calibration))

    def of_run(self, run: ObservedRun, calibration: Calibration) -> Predicted:
        """Predict a run that was measured."""
        return self.predict(run.model, run.layout, run.work, calibration)


def _alone(parts: StepParts, calibration: Calibration) -> dict[Key, float]:
    """Parts of ranks that share nothing."""
    found: dict[Key, float] = {("rest", 0): calibration.rest_s}
    split = parts.schedule == "zb-h1"
    for stage, passes in enumerate(parts.stages):
        inputs = passes.inputs if split else passes.inputs + passes.weights
        for name, own in (
            ("forward", passes.forward),
            ("backward", inputs),
            ("weights", passes.weights),
        ):
            found[name, stage] = own.seconds - own.tensor
            found[f"{name} tensor", stage] = own.tensor
        again = passes.recompute
        found["recompute", stage] = again.seconds - again.tensor
        found["backward tensor", stage] += again.tensor
        found["reduction", stage] = parts.exposed[stage]
        update = calibration.update * parts.update[stage]
        found["optimizer", stage] = update + parts.gather[stage]
        if stage + 1 < len(parts.stages):
            found["message", stage] = parts.hops[stage]
    return found


