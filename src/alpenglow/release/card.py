"""The model card of a release, from the run's own record; what is unknown says unknown.

The front matter is what the Hugging Face Hub reads (https://huggingface.co/docs/hub/model-cards);
the text below it is for people. Nothing is written here that the run directory, the checkpoint or
the verification does not say. Called by `alpenglow.release`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from alpenglow.exchange.source import Source
from alpenglow.model.config import ModelConfig
from alpenglow.release.record import RunRecord
from alpenglow.release.verify import Verification
from alpenglow.train.batch_history import BatchHistory

UNKNOWN = "unknown"

Rows = Iterable[tuple[str, str]]


def model_card(
    record: RunRecord,
    source: Source,
    config: ModelConfig,
    dtype: torch.dtype,
    verification: Verification | None,
) -> str:
    """Write the card.

    Args:
        record: the run.
        source: what is released.
        config: its architecture.
        dtype: of the released weights.
        verification: how the release compared with the training model; None if it was not asked.
    """
    step, state = source.step, source.state
    title = f"{record.name}, step {step:,}"
    sections = [
        _front_matter(title),
        f"# {title}",
        f"A GPT-NeoX language model of {config.parameters():,} parameters, trained with Alpenglow "
        f"for {_count(state.get('tokens'))} tokens. It is a plain pretrained model: it continues "
        "text.",
        _usage(record, dtype),
        _section("Architecture", _architecture(config, dtype)),
        _section("Data", _data(record)),
        _slices(record),
        _section("Training", _training(record, source)),
        _section("Machine time", _machine(record)),
        _section("Checks", _checks(verification)),
        "## Evaluation\n\nUnknown: no evaluation is recorded for this release.",
        "## Licence\n\nUnknown: neither weights nor data carry a licence until whoever publishes "
        "them states one in the front matter above.",
        "## Limits\n\nThe model has seen no instruction or safety training and repeats what its "
        "data holds, errors and slurs included. Nothing is recorded about languages, biases or "
        "memorised text.",
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def _front_matter(title: str) -> str:
    """YAML; a JSON string is a YAML string, so names with colons or quotes stay valid."""
    return "\n".join(
        [
            "---",
            f"model_name: {json.dumps(title)}",
            "license: unknown",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags:",
            "- gpt_neox",
            "- causal-lm",
            "- alpenglow",
            "---",
        ]
    )


def _usage(record: RunRecord, dtype: torch.dtype) -> str:
    name = str(dtype)
    return f"""```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "huggingface"  # this folder ({record.name})
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype={name})
```"""


def _section(title: str, rows: Rows) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines])


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _known(value: Any, form: str = "{}") -> str:
    return UNKNOWN if value is None or value == "" else form.format(value)


def _count(value: Any) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _architecture(config: ModelConfig, dtype: torch.dtype) -> Rows:
    residual = "parallel" if config.use_parallel_residual else "serial"
    head = "tied to the embedding" if config.tie_word_embeddings else "untied"
    return [
        ("layers", f"{config.num_layers}"),
        ("hidden size", f"{config.hidden_size}"),
        ("attention heads", f"{config.num_attention_heads}"),
        ("MLP size", f"{config.intermediate_size}"),
        ("vocabulary", f"{config.vocab_size:,}, padding included"),
        ("longest sequence", f"{config.max_position_embeddings:,}"),
        ("rotary", f"{config.rotary_pct:g} of each head, base {config.rotary_emb_base:,}"),
        ("residual", residual),
        ("output head", head),
        ("parameters", f"{config.parameters():,}"),
        ("weights", str(dtype).removeprefix("torch.")),
    ]


def _data(record: RunRecord) -> Rows:
    return [
        ("catalogue", _known(record.fact("data", "catalogue"))),
        ("fingerprint", _known(record.fact("data", "fingerprint"))),
        ("removals before the run", _known(record.fact("data", "removals"))),
        ("tokenizer", _known(record.fact("data", "tokenizer"))),
        ("order seed", _known(record.fact("recipe", "data", "seed"))),
    ]


def _slices(record: RunRecord) -> str:
    """Weight of each slice in the mixture, what the catalogue holds of it, what was dropped."""
    mixture: Mapping[str, float] = record.fact("recipe", "data", "mixture") or {}
    ledger = record.data_file("ledger.json")
    accounts, skipped = ledger.get("slices", {}), ledger.get("skipped", {})
    held: dict[str, tuple[int, int]] = {}
    for shard in record.data_file(record.catalogue.name).get("shards", []):
        tokens, documents = held.get(shard["slice"], (0, 0))
        held[shard["slice"]] = (tokens + shard["tokens"], documents + shard["documents"])
    names = [name for name in dict.fromkeys([*mixture, *held]) if mixture.get(name) or name in held]
    if not names:
        return "The mixture is unknown."
    # Slices that the catalogue does not hold leave their weight to the others.
    total = sum(weight for name, weight in mixture.items() if not held or name in held)
    lines = [
        "| slice | weight | share | tokens held | documents held | read | dropped | licences |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        present = not held or name in held
        weight = mixture.get(name)
        account = accounts.get(name, {})
        cells = [
            name,
            _known(weight, "{:g}"),
            _known(weight * present / total if weight is not None and total else None, "{:.1%}"),
            _count(held.get(name, (0, 0))[0] if held else None),
            _count(held.get(name, (0, 0))[1] if held else None),
            _count(account["read"]["documents"] if account else None),
            skipped.get(name) or _tally(account.get("dropped")),
            _tally(account.get("licences")),
        ]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _tally(counts: Mapping[str, Any] | None) -> str:
    """Write the ledger's documents by reason or licence, most first."""
    if counts is None:
        return UNKNOWN
    most = sorted(counts.items(), key=lambda item: -item[1]["documents"])
    return ", ".join(f"{name} {count['documents']:,}" for name, count in most) or "none"


def _training(record: RunRecord, source: Source) -> Rows:
    fact, state = record.fact, source.state
    betas = fact("recipe", "optimizer", "betas")
    total = fact("recipe", "train", "steps")
    layout = [fact("layout", key) for key in ("pipeline", "tensor", "data")]
    peak, low = fact("recipe", "optimizer", "lr"), fact("recipe", "optimizer", "min_lr")
    loss = None if source.step is None else record.loss_at(source.step)
    return [
        ("steps", f"{source.step:,}" + (f" of {total:,}" if total else "")),
        ("tokens", _count(state.get("tokens"))),
        ("tokens a step", _tokens_a_step(record, state)),
        ("sequence length", _count(fact("batch", "sequence_length"))),
        ("optimizer", _known(fact("recipe", "optimizer", "name"))),
        ("betas", _known(", ".join(f"{b:g}" for b in betas) if betas else None)),
        ("weight decay", _known(fact("recipe", "optimizer", "weight_decay"), "{:g}")),
        ("learning rate", f"{_known(peak, '{:g}')} to {_known(low, '{:g}')}, cosine"),
        ("precision", _known(state.get("dtype") or fact("recipe", "precision", "dtype"))),
        (
            "layout",
            UNKNOWN if None in layout else "pipeline {} x tensor {} x data {}".format(*layout),
        ),
        ("training loss at this step", _known(loss, "{:.4f}")),
        ("code", _known(fact("run", "code_version"))),
        ("began", _known(fact("run", "created"))),
    ]


def _tokens_a_step(record: RunRecord, state: Mapping[str, Any]) -> str:
    """The first global batch in tokens, and what it was changed to."""
    history = BatchHistory.of_state(state)
    length = record.fact("batch", "sequence_length")
    if history is None or len(history.changes) < 2 or length is None:
        return _count(record.fact("batch", "tokens_per_step"))
    first, *later = history.changes
    changed = (f"{c.global_batch_size * length:,} from step {c.step + 1:,}" for c in later)
    return ", ".join([f"{first.global_batch_size * length:,}", *changed])


def _machine(record: RunRecord) -> Rows:
    hours, segments = record.node_hours(), record.segments
    open_ended = sum(1 for segment in segments if segment.get("ended") is None)
    note = f", {open_ended} of them estimated: never closed" if open_ended else ""
    reasons = [str(segment.get("reason") or "not closed") for segment in segments]
    tally = ", ".join(f"{reasons.count(r)} {r}" for r in dict.fromkeys(reasons))
    return [
        ("machine", _known(record.fact("machine", "name"))),
        ("nodes", _count(record.fact("machine", "nodes"))),
        ("ranks", _count(record.fact("machine", "ranks"))),
        ("segments", f"{len(segments)} ({tally}){note}" if segments else UNKNOWN),
        ("node-hours", _known(hours, "{:,.2f}")),
        ("energy", UNKNOWN),
    ]


def _checks(verification: Verification | None) -> Rows:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    if verification is None:
        return [("against the training model", "not made"), ("converted", today)]
    return [
        ("tensors equal bit for bit", f"{verification.tensors:,}"),
        (
            "logits, transformers against the training model",
            f"largest difference {verification.difference:.2g} over {verification.positions:,} "
            f"positions of training text in fp32 (allowed: {verification.tolerance:g})",
        ),
        ("converted", today),
    ]
