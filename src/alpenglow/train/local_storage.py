"""The node-local file of a rank, on which a save lies until it has been drained.

Which folder: the recipe's `checkpoint.local`, else the machine's NVMe where the job has it (on
Summit /mnt/bb/$USER, with `-alloc_flags nvme`). A rank has one file for all its saves, named after
the run, so that what a killed process leaves is written over. This module is imported, never
started.
"""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import xxhash

from alpenglow.config import ConfigError
from alpenglow.train.recipe import CheckpointRecipe
from alpenglow_lsf.machine import Machine


def local_file(
    recipe: CheckpointRecipe, machine: Machine | None, run: Path, rank: int
) -> Path | None:
    """This rank's file on node-local storage; None: saves go straight to the run directory.

    Args:
        recipe: names the folder, or leaves it to the machine.
        machine: where; None where nobody said.
        run: the run directory; two runs on one node do not meet.
        rank: global rank.

    Raises:
        ConfigError: a variable of the folder's name is not set.
    """
    folder = recipe.local
    if folder == "auto":
        node = None if machine is None else machine.node
        if node is None or node.nvme_path is None:
            return None
        path = Path(node.nvme_path) / getpass.getuser()
        if not os.access(path, os.W_OK):
            return None  # the job has not asked for the NVMe
    elif not folder:
        return None
    else:
        path = Path(os.path.expandvars(folder))
        if "$" in str(path):
            raise ConfigError(f"checkpoint.local = {folder!r}: a variable in it is not set")
    key = xxhash.xxh3_64_hexdigest(str(run.resolve()).encode())
    return path / f"alpenglow-{key}" / f"rank-{rank:05d}.section"
