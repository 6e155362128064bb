"""Fit the factors of a calibration to measured runs, and say how sure a prediction is.

What is made small is the sum of w (log(predicted / measured))^2 over the parts and stages of all
runs; w is a part's share of its run's time, since what matters is the step. It is solved by
Levenberg's and Marquardt's steps (Marquardt 1963, doi:10.1137/0111030). Factors belong to the
machine: all runs and stages share them, and none belongs to a row. Two that the runs tell apart
badly are held near the machine file by a prior: a factor's logarithm is 0 give or take `PRIOR`, and
parts are off by `MODEL`. A factor that the runs leave more uncertain than `VAGUE` stays as the
machine file has it, and the reason is kept.

The interval of a prediction. Let e_i be log(predicted / measured) of part i, predicted without it:
without its kind of part in its run (to first order in the factors; a factor that nothing else tells
stays fitted), and s_i its share of the time. For errors of any sign, however they hang together,

    |sum s_i e_i| <= sum s_i |e_i| <= sqrt(sum s_i e_i^2) = E_parts.

Where three runs or more were fitted, E_runs is the root mean square of the steps' own errors, each
step predicted without its run. The scatter of steps S is the standard deviation of log(step) within
runs, pooled; a median of n steps varies with S sqrt(pi / 2n). Half of the 90 % interval is

    1.645 sqrt(E^2 + S^2 pi / 2n),     E = E_runs where it is known, else E_parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from alpenglow.model.config import ModelConfig
from alpenglow_analysis.calibration import FACTORS, MEANINGS, Calibration
from alpenglow_analysis.calibration_model import Setting
from alpenglow_analysis.calibration_run import CalibrationError, Key, ObservedRun

STEP = 0.01
MODEL = 0.1
"""What parts are off by, as the prior has it."""
PRIOR = 1.0
"""Standard deviation of a factor's logarithm before anything was measured."""
VAGUE = 0.5
ROUNDS = 25
NINETY = 1.645
"""Half of the 90 % interval of a normal, in standard deviations."""
MOST = 0.95
"""Largest error that is stated: beyond, nothing is known."""

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PartError:
    """A part on a stage of a run after the fit."""

    run: str
    key: Key
    share: float
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Fitted:
    """A calibration and what it was fitted to."""

    calibration: Calibration
    deviations: dict[str, float]
    """Fitted factor -> standard deviation of its logarithm."""
    parts: tuple[PartError, ...]
    steps: tuple[PartError, ...]
    """Whole steps of the runs that were fitted."""
    left_out: tuple[PartError, ...]
    """Whole steps, each predicted by a fit to the other runs; empty below three runs."""
    part_error: float
    """E_parts."""
    scatter: float
    """S."""

    @property
    def residual(self) -> float:
        """Root mean square of the parts' log errors, by their shares."""
        total = sum(p.share for p in self.parts)
        square = sum(p.share * math.log(p.predicted / p.measured) ** 2 for p in self.parts)
        return math.sqrt(square / total)

    @property
    def run_error(self) -> float | None:
        """E_runs; None where too few runs were fitted."""
        if not self.left_out:
            return None
        logs = [math.log(p.predicted / p.measured) for p in self.left_out]
        return math.sqrt(sum(each**2 for each in logs) / len(logs))


def fit(runs: Sequence[ObservedRun], setting: Setting, source: str) -> Fitted:
    """Fit a machine's factors.

    Args:
        runs: measured on it.
        setting: the machine, and the framework.
        source: what the calibration says it was made from.

    Raises:
        CalibrationError: no runs, or of models of several shapes.
    """
    if not runs:
        raise CalibrationError("no runs to calibrate with")
    first = runs[0]
    for run in runs[1:]:
        if _shape(run) != _shape(first):
            raise CalibrationError(
                f"{first.name} and {run.name} trained models of several shapes or precisions: only "
                "the number of layers may differ between runs that are fitted together"
            )
    problem = _Problem(runs, setting)
    found, deviations, kept = problem.solved(Calibration(setting.machine.target.name, source))
    left_out: list[PartError] = []
    if len(runs) > 2:
        for number, run in enumerate(runs):
            without = problem.without(found, list(deviations), problem.of_run == number)
            left_out.append(problem.step(run, without))
    fitted = Fitted(
        replace(found, kept=kept),
        deviations,
        problem.errors(found),
        tuple(problem.step(run, found) for run in runs),
        tuple(left_out),
        _without_each(problem, found, list(deviations)),
        math.sqrt(sum(run.scatter**2 for run in runs) / len(runs)),
    )
    error = half_width(fitted, min(run.steps for run in runs))
    return replace(fitted, calibration=replace(fitted.calibration, error=error))


def _shape(run: ObservedRun) -> tuple[ModelConfig, str]:
    return replace(run.model, num_layers=1), run.work.dtype


def half_width(fitted: Fitted, steps: int) -> float:
    """Half of the 90 % interval of a predicted median of so many steps, as a share."""
    model = fitted.part_error if fitted.run_error is None else fitted.run_error
    chance = fitted.scatter**2 * math.pi / (2 * max(1, steps))
    return min(MOST, NINETY * math.sqrt(model**2 + chance))


def _without_each(problem: _Problem, found: Calibration, names: Sequence[str]) -> float:
    """E_parts."""
    square = 0.0
    keys = [(n, p.key[0]) for n, run in enumerate(problem.runs) for p in run.parts]
    for one in dict.fromkeys(keys):
        gone = np.array([key == one for key in keys])
        logs = problem.logs_without(found, names, gone)
        square += float(((problem.weight[gone] * logs[gone]) ** 2).sum())
    return math.sqrt(square)


class _Problem:
    """Runs beside a model with free factors."""

    def __init__(self, runs: Sequence[ObservedRun], setting: Setting) -> None:
        self.runs, self.setting = runs, setting
        shares = [part.share for run in runs for part in run.parts]
        self.weight = np.sqrt(np.array(shares) / sum(shares))
        self.measured = np.log([part.seconds for run in runs for part in run.parts])
        self.of_run = np.array([n for n, run in enumerate(runs) for _ in run.parts])
        self.ridge = (MODEL / PRIOR) ** 2 / len(shares)

    @property
    def names(self) -> list[str]:
        """Factors that this kind of machine has."""
        if self.setting.cores is None:
            return [*FACTORS, "rest_s"]
        # On CPU ranks an operation's time is the host's: one factor for both.
        return [name for name in FACTORS if name != "host"] + ["beside", "rest_s"]

    def errors(self, calibration: Calibration) -> tuple[PartError, ...]:
        """Every part beside its prediction."""
        found = []
        for run in self.runs:
            guess = self.setting.of_run(run, calibration).parts
            found += [
                PartError(run.name, p.key, p.share, p.seconds, guess[p.key]) for p in run.parts
            ]
        return tuple(found)

    def step(self, run: ObservedRun, calibration: Calibration) -> PartError:
        """A run's step beside its prediction."""
        predicted = self.setting.of_run(run, calibration).step_s
        return PartError(run.name, ("step", 0), 1.0, run.step_s, predicted)

    def logs(self, calibration: Calibration) -> Floats:
        """log(predicted / measured) of each part; one that is predicted to take none: -5."""
        found = []
        for run in self.runs:
            guess = self.setting.of_run(run, calibration).parts
            found += [math.log(max(guess.get(p.key, 0.0), p.seconds * 6.7e-3)) for p in run.parts]
        return np.array(found) - self.measured

    def slopes(self, calibration: Calibration, names: Sequence[str], now: Floats) -> Floats:
        """[parts, factors]: slopes of `logs` over the factors' logarithms."""
        columns = []
        for name in names:
            by = -STEP if name == "beside" else STEP
            columns.append((self.logs(self._moved(calibration, name, by)) - now) / by)
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.measured), 0))

    def solved(self, start: Calibration) -> tuple[Calibration, dict[str, float], dict[str, str]]:
        """The best calibration, deviations of its logs, what was left as it was, and why."""
        rests = [p.seconds for run in self.runs for p in run.parts if p.key[0] == "rest"]
        start = replace(start, rest_s=float(np.median(rests)) if rests else 0.0)
        if self.setting.cores is not None and max(run.layout.world for run in self.runs) > 1:
            start = replace(start, beside=0.95)
        kept: dict[str, str] = {}
        names = self.names if rests else [n for n in self.names if n != "rest_s"]
        while True:
            x = self._descend(start, names)
            deviations = self._deviations(x, names)
            vague = [n for n in names if deviations[n] > VAGUE * PRIOR]
            if not vague:
                return x, deviations, kept
            # One at a time: of two that are told together, the other may then be told.
            worst = max(vague, key=deviations.__getitem__)
            names = [n for n in names if n != worst]
            if worst in MEANINGS:
                kept[worst] = _reason(worst, self.runs)

    def without(self, x: Calibration, names: Sequence[str], gone: Mask) -> Calibration:
        """The calibration that would have come of the other parts, to first order."""
        for name, by in zip(names, self._shift(x, names, gone), strict=True):
            x = self._moved(x, name, float(by))
        return x

    def logs_without(self, x: Calibration, names: Sequence[str], gone: Mask) -> Floats:
        """`logs` under `without`, to first order."""
        logs, slopes = self._linear(x, tuple(names))
        return np.asarray(logs + slopes @ self._shift(x, names, gone))

    def _shift(self, x: Calibration, names: Sequence[str], gone: Mask) -> Floats:
        logs, slopes = self._linear(x, tuple(names))
        weight = np.where(gone, 0.0, self.weight)
        weighted, pull = slopes * weight[:, None], logs * weight
        # A factor that only these parts tell stays: the prior is around the fit.
        square = weighted.T @ weighted + self.ridge * np.eye(len(names))
        full = (slopes * self.weight[:, None]).T @ (logs * self.weight)
        return np.asarray(-np.linalg.solve(square, weighted.T @ pull - full))

    def _linear(self, x: Calibration, names: tuple[str, ...]) -> tuple[Floats, Floats]:
        if self._known is None or self._known[0] != (x, names):
            logs = self.logs(x)
            self._known = ((x, names), logs, self.slopes(x, names, logs))
        return self._known[1], self._known[2]

    _known: tuple[tuple[Calibration, tuple[str, ...]], Floats, Floats] | None = None

    def _loss(self, x: Calibration, names: Sequence[str], logs: Floats) -> float:
        away = np.array([math.log(getattr(x, n)) for n in names if n in FACTORS])
        return float(((self.weight * logs) ** 2).sum() + self.ridge * (away**2).sum())

    def _descend(self, start: Calibration, names: Sequence[str]) -> Calibration:
        x, damping = start, 1e-3
        logs = self.logs(x)
        best = self._loss(x, names, logs)
        held = np.array([self.ridge if n in FACTORS else 0.0 for n in names])
        for _ in range(ROUNDS):
            slopes = self.slopes(x, names, logs) * self.weight[:, None]
            away = np.array([math.log(max(getattr(x, n), 1e-12)) for n in names])
            square = slopes.T @ slopes + np.diag(held)
            pull = slopes.T @ (logs * self.weight) + held * away
            before = best
            for _ in range(6):
                damped = square + damping * np.diag(np.diag(square)) + 1e-12 * np.eye(len(names))
                step = np.clip(-np.linalg.solve(damped, pull), -1.0, 1.0)
                tried = x
                for name, by in zip(names, step, strict=True):
                    tried = self._moved(tried, name, float(by))
                after = self.logs(tried)
                loss = self._loss(tried, names, after)
                if loss < best:
                    x, logs, best = tried, after, loss
                    damping = max(1e-6, damping / 5)
                    break
                damping *= 5
            if best > before * (1 - 1e-4):
                break
        return x

    def _moved(self, calibration: Calibration, name: str, by: float) -> Calibration:
        value = getattr(calibration, name) * math.exp(by)
        if name == "beside":
            value = min(1.0, max(0.2, value))
        moved = replace(calibration, **{name: value})
        if name == "operation" and self.setting.cores is not None:
            moved = replace(moved, host=value)
        return moved

    def _deviations(self, x: Calibration, names: Sequence[str]) -> dict[str, float]:
        if not names:
            return {}
        _, slopes = self._linear(x, tuple(names))
        weighted = slopes * self.weight[:, None]
        inverse = np.linalg.inv(weighted.T @ weighted + self.ridge * np.eye(len(names)))
        found = MODEL * np.sqrt(np.diag(inverse) / len(self.measured))
        return dict(zip(names, found.tolist(), strict=True))


def _reason(name: str, runs: Sequence[ObservedRun]) -> str:
    """Why runs say nothing of a factor."""
    if name == "inside" and all(run.layout.tensor == 1 for run in runs):
        return "no tensor parallelism in these runs: links inside a node are the machine file's"
    if name == "network" and all(run.nodes == 1 for run in runs):
        return "all of these runs were on one node: the network is the machine file's"
    if name == "beside" and all(run.layout.world == 1 for run in runs):
        return "no run had more than one rank: cores are taken to be as fast together as alone"
    if name in ("latency", "inside", "network") and all(run.layout.world == 1 for run in runs):
        return "no messages in these runs: links are the machine file's"
    return "too little in these runs hangs on it: it is the machine file's"
