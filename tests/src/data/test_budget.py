"""Token budgets: the strictest bound by trying all, published counts, and the command."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow.data import budget_command
from alpenglow.data.budget import (
    Cut,
    SliceColumns,
    Target,
    fit,
    natural_cut,
    round_bound,
    scaled,
    targets,
)
from alpenglow.data.document import DataError
from alpenglow.data.published_counts import LLAMA_TOKENS, published
from alpenglow.data.recipe import SLICES

SCORE, PERPLEXITY = "rps_doc_ml_wikiref_score", "ccnet_perplexity"


def documents(
    size: int, seed: int, columns: tuple[str, ...] = (SCORE, PERPLEXITY), average: int = 500
) -> SliceColumns:
    rng = np.random.default_rng(seed)
    made = {
        SCORE: rng.random(size).astype(np.float32),
        PERPLEXITY: np.exp(rng.normal(6, 1, size)).astype(np.float32),
    }
    tokens = rng.integers(1, 2 * average, size)
    return SliceColumns(tokens, {name: made[name] for name in columns}, rng.random(size) < 0.8)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 50),
            st.one_of(st.just(float("nan")), st.integers(-6, 6).map(lambda k: k / 7)),
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    ),
    share=st.floats(0.01, 1.2),
    side=st.sampled_from(["least", "most"]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_the_strictest_bound_that_leaves_the_target(
    rows: list[tuple[int, float, bool]], share: float, side: str, dtype: str
) -> None:
    tokens = np.array([row[0] for row in rows])
    column = np.array([row[1] for row in rows], dtype)
    kept = np.array([row[2] for row in rows])
    available = int(tokens[kept].sum())
    target = Target(max(0.5, share * available))
    cut = Cut("quality", "least" if side == "least" else "most")
    found = fit("c4", SliceColumns(tokens, {"quality": column}, kept), target, cut)
    assert found.available == available
    # Every value as a bound, strictest first.
    enough = []
    for value in np.unique(column[~np.isnan(column)]):
        inside = kept & (column >= value if side == "least" else column <= value)
        if tokens[inside].sum() >= target.tokens:
            enough.append((inside.sum(), int(tokens[inside].sum())))
    if found.value is None:
        assert available <= target.tokens or not enough
        assert (found.tokens, found.within) == (available, kept.sum())
        return
    fewest, left = min(enough)
    assert (found.within, found.tokens) == (fewest, left)
    # The recipe's number, read back, chooses these documents and no others.
    bound = tomllib.loads(f"x = {found.value!r}")["x"]
    inside = kept & (column >= bound if side == "least" else column <= bound)
    assert tokens[inside].sum() == left
    assert found.reached


def test_percentiles_are_of_the_whole_column() -> None:
    column = np.arange(100, dtype=np.float32)
    tokens = np.full(100, 10)
    kept = column % 2 == 0
    found = fit("c4", SliceColumns(tokens, {"q": column}, kept), Target(100), Cut("q", "least"))
    assert (found.value, found.within, found.percentile) == (80, 10, 80.0)
    found = fit("c4", SliceColumns(tokens, {"q": column}, kept), Target(100), Cut("q", "most"))
    assert (found.value, found.within, found.percentile) == (18, 10, 19.0)
    assert found.worst == 98


def test_bounds_are_short_decimals() -> None:
    float32 = np.dtype("float32")
    assert round_bound(0.2634, 0.2431, "least", float32) == 0.26
    assert round_bound(0.2634, None, "least", float32) == 0.2
    assert round_bound(312.7, 330.0, "most", float32) == 320.0
    assert round_bound(-12.3, -12.9, "least", float32) == -12.3
    assert round_bound(0.0, -1.0, "least", float32) == 0.0
    one, next_one = (float(np.float32(x)) for x in (0.1, np.nextafter(np.float32(0.1), 1)))
    bound = np.float32(round_bound(next_one, one, "least", float32))
    assert one < bound <= next_one


def test_published_counts() -> None:
    found = published()
    assert list(found) == ["redpajama", "llama", "slimpajama_before", "slimpajama_kept"]
    for rows in found.values():
        assert set(rows) == set(SLICES)
        assert all(row.source for row in rows.values())
    tokens = [row.tokens or 0 for row in found["redpajama"].values()]
    assert sum(tokens) == pytest.approx(1210e9)
    for row in found["redpajama"].values():
        assert row.mixture == pytest.approx((row.tokens or 0) / 1210e9, abs=0.0006)
    llama = found["llama"]
    assert sum(row.mixture or 0 for row in llama.values()) == pytest.approx(1)
    # Two sources of LLaMA's tokens agree: a tutorial's counts, and mixture over epochs.
    for name in ("commoncrawl", "c4", "github", "arxiv"):
        row = llama[name]
        assert not row.derived
        mixture, epochs = row.mixture or 0, row.epochs or 0
        assert row.tokens == pytest.approx(LLAMA_TOKENS * mixture / epochs, rel=0.05)
    assert llama["wikipedia"].derived
    assert llama["wikipedia"].tokens == pytest.approx(25.7e9, rel=0.01)
    before, after = (
        sum(row.bytes or 0 for row in found[f"slimpajama_{name}"].values())
        for name in ("before", "kept")
    )
    assert before == pytest.approx(5152e9, rel=0.001)
    assert after == pytest.approx(2567e9, rel=0.001)


def test_targets_are_scaled_to_what_is_there() -> None:
    slices = {"commoncrawl": documents(2000, 0), "books": documents(20, 1)}
    wanted = targets("redpajama")
    aims, scale, scarcest = scaled(wanted, slices)
    books = int(slices["books"].tokens[slices["books"].kept].sum())
    assert scarcest == "books"
    assert list(aims) == ["commoncrawl", "books"]
    assert aims["books"].tokens == pytest.approx(books)
    assert aims["commoncrawl"].tokens == pytest.approx(books * 878 / 26)
    aims, scale, _ = scaled(wanted, slices, total=904.0)
    assert scale == pytest.approx(1e-9)
    assert aims["commoncrawl"].tokens == pytest.approx(878)
    assert scaled(wanted, slices, scale=1)[0]["books"].tokens == 26e9
    empty = SliceColumns(np.array([5]), {}, np.array([False]))
    with pytest.raises(DataError, match="no tokens are kept in any slice of the target"):
        scaled(wanted, {"c4": empty})


def test_classifier_first_then_perplexity() -> None:
    both = documents(3, 0).columns
    assert natural_cut(both) == Cut(SCORE, "least")
    assert natural_cut(documents(3, 0, (PERPLEXITY,)).columns) == Cut(PERPLEXITY, "most")
    assert natural_cut({"rps_doc_word_count": np.ones(3)}) is None
    german = {"rps_doc_ml_toxicity_score": np.ones(3), "rps_doc_ml_wikiref_de_score": np.ones(3)}
    assert natural_cut(german) == Cut("rps_doc_ml_wikiref_de_score", "least")
    del german["rps_doc_ml_wikiref_de_score"]
    assert natural_cut(german) is None  # more of it is not better


def run(
    arguments: list[str], slices: Mapping[str, SliceColumns], capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    code = budget_command.main(["runs/x", *arguments], lambda *_: slices)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def slices() -> dict[str, SliceColumns]:
    return {
        "commoncrawl": documents(40_000, 0),
        "c4": documents(9000, 1, (PERPLEXITY,)),
        "github": documents(5000, 2, ()),
        "wikipedia": documents(400, 3),
    }


def test_the_command_cuts_to_the_shares(
    slices: dict[str, SliceColumns], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "budget.toml"
    code, said, _ = run(["--target", "redpajama", "--output", str(output)], slices, capsys)
    assert code == 0
    assert "at which wikipedia is used whole and nothing is repeated" in said
    assert "github: " in said
    assert "no signal to cut it by: give it a smaller weight" in said
    assert "books: nothing is kept of it; the target has 26 G tokens" in said
    tables = tomllib.loads(output.read_text())["slices"]
    assert set(tables) == {"commoncrawl", "c4"}
    assert output.read_text() in said
    wikipedia = slices["wikipedia"]
    scarce = int(wikipedia.tokens[wikipedia.kept].sum())
    for name, share in (("commoncrawl", 878 / 24), ("c4", 175 / 24)):
        ((signal, bound),) = tables[name]["thresholds"].items()
        columns = slices[name]
        column = columns.columns[signal]
        inside = column >= bound["least"] if "least" in bound else column <= bound["most"]
        left = int(columns.tokens[columns.kept & inside].sum())
        assert share * scarce <= left <= share * scarce + 1000  # a document more
        quality = np.corrcoef(column, inside)[0, 1]
        assert quality > 0 if "least" in bound else quality < 0


def test_what_cannot_be_reached_is_said_in_epochs(
    slices: dict[str, SliceColumns], capsys: pytest.CaptureFixture[str]
) -> None:
    there = int(slices["wikipedia"].tokens[slices["wikipedia"].kept].sum())
    total = 2 * there * sum(published()["llama"][name].tokens or 0 for name in slices)
    total /= published()["llama"]["wikipedia"].tokens or 1
    code, said, _ = run(["--target", "llama", "--total", str(total)], slices, capsys)
    assert code == 0
    assert "wikipedia: " in said
    assert "without reading each 2.00 times" in said
    row = next(line for line in said.splitlines() if line.startswith("wikipedia  "))
    assert row.split()[-2:] == ["4.90", "2.45"]  # twice LLaMA's own epochs
    code, said, _ = run(["--target", "llama", "--scale", "1"], slices, capsys)
    assert "# No slice has to be cut." in said


def test_named_signals_and_targets_of_ones_own(
    slices: dict[str, SliceColumns], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "target.toml"
    path.write_text("[tokens]\ncommoncrawl = 2e6\nc4 = 1_000_000\n")
    arguments = ["--target", str(path), "--scale", "1", "--signal", "c4=none"]
    arguments += ["--signal", f"commoncrawl={PERPLEXITY}"]
    _, said, _ = run(arguments, slices, capsys)
    fragment = tomllib.loads(said[said.index("# for the recipe") :])
    assert list(fragment["slices"]) == ["commoncrawl"]
    assert list(fragment["slices"]["commoncrawl"]["thresholds"][PERPLEXITY]) == ["most"]
    code, _, error = run([*arguments, "--signal", "commoncrawl=x:most"], slices, capsys)
    assert code == 1
    assert f"commoncrawl: has no signal x; stored are {PERPLEXITY}, {SCORE}" in error


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "neither a published data set (llama, redpajama) nor a file"),
        ("tokens =", "not readable as TOML"),
        ("[slices]\nc4 = 1\n", "has no table [tokens]"),
        ("[tokens]\nc5 = 1\n", "unknown slice c5 in [tokens]"),
        ("[tokens]\nc4 = -1\n", "tokens.c4 = -1 should be a number above 0"),
    ],
)
def test_bad_targets(
    text: str | None,
    sentence: str,
    slices: dict[str, SliceColumns],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "target.toml"
    if text is not None:
        path.write_text(text)
    code, out, error = run(["--target", str(path)], slices, capsys)
    assert (code, out) == (1, "")
    assert sentence in error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--signal", "c5=x"], "should be SLICE=COLUMN"),
        (["--signal", "c4=x:more"], "after the colon stands least or most"),
        (["--total", "0"], "above 0"),
        (["--scale", "-1"], "invalid"),
        (["--scale", "1", "--total", "5"], "not allowed with"),
    ],
)
def test_wrong_usage(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        budget_command.main(["runs/x", "--target", "llama", *arguments], lambda *_: {})
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
