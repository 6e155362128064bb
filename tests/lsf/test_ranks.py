from __future__ import annotations

import socket
from pathlib import Path

import pytest

from alpenglow_lsf.ranks import PortInUse, Ranks, RanksError, compute_hosts, port_of_job


def family(prefix: str, rank: int, size: int, local: int, local_size: int) -> dict[str, str]:
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    return {
        f"{prefix}_{n}": str(v) for n, v in zip(names, (rank, size, local, local_size), strict=True)
    }


JSM = family("JSM_NAMESPACE", 5, 8, 1, 4)
OMPI = family("OMPI_COMM_WORLD", 6, 8, 2, 4)
OURS = {
    "ALPENGLOW_RANK": "7", "ALPENGLOW_WORLD_SIZE": "8", "ALPENGLOW_LOCAL_RANK": "3",
    "ALPENGLOW_LOCAL_SIZE": "4",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "2",
    "SLURM_NTASKS_PER_NODE": "4",
}
MASTER = {"ALPENGLOW_MASTER_ADDR": "node1"}


@pytest.mark.parametrize(
    ("environ", "rank", "local_rank"),
    [
        (SLURM, 2, 2),
        ({**SLURM, **OMPI}, 6, 2),
        ({**SLURM, **OMPI, **JSM}, 5, 1),
        ({**SLURM, **OMPI, **JSM, **OURS}, 7, 3),
    ],
)
def test_launchers_are_read_in_order(environ: dict[str, str], rank: int, local_rank: int) -> None:
    ranks = Ranks.from_environment({**environ, **MASTER})
    assert (ranks.rank, ranks.local_rank) == (rank, local_rank)
    assert (ranks.world_size, ranks.local_size) == (8, 4)


def test_without_a_launcher_it_is_rank_0_of_1() -> None:
    ranks = Ranks.from_environment({})
    assert (ranks.rank, ranks.world_size, ranks.master_address) == (0, 1, "127.0.0.1")
    ranks.check_master()


def test_gaps_are_filled_by_a_launcher_that_speaks_of_the_same_rank(tmp_path: Path) -> None:
    pmix = {"PMIX_RANK": "6"}
    assert Ranks.from_environment({**pmix, **MASTER, **OMPI}).world_size == 8
    with pytest.raises(
        RanksError, match="found PMIX_RANK=6 but no world size: PMIX_SIZE is missing"
    ):
        Ranks.from_environment(pmix)
    # jsrun is not known to set a local size: an even share of the hosts stands in for it.
    jsm = {k: v for k, v in JSM.items() if k != "JSM_NAMESPACE_LOCAL_SIZE"}
    hosts = {"LSB_MCPU_HOSTS": "batch5 1 h2 42 h1 42", "ALPENGLOW_RESERVED_HOSTS": "batch,login"}
    ranks = Ranks.from_environment({**jsm, **hosts, "ALPENGLOW_HOST": "h1"})
    assert (ranks.local_size, ranks.master_address) == (4, "h2")
    with pytest.raises(RanksError, match="JSM_NAMESPACE_LOCAL_SIZE is missing"):
        Ranks.from_environment(jsm)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"JSM_NAMESPACE_RANK": "8"}, "contradict each other"),
        ({"JSM_NAMESPACE_RANK": "x"}, "JSM_NAMESPACE_RANK=x is no whole number"),
        ({"JSM_NAMESPACE_LOCAL_RANK": "4"}, "local rank 4 of 4"),
        ({"ALPENGLOW_MASTER_PORT": "99999"}, "no port number"),
        ({"ALPENGLOW_DEADLINE": "soon"}, "no time in unix seconds"),
        ({"LSB_JOBID": "abc"}, "does not begin with a number"),
        ({"ALPENGLOW_MASTER_ADDR": ""}, "name no compute host; set ALPENGLOW_MASTER_ADDR"),
        (
            {"ALPENGLOW_HOST": "batch2", "ALPENGLOW_RESERVED_HOSTS": "batch,login"},
            "runs on batch2, a launch or login host",
        ),
    ],
)
def test_errors_name_what_was_found(change: dict[str, str], says: str) -> None:
    with pytest.raises(RanksError) as caught:
        Ranks.from_environment({**JSM, **MASTER, **change})
    assert says in str(caught.value)


def test_the_master_is_the_first_compute_host_in_file_order(tmp_path: Path) -> None:
    listing = tmp_path / "hosts"
    listing.write_text("\n".join(["batch3", *["h41n04"] * 42, *["h41n03"] * 42, "login1"]) + "\n")
    environ = {"LSB_DJOB_HOSTFILE": str(listing), "LSB_HOSTS": "wrong"}
    assert compute_hosts(environ, ("batch", "login")) == ["h41n04", "h41n03"]
    full = {**JSM, **environ, "ALPENGLOW_RESERVED_HOSTS": "batch,login", "LSB_JOBID": "331213"}
    ranks = Ranks.from_environment(full)
    assert ranks.master_address == "h41n04"
    assert ranks.master_port == port_of_job("331213") == 10000 + 331213 % 20000
    without = {k: v for k, v in full.items() if k != "ALPENGLOW_RESERVED_HOSTS"}
    with pytest.raises(RanksError, match="not which of them are launch hosts"):
        Ranks.from_environment(without)


def test_export_sets_what_deepspeed_reads() -> None:
    environ: dict[str, str] = {}
    Ranks.from_environment({**JSM, **MASTER, "ALPENGLOW_MASTER_PORT": "12345"}).export(environ)
    assert environ == {
        "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_SIZE": "4",
        "MASTER_ADDR": "node1", "MASTER_PORT": "12345",
    }  # fmt: skip


def test_time_left() -> None:
    ranks = Ranks.from_environment({"ALPENGLOW_DEADLINE": "1000.5"})
    assert ranks.time_left(now=990.0) == 10.5
    assert Ranks.from_environment({}).time_left() is None


def rank0(**changes: str) -> Ranks:
    return Ranks.from_environment({**family("JSM_NAMESPACE", 0, 8, 0, 4), **changes})


def test_rank_0_on_another_host_than_the_master_names_both() -> None:
    wrong = {"ALPENGLOW_HOST": "h41n04", "ALPENGLOW_MASTER_ADDR": "h41n03.example.org"}
    with pytest.raises(RanksError, match=r"rank 0 runs on h41n04 .* h41n03\.example\.org"):
        rank0(**wrong).check_master()
    # Rank 3 cannot know, and says nothing.
    Ranks.from_environment({**family("JSM_NAMESPACE", 3, 8, 3, 4), **wrong}).check_master()


def test_a_port_in_use_is_named_with_its_cure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ranks = rank0(ALPENGLOW_MASTER_ADDR="127.0.0.1", ALPENGLOW_MASTER_PORT=str(port))
        with pytest.raises(PortInUse, match=rf"port {port} .* set ALPENGLOW_MASTER_PORT"):
            ranks.check_master()
    ranks.check_master()
