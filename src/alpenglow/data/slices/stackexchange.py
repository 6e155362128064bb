"""StackExchange slice: a question with its answers, best first, from a site's Posts.xml.

`Q: title body`, then `A: answer` for each answer, by score as a NUMBER, the earlier post first
where scores are equal. A site is held in memory while it is read; posts are streamed from the file.
The DOCTYPE that some dumps carry is passed over: its file is never loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from alpenglow.data.document import DataError, Document, Unit, one_each
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices.html_text import plain
from alpenglow.data.slices.source import Source, up_to

NAME = "stackexchange"
NEEDS = "it reads the Posts.xml of each site (SITE/Posts.xml or SITE_Posts.xml) of the data dump"
ENDINGS = ("posts.xml",)


@dataclass
class _Question:
    identity: int
    title: str
    body: str
    licence: str
    answers: list[tuple[int, int, str]] = field(default_factory=list)
    """(-score, id, body): the order in which they are written."""


def units(config: Source) -> list[Unit]:
    """Make a unit of every site; see `slices` for the shape.

    Raises:
        InputAbsent: there is no Posts.xml.
    """
    return one_each(NAME, config.files(ENDINGS, NEEDS), config.recipe.max_bytes)


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each question with its answers.

    Raises:
        DataError: the file is cut, no XML, or a post lacks its numbers.
    """
    return up_to(_questions(unit), unit.limit)


def _questions(unit: Unit) -> Iterator[Document]:
    (item,) = unit.inputs
    questions: dict[int, _Question] = {}
    answers: dict[int, list[tuple[int, int, str]]] = {}
    for row in _rows(Path(item.path)):
        identity, kind, body = int(row["Id"]), row["PostTypeId"], row.get("Body", "")
        if kind == "1":
            licence = row.get("ContentLicense") or item.licence
            questions[identity] = _Question(identity, row.get("Title", ""), body, licence)
        elif kind == "2" and "ParentId" in row:
            # A migrated answer can come before its question, so they are joined at the end.
            entry = (-int(row.get("Score", "0")), identity, body)
            answers.setdefault(int(row["ParentId"]), []).append(entry)
    site = item.source.lower().removesuffix("posts.xml").strip("_/") or "site"
    for identity, question in questions.items():
        question.answers = sorted(answers.get(identity, []))
        yield Document(
            _text(question),
            NAME,
            f"{site}/questions/{identity}",
            question.licence,
            {"answers": ",".join(str(entry[1]) for entry in question.answers)},
        )


def _text(question: _Question) -> str:
    parts = [f"Q: {question.title} {plain(question.body)}"]
    parts += [f"A: {plain(body)}" for _, _, body in question.answers]
    return "\n".join(parts)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    root: ElementTree.Element | None = None
    try:
        for event, element in ElementTree.iterparse(path, events=("start", "end")):
            if root is None:
                root = element
            elif event == "end" and element.tag == "row":
                row = dict(element.attrib)
                if not row.get("Id", "").isdigit() or "PostTypeId" not in row:
                    raise DataError(f"{path}: a post has no Id or PostTypeId; {NEEDS}")
                yield row
                root.clear()
    except (ElementTree.ParseError, OSError) as error:
        raise DataError(f"{path}: not a whole Posts.xml ({error}); fetch it again") from None
