"""Lines of a page, with what pdfium knows of their place and size."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium

from selfaug.retrieval.plain_text import caret

__all__ = ["HYPHEN", "Line", "PageText", "has_unknown_letters", "lines_of"]

HYPHEN = "\ufffe"
"""What pdfium writes for a hyphen at the end of a line; it joins that line with the next one."""

_LINE = re.compile(r"[^\r\n]+")

# Digits, of which the last, or a letter after them, may be superscript; and with what a line begins, since pdfium puts
# some superscripts there. Both begin with what a search finds fast: every page is looked through.
_DIGITS = re.compile(r"[0-9](?:[0-9.,]*(?:[^\W_]|[-–−][0-9])|(?<=[^\W\d_][0-9])|(?<=[%)][0-9]))")
_LINE_BEGINS = re.compile(r"\r\n(?:[-–−]?\w(?=[\w,]{0,3}(?:\r\n|\Z))|[0-9](?=[0-9,]{0,3} ))")
_GOES_ON = re.compile(r"\r\n *\S")
_LEAST_RISE = 0.5  # points; most figures have none, and take no more time
_RAISED_BY = 0.15  # times the size of the letters before it
_RAISED_AT_MOST = 0.8
_RAISED_SIZE = 0.9
_TOUCHING = 0.25

# Of a page, to see whether its fonts say which letters they have; more of them where many don't.
_FEW_LETTERS = 30
_MORE_LETTERS = 300
_LIKE_TEXT = 0.6
_CONTROL_CODES = 0.02
_FILLS = frozenset(map(ord, " .,"))  # a table of contents may be mostly leaders


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


class _Superscript(NamedTuple):
    """Where superscript letters or digits are, by indices in pdfium's text.

    Attributes:
        stop: end of the text before.
        first: where they begin; `stop`, or after the end of a line that pdfium put between.
        last: where they end.
        resumes: where the text goes on; `last`, or after such an end of a line.
        baseline: of the line.
    """

    stop: int
    first: int
    last: int
    resumes: int
    baseline: float


def has_unknown_letters(textpage: Any) -> bool:
    """Whether most of what a page shows can't be told: its fonts have shapes, and don't say of which letters.

    pdfium takes the number of a letter in its font for the letter then: "5HYHQXH" for "Revenue". In the bitmap fonts of
    old TeX, and in some others, it is the letter all the same; so the numbers have to look otherwise than text.
    """
    places, unmapped = _unmapped(textpage, _FEW_LETTERS)
    if 2 * len(unmapped) <= len(places):
        return False
    _, unmapped = _unmapped(textpage, _MORE_LETTERS)
    codes = [(index, int(pdfium.FPDFText_GetUnicode(textpage, index))) for index in unmapped]
    codes = [(index, code) for index, code in codes if code not in _FILLS]
    like_text = sum(code < 128 and chr(code).isalnum() for _, code in codes)
    if like_text < _LIKE_TEXT * len(codes):
        return True
    control = sum(code < 32 and not _is_bitmap(textpage, index) for index, code in codes)
    return control > _CONTROL_CODES * len(codes)


def _unmapped(textpage: Any, at_least: int) -> tuple[range, list[int]]:
    """Some characters of a page, and those of them that no font names."""
    places = range(0, textpage.count_chars(), max(textpage.count_chars() // at_least, 1))
    return places, [index for index in places if pdfium.FPDFText_HasUnicodeMapError(textpage, index) == 1]


def _is_bitmap(textpage: Any, index: int) -> bool:
    """Whether a character's font is one of drawn letters (Type 3): these fonts alone have no name."""
    shown = pdfium.FPDFText_GetTextObject(textpage, index)
    font = pdfium.FPDFTextObj_GetFont(shown) if shown else None
    return bool(font) and pdfium.FPDFFont_GetBaseFontName(font, None, 0) <= 1


class PageText:
    """Characters of a page, and where they are.

    Attributes:
        text: all of it, lines divided by CR LF. `^` stands before a superscript that would else be read as a part of
            the figure or word before it; superscripts have the baseline of what is before them.
    """

    def __init__(self, textpage: Any, rotation: int) -> None:
        self._page = textpage
        self._rotation = rotation
        self._box = pdfium.FS_RECTF()  # asked for most characters of a table
        self._origin = ctypes.c_double(), ctypes.c_double()
        self.text: str = textpage.get_text_range()
        self._same_index = len(self.text) == textpage.count_chars()
        self._indices: list[int] = []  # in pdfium's text, where this one differs from it
        self._baselines: dict[int, float] = {}  # of superscripts: that of the line
        self._mark_raised()

    def upright(self, x: float, y: float) -> tuple[float, float]:
        """A point of the page's own space, as the page is seen: rotated pages are turned back."""
        if not self._rotation:
            return x, y
        return {90: (y, -x), 180: (-x, -y), 270: (-y, x)}.get(self._rotation, (x, y))

    def origin(self, index: int) -> tuple[float, float]:
        """Where the character's baseline begins."""
        x, y = self._origin
        pdfium.FPDFText_GetCharOrigin(self._page, self._character(index), x, y)
        across, up = self.upright(x.value, y.value)
        return across, self._baselines.get(index, up)

    def is_raised(self, index: int) -> bool:
        """Whether the character is superscript."""
        return index in self._baselines

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

    def _mark_raised(self) -> None:
        raised = list(self._raised())
        if not raised:
            return
        parts: list[str] = []
        indices: list[int] = []
        end = 0
        for one in raised:
            superscript = self.text[one.first : one.last]
            mark = caret(self.text[max(one.stop - 3, 0) : one.stop], superscript)
            parts += [self.text[end : one.stop], mark, superscript]
            indices += range(end, one.stop)
            begins = len(indices)
            indices += [*[one.first] * len(mark), *range(one.first, one.last)]
            self._baselines |= dict.fromkeys(range(begins, len(indices)), one.baseline)
            end = one.resumes
        self._indices = [*indices, *range(end, len(self.text))]
        self.text = "".join([*parts, self.text[end:]])

    def _raised(self) -> Iterator[_Superscript]:
        last = 0
        for start, end in _may_be_raised(self.text):
            if start < last:
                continue
            baseline = self.origin(start)[1]
            if self.origin(end - 1)[1] < baseline + _LEAST_RISE:
                continue
            found = self._superscript(start, end, baseline)
            if found is not None:
                yield found
                last = found.last

    def _superscript(self, start: int, end: int, baseline: float) -> _Superscript | None:
        """The superscript at a place, if there is one.

        Args:
            start: index of a character before it.
            end: index after its first character, or a further one.
            baseline: of the character before it.
        """
        size = self.size(start)
        higher = baseline + _RAISED_BY * size
        if self.size(end - 1) > _RAISED_SIZE * size or not self._is_above(end - 1, higher):
            return None
        first = next(index for index in range(start + 1, end) if self._is_above(index, higher))
        stop = first - 2 if self.text[first - 1] == "\n" else first
        if stop < first and not self._touch(stop - 1, first, size):
            return None
        while end < len(self.text) and self._is_above(end, higher):
            end += 1
        return _Superscript(stop, first, end, self._resumes(end, baseline, size), baseline)

    def _resumes(self, end: int, baseline: float, size: float) -> int:
        """Where the text goes on after a superscript: pdfium may have ended the line there."""
        following = _GOES_ON.match(self.text, end)
        if following is None:
            return end
        left, height = self.box(following.end() - 1)[0], self.origin(following.end() - 1)[1]
        near = -_TOUCHING * size < left - self.box(end - 1)[2] < size
        return end + 2 if near and abs(height - baseline) < _RAISED_BY * size else end

    def _is_above(self, index: int, height: float) -> bool:
        return not self.text[index].isspace() and self.origin(index)[1] > height

    def _touch(self, left: int, right: int, size: float) -> bool:
        """Whether a character begins where another ends, and not a line above it."""
        apart = self.box(right)[0] - self.box(left)[2]
        return (
            abs(apart) < _TOUCHING * size
            and self.origin(right)[1] < self.origin(left)[1] + _RAISED_AT_MOST * size
        )

    def _character(self, index: int) -> int:
        """pdfium counts characters otherwise than text where some are hidden or beyond 16 bits."""
        if self._indices:
            index = self._indices[index]
        if self._same_index:
            return index
        return int(pdfium.FPDFText_GetCharIndexFromTextIndex(self._page, index))


def _may_be_raised(text: str) -> list[tuple[int, int]]:
    """Where superscripts may be: index of a character before one, and the end of what may be one."""
    found: list[tuple[int, int]] = []
    for match in _DIGITS.finditer(text):
        start, end = match.span()
        if start and (text[start - 1].isalpha() or text[start - 1] in "%)"):
            start -= 1
        found.append((start, end))
    for match in _LINE_BEGINS.finditer(text, 1):
        start, end = match.span()
        if text[start - 1].isalnum() or text[start - 1] in "%)":
            found.append((start - 1, end))
    return sorted(found)


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
        size = page.size(first if page.is_raised(middle) else middle)
        yield Line(text, first, left, page.box(last)[2], top, bottom, size)
