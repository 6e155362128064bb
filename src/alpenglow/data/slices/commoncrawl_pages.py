"""Records of a crawl to documents: one for each page, with a text or with the reason why not.

Of a page that is kept, `trimmed` has what is not text: `markup` of HTML, white space of a WET text.
Metadata: `record` (WARC-Record-ID), `digest`, `language`, `language_score`, `title` where it is
known, `truncated` where the crawler kept only the beginning.

Mode `faithful` does with WET texts what cc_net does: the first line is the title and leaves the
text, lines are stripped and blank ones dropped; the language is that of the whole text with lines
joined by nothing (the last word of a line grows together with the first of the next), its score
rounded to two digits before it is compared. cc_net asks for the language after paragraphs have
gone, this reader before. HTML has no faithful reading: RedPajama v1 read WET texts only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alpenglow.data.document import Document, Input
from alpenglow.data.language_id import Identifier
from alpenglow.data.slices import commoncrawl_http as http
from alpenglow.data.slices import page_text
from alpenglow.data.slices.commoncrawl_rules import Rules
from alpenglow.data.slices.json_lines import json_lines
from alpenglow.data.slices.page_text import Refused
from alpenglow.data.slices.source import TOO_LARGE
from alpenglow.data.slices.warc import Record, records

KINDS = frozenset({"response", "resource", "conversion", "revisit"})
OTHER_STATUS = "HTTP status is not 200"
OK = 200
REVISIT = "revisit: the page is in another record"
IN_SEGMENTS = "record in segments"
TRUNCATED = "cut by the crawler"
SHORT = "shorter than min_characters"
OTHER_LANGUAGE = "another language"
UNSURE = "language unsure"
OF_CCNET = ("digest", "title", "language", "language_score", "bucket", "perplexity",
            "original_length", "original_nlines", "cc_segment")  # fmt: skip
"""Fields of a cc_net record that stay beside the text."""


class Pages:
    """Reads the pages of a crawl's files.

    Args:
        slice_name: of the documents.
        rules: which pages to take.
        mode: `fixed` or `faithful`.

    Raises:
        DataError: a package that is needed is not installed.
    """

    def __init__(self, slice_name: str, rules: Rules, mode: str) -> None:
        self._slice = slice_name
        self._rules = rules
        self._faithful = mode == "faithful"
        self._lazy: Identifier | None = None

    @property
    def _identifier(self) -> Identifier:
        if self._lazy is None:
            self._lazy = Identifier(None, "") if self._faithful else Identifier()
        return self._lazy

    def of_warc(self, item: Input) -> Iterator[Document]:
        """Yield the pages of a WARC or WET file.

        Raises:
            DataError: it is cut or damaged.
        """
        for record in records(Path(item.path), KINDS):
            facts = self._facts(record)
            source = f"{item.source}#{record.name}"
            text, licence, read, fault = "", item.licence, record.size, ""
            try:
                body, charset = self._body(record, facts)
                read = len(body)
                if record.kind == "conversion":
                    text = self._wet_text(body, facts)
                else:
                    html = page_text.decoded(body, charset)
                    licence = page_text.stated_licence(html) or licence
                    text = page_text.page_text(html, main_content=self._rules.main_content)
                self._judge(text, facts)
            except Refused as error:
                fault = str(error)
            yield Document(
                text, self._slice, source, licence, facts,
                url=record.headers.get("warc-target-uri", "").strip("<>"),
                timestamp=record.headers.get("warc-date", ""),
                fault=fault, size=read if fault else None,
                trimmed={} if fault else self._trimmed(record, text, read, facts),
            )  # fmt: skip

    def _trimmed(
        self, record: Record, text: str, read: int, facts: dict[str, str]
    ) -> dict[str, int]:
        """Rule -> bytes: all that is in the record's body and not in the text."""
        rest = read - len(text.encode("utf-8", "surrogatepass"))
        if record.kind != "conversion":
            return {"markup": rest} if rest > 0 else {}
        taken = {}
        if self._faithful and rest > 0:
            taken["title"] = min(rest, len(facts.get("title", "").encode()))
        taken["white space"] = rest - sum(taken.values())
        return {rule: size for rule, size in taken.items() if size > 0}

    def of_records(self, item: Input) -> Iterator[Document]:
        """Yield the pages of a file of cc_net's records.

        Raises:
            DataError: the file is cut.
        """
        for line in json_lines(Path(item.path)):
            record, fault = line.record, line.fault
            text, facts = record.get("raw_content"), _known(record)
            try:
                if fault:
                    raise Refused(fault)
                if not isinstance(text, str):
                    raise Refused("no raw_content")
                bucket = facts.get("bucket")
                if bucket is not None and bucket not in self._rules.buckets:
                    raise Refused("bucket not asked for")
                self._judge(text, facts)
            except Refused as error:
                fault = str(error)
            yield Document(
                text if isinstance(text, str) else line.beginning,
                self._slice, f"{item.source}#{line.number}", item.licence, facts,
                url=str(record.get("url") or ""),
                timestamp=str(record.get("date_download") or ""),
                fault=fault, size=None if isinstance(text, str) else line.size,
            )  # fmt: skip

    def _facts(self, record: Record) -> dict[str, str]:
        headers = record.headers
        facts = {"record": record.name}
        digest = headers.get("warc-payload-digest") or headers.get("warc-block-digest")
        if not digest and record.content is not None:
            sha1 = hashlib.sha1(record.content, usedforsecurity=False).digest()
            digest = f"sha1:{base64.b32encode(sha1).decode()}"
        if digest:
            facts["digest"] = digest
        if "warc-truncated" in headers:
            facts["truncated"] = headers["warc-truncated"]
        return facts

    def _body(self, record: Record, facts: dict[str, str]) -> tuple[bytes, str]:
        """Return a record's page, HTML or ready text, and its charset where that is stated."""
        if record.kind == "revisit":
            raise Refused(REVISIT)
        if record.content is None:
            raise Refused(TOO_LARGE)
        if "warc-segment-number" in record.headers:
            raise Refused(IN_SEGMENTS)
        if "truncated" in facts and not self._rules.truncated:
            raise Refused(TRUNCATED)
        if record.kind == "conversion":
            return record.content, "utf-8"
        body, kind, charset = _sent(record.content, record)
        if kind not in page_text.HTML_KINDS and (kind or not page_text.looks_html(body)):
            raise Refused(page_text.NOT_HTML)
        return body, charset

    def _wet_text(self, content: bytes, facts: dict[str, str]) -> str:
        text = page_text.decoded(content, html=False)
        if not self._faithful:
            return text.strip()
        lines = [line for part in text.split("\n") if (line := part.strip())]
        if lines:
            facts["title"] = lines[0]
        return "\n".join(lines[1:])

    def _judge(self, text: str, facts: dict[str, str]) -> None:
        """Refuse a text that is too short or not in the languages asked for."""
        if not text or text.isspace():
            raise Refused(page_text.NO_TEXT)
        if len(text) < self._rules.min_characters:
            raise Refused(SHORT)
        if "language" not in facts:
            language, score = self._identifier.identify([text])[0]
            facts["language"], facts["language_score"] = language, f"{score:.4f}"
        score = _number(facts.get("language_score", ""))
        if self._faithful:
            score = round(score, 2)
        wanted = self._rules.languages
        if wanted and score < self._rules.language_score:
            raise Refused(UNSURE)
        if wanted and facts["language"] not in wanted:
            raise Refused(OTHER_LANGUAGE)


def _known(record: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(record[name]) for name in OF_CCNET if record.get(name) not in (None, "")}


def _sent(content: bytes, record: Record) -> tuple[bytes, str, str]:
    """Body, media type and charset of a response or a resource."""
    stated = record.headers.get("content-type", "")
    if record.kind == "resource" and not stated.lower().startswith("application/http"):
        kind, charset = http.media_type(stated)
        return content, kind, charset
    response = http.response(content)
    if response.status != OK:
        raise Refused(OTHER_STATUS)
    if response.kind and response.kind not in page_text.HTML_KINDS:
        raise Refused(page_text.NOT_HTML)  # before a film is unpacked
    return response.body(), response.kind, response.charset


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
