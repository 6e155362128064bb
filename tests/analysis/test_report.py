"""The report as files, and the command that writes it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from alpenglow.config import load
from alpenglow.parallel.layout import Layout
from alpenglow_analysis.report import ReportRecipe, main
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.writing import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALPENGLOW_RUN", "ALPENGLOW_MACHINE", "ALPENGLOW_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    spec = Synthetic(
        Layout(2, 1, 2),
        4,
        (Segment(1, 6, reason="more to do"), Segment(7, 9, killed=True), Segment(7, 12)),
        checkpoint_every=3,
        jitter=0.03,
    )
    return spec.write(tmp_path / "a run <1>")


class Page(HTMLParser):
    """Sources, links and text of a page; a tag that is closed out of turn is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self._open.append(tag)
        if tag not in ("use", "image"):
            self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing is left open: elements of figures close themselves."""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_but_itself(run_dir: Path) -> None:
    path = build(run_dir)
    assert path == run_dir / "report" / "index.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert "default-src 'none'" in html
    places = {source[1:] for source in page.sources if source.startswith("#")}
    assert {"account", "ideal", "whatif", "chain", "missing", "method", "glossary"} <= places
    assert places <= {*re.findall(r'<section id="([^"]+)"', html)}
    figures = re.findall(r'aria-labelledby="(\w+)-caption"', html)
    assert figures == [
        "waterfall", "ideal", "timeline", "ranks", "heat", "gains", "chain", "curves",
    ]  # fmt: skip
    rest = [source for source in page.sources if not source.startswith(("#", "data:image/png"))]
    assert rest == []
    assert not re.search(r"https?://|@import|url\((?!#)|<script|<link", html)
    assert "a run <1>: where the time went" in page.text
    for word in ("Charged, the sum", "Idle ranks", "not closed", "Loss", "6,857,302,016"):
        assert word in page.text
    assert "of which at peak" not in page.text, "the peak is unknown"
    assert "MWh" not in page.text.split("What is missing")[0], "nothing was sampled"


def test_the_markdown_has_its_figures_beside_it(run_dir: Path) -> None:
    folder = build(run_dir, price_per_node_hour=3.5).parent
    text = (folder / "report.md").read_text(encoding="utf-8")
    named = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(named) == 8
    for name in named:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        svg = (folder / name).with_suffix(".svg").read_text(encoding="utf-8")
        assert "var(" not in svg, "a file by itself keeps plain colours"
    assert "dollars" in text
    widths = {line.count("|") for line in text.splitlines() if "node-hours |" in line}
    assert widths
    assert "\n\n\n" not in text
    assert not list(folder.rglob(".*")), "no temporary file is left"


def test_a_run_beside_another(run_dir: Path, tmp_path: Path) -> None:
    other = Synthetic(Layout(2, 1, 4), 4, (Segment(1, 6),), schedule="zb-h1").write(
        tmp_path / "other"
    )
    assert main([str(run_dir), "--compare", str(other)]) == 0
    html = (run_dir / "report" / "index.html").read_text(encoding="utf-8")
    text = Page(html).text
    assert "Beside other runs" in text
    assert "ZB-H1, 4" in text
    assert 'aria-labelledby="schedules-caption"' in html
    build(run_dir)
    assert not (run_dir / "report" / "figures" / "schedules.png").exists(), "it was of another time"


def test_a_second_report_takes_the_place_of_the_first(run_dir: Path) -> None:
    first = sorted(p.name for p in build(run_dir).parent.rglob("*"))
    assert sorted(p.name for p in build(run_dir, timeline_step=2).parent.rglob("*")) == first


def test_a_run_without_a_step_still_has_a_report(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").write_bytes(b"")
    for log in (run_dir / "events").rglob("*.log"):
        log.unlink()
    html = build(run_dir).read_text(encoding="utf-8")
    text = Page(html).text
    assert "Ranks that left no events" in text
    assert "Segment 1001.0 left no events." in text
    assert re.findall(r'aria-labelledby="(\w+)-caption"', html) == ["waterfall", "chain"]
    for section in ("whatif", "efficiencies", "stragglers", "clocks", "power"):
        assert f'<section id="{section}"' not in html


def test_the_command_takes_a_run_directory(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run_dir)]) == 0
    assert capsys.readouterr().out == f"report: {run_dir}/report/index.html\n"


def test_the_command_takes_a_recipe_and_the_environment_names_the_run(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(ROOT / "jobs" / "report.toml")
    monkeypatch.setenv("ALPENGLOW_MACHINE", "laptop")
    monkeypatch.setenv("ALPENGLOW_RUN", str(run_dir))
    assert main([recipe, "timeline_step=4", "price_per_node_hour=2"]) == 0
    assert "Step 4" not in capsys.readouterr().err
    assert "$2.00 a node-hour" in (run_dir / "report" / "report.md").read_text(encoding="utf-8")
    monkeypatch.delenv("ALPENGLOW_RUN")
    assert main([recipe, f'run="{run_dir}"']) == 0
    assert main([recipe, 'run="nowhere"']) == 1
    assert capsys.readouterr().err == "alpenglow report: nowhere: no such run directory\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent"], "absent: no such run directory"),
        (["absent.toml"], "absent.toml: no such recipe"),
        (["RUN", "timeline_step=1"], "overrides go with a recipe"),
        (["RECIPE", "timeline=1"], "unknown key timeline; did you mean timeline_step?"),
        (["RECIPE", "timeline_step=0"], 'timeline_step = 0: a step number, or "median"'),
        (["RECIPE", "price_per_node_hour=-1"], "is negative"),
        (["RECIPE", "timeline_step=99"], "no spans of step 99; recorded are steps 1 to 12"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    run_dir: Path,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALPENGLOW_RUN", str(run_dir))
    real = {"RUN": str(run_dir), "RECIPE": str(ROOT / "jobs" / "report.toml")}
    assert main([real.get(word, word) for word in arguments]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (run_dir / "report" / "index.html").exists()


def test_the_shipped_recipe_is_the_default() -> None:
    assert load(ROOT / "jobs" / "report.toml", ReportRecipe) == ReportRecipe()


def test_reading_a_run_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, alpenglow_analysis.report; "
        "print([m for m in ('torch', 'matplotlib', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
