"""Ideal and actual rates on a run whose ideals are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.facts_table import facts_pairs
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import idle_equivalents, model_flops_utilisation, rates
from alpenglow_analysis.study import study
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.units import billions
from alpenglow_analysis.utilisation import account


def test_rates_are_exact(tmp_path: Path) -> None:
    spec = Synthetic(Layout(4, 1, 2), 6, (Segment(1, 5),), peak_flops_per_rank=125e12)
    run = Run.load(spec.write(tmp_path / "run"))
    steps = study(run)
    found = {rate.key: rate for rate in rates(run, account(run, steps), steps)}
    assert list(found) == [
        "peak", "compute", "schedule", "model", "steps", "charged", "calendar",
    ]  # fmt: skip
    # The replay explains all of a step without faults.
    assert found["model"].tokens_per_s == pytest.approx(found["steps"].tokens_per_s, rel=1e-6)
    tokens = 2 * 2048 * 6 * 2
    compute = 6 * 0.090
    assert found["peak"].tokens_per_s == pytest.approx(8 * 125e12 / 4.31e10)
    assert found["compute"].tokens_per_s == pytest.approx(tokens / compute)
    # Nothing but the bubble makes this pipeline wait: the schedule's ideal is its makespan.
    assert found["schedule"].tokens_per_s == pytest.approx(tokens / (spec.makespan / 1e9))
    assert "3/9 = 33.3 %" in found["schedule"].baseline
    assert found["steps"].tokens_per_s == pytest.approx(tokens / (spec.step / 1e9))
    elapsed = spec.elapsed(spec.segments[0]) / 1e9
    assert found["charged"].tokens_per_s == pytest.approx(5 * tokens / elapsed)
    assert [rate.measured for rate in found.values()] == [False] * 4 + [True] * 3
    queued = run.segments[0].started - float(run.segments[0].submitted or 0)
    assert queued > 0
    assert found["calendar"].tokens_per_s == pytest.approx(5 * tokens / (elapsed + queued))


def test_a_step_has_the_tokens_of_its_own_batch(tmp_path: Path) -> None:
    """From step 4 on a smaller global batch: rates and totals follow the lines of the metrics."""
    spec = Synthetic(Layout(4, 1, 2), 6, (Segment(1, 5),), peak_flops_per_rank=125e12)
    path = spec.write(tmp_path / "run")
    whole = 2 * 2048 * 6 * 2
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["batch"] = 24 if line["step"] < 4 else 12
    lines[1]["val_loss"] = 3.5
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = Run.load(path)
    assert run.tokens(np.array([1, 3, 4, 5, 9])).tolist() == [
        *[whole] * 2,
        *[whole / 2] * 2,
        whole,  # not in the metrics: what run.toml says
    ]
    found = {rate.key: rate for rate in rates(run, account(run))}
    elapsed = spec.elapsed(spec.segments[0]) / 1e9
    assert found["charged"].tokens_per_s == pytest.approx(4 * whole / elapsed)
    assert found["steps"].tokens_per_s == pytest.approx(whole / (spec.step / 1e9))
    facts = facts_pairs(run, account(run), None)
    assert ("Tokens", billions(5 * whole)) in facts
    assert "3.500 at step 2, on text" in dict(facts)["Validation loss"]


def test_utilisation_names_both_formulas_and_admits_an_unknown_peak(tmp_path: Path) -> None:
    spec = Synthetic(Layout(1, 1, 2), 2, (Segment(1, 2),), peak_flops_per_rank=1e14)
    run = Run.load(spec.write(tmp_path / "a"))
    own, six = model_flops_utilisation(run, 1000.0)
    assert own.fraction == pytest.approx(1000 * 4.31e10 / 2e14)
    assert six.fraction == pytest.approx(1000 * 6 * 6_857_302_016 / 2e14)
    assert "6 x parameters" in six.formula
    spec = Synthetic(Layout(1, 1, 2), 2, (Segment(1, 2),))
    run = Run.load(spec.write(tmp_path / "b"))
    assert [use.fraction for use in model_flops_utilisation(run, 1000.0)] == [None, None]
    assert "peak" not in {rate.key for rate in rates(run, account(run))}
    assert "schedule" not in {rate.key for rate in rates(run, account(run))}, "one stage"


def test_equivalents_of_the_published_layout() -> None:
    """PP12 with 8 micro-batches on 3,072 GPUs: 1,779 idle against compute without a bubble."""
    assert round(idle_equivalents(3072, 8, 19)) == 1779
