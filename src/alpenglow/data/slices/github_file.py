"""A file of a repository, wherever it was found, to a document: the rules of the GitHub slice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import quote

from alpenglow.data.document import Document
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import github_licence, licence_header, rules
from alpenglow.data.slices.github_endings import is_source, language
from alpenglow.data.slices.source import TOO_LARGE, decode

NAME = "github"
REDPAJAMA_LICENCES = ("mit", "bsd", "apache")
"""RedPajama's query of BigQuery's dump, `license LIKE 'mit%'` and so on (data_prep/github)."""
INSTALLED_LICENCES = (
    "mit", "bsd", "apache", "isc", "psf", "python software", "mpl", "unlicense", "0bsd",
)  # fmt: skip
"""For this Python's own packages: RedPajama's, and those that Python packages are often under."""

_SHOWN = 500
"""Characters of a dropped file that are kept for reading."""


@dataclass(frozen=True)
class Rules:
    """What `[slices.github.rules]` may say."""

    licences: tuple[str, ...] | None = None
    """Beginnings of licence names that are kept; RedPajama's three unless given, a wider set for
    `origin = "installed"`. An empty list keeps all."""
    unknown_licence: Literal["drop", "keep"] = "drop"
    """What becomes of files whose licence nobody states."""
    layout: Literal["auto", "owner/repository", "repository"] = "auto"
    """What the first folders of a path are; `auto`: a second folder with a licence file or .git is
    a repository, the first its owner."""


@dataclass(frozen=True)
class SourceFile:
    """A file before the rules; `data` is None where it was larger than a document may be."""

    source: str
    path: str
    """Within its repository."""
    repository: str
    """`OWNER/NAME` where the input states both, else a name or nothing."""
    licence: str
    data: bytes | str | None
    size: int
    fault: str = ""


class Maker:
    """Makes documents of files under a recipe.

    Raises:
        ConfigError: `[slices.github.rules]` has a setting that the slice lacks.
    """

    def __init__(self, recipe: SliceRecipe) -> None:
        self._rules = rules(NAME, recipe, Rules)
        self._mode = recipe.mode
        self._installed = recipe.origin == "installed"
        self._unstated = recipe.licence
        self._permitted = self._permission()

    def _permission(self) -> Callable[[str], bool]:
        prefixes = self._rules.licences
        if prefixes is not None and not prefixes:
            return lambda licence: True
        if self._installed:
            # Packages state licences in words of their own: found at the beginning of any word.
            words = "|".join(map(re.escape, prefixes or INSTALLED_LICENCES))
            pattern = re.compile(rf"\b(?:{words})", re.I)
            return lambda licence: pattern.search(licence) is not None
        return partial(github_licence.permitted, prefixes=prefixes or REDPAJAMA_LICENCES)

    def document(self, file: SourceFile) -> Document:
        """Apply the rules to one file; what they drop is a fault with its reason."""
        if file.fault or file.data is None:
            return self._fault(file, file.fault or TOO_LARGE, "")
        text = self._text(file.data)
        if text is None:
            return self._fault(file, "binary", "")
        reason = self._unwanted(file.path)
        if reason:
            return self._fault(file, reason, text)
        # BigQuery's dump, which v1 read, knows the licence of a repository and not of a file.
        own = "" if self._mode == "faithful" else github_licence.of_header(text)
        licence = own or file.licence or self._unstated
        if not self._lawful(licence):
            return self._fault(file, "licence", text, licence)
        stripped = licence_header.strip(text, file.path, self._mode)
        removed = 0 if stripped is text else _size(text) - _size(stripped)
        metadata = {"path": file.path}
        if file.repository:
            metadata["repository"] = file.repository
        if language(file.path):
            metadata["language"] = language(file.path)
        if self._mode == "faithful":
            # v1 looked for duplicates by the MD5 of the text with its header.
            raw = text.encode("utf-8", "surrogatepass")
            metadata["content_hash"] = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        return Document(
            stripped, NAME, file.source, licence, metadata, _url(file),
            trimmed={licence_header.RULE: removed} if removed else {},
        )  # fmt: skip

    def _text(self, data: bytes | str) -> str | None:
        if self._mode == "faithful":
            # The dump's text as it stands; BigQuery holds none of what is not UTF-8.
            if isinstance(data, str):
                return data
            try:
                return data.decode()
            except UnicodeDecodeError:
                return None
        if isinstance(data, str):
            return data.replace("\r\n", "\n").replace("\r", "\n")
        return decode(data)

    def _unwanted(self, path: str) -> str:
        name = path.rpartition("/")[2]
        if path.endswith(".crt"):
            return "a certificate"
        if path == "LICENSE":
            return "a licence file"
        if self._mode == "fixed" and github_licence.is_licence_file(name):
            return "a licence file"
        return "" if self._installed or is_source(path, self._mode) else "ending"

    def _lawful(self, licence: str) -> bool:
        if licence in ("", "not stated", github_licence.UNKNOWN):
            return self._rules.unknown_licence == "keep"
        return self._permitted(licence)

    def _fault(self, file: SourceFile, reason: str, text: str, licence: str = "") -> Document:
        size = _size(text) if text else file.size
        return Document(
            text[:_SHOWN], NAME, file.source, licence or file.licence or self._unstated,
            fault=reason, size=size,
        )  # fmt: skip


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _url(file: SourceFile) -> str:
    if "/" not in file.repository:
        return ""
    name, path = (quote(part, errors="replace") for part in (file.repository, file.path))
    return f"https://github.com/{name}/blob/HEAD/{path}"
