"""Calls on workers: tried again, listed if they fail, a few in flight, whatever the error is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from failing_calls import write

from alpenglow.config import parse
from alpenglow.data.cluster import connect
from alpenglow.data.crew import IN_FLIGHT, Crew
from alpenglow.data.document import DataError
from alpenglow.data.recipe import ClusterRecipe, PrepareRecipe
from alpenglow_lsf.ranks import Ranks

ALONE = Ranks.from_environment({})


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    recipe = ClusterRecipe(protocol="tcp", workers=1)
    with connect(recipe, tmp_path_factory.mktemp("run"), ALONE) as connected:
        yield connected


def crew(client: Any, retries: int) -> Crew:
    tables = {"slices": {"books": {}}, "retries": retries, "cluster": {"workers": 1}}
    return Crew(client, parse(PrepareRecipe, tables, "test"), ALONE)


def test_failures_are_tried_again_and_listed_and_the_others_done(
    client: Any, tmp_path: Path
) -> None:
    fails = {"good": 0, "late": 2, "bad": 9, "defect": 9}
    calls = [(write, (str(tmp_path), name, times)) for name, times in fails.items()]
    failed: dict[int, Exception] = {}
    done = dict(crew(client, 2).gather(calls, failed))
    assert done == {0: "good", 1: "late"}
    assert str(failed[2]) == "bad is damaged"
    assert str(failed[3]).startswith(
        "unexpected KeyError ('defect') in write, failing_calls.py line"
    )
    tries = {name: len(list(tmp_path.glob(f"{name}.*"))) for name in fails}
    assert tries == {"good": 1, "late": 3, "bad": 3, "defect": 3}
    with pytest.raises(DataError, match="bad is damaged"):
        list(crew(client, 2).gather(calls[2:]))


def test_workers_of_batch_jobs_count() -> None:
    assert ClusterRecipe(workers=3).processes == 3
    jobs = ClusterRecipe(workers=3, jobs=5, nodes_per_job=2, workers_per_node=42)
    assert jobs.processes == 420


def test_a_few_calls_are_in_flight_whatever_their_number(client: Any) -> None:

    class Calls:
        """Would say how far it was read; a list of a million is never made of it."""

        read = 0

        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, place: int) -> tuple[Any, tuple[int]]:
            self.read = max(self.read, place + 1)
            return abs, (place,)

    calls = Calls()
    found = crew(client, 0).gather(calls)  # type: ignore[arg-type]
    for number, (place, result) in enumerate(found):
        assert place == result
        assert calls.read <= number + 1 + IN_FLIGHT
        if number == 40:
            break
    found.close()  # type: ignore[attr-defined]
