"""A measured run as observations: how long each part of a step took on each stage, and the step.

Waits are left out: of a pass the collectives inside it, of a message or collective everything
before its last rank came. An observation is the mean over micro-batches, replicas and tensor ranks,
and the median over steps, so that a disturbed step does not count.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alpenglow.config import ConfigError, parse
from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.work import Work
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_analysis.replayed import played, recorded
from alpenglow_analysis.run import Facts, Run
from alpenglow_analysis.sample import Sample, sample

LEAST_STEPS = 3
"""Below so many steps with their spans nothing is fitted."""

Key = tuple[str, int]
"""Part and stage; of a message, the stage before the border."""


class CalibrationError(ValueError):
    """Runs that cannot be fitted; the message is one sentence for the user."""


@dataclass(frozen=True)
class Observed:
    """One part on one stage."""

    key: Key
    seconds: float
    scatter: float
    """Between steps: standard deviation of the logarithm, by the median absolute deviation."""
    share: float
    """Of the time that all ranks spend in parts."""


@dataclass(frozen=True)
class ObservedRun:
    """One run."""

    name: str
    machine: str
    model: ModelConfig
    layout: Layout
    work: Work
    nodes: int
    step_s: float
    """Median."""
    scatter: float
    """Of the steps, as that of a part."""
    steps: int
    parts: tuple[Observed, ...]
    notes: tuple[str, ...]

    @property
    def batch(self) -> int:
        """Sequences of a step."""
        return self.work.micro_batch_size * self.work.micro_batches * self.layout.data


def observe(path: Path, model: ModelConfig | None = None) -> ObservedRun:
    """Read a run directory.

    Args:
        path: of the run.
        model: what it trained, where its run.toml does not say.

    Raises:
        RunError: no run directory.
        CalibrationError: no whole step with its spans, or nothing says which model it was.
    """
    run = Run.load(path, write=False)
    known, work = _work(run.facts, model, path)
    steps = sample(run)
    if steps is None or len(steps) < LEAST_STEPS:
        raise CalibrationError(
            f"{path}: {0 if steps is None else len(steps)} steps have the spans of all ranks, and "
            f"{LEAST_STEPS} are needed: train longer, or with measure.spans_every = 1"
        )
    length = steps.duration / 1e9
    return ObservedRun(
        name=path.name,
        machine=run.facts.machine,
        model=known,
        layout=run.facts.layout,
        work=work,
        nodes=run.facts.nodes,
        step_s=float(np.median(length)),
        scatter=_scatter(length),
        steps=len(steps),
        parts=_parts(steps, work),
        notes=steps.notes,
    )


def _work(facts: Facts, model: ModelConfig | None, path: Path) -> tuple[ModelConfig, Work]:
    tables = facts.recipe
    if "model" in tables:
        try:
            recipe = parse(PretrainRecipe, tables, str(path / "run.toml"))
        except ConfigError as error:
            raise CalibrationError(str(error)) from None
        known, work = recipe.model, recipe.work(facts.layout)
    elif model is not None:
        known, work = model, Work(1, 1, facts.sequence_length)
        schedule = tables.get("parallel", {}).get("schedule")
        work = dataclasses.replace(work, schedule=schedule or work.schedule)
    else:
        raise CalibrationError(
            f"{path}: its run.toml holds no recipe, so nothing says what it trained: give --model"
        )
    return known, dataclasses.replace(
        work,
        micro_batch_size=facts.micro_batch_size,
        micro_batches=facts.micro_batches,
        sequence_length=facts.sequence_length,
        dtype=facts.dtype or work.dtype,
    )


Floats = npt.NDArray[np.float64]


def _parts(steps: Sample, work: Work) -> tuple[Observed, ...]:
    """Every part that takes time, its share of all ranks' time beside it."""
    layout, m = steps.layout, steps.micro_batches
    ranks = layout.data * layout.tensor
    own, again = steps.own.mean(axis=(2, 3, 5)), steps.recompute.mean(axis=(2, 3, 5))
    tensor = steps.tensor.mean(axis=(2, 4))  # [n, S, 3]
    rest = np.maximum(steps.duration - played(recorded(steps)), 0.0)
    found: list[tuple[Key, Floats, float]] = []
    for stage in range(layout.pipeline):
        for number, name in enumerate(("forward", "backward", "weights")):
            found.append(((name, stage), own[:, stage, number], m * ranks))
            found.append(((f"{name} tensor", stage), tensor[:, stage, number], m * ranks))
        found.append((("recompute", stage), again[:, stage].sum(axis=1), m * ranks))
        reduced = steps.gradient[:, stage].mean(axis=1)
        found.append((("reduction", stage), reduced, ranks if layout.data > 1 else 0))
        found.append((("optimizer", stage), steps.optimizer[:, stage].mean(axis=1), ranks))
        if stage + 1 < layout.pipeline:
            both = (steps.down[:, stage] + steps.up[:, stage]).mean(axis=(1, 2)) / 2
            found.append((("message", stage), both, 4 * m * ranks))
    found.append((("rest", 0), rest, layout.world))
    times = [(key, ns / 1e9, many) for key, ns, many in found if many and np.median(ns) > 0]
    total = sum(many * float(np.median(seconds)) for _, seconds, many in times)
    return tuple(
        Observed(
            key,
            float(np.median(seconds)),
            _scatter(seconds),
            many * float(np.median(seconds)) / total,
        )
        for key, seconds, many in times
    )


def _scatter(seconds: Floats) -> float:
    """Standard deviation of log(seconds), as a normal's median absolute deviation gives it."""
    logs = np.log(np.maximum(seconds, 1e-12))
    return float(1.4826 * np.median(np.abs(logs - np.median(logs))))
