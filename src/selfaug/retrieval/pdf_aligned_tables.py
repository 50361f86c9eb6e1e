"""Tables without rules between their columns: rows whose figures stand beneath one another, under names.

Only what is certain is read as a table; all else stays lines. It needs two rows with a label and two figures, columns
that no row goes across, figures that begin, end or have their middle in one place, and names above them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfaug.core.digits import plain_digits
from selfaug.retrieval.pdf_cells import CellRow, cell_rows, is_period
from selfaug.retrieval.pdf_column_names import are_enough, are_names, names_by_column
from selfaug.retrieval.pdf_columns import Columns, columns_of, first_value, nearest
from selfaug.retrieval.pdf_lines import Line, PageText
from selfaug.retrieval.plain_text import CURRENCY_SIGNS
from selfaug.retrieval.table_text import Rows

__all__ = ["AlignedTable", "with_tables"]

# Distances from one baseline to the next, as multiples of the size of the letters.
_FARTHEST_ROW = 4.0  # a blank line or two between sections
_FARTHEST_NAME = 2.6
_NEXT_LINE = 1.5  # of a label that goes on

_SAME_SIZE = 1.35
_MOST_ROWS = 300  # of a page: more of them are no page that somebody reads
_LABELS_IN_TURN = 3  # without figures: a heading within, and a label of two lines
_NAME_LINES = 5
# △ and ▲ are a minus in Japanese accounts, an apostrophe stands between thousands in Swiss ones.
_FIGURE = (
    rf"[-–−+(<{CURRENCY_SIGNS}△▲]{{0,3}}"
    r"\d(?:[\d.,]|['’](?=\d{3}))*(?:[^\W\d_]{1,2})?[)%*]{0,3}(?:\^\w{1,2})?"
)
_FIGURES = re.compile(rf"(?<!\S)(?:{_FIGURE}|[-–—])(?!\S)")
_LAST_WORD = re.compile(rf"{_FIGURE}|[-–—)%*†‡]+|n\S{{0,3}}", re.IGNORECASE)


@dataclass(frozen=True)
class AlignedTable:
    """A table without rules between its columns.

    Attributes:
        rows: texts of its cells; the first row is that of the names, if it is named.
        across: x where each column of labels begins and each column of figures ends.
        is_named: whether it has names; without them it is a table only where it continues one.
        names: lines that its names are made of.
        body: the other lines.
    """

    rows: Rows
    across: tuple[float, ...]
    is_named: bool
    names: tuple[Line, ...]
    body: tuple[Line, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """All of them, from top to bottom."""
        return (*self.names, *self.body)


def with_tables(page: PageText, lines: Sequence[Line]) -> list[Line | AlignedTable]:
    """Lines in reading order, with tables in place of theirs.

    Args:
        page: that they are on.
        lines: outside of ruled tables.
    """
    if sum(_ends_with_figure(line.text) for line in lines) < 2:
        return list(lines)
    tables = [table for run in _runs(cell_rows(page, lines)) for table in _tables(run)]
    of_line = {id(line): table for table in tables for line in table.lines}
    found: list[Line | AlignedTable] = []
    shown: set[int] = set()
    for line in lines:
        table = of_line.get(id(line))
        if table is None:
            found.append(line)
        elif id(table) not in shown:
            shown.add(id(table))
            found.append(table)
    return found


def _ends_with_figure(text: str) -> bool:
    return bool(_LAST_WORD.fullmatch(plain_digits(text.rsplit(maxsplit=1)[-1])))


def _may_have_figures(row: CellRow) -> bool:
    """Whether there may be two figures in a row, by its text alone: most rows have none, and take no time."""
    text = " ".join(line.text for line in row.lines)
    return _ends_with_figure(text) and len(_FIGURES.findall(plain_digits(text))) > 1


def _runs(rows: Sequence[CellRow]) -> Iterator[list[CellRow]]:
    """Rows that follow one another downwards, in letters of about one size, where some may be rows of a table."""
    runs: list[list[CellRow]] = []
    for row in rows:
        if runs and _follows(runs[-1][-1], row):
            runs[-1].append(row)
        else:
            runs.append([row])
    for run in runs:
        if len(run) <= _MOST_ROWS and sum(map(_may_have_figures, run)) > 1:
            yield [row for row in run if row.cells]


def _follows(above: CellRow, below: CellRow) -> bool:
    small, large = sorted((above.size, below.size))
    return 0 < _step(above, below) < _FARTHEST_ROW and large < _SAME_SIZE * small


def _step(above: CellRow, below: CellRow) -> float:
    return (above.bottom - below.top) / max(above.size, below.size)


def _tables(run: Sequence[CellRow]) -> Iterator[AlignedTable]:
    floor = 0
    for start, end in _bodies(run):
        for first, last, columns in _fitting(run, start, end):
            top, below = _names(run, floor, first, columns)
            floor = _end_of_label(run, last, columns)
            yield _table(run[top:below], run[below:floor], columns)


def _bodies(run: Sequence[CellRow]) -> Iterator[tuple[int, int]]:
    """Where rows with figures begin and end; labels without figures and texts may stand between them."""
    start, end, labels = -1, -1, 0
    for index, row in enumerate(run):
        if row.values:
            start, end, labels = (index if start < 0 else start), index + 1, 0
            continue
        labels += 1
        if start >= 0 and (labels > _LABELS_IN_TURN or _begins_table(row)):
            yield start, end
            start = -1
    if start >= 0:
        yield start, end


def _begins_table(row: CellRow) -> bool:
    """Whether a row among others has the names of another table: years, after a label that says of what at most."""
    periods = sum(is_period(cell.text) for cell in row.cells)
    label = row.cells[0].text
    return periods > 1 and (is_period(label) or label.startswith(("(", "in ", "In ")))


def _fitting(run: Sequence[CellRow], start: int, end: int) -> Iterator[tuple[int, int, Columns]]:
    """The rows as one table with its columns, or as several where a line goes across the columns; or none."""
    while start < end and not _may_be_outer(run[start], run[start + 1 : end]):
        start += 1
    while end > start and not _may_be_outer(run[end - 1], run[start : end - 1][::-1]):
        end -= 1
    rows = run[start:end]
    if sum(map(_is_certain, rows)) < 2:
        return
    columns = columns_of([row for row in rows if row.values])
    cut = _cut(rows, columns)
    if cut is not None:
        yield from _fitting(run, start, start + cut)
        yield from _fitting(run, start + cut + 1, end)
    elif columns is not None:
        yield start, end, columns


def _may_be_outer(row: CellRow, others: Sequence[CellRow]) -> bool:
    """Whether a row may be the first or last one of a table; a figure far from the others is the number of a page.

    Args:
        row: at the edge.
        others: of the table, the nearest first.
    """
    if len(row.values) != 1 or not others:
        return bool(row.values)
    return abs(_step(row, others[0])) < _FARTHEST_NAME


def _cut(rows: Sequence[CellRow], columns: Columns | None) -> int | None:
    """Index of a row without figures that ends a table: it goes across the columns, or names those of another one."""
    others = [index for index, row in enumerate(rows) if not row.values]
    if columns is not None:
        return next((index for index in others if not _fits(rows[index], columns)), None)
    names = [index for index in others if len(rows[index].cells) > 1]
    return next(iter(names or others), None)


def _is_certain(row: CellRow) -> bool:
    return row.is_labelled and len(row.values) > 1


def _fits(row: CellRow, columns: Columns) -> bool:
    """Whether a row without figures keeps to the columns; a heading within may reach over some of them."""
    begins, first = row.cells[0], columns[first_value(columns)]
    if len(row.cells) == 1 and begins.right > first.left:
        return begins.left < columns[0].left + row.size and begins.right < columns[-1].left
    apart = all(sum(column.overlap(cell) > 0 for column in columns) < 2 for cell in row.cells)
    return apart and begins.right <= first.left  # else it names columns


def _names(run: Sequence[CellRow], floor: int, first: int, columns: Columns) -> tuple[int, int]:
    """Where the names of the columns begin and end; headings within may follow them before the first figures."""
    top = end = index = first
    while index > floor and end - top < _NAME_LINES:
        row = run[index - 1]
        if are_names(row, columns) and (top == end or _step(row, run[index]) < _FARTHEST_NAME):
            top, end = index - 1, (index if top == end else end)
        elif top < end or len(row.cells) > 1 or first - index == _LABELS_IN_TURN or not _fits(row, columns):
            break
        index -= 1
    return (top, end) if are_enough(names_by_column(run[top:end], columns), columns) else (first, first)


def _end_of_label(run: Sequence[CellRow], end: int, columns: Columns) -> int:
    """Where a table ends with the lines in which its last row's label goes on."""
    room = columns[first_value(columns)].left
    while end < len(run) and len(run[end].cells) == 1 and run[end].cells[0].right < room:
        if not _begins_small(run[end]) or _step(run[end - 1], run[end]) > _NEXT_LINE:
            break
        end += 1
    return end


def _table(names: Sequence[CellRow], body: Sequence[CellRow], columns: Columns) -> AlignedTable:
    by_column = zip(*names_by_column(names, columns), strict=True)
    header = [" ".join(filter(None, cells)) for cells in by_column]
    rows = _joined(body, [_texts(row, columns) for row in body])
    return AlignedTable(
        [header, *rows] if names else rows,
        tuple(column.right if column.holds_values else column.left for column in columns),
        bool(names),
        tuple(line for row in names for line in row.lines),
        tuple(line for row in body for line in row.lines),
    )


def _texts(row: CellRow, columns: Columns) -> list[str]:
    first = first_value(columns)
    texts = [""] * len(columns)
    for cell in row.cells:
        is_label = len(row.cells) == 1 and cell.left < columns[first].left
        index = nearest(cell, columns[:first] if is_label else columns)
        texts[index] = f"{texts[index]} {cell.text}".strip()
    return texts


def _joined(body: Sequence[CellRow], texts: Rows) -> Rows:
    """The rows, those of one label that goes on in the next line as one."""
    valued = [row for row in body if row.values]
    small_letters = sum(map(_begins_small, valued)) <= len(valued) / 2  # else they say nothing
    rows: Rows = []
    has_values = False
    for index, row in enumerate(body):
        goes_on = (
            index > 0
            and not (has_values and row.values)
            and _goes_on(body, index, small_letters=small_letters)
        )
        if goes_on:
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], texts[index], strict=True)]
        else:
            rows.append(texts[index])
        has_values = bool(row.values) or (goes_on and has_values)
    return rows


def _goes_on(body: Sequence[CellRow], index: int, *, small_letters: bool) -> bool:
    """Whether a row goes on with the label of the row above, and not with that of the row below."""
    above, row = body[index - 1], body[index]
    step = _step(above, row)
    if not small_letters or not _begins_small(row) or step > _NEXT_LINE or above.cells[-1].text.endswith(":"):
        return False
    if row.values and _may_go_on_either_way(body, index - 1):
        return step < _step(body[index - 2], above) - 0.1
    if _may_go_on_either_way(body, index):
        return step < _step(row, body[index + 1]) - 0.1
    return True


def _may_go_on_either_way(body: Sequence[CellRow], index: int) -> bool:
    """Whether a line without figures stands between two with figures, and it and the one below begin small."""
    if not 0 < index < len(body) - 1 or body[index].values:
        return False
    around = body[index - 1].values and body[index + 1].values
    return bool(around) and _begins_small(body[index]) and _begins_small(body[index + 1])


def _begins_small(row: CellRow) -> bool:
    return row.cells[0].text[:1].islower()
