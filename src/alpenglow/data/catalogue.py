"""The catalogue: which shards there are, how long, and made by which tokenizer.

`shards/catalogue.json` lies beside the shards. Its **geometry** (slices, files, lengths) is what
the order of training samples depends on; its **content** (the tokens) is apart from it, so that a
document removed in place changes the one and not the other.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from alpenglow.data.shards import Shard, ShardError, ShardInfo
from alpenglow_lsf.files import write_json

FORMAT = 1
NAME = "catalogue.json"


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
        """Write `catalogue.json` under a temporary name and rename it."""
        tables = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "content": self.content,
            "tokens": self.tokens,
            **{key: getattr(self, key) for key in _WORDS},
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }
        path = self.folder / NAME
        write_json(path, tables)
        return path

    @property
    def fingerprint(self) -> str:
        """Hash of the geometry: slices, files, token counts."""
        rows = [[shard.slice, shard.file, shard.tokens] for shard in self.shards]
        return _hash(rows)

    @property
    def content(self) -> str:
        """Hash of the tokens themselves."""
        return _hash([shard.content for shard in self.shards])

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
        if size != shard.bytes:
            raise CatalogueError(
                f"{path}: {size} bytes where the catalogue lists {shard.bytes}: cut or replaced; "
                f"{cure}"
            )


_WORDS = ("tokenizer", "tokenizer_hash", "vocab_size", "recipe_hash")


def _hash(rows: list[Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(rows, separators=(",", ":")).encode())
