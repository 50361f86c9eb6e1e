"""Lines of a page that lie side by side, cut into cells where there is more room than between words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from selfaug.retrieval.pdf_lines import HYPHEN, Line, PageText
from selfaug.retrieval.plain_text import CURRENCY_SIGNS, MONTHS
from selfaug.retrieval.table_text import is_figure

__all__ = ["Cell", "CellRow", "Word", "cell_rows", "is_period", "is_value"]

_CELL_GAP = 0.6  # times the size of the letters; a space is a quarter of it, in justified text up to a half
_THOUSANDS_GAP = 0.5  # times the size; in type of one width, where a space is wider, thousands can't be told
_SAME_ROW = 0.3  # times the size: baselines that differ by less are one
_ROWS_BACK = 6  # cells of several lines are written one after the other, each from its first line
_LONGEST_PERIOD = 40  # letters
_NEAR_SIGN = 2.0  # times the size, from a figure to the bracket or per cent sign that closes it

# Dots that lead from a label to its figures are left out: they would fill the room between the two.
_WORD = re.compile(r"(?:\. ){2,}\.|\.{3,}|…|((?:(?!\.{3}|…)\S)+)")
_CURRENCY = re.compile(rf"\(?\s?[A-Z]{{0,3}}[{CURRENCY_SIGNS}]\s?\(?|\(")
_CLOSING = re.compile(r"\)?\s?[%‰]?\s?\)?")
_ONE_FIGURE = re.compile(r"\W*(?:\d{1,3}(?: \d{3})+|\d+)(?:[.,]\d+)?\W*")
_NO_FIGURE = re.compile(
    rf"[({CURRENCY_SIGNS}\s]*(?:[-–—−‒]{{1,2}}|n\.?\s?/?\s?[am]\.?|nil)[)%\s]*", re.IGNORECASE
)
_YEAR = r"(?:19|20)\d\d"
_PERIOD = re.compile(
    rf"(?:fy\s?)?{_YEAR}(?:\s?[/–-]\s?(?:\d\d)?\d\d)?\s?[aefp]?|fy\s?\d\d"
    r"|(?:[1-4][qh]|[qh][1-4]|(?:3|6|9|12)m)\s?[/']?\s?(?:\d\d)?\d\d"
    rf"|\d{{1,2}}[.\s/-]*(?:{MONTHS})[a-z]{{0,6}}\.?(?:\s?{_YEAR})?|\d{{1,2}}[./-]\d{{1,2}}[./-](?:\d\d)?\d\d",
    re.IGNORECASE,
)
_NOTE_MARK = re.compile(r"(?<=\w{2})(?:\s?[*†‡¹²³⁴⁵]|\s?\(?\d\)|\^\w{1,2})+$")
_LAST_DIGIT = re.compile(r"[^^]*\d")  # before the mark of a note
_DIVIDED = re.compile(rf"{HYPHEN}\s*(?=[^\W\d_])")


class Word(NamedTuple):
    """A word, and where it begins and ends, in points, as the page is seen.

    Attributes:
        text: of it.
        left: where it begins.
        right: where it ends.
        digits_end: where the last of its digits ends, if it has any; else where it ends.
    """

    text: str
    left: float
    right: float
    digits_end: float


@dataclass(frozen=True)
class Cell:
    """Words that stand together.

    Attributes:
        words: of it, one at least.
    """

    words: tuple[Word, ...]

    @cached_property
    def text(self) -> str:
        """Its words, those that were divided at the end of a line as one."""
        text = " ".join([word.text for word in self.words])
        return _DIVIDED.sub("", text).replace(HYPHEN, "-") if HYPHEN in text else text

    @cached_property
    def left(self) -> float:
        """Where it begins, in points, as the page is seen."""
        return min([word.left for word in self.words])

    @cached_property
    def right(self) -> float:
        """Where it ends."""
        return max([word.right for word in self.words])

    @property
    def middle(self) -> float:
        """Half way from left to right."""
        return (self.left + self.right) / 2

    @property
    def digits_end(self) -> float:
        """Where its digits end: brackets and per cent signs hang over the edge of a column."""
        ends = [word.digits_end for word in self.words if _LAST_DIGIT.match(word.text)]
        return ends[-1] if ends else self.right

    @cached_property
    def is_value(self) -> bool:
        """Whether it is a figure, or what stands for one: a dash, "n/a". A year is a name."""
        return is_value(self.text)


@dataclass(frozen=True)
class CellRow:
    """Cells whose baseline is the same.

    Attributes:
        lines: that it is made of.
        page: that they are on.
    """

    lines: tuple[Line, ...]
    page: PageText

    @cached_property
    def cells(self) -> list[Cell]:
        """From left to right; none in a line of nothing but dots."""
        return _cells(self.page, self.lines)

    @property
    def top(self) -> float:
        """Baseline of the first line."""
        return self.lines[0].top

    @property
    def bottom(self) -> float:
        """Baseline of the last of lines that are joined by hyphens."""
        return min(self.lines[0].top, self.lines[0].bottom)

    @property
    def size(self) -> float:
        """Of the letters, in points."""
        return max(self.lines[0].size, 1.0)

    @cached_property
    def values(self) -> list[Cell]:
        """Figures after the label; all of them where there is none."""
        label = next((index for index, cell in enumerate(self.cells) if not cell.is_value), -1)
        return [cell for cell in self.cells[label + 1 :] if cell.is_value]

    @property
    def is_labelled(self) -> bool:
        """Whether there is a word, or a period, before the figures."""
        return bool(self.values) and any(
            cell.left < self.values[0].left and not cell.is_value for cell in self.cells
        )


def is_period(text: str) -> bool:
    """Whether a cell names a year, quarter or day, perhaps with the mark of a footnote."""
    return len(text) < _LONGEST_PERIOD and bool(_PERIOD.fullmatch(_NOTE_MARK.sub("", text)))


def is_value(text: str) -> bool:
    """Whether a text is a figure, or what stands for one: a dash, "n/a". A year is a name."""
    return bool(_NO_FIGURE.fullmatch(text)) or (is_figure(text) and not is_period(text))


def cell_rows(page: PageText, lines: Sequence[Line]) -> list[CellRow]:
    """Rows of cells, from lines in reading order."""
    rows: list[list[Line]] = []
    back: list[tuple[list[Line], Line]] = []
    for line in lines:
        _put(line, rows, back)
    return [CellRow(tuple(row), page) for row in rows]


def _put(line: Line, rows: list[list[Line]], back: list[tuple[list[Line], Line]]) -> None:
    """Add a line to the row that it goes on, or as a row; it must lie to the right of what it goes back over.

    Args:
        line: the next one.
        rows: of the lines before it.
        back: the lines right before it that went on a row before the last, after that row.
    """
    for index in range(len(rows) - 1, max(len(rows) - 1 - _ROWS_BACK, -1), -1):
        row = rows[index]
        if row[-1].right > line.left + 1:
            break
        height = line.top - row[0].top
        if abs(height) < _SAME_ROW * line.size:
            if index < len(rows) - 1:
                if _is_row(line):
                    break
                back.append((row, line))
            row.append(line)
            return
        if height < 0:
            back.clear()
            rows.insert(index + 1, [line])
            return
    if rows and line.top > rows[-1][0].top:
        # A table beside text, or beside another table, which was written before: so did its names go back.
        rows += _taken_out(back, line.left)
    back.clear()
    rows.append([line])


def _taken_out(back: Sequence[tuple[list[Line], Line]], left: float) -> list[list[Line]]:
    """Of the lines that went back those from a place on the page on, out of their rows, as rows of their own."""
    own: dict[int, list[Line]] = {}
    for row, line in back:
        if line.left >= left:
            row.remove(line)
            own.setdefault(id(row), []).append(line)
    return list(own.values())


def _is_row(line: Line) -> bool:
    """Whether a line has a label and two figures, or periods, of its own."""
    words = [word for word in line.text.split() if not _CURRENCY.fullmatch(word)]
    are_figures = [is_value(word) or is_period(word) for word in words]
    return len(words) > 2 and not are_figures[0] and all(are_figures[-2:])


def _cells(page: PageText, lines: Iterable[Line]) -> list[Cell]:
    """Cells of a row; a currency sign and a closing bracket go with their figure, however far it is."""
    cells: list[Cell] = []
    opens = False
    for piece, size in _pieces(page, lines):
        for cell in _parted(piece, size):
            closes = (
                cells
                and _CLOSING.fullmatch(cell.text)
                and cells[-1].is_value
                and cell.left - cells[-1].right < _NEAR_SIGN * size
            )
            if closes or (opens and cell.is_value):
                cell = Cell((*cells.pop().words, *cell.words))
            opens = bool(_CURRENCY.fullmatch(cell.text))
            cells.append(cell)
    return cells


def _pieces(page: PageText, lines: Iterable[Line]) -> Iterator[tuple[Cell, float]]:
    """Words without much room between them, and their size."""
    words: list[Word] = []
    right = size = 0.0
    for line in lines:
        for found in _WORD.finditer(line.text):
            if not found[1]:
                continue
            first = line.start + found.start()
            begins, ends = page.box(first)[0], page.box(line.start + found.end() - 1)[2]
            digit = _LAST_DIGIT.match(found[1])
            hangs = digit is not None and digit.end() < len(found[1])
            digits_end = page.box(first + digit.end() - 1)[2] if digit and hangs else ends
            if words and begins - right > _CELL_GAP * line.size:
                yield Cell(tuple(words)), size
                words = []
            right = max(right, ends) if words else ends
            size = line.size
            words.append(Word(found[1], begins, ends, digits_end))
    if words:
        yield Cell(tuple(words)), size


def _parted(cell: Cell, size: float) -> Iterable[Cell]:
    """Figures with a single space between them, which are no thousands, each as a cell."""
    if len(cell.words) == 1 or not all(is_value(word.text) or is_period(word.text) for word in cell.words):
        return (cell,)
    wide = any(right.left - left.right > _THOUSANDS_GAP * size for left, right in pairwise(cell.words))
    return (
        (cell,) if not wide and _ONE_FIGURE.fullmatch(cell.text) else [Cell((word,)) for word in cell.words]
    )
