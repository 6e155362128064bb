"""The model card of a release, from what is recorded; what is unknown says unknown.

The head is what the Hugging Face Hub reads (`front_matter`); the text below it is for people. Each
section is of a module of its own: data, training, machine, evaluation. Nothing is written here that
the run directory, the checkpoint, the catalogue, the report, the evaluation or the verification
does not say. Called by `alpenglow release convert`, `card` and `series`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from alpenglow.model.config import ModelConfig
from alpenglow.release.cards.data_facts import data_section
from alpenglow.release.cards.evaluation_facts import (
    evaluated,
    evaluation_section,
    index_results,
)
from alpenglow.release.cards.front_matter import Publication, hub_licence, is_repository, model_head
from alpenglow.release.cards.gguf_facts import gguf_section
from alpenglow.release.cards.head import publication_of
from alpenglow.release.cards.machine_facts import machine_section
from alpenglow.release.cards.markdown import count, facts, known, line, section
from alpenglow.release.cards.own_text import OURS, own_text
from alpenglow.release.cards.training_facts import (
    Checkpointed,
    base_model,
    imported_from,
    tokens_of,
    training_section,
)
from alpenglow.release.record import RunRecord


class Verified(Protocol):
    """What a card asks of a verification."""

    @property
    def tensors(self) -> int:
        """Tensors found equal bit for bit."""
        ...

    @property
    def positions(self) -> int:
        """Positions whose logits were compared."""
        ...

    @property
    def difference(self) -> float:
        """Largest difference of two logits."""
        ...

    @property
    def tolerance(self) -> float:
        """The difference that is allowed."""
        ...

    @property
    def text(self) -> str:
        """What the logits were computed on."""
        ...


@dataclass(frozen=True)
class Beside:
    """What lies beside the weights and belongs into their card; empty where there is none."""

    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """evaluation.json."""
    vocabulary: Mapping[str, Any] = field(default_factory=dict)
    """Of conversion.json: rows of the model and of the release, ids of the tokenizer."""
    gguf: Mapping[str, Any] = field(default_factory=dict)
    """gguf.json."""
    picture: str | None = None
    """Of the loss, by its place in the folder."""
    notes: Sequence[str] = ()
    """What a reader of the checkpoint found worth saying."""


def model_card(
    record: RunRecord,
    source: Checkpointed,
    config: ModelConfig,
    dtype: torch.dtype | str,
    verification: Verified | None,
    *,
    publication: Publication | None = None,
    beside: Beside | None = None,
    former: str | None = None,
) -> str:
    """Write the card.

    Args:
        record: the run; one without facts where the checkpoint is of no run of ours.
        source: what is released.
        config: its architecture.
        dtype: of the released weights.
        verification: how the release compared with the training model; None if it was not asked.
        publication: what whoever publishes says: licence, authors, languages ...
        beside: what lies beside the weights.
        former: the card that this one replaces: its publication goes on where `publication` is
            silent, and so does the text between its marks (`own_text`).

    Raises:
        ReleaseError: the former card cannot be read, so that a person's words would be lost.
    """
    said = (publication or Publication()).over(publication_of(former))
    beside = beside or Beside()
    evaluation = beside.evaluation
    automatic = record.name if source.step is None else f"{record.name}, step {source.step:,}"
    title = said.name or automatic
    tokens = tokens_of(record, source)
    imported = imported_from(record, source.state)
    base = base_model(imported)
    plain = bool(record.facts) and not imported
    parts = [
        model_head(
            said,
            automatic,
            base_model=base,
            results=index_results(evaluation, source.step),
        ),
        OURS,
        f"# {line(title)}",
        _about(record, config, tokens, base, plain)
        + (f" By {', '.join(map(line, said.authors))}." if said.authors else ""),
        own_text(former),
        _use(title, dtype),
        section("Intended use", _INTENDED),
        section("Architecture", facts(_architecture(config, dtype, beside.vocabulary))),
        data_section(record, source.state),
        training_section(record, source, beside.picture),
        evaluation_section(evaluation, source.step),
        gguf_section(beside.gguf),
        machine_section(record),
        section("Checks", facts(_checks(verification, source.form, beside.notes))),
        section("Licence", _licence(said)),
        section("Limits", _limits(config, tokens, said, evaluated(evaluation, source.step), plain)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_INTENDED = (
    "For research on language models and as a base for further training: completing text, scoring "
    "text, studying what a model of this data and size learns, fine-tuning.\n\n"
    "Not for giving advice, not as a source of facts, not for decisions about people, and not for "
    "answering users without further training and tests of your own."
)


def _about(
    record: RunRecord, config: ModelConfig, tokens: int | None, base: str | None, plain: bool
) -> str:
    """What it is, in two sentences; whoever trained it, only where that is known."""
    what = f"A GPT-NeoX language model of {config.parameters():,} parameters"
    if not record.facts:
        return f"{what}, converted with Alpenglow; nothing of its training is at hand."
    start = f" from {base}" if base else ""
    more = " It is a plain pretrained model: it continues text." if plain else ""
    return f"{what}, trained with Alpenglow for {count(tokens)} tokens{start}.{more}"


def _use(title: str, dtype: torch.dtype | str) -> str:
    name = title if is_repository(title) else "."
    where = "" if is_repository(title) else "  # this folder, or its name on the Hub"
    return section(
        "Use",
        f"""```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{name}"{where}
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.{_short(dtype)})
tokens = model.generate(**tokenizer("The ", return_tensors="pt"), max_new_tokens=40)
print(tokenizer.decode(tokens[0]))
```""",
    )


def _short(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


def _architecture(
    config: ModelConfig, dtype: torch.dtype | str, vocabulary: Mapping[str, Any]
) -> list[tuple[str, str]]:
    residual = "parallel" if config.use_parallel_residual else "serial"
    head = "tied to the embedding" if config.tie_word_embeddings else "untied"
    rows = vocabulary.get("released") or config.vocab_size
    used = known(vocabulary.get("tokenizer"), "{:,} of them tokens")
    return [
        ("layers", f"{config.num_layers}"),
        ("hidden size", f"{config.hidden_size:,}"),
        ("attention heads", f"{config.num_attention_heads}"),
        ("MLP size", f"{config.intermediate_size:,}"),
        ("vocabulary", f"{rows:,} rows, {used}" if vocabulary else f"{rows:,}, padding included"),
        ("longest sequence", f"{config.max_position_embeddings:,}"),
        ("rotary", f"{config.rotary_pct:.0%} of each head, base {config.rotary_emb_base:,}"),
        ("residual", residual),
        ("output head", head),
        ("parameters", f"{config.parameters():,}"),
        ("weights", _short(dtype)),
    ]


def _checks(
    verification: Verified | None, form: str, notes: Sequence[str]
) -> list[tuple[str, str]]:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    if verification is None:
        rows = [("against the training model", "not made")]
    else:
        rows = [
            ("tensors equal bit for bit", f"{verification.tensors:,}"),
            (
                "logits, transformers against the training model",
                f"largest difference {verification.difference:.2g} over {verification.positions:,} "
                f"positions of {verification.text} in fp32 (allowed: {verification.tolerance:g})",
            ),
        ]
    rows += [("source", f"checkpoint in the form {form}"), *(("note", note) for note in notes)]
    return [*rows, ("card written", today)]


def _licence(said: Publication) -> str:
    if said.licence in (None, "unknown"):
        return (
            "Unknown: neither weights nor data carry a licence until whoever publishes them states "
            "one. The licences of the documents, as far as the ledger has them, are under Data."
        )
    name = line(said.licence if hub_licence(said.licence) is None else f"`{said.licence}`")
    link = f" ([text]({said.licence_link}))" if said.licence_link else ""
    return (
        f"The weights: {name}{link}. The documents that they were trained on keep their own "
        "licences; the ledger's are under Data."
    )


def _limits(
    config: ModelConfig,
    tokens: int | None,
    said: Publication,
    tested: str,
    plain: bool,
) -> str:
    languages = ", ".join(said.languages)
    ratio = None if tokens is None else tokens / config.parameters()
    return "\n".join(
        [
            (
                "- It has seen no instruction or safety training"
                if plain
                else "- What it has seen before this training is not known here: it may follow "
                "instructions or not"
            )
            + ". It repeats what its data holds, errors, slurs and personal data included.",
            f"- {tested}",
            "- Languages: "
            + (f"{languages}, as its publishers say." if languages else "unknown.")
            + " Biases and memorised text have not been measured, as far as is recorded here.",
            f"- It was trained on {known(ratio, '{:,.3g}')} tokens a parameter, and on sequences "
            f"of at most {config.max_position_embeddings:,} tokens; beyond that its output "
            "means nothing.",
        ]
    )
