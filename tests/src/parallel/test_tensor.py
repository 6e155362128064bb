"""Tensor parallel layers against whole ones, forward and backward."""

from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_ranks import run_ranks
from torch import Tensor
from torch.nn import functional

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.tensor import (
    IGNORED_LABEL,
    ColumnParallelLinear,
    RowParallelLinear,
    TensorGroup,
    VocabularyParallelEmbedding,
    vocabulary_parallel_cross_entropy,
)
from alpenglow_profiling.events import Kind, Recorder, read

VOCABULARY, WIDTH, WIDE = 12, 8, 16


def whole_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "embedding": (VOCABULARY, WIDTH),
        "up": (WIDE, WIDTH),
        "up_bias": (WIDE,),
        "down": (WIDTH, WIDE),
        "down_bias": (WIDTH,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def tokens_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    tokens, labels = torch.randint(VOCABULARY, (2, 3, 5), generator=generator)
    labels[0, 2] = IGNORED_LABEL
    return tokens, labels


def share(tensor: Tensor, axis: int, group: TensorGroup) -> Tensor:
    return tensor.chunk(group.size, dim=axis)[group.rank].clone()


def shared_network(rank: int, size: int, recorder_folder: str | None) -> dict[str, Any]:
    recorder = None
    if recorder_folder is not None:
        recorder = Recorder(Path(recorder_folder), rank, "laptop", world_size=size)
    group = TensorGroup.create(Layout.of(size, 1, size), rank, recorder)
    weights = whole_weights()
    embedding = VocabularyParallelEmbedding(VOCABULARY, WIDTH, group)
    up = ColumnParallelLinear(WIDTH, WIDE, group)
    down = RowParallelLinear(WIDE, WIDTH, group)
    with torch.no_grad():
        embedding.weight.copy_(share(weights["embedding"], 0, group))
        up.weight.copy_(share(weights["up"], 0, group))
        assert up.bias is not None
        up.bias.copy_(share(weights["up_bias"], 0, group))
        down.weight.copy_(share(weights["down"], 1, group))
        down.bias.copy_(weights["down_bias"])
    tokens, labels = tokens_and_labels()
    x = embedding(tokens)
    x = x + down(functional.gelu(up(x)))
    logits = embedding.logits(x)
    losses = vocabulary_parallel_cross_entropy(logits, labels, group)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    if recorder is not None:
        recorder.close()
    split = [p for m in (embedding, up, down) for p in m.parameters()]
    return {
        "logits": group.gather_last(logits.detach()),
        "losses": losses.detach(),
        "embedding": embedding.weight.grad,
        "up": up.weight.grad,
        "up_bias": up.bias.grad,
        "down": down.weight.grad,
        "down_bias": down.bias.grad,
        "marked": [getattr(p, "model_parallel", False) for p in split],
    }


def whole_network() -> dict[str, Tensor]:
    weights = {name: w.requires_grad_() for name, w in whole_weights().items()}
    tokens, labels = tokens_and_labels()
    x = functional.embedding(tokens, weights["embedding"])
    wide = functional.gelu(functional.linear(x, weights["up"], weights["up_bias"]))
    x = x + functional.linear(wide, weights["down"], weights["down_bias"])
    logits = x @ weights["embedding"].T
    losses = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED_LABEL
    ).view_as(labels)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    found = {name: w.grad for name, w in weights.items() if w.grad is not None}
    return found | {"logits": logits.detach(), "losses": losses.detach()}


@pytest.mark.distributed
@pytest.mark.parametrize("size", [1, 2, 4])
def test_shared_network_equals_the_whole_one(size: int) -> None:
    whole = whole_network()
    ranks = run_ranks(shared_network, size, None, timeout=60)
    for name in ("logits", "losses", "down_bias"):
        for found in ranks:
            torch.testing.assert_close(found[name], whole[name], atol=1e-5, rtol=1e-5)
    for name, axis in (("embedding", 0), ("up", 0), ("up_bias", 0), ("down", 1)):
        joined = torch.cat([found[name] for found in ranks], dim=axis)
        torch.testing.assert_close(joined, whole[name], atol=1e-5, rtol=1e-5)
    assert ranks[0]["marked"] == [True, True, True, True, False]


@pytest.mark.distributed
def test_each_all_reduce_is_recorded(tmp_path: Path) -> None:
    run_ranks(shared_network, 2, str(tmp_path), timeout=60)
    rows = read(tmp_path).rows
    rows = rows[rows["kind"] == Kind.TENSOR_REDUCE]
    for rank in range(2):
        mine = rows[rows["rank"] == rank]
        # Forward: embedding, row-parallel product, maximum, sums. Backward: head, column-parallel.
        positions, activations = 15 * 4, 15 * WIDTH * 4
        assert mine["bytes"].tolist() == [
            activations,
            activations,
            positions,
            2 * positions,
            activations,
            activations,
        ]
        assert set(mine["group"].tolist()) == {0}
        assert (mine["end_ns"] > mine["begin_ns"]).all()


def counted_by_deepspeed(rank: int, size: int) -> int:
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    deepspeed.comm.configure(enabled=True, prof_all=True, verbose=False)
    group = TensorGroup.create(Layout.of(size, 1, size), rank, comm=deepspeed.comm)
    group.all_reduce(torch.ones(10))
    group.all_reduce(torch.ones(10), maximum=True)
    counts = deepspeed.comm.comm.comms_logger.comms_dict["all_reduce"]
    return sum(entry[0] for entry in counts.values())


@pytest.mark.distributed
def test_deepspeeds_log_counts_them() -> None:
    assert run_ranks(counted_by_deepspeed, 2, timeout=60) == [2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_cross_entropy_of_large_logits_is_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[60000.0, -60000.0, 0.0], [3e4, 3e4, 3e4]], dtype=dtype)
    logits.requires_grad_()
    labels = torch.tensor([0, 2])
    losses = vocabulary_parallel_cross_entropy(logits, labels, TensorGroup())
    assert losses.tolist() == pytest.approx([0.0, torch.tensor(3.0).log().item()])
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and logits.grad.dtype is dtype
    assert logits.grad[0].tolist() == [0, 0, 0]


def test_sizes_that_do_not_divide() -> None:
    group = TensorGroup(object(), 0, 2)
    with pytest.raises(ValueError, match="vocab_size = 13 does not divide by tensor = 2"):
        VocabularyParallelEmbedding(13, 4, group)
    with pytest.raises(ValueError, match="outputs = 7 does not divide"):
        ColumnParallelLinear(4, 7, group)
    with pytest.raises(ValueError, match="rank 2 is not one of the 2"):
        TensorGroup(object(), 2, 2)
    with pytest.raises(ValueError, match="needs its process group"):
        TensorGroup(None, 0, 2)
