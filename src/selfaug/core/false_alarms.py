"""One budget of false alarms for all signals, and thresholds that keep it on traffic with seasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "MONTHLY_BUDGET",
    "MONTH_DAYS",
    "bootstrap_days",
    "budget_shares",
    "calibrated_threshold",
]

Floats = NDArray[np.float64]

MONTHLY_BUDGET = 0.05
"""Probability of at least one false alarm in a month, over all signals."""

MONTH_DAYS = 30
_DAY = 86_400.0
_SLOTS = 4
"""Parts of a day: the level of each, on each day, is drawn whole."""
_BLOCK = 50
"""Values within such a part that stay in their order."""

_MOST_DAYS, _MOST_VALUES = 10, 20_000


def budget_shares(main: str, others: Sequence[str], *, budget: float = MONTHLY_BUDGET) -> dict[str, float]:
    """What each signal may spend a month: the main one 3/5 of the budget, the others the rest in equal parts.

    They add up to the budget, which therefore holds however the signals depend on each other.
    """
    rest = budget * (2 / 5) / len(others) if others else 0.0
    return {main: budget * (3 / 5 if others else 1.0), **dict.fromkeys(others, rest)}


def bootstrap_days(
    times: ArrayLike, values: ArrayLike, days: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Values of so many days as they might have come.

    Each quarter of a day is drawn from the same quarter of one of the observed days (a seasonal block bootstrap;
    Politis, 2001), so that levels which go with the time of day or last for hours are kept, and within it the values
    are drawn in blocks of 50 (Künsch, 1989): whole quarters would bring back the same extremes again and again.
    The observed days themselves are drawn once before, block by block (a bootstrap predictive distribution; Harris,
    1989), because few days say only roughly what the levels of their quarters are, and a statistic that adds up what
    is over a level depends on these more than on anything else.

    Args:
        times: of the values, in seconds, ascending [N].
        values: [N].
        days: how many to draw.
        rng: source of the draws.

    Returns:
        The values in their new order; as many as the drawn quarters have.

    Raises:
        ValueError: without values, or if times and values differ in number.
    """
    at, of = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if at.size == 0 or at.shape != of.shape:
        raise ValueError(f"need a time for each value, and one at least; got {at.shape} and {of.shape}.")
    slots = ((at - at[0]) // (_DAY / _SLOTS)).astype(np.int64)
    # The last day counts if it was seen for more than half of its slots.
    seen = max(1, (int(slots[-1]) + _SLOTS // 2) // _SLOTS)
    bounds = np.searchsorted(slots, np.arange(seen * _SLOTS + 1))
    quarters = [of[_blocks(int(begin), int(end), rng)] for begin, end in pairwise(bounds)]
    drawn = rng.integers(0, seen, size=(days, _SLOTS)) * _SLOTS + np.arange(_SLOTS)
    return np.concatenate(
        [quarters[slot][_blocks(0, quarters[slot].size, rng)] for slot in drawn.reshape(-1)]
    )


def _blocks(begin: int, end: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """As many places from begin to end as there are, in blocks of neighbours."""
    size = end - begin
    length = min(_BLOCK, size)
    if length == 0:
        return np.empty(0, dtype=np.int64)
    starts = rng.integers(begin, end - length + 1, size=-(-size // length))
    return (starts[:, None] + np.arange(length)).reshape(-1)[:size]


def calibrated_threshold(
    times: ArrayLike,
    values: ArrayLike,
    statistic: Callable[[Floats], Floats],
    *,
    share: float,
    lowest: float,
    highest: float,
    seed: int = 0,
    series: int = 100,
) -> tuple[float, float]:
    """The threshold at which traffic like that observed alarms in a share of the months.

    The statistic's maximum over days drawn by `bootstrap_days` is computed many times. Maxima of such statistics over
    a long time follow Gumbel's distribution (Iglehart, 1972, for the cumulative sum), which is fitted by its moments
    and carried on to a month: maxima over r times as many values lie scale · ln r higher.

    Args:
        times: of the observed values, in seconds, ascending [N].
        values: [N], what the statistic takes.
        statistic: path of the statistic over a series, from its beginning.
        share: of months with a false alarm.
        lowest: the threshold for independent values; never less than this.
        highest: never more than this, so that traffic which is nothing like the reference alarms all the same.
        seed: of the draws.
        series: how many are drawn; each is of ten days, or of as many as have 20,000 values, and of one at the least.

    Returns:
        The threshold, and what it would be without the two bounds.
    """
    rng = np.random.default_rng(seed)
    maxima: list[float] = []
    at = np.asarray(times, dtype=np.float64)
    per_day = at.size / max(1.0, (at[-1] - at[0]) / _DAY)
    days = round(min(_MOST_DAYS, max(1.0, _MOST_VALUES / per_day)))
    for _ in range(series):
        drawn = bootstrap_days(at, values, days, rng)
        if drawn.size:
            maxima.append(float(statistic(drawn).max()))
    if not maxima:
        return lowest, lowest
    scale = float(np.std(maxima)) * math.sqrt(6) / math.pi
    mode = float(np.mean(maxima)) - np.euler_gamma * scale
    wanted = mode + scale * (math.log(MONTH_DAYS / days) - math.log(-math.log1p(-share)))
    return min(highest, max(lowest, wanted)), wanted
