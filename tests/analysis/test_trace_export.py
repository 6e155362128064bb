"""Exported traces hold the spans of the steps, to the ns, and the messages between them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.clocks import align
from alpenglow_analysis.report import main
from alpenglow_analysis.run import Run
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_profiling.kind import Kind


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = Synthetic(
        Layout(3, 1, 2), 4, (Segment(1, 6, killed=True), Segment(5, 8)), ranks_per_node=2,
        jitter=0.02,
    )  # fmt: skip
    return spec.write(tmp_path_factory.mktemp("trace") / "run")


def read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("processes", ["stages", "nodes"])
def test_spans_are_those_of_the_record(
    run_dir: Path, tmp_path: Path, processes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "steps.json.gz"
    words = ["--trace", str(run_dir), "--steps", "5:6", "--output", str(output)]
    assert main([*words, "--processes", processes]) == 0
    run = Run.load(run_dir)
    events = run.events["1002.0"]  # where steps 5 and 6 were trained last
    clocks = align(events, run.facts.layout, 4, "1f1b", [5, 6]).clocks
    rows = events.moved(clocks).spans([5, 6])
    told_events = read(output)["traceEvents"]
    spans = [event for event in told_events if event["ph"] == "X"]
    assert capsys.readouterr().out.startswith(f"trace: {output} ({len(rows)} spans, ")
    assert Counter(event["cat"] for event in spans) == Counter(
        Kind(int(kind)).label for kind in rows["kind"]
    )
    zero = int(rows["begin_ns"].min())
    told = sorted(
        (event["tid"], round(event["ts"] * 1000) + zero, round(event["dur"] * 1000))
        for event in spans
    )
    ranks, begins = rows["rank"].tolist(), rows["begin_ns"].tolist()
    lasted = (rows["end_ns"] - rows["begin_ns"]).tolist()
    assert told == sorted(zip(ranks, begins, lasted, strict=True))
    layout = run.facts.layout
    place = {
        rank: layout.coordinates(rank)[0] if processes == "stages" else rank // 2
        for rank in range(layout.world)
    }
    assert {(event["tid"], event["pid"]) for event in spans} == set(place.items())
    names = [event["args"]["name"] for event in told_events if event["name"] == "process_name"]
    assert names == (["stage 0", "stage 1", "stage 2"] if processes == "stages" else [
        "n000", "n001", "n002",
    ])  # fmt: skip


def test_every_message_is_a_flow_between_two_spans(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "step.json"
    assert main(["--trace", str(run_dir), "--steps", "6", "--output", str(output)]) == 0
    events = read(output)["traceEvents"]
    starts = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    # 2 borders x 2 replicas x 4 micro-batches, down and up.
    assert len(starts) == len(ends) == 32
    spans = [event for event in events if event["ph"] == "X" and event["cat"] == "p2p"]
    for number, start in starts.items():
        end = ends[number]
        assert abs(start["pid"] - end["pid"]) == 1
        assert (start["name"] == "activation") == (end["pid"] > start["pid"])
        for event in (start, end):
            assert any(
                span["tid"] == event["tid"]
                and span["ts"] - 1e-3 <= event["ts"] <= span["ts"] + span["dur"] + 1e-3
                for span in spans
            )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent", "--steps", "1"], "absent: no such run directory"),
        (["RUN", "--steps", "7:5"], "--steps 7:5: a step number, or FIRST:LAST"),
        (["RUN", "--steps", "x"], "--steps x: a step number, or FIRST:LAST"),
        (["RUN", "--steps", "90:99"], "no spans of steps 90 to 99 were kept"),
        (["RUN", "--steps", "5", "--output", "x.txt"], "x.txt: name a file that ends in"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    run_dir: Path,
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--trace", *(str(run_dir) if w == "RUN" else w for w in arguments)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
