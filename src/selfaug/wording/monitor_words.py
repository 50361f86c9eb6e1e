"""A monitor's states and numbers, as terminal and dashboard say them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from selfaug.core.alert_state import ALERTS, UNWATCHED_AFTER, State, holds
from selfaug.core.printable import counted

__all__ = ["ago", "four_digits", "standing_in_words", "state_meaning", "webhook_in_words"]

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


def standing_in_words(state: State, status: Mapping[str, Any], seconds: float) -> str:
    """What a state means so long after the monitor's last sign of life: what was well then may be so no more.

    Args:
        state: as it is now.
        status: as `selfaug monitor --json` gives it.
        seconds: since that sign of life.
    """
    meaning = state_meaning(state, status)
    if seconds <= UNWATCHED_AFTER:
        return meaning
    unwatched = f"nobody has watched since {datetime.fromtimestamp(status['time'], UTC):%Y-%m-%d %H:%M} UTC"
    return f"{meaning}; {unwatched}" if holds(state, seconds) else f"{unwatched}; the state was {state} then"


def webhook_in_words(webhook: Mapping[str, Any] | None) -> str:
    """How many messages did not reach the webhook, and why the last one of them didn't; empty if all did.

    Args:
        webhook: as a status has it; None without a webhook, and in older statuses.
    """
    if not webhook or not webhook["failed"]:
        return ""
    of = counted(webhook["failed"] + webhook["sent"], "message")
    return f"the webhook was NOT told {webhook['failed']:,} of {of}; last failure: {webhook['last_failure']}"


def four_digits(value: float | None) -> str:
    """A number of whatever size."""
    return "–" if value is None else f"{value:.4g}"


def ago(seconds: float) -> str:
    """How long something is past; clocks that differ don't make it future."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{counted(round(seconds), 'second')} ago"
    return f"{seconds / 60:.0f} minutes ago" if seconds < 7200 else f"{seconds / 3600:.0f} hours ago"
