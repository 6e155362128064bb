"""Masked documents: a packed window is its documents, each computed alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alpenglow.model.config import ModelConfig
from alpenglow.model.documents import Documents, DocumentsError
from alpenglow.model.layers import AttentionKind
from alpenglow.model.stages import LocalModel, build_local

CONFIG = ModelConfig(
    num_layers=3, hidden_size=48, num_attention_heads=4, vocab_size=97, rotary_pct=0.5
)
LENGTHS = ((9, 1, 14), (1, 23), (24,))
"""Documents of each row of a micro-batch of windows of 24 tokens."""


def packed() -> tuple[Tensor, Tensor]:
    """Tokens and positions, int64 [3, 24]."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(CONFIG.vocab_size, (3, 24), generator=generator)
    rows = [torch.cat([torch.arange(n) for n in lengths]) for lengths in LENGTHS]
    return tokens, torch.stack(rows)


def model_of(kind: AttentionKind, documents: Documents | None) -> LocalModel:
    model = build_local(CONFIG, seed=1, attention=kind, documents=documents)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, which start at zero
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


@pytest.fixture(params=["plain", "sdpa"])
def kind(request: pytest.FixtureRequest) -> AttentionKind:
    chosen: AttentionKind = request.param
    return chosen


def test_packed_logits_are_those_of_each_document_alone(kind: AttentionKind) -> None:
    """fp32, other orders of summation: 2e-5 of logits of size 1."""
    tokens, positions = packed()
    documents = Documents()
    documents.load(positions[None])
    documents.select(0)
    together = model_of(kind, documents)(tokens)
    alone = model_of(kind, None)
    joined = alone(tokens)
    for row, lengths in enumerate(LENGTHS):
        begin = 0
        for length in lengths:
            part = slice(begin, begin + length)
            apart = alone(tokens[row : row + 1, part])[0]
            assert torch.allclose(together[row, part], apart, rtol=0, atol=2e-5)
            if begin:
                assert not torch.allclose(joined[row, part], apart, rtol=0, atol=1e-2)
            begin += length


def test_no_gradient_crosses_a_border(kind: AttentionKind) -> None:
    tokens, positions = packed()
    documents = Documents()
    documents.load(positions[None])
    documents.select(0)
    model = model_of(kind, documents)
    x = model.embedding(tokens).detach().requires_grad_()
    y = x
    for layer in model.layers:
        y = layer(y)
    for row, lengths in enumerate(LENGTHS):
        begin = 0
        for length in lengths:
            own = slice(begin, begin + length)
            (gradient,) = torch.autograd.grad(y[row, own].square().sum(), x, retain_graph=True)
            assert (gradient[row, own] != 0).any(dim=-1).all()
            gradient[row, own] = 0
            assert (gradient == 0).all()  # exactly
            begin += length


def test_each_micro_batch_has_its_own_borders(kind: AttentionKind) -> None:
    tokens, positions = packed()
    documents = Documents()
    model = model_of(kind, documents)
    documents.load(torch.stack([positions, positions.flip(0)]))
    documents.select(0)
    first = model(tokens)
    documents.select(1)
    second = model(tokens.flip(0))
    assert torch.equal(first, second.flip(0))
    documents.select(0)
    assert torch.equal(model(tokens), first)


def test_nobody_forgets_the_borders() -> None:
    documents = Documents()
    model = build_local(CONFIG, seed=1, documents=documents)
    with pytest.raises(DocumentsError, match="no micro-batch is selected"):
        model(packed()[0])
    with pytest.raises(DocumentsError, match="micro-batch 0 has no document borders"):
        documents.select(0)
    documents.load(packed()[1][None])
    with pytest.raises(DocumentsError, match="micro-batch 1 has no document borders"):
        documents.select(1)
    documents.select(0)
    documents.load(None)
    with pytest.raises(DocumentsError, match="no micro-batch is selected"):
        model(packed()[0])
