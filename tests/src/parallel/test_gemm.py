"""Products by shape: measured points, rounding to tiles and rounds, limits, units."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow.parallel.gemm import gemm_seconds, rate
from alpenglow.parallel.hardware import Gpu, Hardware
from alpenglow.parallel.validation import products, records
from alpenglow_lsf.machine import load

V100 = Hardware.of(load("summit"), 1).gpu
A100 = Hardware.of(load("selene"), 1).gpu
SIDES = st.integers(1, 9000)


def test_measured_products_of_a_v100() -> None:
    every, fat = products()
    assert len(every.rows) == 160
    # What training runs has no thin side; a DeepBench point is one run of one library version, and
    # neighbours of one kind differ by up to a tenth.
    assert fat.mean < 0.04 and abs(fat.worst.error) < 0.12
    # Thin products: the library's own choices scatter by half (2,048 beside 2,560, transposed).
    assert every.mean < 0.10 and abs(every.worst.error) < 0.65


def test_a_curve_over_the_volume_would_be_three_times_as_wrong() -> None:
    points = [
        (int(r["m"]) * int(r["n"]) * int(r["k"]), float(r["ms"]))
        for r in records("deepbench_v100_fp16")
    ]
    decades: dict[int, list[float]] = {}
    for volume, ms in points:
        decades.setdefault(len(str(volume)), []).append(volume / ms)
    curve = {decade: median(rates) for decade, rates in decades.items()}
    error = [abs(v / curve[len(str(v))] / ms - 1) for v, ms in points]
    assert sum(error) / len(error) > 3 * products()[0].mean


def test_the_best_shapes_reach_what_was_measured_on_an_a100() -> None:
    # stas00/ml-engineering, compute/accelerator: the best of a search over shapes.
    for shape, published in (((1024, 10240, 5120), 271.2e12), ((6912, 2048, 16384), 267.9e12)):
        assert rate(A100, *shape) == pytest.approx(published, rel=0.06)
    best = max(
        rate(A100, m, n, k) for m in (2048, 6912) for n in (2048, 9216) for k in (4096, 16384)
    )
    assert best == pytest.approx(271e12, rel=0.02)


def test_a_last_round_that_is_nearly_empty_costs_a_whole_one() -> None:
    # 108 blocks of 256 x 128 fill the A100 once; a few more columns need a second round of
    # something.
    full, more = (4608, 768, 8192), (4608, 784, 8192)
    assert rate(A100, *full) > 1.15 * rate(A100, *more)
    # In a large product a round more or less is nothing.
    assert rate(A100, 46080, 7680, 8192) < 1.03 * rate(A100, 46080, 7696, 8192)


def test_limits() -> None:
    # Large: the inner loop's rate. Tiny: the least time of a kernel. Thin: its bytes.
    assert rate(V100, 20480, 20480, 20480) == pytest.approx(V100.rate, rel=0.03)
    assert gemm_seconds(V100, 8, 8, 8) < V100.kernel_s + 3 * V100.fill_s
    nbytes = 2 * (8192 * 8192 + 16 * 8192 + 16 * 8192)
    assert gemm_seconds(V100, 8192, 16, 8192) == pytest.approx(nbytes / V100.bandwidth, rel=0.25)
    assert gemm_seconds(V100, 8192, 16, 8192) > nbytes / V100.bandwidth


def test_a_batch_fills_the_gpu_that_one_product_does_not() -> None:
    alone = gemm_seconds(A100, 256, 256, 64)
    assert gemm_seconds(A100, 256, 256, 64, batch=100) < 10 * alone


@given(SIDES, SIDES, SIDES)
def test_time_scales_with_the_hardware(m: int, n: int, k: int) -> None:
    """Twice the rates and half the latencies are half the time: every term has its unit."""
    twice = replace(
        V100,
        rate=2 * V100.rate,
        bandwidth=2 * V100.bandwidth,
        cache_bandwidth=2 * V100.cache_bandwidth,
        fill_s=V100.fill_s / 2,
        kernel_s=V100.kernel_s / 2,
    )
    assert gemm_seconds(twice, m, n, k) == pytest.approx(gemm_seconds(V100, m, n, k) / 2)


@given(SIDES, SIDES, SIDES)
def test_no_product_beats_the_roofline(m: int, n: int, k: int) -> None:
    seconds = gemm_seconds(A100, m, n, k)
    assert seconds >= 2 * m * n * k / A100.rate
    assert seconds >= 2 * (m * k + k * n + m * n) / A100.bandwidth
    assert gemm_seconds(A100, m, n, 2 * k) >= seconds or k < 512


def test_a_slower_cache_slows_small_tiles_only() -> None:
    slow: Gpu = replace(A100, cache_bandwidth=A100.cache_bandwidth / 1.2)
    large, small = (8192, 8192, 8192), (512, 256, 8192)
    assert rate(slow, *large) > 0.98 * rate(A100, *large)
    assert rate(slow, *small) < 0.93 * rate(A100, *small)
