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

from alpenglow.model.config import ModelConfig
from alpenglow.release.record import RunRecord
from alpenglow.release.verify import Verification
from alpenglow.train.checkpoint import Checkpoint

UNKNOWN = "unknown"

Rows = Iterable[tuple[str, str]]


def model_card(
    record: RunRecord,
    checkpoint: Checkpoint,
    config: ModelConfig,
    dtype: torch.dtype,
    verification: Verification | None,
) -> str:
    """Write the card.

    Args:
        record: the run.
        checkpoint: what is released.
        config: its architecture.
        dtype: of the released weights.
        verification: how the release compared with the training model; None if it was not asked.
    """
    step, state = checkpoint.step, checkpoint.state
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
        _section("Training", _training(record, checkpoint)),
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
        ("tokenizer", _known(record.fact("data", "tokenizer"))),
        ("order seed", _known(record.fact("recipe", "data", "seed"))),
    ]


def _slices(record: RunRecord) -> str:
    """Mixture weight, tokens and documents of each slice, and what the ledger says was dropped."""
    mixture: Mapping[str, float] = record.fact("recipe", "data", "mixture") or {}
    catalogue = _by_slice(record.data_file(record.catalogue.name))
    ledger = _by_slice(record.data_file("ledger.json"))
    names = [*dict.fromkeys([*mixture, *catalogue])]
    if not names:
        return "The mixture is unknown."
    share = sum(weight for name, weight in mixture.items() if not catalogue or name in catalogue)
    lines = [
        "| slice | weight | share | tokens | documents kept | read |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        held, weight = catalogue.get(name), mixture.get(name)
        absent = bool(catalogue) and held is None
        part = None if weight is None or not share else 0.0 if absent else weight / share
        said = ledger.get(name, {})
        cells = [
            name,
            _known(weight, "{:g}"),
            _known(part, "{:.1%}"),
            "none: not in the catalogue" if absent else _count((held or {}).get("tokens")),
            _count(_first(said, held or {}, "kept", "documents_kept", "documents")),
            _count(_first(said, {}, "read", "documents_read")),
        ]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _by_slice(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The slices of a catalogue or ledger, as name -> fields."""
    slices = table.get("slices", {})
    if isinstance(slices, Mapping):
        return {str(k): dict(v) for k, v in slices.items() if isinstance(v, Mapping)}
    return {str(v.get("name") or v.get("slice")): dict(v) for v in slices}


def _first(one: Mapping[str, Any], other: Mapping[str, Any], *keys: str) -> int | None:
    for table in (one, other):
        for key in keys:
            if isinstance(table.get(key), int):
                return int(table[key])
    return None


def _training(record: RunRecord, checkpoint: Checkpoint) -> Rows:
    fact, state = record.fact, checkpoint.state
    betas = fact("recipe", "optimizer", "betas")
    total = fact("recipe", "train", "steps")
    layout = [fact("layout", key) for key in ("pipeline", "tensor", "data")]
    peak, low = fact("recipe", "optimizer", "lr"), fact("recipe", "optimizer", "min_lr")
    loss = record.loss_at(checkpoint.step)
    return [
        ("steps", f"{checkpoint.step:,}" + (f" of {total:,}" if total else "")),
        ("tokens", _count(state.get("tokens"))),
        ("tokens a step", _count(fact("batch", "tokens_per_step"))),
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
