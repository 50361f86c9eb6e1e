"""Detectors of a change in a stream of values: which statistic, and where it alarms by default.

Each detector keeps its own small state and is given values in the order in which they came, few or many at once:
how they are split changes nothing. `advance` gives the statistic after each value.

- `Cusum`: one-sided cumulative sum (Page, 1954) of standardised values.
- `RankWindow`: Mann-Whitney test of the last values against a reference window.
- `RateDetector`: mixture of Shiryaev-Roberts e-detectors of a rate (Shin, Ramdas and Rinaldo, 2024: E-detectors, a
  nonparametric framework for sequential change detection, arXiv 2203.03532).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, norm

__all__ = [
    "CUSUM_SLACK",
    "CUSUM_THRESHOLD",
    "STEP",
    "WINDOW",
    "Cusum",
    "RankWindow",
    "RateDetector",
    "critical_z",
    "highest_rate",
    "placements",
    "population_stability_index",
    "rate_threshold",
    "tie_factor",
]

Floats = NDArray[np.float64]

CUSUM_SLACK = 0.25
CUSUM_THRESHOLD = 28.0
"""With independent normal values, 144,000 a month and a reference of 1,000, alarms in about 3 % of the months."""

Z_LIMIT = 4.0
"""Values beyond are taken for this, so that no alarm rests on fewer than `CUSUM_THRESHOLD` / `Z_LIMIT` prompts."""

WINDOW = 100
"""Values that are compared with the reference window at once."""
STEP = 25
"""After so many values they are compared anew."""

ODDS_RATIOS = (1.5, 2.0, 4.0, 8.0, 16.0)
"""Rises of a rate that are looked for; those between are found too, a little later."""


@dataclass
class Cusum:
    """S_t = min(threshold, max(0, S_{t-1} + z_t - slack)): it alarms at its threshold, and stays there.

    Attributes:
        threshold: where it alarms. Infinity never does.
        value: the sum so far.
    """

    threshold: float = CUSUM_THRESHOLD
    value: float = 0.0

    def advance(self, z: ArrayLike) -> Floats:
        """The sum after each value.

        Args:
            z: standardised values [N]; each is clipped to ±`Z_LIMIT`.
        """
        steps = np.clip(np.asarray(z, dtype=np.float64), -Z_LIMIT, Z_LIMIT) - CUSUM_SLACK
        if steps.size == 0:
            return steps
        walk = self.value + np.cumsum(steps)
        path = walk - np.minimum(0.0, np.minimum.accumulate(walk))
        if path.max() > self.threshold:  # a walk between two walls has no closed form
            value = self.value
            for place, step in enumerate(steps):
                value = min(self.threshold, max(0.0, value + step))
                path[place] = value
        self.value = float(path[-1])
        return path

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
        return {"value": self.value}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.value = float(state["value"])


def placements(values: ArrayLike, reference: ArrayLike) -> Floats:
    """Share of the reference below each value, equal ones counted half: [N] in [0, 1].

    Their sum over a window, times the size of the reference, is Mann and Whitney's U.

    Args:
        values: [N].
        reference: [M], sorted.
    """
    sorted_M = np.asarray(reference, dtype=np.float64)
    below = np.searchsorted(sorted_M, values, side="left")
    not_above = np.searchsorted(sorted_M, values, side="right")
    return np.asarray((below + not_above) / (2 * len(sorted_M)), dtype=np.float64)


def tie_factor(reference: ArrayLike) -> float:
    """By what ties reduce the variance of U: 1 - Σ(t³ - t)/(M³ - M) over groups of t equal values of M.

    At least 3/M: where all of M values are equal, up to 3/M of them may differ unseen.
    """
    _, counts = np.unique(np.asarray(reference, dtype=np.float64), return_counts=True)
    size = float(counts.sum())
    if size < 2:
        return 1.0
    counts = counts.astype(np.float64)
    return float(max(1 - ((counts**3 - counts).sum()) / (size**3 - size), min(1.0, 3 / size)))


def critical_z(share: float, tests: float, *, two_sided: bool) -> float:
    """The normal quantile at which `tests` tests alarm falsely with probability `share` at most (Bonferroni).

    The tests may depend on each other in any way.

    Raises:
        ValueError: unless 0 < share < 1 and tests >= 1.
    """
    if not 0 < share < 1 or tests < 1:
        raise ValueError(f"need 0 < share < 1 and tests >= 1, got share={share}, tests={tests}.")
    return float(norm.isf(share / tests / (2 if two_sided else 1)))


@dataclass
class RankWindow:
    """Mann-Whitney z of the last `WINDOW` values against a reference window, anew after each `STEP` values.

    The variance is that under equal distributions, with the ties of the reference. Before `WINDOW` values have come
    the statistic is 0.

    Attributes:
        reference: size of the reference window.
        ties: its `tie_factor`.
        threshold: where it alarms.
        two_sided: whether lower values alarm too.
        recent: placements of the last values.
        since: values since the last comparison.
        value: the statistic at the last comparison.
    """

    reference: int
    ties: float
    threshold: float
    two_sided: bool = True
    recent: Floats = field(default_factory=lambda: np.empty(0))
    since: int = 0
    value: float = 0.0

    def advance(self, placed: ArrayLike) -> Floats:
        """The statistic after each value.

        Args:
            placed: `placements` of the values [N].
        """
        new = np.asarray(placed, dtype=np.float64)
        if new.size == 0:
            return new
        everything = np.concatenate([self.recent, new])
        begin = len(self.recent)
        path = np.empty(new.size)
        # Values before the first comparison keep the last statistic.
        first = STEP - self.since
        ends = np.arange(first, new.size + 1, STEP)
        sums = np.concatenate([[0.0], np.cumsum(everything)])
        scale = math.sqrt((self.reference + WINDOW + 1) / (12 * self.reference * WINDOW) * self.ties)
        upto = begin + ends
        full = upto >= WINDOW
        means = (sums[upto] - sums[np.maximum(upto - WINDOW, 0)]) / WINDOW
        found = np.where(full, (means - 0.5) / scale, 0.0)
        found = np.abs(found) if self.two_sided else np.maximum(found, 0.0)
        path[: first - 1] = self.value
        for end, value in zip(ends, found, strict=True):
            path[end - 1 : end - 1 + STEP] = value
        self.since = (self.since + new.size) % STEP
        self.recent = everything[-WINDOW:]
        self.value = float(path[-1])
        return path

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
        return {"value": self.value, "since": self.since, "recent": self.recent.tolist()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.value, self.since = float(state["value"]), int(state["since"])
        self.recent = np.asarray(state["recent"], dtype=np.float64)


def highest_rate(events: int, n: int, confidence: float = 0.999) -> float:
    """Upper one-sided bound of a rate (Clopper and Pearson, 1934).

    Raises:
        ValueError: unless 0 <= events <= n and n > 0.
    """
    if n <= 0 or not 0 <= events <= n:
        raise ValueError(f"need 0 <= events <= n and n > 0, got events={events}, n={n}.")
    return 1.0 if events == n else float(beta.ppf(confidence, events + 1, n - events))


def rate_threshold(share: float, observations: float) -> float:
    """Where `RateDetector` alarms falsely within so many observations with probability `share` at most.

    Its statistic's expectation grows by at most 1 an observation, so that by Doob's inequality it exceeds
    observations / share with probability `share` at most; this is its logarithm.

    Raises:
        ValueError: unless 0 < share < 1 and observations >= 1.
    """
    if not 0 < share < 1 or observations < 1:
        raise ValueError(
            f"need 0 < share < 1 and observations >= 1, got share={share}, observations={observations}."
        )
    return math.log(observations / share)


@dataclass
class RateDetector:
    """Whether a rate has risen above its reference rate: log of the mean over rises of R_t = (R_{t-1} + 1) · L_t.

    L_t is the likelihood ratio of the t-th observation under the risen and under the reference rate; the rises are
    `ODDS_RATIOS`. Under any rate up to the reference rate R_t - t is a supermartingale, which holds for all lengths of
    the stream: no number of observations needs to be fixed beforehand.

    Attributes:
        rate: the reference rate, in (0, 1).
        threshold: log of the statistic at which it alarms, and where it stays.
        logs: log R_t of each rise.
    """

    rate: float
    threshold: float
    logs: Floats = field(default_factory=lambda: np.full(len(ODDS_RATIOS), -np.inf))

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"a reference rate is between 0 and 1, got {self.rate}.")
        odds = np.asarray(ODDS_RATIOS) * self.rate / (1 - self.rate)
        risen = odds / (1 + odds)
        # Of each rise, where it did not happen and where it did: [R, 2].
        self._log_ratio = np.stack(
            [np.log1p(-risen) - math.log1p(-self.rate), np.log(risen) - math.log(self.rate)], axis=1
        )

    @property
    def value(self) -> float:
        """The statistic, 0 at its lowest."""
        return float(self._mixed(self.logs))

    def advance(self, events: ArrayLike) -> Floats:
        """The statistic after each observation.

        Args:
            events: [N], 1 where it happened and 0 where not.
        """
        happened = np.asarray(events, dtype=np.int64)
        if happened.size == 0:
            return np.empty(0)
        steps_RN = self._log_ratio[:, happened]
        sums_RN = np.cumsum(steps_RN, axis=1)
        # log R_t = C_t + log(R_0 + Σ_{s<=t} exp(-C_{s-1})), with C the sums of the log ratios.
        started_RN = -np.concatenate([np.zeros((len(ODDS_RATIOS), 1)), sums_RN[:, :-1]], axis=1)
        started_RN[:, 0] = np.logaddexp(self.logs, 0.0)
        path_RN = sums_RN + np.logaddexp.accumulate(started_RN, axis=1)
        # One rise alone can bring the mean to the threshold, and none can go further.
        highest = self.threshold + math.log(len(ODDS_RATIOS))
        if path_RN.max() > highest:
            logs = self.logs
            for place in range(happened.size):
                logs = np.minimum(np.logaddexp(logs, 0.0) + steps_RN[:, place], highest)
                path_RN[:, place] = logs
        self.logs = path_RN[:, -1].copy()
        return np.asarray(self._mixed(path_RN), dtype=np.float64)

    def _mixed(self, logs: Floats) -> Any:
        mean = np.logaddexp.reduce(logs, axis=0) - math.log(len(ODDS_RATIOS))
        return np.clip(mean, 0.0, self.threshold)

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
        return {"logs": [None if value == -np.inf else value for value in self.logs.tolist()]}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.logs = np.asarray([-np.inf if value is None else value for value in state["logs"]])


def population_stability_index(values: ArrayLike, reference: ArrayLike, *, bins: int = 10) -> float:
    """Σ (p - q) · ln(p / q) over bins with equal shares of the reference; half a value is added to each bin.

    To be shown and not to alert on: without any change 200 values against 200 exceed 0.1 in a third of the cases.

    Args:
        values: [N].
        reference: [M].
        bins: how many; equal quantiles make one bin.

    Raises:
        ValueError: if one of them is empty.
    """
    new, old = (np.asarray(part, dtype=np.float64) for part in (values, reference))
    if new.size == 0 or old.size == 0:
        raise ValueError(f"need values and a reference, got {new.size} and {old.size}.")
    edges = np.unique(np.quantile(old, np.arange(1, bins) / bins))
    shares = []
    for part in (new, old):
        counts = np.bincount(np.searchsorted(edges, part, side="right"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())
