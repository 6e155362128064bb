"""300 steps in four jobs, two of them killed, beside 300 steps in one: their losses as a picture.

    python tests/support/chain_demo.py src/chain.png

Jobs go through the laptop's bsub and jsrun; the text is the source of this Python's standard
library, byte by byte, and the model learns it from scratch.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from job_chain import Place
from small_recipe import small_recipe

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardWriter

STEPS = 300
FATES = ("SIGKILL", "SIGURG", "SIGKILL")


def recipe(steps: int, every: int) -> str:
    """A model large enough for a curve, on one slice."""
    return small_recipe(
        {"steps": steps, "checkpoint_every": every, "log_every": 50},
        model={
            "num_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "vocab_size": 256,
            "max_position_embeddings": 64,
        },
        batch={"global_batch_size": 16, "micro_batch_size": 4, "sequence_length": 64},
        optimizer={"lr": 5e-3, "min_lr": 5e-4},
        data={"catalogue": "shards/catalogue.json", "mixture": {"github": 1}},
    )


def write_library(folder: Path) -> None:
    """The modules of the standard library's top folder as one shard, a token a byte."""
    folder.mkdir(parents=True)
    hashes = {"tokenizer_hash": "bytes", "recipe_hash": "demo"}
    writer = ShardWriter(folder / "github-00000.h5", slice="github", dtype="uint16", **hashes)
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    for number, path in enumerate(modules):
        tokens = np.frombuffer(path.read_bytes(), np.uint8)
        writer.add(tokens, number.to_bytes(16, "big"), path.name)
    Catalogue.build(
        folder, [writer.close()], tokenizer="tokenizer.json", vocab_size=256, **hashes
    ).write()


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def draw(run: Path, quiet: Path, path: Path) -> float:
    """Draw both curves and their difference; returns the largest difference."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    chain = lines(run)
    standing = {line["step"]: line for line in chain}
    straight = {line["step"]: line for line in lines(quiet)}
    assert sorted(standing) == sorted(straight) == [*range(1, STEPS + 1)]
    steps = np.arange(1, STEPS + 1)
    loss = np.array([standing[step]["loss"] for step in steps])
    other = np.array([straight[step]["loss"] for step in steps])
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(9, 5.4), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    above.plot(steps, other, color="#9ecae1", linewidth=5, label="one job")
    colours = ("#08306b", "#d94801", "#238b45", "#6a51a3")
    names = list(dict.fromkeys(line["segment"] for line in chain))
    ends = ("killed", "warned (SIGURG)", "killed", "complete")
    for name, colour, end in zip(names, colours, ends, strict=True):
        own = [line for line in chain if line["segment"] == name]
        label = f"job {name}: steps {own[0]['step']} to {own[-1]['step']}, {end}"
        above.plot(
            [line["step"] for line in own],
            [line["loss"] for line in own],
            color=colour,
            linewidth=1.2,
            label=label,
        )
        lost = [line["step"] for line in own if line is not standing[line["step"]]]
        if lost:
            for axes in (above, below):
                axes.axvspan(lost[0] - 0.5, lost[-1] + 0.5, color=colour, alpha=0.15, linewidth=0)
    above.set_ylabel("loss (nats a token)")
    above.legend(
        edgecolor="none", framealpha=1, title="shaded: lost with a killed job and trained again"
    )
    difference = np.abs(loss - other)
    below.plot(steps, difference, color="#d94801")
    below.set_ylim(-1e-7, 1e-6)
    below.set_ylabel("|difference|")
    below.set_xlabel("step")
    below.text(0.01, 0.75, f"largest: {difference.max():g}", transform=below.transAxes)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    return float(difference.max())


def main(target: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="chain-") as folder:
        write_library(Path(folder) / "shards")
        place = Place(Path(folder), STEPS, every=25, recipe=recipe, after=65, patience_s=900.0)
        records = place.run("chain", "--chain", *FATES)
        assert len(records) == 4, [record["reason"] for record in records]
        place.run("quiet")
        largest = draw(Path(folder) / "runs/chain", Path(folder) / "runs/quiet", target)
        sys.stdout.write(place.call(sys.executable, "-m", "alpenglow_lsf.status", "runs/chain"))
    sys.stdout.write(f"{target}: largest difference of {STEPS} losses {largest:g}\n")
    return int(largest > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
