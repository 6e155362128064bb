"""A proposal's document as markdown, LaTeX, HTML and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alpenglow_analysis import page as pages
from alpenglow_analysis.document import Document, Grid, Items, Paragraph, Picture, lines
from alpenglow_analysis.inks import Html, Ink, Latex, Markdown
from alpenglow_analysis.marked import MARKS, Line, Value, plain
from alpenglow_analysis.quantity import plain as number
from alpenglow_analysis.rendering import html

FORMAT, VERSION = "alpenglow-proposal", 1


def markdown(document: Document) -> str:
    """The document with its figures beside it in figures/, and footnotes."""
    text = _render("proposal.md.j2", document, Markdown())
    rows = [line.rstrip() for line in text.splitlines()]
    kept = [a for a, b in zip(rows, [*rows[1:], "end"], strict=True) if a or b]
    return "\n".join(kept) + "\n"


def tex(document: Document) -> str:
    """The document for LaTeX with graphicx, booktabs and hyperref."""
    return _render("proposal.tex.j2", document, Latex())


def _render(template: str, document: Document, ink: Ink) -> str:
    import jinja2

    signs = {
        "block_start_string": "<%", "block_end_string": "%>", "variable_start_string": "<<",
        "variable_end_string": ">>", "comment_start_string": "<#", "comment_end_string": "#>",
    }  # fmt: skip
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alpenglow_analysis"),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **(signs if isinstance(ink, Latex) else {}),  # type: ignore[arg-type]
    )
    environment.filters["line"] = ink.line
    environment.filters["text"] = ink.text
    # Every line is written once before the notes, in the order of the document.
    return environment.get_template(template).render(
        document=document, notes=ink.notes, marks=MARKS
    )


def page(document: Document, figures: Mapping[str, str]) -> str:
    """The document as one HTML page that asks for nothing else.

    Args:
        document: what stands in it.
        figures: name -> `<svg>` element.
    """
    from markupsafe import Markup

    ink = Html()

    def said(line: Line) -> Markup:
        return Markup(ink.line(line))

    sections = []
    subtitle = said(document.subtitle)
    for part in document.parts:
        blocks: list[pages.Block] = []
        for block in part.blocks:
            if isinstance(block, Paragraph):
                blocks.append(pages.Prose(said(block.line)))
            elif isinstance(block, Items):
                blocks.append(pages.Sentences([said(line) for line in block.lines]))
            elif isinstance(block, Picture):
                blocks.append(
                    pages.Figure(block.name, block.alt, said(block.caption), figures[block.name])
                )
            else:
                blocks += _table(block, said)
        sections.append(pages.Section(part.key, part.title, blocks))
    notes: list[tuple[str, str]] = [
        (Markup(f'<span id="note-{n}">{mark}{n}</span>'), source) for n, mark, source in ink.notes
    ]
    sections.append(pages.Section("notes", "Notes", [pages.Pairs(notes)]))
    return html(
        pages.Page(
            title=document.title,
            about=document.banner or "proposal",
            subtitle=subtitle,
            cards=[],
            losses=[],
            sections=sections,
            made=document.made,
            source="Numbers with P are predicted, not measured; hover over one for its source.",
        )
    )


def _table(block: Grid, said: Any) -> list[pages.Block]:
    caption = said(block.caption)
    rows = [[said(cell) for cell in row] for row in block.rows]
    last = len(block.rows) - 1
    return [
        pages.Note(caption),
        pages.Table(block.heads, rows, sum=last in block.sums, text=frozenset(block.wide)),
    ]


def as_json(document: Document, more: Mapping[str, Any]) -> str:
    """The document for machines: every value with mark and source, tables by column.

    Args:
        document: what stands in it.
        more: keys that stand beside it.
    """

    def value(found: Value) -> dict[str, Any]:
        told = {"text": found.text, "mark": found.mark, "source": found.source}
        return told if found.number is None else {**told, "value": number(found.number)}

    def line(found: Line) -> dict[str, Any]:
        text = "".join(plain(part) for part in found.parts)
        return {"text": text, "values": [value(each) for each in found.values]}

    parts = []
    for part in document.parts:
        blocks: list[dict[str, Any]] = []
        for block in part.blocks:
            told: dict[str, Any] = {"form": block.form}
            if isinstance(block, Grid):
                told |= {"caption": str(block.caption), "columns": block.heads}
                told["rows"] = [[line(cell) for cell in row] for row in block.rows]
            else:
                told["lines"] = [line(each) for each in lines(block)]
            if isinstance(block, Picture):
                told["figure"] = f"figures/{block.name}"
            blocks.append(told)
        parts.append({"key": part.key, "title": part.title, "blocks": blocks})
    whole = {
        "format": FORMAT, "version": VERSION, "title": document.title, "marks": MARKS,
        "banner": document.banner, **more, "parts": parts,
    }  # fmt: skip
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
