"""How much memory this process may still take, and whether whole models fit into it.

This module is imported, never started.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from alpenglow.model.config import ModelConfig

Memory = Literal["auto", "whole", "layers"]
"""whole: both models in memory, one after the other. layers: one layer at a time."""

_COMFORT = 2.0
"""A whole model is loaded where this many of it would fit: weights are read beside the model, and
the machine has other users."""


def choose(memory: Memory, config: ModelConfig, tokens: int) -> Literal["whole", "layers"]:
    """Whether to load whole models.

    Args:
        memory: what was asked for.
        config: the model.
        tokens: positions whose logits are held.
    """
    if memory != "auto":
        return memory
    wanted = _COMFORT * 4 * (config.parameters() + 3 * tokens * config.vocab_size)
    return "whole" if wanted < available() else "layers"


def available(system: Path = Path("/")) -> float:
    """Bytes that may still be taken: what the kernel offers, less where a control group is tighter.

    Args:
        system: root of the file system, for tests.
    """
    limits = [*_offered(system / "proc"), *_control_groups(system)]
    return min(limits, default=float("inf"))


def _offered(proc: Path) -> Iterator[float]:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("MemAvailable:"):
            yield 1024.0 * int(line.split()[1])


def _control_groups(system: Path) -> Iterator[float]:
    """Room in this process's group and in those above it (version 2, or version 1's own limit).

    cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html, "Memory Interface Files". What
    the page cache holds of files counts as used, and the kernel gives it back under pressure.
    """
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = {"": "sys/fs/cgroup", "memory": "sys/fs/cgroup/memory"}
    names = {
        "": ("memory.max", "memory.current", "inactive_file"),
        "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    for line in lines:
        _, controllers, place = line.split(":", 2)
        kind = "memory" if "memory" in controllers.split(",") else controllers
        if kind not in mounts:
            continue
        group = system / mounts[kind] / place.lstrip("/")
        for folder in (group, *group.parents):
            room = _room(folder, *names[kind])
            if room is not None:
                yield room
            if folder == system / mounts[kind]:
                break


def _room(folder: Path, limit: str, used: str, cache: str) -> float | None:
    try:
        most = int((folder / limit).read_text())
        now = int((folder / used).read_text())
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return float(most - now + int(fields.get(cache, 0)))
    except (OSError, ValueError):  # no such file, or "max": no limit here
        return None
