"""Columns of a table without rules: where its cells stand beneath one another, and which of them hold figures."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile, pairwise

from selfaug.retrieval.pdf_cells import Cell, CellRow

__all__ = ["NEAR_EDGE", "Column", "Columns", "columns_of", "first_value", "nearest"]

NEAR_EDGE = 0.7
"""Times the size of the letters: a bracket or a per cent sign hangs over a column's edge."""

_NARROWEST_RIVER = 1.5  # points between two columns
_VALUES = 0.6  # of a column's cells, if it is one of figures
_ALL_VALUES = 0.75  # of the cells from the first column of figures on
_ALIGNED = 0.75  # of the figures of a column
_LONGEST_TEXT = 30  # letters of a text among the figures
_MOST_COLUMNS = 60
_FIGURE_AT_END = re.compile(r"\s\W*\d+[.,]\d+\W*$")


@dataclass(frozen=True, slots=True)
class Column:
    """Cells that stand beneath one another.

    Attributes:
        left: where the first of them begins, in points, as the page is seen.
        right: where the last of them ends.
        holds_values: whether most are figures.
    """

    left: float
    right: float
    holds_values: bool

    @property
    def middle(self) -> float:
        """Half way from left to right."""
        return (self.left + self.right) / 2

    @property
    def width(self) -> float:
        """In points."""
        return self.right - self.left

    def overlap(self, cell: Cell) -> float:
        """Points that the column and a cell have in common; negative is the room between them."""
        return min(self.right, cell.right) - max(self.left, cell.left)


Columns = list[Column]


def columns_of(rows: Sequence[CellRow]) -> Columns | None:
    """Columns that no cell of the rows goes across, two of them at least of figures after one of labels.

    None if there are none, or if it is uncertain: the figures of each column have to be aligned at an edge or in the
    middle.

    Args:
        rows: with figures.
    """
    columns: Columns = []
    several_values = 0  # columns with more than one
    cells_of = _standing_together(rows)
    if len(cells_of) > _MOST_COLUMNS:
        return None
    size = statistics.median(row.size for row in rows)
    for cells in cells_of:
        values = [cell for _, cell in cells if cell.is_value]
        shared = Counter(row for row, _ in cells)
        if any(cell.is_value and shared[row] > 1 for row, cell in cells):
            return None  # two figures of a row, or a label that reaches into a column of them
        several_values += len(values) > 1
        holds_values = len(values) >= _VALUES * len(cells)
        if holds_values and not _are_aligned(values, size):
            return None
        columns.append(
            Column(min(cell.left for _, cell in cells), max(cell.right for _, cell in cells), holds_values)
        )
    after_label = sum(
        column.holds_values for column in dropwhile(lambda column: column.holds_values, columns)
    )
    return columns if min(several_values, after_label) > 1 and _are_figures(columns, rows) else None


def _standing_together(rows: Sequence[CellRow]) -> list[list[tuple[int, Cell]]]:
    """Cells in columns, from left to right, each with the index of its row."""
    found: list[list[tuple[int, Cell]]] = []
    end = 0.0
    all_cells = [(index, cell) for index, row in enumerate(rows) for cell in row.cells]
    for index, cell in sorted(all_cells, key=lambda pair: pair[1].left):
        if not found or cell.left >= end + _NARROWEST_RIVER:
            found.append([])
            end = cell.right
        found[-1].append((index, cell))
        end = max(end, cell.right)
    return found


def first_value(columns: Columns) -> int:
    """Index of the first column of figures after one of labels."""
    return next(
        index
        for index, (label, column) in enumerate(pairwise(columns), start=1)
        if column.holds_values and not label.holds_values
    )


def nearest(cell: Cell, columns: Columns) -> int:
    """Index of the column that most of the cell lies in, or that is nearest."""
    for index, column in enumerate(columns):
        if column.left <= cell.left and cell.right <= column.right:
            return index
    return max(range(len(columns)), key=lambda index: columns[index].overlap(cell))


def _are_figures(columns: Columns, rows: Sequence[CellRow]) -> bool:
    """Whether it is figures that stand after the label, and no text beside them or figure within the label."""
    first = columns[first_value(columns)]
    cells = [cell for row in rows for cell in row.cells if cell.left >= first.left]
    if sum(cell.is_value for cell in cells) < _ALL_VALUES * len(cells):
        return False
    if any(len(cell.text) > _LONGEST_TEXT for cell in cells):
        return False
    # So near to the label that they seem to be of it.
    return (
        sum(bool(_FIGURE_AT_END.search(row.cells[0].text[-_LONGEST_TEXT:])) for row in rows) <= len(rows) / 2
    )


def _are_aligned(cells: Sequence[Cell], size: float) -> bool:
    for edges in zip(*((cell.left, cell.right, cell.middle, cell.digits_end) for cell in cells), strict=True):
        usual = statistics.median_low(edges)
        if sum(abs(edge - usual) <= NEAR_EDGE * size for edge in edges) >= _ALIGNED * len(edges):
            return True
    return False
