"""One fault of every kind along two chained runs; `nox -s faults` meets two hundred."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from fault_campaign import FILES, SENTENCES, Chain, plan, prove, small_disk
from rank_faults import KILLS

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

ENDINGS = [*KILLS, "kill in save", "kill in drain", "SIGTERM", "SIGURG", "SIGUSR2"]


@pytest.mark.parametrize(
    ("kinds", "pipeline"),
    [(ENDINGS, 2), ([kind for kind in SENTENCES if kind not in ENDINGS], 1)],
    ids=["ends a rank", "does not"],
)
def test_a_chain_learns_what_a_quiet_run_learns(
    tmp_path: Path, kinds: list[str], pipeline: int
) -> None:
    with small_disk(tmp_path / "chain/run/checkpoints") as mounted:
        able = [kind for kind in kinds if mounted or kind != "disk full"]
        faults, steps = plan(2024, len(able), 2 * pipeline, able, itertools.count())
        chain = Chain(tmp_path / "chain", steps, faults, pipeline)
        chain.go()
        skips = prove(chain, Chain(tmp_path / "quiet", steps, (), pipeline))
    assert sorted(met.fault.kind for met in chain.met) == sorted(able)
    assert len(skips) == able.count("NaN always")
    # Whoever goes on from a checkpoint trains at most the steps since it again.
    assert all(met.lost >= 0 for met in chain.met)
    assert chain.segments > len([kind for kind in able if kind in FILES])
