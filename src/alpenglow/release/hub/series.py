"""A series: releases of a run's intermediate checkpoints, with a table of what each is.

    RUN/release/series/series.json  series.md  and what the tree holds (`series_tree`)

A second call goes on where the first was: what is there and whole stays, what is new is made, and
names once given stay. Each release appears as a whole. Called by `alpenglow release series`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from alpenglow.exchange.fragments import FragmentSource
from alpenglow.release.cards.front_matter import Publication, is_repository
from alpenglow.release.cards.markdown import count, known, size, table
from alpenglow.release.cards.model_card import Beside, model_card
from alpenglow.release.conversion import Conversion
from alpenglow.release.error import ReleaseError
from alpenglow.release.hub.series_names import Every, Names, Point, amount, choose, name_of
from alpenglow.release.hub.series_tree import Files, Tree, tree_of, whole
from alpenglow.release.huggingface import release_dtype, write_release
from alpenglow.release.record import RunRecord
from alpenglow.release.verification.trial_tokens import trial_of
from alpenglow.release.verification.verify import Verification, verify
from alpenglow.release.verification.verify import record as record_outcome
from alpenglow.train.checkpoint import Checkpoint, CheckpointError, step_directory, steps
from alpenglow_lsf.files import read_json, write_json, write_text

TABLE = "series.json"
FORMAT = 1


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    run: Path
    every: Every
    names: Names
    form: str
    output: Path
    dtype: str
    repository: str
    """ORG/NAME of the revisions' tree."""
    verified: bool = False
    """Compare each release with its checkpoint, tensors and logits."""
    publication: Publication = field(default_factory=Publication)


@dataclass(frozen=True)
class Entry:
    """One release of a series; a row of the table."""

    name: str
    step: int
    tokens: int | None
    loss: float | None
    validation_loss: float | None
    learning_rate: float | None
    bytes_added: int
    verified: bool
    checkpoint: str
    """xxh3-64 of the checkpoint's manifest."""
    files: Files


@dataclass
class Outcome:
    """What a call did."""

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    """Multiples that no checkpoint belongs to."""


def make_series(request: Request, say: Callable[[str], None]) -> Outcome:
    """Make the releases that are asked for and not there yet.

    Args:
        request: what is asked for.
        say: told a line for each release and each checkpoint that is passed over.

    Raises:
        ReleaseError: no checkpoint, a series of another kind is in the output, a tensor or the
            tokenizer does not fit, or a release differs from its checkpoint. Those that were made
            before it stay, and so does the table of them.
        CheckpointError, ExchangeError: damage found while reading.
    """
    record = RunRecord.load(request.run)
    points = whole_checkpoints(record, say)
    if not points:
        raise ReleaseError(f"{request.run / 'checkpoints'}: no whole checkpoint")
    entries = _former(request)
    # A release whose checkpoint was pruned since still stands for its multiple.
    pruned = {
        step: entry for step, entry in entries.items() if step not in {p.step for p in points}
    }
    gone = [Point(step, row.tokens, Path(row.name), row.checkpoint) for step, row in pruned.items()]
    every_one = sorted([*points, *gone], key=lambda point: point.step)
    chosen, missing = choose(every_one, request.every)
    tree = tree_of(
        request.form,
        request.output,
        request.repository,
        {entry.name: entry.files for entry in entries.values()},
    )
    request.output.mkdir(parents=True, exist_ok=True)
    outcome = Outcome(missing=missing)
    for point in chosen:
        former = entries.get(point.step)
        same = former is not None and former.checkpoint == point.manifest
        if former is not None and same and whole(tree, former.name, former.files):
            outcome.kept.append(former.name)
            continue
        if point in gone:
            raise ReleaseError(
                f"{request.output}: {point.path} is damaged and its checkpoint is gone; remove its "
                f"entry from {TABLE}"
            )
        taken = {entry.name for entry in entries.values()}
        name = former.name if former is not None else name_of(point, request.names, taken)
        say(f"{name}: step {point.step:,}, {known(point.tokens, '{:,} tokens')}")
        entries[point.step] = _release(request, record, tree, point, name)
        outcome.made.append(name)
        _write(request, entries, missing)
    newest = entries[max(entries)].name
    tree.newest(newest)
    _write(request, entries, missing)
    return outcome


def whole_checkpoints(record: RunRecord, say: Callable[[str], None]) -> list[Point]:
    """The run's checkpoints that can be read, ascending by step."""
    found = []
    for step in steps(record.path / "checkpoints"):
        path = step_directory(record.path / "checkpoints", step)
        try:
            state = Checkpoint.open(path).state
            manifest = xxhash.xxh3_64_hexdigest((path / "manifest.json").read_bytes())
        except (CheckpointError, OSError) as error:
            say(f"passed over: {error}")
            continue
        tokens = state.get("tokens", record.at(step).get("tokens"))
        found.append(Point(step, None if tokens is None else int(tokens), path, manifest))
    return sorted(found, key=lambda point: point.step)


def _release(request: Request, record: RunRecord, tree: Tree, point: Point, name: str) -> Entry:
    source = FragmentSource.open(point.path)
    outcome: Verification | None = None
    with tree.building(name) as folder:
        write_release(folder, source, record.tokenizer, dtype=request.dtype)
        if request.verified:
            rows, positions = source.config.vocab_size, source.config.max_position_embeddings
            trial = trial_of(record, record.tokenizer, rows, positions)
            outcome = verify(folder, source, trial, "The ")
            record_outcome(folder, outcome)
        card = model_card(
            record,
            source,
            source.config,
            release_dtype(source, request.dtype),
            outcome,
            publication=request.publication,
            beside=Beside(vocabulary=Conversion.load(folder).vocabulary),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    files, added = tree.added(name)
    line, validation = record.at(point.step), record.validation_at(point.step)
    return Entry(
        name=name,
        step=point.step,
        tokens=point.tokens,
        loss=line.get("loss"),
        validation_loss=validation[1] if validation and validation[0] == point.step else None,
        learning_rate=line.get("lr"),
        bytes_added=added,
        verified=outcome is not None,
        checkpoint=point.manifest,
        files=files,
    )


def load_series(output: Path) -> tuple[dict[str, Any], list[Entry]]:
    """The head of a series' table, and its rows by step.

    Raises:
        ReleaseError: no table here, or not one of this format.
    """
    found = read_json(output / TABLE)
    if found is None or found.get("format") != FORMAT:
        raise ReleaseError(f"{output}: no series of releases ({TABLE} is absent or no JSON)")
    try:
        rows = [Entry(**row) for row in found["entries"]]
    except (KeyError, TypeError) as error:
        raise ReleaseError(f"{output / TABLE}: not a table of a series: {error}") from None
    return found, sorted(rows, key=lambda entry: entry.step)


def _former(request: Request) -> dict[int, Entry]:
    """Step -> what an earlier call made."""
    if request.form == "revisions" and not is_repository(request.repository):
        raise ReleaseError(f"--repository {request.repository}: ORGANISATION/NAME, as on the Hub")
    if not (request.output / TABLE).exists():
        return {}
    head, rows = load_series(request.output)
    for key, now in _head(request).items():
        if head.get(key) != now:
            raise ReleaseError(
                f"{request.output}: holds a series with {key} {head.get(key)}, not {now}; name "
                "another --output"
            )
    return {row.step: row for row in rows}


def _head(request: Request) -> dict[str, Any]:
    return {
        "run": request.run.absolute().name,
        "names": request.names,
        "form": request.form,
        "dtype": request.dtype,
        "repository": request.repository,
    }


def _write(request: Request, entries: Mapping[int, Entry], missing: list[int]) -> None:
    rows = [entries[step] for step in sorted(entries)]
    head = {"format": FORMAT, **_head(request), "missing": missing, "unit": request.every.unit}
    write_json(request.output / TABLE, {**head, "entries": [asdict(row) for row in rows]})
    write_text(request.output / "series.md", series_table(request, rows, missing))


def series_table(request: Request, rows: list[Entry], missing: list[int]) -> str:
    """The table as markdown."""
    cells = [
        (
            f"`{row.name}`",
            count(row.step),
            count(row.tokens),
            known(row.loss, "{:.4f}"),
            known(row.validation_loss, "{:.4f}"),
            known(row.learning_rate, "{:.3g}"),
            size(row.bytes_added),
            "yes" if row.verified else "no",
        )
        for row in rows
    ]
    head = (
        "name", ">step", ">tokens", ">loss", ">validation loss", ">learning rate", ">on disk",
        "verified",
    )  # fmt: skip
    parts = [f"# Checkpoints of {request.run.absolute().name}", table(head, cells)]
    parts.append("Losses in nats a token; on disk: bytes that no earlier one of the series has.")
    if missing:
        parts.append(f"No checkpoint for: {', '.join(shown(request.every, missing))}.")
    return "\n\n".join(parts) + "\n"


def shown(every: Every, missing: list[int]) -> list[str]:
    """Multiples as a person writes them; a long list is cut."""
    few = [f"{amount(n, 6)} {every.unit}" for n in missing[:10]]
    return [*few, *([f"{len(missing) - 10} more"] if len(missing) > 10 else [])]


def default_repository(run: Path) -> str:
    """A name for the revisions of a run that is not on the Hub."""
    return f"local/{re.sub(r'[^A-Za-z0-9_.-]+', '-', run.absolute().name).strip('-.') or 'run'}"
