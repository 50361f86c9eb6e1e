"""Uncertainty of scores: intervals and paired differences, of items on their own and in clusters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

__all__ = [
    "Interval",
    "PairedDifference",
    "cluster_correlation",
    "cluster_stretch",
    "design_effect",
    "expected_design_effect",
    "holm",
    "mean_interval",
    "paired_difference",
    "pooled_difference",
    "pooled_interval",
    "retention",
    "score_interval",
    "wilson_interval",
]

CONFIDENCE = 0.95

Z = float(ndtri(0.5 + CONFIDENCE / 2))
"""Standard deviations from the middle to an end of such an interval, of a normal distribution."""

ASSUMED_CORRELATION = 0.1
"""Of two items of a cluster, at least, for what nobody has seen: where few items differ, nothing shows more."""

# With five items, all of them worse, an exact test still has p = 2 · 0.5⁵ > 0.05.
FEWEST_ITEMS = 6

# Sums of the same differences in another order are equal up to this.
_ROUNDING = 1e-12

# Numbers that are drawn at once, 64 MB: all resamples of a benchmark of 14,000 items are more than a gigabyte.
_BLOCK_NUMBERS = 2**23


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a − b over the same items."""

    difference: Interval
    p_value: float
    """Two-sided. Of items that are right or wrong, under one seed: McNemar's exact test. Of graded scores, and pooled
    over seeds: of the resampling that makes the interval."""
    better: int
    """Items on which a scores higher."""
    worse: int
    """Items on which a scores lower."""
    items: int
    discordance: float
    """Mean squared difference: where scores are 0 or 1, the share of items on which a and b differ. Pooled over seeds,
    of the items' means."""
    cancelled: float
    """What the discordance is without the changes that the difference is made of: that of those that cancel out. Where
    scores are 0 or 1, twice the share of the rarer direction."""
    clusters: int | None = None
    """Clusters of items, if some items share one."""
    design_effect: float = 1.0
    """So many of these items tell as much as one that hangs together with no other: see `design_effect`; with what few
    clusters add to it (`cluster_stretch`, squared)."""


def wilson_interval(passed: int, n: int) -> Interval:
    """Share of passes with the Wilson score interval, which holds for few items and for shares near 0 and 1.

    Raises:
        ValueError: unless 0 <= passed <= n and n > 0.
    """
    if n <= 0 or not 0 <= passed <= n:
        raise ValueError(f"need 0 <= passed <= n and n > 0, got passed={passed}, n={n}.")
    share = passed / n
    z2 = Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    # At the ends the bound is exactly 0 or 1; rounding must not move it across the share.
    return Interval(share, 0.0 if passed == 0 else centre - half, 1.0 if passed == n else centre + half)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
) -> PairedDifference:
    """Mean of a − b over items, with an interval over items and a test.

    Both models answer the same items, so the difference is taken item by item: what makes an item hard for
    both cancels. Items are weighted at random (Dirichlet, all parameters 1: Rubin's Bayesian bootstrap, 1981), beside
    **one item more** that nobody has seen: for the lower end its difference is −1, for the upper end +1. The ends are
    the 2.5 and 97.5 % quantiles of these means. This is the bound of Learned-Miller and Thomas (2020, arXiv
    1905.06208) for the mean of a bounded variable, from both sides: that it holds is proven for two values, and
    conjectured for others, where it has been on the safe side in their and our simulations. Where items got worse only,
    the lower end is, but for the draws, the exact one of Clopper and Pearson (1934); of many items the interval is the
    bootstrap's, but for 1/n. A plain bootstrap can't know of what it has not seen, and is too narrow where few items
    differ.

    Where all scores differ by 0 or 1, the p-value is of McNemar's exact test, under 0.05 where the interval leaves 0
    out (but for the draws): the means above lie beyond 0 as often as it says. A test of how many items got better says
    little of the mean of graded scores: theirs is twice the share of the means on the far side of 0.

    **Clusters** are items that hang together: questions about one document, one request in several forms. Then whole
    clusters are weighted as well (as in the cluster bootstrap, Field and Welsh 2007), what moves the mean is stretched
    (`cluster_stretch`), and the item that nobody has seen counts as the design effect, or as that of a correlation of
    0.1 within clusters where less is measured. Of these means and those of the items on their own, the outer ends hold,
    and the larger p-value. This is no exact bound any more. In simulations of 3 to 60 clusters of some six items, of
    which 5 to 20 % changed, the true mean lay beyond an end in at most 2 % where a twentieth of the variance was
    between clusters (4 % with items taken as independent), and in at most 3 % where a fifth was (9 %) or half (17 %);
    but in 7.5 % where half was, and few of 60 clusters changed, all for the worse: nothing shows then how far further
    ones scatter.

    Args:
        a: one score in [0, 1] an item; the mean over the item's checks if it has several.
        b: scores of the same items in the same order.
        seed: makes the interval reproducible.
        clusters: what each item belongs to; None where none hangs together with another one.
        resamples: drawn means.

    Raises:
        ValueError: if there are no items, the lengths differ, or a score is outside [0, 1].
    """
    scores_a, scores_b = _scores(a, "a"), _scores(b, "b")
    if len(scores_a) != len(scores_b):
        raise ValueError(f"a and b must score the same items, got {len(scores_a)} and {len(scores_b)}.")
    # Rounded, so that 2/3 − 1/3 and 1/3 − 0 are one value, and equal scores differ by exactly 0.
    differences = np.round(scores_a - scores_b, 12)
    n = len(differences)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    together = _together(clusters, differences)
    drawn = _drawn_means(differences, (-1.0, 1.0), seed, resamples)
    interval, p_value = _interval(float(differences.mean()), drawn), _two_sided(drawn)
    if np.isin(differences, [-1.0, 0.0, 1.0]).all():
        # Here, for it takes 40 MB that most who import this module never need.
        from scipy.stats import binomtest

        p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    interval, p_value = _with_clusters(interval, p_value, differences[None], seed, resamples, together)
    return PairedDifference(interval, p_value, better, worse, n, *_discordance(differences), *_told(together))


def pooled_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
) -> PairedDifference:
    """Mean of a − b over items and training seeds, with an interval that covers both.

    Items, and one more than were seen, are weighted as in `paired_difference`, and seeds are resampled independently of
    them (as in the pigeonhole bootstrap of Owen, 2007): scores of one item under two seeds are not two items. How far a
    resample's seeds move its mean is stretched by √(S/(S − 1)), for drawing from S seeds shows (S − 1)/S of their
    variance. Interval and p-value are of the same resampling, so that p is under 0.05 where the interval leaves 0 out.
    With one seed this is `paired_difference`, and says nothing of other seeds.

    How far seeds scatter can hardly be seen in two or three of them, and no factor mends that. In simulations of 64 and
    212 items that are right or wrong, without any difference, p was under 0.05 in at most 1 % where seeds did nothing;
    with two seeds in 1 to 2 % where they moved the mean as much as the choice of items does, and in 8 % where twice as
    much; with three in under 1 % and 4 to 5 %; with five in up to 3 %, and 2 %.

    Args:
        a: scores in [0, 1], a row a seed: [S, N].
        b: of the same items; one row [1, N] where it does not depend on the seed.
        seed: makes interval and p-value reproducible.
        clusters: of the items, [N], as of `paired_difference`.
        resamples: bootstrap samples.

    Returns:
        The difference; `p_value` is twice the share of resampled differences on the far side of 0; `better` and
        `worse` count items by their mean over seeds.

    Raises:
        ValueError: if there are no items, the shapes don't fit, or a score is outside [0, 1].
    """
    scores_a, scores_b = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (a, b))
    if (
        scores_a.ndim != 2
        or scores_a.size == 0
        or scores_b.shape not in {scores_a.shape, (1, scores_a.shape[1])}
    ):
        raise ValueError(
            f"need scores [S, N] and [S, N] or [1, N], got {scores_a.shape} and {scores_b.shape}."
        )
    for scores, name in ((scores_a, "a"), (scores_b, "b")):
        _scores(scores.reshape(-1), name)
    differences = np.round(scores_a - scores_b, 12)
    seeds, n = differences.shape
    means = np.round(differences.mean(axis=0), 11)
    if seeds == 1:
        return paired_difference(scores_a[0], scores_b[0], seed=seed, clusters=clusters, resamples=resamples)
    together = _together(clusters, means)
    drawn = _means_over_seeds(differences, (-1.0, 1.0), seed, resamples)
    interval, p_value = _interval(float(means.mean()), drawn), _two_sided(drawn)
    interval, p_value = _with_clusters(interval, p_value, differences, seed, resamples, together)
    better, worse = int((means > 0).sum()), int((means < 0).sum())
    return PairedDifference(interval, p_value, better, worse, n, *_discordance(means), *_told(together))


def design_effect(values: ArrayLike, clusters: Sequence[Hashable] | None) -> float:
    """How many items in clusters tell as much of the mean as one that hangs together with no other (Kish 1965).

    The variance of the mean over whole clusters (of the ratio of their sums to their sizes, with K/(K − 1) for K
    clusters) over that of as many independent items; at least 1, and at most what it is where the items of a cluster
    are all equal, which is taken for a single cluster.

    Args:
        values: one an item, [N]: scores, or differences of scores.
        clusters: what each item belongs to; None where none hangs together with another one.

    Raises:
        ValueError: if there are no values, or the lengths differ.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ValueError(f"need one value an item, and at least one; got shape {numbers.shape}.")
    together = _together(clusters, numbers)
    return 1.0 if together is None else together.effect


def cluster_correlation(clusters: Sequence[Hashable], told: float) -> float:
    """How far items of a cluster go together, from 0 to 1; at least `ASSUMED_CORRELATION`.

    Args:
        clusters: what each item belongs to.
        told: `PairedDifference.design_effect` of these items.
    """
    sizes = _sizes(clusters)
    if len(sizes) in (1, len(clusters)):  # where none shares a cluster, or all do, nothing shows it
        return ASSUMED_CORRELATION
    effect = told / cluster_stretch(len(sizes)) ** 2
    return max(ASSUMED_CORRELATION, (effect - 1) / (_largest_effect(sizes) - 1))


def expected_design_effect(clusters: Sequence[Hashable], correlation: float) -> float:
    """`PairedDifference.design_effect` of items that are not asked yet, if those of a cluster go so far together.

    Args:
        clusters: what each item belongs to.
        correlation: as of `cluster_correlation`.
    """
    sizes = _sizes(clusters)
    if len(sizes) == len(clusters):
        return 1.0
    return _effect_at(correlation, _largest_effect(sizes)) * cluster_stretch(len(sizes)) ** 2


def _sizes(clusters: Sequence[Hashable]) -> NDArray[np.intp]:
    return np.array(list(Counter(clusters).values()), dtype=np.intp)


def _largest_effect(sizes: NDArray[np.intp]) -> float:
    """The design effect where the items of a cluster are all equal."""
    return float((sizes**2).sum() / sizes.sum())


def _effect_at(correlation: float, largest: float) -> float:
    return 1 + correlation * (largest - 1)


def cluster_stretch(clusters: int) -> float:
    """How many times wider an interval is than random weights of so few clusters show.

    √((K + 1)/(K − 1)), which such weights of K clusters scatter less than their mean does, times Student's t with K − 1
    degrees of freedom over the normal variable. 1 for a single cluster, which shows nothing of how clusters scatter.
    """
    if clusters == 1:
        return 1.0
    drawn = math.sqrt((clusters + 1) / (clusters - 1))
    return drawn * float(stdtrit(clusters - 1, 0.5 + CONFIDENCE / 2)) / Z


@dataclass(frozen=True)
class _Together:
    """Items in clusters: the cluster of each, [N], how many there are, the design effect, and how many items one that
    nobody has seen counts as."""

    of_item: NDArray[np.intp]
    clusters: int
    effect: float
    unseen: float


def _together(clusters: Sequence[Hashable] | None, values: NDArray[np.float64]) -> _Together | None:
    """None where no two items share a cluster."""
    if clusters is None:
        return None
    if len(clusters) != len(values):
        raise ValueError(f"need a cluster for each of {len(values)} items, got {len(clusters)}.")
    numbers: dict[Hashable, int] = {}
    of_item = np.array([numbers.setdefault(one, len(numbers)) for one in clusters], dtype=np.intp)
    if len(numbers) == len(values):
        return None
    sizes = np.bincount(of_item)
    most = _largest_effect(sizes)
    if len(sizes) == 1:
        return _Together(of_item, 1, most, most)
    around = values - values.mean()
    independent = float((around**2).sum())
    between = float((np.bincount(of_item, around) ** 2).sum()) * len(sizes) / (len(sizes) - 1)
    effect = min(max(between / independent if independent > _ROUNDING else 1.0, 1.0), most)
    return _Together(of_item, len(sizes), effect, max(effect, _effect_at(ASSUMED_CORRELATION, most)))


def _with_clusters(
    interval: Interval,
    p_value: float,
    differences: NDArray[np.float64],
    seed: int,
    resamples: int,
    together: _Together | None,
) -> tuple[Interval, float]:
    """What differences [S, N] show of items on their own, or by their clusters if those show less."""
    if together is None:
        return interval, p_value
    drawn = _means_over_seeds(differences, (-1.0, 1.0), seed, resamples, together)
    return _outer(interval, _interval(interval.value, drawn)), max(p_value, _two_sided(drawn))


def _discordance(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Of a `PairedDifference`: the discordance, and how much of it cancels out."""
    discordance = float((differences**2).mean())
    # The share of all change that is made up for by change the other way. Of graded scores |D| > D²: their mean alone
    # can be larger than the discordance, and still many change places.
    change = float(np.abs(differences).mean())
    cancelled = 1 - abs(float(differences.mean())) / change if change else 1.0
    return discordance, max(0.0, discordance * cancelled)


def _told(together: _Together | None) -> tuple[int | None, float]:
    """Of a `PairedDifference`: clusters and design effect."""
    if together is None:
        return None, 1.0
    return together.clusters, together.effect * cluster_stretch(together.clusters) ** 2


# Where values are right and wrong or little more, more draws cost little, and ends hardly depend on them.
_FEW, _TIMES_WHERE_FEW = 3, 20

_Drawn = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Means [R] with one item more: the lowest that there can be, and the highest."""


def _drawn_means(values: NDArray[np.float64], ends: tuple[float, float], seed: int, resamples: int) -> _Drawn:
    """Means of values [N] that are weighted at random, with one item more that has the lowest or the highest value."""
    rng = np.random.default_rng(seed)
    # Weights of equal values add up to a gamma variable, and there are few different ones.
    different, counts = np.unique(values, return_counts=True)
    if len(different) <= _FEW:
        resamples *= _TIMES_WHERE_FEW
    blocks = []
    for begin, end in _blocks(len(different), resamples):
        weights = rng.standard_gamma(np.append(counts, 1), size=(end - begin, len(counts) + 1))
        weights /= weights.sum(axis=1, keepdims=True)
        blocks.append((weights[:, :-1] @ different, weights[:, -1].copy()))  # not all of them are kept
    means, one_more = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return means + ends[0] * one_more, means + ends[1] * one_more


def _interval(mean: float, drawn: _Drawn) -> Interval:
    low = np.quantile(drawn[0], (1 - CONFIDENCE) / 2)
    high = np.quantile(drawn[1], (1 + CONFIDENCE) / 2)
    # Of few items the drawn ones may not show that the mean lies between them.
    return Interval(mean, min(mean, float(low)), max(mean, float(high)))


def _outer(one: Interval, other: Interval) -> Interval:
    return Interval(one.value, min(one.low, other.low), max(one.high, other.high))


def _two_sided(drawn: _Drawn) -> float:
    """Twice the share of the drawn means that lie on the side of 0 with fewer of them, 0 itself included."""
    beyond = min((drawn[0] <= _ROUNDING).sum(), (drawn[1] >= -_ROUNDING).sum())
    # One more of each, as so many can't show that none is beyond.
    return float(min(1.0, 2 * (1 + beyond) / (1 + len(drawn[0]))))


def _means_over_seeds(
    values: NDArray[np.float64],
    ends: tuple[float, float],
    seed: int,
    resamples: int,
    together: _Together | None = None,
) -> _Drawn:
    """As `_drawn_means`, of values [S, N] under resampled seeds."""
    seeds, items = values.shape
    blocks = []
    for of_seeds, of_items, one_more in _resampled(seeds, items, seed, resamples, together):
        if together is not None:
            equal = of_items.mean(axis=1, keepdims=True)
            of_items = equal + cluster_stretch(together.clusters) * (of_items - equal)
        blocks.append((np.einsum("rs,sn,rn->r", of_seeds, values, of_items, optimize=True), one_more))
    means, one_more = (np.concatenate(part) for part in zip(*blocks, strict=True))
    # Stretched, seeds or clusters that are far apart reach beyond what a mean can be.
    return (means + ends[0] * one_more).clip(*ends), (means + ends[1] * one_more).clip(*ends)


def _resampled(
    seeds: int, items: int, seed: int, resamples: int, together: _Together | None = None
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """What each seed counts in each resample, [R, S], each item, [R, N], and one item more, [R]; in blocks.

    What seeds count adds up to 1, and so does what items count. Means of S values that are drawn from S values scatter
    by (S − 1)/S of the variance that they are to show, half of it with two seeds: what a seed counts more or less than
    1/S is stretched by √(S/(S − 1)), and can be less than 0.
    """
    rng = np.random.default_rng(seed)
    of_seeds = np.ones((resamples, 1))
    if seeds > 1:
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
        of_seeds = 1 / seeds + math.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)
    for begin, end in _blocks(items, resamples):
        drawn_weights = items if together is None else together.clusters
        weights = rng.standard_exponential((end - begin, drawn_weights + 1))
        if together is not None:
            one_more = together.unseen * weights[:, -1:]
            weights = np.concatenate([weights[:, together.of_item], one_more], axis=1)
        weights /= weights.sum(axis=1, keepdims=True)
        yield of_seeds[begin:end], weights[:, :-1], weights[:, -1].copy()


def _blocks(items: int, resamples: int) -> Iterator[tuple[int, int]]:
    """Resamples that are drawn at once; how many change no draw."""
    block = max(1, _BLOCK_NUMBERS // items)
    for begin in range(0, resamples, block):
        yield begin, min(begin + block, resamples)


def pooled_interval(
    scores: ArrayLike,
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
) -> Interval:
    """Mean of scores in [0, 1] over items and training seeds [S, N], resampled as in `pooled_difference`.

    The interval is no narrower than that of the items' means. `clusters` as of `paired_difference`.

    Raises:
        ValueError: if there are no items, or a score is outside [0, 1].
    """
    values = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"need scores [S, N], got shape {values.shape}.")
    _scores(values.reshape(-1), "scores")
    means = values.mean(axis=0)
    of_all = score_interval(means, seed=seed, clusters=clusters, resamples=resamples)
    if len(values) == 1:
        return of_all
    together = _together(clusters, means)
    for drawn_by in [None] if together is None else [None, together]:
        drawn = _means_over_seeds(values, (0.0, 1.0), seed, resamples, drawn_by)
        of_all = _outer(of_all, _interval(of_all.value, drawn))
    return of_all


def retention(
    tuned: ArrayLike,
    base: ArrayLike,
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
) -> Interval | None:
    """Mean of tuned over mean of base, of the same items; None where base scores nothing.

    Items are weighted as in `paired_difference`; the one more is for the lower end one that base alone gets right, and
    for the upper end one that tuned alone does. Weights of clusters are not stretched, so that some base score is left
    to divide by.

    Args:
        tuned: scores in [0, 1], one an item; or a row a training seed, [S, N], resampled as in `pooled_difference`.
        base: of the same items, [N].
        seed: makes the interval reproducible.
        clusters: of the items, [N], as of `paired_difference`.
        resamples: drawn means.

    Raises:
        ValueError: if there are no items, the shapes don't fit, or a score is outside [0, 1].
    """
    of_base, of_tuned = _scores(base, "base"), np.atleast_2d(np.asarray(tuned, dtype=np.float64))
    if of_tuned.ndim != 2 or of_tuned.shape[1] != len(of_base):
        raise ValueError(f"need tuned [S, N] and base [N], got {of_tuned.shape} and {of_base.shape}.")
    _scores(of_tuned.reshape(-1), "tuned")
    mean = float(of_base.mean())
    if mean == 0:
        return None
    together = _together(clusters, of_tuned.mean(axis=0) - of_base)
    value = float(of_tuned.mean()) / mean
    found = Interval(value, value, value)
    for drawn_by in [None] if together is None else [None, together]:
        resampled = _resampled(len(of_tuned), len(of_base), seed, resamples, drawn_by)
        blocks = [
            (
                np.einsum("rs,sn,rn->r", of_seeds, of_tuned, of_items, optimize=True),
                of_items @ of_base,
                one_more,
            )
            for of_seeds, of_items, one_more in resampled
        ]
        kept, below, one_more = (np.concatenate(part) for part in zip(*blocks, strict=True))
        lowest = (kept / (below + one_more)).clip(min=0)
        found = _outer(found, _interval(value, (lowest, (kept + one_more) / below)))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that one of them wrongly under 0.05 is as rare as with a single test.

    The smallest of m is multiplied by m, the next one by m − 1, and so on, and none becomes less than one before it, or
    more than 1 (Holm, 1979, Scandinavian Journal of Statistics 6). This holds however the tests depend on each other.

    Args:
        p_values: of the tests, [M].

    Returns:
        The adjusted ones, in the same order.
    """
    p_M = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_M, kind="stable")
    adjusted_M = np.empty_like(p_M)
    adjusted_M[order] = np.maximum.accumulate(p_M[order] * np.arange(len(p_M), 0, -1)).clip(max=1.0)
    return [float(p) for p in adjusted_M]


def _scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"{name} must hold one score an item, and at least one; got shape {scores.shape}.")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"{name} has scores outside [0, 1].")
    return scores


def score_interval(
    scores: ArrayLike,
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
) -> Interval:
    """Mean of scores in [0, 1] with an interval over items, as in `paired_difference`: the one more scores 0, or 1.

    Of items that are right or wrong this is, but for the draws, the exact interval of Clopper and Pearson (1934).

    Args:
        scores: one score in [0, 1] an item.
        seed: makes the interval reproducible.
        clusters: of the items, as of `paired_difference`.
        resamples: drawn means.

    Raises:
        ValueError: if there are no items, or a score is outside [0, 1].
    """
    values = _scores(scores, "scores")
    interval = _interval(float(values.mean()), _drawn_means(values, (0.0, 1.0), seed, resamples))
    together = _together(clusters, values)
    if together is None:
        return interval
    drawn = _means_over_seeds(values[None], (0.0, 1.0), seed, resamples, together)
    return _outer(interval, _interval(interval.value, drawn))


def mean_interval(
    sums: ArrayLike, counts: ArrayLike | None = None, *, seed: int, resamples: int = 10_000
) -> Interval:
    """Mean per unit over items of unequal size, with a bootstrap interval over items.

    For nats per token over sequences: tokens of one sequence are not independent, sequences are. Fewer than six items,
    or items of equal means, show nothing of how items scatter: then both ends are the value, and there is no interval.

    Args:
        sums: one sum (or score) an item.
        counts: units in each item; None for one each.
        seed: makes the interval reproducible.
        resamples: bootstrap samples.

    Raises:
        ValueError: if there are no items, the lengths differ, or there is no unit at all.
    """
    totals = np.asarray(sums, dtype=np.float64)
    sizes = np.ones_like(totals) if counts is None else np.asarray(counts, dtype=np.float64)
    if totals.ndim != 1 or totals.size == 0 or totals.shape != sizes.shape or sizes.sum() <= 0:
        raise ValueError(f"need one sum and one count an item, got shapes {totals.shape} and {sizes.shape}.")
    found = _resampled_mean(totals, sizes, seed, resamples)
    if len(totals) >= FEWEST_ITEMS and found.high - found.low > _ROUNDING:
        return found
    return Interval(found.value, found.value, found.value)


def _resampled_mean(
    totals: NDArray[np.float64], sizes: NDArray[np.float64], seed: int, resamples: int
) -> Interval:
    """Sum of totals over sum of sizes, each of one item, with what resampled items give."""
    rng, n = np.random.default_rng(seed), len(totals)
    drawn = (rng.multinomial(n, np.full(n, 1 / n), size=end - begin) for begin, end in _blocks(n, resamples))
    means = np.concatenate([(draws @ totals) / np.maximum(draws @ sizes, 1e-300) for draws in drawn])
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(totals.sum() / sizes.sum()), float(low), float(high))
