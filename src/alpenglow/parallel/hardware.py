"""A machine as the cost of a step sees it: a GPU's few constants, and the links of its node.

Torch-free. Read from a machine file: `[peak_flops]`, `[node]`, `[links]` and, for the constants
that no data sheet has, `[gpu]`. What a file lacks is taken from `DEFAULTS`, and the result says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from alpenglow.parallel.collectives import NCCL, Library
from alpenglow.parallel.links import Site
from alpenglow_lsf.machine import GpuRates, Machine, MachineError

DEFAULTS = GpuRates(
    multiprocessors=100,
    sustained=0.90,
    stream=0.79,
    cache_ratio=1.9,
    fill_seconds=0.75e-6,
    kernel_seconds=3.4e-6,
)
"""Where a machine file has no `[gpu]` table: about what a V100 was measured at, and as many
multiprocessors as make rounding to whole rounds a matter of a per cent."""


@dataclass(frozen=True)
class Gpu:
    """Constants of one GPU; rates a second, times in seconds."""

    rate: float
    """FLOP/s of the inner loop of a large product, all multiprocessors together."""
    bandwidth: float
    """Bytes that streaming kernels reach."""
    cache_bandwidth: float
    """Bytes from the second-level cache into all multiprocessors together."""
    multiprocessors: int
    fill_s: float
    """Until a thread block's first operands have come."""
    kernel_s: float
    """Least time of a kernel, and the gap before the next."""
    transposed: float = 1.0
    """Share of the rate that is left where the first operand lies along K."""
    transposed_stream: float = 1.0
    """Share of the bandwidth that is left there, where a side is at most 128."""
    host_s: float = 8e-6
    """What the host needs to start an operation."""
    fused_attention: float = 0.3
    """Share of `rate` that fused attention reaches, masked-out blocks not counted."""
    scalar_rate: float = 0.0
    """FLOP/s of a product outside the tensor cores; 0: an eighth of `rate`."""

    def at(self, share: float, fused_attention: float = 0.0) -> Gpu:
        """The GPU under libraries that reach a share of its rate and bandwidth."""
        return replace(
            self,
            rate=share * self.rate,
            scalar_rate=share * self.scalar_rate,
            bandwidth=share * self.bandwidth,
            fused_attention=fused_attention or self.fused_attention,
        )


@dataclass(frozen=True)
class Hardware:
    """A GPU, where its ranks sit, and what was missing in the machine file."""

    gpu: Gpu
    site: Site
    peak: float
    """Peak FLOP/s of a GPU, for MFU and HFU."""
    memory_bytes: float
    """Of one GPU."""
    switched: bool
    """Every GPU reaches any other of its node, one at a time, at the full NVLink rate; else GPUs
    are linked pair by pair, and a ring a peer can run beside another."""
    warnings: tuple[str, ...] = ()
    library: Library = NCCL

    @classmethod
    def of(cls, machine: Machine, world: int, dtype: str = "fp16") -> Hardware:
        """Read a machine file.

        Args:
            machine: the machine; a stand-in counts as the one it emulates.
            world: ranks of the job.
            dtype: of the matrix products.

        Raises:
            MachineError: it lacks GPUs, a link, or the peak of this precision.
        """
        target = machine.target
        site = Site.of(target, world, dtype)
        if site is None or target.node is None or target.links is None:
            raise MachineError(
                f"machine {target.name}: a step's cost needs node.gpus, links.nvlink, links.socket "
                f"(two sockets) and peak_flops.{dtype}; one of them is missing in its file"
            )
        found, missing = target.gpu, []
        if found is None:
            found = DEFAULTS
            missing.append(
                f"Machine {target.name} has no [gpu] table: products and kernels are timed with "
                "the constants of a V100, scaled to its peak and bandwidth"
            )
        peak, memory = target.peak_flops[dtype], target.node.gpu_memory_bandwidth
        gpu = Gpu(
            rate=peak * found.sustained,
            bandwidth=memory * found.stream,
            cache_bandwidth=memory * found.cache_ratio,
            multiprocessors=found.multiprocessors,
            fill_s=found.fill_seconds,
            kernel_s=found.kernel_seconds,
            transposed=found.transposed,
            transposed_stream=found.transposed_stream,
            host_s=found.host_seconds,
            fused_attention=found.fused_attention,
            scalar_rate=min(peak, target.peak_flops.get("fp32", peak / 8)) * found.sustained,
        )
        return cls(
            gpu,
            site,
            peak,
            target.node.gpu_memory_bytes,
            target.links.switched,
            tuple(missing),
            Library.of(target.links),
        )
