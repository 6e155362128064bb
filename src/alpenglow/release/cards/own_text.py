"""A person's own words in a card: kept when the card is written again.

They stand between two comments that no reader of the page sees:

    <!-- yours -->
    Written by hand.
    <!-- /yours -->
"""

from __future__ import annotations

import re
from pathlib import Path

from alpenglow.release.error import ReleaseError

CARD = "README.md"
BEGIN, END = "<!-- yours -->", "<!-- /yours -->"
OURS = "<!-- written by alpenglow release card -->"
"""Marks a card as one that may be written again."""

_BLOCK = re.compile(f"{re.escape(BEGIN)}(.*?){re.escape(END)}", re.DOTALL)


def former_card(folder: Path) -> str | None:
    """The card that a folder has; None where there is none.

    Raises:
        ReleaseError: a person wrote it, or it cannot be read.
    """
    path = folder / CARD
    try:
        former = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path}: {error}") from None
    check_ours(former, str(path))
    return former


def own_text(former: str | None, where: str = "README.md") -> str:
    """The block to put into a new card, with what stood between the marks of the former one.

    Raises:
        ReleaseError: a mark without its other half, so that words would be lost.
    """
    former = former or ""
    blocks = _BLOCK.findall(former)
    if not len(blocks) == former.count(BEGIN) == former.count(END):
        raise ReleaseError(
            f"{where}: a mark {BEGIN} without its {END}, or the reverse; put both around your "
            "words, or they would be lost"
        )
    kept = "\n\n".join(text for block in blocks if (text := block.strip("\n")))
    return f"{BEGIN}\n{kept}\n{END}" if kept else f"{BEGIN}\n{END}"


def check_ours(former: str, where: str) -> None:
    """Refuse to write over a card that a person wrote.

    Raises:
        ReleaseError: it has neither our mark nor a block of a person's words.
    """
    if OURS not in former and BEGIN not in former and "\n- alpenglow\n" not in former:
        raise ReleaseError(
            f"{where}: not a card of this command, so it is not written over; put {BEGIN} and "
            f"{END} around what you wrote, or move it away"
        )
