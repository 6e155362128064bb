"""Checksums of shards: of each MiB of tokens, of the list of documents, and of a whole file.

All are xxh3. The trainer compares the MiB that it reads, `alpenglow data verify` every byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 20
"""A checksum covers this many bytes of tokens."""
READ_BYTES = 1 << 20
"""Bytes of a file read at once."""

FACTS = ("source", "url", "licence", "timestamp")
"""What is known of each document, beside its id."""

Tokens = NDArray[np.unsignedinteger[Any]]


def checksum(tokens: Tokens) -> NDArray[np.uint64]:
    """xxh3-64 of each MiB of the bytes of contiguous tokens."""
    data = memoryview(tokens.view(np.uint8))  # type: ignore[arg-type]
    return np.array(
        [
            xxhash.xxh3_64_intdigest(data[start : start + BLOCK_BYTES])
            for start in range(0, len(data), BLOCK_BYTES)
        ],
        np.uint64,
    )


def content_hash(checksums: NDArray[np.uint64]) -> str:
    """One hash over a shard's checksums, 16 hex digits."""
    return xxhash.xxh3_64_hexdigest(checksums.astype("<u8").tobytes())


def documents_hash(path: Path) -> str:
    """One hash over the list of documents of a shard (xxh3-64): borders, ids and facts.

    Raises:
        OSError, KeyError, ValueError: the list is unreadable.
    """
    state = xxhash.xxh3_64()
    with h5py.File(path, "r") as file:
        documents = file["documents"]
        state.update(np.asarray(documents["offset"]).astype("<u8").tobytes())
        state.update(np.asarray(documents["id"]).tobytes())
        for name in FACTS:
            if name in documents:
                state.update(name.encode())
                for value in documents[name][:]:
                    state.update(len(value).to_bytes(8, "little") + value)
    return state.hexdigest()


def file_hash(path: Path, *, skip: int = 0, copy_to: Path | None = None) -> str:
    """xxh3-128 of every byte of a file, 32 hex digits; memory is that of one read.

    Args:
        path: the file.
        skip: bytes at its beginning to leave out.
        copy_to: write what is read there as well.

    Raises:
        OSError: the file system refuses.
    """
    state, buffer = xxhash.xxh3_128(), bytearray(READ_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        file.seek(skip)
        if copy_to is None:
            while count := file.readinto(buffer):
                state.update(view[:count])
        else:
            with copy_to.open("wb", buffering=0) as copy:
                while count := file.readinto(buffer):
                    state.update(view[:count])
                    done = 0
                    while done < count:  # an unbuffered write may take a part only
                        done += copy.write(view[done:count])
    return state.hexdigest()
