"""The search over layouts: nothing lawful is lost, what it proposes can be trained, and why."""

from __future__ import annotations

import argparse
import json
import tomllib
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest

from alpenglow.config import load, to_tables
from alpenglow.parallel.layout import Layout, LayoutError
from alpenglow.parallel.memory import worst_stage
from alpenglow.parallel.schedule import chunks
from alpenglow.parallel.split import split
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_analysis import layout_command
from alpenglow_analysis.layout_page import recipe_lines
from alpenglow_analysis.planned_run import PlanError, PlannedRun, add_options, planned_run
from alpenglow_analysis.search import Axes, Search, name, room, search
from alpenglow_analysis.search_reasons import axes_of, neighbours, sentences
from alpenglow_lsf.machine import names

ROOT = Path(__file__).parents[2]


def planned(words: str) -> PlannedRun:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return planned_run(parser.parse_args(words.split()))


@pytest.fixture(scope="module")
def seven() -> Search:
    return search(planned("--model 7b --machine summit --nodes 512"))


SMALL = "--model layers=6,hidden=1024,heads=16 --machine summit --nodes 4 --batch 48"


def test_no_lawful_layout_that_fits_is_left_out() -> None:
    run = planned(SMALL)
    model, limit = run.model, room(run)
    wanted = {}
    for p, t, b, schedule, order in product(
        range(1, 7), range(1, 9), range(1, 33), ("1f1b", "zb-h1"), ("pipe-major", "data-major")
    ):
        if run.gpus % (p * t) or 16 % t or 4096 % t or model.vocab_size % t:
            continue
        data = run.gpus // (p * t)
        if 48 % (data * b) or (p == 1 and (schedule, order) != ("1f1b", "pipe-major")):
            continue
        if data == 1 and order != "pipe-major":
            continue
        for attention, recompute, how in product(
            ("plain", "sdpa"), ("none", "selective", "full"), ("even", "balanced")
        ):
            if (attention, recompute) == ("sdpa", "selective"):
                continue  # fused attention computes its core again anyhow
            layers = tuple(split(model, p, how, 2048))  # type: ignore[arg-type]
            layout = Layout(p, t, data, order, layers=layers)  # type: ignore[arg-type]
            work = run.work_of(
                layout, b, schedule=schedule, attention=attention, recompute=recompute
            )
            if worst_stage(model, layout, work).total <= limit:
                wanted[layout, work] = run.cost(layout, work).seconds
    found = search(run)
    assert {(c.layout, c.work): c.seconds for c in found.found} == wanted
    assert found.best.seconds == min(wanted.values())
    assert [c.seconds for c in found.found] == sorted(wanted.values())


def test_every_proposed_layout_passes_the_trainer(seven: Search) -> None:
    recipe = load(
        ROOT / "jobs/pretrain_7b.toml", PretrainRecipe, machine="summit", machines=names()
    )
    for choice in [*seven.found[:40], *seven.front]:
        lines = recipe_lines(choice, seven.run)
        tables = to_tables(recipe)
        for table, values in tomllib.loads(lines).items():
            tables[table] |= values
        from alpenglow.config import parse

        made = parse(PretrainRecipe, tables, "best.toml")
        layout = made.layout(seven.run.gpus, seven.run.machine)
        assert made.refused(layout, seven.run.machine) is None
        assert (layout.pipeline, layout.tensor, layout.order) == (
            choice.layout.pipeline, choice.layout.tensor, choice.layout.order,
        )  # fmt: skip
        # The recipe may seat stages otherwise; the work is the same.
        work = made.work(layout)
        assert replace(work, slice_transfers=choice.work.slice_transfers) == choice.work


def test_front_has_no_layout_that_another_one_beats(seven: Search) -> None:
    front = seven.front
    assert front[0] is seven.best and len(front) > 5
    for choice in seven.found:
        assert any(
            f.seconds <= choice.seconds and f.memory.total <= choice.memory.total for f in front
        )
    for one, other in pairwise(front):
        assert one.seconds < other.seconds and one.memory.total > other.memory.total


def test_the_best_of_7b_is_faster_than_the_recipe_and_that_than_the_published(
    seven: Search,
) -> None:
    parser = layout_command.parser()
    given = parser.parse_args(["--model", "7b", "--machine", "summit", "--nodes", "512"])
    beside = dict(layout_command.named(given))
    assert seven.best.seconds <= beside["alpenglow"].seconds < beside["published"].seconds
    assert beside["published"].work.micro_batches == 8
    assert all(c.memory.total <= room(seven.run) for c in seven.found)
    assert seven.lawful > len(seven.found) > 1000


def test_reasons_name_every_axis_and_their_numbers_are_the_costs(seven: Search) -> None:
    best = seven.best
    near = neighbours(seven)
    assert {n.axis for n in near} >= {"pipeline", "tensor", "micro-batch", "schedule", "recompute"}
    for each in near:
        assert each.fits == (each.memory.total <= room(seven.run))
        if each.fits:
            assert each.cost.seconds >= best.seconds
    told = sentences(seven)
    assert str(best) in told[0]
    one = next(n for n in near if n.axis == "schedule")
    (line,) = [text for text in told if text.startswith(f"With {one.value} ")]
    moved = one.cost.parts()["bubble"] - best.cost.parts()["bubble"]
    assert "longer" in line and ("bubble +" in line) == (moved > 0)


def test_what_is_faster_and_too_large_is_named_with_what_it_lacks() -> None:
    run = planned("--model 7b --machine summit --nodes 16 --batch 192")
    found = search(run)
    large = [n for n in neighbours(found) if not n.fits and n.cost.seconds < found.best.seconds]
    told = sentences(found)
    assert large
    for each in large:
        assert any(f"With {each.value} " in t and "needs" in t and "GB" in t for t in told)


def test_axes_hold_the_search_and_other_trainers_stay_out() -> None:
    run = planned(SMALL)
    some = search(run, Axes(pipeline=(2,), schedule=("1f1b",), recompute=("none",)))
    for choice in some.found:
        axes = axes_of(choice.layout, choice.work)
        assert (axes["pipeline"], axes["schedule"], axes["recompute"]) == (2, "1f1b", "none")
    wide = search(run, Axes(any_trainer=True))
    assert any(chunks(c.work.schedule) > 1 for c in wide.found)
    assert any(c.work.sequence_parallel for c in wide.found)
    assert wide.best.seconds <= search(run).best.seconds
    assert all(c.trained for c in search(run).found)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--model 7b --machine summit --nodes 922",
         "no layout of INCITE 7B on 5,532 GPUs with a batch of 2,048 divides: the nearest that do "
         "are 896 or 1,024 nodes"),
        ("--model layers=40,hidden=20480,heads=128 --machine summit --nodes 4 --batch 48",
         "no layout of layers=40,hidden=20480,heads=128 fits 24 GPUs of summit: the closest"),
    ],
)  # fmt: skip
def test_what_cannot_be_says_the_nearest_that_can(words: str, sentence: str) -> None:
    with pytest.raises(PlanError) as caught:
        _ = search(planned(words)).best
    assert sentence in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_the_nearest_numbers_of_nodes_do_divide() -> None:
    for nodes in (896, 1024):
        assert search(planned(f"--model 7b --machine summit --nodes {nodes}")).lawful
    with pytest.raises(PlanError):
        _ = search(planned("--model 7b --machine summit --nodes 920")).best


def test_the_command_writes_all_forms_and_the_recipe_that_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    words = [*SMALL.split(), "--output", str(tmp_path), "--also-nodes", "2,7"]
    assert layout_command.main(words) == 0
    said = capsys.readouterr().out
    value = json.loads((tmp_path / "layout.json").read_text())
    best = value["layouts"][0]
    assert value["predicted"] is True
    assert f"PP{best['pipeline']} x TP{best['tensor']}" in said
    lines = tomllib.loads((tmp_path / "best.toml").read_text())
    assert lines["parallel"]["pipeline"] == best["pipeline"]
    assert (tmp_path / "best.toml").read_text() in said
    assert "Predicted, nothing here was measured" in (tmp_path / "layout.md").read_text()
    assert "<svg" in (tmp_path / "index.html").read_text()
    assert "no layout of" in said  # 7 nodes: 42 GPUs, and 48 sequences


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("--model 7b --machine summit", 2, "--nodes --gpus is required"),
        ("--model 9b --machine summit --nodes 4", 1, "--model 9b: 7b, 3b, a recipe"),
        ("--model 7b --machine sumit --nodes 4", 1, "did you mean summit?"),
        ("--model 7b --machine summit --nodes 9999", 1, "summit has 27,648 on 4,608 nodes"),
        ("--model layers=4,hidden=128,heads=5 --machine summit --nodes 1 --batch 8", 1,
         "not a multiple of"),
        ("--model layers=4,width=128 --machine summit --nodes 1", 1, "no size 'width'"),
        ("--model layers=4,hidden=128,heads=4 --machine summit --nodes 1", 1, "--batch is missing"),
        ("--model 7b --machine summit --nodes 512 --also-nodes 5000", 1, "summit has 4,608 nodes"),
        ("--model 7b --machine summit --nodes 512 --pipeline 5", 1, "divides"),
        ("--model 7b --machine summit --nodes 512 --schedule 2f2b", 1, "choose from 1f1b, gpipe"),
        ("--model 7b --machine summit --nodes 512 --recompute all", 1, "choose from none, selec"),
        ("--model 7b --machine summit --nodes 512 --order any", 1, "choose from pipe-major"),
        ("--model 7b --machine summit --nodes 512 --sequence 0", 1, "--sequence 0: it is at least"),
        ("--model 7b --machine summit --nodes 512 --batch -1", 1, "--batch -1: it is at least 1"),
    ],
)  # fmt: skip
def test_one_sentence_for_what_cannot_be(
    words: str, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert layout_command.main(words.split()) == code
    said = capsys.readouterr().err
    assert sentence in " ".join(said.split())
    assert code == 2 or said.count("\n") == 1


def test_a_layout_has_a_name_that_tells_it_from_others(seven: Search) -> None:
    told = [name(c.layout, c.work) for c in seven.found]
    layers = [c.layout.layers for c in seven.found]
    assert len(set(zip(told, layers, strict=True))) == len(told)
    with pytest.raises(LayoutError):
        Layout(0)
