"""A taught model and invented benchmarks, made once for all tests of the room."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_benchmarks import taught, write_benchmarks
from taught_model import teach

from alpenglow.evaluate.__main__ import prepare


@pytest.fixture(scope="session", autouse=True)
def offline() -> None:
    """As the program does before it imports the harness."""
    with pytest.MonkeyPatch.context() as patch:
        environ: dict[str, str] = {}
        prepare(environ)
        for name, value in environ.items():
            patch.setenv(name, value)


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPENGLOW_RUN", raising=False)
    monkeypatch.delenv("ALPENGLOW_MACHINE", raising=False)


@pytest.fixture(scope="session")
def taught_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    teach(folder, taught())
    return folder


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("items") / "benchmarks")
