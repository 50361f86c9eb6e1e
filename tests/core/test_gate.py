from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from selfaug.core.gate import GateResult, at_least, at_most, bound_on_retention, bound_on_score, overall
from selfaug.core.statistics import Interval, paired_difference, retention, score_interval


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


def test_items_needed_are_in_as_many_more_clusters() -> None:
    value = Interval(0.04, 0.0, 0.09)
    apart, together = (at_most("forgetting", value, 0.05, 120, clusters=clusters) for clusters in (None, 20))
    assert (apart.clusters, apart.clusters_needed) == (None, None)
    assert together.items_needed is not None
    assert together.clusters_needed is not None
    assert 6 * together.clusters_needed == together.items_needed
    # Fewer: with more clusters there is less that few of them don't show.
    assert apart.items_needed is not None
    assert 0.7 < together.items_needed / apart.items_needed < 1
    # More questions about the same document say nothing of others; nor do few documents say how many would do.
    for clusters in (1, 2, 3):
        few = at_most("loss", Interval(0.067, -0.186, 0.255), 0.15, 90, clusters=clusters)
        assert (few.outcome, few.items_needed, few.clusters_needed) == ("inconclusive", None, None)


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
    ("items", "better", "worse", "bound"),
    [
        (60, 0, 0, 0.02),  # equal answers: 1 - 0.025^(1/n) is at most 0.02 from 183 on
        (60, 2, 0, 0.02),
        (100, 1, 0, 0.01),
        (60, 0, 3, 0.008),  # more was lost, and none won
        (688, 65, 84, 0.06),
    ],
)
def test_items_needed_decide_and_not_many_fewer_do(items: int, better: int, worse: int, bound: float) -> None:
    """Of so many items, if as large shares of them got better and worse."""

    def lost(count: int) -> Interval:
        change = np.zeros(count)
        gained = round(better * count / items)
        change[:gained] = -1
        change[gained : gained + round(worse * count / items)] = 1
        return paired_difference(
            change.clip(min=0), (-change).clip(min=0), seed=0, resamples=40_000
        ).difference

    measured = lost(items)
    result = at_most("forgetting", measured, bound, items)
    assert result.outcome == "inconclusive"
    assert result.items_needed is not None
    decided = "fail" if measured.value > bound else "pass"
    assert at_most("forgetting", lost(math.ceil(1.15 * result.items_needed)), bound, items).outcome == decided
    few = math.floor(0.6 * result.items_needed)
    assert at_most("forgetting", lost(few), bound, items).outcome == "inconclusive"
    # The same of a gain that is to be at least so large.
    gain = Interval(-measured.value, -measured.high, -measured.low)
    assert at_least("gain", gain, -bound, items).items_needed == result.items_needed


@pytest.mark.parametrize(
    ("bound_on", "items", "both", "lost", "won", "bound", "decided"),
    [
        (bound_on_score, 40, 38, 0, 0, 0.85, "pass"),
        (bound_on_score, 60, 40, 4, 1, 0.78, "fail"),
        (bound_on_retention, 60, 40, 4, 1, 0.85, "pass"),
        (bound_on_retention, 60, 40, 4, 1, 0.98, "fail"),
        (bound_on_retention, 60, 30, 0, 0, 0.93, "pass"),  # all is kept
    ],
)
def test_scores_and_retention_are_decided_by_as_many_items_as_are_needed(
    bound_on: Callable[..., GateResult],
    items: int,
    both: int,
    lost: int,
    won: int,
    bound: float,
    decided: str,
) -> None:
    """Of so many items, which both models get right, or the base model alone, or the tuned one."""

    def of(count: int) -> GateResult:
        base, tuned = np.zeros(count), np.zeros(count)
        ends = np.cumsum([round(one * count / items) for one in (both, lost, won)])
        base[: ends[1]] = 1
        tuned[: ends[0]] = tuned[ends[1] : ends[2]] = 1
        kept = retention(tuned, base, seed=0)
        assert kept is not None
        suite = {
            "items": count,
            "base": {"value": base.mean()},
            "tuned": vars(score_interval(tuned, seed=0)),
            "retention": vars(kept),
            "difference": {"clusters": None},
        }
        return bound_on("measured", suite, bound)

    result = of(items)
    assert (result.outcome, result.unit) == ("inconclusive", "%")
    assert result.items_needed is not None
    assert of(math.ceil(1.15 * result.items_needed)).outcome == decided
    assert of(math.floor(0.6 * result.items_needed)).outcome == "inconclusive"


def test_nothing_is_kept_of_nothing() -> None:
    suite = {"items": 9, "base": {"value": 0.0}, "retention": None, "difference": {"clusters": None}}
    found = bound_on_retention("retention", suite, 0.9)
    assert (found.outcome, found.at_stake, found.items_needed) == ("inconclusive", None, None)
    assert math.isnan(found.value.value)


def test_items_needed_of_equal_answers_are_those_that_so_rare_a_loss_needs() -> None:
    needed = at_most("forgetting", paired_difference(np.ones(60), np.ones(60), seed=0).difference, 0.02, 60)
    assert needed.items_needed == pytest.approx(math.log(0.025) / math.log(0.98), rel=0.03)


def test_nothing_is_needed_where_it_is_decided_or_can_not_be() -> None:
    assert at_most("x", Interval(0.01, 0.0, 0.02), 0.05, 10).items_needed is None
    assert at_most("x", Interval(0.05, 0.0, 0.1), 0.05, 10).items_needed is None
    assert at_most("x", Interval(math.nan, math.nan, math.nan), 0.05, 10).items_needed is None
    assert at_least("x", Interval(0.0499999, 0.0499998, 0.1), 0.05, 10).items_needed is not None


def test_a_loss_of_all_that_is_at_stake_decides_nothing_where_it_is_within_the_bound() -> None:
    """A base model that is right on 3 of 212, of which the tuned one loses all."""
    base = np.zeros(212)
    base[:3] = 1
    lost = paired_difference(base, np.zeros(212), seed=0).difference
    assert at_most("forgetting", lost, 0.05, 212).outcome == "pass"
    result = at_most("forgetting", lost, 0.05, 212, at_stake=3 / 212)
    assert (result.outcome, result.at_stake, result.items_needed) == ("inconclusive", 3 / 212, None)
    assert at_most("forgetting", lost, 0.01, 212, at_stake=3 / 212).at_stake is None
    # Whoever allows everything is not asked again.
    assert at_most("forgetting", lost, 1.0, 212, at_stake=3 / 212).outcome == "pass"


def test_overall() -> None:
    good, bad, open_ = (at_most("x", Interval(v, v - 0.01, v + 0.01), 0.05, 10) for v in (0.01, 0.09, 0.049))
    assert [r.outcome for r in (good, bad, open_)] == ["pass", "fail", "inconclusive"]
    assert overall([good, good]) == "pass"
    assert overall([good, open_]) == "inconclusive"
    assert overall([good, open_, bad]) == "fail"
    with pytest.raises(ValueError, match="without bounds"):
        overall([])
