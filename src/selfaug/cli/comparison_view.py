"""What `selfaug compare` prints: the table of methods, SelfAug against each of them, and the forecast."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfaug.core.printable import printable
from selfaug.wording.comparison_results import (
    TextTable,
    against_table,
    comparison_notes,
    costs_table,
    forecast_table,
    scores_table,
)

__all__ = ["show_comparison"]

_TEXT_COLUMNS = ("method", "data")

# Narrower than this, p-values go under what they are of.
_BESIDE_FROM = 110

# In a narrow table of as many columns, the upper end of an interval goes under the lower one.
_MANY_COLUMNS = 7
_RANGE = re.compile(r"(?<=\d)(\N{EN DASH})(?=\d)")


def show_comparison(record: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """Print a comparison on stdout.

    Args:
        record: data of the comparison's record.
        output: its folder.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    for table in (
        scores_table(record),
        costs_table(record),
        against_table(record),
        _turned(forecast_table(record)),
    ):
        if table is not None:
            console.print(_rich(table, narrow=console.width < _BESIDE_FROM))
    for note in comparison_notes(record):
        console.print(Text(printable(f"- {note}")), soft_wrap=True)
    console.print(Text(printable(f"kept:   {output / 'record.json'}")), soft_wrap=True)


def _turned(table: TextTable | None) -> TextTable | None:
    """The forecast with a line a drift: as many columns are too many."""
    if table is None:
        return None
    (row,) = table.rows
    lines = [list(pair) for pair in zip(table.columns[1:], row[1:], strict=True)]
    return table._replace(columns=[table.columns[0], f"{row[0]}, points"], rows=lines)


def _rich(table: TextTable, *, narrow: bool) -> Table:
    shown = Table(
        title=table.title or None, caption=table.caption or None, title_justify="left", caption_justify="left"
    )
    cramped = narrow and len(table.columns) >= _MANY_COLUMNS
    for name in map(printable, table.columns):
        shown.add_column(
            Text(name.replace(", ", ",\n") if cramped else name),
            justify="left" if name in _TEXT_COLUMNS else "right",
        )
    for row in table.rows:
        cells = [printable(cell) for cell in row]
        # Intervals and p under their values, so that the methods' names have room.
        if narrow:
            cells = [cell.replace(") p ", ")\np ").replace(" (", "\n(") for cell in cells]
        if cramped:
            cells = [_RANGE.sub("\\1\n", cell) for cell in cells]
        shown.add_row(*map(Text, cells))
    return shown
