"""Reading fragments in rows and from threads: every byte verified, whatever is asked for."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from alpenglow.train.checkpoint import (
    Checkpoint,
    CheckpointError,
    Fragment,
    SingleProcess,
    save,
    step_directory,
)


def write(checkpoints: Path) -> Path:
    folder = step_directory(checkpoints, 7)
    pairs = []
    for kind, low in (("weight", 0), ("exp_avg", 100)):
        tensor = torch.arange(low, low + 48.0).reshape(8, 6)
        pairs.append((Fragment.of(kind, "w", tensor), tensor))
    save(folder, pairs, step=7, state={}, group=SingleProcess())
    return folder


@pytest.mark.parametrize("rows", [None, 1, 4, 5])
def test_rows_verify_every_byte_of_the_fragments_they_touch(
    tmp_path: Path, rows: int | None
) -> None:
    folder = write(tmp_path)
    container = folder / "node.fragments"
    raw = bytearray(container.read_bytes())
    checkpoint = Checkpoint.open(folder)
    last = max(item.offset + item.fragment.nbytes for item in checkpoint._stored["exp_avg", "w"])
    raw[last - 1] ^= 1  # of the last row, whatever rows are asked for
    container.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"fragment of exp_avg w \[0:8, 0:6\] has the wrong"):
        list(checkpoint.rows("exp_avg", "w", rows))
    assert [len(piece) for piece in checkpoint.rows("weight", "w", rows)] == [rows or 8]
    os.truncate(container, last - 1)
    with pytest.raises(CheckpointError, match="it ends before"):
        list(checkpoint.rows("exp_avg", "w", rows))
    with pytest.raises(CheckpointError, match="do not fit the global shape"):
        list(checkpoint.rows("weight", "w", 9))


def test_threads_may_read_the_same_tensors_at_once(tmp_path: Path) -> None:
    tensor = torch.rand(64, 48)
    halves = [((0, 64), (0, 20)), ((0, 64), (20, 48))]
    pairs = []
    for box in halves:
        piece = tensor[:, box[1][0] : box[1][1]]
        whole = Fragment.of("weight", "w", piece, global_shape=(64, 48), slice=box)
        pairs.append((whole, piece))
    folder = step_directory(tmp_path, 1)
    save(folder, pairs, step=1, state={}, group=SingleProcess())
    checkpoint = Checkpoint.open(folder)

    def read(number: int) -> bool:
        if number % 2:
            return torch.equal(checkpoint.tensor("weight", "w"), tensor)
        rows = [piece.clone() for piece in checkpoint.rows("weight", "w")]
        return torch.equal(torch.cat(rows), tensor)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(64)))
