"""A chain of segments, warned, killed and stopped, learns what one uninterrupted run learns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_chain import Place

from alpenglow_lsf.segment import gained

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

STEPS = 240


def test_a_chain_learns_what_one_run_learns(tmp_path: Path) -> None:
    place = Place(tmp_path, STEPS, every=10)
    fates = ("SIGURG", "SIGKILL", "STOP")
    records = place.run("chain", "--chain --then after.lsf", *fates)
    assert [r["reason"] for r in records] == ["more to do", "failed", "more to do"]
    assert [r["successor"]["standing"] for r in records] == ["submitted", "submitted", "removed"]
    assert "a file STOP is in the run directory" in records[-1]["reason_text"]
    assert all(gained(record) > 0 for record in records)
    # The killed one lost what it had not saved; the others saved as they left.
    assert [r["last_step"] == r["last_durable_checkpoint"] for r in (records[0], records[2])] == [
        True,
        True,
    ]
    starts = [r["resumed_from_step"] for r in records]
    assert starts[1:] == [r["last_durable_checkpoint"] for r in records[:2]]
    assert records[1]["last_durable_checkpoint"] % 10 == 0
    assert min(records[0]["save_s"], records[0]["drain_s"]) > 0

    (tmp_path / "runs/chain/STOP").unlink()
    records = place.run("chain", "--chain --then after.lsf")
    assert records[-1]["reason"] == "complete"
    assert records[-1]["successor"]["standing"] == "removed"
    assert [then["script"] for r in records for then in r["then"]] == ["after.lsf"]

    (straight,) = place.run("straight")
    assert straight["reason"] == "complete"
    assert len(place.learnt("straight")) == STEPS
    assert place.learnt("chain") == place.learnt("straight")

    told = place.call(sys.executable, "-m", "alpenglow_lsf.status", "runs/chain")
    assert "runs/chain: complete" in told
    assert "in 4 segments" in told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The checkpoint folder of runs/full, on a file system that holds one checkpoint, not two."""
    folder = tmp_path / "runs/full/checkpoints"
    folder.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("a small file system of one's own needs root, and mounts allowed")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_chain_and_room_lets_it_go_on(
    tmp_path: Path, small_disk: Path
) -> None:
    place = Place(tmp_path, STEPS, every=10)
    options = "--chain --grace 0 --then after.lsf"
    records = place.run("full", options, recipe="short.toml")
    assert [r["reason"] for r in records] == ["failed", "failed"]
    # The first save had room; the second did not, nor when the next segment tried it again.
    assert [(r["resumed_from_step"] or 0, r["last_durable_checkpoint"]) for r in records] == [
        (0, 10),
        (10, None),
    ]
    assert "the chain ends: the segment gained no checkpoint" in records[1]["reason_text"]
    assert records[1]["successor"]["standing"] == "removed"
    for record in records:
        text = (tmp_path / f"full.{record['job_id']}.out").read_text()
        assert "the checkpoint was not written: rank" in text
        assert "No space left on device" in text
    assert (small_disk / "step-00000010/manifest.json").is_file()
    assert not list(small_disk.glob("step-00000020/*"))

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    records = place.run("full", options, recipe="short.toml")
    assert (records[-1]["reason"], records[-1]["resumed_from_step"]) == ("complete", 10)
    assert [step for step, *_ in place.learnt("full")] == list(range(1, 41))
    assert [then["script"] for r in records for then in r["then"]] == ["after.lsf"]
