"""What is found out about the steps of a run once, and told by many: heat, slow spells, replays."""

from __future__ import annotations

from dataclasses import dataclass

from alpenglow_analysis.causes import Causes, causes
from alpenglow_analysis.episodes import Episode, episodes
from alpenglow_analysis.heat import Heat, heat
from alpenglow_analysis.run import Run
from alpenglow_analysis.sample import Sample, sample
from alpenglow_analysis.slow_links import SlowLink, slow_links
from alpenglow_analysis.stalls import Stall, stalls


@dataclass(frozen=True)
class Study:
    """The steps of a run, looked into."""

    heat: Heat | None
    """Compute of ranks beside their peers, every step; None where no step was recorded."""
    episodes: tuple[Episode, ...]
    """When which node or rank was slow, the one that lost most first."""
    sample: Sample | None
    """Steps as arrays; None where none has the spans of all ranks."""
    causes: Causes | None
    """Why ranks waited in those steps."""
    links: tuple[SlowLink, ...] = ()
    """Nodes whose messages were slow."""
    stalls: tuple[Stall, ...] = ()
    """Checkpoints and evaluations that took much longer than the others."""


def study(run: Run) -> Study:
    """Look into the steps of a run."""
    shown = heat(run)
    slow = tuple(episodes(shown)) if shown is not None else ()
    steps = sample(run, slow)
    if steps is None:
        return Study(shown, slow, None, None, (), tuple(stalls(run)))
    links = () if shown is None else tuple(slow_links(steps, shown.nodes))
    return Study(shown, slow, steps, causes(steps, slow), links, tuple(stalls(run)))
