"""What goes wrong in a release."""

from __future__ import annotations


class ReleaseError(RuntimeError):
    """A release that cannot be made or does not hold; the message is one sentence for the user."""
