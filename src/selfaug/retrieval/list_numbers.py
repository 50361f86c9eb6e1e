"""Numbers of lists as letters and as Roman ones."""

from __future__ import annotations

__all__ = ["letters", "roman"]

_ROMAN = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl")),
    *((10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)
_MOST_ROMAN = 3999


def letters(number: int) -> str:
    """Small letters as pages count: a to z, aa, ab, and so on; of what is below 1 its digits."""
    if number < 1:
        return str(number)
    found = ""
    while number:
        number, place = divmod(number - 1, 26)
        found = chr(ord("a") + place) + found
    return found


def roman(number: int) -> str:
    """In small letters; of what has no Roman number its digits."""
    if not 0 < number <= _MOST_ROMAN:
        return str(number)
    found = ""
    for value, sign in _ROMAN:
        count, number = divmod(number, value)
        found += count * sign
    return found
