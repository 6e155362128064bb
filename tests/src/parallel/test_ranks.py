"""The helper that other tests start their ranks with."""

import os
import time

import pytest
from distributed_ranks import RanksFailed, run_ranks

pytestmark = pytest.mark.distributed


def total(rank: int, size: int, factor: int) -> tuple[int, str, int]:
    import torch

    value = torch.tensor(rank * factor)
    torch.distributed.all_reduce(value)
    return int(value), os.environ["WORLD_SIZE"], torch.get_num_threads()


def one_raises(rank: int, size: int) -> None:
    import torch

    if rank == 1:
        raise ValueError("a reason to stop")
    torch.distributed.barrier()


def one_sleeps(rank: int, size: int) -> None:
    time.sleep(60 if rank else 0)


def one_dies(rank: int, size: int) -> None:
    import torch

    if rank == 1:
        os._exit(3)
    torch.distributed.barrier()


def test_each_ranks_result_comes_back_in_order() -> None:
    assert run_ranks(total, 3, 10) == [(30, "3", 1)] * 3


def test_a_rank_that_raises_is_named_with_its_reason() -> None:
    with pytest.raises(RanksFailed, match=r"(?s)rank 1 raised.*a reason to stop"):
        run_ranks(one_raises, 2)


def test_a_rank_that_dies_ends_the_others() -> None:
    begin = time.monotonic()
    with pytest.raises(RanksFailed, match=r"rank \d (died|raised)"):
        run_ranks(one_dies, 2, timeout=30)
    assert time.monotonic() - begin < 25


def test_a_late_rank_is_killed() -> None:
    begin = time.monotonic()
    with pytest.raises(RanksFailed, match="did not end in 3"):
        run_ranks(one_sleeps, 2, timeout=3)
    assert time.monotonic() - begin < 20
