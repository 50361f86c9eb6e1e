"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping

from selfaug.core.printable import decimals_beside

__all__ = [
    "bound_points",
    "chance",
    "decimal",
    "digits_beside",
    "duration",
    "nats",
    "nats_span",
    "percent",
    "points",
    "signed",
    "span",
]

# From here on, in hours.
_LONG = 3 * 3600

# Of bounds.
_MOST_DIGITS = 3


def percent(share: float | None) -> str:
    """A share as "97 %"; the space doesn't break."""
    return "not measured" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def chance(share: float) -> str:
    """A share of draws in percent; what is not certain is not shown as 0 or 100."""
    shown = f"{100 * share:.0f} %"
    if 0 < share < 1:
        return {"0 %": "<1 %", "100 %": ">99 %"}.get(shown, shown)
    return shown


def decimal(number: float) -> str:
    """A number with one decimal, without a minus before a zero."""
    return f"{round(number, 1) + 0.0:.1f}".replace("-", "\N{MINUS SIGN}")


def signed(number: float, digits: int = 1) -> str:
    """A number with its sign; a zero has none, also where it is rounded: −0.04 is not shown as a loss."""
    rounded = round(number, digits)
    sign = "" if rounded == 0 else "+" if rounded > 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(rounded):.{digits}f}"


def points(difference: float, *, sign: bool = True, digits: int = 1, unit: str = "points") -> str:
    """A difference of shares in percentage points; with another unit, a share."""
    shown = signed(100 * difference, digits)
    return f"{shown if sign else shown.removeprefix('+')} {unit}"


def span(interval: Mapping[str, float], *, digits: int = 1, sign: bool = True) -> str:
    """The interval of a difference of shares, in percentage points."""
    ends = [signed(100 * interval[end], digits) for end in ("low", "high")]
    return " to ".join(ends if sign else [end.removeprefix("+") for end in ends])


def bound_points(bound: float, *, unit: str = "points") -> str:
    """A bound on a difference of shares, in percentage points: as it was given, 2.04 and not 2.0. As of `points`."""
    return points(bound, sign=False, digits=_digits_of(bound), unit=unit)


def digits_beside(interval: Mapping[str, float], bound: float) -> int:
    """So many decimals of an interval, in percentage points, that none of its ends seems to be the bound and isn't.

    At least those of the bound; three at most.
    """
    ends = (100 * interval[end] for end in ("low", "high"))
    return decimals_beside(ends, 100 * bound, _digits_of(bound))


def _digits_of(bound: float) -> int:
    digits = 1
    while digits < _MOST_DIGITS and abs(round(100 * bound, digits) - 100 * bound) > 1e-9:
        digits += 1
    return digits


def nats(value: float | None, digits: int = 3) -> str:
    """A drift in nats per token; a dash where it is no number, as of a model that is broken."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"


def nats_span(interval: Mapping[str, float | None], digits: int = 3) -> str:
    """The interval of a drift; empty where there is none: of few prompts, or of equal ones."""
    low, high = interval["low"], interval["high"]
    return "" if low is not None and low == high else f"{nats(low, digits)} to {nats(high, digits)}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\N{NO-BREAK SPACE}s"
    if whole >= _LONG:
        minutes = round(seconds / 60)
        return f"{minutes // 60}\N{NO-BREAK SPACE}h\N{NO-BREAK SPACE}{minutes % 60:02d}\N{NO-BREAK SPACE}min"
    return f"{whole // 60}\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}{whole % 60:02d}\N{NO-BREAK SPACE}s"
