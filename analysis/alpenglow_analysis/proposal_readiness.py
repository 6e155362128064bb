"""Computational readiness of a proposal: the application, its use of nodes, I/O, faults, state."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from alpenglow.train.guard_policy import GuardRecipe
from alpenglow_analysis.campaign_sources import DEFAULTS
from alpenglow_analysis.document import Block, Items, Paragraph
from alpenglow_analysis.marked import Blank, Line, Mark, Name, Value, line, say
from alpenglow_analysis.proposal import Proposal
from alpenglow_analysis.proposal_needs import size
from alpenglow_analysis.proposal_scaling import Study
from alpenglow_analysis.units import billions, seconds


def recipe_words(own: Proposal) -> str:
    """The recipe, or what stands in its place."""
    return f"{own.recipe.parent.name}/{own.recipe.name}" if own.recipe else "--model"


def _of(own: Proposal) -> dict[str, Value]:
    chosen, model = own.chosen, own.chosen.run.model
    recipe = recipe_words(own)
    layout = f"{recipe}: layout, {own.chosen.source}"

    def count(number: int, source: str, mark: Mark = "S") -> Value:
        return Value(f"{number:,}", mark, source, number)

    degrees, work = chosen.layout, chosen.work
    return {
        "parameters": Value(billions(model.parameters()), "P",
                            "computed: alpenglow.model.config, from the sizes",
                            model.parameters()),
        "layers": count(model.num_layers, recipe),
        "hidden": count(model.hidden_size, recipe),
        "heads": count(model.num_attention_heads, recipe),
        "vocabulary": count(model.vocab_size, recipe),
        "pipeline": count(degrees.pipeline, layout), "tensor": count(degrees.tensor, layout),
        "data": count(degrees.data, layout, "P"),
        "replica": count(degrees.pipeline * degrees.tensor, "computed: pipeline x tensor", "P"),
        "replica_nodes": count(chosen.replica_nodes, "computed: its GPUs over a node's", "P"),
        "gpus": count(degrees.world, "computed: nodes x GPUs of a node", "P"),
        "nodes": count(chosen.nodes, "--nodes"),
        "each": count(own.machine.compute.gpus, f"env/machines/{own.machine.name}.toml: node.gpus"),
        "cores": count(own.machine.compute.cores,
                       f"env/machines/{own.machine.name}.toml: node.cores"),
        "batch": count(chosen.run.global_batch_size, recipe),
        "sequence": count(work.sequence_length, recipe),
        "tokens": count(chosen.run.batch_tokens, "computed: sequences x tokens of one", "P"),
        "micro": count(work.micro_batch_size, layout),
        "micros": count(work.micro_batches, "computed: batch over replicas and micro-batch", "P"),
    }  # fmt: skip


def application(own: Proposal) -> list[Block]:
    """The application and its parallelism."""
    named, work = _of(own), own.chosen.work
    hidden = {"none": "Nothing is computed twice", "full": "Layers are computed again in the "
              "backward pass", "selective": "The attention's core is computed again in the "
              "backward pass"}[work.recompute]  # fmt: skip
    slices = " Messages between stages are shared by the tensor ranks." if (
        work.slice_transfers and own.chosen.layout.tensor > 1) else ""  # fmt: skip
    text = say(
        "Alpenglow trains language models of the GPT-NeoX architecture in PyTorch, with "
        "DeepSpeed's pipeline engine, tensor-parallel layers and ZeRO-1. The model has "
        "{parameters} parameters: {layers} layers of width {hidden} with {heads} heads, and a "
        "vocabulary of {vocabulary}.", **named,
    )  # fmt: skip
    layout = say(
        "A replica is {pipeline} pipeline stages of {tensor} tensor-parallel ranks each, {replica} "
        "GPUs, and whole replicas fill {replica_nodes} nodes. {data} replicas share a batch of "
        "{batch} sequences of {sequence} tokens, {tokens} tokens a step. Each runs {micros} "
        "micro-batches of {micro} under the schedule {schedule}. " + hidden + "." + slices,
        schedule=Name(work.schedule), **named,
    )  # fmt: skip
    overlapped = work.overlapped and work.reduces_early
    reduction = (
        "Gradients go to the replica that owns their optimizer state within the last backward "
        "pass, and the weights are gathered after the update."
        if overlapped
        else "Gradients are summed over the replicas after the last backward pass."
    )
    return [
        Paragraph(text), Paragraph(layout),
        Paragraph(say(reduction + " Precision is {dtype}{scale}.", dtype=Name(work.dtype),
                      scale=" with a dynamic loss scale" if work.dtype == "fp16" else "")),
    ]  # fmt: skip


def node_use(own: Proposal) -> list[Block]:
    """How a node is used."""
    named = _of(own)
    text = say(
        "{gpus} ranks run on {nodes} nodes, {each} a node and one on each GPU; the {cores} cores "
        "of a node are shared among its ranks for data loading, checkpoints and measurement. The "
        "map of ranks to nodes is {order}: it is chosen by the bytes that it sends over each kind "
        "of link.", order=Name(own.chosen.layout.order), **named,
    )  # fmt: skip
    items = [
        say("Launch: {script} holds the batch options and the launch line as they run.",
            script=Name(_script(own))),
        say("Every job checks its nodes first; slow and failing ones are named and left out where "
            "spare nodes were asked for."),
    ]  # fmt: skip
    return [Paragraph(text), Items(items)]


def _script(own: Proposal) -> str:
    return recipe_words(own).replace(".toml", ".lsf") if own.recipe else "the batch script"


def input_output(own: Proposal) -> list[Block]:
    """Reading of data, and checkpoints."""
    plan, found, cost = own.plan, own.storage, own.chosen.cost
    wide = 2 if own.chosen.run.model.vocab_size <= 2**16 else 4

    def overhead(field: str, value: float) -> Value:
        source = own.sources.get(field, DEFAULTS.get(field, "given"))
        return Value(seconds(value), mark_of(source), source_words(own, source), value)

    rate = cost.tokens_per_second * wide
    saves = own.outcome.split()["checkpoint"] / float(own.outcome.node_hours.mean())
    return [
        Paragraph(say(
            "Training reads token shards, HDF5 files that are mapped into memory, at {rate} in "
            "all. The order of samples is a function of seed and position: no index is built or "
            "read, and a restart goes on at the very next sample, on any number of ranks.",
            rate=Value(f"{size(rate)}/s", "P", f"computed: predicted tokens/s x {wide} "
                                 "bytes", rate))),
        Paragraph(say(
            "A checkpoint of {size} is one file a node. Training stands still for {stall}; the "
            "checkpoint drains from the burst buffer beside training and is durable {drain} later. "
            "One is written each {every}, which takes {share} of the node-hours, and one before "
            "the walltime, for which {reserve} are reserved.",
            size=Value(size(found.checkpoint), "P", "computed: bytes a parameter (see storage)",
                       found.checkpoint),
            stall=overhead("save_s", plan.overheads.save_s),
            drain=overhead("drain_s", plan.overheads.drain_s),
            every=overhead("interval_s", plan.interval_s),
            share=Value(f"{100 * saves:.2g} %", "P", "campaign simulation, mean", saves),
            reserve=overhead("reserve_s", plan.reserve_s))),
    ]  # fmt: skip


def faults(own: Proposal) -> list[Block]:
    """What a failure costs, and what is done."""
    plan, outcome = own.plan, own.outcome
    mean = plan.mean_time_s
    many = f"{len(outcome):,} simulated campaigns"
    split, total = outcome.split(), float(outcome.node_hours.mean())
    lost = split["lost"] / total
    patience = Value(seconds(GuardRecipe.hang_s), "S", "alpenglow.train.guard_policy: hang_s")
    items: list[Line] = []
    if mean is not None:
        source = own.sources.get("gpu_hours", "published")
        items.append(say(
            "One failure in {rate} GPU-hours is one in {mean} of the running job; lost steps take "
            "{lost} of the node-hours.",
            rate=Value(f"{plan.hazards.gpu_hours or 0:,.0f}", "S",
                       f"{source}: Llama 3 405B, 419 unexpected stops of 16,384 GPUs in 54 days "
                       "(arXiv 2407.21783), another machine"
                       if source == "machine file" else source),
            mean=Value(f"{mean / 3600:.3g} h", "P", "computed: that over the GPUs of the job"),
            lost=Value(f"{100 * lost:.2g} %", "P", f"mean of {many}", lost)))  # fmt: skip
    items += [
        say("A rank that hangs is noticed within {patience}; one that dies, at once.",
            patience=patience),
        say("The next job of the chain is queued before a job starts, so that no failure needs a "
            "person. A chain stops when it gains nothing."),
        say("A checkpoint exists once its manifest is in place, last; each part has a checksum. "
            "Any layout and any number of nodes reads it."),
        say("Data order, and the state of loss scale and learning rate, go on exactly where they "
            "were; in tests on CPUs the same layout gave the same bits."),
        say("Gradients that are not finite and spikes of the loss are written down with what was "
            "done about them."),
    ]  # fmt: skip
    return [Items(items)]


def state(own: Proposal) -> list[Block]:
    """What has been developed, and what has been run where."""
    return [
        Paragraph(say(
            "Alpenglow {version} is under the licence {licence}. What it has and what it has not "
            "yet is listed in {log}; tests run with {tests}.",
            version=Value(_version(), "S", "the installed package"), licence=Name("Apache-2.0"),
            log=Name("CHANGELOG.md"), tests=Name("./env/laptop nox"))),
        Paragraph(say("{told} {ran}", told=_measured(own),
                      ran=Blank("where the application has run, at which size, and what is "
                                 "developed until the start"))),
    ]  # fmt: skip


def _measured(own: Proposal) -> Line:
    if own.study is None:
        return line(
            "No scaling study went into this document: no figure of time in it was measured."
        )
    return study_words(own, own.study)


def study_words(own: Proposal, study: Study) -> Line:
    """What the study is, and what it cannot say of this run."""
    mark: Mark = "A" if study.synthetic else "M"
    low, high = study.ranks
    text = "The scaling study {name} is of {model} on {machine}, {low} to {high} ranks."
    if study.synthetic:
        text += " It is synthetic: a program made it, and nothing in it was measured."
    if study.machine != own.machine.name or study.model != own.chosen.run.name:
        text += (
            " That is another machine or model than what is proposed: it shows that and how the "
            "application scales, not how fast it is here, and it stands beside the predictions of "
            "this run, not under them."
        )
    return say(
        text, name=Name(study.name), model=Name(study.model), machine=Name(study.machine),
        low=Value(f"{low:,}", mark, study.name, low),
        high=Value(f"{high:,}", mark, study.name, high),
    )  # fmt: skip


def _version() -> str:
    try:
        return version("alpenglow")
    except PackageNotFoundError:
        return "from a checkout"


def source_words(own: Proposal, source: str) -> str:
    """A campaign's source as a note: its short words name the file or the option."""
    of_machine = f"env/machines/{own.machine.name}.toml"
    whole = {
        "given": "given: an option of the command, or its default",
        "assumed": "assumed: not measured (analysis/README.md, Campaigns)",
        "computed": "computed from the inputs above",
    }
    return whole.get(source, source).replace("machine file", of_machine, 1)


def mark_of(source: str) -> Mark:
    """The mark that a campaign's source means."""
    for word, mark in (
        ("assumed", "A"), ("measured", "M"), ("samples of", "M"), ("records of", "M"),
        ("computed", "P"), ("predicted", "P"),
    ):  # fmt: skip
        if source.startswith(word):
            return mark  # type: ignore[return-value]
    return "S"
