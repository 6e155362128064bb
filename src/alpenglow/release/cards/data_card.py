"""The data card of prepared shards: what is in them, what was left out, how to have it taken out.

    data_card/README.md  catalogue.json  ledger.json

Facts are the catalogue's and the ledger's; the settings that made them (sources, presets, bounds,
models) are those of the job that prepared them, where its run directory is at hand. Called by
`alpenglow release card --data`; torch-free.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow.data.catalogue import NAME as CATALOGUE
from alpenglow.release.cards.data_rules import (
    dropped_section,
    licences_section,
    rules_section,
    slices_section,
)
from alpenglow.release.cards.front_matter import Publication, dataset_head, hub_licence
from alpenglow.release.cards.head import publication_of
from alpenglow.release.cards.markdown import code, count, facts, known, line, section
from alpenglow.release.cards.own_text import OURS, check_ours, own_text
from alpenglow.release.error import ReleaseError
from alpenglow.release.record import RunRecord
from alpenglow_lsf.files import read_json, write_text

LEDGER = "ledger.json"
FILES = ("README.md", CATALOGUE, LEDGER)
"""What a data card's folder holds."""


@dataclass(frozen=True)
class Prepared:
    """Shards, and the job that prepared them."""

    folder: Path
    catalogue: Mapping[str, Any]
    ledger: Mapping[str, Any]
    """Empty where none lies beside the catalogue."""
    job: RunRecord
    """An empty record where no run directory of theirs is at hand."""

    @classmethod
    def find(cls, path: Path, run: Path | None) -> Prepared:
        """Look at shards, their catalogue, or a run that names them.

        Args:
            path: any of these.
            run: of the job that prepared them; looked for among the runs beside them if None.

        Raises:
            ReleaseError: no catalogue, or a run of other data.
        """
        given = RunRecord.load(path) if (path / "run.toml").is_file() else None
        file = given.catalogue if given is not None else path
        file = file / CATALOGUE if file.is_dir() else file
        catalogue = read_json(file)
        if catalogue is None or "shards" not in catalogue:
            raise ReleaseError(
                f"{file}: no catalogue of shards; name their folder, or a run that has them "
                "(jobs/prepare_data.lsf makes them)"
            )
        fingerprint = catalogue.get("fingerprint")
        if given is not None and given.fact("data", "fingerprint") not in (None, fingerprint):
            raise ReleaseError(
                f"{file}: fingerprint {fingerprint} is not that of {path / 'run.toml'}; name the "
                "shards of this run"
            )
        if run is not None and not _made(run, fingerprint):
            raise ReleaseError(
                f"{run}: it did not prepare {file} (no such fingerprint in run.toml)"
            )
        above = file.absolute().parents[1]
        near = [run] if run is not None else [path, *above.glob("runs/*"), *above.glob("*")]
        made = (each for each in near if _made(each, fingerprint))
        found = next(made, None)
        job = RunRecord.unknown(file.parent.name) if found is None else RunRecord.load(found)
        return cls(file.parent, catalogue, read_json(file.parent / LEDGER) or {}, job)

    @property
    def documents(self) -> int:
        """In all shards, those taken out among them."""
        return sum(shard["documents"] for shard in self.catalogue["shards"])


def _made(run: Path, fingerprint: Any) -> bool:
    """Whether a folder is the run that prepared the shards of a fingerprint."""
    try:
        facts = tomllib.loads((run / "run.toml").read_text(encoding="utf-8"))
        return bool(
            facts["run"]["activity"] == "prepare" and facts["data"]["fingerprint"] == fingerprint
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_data_card(path: Path, run: Path | None, output: Path | None, said: Publication) -> Path:
    """Write the folder; returns the card's path.

    Args:
        path: shards, their catalogue, or a run.
        run: the job that prepared them; None looks for it.
        output: where to; RUN/release/data_card, or data_card in the folder of the shards.
        said: what whoever publishes says.

    Raises:
        ReleaseError: no catalogue, other data, or a card there that a person wrote.
    """
    prepared = Prepared.find(path, run)
    is_run = (path / "run.toml").is_file()
    default = path / "release" / "data_card" if is_run else prepared.folder / "data_card"
    folder = output or default
    card = folder / FILES[0]
    former = card.read_text(encoding="utf-8") if card.exists() else None
    if former is not None:
        check_ours(former, str(card))
    text = data_card(prepared, said, former)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES[1:]:
        if (prepared.folder / name).is_file():
            write_text(folder / name, (prepared.folder / name).read_text(encoding="utf-8"))
    write_text(card, text)  # last: with it the folder is whole
    return card


def data_card(prepared: Prepared, publication: Publication, former: str | None = None) -> str:
    """Write the card's text.

    Args:
        prepared: the shards.
        publication: what whoever publishes says.
        former: the card that this one replaces.

    Raises:
        ReleaseError: the former card cannot be read.
    """
    said = publication.over(publication_of(former))
    catalogue, ledger = prepared.catalogue, prepared.ledger
    name = said.name or f"{prepared.folder.absolute().name}, {_short(catalogue)}"
    slices = sorted({shard["slice"] for shard in catalogue["shards"]})
    parts = [
        dataset_head(said, name, prepared.documents, _one_licence(ledger)),
        OURS,
        f"# {line(name)}",
        f"{catalogue['tokens']:,} tokens of {prepared.documents:,} documents in {len(slices)} "
        f"{'slice' if len(slices) == 1 else 'slices'}, prepared with Alpenglow for pretraining "
        "language models." + (f" By {', '.join(map(line, said.authors))}." if said.authors else ""),
        own_text(former),
        section("Identity", facts(_identity(prepared))),
        slices_section(prepared.catalogue, ledger, prepared.job),
        dropped_section(ledger),
        licences_section(ledger),
        rules_section(prepared.job),
        section("Removal", _removal()),
        section("Licence", _licence(said)),
        section("Limits", _LIMITS),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _short(catalogue: Mapping[str, Any]) -> str:
    return str(catalogue.get("fingerprint", ""))[:12]


def _identity(prepared: Prepared) -> list[tuple[str, str]]:
    catalogue, job = prepared.catalogue, prepared.job
    tails = prepared.ledger.get("tails", {})
    cut = sum(tails.get("tokens", {}).values())
    rows = [
        ("fingerprint (slices, files, lengths)", code(catalogue.get("fingerprint"))),
        ("content (the tokens)", code(catalogue.get("content"))),
        ("shards", f"{len(catalogue['shards']):,} HDF5 files of tokens"),
        ("tokenizer", code(catalogue.get("tokenizer_hash"))),
        ("vocabulary", count(catalogue.get("vocab_size"))),
        ("prepared by recipe", code(catalogue.get("recipe_hash"))),
        ("code", code(job.fact("run", "code_version"))),
        ("prepared", known(job.fact("run", "created"))),
        ("removals", _removals(catalogue)),
        (
            "in no window",
            f"{cut:,} tokens at the ends of shards, with sequences of {tails['sequence_length']:,}"
            if tails.get("sequence_length")
            else known(None),
        ),
    ]
    if origin := catalogue.get("made_from"):
        rows.insert(2, ("compacted from", code(origin.get("fingerprint"))))
    return rows


def _removals(catalogue: Mapping[str, Any]) -> str:
    removed = sum(shard.get("removed") or 0 for shard in catalogue["shards"])
    times = catalogue.get("removals", 0)
    return f"{times:,}; documents that are blank now: {removed:,}" if times else "none"


def _one_licence(ledger: Mapping[str, Any]) -> str | None:
    """The one licence of all documents; None where there are several, or one is not stated."""
    names = {name for account in ledger.get("slices", {}).values() for name in account["licences"]}
    return names.pop() if len(names) == 1 and hub_licence(next(iter(names))) else None


def _removal() -> str:
    return (
        "A document is known by its 32-digit id, by its URL where the source has one, and by its "
        "source. Whoever holds the shards looks it up and takes it out; its place is blanked, the "
        "order of all other samples stays, and the removal is logged:\n\n"
        "```\n"
        "alpenglow data find shards --url https://example.org/page\n"
        "alpenglow data remove shards --url https://example.org/page --why 'asked by its author'\n"
        "```\n\n"
        "To ask for a removal, send the id or the URL to whoever publishes this data. Models that "
        "were trained before it say in their cards how many removals they had seen."
    )


def _licence(said: Publication) -> str:
    if said.licence is None:
        return (
            "Unknown for the collection as a whole, until whoever publishes it states one. Each "
            "document keeps its own; those that are known are counted above."
        )
    return f"The collection: {line(said.licence)}. Each document keeps its own licence."


_LIMITS = """\
- Filters drop by rule, and rules are wrong for some documents; what each dropped is counted above.
- Personal data is masked only where a slice's masks say so, and masks miss some.
- Licences are those that a document or its source states; nobody has checked them one by one.
- Nothing is known of biases, or of test sets of benchmarks among the documents, beyond the rules \
above."""
