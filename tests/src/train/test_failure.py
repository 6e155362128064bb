"""What a rank says when it ends badly."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpenglow.config import ConfigError
from alpenglow.train import failure


@pytest.mark.parametrize(
    ("error", "sentence", "whole"),
    [
        (
            RuntimeError("[pair.cc:538] Connection closed by peer [127.0.0.1]:4711"),
            "lost a peer",
            True,
        ),
        (
            RuntimeError("[unbound_buffer.cc:78] Timed out waiting 15000ms for recv operation"),
            "stayed silent for longer than train.collective_timeout_s",
            True,
        ),
        (
            Exception("Current loss scale already at minimum - cannot decrease scale anymore."),
            "overflow at the smallest loss scale",
            True,
        ),
        (ConfigError("a recipe: no"), "a recipe: no", True),
        (failure.TrainingError("diverged"), "diverged", True),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero", False),
    ],
)
def test_sentences(error: Exception, sentence: str, whole: bool) -> None:
    text, explained = failure.explain(error)
    assert sentence in text
    assert "\n" not in text
    assert explained is whole


def test_the_unforeseen_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Left(BaseException):
        pass

    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr("os._exit", leave)
    try:
        raise KeyError("embed_in.weight")
    except KeyError as error:
        with pytest.raises(Left, match="1"):
            failure.end_hard(error, 3, tmp_path / "errors")
    kept = tmp_path / "errors/rank-00003.txt"
    assert "test_failure.py" in kept.read_text()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "rank 3: KeyError" in said
    assert str(kept) in said
