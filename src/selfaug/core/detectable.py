"""How small a difference a test set can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtri

from selfaug.core.statistics import FEWEST_ITEMS, Z

__all__ = ["ASSUMED_DISCORDANCE", "DetectableDifference", "detectable_difference"]

ASSUMED_DISCORDANCE = 0.2
"""Share of items on which two models are taken to differ where nothing was measured."""

# The correction's difference is then what it was before, to 1e-9.
_ROUNDS = 60


@dataclass(frozen=True)
class DetectableDifference:
    """The smallest mean paired difference that a set of items shows, and under which assumptions."""

    difference: float | None
    """None if not even a change of every item in the same direction would be shown."""
    items: int
    discordance: float
    power: float


def detectable_difference(
    n: int,
    *,
    discordance: float = ASSUMED_DISCORDANCE,
    cancelled: float | None = None,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> DetectableDifference:
    """The smallest paired difference that n items show with the given power, two-sided at 5 %.

    Solves Connor's (1987) sample size formula of McNemar's test for the difference d:
    `n d² = (z_α √ψ + z_β √(ψ − d²))²`, with ψ the discordance, and n − 1/d for n, since the test is exact and changes
    are whole: without that correction for continuity the power is 0.76 to 0.79 instead of 0.8, and 0.4 with six items;
    with it, it is 0.79 to 0.87, and 0.7 with six. No more items can get worse on balance than change at all, so ψ is at
    least d: where fewer differ, all changes are taken to go the same way.

    A measured discordance has the measured difference in it: of a job that the base model can't do, nearly all items
    change, and all for the better. A difference that is smaller than the measured one has less of these changes, and
    as many that cancel out: ψ is then the discordance of these, plus d. What is no smaller is found beside all changes
    that were measured.

    Args:
        n: items.
        discordance: share of items on which the two models differ, in either direction; of graded scores, their mean
            squared difference. `PairedDifference.discordance` where it was measured. The more the two models change
            places, the larger a difference must be to stand out.
        cancelled: the part of the discordance that is of changes that cancel out, `PairedDifference.cancelled`; None
            for all of it, as where it is assumed.
        power: probability that a true difference of this size is found.
        design_effect: so many of the items tell as much as one: `PairedDifference.design_effect`.

    Raises:
        ValueError: if n < 1, the design effect is less than 1, or discordance, its part or power are outside their
            range.
    """
    cancelled = discordance if cancelled is None else cancelled
    in_range = 0 <= cancelled <= discordance <= 1 and 0.5 <= power < 1
    if n < 1 or design_effect < 1 or not in_range:
        raise ValueError(
            "need n >= 1, 0 <= cancelled <= discordance <= 1, 0.5 <= power < 1 and design_effect >= 1, got "
            f"n={n}, cancelled={cancelled}, discordance={discordance}, power={power}, design_effect={design_effect}."
        )
    independent = n / design_effect
    if independent < FEWEST_ITEMS:
        return DetectableDifference(None, n, discordance, power)
    difference, changed = _connor(independent, discordance, power)
    for _ in range(_ROUNDS):
        beside = min(discordance, cancelled + difference)
        difference, changed = _connor(independent - 1 / difference, beside, power)
    return DetectableDifference(difference, n, changed, power)


def _connor(n: float, discordance: float, power: float) -> tuple[float, float]:
    """Connor's difference, and the discordance, which is at least that."""
    z_power = float(ndtri(power))
    root = math.sqrt(max(0.0, n * (n + z_power**2 - Z**2)))
    difference = math.sqrt(discordance) * (Z * n + z_power * root) / (math.sqrt(n) * (n + z_power**2))
    if difference < discordance:
        return difference, discordance
    # ψ = d: the formula is quadratic in √(1 − d).
    difference = 1 - (max(0.0, root - Z * z_power) / (n + z_power**2)) ** 2
    return difference, difference
