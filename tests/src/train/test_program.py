"""`python -m alpenglow.train` as a user meets it: real shards, real processes, real signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program_ranks import begin, end, environment, wait_for_steps
from small_recipe import small_recipe
from small_shards import write_small_shards
from training_ranks import assert_same_checkpoint

from alpenglow.train.checkpoint import Checkpoint
from alpenglow_profiling.events import Kind, read

pytestmark = pytest.mark.distributed

RECIPE = small_recipe({"steps": 6, "checkpoint_every": 4})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a recipe and two small shards."""
    (tmp_path / "tiny.toml").write_text(RECIPE)
    write_small_shards(tmp_path / "shards")
    return tmp_path


def test_a_run_its_repetition_and_another_one(place: Path) -> None:
    """One rank without a launcher; then the same again; then a recipe that is another run's."""
    ((code, output, error),) = end(begin(place))
    assert (code, error) == (0, "")
    lines = output.splitlines()
    for word in ("model", "layout", "batch", "data", "machine"):
        assert any(line.startswith(f"{word} ") for line in lines[:5])
    assert sum(line.startswith("step ") for line in lines) == 6
    assert lines[-1].startswith("complete: 6 steps")
    assert [path.name for path in (place / "run/events/local.1").iterdir()] == ["node00.h5"]
    events = read(place / "run/events/local.1")
    assert events.sample_every == 10
    assert events.kept.tolist()[:2] == [1, 2]
    assert events.sums.step.tolist() == [1, 2, 3, 4, 5, 6]
    assert (events.sums.own(Kind.FORWARD) > 0).all()
    rows = events.rows
    for kind in (Kind.STARTUP, Kind.STEP, Kind.DATA_WAIT, Kind.FORWARD, Kind.OPTIMIZER):
        assert (rows["kind"] == kind).any()
    (startup,) = rows[rows["kind"] == Kind.STARTUP]
    assert 0.2e9 < startup["end_ns"] - startup["begin_ns"] < 60e9

    ((code, output, error),) = end(begin(place))
    assert (code, error) == (0, "")
    assert output == "run is complete: 6 steps are done\n"

    ((code, _, error),) = end(begin(place, ["train.steps=8"]))
    assert code == 1
    assert error.count("\n") == 1
    assert "train.steps = 6, this recipe says 8" in error

    write_small_shards(place / "longer", size=4100)
    write_small_shards(place / "other words", tokenizer="u")
    for folder, sentence in (
        ("longer", "run is a run on a catalogue of fingerprint "),
        ("other words", "run is a run on shards of tokenizer t, and other words/catalogue.json is"),
    ):
        catalogue = f"data.catalogue={folder}/catalogue.json"
        ((code, _, error),) = end(begin(place, [catalogue, "train.steps=8"]))
        assert code == 1
        assert error.count("\n") == 1
        assert sentence in error

    # Checkpoints that were copied into another run.
    (place / "run/run.toml").unlink()
    for folder, what in (("longer", "catalogue: its is"), ("other words", "tokenizer: its is t")):
        catalogue = f"data.catalogue={folder}/catalogue.json"
        ((code, _, error),) = end(begin(place, [catalogue, "train.steps=8"]))
        assert code == 1
        assert error.count("\n") == 1
        assert f"step-00000006: a checkpoint of another {what}" in error
        (place / "run/run.toml").unlink()


@pytest.mark.parametrize("how", ["key", "catalogue", "cut", "slice", "words", "held"])
def test_bad_input_is_one_sentence(place: Path, how: str) -> None:
    shard = place / "shards/wikipedia-00000.h5"
    arguments: list[str] = []
    if how == "key":
        arguments, sentence = ["train.stepz=3"], "unknown key train.stepz; did you mean train.steps"
    elif how == "catalogue":
        (place / "shards/catalogue.json").unlink()
        sentence = "run bsub jobs/prepare_data.lsf first"
    elif how == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
        sentence = "wikipedia-00000.h5"
    elif how == "held":
        arguments = ["model.max_position_embeddings=2048", "batch.sequence_length=1500"]
        arguments += ["data.validation_fraction=0.1"]
        sentence = "slice github has no shard of 4 windows, so none can be held out"
    elif how == "slice":
        arguments, sentence = ["data.mixture.books=1"], "gives a weight to books"
    else:
        arguments, sentence = ["model.vocab_size=64"], "120 words, more than model.vocab_size = 64"
    ranks = end(begin(place, arguments, size=2 if how == "slice" else 1))
    assert {code for code, _, _ in ranks} == {1}
    (error,) = [error for _, _, error in ranks if error]
    assert sentence in error
    assert error.count("\n") == 1
    assert not (place / "run/run.toml").exists()


def test_a_port_in_use_is_named(place: Path) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen(1)
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "alpenglow.train", "tiny.toml"]
        done = subprocess.run(
            command,
            cwd=place,
            env=environment(0, 2, port),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"port {port}" in done.stderr


LONG = ["train.steps=5000", "train.checkpoint_every=5000", "parallel.pipeline=2"]


@pytest.fixture
def two_ranks(place: Path) -> Iterator[list[subprocess.Popen[str]]]:
    processes = begin(place, LONG, size=2)
    try:
        wait_for_steps(place, 3)
        yield processes
    finally:
        for process in processes:
            process.kill()


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(
    place: Path, two_ranks: list[subprocess.Popen[str]]
) -> None:
    two_ranks[1].send_signal(signal.SIGTERM)
    ranks = end(two_ranks)
    assert [code for code, _, _ in ranks] == [85, 85]
    assert "(signal TERM): submit again" in ranks[0][1].splitlines()[-1]
    checkpoint = Checkpoint.newest(place / "run/checkpoints", print)
    assert checkpoint is not None
    assert checkpoint.verify() == []
    record = json.loads((place / "run/segments/local.1.rank0.json").read_text())
    assert record["last_durable_checkpoint"] == checkpoint.step == record["last_step"]


def test_a_killed_rank_ends_the_others(place: Path, two_ranks: list[subprocess.Popen[str]]) -> None:
    two_ranks[1].kill()
    (code, _, error), _ = end(two_ranks)
    assert code == 1
    assert error.count("\n") == 1
    assert "rank 0: lost a peer: rank 1 on node00 stood in " in error
    assert error.endswith(", and is gone\n")
    assert not (place / "run/errors").exists()


def test_kills_while_saving_and_draining_change_nothing(place: Path) -> None:
    """A save after every step, so that kill -9 of both ranks falls into saves and drains."""
    steps = ["train.steps=24", "train.checkpoint_every=1", "parallel.pipeline=2"]
    tiers = [*steps, "checkpoint.local=nvme"]
    assert {code for code, _, _ in end(begin(place, steps, size=2))} == {0}
    (place / "run").rename(place / "quiet")
    step = 0
    for seen in (5, 14):
        ranks = begin(place, tiers, size=2)
        try:
            wait_for_steps(place, seen)
        finally:
            for rank in ranks:
                rank.kill()
            end(ranks)
        said: list[str] = []
        checkpoint = Checkpoint.newest(place / "run/checkpoints", said.append)
        assert checkpoint is not None
        assert said == []
        step = checkpoint.step
    ((code, output, error), _) = end(begin(place, tiers, size=2))
    assert (code, error) == (0, "")
    assert f"resumed from step {step}," in output
    last = "checkpoints/step-00000024"
    assert_same_checkpoint(place / "run" / last, place / "quiet" / last)
    (folder,) = (place / "nvme").iterdir()
    assert list(folder.iterdir()) == []


def test_the_walltime_is_respected(place: Path) -> None:
    long = ["train.steps=100000", "train.checkpoint_every=100000", "train.log_every=1000"]
    deadline = str(time.time() + 15)
    ((code, output, _),) = end(begin(place, long, ALPENGLOW_DEADLINE=deadline))
    assert code == 85
    assert "(walltime): submit again" in output.splitlines()[-1]
    record = json.loads((place / "run/segments/local.1.rank0.json").read_text())
    steps = record["last_step"]
    assert record["last_durable_checkpoint"] == (steps or None)
    assert Checkpoint.newest(place / "run/checkpoints", print) is not None or steps == 0
