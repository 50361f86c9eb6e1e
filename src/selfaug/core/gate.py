"""Decides whether a measured difference stays within a bound: pass, fail, or inconclusive with what would decide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from selfaug.core.statistics import CONFIDENCE, FEWEST_ITEMS, Interval, Z, unseen_share

__all__ = ["GateResult", "Outcome", "at_least", "at_most", "overall"]

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class GateResult:
    """One bound and what became of it.

    Attributes:
        name: what is bounded.
        outcome: "pass" if the whole interval is on the right side of the bound, "fail" if it is wholly on the other
            side, else "inconclusive".
        value: the estimate with its 95 % interval, a share.
        bound: the limit, a share.
        sense: "at most" or "at least".
        items: measured items.
        items_needed: items with which an estimate like this one would be decided, if it is not; None if it is, or if
            it lies on the bound or is no number, where no number of items would do.
        at_stake: all that there was to lose, a share, where even that stays within the bound, so that nothing is
            decided; else None.
    """

    name: str
    outcome: Outcome
    value: Interval
    bound: float
    sense: Literal["at most", "at least"]
    items: int
    items_needed: int | None
    at_stake: float | None = None


def at_most(
    name: str, value: Interval, bound: float, items: int, *, at_stake: float | None = None
) -> GateResult:
    """Whether the value is at most the bound.

    Args:
        name: what is bounded.
        value: the estimate with its 95 % interval, a share.
        bound: the limit, a share.
        items: measured items.
        at_stake: of a loss, all that there is to lose: the score before. Where that is within the bound, nothing is
            decided, but for a bound of 1, which allows everything to whoever gives it.
    """
    if at_stake is not None and at_stake <= bound < 1:
        return GateResult(name, "inconclusive", value, bound, "at most", items, None, at_stake)
    outcome: Outcome = "pass" if value.high <= bound else "fail" if value.low > bound else "inconclusive"
    return GateResult(name, outcome, value, bound, "at most", items, _needed(outcome, value, bound, items))


def at_least(name: str, value: Interval, bound: float, items: int) -> GateResult:
    """Whether the value is at least the bound."""
    outcome: Outcome = "pass" if value.low >= bound else "fail" if value.high < bound else "inconclusive"
    return GateResult(name, outcome, value, bound, "at least", items, _needed(outcome, value, bound, items))


def overall(results: list[GateResult]) -> Outcome:
    """A gate fails if one bound fails, and passes only if all pass.

    Raises:
        ValueError: without any result.
    """
    if not results:
        raise ValueError("a gate without bounds decides nothing")
    outcomes = {result.outcome for result in results}
    return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"


def _needed(outcome: Outcome, value: Interval, bound: float, items: int) -> int | None:
    """An interval's width goes with one over the square root of the number of items.

    But where no item got worse (or better), that end is what so many items leave open, which goes with one over their
    number; until what resampling gives is farther.
    """
    above = value.value > bound
    distance = abs(value.value - bound)
    side = value.value - value.low if above else value.high - value.value
    if outcome != "inconclusive" or distance == 0 or not math.isfinite(side / distance):
        return None
    # As in `paired_difference`: so far the mean could move if all items of a share that none shows went this way.
    room = 1 + value.value if above else 1 - value.value
    # Fewer items leave both ends open, whichever way they went.
    if items < FEWEST_ITEMS or not math.isclose(side, unseen_share(items) * room, rel_tol=1e-9):
        return max(items + 1, math.ceil(items * (side / distance) ** 2))
    enough = math.log((1 - CONFIDENCE) / 2) / math.log1p(-distance / room)
    # All differences have one sign: they scatter by no more than if each were 0 or 1.
    scatter = abs(value.value) * (1 - abs(value.value))
    return max(items + 1, math.ceil(max(enough, scatter * (Z / distance) ** 2)))
