"""Head and cross entropy in one, against torch's own on whole weights, on one rank and on two."""

from typing import Any

import pytest
import torch
from distributed_ranks import run_ranks
from torch import Tensor, nn
from torch.nn import functional

from alpenglow.parallel.head_loss import head_cross_entropy, head_input
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.tensor import IGNORED_LABEL, TensorGroup
from alpenglow.parallel.weight_gradients import WeightGradients

TOKENS, WIDTH, VOCABULARY = 11, 6, 10


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=dtype)
    labels = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    labels[4] = IGNORED_LABEL
    # A token whose scores are far apart: probabilities underflow, the loss must not.
    hidden[7] *= 100
    return hidden, weight, labels


def expected(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight = (x.double().requires_grad_() for x in (hidden, weight))
    loss = functional.cross_entropy(hidden @ weight.t(), labels, reduction="sum")
    (3.0 * loss).backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


def found(
    states: Tensor, rows: Tensor, labels: Tensor, group: TensorGroup, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight = (nn.Parameter(x.clone()) for x in (states, rows))
    loss = head_cross_entropy(*head_input(hidden, weight, group), labels, group, chunk=chunk)
    (3.0 * loss).backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_loss_and_gradients(chunk: int) -> None:
    hidden, weight, labels = inputs(torch.float32)
    ours = found(hidden, weight, labels, TensorGroup(), chunk)
    for one, other in zip(ours, expected(hidden, weight, labels), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    hidden, weight, labels = inputs()
    hidden[7] /= 100  # in half precision the scores of large states are rounded to units
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    ours = found(hidden, weight, labels, TensorGroup(), 4)
    assert ours[0].dtype is torch.float32
    assert ours[1].dtype is ours[2].dtype is dtype
    for one, other in zip(ours, expected(hidden, weight, labels), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0.1, atol=0.1)


def test_without_gradients_and_twice_back() -> None:
    hidden, weight, labels = inputs(torch.float32)
    group = TensorGroup()
    with torch.no_grad():
        loss = head_cross_entropy(
            *head_input(hidden, nn.Parameter(weight), group), labels, group, chunk=4
        )
    assert loss.item() == pytest.approx(expected(hidden, weight, labels)[0].item(), rel=1e-6)
    again = head_cross_entropy(*head_input(hidden, nn.Parameter(weight), group), labels, group)
    again.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="goes back once"):
        again.backward()  # type: ignore[no-untyped-call]


def test_the_weight_pass_delivers_the_heads_gradient() -> None:
    hidden, weight, labels = inputs(torch.float32)
    group, parameter = TensorGroup(), nn.Parameter(weight.clone())
    later = group.weight_gradients = WeightGradients()
    later.open()
    x = hidden.clone().requires_grad_()
    (3.0 * head_cross_entropy(*head_input(x, parameter, group), labels, group, chunk=4)).backward()  # type: ignore[no-untyped-call]
    assert parameter.grad is None
    delivered: list[tuple[nn.Parameter, Tensor]] = []
    later.run(lambda whose, gradient: delivered.append((whose, gradient)))
    ((whose, gradient),) = delivered
    assert whose is parameter
    at_once = found(hidden, weight, labels, TensorGroup(), 4)
    assert torch.equal(gradient, at_once[2])
    assert x.grad is not None
    assert torch.equal(x.grad, at_once[1])


def worker(rank: int, size: int) -> list[Any]:
    group = TensorGroup.create(Layout(1, size, 1), rank)
    hidden, weight, labels = inputs(torch.float32)
    mine = weight.chunk(size)[rank]
    return [x.tolist() for x in found(hidden, mine, labels, group, 4)]


@pytest.mark.distributed
def test_split_vocabulary() -> None:
    hidden, weight, labels = inputs(torch.float32)
    loss, hidden_gradient, weight_gradient = expected(hidden, weight, labels)
    ranks = run_ranks(worker, 2)
    for rank in ranks:
        assert rank[0] == pytest.approx(loss.item(), rel=1e-6)
        torch.testing.assert_close(
            torch.tensor(rank[1], dtype=torch.float64), hidden_gradient, rtol=1e-5, atol=1e-4
        )
    joined = torch.tensor(ranks[0][2] + ranks[1][2], dtype=torch.float64)
    torch.testing.assert_close(joined, weight_gradient, rtol=1e-5, atol=1e-4)
