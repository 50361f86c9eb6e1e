"""Excel workbooks: each region of a sheet that empty rows or columns surround is a table.

An empty row within a table doesn't end it: figures in the same columns, without a header of their own, belong to the
header above.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import openpyxl

from selfaug.core.printable import counted
from selfaug.retrieval.document import Block, Contents, UnreadableDocument
from selfaug.retrieval.office_zip import check_office_zip
from selfaug.retrieval.plain_text import said_title, tidy
from selfaug.retrieval.table_text import MAX_CELLS, Repeated, Rows, is_figure, table_blocks
from selfaug.retrieval.xlsx_format import cell_text
from selfaug.retrieval.xlsx_sheet import MergedCell, unparsed

__all__ = ["read_xlsx"]

MAX_VISITED = 20_000_000
"""Cells of a sheet, empty ones too: a single cell at the far corner makes billions of them."""

# What looks like a figure and names a column: 2023-12-31, 2023/24, 31.12.2023, 1Q23.
_PERIOD = re.compile(
    r"(19|20)\d\d([^\d.,%].*)?|\d\d?[./-]\d\d?[./-](19|20)?\d\d|[1-4][QH] ?\d\d(\d\d)?", re.IGNORECASE
)
_Merged = Mapping[int, Sequence[MergedCell]]
"""Merged cells by their first row."""

_WORD = re.compile(r"\D*[^\W\d_]{2}\D*")


def read_xlsx(data: bytes, _encoding: str | None = None) -> Contents:
    """Title and blocks of a workbook: for each sheet a heading with its name, then its tables.

    Cells hold values as they were last calculated, not formulae; where none was, `missing` counts
    them. Merged cells have their text in each row and column. Hidden sheets and charts are left out; hidden
    rows and columns are read: most are filtered or collapsed.

    Raises:
        UnreadableDocument: if it is encrypted, not a workbook, too large, or would unpack to absurd size.
    """
    check_office_zip(data, ".xlsx", "xl/")
    workbook: Any = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    with closing(workbook):
        blocks: list[Block] = []
        uncalculated = 0
        for sheet in workbook.worksheets:
            if sheet.sheet_state == "visible":
                with sheet._get_source() as source:
                    found = unparsed(source)
                blocks += _sheet_blocks(sheet, found.merged)
                uncalculated += found.uncalculated
        return Contents(said_title(tidy(workbook.properties.title or "")), blocks, _missing(uncalculated))


def _missing(uncalculated: int) -> str:
    if not uncalculated:
        return ""
    formulas = counted(uncalculated, "formula has no value", "formulas have no value")
    return f"{formulas}, since no program has calculated it yet; open and save it in Excel or LibreOffice"


def _sheet_blocks(sheet: Any, merged: _Merged) -> Iterator[Block]:
    name = tidy(sheet.title)
    heading: Block | None = Block("heading", name or "Sheet", level=1, sheet=sheet.title)
    for region in _regions(sheet, merged):
        for block in table_blocks(region, sheet=sheet.title):
            if heading is not None:
                yield heading
                heading = None
            yield block


def _regions(sheet: Any, merged: _Merged) -> Iterator[Rows]:
    """Tables of a sheet: rows between empty rows, divided where an empty column separates two tables."""
    last: _Region | None = None
    for rows in _between_empty_rows(sheet, merged):
        region = _region(rows)
        if last is not None and _goes_on(last, region):
            last.rows.extend(region.rows)
            continue
        if last is not None:
            yield from _side_by_side(last.rows)
        last = region
    if last is not None:
        yield from _side_by_side(last.rows)


def _between_empty_rows(sheet: Any, merged: _Merged) -> Iterator[Rows]:
    rows: Rows = []
    number = 0
    begun: list[tuple[MergedCell, str]] = []
    for number, row in enumerate(_text_rows(sheet), start=1):
        if row:
            rows.append(row)
        elif rows:
            begun = _repeat_merged(rows, number - len(rows), merged, begun)
            yield rows
            rows = []
    if rows:
        _repeat_merged(rows, number + 1 - len(rows), merged, begun)
        yield rows


def _repeat_merged(
    rows: Rows,
    number: int,
    merged: _Merged,
    begun: Sequence[tuple[MergedCell, str]],
) -> list[tuple[MergedCell, str]]:
    """Give merged cells their text in each row and column, as far as these rows reach.

    Args:
        rows: of the sheet; changed.
        number: of the first of them, from 1.
        merged: of the sheet.
        begun: those that began in rows above, with their text.

    Returns:
        Those that may reach further rows, over an empty one too, with their text.
    """
    width = max(map(len, rows))
    cells = [
        *((cell, text) for cell, text in begun if cell.last_row >= number),
        *_beginning(rows, number, merged),
    ]
    repeated = 0
    for cell, text in cells:
        repeated += _repeat(cell, text, rows, number, width)
        if repeated > MAX_CELLS:
            raise UnreadableDocument(f"merged cells over more than {MAX_CELLS:,} cells; save it as CSV")
    return [(cell, text) for cell, text in cells if cell.last_row >= number + len(rows)]


def _beginning(rows: Rows, number: int, merged: _Merged) -> Iterator[tuple[MergedCell, str]]:
    """Merged cells that begin in rows of which the first has a number, with their text."""
    for row_number, row in enumerate(rows, start=number):
        for cell in merged.get(row_number, ()):
            text = row[cell.first_column - 1] if cell.first_column <= len(row) else ""
            if text:
                yield cell, text


def _repeat(cell: MergedCell, text: str, rows: Rows, number: int, width: int) -> int:
    """Give a merged cell its text in rows of which the first has a number; how many cells these are."""
    # Whole rows are often merged for a title. What stands to the right of all else in these rows has a column.
    last_column = min(cell.last_column, max(width, cell.first_column))
    covered = rows[max(cell.first_row - number, 0) : cell.last_row + 1 - number]
    for row in covered:
        row += [""] * (last_column - len(row))
        for column in range(cell.first_column - 1, last_column):
            row[column] = row[column] or Repeated(text)
    return len(covered) * (last_column + 1 - cell.first_column)


@dataclass(frozen=True)
class _Region:
    """Rows between empty rows.

    Attributes:
        rows: of different lengths.
        extent: first and last column that is used.
        begins_with_header: whether its first row, after captions, has no figures; None if all rows are captions.
    """

    rows: Rows
    extent: tuple[int, int]
    begins_with_header: bool | None


def _region(rows: Rows) -> _Region:
    used = _used_columns(rows)
    first, last = used.index(True), len(used) - 1 - used[::-1].index(True)
    head = next((row for row in rows if _own_cells(row) > 1), None)
    if head is None:
        return _Region(rows, (first, last), None)
    return _Region(
        rows,
        (first, last),
        not any(is_figure(cell) and not _PERIOD.fullmatch(cell) for cell in map(tidy, head[first + 1 :])),
    )


def _goes_on(above: _Region, region: _Region) -> bool:
    """Whether a region is a further part of the table above it: an empty row often stands only for the eye."""
    return (
        above.extent == region.extent
        and above.begins_with_header is True
        and region.begins_with_header is False
    )


def _text_rows(sheet: Any) -> Iterator[list[str]]:
    """Each row's texts, from the first row, up to its last cell that has one."""
    sheet.reset_dimensions()  # what the file says of its extent is often wrong
    visited = filled = 0
    for cells in sheet.iter_rows():
        visited += len(cells) + 1
        row = ["" if cell.value is None else cell_text(cell.value, cell.number_format) for cell in cells]
        filled += sum(map(bool, row))
        if visited > MAX_VISITED or filled > MAX_CELLS:
            raise UnreadableDocument(
                f"too many cells in sheet {tidy(sheet.title)!r} (more than "
                f"{MAX_CELLS if filled > MAX_CELLS else MAX_VISITED:,}); split it, or save what matters as CSV"
            )
        while row and not row[-1]:
            row.pop()
        yield row


def _own_cells(row: Sequence[str]) -> int:
    return sum(bool(cell) and not isinstance(cell, Repeated) for cell in row)


def _used_columns(rows: Rows) -> list[bool]:
    """Which columns have text. That of a title merged over its row doesn't count, except where it begins."""
    used = [False] * max(map(len, rows))
    for row in rows:
        is_title = _own_cells(row) == 1
        for column, cell in enumerate(row):
            if cell and not (is_title and isinstance(cell, Repeated)):
                used[column] = True
    return used


def _side_by_side(region: Rows) -> Iterator[Rows]:
    used = _used_columns(region)
    width = len(used)
    rows = [row + [""] * (width - len(row)) for row in region]
    start = None
    for column in range(width):
        if not used[column]:
            continue
        if start is None:
            start = column
        elif not used[column - 1] and _begins_a_table(rows, column):
            yield [row[start:column] for row in rows]
            start = column
    if start is not None:
        yield [row[start:] for row in rows]


def _begins_a_table(rows: Rows, column: int) -> bool:
    """Whether a column beneath its header has words: figures alone belong to the labels on their left."""
    return any(_WORD.fullmatch(row[column]) for row in rows[1:])
