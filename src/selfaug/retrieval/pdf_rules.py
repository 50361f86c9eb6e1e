"""Ruled tables of a page: lines and rectangles that cross each other become a grid of cells."""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium
from pypdfium2 import PdfMatrix

__all__ = ["Grid", "ruled_grids"]

MAX_SEGMENTS = 20_000
"""A page with more of them is a drawing."""

MAX_CELLS = 10_000
"""Rules that make more of them are a pattern, not a table."""

_DEEPEST_FORM = 4
_NEAR = 3.0  # points; closer rules are one: both edges of a drawn bar, or two cells' borders
_SHORTEST = 6.0
_WHITE = 255

Point = tuple[float, float]


class _Rule(NamedTuple):
    """A horizontal rule at a y, or a vertical one at an x, from `low` to `high` on the other axis."""

    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Grid:
    """Cells between crossing rules.

    Attributes:
        across: x of the columns' borders, left to right.
        down: y of the rows' borders, top to bottom.
        merged: for each row and column a number; cells without a rule between them have the same one.
    """

    across: tuple[float, ...]
    down: tuple[float, ...]
    merged: tuple[tuple[int, ...], ...]

    def cell_at(self, x: float, y: float) -> tuple[int, int] | None:
        """Row and column at a point, from 0; None outside the grid."""
        column = bisect.bisect(self.across, x) - 1
        row = bisect.bisect(self.down, -y, key=lambda border: -border) - 1
        inside = 0 <= column < len(self.across) - 1 and 0 <= row < len(self.down) - 1
        return (row, column) if inside else None

    @property
    def area(self) -> float:
        """In square points."""
        return (self.across[-1] - self.across[0]) * (self.down[0] - self.down[-1])


def ruled_grids(page: Any, upright: Callable[[float, float], Point]) -> list[Grid]:
    """Grids with two rows and two columns at least, the smallest first.

    Args:
        page: of pypdfium2.
        upright: turns a point of the page's own space to where it is seen.
    """
    horizontal: list[_Rule] = []
    vertical: list[_Rule] = []
    for count, (start, end) in enumerate(_segments(page), start=1):
        if count > MAX_SEGMENTS:
            return []
        (x0, y0), (x1, y1) = upright(*start), upright(*end)
        if abs(y0 - y1) < 1 and abs(x0 - x1) >= _SHORTEST:
            horizontal.append(_Rule((y0 + y1) / 2, min(x0, x1), max(x0, x1)))
        elif abs(x0 - x1) < 1 and abs(y0 - y1) >= _SHORTEST:
            vertical.append(_Rule((x0 + x1) / 2, min(y0, y1), max(y0, y1)))
    if len(horizontal) < 2 or len(vertical) < 1:
        return []
    grids = (_grid(*rules) for rules in _crossing(_joined(horizontal), _joined(vertical)))
    return sorted((grid for grid in grids if grid is not None), key=lambda grid: grid.area)


def _segments(page: Any) -> Iterator[tuple[Point, Point]]:
    """Straight parts of everything that is drawn and can be seen."""
    for index in range(pdfium.FPDFPage_CountObjects(page)):
        yield from _object_segments(pdfium.FPDFPage_GetObject(page, index), PdfMatrix(), 0)


def _object_segments(item: Any, outer: PdfMatrix, depth: int) -> Iterator[tuple[Point, Point]]:
    kind = pdfium.FPDFPageObj_GetType(item)
    if kind == pdfium.FPDF_PAGEOBJ_PATH:
        if _can_be_seen(item):
            yield from _path_segments(item, _matrix(item).multiply(outer))
    elif kind == pdfium.FPDF_PAGEOBJ_FORM and depth < _DEEPEST_FORM:
        inner = _matrix(item).multiply(outer)
        for index in range(pdfium.FPDFFormObj_CountObjects(item)):
            yield from _object_segments(pdfium.FPDFFormObj_GetObject(item, index), inner, depth + 1)


def _can_be_seen(path: Any) -> bool:
    fill, stroke = ctypes.c_int(), ctypes.c_int()
    if not pdfium.FPDFPath_GetDrawMode(path, fill, stroke):
        return False
    if stroke.value:
        return True
    colours = [ctypes.c_uint() for _ in range(4)]
    if not fill.value or not pdfium.FPDFPageObj_GetFillColor(path, *colours):
        return bool(fill.value)
    return any(colour.value != _WHITE for colour in colours[:3])


def _path_segments(path: Any, matrix: PdfMatrix) -> Iterator[tuple[Point, Point]]:
    start = last = (0.0, 0.0)
    x, y = ctypes.c_float(), ctypes.c_float()
    for index in range(min(pdfium.FPDFPath_CountSegments(path), MAX_SEGMENTS + 2)):
        segment = pdfium.FPDFPath_GetPathSegment(path, index)
        pdfium.FPDFPathSegment_GetPoint(segment, x, y)
        point = matrix.on_point(x.value, y.value)
        kind = pdfium.FPDFPathSegment_GetType(segment)
        if kind == pdfium.FPDF_SEGMENT_MOVETO:
            start = point
        elif kind == pdfium.FPDF_SEGMENT_LINETO:
            yield last, point
        last = point
        if pdfium.FPDFPathSegment_GetClose(segment):
            yield last, start
            last = start


def _matrix(item: Any) -> PdfMatrix:
    found = pdfium.FS_MATRIX()
    return PdfMatrix.from_raw(found) if pdfium.FPDFPageObj_GetMatrix(item, found) else PdfMatrix()


def _joined(rules: Sequence[_Rule]) -> list[_Rule]:
    """Rules that lie in one line and touch as one rule; rules that nearly lie in one line brought into it."""
    found: list[_Rule] = []
    rules = sorted(rules)
    start = 0
    for end in range(1, len(rules) + 1):
        if (
            end < len(rules)
            and rules[end].at - rules[end - 1].at <= _NEAR
            and (rules[end].at - rules[start].at <= 2 * _NEAR)
        ):
            continue
        line = rules[start:end]
        at = sum(rule.at for rule in line) / len(line)
        low, high = None, 0.0
        for rule in sorted(line, key=lambda rule: rule.low):
            if low is not None and rule.low <= high + _NEAR:
                high = max(high, rule.high)
                continue
            if low is not None:
                found.append(_Rule(at, low, high))
            low, high = rule.low, rule.high
        if low is not None:
            found.append(_Rule(at, low, high))
        start = end
    return found


def _crossing(
    horizontal: Sequence[_Rule], vertical: Sequence[_Rule]
) -> Iterator[tuple[list[_Rule], list[_Rule]]]:
    """Horizontal and vertical rules in sets that hang together."""
    if len(horizontal) * len(vertical) > 1_000_000:
        return
    left = list(range(len(vertical)))
    todo = set(range(len(horizontal)))
    while todo:
        across, down = [todo.pop()], list[int]()
        waiting = [("h", across[0])]
        while waiting:
            kind, index = waiting.pop()
            if kind == "h":
                met = [i for i in left if _cross(horizontal[index], vertical[i])]
                left = [i for i in left if i not in set(met)]
                down += met
                waiting += [("v", i) for i in met]
            else:
                met = [i for i in todo if _cross(horizontal[i], vertical[index])]
                todo.difference_update(met)
                across += met
                waiting += [("h", i) for i in met]
        if down:
            yield [horizontal[i] for i in across], [vertical[i] for i in down]


def _cross(horizontal: _Rule, vertical: _Rule) -> bool:
    return (
        horizontal.low - _NEAR <= vertical.at <= horizontal.high + _NEAR
        and vertical.low - _NEAR <= horizontal.at <= vertical.high + _NEAR
    )


def _grid(horizontal: Sequence[_Rule], vertical: Sequence[_Rule]) -> Grid | None:
    across = _borders(vertical, horizontal)
    down = _borders(horizontal, vertical)[::-1]
    if len(across) < 3 or len(down) < 3:
        return None
    columns, rows = len(across) - 1, len(down) - 1
    if columns * rows > MAX_CELLS:
        return None
    cells = _Sets(columns * rows)
    for row, column in product(range(rows), range(columns)):
        cell = row * columns + column
        middle = (down[row] + down[row + 1]) / 2
        if column + 1 < columns and not _is_ruled(vertical, across[column + 1], middle):
            cells.join(cell, cell + 1)
        centre = (across[column] + across[column + 1]) / 2
        if row + 1 < rows and not _is_ruled(horizontal, down[row + 1], centre):
            cells.join(cell, cell + columns)
    merged = tuple(
        tuple(cells.of(row * columns + column) for column in range(columns)) for row in range(rows)
    )
    return Grid(tuple(across), tuple(down), merged)


class _Sets:
    """Numbers from 0 in sets that grow together; a set is named by its smallest number."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def of(self, number: int) -> int:
        """Name of the set that a number is in."""
        while self._above[number] != number:
            self._above[number] = number = self._above[self._above[number]]
        return number

    def join(self, one: int, other: int) -> None:
        """Make the sets of two numbers one."""
        low, high = sorted((self.of(one), self.of(other)))
        self._above[high] = low


def _borders(rules: Sequence[_Rule], others: Sequence[_Rule]) -> list[float]:
    """Where rules are, and where the others end beyond them: many tables have no rules at their sides."""
    borders = sorted({rule.at for rule in rules})
    low, high = min(rule.low for rule in others), max(rule.high for rule in others)
    if low < borders[0] - 2 * _NEAR:
        borders.insert(0, low)
    if high > borders[-1] + 2 * _NEAR:
        borders.append(high)
    return borders


def _is_ruled(rules: Sequence[_Rule], at: float, middle: float) -> bool:
    return any(rule.at == at and rule.low <= middle <= rule.high for rule in rules)
