"""Tables as Markdown: a header row, and a row for each row, with its numbers in the right column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, zip_longest

from selfaug.core.digits import plain_digits
from selfaug.retrieval.document import Block, UnreadableDocument
from selfaug.retrieval.plain_text import CURRENCY_SIGNS, MONTHS, tidy

__all__ = [
    "MAX_CELLS",
    "ROWS_PER_BLOCK",
    "Repeated",
    "Rows",
    "header_and_rows",
    "is_figure",
    "labelled_cells",
    "names_unit",
    "table_blocks",
]

MAX_CELLS = 2_000_000
"""Of one table; more of them would take gigabytes."""

ROWS_PER_BLOCK = 200
"""A longer table is several blocks, each with the header."""

Rows = list[list[str]]


class Repeated(str):
    """A merged cell's text in the places after its first: two cells that happen to be equal are not one."""

    __slots__ = ()


_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")
_OUTER_STROKES = re.compile(r"^\||(?<!\\)\|$")
# An apostrophe stands between thousands, as in Switzerland, and not in "1990's".
_NUMBER = re.compile(
    r"(?:[A-Z]{1,3}(?=\$))?[^\w]*\d(?:[\d\s.,:/%()+-]|['’](?=\d{3}))*\w{0,3}[^\w]*(?:\^\W?\w{1,3}\W*)?"
)
_YEAR = re.compile(r"(?:19|20)\d\d(?:\^\w)?")  # perhaps with the mark of a note

_MOST_CAPTIONS = 6  # one above the other: company, statement, unit, period

_LONGEST_UNIT = 80  # letters of a line that names one
_UNIT = re.compile(
    rf"[{CURRENCY_SIGNS}%]|\b(?:[TK]?EUR|USD|GBP|CHF|JPY|CNY|RMB|INR|SEK|NOK|DKK|CAD|AUD|dollars?|euros?|000s?|thousands?|millions?|"
    r"billions?|crores?|lakhs?|mn|bn|mio|mrd|tsd|tausend|millionen|milliarden|milliers|milliards|miles de|millones|"
    r"per ?cent|percentages?|prozent)\b",
    re.IGNORECASE,
)
_MONTH = f"(?:{MONTHS})[a-z]*"
# Digits that are no figure: thousands as a unit, years, quarters, days, and the number of a table.
_NO_FIGURE = re.compile(
    rf"\b(?:1[,.'’\s]?)?000s?\b|\b(?:19|20)\d\d\b|\b[qh][1-4]\b|\b\d\d?\.?\s{_MONTH}|\b{_MONTH}\s\d\d?\b"
    r"|\A\W*[^\W\d]*\s?\d+(?:\.\d+)*[.:)]\s+(?=[^\W\d])",
    re.IGNORECASE,
)


def table_blocks(
    cells: Iterable[Sequence[str]], *, page: int | None = None, sheet: str | None = None
) -> Iterator[Block]:
    """A table's blocks.

    Empty rows and columns are left out. A first row that is one cell is a caption, and becomes a block of its own
    before the table; header cells that lie over several columns are joined with those beneath them. What has only
    one row or one column is text.

    Args:
        cells: rows from top to bottom; a cell that spans several rows or columns has its text in each of them, as
            `Repeated` in all but the first.
        page: of the blocks.
        sheet: of the blocks.

    Raises:
        UnreadableDocument: if it has more than `MAX_CELLS` cells.
    """
    rows = _without_gaps(_tidied(cells))
    while len(rows) > 2 and _is_caption(rows[0], _beneath_captions(rows)):
        caption = next(cell for cell in rows[0] if cell)
        if not isinstance(caption, Repeated):  # else it spans several rows, and stands there already
            yield Block("text", caption, page=page, sheet=sheet)
        rows = _without_gaps(rows[1:])
    if not rows:
        return
    if len(rows) == 1 or len(rows[0]) == 1:
        lines = [" | ".join(_own_texts(row)) for row in rows]
        yield Block("text", "\n".join(filter(None, lines)), page=page, sheet=sheet)
        return
    header, body = _header_and_body(rows)
    head = [_line(header), "|" + " --- |" * len(header)]
    for start in range(0, len(body), ROWS_PER_BLOCK):
        lines = [_line(row) for row in body[start : start + ROWS_PER_BLOCK]]
        yield Block("table", "\n".join([*head, *lines]), page=page, sheet=sheet)


def header_and_rows(table: str) -> tuple[str, list[str]]:
    """The two lines of a Markdown table's header, and the line of each row; without a header, "" and all lines."""
    lines = table.splitlines()
    if len(lines) > 2 and set(lines[1]) <= set("|-: "):
        return "\n".join(lines[:2]), lines[2:]
    return "", lines


def labelled_cells(header: str, row: str) -> list[str]:
    """A row's cells that are not empty, each with its column's name: `FY2022: 784`.

    Args:
        header: of the Markdown table, whose first line has the names.
        row: a line of it.
    """
    named = zip_longest(_cells(header.partition("\n")[0]), _cells(row), fillvalue="")
    return [f"{name}: {cell}" if name else cell for name, cell in named if cell]


def is_figure(cell: str) -> bool:
    """Whether a cell holds a number; a year is none, because years are names of columns."""
    cell = plain_digits(cell.strip())
    return len(cell) < 40 and bool(_NUMBER.fullmatch(cell)) and not _YEAR.fullmatch(cell)


def names_unit(text: str) -> bool:
    """Whether a text is a short line that names a unit, as above a table, and no figure: "(in EUR million)"."""
    return (
        len(text) <= _LONGEST_UNIT
        and not any(sign in text for sign in "\n|")
        and bool(_UNIT.search(text))
        and not any(map(str.isdigit, _NO_FIGURE.sub("", text)))
    )


def _tidied(cells: Iterable[Sequence[str]]) -> Rows:
    rows: Rows = []
    width = 0
    for row in cells:
        width = max(width, len(row))
        if (len(rows) + 1) * width > MAX_CELLS:
            raise UnreadableDocument(f"a table of more than {MAX_CELLS:,} cells; split it into smaller files")
        rows.append([Repeated(tidy(cell)) if isinstance(cell, Repeated) else tidy(cell) for cell in row])
    for row in rows:
        row += [""] * (width - len(row))
    return rows


def _without_gaps(rows: Rows) -> Rows:
    rows = [row for row in rows if any(row)]
    used = [any(column) for column in zip(*rows, strict=True)]
    if all(used):
        return rows
    return [[cell for cell, keep in zip(row, used, strict=True) if keep] for row in rows]


def _own_texts(row: Sequence[str]) -> list[str]:
    return [cell for cell in row if cell and not isinstance(cell, Repeated)]


def _beneath_captions(rows: Rows) -> list[str]:
    """What a first row may be the caption of: the next row, or the first of several cells beneath more captions.

    Beneath these most rows have several cells: a list with some remarks beside it has no captions.
    """
    for index, row in enumerate(rows[1 : 1 + _MOST_CAPTIONS], start=1):
        if len(_own_texts(row)) > 1:
            filled = sum(len(_own_texts(below)) > 1 for below in rows[index:])
            return row if 2 * filled > len(rows) - index else rows[1]
    return rows[1]


def _is_caption(row: list[str], following: list[str]) -> bool:
    texts = [cell for cell in row if cell]
    if len(row) == 1 or len(set(texts)) != 1 or len(_own_texts(row)) > 1:
        return False
    alone = len(texts) == 1 and bool(row[0]) and not _NUMBER.fullmatch(row[0])
    return len(texts) == len(row) or (alone and sum(map(bool, following)) > 1)


def _header_and_body(rows: Rows) -> tuple[list[str], Rows]:
    """Two header rows become one where the first has cells that lie over several columns, merged or not."""
    first, second = rows[0], rows[1]
    lies_over = len(rows) > 2 and _lies_over(first, second, rows[2])
    if lies_over:
        first = _filled(first, second)
    spans = lies_over or any(
        right and isinstance(right, Repeated) and left == right for left, right in pairwise(first)
    )
    if not spans or len(rows) < 3 or any(is_figure(cell) for cell in second[1:]):
        return first, rows[1:]
    header = [
        " ".join(dict.fromkeys(part for part in pair if part)) for pair in zip(first, second, strict=True)
    ]
    return header, rows[2:]


def _lies_over(first: Sequence[str], second: Sequence[str], third: Sequence[str]) -> bool:
    """Whether names stand in a first row above groups of columns, without being merged: North, nothing, South, nothing.

    The names beneath them are complete, those of one group return in the next or are years, and figures follow.
    """
    named = [cell for cell in second[1:] if cell]
    return (
        not (first[0] and second[0])  # else they are two rows
        and "" in first[1:]
        and any(first[1:])
        and all(above or below for above, below in zip(first[1:], second[1:], strict=True))
        and not any(map(is_figure, named))
        and (len(set(named)) < len(named) or all(map(_YEAR.fullmatch, named)))
        and any(map(is_figure, third[1:]))
    )


def _filled(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """A first row with its names over all columns of their groups."""
    filled, name = [first[0]], ""
    for above, below in zip(first[1:], second[1:], strict=True):
        filled.append(above or name)
        name = filled[-1] if below else ""  # a name with nothing beneath it is of its column alone
    return filled


def _cells(line: str) -> list[str]:
    """What `_line` was given, or a hand-written table's row, which may lack the outer strokes."""
    inner = _OUTER_STROKES.sub("", line.strip())
    return [cell.strip().replace("\\|", "|") for cell in _BETWEEN_CELLS.split(inner)]


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
