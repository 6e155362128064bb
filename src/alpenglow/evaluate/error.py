"""What goes wrong in an evaluation."""

from __future__ import annotations


class EvaluateError(RuntimeError):
    """An evaluation that cannot be made; the message is one sentence for the user.

    It names files, lines and numbers, never the text of a benchmark's item.
    """
