"""`python -m alpenglow.train` on several ranks of this machine, as a launcher would start them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from free_port import free_port


def environment(rank: int, size: int, port: int, **more: str) -> dict[str, str]:
    """What a launcher sets for a rank; all ranks are on `node00` unless `more` says otherwise."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ALPENGLOW_", "JSM_", "OMPI"))}
    return kept | {
        "JSM_NAMESPACE_RANK": str(rank),
        "JSM_NAMESPACE_SIZE": str(size),
        "JSM_NAMESPACE_LOCAL_RANK": str(rank),
        "JSM_NAMESPACE_LOCAL_SIZE": str(size),
        "ALPENGLOW_HOST": "node00",
        "ALPENGLOW_MASTER_PORT": str(port),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def begin(
    place: Path,
    arguments: Sequence[str] = (),
    size: int = 1,
    *,
    nodes: bool = False,
    ahead_s: int = 0,
    **more: str,
) -> list[subprocess.Popen[str]]:
    """Start ranks of tiny.toml.

    Args:
        place: folder of the recipe.
        arguments: behind the recipe.
        size: number of ranks.
        nodes: whether each is on a pretend node of its own.
        ahead_s: how far CLOCK_MONOTONIC of the last rank is ahead, by a time namespace.
        more: variables of every rank.
    """
    port = free_port()
    apart = [_node(rank) if nodes else {} for rank in range(size)]
    command = [sys.executable, "-m", "alpenglow.train", "tiny.toml", "--run", "run", *arguments]
    return [
        subprocess.Popen(
            [*(clock_ahead(ahead_s) if ahead_s and rank == size - 1 else []), *command],
            cwd=place,
            env=environment(rank, size, port, **apart[rank], **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def end(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and error of each rank."""
    found = []
    try:
        for process in processes:
            output, error = process.communicate(timeout=60)
            found.append((process.returncode, output, error))
    finally:
        for process in processes:
            process.kill()
    return found


def wait_for_steps(place: Path, steps: int) -> None:
    """Until metrics.jsonl has so many lines."""
    path = place / "run/metrics.jsonl"
    for _ in range(600):
        if path.exists() and path.read_text().count("\n") >= steps:
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not reach {steps} lines")


def _node(rank: int) -> dict[str, str]:
    return {
        "JSM_NAMESPACE_LOCAL_RANK": "0",
        "JSM_NAMESPACE_LOCAL_SIZE": "1",
        "ALPENGLOW_HOST": f"node{rank:02d}",
        "ALPENGLOW_MASTER_ADDR": "127.0.0.1",
    }


def clock_ahead(seconds: int) -> list[str]:
    """What to put before a command so that it runs with a CLOCK_MONOTONIC of its own."""
    return ["unshare", "--time", "--monotonic", str(seconds)]


def clocks_can_differ() -> bool:
    """Whether this kernel and user may have time namespaces."""
    if shutil.which("unshare") is None:
        return False
    ask = [*clock_ahead(10**7), sys.executable, "-c", "import time; print(time.monotonic())"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    return done.returncode == 0 and float(done.stdout) > 10**7
