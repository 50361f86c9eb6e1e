"""A balance's choice in words, as terminal and report say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfaug.wording.numbers import span

__all__ = ["bend_in_words", "choice_in_words", "forgetting_span", "task_span"]


def choice_in_words(record: Mapping[str, Any]) -> str:
    """Which point was chosen, and why."""
    chosen = record["points"][record["chosen"]]
    return f"{chosen['run']}, adapter at {chosen['scale']:g}: {record['reason']}."


def task_span(point: Mapping[str, Any], digits: int = 0) -> str:
    """The interval of a point's score at the job, in percent and brackets."""
    interval = point["task_interval"]
    return f"({100 * interval['low']:.{digits}f} to {100 * interval['high']:.{digits}f})"


def forgetting_span(point: Mapping[str, Any]) -> str:
    """The interval of a point's forgetting, in percentage points and brackets."""
    return f"({span(point['forgetting_interval'])})"


def bend_in_words(record: Mapping[str, Any]) -> str | None:
    """Where the front bends; None where it doesn't, or at the chosen point."""
    if record["knee"] is None or record["knee"] == record["chosen"]:
        return None
    bend = record["points"][record["knee"]]
    return (
        f"The front bends at {bend['run']}, adapter at {bend['scale']:g}: from there, more of one score costs most of "
        "the other."
    )
