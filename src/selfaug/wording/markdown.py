"""Measured numbers with their intervals, and texts that models wrote, for Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from selfaug.core.printable import printable
from selfaug.wording.numbers import nats_span, percent, points, span

__all__ = ["Cell", "code", "difference", "drift", "fenced", "in_cell", "share"]

_NOT_MEASURED = "\N{EN DASH}"


class Cell(NamedTuple):
    """A number and, if it is uncertain, its 95 % interval; as a text, "97 % (95 to 98)"."""

    value: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.interval})" if self.interval else self.value


def share(interval: Mapping[str, float] | None) -> Cell:
    """A share in percent."""
    if interval is None:
        return Cell(_NOT_MEASURED)
    return Cell(percent(interval["value"]), f"{100 * interval['low']:.0f} to {100 * interval['high']:.0f}")


def difference(interval: Mapping[str, float] | None) -> Cell:
    """A difference of shares in percentage points."""
    return Cell(_NOT_MEASURED) if interval is None else Cell(points(interval["value"]), span(interval))


def drift(interval: Mapping[str, float] | None) -> Cell:
    """A drift in nats per token."""
    return Cell(_NOT_MEASURED) if interval is None else Cell(f"{interval['value']:.3f}", nats_span(interval))


def code(text: str) -> str:
    """A text on one line, as code."""
    one_line = " ".join(printable(text).split())
    return f"`{one_line.replace('`', chr(39))}`" if one_line else "(nothing)"


def in_cell(text: str) -> str:
    """As `code`, in a table."""
    return code(text).replace("|", r"\|")


def fenced(text: str) -> str:
    """A text with its lines, between four backticks: it may have fences of its own."""
    return f"````text\n{printable(text).strip() or '(nothing)'}\n````"
