"""What is held out for validation: training never reads a token of it, in any epoch."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xxhash
from small_shards import write_small_shards

from alpenglow.data.bench import REDPAJAMA, SHARD_TOKENS
from alpenglow.data.loader import Loader
from alpenglow.data.order import Order, OrderError
from alpenglow.data.windows import LARGEST_BLOCK, LEAST_BLOCK, Windows


def read(order: Order, samples: int, shards: int, longest: int) -> np.ndarray:
    """How often each token of each shard is read by the first samples, int [shards, longest]."""
    times = np.zeros((shards, longest), np.int64)
    _, shard, start = order.samples(np.arange(samples))
    for offset in range(order.sequence_length + 1):
        np.add.at(times, (shard, start + offset), 1)
    return times


@pytest.mark.parametrize("length", [2, 7, 16])
@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.5, 0.9])
def test_no_token_is_read_by_both(length: int, fraction: float) -> None:
    tokens = {"github": [9000, 1234, 3], "wikipedia": [5000, length * 4 + 1]}
    shards = [(name, n) for name, sizes in tokens.items() for n in sizes]
    order = Order(
        shards, {"github": 3.0, "wikipedia": 1.0}, length, 7, "f", validation_fraction=fraction
    )
    held = order.validation()
    # Enough for several epochs of every slice on both sides.
    training = read(order, 40_000, len(shards), 9000)
    validation = read(held, 40_000, len(shards), 9000)
    assert not (training.astype(bool) & validation.astype(bool)).any()
    assert min(order.epochs(40_000).values()) > 3
    assert min(held.epochs(40_000).values()) > 3
    for stream in (order, held):
        which, shard, start = stream.samples(np.arange(40_000))
        for place, name in enumerate(stream.slices):
            mine = np.stack([shard[which == place], start[which == place]], axis=1)
            epoch = mine[: stream.windows[name]]
            assert len(np.unique(epoch, axis=0)) == stream.windows[name]
            assert len(np.unique(mine, axis=0)) == stream.windows[name]
    whole = Order(shards, {"github": 3.0, "wikipedia": 1.0}, length, 7, "f")
    for name, windows in whole.windows.items():
        lost = windows - order.windows[name]
        block = round(lost / (lost - held.windows[name]))  # each block gives one window up
        assert block & (block - 1) == 0
        assert LEAST_BLOCK <= block <= LARGEST_BLOCK
        # The fraction is of whole blocks, rounded up to one.
        assert fraction * (windows - len(shards) * block) <= lost < fraction * windows + block


def test_what_is_held_out_depends_on_the_seed_and_not_on_the_mixture() -> None:
    shards = [("github", 9000), ("wikipedia", 9000)]

    def held(seed: int, **mixture: float) -> np.ndarray:
        order = Order(shards, mixture, 16, seed, validation_fraction=0.1).validation()
        return read(order, 5000, 2, 9000).astype(bool)

    one = held(1, github=1.0, wikipedia=1.0)
    assert np.array_equal(one, held(1, github=1.0, wikipedia=9.0))
    assert not np.array_equal(one, held(2, github=1.0, wikipedia=1.0))


def test_without_a_fraction_the_stream_is_that_of_before() -> None:
    """The hash is of the order as it was when nothing could be held out."""
    shards = [("github", 13 * 16 + 1), ("github", 50 * 16 + 1), ("wikipedia", 37 * 16 + 1)]
    found = np.stack(
        Order(shards, {"github": 3.0, "wikipedia": 1.0}, 16, 7, "f").samples(np.arange(10_000))
    )
    digest = xxhash.xxh3_128_hexdigest(found.astype("<i8").tobytes())
    assert digest == "5fe98b8389196f83dd80eb781a002a74"


def test_a_label_counts_only_in_documents_that_training_never_sees(tmp_path: Path) -> None:
    """The blocks' edges cut some documents, of which training reads the rest."""
    catalogue = write_small_shards(tmp_path / "shards", longest=20)
    order = Order.of(
        catalogue,
        {"github": 2.0, "wikipedia": 1.0},
        sequence_length=8,
        seed=3,
        validation_fraction=0.4,
    )
    trained = read(order, 10_000, 2, 4000).astype(bool)
    held = order.validation()
    numbers = np.arange(300)
    _, shards, starts = held.samples(numbers)
    counted = Loader(held, catalogue).counted(numbers)
    assert counted.any(axis=1).any()
    assert not counted.all(axis=1).all()
    for shard, start, counts in zip(shards.tolist(), starts.tolist(), counted, strict=True):
        offsets = catalogue.open(shard).offsets().astype(np.int64)
        for label, counts_label in zip(range(start + 1, start + 9), counts, strict=True):
            document = int(np.searchsorted(offsets, label, "right")) - 1
            seen = trained[shard, offsets[document] : offsets[document + 1]].any()
            assert not (counts_label and seen)
    assert Loader(order, catalogue).counted(numbers).all()


def test_a_trillion_tokens_need_no_index() -> None:
    """Bytes are counted; time is what `python -m alpenglow.data.bench order` prints."""
    shards = [
        (name, SHARD_TOKENS)
        for name, billions in REDPAJAMA.items()
        for _ in range(round(billions * 1e9 / SHARD_TOKENS))
    ]
    mixture = {name: float(n) for name, n in REDPAJAMA.items()}
    tracemalloc.start()
    order = Order(shards, mixture, 2048, 1, validation_fraction=0.001)
    held = order.validation()
    order.samples(np.arange(2048))
    held.samples(np.arange(2048))
    order.samples(np.arange(580_000_000, 580_002_048))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(order.windows.values()) > 580_000_000
    assert peak < 200e6 / 20
    for name, windows in held.windows.items():
        assert windows / (windows + order.windows[name]) == pytest.approx(0.001, rel=0.02)


@pytest.mark.parametrize(
    ("windows", "length", "fraction", "sentence"),
    [
        (3, 16, 0.1, "github has no shard of 4 windows, so none can be held out; prepare longer"),
        (8, 16, 0.6, "github has 8 windows in 2 blocks, and all would be held out: none is left"),
        (8, 1, 0.1, "github cannot be split at batch.sequence_length = 1; use 2 or more"),
        (8, 16, 1.0, "data.validation_fraction = 1.0; it lies from 0 to below 1"),
        (8, 16, -0.1, "data.validation_fraction = -0.1; it lies from 0 to below 1"),
    ],
)
def test_a_fraction_that_leaves_nothing_is_one_sentence(
    windows: int, length: int, fraction: float, sentence: str
) -> None:
    with pytest.raises(OrderError, match=sentence):
        Order(
            [("github", windows * length + 1)],
            {"github": 1.0},
            length,
            1,
            validation_fraction=fraction,
        )


def test_nothing_is_held_out_by_default() -> None:
    with pytest.raises(OrderError, match="no window is held out to validate on"):
        Order([("github", 999)], {"github": 1.0}, 16, 1).validation()
    windows = Windows.of("github", [("github", 999), ("books", 999)], 16)
    assert windows.count == 62
