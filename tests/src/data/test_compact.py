"""Compaction: what is left, in its order, with an account; the source is not touched."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from takedown_shards import identity, write_takedown_shards

from alpenglow.data import removal_log
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.compact import main
from alpenglow.data.removal_command import main as remove
from alpenglow.data.verify import main as verify


def documents(catalogue: Catalogue, slice_name: str) -> list[tuple[bytes, bytes, str, str, str]]:
    found = []
    for number, info in enumerate(catalogue.shards):
        if info.slice != slice_name:
            continue
        shard = catalogue.open(number)
        starts = shard.offsets().astype(int)
        facts = zip(*(shard.facts(name) for name in ("source", "url", "licence")), strict=True)
        for row, (one, fact) in enumerate(zip(shard.identities(), facts, strict=True)):
            tokens = shard.tokens[starts[row] : starts[row + 1]].tobytes()
            found.append((one, tokens, *fact))
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_takedown_shards(tmp_path / "shards")
    return tmp_path / "shards"


def test_what_is_left_is_all_the_rest_in_order(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {name: documents(Catalogue.load(source), name) for name in ("commoncrawl", "github")}
    assert remove([str(source), "--domain", "example.org", "--why", "asked"]) == 0
    assert remove([str(source), "--ids", identity("github", 0).hex()]) == 0
    data = {path.name: path.read_bytes() for path in source.iterdir()}
    capsys.readouterr()
    new = tmp_path / "new"
    assert main([str(source), "--output", str(new), "--shard-tokens", "7000"]) == 0
    out = capsys.readouterr().out
    assert "60 removed, 60 kept" in out and "1 removed, 119 kept" in out
    assert data == {path.name: path.read_bytes() for path in source.iterdir()}
    catalogue = Catalogue.load(new)
    kept = {
        "commoncrawl": [one for n, one in enumerate(whole["commoncrawl"]) if n % 4 > 1],
        "github": whole["github"][1:],
    }
    assert {name: documents(catalogue, name) for name in kept} == kept
    for name in kept:
        sizes = [info.tokens for info in catalogue.shards if info.slice == name]
        assert all(size >= 7000 for size in sizes[:-1]) and sizes[-1]
    old = Catalogue.load(source)
    assert (catalogue.removals, catalogue.made_from) == (
        0,
        {
            "catalogue": str(source / "catalogue.json"),
            "fingerprint": old.fingerprint,
            "content": old.content,
            "removals": 2,
            "removals_hash": old.removals_hash,
        },
    )
    with h5py.File(new / catalogue.shards[0].file, "r") as file:
        assert file.attrs["made_from_content"] == old.content
        assert file.attrs["made_from_removals"] == "2"
        assert "removed" not in file["documents"]
    account = json.loads((new / "compaction.json").read_text())["slices"]["commoncrawl"]
    assert account["read"]["documents"] == 120
    assert account["read"]["tokens"] == account["kept"]["tokens"] + account["removed"]["tokens"]
    assert verify([str(new)]) == 0
    # What was removed stays known, through further removals and compactions.
    assert remove([str(new), "--ids", identity("github", 9).hex()]) == 0
    assert main([str(new), "--output", str(tmp_path / "newer")]) == 0
    gone = removal_log.removed_ids(source) | {identity("github", 9)}
    assert len(gone) == 62
    assert removal_log.removed_ids(tmp_path / "newer") == gone
    assert verify([str(tmp_path / "newer")]) == 0


def test_the_same_shards_whenever(source: Path, tmp_path: Path) -> None:
    assert remove([str(source), "--licence", "MIT"]) == 0
    for name in ("a", "b"):
        assert main([str(source), "--output", str(tmp_path / name)]) == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_what_cannot_be_leaves_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"

    def refused(sentence: str, output: Path = new) -> None:
        assert main([str(source), "--output", str(output)]) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
        assert not new.exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]

    refused("nothing was removed, so there is nothing to leave out")
    assert remove([str(source), "--licence", "MIT"]) == 0
    capsys.readouterr()
    refused("there is something here; name a new folder", source)
    path = source / "github-00001.h5"
    whole = path.read_bytes()
    with h5py.File(path, "r") as file:
        at = file["tokens"].id.get_offset()
    path.write_bytes(whole[: at + 9] + bytes([whole[at + 9] ^ 1]) + whole[at + 10 :])
    refused("MiB block 0 of its tokens does not have its checksum")
    path.write_bytes(whole)
    for slice_name in ("commoncrawl", "github"):
        ids = ",".join(identity(slice_name, number).hex() for number in range(120))
        assert remove([str(source), "--ids", ids]) == 0
    capsys.readouterr()
    refused("all documents are removed")


def test_empty_documents_stay(tmp_path: Path) -> None:
    catalogue = write_takedown_shards(tmp_path / "shards", documents=3, longest=2)
    assert remove([str(tmp_path / "shards"), "--ids", identity("github", 2).hex()]) == 0
    assert main([str(tmp_path / "shards"), "--output", str(tmp_path / "new")]) == 0
    sizes = [len(documents(Catalogue.load(tmp_path / "new"), s)) for s in catalogue.slices]
    assert np.array_equal(sizes, [6, 5])
