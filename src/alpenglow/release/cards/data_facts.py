"""What a model's card says of its data: the catalogue, the mixture as it was seen, the ledger.

How often a slice was gone through is computed as the trainer orders its samples (`Order.epochs`),
from the catalogue that the run names, not from what the recipe hoped for. Called by `card`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpenglow.data.order import Order, OrderError
from alpenglow.release.cards.markdown import code, count, facts, known, line, most, section, table
from alpenglow.release.record import RunRecord


def data_section(record: RunRecord, state: Mapping[str, Any]) -> str:
    """The whole section.

    Args:
        record: the run.
        state: of the checkpoint; `samples` says how far the stream was read.
    """
    catalogue = record.data_file(record.catalogue.name)
    if catalogue and not fits(record, catalogue):
        catalogue, record = {}, record.without_data()
    held = _held(catalogue)
    return section(
        "Data",
        facts(_catalogue(record, catalogue)),
        "### Mixture\n\n" + _mixture(record, state, held, catalogue),
        _ledger(record, held),
    )


def fits(record: RunRecord, catalogue: Mapping[str, Any]) -> bool:
    """Whether a catalogue is the one that the run was trained on."""
    named = record.fact("data", "fingerprint")
    if named is None:
        return record.fact("data", "catalogue") is not None
    return bool(catalogue.get("fingerprint") == named)


def short_path(path: object) -> str | None:
    """A path's last two parts: enough to know it by, without the machine's folders."""
    return "/".join(Path(str(path)).parts[-2:]).lstrip("/") if path else None


def _catalogue(record: RunRecord, catalogue: Mapping[str, Any]) -> list[tuple[str, str]]:
    fact = record.fact
    shards = catalogue.get("shards")
    held_out = fact("recipe", "data", "validation_fraction")
    documents = fact("recipe", "data", "documents")
    rows = [
        ("catalogue", code(short_path(fact("data", "catalogue")))),
        ("fingerprint", code(fact("data", "fingerprint"))),
        ("content", code(fact("data", "content"))),
        (
            "size",
            known(catalogue.get("tokens"), "{:,} tokens")
            + (f" in {len(shards):,} shards" if shards is not None else ""),
        ),
        ("tokenizer", code(fact("data", "tokenizer_hash"))),
        ("prepared by recipe", code(catalogue.get("recipe_hash"))),
        ("order seed", known(fact("recipe", "data", "seed"))),
        ("windows", _windows(fact("batch", "sequence_length"), documents)),
        ("held out for validation", known(held_out, "{:.3%} of every slice")),
        ("removals", _removals(record, catalogue)),
    ]
    if origin := catalogue.get("made_from"):
        rows.insert(3, ("compacted from", code(origin.get("fingerprint"))))
    return rows


def _windows(length: int | None, documents: str | None) -> str:
    how = {
        "joined": "attention crosses the borders of documents",
        "masked": "no token attends to another document's",
    }.get(documents or "")
    return known(length, "{:,} tokens") + (f", {how}" if how else "")


def _removals(record: RunRecord, catalogue: Mapping[str, Any]) -> str:
    """Documents taken out (takedown): before training, while it went on, and since."""
    seen = [(segment.get("data") or {}).get("removals") for segment in record.segments]
    told = [number for number in seen if isinstance(number, int)]
    before = record.fact("data", "removals")
    before = told[0] if before is None and told else before
    if before is None:
        return known((catalogue.get("removals") or "none") if catalogue else None, "{} by now")
    last = told[-1] if told else before
    words = [f"{before} before training", f"{last - before} during it"]
    if catalogue:
        words.append(f"{catalogue.get('removals', 0) - last} since")
    return ", ".join(words)


def _held(catalogue: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Slice -> (tokens, documents) of the catalogue."""
    held: dict[str, tuple[int, int]] = {}
    for shard in catalogue.get("shards", []):
        tokens, documents = held.get(shard["slice"], (0, 0))
        held[shard["slice"]] = (tokens + shard["tokens"], documents + shard["documents"])
    return held


def _mixture(
    record: RunRecord,
    state: Mapping[str, Any],
    held: Mapping[str, tuple[int, int]],
    catalogue: Mapping[str, Any],
) -> str:
    weights: Mapping[str, float] = record.fact("recipe", "data", "mixture") or {}
    # Slices that the catalogue does not hold leave their weight to the others.
    total = sum(weight for name, weight in weights.items() if not held or name in held)
    names = [name for name in dict.fromkeys([*weights, *held]) if weights.get(name) or name in held]
    if not names:
        return "The mixture is unknown."
    seen = _seen(record, state, catalogue)
    rows, absent = [], []
    for name in names:
        if held and name not in held:
            absent.append(f"{line(name)} ({weights[name]:g})")
            continue
        weight = weights.get(name)
        tokens, epochs = seen.get(name, (None, None))
        share = known(weight / total if weight is not None and total else None, "{:.1%}")
        has = held.get(name, (None, None))
        rows.append((name, share, count(has[0]), count(has[1]), count(tokens), _times(epochs)))
    head = ("slice", ">share", ">tokens held", ">documents", ">tokens seen", ">epochs")
    notes = ["Epochs: how often the run had gone through a slice at this step."]
    if absent:
        notes.append(f"In the recipe but not in the catalogue: {', '.join(absent)}.")
    if record.skips:
        notes.append("Samples that the run passed over are among those seen.")
    return table(head, rows) + "\n\n" + " ".join(notes)


def _times(epochs: float | None) -> str:
    return known(epochs, "{:.2f}" if epochs is None or epochs >= 0.1 else "{:.2g}")


def _seen(
    record: RunRecord, state: Mapping[str, Any], catalogue: Mapping[str, Any]
) -> dict[str, tuple[int, float]]:
    """Slice -> (tokens read, epochs); empty where the run does not say enough."""
    fact = record.fact
    samples, length = state.get("samples"), fact("batch", "sequence_length")
    weights, seed = fact("recipe", "data", "mixture"), fact("recipe", "data", "seed")
    if not catalogue or not weights or length is None or seed is None or samples is None:
        return {}
    shards = [(shard["slice"], shard["tokens"]) for shard in catalogue["shards"]]
    present = {name for name, _ in shards}
    try:
        order = Order(
            shards,
            {name: weight for name, weight in weights.items() if name in present},
            length,
            seed,
            catalogue.get("fingerprint", ""),
            validation_fraction=fact("recipe", "data", "validation_fraction") or 0.0,
        )
    except OrderError:
        return {}
    epochs = order.epochs(int(samples))
    return {name: (n * length, epochs[name]) for name, n in order.taken(int(samples)).items()}


def _ledger(record: RunRecord, held: Mapping[str, tuple[int, int]]) -> str:
    ledger = record.data_file("ledger.json")
    accounts: Mapping[str, Any] = ledger.get("slices", {})
    if not accounts:
        return "### Ledger\n\nUnknown: no ledger lies beside the catalogue."
    rows = []
    for name, account in accounts.items():
        if held and name not in held:
            continue
        read, kept = account["read"]["documents"], account["kept"]["documents"]
        share = f"{kept / read:.1%}" if read else "-"
        dropped = most(documents(account.get("dropped")), 2)
        licences = most(documents(account.get("licences")), 3)
        rows.append((name, count(read), f"{count(kept)} ({share})", dropped, licences))
    head = ("slice", ">documents read", ">kept", "dropped most for", "licences (documents)")
    skipped = [line(name) for name in ledger.get("skipped", {})]
    note = f"Not prepared: {', '.join(skipped)}." if skipped else ""
    return "\n\n".join(part for part in ("### Ledger", table(head, rows), note) if part)


def documents(counts: Mapping[str, Any] | None) -> dict[str, int]:
    """Documents of each entry of one of the ledger's tables."""
    return {name: entry["documents"] for name, entry in (counts or {}).items()}
