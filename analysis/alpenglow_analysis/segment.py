"""One segment of a run: one job on the machine, from its start to its end or its death."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class RunError(ValueError):
    """A run directory that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class Segment:
    """The record of one job. Times are unix seconds."""

    name: str
    """JOBID.ATTEMPT: a requeued job keeps its id."""
    activity: str
    submitted: float | None
    """When it came into the queue; None where that is not known."""
    started: float
    ended: float
    """Where `estimated`, the last sign of life instead."""
    estimated: bool
    """The parent did not close the record: the job was killed, or is still running."""
    nodes: int
    """Nodes that are charged: those asked for; on a stand-in, those it pretended to have."""
    nodes_asked: int
    ranks: int
    ranks_per_node: int
    """Ranks that a node of this job can hold: what one charged node is divided by."""
    hosts: tuple[str, ...]
    resumed_from_step: int
    last_step: int
    last_checkpoint: int
    exit_code: int | None
    reason: str
    reason_text: str

    @property
    def begin_ns(self) -> int:
        """Start in ns since 1970, to the microsecond: a float of unix seconds holds no more."""
        return round(self.started * 1e6) * 1000

    @property
    def elapsed_ns(self) -> int:
        """Wall-clock time in ns."""
        return round(self.ended * 1e6) * 1000 - self.begin_ns

    @property
    def slots(self) -> int:
        """Ranks that the charged nodes could hold."""
        return self.nodes * self.ranks_per_node

    @property
    def node_hours(self) -> float:
        """Charged: nodes asked for x elapsed time, whatever was used of it."""
        return self.nodes * self.elapsed_ns / 3.6e12

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        ranks_per_node: int,
        seen: float | None = None,
    ) -> Segment:
        """Read a record, and rank 0's part of it where the parent could not merge it.

        Args:
            path: `segments/JOBID.ATTEMPT.json`.
            ranks_per_node: what the machine's nodes hold, from run.toml.
            seen: unix time of the last event or metrics line: what is known of the end of a
                segment whose record was left open.

        Raises:
            RunError: not a segment record.
        """
        fields = _read(path)
        side = path.with_name(f"{path.stem}.rank0.json")
        if side.is_file():
            fields = _filled(fields, _read(side))
        try:
            started = float(fields["started"])
            nodes = int(fields["nodes_asked"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: not a segment record: {error!r} is missing or wrong") from None
        ended = fields.get("ended")
        # A parent that was killed leaves its record open, or the next segment's closes it from
        # the last heartbeat: either way the ranks' own last signs of life may be later.
        estimated = ended is None or bool(fields.get("estimated"))
        beat = fields.get("heartbeat")
        signs = [started] + [float(t) for t in (ended, seen, beat) if t is not None]
        used = int(fields.get("nodes_used") or nodes)
        ranks = int(fields.get("ranks") or 0)
        code = fields.get("exit_code")
        reason = fields.get("reason") or "not closed"
        return cls(
            name=path.stem,
            activity=str(fields.get("activity") or "unknown"),
            submitted=None if fields.get("submitted") is None else float(fields["submitted"]),
            started=started,
            ended=max(signs) if ended is None or estimated else max(started, float(ended)),
            estimated=estimated,
            nodes=int(fields.get("nodes_charged") or nodes),
            nodes_asked=nodes,
            ranks=ranks,
            ranks_per_node=max(ranks_per_node, -(-ranks // max(1, used)), 1),
            hosts=tuple(fields.get("hosts") or ()),
            resumed_from_step=int(fields.get("resumed_from_step") or 0),
            last_step=int(fields.get("last_step") or 0),
            last_checkpoint=int(fields.get("last_durable_checkpoint") or 0),
            exit_code=None if code is None else int(code),
            reason=str(reason),
            reason_text=str(fields.get("reason_text") or ""),
        )

    @classmethod
    def without_record(
        cls, name: str, side: Path, *, activity: str, nodes: int, ranks: int, ranks_per_node: int,
        seen: tuple[float, float],
    ) -> Segment:  # fmt: skip
        """A segment that no launch node's parent recorded: a trainer started by hand.

        Its charge is what its ranks show of themselves, from the first to the last sign of life.

        Args:
            name: JOBID.ATTEMPT.
            side: where rank 0's own part of the record is, if it is.
            activity: what the run does.
            nodes: nodes of the run.
            ranks: ranks of the run.
            ranks_per_node: what the machine's nodes hold.
            seen: unix times of the first and the last sign of life.
        """
        fields = _read(side) if side.is_file() else {}
        return cls(
            name=name,
            activity=activity,
            submitted=None,
            started=seen[0],
            ended=seen[1],
            estimated=True,
            nodes=nodes,
            nodes_asked=nodes,
            ranks=ranks,
            ranks_per_node=ranks_per_node,
            hosts=(),
            resumed_from_step=int(fields.get("resumed_from_step") or 0),
            last_step=int(fields.get("last_step") or 0),
            last_checkpoint=int(fields.get("last_durable_checkpoint") or 0),
            exit_code=None,
            reason="no batch job",
            reason_text="",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not a readable segment record: {error}") from None
    if not isinstance(fields, dict):
        raise RunError(f"{path}: not a segment record: no JSON object")
    return fields


def _filled(fields: dict[str, Any], side: dict[str, Any]) -> dict[str, Any]:
    """The record, with rank 0's value wherever the record itself says nothing."""
    missing = {key: value for key, value in side.items() if fields.get(key) is None}
    beats = [fields.get("heartbeat"), side.get("heartbeat")]
    latest = max((float(beat) for beat in beats if beat is not None), default=None)
    return {**fields, **missing, "heartbeat": latest}
