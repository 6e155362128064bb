"""Three nodes are asked for and two are used: a slow one stands aside, a silent one is gone over.

The slow node really is slower: its ranks do everything that is timed forty times. The silent
node's ranks stop themselves before they measure, as on a node that hangs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_recipe import small_recipe
from small_shards import write_small_shards
from three_nodes import write_three_nodes

from alpenglow_lsf.segment import read_segments

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

ROOT = Path(__file__).parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "PRTE_", "SLURM_", "ALPENGLOW_")

RECIPE = small_recipe(
    {"steps": 4, "checkpoint_every": 2, "log_every": 1000}, parallel={"tensor": 2}
)

SLOW = """
import os, sys
from alpenglow_profiling import preflight, rates

best = rates._best
if os.environ["ALPENGLOW_HOST"] == "node2":
    rates._best = lambda work, device: best(lambda: [work() for _ in range(40)], device)
sys.exit(preflight.main())
"""

SILENT = """
import os, signal, sys
from alpenglow_profiling import preflight

if os.environ["ALPENGLOW_HOST"] == "node1":
    os.kill(os.getpid(), signal.SIGSTOP)
sys.exit(preflight.main())
"""

# What a trainer does first: meet the other ranks at the master's address.
MEET = """
import os, sys
import torch, torch.distributed as dist
from alpenglow_lsf.ranks import Ranks

ranks = Ranks.from_environment()
ranks.check_master()
ranks.export(os.environ)
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
dist.init_process_group("gloo")
total = torch.tensor([ranks.rank])
dist.all_reduce(total)
where = f"{ranks.host} as {ranks.local_rank} of {ranks.local_size}"
print(f"rank {ranks.rank} of {ranks.world_size} on {where} via {ranks.master_address}: {total[0]}")
sys.stdout.flush()
dist.barrier()
dist.destroy_process_group()
sys.exit(85 if ranks.rank else 0)
"""

JOB = """#!/bin/bash
#BSUB -W 10
#BSUB -nnodes 3
#BSUB -o {name}.%J.out
exec python -m alpenglow_lsf.run --run runs/{name} --activity pretrain -- \\
    jsrun -r1 -a2 -c42 -b packed:21 {order} python {name}.py {options} -- python {command}
"""


class Place:
    """A folder with shards, programs and a spool, on a machine of three pretend nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_small_shards(folder / "shards")
        (folder / "tiny.toml").write_text(RECIPE)
        (folder / "meet.py").write_text(MEET)
        for name, program in (("slow", SLOW), ("silent", SILENT)):
            (folder / f"{name}.py").write_text(program)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
        path = [str(ROOT / "lsf/bin"), str(Path(sys.executable).parent), kept["PATH"]]
        roots = [str(ROOT / name) for name in ("src", "lsf", "profiling", "analysis")]
        self.environ = kept | {
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join(roots),
            "ALPENGLOW_ROOT": str(ROOT),
            "ALPENGLOW_MACHINE": str(write_three_nodes(folder)),
            "ALPENGLOW_SPOOL": str(folder / "spool"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *words: str) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environ, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, name: str, options: str, command: str, order: str = "") -> dict[str, Any]:
        """Submit a job and wait for its end; returns the segment's record."""
        script = self.folder / f"{name}.lsf"
        words = {"name": name, "options": options, "command": command, "order": order}
        script.write_text(JOB.format(**words))
        self.call("bsub", script.name)
        end = time.monotonic() + 240
        while self.call("bjobs", "-noheader", "-o", "jobid").strip():
            assert time.monotonic() < end, self.call("bjobs", "-a") + self.output(name)
            time.sleep(0.2)
        (record,) = read_segments(self.folder / "runs" / name)
        return record

    def output(self, name: str) -> str:
        return "".join(path.read_text() for path in self.folder.glob(f"{name}.*.out"))

    def verdict(self, name: str) -> dict[str, Any]:
        (path,) = (self.folder / "runs" / name).glob("preflight/*/verdict.json")
        found = json.loads(path.read_text())
        assert isinstance(found, dict)
        return found


NODES = ("nodes_asked", "nodes_used", "nodes_spare", "nodes_charged", "ranks", "hosts", "left_out")


def test_a_slow_node_stands_aside_and_the_others_train(tmp_path: Path) -> None:
    place = Place(tmp_path)
    record = place.run("slow", "--spare 1", "-m alpenglow.train tiny.toml")
    text = place.output("slow")
    assert record["reason"] == "complete", text
    assert [record[key] for key in NODES] == [3, 2, 1, 3, 4, ["node1", "node3"], ["node2"]]
    verdict = place.verdict("slow")
    assert verdict["ranks"] == [0, 1, 4, 5]
    assert "node2" in [slow["host"] for slow in verdict["slow"]]
    assert "preflight: node2 stands aside" in text
    assert record["last_step"] == 4
    manifest = json.loads(
        (tmp_path / "runs/slow/checkpoints/step-00000004/manifest.json").read_text()
    )
    assert {Path(c["file"]).name for c in manifest["containers"]} == {
        "node1.fragments", "node3.fragments",
    }  # fmt: skip
    told = place.call(sys.executable, "-m", "alpenglow_lsf.status", "runs/slow")
    assert "left out  node2 of segment" in told


def test_a_silent_node_is_gone_over_even_where_it_is_the_first(tmp_path: Path) -> None:
    """Node 1 hangs for ever; the step still ends, with the exit code of the ranks in use."""
    place = Place(tmp_path)
    record = place.run("silent", "--spare 1 --timeout 30", "meet.py", "-d cyclic")
    text = place.output("silent")
    assert (record["exit_code"], record["reason"]) == (85, "more to do"), text
    assert [record[key] for key in NODES] == [3, 2, 1, 3, 4, ["node2", "node3"], ["node1"]]
    assert "preflight: node1: did not report in 30 s" in text
    assert "those of node1, which never reported, were ended" in text
    # Cyclic ranks stay cyclic.
    assert sorted(line for line in text.splitlines() if line.startswith("rank ")) == [
        f"rank {rank} of 4 on node{2 + rank % 2} as {rank // 2} of 2 via 127.0.0.3: 6"
        for rank in range(4)
    ]
