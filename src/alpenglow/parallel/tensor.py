"""Layers whose matrices are shared among the ranks of a tensor parallel group.

The scheme is Megatron-LM's (Shoeybi et al. 2019, arXiv 1909.08053, section 3): a column-parallel
matrix widens without communication, a row-parallel one comes back with one all-reduce; the
vocabulary is split for the embedding, for the head and inside the cross entropy, so that full
logits exist on no rank. Split weights carry `model_parallel = True`, by which DeepSpeed counts
whole tensors once in the global gradient norm.

    group = TensorGroup.create(layout, rank, recorder=recorder, comm=deepspeed.comm)
    hidden = RowParallelLinear(4 * h, h, group)(gelu(ColumnParallelLinear(h, 4 * h, group)(x)))
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.weight_gradients import WeightGradients, embedding, linear
from alpenglow_profiling.events import Kind, NullRecorder, SpanRecorder

IGNORED_LABEL = -100
"""A label that counts neither in the loss nor in the gradient (torch's default as well)."""


class TensorGroup:
    """One tensor parallel group as a rank of it sees it.

    Args:
        group: the process group; None for a group of one, which never communicates.
        rank: place in the group.
        size: ranks in the group.
        recorder: gets a span of kind tensor_reduce around each all-reduce.
        comm: module whose `all_reduce` is called. DeepSpeed's communication log counts only what
            goes through `deepspeed.comm`, so training passes that; default torch.distributed.
        group_id: number of this group in the recorder's rows.
    """

    def __init__(
        self,
        group: Any = None,
        rank: int = 0,
        size: int = 1,
        recorder: SpanRecorder | None = None,
        *,
        comm: Any = torch.distributed,
        group_id: int = -1,
    ) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} is not one of the {size} ranks of a tensor group")
        if size > 1 and group is None:
            raise ValueError(f"a tensor group of {size} ranks needs its process group")
        self.group = group
        self.rank = rank
        self.size = size
        self.recorder: SpanRecorder = NullRecorder() if recorder is None else recorder
        self.group_id = group_id
        self.weight_gradients: WeightGradients | None = None
        """Where the layers leave weight gradients for later; None computes them with the rest."""
        self._comm = comm

    @classmethod
    def create(
        cls,
        layout: Layout,
        rank: int,
        recorder: SpanRecorder | None = None,
        *,
        comm: Any = torch.distributed,
    ) -> TensorGroup:
        """Make the process groups of a layout and return this rank's.

        Collective: every rank calls it, after the process group of the job is there and before
        the first layer is built. `group_id` numbers the groups as `layout.tensor_groups()` does.
        """
        mine = cls(recorder=recorder)
        if layout.tensor == 1:
            return mine
        for index, ranks in enumerate(layout.tensor_groups()):
            group = comm.new_group(ranks)
            if rank in ranks:
                place = ranks.index(rank)
                mine = cls(group, place, layout.tensor, recorder, comm=comm, group_id=index)
        return mine

    def __repr__(self) -> str:
        return f"TensorGroup(rank={self.rank}, size={self.size})"

    def all_reduce(self, tensor: Tensor, *, maximum: bool = False) -> Tensor:
        """Reduce in place over the group, outside autograd; returns the same tensor."""
        if self.size == 1:
            return tensor
        operation = torch.distributed.ReduceOp.MAX if maximum else torch.distributed.ReduceOp.SUM
        payload = tensor.numel() * tensor.element_size()
        with self.recorder.span(Kind.TENSOR_REDUCE, bytes=payload, group=self.group_id):
            self._comm.all_reduce(tensor, op=operation, group=self.group)
        return tensor

    def gather_last(self, tensor: Tensor) -> Tensor:
        """Join the ranks' tensors along the last dimension, outside autograd."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(parts, tensor.contiguous(), group=self.group)
        return torch.cat(parts, dim=-1)

    def copy_in(self, tensor: Tensor) -> Tensor:
        """Identity forward, all-reduce backward: before a column-parallel product."""
        return tensor if self.size == 1 else _CopyIn.apply(tensor, self)

    def reduce_out(self, tensor: Tensor) -> Tensor:
        """All-reduce forward (in place), identity backward: after a row-parallel product."""
        return tensor if self.size == 1 else _ReduceOut.apply(tensor, self)

    def share(self, total: int, what: str) -> int:
        """Size of this rank's part of a dimension.

        Raises:
            ValueError: `total` does not divide by the size of the group.
        """
        if total % self.size:
            raise ValueError(f"{what} = {total} does not divide by tensor = {self.size}")
        return total // self.size


class _CopyIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # A gradient may be shared with another branch of the graph, so it is not reduced in place.
        return ctx.group.all_reduce(gradients[0].clone().contiguous()), None


class _ReduceOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: TensorGroup) -> Tensor:
        if tensor.is_contiguous():
            ctx.mark_dirty(tensor)
        return group.all_reduce(tensor.contiguous())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _split(tensor: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(tensor)
    parameter.model_parallel = True  # type: ignore[attr-defined]  # DeepSpeed's norm reads it
    return parameter


class ColumnParallelLinear(nn.Module):
    """y = x A^T + b with the rows of A (and b) split: each rank makes its columns of y.

    Weight [outputs / size, inputs] and bias [outputs / size] are left uninitialised.
    """

    def __init__(self, inputs: int, outputs: int, group: TensorGroup, *, bias: bool = True) -> None:
        super().__init__()
        self.group = group
        rows = group.share(outputs, "outputs")
        self.weight = _split(torch.empty(rows, inputs))
        self.bias = _split(torch.empty(rows)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs], equal on all ranks -> [..., outputs / size]."""
        inputs = self.group.copy_in(x)
        return linear(inputs, self.weight, self.bias, self.group.weight_gradients)


class RowParallelLinear(nn.Module):
    """y = x A^T + b with the columns of A split; b is whole and added once, after the reduce.

    Weight [outputs, inputs / size] and bias [outputs] are left uninitialised.
    """

    def __init__(self, inputs: int, outputs: int, group: TensorGroup) -> None:
        super().__init__()
        self.group = group
        self.weight = _split(torch.empty(outputs, group.share(inputs, "inputs")))
        self.bias = nn.Parameter(torch.empty(outputs))

    def partial(self, x: Tensor) -> Tensor:
        """This rank's summand of the product, neither reduced nor with the bias."""
        return linear(x, self.weight, None, self.group.weight_gradients)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs / size] -> [..., outputs], equal on all ranks."""
        if self.group.size == 1:
            return linear(x, self.weight, self.bias, self.group.weight_gradients)
        return self.group.reduce_out(self.partial(x)) + self.bias


class VocabularyParallelEmbedding(nn.Module):
    """Embedding whose vocabulary rows are split; `logits` is the tied head.

    Weight [vocabulary / size, width] is left uninitialised.
    """

    def __init__(self, vocabulary: int, width: int, group: TensorGroup) -> None:
        super().__init__()
        self.group = group
        self.rows = group.share(vocabulary, "vocab_size")
        self.weight = _split(torch.empty(self.rows, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] -> [..., width], equal on all ranks."""
        if self.group.size == 1:
            return embedding(tokens, self.weight, self.group.weight_gradients)
        local = tokens - self.group.rank * self.rows
        elsewhere = (local < 0) | (local >= self.rows)
        rows = local.masked_fill(elsewhere, 0)
        found = embedding(rows, self.weight, self.group.weight_gradients)
        return self.group.reduce_out(found.masked_fill(elsewhere.unsqueeze(-1), 0.0))

    def logits(self, x: Tensor) -> Tensor:
        """[..., width], equal on all ranks -> [..., vocabulary / size]."""
        return linear(self.group.copy_in(x), self.weight, None, self.group.weight_gradients)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, group: TensorGroup) -> Tensor:
        scores = logits.float()
        rows = scores.shape[-1]
        highest = group.all_reduce(scores.amax(dim=-1), maximum=True)
        scores = scores - highest.unsqueeze(-1)
        local = labels - group.rank * rows
        elsewhere = (local < 0) | (local >= rows)  # IGNORED_LABEL is elsewhere on every rank
        local = local.masked_fill(elsewhere, 0)
        target = scores.gather(-1, local.unsqueeze(-1)).squeeze(-1).masked_fill(elsewhere, 0.0)
        exponents = scores.exp_()
        target, total = group.all_reduce(torch.stack([target, exponents.sum(dim=-1)]))
        ignored = labels == IGNORED_LABEL
        ctx.save_for_backward(exponents.div_(total.unsqueeze(-1)), local, elsewhere, ignored)
        ctx.dtype = logits.dtype
        losses: Tensor = (total.log() - target).masked_fill(ignored, 0.0)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        probabilities, local, elsewhere, ignored = ctx.saved_tensors
        gradient = probabilities.clone()
        at_label = torch.where(elsewhere, 0.0, -1.0).to(gradient.dtype)
        gradient.scatter_add_(-1, local.unsqueeze(-1), at_label.unsqueeze(-1))
        gradient *= gradients[0].masked_fill(ignored, 0.0).unsqueeze(-1)
        return gradient.to(ctx.dtype), None, None


def vocabulary_parallel_cross_entropy(logits: Tensor, labels: Tensor, group: TensorGroup) -> Tensor:
    """Cross entropy of each position from split logits, computed in fp32.

    Two all-reduces of one number a position (the maximum; then target logit and sum of
    exponentials together) stand for a gather of the logits: Shoeybi et al. 2019, section 3.

    Args:
        logits: [..., V / size], this rank's columns.
        labels: int64 [...], equal on all ranks; `IGNORED_LABEL` gives loss 0 and no gradient.
        group: the tensor group.

    Returns:
        fp32 [...], equal on all ranks.
    """
    return _CrossEntropy.apply(logits, labels, group)  # type: ignore[no-any-return]
