"""Columns of a page's tables as a reader sees them, where the page divides them more finely.

Filings give the sign of a currency, the figure and its closing bracket a cell each, beneath one name over all three,
and let a figure without a sign span two of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from selfaug.retrieval.plain_text import CURRENCY_SIGNS
from selfaug.retrieval.table_text import MAX_CELLS, Repeated, Rows, is_figure

__all__ = ["Cell", "joined_columns"]

_SIGN = re.compile(rf"(?:[A-Z]{{1,3}}(?=\$))?[{CURRENCY_SIGNS}] ?\(?|\(")
_CLOSING = re.compile(r"[)%][)% ]*")
_NO_AMOUNT = re.compile(r"[-\u2013\u2014]")


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A cell of a table, which stands in each place that it covers.

    Attributes:
        text: in one line.
        row: its first, from 0.
        column: its first, from 0.
        columns: how many it covers.
    """

    text: str
    row: int
    column: int
    columns: int


_NOTHING = Cell("", 0, 0, 1)


def joined_columns(grid: Sequence[Sequence[Cell]]) -> Rows:
    """Texts by row and column, as `table_blocks` takes them.

    Columns beside one another become one if some cell covers both, or a sign belongs to a figure, and no row says two
    things in them: then a name above them still names all that they hold. So do columns that say nothing new. A cell
    over several columns that is all of its row is a heading, and stands in the first of them alone, except above the
    first row of several cells, where it is a caption.

    Args:
        grid: cells by row and column; rows may be of different lengths.
    """
    width = max(map(len, grid), default=0)
    if len(grid) * width > MAX_CELLS:
        return [[cell.text for cell in row] for row in grid]  # table_blocks refuses it
    groups: list[tuple[int, list[Cell]]] = []
    before: tuple[Cell, ...] = ()
    for number, column in enumerate(zip_longest(*grid, fillvalue=_NOTHING)):
        joined = _joined(groups[-1][1], before, column, width) if groups else None
        if joined is None:
            groups.append((number, list(column)))
        else:
            groups[-1] = (groups[-1][0], joined)
        before = column
    rows: Rows = []
    has_names = False
    for number, cells in enumerate(zip(*(group for _, group in groups), strict=True)):
        texts = [_text(cell, number, first) for cell, (first, _) in zip(cells, groups, strict=True)]
        filled = {cell for cell in cells if cell.text}
        if has_names and len(filled) == 1 and texts[0]:
            texts[1:] = [""] * (len(texts) - 1)
        has_names = has_names or len(filled) > 1
        rows.append(texts)
    return rows


def _joined(
    group: Sequence[Cell], before: Sequence[Cell], column: Sequence[Cell], width: int
) -> list[Cell] | None:
    """Columns that are one, and another; None if that is one of its own.

    Args:
        group: what the columns say in each row.
        before: the last of them.
        column: the one after it.
        width: of the table: what covers all of it says nothing about two columns.
    """
    cells: list[Cell] = []
    belongs, is_new = False, False
    for left, last, right in zip(group, before, column, strict=True):
        if right is last or not right.text:
            belongs = belongs or (right is last and bool(right.text) and right.columns < width)
            cells.append(left)
            continue
        one = _one(left, right)
        if one is None:
            return None
        is_new = True
        belongs = belongs or one is not right
        cells.append(one)
    return cells if belongs or not is_new else None


def _one(left: Cell, right: Cell) -> Cell | None:
    """The cell that says what two say; None if only two can."""
    if not left.text:
        return right
    if (_SIGN.fullmatch(left.text) and _is_amount(right.text)) or (
        _CLOSING.fullmatch(right.text) and _is_amount(left.text)
    ):
        return Cell(left.text + right.text, left.row, left.column, 1)
    return None


def _is_amount(text: str) -> bool:
    return is_figure(text) or bool(_NO_AMOUNT.fullmatch(text))


def _text(cell: Cell, row: int, first_column: int) -> str:
    is_own = cell.row == row and cell.column >= first_column
    return cell.text if is_own else Repeated(cell.text)
