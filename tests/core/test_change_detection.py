"""Detectors against naive twins, one value at a time, and their false alarms by simulation."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, mannwhitneyu, norm

from selfaug.core.change_detection import (
    CUSUM_THRESHOLD,
    ODDS_RATIOS,
    STEP,
    WINDOW,
    Cusum,
    RankWindow,
    RateDetector,
    critical_z,
    highest_rate,
    placements,
    population_stability_index,
    rate_threshold,
    tie_factor,
)

Detector = Cusum | RankWindow | RateDetector
Floats = NDArray[np.float64]


def naive_cusum(z: list[float], threshold: float) -> list[float]:
    value, path = 0.0, []
    for one in z:
        value = min(threshold, max(0.0, value + max(-4.0, min(4.0, one)) - 0.25))
        path.append(value)
    return path


def naive_rank_window(values: list[float], reference: list[float]) -> list[float]:
    """With scipy's own test at every comparison."""
    value, path = 0.0, []
    for count in range(1, len(values) + 1):
        if count % STEP == 0 and count >= WINDOW:
            found = mannwhitneyu(
                values[count - WINDOW : count],
                reference,
                alternative="two-sided",
                method="asymptotic",
                use_continuity=False,
            )
            value = float(norm.isf(found.pvalue / 2))
        path.append(value)
    return path


def naive_rate(events: list[int], rate: float, threshold: float) -> list[float]:
    """Without logarithms."""
    statistics = [0.0] * len(ODDS_RATIOS)
    path = []
    for event in events:
        for place, ratio in enumerate(ODDS_RATIOS):
            risen = ratio * rate / (1 - rate) / (1 + ratio * rate / (1 - rate))
            likelihood = risen / rate if event else (1 - risen) / (1 - rate)
            highest = math.exp(threshold) * len(ODDS_RATIOS)
            statistics[place] = min((statistics[place] + 1) * likelihood, highest)
        path.append(min(threshold, max(0.0, math.log(sum(statistics) / len(statistics)))))
    return path


@given(
    z=st.lists(st.floats(-9, 9), min_size=1, max_size=60),
    threshold=st.sampled_from([2.0, 28.0, math.inf]),
)
def test_cusum_is_the_loop(z: list[float], threshold: float) -> None:
    assert Cusum(threshold).advance(z) == pytest.approx(naive_cusum(z, threshold), abs=1e-9)


@given(
    events=st.lists(st.integers(0, 1), min_size=1, max_size=80),
    rate=st.sampled_from([0.001, 0.05, 0.6]),
    threshold=st.sampled_from([3.0, 40.0]),
)
def test_rate_detector_is_the_loop(events: list[int], rate: float, threshold: float) -> None:
    found = RateDetector(rate, threshold).advance(events)
    assert found == pytest.approx(naive_rate(events, rate, threshold), abs=1e-8)


def test_rank_window_is_scipys_test() -> None:
    rng = np.random.default_rng(0)
    reference = np.sort(rng.lognormal(size=300))
    values = rng.lognormal(0.4, size=333)
    detector = RankWindow(len(reference), tie_factor(reference), 5.0)
    path = detector.advance(placements(values, reference))
    assert path == pytest.approx(naive_rank_window(values.tolist(), reference.tolist()), abs=1e-6)
    assert path.max() > 2


def test_ties_are_those_of_scipy_where_both_sides_have_the_same() -> None:
    """The variance takes the reference's ties; with the same values in window and reference they are the same."""
    values = [float(value % 4) for value in range(WINDOW)]
    reference = sorted(values * 5)
    moved = [*values[4:], 3.0, 3.0, 3.0, 3.0]
    detector = RankWindow(len(reference), tie_factor(reference), 5.0)
    path = detector.advance(placements(moved, reference))
    assert path[-1] == pytest.approx(naive_rank_window(moved, reference)[-1], rel=0.01)
    untied = RankWindow(len(reference), 1.0, 5.0)
    assert untied.advance(placements(moved, reference))[-1] < 0.99 * path[-1]


def test_one_sided_window_sees_no_fall() -> None:
    reference = np.arange(200.0)
    low = placements(np.zeros(WINDOW), reference)
    assert RankWindow(200, 1.0, 5.0).advance(low)[-1] > 8
    assert RankWindow(200, 1.0, 5.0, two_sided=False).advance(low)[-1] == 0
    assert RankWindow(200, 1.0, 5.0, two_sided=False).advance(1 - low)[-1] > 8


def test_a_reference_without_any_spread_is_finite() -> None:
    reference = np.zeros(500)
    detector = RankWindow(500, tie_factor(reference), 5.0)
    assert detector.advance(placements(np.zeros(WINDOW), reference))[-1] == 0
    assert detector.advance(placements(np.ones(WINDOW), reference))[-1] > 20


@pytest.mark.parametrize("make", ["cusum", "window", "rate"])
@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 260), max_size=6), seed=st.integers(0, 99))
def test_splits_and_restarts_change_nothing(make: str, cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)

    def detector() -> Detector:
        if make == "cusum":
            return Cusum(5.0)
        return RankWindow(50, 0.9, 3.0) if make == "window" else RateDetector(0.1, 6.0)

    values: Floats = {
        "cusum": rng.normal(0.3, 1, 260),
        "window": rng.random(260),
        "rate": (rng.random(260) < 0.3).astype(float),
    }[make]
    whole = detector().advance(values)
    one, parts = detector(), []
    for part in np.split(values, sorted(cuts)):
        parts.append(one.advance(part))
        again = detector()
        again.resume(json.loads(json.dumps(one.state())))
        one = again
    assert np.concatenate(parts) == pytest.approx(whole, abs=1e-9)
    assert one.value == pytest.approx(whole[-1], abs=1e-9)


def test_one_prompt_never_alarms() -> None:
    """Whatever its drift: an alarm takes seven at the least."""
    path = Cusum().advance([1e9] * 20)
    assert (path < CUSUM_THRESHOLD).sum() == 7
    assert path[-1] == CUSUM_THRESHOLD


def test_after_an_alarm_the_sum_falls_as_soon_as_the_values_do() -> None:
    detector = Cusum()
    detector.advance(np.full(10_000, 2.0))
    assert detector.advance(np.zeros(57))[-1] < CUSUM_THRESHOLD / 2


def test_cusum_finds_a_rise_of_half_within_the_time_that_is_said() -> None:
    """Independent log-normal drift with sigma 0.8 against 1,000: a median of 107 prompts; here in 60 series."""
    waits = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        reference = rng.normal(0, 0.8, 1000)
        rise = (rng.normal(math.log(1.5), 0.8, 2000) - reference.mean()) / reference.std(ddof=1)
        waits.append(int((Cusum().advance(rise) >= CUSUM_THRESHOLD).argmax()))
    assert 85 < np.median(waits) < 130


@pytest.mark.parametrize(("slack_used", "rarely"), [(0.0, True), (0.3, False)])
def test_false_alarms_of_the_cusum_in_a_month(slack_used: float, rarely: bool) -> None:
    """20 months of 144,000 values: about one in 30 alarms; with a mean above the slack all do."""
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        reference = rng.normal(0, 0.8, 1000)
        month = (rng.normal(0.8 * slack_used, 0.8, 144_000) - reference.mean()) / reference.std(ddof=1)
        alarms += bool(Cusum(math.inf).advance(month).max() >= CUSUM_THRESHOLD)
    # With probability 0.03 a month, 4 or more of 20 come once in 400 times.
    assert binom.sf(3, 20, 0.03) < 0.003
    assert alarms <= 3 if rarely else alarms == 20


def test_false_alarms_of_a_rate_stay_within_their_share() -> None:
    """400 streams at a tenth of budget each: the bound is not crossed more often than chance allows."""
    share, length = 0.1, 2000
    threshold = rate_threshold(share, length)
    rng = np.random.default_rng(0)
    alarms = sum(
        bool(RateDetector(0.05, math.inf).advance(rng.random(length) < 0.05).max() >= threshold)
        for _ in range(400)
    )
    assert alarms <= binom.ppf(0.999, 400, share)
    risen = sum(
        bool(RateDetector(0.05, math.inf).advance(rng.random(length) < 0.15).max() >= threshold)
        for _ in range(20)
    )
    assert risen == 20


def test_a_rate_that_has_risen_comes_to_the_threshold_and_a_lower_one_leaves_it() -> None:
    detector = RateDetector(0.02, 12.0)
    assert detector.advance(np.tile([1, 0, 0, 0], 200)).max() == pytest.approx(12.0)
    assert detector.advance(np.zeros(700))[-1] < 6


def test_critical_z_holds_over_many_tests() -> None:
    z = critical_z(0.01, 5760, two_sided=True)
    assert 2 * norm.sf(z) * 5760 == pytest.approx(0.01)
    assert critical_z(0.01, 5760, two_sided=False) < z


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_highest_rate_leaves_the_events_one_chance_in_a_thousand(counts: tuple[int, int]) -> None:
    events, n = counts
    bound = highest_rate(events, n)
    assert events / n <= bound <= 1
    if events < n:
        assert binom.cdf(events, n, bound) == pytest.approx(0.001, rel=1e-6)


def test_psi_is_the_loop_and_fires_without_any_change() -> None:
    rng = np.random.default_rng(0)
    new, old = rng.normal(0.3, 1, 500), rng.normal(0, 1, 1000)
    edges = [-math.inf, *np.quantile(old, np.arange(1, 10) / 10), math.inf]
    total = 0.0
    for low, high in pairwise(edges):
        p = (((new >= low) & (new < high)).sum() + 0.5) / (len(new) + 5)
        q = (((old >= low) & (old < high)).sum() + 0.5) / (len(old) + 5)
        total += (p - q) * math.log(p / q)
    assert population_stability_index(new, old) == pytest.approx(total)
    same = [population_stability_index(rng.normal(size=200), rng.normal(size=200)) for _ in range(300)]
    assert 0.2 < np.mean(np.asarray(same) > 0.1) < 0.45  # why it never alerts
    larger = [population_stability_index(rng.normal(size=500), rng.normal(size=1000)) for _ in range(300)]
    assert np.mean(np.asarray(larger) > 0.1) < 0.01


def test_psi_of_values_that_are_all_equal() -> None:
    assert population_stability_index(np.ones(500), np.ones(1000)) < 0.001
    assert population_stability_index(np.zeros(500), np.ones(1000)) > 5


@pytest.mark.parametrize(
    "call",
    [
        lambda: critical_z(0, 10, two_sided=True),
        lambda: rate_threshold(0.1, 0),
        lambda: highest_rate(3, 2),
        lambda: RateDetector(0.0, 5.0),
        lambda: population_stability_index([], [1.0]),
    ],
)
def test_nonsense_is_refused(call) -> None:
    with pytest.raises(ValueError, match="got"):
        call()
