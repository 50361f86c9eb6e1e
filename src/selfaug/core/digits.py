"""Digits of other scripts and of full width as ASCII has them."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["plain_digits"]

_TO_ASCII = 0xFEE0  # from a character of full width
_LAST_DIGIT = 0x1FBF9  # of all scripts
_PLAIN = {
    **{code: chr(code - _TO_ASCII) for code in range(0xFF01, 0xFF5F) if code != 0xFF0C},
    ord("\u066a"): "%",
    ord("\u066b"): ".",
    ord("\u066c"): ",",
    **{
        ord(digit): str(unicodedata.decimal(digit))
        for digit in re.findall(r"\d", "".join(map(chr, range(128, _LAST_DIGIT + 1))))
    },
}
# A comma of full width only in a number of such digits: elsewhere it divides words ("5，6").
_COMMA = re.compile("(?<=[\uff10-\uff19])\uff0c(?=[\uff10-\uff19])")


def plain_digits(text: str) -> str:
    """A text with digits, letters and signs of ASCII in place of those of full width, and of other scripts' digits.

    Each character stays one, at its place.
    """
    return text if text.isascii() else _COMMA.sub(",", text).translate(_PLAIN)
