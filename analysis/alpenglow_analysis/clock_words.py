"""What a report says of the clocks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alpenglow_analysis.clock_bounds import Contradiction
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
    contradictions: list[Contradiction] = field(default_factory=list)
    """With the number of the step in place of its index."""
    apart: list[int] = field(default_factory=list)
    """Nodes that nothing connects with the reference."""
    buffered: bool = False
    """Sends end before their receives begin."""
    bent: list[int] = field(default_factory=list)
    """Nodes whose clock is no straight line."""
    likely_ns: float = math.inf
    """Standard deviation of what clocks are thought to be, between their bounds."""

    def sentences(self) -> list[str]:
        """One for each thing that is wrong."""
        found = list(self.damages)
        if self.buffered:
            found.append(
                "Sends end before their receives begin (messages are buffered): only receives "
                "and collectives bound the clocks."
            )
        by_group: dict[tuple[int, ...], list[int]] = {}
        for step, groups, _ in self.contradictions:
            for group in groups:
                by_group.setdefault(tuple(group), []).append(step)
        for nodes, steps in sorted(by_group.items())[:_NAMED]:
            names, where = self._named(nodes), _listed([str(step) for step in steps])
            subject = f"The clock of {names} contradicts the others"
            if len(nodes) > 1:
                subject = f"One or more of the clocks of {names} contradict the others"
            found.append(f"{subject} in step {where} (a jump, or damaged rows): left out there.")
        if len(by_group) > _NAMED:
            found.append(f"So do those of {len(by_group) - _NAMED} more in some steps.")
        gone = [str(each.step) for each in self.contradictions if each.whole]
        if gone:
            found.append(f"Step {_listed(gone)} says nothing of the clocks for that reason.")
        if self.bent:
            names = self._named(self.bent)
            found.append(
                f"No straight line fits the clock of {names} (slewed or set during the segment): "
                "it is followed from step to step, and between them nothing bounds it."
            )
        if self.apart:
            names = self._named(self.apart)
            found.append(
                f"No message or collective connects {names} with the other nodes: wall clocks are "
                "kept there, their error is unknown."
            )
        return found

    def _named(self, nodes: Sequence[int]) -> str:
        return _listed([self.names[node] for node in nodes])


def _likely(ns: float) -> str:
    """What the error is thought to be, beside what it can be at most."""
    return f", most likely by about {seconds(ns / 1e9)}" if math.isfinite(ns) else ""


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
            f"{seconds(others[worst] / 1e9)}, {worst}){_likely(problems.likely_ns)}."
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
