"""Published numbers of parts of a step, and of single nodes in 2019, beside predictions."""

from __future__ import annotations

from alpenglow.parallel.comparison import Row, Table
from alpenglow.parallel.framework import MEGATRON_2019, MEGATRON_2022
from alpenglow.parallel.gemm import gemm_seconds
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.layer_cost import layer_passes
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.published_runs import Gpt, records
from alpenglow.parallel.spans import tensor_span
from alpenglow.parallel.step_cost import StepCost, step_cost
from alpenglow.parallel.work import Recompute, Work
from alpenglow_lsf.machine import load


def layers() -> Table:
    """Korthikanti et al. 2022, Table 4: one layer of the 22B model, forward and backward, ms.

    Unverified: not read from the paper itself; its sums and percentages agree.
    """
    model = Gpt(48, 6144, 64)
    hardware = Hardware.of(load("selene"), 8)
    cases: tuple[tuple[str, Recompute, bool, float, float], ...] = (
        ("no recompute", "none", False, 7.7, 11.9),
        ("sequence parallel", "none", True, 7.2, 11.8),
        ("full recompute", "full", False, 7.7, 19.5),
        ("selective recompute", "selective", False, 7.7, 13.2),
        ("sequence parallel, selective", "selective", True, 7.2, 13.1),
    )
    rows = []
    for name, recompute, shared, forward, backward in cases:
        work = Work(
            4,
            1,
            2048,
            recompute=recompute,
            fp32_gradients=True,
            sequence_parallel=shared,
        )
        span = tensor_span(hardware, 8, 0)
        ours = layer_passes(model, work, hardware.gpu, span, MEGATRON_2022)
        rows.append(Row(f"{name}: forward", forward, 1e3 * ours.forward.seconds))
        rows.append(Row(f"{name}: backward", backward, 1e3 * ours.backward.seconds))
    return Table("Korthikanti et al. 2022, Table 4", "ms a layer", tuple(rows), step=False)


def megatron_2019() -> list[Table]:
    """Shoeybi et al. 2019 on V100: base, weak and strong scaling over tensor ranks."""
    sizes = ((1, 1536, 40, 16, 1.0), (2, 1920, 54, 20, 0.95), (4, 2304, 64, 24, 0.82))
    weak, base = [], 0.0
    first = Row("", 1.0, 1.0)
    for tensor, hidden, count, heads, published in (*sizes, (8, 3072, 72, 32, 0.77)):
        flops = _shoeybi(hidden, count, heads, tensor).hardware_flops
        if tensor == 1:
            base, first = flops, Row("one GPU, 1.2B", 39.0, flops / 1e12)
        else:
            weak.append(Row(f"{tensor} GPUs, weak", published, flops / base))
    alone = _shoeybi(1536, 40, 16, 1).seconds
    strong = [
        Row(f"{tensor} GPUs, strong", speedup, alone / _shoeybi(1536, 40, 16, tensor).seconds)
        for tensor, speedup in ((2, 1.64), (4, 2.34), (8, 2.98))
    ]
    return [
        Table("Shoeybi et al. 2019, one V100", "TFLOP/s with recompute", (first,)),
        Table("Shoeybi et al. 2019, weak scaling", "of one GPU's rate", tuple(weak)),
        Table("Shoeybi et al. 2019, strong scaling", "times one GPU", tuple(strong)),
    ]


def _shoeybi(hidden: int, count: int, heads: int, tensor: int) -> StepCost:
    model = Gpt(count, hidden, heads)
    work = Work(8, 1, 1024, recompute="full", loss="plain", overlapped=False)
    return step_cost(model, Layout(1, tensor, 1), work, load("dgx2"), MEGATRON_2019)


def products() -> list[Table]:
    """DeepBench's fp16 products on a V100: all of them, and those with no side below 512."""
    gpu = Hardware.of(load("summit"), 1).gpu
    rows, fat = [], []
    for record in records("deepbench_v100_fp16"):
        m, n, k = (int(record[name]) for name in ("m", "n", "k"))
        lies = record["transposed_a"] == "T"
        seconds = gemm_seconds(gpu, m, n, k, transposed=lies)
        kind = record["transposed_a"] + record["transposed_b"]
        row = Row(f"{m}x{n}x{k} {kind}", float(record["ms"]), 1e3 * seconds)
        rows.append(row)
        fat += [row] if min(m, n, k) >= 512 else []
    return [
        Table("DeepBench fp16 on a V100", "ms", tuple(rows), "the V100's [gpu]", step=False),
        Table("DeepBench, sides of 512 or more", "ms", tuple(fat), "the V100's [gpu]", step=False),
    ]
