"""Does forgetting go with drift, and what does a drift let expect? Measured over runs of one base model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from selfaug.core.statistics import CONFIDENCE, Interval

__all__ = ["FEWEST_RUNS", "Forecast", "Run", "forecast_from", "forgetting_forecast"]

FEWEST_RUNS = 8
"""With fewer runs neither correlation nor forecast says anything."""

FORECAST_COVERAGE = 0.8
"""Share of new runs whose forgetting the forecast's interval is meant to hold."""


@dataclass(frozen=True)
class Run:
    """A tuned model: how far it moved, and what it forgot, item by item.

    Attributes:
        drift: nats per token.
        base: the base model's score on each item, [N].
        tuned: the tuned model's, [N].
        items: which items these are, as a name; runs with the same name and number have the same ones.
    """

    drift: float
    base: Sequence[float]
    tuned: Sequence[float]
    items: str = ""

    @property
    def forgetting(self) -> float:
        """Mean score lost."""
        return float(np.mean(self.base) - np.mean(self.tuned))


@dataclass(frozen=True)
class Forecast:
    """What runs say about forgetting and drift.

    Attributes:
        drifts: of the runs, rising, [R].
        forgettings: of the runs, in the same order, [R].
        correlation: Spearman's, with a 95 % interval over runs and items.
        coverage: share of the runs that the forecast from the other runs held.
    """

    drifts: tuple[float, ...]
    forgettings: tuple[float, ...]
    correlation: Interval
    coverage: float

    def at(self, drift: float) -> Interval:
        """Forgetting to expect at a drift, with the interval meant to hold 80 % of new runs.

        No drift is no forgetting: below the smallest measured drift the value goes straight from there to none, with
        an interval as wide as the runs scatter. Beyond the largest, that of the largest is given: a forecast does not
        extrapolate.
        """
        return _predict(np.asarray(self.drifts), np.asarray(self.forgettings), drift)


def forgetting_forecast(runs: Sequence[Run], *, seed: int, resamples: int = 2_000) -> Forecast:
    """Rank correlation of forgetting and drift, and a forecast.

    The forecast assumes that a model without drift, which is the base model, forgets nothing, and that more drift is
    no less forgetting; so it never lets expect a gain, only its interval does. It is isotonic regression through 0
    with the jackknife+ interval (Barber et al., 2021, arXiv 1905.02928), which holds at least 60 % of new runs
    whatever their distribution, and nearly always the 80 % that it is meant to.

    Args:
        runs: of one base model. Those of the same items have them resampled together.
        seed: makes the interval reproducible.
        resamples: bootstrap samples of runs and items.

    Raises:
        ValueError: with fewer than eight runs, or a run without items.
    """
    if len(runs) < FEWEST_RUNS:
        raise ValueError(f"need at least {FEWEST_RUNS} runs, got {len(runs)}.")
    if any(not run.base or len(run.base) != len(run.tuned) for run in runs):
        raise ValueError("every run needs scores of both models on the same items.")
    order = sorted(runs, key=lambda run: run.drift)
    drifts = np.asarray([run.drift for run in order])
    forgettings = np.asarray([run.forgetting for run in order])

    rng = np.random.default_rng(seed)
    asked = [(run.items, len(run.base)) for run in order]
    losses = [np.asarray(run.base) - np.asarray(run.tuned) for run in order]
    draws = []
    for _ in range(resamples):
        items = {which: rng.integers(0, which[1], which[1]) for which in sorted(set(asked))}
        chosen = rng.integers(0, len(order), len(order))
        means = np.asarray([losses[i][items[asked[i]]].mean() for i in chosen])
        draws.append(_spearman(drifts[chosen], means))
    low, high = np.nanquantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    # Resamples in which nothing differs have no correlation, and those with one can all lie on one side of it.
    value = _spearman(drifts, forgettings)
    correlation = Interval(value, min(float(low), value), max(float(high), value))
    return forecast_from(drifts.tolist(), forgettings.tolist(), correlation)


def forecast_from(drifts: Sequence[float], forgettings: Sequence[float], correlation: Interval) -> Forecast:
    """The forecast of runs that are known by their drift and forgetting, with its leave-one-out coverage.

    Args:
        drifts: of the runs, rising, [R].
        forgettings: of the runs, in the same order, [R].
        correlation: of the two.
    """
    x, y = np.asarray(drifts), np.asarray(forgettings)
    held = 0
    for index in range(len(x)):
        others = np.delete(np.arange(len(x)), index)
        interval = _predict(x[others], y[others], float(x[index]))
        held += interval.low <= y[index] <= interval.high
    return Forecast(tuple(drifts), tuple(forgettings), correlation, held / len(x))


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """NaN where one of them is the same everywhere."""
    ranks_a, ranks_b = (rankdata(values) - (len(values) + 1) / 2 for values in (a, b))
    norm = math.sqrt(float((ranks_a**2).sum() * (ranks_b**2).sum()))
    return float((ranks_a * ranks_b).sum()) / norm if norm > 0 else float("nan")


def _predict(drifts: NDArray[np.float64], forgettings: NDArray[np.float64], at: float) -> Interval:
    """Isotonic fit and jackknife+ interval at a drift; drifts rise."""
    n = len(drifts)
    low, high = np.empty(n), np.empty(n)
    for index in range(n):
        rest = np.delete(np.arange(n), index)
        own = _isotonic(drifts[rest], forgettings[rest], np.asarray([at, drifts[index]]))
        residual = abs(forgettings[index] - own[1])
        low[index], high[index] = own[0] - residual, own[0] + residual
    # The k-th smallest of n, as the jackknife+ has it; past the ends there is none, and the outermost must do.
    k_low = max(1, math.floor((1 - FORECAST_COVERAGE) * (n + 1) + 1e-9))
    k_high = min(n, math.ceil(FORECAST_COVERAGE * (n + 1) - 1e-9))
    value = float(_isotonic(drifts, forgettings, np.asarray([at]))[0])
    return Interval(
        value, min(value, float(np.sort(low)[k_low - 1])), max(value, float(np.sort(high)[k_high - 1]))
    )


def _isotonic(x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares among all rising functions through (0, 0); linear between it and the runs, level beyond them.

    A lower bound cuts the fit off where it is below.
    """
    # A function has one value at a drift, whatever the order of the runs that have it.
    places, index, counts = np.unique(np.maximum(x, 0.0), return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=y) / counts
    fit = np.maximum(isotonic_regression(means, weights=counts).x, 0.0)
    found: NDArray[np.float64] = np.interp(at, np.append(0.0, places), np.append(0.0, fit))
    return found
