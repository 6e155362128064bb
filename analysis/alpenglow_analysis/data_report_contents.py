"""What stands in the report of a ledger: cards, pictures, and the tables below them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from alpenglow.data.ledger import Count, SliceLedger
from alpenglow.data.published_counts import values
from alpenglow_analysis import data_report_figures as draw
from alpenglow_analysis.data_report_tables import (
    comparison_table,
    licences_table,
    overview_table,
    published_table,
    rules_table,
    share,
    trimmed_table,
)
from alpenglow_analysis.data_report_words import MEANINGS, named, stage_word
from alpenglow_analysis.facts_table import moment, some
from alpenglow_analysis.page import (
    Block,
    Card,
    Figure,
    Group,
    Loss,
    Note,
    Page,
    Pairs,
    Samples,
    Section,
    Sentences,
)
from alpenglow_analysis.plan_writing import Picture
from alpenglow_analysis.units import billions, count, percent, size

if TYPE_CHECKING:
    from alpenglow_analysis.data_report import Shards

MOST_LOSSES = 3


def pictures(found: Shards) -> list[Picture]:
    """Draw what there is to draw."""
    accounts = found.ledger.slices
    drawn = [
        Picture(
            "flow", draw.flow_figure(accounts), "Stacked bars of bytes by slice and stage",
            "Of the bytes that were read, by slice: kept (left), taken out of texts that stay, and "
            "dropped by each stage, the last stage first.",
        )
    ]  # fmt: skip
    rules = draw.rules_figure(accounts)
    if rules is not None:
        drawn.append(
            Picture(
                "rules", rules, "Bars of the rules that took most bytes",
                "Bytes dropped by a rule of a slice, or taken out of its texts, and their share of "
                "what the slice read.",
            )
        )  # fmt: skip
    tokens = kept_tokens(accounts)
    if sum(tokens.values()):
        drawn.append(
            Picture(
                "tokens", draw.tokens_figure(tokens),
                "Bars of the share of tokens by slice beside RedPajama v1 and LLaMA",
                "Shares of all tokens. LLaMA never published its tokens: these are estimates from "
                "its table 1. Its mixture is what it trained on, epochs included.",
            )
        )  # fmt: skip
    ordered = {name: found.lengths[name] for name in accounts if name in found.lengths}
    lengths = draw.lengths_figure(ordered)
    if lengths is not None:
        shards = sum(each.shards for each in found.lengths.values())
        documents = sum(each.documents for each in found.lengths.values())
        drawn.append(
            Picture(
                "lengths", lengths, "Percentiles of tokens a document by slice",
                "Line: from the 5th to the 95th percentile; box: the middle half; mark: median. "
                f"Of {some(documents, 'document')} in {some(shards, 'shard')}; the token that ends "
                "a document is counted.",
            )
        )  # fmt: skip
    return drawn


def kept_tokens(accounts: Mapping[str, SliceLedger]) -> dict[str, int]:
    """Slice -> tokens that were kept."""
    return {name: account.kept.tokens for name, account in accounts.items()}


def contents(found: Shards, figures: Mapping[str, Figure]) -> Page:
    """Put it into words."""
    ledger, accounts = found.ledger, found.ledger.slices
    facts = [some(len(accounts), "slice")]
    if found.catalogue is not None:
        facts.append(some(len(found.catalogue.shards), "shard"))
    facts += [
        f"{word} {ledger.facts[key]}"
        for word, key in (("recipe", "recipe_hash"), ("fingerprint", "fingerprint"))
        if key in ledger.facts
    ]
    sections = [
        Section("flow", "From read to kept", _flow(found, figures)),
        Section("published", "Beside published corpora", _published(accounts, figures)),
        *(
            Section(f"slice-{name}", named(name), _slice(account))
            for name, account in accounts.items()
        ),
        Section("licences", "Licences of what was kept", [licences_table(accounts)]),
    ]
    if any(account.trimmed for account in accounts.values()):
        sections.append(Section("trimmed", "Taken out of texts", [trimmed_table(accounts)]))
    if "lengths" in figures:
        sections.append(Section("lengths", "Length of documents", [figures["lengths"]]))
    if found.rejects.count:
        sections.append(Section("rejects", "Rejected documents to read", _rejects(found)))
    missing = [f"{text[0].upper()}{text[1:]}." for text in found.missing]
    missing += [f"{named(name)} was left out: {why}." for name, why in ledger.skipped.items()]
    if missing:
        sections.append(Section("missing", "What is missing", [Sentences(missing)]))
    sections.append(Section("method", "How it is counted", [Pairs(_method(found))]))
    return Page(
        title=found.name,
        about="what was read, dropped and kept",
        subtitle=" · ".join(facts),
        cards=_cards(accounts),
        losses=_losses(found),
        losses_title="The rules that took most bytes",
        sections=sections,
        made=moment(time.time()),
        source="Numbers come from the ledger of these shards, those of other corpora from the "
        "sources named.",
        by="alpenglow data report",
        missing=missing,
    )


def _cards(accounts: Mapping[str, SliceLedger]) -> list[Card]:
    read = Count.sum(account.read for account in accounts.values())
    kept = Count.sum(account.kept for account in accounts.values())
    published = sum(values("redpajama", "tokens").values())
    cards = [
        Card("Read", size(read.bytes), f"{some(read.documents, 'document')}"),
        Card(
            "Kept", size(kept.bytes),
            f"{share(kept.bytes, read.bytes) or 'none'} of the bytes read",
        ),
        Card(
            "Documents kept", count(kept.documents),
            f"{share(kept.documents, read.documents) or 'none'} of those read",
        ),
    ]  # fmt: skip
    if kept.tokens:
        part = percent(kept.tokens / published)
        cards += [
            Card(
                "Tokens", billions(kept.tokens), f"{part} of RedPajama v1's {billions(published)}"
            ),
            Card("Bytes a token", f"{kept.bytes / kept.tokens:.2f}", "of the text that was kept"),
        ]
    return cards


def _losses(found: Shards) -> list[Loss]:
    accounts = found.ledger.slices
    total = max(1, sum(account.read.bytes for account in accounts.values()))
    losses: list[Loss] = []
    for row in draw.largest_rules(accounts)[:MOST_LOSSES]:
        documents = some(row.taken.documents, "document")
        cure = f"{named(row.slice)}, {stage_word(row.stage)}: "
        cure += f"taken out of {documents} that went on." if row.trims else f"{documents} dropped."
        kept = found.rejects.count.get((row.slice, row.stage, row.rule), 0)
        if kept and not row.trims:
            cure += f" {some(kept, 'sample')} kept for reading, below."
        losses.append(
            Loss(
                f"{row.slice}-{len(losses)}", row.rule, percent(row.taken.bytes / total),
                f"of all bytes, {size(row.taken.bytes)}", cure,
            )
        )  # fmt: skip
    return losses


def _flow(found: Shards, figures: Mapping[str, Figure]) -> list[Block]:
    accounts = found.ledger.slices
    blocks: list[Block] = [figures["flow"], *overview_table(accounts)]
    if "rules" in figures:
        blocks.append(figures["rules"])
    blocks.append(
        Note(
            "Kept + dropped + taken out = read, exactly, in every stage of every slice: this was "
            "proved when the ledger was written, and again when it was read for this page."
        )
    )
    return blocks


def _published(accounts: Mapping[str, SliceLedger], figures: Mapping[str, Figure]) -> list[Block]:
    blocks: list[Block] = [figures["tokens"]] if "tokens" in figures else []
    blocks += [comparison_table(accounts), *published_table(accounts)]
    return blocks


def _slice(account: SliceLedger) -> list[Block]:
    blocks: list[Block] = [rules_table(account)]
    if any(not stage.read.tokens for stage in account.stages):
        blocks.append(Note("Tokens are counted from the first stage whose texts were tokenised."))
    return blocks


def _rejects(found: Shards) -> list[Block]:
    """Grouped in the order of slices, stages and rules."""
    groups = []
    order = {
        (name, stage.name, rule): number
        for name, account in found.ledger.slices.items()
        for stage in account.stages
        for number, rule in enumerate(stage.reasons)
    }
    places = {name: number for number, name in enumerate(found.ledger.slices)}
    stages = {name: number for number, name in enumerate(MEANINGS)}
    last = len(order)
    keys = sorted(
        found.rejects.samples,
        key=lambda key: (
            places.get(key[0], last), stages.get(key[1], last), order.get(key, last), key,
        ),
    )  # fmt: skip
    for key in keys:
        name, stage, reason = key
        texts, there = found.rejects.samples[key], found.rejects.count[key]
        account = found.ledger.slices.get(name)
        dropped = (
            next((s.dropped for s in account.stages if s.name == stage), {}) if account else {}
        )
        about = f"{stage_word(stage)}; {len(texts)} shown of {some(there, 'sample')}"
        if reason in dropped:
            about += f", {some(dropped[reason].documents, 'document')} dropped"
        groups.append(Group(f"{named(name)}: {reason}", about, texts))
    note = (
        "Beginnings of documents that were dropped, as they are; control characters are drawn as "
        "symbols. They are texts of strangers and may hold personal data: mind where the page goes."
    )
    return [Note(note), Samples(groups)]


def _method(found: Shards) -> list[tuple[str, str]]:
    rows = [(stage_word(name).capitalize(), meaning) for name, meaning in MEANINGS.items()]
    rows += [
        ("Bytes", "of the text in UTF-8; of the raw input where a reader made no text of it"),
        ("Tokens", "of the shards' tokenizer, the token that ends a document among them"),
        ("A rule", "is given what the rules before it let pass; shares are of what it was given"),
    ]
    tails = found.ledger.facts.get("tails")
    if isinstance(tails, dict) and isinstance(tails.get("tokens"), dict):
        unread = sum(int(tokens) for tokens in tails["tokens"].values())
        rows.append(
            (
                "Ends of shards",
                f"{some(unread, 'token')} are in no training window of "
                f"{tails.get('sequence_length')} tokens",
            )
        )
    return rows
