"""Forecast of forgetting: against brute force, and its coverage where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from selfaug.core.forecast import FEWEST_RUNS, Run, forecast_from, forgetting_forecast
from selfaug.core.statistics import Interval


def runs_of(rng: np.random.Generator, count: int, items: int = 100, strength: float = 0.5) -> list[Run]:
    """Drifts from 0.003 to 1; each item is lost with a probability that rises with drift and saturates."""
    found = []
    base = (rng.random(items) < 0.6).astype(float)
    for drift in 10 ** rng.uniform(-2.5, 0, count):
        lost = rng.random(items) < strength * drift / (drift + 0.1)
        found.append(Run(float(drift), base.tolist(), np.where(lost, 0, base).tolist()))
    return found


def test_correlation_is_spearmans_and_its_interval_covers_it() -> None:
    runs = runs_of(np.random.default_rng(0), 14)
    found = forgetting_forecast(runs, seed=0)
    expected = spearmanr([run.drift for run in runs], [run.forgetting for run in runs]).statistic
    assert found.correlation.value == pytest.approx(expected)
    assert 0 < found.correlation.low <= found.correlation.value <= found.correlation.high <= 1
    assert list(found.drifts) == sorted(found.drifts)
    again = forgetting_forecast(runs[::-1], seed=0)
    assert again.drifts == found.drifts
    assert again.correlation.value == pytest.approx(expected)


def test_the_correlations_interval_holds_it_where_many_resamples_have_none() -> None:
    # One run of eight has lost something: resamples without it are all equal, and have no correlation.
    whole = [1.0, 0.0] * 6
    runs = [Run(0.01 * place, whole, whole if place < 7 else [0.0] * 12) for place in range(8)]
    found = forgetting_forecast(runs, seed=0, resamples=200).correlation
    assert found.low <= found.value <= found.high


def test_forgetting_that_has_nothing_to_do_with_drift_is_seen_as_such() -> None:
    rng = np.random.default_rng(1)
    runs = [
        Run(float(drift), [1.0] * 60, (rng.random(60) < 0.7).astype(float).tolist())
        for drift in 10 ** rng.uniform(-2.5, 0, 16)
    ]
    found = forgetting_forecast(runs, seed=0)
    assert found.correlation.low < 0 < found.correlation.high


def test_forecast_rises_and_does_not_extrapolate() -> None:
    found = forgetting_forecast(runs_of(np.random.default_rng(2), 12), seed=0, resamples=50)
    at = [found.at(drift).value for drift in (0.0, 0.01, 0.05, 0.2, 1.0, 50.0)]
    assert at == sorted(at)
    assert found.at(50.0) == found.at(max(found.drifts))
    interval = found.at(0.05)
    assert interval.low <= interval.value <= interval.high


def test_no_drift_is_no_forgetting_and_below_what_was_measured_it_is_on_the_way_there() -> None:
    rng = np.random.default_rng(6)
    # Small drifts that by chance gained: a forecast of a gain at no drift at all would be nonsense.
    losses = [-0.04, -0.01, 0.03, 0.02, 0.1, 0.2, 0.35, 0.3]
    runs = []
    for drift, loss in zip((0.015, 0.02, 0.03, 0.05, 0.1, 0.3, 0.6, 1.0), losses, strict=True):
        base = (rng.random(100) < 0.6).astype(float)
        tuned = base.copy()
        changed = np.flatnonzero(base == (loss > 0))[: round(abs(loss) * 100)]
        tuned[changed] = float(loss < 0)
        runs.append(Run(drift, base.tolist(), tuned.tolist()))
    found = forgetting_forecast(runs, seed=0, resamples=2)
    assert found.forgettings == pytest.approx(losses)
    assert found.at(0.0).value == 0.0
    assert found.at(0.015).value == 0.0  # the fit is cut off where it is below
    assert found.at(0.01).low < 0 < found.at(0.01).high
    assert found.at(0.04).value == pytest.approx(0.025 * 1.0)
    # Where the smallest drift did forget, half of it lets expect half.
    rising = forgetting_forecast(
        [Run(run.drift, run.base, run.tuned) for run in runs if run.forgetting > 0]
        + [Run(drift, [1.0] * 10, [0.0] * 5 + [1.0] * 5) for drift in (1.1, 1.2)],
        seed=0,
        resamples=2,
    )
    assert rising.at(0.03).value == pytest.approx(0.025)
    assert rising.at(0.015).value == pytest.approx(0.0125)


def test_interval_is_the_jackknife_written_out() -> None:
    found = forgetting_forecast(runs_of(np.random.default_rng(3), 9), seed=0, resamples=10)
    x, y = np.asarray(found.drifts), np.asarray(found.forgettings)

    def isotonic(xs: np.ndarray, ys: np.ndarray, at: float) -> float:
        # max over starts of the min over ends of the mean between them
        fit = [
            max(
                min(ys[start : end + 1].mean() for end in range(place, len(ys))) for start in range(place + 1)
            )
            for place in range(len(ys))
        ]
        # through (0, 0), and so never below it
        return float(np.interp(at, [0.0, *xs], [0.0, *(max(0.0, value) for value in fit)]))

    low, high = [], []
    for i in range(9):
        rest = np.arange(9) != i
        residual = abs(y[i] - isotonic(x[rest], y[rest], x[i]))
        low.append(isotonic(x[rest], y[rest], 0.05) - residual)
        high.append(isotonic(x[rest], y[rest], 0.05) + residual)
    interval = found.at(0.05)
    assert interval.value == pytest.approx(isotonic(x, y, 0.05))
    assert interval.low == pytest.approx(sorted(low)[1])  # floor(0.2 · 10) = 2nd smallest
    assert interval.high == pytest.approx(sorted(high)[7])  # ceil(0.8 · 10) = 8th smallest


def test_runs_of_one_drift_have_one_fit_whatever_their_order() -> None:
    drifts = [0.01, 0.02, 0.02, 0.02, 0.03, 0.04, 0.05, 0.06]
    forgettings = [0.0, 0.01, 0.05, 0.03, 0.08, 0.1, 0.12, 0.14]
    unknown = Interval(0.0, -1.0, 1.0)
    found = forecast_from(drifts, forgettings, unknown)
    # Their mean: the least squares of one value for all three.
    assert found.at(0.02).value == pytest.approx(0.03)
    other = [forgettings[place] for place in (0, 3, 2, 1, 4, 5, 6, 7)]
    again = forecast_from(drifts, other, unknown)
    for drift in (0.015, 0.02, 0.025, 0.06):
        one, two = (forecast.at(drift) for forecast in (found, again))
        assert (two.value, two.low, two.high) == pytest.approx((one.value, one.low, one.high))
    assert again.coverage == found.coverage


def test_it_holds_new_runs_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    held, claimed = [], []
    for _ in range(60):
        *known, new = runs_of(rng, 13)
        found = forgetting_forecast(known, seed=0, resamples=2)
        interval = found.at(new.drift)
        held.append(interval.low <= new.forgetting <= interval.high)
        claimed.append(found.coverage)
    assert 0.68 < np.mean(held) < 0.95
    assert abs(np.mean(claimed) - np.mean(held)) < 0.15


def test_items_are_resampled_together_only_where_they_are_the_same() -> None:
    """Halves of the suite have as many items: item 3 of one has nothing to do with item 3 of the other."""

    def runs(half: str, drifts: tuple[float, ...], lost: int) -> list[Run]:
        return [Run(drift, [1.0] * 100, [0.0] * lost + [1.0] * (100 - lost), half) for drift in drifts]

    dev = runs("dev", (0.01, 0.02, 0.03, 0.04), 50)
    # On the very same items the second ones never lose less, whichever are drawn.
    same = forgetting_forecast([*dev, *runs("dev", (0.1, 0.2, 0.3, 0.4), 51)], seed=0, resamples=400)
    assert same.correlation.low > 0
    other = forgetting_forecast([*dev, *runs("test", (0.1, 0.2, 0.3, 0.4), 51)], seed=0, resamples=400)
    assert other.correlation.value == same.correlation.value
    assert other.correlation.low < 0


def test_too_few_runs_are_refused() -> None:
    runs = runs_of(np.random.default_rng(5), FEWEST_RUNS)
    forgetting_forecast(runs, seed=0, resamples=2)
    with pytest.raises(ValueError, match="at least 8"):
        forgetting_forecast(runs[1:], seed=0)
    with pytest.raises(ValueError, match="same items"):
        forgetting_forecast([*runs, Run(0.1, [], [])], seed=0)
