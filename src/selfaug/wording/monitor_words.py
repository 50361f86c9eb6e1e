"""A monitor's states and numbers, as terminal and dashboard say them."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["STATE_MEANINGS", "ago", "four_digits"]

STATE_MEANINGS: Mapping[str, str] = {
    "no_data": "no request has come for a day",
    "learning": "the first days are looked at; nothing alerts yet",
    "ok": "live traffic is like that of training and of the first days",
    "watch": "something is moving; nothing to do yet",
    "drift": "live traffic is not like that of training, or of the first days",
    "realign": "drift has lasted for a day: train with new data",
}


def four_digits(value: float | None) -> str:
    """A number of whatever size."""
    return "–" if value is None else f"{value:.4g}"


def ago(seconds: float) -> str:
    """How long something is past; clocks that differ don't make it future."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} seconds ago"
    return f"{seconds / 60:.0f} minutes ago" if seconds < 7200 else f"{seconds / 3600:.0f} hours ago"
