"""Shards: what is written is what is mapped, and damage is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from alpenglow.data.catalogue import Catalogue, CatalogueError
from alpenglow.data.shards import Shard, ShardError, ShardWriter

Make = Callable[[dict[str, list[int]]], Catalogue]


def writer(path: Path, dtype: str = "uint16") -> ShardWriter:
    return ShardWriter(path, slice="github", dtype=dtype, tokenizer_hash="t", recipe_hash="r")


def test_the_file_has_the_agreed_format(tmp_path: Path) -> None:
    path = tmp_path / "github-00000.h5"
    with writer(path) as shard:
        shard.add(np.arange(10), b"\0" * 15 + b"a", "a.py")
        shard.add(np.arange(600_000) % 60_000, b"b" + b"\0" * 15, "ü.py")
        info = shard.close()
    assert not list(tmp_path.glob("*.tmp"))
    with h5py.File(path, "r") as file:
        assert file["tokens"].dtype == np.uint16
        assert file["tokens"].chunks is None
        assert file["tokens"].compression is None
        assert file["tokens"].id.get_offset() % 4096 == 0
        assert file["documents/offset"][:].tolist() == [0, 10, 600_010]
        assert file["documents/offset"].dtype == np.uint64
        assert file["documents/id"].dtype.itemsize == 16
        assert len(file["checksums"]) == 2
        assert file.attrs["format_version"] == 1
        assert file.attrs["slice"] == "github"
    read = Shard(path)
    assert np.array_equal(read.tokens[10:], np.arange(600_000) % 60_000)
    assert read.identities() == [b"\0" * 15 + b"a", b"b" + b"\0" * 15]
    assert read.sources() == ["a.py", "ü.py"]
    assert read.verify() == info.content
    assert (info.tokens, info.documents, info.bytes) == (600_010, 2, path.stat().st_size)


def test_the_same_documents_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        with writer(tmp_path / name) as shard:
            shard.add(np.arange(1000), b"x" * 16, "x")
            shard.close()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_an_unfinished_shard_leaves_nothing(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5") as shard:
        shard.add(np.arange(10), b"x" * 16, "x")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5") as shard:
        with pytest.raises(ShardError, match="token 65536 does not fit uint16"):
            shard.add(np.array([65536]), b"x" * 16, "x")
        with pytest.raises(ShardError, match="16 bytes, not 3"):
            shard.add(np.array([1]), b"abc", "x")
    with writer(tmp_path / "a.h5", "uint32") as shard:
        shard.add(np.array([65536]), b"x" * 16, "x")
        shard.close()
    assert Shard(tmp_path / "a.h5").tokens.tolist() == [65536]


def test_a_missing_shard_is_one_sentence(make_catalogue: Make, tmp_path: Path) -> None:
    make_catalogue({"github": [5000]})
    (tmp_path / "github-00000.h5").unlink()
    with pytest.raises(CatalogueError, match=r"github-00000\.h5: .* it is missing; "):
        Catalogue.load(tmp_path)
    with pytest.raises(ShardError, match="the shard is missing"):
        Shard(tmp_path / "github-00000.h5")


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_a_cut_shard_is_one_sentence(make_catalogue: Make, tmp_path: Path, keep: float) -> None:
    catalogue = make_catalogue({"github": [500_000]})
    path = tmp_path / "github-00000.h5"
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * keep))
    with pytest.raises(CatalogueError, match="cut or replaced") as error:
        Catalogue.load(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(ShardError, match="cut") as cut:
        catalogue.open(0)
    assert "\n" not in str(cut.value)


def test_a_changed_token_is_found(make_catalogue: Make, tmp_path: Path) -> None:
    catalogue = make_catalogue({"github": [3_000_000], "wikipedia": [5000]})
    catalogue.verify()
    path = tmp_path / "github-00000.h5"
    with h5py.File(path, "r") as file:
        offset = file["tokens"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[offset + 2 * (1 << 20) + 5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ShardError, match=r"1 of 6 MiB blocks .* the first is block 2"):
        catalogue.verify()


def test_damage_is_named_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "github-00000.h5"
    with writer(path) as shard:
        shard.add(np.arange(1_200_000) % 60_000, b"x" * 16, "x")  # 2.3 MiB
        shard.close()
    with h5py.File(path, "r+") as file:
        file["tokens"][700_000] ^= 1  # in the second MiB
    read = Shard(path)
    read.check(0, 2049)
    read.check(1_199_000, 1_200_000)
    for first, last in ((524_200, 524_300), (700_000, 700_001), (600_000, 600_010)):
        with pytest.raises(ShardError, match="block 1 of its tokens does not have its checksum"):
            read.check(first, last)


def test_an_empty_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"run `bsub jobs/prepare_data\.lsf` first"):
        Catalogue.load(tmp_path)


def test_the_catalogue_reads_back_and_guards_itself(make_catalogue: Make, tmp_path: Path) -> None:
    catalogue = make_catalogue({"wikipedia": [6000], "github": [5000, 7000]})
    again = Catalogue.load(tmp_path / "catalogue.json")
    assert again == catalogue
    assert [shard.file for shard in again.shards] == [
        "github-00000.h5",
        "github-00001.h5",
        "wikipedia-00000.h5",
    ]
    assert again.slices == {"github": 12_000, "wikipedia": 6000}
    tables = json.loads((tmp_path / "catalogue.json").read_text())
    tables["shards"][0]["tokens"] += 1
    (tmp_path / "catalogue.json").write_text(json.dumps(tables))
    with pytest.raises(CatalogueError, match="fingerprint"):
        Catalogue.load(tmp_path)


def test_content_is_apart_from_geometry(make_catalogue: Make, tmp_path: Path) -> None:
    catalogue = make_catalogue({"github": [5000]})
    with writer(tmp_path / "github-00000.h5") as shard:
        shard.add(np.zeros(5000, int), b"x" * 16, "x")
        other = Catalogue.build(
            tmp_path,
            [shard.close()],
            tokenizer="tokenizer.json",
            tokenizer_hash="t",
            vocab_size=4096,
            recipe_hash="r",
        )
    assert other.fingerprint == catalogue.fingerprint
    assert other.content != catalogue.content


def test_the_documents_borders_are_mapped(make_catalogue: Make) -> None:
    shard = make_catalogue({"github": [5000]}).open(0)
    assert np.array_equal(shard.document_starts, shard.offsets())
    assert not shard.document_starts.flags.owndata
    assert not shard.document_starts.flags.writeable


def test_a_shard_of_another_tokenizer_is_one_sentence(make_catalogue: Make, tmp_path: Path) -> None:
    catalogue = make_catalogue({"github": [5000]})
    with h5py.File(tmp_path / "github-00000.h5", "r+") as file:
        file.attrs["tokenizer_hash"] = "u"
    with pytest.raises(
        ShardError, match="made by tokenizer u, the catalogue is of tokenizer t; run"
    ):
        catalogue.open(0)
