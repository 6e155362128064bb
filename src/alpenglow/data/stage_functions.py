"""The stages of the data room as functions over a sample of documents, for their benchmark.

`STAGES[name](sample)` prepares what is not timed and returns what is, with the bytes of text that
it goes through. A stage of another module is one more line in the table; a module or a model that
is not there is an `Absent`, with the sentence to print.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from alpenglow.data import filters, signals
from alpenglow.data.collect import BATCH_BYTES
from alpenglow.data.document import Document
from alpenglow.data.document_store import Store, StoreWriter
from alpenglow.data.shards import ShardWriter
from alpenglow.data.tokenizer import Tokenizer

Run = Callable[[], object]


class Absent(RuntimeError):
    """A stage that cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class Sample:
    """Documents of one slice, and how to read them again."""

    slice: str
    documents: list[Document]
    tokenizer: Tokenizer
    scratch: Path
    """Folder for what stages write."""
    read_bytes: int
    """What the reader went through: faults and what rules took out of texts included."""
    read: Callable[[], Iterator[Document]]
    models: Mapping[str, Any] = field(default_factory=dict)
    """Files of trained models, as the recipe's `[models]` table names them."""

    @cached_property
    def bytes(self) -> int:
        """Text of the documents, in UTF-8."""
        return sum(document.bytes for document in self.documents)

    @cached_property
    def batches(self) -> list[list[Document]]:
        """The documents as a worker holds them: about `BATCH_BYTES` of text at once."""
        found: list[list[Document]] = [[]]
        size = 0
        for document in self.documents:
            if size >= BATCH_BYTES:
                found.append([])
                size = 0
            found[-1].append(document)
            size += len(document.text)
        return found

    @cached_property
    def tokens(self) -> list[Any]:
        """Tokens of each document."""
        encoder = self.tokenizer.encoder()
        return list(itertools.chain.from_iterable(encoder.encode(b) for b in self.texts))

    @cached_property
    def texts(self) -> list[list[str]]:
        """`batches`, the texts alone."""
        return [[document.text for document in batch] for batch in self.batches]


Stage = Callable[[Sample], tuple[Run, int]]


def _read(sample: Sample) -> tuple[Run, int]:
    return lambda: [None for _ in sample.read()], sample.read_bytes


def _write(sample: Sample) -> tuple[Run, int]:
    def run() -> None:
        with StoreWriter(sample.scratch / f"{sample.slice}.h5", "bench", sample.slice) as writer:
            for batch in sample.batches:
                writer.add(batch)
            writer.close()

    return run, sample.bytes


def _load(sample: Sample) -> tuple[Run, int]:
    if not (sample.scratch / f"{sample.slice}.h5").exists():
        _write(sample)[0]()

    def run() -> None:
        with Store(sample.scratch / f"{sample.slice}.h5") as store:
            for _ in store.documents(BATCH_BYTES):
                pass

    return run, sample.bytes


def _filters(sample: Sample) -> tuple[Run, int]:
    settings = signals.SignalSettings(lines=False)
    columns = [signals.compute(batch, settings)[0] for batch in sample.batches]
    rules = filters.rules(("basic", "prose", "gopher", "fineweb", "c4"), {})
    return lambda: [filters.select(part, rules) for part in columns], sample.bytes


def _tokenise(sample: Sample) -> tuple[Run, int]:
    encoder, texts = sample.tokenizer.encoder(), sample.texts
    return lambda: [encoder.encode(batch) for batch in texts], sample.bytes


def _shards(sample: Sample) -> tuple[Run, int]:
    dtype = sample.tokenizer.encoder().dtype
    rows = [
        (np.asarray(tokens, dtype), document.id, document.source)
        for tokens, document in zip(sample.tokens, sample.documents, strict=True)
    ]
    about = {"slice": sample.slice, "tokenizer_hash": "", "recipe_hash": ""}

    def run() -> None:
        path = sample.scratch / f"{sample.slice}-shard.h5"
        with ShardWriter(path, dtype=dtype, **about) as writer:
            for tokens, identity, source in rows:
                writer.add(tokens, identity, source)
            writer.close()

    return run, sample.bytes


def over_texts(module: str, make: Callable[[Any], Callable[[list[str]], object]]) -> Stage:
    """A stage of another module, over the texts of a batch.

    Args:
        module: its name in alpenglow.data.
        make: given the module, returns what is called with each batch.
    """

    def stage(sample: Sample) -> tuple[Run, int]:
        call, texts = make(_module(module)), sample.texts
        return lambda: [call(batch) for batch in texts], sample.bytes

    return stage


def over_documents(
    module: str, make: Callable[[Any], Callable[[Sequence[Document]], object]]
) -> Stage:
    """As `over_texts`, with documents."""

    def stage(sample: Sample) -> tuple[Run, int]:
        call, batches = make(_module(module)), sample.batches
        return lambda: [call(batch) for batch in batches], sample.bytes

    return stage


def _paragraphs(module: Any) -> Callable[[list[str]], object]:
    seen: set[int] = set()

    def run(texts: list[str]) -> None:
        module.unique_hashes(texts)
        module.without_repeated(texts, [], seen)

    return run


def _models(sample: Sample) -> tuple[Run, int]:
    if not sample.models:
        raise Absent("name trained models with --language-model and --classifier")
    module = _module("models")
    models, batches = module.Models(module.ModelSettings(**sample.models)), sample.batches
    return lambda: [models.compute(batch) for batch in batches], sample.bytes


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name if "." in name else f"alpenglow.data.{name}")
    except ModuleNotFoundError as error:
        raise Absent(f"{error.name} is not installed") from None


def _library(sample: Sample) -> tuple[Run, int]:
    library, texts = sample.tokenizer.backend(), sample.texts
    return (
        lambda: [library.encode_batch_fast(batch, add_special_tokens=False) for batch in texts],
        sample.bytes,
    )


def _datatrove(sample: Sample) -> tuple[Run, int]:
    """Its DocumentTokenizer, one task without shuffling, on documents that are in memory."""
    tokens, data = _module("datatrove.pipeline.tokens"), _module("datatrove.data")
    path = sample.scratch / "tokenizer.json"
    path.write_text(sample.tokenizer.json, encoding="utf-8")
    stage = tokens.DocumentTokenizer(
        output_folder=str(sample.scratch / f"datatrove-{sample.slice}"),
        tokenizer_name_or_path=str(path),
        eos_token="<|endoftext|>",
        shuffle_documents=False,
    )
    documents = [data.Document(text=d.text, id=str(i)) for i, d in enumerate(sample.documents)]
    return lambda: stage.run(iter(documents), rank=0, world_size=1), sample.bytes


STAGES: dict[str, Stage] = {
    "read": _read,
    "store": _write,
    "load": _load,
    "language": over_texts("language_id", lambda module: module.Identifier().identify),
    "paragraphs": over_texts("paragraphs", _paragraphs),
    "signals": over_documents(
        "signals", lambda module: partial(module.compute, settings=module.SignalSettings())
    ),
    "models": _models,
    "filters": _filters,
    "tokenise": _tokenise,
    "shards": _shards,
}
"""`read`: raw input to text, as the slice does; `store` and `load`: the document store, written and
read back; `paragraphs`: hashed, then read again without repeated lines; `tokenise`: with
comparisons; `shards`: tokens to a shard."""
PEERS: dict[str, Stage] = {
    "tokenise: encode_batch_fast": _library,
    "tokenise: datatrove": _datatrove,
}
"""Other tools on the same documents, where they are installed."""
