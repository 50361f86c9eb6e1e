"""Does a subset of the items say what all of them say? Asked over several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau

from selfaug.core.statistics import paired_difference

__all__ = ["SubsetAgreement", "subset_agreement"]


@dataclass(frozen=True)
class SubsetAgreement:
    """How a subset of the items stands for all of them.

    Attributes:
        models: that were compared.
        items: of the subset.
        of_items: all of them.
        kendall_tau: rank correlation (tau-b) of the models' mean scores on the subset and on all items; None where all
            models have the same score on one of them.
        covered: models whose difference to the base model on all items lies in the subset's 95 % interval.
    """

    models: int
    items: int
    of_items: int
    kendall_tau: float | None
    covered: int


def subset_agreement(
    scores: Sequence[ArrayLike], base: ArrayLike, chosen: Sequence[int], *, seed: int
) -> SubsetAgreement:
    """Compare models on a subset and on all items.

    Args:
        scores: of each model, by item, [N] each.
        base: the base model's, [N].
        chosen: indices of the subset's items.
        seed: of the intervals.

    Raises:
        ValueError: if there is no model or no chosen item, or lengths differ.
    """
    of_base = np.asarray(base, dtype=np.float64)
    of_models = [np.asarray(of_one, dtype=np.float64) for of_one in scores]
    if not of_models or not len(chosen) or any(one.shape != of_base.shape for one in of_models):
        raise ValueError(
            "models with a score for each of the base model's items are needed, and a chosen item"
        )
    index = np.asarray(chosen, dtype=np.int64)
    tau = kendalltau([one.mean() for one in of_models], [one[index].mean() for one in of_models]).statistic
    covered = 0
    for one in of_models:
        interval = paired_difference(one[index], of_base[index], seed=seed).difference
        covered += int(interval.low <= float((one - of_base).mean()) <= interval.high)
    return SubsetAgreement(
        len(of_models), len(index), len(of_base), float(tau) if np.isfinite(tau) else None, covered
    )
