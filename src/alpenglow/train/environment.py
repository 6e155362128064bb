"""The process environment of a rank, set before torch and DeepSpeed read it."""

from __future__ import annotations

import os
import warnings

from alpenglow_lsf.ranks import Ranks


def prepare(ranks: Ranks) -> None:
    """Set what torch and DeepSpeed read when they are imported, and quieten them.

    Args:
        ranks: who this process is.
    """
    ranks.export(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if ranks.master_address.startswith("127."):
        # gloo would otherwise look the host name up, which on a laptop may lead nowhere.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed calls what torch is about to rename, once a step and rank.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|deepspeed)\.")
