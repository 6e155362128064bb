"""What goes wrong with another program's checkpoint."""

from __future__ import annotations


class ExchangeError(RuntimeError):
    """A checkpoint that cannot be read, imported or exported; one sentence for the user."""
