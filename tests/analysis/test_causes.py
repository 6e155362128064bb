"""Causes of waiting, stragglers and what-if on runs with faults of known size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from alpenglow_analysis.efficiencies import efficiencies
from alpenglow_analysis.findings import findings, slow_spells
from alpenglow_analysis.replayed import played, recorded
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import rates
from alpenglow_analysis.stragglers import stragglers
from alpenglow_analysis.study import Study, study
from alpenglow_analysis.synthetic_presets import main
from alpenglow_analysis.utilisation import CAUSES, Account, account
from alpenglow_analysis.whatif import scenarios

WITHIN = 0.05
"""What the issue allows a planted size to be missed by."""
SHAPE = [
    *("--pipeline=4", "--tensor=2", "--data=6", "--micro-batches=8", "--ranks-per-node=6"),
    *("--gpus-per-node=6", "--steps=120", "--sample-every=5"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("causes")


def planted(place: Path, name: str, *faults: str) -> tuple[Run, Study, Account, dict[str, float]]:
    """A run with some faults, and by each its true size in ns of all ranks."""
    path = place / name
    if not path.exists():
        assert main([str(path), *SHAPE, *faults]) == 0
    truth = json.loads((path / "planted.json").read_text())
    run = Run.load(path)
    found = study(run)
    return run, found, account(run, found), {f["fault"]: f["cured_ns"] for f in truth["faults"]}


def test_a_clean_run_is_bubble_and_transfer(place: Path) -> None:
    _, found, where, _ = planted(place, "clean", "--none")
    assert sum(where.pieces.values()) == where.charged_ns
    waiting = sum(where.pieces[cause] for cause in CAUSES)
    for cause in ("imbalance", "slow_ranks", "jitter", "unexplained"):
        assert abs(where.pieces[cause]) < 2e-4 * waiting, cause
    assert where.pieces["waiting"] == 0
    assert found.episodes == ()
    # The bubble of 1F1B with equal stages, by its formula, of the time without transfers.
    busy, bubble = where.pieces["compute"], where.pieces["bubble"]
    assert bubble / (bubble + busy) == pytest.approx(3 / 11, rel=1e-4)
    spread = stragglers(found.sample, found.heat) if found.sample else None
    assert spread is not None
    assert spread.slowdown == pytest.approx(1, abs=0.01)


def test_a_slow_node_is_named_with_its_spell_and_its_cost(place: Path) -> None:
    run, found, where, truth = planted(place, "slow", "--slow-node=3:1.3:40:90")
    (spell,) = found.episodes
    assert spell.where == "n003"
    assert (spell.first_step, spell.last_step) == (40, 90)
    assert spell.factor == pytest.approx(1.3, rel=WITHIN)
    (change,) = [each for each in scenarios(run, found) if each.key == "slow_ranks"]
    cost = change.gain * float(where.step_s.sum()) * 1e9 * run.facts.ranks
    assert cost == pytest.approx(truth["slow_node"], rel=WITHIN)
    assert where.pieces["slow_ranks"] > 10 * abs(where.pieces["jitter"])
    said = slow_spells(found.episodes)
    assert "n003 computed 1.30 times as long as its peers from step 40 to 90" in said
    assert any("n003" in text for text in findings(run, where, rates(run, where), found))
    spread = stragglers(found.sample, found.heat, found.episodes) if found.sample else None
    assert spread is not None
    assert spread.nodes[0].where == "n003"
    assert spread.nodes[0].share == pytest.approx(1, abs=0.1)


def test_an_uneven_stage_costs_what_was_planted(place: Path) -> None:
    run, found, where, truth = planted(place, "heavy", "--heavy-stage=3:1.2")
    (change,) = [each for each in scenarios(run, found) if each.key == "balanced"]
    steps = len(where.step)
    cost = change.gain * float(np.mean(where.step_s)) * 1e9 * run.facts.ranks * steps
    # The generator cures it by taking the extra work away, the scenario by sharing it out.
    shared = 0.2 / 4 * where.pieces["compute"] / 1.05 * 11 / 8
    assert cost + shared == pytest.approx(truth["heavy_stage"], rel=0.1)
    assert where.pieces["imbalance"] > 0.03 * where.charged_ns
    assert found.sample is not None
    spread = stragglers(found.sample, found.heat)
    assert spread is not None
    assert int(np.argmax(spread.by_stage)) == 3
    assert spread.by_stage[3] > 0.9


def test_jitter_costs_what_was_planted(place: Path) -> None:
    _, _, where, truth = planted(place, "jitter", "--jitter=0.04")
    found = where.pieces["jitter"]
    assert found == pytest.approx(truth["jitter"], rel=WITHIN)


def test_together_they_still_add_up(place: Path) -> None:
    faults = ("--jitter=0.03", "--slow-node=3:1.3:40:90", "--heavy-stage=3:1.2")
    run, found, where, truth = planted(place, "all", *faults, "--clocks=0.01:2e-5")
    assert sum(where.pieces.values()) == where.charged_ns
    waiting = sum(where.pieces[cause] for cause in CAUSES)
    assert abs(where.pieces["unexplained"]) < 0.01 * waiting
    assert found.causes is not None and found.sample is not None
    total = sum(found.causes.ns.values())
    assert total == pytest.approx(found.causes.waiting, rel=1e-9)
    assert where.pieces["jitter"] + where.pieces["slow_ranks"] == pytest.approx(
        truth["jitter"] + truth["slow_node"], rel=0.25
    ), "in order and one by one differ, but not by much"
    both = efficiencies(where, found.sample)
    assert both is not None
    pop, talp = both.pop, both.talp
    assert pop.parallel == pytest.approx(pop.load_balance * pop.communication)
    assert pop.communication == pytest.approx(pop.serialisation * pop.transfer)
    assert talp.parallel == pytest.approx(
        talp.load_balance * talp.communication * talp.orchestration
    )
    assert pop.parallel == pytest.approx(talp.parallel, rel=0.02)
    joules = {segment.name: 3.6e9 for segment in run.segments}
    energy = where.energy(joules)
    assert energy is not None
    assert sum(energy.values()) == pytest.approx(len(run.segments))


def test_other_schedules_are_those_of_the_trainer(place: Path) -> None:
    """What is replayed as another schedule is what a run of that schedule takes."""
    run, found, _, _ = planted(place, "clean", "--none")
    by_key = {each.key: each for each in scenarios(run, found)}
    zb, _, _, _ = planted(place, "zb", "--none", "--schedule=zb-h1")
    split = study(zb)
    assert split.sample is not None and found.sample is not None
    # Its backward and weight passes are as long as one forward each, those of 1F1B as two.
    assert by_key["schedule_zb-h1"].step_s < by_key["schedule_gpipe"].step_s
    back = {each.key: each for each in scenarios(zb, split)}["schedule_1f1b"]
    assert back.gain < 0
    whole = recorded(split.sample)
    assert played(whole) == pytest.approx(split.sample.duration, rel=1e-3)
    again = played(dataclasses.replace(whole, schedule="zb-h1"))
    assert (again == played(whole)).all()
    doubled = by_key["micro_batches_double"]
    assert doubled.gain > 0
    assert "less efficient" in doubled.assumes


def test_without_spans_the_cause_is_unknown(place: Path, tmp_path: Path) -> None:
    """A node that left nothing: nothing can be replayed, and the account says so."""
    path = tmp_path / "run"
    assert main([str(path), *SHAPE, "--none"]) == 0
    for gone in (path / "events").glob("*/rank-0003[0-5].log"):
        gone.unlink()
    run = Run.load(path)
    where = account(run)
    assert sum(where.pieces.values()) == where.charged_ns
    assert where.pieces["waiting"] > 0
    assert all(where.pieces[cause] == 0 for cause in CAUSES)
    assert "nothing was replayed" in where.notes[0]
    assert where.pieces["unrecorded"] > 0
