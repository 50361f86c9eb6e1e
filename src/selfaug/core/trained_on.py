"""Held-out rows that were trained on, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfaug.core.printable import counted

__all__ = ["trained_on_in_words"]


def trained_on_in_words(found: Mapping[str, Any] | None) -> str | None:
    """What their scores are worth; None where there are no such rows, or nobody has looked.

    Args:
        found: `rows`, how many of the held-out rows were trained on, or None where nobody could tell, and `why` not;
            `of` so many.
    """
    if found is None or found["rows"] == 0:
        return None
    if found["rows"] is None:
        why = found.get("why", "not all training rows can be read here, or they have changed")
        return f"whether held-out rows are training rows, too, could not be told: {why}"
    of = f"{found['rows']:,} of {counted(found['of'], 'held-out row')}"
    are = "is a training row" if found["rows"] == 1 else "are training rows"
    return f"{of} {are}, too: the task's score says of them what the model remembers, not how it does on new rows"
