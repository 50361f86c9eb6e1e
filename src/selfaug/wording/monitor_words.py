"""A monitor's states and numbers, as terminal and dashboard say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfaug.core.alert_state import ALERTS
from selfaug.core.printable import counted

__all__ = ["ago", "four_digits", "state_meaning"]

_MEANINGS: Mapping[str, str] = {
    "no_data": "no request has come for a day, or none yet",
    "learning": "the first days are looked at; what has learnt alerts already, and so does the canary set",
    "ok": "live traffic is like that of training and of the first days",
    "watch": "something is moving; nothing to do yet",
    "drift": "live traffic is not like that of training, or of the first days",
    "realign": "drift has lasted for a day: train with new data",
}


def state_meaning(state: str, status: Mapping[str, Any]) -> str:
    """What a state of all signals together means.

    Args:
        state: as it is now.
        status: as `selfaug monitor --json` gives it: it says whether the canary set alone has raised an alert.
    """
    by_signals = any(signal["state"] in ALERTS for signal in status["signals"])
    if state in ALERTS and status["canary"]["passed"] is False and not by_signals:
        return "the canary set did not come back; no signal of live traffic alerts"
    return _MEANINGS.get(state, state)


def four_digits(value: float | None) -> str:
    """A number of whatever size."""
    return "–" if value is None else f"{value:.4g}"


def ago(seconds: float) -> str:
    """How long something is past; clocks that differ don't make it future."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{counted(round(seconds), 'second')} ago"
    return f"{seconds / 60:.0f} minutes ago" if seconds < 7200 else f"{seconds / 3600:.0f} hours ago"
