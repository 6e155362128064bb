"""Stores of documents: what goes in comes back, damage is named, nothing half-written is read."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow.data.document import DataError, Document
from alpenglow.data.document_store import REJECTS, Store, StoreWriter


def document(text: str, number: int = 0, **facts: object) -> Document:
    return Document(text, "books", f"book/{number}", "CC0-1.0", **facts)  # type: ignore[arg-type]


def write(path: Path, batches: list[list[Document]]) -> None:
    with StoreWriter(path, "key", "books") as writer:
        for batch in batches:
            writer.add(batch)
        writer.close()


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(codec=None), max_size=40), max_size=12),
    cut=st.integers(0, 12),
    size=st.integers(1, 60),
)
def test_what_goes_in_comes_back(
    texts: list[str], cut: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store") / "a.h5"
    documents = [document(text, i, url=f"https://a/{i}") for i, text in enumerate(texts)]
    write(path, [documents[:cut], documents[cut:]])
    with Store(path) as store:
        found = [d for batch in store.documents(size) for d in batch]
        assert [dataclasses.replace(d, identity=b"") for d in found] == documents
        assert [d.identity for d in found] == [d.id for d in documents]
        assert [bytes(identity) for identity in store.ids] == [d.id for d in documents]
        assert [h.astype(">u8").tobytes() for h in store.text_hash] == [
            d.text_hash for d in documents
        ]
        assert store.sizes.tolist() == [d.bytes for d in documents]
        assert store.read == (len(documents), sum(d.bytes for d in documents))


def test_rejects_and_trims_are_counted_and_the_first_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with StoreWriter(path, "key", "github") as writer:
        writer.add([document("body", trimmed={"licence header": 20})])
        writer.mask("e-mail", 3)
        for number in range(REJECTS + 5):
            writer.drop(document(f"\ud800 {number}" * 400, number, size=7), "binary")
        writer.close()
    with Store(path) as store:
        assert store.trimmed == {"licence header": (1, 20)}
        assert store.masked == {"e-mail": 3}
        assert store.dropped == {"binary": (REJECTS + 5, 7 * (REJECTS + 5))}
        assert store.read == (REJECTS + 6, 24 + 7 * (REJECTS + 5))
        assert len(store.rejects["binary"]) == REJECTS
        assert all(len(item["text"]) <= 500 for item in store.rejects["binary"])


def test_a_store_that_was_not_closed_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), StoreWriter(tmp_path / "a.h5", "key", "books") as writer:
        writer.add([document("text")])
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, [[document("text " * 1000, number) for number in range(20)]])
    whole = path.read_bytes()
    for at in range(0, len(whole) - 1, 997):
        path.write_bytes(whole[:at])
        assert Store.find(path, "key") is None
    path.write_bytes(whole)
    assert Store.find(path, "other") is None
    found = Store.find(path, "key")
    assert found is not None
    found.close()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with StoreWriter(tmp_path / "a.h5", "key", "books") as writer:
        monkeypatch.setattr(h5py.Dataset, "resize", refuse)
        with pytest.raises(DataError, match=r"a\.h5: cannot be written .*No space left"):
            writer.add([document("text")])
    assert not list(tmp_path.iterdir())
