"""Published runs beside predictions: what each table ran on, and with what.

Torch-free. Each table is a CSV file in `published/` with its source; what it does not say of a run
is in `SOURCES` here, and what of that is assumed stands in the file.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from alpenglow.parallel.comparison import Row, Table
from alpenglow.parallel.framework import (
    COMPOSER_2023,
    FLASH_2022,
    GPT_NEOX_2022,
    MEGATRON_2021,
    MEGATRON_2022,
    MEGATRON_DEEPSPEED,
    Framework,
)
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.step_cost import StepCost, step_cost
from alpenglow.parallel.work import Recompute, Work
from alpenglow_lsf.machine import load

FOLDER = Path(__file__).parent / "published"


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


@lru_cache(maxsize=64)
def _selene(world: int, dtype: str) -> Hardware:
    return Hardware.of(load("selene"), world, dtype)


@lru_cache(maxsize=64)
def _jean_zay(world: int, dtype: str) -> Hardware:
    """A100 nodes of Jean Zay: four Omni-Path ports of 100 Gb/s (arXiv 2211.05100, section 3.1)."""
    hardware = _selene(world, dtype)
    return replace(hardware, site=replace(hardware.site, network=50e9, port=12.5e9))


@lru_cache(maxsize=64)
def _a100_40gb(world: int, dtype: str) -> Hardware:
    """The first A100: 1,555 GB/s (NVIDIA's data sheet)."""
    hardware = _selene(world, dtype)
    share = 1555e9 / 2039e9
    gpu = replace(
        hardware.gpu,
        bandwidth=share * hardware.gpu.bandwidth,
    )
    return replace(hardware, gpu=gpu, memory_bytes=40e9)


@lru_cache(maxsize=64)
def _neox(world: int, dtype: str) -> Hardware:
    """GPT-NeoX-20B's nodes: A100 40 GB, four HDR ports of 200 Gb/s (arXiv 2204.06745)."""
    hardware = _a100_40gb(world, dtype)
    return replace(hardware, site=replace(hardware.site, network=100e9, port=25e9))


@lru_cache(maxsize=64)
def _jean_zay_v100(world: int, dtype: str) -> Hardware:
    """V100 nodes of Jean Zay: four SXM2, two NVLinks a pair, four Omni-Path ports."""
    hardware = Hardware.of(load("dgx2"), world, dtype)
    site = replace(
        hardware.site, sockets=(0,) * min(4, world), nvlink=50e9, network=50e9, port=12.5e9
    )
    return replace(hardware, site=site, switched=False)


@dataclass(frozen=True)
class Source:
    """A table of steps: title, where it ran and how, what its last column is.

    Args:
        title: the source.
        system: machine of so many ranks and this precision.
        how: the framework.
        unit: of the last column.
        dtype: of the products.
        attention: `plain` or `sdpa`.
        fp32_gradients: gradients summed in fp32.
        sets: the constant that it set; empty where it set none.
        split: how stages are cut: evenly, or with the embedding and the head counted as a layer.
        traits: of the model, where they are not GPT-2's.
        travels: bytes of a gradient on its way; 0: as kept.
    """

    title: str
    system: Callable[[int, str], Hardware]
    how: Framework
    unit: str
    dtype: str = "fp16"
    attention: str = "plain"
    fp32_gradients: bool = False
    sets: str = ""
    split: str = "even"
    traits: tuple[tuple[str, bool], ...] = ()
    travels: int = 0


_BLOOM = "Scao et al. 2022, chronicles of BLOOM's trials"
SOURCES = {
    "narayanan2021_table1": Source(
        "Narayanan et al. 2021, Table 1",
        _selene,
        MEGATRON_2021,
        "TFLOP/s with recompute",
        sets="MEGATRON_2021's efficiency",
    ),
    "narayanan2021_table2": Source(
        "Narayanan et al. 2021, Table 2", _selene, MEGATRON_2021, "TFLOP/s with recompute"
    ),
    "korthikanti2022_table5": Source(
        "Korthikanti et al. 2022, Table 5",
        _selene,
        MEGATRON_2022,
        "seconds",
        fp32_gradients=True,
        sets="the A100's sustained",
    ),
    "jiang2024_table2": Source(
        "Jiang et al. 2024, Table 2, Megatron-LM's rows",
        _selene,
        MEGATRON_2022,
        "seconds",
        dtype="bf16",
    ),
    "smith2022": Source(
        "Smith et al. 2022, 530B on DeepSpeed's engine",
        _selene,
        MEGATRON_DEEPSPEED,
        "seconds",
        dtype="bf16",
        sets="MEGATRON_DEEPSPEED's efficiency",
    ),
    "bigscience2022_before": Source(
        f"{_BLOOM}, 20 to 24 February", _jean_zay, MEGATRON_DEEPSPEED, "seconds"
    ),
    "bigscience2022_after": Source(
        f"{_BLOOM}, 25 to 27 February", _jean_zay, MEGATRON_DEEPSPEED, "seconds"
    ),
    "bigscience2022_balanced": Source(
        f"{_BLOOM}, balanced stages",
        _jean_zay,
        MEGATRON_DEEPSPEED,
        "seconds",
        dtype="bf16",
        split="ends",
    ),
    "black2022": Source(
        "Black et al. 2022, GPT-NeoX-20B",
        _neox,
        GPT_NEOX_2022,
        "TFLOP/s with recompute",
        traits=(("tie_word_embeddings", False), ("use_parallel_residual", True)),
    ),
    "bigscience2021_v100": Source(
        "BigScience 2021, Megatron-LM on V100", _jean_zay_v100, MEGATRON_2021, "seconds"
    ),
    "bigscience2021_v100_deepspeed": Source(
        "BigScience 2021, DeepSpeed's engine on V100", _jean_zay_v100, MEGATRON_DEEPSPEED, "seconds"
    ),
    "dao2022_gpt3": Source(
        "Dao 2022, GPT-3 on one node",
        _selene,
        FLASH_2022,
        "thousand tokens/s",
        dtype="bf16",
        attention="sdpa",
    ),
    "mpt_a100": Source(
        "MPT on A100 80 GB",
        _selene,
        COMPOSER_2023,
        "tokens/s a GPU",
        dtype="bf16",
        attention="sdpa",
    ),
    "mpt_a100_40gb": Source(
        "MPT on A100 40 GB",
        _a100_40gb,
        COMPOSER_2023,
        "tokens/s a GPU",
        dtype="bf16",
        attention="sdpa",
        travels=2,
    ),
}


def records(name: str) -> list[dict[str, str]]:
    """Rows of a published file, comments left out."""
    lines = (FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def _split(split: str, layers: int, pipeline: int) -> tuple[int, ...]:
    """Layers of each stage; empty: as Layout cuts them."""
    if split == "ends":
        each = (layers + 2) // pipeline
        return (each - 1, *[each] * (pipeline - 2), each - 1)
    if layers % pipeline == 0:
        return ()
    # DeepSpeed fills the first stages and leaves the rest to the last.
    each = -(-layers // pipeline)
    return (*[each] * (pipeline - 1), layers - each * (pipeline - 1))


def predict(record: dict[str, str], source: Source) -> StepCost:
    """Predict one row of a table of steps."""
    number = {
        key: int(text)
        for key, text in record.items()
        if key not in ("name", "recompute", "published")
    }
    model = Gpt(
        number["layers"],
        number["hidden"],
        number["heads"],
        number["vocab"],
        **dict(source.traits),
    )
    pipeline, tensor = number["pipeline"], number["tensor"]
    split = _split(source.split, model.num_layers, pipeline)
    layout = Layout(pipeline, tensor, number["gpus"] // (pipeline * tensor), layers=split)
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
        travels=source.travels,
        sequence_parallel=bool(number["sequence_parallel"]),
    )
    return step_cost(model, layout, work, source.system(layout.world, work.dtype), source.how)


def value(cost: StepCost, unit: str) -> float:
    """What a table's last column gives of a step."""
    return {
        "seconds": cost.seconds,
        "TFLOP/s with recompute": cost.hardware_flops / 1e12,
        "tokens/s a GPU": cost.tokens_per_second / cost.layout.world,
        "thousand tokens/s": cost.tokens_per_second / 1e3,
    }[unit]


def steps(name: str) -> Table:
    """A table of steps beside its predictions."""
    return _compared(name, SOURCES[name])


@lru_cache(maxsize=64)
def _compared(name: str, source: Source) -> Table:
    rows = []
    for record in records(name):
        cost = predict(record, source)
        parts = [record["name"], f"{record['gpus']} GPUs"]
        if name.startswith(("korthikanti", "mpt")) and record["recompute"] != "none":
            parts.append(record["recompute"])
        row = Row(" ".join(parts), float(record["published"]), value(cost, source.unit))
        rows.append(row)
    return Table(source.title, source.unit, tuple(rows), source.sets)


def bloom() -> Table:
    """BLOOM 176B on Jean Zay: Le Scao et al. 2022, arXiv 2211.05100, sections 3.3 and 3.4.

    384 A100 80 GB; stages balanced with the embedding and the head counted as a layer each.
    """
    layout = Layout(12, 4, 8, layers=(5, *[6] * 10, 5))
    work = Work(2, 128, 2048, dtype="bf16", recompute="full", loss="plain", overlapped=False)
    model = Gpt(70, 14336, 112, 250880)
    how = replace(MEGATRON_DEEPSPEED, dropout=False)
    cost = step_cost(model, layout, work, _jean_zay(384, "bf16"), how)
    row = Row("176B 384 GPUs, fastest", 156.0, value(cost, "TFLOP/s with recompute"))
    return Table(
        "Le Scao et al. 2022, BLOOM on DeepSpeed's engine",
        "TFLOP/s with recompute",
        (row,),
        "MEGATRON_DEEPSPEED's efficiency",
    )
