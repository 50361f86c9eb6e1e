"""Intervals and tests against brute force, simulation and published values."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, binom, binomtest, norm, t

from selfaug.core import statistics
from selfaug.core.detectable import detectable_difference
from selfaug.core.statistics import (
    _resampled,
    cluster_correlation,
    cluster_stretch,
    design_effect,
    expected_design_effect,
    holm,
    mean_interval,
    paired_difference,
    pooled_difference,
    pooled_interval,
    retention,
    score_interval,
    wilson_interval,
)


def drawn_means(
    values: NDArray[np.float64], one_more: float, rng: np.random.Generator, count: int = 20_000
) -> NDArray[np.float64]:
    """Means of values [N] and one more, with weights that are drawn from all that add up to 1."""
    return rng.dirichlet(np.ones(len(values) + 1), count) @ np.append(values, one_more)


def exact_bounds(passed: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's."""
    low = beta.ppf(0.025, passed, n - passed + 1) if passed else 0.0
    high = beta.ppf(0.975, passed + 1, n - passed) if passed < n else 1.0
    return float(low), float(high)


class TestClusters:
    """Items that hang together, against loops over clusters."""

    # Ragged: of one item, of two, of seven.
    CLUSTERS = ("a", "b", "b", "c", "c", "c", "c", "c", "c", "c", "d", "d", "e", "f", "f", "f")
    A = (1, 0, 0.5, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 0.25, 0, 1)
    B = (1, 1, 0.5, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0.5, 0, 1)

    def test_the_design_effect_is_the_ratio_of_the_two_variances(self) -> None:
        differences = [a - b for a, b in zip(self.A, self.B, strict=True)]
        n, mean, clusters = len(differences), sum(differences) / len(differences), sorted(set(self.CLUSTERS))
        between = within = 0.0
        for cluster in clusters:
            own = [d for d, c in zip(differences, self.CLUSTERS, strict=True) if c == cluster]
            between += (sum(own) - mean * len(own)) ** 2
        for difference in differences:
            within += (difference - mean) ** 2
        expected = (len(clusters) / (len(clusters) - 1)) * (between / n**2) / (within / n**2)
        assert design_effect(differences, self.CLUSTERS) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(
        ("values", "clusters", "effect"),
        [
            ([1, 1, 0, 0, 1, 1], "aabbcc", 2.0),  # equal within: three items
            ([1, 0, 1, 0, 1, 0], "aabbcc", 1.0),  # equal between: that it is less is not believed
            ([0, 0, 0, 0], "aabb", 1.0),
            ([1, 0, 1, 1], "aaaa", 4.0),  # one document says nothing of others
            ([1, 0, 1, 1], "abcd", 1.0),
            ([1, 0, 1, 1], None, 1.0),
        ],
    )
    def test_design_effects_at_the_edges(
        self, values: list[float], clusters: str | None, effect: float
    ) -> None:
        assert design_effect(values, clusters) == pytest.approx(effect)

    def test_clusters_are_weighted_whole_with_an_unseen_item_of_the_design_effects_size(self) -> None:
        """And stretched, as so few are; the ends of the items on their own lie further in."""
        differences = np.subtract(self.A, self.B)
        effect, mean = design_effect(differences, self.CLUSTERS), differences.mean()
        sizes = Counter(self.CLUSTERS)
        most = sum(size**2 for size in sizes.values()) / len(differences)
        unseen = max(effect, 1 + 0.1 * (most - 1))
        stretch = math.sqrt(7 / 5) * t.ppf(0.975, 5) / norm.ppf(0.975)
        rng, means = np.random.default_rng(5), []
        for _ in range(20_000):
            weights = {cluster: rng.exponential() for cluster in sorted(set(self.CLUSTERS))}
            total = one_more = unseen * rng.exponential()
            moved = 0.0
            for difference, cluster in zip(differences, self.CLUSTERS, strict=True):
                total += weights[cluster]
                moved += weights[cluster] * difference
            known = total - one_more
            moved = mean * known + stretch * (moved - mean * known)
            means.append((max(-1, (moved - one_more) / total), min(1, (moved + one_more) / total)))
        low, high = np.quantile([low for low, _ in means], 0.025), np.quantile([up for _, up in means], 0.975)
        found = paired_difference(self.A, self.B, seed=0, clusters=self.CLUSTERS)
        assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=0.02)
        assert (found.clusters, found.items) == (6, 16)
        beyond = min(np.mean([low <= 0 for low, _ in means]), np.mean([up >= 0 for _, up in means]))
        assert found.p_value == pytest.approx(min(1.0, 2 * beyond), abs=0.02)
        assert found.design_effect == pytest.approx(effect * stretch**2)

    def test_copies_of_items_tell_no_more_than_the_items(self) -> None:
        rng = np.random.default_rng(1)
        a, b = rng.integers(0, 2, 40), rng.integers(0, 2, 40)
        once = paired_difference(a, b, seed=0)
        thrice = paired_difference(
            np.repeat(a, 3), np.repeat(b, 3), seed=0, clusters=[*np.repeat(range(40), 3)]
        )
        stretch = math.sqrt(41 / 39) * t.ppf(0.975, 39) / norm.ppf(0.975)  # 1.06
        assert thrice.design_effect == pytest.approx(3 * stretch**2, rel=0.03)
        assert thrice.difference.value == pytest.approx(once.difference.value)
        ends = [(found.difference.low, found.difference.high) for found in (once, thrice)]
        assert 1.0 < (ends[1][1] - ends[1][0]) / (ends[0][1] - ends[0][0]) < stretch + 0.01
        score, of_copies = (
            score_interval(a, seed=0),
            score_interval(np.repeat(a, 3), seed=0, clusters=[*np.repeat(range(40), 3)]),
        )
        assert (of_copies.low, of_copies.high) == pytest.approx((score.low, score.high), abs=0.02)

    def test_clusters_that_happen_to_agree_tell_no_more_than_their_items(self) -> None:
        """Each with as many better and worse: that no further one differs is not shown by so few."""
        a, b = np.tile([1.0] * 6 + [0.0] * 34, 4), np.tile([0.0] * 6 + [1.0] * 6 + [0.0] * 28, 4)
        apart = paired_difference(a, b, seed=0)
        together = paired_difference(a, b, seed=0, clusters=[*np.repeat(range(4), 40)])
        assert together.difference.low <= apart.difference.low
        assert together.difference.high >= apart.difference.high
        assert together.p_value >= apart.p_value
        assert together.design_effect == pytest.approx(5 / 3 * (t.ppf(0.975, 3) / norm.ppf(0.975)) ** 2)
        # Nor that none of them is lost: 1 of 180 would be unseen, but for a correlation within documents.
        same = [1.0] * 180
        of_three = paired_difference(same, same, seed=0, clusters=[*np.repeat(range(3), 60)])
        assert of_three.difference.low < -0.1 < paired_difference(same, same, seed=0).difference.low

    def test_items_that_share_nothing_are_as_before(self) -> None:
        names = list(range(len(self.A)))
        assert paired_difference(self.A, self.B, seed=0, clusters=names) == paired_difference(
            self.A, self.B, seed=0
        )
        assert paired_difference(self.A, self.B, seed=0).clusters is None

    def test_clusters_widen_pooled_scores_and_retention_too(self) -> None:
        rng = np.random.default_rng(2)
        of_cluster = rng.random((2, 12)) < 0.6
        scores, clusters = np.repeat(of_cluster, 5, axis=1).astype(float), [*np.repeat(range(12), 5)]
        base = np.repeat(rng.random(12) < 0.7, 5).astype(float)
        for interval in (
            lambda told: pooled_interval(scores, seed=0, clusters=told),
            lambda told: pooled_difference(scores, base, seed=0, clusters=told).difference,
            lambda told: retention(scores, base, seed=0, clusters=told),
        ):
            together, apart = interval(clusters), interval(None)
            assert together.value == pytest.approx(apart.value)
            assert together.high - together.low > 1.5 * (apart.high - apart.low)

    def test_what_can_be_seen_is_what_so_many_independent_items_show(self) -> None:
        told = detectable_difference(120, design_effect=3.0)
        assert told.difference == detectable_difference(40).difference
        assert told.items == 120
        assert detectable_difference(12, design_effect=3.0).difference is None

    def test_the_design_effect_of_items_not_asked_yet_goes_by_how_far_others_went_together(self) -> None:
        a, b = np.repeat([1.0, 0.0], 30), np.repeat([1.0, 0.0, 1.0, 0.0], 15)
        clusters = [*np.repeat(range(20), 3)]
        asked = paired_difference(a, b, seed=0, clusters=clusters)  # those of each cluster are equal
        correlation = cluster_correlation(clusters, asked.design_effect)
        assert correlation == pytest.approx(1.0)
        assert expected_design_effect(clusters, correlation) == pytest.approx(asked.design_effect)
        pairs = [*np.repeat(range(200), 2)]
        assert expected_design_effect(pairs, 0.4) == pytest.approx(1.4 * cluster_stretch(200) ** 2)
        assert expected_design_effect(list(range(9)), 0.4) == 1.0
        # Little is seen in few, and nothing where none shares a cluster, or all do.
        assert cluster_correlation(clusters, 1.0) == cluster_correlation(list("abc"), 1.0) == 0.1
        assert cluster_correlation(list("aaa"), 3.0) == 0.1

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a cluster for each of 2 items, got 1"):
            paired_difference([1, 0], [0, 0], seed=0, clusters=["a"])
        with pytest.raises(ValueError, match="at least one"):
            design_effect([], None)
        with pytest.raises(ValueError, match=r"design_effect=0\.5"):
            detectable_difference(20, design_effect=0.5)


class TestWilsonInterval:
    @pytest.mark.parametrize(
        ("passed", "n", "low", "high"),
        [
            # Newcombe (1998), table I, method 3.
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ],
    )
    def test_published_values(self, passed: int, n: int, low: float, high: float) -> None:
        found = wilson_interval(passed, n)
        assert found.value == passed / n
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)

    @pytest.mark.parametrize(("passed", "n"), [(3, 10), (50, 120), (119, 120)])
    def test_bounds_are_the_shares_that_the_score_test_just_accepts(self, passed: int, n: int) -> None:
        z = norm.ppf(0.975)

        def score(true_share: float) -> float:
            return abs(passed / n - true_share) - float(z) * math.sqrt(true_share * (1 - true_share) / n)

        found = wilson_interval(passed, n)
        assert found.low == pytest.approx(brentq(score, 1e-9, passed / n), abs=1e-9)
        assert found.high == pytest.approx(brentq(score, passed / n, 1 - 1e-9), abs=1e-9)

    def test_ends_are_exact(self) -> None:
        assert wilson_interval(0, 7).low == 0.0
        assert wilson_interval(7, 7).high == 1.0
        assert wilson_interval(7, 7).low < 1.0

    @pytest.mark.parametrize(("passed", "n"), [(0, 0), (-1, 5), (6, 5)])
    def test_refuses_impossible_counts(self, passed: int, n: int) -> None:
        with pytest.raises(ValueError, match="passed"):
            wilson_interval(passed, n)


class TestPairedDifference:
    @pytest.mark.parametrize(
        "losses", [[0.02] * 3, [0.02], [0.02] * 40, [0.01, 0.02, 0.03], [0.9, 0.9, 0.9, -0.01]]
    )
    def test_few_items_and_equal_differences_decide_nothing(self, losses: list[float]) -> None:
        n, mean = len(losses), float(np.mean(losses))
        found = paired_difference(np.add(losses, 0.01), np.full(n, 0.01), seed=0, resamples=40_000)
        unseen = 1 - 0.025 ** (1 / n)
        assert found.difference.high >= mean + unseen * (1 - mean) - 0.01
        assert found.difference.low <= mean - unseen * (1 + mean) + 0.01
        assert (found.p_value < 0.05) == (found.difference.low > 0)

    @pytest.mark.parametrize("n", [2, 6, 80])
    def test_interval_is_that_of_drawn_weights_with_one_item_more_written_out(self, n: int) -> None:
        rng = np.random.default_rng(n)
        a, b = rng.random(n).round(1), rng.random(n).round(1)
        found = paired_difference(a, b, seed=1, resamples=40_000).difference
        assert found.value == pytest.approx((a - b).mean())
        assert found.low == pytest.approx(np.quantile(drawn_means(a - b, -1, rng), 0.025), abs=0.01)
        assert found.high == pytest.approx(np.quantile(drawn_means(a - b, 1, rng), 0.975), abs=0.01)

    @pytest.mark.parametrize("worse", [0, 1, 2, 5, 30, 96])
    def test_where_items_got_worse_only_the_lower_end_is_exact(self, worse: int) -> None:
        tuned = np.ones(96)
        tuned[:worse] = 0
        found = paired_difference(tuned, np.ones(96), seed=0, resamples=100_000).difference
        assert -found.low == pytest.approx(exact_bounds(worse, 96)[1], abs=0.002)

    def test_one_more_loss_moves_no_end_up(self) -> None:
        """As a bootstrap that is mended for no loss alone would: of 96 items, 3.8 points are left open by none lost."""
        ends = []
        for worse in range(8):
            tuned = np.ones(96)
            tuned[:worse] = 0
            ends.append(paired_difference(tuned, np.ones(96), seed=0).difference.low)
        assert ends == sorted(ends, reverse=True)

    @pytest.mark.parametrize(("n", "bound"), [(64, 0.05), (96, 0.035), (336, 0.01)])
    def test_a_loss_of_the_bound_seldom_seems_to_be_less(self, n: int, bound: float) -> None:
        """The chance that all of the interval lies within the bound, summed over all that can be lost."""
        chance = 0.0
        for worse in range(n + 1):
            tuned = np.ones(n)
            tuned[:worse] = 0
            if paired_difference(tuned, np.ones(n), seed=0).difference.low < -bound:
                break
            chance += math.comb(n, worse) * bound**worse * (1 - bound) ** (n - worse)
        assert chance < 0.03

    def test_it_leaves_0_out_where_mcnemar_s_exact_test_says_so(self) -> None:
        said = set()
        for n in (20, 64):
            for better, worse in itertools.product(range(12), range(6)):
                if better + worse > n:
                    continue
                a, b = np.zeros(n), np.zeros(n)
                a[:better], b[better : better + worse] = 1, 1
                p = binomtest(better, better + worse).pvalue if better + worse else 1.0
                found = paired_difference(a, b, seed=0, resamples=5_000)
                assert found.p_value == pytest.approx(p)
                if abs(p - 0.05) > 0.005:  # the ends are drawn
                    excluded = found.difference.low > 0 or found.difference.high < 0
                    assert excluded == (p < 0.05), (n, better, worse, found)
                    said.add(excluded)
        assert said == {True, False}

    def test_of_many_items_it_is_the_bootstrap_s(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.random(3000), rng.random(3000)
        means = [(a - b)[rng.integers(0, 3000, 3000)].mean() for _ in range(4000)]
        found = paired_difference(a, b, seed=2).difference
        assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.002)

    def test_interval_covers_the_truth(self) -> None:
        rng = np.random.default_rng(3)
        covered = 0
        for seed in range(400):
            a, b = rng.random(120) < 0.6, rng.random(120) < 0.5
            interval = paired_difference(a, b, seed=seed, resamples=1000).difference
            covered += interval.low <= 0.1 <= interval.high
        assert 0.94 <= covered / 400 <= 0.995

    def test_sign_test_against_enumeration(self) -> None:
        a = [1, 1, 1, 1, 1, 1, 0, 1, 0, 1]
        b = [0, 0, 0, 0, 0, 0, 1, 1, 0, 1]
        found = paired_difference(a, b, seed=0)
        assert (found.better, found.worse, found.items) == (6, 1, 10)
        # Among the 2^7 equally likely ways in which 7 items can differ, those at most as likely as 6 to 1.
        extreme = sum(abs(sum(signs) - 3.5) >= 2.5 for signs in itertools.product([0, 1], repeat=7))
        assert found.p_value == pytest.approx(extreme / 2**7)

    def test_p_value_of_graded_scores_is_of_their_mean(self) -> None:
        """Many items a little worse, some much better: the mean is what is reported, and what is tested."""
        rng = np.random.default_rng(1)
        a = np.concatenate([np.full(40, 0.45), np.full(20, 0.9)]) + 0.05 * rng.random(60)
        b = np.full(60, 0.5)
        found = paired_difference(a, b, seed=0, resamples=20_000)
        assert (found.better, found.worse) == (20, 40)
        expected = 2 * min(
            (drawn_means(a - b, -1, rng) <= 0).mean(), (drawn_means(a - b, 1, rng) >= 0).mean()
        )
        assert found.p_value == pytest.approx(expected, abs=0.002)
        assert found.difference.low > 0
        assert found.p_value < 0.02
        # No item got worse, and few are too few: what they leave open is in the p-value as it is in the interval.
        few = paired_difference([0.5, 0.75, 1.0], [0.5, 0.5, 0.5], seed=0)
        assert few.difference.low < 0
        assert few.p_value > 0.3

    def test_mean_scores_of_thirds_that_agree_are_equal(self) -> None:
        found = paired_difference([2 / 3, 0.1 + 0.2], [1 - 1 / 3, 0.3], seed=0)
        assert (found.better, found.worse, found.p_value) == (0, 0, 1.0)
        assert found.difference.value == 0.0

    @pytest.mark.parametrize("n", [5, 60])
    def test_what_was_not_seen_is_left_open(self, n: int) -> None:
        """No item differs: a share p of worse items goes unseen with probability (1 − p)^n, 2.5 % at the bound."""
        interval = paired_difference([1.0] * n, [1.0] * n, seed=0).difference
        assert interval.value == 0.0
        assert -interval.low == pytest.approx(1 - 0.025 ** (1 / n), rel=0.05)
        assert interval.high == pytest.approx(-interval.low)
        # Where some got better and none worse, only the lower end is moved, and by less than it would be alone.
        better = paired_difference([1.0] * n, [0.0] + [1.0] * (n - 1), seed=0).difference
        assert interval.low < better.low < 0 < better.value < better.high

    def test_interval_covers_rare_losses(self) -> None:
        """One item in fifty got worse: often none of thirty is seen."""
        rng, covered = np.random.default_rng(4), 0
        for seed in range(400):
            lost = rng.random(30) < 0.02
            interval = paired_difference(1.0 - lost, np.ones(30), seed=seed, resamples=1000).difference
            covered += interval.low <= -0.02 <= interval.high
        assert covered / 400 >= 0.95

    def test_same_seed_same_interval(self) -> None:
        a, b = [1, 0, 1, 1, 0, 0.5, 1], [0, 0, 1, 0, 1, 0.25, 0]
        assert paired_difference(a, b, seed=5) == paired_difference(a, b, seed=5)

    def test_swapping_turns_the_sign(self) -> None:
        a, b = [1, 1, 0.5, 1], [0, 1, 0, 0.5]
        forth, back = paired_difference(a, b, seed=0), paired_difference(b, a, seed=0)
        assert forth.difference.value == -back.difference.value > 0
        assert (forth.better, forth.worse) == (back.worse, back.better)

    @pytest.mark.parametrize(
        ("a", "b", "message"),
        [
            ([], [], "at least one"),
            ([1], [1, 0], "same items"),
            ([1.5], [1], "outside"),
            ([float("nan")], [1], "outside"),
        ],
    )
    def test_refuses_bad_scores(self, a: list[float], b: list[float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            paired_difference(a, b, seed=0)


class TestDetectableDifference:
    def test_solves_connors_formula(self) -> None:
        for n, discordance, power in [(120, 0.2, 0.8), (60, 0.35, 0.9), (1000, 0.05, 0.8)]:
            d = detectable_difference(n, discordance=discordance, power=power).difference
            assert d is not None
            needed = norm.ppf(0.975) * math.sqrt(discordance) + norm.ppf(power) * math.sqrt(
                discordance - d**2
            )
            assert (n - 1 / d) * d**2 == pytest.approx(needed**2)

    def test_is_found_with_the_promised_power(self) -> None:
        n, discordance = 300, 0.3
        d = detectable_difference(n, discordance=discordance).difference
        assert d is not None
        rng = np.random.default_rng(0)
        shares = [(discordance + d) / 2, (discordance - d) / 2, 1 - discordance]
        better, worse, _ = rng.multinomial(n, shares, size=20_000).T
        # McNemar's exact test.
        found = binom.cdf(np.minimum(better, worse), better + worse, 0.5) <= 0.025
        assert found.mean() == pytest.approx(0.8, abs=0.015)

    @pytest.mark.parametrize(
        ("n", "discordance", "mean", "smallest"),
        [(64, 0.98, 0.98, 0.133), (200, 0.88, 0.88, 0.044), (200, 0.5, 0.4, 0.088), (336, 0.3, -0.2, 0.063)],
    )
    def test_what_was_measured_to_go_one_way_hides_nothing(
        self, n: int, discordance: float, mean: float, smallest: float
    ) -> None:
        """A job that the base model can't do changes nearly all items: a smaller gain is found all the same."""
        found = detectable_difference(n, discordance=discordance, cancelled=discordance - abs(mean))
        d = found.difference
        assert d == pytest.approx(smallest, abs=0.0005)
        assert found.discordance == pytest.approx(discordance - abs(mean) + d)
        rng = np.random.default_rng(0)
        shares = [(found.discordance + d) / 2, (found.discordance - d) / 2, 1 - found.discordance]
        better, worse, _ = rng.multinomial(n, np.clip(shares, 0, 1), size=20_000).T
        power = (binom.cdf(np.minimum(better, worse), better + worse, 0.5) <= 0.025).mean()
        assert 0.78 <= power <= 0.88

    def test_what_is_larger_than_measured_is_found_beside_all_that_was(self) -> None:
        assert detectable_difference(300, discordance=0.3, cancelled=0.27) == detectable_difference(
            300, discordance=0.3
        )

    def test_more_items_and_less_discordance_show_smaller_differences(self) -> None:
        base = detectable_difference(120).difference
        more = detectable_difference(480).difference
        calmer = detectable_difference(120, discordance=0.1).difference
        assert base is not None
        assert more is not None
        assert calmer is not None
        assert max(more, calmer) < base

    def test_says_what_it_assumed(self) -> None:
        found = detectable_difference(120, discordance=0.25, power=0.9)
        assert (found.items, found.discordance, found.power) == (120, 0.25, 0.9)

    @pytest.mark.parametrize("n", [1, 3, 5])
    def test_too_few_items_show_nothing(self, n: int) -> None:
        assert detectable_difference(n).difference is None
        assert paired_difference([1.0] * n, [0.0] * n, seed=0).p_value > 0.05

    @pytest.mark.parametrize(("n", "discordance"), [(212, 0.0), (212, 0.02), (20, 0.2), (6, 0.2)])
    def test_where_few_items_differ_all_are_taken_to_go_the_same_way(
        self, n: int, discordance: float
    ) -> None:
        found = detectable_difference(n, discordance=discordance)
        d = found.difference
        assert d is not None
        assert discordance < d == found.discordance <= 1
        needed = norm.ppf(0.975) * math.sqrt(d) + norm.ppf(0.8) * math.sqrt(d - d**2)
        assert (n - 1 / d) * d**2 == pytest.approx(needed**2)

    def test_measured_discordance_is_the_share_of_items_that_differ(self) -> None:
        a, b = [1, 0, 1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]
        found = paired_difference(a, b, seed=0)
        assert found.discordance == (found.better + found.worse) / 8 == 3 / 8
        assert found.cancelled == pytest.approx(2 * found.worse / 8) == 2 / 8
        assert paired_difference(a, a, seed=0).cancelled == 0
        assert pooled_difference([a, a], [b], seed=0).discordance == 3 / 8
        # Items that only one of two seeds changes count a quarter.
        assert pooled_difference([a, b], [b], seed=0).discordance == pytest.approx(3 / 8 / 4)

    @pytest.mark.parametrize(
        ("changes", "shares", "abs_error"),
        [
            ([-0.5, 0.0, 0.25], [0.15, 0.6, 0.25], 0.03),
            # Most change one way, and by so little that the mean is larger than the mean square.
            ([-0.25, 0.25, 0.5, 0.75], [0.15, 0.35, 0.3, 0.2], 0.06),
        ],
    )
    def test_of_graded_scores_it_is_their_mean_square(
        self, changes: list[float], shares: list[float], abs_error: float
    ) -> None:
        """The power is promised for them too."""
        rng = np.random.default_rng(0)
        pilot = rng.choice(changes, size=4000, p=shares)
        before = np.where(pilot < 0, 0.5, 0.25)
        found = paired_difference(before + pilot, before, seed=0)
        assert found.discordance == pytest.approx(float((pilot**2).mean()))
        d = detectable_difference(200, discordance=found.discordance, cancelled=found.cancelled).difference
        assert d is not None
        moved = rng.choice(pilot - pilot.mean() + d, size=(20_000, 200))
        z = moved.mean(axis=1) / (moved.std(axis=1) / math.sqrt(200))
        assert (np.abs(z) > norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=abs_error)

    @pytest.mark.parametrize(
        ("n", "discordance", "power"), [(0, 0.2, 0.8), (9, -0.1, 0.8), (9, 1.1, 0.8), (9, 0.2, 1)]
    )
    def test_refuses_impossible_assumptions(self, n: int, discordance: float, power: float) -> None:
        with pytest.raises(ValueError, match="discordance"):
            detectable_difference(n, discordance=discordance, power=power)
        with pytest.raises(ValueError, match=r"cancelled=0\.3"):
            detectable_difference(9, discordance=0.2, cancelled=0.3)


class TestScoreInterval:
    @pytest.mark.parametrize(("passed", "n"), [(0, 20), (20, 20), (1, 64), (63, 64), (40, 120), (1, 2)])
    def test_of_right_and_wrong_it_is_exact(self, passed: int, n: int) -> None:
        found = score_interval([1.0] * passed + [0.0] * (n - passed), seed=0, resamples=100_000)
        assert found.value == passed / n
        assert (found.low, found.high) == pytest.approx(exact_bounds(passed, n), abs=0.004)
        assert (found.low == 0, found.high == 1) == (passed == 0, passed == n)

    @pytest.mark.parametrize("scores", [[0.5], [0.5] * 10, [0.2, 0.3, 0.4], [0.0, 1.0, 0.5, 1.0, 1.0, 0.0]])
    def test_of_grades_it_is_that_of_drawn_weights(self, scores: list[float]) -> None:
        rng = np.random.default_rng(0)
        found = score_interval(scores, seed=3, resamples=40_000)
        values = np.asarray(scores)
        assert found.value == pytest.approx(values.mean())
        assert found.low == pytest.approx(np.quantile(drawn_means(values, 0, rng), 0.025), abs=0.01)
        assert found.high == pytest.approx(np.quantile(drawn_means(values, 1, rng), 0.975), abs=0.01)

    def test_refuses_what_is_no_score(self) -> None:
        with pytest.raises(ValueError, match="outside"):
            score_interval([2.0], seed=0)


def resampled_mean(scores: NDArray[np.float64], one_more: float, rng: np.random.Generator) -> float:
    """Of weighted items, with one more, and of seeds [S, N] drawn with replacement.

    How far drawn seeds move it is stretched.
    """
    count, n = scores.shape
    of_seeds = np.append(scores, np.full((count, 1), one_more), axis=1) @ rng.dirichlet(np.ones(n + 1))
    over_all, over_drawn = of_seeds.mean(), of_seeds[rng.integers(0, count, count)].mean()
    return float(over_all + math.sqrt(count / (count - 1)) * (over_drawn - over_all))


class TestMeanInterval:
    def test_it_is_the_bootstrap_of_items_of_unequal_size(self) -> None:
        rng = np.random.default_rng(0)
        sums, counts = rng.exponential(2.0, 40), rng.integers(1, 9, 40).astype(float)
        picked = rng.integers(0, 40, (20_000, 40))
        means = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
        found = mean_interval(sums, counts, seed=0, resamples=20_000)
        assert found.value == pytest.approx(sums.sum() / counts.sum())
        assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)

    def test_few_and_equal_items_show_no_interval(self) -> None:
        for sums in ([1.0, 2.0, 3.0], [2.0] * 20):
            found = mean_interval(sums, seed=0)
            assert (found.low, found.high) == (found.value, found.value) == (2.0, 2.0)


class TestPooledDifference:
    def test_one_seed_is_the_paired_difference(self) -> None:
        rng = np.random.default_rng(0)
        a, b = (rng.random(40) < 0.6).astype(float), (rng.random(40) < 0.4).astype(float)
        assert pooled_difference([a], [b], seed=3) == paired_difference(a, b, seed=3)

    def test_interval_is_that_of_resampling_both_written_out(self) -> None:
        rng = np.random.default_rng(1)
        a, b = rng.random((3, 30)), rng.random((3, 30))
        found = pooled_difference(a, b, seed=0, resamples=20_000)
        lowest, highest = ([resampled_mean(a - b, end, rng) for _ in range(20_000)] for end in (-1, 1))
        assert found.difference.value == pytest.approx(float((a - b).mean()))
        assert found.difference.low == pytest.approx(np.quantile(lowest, 0.025), abs=0.01)
        assert found.difference.high == pytest.approx(np.quantile(highest, 0.975), abs=0.01)
        assert found.better + found.worse == found.items == 30

    def test_seeds_that_disagree_widen_it(self) -> None:
        rng = np.random.default_rng(2)
        noise = 0.1 * rng.random((2, 200))
        agree = pooled_difference(0.5 + noise, np.full((1, 200), 0.5), seed=0).difference
        apart = noise + np.asarray([[0.3], [0.7]])
        disagree = pooled_difference(apart, np.full((1, 200), 0.5), seed=0).difference
        assert disagree.high - disagree.low > 5 * (agree.high - agree.low)

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_the_variance_between_seeds_is_shown_whole(self, count: int) -> None:
        """Not (S - 1) / S of it, as drawing from so few has: of items that are all alike, there is no other."""
        rng = np.random.default_rng(7)
        moved = 0.2 * rng.random((count, 1))
        of_seeds, of_items, one_more = next(_resampled(count, 40, 0, 100_000))
        analytic = float(moved.var(ddof=1)) / count
        assert (of_seeds @ moved).var() == pytest.approx(analytic, rel=0.02)
        assert of_seeds.sum(axis=1) == pytest.approx(1.0)
        assert of_items.sum(axis=1) + one_more == pytest.approx(1.0)

    def test_two_seeds_that_differ_much(self) -> None:
        scores = np.full((2, 40), 0.5) + np.asarray([[0.4], [-0.2]])
        found = pooled_difference(scores, np.full((1, 40), 0.5), seed=0).difference
        reach = 0.3 * math.sqrt(2)  # each seed lies 0.3 from the mean, 0.1
        # And what 40 items leave open beside, of each a part.
        assert 0.1 - reach - 0.06 < found.low < 0.1 - reach
        assert 0.1 + reach < found.high < 0.1 + reach + 0.06
        wide = pooled_difference(np.repeat([[1.0], [0.0]], 40, axis=1), np.zeros((1, 40)), seed=0).difference
        assert wide.high == 1.0  # and no more than a difference can be

    def test_p_value_is_that_of_resampling_both_written_out(self) -> None:
        rng = np.random.default_rng(4)
        a, b = (rng.random((3, 40)) < 0.56).astype(float), (rng.random((3, 40)) < 0.5).astype(float)
        found = pooled_difference(a, b, seed=0, resamples=20_000)
        lowest, highest = (
            np.asarray([resampled_mean(a - b, end, rng) for _ in range(20_000)]) for end in (-1, 1)
        )
        expected = 2 * min((lowest <= 0).mean(), (highest >= 0).mean())
        assert 0.05 < expected < 0.9
        assert found.p_value == pytest.approx(expected, abs=0.015)
        back = pooled_difference(b, a, seed=0, resamples=20_000)
        assert back.p_value == pytest.approx(found.p_value, abs=1e-9)

    def test_seeds_that_disagree_leave_doubt(self) -> None:
        """Item by item a wins, by far; but one of two seeds loses, and a third might too."""
        rng = np.random.default_rng(5)
        base = np.full((1, 200), 0.5)
        noise = 0.02 * rng.standard_normal(200)
        agree = pooled_difference(np.stack([0.56 + noise, 0.54 + noise]), base, seed=0)
        disagree = pooled_difference(np.stack([0.62 + noise, 0.48 + noise]), base, seed=0)
        assert agree.difference.value == pytest.approx(disagree.difference.value)
        assert agree.p_value < 0.001
        assert disagree.p_value > 0.25

    @pytest.mark.parametrize("items", [12, 60])
    def test_p_value_and_interval_say_the_same(self, items: int) -> None:
        rng = np.random.default_rng(6)
        said = set()
        for share in (0.0, 0.1, 0.3, 0.5):
            for _ in range(40):
                a = (rng.random((2, items)) < 0.5 + share).astype(float)
                b = (
                    np.zeros((1, items))
                    if rng.random() < 0.3
                    else (rng.random((1, items)) < 0.5).astype(float)
                )
                found = pooled_difference(a * rng.integers(0, 2), b, seed=0, resamples=2000)
                if abs(found.p_value - 0.05) < 0.003:  # the quantile lies between two draws
                    continue
                excluded = found.difference.low > 0 or found.difference.high < 0
                assert excluded == (found.p_value < 0.05), found
                said.add(excluded)
        assert said == {True, False}

    def test_nothing_that_differs_is_no_difference(self) -> None:
        found = pooled_difference([[1, 0, 1]] * 2, [[1, 0, 1]], seed=0)
        assert (found.difference.value, found.p_value, found.better, found.worse) == (0.0, 1.0, 0, 0)

    @pytest.mark.parametrize(("scatter", "most"), [(0.0, 0.03), (1.0, 0.07), (2.0, 0.13)])
    def test_p_value_is_seldom_small_where_nothing_differs(self, scatter: float, most: float) -> None:
        """Seeds move the mean by nothing, by as much as the choice of items does, or by twice that."""
        rng = np.random.default_rng(3)
        found = []
        for _ in range(300):
            moved = scatter * rng.standard_normal((2, 1)) * 0.2 / math.sqrt(50)
            scores = 0.5 + moved + 0.14 * rng.standard_normal((1, 50)) + 0.14 * rng.standard_normal((2, 50))
            scores = scores.clip(0, 1)
            found.append(pooled_difference(scores, np.full((1, 50), 0.5), seed=0, resamples=400).p_value)
        assert np.mean(np.asarray(found) <= 0.05) < most

    @pytest.mark.parametrize(("a", "b"), [([[]], [[]]), ([[1, 0]], [[1]]), ([[1, 0]] * 2, [[1, 0]] * 3)])
    def test_refuses_shapes_that_are_not_paired(self, a: list[list[int]], b: list[list[int]]) -> None:
        with pytest.raises(ValueError, match=r"\[S, N\]"):
            pooled_difference(a, b, seed=0)


class TestRetention:
    def test_interval_is_that_of_drawn_weights_with_one_item_more_written_out(self) -> None:
        rng = np.random.default_rng(0)
        base, tuned = (rng.random(200) < 0.6).astype(float), (rng.random(200) < 0.4).astype(float)
        found = retention(tuned, base, seed=0)
        assert found is not None
        assert found.value == pytest.approx(tuned.mean() / base.mean())
        weights = rng.dirichlet(np.ones(201), 10_000)
        lowest = (weights @ np.append(tuned, 0)) / (weights @ np.append(base, 1))
        highest = (weights @ np.append(tuned, 1)) / (weights @ np.append(base, 0))
        assert found.low == pytest.approx(np.quantile(lowest, 0.025), abs=0.02)
        assert found.high == pytest.approx(np.quantile(highest, 0.975), abs=0.02)

    def test_seeds_are_resampled_as_well(self) -> None:
        rng = np.random.default_rng(1)
        base = (rng.random(80) < 0.6).astype(float)
        tuned = np.stack([base * (rng.random(80) < share) for share in (0.95, 0.6, 0.8)])
        found = retention(tuned, base, seed=0)
        assert found is not None
        assert found.value == pytest.approx(tuned.mean() / base.mean())
        alone = retention(tuned.mean(axis=0), base, seed=0)
        assert alone is not None
        assert found.low < alone.low - 0.05
        assert found.high > alone.high
        assert retention(tuned[:1], base, seed=0) == retention(tuned[0], base, seed=0)

    def test_items_that_never_changed_leave_doubt(self) -> None:
        found = retention([1, 0, 1, 1, 0], [1, 0, 1, 1, 0], seed=0)
        assert found is not None
        assert found.low < found.value == 1 < found.high

    def test_a_base_model_that_scores_nothing_retains_nothing(self) -> None:
        assert retention([0, 1], [0, 0], seed=0) is None
        found = retention([0, 0, 1], [1, 0, 0], seed=0)  # some draws have nothing of base
        assert found is not None
        assert 0 <= found.low <= 1 <= found.high < math.inf

    def test_items_that_are_all_equal_leave_doubt(self) -> None:
        found = retention([0.5] * 20, [1.0] * 20, seed=0)
        assert found is not None
        unseen = 1 - 0.025 ** (1 / 20)
        assert found.low == pytest.approx(0.5 * (1 - unseen), abs=0.01)
        assert found.high == pytest.approx((0.5 * (1 - unseen) + unseen) / (1 - unseen), abs=0.03)


class TestHolm:
    @staticmethod
    def naive(p_values: list[float]) -> list[float]:
        """As a closed test: a hypothesis is rejected if Bonferroni rejects every set of them that it is in."""
        m = len(p_values)
        sets = [which for size in range(1, m + 1) for which in itertools.combinations(range(m), size)]
        return [
            max(min(1.0, len(which) * min(p_values[i] for i in which)) for which in sets if place in which)
            for place in range(m)
        ]

    def test_it_is_bonferroni_closed(self) -> None:
        rng = np.random.default_rng(0)
        for m in (1, 2, 5, 8):
            p_values = (rng.random(m) ** 3).round(3).tolist()
            assert holm(p_values) == pytest.approx(self.naive(p_values))
        assert holm([0.01, 0.01, 1.0]) == pytest.approx([0.03, 0.03, 1.0])  # equal ones stay equal
        assert holm([]) == []


class TestPooledInterval:
    def test_one_seed_is_the_score_interval(self) -> None:
        assert pooled_interval([[1, 0, 1, 1]], seed=0) == score_interval([1, 0, 1, 1], seed=0)

    def test_covers_items_and_seeds_and_stays_a_share(self) -> None:
        scores = np.ones((3, 20))
        scores[0, :10] = 0
        found = pooled_interval(scores, seed=0)
        assert found.value == pytest.approx(scores.mean())
        alone = score_interval(scores.mean(axis=0), seed=0)
        assert 0 <= found.low <= alone.low
        assert alone.high <= found.high <= 1

    def test_two_equal_seeds_have_the_interval_of_one(self) -> None:
        scores = np.array([1.0] * 18 + [0.0] * 2)
        one, two = (pooled_interval(given, seed=0) for given in (scores, np.stack([scores, scores])))
        assert (one.low, one.high) == pytest.approx(exact_bounds(18, 20), abs=0.01)
        assert (two.low, two.high) == pytest.approx((one.low, one.high), abs=0.01)
        # Nothing is known of how items scatter, of one seed or of two.
        of_ones = pooled_interval(np.ones((2, 20)), seed=0)
        assert (of_ones.low, of_ones.high) == (pytest.approx(0.025 ** (1 / 20), abs=0.01), 1.0)

    def test_its_resamples_are_those_of_drawing_seeds_and_items_one_by_one(self) -> None:
        rng = np.random.default_rng(3)
        scores = np.clip(rng.random((3, 40)) + np.array([[-0.3], [0.0], [0.3]]), 0, 1)
        lowest, highest = (
            np.clip([resampled_mean(scores, end, rng) for _ in range(20_000)], 0, 1) for end in (0, 1)
        )
        found = pooled_interval(scores, seed=0, resamples=20_000)
        assert found.low == pytest.approx(np.quantile(lowest, 0.025), abs=0.015)
        assert found.high == pytest.approx(np.quantile(highest, 0.975), abs=0.015)

    def test_refuses_what_is_no_score(self) -> None:
        with pytest.raises(ValueError, match="scores"):
            pooled_interval([[]], seed=0)
        with pytest.raises(ValueError, match="outside"):  # their mean would be one
            pooled_interval([[1.5, 0.5], [0.5, 0.5]], seed=0)


def test_blocks_bound_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark of 14,000 items would take gigabytes at once."""
    rng = np.random.default_rng(0)
    base, tuned = (rng.random((seeds, 400)) < 0.6 for seeds in (1, 2))
    graded = rng.random(400)

    def measured() -> tuple[list[float], int]:
        tracemalloc.start()
        found = [
            score_interval(graded, seed=1, resamples=1000),
            pooled_difference(tuned, base, seed=1, resamples=1000).difference,
            retention(tuned, base[0], seed=1, resamples=1000),
        ]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return [end for one in found if one for end in (one.low, one.high)], peak

    at_once, most = measured()
    monkeypatch.setattr(statistics, "_BLOCK_NUMBERS", 2**14)
    in_blocks, peak = measured()
    assert in_blocks == pytest.approx(at_once, rel=1e-12)
    assert most > 8 * 1000 * 400
    assert peak < most / 4
