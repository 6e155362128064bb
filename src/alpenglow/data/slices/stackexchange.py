"""StackExchange slice: a question with its answers, best first, from a site's Posts.xml.

`Q: title body`, then `A: answer` for each answer. Posts are streamed from the file into a table on
disk and out of it again, so that memory does not depend on the site; the documents come in the
order of the questions' numbers. `fixed` orders answers by their score as a number and keeps when
a question was asked; `faithful` is RedPajama v1 (data_prep/stack_exchange of branch rp_v1): by the
score as a string, texts by BeautifulSoup, all dated 2023-03-29. Two defects of v1 are not repeated:
it could not read a file with a DOCTYPE at all, and it lost the answers' numbers, authors and
licences, without which nothing can be taken down later.

The dump comes as .7z archives, which Python cannot read: unpack them first, `7z x SITE.7z -oSITE`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alpenglow.data.document import Document, Input, InputAbsent, Unit, one_each
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import rules, stackexchange_rows, stackexchange_text
from alpenglow.data.slices.source import LARGEST, TOO_LARGE, Source, up_to
from alpenglow.data.slices.stackexchange_rows import Row
from alpenglow.data.slices.stackexchange_table import Post, PostTable

NAME = "stackexchange"
NEEDS = (
    "it reads the Posts.xml of each site (SITE/Posts.xml or SITE_Posts.xml) of the data dump, "
    "unpacked: 7z x SITE.7z -oSITE"
)
ENDINGS = ("posts.xml", ".com.xml", ".net.xml")
"""The latter two: what RedPajama's download.py makes of SITE.7z."""

LICENCES = (("2018-05-02", "CC BY-SA 4.0"), ("2011-04-08", "CC BY-SA 3.0"), ("", "CC BY-SA 2.5"))
"""Since when (UTC) which licence holds: meta.stackexchange.com/questions/347758."""

FAITHFUL_DATE = "2023-03-29"
"""What v1 wrote as the time stamp of every text."""

OWN_DOMAINS = {
    "stackoverflow": "stackoverflow.com", "superuser": "superuser.com",
    "serverfault": "serverfault.com", "askubuntu": "askubuntu.com", "stackapps": "stackapps.com",
    "mathoverflow": "mathoverflow.net",
}  # fmt: skip
"""Sites beside SITE.stackexchange.com."""


@dataclass(frozen=True)
class Rules:
    """What `[slices.stackexchange.rules]` may say."""

    sites: tuple[str, ...] = ()
    """Sites to read, as their files or folders are named; all unless given."""
    largest: int | None = None
    """Of these, take so many with the most lines, as RedPajama and LLaMA took 28."""

    def __post_init__(self) -> None:
        if self.largest is not None and self.largest < 1:
            raise ValueError(f"largest = {self.largest} takes no site")


def units(config: Source) -> list[Unit]:
    """Make a unit of every site; see `slices` for the shape.

    Raises:
        InputAbsent: there is no Posts.xml, or none of a site that the rules name.
    """
    settings = rules(NAME, config.recipe, Rules)
    inputs = config.files(ENDINGS, NEEDS)
    if settings.sites:
        there = {site(item.source) for item in inputs}
        absent = [name for name in settings.sites if _same(name) not in map(_same, there)]
        if absent:
            raise InputAbsent(
                f"{NAME}: {config.root} has no {', '.join(absent)}, only {', '.join(sorted(there))}"
            )
        wanted = set(map(_same, settings.sites))
        inputs = [item for item in inputs if _same(site(item.source)) in wanted]
    if settings.largest is not None and settings.largest < len(inputs):
        chosen = sorted(inputs, key=_lines, reverse=True)[: settings.largest]
        inputs = [item for item in inputs if item in chosen]
    return one_each(NAME, inputs, config.recipe.max_bytes)


def site(source: str) -> str:
    """Name the site of a file: `coffee/Posts.xml` and `coffee_Posts.xml` are `coffee`."""
    name = source.lower()
    name = name.removesuffix("posts.xml") if name.endswith("posts.xml") else name[: -len(".xml")]
    return name.rstrip("_/-.").rpartition("/")[2] or "site"


def domain(name: str) -> str:
    """Return a site's address: `math` is `math.stackexchange.com`."""
    if "." in name:
        return name.removeprefix("www.")
    name, meta = (name.removesuffix("_meta"), "meta.") if name.endswith("_meta") else (name, "")
    if name in OWN_DOMAINS:
        return meta + OWN_DOMAINS[name]
    if name == "meta":
        return "meta.stackexchange.com"
    return f"{name}.{meta}stackexchange.com"


def _same(name: str) -> str:
    return domain(name.lower())


def _lines(item: Input) -> int:
    """Count lines, a post each: v1's measure of a site's size."""
    with Path(item.path).open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each question with its answers.

    Raises:
        DataError: the file is cut, no Posts.xml, or declares entities; no room for the table.
    """
    return up_to(_documents(unit, recipe), unit.limit)


def _documents(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    (item,) = unit.inputs
    name = site(item.source)
    make = _Maker(name, item.licence, recipe)
    with PostTable() as table:
        for row in stackexchange_rows.rows(Path(item.path)):
            fault = row.fault or make.take(row, table)
            if fault:
                # Of a row that is not damaged, what it says is of more use than its markup.
                shown = row.beginning or row.values.get("Body", "")[:500]
                source = f"{name}/byte {row.place}"
                yield Document(shown, NAME, source, item.licence, fault=fault, size=row.size)
        for number, posts in table.questions():
            yield from make.documents(number, posts)


class _Maker:
    """Makes documents of a site's posts."""

    def __init__(self, name: str, unstated: str, recipe: SliceRecipe) -> None:
        self._name, self._unstated = name, unstated
        self._mode = recipe.mode
        self._writer = stackexchange_text.Writer(recipe.mode)

    def take(self, row: Row, table: PostTable) -> str:
        """Put a row into the table if it is a question or an answer; returns its fault."""
        values = row.values
        kind = values.get("PostTypeId", "")
        number, parent = _number(values.get("Id")), _number(values.get("ParentId"))
        if number is None or not kind:
            return "a post without Id or PostTypeId"
        if self._mode == "faithful":
            # v1 did not ask for the type: an answer has a parent, a question a title.
            is_answer, is_question = "ParentId" in values, "Title" in values
        else:
            is_answer, is_question = kind == "2", kind == "1"
        if not (is_answer or is_question):
            return ""
        if is_answer and parent is None:
            return "an answer without its question"
        table.add(
            Post(
                number if parent is None or not is_answer else parent, number, is_answer,
                values.get("Score", "0"), values.get("OwnerUserId", ""),
                values.get("CreationDate", ""), self._licence(values), values.get("Title", ""),
                values.get("Body", ""),
            )
        )  # fmt: skip
        return ""

    def _licence(self, values: dict[str, str]) -> str:
        """Return what the dump states, else what held when the post's present form was written."""
        if values.get("ContentLicense"):
            return values["ContentLicense"]
        date = values.get("LastEditDate") or values.get("CreationDate")
        return next(name for since, name in LICENCES if date >= since) if date else self._unstated

    def documents(self, number: int, posts: Iterator[Post]) -> Iterator[Document]:
        """Make the document of one question, and faults of what does not belong to it."""
        source = f"{self._name}/questions/{number}"
        question: Post | None = None
        answers: list[Post] = []
        size = 0
        for post in posts:
            size += len(post.body)
            if not post.is_answer and question is None:
                question = post
            elif not post.is_answer:
                yield self._fault(source, post, "a second question with its Id")
            elif question is None:
                yield self._fault(source, post, "an answer without its question")
            elif size <= LARGEST:
                answers.append(post)
        if question is None:
            return
        if size > LARGEST:
            yield self._fault(source, question, TOO_LARGE, size)
            return
        try:
            answers = stackexchange_text.ranked(answers, self._mode)
            text = self._writer.text(question, answers)
        except (ValueError, AssertionError, RecursionError):
            # AssertionError: markup that html.parser or BeautifulSoup gives up on.
            yield self._fault(source, question, "not HTML, or a score that is no number", size)
            return
        yield self._document(source, text, question, answers)

    def _document(self, source: str, text: str, question: Post, answers: list[Post]) -> Document:
        thread = [question, *answers]
        metadata = {
            "site": domain(self._name),
            "score": question.score,
            "answers": ",".join(str(post.number) for post in answers),
            "owners": ",".join(post.owner for post in thread),
        }
        licences = [post.licence for post in thread]
        if len(set(licences)) > 1:
            metadata["licences"] = ",".join(licences)
        address = f"https://{domain(self._name)}/questions/{question.number}"
        date = FAITHFUL_DATE if self._mode == "faithful" else question.created
        licence = " AND ".join(sorted(set(licences)))
        return Document(text, NAME, source, licence, metadata, address, date)

    def _fault(self, source: str, post: Post, fault: str, size: int | None = None) -> Document:
        length = len(post.body.encode("utf-8", "surrogatepass")) if size is None else size
        where = source if not post.is_answer else f"{source}#{post.number}"
        return Document(post.body[:500], NAME, where, post.licence, fault=fault, size=length)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None
