"""What a report says of the clocks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alpenglow_analysis.units import seconds

_NAMED = 3


@dataclass(frozen=True)
class Checked:
    """A ping-pong of two nodes, compared with the aligned clocks."""

    node: str
    when_ns: int
    """CLOCK_MONOTONIC of rank 0's node."""
    difference_ns: int
    """How much later the aligned clock of the node is than the ping-pong says."""
    allowed_ns: float
    """The errors of both together."""

    @property
    def agrees(self) -> bool:
        """Whether the two are no further apart than they may be."""
        return abs(self.difference_ns) <= self.allowed_ns


@dataclass
class Problems:
    """What kept clocks from being aligned, by index of node."""

    names: list[str]
    damages: list[str] = field(default_factory=list)
    contradictions: list[tuple[int, list[int], bool]] = field(default_factory=list)
    """(step, nodes, whether the whole step was left out)."""
    apart: list[int] = field(default_factory=list)
    """Nodes that nothing connects with the reference."""
    bent: list[int] = field(default_factory=list)
    """Nodes whose clock is no straight line."""

    def sentences(self) -> list[str]:
        """One for each thing that is wrong."""
        found = list(self.damages)
        by_node: dict[int, list[int]] = {}
        for step, nodes, _ in self.contradictions:
            for node in nodes:
                by_node.setdefault(node, []).append(step)
        for node, steps in sorted(by_node.items())[:_NAMED]:
            found.append(
                f"The clock of {self.names[node]} contradicts the others in step "
                f"{_listed([str(step) for step in steps])} (it jumped, or rows are damaged): "
                "left out there."
            )
        if len(by_node) > _NAMED:
            found.append(f"So do those of {len(by_node) - _NAMED} more nodes in some steps.")
        gone = [str(step) for step, _, whole in self.contradictions if whole]
        if gone:
            found.append(f"Step {_listed(gone)} says nothing of the clocks for that reason.")
        if self.bent:
            names = _listed([self.names[node] for node in self.bent])
            found.append(
                f"No straight line fits the clock of {names} (slewed or set during the segment): "
                "it is followed from step to step, and between them nothing bounds it."
            )
        if self.apart:
            names = _listed([self.names[node] for node in self.apart])
            found.append(
                f"No message or collective connects {names} with the other nodes: wall clocks are "
                "kept there, their error is unknown."
            )
        return found


def in_words(
    reference: str,
    error_ns: Mapping[str, float],
    counts: tuple[int, int, int],
    problems: Problems,
    checked: Sequence[Checked],
) -> tuple[str, ...]:
    """Sentences: the error, the ping-pongs, the problems.

    Args:
        reference: the node that the others are aligned with.
        error_ns: by node.
        counts: messages, collectives and steps that were used.
        problems: what went wrong.
        checked: ping-pongs.
    """
    others = {
        node: error
        for index, (node, error) in enumerate(error_ns.items())
        if node != reference and index not in problems.apart
    }
    sentences = []
    if others:
        worst = max(others, key=lambda node: others[node])
        messages, collectives, steps = counts
        sentences.append(
            f"Clocks of {len(others) + 1} nodes are aligned with {reference} by {messages:,} "
            f"messages and {collectives:,} collectives of {steps} steps: wrong by at most "
            f"{seconds(statistics.median(others.values()) / 1e9)} (median; worst "
            f"{seconds(others[worst] / 1e9)}, {worst})."
        )
    if checked:
        wrong = [each for each in checked if not each.agrees]
        middle = seconds(statistics.median(abs(each.difference_ns) for each in checked) / 1e9)
        sentences.append(
            f"{len(checked) - len(wrong)} of {len(checked)} ping-pongs agree with that within both "
            f"errors (median difference {middle})."
        )
        for each in sorted(wrong, key=lambda each: -abs(each.difference_ns))[:_NAMED]:
            sentences.append(
                f"The ping-pong of {each.node} is {seconds(abs(each.difference_ns) / 1e9)} off, "
                f"{seconds(each.allowed_ns / 1e9)} is allowed."
            )
    return (*sentences, *problems.sentences())


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more
