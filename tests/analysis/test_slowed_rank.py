"""A real run one rank of which shares its core with busy loops: the report names it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from program_ranks import begin, end, wait_for_steps
from small_recipe import small_recipe
from small_shards import write_small_shards

from alpenglow_analysis.findings import findings
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import rates
from alpenglow_analysis.study import study
from alpenglow_analysis.utilisation import account

pytestmark = pytest.mark.distributed
STEPS, QUIET = 60, 25
RECIPE = small_recipe({"steps": STEPS, "checkpoint_every": 1000}, measure={"spans_every": 1})


@pytest.fixture
def cores() -> tuple[int, int]:
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        pytest.skip("two ranks on cores of their own need two cores")
    return free[0], free[1]


@pytest.fixture
def busy() -> Iterator[list[subprocess.Popen[bytes]]]:
    loops: list[subprocess.Popen[bytes]] = []
    yield loops
    for loop in loops:
        loop.kill()
        loop.wait()


def test_a_rank_beside_busy_loops_is_named(
    tmp_path: Path, cores: tuple[int, int], busy: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    write_small_shards(tmp_path / "shards")
    ranks = begin(tmp_path, size=2, nodes=True)
    for rank, core in zip(ranks, cores, strict=True):
        os.sched_setaffinity(rank.pid, {core})  # before it has threads, which inherit it
    wait_for_steps(tmp_path, QUIET)
    for _ in range(3):
        loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        os.sched_setaffinity(loop.pid, {cores[1]})
        busy.append(loop)
    assert [code for code, _, _ in end(ranks)] == [0, 0]
    run = Run.load(tmp_path / "run")
    found = study(run)
    where = account(run, found)
    assert sum(where.pieces.values()) == where.charged_ns
    worst = found.episodes[0]
    assert worst.where == "node01"
    assert worst.last_step > QUIET
    assert worst.factor > 1.2
    said = findings(run, where, rates(run, where, found), found)
    assert any("node01 computed" in text and "Leave such nodes" in text for text in said)
