"""Constants of a machine fitted to points: published ones, and points of a known machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpenglow.parallel.collectives import Span, all_gather, all_reduce, reduce_scatter, send
from alpenglow.parallel.curve_fit import MachineFit, fastest, fit_machine, main
from alpenglow.parallel.curve_points import span
from alpenglow.parallel.hardware import DEFAULTS, Hardware
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.measured_machine import edited, number, write
from alpenglow.parallel.published_runs import Gpt, records
from alpenglow.parallel.robust_fit import Constant, Fit
from alpenglow.parallel.spans import data_span, inside, tensor_span
from alpenglow.parallel.step_cost import step_cost
from alpenglow.parallel.table_fit import Point, TableFit, fit_table, gpu_constants, predict
from alpenglow.parallel.work import Work
from alpenglow_lsf.machine import Links, Machine, folder, load
from alpenglow_profiling.curve import Curve
from alpenglow_profiling.curves_recipe import NetworkRecipe, ProductsRecipe
from alpenglow_profiling.groups import groupings, pairings
from alpenglow_profiling.network import COLLECTIVES, MESSAGES, bus_factor, sizes
from alpenglow_profiling.shapes import shapes

SUMMIT = load("summit")
HEADER = {
    "host": "a01", "hosts": ["a01", "a02", "a03", "a04"], "date": "2031-05-06T07:08:09+00:00",
    "dtype": "fp16", "ranks": 24, "each": 6, "socket": 3, "backend": "nccl", "torch": "2.13.0",
    "threads": 7, "cores": 42, "memory_bytes": 512e9, "device": "Tesla V100-SXM2-16GB",
    "device_memory_bytes": 16e9, "multiprocessors": 80, "left_out": 0, "together": True,
}  # fmt: skip
TRUTH: dict[str, Any] = {
    "sustained": 0.8, "stream": 0.7, "cache_ratio": 2.2, "kernel_seconds": 5e-6,
    "transposed": 0.9, "fused_attention": 0.2,
}  # fmt: skip
LINKS: dict[str, Any] = {
    "nvlink": 40e9, "socket": 20e9, "network": 18e9, "network_port": 9e9, "start_seconds": 15e-6,
    "nvlink_seconds": 6e-6, "network_seconds": 20e-6, "message_seconds": 30e-6,
}  # fmt: skip


@pytest.fixture(scope="module")
def deepbench() -> TableFit:
    """DeepBench's products, fitted without a look at the constants in Summit's file."""
    points: list[Point] = [
        (
            "products",
            {**{k: int(row[k]) for k in "mnk"}, "transposed_a": row["transposed_a"],
             "transposed_b": row["transposed_b"], "seconds": float(row["ms"]) / 1e3},
        )
        for row in records("deepbench_v100_fp16")
    ]  # fmt: skip
    begin = replace(SUMMIT, gpu=replace(DEFAULTS, multiprocessors=80))
    return fit_table(begin, "gpu", points, gpu_constants(begin), 6, "fp16")[1]


def test_published_products_give_the_constants_of_summits_file(deepbench: TableFit) -> None:
    assert SUMMIT.gpu is not None
    found = {e.name: e for e in deepbench.estimates}
    assert set(found) == {
        "sustained", "stream", "cache_ratio", "fill_seconds", "kernel_seconds", "transposed",
        "transposed_stream",
    }  # fmt: skip
    for name, estimate in found.items():
        there = getattr(SUMMIT.gpu, name)
        assert estimate.low <= there <= estimate.high, (name, estimate, there)
    # The interval says something where the points do.
    for name in ("sustained", "transposed", "cache_ratio"):
        assert found[name].high / found[name].low < 1.25
    assert deepbench.left == ("fused_attention",)


def test_a_third_that_was_held_out_is_predicted_as_well(deepbench: TableFit) -> None:
    assert len(deepbench.errors.values) == 160 and len(deepbench.held_out.values) == 53
    assert deepbench.errors.mean < 0.10
    assert deepbench.held_out.mean < 0.13
    assert abs(deepbench.held_out.worst) < 0.75


def write_curves(run: Path, machine: Machine, products: int, factor: int) -> Path:
    """Curves of a machine with the constants of TRUTH and LINKS: the model's times and noise."""
    assert machine.gpu is not None and machine.links is not None
    true = replace(
        machine, gpu=replace(machine.gpu, **TRUTH), links=replace(machine.links, **LINKS)
    )  # fmt: skip
    chance = np.random.default_rng(5)

    def put(name: str, points: list[Point]) -> None:
        table = "links" if name == "network" else "gpu"
        seconds = np.asarray(predict(true, table, points, 6, "fp16", {}))
        seconds *= np.exp(chance.normal(0, 0.03, len(points)))
        seconds[chance.random(len(points)) < 0.02] *= 5  # somebody else's job
        found = [
            {**point, "seconds": float(s)} for (_, point), s in zip(points, seconds, strict=True)
        ]
        for point in found if name == "network" else []:
            share = bus_factor(point["what"], point["ranks"])
            point["bus_rate"] = share * point["bytes"] / point["seconds"]
        if name == "copies":
            found.append(
                {"what": "host", "bytes": 0, "seconds": 2e-5, "least": 1e-5, "worst": 3e-5}
            )
        Curve(name, HEADER, found).write(where)

    where = run / "curves/7.1"
    where.mkdir(parents=True)
    put("products", [("products", asdict(s)) for s in shapes(ProductsRecipe())[::2][:products]])
    put("copies", [("copies", {"what": "copy", "bytes": 1 << n}) for n in range(12, 32)])
    put(
        "attention",
        [
            ("attention", {"pass": way, "heads": 16, "sequence": s, "head": 128})
            for way in ("forward", "backward")
            for s in (1024, 2048, 4096)
        ],
    )
    plan = [(g, w) for g in groupings(4, 6, 3) for w in COLLECTIVES]
    plan += [(g, w) for g in pairings(4, 6, 3) for w in MESSAGES]
    put(
        "network",
        [
            ("network", {"what": what, "group": g.name, "ranks": g.size, "first": g.members[0][0],
                         "stride": g.stride, "on_node": g.on_node, "bytes": nbytes})
            for g, what in plan
            for nbytes in sizes(NetworkRecipe(factor=factor))
        ],
    )  # fmt: skip
    (where / "done.json").write_text("{}")
    return run


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_curves(tmp_path_factory.mktemp("run"), SUMMIT, 120, 16)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fewer points, for what is not about their fit."""
    return write_curves(tmp_path_factory.mktemp("small"), SUMMIT, 50, 256)


@pytest.fixture(scope="module")
def fit(measured: Path) -> MachineFit:
    return fit_machine(measured, SUMMIT)


def test_a_known_machine_is_found_again(fit: MachineFit) -> None:
    """Also beside the two points in a hundred that take five times as long."""
    found = {e.name: e for table in fit.tables for e in table.estimates}
    for name, true in {**TRUTH, **LINKS, "host_seconds": 2e-5}.items():
        estimate = found[name]
        assert estimate.value == pytest.approx(true, rel=0.15), name
        assert estimate.low <= true <= estimate.high, (name, estimate)
    for table in fit.tables:
        assert table.held_out.mean < 0.25
        middle = np.median(np.abs(table.held_out.values))
        assert middle < 0.05, table.table


def test_the_file_is_summits_with_those_lines_replaced(fit: MachineFit, tmp_path: Path) -> None:
    source = (folder() / "summit.toml").read_text()
    text = fit.text(source)
    old, new = source.splitlines(), text.splitlines()
    keys = {key for values in fit.numbers().values() for key in values}
    kept = [line for line in new if line.partition(" ")[0] not in keys or "measured" not in line]
    assert [line for line in old if line.partition(" ")[0] not in keys] == kept
    lines = {line.partition(" ")[0]: line for line in new if "# measured: " in line}
    assert set(lines) == keys
    assert f"{fit.run}, 2031-05-06; 95 % " in lines["sustained"]
    assert "fit error " in lines["nvlink"] and "held out; was 50e9" in lines["nvlink"]
    assert "; was" not in lines["nvlink_seconds"]
    path = tmp_path / "measured.toml"
    path.write_text(text)
    read = load(path)
    assert fit.machine.gpu is not None and read.gpu is not None
    for key, value in asdict(fit.machine.gpu).items():
        assert getattr(read.gpu, key) == pytest.approx(value, rel=1e-3)
    assert replace(read, gpu=SUMMIT.gpu, links=SUMMIT.links) == SUMMIT


def test_the_cost_of_a_step_uses_it(fit: MachineFit, tmp_path: Path) -> None:
    path = tmp_path / "measured.toml"
    machine = write(path, fit.text((folder() / "summit.toml").read_text()))
    assert machine == load(path) and not list(tmp_path.glob(".*"))
    model, layout, work = Gpt(32, 4096, 32), Layout(12, 2, 2), Work(1, 16, 2048)
    before, after = (step_cost(model, layout, work, load(m)) for m in ("summit", path))
    assert after.seconds > 1.05 * before.seconds and not after.warnings
    assert after.hardware.gpu.kernel_s == pytest.approx(TRUTH["kernel_seconds"], rel=0.15)
    assert after.hardware.library.network == pytest.approx(20 / 9.6, rel=0.15)


def test_what_cannot_be_fitted_is_one_sentence(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.toml"

    def said(run: Path, *words: str) -> str:
        assert main([str(run), "--write", str(target), *words]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not target.exists(), error
        return error

    assert "no such folder" in said(tmp_path / "nowhere")
    assert "holds no curves: bsub jobs/calibrate.lsf" in said(tmp_path)
    assert "stands in for summit" in said(measured, "--machine", "laptop")
    assert "6 ranks a node were measured, and perlmutter has 4 GPUs" in said(
        measured, "--machine", "perlmutter"
    )
    few = tmp_path / "few"
    few.mkdir()
    curve = Curve.read(measured / "curves/7.1/products.jsonl")
    Curve("products", curve.header, curve.points[:9]).write(few)
    assert "9 points are too few for 8 constants" in said(few, "--machine", "summit")
    assert "no copies were measured" in said(few)
    cpu = tmp_path / "cpu"
    cpu.mkdir()
    Curve("products", {**curve.header, "device": "cpu"}, curve.points).write(cpu)
    assert "was measured on its CPUs, and summit has GPUs" in said(cpu, "--machine", "summit")


def test_a_job_that_did_not_end_and_missing_collectives_are_noted(
    measured: Path, tmp_path: Path
) -> None:
    for name in ("copies", "attention"):
        Curve.read(measured / f"curves/7.1/{name}.jsonl").write(tmp_path)
    whole = Curve.read(measured / "curves/7.1/products.jsonl")
    Curve("products", {**whole.header, "left_out": 8}, whole.points[:30]).write(tmp_path)
    least = {"least": 0.5, "seconds": 3.0}
    assert fastest(Curve("x", {}, [least, {"seconds": 2.0}])).points == [
        {**least, "seconds": 0.5}, {"seconds": 2.0},
    ]  # fmt: skip
    found = fit_machine(tmp_path, SUMMIT, least=True)
    assert found.machine.links == SUMMIT.links
    text = str(found)
    assert "its job did not end well" in text and "products: 8 points were not measured" in text
    assert "no collectives were measured: [links] is as it was" in text
    assert "the fastest repeats, not the medians" in text


@pytest.mark.parametrize("tensor", [2, 3, 6])
def test_groups_lie_as_the_layouts_do(tensor: int) -> None:
    """A measured grouping has the span that the cost of a step takes for it."""
    hardware = Hardware.of(SUMMIT, 24)
    found = {(g.name, g.size): g for g in groupings(4, 6, 3)}

    def of(name: str, size: int) -> Span:
        group = found[name, size]
        point = {"ranks": size, "first": group.members[0][0], "stride": group.stride,
                 "on_node": group.on_node}  # fmt: skip
        return span(hardware, point, 6)

    assert of("data", 4) == data_span(hardware, Layout(1, 6, 4))
    assert of("bus, shared", 2).rate == inside(hardware, (0, 1), 3)[1]
    name = {2: "socket", 3: "socket", 6: "node"}[tensor]
    assert of(name, tensor) == tensor_span(hardware, tensor, 0)
    assert of("bus", 2) == tensor_span(hardware, 2, 2)
    alone, together = of("data, one a node", 4), of("data", 4)
    assert alone.rate == pytest.approx(0.96 * 12.5e9) and together.rate < alone.rate / 2


def with_links(**changes: object) -> Machine:
    assert SUMMIT.links is not None
    return replace(SUMMIT, links=replace(SUMMIT.links, **changes))  # type: ignore[arg-type]


def test_measured_latencies_replace_nccls() -> None:
    def times(machine: Machine, nbytes: float = 1024.0) -> list[float]:
        hardware = Hardware.of(machine, 24)
        wide, pair = data_span(hardware, Layout(1, 6, 4)), tensor_span(hardware, 2, 0)
        return [
            all_reduce(nbytes, wide), all_gather(nbytes, wide), all_reduce(nbytes, pair),
            send(nbytes, "network", 1e10, hardware.library),
        ]  # fmt: skip

    usual = times(SUMMIT)
    same = with_links(
        start_seconds=8.4e-6, nvlink_seconds=3.4e-6, socket_seconds=5.7e-6, network_seconds=9.6e-6
    )
    assert times(same) == pytest.approx(usual)
    far = times(with_links(network_seconds=96e-6))
    assert far[0] > 2 * usual[0] and far[2] == usual[2]
    assert times(with_links(message_seconds=1.0))[:3] == usual[:3]
    assert times(with_links(message_seconds=1.0))[3] > 1.0
    big: Callable[[Machine], list[float]] = lambda machine: times(machine, 1e10)  # noqa: E731
    assert big(with_links(network_seconds=96e-6)) == pytest.approx(big(SUMMIT), rel=0.01)


def test_gloo_has_one_protocol_and_rings() -> None:
    hardware = Hardware.of(with_links(library="gloo"), 24)
    wide = data_span(hardware, Layout(1, 6, 4))
    ring = 8.4e-6 + 6 * 9.6e-6 + 1.5 * 1024 / wide.rate
    assert all_reduce(1024.0, wide) == pytest.approx(ring)
    assert reduce_scatter(1024.0, wide) == all_reduce(1024.0, wide)
    assert all_gather(1024.0, wide) < all_reduce(1024.0, wide)


def test_latencies_are_above_nothing() -> None:
    for name in ("start", "message", "nvlink", "socket", "network"):
        with pytest.raises(ValueError, match=f"{name}_seconds = 0.0 should be above 0"):
            Links(1e9, **{f"{name}_seconds": 0.0})  # type: ignore[arg-type]


def test_a_fit_finds_what_points_feel_and_leaves_the_rest() -> None:
    bytes_of = np.geomspace(1e3, 1e9, 40)

    def model(v: dict[str, float]) -> list[float]:
        return list(v["start"] + bytes_of / v["rate"])

    measured = model({"start": 1e-5, "rate": 3e9})
    measured[7] *= 40
    constants = [Constant("start", 1e-3), Constant("rate", 1e7), Constant("idle", 1.0)]
    fit = Fit(model, measured, constants)  # type: ignore[arg-type]
    assert fit.learnt == ["start", "rate"] and fit.values["idle"] == 1.0
    for estimate, true in zip(fit.estimates(), (1e-5, 3e9), strict=True):
        assert estimate.value == pytest.approx(true, rel=0.01)
        assert estimate.low <= true * 1.01 and true * 0.99 <= estimate.high
    with pytest.raises(ValueError, match="no points"):
        Fit(model, [], constants)  # type: ignore[arg-type]


def test_numbers_and_lines_of_a_machine_file() -> None:
    assert [number(v) for v in (0.92, 3.4e-6, 50e9, 1.5e12, 0.00012, True, "nccl", 4)] == [
        "0.92", "3.4e-6", "50e9", "1.5e12", "120e-6", "true", '"nccl"', "4",
    ]  # fmt: skip
    text = "[gpu]  # mine\nstream = 0.7    # old\n\n[links]\nnetwork = 1e9\n"
    tables = {"gpu": {"stream": (0.8, "new"), "sustained": (0.5, "added")}}
    assert edited(text, tables) == (
        "[gpu]  # mine\nstream = 0.8  # new; was 0.7\nsustained = 0.5  # added\n\n[links]\n"
        "network = 1e9\n"
    )
    assert edited(text, {"new": {"a": (1.0, "b")}}).endswith("network = 1e9\n\n[new]\na = 1  # b\n")


def test_a_machine_without_constants_gets_a_whole_table(small: Path, tmp_path: Path) -> None:
    text = (folder() / "summit.toml").read_text()
    head, _, rest = text.partition("[gpu]")
    bare = tmp_path / "bare.toml"
    bare.write_text(head + "[failures]" + rest.partition("[failures]")[2])
    target = tmp_path / "out.toml"
    assert load(bare).gpu is None
    assert main([str(small), "--machine", str(bare), "--write", str(target)]) == 0
    found = load(target).gpu
    assert found is not None and found.multiprocessors == 80
    assert found.sustained == pytest.approx(TRUTH["sustained"], rel=0.1)
    lines = target.read_text().splitlines()
    assert "multiprocessors = 80  # not measured: assumed" in lines


def test_curves_of_gpus_without_a_file_describe_a_machine(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.toml"
    assert main([str(small), "--write", str(target)]) == 0
    found = load(target)
    assert found.node is not None and found.links is not None and found.gpu is not None
    assert (found.name, found.node.nodes, found.node.gpus, found.node.sockets) == ("new", 4, 6, 2)
    assert (found.links.library, found.gpu.multiprocessors) == ("nccl", 80)
    assert found.links.network == pytest.approx(LINKS["network"], rel=0.15)
    # The peak is the best that was measured, not a data sheet's.
    rate = found.peak_flops["fp16"] * found.gpu.sustained
    assert rate == pytest.approx(0.8 * 125e12, rel=0.1) and found.gpu.sustained <= 1
    cost = step_cost(Gpt(8, 1024, 16), Layout(2, 2, 2), Work(1, 4, 512), found)
    assert cost.seconds > 0 and not cost.warnings
