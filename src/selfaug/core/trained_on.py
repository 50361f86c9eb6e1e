"""Held-out rows that were trained on, or chosen on, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfaug.core.printable import counted

__all__ = ["chosen_on_in_words", "rows_trained_on", "seen_in_words", "trained_on_in_words"]


def trained_on_in_words(found: Mapping[str, Any] | None) -> str | None:
    """What their scores are worth; None where there are no such rows, or nobody has looked.

    Args:
        found: `rows`, how many of the held-out rows were trained on, or None where nobody could tell; `of` so many.
    """
    if found is None or found["rows"] == 0:
        return None
    if found["rows"] is None:
        return (
            "whether held-out rows are training rows, too, could not be told: the run, or one that it went on from, "
            "does not say here what it has learnt"
        )
    of = f"{found['rows']:,} of {counted(found['of'], 'held-out row')}"
    are = "is a training row" if found["rows"] == 1 else "are training rows"
    return f"{of} {are}, too: the task's score says of them what the model remembers, not how it does on new rows"


def rows_trained_on(record: Mapping[str, Any], items: int) -> dict[str, int] | None:
    """How many were trained on, as `trained_on_in_words` takes it; None in records of before they were counted.

    Args:
        record: data of a comparison's or a balance's record.
        items: test rows of the job.
    """
    seen = record.get("test_prompts_seen")
    return None if seen is None else {"rows": seen["train"], "of": items}


def chosen_on_in_words(record: Mapping[str, Any], items: int) -> str | None:
    """What test rows say that are development rows, too, and what these say that are training rows; None where there
    are neither, or nobody has counted.

    Args:
        record, items: as of `rows_trained_on`.
    """
    seen = record.get("test_prompts_seen")
    if seen is None:
        return None
    told = []
    if seen["dev"]:
        are = "is a development row" if seen["dev"] == 1 else "are development rows"
        told.append(
            f"{seen['dev']:,} of {counted(items, 'test row')} {are}, too, by which settings were chosen: expect less "
            "on other rows"
        )
    if remembered := seen.get("dev_trained_on"):  # counted only where there are some
        are = "is a training row" if remembered == 1 else "are training rows"
        told.append(
            f"{counted(remembered, 'development row')} {are}, too: settings were chosen for what the models remember"
        )
    return "; ".join(told) or None


def seen_in_words(record: Mapping[str, Any], items: int) -> list[str]:
    """Both, as sentences; empty where no test row is meant.

    Args:
        record, items: as of `rows_trained_on`.
    """
    told = trained_on_in_words(rows_trained_on(record, items)), chosen_on_in_words(record, items)
    return [f"{one[0].upper()}{one[1:]}." for one in told if one is not None]
