"""The shipped 7B recipe in its laptop form, trained for some steps on this computer.

The trainer is the real one and so is what starts it: the recipe's `[laptop]` overlay, the stand-in
for jsrun with one thread a rank, DeepSpeed's engine over gloo. Tokens are drawn: what a step costs
does not depend on them. Ranks come 4 to a pretend node.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardWriter
from alpenglow.parallel.layout import Layout
from alpenglow_lsf.machine import folder

RANKS_PER_NODE = 4
VOCABULARY = 4096
SLICES = ("commoncrawl", "github")
TOKENS = 1 << 19
"""Of a slice."""
STEP_TOKENS = 16 * 128
"""Of the recipe's laptop form."""
TIMEOUT_S = 600


class DemoError(RuntimeError):
    """A run that did not train; the message is one sentence with the trainer's last words."""


@dataclass(frozen=True)
class Demo:
    """A model, as overrides of the recipe."""

    name: str
    overrides: tuple[str, ...] = ()


DEMO = Demo("demo")
"""4 layers of 128, 128 tokens, micro-batches of 2, 16 sequences a step: what the campaign trains."""
WIDER = Demo(
    "wider",
    (
        "model.num_layers=8",
        "model.hidden_size=384",
        "model.intermediate_size=1536",
        "model.num_attention_heads=6",
    ),
)
"""8 layers of 384: 16 times the arithmetic, so that a step is less of what surrounds it."""


def draw_tokens(where: Path) -> Path:
    """Write shards of drawn tokens; returns their catalogue."""
    where.mkdir(parents=True)
    infos = []
    for number, name in enumerate(SLICES):
        path = where / f"{name}-00000.h5"
        with ShardWriter(
            path, slice=name, dtype="uint16", tokenizer_hash="drawn", recipe_hash="drawn"
        ) as writer:
            tokens = np.random.default_rng(number).integers(0, VOCABULARY, TOKENS)
            writer.add(tokens, bytes([number] * 16), "drawn")
            infos.append(writer.close())
    catalogue = Catalogue.build(
        where,
        infos,
        tokenizer="tokenizer.json",
        tokenizer_hash="drawn",
        vocab_size=VOCABULARY,
        recipe_hash="drawn",
    )
    catalogue.write()
    return where / "catalogue.json"


def train(
    demo: Demo, layout: Layout, run: Path, catalogue: Path, steps: int, more: Sequence[str] = ()
) -> Path:
    """Train in a new run directory, every step with its spans; returns the directory.

    Args:
        demo: which model.
        layout: degrees.
        run: the directory to be made.
        catalogue: of the shards.
        steps: of the run.
        more: further overrides of the recipe.

    Raises:
        DemoError: it did not end well.
    """
    root = folder().parents[1]
    nodes = -(-layout.world // RANKS_PER_NODE)
    each = str(layout.world // nodes)
    command = [
        sys.executable, str(root / "lsf" / "bin" / "jsrun"),
        "-n", str(nodes), "-r", "1", "-a", each, "-g", each, "-c", each,
        sys.executable, "-m", "alpenglow.train", str(root / "jobs" / "pretrain_7b.toml"),
        "--run", str(run),
        f"parallel.pipeline={layout.pipeline}", f"parallel.tensor={layout.tensor}",
        f"data.catalogue={catalogue}", f"train.tokens={steps * STEP_TOKENS}", f"train.checkpoint_every={10 * steps}",
        "train.validate_every=0", "measure.spans_every=1", "measure.sample_seconds=0",
        *demo.overrides, *more,
    ]  # fmt: skip
    done = subprocess.run(
        command, env=_environment(os.environ), cwd=root, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        words = " | ".join(said[-3:]) or "not a word"
        raise DemoError(f"{run.name} ended with code {done.returncode}: {words}")
    return run


def _environment(around: Mapping[str, str]) -> dict[str, str]:
    """What the ranks get: the laptop, and nothing of a job around this process."""
    kept = {
        name: value
        for name, value in around.items()
        if not name.startswith(("ALPENGLOW_", "LSB_", "JSM_", "OMPI_", "SLURM_"))
    }
    root = str(folder().parents[1])
    return kept | {
        "ALPENGLOW_ROOT": root,
        "ALPENGLOW_MACHINE": "laptop",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
