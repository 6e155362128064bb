"""Web-like text that any machine has, for the CommonCrawl slice where there is no crawl.

The readmes, manuals and help texts of installed packages, Python's own language reference, and a
page of documentation for each module, made of its docstrings as a documentation site would.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import inspect
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

from alpenglow.data.document import Document, Input, Unit
from alpenglow.data.slices import installed
from alpenglow.data.slices.source import decode, whole_files

NAME = "commoncrawl"
ENDINGS = (".txt", ".md", ".rst")
NO_TEXT = ("license", "licence", "copying", "notice", "authors", "top_level", "entry_points",
           "record", "sources", "requires", "dependency_links")  # fmt: skip
"""Beginnings of file names that hold licences or lists: the same text in every package."""
REFERENCE = "pydoc_data/topics.py"
MIN_MODULE = 4000
"""Bytes: smaller modules have hardly a page of documentation."""


def inputs() -> Iterator[Input]:
    """List what there is, written texts first, so that a cap does not take them away."""
    return itertools.chain(_written(), _modules())


def pages(item: Input) -> Iterator[Document]:
    """Yield the pages of one input of `inputs`."""
    path = Path(item.path)
    if item.source.endswith(REFERENCE):
        yield from _reference(item)
    elif path.suffix == ".py":
        yield _module_page(item)
    elif path.name == "METADATA":
        yield _readme(item)
    else:
        yield from whole_files(Unit(NAME, "", (item,)))


def _written() -> Iterator[Input]:
    """Texts that somebody wrote as text."""
    for item in installed.files():
        *folders, name = item.source.split("/")
        text = name.endswith(ENDINGS) and not name.lower().startswith(NO_TEXT)
        text = text and "licenses" not in folders
        if text or name == "METADATA" or item.source.endswith(REFERENCE):
            found = item.input()
            if found is not None:
                yield found


def _modules() -> Iterator[Input]:
    """Modules from the far end of the order, where the GitHub slice comes last, if at all."""
    for item in reversed(installed.files()):
        if not item.path.endswith(".py") or item.source.endswith(REFERENCE):
            continue
        found = item.input()
        if found is not None and found.size >= MIN_MODULE:
            # About a fifth of a library's source is docstrings; the cap counts in pages.
            name = f"{item.source}#documentation"
            yield dataclasses.replace(found, source=name, size=found.size // 5)


def _reference(item: Input) -> Iterator[Document]:
    tree = ast.parse(Path(item.path).read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    name = f"{item.source}#{key.value!s}"
                    yield Document(str(value.value), NAME, name, item.licence)
            return


def _readme(item: Input) -> Document:
    metadata = importlib.metadata.PathDistribution(Path(item.path).parent).metadata
    text: str = metadata.get_payload()  # type: ignore[attr-defined]
    summary = {"summary": str(metadata["Summary"] or "") if "Summary" in metadata else ""}
    return Document(text, NAME, item.source, item.licence, summary)


def _module_page(item: Input) -> Document:
    data = Path(item.path).read_bytes()
    text = decode(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes in other people's strings
            tree = ast.parse(text or "")
    except (SyntaxError, ValueError, RecursionError):
        return Document("", NAME, item.source, item.licence, fault="not Python", size=len(data))
    inner = item.source.partition("/")[2].partition("#")[0]
    name = inner.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    parts = [page for page in _docstrings(tree, name) if page]
    if not parts:
        return Document("", NAME, item.source, item.licence, fault="no docstring", size=len(data))
    return Document("\n\n\n".join(parts), NAME, item.source, item.licence)


def _docstrings(node: ast.AST, name: str) -> Iterator[str]:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    text = ast.get_docstring(node, clean=False)
    if text and text.strip():
        heading = f"{name}({ast.unparse(node.args)})" if hasattr(node, "args") else name
        yield f"{heading}\n\n{inspect.cleandoc(text)}"
    for child in ast.iter_child_nodes(node):
        inner = getattr(child, "name", "")
        if inner and (not inner.startswith("_") or inner == "__init__"):
            yield from _docstrings(child, f"{name}.{inner}" if name else inner)
