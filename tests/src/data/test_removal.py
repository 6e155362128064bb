"""Takedown: documents go, the stream stays, and no kill or full disk leaves anything between."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from takedown_shards import END, identity, write_takedown_shards

from alpenglow.data import removal, removal_log
from alpenglow.data.catalogue import PENDING, Catalogue
from alpenglow.data.document_index import build
from alpenglow.data.loader import BatchStream, Loader
from alpenglow.data.order import Order, natural
from alpenglow.data.removal_command import main
from alpenglow.data.shards import Shard, ShardError
from alpenglow.data.stream import stream_hash

LENGTH = 32


def loader_of(catalogue: Catalogue, fraction: float = 0.0) -> Loader:
    order = Order.of(
        catalogue,
        natural(catalogue),
        sequence_length=LENGTH,
        seed=3,
        validation_fraction=fraction,
    )
    return Loader(order, catalogue)


def blanked(loader: Loader, indices: NDArray[np.int64], gone: set[bytes]) -> NDArray[np.bool_]:
    """Which tokens of samples are of documents `gone`, document by document; [n, LENGTH + 1]."""
    _, shards, starts = loader.order.samples(indices)
    found = np.zeros((len(indices), LENGTH + 1), bool)
    for row, (number, start) in enumerate(zip(shards.tolist(), starts.tolist(), strict=True)):
        shard = loader.catalogue.open(number)
        offsets = shard.offsets().astype(int)
        for document, one in enumerate(shard.identities()):
            if one in gone:
                a, b = (int(np.clip(at - start, 0, LENGTH + 1)) for at in offsets[document:][:2])
                found[row, a:b] = True
    return found


def remove(folder: Path, *arguments: str) -> int:
    return main([str(folder), *arguments])


def test_the_stream_stays_but_for_what_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = write_takedown_shards(tmp_path)
    before = loader_of(catalogue)
    samples = np.arange(sum(before.order.windows.values()))
    tokens = before.read(samples)
    running = loader_of(catalogue)
    running.read(samples)  # all shards are mapped
    assert before.rows(samples).counts is None
    gone = {identity("commoncrawl", 3), identity("commoncrawl", 4), identity("commoncrawl", 77)}
    ids = ",".join(one.hex() for one in gone)
    assert remove(tmp_path, "--ids", ids, "--why", "asked", "--who", "me") == 0
    out = capsys.readouterr().out
    assert "removal 1: 3 documents" in out
    after = Catalogue.load(tmp_path)
    assert after.fingerprint == catalogue.fingerprint
    assert after.content != catalogue.content
    assert (after.removals, sum(info.removed for info in after.shards)) == (1, 3)
    loader = loader_of(after)
    blank = blanked(loader, samples, gone)
    assert blank.any() and not blank.all(axis=1).all()
    assert np.array_equal(loader.read(samples), np.where(blank, END, tokens))
    counts = loader.rows(samples).counts
    assert counts is not None
    assert np.array_equal(counts, ~(blank[:, 1:] | blank[:, :-1]))
    assert np.array_equal(counts, loader.counted(samples))
    # What is running goes on with what it has mapped.
    assert np.array_equal(running.read(samples), tokens)
    assert running.rows(samples).counts is None
    after.verify()
    assert removal_log.damage(after) == ""


def test_the_batches_have_the_masks(tmp_path: Path) -> None:
    catalogue = write_takedown_shards(tmp_path)
    whole = stream_hash(loader_of(catalogue), 0, 64)
    assert remove(tmp_path, "--domain", "example.org") == 0
    loader = loader_of(Catalogue.load(tmp_path))
    assert stream_hash(loader, 0, 64) != whole
    assert stream_hash(loader, 0, 64) == stream_hash(loader, 0, 64, replicas=2, global_batch=8)
    stream = BatchStream(
        loader, data_rank=1, data_parallel=2, micro_batch_size=2, micro_batches=3, positions=True
    )
    rows = stream.rows(24)
    numbers = stream.indices(24)
    stream.close()
    assert rows.counts is not None and rows.tokens is not None
    expected = loader.rows(numbers.reshape(-1))
    assert expected.counts is not None
    assert np.array_equal(rows.counts, expected.counts.reshape(3, 2, LENGTH))
    assert rows.tokens.shape == (3, 2, LENGTH + 1)


def test_validation_leaves_removed_documents_out_too(tmp_path: Path) -> None:
    catalogue = write_takedown_shards(tmp_path, longest=60)
    held = Loader(loader_of(catalogue, 0.5).order.validation(), catalogue)
    samples = np.arange(sum(held.order.windows.values()))
    before = held.counted(samples)
    assert remove(tmp_path, "--licence", "MIT") == 0
    after = Catalogue.load(tmp_path)
    now = Loader(held.order, after)
    gone = {identity("github", number) for number in range(0, 120, 3)}
    blank = blanked(now, samples, gone)
    assert np.array_equal(now.counted(samples), before & ~(blank[:, 1:] | blank[:, :-1]))
    assert (now.counted(samples) != before).any()


def test_only_affected_files_change(tmp_path: Path) -> None:
    write_takedown_shards(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.h5")}
    assert remove(tmp_path, "--ids", identity("github", 100).hex(), "--who", "me") == 0
    changed = [name for name, data in files.items() if (tmp_path / name).read_bytes() != data]
    assert changed == ["github-00001.h5"]
    with h5py.File(tmp_path / "github-00001.h5", "r") as file:
        assert file["documents/removed"].dtype == np.uint8
        assert np.flatnonzero(file["documents/removed"][:]).tolist() == [40]
        assert file["documents/id"][40].tobytes() == identity("github", 100)
        assert file.attrs["removals"] == 1
        assert file["tokens"].chunks is None
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".h5") == [
        ".index.lock", ".removal.lock", "catalogue.json", "ledger.json", "removals.jsonl",
        "tokenizer.json",
    ]  # fmt: skip


def test_the_log_says_who_when_why_and_what(tmp_path: Path) -> None:
    write_takedown_shards(tmp_path)
    assert remove(tmp_path, "--url", "http://example.org/page/8/#top", "--why", "Müller") == 0
    listing = tmp_path / "ids.txt"
    absent = "0" * 32
    listing.write_text(f"# two\n{identity('github', 1).hex().upper()}\n\n{absent}  # not here\n")
    assert remove(tmp_path, "--ids", str(listing), "--who", "her") == 0
    first, second = removal_log.entries(tmp_path)
    assert (first["number"], first["why"], first["selector"]) == (
        1, "Müller", {"url": ["http://example.org/page/8/#top"]},
    )  # fmt: skip
    assert first["documents"] == [identity("commoncrawl", 8).hex()]
    assert first["who"] and first["when"].endswith("+00:00")
    assert (second["who"], second["not_found"]) == ("her", [absent])
    assert second["files"] == ["github-00000.h5"]
    catalogue = Catalogue.load(tmp_path)
    assert first["after"] == second["before"] != second["after"] == catalogue.content
    assert removal_log.removed_ids(tmp_path) == {identity("commoncrawl", 8), identity("github", 1)}


def test_a_second_request_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_takedown_shards(tmp_path)
    assert remove(tmp_path, "--licence", "Apache-2.0") == 0
    data = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert remove(tmp_path, "--licence", "Apache-2.0") == 0
    assert "40 documents were removed before" in capsys.readouterr().err
    assert remove(tmp_path, "--licence", "MIT", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "would remove 40 documents" in out and "2 of 4 shards" in out
    assert data == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ids", "abc"], "'abc' is no id of a document: an id has 32 hexadecimal digits"),
        (["--ids", "missing.txt"], "missing.txt: no such file of ids, and no ids"),
        (["--licence", "MTI"], "no document of licence MTI; there is MIT; nothing was changed"),
        (["--domain", "nowhere.test"], "no document of domain nowhere.test; nothing was changed"),
        (["--url", ""], "an empty value would mean every document without one"),
        (["--url", "a", "--domain", "b.c"], "--url and --domain: name documents in one way"),
        (
            ["--licence", "MIT", "--end-token", "70000"],
            "--end-token 70000: a token of these shards lies from 0",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    catalogue = write_takedown_shards(tmp_path, shards=1)
    files = {info.file: (tmp_path / info.file).read_bytes() for info in catalogue.shards}
    assert remove(tmp_path, *arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert sentence in error
    assert Catalogue.load(tmp_path) == catalogue
    assert files == {name: (tmp_path / name).read_bytes() for name in files}
    assert not (tmp_path / PENDING).exists()


def test_without_a_tokenizer_nothing_is_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_takedown_shards(tmp_path, shards=1)
    (tmp_path / "tokenizer.json").unlink()
    assert remove(tmp_path, "--licence", "MIT") == 1
    assert "put it back, or give its number with --end-token" in capsys.readouterr().err
    assert remove(tmp_path, "--licence", "MIT", "--end-token", "7") == 0
    shard = Shard(tmp_path / "github-00000.h5")
    assert (shard.tokens[: int(shard.offsets()[1])] == 7).all()


def test_a_damaged_shard_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checksums would be made anew, and hide the damage for ever."""
    write_takedown_shards(tmp_path, shards=1)
    path = tmp_path / "github-00000.h5"
    with h5py.File(path, "r") as file:
        at = file["documents/offset"].id.get_offset()
    whole = bytearray(path.read_bytes())
    whole[at + 9] ^= 4  # where the second document begins; no token
    path.write_bytes(whole)
    data = path.read_bytes()
    assert remove(tmp_path, "--ids", identity("github", 2).hex()) == 1
    assert "damaged: it does not have its checksum, and was not changed" in capsys.readouterr().err
    assert path.read_bytes() == data
    assert not (tmp_path / PENDING).exists()  # the others can still be removed from
    assert remove(tmp_path, "--domain", "example.org") == 0
    old = Catalogue.load(tmp_path)
    with pytest.raises(ShardError, match=r"block 0 .* was not changed"):
        with h5py.File(path, "r+") as file:
            file["tokens"][3] ^= 1
        removal.blank(path, path, np.array([0]), 0, 1)
    assert old.removals == 1


def in_child(act: Callable[[], int]) -> int:
    """Run in a forked child; gives its exit status as `os.waitpid` does."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            code = act()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def kill_at(step: int, folder: Path, arguments: list[str]) -> bool:
    """Remove, killed (SIGKILL) before or after the step-th write that must last; True: killed."""

    def act() -> int:
        seen = 0
        for name in ("replace", "fsync", "unlink"):
            real = getattr(os, name)

            def guarded(*given: object, real: Callable[..., object] = real) -> object:
                nonlocal seen
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*given)
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            setattr(os, name, guarded)
        return remove(folder, *arguments)

    status = in_child(act)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_step_leaves_old_or_new_and_is_completed(tmp_path: Path) -> None:
    asked = ["--domain", "example.org", "--who", "me"]
    old = write_takedown_shards(tmp_path / "straight", documents=12)
    build(old)
    shutil.copytree(tmp_path / "straight", tmp_path / "before")
    before = {i.file: (tmp_path / "straight" / i.file).read_bytes() for i in old.shards}
    assert remove(tmp_path / "straight", *asked) == 0
    expected = Catalogue.load(tmp_path / "straight")
    after = {i.file: (tmp_path / "straight" / i.file).read_bytes() for i in expected.shards}
    step = mixed = 0
    while True:
        step += 1
        folder = tmp_path / f"killed-{step}"
        shutil.copytree(tmp_path / "before", folder)
        killed = kill_at(step, folder, asked)
        states = [
            (folder / name).read_bytes() == after[name]
            for name in before
            if before[name] != after[name]
        ]
        assert all((folder / n).read_bytes() in (before[n], after[n]) for n in before)
        mixed += any(states) and not all(states)
        found = Catalogue.load(folder)  # a run may start whatever is there
        assert found.fingerprint == old.fingerprint
        loader_of(found).read(np.arange(50))
        if not killed:
            break
        pending = (folder / PENDING).exists()
        # Nothing pending: it had not begun, or was done but for tidying.
        assert remove(folder, *([] if pending else asked)) == 0
        again = Catalogue.load(folder)
        assert [info.content for info in again.shards] == [i.content for i in expected.shards]
        assert again.removals == 1
        assert {n: (folder / n).read_bytes() for n in after} == after
        assert removal_log.damage(again) == ""
        with removal.alone(folder):  # the next removal sweeps
            pass
        left = {path.name for path in folder.iterdir()}
        assert left == {path.name for path in (tmp_path / "straight").iterdir()}
    assert step > 20
    assert mixed > 2


def test_a_full_disk_leaves_old_or_new(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    old = write_takedown_shards(folder)
    before = {info.file: (folder / info.file).read_bytes() for info in old.shards}
    assert remove(folder, "--ids", identity("github", 0).hex(), "--dry-run") == 0  # the index

    def act() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        least = min(info.bytes for info in old.shards)
        resource.setrlimit(resource.RLIMIT_FSIZE, (least - 5000, resource.RLIM_INFINITY))
        return remove(folder, "--domain", "example.org")

    status = in_child(act)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert not list(folder.glob(".*.h5.removal"))
    assert remove(folder) == 0
    assert Catalogue.load(folder).removals == 1


def test_two_removals_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_takedown_shards(tmp_path, shards=1)
    with removal.alone(tmp_path):
        assert remove(tmp_path, "--licence", "MIT") == 1
    assert "another removal is at work here" in capsys.readouterr().err


def test_older_catalogues_keep_their_fingerprint_and_content(tmp_path: Path) -> None:
    catalogue = write_takedown_shards(tmp_path, shards=1)
    path = tmp_path / "catalogue.json"
    tables = json.loads(path.read_text())
    for name in ("checksum", "files"):
        del tables[name]
    for shard in tables["shards"]:
        for name in ("removed", "file_hash", "documents_hash"):
            del shard[name]
    path.write_text(json.dumps(tables))
    old = Catalogue.load(tmp_path)
    assert (old.fingerprint, old.content) == (catalogue.fingerprint, catalogue.content)
    assert remove(tmp_path, "--licence", "MIT") == 0
    assert Catalogue.load(tmp_path).fingerprint == catalogue.fingerprint
    assert Catalogue.load(tmp_path).shards[1].file_hash
