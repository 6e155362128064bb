"""Kills at any moment, of everything or of one worker: the shards are the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepare_kills import DEADLINE_S, digests, disturbed, start, write_raw, write_recipe


@pytest.mark.slow
def test_a_job_that_is_killed_and_started_again_makes_the_same_bytes(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", 6)
    recipe = tmp_path / "prepare.toml"
    write_recipe(recipe, tmp_path / "raw")
    said = list(disturbed(recipe, kills=3, seed=7))
    assert said[-1].endswith("ended with code 0"), said
    assert sum("killed" in sentence for sentence in said) == 3
    assert start(recipe, "quiet", 1).wait(DEADLINE_S) == 0
    assert digests(tmp_path / "killed") == digests(tmp_path / "quiet")
    # Nothing half-written stays: neither in the documents' folder nor beside the shards.
    hidden = [p for folder in ("", "run-killed/documents") for p in (tmp_path / folder).glob(".*")]
    assert not hidden
