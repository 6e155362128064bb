"""Tables of a data card: slices, what rules dropped, licences, and the settings behind them.

From the catalogue, the ledger, and run.toml of the job that prepared the shards. Called by
`data_card`; torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alpenglow.release.cards.markdown import (
    UNKNOWN,
    count,
    facts,
    known,
    line,
    section,
    shortened,
    size,
    table,
)
from alpenglow.release.record import RunRecord

MOST_REASONS = 4
"""Reasons a slice in the table of what was dropped."""
MOST_LICENCES = 5


def slices_section(catalogue: Mapping[str, Any], ledger: Mapping[str, Any], job: RunRecord) -> str:
    """What each slice holds and where it came from."""
    total = catalogue["tokens"]
    rows = []
    for name in sorted({shard["slice"] for shard in catalogue["shards"]}):
        mine = [shard for shard in catalogue["shards"] if shard["slice"] == name]
        tokens = sum(shard["tokens"] for shard in mine)
        kept = ledger.get("slices", {}).get(name, {}).get("kept", {})
        rows.append(
            (
                name,
                count(sum(shard["documents"] for shard in mine)),
                size(kept.get("bytes")),
                count(tokens),
                f"{tokens / total:.1%}" if total else "-",
                known(job.fact("recipe", "slices", name, "mode")),
                _origin(job.fact("recipe", "slices", name)),
            )
        )
    head = ("slice", ">documents", ">text", ">tokens", ">share", "mode", "source")
    skipped = ledger.get("skipped", {})
    note = ", ".join(
        f"{line(name)} ({line(str(why).removeprefix(f'{name}: '))})"
        for name, why in skipped.items()
    )
    return section("Slices", table(head, rows), f"Not prepared: {note}." if note else "")


def _origin(table: Mapping[str, Any] | None) -> str:
    """Where a slice's raw input came from, without folders of the machine."""
    if not table:
        return UNKNOWN
    origin = str(table.get("origin", UNKNOWN))
    if origin == "wheel":
        return f"{table.get('wheel')}, {shortened(str(table.get('member')).rpartition('/')[2])}"
    words = {"installed": "packages of the Python that prepared it", "folder": "raw files"}
    return words.get(origin, origin)


def dropped_section(ledger: Mapping[str, Any]) -> str:
    """What came in and went out, and the rules that dropped most."""
    accounts: Mapping[str, Any] = ledger.get("slices", {})
    if not accounts:
        return section("What was left out", "Unknown: no ledger lies beside the catalogue.")
    flow, rules = [], []
    for name, account in accounts.items():
        read, kept = account["read"], account["kept"]
        share = f"{kept['documents'] / read['documents']:.1%}" if read["documents"] else "-"
        flow.append(
            (
                name,
                count(read["documents"]),
                count(kept["documents"]),
                share,
                size(read["bytes"]),
                size(kept["bytes"]),
                count(_tokens_in(account)),
                count(kept["tokens"]),
            )
        )
        dropped = sorted(account["dropped"].items(), key=lambda item: -item[1]["documents"])
        for reason, numbers in dropped[:MOST_REASONS]:
            tokens = count(numbers["tokens"]) if numbers["tokens"] else "-"
            rules.append(
                (name, reason, count(numbers["documents"]), size(numbers["bytes"]), tokens)
            )
        if more := dropped[MOST_REASONS:]:
            rest = sum(numbers["documents"] for _, numbers in more)
            rules.append((name, f"{len(more)} other rules", count(rest), "", ""))
    head = (
        "slice", ">documents in", ">out", ">kept", ">bytes in", ">out", ">tokens in", ">out",
    )  # fmt: skip
    reasons = table(("slice", "dropped for", ">documents", ">text", ">tokens"), rules)
    return section(
        "What was left out",
        table(head, flow),
        "Bytes in are of raw text, tokens in of what reached the filters. Parts that were cut out "
        "of documents are in the ledger.",
        f"### Rules that dropped most\n\n{reasons}" if rules else "",
    )


def _tokens_in(account: Mapping[str, Any]) -> int | None:
    """Tokens of the first stage that counted any."""
    counted = (stage["read"]["tokens"] for stage in account.get("stages", []))
    return next((tokens for tokens in counted if tokens), None)


def licences_section(ledger: Mapping[str, Any]) -> str:
    """Licences by slice, of what was kept."""
    rows = []
    for name, account in ledger.get("slices", {}).items():
        licences = sorted(account["licences"].items(), key=lambda item: -item[1]["documents"])
        for licence, numbers in licences[:MOST_LICENCES]:
            rows.append((name, licence, count(numbers["documents"]), count(numbers["tokens"])))
        if more := licences[MOST_LICENCES:]:
            sums = [sum(numbers[key] for _, numbers in more) for key in ("documents", "tokens")]
            rows.append((name, f"{len(more)} others", count(sums[0]), count(sums[1])))
    if not rows:
        return section("Licences of the documents", "Unknown.")
    head = ("slice", "licence", ">documents", ">tokens")
    return section("Licences of the documents", table(head, rows))


def rules_section(job: RunRecord) -> str:
    """Presets, bounds and budgets by slice, then signals and models."""
    slices: Mapping[str, Any] = job.fact("recipe", "slices") or {}
    if not slices:
        note = "Unknown: the run directory of the job that prepared these shards is not at hand."
        return section("Rules and signals", note)
    defaults = job.fact("recipe", "filters", "presets") or []
    rows = []
    for name, table_ in slices.items():
        presets = table_.get("presets") or defaults
        bounds = {**(job.fact("recipe", "filters", "thresholds") or {}), **table_["thresholds"]}
        rows.append(
            (
                name,
                ", ".join(presets) or "basic, and prose or code",
                "; ".join(f"{rule}: {_bound(bound)}" for rule, bound in bounds.items()) or "preset",
                ", ".join(table_.get("mask") or ()) or "none",
                size(table_["max_bytes"]) if table_.get("max_bytes") else "all",
            )
        )
    head = ("slice", "presets", "own bounds", "masked", ">budget of raw input")
    language = job.fact("recipe", "signals", "language")
    models = job.fact("recipe", "models") or {}
    named = [*models.get("classifiers", {}), *models.get("importance", {})]
    named += ["language model"] if models.get("language_model") else []
    signals = [
        ("language of word lists", known(language)),
        ("repetition", _switch(job.fact("recipe", "signals", "repetition"))),
        ("signals of lines", _switch(job.fact("recipe", "signals", "lines"))),
        ("models that score documents", ", ".join(named) or "none"),
        ("tokenizer", _tokenizer(job.fact("recipe", "tokenizer"))),
    ]
    return section("Rules and signals", table(head, rows), facts(signals))


def _bound(bound: Any) -> str:
    if not isinstance(bound, Mapping):
        return str(bound)
    return " and ".join(f"{key} {value}" for key, value in bound.items())


def _switch(value: Any) -> str:
    return UNKNOWN if value is None else "yes" if value else "no"


def _tokenizer(table: Mapping[str, Any] | None) -> str:
    if not table:
        return UNKNOWN
    if table.get("origin") == "train":
        trained = f"{table.get('vocab_size'):,} tokens from {size(table.get('sample_bytes'))}"
        return f"byte-level BPE, trained: {trained} of this text"
    return f"given: {str(table.get('file')).rpartition('/')[2]}"
