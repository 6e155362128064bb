"""One stream of tokens: the same for any replicas, restarts, segments and global batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.loader import Loader
from alpenglow.data.order import Order
from alpenglow.data.stream import stream_hash

Make = Callable[[dict[str, list[int]]], Catalogue]


@pytest.fixture
def loader(make_catalogue: Make) -> Loader:
    catalogue = make_catalogue({"github": [9000, 1234], "wikipedia": [5000]})
    order = Order.of(
        catalogue,
        {"github": 2.0, "wikipedia": 1.0},
        sequence_length=32,
        seed=3,
        validation_fraction=0.05,
    )
    return Loader(order, catalogue)


def test_the_hash_is_the_same_for_1_to_64_replicas(loader: Loader) -> None:
    # 960 samples are five steps of 192; where replicas do not divide that, of the nearest multiple.
    whole = stream_hash(loader, 0, 960)
    for replicas in (*range(1, 17), 24, 31, 32, 48, 63, 64):
        batch = 192 // replicas * replicas
        assert stream_hash(loader, 0, 960, replicas=replicas, global_batch=batch) == whole
    assert stream_hash(loader, 1, 961) != whole


def test_2_032_sequences_on_127_replicas(loader: Loader) -> None:
    """A run that lost one of 128 nodes goes on where it was, with 127 x 16 sequences a step."""
    before = stream_hash(loader, 0, 4096, replicas=128, global_batch=2048)
    after = stream_hash(loader, 4096, 8160, replicas=127, global_batch=2032)
    assert (before, after) == (stream_hash(loader, 0, 4096), stream_hash(loader, 4096, 8160))


def test_the_hash_sees_every_token(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = loader.read(np.arange(10))
    other = Loader(loader.order, loader.catalogue)

    def read(indices: NDArray[np.int64]) -> NDArray[np.int64]:
        last = (indices[:, None] == 9) & (np.arange(33) == 32)
        changed: NDArray[np.int64] = tokens[indices] + last
        return changed

    monkeypatch.setattr(other, "read", read)
    assert stream_hash(loader, 0, 9) == stream_hash(other, 0, 9)
    assert stream_hash(loader, 0, 10) != stream_hash(other, 0, 10)


@pytest.mark.parametrize(("begin", "end"), [(0, 0), (5, 4), (-1, 4)])
def test_an_empty_stretch_is_refused(loader: Loader, begin: int, end: int) -> None:
    with pytest.raises(ValueError, match="0 <= A < B"):
        stream_hash(loader, begin, end)
    with pytest.raises(ValueError, match="10 does not divide over 4 replicas"):
        stream_hash(loader, 0, 10, replicas=4, global_batch=10)


def test_positions_begin_anew_at_each_document(loader: Loader) -> None:
    _, shards, starts = loader.order.samples(np.arange(400))
    positions = loader.rows(np.arange(400), tokens=False, positions=True).positions
    assert positions is not None
    assert (positions[:, 0] == 0).all()
    crossed = 0
    for shard, start, row in zip(shards.tolist(), starts.tolist(), positions, strict=True):
        borders = set(loader.catalogue.open(shard).offsets().astype(int).tolist())
        place = 0
        for offset, found in enumerate(row.tolist()):
            place = 0 if offset == 0 or start + offset in borders else place + 1
            assert found == place
            crossed += offset > 0 and place == 0
    assert crossed > 3
