"""A balance's choice in words, as terminal and report say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["bend_in_words", "choice_in_words"]


def choice_in_words(record: Mapping[str, Any]) -> str:
    """Which point was chosen, and why."""
    chosen = record["points"][record["chosen"]]
    return f"{chosen['run']}, adapter at {chosen['scale']:g}: {record['reason']}."


def bend_in_words(record: Mapping[str, Any]) -> str | None:
    """Where the front bends; None where it doesn't, or at the chosen point."""
    if record["knee"] is None or record["knee"] == record["chosen"]:
        return None
    bend = record["points"][record["knee"]]
    return (
        f"The front bends at {bend['run']}, adapter at {bend['scale']:g}: from there, more of one score costs most of "
        "the other."
    )
