"""alpenglow plan campaign: what it prints, writes and refuses, and where its inputs are from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from alpenglow_analysis import campaign_command, plan_command
from alpenglow_analysis.campaign import Campaign, Hazards, Overheads, Work
from alpenglow_analysis.campaign_choices import choices, effects, on_nodes
from alpenglow_analysis.campaign_job import CampaignError, Job
from alpenglow_analysis.campaign_outcome import PIECES
from alpenglow_analysis.campaign_simulation import simulate
from alpenglow_analysis.queue_wait import QueueWait, normal, waits
from alpenglow_analysis.segment import RunError
from alpenglow_analysis.utilisation import PIECES as ACCOUNT
from alpenglow_lsf.machine import load

SUMMIT = load("summit")
RUN = [
    "campaign", "--machine", "summit", "--nodes", "512", "--tokens", "100B",
    "--step-seconds", "1.66", "--batch-tokens", "4194304", "--campaigns", "200",
]  # fmt: skip


def plan(*more: str) -> int:
    return plan_command.main([*RUN, *more])


def test_the_page_the_numbers_and_the_terminal_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "plan of 7B"
    own = ("--choice", "published layout: --step-seconds 3.98")
    priced = ("--price", "2.5", "--node-watts", "2000")
    assert plan("--output", str(folder), *own, *priced) == 0
    said = capsys.readouterr().out
    found = json.loads((folder / "campaign.json").read_text())
    middle = found["results"]["days"]["p50"]
    assert re.search(rf"Calendar days +\S+ +{middle:.3g} ", said)
    results = found["results"]
    assert results["dollars"]["p50"] == pytest.approx(2.5 * results["node_hours"]["p50"])
    assert results["mwh"]["p50"] == pytest.approx(2e-3 * results["node_hours"]["p50"])
    assert sum(found["node_hours"].values()) == pytest.approx(results["node_hours"]["mean"])
    assert list(found["node_hours"]) == list(PIECES)
    # The report's own words, where a piece is one of the report's.
    assert {name: PIECES[name] for name in PIECES if name in ACCOUNT} == {
        name: ACCOUNT[name] for name in ACCOUNT if name in PIECES
    }
    published = found["choices"][0]
    assert published["choice"] == "published layout"
    ratio = published["results"]["node_hours"]["p50"] / results["node_hours"]["p50"]
    assert ratio == pytest.approx(3.98 / 1.66, rel=0.05)
    sources = {row["input"]: row["source"] for row in found["inputs"]}
    assert sources["seconds of a step"] == sources["dollars a node-hour"] == "given"
    assert sources["GPU-hours for a failure"] == "machine file"
    assert sources["start-up"] == "assumed" == sources["queue waits"]
    assert all(sources.values())
    for name in ("campaign.md", "index.html"):
        text = (folder / name).read_text()
        assert "published layout" in text and "What each choice changes" in text
        assert f"{middle:.3g} days" in text
    for name in ("campaign", "choices"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000


def test_the_same_seed_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--no-choices") == 0
    first = capsys.readouterr().out
    assert plan("--no-choices") == 0
    assert capsys.readouterr().out == first
    assert plan("--no-choices", "--seed", "2") == 0
    assert capsys.readouterr().out != first


@pytest.mark.parametrize(
    ("options", "says", "cure"),
    [
        ("--nodes 5000", "more than queue batch of summit takes", "--nodes 4608"),
        ("--walltime 24", "limit of summit's queue batch", "--walltime 12"),
        ("--walltime 24", "or 922 nodes", "--nodes 922"),
        ("--queue debug", "forbids chains of jobs", "--queue batch"),
        ("--queue killable", "the nearest is 91 nodes", "--nodes 91"),
        ("--walltime 0.1", "the nearest that works is a walltime of 0.19 h", "--walltime 0.19"),
        ("--checkpoint-minutes 1", "works is 2.5 min", "--checkpoint-minutes 2.5"),
        ("--nodes 4608 --failure-gpu-hours 500", "works is 689 nodes that train", "--nodes 689"),
        (
            "--nodes 4608 --failure-gpu-hours 9000 --checkpoint-minutes 600",
            "a checkpoint every 24.8 min", "--checkpoint-minutes 24.8",
        ),
        ("--nodes 1 --step-seconds 1500", "works is 49.2 billion tokens", "--tokens 49.2B"),
    ],
)  # fmt: skip
def test_what_cannot_be_gets_a_sentence_and_its_cure_works(
    options: str, says: str, cure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*options.split(), "--no-choices", "--campaigns", "5", "--output", str(tmp_path / "p")]
    assert plan(*words) == 1
    streams = capsys.readouterr()
    assert says in streams.err and streams.err.count("\n") == 1 and not streams.out
    assert not (tmp_path / "p").exists()
    cured = campaign_command.parser().parse_args([*RUN[1:], *options.split(), *cure.split()])
    assert campaign_command.campaign_of(cured, SUMMIT)[0].job.nodes == cured.nodes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--no-wait --wait-hours 3", "exclude each other"),
        ("--wait-hours x", "is no number"),
        ("--wait-hours 1:2:3", "1 to 2 numbers"),
        ("--slow 1000:1.1:2:3", "1 to 3 numbers"),
        ("--wait-file /no/such/file", "not a readable list of waits"),
        ("--wait-runs /no/such/run", "not a run directory"),
        ("--measured /no/such/run", "not a run directory"),
        ("--power-from /no/such/run", "/no/such/run"),
        ("--choice fast", "a label, a colon, and options"),
        ("--choice 'fast: --nodes 9999'", "--choice 'fast': -nnodes 9999"),
        ("--step-error 120", "below 100 %"),
        ("--walltime nan", "must be above 0"),
        ("--startup nan", "must be 0 or more"),
        ("--failure-gpu-hours inf", "must be above 0"),
        ("--seed -1", "a seed is 0 or more"),
        ("--campaigns 0", "at least one"),
        ("--spare 512", "leave none to train"),
        ("--ramp 9M:10B", "a ramp goes from fewer"),
        ("--machine sumit", "did you mean summit"),
        ("--weibull-shape 9", "0.2 to 5"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    options: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    assert plan(*shlex.split(options)) == 1
    streams = capsys.readouterr()
    assert says in streams.err and streams.err.count("\n") == 1 and not streams.out


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command.main(["campaign"]) == 2
    assert plan_command.main(["journey"]) == 2 == plan_command.main([])
    assert "no command journey" in capsys.readouterr().err
    assert plan_command.main(["--help"]) == 0
    assert "campaign" in capsys.readouterr().out


def _record(run: Path, name: str, **fields: object) -> None:
    (run / "segments").mkdir(parents=True, exist_ok=True)
    common = {"job_id": name, "attempt": 1, "activity": "train", "nodes_asked": 512, "reason": "x"}
    text = json.dumps({**common, **fields})
    (run / "segments" / f"{name}.1.json").write_text(text)


def test_waits_and_overheads_come_from_past_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    hour = 3600.0
    _record(run, "1", submitted=0.0, started=2 * hour, ended=10 * hour, startup_s=100.0, save_s=4.0)
    # Submitted while the first ran: it could not start before that had ended.
    _record(run, "2", submitted=3 * hour, started=11 * hour, ended=20 * hour, startup_s=200.0)
    # Submitted by hand after a pause, on other nodes.
    _record(run, "3", submitted=30 * hour, started=35 * hour, ended=36 * hour, nodes_asked=91)
    _record(run, "4", submitted=None, started=50 * hour, ended=51 * hour, startup_s=300.0)
    assert waits(run) == [2 * hour, 1 * hour, 5 * hour]
    assert QueueWait.of_runs([run], nodes=91).values == (5 * hour,)
    with pytest.raises(RunError, match="no segment record of 7 nodes"):
        QueueWait.of_runs([run], nodes=7)
    assert plan("--wait-runs", str(run), "--measured", str(run), "--no-choices") == 0
    said = capsys.readouterr().out
    assert re.search(r"queue waits +records of \S+: 3 waits, median 2 h 00 min", said)
    assert re.search(r"start-up +3 min 20 s +measured in ", said)
    assert re.search(r"stall of a save +4 s +measured in ", said)
    assert "until it is durable          2 min 29 s" in said
    assert "The queue is assumed" not in said


def test_waits_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "waits.txt"
    path.write_text("# hours\n1\n\n2.5  # a Monday\n")
    found = QueueWait.read(path)
    assert found.values == (3600.0, 9000.0) and not found.assumed
    drawn = found.seconds(np.array([0.1, 0.49, 0.51, 1.0]))
    assert drawn.tolist() == [3600.0, 3600.0, 9000.0, 9000.0]
    assert found.scaled(2.0).seconds(np.array([0.1])).tolist() == [7200.0]
    for text, says in (
        ("1\n-2\n", ":2: '-2' is no wait"),
        ("soon", ":1: 'soon'"),
        ("#\n", "no wait"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=re.escape(says)):
            QueueWait.read(path)


def test_the_assumed_queue_has_the_bins_boost() -> None:
    queue = SUMMIT.queues[0]
    total = SUMMIT.compute.nodes
    small, boosted = (QueueWait.default(queue, n, total) for n in (512, 922))
    assert small.boost_s == 0 and boosted.boost_s == 10 * 86_400
    assert small.free_s == 24 * 3600 * 512 / 4608
    uniform = 1 - np.random.default_rng(3).random(200_000)
    drawn = small.seconds(uniform)
    assert float(np.median(drawn)) == pytest.approx(small.free_s + 6 * 3600, rel=0.02)
    assert (boosted.seconds(uniform) >= boosted.free_s).all()
    assert boosted.seconds(uniform).mean() < drawn.mean()
    # Acklam's approximation, against the distribution's known points.
    points = np.array([0.001, 0.025, 0.5, 0.8413447460685429, 0.975, 0.999])
    known = [-3.090232306167813, -1.959963984540054, 0.0, 1.0, 1.959963984540054, 3.090232306167813]
    assert normal(points) == pytest.approx(known, abs=1e-8)


def _planned(**hazards: float) -> Campaign:
    return Campaign(
        Job.of(SUMMIT, 512),
        Work(1e12, 4194304, 1.66),
        QueueWait.default(SUMMIT.queues[0], 512, 4608),
        hazards=Hazards(**hazards),  # type: ignore[arg-type]
    )


OF_MODEL = [
    "campaign", "--machine", "summit", "--nodes", "512", "--tokens", "100B", "--model", "7b",
    "--campaigns", "200",
]  # fmt: skip


def test_a_model_gives_steps_and_tokens_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan_command.main([*OF_MODEL, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "campaign.json").read_text())
    sources = {row["input"]: (row["value"], row["source"]) for row in found["inputs"]}
    given = campaign_command.parser().parse_args(OF_MODEL[1:])
    chosen = campaign_command.chosen_of(given, SUMMIT)
    assert chosen is not None
    assert sources["seconds of a step"][0] == f"{chosen.cost.seconds:.4g}"
    assert sources["seconds of a step"][1].startswith("predicted: pipeline 12 x tensor 2")
    assert sources["tokens a step"] == ("4,194,304", "model INCITE 7B")
    assert sources["90 % interval of it"] == ("± 15 %", "assumed: as machine files alone")
    assert "ideal scaling" not in said
    got = {each["choice"]: each for each in found["choices"]}
    # Replicas of 4 nodes must fill the nodes and the batch divide: 922 are 1,024, 91 are 64.
    nodes = [c for c in got if re.match(r"[\d,]+ nodes, steps of", c)]
    assert [c.partition(" ")[0] for c in nodes] == ["64", "256", "1,024"]
    assert all("predicted" in got[c]["assumed"] for c in nodes)
    # Twice the nodes give less than half the step.
    wide = chosen.on(1024)
    assert 0.5 < wide.cost.seconds / chosen.cost.seconds < 1
    assert (
        got["schedule 1f1b"]["node_hours"]
        > 0
        > got["gradients in 1/87.7 of the bytes"]["node_hours"]
    )
    assert "CocktailSGD" in got["gradients in 1/87.7 of the bytes"]["assumed"]


def test_a_layout_comes_from_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "layout.json"
    best = {"pipeline": 12, "tensor": 2, "micro_batch_size": 2, "schedule": "1f1b",
            "recompute": "full", "order": "pipe-major", "split": "even", "mfu": 0.2}  # fmt: skip
    path.write_text(json.dumps({"layouts": [best, {"pipeline": 1, "tensor": 1}]}))
    given = campaign_command.parser().parse_args([*OF_MODEL[1:], "--layout", str(path)])
    chosen = campaign_command.chosen_of(given, SUMMIT)
    assert chosen is not None and chosen.layout.order == "pipe-major"
    assert (chosen.work.micro_batches, chosen.work.recompute) == (8, "full")
    assert str(path) in chosen.source
    for text, says in (("[]", "pipeline or tensor or micro_batch_size"), ("{", "not a readable")):
        path.write_text(text)
        assert plan_command.main([*OF_MODEL, "--layout", str(path)]) == 1
        assert says in capsys.readouterr().err


def test_what_is_given_goes_before_what_a_model_predicts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*OF_MODEL, "--step-seconds", "2.5", "--step-error", "3", "--no-choices"]
    choice = ("--choice", "published: --layout published")
    assert plan_command.main([*words, *choice]) == 0
    said = capsys.readouterr().out
    assert re.search(r"seconds of a step +2.5 +given", said)
    assert re.search(r"90 % interval of it +± 3 % +given", said)
    # A choice of another layout predicts unless its seconds are given too.
    assert plan_command.main([*OF_MODEL, "--no-choices", *choice]) == 0
    assert re.search(r"^published .* \+", capsys.readouterr().out, re.M)


def test_a_step_that_was_measured_scales_as_its_prediction() -> None:
    given = campaign_command.parser().parse_args([*OF_MODEL[1:], "--step-seconds", "2.5"])
    base, _ = campaign_command.campaign_of(given, SUMMIT)
    chosen = campaign_command.chosen_of(given, SUMMIT)
    assert chosen is not None
    found, _ = choices(base, SUMMIT, chosen)
    got = {each.label: each.campaign for each in found}
    slower = chosen.scheduled("1f1b").cost.seconds / chosen.cost.seconds
    assert got["schedule 1f1b"].work.step_s == pytest.approx(2.5 * slower)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--model 8b", "--model 8b: 7b, 3b"),
        ("--model 7b --layout fast", "is not in [layouts]"),
        ("--model 7b --nodes 500", "the nearest number of nodes that fits is 512"),
        ("--model 7b --nodes 514 --spare 1", "the nearest number of nodes that fits is 512"),
        ("--model 7b --layout pipeline=3,tensor=1", "needs at least"),
        ("--model 7b --layout pipeline=12,tensor=2,recompute=some", "choose from none, selective"),
        ("--model 7b --layout pipeline=2,tensor=1", "no number of nodes fits 2 GPUs a replica"),
        ("--model 7b --layout pipes=2", "no 'pipes'"),
        ("--model 7b --layout /no/such.json", "not a readable list of layouts"),
        ("--batch-tokens 4M", "--step-seconds missing: give them, or a --model"),
        ("--step-seconds 2", "--batch-tokens missing"),
    ],
)
def test_a_model_that_cannot_be_is_one_sentence(
    options: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["campaign", "--machine", "summit", "--nodes", "512", "--tokens", "100B"]
    assert plan_command.main([*words, *options.split()]) == 1
    streams = capsys.readouterr()
    assert says in streams.err and streams.err.count("\n") == 1 and not streams.out


def test_choices_go_the_way_they_must() -> None:
    base = simulate(_planned(), 500)
    found, impossible = choices(base.campaign, SUMMIT)
    assert not impossible
    got = {each.choice.label: each for each in effects(base, found)}
    assert got["queue waits x 2"].days > 0 == got["queue waits x 2"].node_hours
    assert got["failures x 2"].node_hours > 0 > got["failures x 0.5"].node_hours
    assert got["steps 10 % longer"].node_hours > 0 > got["steps 10 % shorter"].node_hours
    assert got["walltime 6 h 00 min"].days > 0
    assert got["no reserve before the walltime"].node_hours > 0
    relaunch = got["2 spare nodes, relaunch within the job"]
    assert relaunch.days < 0 and relaunch.outcome.campaign.job.nodes == 514
    wide = got["922 nodes, ideal scaling"].outcome.campaign
    assert (wide.job.walltime_s, wide.wait.boost_s) == (24 * 3600.0, 10 * 86_400.0)
    assert wide.work.step_s == pytest.approx(1.66 * 512 / 922)
    assert "91 nodes, ideal scaling" in got


def test_a_choice_that_cannot_be_is_told() -> None:
    short = _planned().changed({"walltime_s": 1200.0})
    _, impossible = choices(short, SUMMIT)
    assert any(text.startswith("walltime 10 min") for text in impossible)
    with pytest.raises(CampaignError, match="has no stepseconds"):
        short.changed({"stepseconds": 1.0})
    # Waits that were observed are kept on other nodes.
    seen = _planned().changed({"wait": QueueWait("seen", False, values=(60.0,))})
    assert on_nodes(seen, SUMMIT, 922).wait == seen.wait


def test_defaults_are_the_trainers_rules() -> None:
    own = _planned()
    assert own.interval_s == 148.8 / 0.1  # a drain takes a tenth of the time at most
    assert own.overheads.detect_s == 300.0
    assert own.reserve_s == 1.5 * (6.3 + 148.8 + 30.0) + 2 * 1.66 + 10.0
    quiet = _planned(gpu_hours=None)  # type: ignore[arg-type]
    assert quiet.interval_s == 900.0
    slow = quiet.changed({"drain_s": 2000.0})
    assert slow.interval_s == 2000.0
    assert Overheads().evaluate_every == 1000
