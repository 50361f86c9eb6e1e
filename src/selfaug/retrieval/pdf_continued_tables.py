"""Tables that go on on the next page, without the names of their columns, which stand on the page before alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from selfaug.retrieval.pdf_aligned_tables import AlignedTable
from selfaug.retrieval.pdf_cells import is_period, is_value
from selfaug.retrieval.pdf_lines import Line
from selfaug.retrieval.pdf_paragraphs import Style, is_heading
from selfaug.retrieval.pdf_tables import RuledTable
from selfaug.retrieval.table_text import Repeated, Rows

__all__ = ["PdfTable", "continued", "returns"]

PdfTable = RuledTable | AlignedTable

_SAME_BORDER = 3.0  # points
_SAME_PLACE = 2.0  # points
_SAME_SIZE = 0.5  # points
# Lines between the parts of a table: headers and footers that differ from page to page, and footnotes, which are set
# smaller than the text or have a mark. More of them are paragraphs, and what follows may be another table.
_MOST_LINES = 12
_MOST_TEXT_LINES = 4
_NOTE = re.compile(r"\(?(?:\d\d?\)?|[a-z]\))\s|[*†‡§¹²³]|(?i:notes?|sources?|anmerkung(?:en)?|quellen?)\b")
_UNIT_LINE = re.compile(r"\(.*\)")
_NUMBERED = re.compile(
    r"(?:table|tab\.|tabelle|tableau|tabla|exhibit|schedule)\s*[\dA-Z]{1,3}\b", re.IGNORECASE
)
_FEWEST_COLUMNS = 3  # with lines between: two columns of another table often have the same borders
_SAYS_IT_GOES_ON = re.compile(r"\bcont(?:inue[ds]|['’]d|d?\.)|\bFortsetzung\b", re.IGNORECASE)


def continued(
    above: PdfTable, after: Sequence[Line], before: Sequence[Line], table: PdfTable, style: Style
) -> PdfTable:
    """The table with the names of the one that it continues, if it has the same columns and no names of its own.

    Figures beneath names that are not theirs are worse than figures without any: of what lies between the two
    nothing may be a heading, a paragraph of text, names of columns, or what may be the other one's caption.

    Args:
        above: last table of the page before.
        after: lines of its page after it.
        before: lines of the other one's page before it, without those that return there.
        table: first one of its page.
        style: of the document.
    """
    names = _names(above.rows)
    if not names or not _same_columns(above, table) or table.rows[0] in names:
        return table
    between = [*after, *before]
    if between and (
        len(above.rows[0]) < _FEWEST_COLUMNS
        or not _may_lie_between(between, style)
        or any(_may_be_caption(line, style) for line in before)
    ):
        return table
    rows = [*names, *table.rows]
    if isinstance(table, AlignedTable):
        return table if table.is_named else replace(table, rows=rows, is_named=True)
    return replace(table, rows=rows) if _lacks_names(table.rows, directly=not between) else table


def returns(line: Line, above: Sequence[Line]) -> bool:
    """Whether a line of the page before is the same, or a header in its place that counts on: "Part 1", "Part 2"."""
    return any(
        line.text == other.text
        or (
            abs(line.top - other.top) <= _SAME_PLACE
            and abs(line.size - other.size) <= _SAME_SIZE
            and _first_word(line.text) == _first_word(other.text)
        )
        for other in above
    )


def _first_word(text: str) -> str:
    return text.split(maxsplit=1)[0].lower() if text.strip() else ""


def _same_columns(above: PdfTable, table: PdfTable) -> bool:
    return (
        type(above) is type(table)
        and len(above.across) == len(table.across)
        and all(
            abs(left - right) <= _SAME_BORDER for left, right in zip(above.across, table.across, strict=True)
        )
    )


def _may_lie_between(lines: Sequence[Line], style: Style) -> bool:
    return (
        len(lines) <= _MOST_LINES
        and sum(line.size >= style.size and not _NOTE.match(line.text) for line in lines) <= _MOST_TEXT_LINES
        and not any(is_heading(line, style) and not _SAYS_IT_GOES_ON.search(line.text) for line in lines)
        and not any(_names_periods(line.text.split()) for line in lines)
    )


def _may_be_caption(line: Line, style: Style) -> bool:
    """Whether a line above a table may say what the table is of: as large as the text, or numbered."""
    if _NOTE.match(line.text) or _UNIT_LINE.match(line.text) or _SAYS_IT_GOES_ON.search(line.text):
        return False
    return line.size >= style.size or _NUMBERED.match(line.text) is not None


def _names_periods(words: Sequence[str]) -> bool:
    """Whether a line has two periods beside each other, as the names of another table's columns have."""
    return any(is_period(left) and is_period(right) for left, right in pairwise(words))


def _names(rows: Rows) -> Rows:
    """A table's first rows, down to the names of its columns; none if figures stand where names would."""
    last = _first_of_cells(rows)
    if _has_figures(rows[last]):
        return []
    # A name that lies over several columns has others beneath it.
    spans = any(isinstance(cell, Repeated) for cell in rows[last])
    if spans and last + 1 < len(rows) and len(_texts(rows[last + 1])) > 1:
        last += not _has_figures(rows[last + 1])
    return rows[: last + 1]


def _lacks_names(rows: Rows, *, directly: bool) -> bool:
    """Whether a ruled table's first row is data. Words may be names or data: they are data at the head of a page.

    Args:
        rows: of the table.
        directly: whether it follows the one above without any line between.
    """
    row = rows[_first_of_cells(rows)]
    periods = sum(is_period(cell.strip()) for cell in row[1:])
    return _has_figures(row) or (directly and periods < 2)


def _first_of_cells(rows: Rows) -> int:
    """Index of the first row of several texts: a caption, or a heading within, is one."""
    return next((index for index, row in enumerate(rows) if len(_texts(row)) > 1), 0)


def _texts(row: Sequence[str]) -> list[str]:
    return [cell for cell in row if cell.strip() and not isinstance(cell, Repeated)]


def _has_figures(row: Sequence[str]) -> bool:
    return any(is_value(cell.strip()) for cell in row[1:])
