"""Kernels that are as long as their bytes: norms, residuals, softmax, GELU, loss, optimizer.

Torch-free. Each entry is a kernel's bytes; it takes them at the streaming bandwidth, or the least
time of a kernel. Two forms: `fused`, where a bias, an activation, dropout and a residual are one
kernel, and scale, mask and softmax another (Narayanan et al. 2021, arXiv 2104.04473, section 4.2);
else one kernel for each operation of the framework, and the softmax in fp32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from alpenglow.parallel.hardware import Gpu


@dataclass
class Kernels:
    """Bytes of kernels, one after the other."""

    sizes: list[float] = field(default_factory=list)

    def add(self, *nbytes: float) -> Kernels:
        """Append kernels of so many bytes each; kernels of none are not run."""
        self.sizes += [size for size in nbytes if size > 0]
        return self

    def seconds(self, gpu: Gpu) -> float:
        """Time of all of them."""
        return sum(gpu.kernel_s + size / gpu.bandwidth for size in self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)


def norm(numel: float, size: int) -> tuple[Kernels, Kernels]:
    """Layer norm: forward; backward with the kernel that sums the weights' gradients."""
    return Kernels().add(2 * numel * size), Kernels().add(3 * numel * size, 2 * numel * size)


def residual(
    numel: float, size: int, *, fused: bool, dropout: bool, inputs: int = 1
) -> tuple[Kernels, Kernels]:
    """Bias, dropout and sum with the residual stream of `inputs` branches; forward, backward."""
    mask = 1 if dropout else 0
    forward, backward = Kernels(), Kernels()
    if fused:
        forward.add(numel * ((2 + inputs) * size + inputs * mask))
        # The branch's gradient through the mask, then the sum over tokens for the bias.
        for _ in range(inputs):
            backward.add(numel * (2 * size + 1) if dropout else 0.0, numel * size)
    else:
        for _ in range(inputs):
            forward.add(2 * numel * size, numel * (2 * size + 1) * mask, 3 * numel * size)
            backward.add(numel * (2 * size + 1) * mask, numel * size)
    # The gradient of the stream meets that of the branch.
    backward.add(*[3 * numel * size] * inputs)
    return forward, backward


def gelu(numel: float, size: int, *, fused: bool) -> tuple[Kernels, Kernels]:
    """Bias and GELU; forward, backward with the bias's sum."""
    forward = Kernels().add(2 * numel * size)
    backward = Kernels().add(3 * numel * size, numel * size)
    if not fused:
        forward.add(2 * numel * size)
    return forward, backward


def softmax(scores: float, size: int, *, fused: bool, dropout: bool) -> tuple[Kernels, Kernels]:
    """Scale, mask, softmax and dropout of attention's scores; forward, backward."""
    forward, backward = Kernels(), Kernels()
    if fused:
        forward.add(2 * scores * size)
        backward.add(3 * scores * size)
    else:
        wide = (size + 4) * scores  # the softmax itself goes to fp32, a cast comes back
        forward.add(2 * scores * size, 2 * scores * size, wide, wide)
        backward.add(wide, (8 + size) * scores, 2 * scores * size, 2 * scores * size)
    if dropout:
        forward.add(scores * (2 * size + 1))
        backward.add(scores * (2 * size + 1))
    return forward, backward


def cross_entropy(logits: float, size: int, *, fused: bool = False) -> tuple[Kernels, Kernels]:
    """Loss over logits in fp32: forward; backward. Of vocabulary-parallel logits as of whole ones.

    Cast, row maximum, difference, exponential and its sum, quotient; the gradient and its cast.
    Fused: one kernel reads the logits as they are, one more writes their gradient over them.
    """
    if fused:
        return Kernels().add(size * logits), Kernels().add(2 * size * logits)
    forward = Kernels().add((size + 4) * logits, 4 * logits, 8 * logits, 12 * logits, 8 * logits)
    return forward, Kernels().add(8 * logits, (size + 4) * logits)


def accumulation(parameters: float, size: int, kept: int) -> float:
    """Bytes with which a micro-batch's gradients join the sum: read both, write one."""
    return parameters * (size + 2 * kept)


def optimizer_bytes(parameters: float, shard: float, size: int, kept: int) -> list[float]:
    """Kernels of mixed-precision Adam (Apex's multi-tensor form), as bytes.

    Args:
        parameters: of the rank.
        shard: those whose state it keeps.
        size: bytes of a weight.
        kept: bytes of a gradient.

    Gradients go to fp32, are unscaled and tested, their norm is taken, they are clipped; Adam reads
    and writes the master weight and both moments; the weights are cast; gradients are cleared.
    """
    copy = (kept + 4) * shard if kept < 4 else 0.0
    cast = (4 + size) * shard if size < 4 else 0.0
    return [copy, 8 * shard, 4 * shard, 8 * shard, 28 * shard, cast, kept * parameters]


def total(kernels: Iterable[Kernels]) -> Kernels:
    """All of them as one sequence."""
    return Kernels([size for each in kernels for size in each.sizes])
