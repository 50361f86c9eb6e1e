"""Names above the columns of a table without rules: years, units, and names that lie over several columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations, pairwise

from selfaug.retrieval.pdf_cells import Cell, CellRow
from selfaug.retrieval.pdf_columns import NEAR_EDGE, Column, Columns, first_value, nearest

__all__ = ["are_enough", "are_names", "names_by_column"]

_LONGEST_NAME = 60  # letters
_MOST_WORDS = 14  # of names with a single space between them
_EXACT = 0.2  # times the size, from the edge of a name to that of its column
_OFF_MIDDLE = 0.15  # of a column's width, with the room to the next


def are_names(row: CellRow, columns: Columns) -> bool:
    """Whether a row may name columns: it has no figures, and is no title that goes across the table."""
    first = columns[first_value(columns)]
    if any(cell.is_value or len(cell.text) > _LONGEST_NAME for cell in row.cells):
        return False
    names = [cell for cell in row.cells if cell.right > first.left]
    labels_begin = columns[0].left + 2 * row.size
    labels_end = columns[first_value(columns) - 1].right - 0.5 * row.size
    if any(
        name.left < labels_end and (name.left < labels_begin or name.right > first.right + 0.5 * row.size)
        for name in names
    ):
        return False
    if len(row.cells) == 1 and names:
        return bool(_certainly_under(names[0], columns[first_value(columns) :], row.size))
    return bool(names)


def names_by_column(rows: Sequence[CellRow], columns: Columns) -> list[list[str]]:
    """Of each row of names the texts by column; one that lies over several columns is in each of them."""
    texts: list[list[str]] = []
    for row in reversed(rows):
        texts.insert(0, _texts(row, columns, texts[0] if texts else []))
    return texts


def are_enough(names: Sequence[Sequence[str]], columns: Columns) -> bool:
    """Whether names tell columns apart: some row has several, and of three columns of figures one lacks them at most.

    Args:
        names: as `names_by_column` gives them.
        columns: that are named.
    """
    first = first_value(columns)
    if not any(len(set(filter(None, row[first:]))) > 1 for row in names):
        return False
    figures = [index for index in range(first, len(columns)) if columns[index].holds_values]
    unnamed = [index for index in figures if not any(row[index] for row in names)]
    return len(unnamed) <= len(figures) // 3


def _texts(row: CellRow, columns: Columns, beneath: Sequence[str]) -> list[str]:
    first = first_value(columns)
    texts: list[list[str]] = [[] for _ in columns]
    labels = [cell for cell in row.cells if cell.right <= columns[first].left]
    for cell in labels:
        texts[nearest(cell, columns[:first])].append(cell.text)
    names = row.cells[len(labels) :]
    if not beneath:  # names above others may lie over several columns
        names = [part for cell in names for part in _parts(cell, columns[first:], row.size)]
    for cell, indices in zip(names, _under(names, columns[first:], row.size, beneath[first:]), strict=True):
        for index in indices:
            texts[first + index].append(cell.text)
    return [" ".join(parts) for parts in texts]


def _parts(cell: Cell, columns: Columns, size: float) -> Sequence[Cell]:
    """The names, with a single space between them, that a cell is made of; itself, if they fit no columns."""
    words = cell.words
    first, last = (nearest(Cell((word,)), columns) for word in (words[0], words[-1]))
    under = columns[first : last + 1]
    if cell.text.startswith("(") or not 1 < len(under) <= len(words) <= _MOST_WORDS:
        return [cell]

    def cut(places: Sequence[int]) -> list[Cell]:
        return [Cell(words[start:end]) for start, end in pairwise([0, *places, len(words)])]

    ways = map(cut, combinations(range(1, len(words)), len(under) - 1))
    best = min(ways, key=lambda parts: sum(map(_distance, under, parts)))
    return best if all(map(partial(_is_under, size=size), under, best)) else [cell]


def _under(names: Sequence[Cell], columns: Columns, size: float, beneath: Sequence[str]) -> list[list[int]]:
    """Of each name the columns that it is over.

    Args:
        names: of a row.
        columns: from the first one of figures on.
        size: of the letters.
        beneath: names of the row beneath, by column.
    """
    if len(names) == len(columns):
        return [[index] for index in range(len(columns))]
    if 0 < len(names) < len(columns) and len(columns) % len(names) == 0:
        each = len(columns) // len(names)
        groups = [list(range(start, start + each)) for start in range(0, len(columns), each)]
        # 2024, 2023, 2024, 2023 beneath two names
        repeated = len(names) > 1 and "" not in beneath and [*beneath] == [*beneath[:each]] * len(names)
        if repeated or all(
            _is_over(name, [columns[index] for index in group], size)
            for name, group in zip(names, groups, strict=True)
        ):
            return groups
    return [_certainly_under(name, columns, size) or [nearest(name, columns)] for name in names]


def _certainly_under(name: Cell, columns: Columns, size: float) -> list[int]:
    """The column that a name has an edge or the middle in common with, or several that it lies over; or none."""
    touched = [index for index, column in enumerate(columns) if column.overlap(name) > 0]
    exactly = [index for index in touched if _distance(columns[index], name) <= _EXACT * size]
    if len(exactly) == 1:
        return exactly
    everything = list(range(len(columns)))
    for group in (touched, everything, *map(list, pairwise(everything))):
        if len(group) > 1 and _is_over(name, [columns[index] for index in group], size):
            return group
    covered = [index for index in touched if 2 * columns[index].overlap(name) >= columns[index].width]
    if len(covered) > 1:
        return covered
    nearly = [index for index in touched if _is_under(columns[index], name, size)]
    return nearly if len(nearly) == 1 else []


def _is_over(name: Cell, columns: Columns, size: float) -> bool:
    """Whether a name stands over the middle of columns; over the middle one of three it may be that one's alone."""
    middle = (columns[0].left + columns[-1].right) / 2
    near = max(size, _OFF_MIDDLE * (columns[-1].right - columns[0].left) / len(columns))
    several = len(columns) % 2 == 0 or sum(column.overlap(name) > 0 for column in columns) > 1
    return several and abs(name.middle - middle) <= near


def _is_under(column: Column, name: Cell, size: float) -> bool:
    return column.overlap(name) > 0 and _distance(column, name) <= NEAR_EDGE * size


def _distance(column: Column, name: Cell) -> float:
    """In points, from the edge or middle of a name to that of a column."""
    return min(abs(column.left - name.left), abs(column.right - name.right), abs(column.middle - name.middle))
