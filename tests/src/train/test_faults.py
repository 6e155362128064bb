"""One fault of every kind along two chained runs; `nox -s faults` meets two hundred."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from fault_campaign import FILES, SENTENCES, Chain, plan, prove, small_disk
from rank_faults import KILLS

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Two stages have messages to be killed in, two replicas a reduction.
STAGES = [kind for kind in KILLS if kind != "kill in all-reduce"]
STAGES += ["kill in save", "kill in drain", "SIGTERM", "SIGURG", "SIGUSR2", "hang"]


@pytest.mark.parametrize(
    ("kinds", "pipeline", "data"),
    [(STAGES, 2, 1), ([kind for kind in SENTENCES if kind not in STAGES], 1, 2)],
    ids=["two stages", "two replicas"],
)
def test_a_chain_learns_what_a_quiet_run_learns(
    tmp_path: Path, kinds: list[str], pipeline: int, data: int
) -> None:
    with small_disk(tmp_path / "chain/run/checkpoints") as mounted:
        able = [kind for kind in kinds if mounted or kind != "disk full"]
        faults, steps = plan(2024, len(able), 2, able, itertools.count())
        chain = Chain(tmp_path / "chain", steps, faults, pipeline, data)
        chain.go()
        skips = prove(chain, Chain(tmp_path / "quiet", steps, (), pipeline, data))
    assert sorted(met.fault.kind for met in chain.met) == sorted(able)
    assert len(skips) == able.count("NaN always")
    # Whoever goes on from a checkpoint trains at most the steps since it again.
    assert all(met.lost >= 0 for met in chain.met)
    assert chain.segments > len([kind for kind in able if kind in FILES])
