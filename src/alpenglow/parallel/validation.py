"""The cost of a step beside published measurements: `python -m alpenglow.parallel.validation`.

Torch-free. Each table is a CSV file in `published/` with its source. One set of constants a machine
(env/machines), one set of choices a framework (alpenglow.parallel.framework). What was set by what:

- V100: fitted to DeepBench's products (`products`), nothing else.
- A100: data sheets, the V100's ratios, and `sustained` by the best measured products. Between 0.90,
  their mean, and 0.875, where the best shapes give the best product, Table 5 of Korthikanti et al.
  spoke for the latter (mean error 3.0 or 1.8 %).
- `efficiency` of Megatron-LM of 2021 by the mean over Narayanan's Table 1, of DeepSpeed's engine by
  the mean over Smith et al. and BLOOM. No constant by a single row.

All other tables set nothing: "held out".

An error is predicted over published, less one: positive where the model is too fast if the table
gives FLOP/s, too slow if it gives seconds.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from alpenglow.parallel.framework import (
    COMPOSER_2023,
    MEGATRON_2019,
    MEGATRON_2021,
    MEGATRON_2022,
    MEGATRON_DEEPSPEED,
    Framework,
)
from alpenglow.parallel.gemm import gemm_seconds
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.layer_cost import layer_passes
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.spans import tensor_span
from alpenglow.parallel.step_cost import StepCost, step_cost
from alpenglow.parallel.work import Recompute, Work
from alpenglow_lsf.machine import load


@dataclass(frozen=True)
class Gpt:
    """Sizes of a published model: GPT-2's architecture, tied embeddings, serial residual."""

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    vocab_size: int = 51200
    tie_word_embeddings: bool = True
    use_parallel_residual: bool = False

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP."""
        return 4 * self.hidden_size


FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True)
class Row:
    """One published number and ours."""

    name: str
    published: float
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over published, less one."""
        return self.predicted / self.published - 1


@dataclass(frozen=True)
class Table:
    """Published numbers of one source."""

    title: str
    unit: str
    rows: tuple[Row, ...]

    @property
    def mean(self) -> float:
        """Mean absolute error."""
        return sum(abs(row.error) for row in self.rows) / len(self.rows)

    @property
    def bias(self) -> float:
        """Mean error with its sign."""
        return sum(row.error for row in self.rows) / len(self.rows)

    @property
    def worst(self) -> Row:
        """The row with the largest error."""
        return max(self.rows, key=lambda row: abs(row.error))

    def __str__(self) -> str:
        lines = [f"{self.title} ({self.unit})"]
        lines += [
            f"  {row.name:<34} {row.published:9.4g} {row.predicted:9.4g} {row.error:+7.1%}"
            for row in self.rows
        ]
        return "\n".join([*lines, f"  {self.summary()}"])

    def summary(self) -> str:
        """Mean, worst and signed error in one line."""
        return (
            f"{len(self.rows)} points: mean {self.mean:.1%}, worst {self.worst.error:+.1%} "
            f"({self.worst.name}), signed {self.bias:+.1%}"
        )


@dataclass(frozen=True)
class _Source:
    """A table of steps: file, title, where it ran, what its last column is."""

    title: str
    machine: str
    how: Framework
    unit: str
    dtype: str = "fp16"
    attention: str = "plain"
    fp32_gradients: bool = False


SOURCES = {
    "narayanan2021_table1": _Source(
        "Narayanan et al. 2021, Table 1", "selene", MEGATRON_2021, "TFLOP/s with recompute"
    ),
    "narayanan2021_table2": _Source(
        "Narayanan et al. 2021, Table 2, held out",
        "selene",
        MEGATRON_2021,
        "TFLOP/s with recompute",
    ),
    "korthikanti2022_table5": _Source(
        "Korthikanti et al. 2022, Table 5",
        "selene",
        MEGATRON_2022,
        "seconds",
        fp32_gradients=True,
    ),
    "jiang2024_table2": _Source(
        "Jiang et al. 2024, Table 2, Megatron-LM's rows, held out",
        "selene",
        MEGATRON_2022,
        "seconds",
        dtype="bf16",
    ),
    "smith2022": _Source(
        "Smith et al. 2022, 530B on DeepSpeed's engine",
        "selene",
        MEGATRON_DEEPSPEED,
        "seconds",
        dtype="bf16",
    ),
    "mpt_a100": _Source(
        "MPT on one node of A100, held out",
        "selene",
        COMPOSER_2023,
        "MFU in per cent",
        dtype="bf16",
        attention="sdpa",
    ),
}


def records(name: str) -> list[dict[str, str]]:
    """Rows of a published file, comments left out."""
    lines = (FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def predict(record: dict[str, str], source: _Source) -> StepCost:
    """Predict one row of a table of steps."""
    number = {
        key: int(text)
        for key, text in record.items()
        if key not in ("name", "recompute", "published")
    }
    model = Gpt(number["layers"], number["hidden"], number["heads"], number["vocab"])
    pipeline, tensor = number["pipeline"], number["tensor"]
    layout = Layout(pipeline, tensor, number["gpus"] // (pipeline * tensor))
    again: Recompute = "full" if record["recompute"] == "full" else "none"
    if record["recompute"] == "selective":
        again = "selective"
    work = Work(
        number["micro_batch"],
        number["batch"] // (layout.data * number["micro_batch"]),
        number["sequence"],
        dtype=source.dtype,
        attention="plain" if source.attention == "plain" else "sdpa",
        recompute=again,
        loss="plain",
        schedule="1f1b" if number["chunks"] == 1 else f"interleaved-{number['chunks']}",
        fp32_gradients=source.fp32_gradients,
        overlapped=bool(number["overlapped"]),
        sequence_parallel=bool(number["sequence_parallel"]),
    )
    return step_cost(model, layout, work, load(source.machine), source.how)


def steps(name: str) -> Table:
    """A table of steps beside its predictions."""
    source, rows = SOURCES[name], []
    for record in records(name):
        cost = predict(record, source)
        value = {
            "seconds": cost.seconds,
            "TFLOP/s with recompute": cost.hardware_flops / 1e12,
            "MFU in per cent": 100 * cost.mfu,
        }[source.unit]
        parts = [record["name"], f"{record['gpus']} GPUs"]
        if name == "korthikanti2022_table5":
            parts.append(record["recompute"])
        if name == "mpt_a100":
            parts[1] = f"{record['sequence']} tokens x {record['micro_batch']}"
            parts += [record["recompute"]] if record["recompute"] != "none" else []
        rows.append(Row(" ".join(parts), float(record["published"]), value))
    return Table(source.title, source.unit, tuple(rows))


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
    return Table("Korthikanti et al. 2022, Table 4, held out", "ms a layer", tuple(rows))


def bloom() -> Table:
    """BLOOM 176B on Jean Zay: Le Scao et al. 2022, arXiv 2211.05100, sections 3.3 and 3.4.

    384 A100 80 GB, four Omni-Path ports of 100 Gb/s a node; stages balanced with the embedding and
    the head counted as a layer each.
    """
    hardware = Hardware.of(load("selene"), 384, "bf16")
    hardware = replace(hardware, site=replace(hardware.site, network=50e9, port=12.5e9))
    layout = Layout(12, 4, 8, layers=(5, *[6] * 10, 5))
    work = Work(2, 128, 2048, dtype="bf16", recompute="full", loss="plain", overlapped=False)
    how = replace(MEGATRON_DEEPSPEED, dropout=False)
    cost = step_cost(Gpt(70, 14336, 112, 250880), layout, work, hardware, how)
    row = Row("176B 384 GPUs, fastest", 156.0, cost.hardware_flops / 1e12)
    return Table(
        "Le Scao et al. 2022, BLOOM on DeepSpeed's engine", "TFLOP/s with recompute", (row,)
    )


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
        Table("Shoeybi et al. 2019, one V100, held out", "TFLOP/s with recompute", (first,)),
        Table("Shoeybi et al. 2019, weak scaling, held out", "of one GPU's rate", tuple(weak)),
        Table("Shoeybi et al. 2019, strong scaling, held out", "times one GPU", tuple(strong)),
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
        Table("DeepBench fp16 on a V100, fitted", "ms", tuple(rows)),
        Table("DeepBench, sides of 512 or more, fitted", "ms", tuple(fat)),
    ]


def tables() -> list[Table]:
    """Every table."""
    found = [steps(name) for name in SOURCES]
    return [*found, bloom(), layers(), *megatron_2019(), *products()]


def main(found: Iterable[Table] | None = None) -> None:
    """Print every table, the products only in sum, and all sums."""
    all_of_them = list(tables() if found is None else found)
    text = [str(table) for table in all_of_them if not table.title.startswith("DeepBench")]
    text.append("columns: published, predicted, error\n")
    text += [f"{table.title}: {table.summary()}" for table in all_of_them]
    sys.stdout.write("\n\n".join(text[: -len(all_of_them)]) + "\n")
    sys.stdout.write("\n".join(text[-len(all_of_them) :]) + "\n")


if __name__ == "__main__":
    main()
