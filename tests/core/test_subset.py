"""A subset of the items against all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from selfaug.core.statistics import paired_difference
from selfaug.core.subset import subset_agreement


def naive_tau(a: list[float], b: list[float]) -> float:
    """Tau-b from its definition: pairs in the same order, in the other, and ties."""
    same = other = ties_a = ties_b = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        of_a, of_b = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
        same += of_a * of_b > 0
        other += of_a * of_b < 0
        ties_a += of_a == 0 and of_b != 0
        ties_b += of_b == 0 and of_a != 0
    return (same - other) / np.sqrt((same + other + ties_a) * (same + other + ties_b))


def test_agreement_is_what_its_definitions_say() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, 60).astype(float)
    scores = [
        np.where(rng.random(60) < share, base, 0.0) for share in (0.1, 0.3, 0.4, 0.6, 0.8, 0.9, 1.0, 0.0)
    ]
    chosen = list(range(0, 60, 3))
    found = subset_agreement(scores, base, chosen, seed=0)
    assert (found.models, found.items, found.of_items) == (8, 20, 60)
    means = [float(one.mean()) for one in scores], [float(one[chosen].mean()) for one in scores]
    assert found.kendall_tau == pytest.approx(naive_tau(*means))
    covered = 0
    for one in scores:
        span = paired_difference(one[chosen], base[chosen], seed=0).difference
        covered += span.low <= (one - base).mean() <= span.high
    assert found.covered == covered


def test_all_items_agree_with_themselves_and_equal_models_have_no_order() -> None:
    base = np.array([1.0, 0.0, 1.0, 1.0])
    scores = [np.array([1.0, 0.0, 0.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0])]
    found = subset_agreement(scores, base, [0, 1, 2, 3], seed=0)
    assert found.kendall_tau == pytest.approx(1.0)
    assert found.covered == 2
    assert subset_agreement([base, base], base, [0, 2], seed=0).kendall_tau is None


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [([], [0]), ([[1.0, 0.0]], []), ([[1.0]], [0])],
    ids=["no model", "no item", "ragged"],
)
def test_what_cant_be_compared_is_refused(scores: list[list[float]], chosen: list[int]) -> None:
    with pytest.raises(ValueError, match="a score for each"):
        subset_agreement(scores, [1.0, 1.0], chosen, seed=0)
