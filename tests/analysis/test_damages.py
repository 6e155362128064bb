"""Runs as they come back on a bad day: the account still adds up and says what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from damaged_runs import DAMAGES

from alpenglow_analysis.findings import findings
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import rates
from alpenglow_analysis.study import study
from alpenglow_analysis.synthetic_presets import main
from alpenglow_analysis.utilisation import account


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damages") / "run"
    assert main([str(path), "--preset=48"]) == 0
    return path


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_missing_is_said_and_the_rest_adds_up(
    whole: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    told = DAMAGES[name](path)
    run = Run.load(path)
    found = study(run)
    where = account(run, found)
    assert sum(where.pieces.values()) == where.charged_ns
    assert where.charged_ns == account(Run.load(whole)).charged_ns, "charge is from the records"
    if told is not None:
        assert any(told in damage for damage in run.damages), run.damages
        # The job that lacks a node is not replayed; the whole ones are, and stand for it.
        assert found.sample is None or "1001.0" not in found.sample.segments
    else:
        assert any("end before they begin" in damage for damage in run.damages)
    assert findings(run, where, rates(run, where, found), found)
