"""A chain of segments, warned, killed and stopped, learns what one uninterrupted run learns."""

from __future__ import annotations

import sys
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
