"""Simulated steps beside synthetic runs with planted faults, and alpenglow plan simulate."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpenglow.parallel import disturbance
from alpenglow.parallel.job_lengths import JobLengths
from alpenglow.parallel.layout import Layout, Order
from alpenglow.parallel.simulation import Simulated, simulate
from alpenglow_analysis import plan_command
from alpenglow_analysis.measured_disturbances import measured
from alpenglow_analysis.planted import Jitter, SlowLink, SlowNode
from alpenglow_analysis.run import Run
from alpenglow_analysis.study import Study, study
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.synthetic_steps import StepModel
from alpenglow_analysis.synthetic_work import Fault
from alpenglow_analysis.whatif import scenarios

STEPS = 80


def job_of(model: StepModel) -> JobLengths:
    """The lengths of a synthetic run, in seconds: each replica a kind of its own."""
    shape = model.layout
    p, d = shape.pipeline, shape.data
    meeting = model.tensor_reduce if shape.tensor > 1 else 0
    zero_bubble = model.schedule == "zb-h1"
    weights = model.weight_grad if zero_bubble else 0
    own = np.array([model.forward - meeting, model.backward - meeting, weights]) / 1e9
    tensor = np.array([meeting, meeting, 0]) / 1e9
    hops = np.zeros((d, p))
    hops[:, :-1] = np.where(model.seats.near(), model.message, model.message_far).T / 1e9
    reduce = np.full(p, model.gradient_reduce / 1e9)
    rest = model.data_wait + model.optimizer + model.rest
    return JobLengths(
        layout=shape,
        schedule=model.schedule,
        micro_batches=model.micro_batches,
        ranks_per_node=model.ranks_per_node,
        own=np.broadcast_to(own, (d, p, 3)),
        tensor=np.broadcast_to(tensor, (d, p, 3)),
        hops=hops,
        reduce=reduce,
        behind=reduce,
        update=np.full(p, rest / 1e9),
        gather=np.zeros(p),
    )


def model(**changes: Any) -> Synthetic:
    """A run of 64 ranks on Summit's nodes, six ranks on each."""
    spec = Synthetic(
        Layout(4, 2, 8, "data-major"),
        8,
        (Segment(1, STEPS),),
        ranks_per_node=6,
        message=700_000,
        message_far=8_800_000,
        gradient_reduce=40_000_000,
        rest=1_000_000,
        sample_every=1,
        form="nodes",
    )
    return replace(spec, **changes)


def slow(node: int, factor: float) -> disturbance.SlowRanks:
    return disturbance.SlowRanks(0.0, disturbance.Spread((factor,)), named=(node,))


def slow_link(node: int, factor: float) -> disturbance.SlowLinks:
    return disturbance.SlowLinks(0.0, disturbance.Spread((factor,)), named=(node,))


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1"])
@pytest.mark.parametrize("order", ["data-major", "pipe-major"])
def test_planted_slow_nodes_and_links_cost_to_the_nanosecond_what_is_simulated(
    schedule: str, order: Order
) -> None:
    layout = Layout(4, 2, 8, order)
    spec = model(schedule=schedule, layout=layout)
    cases: list[tuple[tuple[Fault, ...], list[disturbance.Disturbance]]] = [
        ((), []),
        ((SlowNode(3, 1.15),), [slow(3, 1.15)]),
        ((SlowLink(4, 2.0),), [slow_link(4, 2.0)]),
        ((SlowNode(3, 1.3), SlowLink(4, 3.0)), [slow(3, 1.3), slow_link(4, 3.0)]),
    ]
    lengths = []
    for planted, named in cases:
        truth = int(spec.with_faults(planted).lengths(0, 1, 1)[0])
        got = simulate(job_of(spec), named, steps=1).mean
        # Whole ns there: each pass and message of the longest path may be rounded.
        assert got * 1e9 == pytest.approx(truth, abs=100)
        lengths.append(truth)
    assert lengths[0] < min(lengths[1:])


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
@pytest.mark.parametrize("relative", [0.02, 0.08])
def test_planted_jitter_slows_a_run_as_much_as_simulated(schedule: str, relative: float) -> None:
    """Other dice, normal there and lognormal here: within 5 % of the slowdown."""
    spec = model(schedule=schedule)
    clean = int(spec.with_faults(()).lengths(0, 1, 1)[0])
    planted = spec.with_faults((Jitter(relative),)).lengths(0, 1, 400).mean() / clean
    for law in ("lognormal", "gamma"):
        jitter = disturbance.Jitter(relative, law)
        got = simulate(job_of(spec), [jitter], steps=400).slowdown
        assert got - 1 == pytest.approx(planted - 1, rel=0.05)


@pytest.fixture(scope="module")
def studied(disturbed: tuple[Synthetic, Path]) -> tuple[Run, Study]:
    run = Run.load(disturbed[1])
    return run, study(run)


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Synthetic, Path]:
    layout = Layout(12, 2, 4, "data-major")
    spec = model(layout=layout, faults=(Jitter(0.03), SlowNode(4, 1.15), SlowLink(5, 2.0)))
    path = tmp_path_factory.mktemp("runs") / "disturbed"
    spec.write(path)
    return spec, path


def test_analysis_truth_and_simulation_agree_on_a_written_run(
    disturbed: tuple[Synthetic, Path], studied: tuple[Run, Study]
) -> None:
    """What the generator knows, what the report finds, what is simulated: within 5 %."""
    spec, path = disturbed
    every = [slow(4, 1.15), disturbance.Jitter(0.03), slow_link(5, 2.0)]

    def played(some: list[Any]) -> Simulated:
        return simulate(job_of(spec), some, steps=300)

    together = played(every).mean
    cured = {
        fault: 1 - played([one for one in every if one is not out]).mean / together
        for fault, out in zip(("slow_node", "jitter", "slow_link"), every, strict=True)
    }
    truth = json.loads((path / "planted.json").read_text())
    assert together * 1e9 == pytest.approx(truth["step_ns"], rel=0.003)
    for fault in truth["faults"]:
        known = fault["equivalents"] / spec.ranks
        assert cured[fault["fault"]] == pytest.approx(known, rel=0.05)
    gains = {one.key: one.gain for one in scenarios(*studied)}
    found = {"slow_node": "slow_ranks", "jitter": "jitter", "slow_link": "slow_links"}
    for fault_name, key in found.items():
        assert gains[key] == pytest.approx(cured[fault_name], rel=0.05)


def test_a_run_gives_its_disturbances_as_distributions(
    disturbed: tuple[Synthetic, Path], studied: tuple[Run, Study]
) -> None:
    spec, path = disturbed
    by_key = {one.key: one for one in measured(*studied)}
    assert set(by_key) == {"slow_ranks", "jitter", "slow_links"}
    assert all(one.source == f"measured in {path}" for one in by_key.values())
    jitter, ranks, links = by_key["jitter"], by_key["slow_ranks"], by_key["slow_links"]
    assert isinstance(jitter, disturbance.Jitter)
    assert jitter.cv == pytest.approx(0.03, rel=0.03)
    assert isinstance(ranks, disturbance.SlowRanks) and ranks.per == "node"
    assert ranks.share == pytest.approx(1 / spec.nodes)
    assert ranks.factor.mean == pytest.approx(1.15, abs=0.01)
    assert isinstance(links, disturbance.SlowLinks)
    assert links.share == pytest.approx(1 / spec.nodes, rel=0.05)
    assert links.factor.mean == pytest.approx(2.0, rel=0.02)


PLAN = [
    "simulate", "--model", "7b", "--machine", "summit", "--nodes", "64", "--batch", "256",
    "--pipeline", "12", "--tensor", "2", "--order", "data-major", "--steps", "24",
]  # fmt: skip
LUCK = (
    "--jitter", "2%", "--slow-nodes", "2%:1.05-1.3", "--slow-links", "1%:2", "--hiccups", "0.5:0.2",
)  # fmt: skip


def plan(*more: str) -> int:
    return plan_command.main([*PLAN, *more])


def test_the_page_the_numbers_and_the_terminal_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "steps of 7B"
    assert plan("--output", str(folder), *LUCK, "--schedule", "zb-h1") == 0
    said = capsys.readouterr().out
    found = json.loads((folder / "simulation.json").read_text())
    assert f"{found['slowdown']:.4f}" in said
    assert found["mean_s"] == pytest.approx(np.mean(found["seconds"]))
    assert found["slowdown"] == pytest.approx(found["mean_s"] / found["undisturbed_s"])
    assert found["undisturbed_s"] == pytest.approx(found["predicted_s"], rel=1e-9)
    assert found["p5_s"] <= found["p50_s"] <= found["p95_s"]
    names = [one["name"] for one in found["disturbances"]]
    assert names == ["Slow nodes", "Jitter", "Slow links", "Pauses"]
    added = sum(one["gpus_added"] for one in found["disturbances"])
    assert added == pytest.approx(found["gpus_lost"])
    assert found["gpus_lost"] == pytest.approx(384 * (1 - 1 / found["slowdown"]))
    assert all(one["source"] == "assumed" for one in found["disturbances"])
    page = (folder / "index.html").read_text()
    text = (folder / "simulation.md").read_text()
    for words in ("Slowdown S", "What each disturbance costs", "Idle time by stage"):
        assert words in page and words in text
    assert "All numbers are predictions" in page
    assert (folder / "figures" / "simulation.png").stat().st_size > 10_000
    assert "<svg" in page


def test_a_measured_run_replaces_what_no_option_names(
    disturbed: tuple[Synthetic, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = disturbed
    assert plan("--from", str(path), "--jitter", "0.01") == 0
    said = capsys.readouterr().out
    assert re.search(r"Jitter of 1 %.*assumed", said)
    assert len(re.findall(f"measured in {path}", said)) == 2


def test_nothing_that_disturbs_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan() == 0
    said = capsys.readouterr().out
    assert "Nothing disturbs this job" in said and "1.0000" in said


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--jitter", "much"), "'much' is no number"),
        (("--slow-nodes", "1%"), "two parts with :"),
        (("--slow-nodes", "1%:1.3-1.1"), "the lower and the higher"),
        (("--slow-gpus", "120%:1.1"), "a share of 1.2"),
        (("--hiccups", "1e9:1"), "is jitter"),
        (("--steps", "0"), "at least 1"),
        (("--pipeline", "11"), "does not divide"),
        (("--pipeline", "0"), "are at least 1"),
        (("--tensor", "3"), "does not divide"),
        (("--micro-batch", "48"), "does not divide"),
        (("--micro-batch", "0"), "at least 1"),
        (("--schedule", "zigzag"), "zigzag"),
        (("--schedule", "interleaved-2"), "interleaved"),
        (("--from", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    more: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(*more) == 1
    out, said = capsys.readouterr()
    assert said.startswith("alpenglow plan simulate: ") and says in said
    assert said.count("\n") == 1 and not out
