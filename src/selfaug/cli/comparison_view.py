"""What `selfaug compare` prints: the table of methods, SelfAug against each of them, and the forecast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfaug.core.printable import printable
from selfaug.report.comparison_results import (
    NOT_RUN,
    TextTable,
    against_table,
    comparison_notes,
    forecast_table,
    methods_table,
)
from selfaug.report.demo_results import percent

__all__ = ["show_comparison"]

_TEXT_COLUMNS = ("method", "data")

# Narrower than this, what methods cost has a table of its own.
_ONE_TABLE_FROM = 110
_COSTS = ("data", "min", "GB", "models")


def show_comparison(record: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """Print a comparison on stdout.

    Args:
        record: data of the comparison's record.
        output: its folder.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    for table in (
        *_for_width(methods_table(record), console.width),
        against_table(record),
        _turned(forecast_table(record)),
    ):
        if table is not None:
            console.print(_rich(table, narrow=console.width < _ONE_TABLE_FROM))
    console.print(Text(printable(comparison_notes(record) + _routing(record))), soft_wrap=True)
    console.print(Text(printable(f"kept:   {output / 'record.json'}")), soft_wrap=True)


def _for_width(table: TextTable, width: int) -> list[TextTable]:
    """The table of methods, as two on a narrow terminal: scores, and costs of what was run."""
    if width >= _ONE_TABLE_FROM:
        return [table]
    costs = [place for place, name in enumerate(table.columns) if name in _COSTS]
    scores = [place for place in range(len(table.columns)) if place not in costs]

    def part(places: list[int], rows: list[list[str]]) -> TextTable:
        names = [table.columns[place] for place in places]
        return TextTable("", names, [[row[place] for place in places] for row in rows])

    run = [row for row in table.rows if row[1] != NOT_RUN]
    return [part(scores, table.rows), part([0, *costs], run)]


def _routing(record: Mapping[str, Any]) -> str:
    """How often the router chose the right model."""
    right = record["methods"].get("router", {}).get("routed_right")
    if right is None:
        return ""
    return (
        f" The router sent {percent(right['task'])} of the job's prompts to the tuned model, and "
        f"{percent(right['general'])} of the general ones to the base model."
    )


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
    for name in table.columns:
        shown.add_column(printable(name), justify="left" if name in _TEXT_COLUMNS else "right")
    for row in table.rows:
        # On a narrow terminal p-values go under what they are of.
        cells = [printable(cell) for cell in row]
        shown.add_row(*(Text(cell.replace(") p ", ")\np ") if narrow else cell) for cell in cells))
    return shown
