"""A checkpoint written by ranks over gloo: each starts this file as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alpenglow.train.checkpoint import Checkpoint, DistributedGroup, Fragment, save

WEIGHT = torch.arange(20.0).reshape(4, 5)


def rank_program(rank: int, folder: Path, meeting: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    columns = (0, 2) if rank == 0 else (2, 5)
    piece = WEIGHT[:, columns[0] : columns[1]]
    fragment = Fragment.of("weight", "w", piece, global_shape=(4, 5), slice=[(0, 4), columns])
    group = DistributedGroup("h1")
    info = save(folder, [(fragment, piece)], step=9, state={"rank": rank}, group=group)
    assert (info.containers, info.step) == (1, 9)
    found = Checkpoint.newest(folder.parent, sys.exit, group=group)
    assert found is not None
    assert torch.equal(found.tensor("weight", "w"), WEIGHT)
    group.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_gloo_ranks_share_one_container(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000009"
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder), str(tmp_path / "meeting")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        assert [rank.wait(timeout=60) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    assert sorted(p.name for p in folder.iterdir()) == ["h1.fragments", "manifest.json"]
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.state == {"rank": 0}
    assert torch.equal(checkpoint.tensor("weight", "w"), WEIGHT)


if __name__ == "__main__":
    rank_program(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
