"""The head of a card that is there already: what its publishers said goes into the next one."""

from __future__ import annotations

import re

import yaml
from huggingface_hub import ModelCard

from alpenglow.release.cards.front_matter import Publication
from alpenglow.release.cards.markdown import line
from alpenglow.release.error import ReleaseError


def publication_of(former: str | None) -> Publication:
    """What a former card's head says of licence, authors and the like.

    Raises:
        ReleaseError: its head is not YAML that the Hub would take.
    """
    if not former:
        return Publication()
    try:
        data = ModelCard(former, ignore_metadata_errors=True).data
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ReleaseError(
            f"README.md: its head between the lines of dashes cannot be read ({line(str(error))}); "
            "mend it or move it away"
        ) from None
    head = data.to_dict()
    named = {key: head.get(key) or data.get(key) for key in ("model_name", "pretty_name")}
    for key, name in named.items():
        # A name that we made ourselves is made anew.
        made = name is None or _MADE.search(str(name))
        head[key] = None if made else name
    return Publication.of(head)


_MADE = re.compile(r", (step [\d,]+|[0-9a-f]{12})$")
