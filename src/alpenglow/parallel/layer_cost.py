"""Seconds of one transformer layer, of the embedding and of the head, for one micro-batch and rank.

Torch-free. A pass is its matrix products by shape (alpenglow.parallel.gemm), its kernels by bytes
(alpenglow.parallel.kernels) and its tensor-parallel collectives (alpenglow.parallel.collectives).
Products and kernels take no less than the host needs to start them. The shapes, with b s = tokens
and t tensor ranks (Shoeybi et al. 2019, arXiv 1909.08053): query, key, value [b s, 3h/t, h];
scores b a/t x [s, s, h/a]; context b a/t x [s, h/a, s]; projection [b s, h, h/t]; MLP [b s, f/t, h]
and [b s, h, f/t]; each again for the gradient of its input and of its weights.

Collectives: two all-reduces of b s h forward and two backward (one forward with parallel residual).
Under sequence parallelism each is a reduce-scatter and an all-gather of the same bytes, and the
backward pass gathers the inputs of the two widening products again (Korthikanti et al. 2022, arXiv
2205.05198, section 4.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from alpenglow.parallel import kernels
from alpenglow.parallel.collectives import Span, all_gather, all_reduce, reduce_scatter
from alpenglow.parallel.framework import Framework
from alpenglow.parallel.gemm import aligned_rows, gemm_seconds
from alpenglow.parallel.hardware import Gpu
from alpenglow.parallel.kernels import Kernels
from alpenglow.parallel.work import Sizes, Work

CHANNELS = 24
"""Multiprocessors that NCCL's kernel holds while it runs: its channels on an NVSwitch node."""


BLOCK = 128
"""Tokens of a block of fused attention."""


@dataclass(frozen=True)
class Pass:
    """Seconds of one pass, by what takes them."""

    products: float = 0.0
    kernels: float = 0.0
    host: float = 0.0
    """What the host's starting of operations adds to both."""
    tensor: float = 0.0
    """Tensor-parallel collectives, as far as nothing runs beside them."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.products + self.kernels + self.host + self.tensor

    def __add__(self, other: Pass) -> Pass:
        return Pass(
            self.products + other.products,
            self.kernels + other.kernels,
            self.host + other.host,
            self.tensor + other.tensor,
        )

    def __mul__(self, count: float) -> Pass:
        return Pass(
            self.products * count, self.kernels * count, self.host * count, self.tensor * count
        )


@dataclass(frozen=True)
class Passes:
    """What one micro-batch costs."""

    forward: Pass = Pass()
    recompute: Pass = Pass()
    inputs: Pass = Pass()
    """Backward pass without the gradients of the weights."""
    weights: Pass = Pass()

    @property
    def backward(self) -> Pass:
        """Recompute and both gradients."""
        return self.recompute + self.inputs + self.weights

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.forward + other.forward,
            self.recompute + other.recompute,
            self.inputs + other.inputs,
            self.weights + other.weights,
        )

    def __mul__(self, count: float) -> Passes:
        return Passes(
            self.forward * count,
            self.recompute * count,
            self.inputs * count,
            self.weights * count,
        )


@dataclass(frozen=True)
class _Linear:
    """A linear layer of a rank; forward [tokens, out, in]."""

    gpu: Gpu
    tokens: int
    wide: int
    deep: int
    size: int
    kept: int
    fused: bool

    autocast: bool = False

    def forward(self) -> float:
        return gemm_seconds(
            self.gpu, self.tokens, self.wide, self.deep, size=self.size, transposed=True
        )

    def inputs(self) -> float:
        return gemm_seconds(self.gpu, self.tokens, self.deep, self.wide, size=self.size)

    def weights(self) -> float:
        moved = 2.0 * self.kept if self.fused else 0.0
        return gemm_seconds(self.gpu, self.wide, self.deep, self.tokens, size=self.size, out=moved)

    def casts(self) -> Kernels:
        return Kernels().add((4 + self.size) * self.wide * self.deep if self.autocast else 0.0)

    def sums(self) -> Kernels:
        if self.fused:
            return Kernels()
        count = self.wide * self.deep
        if self.autocast:
            return Kernels().add((4 + self.size) * count, kernels.accumulation(count, 4, 4))
        return Kernels().add(kernels.accumulation(count, self.size, self.kept))


def _pass(gpu: Gpu, products: float, count: int, own: Kernels, tensor: float = 0.0) -> Pass:
    streamed = own.seconds(gpu)
    host = (count + len(own)) * gpu.host_s
    return Pass(products, streamed, max(0.0, host - products - streamed), tensor)


def beside(gpu: Gpu, products: float, moved: float) -> float:
    """Seconds that collectives add to products which run beside them."""
    share = max(0.5, 1 - CHANNELS / gpu.multiprocessors)
    return moved - share * min(moved, products / share)


@lru_cache(maxsize=4096)
def layer_passes(model: Sizes, work: Work, gpu: Gpu, span: Span, how: Framework) -> Passes:
    """Time one transformer layer.

    Args:
        model: the architecture.
        work: micro-batch, sequence, precision, attention, recompute.
        gpu: its constants.
        span: of the tensor group.
        how: the framework.
    """
    t, h, size = span.ranks, model.hidden_size, work.size
    tokens, kept = work.tokens, work.gradient_size
    numel = float(tokens * h)
    own = numel / (t if work.sequence_parallel else 1)

    def linear(wide: int, deep: int) -> _Linear:
        return _Linear(gpu, tokens, wide, deep, size, kept, how.fused_accumulation, how.autocast)

    ffn = model.intermediate_size // t
    linears = [linear(3 * h // t, h), linear(h, h // t), linear(ffn, h), linear(h, ffn)]
    core = _core(model, work, gpu, t, how)

    branches = 2 if model.use_parallel_residual else 1
    meet = kernels.residual(own, size, fused=how.fused, dropout=how.dropout, inputs=branches)
    around = [
        *[kernels.norm(own, size)] * 2,
        *[meet] * (2 // branches),
        kernels.gelu(float(tokens * ffn), size, fused=how.fused),
    ]
    forth, back = (kernels.total(pair[i] for pair in around) for i in (0, 1))
    forth.add(2 * 3 * numel / t * size)  # the bias of query, key, value
    forth = kernels.total([forth, *(each.casts() for each in linears)])
    back.add(3 * numel / t * size)
    out, gathered, scattered = _collectives(numel * size, work, span)
    count = 1 if model.use_parallel_residual else 2

    forward = _pass(gpu, sum(each.forward() for each in linears), 4, forth, count * out)
    weights = _pass(
        gpu,
        sum(each.weights() for each in linears),
        4,
        kernels.total(each.sums() for each in linears),
    )
    moved = 2 * out + (2 * gathered if work.sequence_parallel else 0.0)
    if how.overlap_tensor and t > 1:
        # The sum of a widening layer's input gradient beside its weight gradient; its gathered
        # input beside its input gradient. The other half waits for what it moves.
        wide = linears[0], linears[2]
        hidden = scattered if work.sequence_parallel else out
        alone = 2 * gathered if work.sequence_parallel else 0.0
        moved = alone + beside(gpu, sum(each.weights() for each in wide), 2 * hidden)
        if work.sequence_parallel:
            moved += beside(gpu, sum(each.inputs() for each in wide), 2 * gathered)
    inputs = _pass(gpu, sum(each.inputs() for each in linears), 4, back, moved)
    again = Pass()
    if work.recompute == "full":
        again = forward + core.forward
    elif work.recompute == "selective" and work.attention == "plain":
        again = core.forward
    return Passes(forward, again, inputs, weights) + core


def _collectives(nbytes: float, work: Work, span: Span) -> tuple[float, float, float]:
    """Behind a pair of products forward or backward; an all-gather; a reduce-scatter."""
    gathered, scattered = all_gather(nbytes, span), reduce_scatter(nbytes, span)
    whole = gathered + scattered if work.sequence_parallel else all_reduce(nbytes, span)
    return whole, gathered, scattered


def _core(model: Sizes, work: Work, gpu: Gpu, t: int, how: Framework) -> Passes:
    """Attention without its linear layers."""
    s, size, h = work.sequence_length, work.size, model.hidden_size
    heads = max(1, work.micro_batch_size * model.num_attention_heads // t)
    each = h // model.num_attention_heads
    shared = float(work.tokens * h) / t * size
    forth = Kernels().add(4 * shared if how.rotary else 0.0)
    back = Kernels().add(4 * shared if how.rotary else 0.0, 6 * shared)
    if work.attention != "plain":
        # Masked blocks are skipped, those on the diagonal are not; backward has five products for
        # two.
        blocks = -(-s // BLOCK)
        seen = 1.0 if work.masked else (blocks + 1) / (2 * blocks)
        once = 2 * 2.0 * heads * s * s * each * seen
        reached = gpu.rate * gpu.fused_attention
        forward = gpu.kernel_s + once / reached
        return Passes(
            forward=_pass(gpu, forward, 1, forth),
            inputs=_pass(gpu, gpu.kernel_s + 2.5 * once / reached, 1, back),
        )
    scores = float(heads * s * s)
    inner = kernels.softmax(scores, size, fused=how.fused, dropout=how.dropout)
    forth = kernels.total([forth, inner[0]]).add(2 * shared)
    back = kernels.total([back, inner[1]])
    aligned = aligned_rows(size, s, each)
    times = [
        gemm_seconds(gpu, s, s, each, batch=heads, size=size, transposed=True, aligned=aligned),
        gemm_seconds(gpu, s, each, s, batch=heads, size=size, aligned=aligned),
    ]
    # Gradients: of the scores' two factors, and of the context's.
    gradients = [2 * times[1], times[0], times[1]]
    return Passes(
        forward=_pass(gpu, sum(times), 2, forth),
        inputs=_pass(gpu, sum(gradients), 4, back),
    )


@lru_cache(maxsize=1024)
def embedding_passes(model: Sizes, work: Work, gpu: Gpu, span: Span, how: Framework) -> Passes:
    """Time the embedding; arguments as `layer_passes`."""
    t, size = span.ranks, work.size
    numel = float(work.tokens * model.hidden_size)
    own = numel / (t if work.sequence_parallel else 1)
    table = model.vocab_size * model.hidden_size / t
    forth = Kernels().add(2 * numel * size)
    back = Kernels().add(2 * numel * size)
    if t > 1:
        forth.add(2 * numel * size)  # rows of other ranks are cleared
    if not how.rotary:
        forth.add(3 * numel * size)
    if how.dropout:
        forth.add(own * (2 * size + 1))
        back.add(own * (2 * size + 1))
    # The gradient is a whole table for each micro-batch.
    back.add(table * size, kernels.accumulation(table, size, work.gradient_size))
    _, gathered, scattered = _collectives(numel * size, work, span)
    whole = scattered if work.sequence_parallel else all_reduce(numel * size, span)
    return Passes(
        forward=_pass(gpu, 0.0, how.loads, forth, whole),
        inputs=_pass(gpu, 0.0, 0, back, gathered if work.sequence_parallel else 0.0),
    )


@lru_cache(maxsize=1024)
def head_passes(model: Sizes, work: Work, gpu: Gpu, span: Span, how: Framework) -> Passes:
    """Time the final norm, the head and the loss; arguments as `layer_passes`."""
    t, h, size = span.ranks, model.hidden_size, work.size
    numel = float(work.tokens * h)
    own = numel / (t if work.sequence_parallel else 1)
    each = _Linear(
        gpu,
        work.tokens,
        model.vocab_size // t,
        h,
        size,
        work.gradient_size,
        how.fused_accumulation,
        how.autocast,
    )
    norm = kernels.norm(own, size)
    logits = float(work.tokens) * (model.vocab_size // t)
    loss = kernels.cross_entropy(logits, size, fused=how.fused_loss)
    forth, back = (kernels.total([norm[i], loss[i]]) for i in (0, 1))
    forth = kernels.total([forth, each.casts()])
    # Row maximum, the label's logit and the sum of exponentials meet, in fp32.
    small = 3 * all_reduce(4.0 * work.tokens, span)
    _, gathered, scattered = _collectives(numel * size, work, span)
    if work.sequence_parallel:
        before, after = gathered, scattered + gathered
    else:
        before, after = 0.0, all_reduce(numel * size, span)
    return Passes(
        forward=_pass(gpu, each.forward(), 1 + how.loads, forth, small + before),
        inputs=_pass(gpu, each.inputs(), 1, back, after),
        weights=_pass(gpu, each.weights(), 1, each.sums()),
    )
