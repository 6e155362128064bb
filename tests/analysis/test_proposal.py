"""alpenglow plan proposal: a request that adds up, marks and sources, LaTeX that compiles."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from alpenglow_analysis import latex, plan_command
from alpenglow_analysis.allocation import PROGRAMS
from alpenglow_analysis.inks import Html, Latex, Markdown
from alpenglow_analysis.marked import MARKS, Blank, Mark, Name, Notes, Value, say
from alpenglow_analysis.planned_run import PlanError
from alpenglow_analysis.proposal import Proposal, propose
from alpenglow_analysis.proposal_calendar import Calendar
from alpenglow_analysis.proposal_command import parser, write
from alpenglow_analysis.proposal_scaling import Kind, Point, Series, Study
from alpenglow_lsf.machine import load

SUMMIT = load("summit")
KINDS: tuple[Kind, ...] = ("strong", "weak")
WORDS = ["--model", "7b", "--tokens", "200B", "--machine", "summit", "--campaigns", "200"]


def plan(*more: str) -> int:
    return plan_command.main(["proposal", *WORDS, *more])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A proposal with no study."""
    folder = tmp_path_factory.mktemp("plans") / "a proposal of 7B"
    assert plan("--output", str(folder)) == 0
    return folder


def proposed(*more: str) -> Proposal:
    given = parser().parse_args([*WORDS, "--nodes", "512", *more])
    return propose(given, SUMMIT)


# A number of a sentence: not part of a name (7B, fp16, ZeRO-1, h^2).
NUMBER = re.compile(r"(?<![\w.,^])(?<![A-Za-z]-)[−+±]?\d[\d,.]*\d?(?![\w-])")
UNITS = (
    r"days?|jobs?|failures?|node-hours|tokens/s|billion|trillion|million|h|min|s|ms|%|GB|TB|MB|kB|"
    r"MB/s|GB/s|TFLOP/s|January|February|March|April|May|June|July|August|September|October|"
    r"November|December|one in|nodes|steps|k|M|dev\d|median|sigma|then|until nodes are free"
)
JOIN = r"(?:\s|,|\(|\)|to|of|:|±|x)"
VALUE = re.compile(
    rf"[−+±]?\s?\d[\d,.]*(?:{JOIN}|{UNITS}|at most|[−+]?\d[\d,.]*)*? \([MPAS]\)\[\^\d+\]"
)


def unmarked(text: str) -> list[str]:
    """Lines of a proposal's markdown that hold a number without a mark and a note."""
    body, _, _ = text.partition("## Notes")
    found = []
    for row in body.splitlines():
        if row.startswith(("#", "![", "Written ")):
            continue
        bare = re.sub(r"`[^`]*`", "", row)
        # A cell that is a value whole may hold anything: its mark stands at its end.
        cells = [
            re.sub(r"^[^\[\]]* \([MPAS]\)\[\^\d+\]$", "", c.strip())
            for c in re.split(r" ?(?<!\\)\| ?", bare)
        ]
        left = [VALUE.sub("", cell) for cell in cells]
        if any(NUMBER.search(cell) for cell in left):
            found.append(row)
    return found


def test_every_number_of_the_markdown_has_a_mark_and_a_source(written: Path) -> None:
    text = (written / "proposal.md").read_text()
    assert unmarked(text) == []
    # The test sees what it must see.
    assert unmarked("A step takes 1.68 s on 512 (S)[^1] nodes.")
    assert unmarked("| a | 7 |") and not unmarked("INCITE 7B in fp16 under ZeRO-1: 512 (S)[^1].")
    body, _, notes = text.partition("## Notes")
    used = {int(n) for n in re.findall(r"\)\[\^(\d+)\]", body)}
    told = {int(n): source for n, source in re.findall(r"^\[\^(\d+)\]: (.+)$", notes, re.M)}
    assert used == set(told) == set(range(1, len(told) + 1)) and len(told) > 50
    meaning = set(MARKS.values())
    for n, mark in set(re.findall(r"\((\w)\)\[\^(\d+)\]", body)):
        found = told[int(mark)]
        assert found.startswith(f"{MARKS[n]}: ") and len(found) > len(MARKS[n]) + 4
    assert all(
        source.partition(": ")[0] in meaning or "stated" in source for source in told.values()
    )


def test_nothing_counts_as_measured_where_nothing_was(written: Path) -> None:
    text = (written / "proposal.md").read_text()
    assert "(M)[^" not in text
    assert "No scaling study was given" in text and "no figure of time in it was measured" in text
    found = json.loads((written / "proposal.json").read_text())
    marks = {value["mark"] for value in values(found)}
    assert marks == {"P", "A", "S"}


def values(found: Any) -> list[dict[str, Any]]:
    """All values of a proposal's JSON."""
    if isinstance(found, dict):
        own = [found] if {"text", "mark", "source"} <= set(found) else []
        return own + [v for part in found.values() for v in values(part)]
    return [v for part in found for v in values(part)] if isinstance(found, list) else []


def test_the_request_adds_up_as_it_is_printed(written: Path) -> None:
    found = json.loads((written / "proposal.json").read_text())["request"]
    table = re.findall(
        r"^\| ([^|]+?) \| ([\d,]*)[^|]* \| ([\d,]*)[^|]* \| ([\d,.]*)[^|]* \| ([\d,.]+)[^|]* \|",
        (written / "proposal.md").read_text().partition("## Request")[2].partition("## Memory")[0],
        re.M,
    )
    exact = [[Fraction(cell.replace(",", "") or "0") for cell in row[1:]] for row in table]
    lines = [row for row in exact if row[0]]
    assert len(lines) == len(found["rows"]) >= 10
    for runs, nodes, hours, node_hours in lines:
        assert runs * nodes * hours == node_hours
    sums = {row[0]: numbers[3] for row, numbers in zip(table, exact, strict=True) if not numbers[0]}
    assert sum(row[3] for row in lines) == sums["Request"] == Fraction(str(found["total"]))
    assert sums["Without contingency"] + sums["Contingency"] == sums["Request"]
    assert sums["Contingency"] == Fraction(str(found["contingency"]))
    assert f"allocation of {found['total']:,.1f} (P)" in (written / "proposal.md").read_text()


def test_nine_of_ten_campaigns_stay_within_the_request() -> None:
    own = proposed()
    within = own.outcome.node_hours <= own.request.production
    assert 0.9 <= within.mean() < 0.95
    # Each line of contingency is what its cause costs: without the cause there is no line.
    every = ("--checkpoint-minutes", f"{own.plan.interval_s / 60}")
    quiet = proposed("--failure-gpu-hours", "none", "--step-error", "0", *every)
    keys = {row.key for row in quiet.request.rows}
    assert "failures" not in keys and "spread" not in keys and "production" in keys
    assert quiet.request.row("production").tenths == own.request.row("production").tenths


def test_a_line_of_the_request_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    own = proposed("--job", "data preparation: 2 x 46 x 6", "--job", "Tuning: 3 x 4 x 1.5")
    row = own.request.row("preparation")
    assert (row.tenths, row.hours.mark) == (5520, "S")
    assert own.request.row("tuning").node_hours == 18.0
    for word, says in (
        ("Tuning", "RUNS x NODES x HOURS"),
        ("production run: 1 x 2 x 3", "simulated"),
    ):
        assert plan("--output", "nowhere", "--job", word) == 1
        assert says in capsys.readouterr().err
    assert not Path("nowhere").exists()


def test_the_calendar_keeps_the_node_hours_and_tells_the_last_safe_day() -> None:
    own = proposed()
    found = own.calendar
    early = sum(row.node_hours for row in own.request.rows if row.key in
                ("calibration", "study", "preparation", "trials"))  # fmt: skip
    assert found.used(0) == 0 and found.used(found.begins) == pytest.approx(early)
    assert found.used(365) == pytest.approx(own.request.base)
    for rule in PROGRAMS["INCITE"]:
        last = found.latest(120, rule.below)
        assert last is not None
        assert found.used(120, last) >= rule.below * own.request.total
        if last < 120:
            assert found.used(120, last + 1) < rule.below * own.request.total
    assert Calendar(own.request, own.outcome, begins=364).ends > 365


def test_needs_follow_from_the_model_and_the_layout() -> None:
    own = proposed()
    assert own.storage.checkpoint == 14 * own.chosen.run.model.parameters()
    rows = {row[0]: row for row in own.storage.rows}
    shards = rows["Token shards"]
    assert isinstance(shards[1], Value)
    assert (shards[1].number, shards[2].number) == (400, 400e9)
    steps = own.plan.work.steps
    assert own.storage.kept == 3 + steps // 10_000  # the last step is one of the last three
    checkpoints = rows["Checkpoints"]
    assert isinstance(checkpoints[3], Value)
    assert checkpoints[3].number == 513 * own.storage.kept
    strong, weak = own.series
    assert [p.nodes for p in strong.points] == [32, 64, 128, 256, 512]
    assert strong.points[-1].seconds == weak.points[-1].seconds == own.chosen.cost.seconds
    assert {p.micro_batches for p in weak.points} == {16}
    assert [p.micro_batches for p in strong.points] == [256, 128, 64, 32, 16]
    assert strong.efficiency(strong.points[0]) == 1.0 > strong.efficiency(strong.points[-1])


NASTY = r"50 % of $x_1 & #2 {a} \b ~c ^d <e> |f| \"g\" --model é Ł ą ± × − … 日"


def test_text_is_escaped() -> None:
    value = Value(NASTY, "A", NASTY)
    line = say("{v} {n} {f}", v=value, n=Name("a_b|c"), f=Blank("x & y"))
    notes = Notes()
    made = Latex(notes).line(line)
    assert made.isascii()
    plain = re.sub(r"\\[{}$&#%_]|\\[a-zA-Z]+(\{\})?|\\[`'^\"~=.]\{.\}", "", made)
    assert not set("$&#%_^~") & set(plain)
    assert plain.count("{") == plain.count("}")
    assert "[U+65E5]" in made and r"\'{e}" in made and r"-{}-model" in made
    assert list(notes) == [(1, "A", NASTY)]
    page = Html(Notes()).line(line)
    shown = re.findall(r'title="([^"]*)"', page)
    assert [html.unescape(title) for title in shown] == [f"{MARKS['A']}. {NASTY}"]
    assert "<e>" not in page
    row = Markdown(Notes()).line(say("{v}", v=Value("a|b [c]", "S", "d")))
    assert row == r"a\|b \[c\] (S)[^1]"
    with pytest.raises(ValueError, match="a mark and a source"):
        Value("1", "P", " ")
    with pytest.raises(ValueError, match="a mark and a source"):
        replace(value, mark="X")  # type: ignore[arg-type]


def a_study(mark: Mark, name: str = "runs/study_1") -> Study:
    points = [
        Point(n, 2 * n, seconds, 4096.0, 8 // n, 0.1 * n, share)
        for n, seconds, share in ((1, 8.0, 0.1), (2, 5.0, 0.2), (4, 4.0, None))
    ]
    series = tuple(Series(kind, mark, f"{name}: steps of it", tuple(points)) for kind in KINDS)
    return Study(name, "laptop", "INCITE 7B", series, synthetic=mark == "A")


def test_a_study_stands_beside_the_predictions_with_its_own_mark(tmp_path: Path) -> None:
    own = replace(proposed(), study=a_study("M"))
    write(own, tmp_path)
    text = (tmp_path / "proposal.md").read_text()
    assert unmarked(text) == []
    scaling = text.partition("### Strong and weak scaling")[2].partition("###")[0]
    rows = [r for r in scaling.splitlines() if r.startswith("| ") and "(M)[^" in r]
    assert len(rows) == 6
    # Actual is measured; what is computed from it is not.
    assert re.fullmatch(
        r"\| 8 \(M\)\S+ \| 4 \(M\)\S+ \| 4 \(M\)\S+ \| 2 \(P\)\S+ \| 50.0 % \(P\)\S+ \| "
        r"2 \(M\)\S+ \| 40.0 % \(P\)\S+ \|  \|", rows[2],
    )  # fmt: skip
    assert "another machine or model" in scaling and "No scaling study" not in text
    assert text.count("SYNTHETIC") == 0
    step = text.partition("### Performance")[2].partition("###")[0]
    assert "(M)" not in step
    found = json.loads((tmp_path / "proposal.json").read_text())
    assert [(s["kind"], s["mark"]) for s in found["scaling"]] == [
        ("strong", "M"), ("weak", "M"), ("strong", "P"), ("weak", "P"),
    ]  # fmt: skip
    assert found["scaling"][0]["points"][2]["efficiency"] == 0.5


def test_a_synthetic_study_is_marked_on_every_page(tmp_path: Path) -> None:
    own = replace(proposed(), study=a_study("A"))
    write(own, tmp_path)
    text = (tmp_path / "proposal.md").read_text()
    assert "(M)[^" not in text
    parts = re.split(r"^## ", text, flags=re.M)[:-1]  # the notes stand last
    assert len(parts) > 10 and all("SYNTHETIC" in part for part in parts)
    page = (tmp_path / "index.html").read_text()
    assert re.search(r"<h1>.*SYNTHETIC", page) and 'class="M"' not in page
    assert json.loads((tmp_path / "proposal.json").read_text())["study"]["synthetic"] is True
    if not (tmp_path / "proposal.pdf").exists() or shutil.which("pdftotext") is None:
        pytest.skip("no LaTeX, or no pdftotext: the PDF's pages were not read")
    words = ["pdftotext", str(tmp_path / "proposal.pdf"), "-"]
    pages = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\f")
    assert len(pages) > 10 and all("SYNTHETIC" in each for each in pages if each.strip())


def test_a_study_that_says_nothing_is_refused() -> None:
    one = replace(a_study("M").series[0], points=a_study("M").series[0].points[:1])
    with pytest.raises(PlanError, match="nothing scales in it"):
        replace(a_study("M"), series=(one,))
    with pytest.raises(ValueError, match="marks"):
        replace(a_study("M"), synthetic=True)


def compiled(tmp_path: Path, source: str, figures: Path) -> bytes:
    if latex.engine() is None:
        pytest.skip("no LaTeX is installed: pdflatex, lualatex, xelatex or tectonic")
    path = tmp_path / "document.tex"
    path.write_text(source)
    made = latex.compiled(path, figures)
    assert made is not None and made.startswith(b"%PDF")
    return made


def test_a_pdf_comes_where_latex_is_and_says_the_total(written: Path, tmp_path: Path) -> None:
    source = (written / "proposal.tex").read_text()
    assert source.isascii()
    packages = set(re.findall(r"\\usepackage(?:\[.*?\])?\{(.*?)\}", source))
    assert packages == {"graphicx", "booktabs", "hyperref"}
    compiled(tmp_path, source, written / "figures")
    pdf = written / "proposal.pdf"
    assert pdf.read_bytes().startswith(b"%PDF")
    reader = shutil.which("pdftotext")
    if reader is None:
        pytest.skip("pdftotext is not installed: the PDF's text was not read")
    text = subprocess.run(
        [reader, str(pdf), "-"], capture_output=True, text=True, check=True
    ).stdout
    total = json.loads((written / "proposal.json").read_text())["request"]["total"]
    assert f"{total:,.1f}" in text and "[fill in:" in text


def test_a_title_with_every_sign_compiles(tmp_path: Path) -> None:
    folder = tmp_path / "plan"
    assert plan("--output", str(folder), "--title", NASTY) == 0
    compiled(tmp_path, (folder / "proposal.tex").read_text(), folder / "figures")
    assert "<e>" not in (folder / "index.html").read_text()


def test_latex_that_fails_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "pdflatex"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho '! Undefined control sequence.'\necho 'l.7 \\\\oops'\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    folder = tmp_path / "plan"
    assert plan("--output", str(folder)) == 0
    said = capsys.readouterr().out
    assert "no PDF: " in said and "Undefined control sequence. l.7" in said
    assert (folder / "proposal.tex").exists() and not (folder / "proposal.pdf").exists()
    monkeypatch.setattr(latex, "ENGINES", ("no-such-latex",))
    assert latex.compiled(folder / "proposal.tex", folder / "figures") is None


def test_the_page_shows_sources_and_all_figures(written: Path) -> None:
    page = (written / "index.html").read_text()
    titles = re.findall(r'<abbr class="[MPAS]" title="([^"]+)"', page)
    assert len(titles) > 200 and all(". " in title for title in titles)
    drawn = {path.stem for path in (written / "figures").glob("*.svg")}
    assert drawn == {"strong", "weak", "step", "memory", "request", "campaign", "choices"}
    for name in drawn:
        assert f"figures/{name}.png" in (written / "proposal.md").read_text()
        assert f"figures/{name}.pdf" in (written / "proposal.tex").read_text()
        assert (written / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert f"{name}-caption" in page
    anchors = set(re.findall(r'href="#(note-\d+)"', page))
    assert anchors == set(re.findall(r'id="(note-\d+)"', page))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--model 8b", "--model 8b: 7b, 3b, a recipe"),
        ("--tokens 1M", "less than one step"),
        ("--nodes 500", "the nearest number of nodes that fits is 512"),
        ("--nodes 9999", "summit has"),
        ("--layout fastest", "is not in [layouts]"),
        ("--program NSF", "known is INCITE"),
        ("--machine sumit", "did you mean summit"),
        ("--calibration /no/such/file.toml", "No such file"),
        ("--layout pipeline=12,tensor=2,micro_batch_size=0", "should be a number from 1"),
        ("--model layers=32,hidden=4096,heads=32 --batch 2048 --nodes 512", "give --layout"),
        ("/no/such/study", "/no/such/study"),
    ],
)
def test_bad_input_is_one_sentence(
    options: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(*options.split(), "--output", str(tmp_path / "p")) == 1
    streams = capsys.readouterr()
    assert says in streams.err and streams.err.count("\n") == 1 and not streams.out
    assert not (tmp_path / "p").exists()


def test_an_output_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert plan("--output", str(tmp_path / "file" / "p")) == 1
    said = capsys.readouterr().err
    assert "is no folder" in said and said.count("\n") == 1
    assert plan() == 1
    assert "--output is missing" in capsys.readouterr().err
    assert plan_command.main(["proposal", "--tokens", "1T", "--output", str(tmp_path / "p")]) == 1
    assert "--model is missing" in capsys.readouterr().err
    assert plan_command.main(["proposal"]) == 2


def test_a_folder_without_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the question is answered for it.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert plan("--output", str(tmp_path / "p")) == 1
    said = capsys.readouterr().err
    assert "cannot be written" in said and said.count("\n") == 1


def test_a_model_of_sizes_has_its_proposal(tmp_path: Path) -> None:
    words = ["--model", "layers=24,hidden=2048,heads=16", "--batch", "512", "--sequence", "2048",
             "--nodes", "16", "--layout", "pipeline=4,tensor=2,micro_batch_size=2",
             "--tokens", "20B", "--machine", "selene", "--no-wait"]  # fmt: skip
    assert plan_command.main(["proposal", *words, "--output", str(tmp_path / "p")]) in (0, 1)
