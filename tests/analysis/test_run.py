"""Reading a run directory: whole, restarted, damaged, foreign."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tomllib
from pathlib import Path

import pytest
import tomli_w

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.metrics import Metrics
from alpenglow_analysis.run import Run
from alpenglow_analysis.segment import RunError
from alpenglow_analysis.synthetic import CREATED, Segment, Synthetic


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    spec = Synthetic(
        Layout(2, 1, 2),
        2,
        (
            Segment(1, 6, reason="more to do"),
            Segment(7, 9, killed=True),
            Segment(7, 12),
            Segment(0, 0, activity="report"),
        ),
        checkpoint_every=3,
        gpus_per_node=4,
    )
    return spec.write(tmp_path / "run")


def metrics_line(segment: str, step: int, loss: float = 1.0) -> str:
    return json.dumps({"segment": segment, "step": step, "loss": loss, "time": 5.0 + step}) + "\n"


def test_a_run_is_read_whole(run_dir: Path) -> None:
    run = Run.load(run_dir)
    assert (run.facts.name, run.facts.ranks, run.facts.unit) == ("run", 4, "GPU")
    assert run.facts.layout == Layout(2, 1, 2)
    assert [s.name for s in run.segments] == ["1001.0", "1002.0", "1003.0"]
    assert [s.name for s in run.others] == ["1004.0"]
    assert [s.reason for s in run.segments] == ["more to do", "not closed", "complete"]
    assert [s.estimated for s in run.segments] == [False, True, False]
    assert run.segments[0].started == CREATED
    assert run.segments[1].last_step == 9, "rank 0's part of an open record is used"
    assert [run.lost_from(s) for s in run.segments] == [7, 7, None]
    assert list(run.metrics.step) == list(range(1, 13))
    assert run.metrics.segment == ("1001.0",) * 6 + ("1003.0",) * 6


def test_the_map_of_the_ranks_is_read(run_dir: Path) -> None:
    """As the trainer writes it; a run of before has neither order, seats nor layers."""
    toml = run_dir / "run.toml"
    tables = tomllib.loads(toml.read_text())
    layout = Layout(2, 1, 2, "data-major", seats=(1, 0), layers=(3, 2))
    toml.write_text(tomli_w.dumps(tables | {"layout": dataclasses.asdict(layout)}))
    assert Run.load(run_dir).facts.layout == layout
    degrees = {name: tables["layout"][name] for name in ("pipeline", "tensor", "data")}
    toml.write_text(tomli_w.dumps(tables | {"layout": degrees}))
    assert Run.load(run_dir).facts.layout == Layout(2, 1, 2)


def test_a_later_line_replaces_what_was_given_up(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(metrics_line("1.0", s, 1.0) for s in range(1, 8))
        + "".join(metrics_line("2.0", s, 2.0) for s in (4, 5))
        + "".join(metrics_line("3.0", s, 3.0) for s in (5, 6))
    )
    metrics = Metrics.load(path)
    # Steps 6 and 7 of the first job are gone too: the second one went on from step 3.
    assert list(metrics.step) == [1, 2, 3, 4, 5, 6]
    assert list(metrics["loss"]) == [1, 1, 1, 2, 3, 3]
    assert metrics.repeated == 5
    assert metrics.first_step == {"1.0": 1, "2.0": 4, "3.0": 5}
    assert metrics.last_seen["3.0"] == 11.0


def test_cut_and_foreign_lines_are_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = "".join(metrics_line("1.0", s) for s in range(1, 5))
    path.write_bytes(whole.encode() + b'\xff\n[1]\n{"segment": "1.0", "step": 5, "lo')
    metrics = Metrics.load(path)
    assert list(metrics.step) == [1, 2, 3, 4]
    assert len(metrics.damages) == 1
    assert "3 cut or foreign lines were left out (line 5, 6, 7)" in metrics.damages[0]
    assert len(Metrics.load(tmp_path / "absent.jsonl")) == 0


def test_an_open_record_ends_with_the_last_sign_of_life(run_dir: Path) -> None:
    path = run_dir / "segments" / "1002.0.rank0.json"
    beat = json.loads(path.read_text())["heartbeat"]
    assert Run.load(run_dir).segments[1].ended == beat
    path.unlink()
    run = Run.load(run_dir)
    last_event = run.events["1002.0"].rows["end_ns"].max() / 1e9
    assert run.segments[1].ended == pytest.approx(last_event, abs=1e-6)


def test_what_was_charged_is_what_the_record_says(tmp_path: Path) -> None:
    """On a laptop 512 nodes are asked for and two are pretended: 510 were never there."""
    spec = Synthetic(Layout(2, 2, 2), 2, (Segment(1, 2),), spare_nodes=510)
    path = spec.write(tmp_path / "run")
    assert Run.load(path).segments[0].nodes == 512
    record = next((path / "segments").glob("*[0-9].json"))
    fields = json.loads(record.read_text())
    record.write_text(json.dumps(fields | {"nodes_charged": 2}))
    segment = Run.load(path).segments[0]
    assert (segment.nodes, segment.nodes_asked) == (2, 512)


def test_a_record_that_another_segment_closed_is_an_estimate(run_dir: Path) -> None:
    path = run_dir / "segments" / "1002.0.json"
    fields = json.loads(path.read_text())
    early = fields["started"] + 1.0
    path.write_text(json.dumps(fields | {"ended": early, "reason": "failed", "estimated": True}))
    segment = Run.load(run_dir).segments[1]
    assert segment.estimated
    assert segment.ended > early, "the ranks were still alive after the last heartbeat"
    path.write_text(json.dumps(fields | {"ended": early, "reason": "failed"}))
    assert Run.load(run_dir).segments[1].ended == early


def test_a_trainer_started_by_hand_is_charged_by_its_spans(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "segments")
    run = Run.load(run_dir)
    assert [s.reason for s in run.segments] == ["no batch job"] * 3
    rows = run.events["1001.0"].rows
    length = int(rows["end_ns"].max()) - int(rows["begin_ns"].min())
    assert run.segments[0].elapsed_ns == pytest.approx(length, abs=1000)
    assert sum("was started by hand" in damage for damage in run.damages) == 3


def damage(run_dir: Path, what: str) -> None:
    toml = run_dir / "run.toml"
    if what == "no directory":
        shutil.rmtree(run_dir)
    elif what == "no run.toml":
        toml.unlink()
    elif what == "not TOML":
        toml.write_text("[run\n")
    elif what == "no layout":
        toml.write_text(toml.read_text().replace("[layout]", "[lay]"))
    elif what == "no ranks":
        toml.write_text(toml.read_text().replace("ranks = 4\n", ""))
    elif what == "other ranks":
        toml.write_text(toml.read_text().replace("ranks = 4\n", "ranks = 5\n"))
    elif what == "a foreign record":
        (run_dir / "segments" / "9.0.json").write_text("[]")
    elif what == "a cut record":
        (run_dir / "segments" / "9.0.json").write_text('{"started": 1')
    elif what == "nothing recorded":
        shutil.rmtree(run_dir / "segments")
        shutil.rmtree(run_dir / "events")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("no directory", "no such run directory"),
        ("no run.toml", "it holds no run.toml"),
        ("not TOML", "not a readable run.toml"),
        ("no layout", r"the table \[layout\] is missing"),
        ("no ranks", "machine.ranks is missing"),
        ("other ranks", "2 x 1 x 2 has 4 ranks, the machine table says 5"),
        ("a foreign record", "not a segment record"),
        ("a cut record", "not a readable segment record"),
        ("nothing recorded", "no record of a pretrain job"),
    ],
)
def test_a_foreign_directory_is_refused_in_one_sentence(
    run_dir: Path, what: str, sentence: str
) -> None:
    damage(run_dir, what)
    with pytest.raises(RunError, match=sentence) as caught:
        Run.load(run_dir)
    assert "\n" not in str(caught.value)
