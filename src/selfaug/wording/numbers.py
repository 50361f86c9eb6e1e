"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["duration", "percent", "points", "span"]

# From here on, in hours.
_LONG = 3 * 3600


def percent(share: float | None) -> str:
    """A share as "97 %"; the space doesn't break."""
    return "not measured" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def points(difference: float, *, sign: bool = True) -> str:
    """A difference of shares in percentage points."""
    shown = _signed(100 * difference)
    return f"{shown if sign else shown.removeprefix('+')} points"


def span(interval: Mapping[str, float]) -> str:
    """The interval of a difference of shares, in percentage points."""
    return f"{_signed(100 * interval['low'])} to {_signed(100 * interval['high'])}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\N{NO-BREAK SPACE}s"
    if whole >= _LONG:
        minutes = round(seconds / 60)
        return f"{minutes // 60}\N{NO-BREAK SPACE}h\N{NO-BREAK SPACE}{minutes % 60:02d}\N{NO-BREAK SPACE}min"
    return f"{whole // 60}\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}{whole % 60:02d}\N{NO-BREAK SPACE}s"


def _signed(value: float) -> str:
    # Rounded first, so that −0.04 is not shown as a loss.
    rounded = round(value, 1)
    if rounded == 0:
        return "0.0"
    sign = "+" if rounded > 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(rounded):.1f}"
