"""The tokens on which a release is compared with its checkpoint."""

from __future__ import annotations

import torch

from alpenglow.data.catalogue import Catalogue
from alpenglow.release.error import ReleaseError
from alpenglow.release.record import RunRecord
from alpenglow.release.verify import ROWS, real_tokens

_SEED = 0


def trial_tokens(record: RunRecord, ids: int, length: int) -> tuple[torch.Tensor, bool]:
    """Two windows of the run's own text, or of random ids where it has none.

    Args:
        record: the run.
        ids: tokens are below it.
        length: tokens a window.

    Returns:
        int64 [2, length or fewer], and whether they are text. Random ones are the same every time.

    Raises:
        ReleaseError: the shards are not those that the run read.
        CatalogueError, ShardError: the shards are not whole.
    """
    if not record.catalogue.is_file():
        generator = torch.Generator().manual_seed(_SEED)
        return torch.randint(0, ids, (ROWS, length), generator=generator), False
    catalogue = Catalogue.load(record.catalogue)
    fingerprint = record.fact("data", "fingerprint")
    if fingerprint is not None and catalogue.fingerprint != fingerprint:
        raise ReleaseError(
            f"{record.catalogue}: fingerprint {catalogue.fingerprint} is not {fingerprint}, which "
            f"{record.path / 'run.toml'} names; restore the run's shards, or set verify=false"
        )
    return real_tokens(catalogue, ids, length), True
