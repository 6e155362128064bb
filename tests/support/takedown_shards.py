"""Shards of documents with addresses and licences, and a tokenizer beside them, to remove from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xxhash

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.shards import ShardWriter

END = 0
HOSTS = ("example.org", "blog.example.org", "www.other.net", "third.co.uk")
LICENCES = ("MIT", "Apache-2.0", "CC-BY-SA-4.0")


def identity(slice_name: str, number: int) -> bytes:
    return xxhash.xxh3_128_digest(f"{slice_name}/{number}".encode())


def write_takedown_shards(
    folder: Path, *, shards: int = 2, documents: int = 60, longest: int = 400, vocabulary: int = 500
) -> Catalogue:
    """Write shards of two slices; the n-th document of a slice is `identity(slice, n)`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"added_tokens": [{"id": END, "content": "<|endoftext|>"}]})
    (folder / "tokenizer.json").write_text(text)
    (folder / "ledger.json").write_text('{"slices": {}}')
    made = {"tokenizer_hash": xxhash.xxh3_128_hexdigest(text.encode()), "recipe_hash": "r"}
    infos = []
    for name in ("commoncrawl", "github"):
        number = 0
        for shard in range(shards):
            path = folder / f"{name}-{shard:05d}.h5"
            with ShardWriter(path, slice=name, dtype="uint16", **made) as writer:
                for _ in range(documents):
                    rng = np.random.default_rng([number, len(name)])
                    tokens = rng.integers(1, vocabulary, int(rng.integers(1, longest)))
                    web = name == "commoncrawl"
                    writer.add(
                        np.append(tokens, END),
                        identity(name, number),
                        f"dump-{number // 10}" if web else f"repo/{number}.py",
                        url=f"https://{HOSTS[number % 4]}/page/{number}" if web else "",
                        licence="" if web else LICENCES[number % 3],
                    )
                    number += 1
                infos.append(writer.close())
    catalogue = Catalogue.build(
        folder, infos, tokenizer="tokenizer.json", vocab_size=vocabulary, **made
    )
    catalogue.write()
    return Catalogue.load(folder)
