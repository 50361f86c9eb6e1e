"""Decides whether a measured difference stays within a bound: pass, fail, or inconclusive with what would decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scipy.special import gammaincinv

from selfaug.core.statistics import CONFIDENCE, Interval, cluster_stretch

__all__ = [
    "OLD_TASK",
    "GateResult",
    "Outcome",
    "Room",
    "Unit",
    "at_least",
    "at_most",
    "bound_on_gain",
    "bound_on_loss",
    "bound_on_retention",
    "bound_on_score",
    "named_loss",
    "named_old_sources",
    "overall",
]

Outcome = Literal["pass", "fail", "inconclusive"]

OLD_TASK = "old task"
"""Of a re-alignment: what the deployed model was trained for."""

Unit = Literal["points", "%"]

_MANY = 5

_FEWEST_CLUSTERS = 4
"""Of fewer, how much they differ from each other is hardly known, and so how many of them would decide."""


@dataclass(frozen=True)
class GateResult:
    """One bound and what became of it.

    Attributes:
        name: what is bounded.
        outcome: "pass" if the whole interval is on the right side of the bound, "fail" if it is wholly on the other
            side, else "inconclusive".
        value: the estimate with its 95 % interval, a share; NaN where there is none, which is inconclusive.
        bound: the limit, a share.
        sense: "at most" or "at least".
        items: measured items.
        items_needed: items with which an estimate like this one would be decided, if it is not; None if it is, or if
            it lies on the bound or is no number, where no number of items would do; nor would more items of
            the same one to three clusters, and how many more clusters would isn't known from so few.
        at_stake: all that there was to lose, a share, where even that stays within the bound, so that nothing is
            decided; else None.
        clusters: of the measured items, by which the interval goes; None where none share one.
        clusters_needed: that so many items as are needed are in, as many in each as were measured.
        unit: "points" of a difference of shares, "%" of a share.
    """

    name: str
    outcome: Outcome
    value: Interval
    bound: float
    sense: Literal["at most", "at least"]
    items: int
    items_needed: int | None
    at_stake: float | None = None
    clusters: int | None = None
    clusters_needed: int | None = None
    unit: Unit = "points"


@dataclass(frozen=True)
class Room:
    """How far one more item would move a value, times their number.

    Attributes:
        down: the item that moves it furthest down.
        up: the same, up.
        stretched: whether its interval is wider where there are few clusters, by `cluster_stretch`.
    """

    down: float
    up: float
    stretched: bool = True


def at_most(
    name: str,
    value: Interval,
    bound: float,
    items: int,
    *,
    at_stake: float | None = None,
    clusters: int | None = None,
) -> GateResult:
    """Whether the value is at most the bound.

    Args:
        name: what is bounded.
        value: the estimate with its 95 % interval, a share.
        bound: the limit, a share.
        items: measured items.
        at_stake: of a loss, all that there is to lose: the score before. Where that is within the bound, nothing is
            decided, but for a bound of 1, which allows everything to whoever gives it.
        clusters: of the items, by which the interval goes; None where none share one.
    """
    if at_stake is not None and at_stake <= bound < 1:
        return GateResult(name, "inconclusive", value, bound, "at most", items, None, at_stake, clusters)
    outcome: Outcome = "pass" if value.high <= bound else "fail" if value.low > bound else "inconclusive"
    needed = _needed(outcome, value, bound, items, clusters)
    return GateResult(name, outcome, value, bound, "at most", items, needed[0], None, clusters, needed[1])


def at_least(
    name: str,
    value: Interval,
    bound: float,
    items: int,
    *,
    clusters: int | None = None,
    room: Room | None = None,
    unit: Unit = "points",
) -> GateResult:
    """Whether the value is at least the bound.

    Args:
        name, value, bound, items, clusters: as of `at_most`.
        room: by which the items that would decide are known; of a difference of means by default.
        unit: in which it is shown.
    """
    outcome: Outcome = "pass" if value.low >= bound else "fail" if value.high < bound else "inconclusive"
    needed = _needed(outcome, value, bound, items, clusters, room)
    return GateResult(
        name, outcome, value, bound, "at least", items, needed[0], None, clusters, needed[1], unit
    )


def bound_on_loss(name: str, gained: Mapping[str, Any], most: float, at_stake: float) -> GateResult:
    """Whether a score loses at most so much.

    Args:
        name: what is bounded.
        gained: fields of a `PairedDifference`, as a record has them: the score minus the one before.
        most: the limit, a share.
        at_stake: the score before, a share: more it can't lose.
    """
    gain = Interval(**gained["difference"])
    lost = Interval(-gain.value, -gain.high, -gain.low)
    return at_most(name, lost, most, gained["items"], at_stake=at_stake, clusters=gained["clusters"])


def bound_on_gain(name: str, gained: Mapping[str, Any], least: float) -> GateResult:
    """Whether a score gains at least so much; arguments as of `bound_on_loss`."""
    gain = Interval(**gained["difference"])
    return at_least(name, gain, least, gained["items"], clusters=gained["clusters"])


def bound_on_score(name: str, suite: Mapping[str, Any], least: float) -> GateResult:
    """Whether the tuned model's score is at least so much.

    Args:
        name: what is bounded.
        suite: scores of both models on the same items, as a record has them.
        least: the limit, a share.
    """
    score = Interval(**suite["tuned"])
    room = Room(score.value, 1 - score.value)
    clusters = suite["difference"]["clusters"]
    return at_least(name, score, least, suite["items"], clusters=clusters, room=room, unit="%")


def bound_on_retention(name: str, suite: Mapping[str, Any], least: float) -> GateResult:
    """Whether the tuned model's score is at least such a share of the base model's; arguments as of `bound_on_score`.

    Inconclusive where the base model scores nothing, of which no share is kept or lost.
    """
    clusters, base = suite["difference"]["clusters"], suite["base"]["value"]
    if suite["retention"] is None:
        none = Interval(math.nan, math.nan, math.nan)
        return GateResult(
            name, "inconclusive", none, least, "at least", suite["items"], None, None, clusters, unit="%"
        )
    kept = Interval(**suite["retention"])
    # One that the base model alone gets right, and one that the tuned one alone does: see `retention`.
    room = Room(kept.value / base, 1 / base, stretched=False)
    return at_least(name, kept, least, suite["items"], clusters=clusters, room=room, unit="%")


def named_loss(name: str) -> str:
    """What the bound on what a suite's score loses is called."""
    return f"loss, {name}"


def named_old_sources(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of a re-alignment's old rows by what their source is called among the suites, and among the bounds.

    Args:
        scores: by source, as its record has them.
    """
    return {f"{OLD_TASK}: {source}": of_source for source, of_source in scores.items()}


def overall(results: list[GateResult]) -> Outcome:
    """A gate fails if one bound fails, and passes only if all pass.

    Raises:
        ValueError: without any result.
    """
    if not results:
        raise ValueError("a gate without bounds decides nothing")
    outcomes = {result.outcome for result in results}
    return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"


def _needed(
    outcome: Outcome,
    value: Interval,
    bound: float,
    items: int,
    clusters: int | None,
    room: Room | None = None,
) -> tuple[int | None, int | None]:
    """Items with which an end of the interval would lie on the bound, if shares stayed as they are, and their clusters.

    An end lies as far from the estimate as if a number of items of a kind had been seen, a Poisson variable: none of
    them, where what was not seen is all that moves it, and the more, the more what was seen scatters.
    """
    above = value.value > bound
    distance = abs(value.value - bound)
    side = value.value - value.low if above else value.high - value.value
    if outcome != "inconclusive" or distance == 0 or not math.isfinite(side / distance):
        return None, None
    if clusters is not None and clusters < _FEWEST_CLUSTERS:
        return None, None
    room = room or Room(1 + value.value, 1 - value.value)  # of a difference of means
    moved = room.down if above else room.up
    if clusters is None:
        return max(items + 1, math.ceil(items * _times(side, distance, moved, items))), None
    # The more clusters there are, the less their interval is stretched.
    few, enough = clusters, clusters + math.ceil(clusters * _times(side, distance, moved, items))
    while enough - few > 1:
        some = (few + enough) // 2
        narrower = side
        if room.stretched:
            narrower *= cluster_stretch(some) / cluster_stretch(clusters)
        decided = clusters * _times(narrower, distance, moved, items) <= some
        few, enough = (few, some) if decided else (some, enough)
    return math.ceil(items * enough / clusters), enough


def _times(side: float, distance: float, room: float, items: int) -> float:
    """How many times as many items would do, where an end lies so far from the estimate."""
    seen = _inverse(lambda count: _beyond(count) - side * items / room)
    times = _inverse(lambda share: share * items * distance / room - _beyond(share * seen))
    if seen > _MANY:  # where some got better and some worse, such ends scatter as a normal variable does
        times = max(times, ((side - room / items) / distance) ** 2)
    return times


def _beyond(seen: float) -> float:
    """How many more of a kind than were seen there can be in the mean, at the level of the intervals (Poisson)."""
    return float(gammaincinv(seen + 1, (1 + CONFIDENCE) / 2)) - seen


def _inverse(increasing: Callable[[float], float]) -> float:
    """Where a function that increases from 0 on is 0; 0 where it is above from the beginning."""
    if increasing(0.0) >= 0:
        return 0.0
    below, above = 0.0, 1.0
    while increasing(above) < 0:
        below, above = above, 2 * above
    for _ in range(50):
        middle = (below + above) / 2
        below, above = (middle, above) if increasing(middle) < 0 else (below, middle)
    return above
