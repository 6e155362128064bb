"""What a run needs beside node-hours: memory of a GPU, storage, files, the burst buffer."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from alpenglow.parallel.memory import GIGABYTE
from alpenglow.train.measure_recipe import MeasureRecipe
from alpenglow_analysis.campaign_outcome import Outcome, percentiles
from alpenglow_analysis.chosen_layout import Chosen
from alpenglow_analysis.document import Block, Grid, Items, Paragraph, Picture
from alpenglow_analysis.marked import Line, Name, Value, line, say
from alpenglow_analysis.planned_run import jobs_folder
from alpenglow_analysis.proposal_request import TEXT_BYTES, kept

STATE_BYTES = 14
"""Bytes of a parameter in a checkpoint of mixed precision: weight, fp32 master and two moments."""
FP32_BYTES = 12
"""The same in fp32: weight and two moments."""
SPAN_BYTES = 10.5
"""Bytes of a stored span: a public file of op-level spans takes 10 to 11 a row."""
SAMPLE_BYTES = 2e6
"""Bytes of samples a node and hour, six GPUs at one sample a second (env/README.md)."""
SHARD_TOKENS = 500_000_000
"""Where jobs/prepare_data.toml says nothing."""
LOCAL_CHECKPOINTS = 2
"""On the burst buffer at once: one that drains and the next."""
ADVISED = 1.4 / 1.6
"""Share of Summit's burst buffer that its user guide advises to fill."""


@dataclass(frozen=True)
class Storage:
    """Bytes and files of a run."""

    checkpoint: float
    """Bytes of one."""
    kept: int
    """Checkpoints on disk at once, at most."""
    shard_count: int
    rows: tuple[tuple[str, Value | Line, Value, Value | Line, Line], ...]
    """What, number, bytes, files, how."""

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(row[2].number or 0.0 for row in self.rows)

    @property
    def files(self) -> int:
        """Files."""
        return round(sum(row[3].number or 0 for row in self.rows if isinstance(row[3], Value)))


def size(value: float) -> str:
    """Bytes as people read them, decimal."""
    for factor, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def _bytes(value: float, source: str) -> Value:
    return Value(size(value), "P", source, value)


def _files(value: float, source: str) -> Value:
    return Value(f"{value:,.0f}", "P", source, value)


def storage(chosen: Chosen, outcome: Outcome) -> Storage:
    """Count what a run writes.

    Args:
        chosen: model and layout.
        outcome: of its campaigns; medians count.
    """
    plan, recipe = outcome.campaign, chosen.run.recipe
    nodes = plan.job.training
    mixed = chosen.work.size < 4
    each = STATE_BYTES if mixed else FP32_BYTES
    parameters = chosen.run.model.parameters()
    checkpoint = float(each * parameters)
    forever, _ = kept(chosen, plan)
    last = recipe.train.keep_last if recipe else 2
    held = forever + last - (1 if recipe and recipe.train.keep_every else 0)
    of_model = f"computed: {each} bytes a parameter (weights, master, moments)"
    how_many = (
        f"computed: the last {last} and each {recipe.train.keep_every:,}th step of the recipe"
        if recipe
        else "computed: the last two"
    )
    shard_tokens, source = _shard_tokens()
    wide = 2 if chosen.run.model.vocab_size <= 2**16 else 4
    shards = -(-plan.work.tokens // shard_tokens)
    jobs = percentiles(outcome.segments)[1]
    hours = float(percentiles(outcome.node_hours)[1]) / plan.job.nodes
    measure = recipe.measure if recipe else MeasureRecipe()
    spans = _spans(chosen) * chosen.layout.world * plan.work.steps / measure.spans_every
    rows = (
        ("Raw text", line("once"), _bytes(
            plan.work.tokens * TEXT_BYTES,
            "computed: --tokens x 4.26 bytes of text a token (RedPajama v1)"),
         line("as they come"),
         say("Archived or deleted once the shards are made.")),
        ("Token shards", _files(shards, f"computed: tokens over those of a shard ({source})"),
         _bytes(wide * plan.work.tokens, f"computed: {wide} bytes a token"),
         _files(shards, "computed: one file a shard"),
         say("Sequential reads, one window at a time.")),
        ("Checkpoints", _files(held, how_many), _bytes(held * checkpoint, of_model),
         _files(held * (nodes + 1), "computed: one container a node and a manifest"),
         say("{one} each, {share} a file.", one=_bytes(checkpoint, of_model),
             share=_bytes(checkpoint / nodes, "computed: a checkpoint over the training nodes"))),
        ("Event logs", _files(jobs, "campaign simulation, median of jobs"),
         _bytes(spans * SPAN_BYTES,
                f"computed: spans of a step x {SPAN_BYTES} bytes, one step in "
                f"{measure.spans_every} (measure.spans_every)"),
         _files(jobs * nodes, "computed: one file a node and job, merged at its end"),
         say("While a job runs, one log a rank: {logs}.",
             logs=_files(chosen.layout.world, "computed: ranks of the layout"))),
        ("Samples of nodes", _files(jobs, "campaign simulation, median of jobs"),
         _bytes(SAMPLE_BYTES * nodes * hours,
                "computed: 2 MB a node and hour (env/README.md) x hours of the jobs"),
         _files(jobs * nodes, "computed: one file a node and job"),
         say("Power, clocks and use of each GPU.")),
    )  # fmt: skip
    return Storage(checkpoint, held, round(shards), rows)


def _spans(chosen: Chosen) -> float:
    """Spans of a rank and step: passes, messages both ways, and a few a step."""
    m, p = chosen.work.micro_batches, chosen.layout.pipeline
    passes = 3 if chosen.work.schedule == "zb-h1" else 2
    return m * (passes + (4 if p > 1 else 0)) + 7


def _shard_tokens() -> tuple[int, str]:
    path = jobs_folder() / "prepare_data.toml"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))["shard_tokens"]
    except (OSError, ValueError, KeyError):
        return SHARD_TOKENS, "assumed: 500 million"
    return int(found), "jobs/prepare_data.toml: shard_tokens"


def memory_blocks(chosen: Chosen) -> list[Block]:
    """Memory of a GPU by stage and part."""
    source = "alpenglow.parallel.memory, from the sizes and the layout"
    room = chosen.cost.hardware.memory_bytes
    stages = chosen.cost.memory
    heads = ["stage", "layers", "weights", "gradients", "optimizer", "activations", "buffers",
             "total"]  # fmt: skip
    layers = chosen.layout.layers_of(chosen.run.model.num_layers)
    rows = []
    for stage, held in zip(stages, layers, strict=True):
        cells = [
            Line((Value(f"{stage.stage}", "P", "the layout chosen (application)", stage.stage),)),
            Line((Value(f"{held}", "P", "the layout chosen (application)", held),)),
        ]
        for part in (*stage.parts.values(), stage.total):
            cells.append(
                Line((Value(f"{part / GIGABYTE:.2f}", "P", source, part / GIGABYTE),))
            )  # fmt: skip
        rows.append(cells)
    worst = max(stages, key=lambda stage: stage.total)
    gpu = Value(size(room), "S", _machine_file(chosen, "node.gpu_memory_bytes"), room)
    fullest = _bytes(worst.total, source)
    share = Value(f"{100 * worst.total / room:.0f} %", "P", source)
    caption = say("Memory of a GPU by pipeline stage, in GB. A lower bound: context, "
                  "communication buffers, workspaces and fragmentation come on top.")  # fmt: skip
    text = say(
        "The fullest stage needs {fullest} of a GPU's {gpu} ({share}), with {alive} micro-batches "
        "in flight. Optimizer states are shared over {data} replicas (ZeRO-1).",
        fullest=fullest, gpu=gpu, share=share,
        alive=Value(f"{worst.micro_batches}", "P", source, worst.micro_batches),
        data=Value(f"{chosen.layout.data}", "P", "the layout chosen (application)"),
    )  # fmt: skip
    return [
        Paragraph(text),
        Picture("memory", "Memory of a GPU by stage, as stacked bars", say(
            "Memory of a GPU by stage and part; the line is what the GPU has.")),
        Grid(caption, heads, rows, wide={}),
    ]  # fmt: skip


def _machine_file(chosen: Chosen, key: str) -> str:
    return f"env/machines/{chosen.run.machine.name}.toml: {key}"


def storage_blocks(chosen: Chosen, outcome: Outcome, found: Storage) -> list[Block]:
    """Storage of a run, in a table and two sentences."""
    node = chosen.run.machine.compute
    summed = "computed: the lines above added up"
    rows = [[line(cell) for cell in row] for row in found.rows]
    rows.append(
        [Line(("Together",)), Line(), Line((_bytes(found.total, summed),)),
         Line((_files(found.files, summed),)), Line()]
    )  # fmt: skip
    grid = Grid(
        say("Storage on the parallel file system, without the environment ({pack} keeps that in "
            "one file).", pack=Name("env/pack")),
        ["what", "number", "size", "files", "how"], rows, wide={0: 0.18, 4: 0.34},
        sums=frozenset({len(rows) - 1}),
    )  # fmt: skip
    items = []
    training = outcome.campaign.job.training
    if node.nvme_bytes:
        share = found.checkpoint / training
        burst = LOCAL_CHECKPOINTS * share
        key = f"env/machines/{chosen.run.machine.name}.toml: node.nvme_bytes"
        items.append(
            say("Burst buffer: a node holds at most {many} parts of checkpoints, {burst} of "
                "{room} ({percent}); a save goes there first and drains to the file system "
                "beside training. The environment is unpacked there too, once a node and job.",
                many=Value("two", "P", "computed: one that drains and the next", 2),
                burst=_bytes(burst, "computed: 2 x a checkpoint over the training nodes"),
                room=Value(size(node.nvme_bytes), "S", key, node.nvme_bytes),
                percent=Value(f"{100 * burst / node.nvme_bytes:.2g} %", "P",
                                "computed: that over the burst buffer of a node"))
        )  # fmt: skip
        if node.nvme_write_bandwidth:
            items.append(
                say("At {rate} that write takes {time} a node at best.",
                    rate=Value(f"{node.nvme_write_bandwidth / 1e9:g} GB/s", "S",
                               _machine_file(chosen, "node.nvme_write_bandwidth")),
                    time=Value(f"{share / node.nvme_write_bandwidth:.2g} s", "P",
                               "computed: a node's part over the bandwidth"))
            )  # fmt: skip
    items.append(
        say("A work area that purges unread files takes a chain that waits longer than the purge: "
            "shards and kept checkpoints go to the archive as they are made, each as one file "
            "({how}).", how=Name("env/README.md"))
    )  # fmt: skip
    return [grid, Items(items)]
