"""What is shown to people: text of unknown origin made safe, for a terminal and a page, sizes and counts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["counted", "decimals_beside", "printable", "printable_number", "printable_size"]

_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_SIX_DIGITS = 1e5  # from here on, all of them are before the point
_MOST_DECIMALS = 3
# Without these, words of Persian and of India are spelt wrong, and one emoji becomes several.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """Text whose control characters are shown and not obeyed.

    A model can write anything, escape sequences that clear the screen or rename the window included, and
    marks that turn the direction of text.
    """
    return "".join(
        character
        if character in "\n\t" or character in _JOINERS or unicodedata.category(character) not in _UNSEEN
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_number(value: float) -> str:
    """Six digits, or all of those before the point: 28,800,000 and not 2.88e+07."""
    return f"{value:,.6g}" if abs(value) < _SIX_DIGITS else f"{value:,.0f}"


def decimals_beside(numbers: Iterable[float], limit: float, least: int = 1) -> int:
    """So many decimals, three at most, that none of the numbers seems to be the limit and isn't.

    Args:
        numbers: that are shown beside the limit.
        limit: what they are compared with.
        least: decimals that there are in any case.
    """
    others = [number for number in numbers if abs(number - limit) > 1e-9]
    decimals = least
    while decimals < _MOST_DECIMALS and round(limit, decimals) in [round(one, decimals) for one in others]:
        decimals += 1
    return decimals


def printable_size(size: float) -> str:
    """Bytes, in GB, or in MB where that would be a zero."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def counted(count: int, one: str, more: str | None = None) -> str:
    """A number with what is counted: "1 row", "1,200 rows".

    Args:
        count: how many.
        one: what one of them is called, with the verb if there is one: "row is", and then "rows are" as `more`.
        more: what several are called; None if that is with an s.
    """
    return f"{count:,} {one if count == 1 else f'{one}s' if more is None else more}"
