"""`alpenglow data verify`: every byte of finished shards against what the catalogue has of them.

    alpenglow data verify shards --jobs 4

Each shard is read once, against its whole-file checksum; one that differs is read again to say
where: which MiB blocks of its tokens, the list of documents, or what lies outside of both. The
catalogue itself, the tokenizer, the ledger, the log of removals and the index are checked as well.
All damage is listed, a line a place. Exit code 0 where there is none, else 1.

Catalogues from before there were whole-file checksums are checked as far as they go, and it says
so: their tokens, not what lies around them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alpenglow.data import document_index, removal_log
from alpenglow.data.catalogue import BESIDE, PENDING, Catalogue, CatalogueError
from alpenglow.data.catalogue import NAME as CATALOGUE
from alpenglow.data.checksums import checksum, content_hash, documents_hash, file_hash
from alpenglow.data.document_index import DocumentIndex
from alpenglow.data.shards import Shard, ShardError, ShardInfo
from alpenglow_lsf.files import read_json

PATIENCE_S = 600.0
"""A damaged file may lead HDF5 astray: after this long, or a crash, its structure is named."""
STRUCTURE = "outside the tokens: what describes the file cannot be read"


@dataclass(frozen=True)
class Examined:
    """What came of one file."""

    file: str
    bytes: int
    damage: tuple[str, ...] = ()
    """A place each."""
    notes: tuple[str, ...] = ()
    """What could not be checked, or should be known."""


def shard(folder: Path, infos: Sequence[ShardInfo]) -> Examined:
    """Compare one shard with what it may be: as listed, or also as a removal left it.

    Args:
        folder: of the shards.
        infos: how it is listed; the first is what it is compared with where it is neither.
    """
    info = infos[0]
    path = folder / info.file
    try:
        size = path.stat().st_size
        found = file_hash(path) if info.file_hash else ""
    except FileNotFoundError:
        return Examined(info.file, 0, ("missing",))
    except OSError as error:
        return Examined(info.file, 0, (f"not readable: {error}",))
    if any(found and (size, found) == (one.bytes, one.file_hash) for one in infos):
        return Examined(info.file, size)
    damage = tuple(_in_a_child(path, info, size))
    if info.file_hash:
        return Examined(info.file, size, damage)
    note = "no whole-file checksum in this catalogue: only its tokens were checked"
    return Examined(info.file, size, damage, () if damage else (note,))


def places(path: Path, info: ShardInfo, size: int) -> list[str]:
    """Say where a shard differs from what is listed; empty where its tokens do not.

    Args:
        path: the file.
        info: how it is listed.
        size: its bytes.
    """
    cut = [f"cut at byte {size} of {info.bytes}"] if size < info.bytes else []
    try:
        opened = Shard(path)
        stored, found = opened.checksums, checksum(opened.tokens)
    except (ShardError, OSError, RuntimeError, ValueError):
        return cut or [STRUCTURE]
    if _is_another(opened, info, stored, found):
        return ["listed, but replaced by another shard"]
    where = cut
    if content_hash(found) != info.content:
        same = stored.shape == found.shape
        wrong = np.flatnonzero(stored != found).tolist() if same else [*range(len(found))]
        where += [f"MiB block {block} of its tokens" for block in wrong]
    elif content_hash(stored) != info.content:
        where.append("outside the tokens: the list of their checksums")
    if not info.file_hash:
        return where
    try:
        if info.documents_hash and documents_hash(path) != info.documents_hash:
            where.append("the list of documents")
        removed = 0 if opened.removed is None else int(opened.removed.sum())
        if removed != info.removed:
            where.append("the list of documents: which are removed")
    except (OSError, RuntimeError, ValueError, KeyError, ShardError):
        where.append("the list of documents: it cannot be read")
    if size > info.bytes:
        where.append(f"{size - info.bytes} bytes more than the {info.bytes} listed")
    return where or ["outside the tokens and the list of documents"]


def _is_another(
    opened: Shard, info: ShardInfo, stored: NDArray[np.uint64], found: NDArray[np.uint64]
) -> bool:
    """Whether a file is whole by its own checksums, and not what is listed."""
    other = opened.tokens.size != info.tokens or opened.slice != info.slice
    return bool((other or content_hash(found) != info.content) and np.array_equal(stored, found))


def _in_a_child(path: Path, info: ShardInfo, size: int) -> list[str]:
    """`places` in a process of its own: what a damaged file does to HDF5 stays there."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_tell, args=(theirs, path, info, size), daemon=False)
    child.start()
    theirs.close()
    try:
        if ours.poll(PATIENCE_S):
            return list(ours.recv())
    except EOFError:
        pass
    finally:
        child.kill()
        child.join()
        ours.close()
    return [f"cut at byte {size} of {info.bytes}"] if size < info.bytes else [STRUCTURE]


def _tell(pipe: Connection, path: Path, info: ShardInfo, size: int) -> None:
    pipe.send(places(path, info, size))
    pipe.close()


def others(catalogue: Catalogue) -> Iterator[Examined]:
    """Check the files beside the shards."""
    folder = catalogue.folder
    yield _file(folder / CATALOGUE, () if catalogue.intact() else ("not as it was written",))
    path = catalogue.tokenizer_path
    if not path.exists():
        yield Examined(path.name, 0, ("missing",))
    else:
        same = file_hash(path) == catalogue.tokenizer_hash
        yield _file(path, () if same else ("it is not the tokenizer that the catalogue names",))
    for name in dict.fromkeys([*catalogue.files, *BESIDE]):
        path, listed = folder / name, catalogue.files.get(name)
        if listed and not path.exists():
            yield Examined(name, 0, ("missing",))
        elif listed:
            yield _file(path, () if file_hash(path) == listed else ("not as it was written",))
        elif path.exists():
            yield Examined(name, 0, notes=("no checksum in this catalogue: not checked",))
    path = folder / removal_log.NAME
    if (folder / PENDING).exists():
        note = f"a removal was broken off: `alpenglow data remove {folder}` completes it"
        yield Examined(PENDING, 0, notes=(note,))
    elif path.exists():
        found = removal_log.damage(catalogue)
        yield _file(path, (found,) if found else ())
    elif catalogue.removals:
        yield Examined(path.name, 0, ("missing",))
    path = folder / document_index.NAME
    if path.exists():
        whole = document_index.intact(path)
        yield _file(path, () if whole else ("not as it was written: remove it, it is made anew",))
        if whole and (why := DocumentIndex(path).stale(catalogue)):
            yield Examined(path.name, 0, notes=(f"{why}: the next search makes it anew",))
    listed_shards = {info.file for info in catalogue.shards}
    for path in sorted(folder.glob("*.h5")):
        if path.name not in listed_shards and path.name != document_index.NAME:
            yield Examined(path.name, 0, notes=("the catalogue does not list it",))


def _file(path: Path, damage: tuple[str, ...]) -> Examined:
    return Examined(path.name, path.stat().st_size, damage)


def verify(catalogue: Catalogue, jobs: int = 1) -> Iterator[Examined]:
    """Check everything; gives each file as it is done.

    Args:
        catalogue: read without looking at its shards.
        jobs: processes that read shards.
    """
    pending = (read_json(catalogue.folder / PENDING) or {}).get("new", {})
    calls = [
        [info, *([ShardInfo(**pending[info.file])] if info.file in pending else [])]
        for info in catalogue.shards
    ]
    if jobs == 1:
        for infos in calls:
            yield shard(catalogue.folder, infos)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            yield from pool.map(shard, [catalogue.folder] * len(calls), calls)
    yield from others(catalogue)


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify and print; see the module."""
    parser = argparse.ArgumentParser(
        prog="alpenglow data verify", description="Check every byte of finished shards."
    )
    parser.add_argument("shards", type=Path, help="folder of the shards, or their catalogue")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: at least one process reads")
    begin = time.perf_counter()
    try:
        catalogue = Catalogue.load(options.shards, look=False)
    except CatalogueError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    total = sum(info.bytes for info in catalogue.shards)
    read = files = damaged = tenth = 0
    for examined in verify(catalogue, options.jobs):
        read, files = read + examined.bytes, files + (examined.bytes > 0)
        damaged += bool(examined.damage)
        for place in examined.damage:
            sys.stdout.write(f"{catalogue.folder / examined.file}: {place}\n")
        for note in examined.notes:
            sys.stdout.write(f"note: {catalogue.folder / examined.file}: {note}\n")
        if total and int(10 * min(1.0, read / total)) != tenth:
            tenth = int(10 * min(1.0, read / total))
            seconds = time.perf_counter() - begin
            sys.stderr.write(
                f"verify {min(read, total) / 1e6:,.0f} of {total / 1e6:,.0f} MB of shards, "
                f"{read / 1e6 / seconds:,.0f} MB/s\n"
            )
        sys.stdout.flush()
    seconds = time.perf_counter() - begin
    sys.stdout.write(
        f"{files} files, {read / 1e6:,.1f} MB read in {seconds:.1f} s, "
        f"{read / 1e6 / seconds:,.0f} MB/s; "
        f"{f'{damaged} DAMAGED' if damaged else 'all as they were written'}\n"
    )
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
