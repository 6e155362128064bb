"""Attention, rotary positions, half precision, and loading."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from alpenglow.model.config import ModelConfig
from alpenglow.model.layers import rotary_table
from alpenglow.model.proof import cut, random_weights
from alpenglow.model.rotary import split_heads
from alpenglow.model.stages import LocalModel, build_local, loss_function
from alpenglow.parallel.head_loss import CHUNK_BYTES
from alpenglow.parallel.tensor import IGNORED_LABEL

CONFIG = ModelConfig(
    num_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=96, rotary_pct=0.5
)


@pytest.fixture(params=["plain", "sdpa"])
def model(request: pytest.FixtureRequest) -> LocalModel:
    model = build_local(CONFIG, attention=request.param)
    weights = random_weights(CONFIG)
    model.load_global(lambda name, part: cut(weights[name], part))
    return model


def test_the_future_does_not_show(model: LocalModel) -> None:
    tokens = torch.arange(20).view(1, 20)
    changed = tokens.clone()
    changed[0, 12] = 50
    with torch.no_grad():
        one, other = model(tokens), model(changed)
    assert torch.equal(one[:, :12], other[:, :12])
    assert not torch.allclose(one[:, 12:], other[:, 12:])


def halves(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """The rotation as the paper of GPT-NeoX writes it: x cos + (-high, low) sin."""
    ndims = cosine.shape[-1]
    low, high = x[..., :ndims].chunk(2, dim=-1)
    turned = x[..., :ndims] * cosine + torch.cat((-high, low), dim=-1) * sine
    return torch.cat((turned, x[..., ndims:]), dim=-1)


@pytest.mark.parametrize("own_positions", [False, True])
def test_heads_are_split_and_turned_with_their_gradients(own_positions: bool) -> None:
    """Against the plain formula under autograd, in fp64; positions for all or for each sequence."""
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(2, 6, 3 * 3 * 8, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, 2, 3, 6, 8, generator=generator, dtype=torch.float64)
    cosine, sine = rotary_table(6, 4, 10000, torch.float64, torch.device("cpu"))
    if own_positions:
        places = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
        cosine, sine = cosine[places].unsqueeze(1), sine[places].unsqueeze(1)

    def plain(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = x.view(2, 6, 3, 24).transpose(1, 2).chunk(3, dim=-1)
        return halves(query, cosine, sine), halves(key, cosine, sine), value

    found = []
    for way in (plain, lambda x: split_heads(x, 8, cosine, sine)):
        x = packed.clone().requires_grad_()
        parts = torch.stack(list(way(x)))
        (parts * weights).sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        found.append((parts.detach(), x.grad))
    torch.testing.assert_close(found[1], found[0])


def test_rotation_depends_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator)
    table = rotary_table(64, 4, 10000, torch.float32, torch.device("cpu"))

    def score(at: int, behind: int) -> float:
        packed = torch.cat((query, key, key), dim=-1).flatten(1).expand(1, 64, 24)
        q, k, _ = split_heads(packed, 8, *table)
        return float((q[0, 0, at] * k[0, 0, behind]).sum())

    assert score(10, 4) == pytest.approx(score(50, 44), abs=1e-5)
    assert score(10, 4) != pytest.approx(score(10, 9), abs=1e-3)


def test_rotary_table_made_in_inference_serves_training() -> None:
    model = build_local(replace(CONFIG, rotary_emb_base=9999), seed=1)
    tokens = torch.arange(10).view(1, 10)
    with torch.inference_mode():
        model(tokens)
    model(tokens).sum().backward()


@pytest.mark.parametrize("tied", [False, True])
def test_the_fused_loss_is_the_plain_one(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and every gradient, with ignored labels, over seven chunks, the last one short."""
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 4 * 96 * 7)
    config = replace(CONFIG, tie_word_embeddings=tied)
    weights = random_weights(config)
    tokens = torch.arange(46).view(2, 23)
    labels = (tokens * 7 + 1) % 96
    labels[0, 5:9] = IGNORED_LABEL
    found = []
    for kind in ("plain", "fused"):
        model = build_local(config, attention="sdpa", loss=kind)
        model.load_global(lambda name, part: cut(weights[name], part))
        loss = loss_function(config, model.group)(model(tokens), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((loss.item(), {n: p.grad for n, p in model.named_parameters()}))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near(dtype: torch.dtype) -> None:
    whole, half = build_local(CONFIG, seed=1), build_local(CONFIG, seed=1).to(dtype)
    tokens = torch.arange(48).view(2, 24)
    labels = tokens + 1
    loss_of = loss_function(CONFIG, whole.group)
    losses = []
    for model in (whole, half):
        loss = loss_of(model(tokens), labels)
        (loss * 128.0).backward()  # type: ignore[no-untyped-call]
        assert loss.dtype is torch.float32
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=2e-2)


def test_loss_leaves_out_ignored_labels() -> None:
    model = build_local(CONFIG, seed=1)
    loss_of = loss_function(CONFIG, model.group)
    tokens = torch.arange(24).view(1, 24)
    labels = (tokens + 1) % 96
    masked = labels.clone()
    masked[0, 10:] = IGNORED_LABEL
    logits = model(tokens)
    assert loss_of(logits, masked).item() == pytest.approx(
        loss_of(logits[:, :10], labels[:, :10]).item(), abs=1e-6
    )
    assert loss_of(logits, torch.full_like(labels, IGNORED_LABEL)).item() == 0.0


def test_wrong_shapes_are_named() -> None:
    model = build_local(CONFIG)
    with pytest.raises(ValueError, match=r"embed_in.weight: got \[3\], want \[96, 32\]"):
        model.load_global(lambda name, part: torch.zeros(3))
    with pytest.raises(ValueError, match="logits have 48 columns, not 96"):
        loss_function(CONFIG, model.group)(torch.zeros(1, 2, 48), torch.zeros(1, 2).long())
    with pytest.raises(ValueError, match="attention = 'flash'"):
        build_local(CONFIG, attention="flash")  # type: ignore[arg-type]
