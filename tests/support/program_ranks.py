"""`python -m alpenglow.train` on several ranks of this machine, as a launcher would start them."""

from __future__ import annotations

import os
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
    **more: str,
) -> list[subprocess.Popen[str]]:
    """Start `size` ranks of tiny.toml in `place`; `nodes`: each on a pretend node of its own."""
    port = free_port()
    apart = [_node(rank) if nodes else {} for rank in range(size)]
    command = [sys.executable, "-m", "alpenglow.train", "tiny.toml", "--run", "run", *arguments]
    return [
        subprocess.Popen(
            command,
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
