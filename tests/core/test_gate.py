from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from selfaug.core.gate import at_least, at_most, overall
from selfaug.core.statistics import Interval, paired_difference, unseen_share


@pytest.mark.parametrize(
    ("low", "high", "most", "least"),
    [
        (0.00, 0.05, "pass", "inconclusive"),  # the bound itself is within
        (0.05, 0.09, "inconclusive", "pass"),
        (0.06, 0.09, "fail", "pass"),
        (0.00, 0.04, "pass", "fail"),
        (0.01, 0.09, "inconclusive", "inconclusive"),
    ],
)
def test_outcomes(low: float, high: float, most: str, least: str) -> None:
    value = Interval((low + high) / 2, low, high)
    assert at_most("forgetting", value, 0.05, 100).outcome == most
    assert at_least("gain", value, 0.05, 100).outcome == least


def test_items_needed_do_decide() -> None:
    """The same scores, so many times over, have an interval that clears the bound; half as many have not."""
    scores = np.array([1.0] * 6 + [-1.0] * 4 + [0.0] * 50)
    base, tuned = (scores > 0).astype(float), (scores < 0).astype(float)

    def measure(count: int) -> Interval:
        repeated = np.resize(np.arange(60), count)
        return paired_difference(base[repeated], tuned[repeated], seed=0).difference

    result = at_most("forgetting", measure(60), 0.0, 60)
    assert result.outcome == "inconclusive"
    assert result.items_needed is not None
    whole = 60 * round(result.items_needed / 60 + 0.5)
    assert at_most("forgetting", measure(whole + 60), 0.0, whole).outcome == "fail"
    assert at_most("forgetting", measure(whole // 2), 0.0, whole).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("items", "better", "bound", "needed"),
    [
        (60, 0, 0.02, 183),  # equal answers: 1 - 0.025^(1/n) is at most 0.02 from 183 on
        (60, 2, 0.02, 70),
        (100, 1, 0.01, 185),
    ],
)
def test_items_needed_where_none_got_worse_go_with_one_over_their_number(
    items: int, better: int, bound: float, needed: int
) -> None:
    base = np.zeros(items)
    tuned = (np.arange(items) < better).astype(float)

    def lost(count: int) -> Interval:
        """Of so many items, if as large a share of them got better."""
        found = Interval(*(-end for end in astuple(paired_difference(tuned, base, seed=0).difference)))
        high = found.value + unseen_share(count) * (1 - found.value)
        return Interval(found.value, found.high, high)

    measured = paired_difference(base, tuned, seed=0).difference
    assert lost(items).high == pytest.approx(measured.high, rel=1e-12)
    result = at_most("forgetting", measured, bound, items)
    assert result.outcome == "inconclusive"
    assert result.items_needed == needed
    assert at_most("forgetting", lost(needed), bound, needed).outcome == "pass"
    assert at_most("forgetting", lost(needed - 1), bound, needed - 1).outcome == "inconclusive"
    # The same of a gain that is to be at least so large.
    gain = Interval(-measured.value, -measured.high, -measured.low)
    assert at_least("gain", gain, -bound, items).items_needed == needed


def test_items_needed_where_the_first_few_say_little() -> None:
    """Fewer than six items have both ends open; here they went both ways, so that more of them still scatter."""
    few = np.array([0.5, -0.5, 0.0, 0.0, 0.0])
    base, tuned = np.maximum(few, 0), np.maximum(-few, 0)
    needed = at_most(
        "forgetting", paired_difference(base, tuned, seed=0).difference, 0.02, len(few)
    ).items_needed
    assert needed is not None
    times = math.ceil(needed / len(few))
    many = paired_difference(np.tile(base, times), np.tile(tuned, times), seed=0).difference
    assert at_most("forgetting", many, 0.02, needed).outcome == "pass"


def test_items_needed_where_few_got_worse_and_none_better_are_enough_for_resampling_too() -> None:
    """What so many leave open is soon nearer than how those scatter that got worse."""
    base = np.ones(60)
    tuned = base.copy()
    tuned[0] = 0

    def measured(times: int) -> Interval:
        return paired_difference(np.tile(base, times), np.tile(tuned, times), seed=0).difference

    result = at_most("forgetting", measured(1), 0.008, 60)
    assert result.outcome == "inconclusive"
    assert result.items_needed is not None
    whole = math.ceil(result.items_needed / 60)
    assert at_most("forgetting", measured(whole), 0.008, 60 * whole).outcome == "fail"
    assert at_most("forgetting", measured(whole // 2), 0.008, 60 * (whole // 2)).outcome == "inconclusive"


def test_nothing_is_needed_where_it_is_decided_or_can_not_be() -> None:
    assert at_most("x", Interval(0.01, 0.0, 0.02), 0.05, 10).items_needed is None
    assert at_most("x", Interval(0.05, 0.0, 0.1), 0.05, 10).items_needed is None
    assert at_most("x", Interval(math.nan, math.nan, math.nan), 0.05, 10).items_needed is None
    assert at_least("x", Interval(0.0499999, 0.0499998, 0.1), 0.05, 10).items_needed is not None


def test_a_loss_of_all_that_is_at_stake_decides_nothing_where_it_is_within_the_bound() -> None:
    """A base model that is right on 5 of 212, of which the tuned one loses all."""
    base = np.zeros(212)
    base[:5] = 1
    lost = paired_difference(base, np.zeros(212), seed=0).difference
    assert at_most("forgetting", lost, 0.05, 212).outcome == "pass"
    result = at_most("forgetting", lost, 0.05, 212, at_stake=5 / 212)
    assert (result.outcome, result.at_stake, result.items_needed) == ("inconclusive", 5 / 212, None)
    assert at_most("forgetting", lost, 0.02, 212, at_stake=5 / 212).at_stake is None
    # Whoever allows everything is not asked again.
    assert at_most("forgetting", lost, 1.0, 212, at_stake=5 / 212).outcome == "pass"


def test_overall() -> None:
    good, bad, open_ = (at_most("x", Interval(v, v - 0.01, v + 0.01), 0.05, 10) for v in (0.01, 0.09, 0.049))
    assert [r.outcome for r in (good, bad, open_)] == ["pass", "fail", "inconclusive"]
    assert overall([good, good]) == "pass"
    assert overall([good, open_]) == "inconclusive"
    assert overall([good, open_, bad]) == "fail"
    with pytest.raises(ValueError, match="without bounds"):
        overall([])
