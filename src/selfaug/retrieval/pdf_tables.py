"""Texts of ruled tables, and what of a page lies outside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from selfaug.retrieval.pdf_lines import PageText
from selfaug.retrieval.pdf_rules import Grid
from selfaug.retrieval.plain_text import joined
from selfaug.retrieval.table_text import Repeated, Rows, is_figure

__all__ = ["RuledTable", "divided"]

_FILLED = 1 / 3
"""Of a table's cells; where fewer have text, the rules are those of a chart or a form."""

_SAME_LINE = 2.0  # points


@dataclass(frozen=True)
class RuledTable:
    """A table with its rules.

    Attributes:
        rows: texts; a cell that spans several rows or columns has its text in each.
        across: x of the columns' borders: a table on the next page with the same ones may continue it.
    """

    rows: Rows
    across: tuple[float, ...]


Part = tuple[int, int] | RuledTable


@dataclass
class _CellText:
    """Lines of a cell, each with its baseline."""

    baselines: list[float]
    lines: list[str]

    def add(self, character: str, baseline: float | None) -> None:
        """Add a character; white space, which has no place of its own, comes without baseline."""
        if baseline is None:
            if self.lines:
                self.lines[-1] += " "
        elif self.baselines and abs(self.baselines[-1] - baseline) <= _SAME_LINE:
            self.lines[-1] += character
        else:
            self.baselines.append(baseline)
            self.lines.append(character)


def divided(page: PageText, grids: Sequence[Grid]) -> list[Part]:
    """A page's parts in reading order: runs of its text outside tables, from one index to another, and tables."""
    if not grids:
        return [(0, len(page.text))]
    places = _places(page, grids)
    tables: dict[int, RuledTable | None] = {}
    for number, grid in enumerate(grids):
        tables[number] = _table(page, grid, number, places)
    parts: list[Part] = []
    start: int | None = None
    shown: set[int] = set()
    for index, place in enumerate([*places, None]):
        table = tables[place[0]] if place else None
        if start is not None and (table is not None or index == len(places) or page.text[index] in "\r\n"):
            parts.append((start, index))
            start = None
        if table is not None and place is not None and place[0] not in shown:
            shown.add(place[0])
            parts.append(table)
        elif table is None and start is None and index < len(places):
            start = index
    return parts


Place = tuple[int, int, int]  # number of the grid, row, column


def _places(page: PageText, grids: Sequence[Grid]) -> list[Place | None]:
    """Of each character its cell; white space goes with the character before it."""
    places: list[Place | None] = []
    for line in page.text.splitlines(keepends=True):
        start = len(places)
        last = start + len(line.rstrip()) - 1
        if last < start or _is_outside(page, start, last, grids):
            places += [None] * len(line)
            continue
        for index, character in enumerate(line, start=start):
            places.append(places[-1] if character.isspace() and places else _place(page, index, grids))
    return places


def _is_outside(page: PageText, first: int, last: int, grids: Sequence[Grid]) -> bool:
    """Whether a line of text lies above or beneath all tables."""
    _, begins = page.origin(first)
    _, ends = page.origin(last)
    return all(
        min(begins, ends) > grid.down[0] or max(begins, ends) < grid.down[-1] - _SAME_LINE for grid in grids
    )


def _place(page: PageText, index: int, grids: Sequence[Grid]) -> Place | None:
    left, bottom, right, top = page.box(index)
    cells = (grid.cell_at((left + right) / 2, (bottom + top) / 2) for grid in grids)
    return next(((number, *cell) for number, cell in enumerate(cells) if cell), None)


def _table(page: PageText, grid: Grid, number: int, places: Sequence[Place | None]) -> RuledTable | None:
    """The table of a grid, or None if hardly anything stands in it."""
    texts: dict[int, _CellText] = {}
    for index, place in enumerate(places):
        if place and place[0] == number:
            cell = texts.setdefault(grid.merged[place[1]][place[2]], _CellText([], []))
            character = page.text[index]
            cell.add(character, None if character.isspace() else page.origin(index)[1])
    sizes = Counter(one for row in grid.merged for one in row)
    columns = {column for row in grid.merged for column, one in enumerate(row) if one in texts}
    if len(texts) < max(_FILLED * len(sizes), 3) or len(columns) < 2:
        return None
    rows: Rows = []
    seen: set[int] = set()
    for row in grid.merged:
        if all(sizes[one] == count for one, count in Counter(row).items()):  # no cell goes on in another row
            lines = _divided_row([texts.get(one) for one in row])
        else:
            lines = [[joined(texts[one].lines) if one in texts else "" for one in row]]
        again = [one in seen or one in row[:column] for column, one in enumerate(row)]
        rows += [
            [Repeated(text) if repeated else text for text, repeated in zip(line, again, strict=True)]
            for line in lines
        ]
        seen.update(row)
    return RuledTable(rows, grid.across)


def _divided_row(cells: Sequence[_CellText | None]) -> Rows:
    """Several rows where the lines of all cells lie side by side: many tables have no rules between their rows."""
    filled = [cell for cell in cells if cell is not None]
    lines = {len(cell.lines) for cell in filled}
    aligned = (
        len(filled) > 1
        and len(lines) == 1
        and lines != {1}
        and all(
            abs(mine - first) <= _SAME_LINE
            for cell in filled
            for mine, first in zip(cell.baselines, filled[0].baselines, strict=True)
        )
        and any(all(map(is_figure, cell.lines)) for cell in filled)
    )
    if not aligned:
        return [[joined(cell.lines) if cell else "" for cell in cells]]
    return [[cell.lines[number] if cell else "" for cell in cells] for number in range(lines.pop())]
