"""Verification: every cut and every flipped bit is found, and named by its place."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from takedown_shards import identity, write_takedown_shards

from alpenglow.data import removal
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.document_index import build
from alpenglow.data.loader import Loader
from alpenglow.data.order import Order, natural
from alpenglow.data.removal_command import main as remove
from alpenglow.data.shards import ShardError, ShardWriter
from alpenglow.data.verify import main, shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a few MiB of tokens, with a removal and an index."""
    folder = tmp_path_factory.mktemp("shards")
    catalogue = write_takedown_shards(folder, shards=1, documents=40, longest=60_000)
    build(catalogue)
    assert remove([str(folder), "--ids", identity("github", 5).hex()]) == 0
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "shards")
    return tmp_path / "shards"


def flip(path: Path, at: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_whole_shards_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for jobs in ("1", "2"):
        assert main([str(folder), "--jobs", jobs]) == 0
        lines = said(capsys)
        assert len(lines) == 1
        assert re.search(r"7 files, [\d.]+ MB read .* MB/s; all as they were written", lines[0])


def stretches(path: Path) -> Iterator[tuple[str, int, int]]:
    with h5py.File(path, "r") as file:
        for name in ("tokens", "checksums", "documents/offset", "documents/id"):
            begin = file[name].id.get_offset()
            yield name, begin, begin + file[name].id.get_storage_size()


def test_a_flipped_bit_anywhere_is_found_and_named(copy: Path) -> None:
    catalogue = Catalogue.load(copy)
    info = catalogue.shards[1]
    path = copy / info.file
    regions = {name: (a, b) for name, a, b in stretches(path)}
    rng = np.random.default_rng(7)
    spots = rng.integers(0, info.bytes, 200).tolist()
    for begin, end in regions.values():
        spots += [begin, end - 1, *rng.integers(begin, end, 5).tolist()]
    outside = [at for at in rng.integers(0, info.bytes, 60_000).tolist()
               if not any(a <= at < b for a, b in regions.values())][:30]  # fmt: skip
    outside += [0, 8, info.bytes - 1]
    named: set[str] = set()
    for at in [*spots, *outside]:
        bit = int(rng.integers(8))
        flip(path, at, bit)
        found = shard(copy, [info]).damage
        flip(path, at, bit)
        assert found, (at, bit)
        inside = [name for name, (a, b) in regions.items() if a <= at < b]
        text = "; ".join(found)
        if inside == ["tokens"]:
            block = (at - regions["tokens"][0]) >> 20
            assert found == (f"MiB block {block} of its tokens",)
        elif inside == ["checksums"]:
            assert found == ("outside the tokens: the list of their checksums",)
        elif inside:
            assert "the list of documents" in text
        else:
            assert "outside the tokens" in text or "the list of documents" in text
        named.add(re.sub(r"\d+", "N", text))
    assert len(named) >= 4
    assert shard(copy, [info]).damage == ()


def test_every_cut_is_found_and_named(copy: Path) -> None:
    info = Catalogue.load(copy).shards[0]
    path = copy / info.file
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for size in [0, 1, 7, 512, 4096, *rng.integers(0, info.bytes, 40).tolist(), info.bytes - 1]:
        path.write_bytes(whole[:size])
        assert shard(copy, [info]).damage == (f"cut at byte {size} of {info.bytes}",)
    path.write_bytes(whole + b"x")
    assert shard(copy, [info]).damage == (f"1 bytes more than the {info.bytes} listed",)


def test_all_damage_is_listed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = Catalogue.load(copy)
    first, second = (copy / info.file for info in catalogue.shards)
    begin = {name: a for name, a, _ in stretches(second)}["tokens"]
    flip(second, begin + 10)
    flip(second, begin + (1 << 20) + 10)
    first.unlink()
    flip(copy / "tokenizer.json", 5)
    flip(copy / "ledger.json", 5)
    flip(copy / "removals.jsonl", 20)
    flip(copy / "index.h5", 5000)
    (copy / "stray-00000.h5").write_bytes(b"x")
    assert main([str(copy), "--jobs", "2"]) == 1
    lines = said(capsys)
    for name, place in (
        (first.name, "missing"),
        (second.name, "MiB block 0 of its tokens"),
        (second.name, "MiB block 1 of its tokens"),
        ("tokenizer.json", "it is not the tokenizer that the catalogue names"),
        ("ledger.json", "not as it was written"),
        ("removals.jsonl", "line 1 is no removal: the log is damaged"),
        ("index.h5", "not as it was written: remove it, it is made anew"),
    ):
        assert f"{copy / name}: {place}" in lines
    assert f"note: {copy / 'stray-00000.h5'}: the catalogue does not list it" in lines
    assert lines[-1].endswith("6 DAMAGED")


@pytest.mark.parametrize("name", ["catalogue.json", "removals.jsonl", "ledger.json", "index.h5"])
def test_a_flipped_bit_beside_the_shards_is_found(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = copy / name
    rng = np.random.default_rng(3)
    for at in rng.integers(0, path.stat().st_size, 20).tolist():
        bit = int(rng.integers(8))
        flip(path, at, bit)
        assert main([str(copy)]) == 1, (at, bit)
        assert name in capsys.readouterr().out
        flip(path, at, bit)
    assert main([str(copy)]) == 0


def test_another_shard_in_its_place_is_named(copy: Path) -> None:
    info = Catalogue.load(copy).shards[1]
    made = {"tokenizer_hash": "t", "recipe_hash": "r"}
    for size in (1000, info.tokens):
        with ShardWriter(copy / info.file, slice=info.slice, dtype="uint16", **made) as writer:
            writer.add(np.ones(size, int), b"x" * 16, "")
            writer.close()
        assert shard(copy, [info]).damage == ("listed, but replaced by another shard",)


def test_a_catalogue_of_before_is_checked_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_takedown_shards(tmp_path, shards=1)
    path = tmp_path / "catalogue.json"
    tables = json.loads(path.read_text())
    del tables["checksum"], tables["files"]
    for info in tables["shards"]:
        del info["removed"], info["file_hash"], info["documents_hash"]
    path.write_text(json.dumps(tables))
    assert main([str(tmp_path)]) == 0
    lines = said(capsys)
    assert sum("no whole-file checksum in this catalogue" in line for line in lines) == 2
    assert any("ledger.json: no checksum in this catalogue" in line for line in lines)
    shard_path = tmp_path / "github-00000.h5"
    flip(shard_path, {name: a for name, a, _ in stretches(shard_path)}["tokens"] + 3)
    assert main([str(tmp_path)]) == 1
    assert f"{shard_path}: MiB block 0 of its tokens" in said(capsys)


def test_a_flipped_bit_in_a_window_is_caught_when_it_is_read(copy: Path) -> None:
    catalogue = Catalogue.load(copy)
    order = Order.of(catalogue, natural(catalogue), sequence_length=64, seed=1)
    samples = np.arange(200)
    _, shards, starts = order.samples(samples)
    number, start = int(shards[5]), int(starts[5])
    path = copy / catalogue.shards[number].file
    begin = {name: a for name, a, _ in stretches(path)}["tokens"]
    flip(path, begin + 2 * (start + 30))
    block = 2 * (start + 30) >> 20
    with pytest.raises(ShardError, match=rf"{path.name}: MiB block {block} of its tokens does not"):
        Loader(order, catalogue).read(samples[5:6])


def test_a_half_done_removal_is_no_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = write_takedown_shards(tmp_path, shards=2)
    real = removal._shard
    done: list[Any] = []

    def one_only(*given: Any) -> None:
        if done:
            raise OSError("no space left on device")
        done.append(given)
        real(*given)

    monkeypatch.setattr(removal, "_shard", one_only)
    assert remove([str(tmp_path), "--licence", "MIT"]) == 1
    assert "make room and run `alpenglow data remove" in capsys.readouterr().err
    changed = [info.file for info in catalogue.shards if shard(tmp_path, [info]).damage]
    assert changed == ["github-00000.h5"]
    assert main([str(tmp_path)]) == 0
    assert "a removal was broken off" in capsys.readouterr().out
    flip(tmp_path / "github-00000.h5", 4200)
    assert main([str(tmp_path)]) == 1
    flip(tmp_path / "github-00000.h5", 4200)
    monkeypatch.undo()
    assert remove([str(tmp_path)]) == 0
    assert main([str(tmp_path)]) == 0


def test_a_damaged_ledger_stays_damaged(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(copy / "ledger.json", 3)
    assert remove([str(copy), "--licence", "MIT"]) == 0
    assert main([str(copy)]) == 1
    assert f"{copy / 'ledger.json'}: not as it was written" in said(capsys)


def test_what_crashes_the_reader_is_named_too(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = Catalogue.load(copy).shards[0]
    flip(copy / info.file, 20)
    monkeypatch.setattr("alpenglow.data.verify.places", lambda *_: os._exit(3))
    found = shard(copy, [info]).damage
    assert found == ("outside the tokens: what describes the file cannot be read",)
    cut = replace(info, bytes=info.bytes + 1)
    assert shard(copy, [cut]).damage == (f"cut at byte {info.bytes} of {info.bytes + 1}",)
