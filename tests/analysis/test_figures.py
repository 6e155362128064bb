"""The figures hold what the account says, and no label lies on another."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow.parallel.layout import Layout
from alpenglow_analysis import figures, style
from alpenglow_analysis.bubble import schedule_name
from alpenglow_analysis.heat_map import binned, cell_in_words
from alpenglow_analysis.ideal import gaps, ideal_and_actual, shown
from alpenglow_analysis.pictures import drawings
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import idle_equivalents
from alpenglow_analysis.style import apart
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.timeline import median_step, shown_ranks
from alpenglow_analysis.units import amount, count, percent, seconds, work
from alpenglow_analysis.utilisation import account
from alpenglow_analysis.waterfall import waterfall
from alpenglow_analysis.writing import material

SHAPES = {
    "one rank": Synthetic(Layout(1, 1, 1), 2, (Segment(1, 3),), jitter=0.05),
    "laptop": Synthetic(
        Layout(2, 2, 2),
        8,
        (Segment(1, 40, reason="more to do"), Segment(41, 60, killed=True), Segment(51, 90)),
        jitter=0.05,
    ),
    "96 ranks": Synthetic(
        Layout(12, 2, 4), 8, (Segment(1, 4),), ranks_per_node=6, gpus_per_node=6, jitter=0.05
    ),
    "zero bubble": Synthetic(
        Layout(12, 1, 1), 8, (Segment(1, 4),), schedule="zb-h1", backward=30_000_000, jitter=0.02
    ),
    "192 ranks": Synthetic(Layout(12, 2, 8), 4, (Segment(1, 3),), ranks_per_node=6),
}


@pytest.fixture(scope="module", params=SHAPES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = SHAPES[request.param]
    return Run.load(spec.write(tmp_path_factory.mktemp("figures") / "run"))


@pytest.fixture(scope="module")
def drawn(run: Run) -> Iterator[dict[str, Any]]:
    """All figures that a report of the run has."""
    found = material(run)
    with style.settings():
        yield {
            name: made
            for name, made in drawings(found, median_step(run, found.account))
            if made is not None
        }


def boxes(made: Any) -> list[tuple[str, Any]]:
    """Every text that is drawn, with the pixels it takes."""
    made.canvas.draw()
    texts = [text for legend in made.legends for text in legend.get_texts()]
    for axes in [*made.axes, *(child for parent in made.axes for child in parent.child_axes)]:
        texts += [*axes.texts, axes.title, axes._left_title]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts.append(axis.label)
            # Matplotlib keeps ticks just outside the view, and does not draw them.
            texts += [
                tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high
            ]
    drawn = [text for text in texts if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in drawn]


def test_no_text_is_cut_or_lies_on_another(drawn: dict[str, Any]) -> None:
    for name, made in drawn.items():
        page = made.bbox
        texts = boxes(made)
        for i, (text, box) in enumerate(texts):
            assert box.x0 >= -1, (name, text)
            assert box.x1 <= page.x1 + 1, (name, text)
            assert box.y0 >= -1, (name, text)
            assert box.y1 <= page.y1 + 1, (name, text)
            for other, there in texts[:i]:
                wide = min(box.x1, there.x1) - max(box.x0, there.x0)
                high = min(box.y1, there.y1) - max(box.y0, there.y0)
                assert wide < 1 or high < 1, (name, text, other)


def test_bars_of_the_waterfall_are_the_account(run: Run, drawn: dict[str, Any]) -> None:
    where = account(run)
    bars = drawn["waterfall"].axes[0].patches
    widths = [bar.get_width() for bar in bars]
    assert widths[0] == pytest.approx(100)
    assert sum(widths[1:]) == pytest.approx(100)
    assert widths[-1] == pytest.approx(100 * where.share("compute"))
    ends = [bar.get_x() for bar in bars[1:]]
    assert all(later <= earlier + 0.01 for earlier, later in itertools.pairwise(ends))


def test_a_waterfall_of_any_pieces(run: Run) -> None:
    """Pieces that this code does not know are drawn; small ones but `unexplained` share a bar."""
    where = account(run)
    pieces = {f"piece {i}": where.charged_ns // 20 for i in range(18)}
    pieces |= {"tiny": 7, "unexplained": -5, "compute": 0}
    pieces["compute"] = where.charged_ns - sum(pieces.values())
    other = replace(where, pieces=pieces)
    with style.settings():
        bars: list[Any] = list(waterfall(run, other).axes[0].patches)
    assert len(bars) == 22, "the charge, 18 pieces, unexplained, the rest, useful compute"
    assert sum(bar.get_width() for bar in bars[1:]) == pytest.approx(100)


def test_gaps_of_the_ideal_add_up(run: Run) -> None:
    """All against the first: together they are N x (1 - actual / ideal)."""
    found = material(run)
    ideal, actual = shown(found.rates)[0], shown(found.rates)[-1]
    lost = idle_equivalents(run.facts.ranks, actual.tokens_per_s, ideal.tokens_per_s)
    assert sum(gap.equivalents for gap in gaps(run, found.rates)) == pytest.approx(lost)


def test_runs_of_several_sizes_share_the_ideal_figure(tmp_path: Path) -> None:
    runs = []
    for data in (1, 2, 16):
        spec = Synthetic(Layout(2, 1, data), 4, (Segment(1, 3),), ranks_per_node=2)
        runs.append(Run.load(spec.write(tmp_path / f"dp{data}")))
    known = [(run, material(run).rates) for run in runs]
    with style.settings():
        made = ideal_and_actual(known)
    assert made is not None
    axes: Any = made.axes[0]
    assert axes.get_xscale() == "log"
    drawn = {tuple(map(float, line.get_xdata())) for line in axes.lines}
    assert (1.0, 2.0, 16.0) in drawn
    assert any("dp1, 1 node" in text.get_text() for text in axes.texts)


def test_a_bin_of_the_heat_map_is_the_slowest_rank_by_its_mean() -> None:
    cells = np.ones((5, 7))
    cells[3, 4] = 3.0
    cells[4, 6] = np.nan
    found = binned(cells, 2, 3)
    assert found.shape == (3, 3)
    assert found[1].tolist() == pytest.approx([1, 5 / 3, 1])
    assert np.isnan(found[2, 2])
    assert cell_in_words(2, 3) == "a cell is the slowest of 2 ranks by their mean over 3 steps"


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.5))
def test_labels_are_moved_apart_and_stay_in_order(wanted: list[float], least: float) -> None:
    placed = apart(wanted, least, 0.0, 1.0)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in placed)
    room = min(least, 1 / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for before, after in itertools.pairwise(order):
        assert placed[after] - placed[before] >= room - 1e-9


def test_the_page_may_set_neutral_colours_anew(run: Run) -> None:
    with style.settings():
        plain = style.to_svg(waterfall(run, account(run)))
    themed = style.themed(plain, "name")
    assert "var(--figure-ink, #1A1A1A)" in themed
    assert "var(--" not in plain
    names = re.findall(r'\bid="([^"]+)"', themed)
    assert names
    assert all(name.startswith("name-") for name in names)
    assert set(re.findall(r"url\(#([^)]+)\)", themed)) <= {*names}


def test_the_timeline_shows_every_pass_of_the_shown_ranks(run: Run, drawn: dict[str, Any]) -> None:
    axes = drawn["timeline"].axes[0]
    shown, m = shown_ranks(run.facts.layout), run.facts.micro_batches
    assert len(axes.get_yticks()) == len(shown)
    numbers = [text.get_text() for text in axes.texts]
    passes = 3 if schedule_name(run) == "zb-h1" else 2
    assert sorted(numbers) == sorted(str(i) for i in range(m) for _ in range(passes * len(shown)))


def test_a_bar_of_a_rank_is_as_high_as_its_step(run: Run, drawn: dict[str, Any]) -> None:
    axes = drawn["ranks"].axes[0]
    tops = np.array([bar.get_y() + bar.get_height() for bar in axes.patches])
    where = account(run)
    scale = 1e3 if where.step_s.mean() < 1 else 1.0
    assert tops.max() == pytest.approx(where.step_s.mean() * scale)


def test_nothing_global_is_touched(run: Run) -> None:
    import matplotlib

    before = matplotlib.rcParams.copy()
    with style.settings():
        waterfall(run, account(run)).canvas.draw()
    assert matplotlib.rcParams.copy() == before
    assert "matplotlib.pyplot" not in sys.modules


def test_the_same_run_gives_the_same_picture(tmp_path: Path) -> None:
    run = Run.load(SHAPES["one rank"].write(tmp_path / "run"))
    with style.settings():
        first, second = (style.to_svg(waterfall(run, account(run))) for _ in range(2))
    assert first == second
    assert first.startswith("<svg")


def test_colours_are_told_apart_in_grey() -> None:
    """Neighbours in a stack differ in brightness by a tenth at least, or one of them is hatched."""

    def grey(name: str) -> float:
        colour, _ = style.COLOURS[name]
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for below, above in zip(figures.STACK, figures.STACK[1:], strict=False):
        hatched = style.COLOURS[below][1] != style.COLOURS[above][1]
        assert hatched or abs(grey(below) - grey(above)) > 0.1, (below, above)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(73_319.6), "73.3 k"),
        (count(4_194_304), "4.19 M"),
        (count(812), "812"),
        (count(0.25), "0.25"),
        (count(float("nan")), "unknown"),
        (seconds(0.012), "12 ms"),
        (seconds(3.4217), "3.42 s"),
        (seconds(250), "4 min 10 s"),
        (seconds(7500), "2 h 05 min"),
        (percent(0.4131), "41.3\u00a0%"),
        (percent(0.0002), "0.02\u00a0%"),
        (percent(0), "0\u00a0%"),
        (percent(-0.25), "−25.0\u00a0%"),
        (percent(1e-7), "<\u00a00.001\u00a0%"),
        (percent(-1e-7), ">\u00a0−0.001\u00a0%"),
        (amount(1081.3), "1,081"),
        (amount(0.0335), "0.0335"),
        (amount(-1e-9), "> −0.001"),
        (work(-5e6, 1e12, "GPU"), "−0.005 GPU-s"),
        (work(5e5, 1e12, "GPU"), "< 0.001 GPU-s"),
        (work(3.6e12, 3.6e13, "GPU"), "1 GPU-hours"),
        (work(5e9, 1e12, "rank"), "5 rank-s"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text == expected
