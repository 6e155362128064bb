"""The YAML head of a card: what the Hugging Face Hub reads and filters by.

It is written by huggingface_hub's own classes (`ModelCardData`, `DatasetCardData`), so quotes,
colons, line breaks and other scripts in a name come back as they went in. Licence names are those
of https://huggingface.co/docs/hub/repositories-licenses; any other becomes `other` with a
`license_name`, as that page asks. Nothing is guessed: without a word from whoever publishes, the
licence is `unknown`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from alpenglow.release.error import ReleaseError

_LICENCES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1
lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other
"""
LICENCES = frozenset(_LICENCES.split())
"""The identifiers that the Hub takes (its page of licences, huggingface/hub-docs)."""

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")
_SIZES = (
    (1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"),
    (1e8, "10M<n<100M"), (1e9, "100M<n<1B"), (1e10, "1B<n<10B"), (1e11, "10B<n<100B"),
    (1e12, "100B<n<1T"),
)  # fmt: skip


@dataclass(frozen=True)
class Publication:
    """What only whoever publishes can say; None where nothing was said."""

    name: str | None = None
    """Of the model or the data, instead of the run's."""
    licence: str | None = None
    """An identifier of the Hub, or a name of its own."""
    licence_link: str | None = None
    authors: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    """ISO 639 codes, `code` or `multilingual`."""
    datasets: tuple[str, ...] = ()
    """Data sets on the Hub."""

    def __post_init__(self) -> None:
        for language in self.languages:
            if not _LANGUAGE.fullmatch(language):
                raise ReleaseError(
                    f"language {language!r}: a code of ISO 639 such as en, or code, or multilingual"
                )
        for name in self.datasets:
            if not is_repository(name):
                raise ReleaseError(f"data set {name!r}: not a name on the Hub (ORGANISATION/NAME)")
        if self.licence is not None and not re.search(r"[A-Za-z0-9]", self.licence):
            raise ReleaseError(f"licence {self.licence!r}: name one, such as apache-2.0")

    def over(self, former: Publication) -> Publication:
        """This, with what it leaves open from a former card."""
        mine = {
            field.name: getattr(self, field.name) or getattr(former, field.name)
            for field in dataclasses.fields(self)
        }
        if self.licence:
            mine["licence_link"] = self.licence_link  # a link belongs to its licence
        return Publication(**mine)

    @classmethod
    def of(cls, head: Mapping[str, Any]) -> Publication:
        """Read a card's head back; what is not of the expected form is left out."""
        licence = head.get("license")
        licence = head.get("license_name", licence) if licence == "other" else licence
        languages, sets = (_words(head.get(key)) for key in ("language", "datasets"))
        return cls(
            name=_text(head.get("model_name") or head.get("pretty_name")),
            licence=None if licence == "unknown" else _text(licence),
            licence_link=_text(head.get("license_link")),
            authors=_words(head.get("authors")),
            languages=tuple(word for word in languages if _LANGUAGE.fullmatch(word)),
            datasets=tuple(word for word in sets if is_repository(word)),
        )


def licence_fields(licence: str | None, link: str | None = None) -> dict[str, Any]:
    """`license`, and `license_name` where the Hub has no identifier for it."""
    if licence is None:
        return {"license": "unknown"}
    found = hub_licence(licence)
    fields: dict[str, Any] = {"license": found or "other"}
    if found is None:
        fields["license_name"] = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")
    if link is not None:
        fields["license_link"] = link
    return fields


def hub_licence(name: str) -> str | None:
    """The Hub's identifier of a licence (`CC BY-SA 4.0` is `cc-by-sa-4.0`); None: it has none."""
    found = "-".join(name.lower().split())
    return found if found in LICENCES else None


def is_repository(name: str) -> bool:
    """Whether the Hub takes this as the name of a repository, with its owner."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def model_head(
    publication: Publication,
    name: str,
    *,
    tags: Sequence[str] = (),
    base_model: str | None = None,
    results: Sequence[EvalResult] = (),
) -> str:
    """The head of a model's card, between its lines of dashes.

    Args:
        publication: what whoever publishes said.
        name: of the model, where the publication has none.
        tags: beside those that hold for each.
        base_model: a repository of the Hub that training began from.
        results: for the model index.
    """
    data = ModelCardData(
        model_name=publication.name or name,
        **licence_fields(publication.licence, publication.licence_link),
        language=list(publication.languages) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["gpt_neox", "causal-lm", "alpenglow", *tags],
        datasets=list(publication.datasets) or None,
        base_model=base_model,
        eval_results=list(results) or None,
        authors=list(publication.authors) or None,
    )
    return _head(data.to_yaml())


def dataset_head(publication: Publication, name: str, documents: int, licence: str | None) -> str:
    """The head of a data card.

    No `configs`: token shards are HDF5, which the Hub's viewer does not read.

    Args:
        publication: what whoever publishes said.
        name: of the data, where the publication has none.
        documents: how many.
        licence: of all documents, where the ledger says one.
    """
    data = DatasetCardData(
        pretty_name=publication.name or name,
        language=list(publication.languages) or None,
        size_categories=[size_category(documents)],
        task_categories=["text-generation"],
        task_ids=["language-modeling"],
        tags=["pretraining", "tokenized", "alpenglow"],
        authors=list(publication.authors) or None,
        **licence_fields(publication.licence or licence, publication.licence_link),
    )
    return _head(data.to_yaml())


def size_category(documents: int) -> str:
    """The Hub's word for so many examples."""
    return next((word for limit, word in _SIZES if documents < limit), "n>1T")


def _head(yaml: str) -> str:
    return f"---\n{yaml}\n---"


def _words(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(word for word in values if isinstance(word, str) and word)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
