"""Ranks and hosts from Slurm's variables."""

from __future__ import annotations

import pytest

from alpenglow_lsf.ranks import Ranks, RanksError, compute_hosts, expand_hosts

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "n[1-3]",
    "SLURM_STEP_NODELIST": "n[2-3]",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURMD_NODENAME": "n3",
}


@pytest.mark.parametrize(
    ("listing", "hosts"),
    [
        ("n1", "n1"),
        ("n[1-3]", "n1 n2 n3"),
        ("frontier[00009-00011,00100],login1", "frontier00009 frontier00010 frontier00011 "
         "frontier00100 login1"),
        ("r[1-2]n[08-09].site", "r1n08.site r1n09.site r2n08.site r2n09.site"),
    ],
)  # fmt: skip
def test_lists_of_nodes(listing: str, hosts: str) -> None:
    assert expand_hosts(listing) == hosts.split()


@pytest.mark.parametrize("listing", ["", "n[1-", "n[2-1]", "n[a]", "n]1["])
def test_what_is_no_list_of_nodes(listing: str) -> None:
    with pytest.raises(RanksError, match="SLURM_JOB_NODELIST="):
        expand_hosts(listing)


def test_a_task_of_a_step() -> None:
    ranks = Ranks.from_environment({**STEP, "SLURM_PROCID": "2"})
    assert (ranks.rank, ranks.world_size, ranks.local_rank, ranks.local_size) == (2, 3, 0, 1)
    assert (ranks.host, ranks.master_address, ranks.job_id) == ("n3", "n2", "4711")
    assert ranks.master_port == 14711
    with pytest.raises(RanksError, match="SLURM_PROCID=3 of 3"):
        Ranks.from_environment(STEP)


def test_the_batch_shell_is_no_rank_of_a_step() -> None:
    shell = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
             "SLURM_JOB_NODELIST": "n[1-2]"}  # fmt: skip
    ranks = Ranks.from_environment(shell)
    assert (ranks.rank, ranks.world_size, ranks.master_address) == (0, 1, "127.0.0.1")
    assert compute_hosts(shell, ()) == ["n1", "n2"]
