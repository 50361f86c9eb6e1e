"""Excel workbooks: each region of a sheet that empty rows or columns surround is a table."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import openpyxl

from selfaug.retrieval.document import Block, UnreadableDocument
from selfaug.retrieval.office_zip import check_office_zip
from selfaug.retrieval.plain_text import tidy
from selfaug.retrieval.table_text import MAX_CELLS, Rows, table_blocks
from selfaug.retrieval.xlsx_format import cell_text

__all__ = ["read_xlsx"]

MAX_VISITED = 20_000_000
"""Cells of a sheet, empty ones too: a single cell at the far corner makes billions of them."""

_WORD = re.compile(r"\D*[^\W\d_]{2}\D*")


def read_xlsx(data: bytes) -> tuple[str, list[Block]]:
    """Title, or nothing, and blocks of a workbook: for each sheet a heading with its name, then its tables.

    Cells hold values as they were last calculated, not formulae. Hidden sheets and charts are left out.

    Raises:
        UnreadableDocument: if it is encrypted, not a workbook, too large, or would unpack to absurd size.
    """
    check_office_zip(data, ".xlsx", "xl/")
    workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    try:
        blocks = [block for sheet in workbook.worksheets for block in _sheet_blocks(sheet)]
        return tidy(workbook.properties.title or ""), blocks
    finally:
        workbook.close()


def _sheet_blocks(sheet: Any) -> Iterator[Block]:
    if sheet.sheet_state != "visible":
        return
    name = tidy(sheet.title)
    heading: Block | None = Block("heading", name or "Sheet", level=1, sheet=sheet.title)
    for region in _regions(sheet):
        for block in table_blocks(region, sheet=sheet.title):
            if heading is not None:
                yield heading
                heading = None
            yield block


def _regions(sheet: Any) -> Iterator[Rows]:
    """Rows between empty rows, divided where an empty column separates two tables."""
    region: Rows = []
    for row in _text_rows(sheet):
        if any(row):
            region.append(row)
        elif region:
            yield from _side_by_side(region)
            region = []
    if region:
        yield from _side_by_side(region)


def _text_rows(sheet: Any) -> Iterator[list[str]]:
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
        yield row


def _side_by_side(region: Rows) -> Iterator[Rows]:
    width = max(map(len, region))
    rows = [row + [""] * (width - len(row)) for row in region]
    used = [any(column) for column in zip(*rows, strict=True)]
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
