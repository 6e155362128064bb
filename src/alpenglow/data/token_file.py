"""The tokens of a store's documents, all of them: one HDF5 file beside the store.

    tokens             uint16 or uint32, all documents one after another, `<|endoftext|>` after each
    offset             int64 [documents + 1]
    attributes         key: store and tokenizer

Documents that no filter keeps are tokenised too: the ledger can then say how many tokens each rule
costs, a budget can be told before a threshold is set, and another threshold tokenises nothing.
A text that is no Unicode has no tokens.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from alpenglow.data import columns
from alpenglow.data.collect import BATCH_BYTES
from alpenglow.data.document import DataError
from alpenglow.data.document_store import Store
from alpenglow.data.tokenizer import Encoder

FORMAT = 1


def tokenise(store: Store, encoder: Encoder, tokenizer_hash: str) -> Path:
    """Write the tokens of a store, unless they are there; returns the file.

    Raises:
        DataError: the fast path is wrong for this tokenizer, or the file system refuses.
    """
    mark = xxhash.xxh3_64_hexdigest(f"{FORMAT} {store.key} {tokenizer_hash}".encode())
    path = store.path.with_name(f"{store.path.stem}.{mark[:8]}.tokens.h5")

    def fill(file: h5py.File) -> None:
        tokens = file.create_dataset(
            "tokens", (0,), encoder.dtype, maxshape=(None,), chunks=(1 << 18,)
        )
        lengths: list[int] = []
        for batch in store.documents(BATCH_BYTES):
            good = [document for document in batch if _is_unicode(document.text)]
            names = [f"{document.slice}, {document.source}" for document in good]
            encoded = encoder.encode([document.text for document in good], names)
            sizes = iter([item.size for item in encoded])
            unicode = {id(document) for document in good}
            lengths += [next(sizes) if id(document) in unicode else 0 for document in batch]
            if encoded:
                before = tokens.shape[0]
                tokens.resize(before + sum(item.size for item in encoded), axis=0)
                tokens[before:] = np.concatenate(encoded)
        file["offset"] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        file.attrs["key"] = mark

    if not columns.has(path, mark):
        columns.write_whole(path, fill)
    return path


def offsets(path: Path) -> NDArray[np.int64]:
    """Where each document's tokens begin, [documents + 1].

    Raises:
        DataError: missing or cut.
    """
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file["offset"], np.int64)
    except (OSError, KeyError) as error:
        raise DataError(f"{path}: cut, or no tokens of documents ({error})") from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
