"""What `selfaug demo` prints: verdict, table, one request answered by all three, and where to go from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from selfaug.core.printable import printable
from selfaug.wording.demo_results import MODELS, demo_rows, demo_verdict
from selfaug.wording.numbers import duration

__all__ = ["show_demo"]

# Narrower than this, three columns of text can't be read.
_SIDE_BY_SIDE_FROM = 90
_MOST_CHARACTERS = 2_000


def show_demo(record: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """Print a demo's results on stdout.

    Args:
        record: data of the demo's record.
        output: the demo's folder.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    console.print(_table(record, console.width))
    if record["side_by_side"]:
        executive = record["side_by_side"][0]
        console.print(Text.assemble("\n", (printable(_clipped(executive["prompt"])), "bold"), "\n"))
        console.print(_answers(record, executive["answers"], console.width))
    console.print(Text.assemble("\n", (demo_verdict(record).text, "bold"), "\n"))
    took = duration(record["seconds"])
    page, run = output / "report.html", output / "selfaug"
    # Paths and commands are for copying: not wrapped.
    for name, told in (
        ("page", f"{page} (open it in a browser)"),
        ("time", f"{took}, {record['threads']} threads"),
        ("next", f"selfaug chat {run}"),
        ("", "selfaug train --model NAME --train rows.jsonl --output runs/first"),
    ):
        console.print(Text(f"{name:<5} {told}"), soft_wrap=True)


def _table(record: Mapping[str, Any], width: int) -> Table:
    settings = record["settings"]
    how = f"SelfAug: alpha {settings['alpha']:g}"
    if settings["anchors"]:
        how += f", and {settings['anchors']} self-anchors that the base model wrote"
    table = Table(caption=f"In brackets: 95 % intervals. {how}.", caption_justify="left")
    table.add_column("")
    for model in MODELS:
        table.add_column(Text(record["results"][model]["label"]), justify="right")
    # On a narrow terminal the interval goes under its number.
    between = " " if width >= _SIDE_BY_SIDE_FROM else "\n"
    for row in demo_rows(record):
        cells = [
            Text.assemble(cell.value, (f"{between}({cell.interval})" if cell.interval else "", "dim"))
            for cell in row.cells
        ]
        table.add_row(Text(row.name), *cells)
    return table


def _answers(record: Mapping[str, Any], answers: Mapping[str, str], width: int) -> Table:
    """The answers in three columns, or under one another on a narrow terminal."""
    # Text, not markup: a model can write [bold] or an escape sequence.
    panels = [
        Panel(
            Text(printable(_clipped(answers[model]))),
            title=record["results"][model]["label"],
            title_align="left",
        )
        for model in MODELS
    ]
    grid = Table.grid(expand=True)
    if width < _SIDE_BY_SIDE_FROM:
        grid.add_column()
        for panel in panels:
            grid.add_row(panel)
    else:
        for _ in panels:
            grid.add_column(ratio=1)
        grid.add_row(*panels)
    return grid


def _clipped(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"
