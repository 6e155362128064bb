"""From a `Page` to HTML and markdown, by the templates beside this file."""

from __future__ import annotations

import re

from alpenglow_analysis.page import Page


def html(page: Page) -> str:
    """The page as one HTML document that asks for nothing else."""
    return _render("index.html.j2", page)


def markdown(page: Page) -> str:
    """The page as markdown, its figures beside it in figures/."""
    text = _render("report.md.j2", page)
    lines = [line.rstrip() for line in text.splitlines()]
    kept = [a for a, b in zip(lines, [*lines[1:], "end"], strict=True) if a or b]
    return "\n".join(kept) + "\n"


def _render(template: str, page: Page) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alpenglow_analysis"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["code"] = _code
    environment.filters["fenced"] = _fenced
    return environment.get_template(template).render(page=page)


def _code(text: str) -> str:
    """A name in backticks, more of them than it holds itself."""
    ticks = "`" * (1 + _longest(text))
    return f"{ticks} {text} {ticks}" if "`" in text else f"`{text}`"


def _fenced(text: str) -> str:
    """A block of text that markdown leaves alone, indented into the item above it."""
    fence = "`" * max(3, 1 + _longest(text))
    return "\n".join(f"  {line}" for line in (fence, *text.splitlines(), fence))


def _longest(text: str) -> int:
    """Backticks in the longest run of them."""
    return max(map(len, re.findall("`+", text)), default=0)
