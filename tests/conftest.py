"""What several roots' tests start once for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import slurm_cluster


@pytest.fixture(scope="session")
def slurm_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Cluster]:
    """A Slurm of our own, started once; without the programs the test skips, saying so."""
    reason = slurm_cluster.absent()
    if reason is not None:
        pytest.skip(reason)
    with slurm_cluster.running(tmp_path_factory.mktemp("s")) as cluster:
        yield cluster
