"""Lines of a page, with what pdfium knows of their place and size."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pypdfium2.raw as pdfium

__all__ = ["HYPHEN", "Line", "PageText", "lines_of"]

HYPHEN = "\ufffe"
"""What pdfium writes for a hyphen at the end of a line; it joins that line with the next one."""

_LINE = re.compile(r"[^\r\n]+")


@dataclass(frozen=True, slots=True)
class Line:
    """A line, or several that are joined by hyphens; in points, as the page is seen, y growing upwards.

    Attributes:
        text: with `HYPHEN` where lines are joined.
        start: index of its first character in the page's text.
        left: where it begins; of the first of its lines, as `top`, its baseline.
        right: where it ends; of the last of its lines, as `bottom`, its baseline.
        size: of its letters.
    """

    text: str
    start: int
    left: float
    right: float
    top: float
    bottom: float
    size: float


class PageText:
    """Characters of a page, and where they are.

    Attributes:
        text: all of it, lines divided by CR LF.
    """

    def __init__(self, textpage: Any, rotation: int) -> None:
        self._page = textpage
        self._rotation = rotation
        self._box = pdfium.FS_RECTF()  # asked for most characters of a table
        self.text: str = textpage.get_text_range()
        self._same_index = len(self.text) == textpage.count_chars()

    def upright(self, x: float, y: float) -> tuple[float, float]:
        """A point of the page's own space, as the page is seen: rotated pages are turned back."""
        if not self._rotation:
            return x, y
        return {90: (y, -x), 180: (-x, -y), 270: (-y, x)}.get(self._rotation, (x, y))

    def origin(self, index: int) -> tuple[float, float]:
        """Where the character's baseline begins."""
        x, y = ctypes.c_double(), ctypes.c_double()
        pdfium.FPDFText_GetCharOrigin(self._page, self._character(index), x, y)
        return self.upright(x.value, y.value)

    def box(self, index: int) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of the character."""
        found = self._box
        pdfium.FPDFText_GetLooseCharBox(self._page, self._character(index), found)
        if not self._rotation and found.left <= found.right and found.bottom <= found.top:
            return found.left, found.bottom, found.right, found.top
        (x0, y0), (x1, y1) = self.upright(found.left, found.bottom), self.upright(found.right, found.top)
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)

    def size(self, index: int) -> float:
        """Size of the letter in points: that of its font, times the scale of its text."""
        matrix = pdfium.FS_MATRIX()
        character = self._character(index)
        scale = 1.0
        if pdfium.FPDFText_GetMatrix(self._page, character, matrix):
            scale = math.hypot(matrix.c, matrix.d) or 1.0
        return round(float(pdfium.FPDFText_GetFontSize(self._page, character)) * scale * 2) / 2

    def _character(self, index: int) -> int:
        """pdfium counts characters otherwise than text where some are hidden or beyond 16 bits."""
        if self._same_index:
            return index
        return int(pdfium.FPDFText_GetCharIndexFromTextIndex(self._page, index))


def lines_of(page: PageText, start: int, end: int) -> Iterator[Line]:
    """Lines of a page's text from one index to another; blank ones are left out."""
    for found in _LINE.finditer(page.text, start, end):
        text = found[0].strip()
        if not text:
            continue
        first = found.start() + len(found[0]) - len(found[0].lstrip())
        last = first + len(text) - 1
        left, top = page.origin(first)
        _, bottom = page.origin(last)
        middle = first + len(text[: len(text) // 2 + 1].rstrip()) - 1  # a space between cells has no size
        yield Line(text, first, left, page.box(last)[2], top, bottom, page.size(middle))
