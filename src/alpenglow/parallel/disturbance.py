"""What makes ranks of a job unequal: jitter, slow ranks, slow links, rare pauses.

Torch-free. Each is a distribution with the source of its numbers; `alpenglow.parallel.simulation`
draws from it. Dice are counters (Philox, Salmon et al. 2011, "Parallel Random Numbers: As Easy as
1, 2, 3"): what a rank or a node draws depends on the seed, the disturbance, the step or allocation,
and its own number, and on nothing else. So the same rank has the same luck however many steps or
ranks are simulated, and whatever other disturbance there is: two simulations that differ in one
thing differ by that thing alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.seats import Seats

Floats = npt.NDArray[np.float64]
ASSUMED = "assumed"


class DisturbanceError(ValueError):
    """A strength that cannot be; the message is one sentence."""


@dataclass(frozen=True)
class Spread:
    """A distribution by its quantiles, at equal steps from 0 to 1 and straight between them.

    One point is a fixed value, two are the ends of an even distribution.
    """

    points: tuple[float, ...]

    def at(self, quantile: Floats) -> Floats:
        """Values at quantiles between 0 and 1."""
        if len(self.points) == 1:
            return np.full(np.shape(quantile), self.points[0])
        steps = np.linspace(0.0, 1.0, len(self.points))
        return np.asarray(np.interp(quantile, steps, self.points), np.float64)

    @property
    def mean(self) -> float:
        """Mean value."""
        if len(self.points) == 1:
            return self.points[0]
        return float(np.trapezoid(self.points, dx=1 / (len(self.points) - 1)))

    def __str__(self) -> str:
        ends = self.points[0], self.points[-1]
        return f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"


def dice(seed: int, stream: int, number: int) -> np.random.Generator:
    """Dice of a disturbance, for one step or allocation.

    Args:
        seed: of the simulation; 0 or more.
        stream: tells disturbances from one another; below 2^16.
        number: of the step or the allocation; below 2^48.
    """
    key = np.array([seed, stream << 48 | number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(frozen=True)
class Jitter:
    """Every pass of every rank takes longer or shorter by chance, each by itself.

    Args:
        cv: standard deviation of a pass over its mean, which stays.
        law: lognormal or gamma.
        source: of the number.
        number: tells its dice from those of another of its kind.
    """

    cv: float
    law: Literal["lognormal", "gamma"] = "lognormal"
    source: str = ASSUMED
    number: int = 0
    kind: ClassVar[int] = 1
    key: ClassVar[str] = "jitter"

    def __post_init__(self) -> None:
        if not 0 <= self.cv <= 2:
            raise DisturbanceError(f"jitter of {self.cv:g}: a coefficient of variation, 0 to 2")

    def factors(self, seed: int, step: int, ranks: int, passes: int) -> npt.NDArray[np.float32]:
        """[ranks, passes]: length of each pass of a step over its mean."""
        own, shape = dice(seed, _stream(self), step), (ranks, passes)
        if self.cv == 0:
            return np.ones(shape, np.float32)
        if self.law == "gamma":
            drawn = own.standard_gamma(1 / self.cv**2, shape, np.float32)
            return np.multiply(drawn, np.float32(self.cv**2), out=drawn)
        variance = math.log1p(self.cv**2)
        drawn = own.standard_normal(shape, np.float32)
        drawn *= np.float32(math.sqrt(variance))
        drawn -= np.float32(variance / 2)
        return np.asarray(np.exp(drawn, out=drawn))

    def __str__(self) -> str:
        return f"Jitter of {100 * self.cv:.3g} % a pass ({self.law})"


@dataclass(frozen=True)
class SlowRanks:
    """Some GPUs, or all GPUs of some nodes, compute slower as long as an allocation lasts.

    Args:
        share: of the nodes or GPUs that are slow, each by its own chance.
        factor: of the length of their passes; 1.15 takes 15 % longer.
        per: whether nodes or GPUs are slow.
        named: numbers of those that are slow for sure, whatever the share.
        source: of the numbers.
        number: tells its dice from those of another of its kind.
    """

    share: float
    factor: Spread
    per: Literal["node", "gpu"] = "node"
    named: tuple[int, ...] = ()
    source: str = ASSUMED
    number: int = 0
    kind: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_share(f"slow {self.per}s", self.share)
        _check_factor(f"slow {self.per}s", self.factor)

    @property
    def key(self) -> str:
        """Word for files and colours."""
        return "slow_ranks"

    def factors(self, seats: Seats, seed: int, allocation: int) -> Floats:
        """[stages, tensor, data]: length of passes over their mean."""
        who = seats.node if self.per == "node" else seats.rank
        # GPUs and nodes have dice of their own: the same number is not the same luck.
        kind = _stream(self) + (128 if self.per == "gpu" else 0)
        return _drawn(self.share, self.factor, self.named, dice(seed, kind, allocation), who)[who]

    def __str__(self) -> str:
        who = f"{100 * self.share:.3g} % slow {self.per}s" if self.share else ""
        if self.named:
            named = f"slow {self.per} {', '.join(map(str, self.named))}"
            who = f"{who}, {named}" if who else named.capitalize()
        return f"{who}, x {self.factor}"


@dataclass(frozen=True)
class SlowLinks:
    """Adapters of some nodes are slow: what passes them between nodes takes longer.

    A message goes as its slower end, a reduction or gathering as the slowest node that has a part
    in it. Whole times are multiplied, latencies with them.

    Args:
        share: of the nodes, each by its own chance.
        factor: of the time of a transfer.
        named: nodes that are slow for sure.
        source: of the numbers.
        number: tells its dice from those of another of its kind.
    """

    share: float
    factor: Spread
    named: tuple[int, ...] = ()
    source: str = ASSUMED
    number: int = 0
    kind: ClassVar[int] = 3
    key: ClassVar[str] = "slow_links"

    def __post_init__(self) -> None:
        _check_share("slow links", self.share)
        _check_factor("slow links", self.factor)

    def factors(self, seats: Seats, seed: int, allocation: int) -> tuple[Floats, Floats]:
        """Of messages and of what a stage's replicas do together, as factors.

        Returns:
            [stages, data]: a message from each stage to the next, from the last to the first;
            [stages]: reduction of gradients, gathering of weights.
        """
        node = seats.node
        own = dice(seed, _stream(self), allocation)
        slow = _drawn(self.share, self.factor, self.named, own, node)[node]
        after, slow_after = np.roll(node, -1, axis=0), np.roll(slow, -1, axis=0)
        hops = np.where(node != after, np.maximum(slow, slow_after), 1.0).max(axis=1)
        # A group reduces over tensor rank t of all replicas; within one node it passes no adapter.
        across = (node != node[:, :, :1]).any(axis=2, keepdims=True)
        return hops, np.where(across, slow, 1.0).max(axis=(1, 2))

    def __str__(self) -> str:
        who = f"{100 * self.share:.3g} % of nodes with slow links" if self.share else ""
        if self.named:
            named = f"slow links of node {', '.join(map(str, self.named))}"
            who = f"{who}, {named}" if who else named.capitalize()
        return f"{who}, x {self.factor}"


@dataclass(frozen=True)
class Hiccups:
    """Now and then a rank stands still: a daemon, a page fault, a flow of its own.

    Args:
        per_hour: pauses of one rank in an hour; at most one in a step is simulated.
        seconds: how long one lasts.
        source: of the numbers.
        number: tells its dice from those of another of its kind.
    """

    per_hour: float
    seconds: Spread
    source: str = ASSUMED
    number: int = 0
    kind: ClassVar[int] = 4
    key: ClassVar[str] = "hiccups"

    def __post_init__(self) -> None:
        if not 0 <= self.per_hour < math.inf:
            raise DisturbanceError(f"hiccups: {self.per_hour:g} an hour; 0 or more")
        if min(self.seconds.points) < 0:
            raise DisturbanceError(f"hiccups of {self.seconds} s: 0 or longer")

    def drawn(
        self, seed: int, step: int, ranks: int, length: float
    ) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
        """Who pauses in a step of some seconds: ranks, when (as a share of the step), how long.

        Raises:
            DisturbanceError: pauses so frequent that a rank has several in a step.
        """
        expected = self.per_hour * length / 3600
        if expected > 0.2:
            raise DisturbanceError(
                f"hiccups: {self.per_hour:g} an hour are {expected:.2g} of each rank in a step of "
                f"{length:.3g} s; what is that frequent is jitter"
            )
        luck = dice(seed, _stream(self), step).random((ranks, 3))
        who = np.flatnonzero(luck[:, 0] < -math.expm1(-expected))
        return who, luck[who, 1], self.seconds.at(luck[who, 2])

    def __str__(self) -> str:
        return f"Pauses of {self.seconds} s, {self.per_hour:g} an hour and rank"


Disturbance = Jitter | SlowRanks | SlowLinks | Hiccups


def _stream(of: Disturbance) -> int:
    return of.kind << 8 | of.number


def _drawn(
    share: float,
    factor: Spread,
    named: tuple[int, ...],
    own: np.random.Generator,
    who: npt.NDArray[np.int64],
) -> Floats:
    """[numbers]: factor of each node or GPU by its number."""
    count = int(who.max()) + 1
    luck = own.random((count, 2))
    slow = luck[:, 0] < share
    for one in named:
        if not 0 <= one < count:
            raise DisturbanceError(f"number {one} is not one of {count} (from 0)")
        slow[one] = True
    return np.where(slow, factor.at(luck[:, 1]), 1.0)


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise DisturbanceError(f"{name}: a share of {share:g}; 0 to 1")


def _check_factor(name: str, factor: Spread) -> None:
    if not (factor.points and min(factor.points) >= 1):
        raise DisturbanceError(f"{name}: a factor of {factor}; 1 is as fast as the others")
