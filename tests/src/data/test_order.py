"""The order: a bijection, exact quotas, and the same stream for any number of ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.feistel import permute, round_keys
from alpenglow.data.loader import BatchStream, Loader
from alpenglow.data.order import BLOCK, Order, OrderError, natural, tail_tokens

Make = Callable[[dict[str, list[int]]], Catalogue]

# LLaMA's mixture (arXiv 2302.13971, table 1), in percent.
LLAMA = {
    "commoncrawl": 67.0,
    "c4": 15.0,
    "github": 4.5,
    "wikipedia": 4.5,
    "books": 4.5,
    "arxiv": 2.5,
    "stackexchange": 2.0,
}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 255, 256, 257, 1000, 4097, 100_003])
def test_the_permutation_is_a_bijection(size: int) -> None:
    result = permute(np.arange(size), size, round_keys("seed", size))
    assert np.array_equal(np.sort(result), np.arange(size))


@given(size=st.integers(1, 3000), key=st.integers())
@settings(max_examples=60, deadline=None)
def test_the_permutation_is_a_bijection_for_any_key(size: int, key: int) -> None:
    result = permute(np.arange(size), size, round_keys(key))
    assert np.array_equal(np.sort(result), np.arange(size))


def test_the_permutation_shuffles() -> None:
    size = 100_003
    one, two = (permute(np.arange(size), size, round_keys(seed)) for seed in (1, 2))
    assert np.mean(one == two) < 1e-3
    # Neighbours end up a third of the range apart on average, as in a random permutation.
    assert 0.32 < np.mean(np.abs(np.diff(one))) / size < 0.35
    assert abs(np.corrcoef(np.arange(size), one)[0, 1]) < 0.01


def order(windows: dict[str, list[int]], mixture: dict[str, float], seed: int = 7) -> Order:
    shards = [(name, n * 16 + 1) for name in sorted(windows) for n in windows[name]]
    return Order(shards, mixture, 16, seed, "f")


def test_an_epoch_has_every_window_once() -> None:
    sizes = {"github": [13, 1, 50], "wikipedia": [37]}
    stream = order(sizes, {"github": 1.0, "wikipedia": 1.0})
    which, shard, start = stream.samples(np.arange(20_000))
    for place, name in enumerate(stream.slices):
        windows = sum(sizes[name])
        mine = np.stack([shard[which == place], start[which == place]], axis=1)
        for epoch in range(len(mine) // windows):
            part = mine[epoch * windows : (epoch + 1) * windows]
            assert len(np.unique(part, axis=0)) == windows
        first, second = mine[:windows], mine[windows : 2 * windows]
        assert not np.array_equal(first, second)
    assert int(start.max()) == 49 * 16


def test_the_quota_is_exact_to_one_sample() -> None:
    stream = order({name: [1000] for name in LLAMA}, LLAMA)
    which, _, _ = stream.samples(np.arange(200 * BLOCK))
    total = sum(Fraction(str(weight)) for weight in LLAMA.values())
    for blocks in range(1, 201):
        counts = np.bincount(which[: blocks * BLOCK], minlength=7)
        assert counts.sum() == blocks * BLOCK
        for place, name in enumerate(stream.slices):
            quota = blocks * BLOCK * Fraction(str(LLAMA[name])) / total
            assert abs(counts[place] - quota) < 1
        assert stream.taken(blocks * BLOCK) == dict(
            zip(stream.slices, counts.tolist(), strict=True)
        )


def test_the_quota_holds_after_a_trillion_tokens() -> None:
    stream = order({name: [100_000] for name in LLAMA}, LLAMA)
    samples = 586_000_000 // BLOCK * BLOCK
    taken = stream.taken(samples)
    assert sum(taken.values()) == samples
    for name, weight in LLAMA.items():
        assert abs(taken[name] - samples * Fraction(str(weight)) / 100) < 1


@given(
    weights=st.lists(st.floats(0.01, 1e3), min_size=1, max_size=5),
    begin=st.integers(0, 10**9),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=40, deadline=None)
def test_any_mixture_counts_on_without_gaps(weights: list[float], begin: int, seed: int) -> None:
    names = [f"s{number}" for number in range(len(weights))]
    stream = order({n: [97] for n in names}, dict(zip(names, weights, strict=True)), seed)
    before, after = stream.taken(begin), stream.taken(begin + 700)
    which, _, _ = stream.samples(np.arange(begin, begin + 700))
    counts = np.bincount(which, minlength=len(names))
    assert [after[n] - before[n] for n in names] == counts.tolist()


def test_a_rare_slice_gets_longer_blocks_and_its_quota() -> None:
    stream = order({"big": [500], "rare": [500]}, {"big": 999.0, "rare": 1.0})
    assert stream.block == 1024
    which, _, _ = stream.samples(np.arange(100 * 1024))
    assert abs(np.count_nonzero(which == 1) - 102.4) < 1


def test_epochs_follow_from_mixture_and_sizes() -> None:
    stream = order({"big": [6400], "small": [100]}, {"big": 1.0, "small": 1.0})
    epochs = stream.epochs(512)
    assert epochs == {"big": 256 / 6400, "small": 2.56}


def test_one_sample_equals_many() -> None:
    stream = order({"github": [13, 50], "wikipedia": [37]}, {"github": 3.0, "wikipedia": 1.0})
    which, shard, start = stream.samples(np.arange(5000, 5100))
    for row, index in enumerate(range(5000, 5100)):
        sample = stream.sample(index)
        assert sample == (stream.slices[which[row]], shard[row], start[row])


def digest(catalogue: Catalogue, ranks: int, begin: int, steps: int, batch: int = 48) -> str:
    """Hash of the tokens of some steps, put together from every replica's share."""
    order = Order.of(catalogue, {"github": 2.0, "wikipedia": 1.0}, sequence_length=32, seed=3)
    micro = 2
    streams = [
        BatchStream(
            Loader(order, catalogue),
            data_rank=rank,
            data_parallel=ranks,
            micro_batch_size=micro,
            micro_batches=batch // ranks // micro,
        )
        for rank in range(ranks)
    ]
    sha = hashlib.sha256()
    for step in range(begin, begin + steps):
        rows: dict[int, bytes] = {}
        for stream in streams:
            numbers = stream.indices(step * batch)
            for places, (inputs, labels) in zip(
                numbers, stream.micro_batches(step * batch), strict=True
            ):
                assert inputs.shape == labels.shape == (micro, 32)
                assert np.array_equal(inputs[:, 1:], labels[:, :-1])
                for place, x, y in zip(places, inputs, labels, strict=True):
                    rows[int(place)] = x.tobytes() + y.tobytes()
        assert sorted(rows) == list(range(step * batch, (step + 1) * batch))
        for place in sorted(rows):
            sha.update(rows[place])
    for stream in streams:
        stream.close()
    return sha.hexdigest()


def test_the_stream_is_the_same_for_any_number_of_ranks(make_catalogue: Make) -> None:
    catalogue = make_catalogue({"github": [9000, 1234], "wikipedia": [5000]})
    whole = {digest(catalogue, ranks, 0, 10) for ranks in (1, 2, 3, 8)}
    assert len(whole) == 1
    middle = {digest(catalogue, ranks, 4, 3) for ranks in (1, 2, 3, 8)}
    assert len(middle) == 1
    assert whole != middle


def test_the_loader_reads_the_windows_of_the_order(make_catalogue: Make) -> None:
    catalogue = make_catalogue({"github": [9000, 1234], "wikipedia": [5000]})
    order = Order.of(catalogue, natural(catalogue), sequence_length=100, seed=5)
    tokens = Loader(order, catalogue).read(np.arange(200))
    assert tokens.dtype == np.int64
    for index, row in enumerate(tokens):
        sample = order.sample(index)
        shard = catalogue.open(sample.shard).tokens
        assert np.array_equal(row, shard[sample.start : sample.start + 101])


def test_seed_mixture_and_geometry_each_make_another_stream(make_catalogue: Make) -> None:
    sizes = {"github": [999], "wikipedia": [999]}
    base = order(sizes, {"github": 1.0, "wikipedia": 1.0}).samples(np.arange(300))
    seed = order(sizes, {"github": 1.0, "wikipedia": 1.0}, seed=8).samples(np.arange(300))
    mixed = order(sizes, {"github": 2.0, "wikipedia": 1.0}).samples(np.arange(300))
    scaled = order(sizes, {"github": 10.0, "wikipedia": 10.0}).samples(np.arange(300))
    assert not np.array_equal(base, seed)
    assert not np.array_equal(base[0], mixed[0])
    assert np.array_equal(base, scaled)


def test_a_tail_is_what_no_window_takes() -> None:
    assert tail_tokens(16 * 5 + 1, 16) == 1
    assert tail_tokens(16 * 5, 16) == 16
    assert tail_tokens(10, 16) == 10
    assert tail_tokens(0, 16) == 0


def test_a_mixture_that_cannot_be_served_is_one_sentence() -> None:
    with pytest.raises(OrderError, match=r"slice books has no window .* slices there: github"):
        order({"github": [5]}, {"books": 1.0})
    with pytest.raises(OrderError, match="github = -1"):
        order({"github": [5]}, {"github": -1.0})
    with pytest.raises(OrderError, match="no slice has a weight above 0"):
        order({"github": [5]}, {"github": 0.0})
    with pytest.raises(OrderError, match="books has a share of"):
        order({"github": [5], "books": [5]}, {"github": 1.0, "books": 1e-7})
    with pytest.raises(IndexError, match="numbered from 0"):
        order({"github": [5]}, {"github": 1.0}).sample(-1)


# Epochs of LLaMA's slices after 1.4 T tokens (arXiv 2302.13971, table 1).
LLAMA_EPOCHS = {
    "commoncrawl": 1.10,
    "c4": 1.06,
    "github": 0.64,
    "wikipedia": 2.45,
    "books": 2.23,
    "arxiv": 1.06,
    "stackexchange": 1.03,
}


def test_every_window_is_seen_as_often_as_the_llama_table_says() -> None:
    """Slices so large that each comes to its epochs: Wikipedia's windows are seen 2 or 3 times,
    GitHub's once or never, and how many of each is exact."""
    samples = 390 * BLOCK  # 99,840
    sizes = {
        name: round(samples * weight / 100 / LLAMA_EPOCHS[name]) for name, weight in LLAMA.items()
    }
    stream = order({name: [size // 3, size - size // 3] for name, size in sizes.items()}, LLAMA)
    which, shard, start = stream.samples(np.arange(samples))
    for place, name in enumerate(stream.slices):
        mine = which == place
        taken = int(mine.sum())
        quota = samples * Fraction(str(LLAMA[name])) / 100
        assert abs(taken - quota) < 1
        assert taken / sizes[name] == pytest.approx(LLAMA_EPOCHS[name], rel=2e-3)
        window = (shard[mine] - shard[mine].min()) * (sizes[name] // 3) + start[mine] // 16
        times = np.bincount(window, minlength=sizes[name])
        assert times.size == sizes[name]
        whole, more = divmod(taken, sizes[name])
        assert np.count_nonzero(times == whole + 1) == more
        assert np.count_nonzero(times == whole) == sizes[name] - more
    assert (int(stream.epochs(samples)["wikipedia"]), int(stream.epochs(samples)["github"])) == (
        2,
        0,
    )
