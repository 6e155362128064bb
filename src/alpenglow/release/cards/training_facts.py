"""What a model's card says of its training: how far, in which steps, with which arithmetic.

Called by `card`. The learning rate's shape is that of `alpenglow.train.learning_rate`, the length
and warm-up are counted in steps of the first batch as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from alpenglow.release.cards.data_facts import short_path
from alpenglow.release.cards.front_matter import is_repository
from alpenglow.release.cards.markdown import UNKNOWN, code, count, facts, known, section
from alpenglow.release.record import RunRecord
from alpenglow.train.batch_history import BatchHistory


class Checkpointed(Protocol):
    """What a card asks of a checkpoint: a `Source` is one, a released folder as well."""

    @property
    def form(self) -> str:
        """Which layout it was."""
        ...

    @property
    def step(self) -> int | None:
        """Optimizer steps done."""
        ...

    @property
    def state(self) -> Mapping[str, Any]:
        """What it says of training."""
        ...


def training_section(record: RunRecord, source: Checkpointed, picture: str | None = None) -> str:
    """The whole section, with a picture of the loss where there is one."""
    fact, state = record.fact, source.state
    rows = [
        ("step", _progress(record, source)),
        ("tokens", count(tokens_of(record, source))),
        ("batch", _batch(record, state)),
        ("optimizer", _optimizer(record)),
        ("learning rate", _learning_rate(record)),
        ("loss at this step", _loss(record, source.step)),
        ("precision", _precision(record, source)),
        ("layout", _layout(record)),
        ("pipeline", _pipeline(record)),
        ("recomputation", known(fact("recipe", "train", "recompute"))),
        ("passed over", _passed(record, source)),
        ("trained again", _again(record)),
        ("seed of the weights", known(fact("recipe", "train", "seed"))),
        ("code", code(fact("run", "code_version"))),
        ("libraries", _libraries(fact("software"))),
        ("first job", known(fact("run", "created"))),
    ]
    if imported := imported_from(record, state):
        rows.insert(0, ("began with weights", _origin(imported)))
    if source.form != "fragments":
        rows.insert(0, ("released from", f"a checkpoint in the form {source.form}"))
    shown = f"![Training and validation loss by tokens]({picture})" if picture else ""
    return section("Training", facts(rows), shown)


def tokens_of(record: RunRecord, source: Checkpointed) -> int | None:
    """Tokens trained on, from the checkpoint, else from the step's metrics."""
    found = source.state.get("tokens")
    return record.at(source.step).get("tokens") if found is None else found


def imported_from(record: RunRecord, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an import said of the weights that training began with; empty where none is known.

    It stands in the checkpoint that the import wrote (the run's step 0) and in those after it.
    """
    places = (state.get("began_with"), state.get("imported"), record.imported)
    return next((found for found in places if isinstance(found, Mapping)), {})


def base_model(imported: Mapping[str, Any]) -> str | None:
    """The Hub's repository that a run continued; None where it is not known to be one."""
    name = str(imported.get("repository") or "")
    return name if is_repository(name) else None


def _progress(record: RunRecord, source: Checkpointed) -> str:
    if source.step is None:
        return UNKNOWN
    history, first = BatchHistory.of_state(source.state), _first_batch(record)
    total = record.fact("recipe", "train", "steps")
    samples = _samples(record)
    if samples is not None and first is not None:
        total = (history or BatchHistory(first)).total_steps(samples)
    return f"{source.step:,}" + (f" of {total:,}" if total else "")


def _first_batch(record: RunRecord) -> int | None:
    found = record.fact("recipe", "batch", "global_batch_size")
    return int(found) if found else None


def _samples(record: RunRecord) -> int | None:
    """Length of the run in samples, as the recipe has it."""
    first, length = _first_batch(record), record.fact("batch", "sequence_length")
    steps, tokens = (record.fact("recipe", "train", key) for key in ("steps", "tokens"))
    if steps and first:
        return int(steps) * first
    return math.ceil(tokens / length) if tokens and length else None


def _batch(record: RunRecord, state: Mapping[str, Any]) -> str:
    """The first global batch in tokens, and what it was changed to."""
    fact = record.fact
    length, tokens = fact("batch", "sequence_length"), fact("batch", "tokens_per_step")
    sequences = f": {tokens // length:,} sequences of {length:,}" if tokens and length else ""
    words = [known(tokens, "{:,} tokens a step") + sequences]
    history = BatchHistory.of_state(state)
    if history is not None and length is not None:
        words += [
            f"{change.global_batch_size * length:,} from step {change.step + 1:,}"
            for change in history.changes[1:]
        ]
    return "; ".join(words)


def _optimizer(record: RunRecord) -> str:
    table = record.fact("recipe", "optimizer")
    if not table:
        return UNKNOWN
    betas = table.get("betas")
    clip = table.get("gradient_clipping")
    words = [
        {"adamw": "AdamW"}.get(table.get("name"), known(table.get("name"))),
        f"betas {', '.join(f'{b:g}' for b in betas) if betas else UNKNOWN}",
        f"eps {known(table.get('eps'), '{:g}')}",
        f"weight decay {known(table.get('weight_decay'), '{:g}')}",
        "no clipping" if clip == 0 else f"gradient norm clipped at {known(clip, '{:g}')}",
    ]
    return ", ".join(words)


def _learning_rate(record: RunRecord) -> str:
    table, first, samples = record.fact("recipe", "optimizer"), _first_batch(record), None
    if not table:
        return UNKNOWN
    samples = _samples(record)
    steps = math.ceil(samples / first) if samples and first else None
    steps = record.fact("recipe", "train", "steps") if steps is None else steps
    warmup, share = table.get("warmup_steps"), table.get("warmup_fraction")
    if warmup is None and share is not None and steps:
        warmup = round(share * steps)
    return (
        f"{known(table.get('lr'), '{:g}')}, cosine to {known(table.get('min_lr'), '{:g}')} at step "
        f"{count(steps)}; linear warm-up: {known(warmup, '{:,} steps')}"
    )


def _loss(record: RunRecord, step: int | None) -> str:
    training = None if step is None else record.loss_at(step)
    found = record.validation_at(step)
    words = [f"training {known(training, '{:.4f}')}"]
    if found is None:
        words.append("validation unknown")
    else:
        where = "" if found[0] == step else f" (step {found[0]:,})"
        words.append(f"validation {found[1]:.4f}{where}")
    return ", ".join(words) + " nats a token"


def _precision(record: RunRecord, source: Checkpointed) -> str:
    fact, state = record.fact, source.state
    chosen = fact("recipe", "precision", "dtype")
    dtype = state.get("dtype") or fact("model", "dtype")
    dtype = dtype or (chosen if chosen != "auto" else None)
    if dtype != "fp16":
        return known(dtype)
    table = fact("recipe", "precision") or {}
    power, window = table.get("initial_scale_power"), table.get("loss_scale_window")
    now = record.at(source.step).get("loss_scale")
    return (
        f"fp16 with a dynamic loss scale (from {known(power, '2^{}')}, doubled after "
        f"{known(window, '{:,} steps')} without overflow; {known(now, '{:,.0f} at this step')})"
    )


def _layout(record: RunRecord) -> str:
    degrees = [record.fact("layout", key) for key in ("pipeline", "tensor", "data")]
    if None in degrees:
        return UNKNOWN
    ranks = math.prod(degrees)
    return "pipeline {} x tensor {} x data {}".format(*degrees) + f" = {ranks:,} ranks"


def _pipeline(record: RunRecord) -> str:
    fact = record.fact
    schedule = known(fact("recipe", "parallel", "schedule"))
    schedule = {"1f1b": "1F1B", "zb-h1": "ZB-H1"}.get(schedule, f"schedule {schedule}")
    micro, sequences = fact("batch", "micro_batches"), fact("batch", "micro_batch_size")
    return (
        f"{schedule}, {known(micro, '{:,} micro-batches')} of "
        f"{known(sequences, '{:,} sequences')} a replica and step"
    )


def _passed(record: RunRecord, source: Checkpointed) -> str:
    """Steps without an update: overflows of the loss scale, and what the guard skipped."""
    until = source.step
    lines = [line for line in record.steps if until is None or line["step"] <= until]
    if not any("applied" in line for line in lines):
        return UNKNOWN
    reasons: dict[str, int] = {}
    for line in lines:
        if line.get("applied") is False:
            reason = str(line.get("skipped") or "overflow of the loss scale")
            reasons[reason] = reasons.get(reason, 0) + 1
    if not reasons:
        return "no step"
    told = ", ".join(f"{n:,} {reason}" for reason, n in reasons.items())
    return f"{sum(reasons.values()):,} steps ({told})"


def _again(record: RunRecord) -> str:
    """Steps after a restart or a step back: each leaves a second line of metrics."""
    if not record.steps:
        return UNKNOWN
    return f"{record.repeated:,} steps, after restarts or spikes" if record.repeated else "no step"


def _origin(imported: Mapping[str, Any]) -> str:
    told = {**imported, "path": short_path(imported.get("path"))}
    keys = ("from", "repository", "path", "step", "version")
    return ", ".join(f"{key} {told[key]}" for key in keys if told.get(key) is not None)


def _libraries(table: Any) -> str:
    if not isinstance(table, Mapping) or not table:
        return UNKNOWN
    return ", ".join(f"{name} {version}" for name, version in table.items())
