"""The run that release tests convert."""

from __future__ import annotations

from pathlib import Path

import pytest
from release_run import make_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ALPENGLOW_RUN", raising=False)
    monkeypatch.delenv("ALPENGLOW_MACHINE", raising=False)
    return make_run(tmp_path)
