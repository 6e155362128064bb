"""Which steps' spans are kept: a stated share of them, and what is unlike the others.

The share goes by number, so all ranks keep the same steps. An unlike step is told by its length,
which ranks that wait for one another share, each by its own clock.
"""

from __future__ import annotations

import statistics
from collections import deque

WINDOW = 32
"""Steps whose median is the usual length."""
FEWEST = 4
"""Steps that must be known before one can be unlike them."""
UNLIKE = 1.5
"""Times the usual length from which a step is an anomaly."""
FIRST = 2
"""Steps at the beginning of a segment that are kept: they warm up what later ones have."""


class StepSampling:
    """Decides step by step.

    Args:
        every: spans are kept of each step whose number this divides; at least 1.

    Raises:
        ValueError: `every` is less than 1.
    """

    def __init__(self, every: int) -> None:
        if every < 1:
            raise ValueError(f"spans of every {every}-th step: at least 1, which is every step")
        self.every = every
        self._lengths: deque[int] = deque(maxlen=WINDOW)
        self._seen = 0
        self._after = False

    def look(self, step: int, length_ns: int, *, broken: bool = False) -> tuple[bool, bool]:
        """Take a step that has ended.

        Args:
            step: its number.
            length_ns: of its STEP span.
            broken: it ended by an exception, so it is one to look at.

        Returns:
            Whether its spans are kept, and whether those of the step before it are after all.
        """
        known = len(self._lengths) >= FEWEST
        unlike = broken or (known and length_ns > UNLIKE * statistics.median(self._lengths))
        keep = unlike or self._after or self._seen < FIRST or step % self.every == 0
        self._lengths.append(length_ns)
        self._seen += 1
        self._after = unlike
        return keep, unlike
