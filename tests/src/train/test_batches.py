"""What each rank of a layout trains and validates on: one stream, cut up and put together again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from small_shards import write_small_shards
from training_ranks import tiny_recipe

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.loader import Loader
from alpenglow.data.stream import stream_hash
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.tensor import IGNORED_LABEL
from alpenglow.train import stream
from alpenglow.train.batches import Batches, ValidationBatches, order_of
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.restart import Position


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return write_small_shards(tmp_path_factory.mktemp("data") / "shards", longest=20)


def recipe_of(layout: Layout, batch: int = 24) -> PretrainRecipe:
    return tiny_recipe(
        layout.pipeline,
        layout.tensor,
        batch={"global_batch_size": batch, "micro_batch_size": 1},
        data={
            "mixture": {"github": 3.0, "wikipedia": 1.0},
            "documents": "masked",
            "validation_fraction": 0.2,
            "validation_samples": 21,
        },
        train={"validate_every": 2},
    )


LAYOUTS = [Layout(1, 1, 1), Layout(2, 2, 1), Layout(1, 2, 4), Layout(2, 1, 8), Layout(1, 1, 24)]


def trained(catalogue: Catalogue, segments: list[tuple[Layout, int, int]]) -> str:
    """Hash of what segments of (layout, global batch, steps) train on, one after the other.

    Each segment is new processes: nothing but the position goes from one to the next.
    """
    state, position = xxhash.xxh3_128(), Position()
    for layout, batch, steps in segments:
        recipe = recipe_of(layout, batch)
        ranks = range(layout.world)
        batches = [Batches.open(recipe, layout, rank, catalogue) for rank in ranks]
        for _ in range(steps):
            step = np.full((batch, recipe.batch.sequence_length + 1), -1, np.int64)
            places = np.arange(batch).reshape(-1, layout.data)  # one sample a micro-batch
            for rank in ranks:
                stage, replica, _ = layout.coordinates(rank)
                mine = batches[rank].step(position)
                assert mine.positions is not None
                assert mine.positions.shape == (len(places), 1, recipe.batch.sequence_length)
                pairs = list(mine)
                if stage not in (0, layout.pipeline - 1):
                    assert not pairs
                    continue
                for place, (inputs, labels) in zip(places[:, replica], pairs, strict=True):
                    row = np.append(inputs[0].numpy(), labels[0, -1].numpy())
                    assert (step[place] == -1).all() or np.array_equal(step[place], row)
                    step[place] = row
            state.update(step.astype("<u4").tobytes())
            position.advance(batch, applied=True)
        for one in batches:
            one.close()
    return state.hexdigest()


def test_the_stream_is_one_for_all_layouts_restarts_and_batches(catalogue: Catalogue) -> None:
    whole = stream_hash(Loader(order_of(recipe_of(LAYOUTS[0]), catalogue), catalogue), 0, 240)
    for layout in LAYOUTS:
        assert trained(catalogue, [(layout, 24, 10)]) == whole
    for cut in range(1, 10):
        pair = [(LAYOUTS[0], 24, cut), (LAYOUTS[1], 24, 10 - cut)]
        assert trained(catalogue, pair) == whole
    assert trained(catalogue, [(layout, 24, 2) for layout in LAYOUTS]) == whole  # five segments
    # From step 3 on a replica less: 8 x 3 sequences, then 7 x 3, then 8 x 3 once more.
    fewer = [(Layout(2, 1, 8), 24, 3), (Layout(2, 1, 7), 21, 8), (LAYOUTS[0], 24, 0)]
    assert trained(catalogue, fewer) == trained(catalogue, [(LAYOUTS[0], 24, 10)])


def test_a_step_can_be_asked_for_again(catalogue: Catalogue) -> None:
    batches = Batches.open(recipe_of(LAYOUTS[0]), LAYOUTS[0], 0, catalogue)
    position = Position(step=2, samples=48)
    first, other, again = (
        [(x.numpy().copy(), y.numpy().copy()) for x, y in batches.step(at)]
        for at in (position, Position(step=3, samples=72), position)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    batches.close()


@pytest.mark.parametrize("layout", [Layout(1, 1, 1), Layout(3, 1, 2), Layout(1, 2, 8)])
def test_validation_reads_the_same_samples_in_every_layout(
    catalogue: Catalogue, layout: Layout
) -> None:
    recipe = recipe_of(replace(layout, pipeline=1))
    loader = Loader(order_of(recipe, catalogue).validation(), catalogue)
    tokens, counted = loader.read(np.arange(21)), loader.counted(np.arange(21))
    rows: dict[bytes, int] = {}
    labels_that_count = 0
    for rank in range(layout.world):
        stage, _, tensor = layout.coordinates(rank)
        batches = ValidationBatches.open(recipe, layout, rank, catalogue)
        assert batches is not None
        assert batches.micro_batches == -(-21 // layout.data)
        for _ in range(2):  # an evaluation reads them anew
            read = batches.read()
            assert read.positions is not None
            pairs = list(read)
            assert len(pairs) == (batches.micro_batches if stage in (0, layout.pipeline - 1) else 0)
        if stage == 0 and tensor == 0:
            for inputs, labels in pairs:
                counts = labels.numpy() != IGNORED_LABEL
                labels_that_count += int(counts.sum())
                rows[inputs.numpy().tobytes()] = rows.get(inputs.numpy().tobytes(), 0) + 1
    assert set(rows) == {row[None, :-1].tobytes() for row in tokens}
    assert labels_that_count == int(counted.sum())


def test_the_program_prints_hashes(
    catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f"""
        model = {{num_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=128}}
        batch = {{global_batch_size=24, micro_batch_size=1, sequence_length=16}}
        optimizer = {{lr=1e-3}}
        train = {{steps=6}}
        [data]
        catalogue = "{catalogue.folder}"
        mixture = {{github=3, wikipedia=1}}
        validation_fraction = 0.2
        """
    )
    assert stream.main([str(recipe), "--samples", "0:240", "--ranks", "1,7,64"]) == 0
    lines = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    whole = stream_hash(Loader(order_of(recipe_of(LAYOUTS[0]), catalogue), catalogue), 0, 240)
    assert lines == [whole] * 4
    assert stream.main([str(recipe), "--samples", "0:24", "--validation"]) == 0
    assert whole not in capsys.readouterr().out
    for arguments, sentence in (
        (["--samples", "9:3"], "give A:B with 0 <= A < B"),
        (["--samples", "x:3"], "--samples: 'x' is not a whole number"),
        (["--samples", "0:3", "--ranks", "0"], "does not divide over 0 replicas"),
        (["--samples", "0:3", "data.mixture.books=1"], "gives a weight to books"),
        (["--samples", "0:3", "data.validation_fraction=2"], "must lie from 0 to below 1"),
    ):
        assert stream.main([str(recipe), *arguments]) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
