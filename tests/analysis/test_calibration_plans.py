"""Calibrations in plans: GPUs from four nodes, noise in the interval, plans that take files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.work import Work
from alpenglow_analysis.calibration import Calibration
from alpenglow_analysis.calibration_fit import fit
from alpenglow_analysis.calibration_model import Setting
from alpenglow_analysis.calibration_run import Observed, ObservedRun, observe
from alpenglow_analysis.planned_run import add_options, planned_run
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_lsf.machine import load

SUMMIT = Setting(load("summit"))
MODEL = ModelConfig(12, 4096, 32, 50432, use_parallel_residual=False)
PLANTED = Calibration(
    "summit", "planted", rate=0.8, memory=0.7, inside=0.6, network=0.75, update=1.5, rest_s=0.02
)
SMALL = (Layout(2, 2, 6), Layout(4, 2, 3), Layout(1, 2, 12))
"""On four nodes: pipelines shorter than the run that is predicted."""


def observed(
    layout: Layout, planted: Calibration, noise: float = 0.0, seed: int = 0
) -> ObservedRun:
    """A run that took what the model says under a planted calibration."""
    work = Work(1, 8, 2048)
    guess = SUMMIT.predict(MODEL, layout, work, planted)
    dice = np.random.default_rng(seed)
    times = {
        key: seconds * float(np.exp(noise * dice.standard_normal()))
        for key, seconds in guess.parts.items()
        if seconds > 0
    }
    total = sum(times.values())
    parts = tuple(
        Observed(key, seconds, 0.01, seconds / total) for key, seconds in sorted(times.items())
    )
    return ObservedRun(
        f"run-{layout.pipeline}", "summit", MODEL, layout, work, -(-layout.world // 6),
        guess.step_s, 0.01, 30, parts, (),
    )  # fmt: skip


def test_planted_factors_are_found_and_a_larger_layout_follows() -> None:
    found = fit([observed(layout, PLANTED) for layout in SMALL], SUMMIT, "small runs")
    own = found.calibration
    for name in ("rate", "memory", "inside", "network", "update"):
        assert getattr(own, name) == pytest.approx(getattr(PLANTED, name), rel=0.05), name
    assert own.rest_s == pytest.approx(PLANTED.rest_s, rel=0.2)
    assert found.residual < 0.01
    large = Layout(12, 2, 128)
    work = Work(1, 16, 2048)
    truth = SUMMIT.predict(MODEL, large, work, PLANTED).step_s
    assert SUMMIT.predict(MODEL, large, work, own).step_s == pytest.approx(truth, rel=0.02)
    before = SUMMIT.predict(MODEL, large, work, Calibration("summit", "none")).step_s
    assert truth > 1.15 * before


def test_noise_widens_the_interval_and_the_prediction_stays_within_it() -> None:
    errors, outside = [], 0
    large, work = Layout(12, 2, 128), Work(1, 16, 2048)
    truth = SUMMIT.predict(MODEL, large, work, PLANTED).step_s
    for seed in range(4):
        runs = [observed(layout, PLANTED, 0.08, 10 * seed + n) for n, layout in enumerate(SMALL)]
        own = fit(runs, SUMMIT, "noisy").calibration
        errors.append(own.error)
        guess = SUMMIT.predict(MODEL, large, work, own).step_s
        outside += abs(guess / truth - 1) > own.error
    exact = fit([observed(layout, PLANTED) for layout in SMALL], SUMMIT, "exact").calibration
    assert max(errors) < 0.5 and min(errors) > exact.error
    assert outside <= 1


def test_what_runs_say_nothing_of_stays_and_says_why() -> None:
    alone = [observed(Layout(1, 1, 1), PLANTED)]
    own = fit(alone, SUMMIT, "one rank").calibration
    assert own.kept is not None
    assert own.inside == own.network == 1.0
    assert "no tensor parallelism" in own.kept["inside"]
    assert "on one node" in own.kept["network"]


def test_a_file_comes_back_and_moves_every_plan(tmp_path: Path) -> None:
    import argparse

    path = tmp_path / "summit.toml"
    made = replace(PLANTED, error=0.07, kept={"latency": "nothing hangs on it"})
    made.write(path)
    assert Calibration.read(path) == made
    parser = argparse.ArgumentParser()
    add_options(parser)
    words = ["--model", "7b", "--machine", "summit", "--nodes", "512"]
    bare = planned_run(parser.parse_args(words))
    moved = planned_run(parser.parse_args([*words, "--calibration", str(path)]))
    assert (bare.error, moved.error) == (0.15, 0.07)
    layout = Layout(12, 2, 128)
    work = bare.work_of(layout, 1)
    # The engine's published loss gives way to what was measured.
    assert moved.cost(layout, work).warnings == ()
    assert bare.cost(layout, work).warnings != ()
    assert moved.cost(layout, work).seconds != bare.cost(layout, work).seconds


def synthetic(path: Path, steps: int, machine: str = "summit") -> Path:
    layout = Layout(2, 2, 3, "data-major")
    return Synthetic(
        layout, 8, (Segment(1, steps),), ranks_per_node=6, gpus_per_node=6, machine=machine
    ).write(path)


def test_a_run_directory_is_read_as_its_parts(tmp_path: Path) -> None:
    path = synthetic(tmp_path / "run", 12)
    run = observe(path, MODEL)
    parts = {part.key: part.seconds for part in run.parts}
    made = Synthetic(run.layout, 8, (Segment(1, 12),), ranks_per_node=6)
    own = (made.forward - made.tensor_reduce) / 1e9
    assert parts["forward", 0] == pytest.approx(own, rel=0.01)
    assert sum(part.share for part in run.parts) == pytest.approx(1.0)
    assert run.steps >= 3 and run.batch == 2 * 8 * 3
