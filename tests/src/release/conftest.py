"""The run that release tests convert."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from release_run import make_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ALPENGLOW_RUN", raising=False)
    monkeypatch.delenv("ALPENGLOW_MACHINE", raising=False)
    return make_run(tmp_path)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as at a terminal; what a shell starts in the background ignores it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)
