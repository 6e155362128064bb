"""How fast a node is: a matrix product, device memory, pairs of ranks and an all-reduce, timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from alpenglow_profiling.place import Place, PreflightError

REPEATS = 5

Metrics = dict[str, float]
"""Rates, larger is better: `gemm 0` (local rank 0), `copy 0`, `pair 0-1`, `allreduce`."""

UNITS = {"gemm": "GFLOP/s", "copy": "GB/s", "pair": "GB/s", "allreduce": "GB/s"}


def measure(place: Place, store: Path, timeout_s: float) -> tuple[str, Metrics, tuple[int, ...]]:
    """Time this node together with its other local ranks.

    Args:
        place: this rank.
        store: file through which the node's ranks meet; torch removes it at the end.
        timeout_s: how long a rank waits for a silent neighbour.

    Returns:
        The device's name and, the same on every local rank, the node's rates and the ranks on it
        in the order of their local ranks.

    Raises:
        PreflightError: torch is missing, or a neighbour did not answer.
    """
    try:
        import torch
        import torch.distributed as dist
    except ImportError as error:
        raise PreflightError(f"{place.host}: no torch to measure with: {error}") from None
    cuda = torch.cuda.is_available()
    if cuda:
        # One GPU is visible in a resource set of its own, all of them in a set of a whole node.
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    # The node's ranks meet within it; gloo would otherwise look the host's name up.
    os.environ["GLOO_SOCKET_IFNAME"] = interface or "lo"
    device = torch.device("cuda" if cuda else "cpu")
    name = torch.cuda.get_device_name() if cuda else "cpu"
    together = place.local_size > 1
    ranks: tuple[int, ...] = (place.rank,)
    try:
        if together:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                init_method=f"file://{store.absolute()}",
                rank=place.local_rank,
                world_size=place.local_size,
                timeout=timedelta(seconds=timeout_s),
            )
        rates = _own_rates(device, place.local_rank)
        if together:
            rates |= _shared_rates(device, place.local_rank, place.local_size)
            gathered: list[Any] = [None] * place.local_size
            dist.all_gather_object(gathered, (place.rank, rates))
            rates = {key: value for _, part in gathered for key, value in part.items()}
            ranks = tuple(rank for rank, _ in gathered)
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        raise PreflightError(
            f"{place.host}, local rank {place.local_rank}: its neighbours did not answer or its "
            f"device failed: {first}"
        ) from None
    finally:
        if together and dist.is_initialized():
            dist.destroy_process_group()
        if interface is None:
            del os.environ["GLOO_SOCKET_IFNAME"]  # the command's ranks are on other nodes, too
    return name, dict(sorted(rates.items())), ranks


def _own_rates(device: Any, local_rank: int) -> Metrics:
    import torch

    cuda = device.type == "cuda"
    size = 4096 if cuda else 384
    left = torch.ones(size, size, device=device, dtype=torch.float16 if cuda else torch.float32)
    product = torch.empty_like(left)
    seconds = _best(lambda: torch.mm(left, left, out=product), device)
    rates = {f"gemm {local_rank}": 2 * size**3 / seconds / 1e9}
    block = torch.ones((256 if cuda else 8) << 20, dtype=torch.uint8, device=device)
    copy = torch.empty_like(block)
    seconds = _best(lambda: copy.copy_(block), device)
    # Each byte is read once and written once.
    rates[f"copy {local_rank}"] = 2 * block.numel() / seconds / 1e9
    return rates


def _shared_rates(device: Any, local_rank: int, local_size: int) -> Metrics:
    import torch
    import torch.distributed as dist

    cuda = device.type == "cuda"
    message = torch.ones((64 if cuda else 1) << 20, dtype=torch.uint8, device=device)
    rates: Metrics = {}
    for first in range(local_size):
        for second in range(first + 1, local_size):
            # One pair at a time: links that are shared would otherwise measure each other.
            dist.barrier()
            if local_rank not in (first, second):
                continue

            def there_and_back(first: int = first, second: int = second) -> None:
                for sender, receiver in ((first, second), (second, first)):
                    if local_rank == sender:
                        dist.send(message, receiver)
                    else:
                        dist.recv(message, sender)

            seconds = _best(there_and_back, device)
            if local_rank == first:
                rates[f"pair {first}-{second}"] = 2 * message.numel() / seconds / 1e9
    reduced = torch.ones((16 if cuda else 1) << 18, dtype=torch.float32, device=device)
    dist.barrier()
    seconds = _best(lambda: dist.all_reduce(reduced), device)
    if local_rank == 0:
        rates["allreduce"] = 4 * reduced.numel() / seconds / 1e9
    return rates


def _best(work: Callable[[], object], device: Any) -> float:
    """Seconds of the fastest of REPEATS, after one to warm up: others may share the machine."""
    import torch

    best = float("inf")
    for repeat in range(REPEATS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat:
            best = min(best, time.perf_counter() - begin)
    return best
