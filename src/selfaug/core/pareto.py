"""Trade-offs between two scores: which points nothing else beats, and where the curve bends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["knee", "pareto_front"]


def pareto_front(points: ArrayLike) -> list[int]:
    """Indices of the points that no other beats, by rising first score.

    A point beats another if it is at least as good in both scores and better in one. Of equal points the first counts.

    Args:
        points: two scores each, higher is better: [N, 2].

    Raises:
        ValueError: if the shape is another, or a score is not finite.
    """
    scores_N2 = np.asarray(points, dtype=np.float64)
    if scores_N2.ndim != 2 or scores_N2.shape[1] != 2 or not np.isfinite(scores_N2).all():
        raise ValueError(f"need finite points [N, 2], got shape {scores_N2.shape}.")
    front: list[int] = []
    best = -np.inf
    # From the best first score down: what is on the front must have a better second one than all before it.
    for index in sorted(range(len(scores_N2)), key=lambda i: (-scores_N2[i, 0], -scores_N2[i, 1], i)):
        if scores_N2[index, 1] > best:
            best = float(scores_N2[index, 1])
            front.append(index)
    return front[::-1]


def knee(front: Sequence[tuple[float, float]]) -> int | None:
    """Index of the point that stands out farthest from the straight line between the front's ends.

    Both scores are scaled to the front's range first. From there, more of one score costs most of the other
    (Das, 1999, "On characterizing the knee of the Pareto curve").

    Args:
        front: points as `pareto_front` orders them.

    Returns:
        None where nothing stands out: with fewer than three points, or all on or below the line.
    """
    if len(front) < 3:
        return None
    scores_N2 = np.asarray(front, dtype=np.float64)
    low_2, high_2 = scores_N2.min(axis=0), scores_N2.max(axis=0)
    # Scaled, the ends are (0, 1) and (1, 0), and the line between them is where both add up to 1.
    above_N = ((scores_N2 - low_2) / (high_2 - low_2)).sum(axis=1) - 1
    best = int(above_N.argmax())
    return best if above_N[best] > 1e-12 else None
