"""Text of unknown origin, made safe to show: on a terminal and in a page."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINS_EMOJI = "\u200d"


def printable(text: str) -> str:
    """Text whose control characters are shown and not obeyed.

    A model can write anything, escape sequences that clear the screen or rename the window included, and
    marks that turn the direction of text.
    """
    return "".join(
        character
        if character in "\n\t" or character == _JOINS_EMOJI or unicodedata.category(character) not in _UNSEEN
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
