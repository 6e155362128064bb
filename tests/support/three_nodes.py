"""A machine of three pretend nodes with two ranks each, for tests that leave one out."""

from __future__ import annotations

from pathlib import Path

TEXT = """
name = "three"
description = "three pretend nodes"
scheduler = "local"
emulates = "summit"

[stand_in]
nodes = 3
tasks_per_node = 2
threads_per_task = 1
jobs_at_once = 1
spool = "$ALPENGLOW_ROOT/.lsf"
"""


def write_three_nodes(folder: Path) -> Path:
    """Write the machine file; returns what ALPENGLOW_MACHINE should name."""
    path = folder / "three.toml"
    path.write_text(TEXT)
    return path
