"""Every planted fault of a run of 384 ranks is found with its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alpenglow_analysis.bench_scale import planted_and_found, rows_of
from alpenglow_analysis.run import Run
from alpenglow_analysis.strata import strata
from alpenglow_analysis.study import study
from alpenglow_analysis.synthetic_presets import main


def test_planted_faults_are_found_within_five_percent(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert main([str(path), "--preset=384", "--steps=200", "--sample-every=4"]) == 0
    run = Run.load(path)
    found = study(run)
    table = planted_and_found(run, found)
    assert {one.fault for one in table} == {
        "slow_node", "heavy_stage", "jitter", "slow_link", "long_checkpoint", "data_hiccups",
        "lost_steps",
    }  # fmt: skip
    for one in table:
        assert one.found == pytest.approx(one.planted, rel=0.05), one
    assert rows_of(path) > 100_000
    assert found.sample is not None
    assert found.sample.weight.sum() == pytest.approx(
        np.isin(found.sample.strata.group, found.sample.group).sum()
    ), "each replayed step counts for as many as its group has"
    assert len(strata(run, found.episodes).step) == len(np.unique(found.sample.strata.step))
