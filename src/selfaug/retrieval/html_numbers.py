"""What a page shows before the items of its lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from selfaug.retrieval.list_numbers import letters, roman

__all__ = ["ListNumbers"]

_BULLET = "- "
_NO_MARK = "  "
_NUMBER = re.compile(r"\s*([+-]?\d{1,9})(?!\d)", re.ASCII)
_STYLE = re.compile(r"(?<![\w-])list-style(?:-type)?:([^;]*)")
_FORMATS: dict[str, Callable[[int], str]] = {
    "a": letters,
    "A": lambda number: letters(number).upper(),
    "i": roman,
    "I": lambda number: roman(number).upper(),
}
_OF_STYLES = {
    "decimal": "1",
    "lower-alpha": "a",
    "lower-latin": "a",
    "upper-alpha": "A",
    "upper-latin": "A",
    "lower-roman": "i",
    "upper-roman": "I",
}
_OF_NO_NUMBER = frozenset({"none", "disc", "circle", "square"})


class ListNumbers:
    """Counts the items of a list, which have to come in its order.

    Args:
        element: the list; one without an order has bullets.
    """

    def __init__(self, element: Any) -> None:
        style = _STYLE.search(element.get("style", "").lower())
        words = style[1].split() if style else []
        self._has_numbers = element.tag == "ol" and not _OF_NO_NUMBER.intersection(words)
        said = next((_OF_STYLES[word] for word in words if word in _OF_STYLES), None)
        self._type = said or element.get("type", "1").strip()
        self._step = -1 if element.get("reversed") is not None else 1
        first = _number(element.get("start"))
        if first is None:
            first = sum(1 for _ in element.iterchildren("li")) if self._step < 0 else 1
        self._next = first
        self._mark = self._further = _NO_MARK  # `_further`: of an item's paragraphs but for the first

    def begin(self, item: Any) -> None:
        """The next item begins."""
        self._mark, self._further = _BULLET, _NO_MARK
        if not self._has_numbers:
            return
        said = _number(item.get("value"))
        number = self._next if said is None else said
        self._next = number + self._step
        written = _FORMATS.get(item.get("type", self._type).strip(), str)
        self._mark = f"{written(number)}. "

    def mark(self) -> str:
        """What stands before the next paragraph: the number or bullet of its item, which the item's first one has."""
        mark, self._mark = self._mark, self._further
        return mark

    def number(self) -> str:
        """Of an item that begins with what is no paragraph, as a heading; a bullet stays for the next paragraph."""
        if not self._mark.strip() or self._mark == _BULLET:
            return ""
        number, self._mark, self._further = self._mark, "", ""
        return number


def _number(text: str | None) -> int | None:
    found = _NUMBER.match(text or "")
    return int(found[1]) if found else None
