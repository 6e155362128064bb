"""Synthetic runs are lawful, their sums are those of their spans, their truth is theirs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from damaged_runs import DAMAGES, write_version_1

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.planted import (
    Clocks,
    DataHiccups,
    HeavyStage,
    Jitter,
    LongCheckpoint,
    SlowLink,
    SlowNode,
)
from alpenglow_analysis.run import Run
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.synthetic_presets import main
from alpenglow_profiling.clock_map import ClockMap
from alpenglow_profiling.events import Events, Kind, read
from alpenglow_profiling.kind import ACTIVATION, OUTER, SUM, Rows, Sums
from alpenglow_profiling.self_time import sums

FAULTS = (
    HeavyStage(-1, 1.2),
    SlowNode(1, 1.1, first=3, last=9),
    Jitter(0.05),
    SlowLink(0, 2.0, first=5),
    DataHiccups(1, 4, 70_000_000),
    LongCheckpoint(8, 5_000_000_000),
    Clocks(1_000_000, 1e-5),
)


def chain(**changes: object) -> Synthetic:
    """Two jobs on four nodes, the first killed within step 11, with everything planted."""
    spec = Synthetic(
        Layout(3, 2, 4, "data-major"),
        4,
        (Segment(1, 10, killed=True, cut=0.6), Segment(9, 14)),
        ranks_per_node=6,
        recompute=20_000_000,
        message=700_000,
        message_far=9_000_000,
        load=300_000,
        rest=2_000_000,
        restart=1_000_000_000,
        checkpoint_every=4,
        form="nodes",
        faults=FAULTS,
    )
    return dataclasses.replace(spec, **changes)  # type: ignore[arg-type]


SHAPES = {
    "everything": chain(),
    "zero bubble": chain(schedule="zb-h1", backward=40_000_000),
    "one stage": chain(layout=Layout(1, 2, 12)),
    "no tensor group": chain(layout=Layout(4, 1, 6), recompute=0, load=0, faults=(Jitter(0.3),)),
}


@pytest.fixture(scope="module", params=SHAPES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SHAPES[request.param].write(tmp_path_factory.mktemp("made") / "run")


def table(events: Events) -> Sums:
    """All sums, by step, rank and kind."""
    found = np.concatenate([part.sums() for part in events.parts])
    return found[np.lexsort((found["kind"], found["rank"], found["step"]))]


def of_spans(events: Events) -> Sums:
    """The same by the spans on each node's own clock."""
    found = [np.empty(0, SUM)]
    for part in events.parts:
        rows = np.concatenate([part.outer, part.spans()])
        found += [sums(rows[rows["rank"] == rank]) for rank in part.ranks]
    every = np.concatenate(found)
    return every[np.lexsort((every["kind"], every["rank"], every["step"]))]


def true_clock(run: Path, segment: str) -> Events:
    """Events moved to true time, by the clocks that planted.json tells."""
    told = json.loads((run / "planted.json").read_text())["clocks"].get(segment, {})
    clocks = {node: ClockMap(*np.array(points, np.int64).T.copy()) for node, points in told.items()}
    return read(run / "events" / segment).moved(clocks)


def test_sums_are_those_of_the_spans(made: Path) -> None:
    for segment in ("1001.0", "1002.0"):
        events = read(made / "events" / segment)
        assert not events.damages
        assert np.array_equal(table(events), of_spans(events))
        found = events.sums
        step = events.outer[events.outer["kind"] == Kind.STEP]
        length = np.zeros((len(found.step), events.world_size), np.int64)
        where = np.searchsorted(found.step, step["step"]), step["rank"]
        for part in events.parts:  # durations on the node's own clock, as sums are
            own = part.outer[part.outer["kind"] == Kind.STEP]
            where = np.searchsorted(found.step, own["step"]), own["rank"]
            length[where] = own["end_ns"] - own["begin_ns"]
        whole = length > 0
        assert whole.any(axis=1).sum() == len(np.unique(step["step"]))
        assert np.array_equal(found.own_ns.sum(axis=2)[whole], length[whole])


def test_fewer_spans_change_no_sum(tmp_path: Path) -> None:
    every = chain().write(tmp_path / "every")
    some = chain(sample_every=5).write(tmp_path / "some")
    logs = chain(sample_every=5, form="logs").write(tmp_path / "logs")
    assert list((logs / "events" / "1001.0").glob("*.log"))
    for segment, kept in (("1001.0", [1, 2, 5, 10, 11]), ("1002.0", [9, 10])):
        whole, part, log = (true_clock(run, segment) for run in (every, some, logs))
        assert np.array_equal(table(whole), table(part))
        assert np.array_equal(table(whole), table(log))
        assert np.array_equal(whole.outer, part.outer)
        assert np.array_equal(whole.outer, log.outer)
        assert part.sample_every == log.sample_every == 5
        assert part.kept.tolist() == log.kept.tolist() == kept
        assert np.array_equal(whole.spans(kept), part.spans(kept))
        # Spans that begin at once have no order of their own.
        assert np.array_equal(np.sort(part.spans()), np.sort(log.spans()))


def test_a_long_step_is_kept_with_its_neighbours(tmp_path: Path) -> None:
    spec = chain(
        sample_every=50, segments=(Segment(1, 12),), faults=(DataHiccups(1, 12, 3_000_000_000),)
    )
    assert read(spec.write(tmp_path / "run") / "events" / "1001.0").kept.tolist() == [1, 2, 5, 6, 7]


def test_times_are_lawful(made: Path) -> None:
    """On true clocks: both ends of a message, and all members of a collective, end together."""
    run = Run.load(made)
    layout = run.facts.layout
    rows = true_clock(made, "1001.0").spans()
    whole = rows[rows["step"] <= 10]  # not the step that the kill cut
    rows = whole[~np.isin(whole["kind"], [int(kind) for kind in OUTER])]
    assert (rows["end_ns"] >= rows["begin_ns"]).all()

    def at(kind: Kind) -> Rows:
        chosen: Rows = rows[rows["kind"] == kind]
        return chosen

    p2p = at(Kind.P2P)
    low, high = (np.minimum, np.maximum)
    pair = np.stack([p2p["step"], low(p2p["rank"], p2p["peer"]), high(p2p["rank"], p2p["peer"])])
    order = np.lexsort((p2p["end_ns"], p2p["micro_batch"], *pair[::-1]))
    ends = p2p[order]["end_ns"].reshape(-1, 2)
    assert (np.diff(ends, axis=1) <= 3).all()
    kinds = p2p[order]["group"].reshape(-1, 2)
    assert (kinds[:, 0] == kinds[:, 1]).all(), "both ends say what moves"
    down = p2p["group"] == ACTIVATION
    assert down.sum() * 2 == len(p2p)
    messages = 2 * (layout.pipeline - 1) * 4 * layout.data * layout.tensor * 10
    assert len(ends) == messages

    reduce = at(Kind.TENSOR_REDUCE)
    groups = np.array(layout.tensor_groups())
    assert (groups[reduce["group"]] == reduce["rank"][:, None]).any(axis=1).all()
    for kind, key in ((Kind.TENSOR_REDUCE, "group"), (Kind.OPTIMIZER, "step")):
        found = at(kind)
        if not len(found):
            assert layout.tensor == 1
            continue
        size = layout.tensor if key == "group" else layout.world
        found = found[np.lexsort((found["end_ns"], found[key]))].reshape(-1, size)
        assert (np.ptp(found["end_ns"], axis=1) <= 3).all()
        assert (found["begin_ns"].max(axis=1) <= found["end_ns"].min(axis=1)).all()
    found = at(Kind.GRADIENT_REDUCE)
    for ranks in layout.data_groups():
        ends = found[np.isin(found["rank"], ranks)]["end_ns"].reshape(10, -1)
        assert (np.ptp(ends, axis=1) <= 3).all()


def test_no_rank_does_two_things_at_once(made: Path) -> None:
    for part in read(made / "events" / "1002.0").parts:
        for rank in part.ranks:
            rows = part.spans()
            rows = rows[rows["rank"] == rank]
            flat = rows[~np.isin(rows["kind"], [Kind.TENSOR_REDUCE, Kind.RECOMPUTE])]
            flat = flat[np.argsort(flat["begin_ns"], kind="stable")]
            assert (flat["begin_ns"][1:] >= flat["end_ns"][:-1]).all()


def test_a_killed_job_leaves_the_begun_step(tmp_path: Path) -> None:
    events = read(chain().write(tmp_path / "run") / "events" / "1001.0")
    last = events.spans([11])
    assert len(last)
    assert Kind.STEP not in last["kind"]
    assert Kind.OPTIMIZER not in last["kind"]
    assert events.sums.step[-1] == 11
    assert not events.sums.own(Kind.STEP)[-1].any()


def planted(run: Path) -> dict[str, dict[str, float]]:
    return {f["fault"]: f for f in json.loads((run / "planted.json").read_text())["faults"]}


def test_sizes_are_true(tmp_path: Path) -> None:
    """Where a step is one stage's work, what a fault costs can be told by hand."""
    spec = chain(layout=Layout(1, 1, 12), segments=(Segment(1, 20),), recompute=0, load=0)
    passes = 4 * (spec.forward + spec.backward)
    slow = dataclasses.replace(spec, faults=(SlowNode(1, 1.1, first=3, last=9),))
    found = planted(slow.write(tmp_path / "slow"))["slow_node"]
    assert found["cured_ns"] == found["ordered_ns"] == 7 * 12 * round(0.1 * passes)
    assert found["steps"] == 7
    assert found["slowdown"] == pytest.approx(1 + 7 * 0.1 * passes / (20 * spec.step))

    link = dataclasses.replace(spec, faults=(SlowLink(0, 3.0, first=11),))
    found = planted(link.write(tmp_path / "link"))["slow_link"]
    assert found["cured_ns"] == 10 * 12 * 2 * spec.gradient_reduce

    data = dataclasses.replace(spec, faults=(DataHiccups(1, 4, 70_000_000),))
    found = planted(data.write(tmp_path / "data"))["data_hiccups"]
    assert found["cured_ns"] == 5 * 12 * 70_000_000

    # Two slow nodes at once: curing one alone wins nothing.
    both = (SlowNode(0, 1.1), SlowNode(1, 1.1))
    run = dataclasses.replace(spec, faults=both).write(tmp_path / "both")
    sizes = json.loads((run / "planted.json").read_text())["faults"]
    assert [size["cured_ns"] for size in sizes] == [0, 0]
    assert [size["ordered_ns"] for size in sizes] == [20 * 12 * round(0.1 * passes), 0]


def test_what_survives_counts(tmp_path: Path) -> None:
    """Steps that a later job trained again are in the lost time, not in the fault's."""
    run = chain(faults=(HeavyStage(-1, 1.2),)).write(tmp_path / "run")
    told = json.loads((run / "planted.json").read_text())
    assert told["steps"] == 14
    assert told["faults"][0]["steps"] == 14
    (lost,) = told["lost"]
    assert (lost["segment"], lost["steps"]) == ("1001.0", [9, 10])
    assert lost["whole_steps_ns"] == 2 * 24 * told["step_ns"]
    assert lost["cut_step_ns"] == 24 * int(0.6 * told["step_ns"])


def test_faults_do_not_move_the_dice() -> None:
    spec = chain(faults=(Jitter(0.05),))
    alone = spec.lengths(0, 1, 12)
    both = dataclasses.replace(spec, faults=(*spec.faults, SlowNode(2, 1.5, first=4, last=6)))
    changed = both.lengths(0, 1, 12) != alone
    assert np.flatnonzero(changed).tolist() == [3, 4, 5]
    assert (spec.lengths(1, 1, 12) != alone).all(), "a step that is trained again"


def test_a_run_of_a_preset_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    assert main([str(path), "--preset", "48", "--steps", "16", "--clocks", "0.001:1e-6"]) == 0
    run = Run.load(path)
    assert (run.facts.ranks, run.facts.nodes, run.facts.unit) == (48, 8, "GPU")
    assert [segment.reason for segment in run.segments] == ["more to do", "not closed", "complete"]
    assert run.lost_from(run.segments[1]) == 11
    assert run.metrics.step.tolist() == list(range(1, 17))
    assert set(planted(path)) == set()
    assert main([str(path)]) == 1
    assert "exists: name a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--slow-node", "x"], "--slow-node x: give NODE:FACTOR[:FIRST:LAST]"),
        (["--slow-node", "9:1.1"], "slow_node: node 9 is not one of 2"),
        (["--heavy-stage", "4:1.1"], "heavy_stage: stage 4 is not one of 2"),
        (["--jitter", "-1"], "relative = -1.0 is negative"),
        (["--recompute", "60000000"], "each must be longer than its collective"),
        (["--data", "0"], "a degree is at least 1"),
        (["--hiccups", "1:0:1"], "at least 1"),
        (["--steps", "0"], "steps = 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert main([str(tmp_path / "run"), *options]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_named(tmp_path: Path, what: str) -> None:
    path = chain(sample_every=5).write(tmp_path / "run")
    sentence = DAMAGES[what](path)
    damages = Run.load(path).damages
    if sentence is not None:
        assert any(sentence in damage for damage in damages), damages
        assert all("\n" not in damage for damage in damages)


def test_the_first_version_is_read_beside_the_second(tmp_path: Path) -> None:
    path = chain(faults=()).write(tmp_path / "run")
    before = read(path / "events" / "1001.0")
    known, rows = table(before), before.spans()
    write_version_1(path / "events" / "1001.0" / "n000.h5")
    after = read(path / "events" / "1001.0")
    assert not after.damages
    assert np.array_equal(table(after), known)
    assert np.array_equal(after.spans(), rows)


def test_a_run_without_a_step_is_read(tmp_path: Path) -> None:
    for form in ("nodes", "logs"):
        spec = chain(segments=(Segment(1, 0, killed=True),), form=form)
        run = Run.load(spec.write(tmp_path / form))
        assert run.events["1001.0"].outer["kind"].tolist() == [Kind.STARTUP] * spec.ranks
        assert len(run.events["1001.0"].sums.step) == 0
        assert len(run.metrics) == 0
