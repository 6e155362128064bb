"""Curves measured by real ranks over gloo, and what they do when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from alpenglow_profiling.curve import Curve, CurveError, newest
from alpenglow_profiling.curves import main
from alpenglow_profiling.curves_recipe import CurvesRecipe, NetworkRecipe, ProductsRecipe
from alpenglow_profiling.groups import groupings, pairings
from alpenglow_profiling.network import bus_factor, sizes
from alpenglow_profiling.shapes import Shape, shapes

ROOT = Path(__file__).resolve().parents[2]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "SLURM_", "ALPENGLOW_")
RECIPE = """
dtype = "fp32"
limit_s = 100
[products]
repeats = 3
hidden = [64]
tensor = [1]
tokens = [64, 256]
vocab = 512
head = 16
sequence = 32
spread = [64, 256]
skinny = [16]
odd = [35]
[copies]
repeats = 3
largest_bytes = 4194304
factor = 8
[attention]
repeats = 3
sequences = [64, 128]
heads = 2
head = 16
[network]
repeats = 3
socket = 2
factor = 64
largest_bytes = 4194304
"""


def start(folder: Path, nodes: int, each: int, *overrides: str) -> list[subprocess.Popen[str]]:
    (folder / "recipe.toml").write_text(RECIPE)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    size = nodes * each
    path = os.pathsep.join(str(ROOT / name) for name in ("src", "lsf", "profiling"))
    return [
        subprocess.Popen(
            [sys.executable, "-m", "alpenglow_profiling.curves", "recipe.toml", *overrides],
            cwd=folder,
            env={
                **kept,
                "PYTHONPATH": path,
                "OMPI_COMM_WORLD_RANK": str(rank),
                "OMPI_COMM_WORLD_SIZE": str(size),
                "OMPI_COMM_WORLD_LOCAL_RANK": str(rank % each),
                "OMPI_COMM_WORLD_LOCAL_SIZE": str(each),
                "ALPENGLOW_HOST": f"node{rank // each}",
                "ALPENGLOW_HOST_ADDRESS": "127.0.0.1",
                "ALPENGLOW_RUN": "run",
                "ALPENGLOW_SEGMENT": "7.1",
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def end(ranks: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    try:
        texts = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, *text) for rank, text in zip(ranks, texts, strict=True)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pretend nodes of two ranks."""
    folder = tmp_path_factory.mktemp("curves")
    ended = end(start(folder, 2, 2))
    assert [code for code, _, _ in ended] == [0] * 4, ended
    assert "curves: done in" in ended[0][1] and not any(out for _, out, _ in ended[1:])
    return folder / "run"


@pytest.mark.distributed
def test_all_curves_are_there_and_say_under_what(measured: Path) -> None:
    folder = newest(measured)
    assert folder == measured / "curves/7.1"
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{n}.jsonl" for n in ("products", "copies", "attention", "network")} | {
        "done.json"
    }
    done = json.loads((folder / "done.json").read_text())
    for path in folder.glob("*.jsonl"):
        curve = Curve.read(path)
        assert curve.name == path.stem and len(curve.points) == done["points"][path.stem] > 3
        header = curve.header
        assert (header["ranks"], header["each"], header["dtype"]) == (4, 2, "fp32")
        assert header["hosts"] == ["node0", "node1"] and header["backend"] == "gloo"
        assert header["torch"] and header["date"][:2] == "20" and header["left_out"] == 0
        assert all(p["least"] <= p["seconds"] <= p["worst"] for p in curve.points)


@pytest.mark.distributed
def test_products_are_those_of_the_recipe_and_work_takes_time(measured: Path) -> None:
    points = Curve.read(measured / "curves/7.1/products.jsonl").points
    found = Counter(Shape(*(p[k] for k in Shape.__dataclass_fields__)) for p in points)
    (measured.parent / "recipe.toml").write_text(RECIPE)
    asked = shapes(CurvesRecipe.read(measured.parent / "recipe.toml").products)
    assert found == Counter(asked)
    assert {p["measured_by"] for p in points} == {4}
    seconds = {shape: p["least"] for shape, p in zip(found, points, strict=True)}
    # 64 times the work, and better shaped.
    assert 4 < seconds[Shape(256, 256, 256)] / seconds[Shape(64, 16, 256)] < 200


@pytest.mark.distributed
def test_bytes_take_time(measured: Path) -> None:
    copies = Curve.read(measured / "curves/7.1/copies.jsonl").points
    for what in ("copy", "add"):
        found = sorted((p["bytes"], p["least"]) for p in copies if p["what"] == what)
        assert len(found) == 4 and found[-1][1] > 4 * found[0][1]
    kernel, host = (next(p for p in copies if p["what"] == w) for w in ("kernel", "host"))
    assert kernel["least"] < host["least"]

    groups = defaultdict(list)
    for point in Curve.read(measured / "curves/7.1/network.jsonl").points:
        groups[point["what"], point["group"]].append(point)
    kinds = {"all_reduce", "reduce_scatter", "all_gather"}
    asked = {(what, g) for what in kinds for g in ("socket", "data, one a node", "data", "job")}
    asked |= {
        (w, g) for w in ("message", "exchange") for g in ("socket", "data, one a node", "data")
    }
    assert set(groups) == asked
    for points in groups.values():
        points.sort(key=lambda p: int(p["bytes"]))
        assert [p["bytes"] for p in points] == [1024, 65536, 4194304]
        for point in points:
            rate = bus_factor(point["what"], point["ranks"]) * point["bytes"] / point["seconds"]
            assert point["bus_rate"] == pytest.approx(rate, rel=1e-3)
            assert point["bus_rate"] < 1e12  # no memory is that fast
    # 4,096 times the bytes are never free, and never carried worse. All groups together, and the
    # fastest repeat of each: other processes may hold up any one of them for milliseconds.
    for what in {what for what, _ in groups}:
        first, *_, last = zip(*(groups[key] for key in groups if key[0] == what), strict=True)
        small, large = (sum(point["least"] for point in points) for points in (first, last))
        assert small < large < 4096 * small, what


@pytest.mark.distributed
def test_a_rank_that_dies_ends_it_with_one_sentence(tmp_path: Path) -> None:
    ranks = start(
        tmp_path, 1, 2, "network.budget_s=90", "network.repeats=2000", "attention.budget_s=0"
    )
    folder = tmp_path / "run/curves/7.1"
    while not (folder / "copies.jsonl").exists():
        assert all(rank.poll() is None for rank in ranks), end(ranks)
        time.sleep(0.02)
    ranks[1].send_signal(signal.SIGKILL)
    (code, _, error), (killed, _, silence) = end(ranks)
    assert (code, killed) == (1, -signal.SIGKILL)
    assert not silence and error.count("\n") == 1, error
    assert error.startswith("curves: rank 0 on node0: a rank or its device failed: ")
    # What was whole stays, and nothing else is there.
    names = {path.name for path in folder.iterdir()}
    assert names == {"products.jsonl", "copies.jsonl", "failed.json"}
    assert len(Curve.read(folder / "products.jsonl").points) > 10
    # A second start there does not mix two runs.
    again = end(start(tmp_path, 1, 2))
    assert [code for code, _, _ in again] == [1, 1]
    assert "holds curves already: remove it to measure again" in again[0][2]


def test_budgets_and_memory_leave_points_out_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(os.environ):
        if name.startswith(JOB_VARIABLES):
            monkeypatch.delenv(name)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    words = [str(tmp_path / "recipe.toml"), "products.budget_s=1e-9", "copies.budget_s=0"]
    assert main([*words, "attention.sequences=[64,200000000]", "--run", str(tmp_path / "r")]) == 0
    folder = tmp_path / "r/curves/by-hand"
    one = Curve.read(folder / "products.jsonl")
    whole = len(shapes(CurvesRecipe.read(tmp_path / "recipe.toml").products))
    assert len(one.points) == 1 and one.header["left_out"] == whole - 1
    out = capsys.readouterr().out
    assert f"{whole - 1} were left out, for memory or time" in out
    assert "1 were left out, for memory or time, such as forward 200000000" in out
    assert "network: one rank has nobody to talk to" in out
    assert not (folder / "copies.jsonl").exists() and not (folder / "network.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[network]\nbudget = 3\n", "unknown key network.budget; did you mean network.budget_s?"),
        ("dtype = 'fp8'\n", "dtype = 'fp8'; choose from auto, fp32, fp16, bf16"),
        ("[products]\nhidden = [0]\n", "products.hidden = [0] should be a list of counts"),
        ("[copies]\nlargest_bytes = 5\n", "largest_bytes = 5 by factor = 2 is no range"),
        ("[network]\nrepeats = 1.5\n", "network.repeats = 1.5 should be of type int"),
        ("dtype = \n", "not valid TOML"),
        ("[laptop]\nlimit_s = 0\n", "limit_s = 0.0 should be above 0"),
        (None, "No such file"),
    ],
)
def test_a_recipe_that_makes_no_sense_ends_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    sentence: str,
) -> None:
    monkeypatch.setenv("ALPENGLOW_MACHINE", "laptop")
    path = tmp_path / "recipe.toml"
    if text is not None:
        path.write_text(text)
    assert main([str(path), "--run", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_another_machines_overlay_is_passed_by(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("limit_s = 9\n[laptop]\nlimit_s = 5\n[laptop.copies]\nfactor = 3\n")
    assert CurvesRecipe.read(path).limit_s == 9
    there = CurvesRecipe.read(path, "laptop", ["copies.factor=4"])
    assert (there.limit_s, there.copies.factor) == (5, 4)


def test_groups_of_summit() -> None:
    found = {(g.name, g.size): g for g in groupings(4, 6, 3)}
    assert found["socket", 3].members[:3] == ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    assert found["socket", 2].members[:3] == ((0, 1), (3, 4), (6, 7))
    assert found["bus", 2].members == ((2, 3), (8, 9), (14, 15), (20, 21))
    assert found["bus, shared", 2].members[:3] == ((0, 3), (1, 4), (2, 5))
    assert found["data, one a node", 4].members == ((0, 6, 12, 18),)
    assert found["data", 4].members[5] == (5, 11, 17, 23)
    assert found["data", 2].members[6:8] == ((12, 18), (13, 19))
    assert found["job", 24].members == (tuple(range(24)),)
    on_node = {key: grouping.on_node for key, grouping in found.items()}
    assert (on_node["data", 4], on_node["bus, shared", 2], on_node["socket", 2]) == (6, 3, 2)
    assert found["data", 4].of(13) == (1, 7, 13, 19) and found["bus", 2].of(0) is None
    for grouping in found.values():
        members = [rank for group in grouping.members for rank in group]
        assert len(members) == len(set(members))
        assert {b - a for g in grouping.members for a, b in pairwise(g)} == {grouping.stride}
    assert all(pair.size == 2 for pair in pairings(4, 6, 3))
    assert groupings(1, 1, 1) == [] and [g.name for g in groupings(1, 2, 2)] == ["socket"]


def test_sizes_begin_with_the_ends() -> None:
    found = sizes(NetworkRecipe(smallest_bytes=1000, largest_bytes=70_000, factor=4))
    assert found[:2] == [1000, 64_000] and sorted(found) == [1000, 4000, 16_000, 64_000]
    assert sizes(NetworkRecipe(smallest_bytes=8, largest_bytes=8)) == [8]


def test_the_shapes_are_a_layers_and_a_spread() -> None:
    found = shapes(ProductsRecipe())
    assert len(found) == len(set(found)) > 150
    # Query, key and value of the 7B over two tensor ranks: forward, and both gradients.
    for shape in (
        Shape(6144, 2048, 4096, "T"),
        Shape(4096, 2048, 6144),
        Shape(4096, 6144, 2048, "N", "T"),
    ):
        assert shape in found
    assert min(min(s.m, s.n, s.k) for s in found) == 16 and any(s.n == 35 for s in found)


def test_damaged_curves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CurveError, match="holds no curves: bsub jobs/calibrate"):
        newest(tmp_path)
    for text in ("", "{}\n", '{"format": 1, "curve": "x"}\n{"seconds": "soon"}\n', "[1]\n"):
        (tmp_path / "x.jsonl").write_text(text)
        with pytest.raises(CurveError, match="holds no curve: measure it again"):
            Curve.read(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text('{"format": 1, "curve": "x"}\n{"seconds": 0}\n')
    with pytest.raises(CurveError, match="a point takes 0 s"):
        Curve.read(tmp_path / "x.jsonl")
