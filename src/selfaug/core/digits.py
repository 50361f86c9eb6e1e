"""Digits of other scripts and of full width as ASCII has them."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["plain_digits"]

_TO_ASCII = 0xFEE0  # from a character of full width
_ARABIC = {"\u066a": "%", "\u066b": ".", "\u066c": ","}
# A comma of full width only in a number of such digits: elsewhere it divides words ("5，6").
_OTHERS = re.compile(
    "(?![0-9])\\d|[\uff01-\uff0b\uff0d-\uff5e\u066a-\u066c]|(?<=[\uff10-\uff19])\uff0c(?=[\uff10-\uff19])"
)


def plain_digits(text: str) -> str:
    """A text with digits, letters and signs of ASCII in place of those of full width, and of other scripts' digits.

    Each character stays one, at its place.
    """
    return text if text.isascii() else _OTHERS.sub(_plain, text)


def _plain(found: re.Match[str]) -> str:
    character = found[0]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    return _ARABIC.get(character) or chr(ord(character) - _TO_ASCII)
