"""DeepSpeed follows the rank map: its groups are the layout's, and training is the same."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from distributed_ranks import run_ranks
from training_ranks import losses as losses_of
from training_ranks import tiny_recipe, train

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout
from alpenglow.train.recipe import ParallelRecipe

pytestmark = pytest.mark.distributed

MAPS = {
    "pipe-major": Layout(2, 2, 2),
    "data-major": Layout(2, 2, 2, "data-major"),
    "seated": Layout(2, 2, 2, "data-major", seats=(1, 0)),
    "four stages": Layout(4, 1, 2, "data-major", seats=(2, 0, 3, 1)),
    "uneven": Layout(4, 1, 2, "pipe-major", seats=(3, 1, 2, 0), layers=(1, 2, 1, 1)),
}


def groups(rank: int, size: int) -> dict[str, dict[str, Any]]:
    """What DeepSpeed's grid says on this rank of each layout in MAPS."""
    import deepspeed
    from deepspeed.runtime.pipe.topology import PipelineParallelGrid
    from torch import distributed as dist

    from alpenglow.train.topology import LayoutTopology

    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    found = {}
    for name, layout in MAPS.items():
        topology = LayoutTopology(layout)
        with contextlib.redirect_stdout(io.StringIO()):
            grid = PipelineParallelGrid(topology=topology)
        found[name] = {
            "stage": grid.get_stage_id(),
            "data": grid.get_data_parallel_id(),
            "tensor": grid.get_slice_parallel_rank(),
            "pipe_group": dist.get_process_group_ranks(grid.get_pipe_parallel_group()),
            "data_group": dist.get_process_group_ranks(grid.get_data_parallel_group()),
            "tensor_group": dist.get_process_group_ranks(grid.get_slice_parallel_group()),
            "replica": dist.get_process_group_ranks(grid.get_model_parallel_group()),
            "pipe_lists": grid.pipe_groups,
            "data_lists": grid.dp_groups,
            "p2p": grid.p2p_groups,
            "stages": [grid.stage_to_global(s) for s in range(layout.pipeline)],
        }
    return found


def test_every_group_is_the_layouts() -> None:
    for rank, found in enumerate(run_ranks(groups, 8)):
        for name, layout in MAPS.items():
            said = found[name]
            stage, data, tensor = layout.coordinates(rank)
            assert (said["stage"], said["data"], said["tensor"]) == (stage, data, tensor), name
            for key, mine in (
                ("pipe_group", layout.pipeline_groups()),
                ("data_group", layout.data_groups()),
                ("tensor_group", layout.tensor_groups()),
            ):
                (own,) = [group for group in mine if rank in group]
                assert sorted(said[key]) == sorted(own), (name, key)
            replica = [r for r in range(8) if layout.coordinates(r)[1] == data]
            assert sorted(said["replica"]) == replica
            assert sorted(said["pipe_lists"]) == sorted(layout.pipeline_groups())
            assert sorted(said["data_lists"]) == sorted(layout.data_groups())
            # Peers: stage s of a pipeline and the next one, the last and the first.
            pipes = layout.pipeline_groups()
            peers = {(p[s], p[(s + 1) % len(p)]) for p in pipes for s in range(len(p))}
            assert {tuple(pair) for pair in said["p2p"]} == peers
            (own,) = [group for group in pipes if rank in group]
            assert said["stages"] == own


def test_the_orders_are_deepspeeds_own_axis_orders() -> None:
    topology = pytest.importorskip("deepspeed.runtime.pipe.topology")
    from alpenglow.train.topology import LayoutTopology

    stock = topology.PipeModelDataParallelTopology(num_pp=3, num_mp=2, num_dp=4)
    assert LayoutTopology(Layout(3, 2, 4)).mapping == stock.mapping
    axes = topology.ProcessTopology(axes=["data", "pipe", "model"], dims=[4, 3, 2])
    mine = LayoutTopology(Layout(3, 2, 4, "data-major"))
    for rank in range(24):
        theirs = axes.get_coord(rank)
        assert mine.get_rank(pipe=theirs.pipe, data=theirs.data, model=theirs.model) == rank
    for axis in ("pipe", "data", "model"):
        assert sorted(mine.get_axis_comm_lists(axis)) == sorted(axes.get_axis_comm_lists(axis))


def losses(rank: int, size: int, tied: bool) -> dict[str, list[tuple[float, float | None]]]:
    """Losses and gradient norms of three steps under each layout in MAPS."""
    import torch

    from alpenglow.train.engine import Engine, start
    from alpenglow_lsf.ranks import Ranks
    from alpenglow_profiling.events import NullRecorder

    device = start(Ranks(rank, rank, size, size, "node00", "127.0.0.1", 29500), timeout_s=60)
    model = ModelConfig(5, 32, 4, 128, max_position_embeddings=32, tie_word_embeddings=tied)
    found = {}
    for name, layout in MAPS.items():
        parallel = ParallelRecipe(layout.pipeline, layout.tensor)
        recipe = dataclasses.replace(tiny_recipe(), model=model, parallel=parallel)
        engine = Engine.build(recipe, layout, NullRecorder(), device)
        count, length = recipe.micro_batches(layout), recipe.batch.sequence_length
        stage, data, _ = engine.coordinates
        numbers = {int(n.split(".")[1]) for n in (t.name for t in engine.tensors) if "layers." in n}
        assert len(numbers) == layout.layers_of(model.num_layers)[stage]
        rows = []
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            tokens = torch.randint(128, (16, length + 1), generator=generator)
            mine = tokens.view(layout.data, count, -1, length + 1)[data]
            result = engine.step(iter([(t[:, :-1], t[:, 1:]) for t in mine]), 1e-3)
            rows.append((result.loss, result.grad_norm))
        found[name] = rows
    return found


@pytest.mark.parametrize("tied", [False, True])
def test_training_does_not_see_the_map(tied: bool) -> None:
    """fp32, three clipped steps. Sums of two replicas or two tensor ranks commute; what the map may
    change is the order in which the gradient norm is summed over a replica's ranks, and by it the
    clipping: 1e-6. Other degrees sum in another order inside a rank as well: 1e-5."""
    ranks = run_ranks(losses, 8, tied, timeout=200)
    assert all(rank == ranks[0] for rank in ranks)
    reference = ranks[0]["pipe-major"]
    for name, rows in ranks[0].items():
        same = MAPS[name].pipeline == MAPS["pipe-major"].pipeline
        for row, wanted in zip(rows, reference, strict=True):
            assert row == pytest.approx(wanted, rel=1e-6 if same else 1e-5), name
    assert reference[0] != reference[2]  # the weights moved


def test_a_checkpoint_goes_on_under_another_split_and_order(tmp_path: Path) -> None:
    """Fragments name global tensors: written by stages of 3 and 2 layers, read by 4 and 1."""
    model = {"num_layers": 5, "vocab_size": 1024}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(tiny_recipe(model=model), 1, whole)
    train(tiny_recipe(2, model=model), 4, cut, stop_after=3)
    other = {"order": "data-major", "split": "balanced", "schedule": "zb-h1"}
    recipe = tiny_recipe(2, model=model, parallel=other)
    assert recipe.layout(4).layers == (4, 1)
    assert {rank["resumed"] for rank in train(recipe, 4, cut)} == {3}
    assert losses_of(cut) == pytest.approx(losses_of(whole), abs=1e-4)
