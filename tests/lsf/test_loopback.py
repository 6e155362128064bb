"""Pretend nodes have addresses of their own, and ranks meet at that of rank 0's node."""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from alpenglow_lsf import loopback
from alpenglow_lsf.ranks import PortInUse, Ranks, RanksError

if TYPE_CHECKING:
    from tests.lsf.conftest import Site

# Each rank joins a gloo group through the store at the master's address, then tells which sockets
# the system has there, and talks to the other node through that node's own address.
MEET = """
import json, os, pathlib, socket
import torch, torch.distributed as dist
from alpenglow_lsf.ranks import Ranks

ranks = Ranks.from_environment()
ranks.check_master()
ranks.export(os.environ)
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
dist.init_process_group("gloo")
total = torch.tensor([1 << ranks.rank])
dist.all_reduce(total)

def sockets():
    def plain(word):
        address, port = word.split(":")
        return socket.inet_ntoa(bytes.fromhex(address[-8:])[::-1]), int(port, 16)
    for name in ("tcp", "tcp6"):
        for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]:
            words = line.split()
            yield plain(words[1]), plain(words[2]), words[3]

store = (ranks.master_address, ranks.master_port)
joined = sum(there == store and state == "01" for _, there, state in sockets())
listens = any(here[1] == store[1] and state == "0A" for here, _, state in sockets())

server = socket.create_server((ranks.host_address, 0))
addresses = [None] * ranks.world_size
dist.all_gather_object(addresses, server.getsockname())
peer = addresses[(ranks.rank + ranks.local_size) % ranks.world_size]
with socket.create_connection(peer, source_address=(ranks.host_address, 0)) as out:
    into, caller = server.accept()
    out.sendall(bytes([ranks.rank]))
    heard = into.recv(1)[0]
told = {
    "rank": ranks.rank, "local": [ranks.local_rank, ranks.local_size], "host": ranks.host,
    "address": ranks.host_address, "master": store[0], "sum": int(total[0]), "joined": joined,
    "listens": listens, "caller": caller[0], "heard": heard,
}
print(json.dumps(told))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform != "linux", reason="sockets are counted in /proc/net")
def test_ranks_of_two_nodes_meet_at_the_first_one_s_address(site: Site) -> None:
    (site.folder / "meet.py").write_text(MEET)
    done = site.call("jsrun", "-r1", "-a2", "-c42", "-b", "packed:21", "python", "meet.py")
    assert done.returncode == 0, done.stderr
    told = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda t: t["rank"])
    nodes = [("node1", "127.0.0.2"), ("node2", "127.0.0.3")]
    for rank, one in enumerate(told):
        node, other = nodes[rank // 2], nodes[1 - rank // 2]
        assert (one["rank"], one["host"], one["address"]) == (rank, *node)
        assert one["local"] == [rank % 2, 2]
        assert (one["master"], one["listens"], one["sum"]) == ("127.0.0.2", True, 15)
        # Every rank keeps a connection to the store, at that address and no other.
        assert one["joined"] >= 4
        assert (one["caller"], one["heard"]) == (other[1], (rank + 2) % 4)


def test_addresses_follow_each_other_and_fall_back_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sys.platform == "linux":
        assert loopback.addresses(300)[-1] == "127.0.1.45"
    monkeypatch.setattr(loopback, "_exists", lambda address: address != "127.0.0.3")
    assert loopback.addresses(1) == ["127.0.0.2"]
    assert loopback.addresses(2) == ["127.0.0.1", "127.0.0.1"]


def test_the_master_must_be_the_node_of_rank_0() -> None:
    told = {
        "ALPENGLOW_RANK": "0", "ALPENGLOW_WORLD_SIZE": "4", "ALPENGLOW_LOCAL_RANK": "0",
        "ALPENGLOW_LOCAL_SIZE": "2", "ALPENGLOW_HOST": "node2",
        "ALPENGLOW_HOST_ADDRESS": "127.0.0.3", "ALPENGLOW_MASTER_ADDR": "127.0.0.2",
    }  # fmt: skip
    with pytest.raises(RanksError, match=r"on node2 but .*set ALPENGLOW_MASTER_ADDR=127.0.0.3$"):
        Ranks.from_environment(told).check_master()
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        told |= {"ALPENGLOW_MASTER_ADDR": "127.0.0.3", "ALPENGLOW_MASTER_PORT": port}
        with pytest.raises(PortInUse):
            Ranks.from_environment(told).check_master()
