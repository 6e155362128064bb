"""Pages in headless Chromium: nothing too wide, cut, overlapping or faint, nothing asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import browser
import pytest

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.plan_command import main as plan
from alpenglow_analysis.report import main
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.writing import build

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        browser.chromium() is None,
        reason="no Chromium here (Debian: apt-get install chromium): pages are not looked at",
    ),
]
THREE = (Segment(1, 20, reason="more to do"), Segment(21, 34, killed=True), Segment(31, 50))
RUNS = {
    "small": Synthetic(Layout(2, 2, 2), 8, THREE, jitter=0.05),
    "twelve": Synthetic(
        Layout(12, 2, 4), 8, THREE, ranks_per_node=6, gpus_per_node=6, jitter=0.05,
        peak_flops_per_rank=125e12,
    ),
    "wide": Synthetic(
        Layout(12, 2, 16), 8, (Segment(1, 6),), ranks_per_node=6, gpus_per_node=6, jitter=0.05
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each run, one of them beside another run, and one of an allocation."""
    folder = tmp_path_factory.mktemp("pages")
    for name, spec in RUNS.items():
        spec.write(folder / name)
    found = {
        "small": build(folder / "small", price_per_node_hour=4.0),
        "twelve": build(folder / "twelve", price_per_node_hour=4.0, compare=[folder / "small"]),
        "wide": build(folder / "wide"),
    }
    words = [
        "--quarter", "--allocation", "3", "--start", "2023-01-01", "--until", "2023-12-31",
        "--now", "2023-11-20", "--output", str(folder / "quarter"),
    ]  # fmt: skip
    assert main([*words, *(str(folder / name) for name in RUNS)]) == 0
    planned = [
        "proposal", "--model", "7b", "--tokens", "200B", "--machine", "summit",
        "--campaigns", "100", "--output", str(folder / "proposal"),
    ]  # fmt: skip
    assert plan(planned) == 0
    return found | {name: folder / name / "index.html" for name in ("quarter", "proposal")}


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("small", 400, "light"),
        ("small", 1280, "dark"),
        ("twelve", 1280, "light"),
        ("twelve", 1280, "dark"),
        ("twelve", 400, "dark"),
        ("wide", 1280, "light"),
        ("quarter", 1280, "dark"),
        ("quarter", 400, "light"),
        ("proposal", 1280, "dark"),
        ("proposal", 400, "light"),
    ],
)
def test_a_page_is_legible(
    name: str, width: int, scheme: browser.Scheme, pages: dict[str, Path], tmp_path: Path
) -> None:
    found = browser.measured(pages[name], tmp_path, width, scheme)
    assert found["width"] == width
    assert found["page"] <= width
    assert found["texts"] > 100
    assert {key: found[key] for key in ("wide", "cut", "over", "faint")} == {
        "wide": [], "cut": [], "over": [], "faint": [],
    }  # fmt: skip


def test_what_is_wrong_is_found(pages: dict[str, Path], tmp_path: Path) -> None:
    """The measures themselves: a page with one fault of each kind."""
    text = pages["small"].read_text(encoding="utf-8")
    bad = (
        '<div style="width: 3000px">wide</div><p style="color: #999; background: #fff">faint</p>'
        '<svg viewBox="0 0 100 50" width="100" aria-labelledby="bad">'
        '<text x="5" y="20">one</text><text x="8" y="20">two</text><text x="95" y="40">three</text>'
        "</svg>"
    )
    page = tmp_path / "bad.html"
    page.write_text(text.replace("<main>", f"<main>{bad}"), encoding="utf-8")
    found = browser.measured(page, tmp_path, 1280, "light")
    assert found["page"] > 1280
    assert found["wide"]
    assert ["bad", "three"] in found["cut"]
    assert ["bad", "two", "one"] in found["over"]
    assert any(said[0] == "faint" for said in found["faint"])


def test_the_first_screen_holds_charge_use_and_losses(
    pages: dict[str, Path], tmp_path: Path
) -> None:
    script = (
        "<script>const t = document.createElement('pre'); t.id = 'low'; t.textContent = Math.max("
        "...[...document.querySelectorAll('.cards li, .losses li')].map((e) => "
        "e.getBoundingClientRect().bottom)); document.body.append(t)</script></body>"
    )
    text = browser.without_policy(pages["twelve"].read_text(encoding="utf-8"))
    page = tmp_path / "first.html"
    page.write_text(text.replace("</body>", script), encoding="utf-8")
    told = browser.dump(page, tmp_path, 1280, 800)
    assert float(told.split('<pre id="low">')[1].split("<")[0]) <= 800


def test_a_page_asks_for_nothing(pages: dict[str, Path], tmp_path: Path) -> None:
    """Neither with its policy nor without; and the policy would stop what a page asked for."""
    text = pages["twelve"].read_text(encoding="utf-8")
    asking = '<img src="http://alpenglow.invalid/asked.png"></body>'
    versions: dict[str, Any] = {
        "whole": text,
        "free": browser.without_policy(text),
        "stopped": text.replace("</body>", asking),
        "asking": browser.without_policy(text).replace("</body>", asking),
    }
    found = {}
    for name, version in versions.items():
        page = tmp_path / f"{name}.html"
        page.write_text(version, encoding="utf-8")
        found[name] = any("asked.png" in line for line in browser.asked_for(page, tmp_path))
        if name in ("whole", "free"):
            assert browser.asked_for(page, tmp_path) == []
    assert found == {"whole": False, "free": False, "stopped": False, "asking": True}


def test_a_picture_can_be_taken(pages: dict[str, Path], tmp_path: Path) -> None:
    for width, scheme in ((1280, "light"), (400, "dark")):
        picture = tmp_path / f"{width}.png"
        browser.screenshot(pages["small"], picture, width, 800, scheme)  # type: ignore[arg-type]
        head = picture.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert int.from_bytes(head[16:20], "big") >= width
