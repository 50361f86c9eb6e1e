"""Topics that a newcomer picks from; numbers in them are those of the project's own comparison."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from selfaug.dashboard.library import Entry
from selfaug.records import read_record
from selfaug.report.charts import COLORS
from selfaug.report.document import Table, of_texts
from selfaug.wording.comparison_results import scores_table

__all__ = ["TOPICS", "distributions", "methods_of"]

TOPICS = {
    "why": "Why models forget",
    "how": "How the alignment works",
    "which": "When to use which method",
    "roadmap": "The four phases",
}
"""Names of places in the page, and what they are called."""

_WORDS = ("The", "A", "In", "Yes", "ANSWER")
_BASE = (0.42, 0.25, 0.18, 0.14, 0.01)
_MOVED = (0.02, 0.02, 0.01, 0.01, 0.94)


def distributions(moved: float) -> dict[str, Any]:
    """Two distributions over the next word: the base model's, and one moved towards the job's style.

    Args:
        moved: 0 (equal) to 1.

    Returns:
        `bars` by word with both shares in percent, `moved`, `kl` in nats, and `colors`.
    """
    share = min(1.0, max(0.0, moved))
    tuned = [(1 - share) * base + share * job for base, job in zip(_BASE, _MOVED, strict=True)]
    kl = sum(p * math.log(p / q) for p, q in zip(_BASE, tuned, strict=True))
    return {
        "bars": [(word, 100 * p, 100 * q) for word, p, q in zip(_WORDS, _BASE, tuned, strict=True)],
        "moved": share,
        "kl": max(0.0, kl),
        "colors": COLORS,
    }


def methods_of(entry: Entry) -> Table:
    """The table of methods of a comparison."""
    return of_texts(
        scores_table(read_record(Path(entry.folder) / "record.json", "comparison")), "Scores by method"
    )
