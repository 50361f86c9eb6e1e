"""What openpyxl doesn't tell of a sheet that it reads row by row: merged cells, and formulas without a value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from openpyxl.utils import range_boundaries

from selfaug.retrieval.document import UnreadableDocument

__all__ = ["MergedCell", "Unparsed", "unparsed"]

MAX_MERGED = 500_000
"""Merged cells of a sheet."""

_PIECE_BYTES = 1 << 20
_LONGEST_MATCH = 1 << 16
"""Bytes of what is looked for: a formula has at most 8,192 characters."""

# A formula that was calculated has a value; one whose value is the empty text has none either, but that type.
_LOOKED_FOR = re.compile(
    rb"<(?:\w+:)?mergeCell\s[^<>]*?ref\s*=\s*[\"']([A-Z]{1,3}\d{1,7}:[A-Z]{1,3}\d{1,7})[\"']"
    rb"|<(?:\w+:)?c\b(?![^<>]*\bt\s*=\s*[\"']str[\"'])[^<>]*>\s*"
    rb"<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>\s*|<(?:\w+:)?v\s*>\s*</(?:\w+:)?v>\s*)?"
    rb"</(?:\w+:)?c>"
)


class MergedCell(NamedTuple):
    """A merged cell's rows and columns, from 1, the last ones included."""

    first_column: int
    first_row: int
    last_column: int
    last_row: int


class Unparsed(NamedTuple):
    """What a sheet's XML says besides.

    Attributes:
        merged: merged cells by their first row.
        uncalculated: how many formulas have no value: they were written by a program that calculates nothing.
    """

    merged: dict[int, list[MergedCell]]
    uncalculated: int


def unparsed(source: IO[bytes]) -> Unparsed:
    """Merged cells and formulas without a value in a sheet's XML.

    Raises:
        UnreadableDocument: if there are absurdly many merged cells.
    """
    merged: dict[int, list[MergedCell]] = {}
    count = uncalculated = 0
    for match in _matches(source):
        if match[1] is None:
            uncalculated += 1
            continue
        count += 1
        if count > MAX_MERGED:
            raise UnreadableDocument(f"more than {MAX_MERGED:,} merged cells in a sheet; save it as CSV")
        cell = MergedCell(*range_boundaries(match[1].decode("ascii")))
        merged.setdefault(cell.first_row, []).append(cell)
    return Unparsed(merged, uncalculated)


def _matches(source: IO[bytes]) -> Iterator[re.Match[bytes]]:
    """Matches in a file of any size, piece by piece: parsing it a second time would double the time of reading."""
    rest = b""
    while piece := source.read(_PIECE_BYTES):
        text, end = rest + piece, 0
        for match in _LOOKED_FOR.finditer(text):
            yield match
            end = match.end()
        rest = text[max(end, len(text) - _LONGEST_MATCH) :]
