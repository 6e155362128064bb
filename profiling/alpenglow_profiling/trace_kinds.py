"""What an event of a trace is: computation, communication, a copy; told by its name.

NCCL's kernels have had several names: `ncclAllReduceRingLLKernel_sum_f32` (2.4), `ncclKernel_...`,
`ncclDevKernel_...` (2.19), `ncclSymkDevKernel_...` (2.27); RCCL keeps NCCL's. Writers differ in
case. On the host torch.profiler names gloo's work `gloo:all_reduce`, NCCL's `nccl:all_reduce`, and
the calls `c10d::allreduce_` and `record_param_comms`
(torch/csrc/distributed/c10d/ParamCommsUtils.hpp).
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from alpenglow_profiling.kineto import Trace

COMMUNICATION = re.compile(
    r"(?:void\s+)?(?:nccl|rccl|msccl|nvshmem|(?:.*::)?(?:multimem|one_shot|two_shot)_all)",
    re.IGNORECASE,
)
MEMORY = re.compile(r"(?:Memcpy|Memset|dma)", re.IGNORECASE)
HOST_COMMUNICATION = re.compile(r"(?:gloo|mpi|ucc):", re.IGNORECASE)
HOST_CALLS = re.compile(r"c10d::", re.IGNORECASE)
COMMUNICATION_RECORD = re.compile(r"record_param_comms")

Rows = NDArray[np.bool_]


def communication(trace: Trace) -> Rows:
    """Kernels that move data between GPUs (and wait for each other)."""
    return trace.on_gpu & trace.named(COMMUNICATION)


def memory(trace: Trace) -> Rows:
    """Copies and sets."""
    copies = trace.in_categories(("gpu_memcpy", "gpu_memset", "Memcpy", "Memset"))
    return trace.on_gpu & (copies | trace.named(MEMORY))


def computation(trace: Trace) -> Rows:
    """All other work of a GPU."""
    return trace.on_gpu & ~communication(trace) & ~memory(trace)


def host_communication(trace: Trace) -> Rows:
    """Communication on the host: the backend's work, else the calls that asked for it."""
    work = trace.named(HOST_COMMUNICATION) & ~trace.on_gpu
    return work if work.any() else trace.named(HOST_CALLS) & ~trace.on_gpu


def host_operators(trace: Trace) -> Rows:
    """Operators on the host, those of communication left out."""
    apart = trace.named(HOST_CALLS) | trace.named(COMMUNICATION_RECORD)
    return trace.in_categories(("cpu_op", "Operator", "operator")) & ~apart
