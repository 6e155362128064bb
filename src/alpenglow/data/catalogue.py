"""The catalogue: which shards there are, how long, and made by which tokenizer.

`shards/catalogue.json` lies beside the shards. Its **geometry** (slices, files, lengths) is what
the order of training samples depends on; its **content** (the tokens) is apart from it, so that a
document removed in place changes the one and not the other.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from alpenglow.data.checksums import file_hash
from alpenglow.data.shards import Shard, ShardError, ShardInfo
from alpenglow_lsf.files import read_json, write_text

FORMAT = 1
NAME = "catalogue.json"
PENDING = "removal.pending.json"
"""Lies beside the catalogue while a removal is going on, or after it was broken off."""
BESIDE = ("ledger.json", "rejects.jsonl", "compaction.json", "removals.before.jsonl")
"""Files whose checksums the catalogue keeps."""


class CatalogueError(RuntimeError):
    """A catalogue that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class Catalogue:
    """A set of shards in one folder.

    `shards` are sorted by slice and file name, whatever order they were written in.
    """

    folder: Path
    shards: tuple[ShardInfo, ...]
    tokenizer: str
    """File name of the tokenizer beside the catalogue."""
    tokenizer_hash: str
    vocab_size: int
    recipe_hash: str
    removals: int = 0
    """Removals that these shards have seen: lines of `removals.jsonl`."""
    removals_hash: str = ""
    """Of the log of removals (`removal_log.chain`); empty where there was none."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> xxh3-128 of other files that lay beside the catalogue when it was written."""
    made_from: Mapping[str, Any] | None = None
    """Which catalogue this one was compacted from."""

    @classmethod
    def build(
        cls,
        folder: Path,
        shards: Iterable[ShardInfo],
        *,
        tokenizer: str,
        tokenizer_hash: str,
        vocab_size: int,
        recipe_hash: str,
    ) -> Catalogue:
        """Put shards into their lasting order."""
        ordered = tuple(sorted(shards, key=lambda info: (info.slice, info.file)))
        return cls(folder, ordered, tokenizer, tokenizer_hash, vocab_size, recipe_hash)

    @classmethod
    def load(cls, path: Path, *, look: bool = True) -> Catalogue:
        """Read `catalogue.json` (or the one in a folder) and see that every shard is there, whole.

        Only names and sizes of the shards are looked at; `verify` reads them.

        Args:
            path: the catalogue or its folder.
            look: look at the shards. One rank of thousands is enough: the rest would ask a
                parallel file system the same millions of times.

        Raises:
            CatalogueError: no catalogue, not one of ours, or a shard is missing or cut.
        """
        file = path / NAME if path.is_dir() else path
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CatalogueError(
                f"{file}: no token shards here; run `bsub jobs/prepare_data.lsf` first"
            ) from None
        except (OSError, ValueError) as error:
            raise CatalogueError(f"{file}: not readable as a catalogue: {error}") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise CatalogueError(f"{file}: not a catalogue of format {FORMAT}")
        try:
            shards = tuple(ShardInfo(**shard) for shard in found["shards"])
            words = {key: found[key] for key in _WORDS}
            words |= {key: found[key] for key in _LATER if key in found}
        except (KeyError, TypeError) as error:
            raise CatalogueError(f"{file}: the catalogue lacks or misnames {error}") from None
        catalogue = cls(folder=file.parent, shards=shards, **words)
        if catalogue.fingerprint != found.get("fingerprint"):
            raise CatalogueError(f"{file}: the shards listed do not have the fingerprint it names")
        if look:
            for shard in shards:
                catalogue._look(shard)
        return catalogue

    def write(self) -> Path:
        """Write `catalogue.json` under a temporary name and rename it; write other files before.

        A checksum of those that is known already stays: they were not read since.
        """
        files = {
            name: self.files.get(name) or file_hash(self.folder / name)
            for name in BESIDE
            if name in self.files or (self.folder / name).is_file()
        }
        later = {"removals": self.removals, "removals_hash": self.removals_hash, "files": files}
        later["made_from"] = self.made_from
        tables = {
            "format": FORMAT,
            "checksum": "0" * 32,
            "fingerprint": self.fingerprint,
            "content": self.content,
            "tokens": self.tokens,
            **{key: getattr(self, key) for key in _WORDS},
            **{key: value for key, value in later.items() if value},
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }
        path = self.folder / NAME
        text = json.dumps(tables, indent=1) + "\n"
        write_text(path, text.replace("0" * 32, xxhash.xxh3_128_hexdigest(text.encode()), 1))
        return path

    def intact(self) -> bool:
        """Whether `catalogue.json` is as it was written; one of before it had a checksum passes."""
        text = (self.folder / NAME).read_bytes()
        found = json.loads(text).get("checksum")
        if found is None:
            return True
        blank = text.replace(str(found).encode(), b"0" * 32, 1)
        return bool(xxhash.xxh3_128_hexdigest(blank) == found)

    @property
    def fingerprint(self) -> str:
        """Hash of the geometry: slices, files, token counts."""
        rows = [[shard.slice, shard.file, shard.tokens] for shard in self.shards]
        return _hash(rows)

    @property
    def content(self) -> str:
        """Hash of the tokens themselves, and of which are removed."""
        rows = [shard.content for shard in self.shards]
        return _hash([*rows, self.removals_hash] if self.removals else rows)

    @property
    def tokens(self) -> int:
        """Tokens in all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def slices(self) -> dict[str, int]:
        """Tokens of each slice, by name."""
        totals: dict[str, int] = {}
        for shard in self.shards:
            totals[shard.slice] = totals.get(shard.slice, 0) + shard.tokens
        return totals

    @property
    def tokenizer_path(self) -> Path:
        """Where the tokenizer lies."""
        return self.folder / self.tokenizer

    def open(self, index: int) -> Shard:
        """Map a shard, by its place in `shards`.

        Raises:
            ShardError: missing, cut, of another length than listed here, or made by another
                tokenizer.
        """
        info = self.shards[index]
        shard = Shard(self.folder / info.file)
        if shard.tokens.size != info.tokens or shard.slice != info.slice:
            raise ShardError(
                f"{shard.path}: {shard.tokens.size} tokens of {shard.slice}, the catalogue lists "
                f"{info.tokens} of {info.slice}; run `bsub jobs/prepare_data.lsf` again"
            )
        made_by = str(shard.attributes.get("tokenizer_hash"))
        if made_by != self.tokenizer_hash:
            raise ShardError(
                f"{shard.path}: made by tokenizer {made_by[:12]}, the catalogue is of tokenizer "
                f"{self.tokenizer_hash[:12]}; run `bsub jobs/prepare_data.lsf` again"
            )
        return shard

    def verify(self) -> None:
        """Read every shard and compare with the catalogue.

        Raises:
            ShardError: the first that differs.
        """
        for index, info in enumerate(self.shards):
            if self.open(index).verify() != info.content:
                raise ShardError(
                    f"{self.folder / info.file}: its tokens are not those that the catalogue lists"
                )

    def _look(self, shard: ShardInfo) -> None:
        path = self.folder / shard.file
        cure = "remove the folder and run `bsub jobs/prepare_data.lsf` again"
        try:
            size = path.stat().st_size
        except OSError:
            raise CatalogueError(
                f"{path}: the catalogue lists this shard, and it is missing; {cure}"
            ) from None
        if size != shard.bytes and size not in self._rewritten(shard):
            raise CatalogueError(
                f"{path}: {size} bytes where the catalogue lists {shard.bytes}: cut or replaced; "
                f"{cure}"
            )

    def _rewritten(self, shard: ShardInfo) -> set[int]:
        """Sizes that the shard may have because a removal was broken off."""
        news = (read_json(self.folder / PENDING) or {}).get("new", {})
        return {news[shard.file]["bytes"]} if shard.file in news else set()


_LATER = ("removals", "removals_hash", "files", "made_from")
_WORDS = ("tokenizer", "tokenizer_hash", "vocab_size", "recipe_hash")


def _hash(rows: list[Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(rows, separators=(",", ":")).encode())
