"""How the ranks of a step find each other: rank 0 listens, and says where in the run directory.

A host list is not asked: its first host need not be rank 0's. The address is that of the launcher
(ALPENGLOW_HOST_ADDRESS), or the host's name.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from alpenglow_profiling.curve import CurveError
from alpenglow_profiling.place import Place
from alpenglow_profiling.reports import POLL_S, write_first


class Meeting:
    """All ranks of a step, joined: torch.distributed's default group, NCCL or gloo.

    Args:
        place: this rank.
        folder: where rank 0 says where it listens; on a file system that all nodes see.
        join_s: how long a rank waits for the others to come.
        limit_s: how long it waits for one that is busy.

    Raises:
        CurveError: torch is missing, or the others did not come.
    """

    def __init__(self, place: Place, folder: Path, join_s: float, limit_s: float) -> None:
        try:
            import torch
            import torch.distributed as dist
        except ImportError as error:
            raise CurveError(f"{place.host}: no torch to measure with: {error}") from None
        self.place = place
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        self.device = torch.device("cuda" if cuda else "cpu")
        self.backend = "nccl" if cuda else "gloo"
        self.alone = place.world_size == 1
        self._store: Any = None
        if self.alone:
            return
        store: Any = dist.TCPStore  # type: ignore[attr-defined]
        path, wait = folder / ".meeting", timedelta(seconds=join_s)
        try:
            if place.rank == 0:
                self._store = store(
                    place.address, 0, is_master=True, wait_for_workers=False, timeout=wait
                )
                path.unlink(missing_ok=True)  # of a step that was killed here
                write_first(path, {"address": place.address, "port": self._store.port})
            else:
                where = _wait_for(path, join_s)
                self._store = store(where["address"], where["port"], timeout=wait)
            if place.address.startswith("127."):
                # gloo would otherwise look the host's name up, which here may lead nowhere.
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            dist.init_process_group(
                self.backend, store=self._store, rank=place.rank, world_size=place.world_size,
                timeout=timedelta(seconds=limit_s),
            )  # fmt: skip
            dist.barrier()
        except RuntimeError as error:
            first = str(error).strip().partition("\n")[0]
            raise CurveError(f"rank {place.rank} on {place.host}: no meeting: {first}") from None
        if place.rank == 0:
            path.unlink(missing_ok=True)

    def hosts(self) -> list[str]:
        """Names of the nodes, in the order of their ranks; all ranks call this."""
        if self.alone:
            return [self.place.host]
        self._store.set(f"host/{self.place.rank}", self.place.host)
        names = [self._store.get(f"host/{r}").decode() for r in range(self.place.world_size)]
        return list(dict.fromkeys(names))

    def wait(self) -> None:
        """Wait for all ranks."""
        if not self.alone:
            import torch.distributed as dist

            dist.barrier()

    def worst(self, values: list[float]) -> list[float]:
        """For each value, the largest that any rank has; all ranks call this."""
        if self.alone:
            return values
        import torch
        import torch.distributed as dist

        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return [float(value) for value in told.tolist()]

    def gather(self, values: list[float]) -> list[list[float]]:
        """Every rank's values, which are equally many; all ranks call this."""
        if self.alone or not values:
            return [values]
        import torch
        import torch.distributed as dist

        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        found = [torch.empty_like(told) for _ in range(self.place.world_size)]
        dist.all_gather(found, told)
        return [each.tolist() for each in found]

    def part(self) -> None:
        """End the group; nobody takes its sockets away while another still works."""
        if not self.alone:
            import torch.distributed as dist

            with suppress(RuntimeError):
                dist.barrier()
                dist.destroy_process_group()


def _wait_for(path: Path, timeout_s: float) -> dict[str, Any]:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with suppress(FileNotFoundError):
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return told
        time.sleep(POLL_S)
    raise CurveError(f"rank 0 said nothing in {path.parent} within {timeout_s:.0f} s")
