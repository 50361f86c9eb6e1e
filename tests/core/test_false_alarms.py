from __future__ import annotations

import math

import numpy as np
import pytest

from selfaug.core.change_detection import CUSUM_THRESHOLD, Cusum
from selfaug.core.false_alarms import bootstrap_days, budget_shares, calibrated_threshold

DAY = 86_400.0


def test_the_budget_is_spent_once() -> None:
    shares = budget_shares("drift", ["novelty", "refusals"])
    assert sum(shares.values()) == pytest.approx(0.05)
    assert shares["drift"] == pytest.approx(0.03)
    assert budget_shares("drift", []) == {"drift": 0.05}


def test_quarters_of_a_day_keep_their_place_and_are_of_one_day() -> None:
    """Values that say their day and quarter: the second has 120 a day, the night none."""
    times, values = [], []
    for day in range(3):
        for slot, count in ((0, 1), (1, 120), (2, 1)):
            for number in range(count):
                times.append(day * DAY + slot * DAY / 4 + 60 * number)
                values.append(1000 * (3 * day + slot) + number)
    drawn = bootstrap_days(times, values, 200, np.random.default_rng(0)).astype(int).reshape(200, 122)
    groups = drawn // 1000
    assert (groups % 3 == [0] + [1] * 120 + [2]).all()
    assert (groups[:, 1:121] == groups[:, 1:2]).all()
    # Days are mixed, each comes about as often, and quarters of different days meet.
    assert np.bincount(groups[:, 1] // 3).min() > 40
    assert (groups[:, 0] // 3 != groups[:, 1] // 3).any()
    # Within a quarter: neighbours in blocks of 50, which begin anywhere; a block has one seam of the days' own blocks.
    steps = np.diff(drawn[:, 1:121], axis=1)
    assert (np.sum(steps != 1, axis=1) <= 2 + 3).all()
    assert len(np.unique(drawn[:, 1])) > 60
    assert not np.array_equal(drawn[0, 1:121] % 1000, np.arange(120))


def test_levels_are_as_uncertain_as_the_observed_values_leave_them() -> None:
    """However many days are drawn, their mean is no surer than that of three days of values."""
    values = np.random.default_rng(0).normal(size=3 * 1200)
    times = np.linspace(0, 3 * DAY, len(values), endpoint=False)
    means = [bootstrap_days(times, values, 60, np.random.default_rng(seed)).mean() for seed in range(200)]
    assert np.std(means) == pytest.approx(1 / math.sqrt(len(values)), rel=0.25)


def test_the_first_hours_of_a_last_day_do_not_count() -> None:
    times = np.arange(0, 2.3 * DAY, 3600.0)
    drawn = bootstrap_days(times, times, 50, np.random.default_rng(0))
    assert len(drawn) == 50 * 24
    assert drawn.max() < 2 * DAY


def _calibrated(values: np.ndarray, **more: float) -> tuple[float, float]:
    times = np.linspace(0, 3 * DAY, len(values), endpoint=False)
    arguments = {
        "share": 0.03,
        "lowest": CUSUM_THRESHOLD,
        "highest": 2 * CUSUM_THRESHOLD,
    }
    return calibrated_threshold(
        times, values, lambda series: Cusum(math.inf).advance(series), **{**arguments, **more}
    )


def test_half_of_a_last_day_does_not_count() -> None:
    times = [slot * DAY / 4 for slot in range(6)]
    drawn = bootstrap_days(times, [float(slot) for slot in range(6)], 50, np.random.default_rng(0))
    assert set(drawn.tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_independent_values_keep_the_threshold_about_where_it_is() -> None:
    wanted = [_calibrated(np.random.default_rng(seed).normal(size=14_400))[1] for seed in range(4)]
    assert 22 < np.mean(wanted) < 34


def test_seasons_raise_it_and_no_more_than_allowed() -> None:
    rng = np.random.default_rng(0)
    hours = np.linspace(0, 3 * 24, 14_400)
    seasonal = rng.normal(0.28 * np.sin(2 * np.pi * hours / 24), 1)
    threshold, _ = _calibrated(seasonal)
    assert 30 < threshold <= 56
    # Traffic that is above the slack all the time would need more than any bound.
    moved, wanted = _calibrated(rng.normal(0.5, 1, 14_400))
    assert moved == 56 < wanted


def test_calibrated_thresholds_keep_the_share_on_new_months_of_the_same_kind() -> None:
    """Autocorrelated values: at 28 most ten-day spans alarm, at the calibrated threshold next to none."""

    def traffic(seed: int, count: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=count)
        slow = np.repeat(rng.normal(0, 0.5, count // 50 + 1), 50)[:count]  # one topic for 50 prompts
        return (noise + slow) / math.sqrt(1.25)

    threshold, _ = _calibrated(traffic(0, 14_400), highest=500.0)
    maxima = [float(Cusum(math.inf).advance(traffic(seed, 48_000)).max()) for seed in range(1, 31)]
    assert np.mean(np.asarray(maxima) > CUSUM_THRESHOLD) > 0.5
    assert np.sum(np.asarray(maxima) > threshold) <= 3


def test_nothing_observed_is_refused() -> None:
    with pytest.raises(ValueError, match="got"):
        bootstrap_days([], [], 1, np.random.default_rng(0))
