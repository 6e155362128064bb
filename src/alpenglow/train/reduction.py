"""Reduction of gradients over the replicas, bucket by bucket, inside the step's last backward.

DeepSpeed's pipeline engine reduces a stage's gradients when its last backward has ended, so that
stage 0's reduction (under ZB-H1 nearly every stage's) lies bare at the end of the step; and its
ZeRO-1 all-reduces buckets although each rank keeps one partition of the sum. Here the gradients of
a parameter group live in one flat tensor that lies like ZeRO's partitions (no copy, no buffer). As
soon as the last micro-batch has given every gradient of a bucket, each owner's part of it is
reduced to that owner alone, in the background: (D - 1)/D of the bytes once instead of twice, hidden
behind the rest of the backward. What is not done when the instruction ReduceGrads comes is waited
for there, and only that wait is the exposed reduction.

A sum of D gradients in fp16 may overflow, and gradients divided by D first may vanish: with
`predivide` f they are divided by f before the sum and by D / f after it (as DeepSpeed's
`gradient_predivide_factor`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

BUCKET = 25_000_000
"""Most elements of a bucket: large enough to fill a link, small enough to begin early."""
BUCKETS = 8
"""Least buckets of a stage: the last one is always exposed."""

Reduce = Callable[[Tensor, int], Any]
"""Begins the sum of a tensor at a data rank, in place; returns what has `wait()`."""


@dataclass
class _Bucket:
    """Neighbouring parameters of one group, reduced together."""

    group: int
    start: int
    stop: int
    waiting: int
    """Parameters whose gradient the last micro-batch has not given yet."""
    parameters: int
    late: bool
    """Holds a tied parameter, whose gradient is summed over its copies after the last backward."""
    pending: list[tuple[Any, Tensor, Tensor | None]] = field(default_factory=list)


class GradientReduction:
    """The flat gradients of a stage and their sums over the data-parallel replicas.

    Args:
        optimizer: DeepSpeed's ZeRO-1 optimizer, freshly made.
        reduce: sums a tensor at one data rank.
        rank, size: this data rank, of how many.
        bucket: most elements of a bucket, if no single parameter has more.
        predivide: what gradients are divided by before they are summed; None: by `size`.
        dtype: what travels; None: what gradients are kept in.
        late: parameters that are not final when the last backward gives them.
    """

    def __init__(
        self,
        optimizer: Any,
        reduce: Reduce,
        *,
        rank: int,
        size: int,
        bucket: int = BUCKET,
        predivide: float | None = None,
        dtype: torch.dtype | None = None,
        late: frozenset[nn.Parameter] = frozenset(),
    ) -> None:
        self.optimizer = optimizer
        self.rank = rank
        self.size = size
        self.last = False
        """Whether the gradients that come now complete this step's."""
        self._reduce = reduce
        self._before = float(size if predivide is None else predivide)
        self._travels = dtype
        self._separate = bool(optimizer.use_grad_accum_attribute)
        self._flat = [
            torch.zeros_like(flat, dtype=optimizer.gradient_accumulation_dtype)
            for flat in optimizer.bit16_groups_flat
        ]
        self._views: dict[nn.Parameter, Tensor] = {}
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        most = min(bucket, sum(flat.numel() for flat in self._flat) // BUCKETS)
        self._buckets = [
            made for group in range(len(self._flat)) for made in self._divide(group, most, late)
        ]
        for parameter in self._views:
            parameter.register_post_accumulate_grad_hook(self.ready)

    @property
    def nbytes(self) -> int:
        """Bytes of gradients that are reduced in a step."""
        wide = None if self._travels is None else self._travels.itemsize
        return sum(flat.numel() * (wide or flat.element_size()) for flat in self._flat)

    def begin(self) -> None:
        """Give every parameter its place in the flat gradients, at zero; before a step."""
        self.last = False
        for flat in self._flat:
            flat.zero_()
        for parameter, view in self._views.items():
            if self._separate:
                parameter.grad_accum = view  # type: ignore[attr-defined]
            else:
                parameter.grad = view
        for bucket in self._buckets:
            bucket.waiting = bucket.parameters

    def ready(self, parameter: nn.Parameter) -> None:
        """Take note that a micro-batch has given its gradient of `parameter`."""
        if not self.last:
            return
        bucket = self._bucket_of[parameter]
        bucket.waiting -= 1
        if bucket.waiting == 0 and not bucket.late:
            self._launch(bucket)

    def finish(self) -> None:
        """Wait for every sum and hand this rank's partition to the optimizer."""
        if self.size > 1:
            for bucket in self._buckets:
                # A parameter that no micro-batch reached has a gradient of zero on every rank.
                if bucket.late or bucket.waiting > 0:
                    self._launch(bucket)
            for bucket in self._buckets:
                self._settle(bucket)
        optimizer = self.optimizer
        for group, parameters in enumerate(optimizer.params_in_partition):
            dtype = optimizer.gradient_accumulation_dtype
            optimizer.all_grad_tensors[group] = optimizer.get_all_grad_tensors(parameters, dtype)
            optimizer.averaged_gradients[group] = optimizer.get_flat_partition(
                parameters,
                optimizer.first_offset[group],
                optimizer.partition_size[group],
                dtype=dtype,
                device=self._flat[group].device,
                param_group_idx=group,
                return_tensor_list=True,
            )
            optimizer.all_grad_tensors[group] = None
        self.last = False

    def _divide(self, group: int, size: int, late: frozenset[nn.Parameter]) -> Iterator[_Bucket]:
        """Cut a group into buckets of at least `size` elements, the last parameters first.

        The backward pass comes to them first.
        """
        parameters = self.optimizer.round_robin_bit16_groups[group]
        offsets = [int(o) for o in self.optimizer.round_robin_bit16_offsets[group]]
        flat = self._flat[group]
        stop, members = flat.numel(), []
        for parameter, offset in zip(reversed(parameters), reversed(offsets), strict=True):
            self._views[parameter] = flat[offset : offset + parameter.numel()].view_as(parameter)
            members.append(parameter)
            if stop - offset >= size or offset == 0:
                tied = any(member in late for member in members)
                bucket = _Bucket(group, offset, stop, len(members), len(members), tied)
                self._bucket_of |= dict.fromkeys(members, bucket)
                yield bucket
                stop, members = offset, []

    def _launch(self, bucket: _Bucket) -> None:
        if self.size == 1:
            return
        flat = self._flat[bucket.group]
        share = int(self.optimizer.partition_size[bucket.group])
        bucket.waiting = -1
        for owner in range(bucket.start // share, -(-bucket.stop // share)):
            begin = max(bucket.start, owner * share)
            part = flat[begin : min(bucket.stop, (owner + 1) * share)]
            part.div_(self._before)
            moved = None
            if self._travels is not None and self._travels != part.dtype:
                moved = part.to(self._travels)
            work = self._reduce(part if moved is None else moved, owner)
            bucket.pending.append((work, part, moved if owner == self.rank else None))

    def _settle(self, bucket: _Bucket) -> None:
        for work, part, moved in bucket.pending:
            work.wait()
            if moved is not None:
                part.copy_(moved)
            if self._before != self.size:
                part.mul_(self._before / self.size)
        bucket.pending.clear()
