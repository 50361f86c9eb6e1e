"""What `selfaug balance` prints: trials, the dial, the chosen point and why, and its test."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfaug.cli.evaluation_view import bound_in_words, show_cut_off, suites_table
from selfaug.core.printable import printable
from selfaug.core.trained_on import seen_in_words
from selfaug.wording.balance_words import bend_in_words, choice_in_words, forgetting_span, task_span
from selfaug.wording.numbers import percent, points

__all__ = ["show_balance"]

# Narrower than this, intervals go under their numbers.
_BESIDE_FROM = 140


def show_balance(record: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """Print a balance on stdout.

    Args:
        record: data of its record.
        output: its folder.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    tried = len(record["trials"])
    console.print(
        Text(f"{tried} settings tried; the best, with their adapters turned down, on development items:")
    )
    console.print(_points(record, " " if console.width >= _BESIDE_FROM else "\n"))
    console.print(Text(f"chosen: {choice_in_words(record)}"), soft_wrap=True)
    if (bend := bend_in_words(record)) is not None:
        console.print(Text(bend), soft_wrap=True)
    for trial in record["failed_trials"]:
        console.print(Text(printable(f"not trained: {trial['settings']}: {trial['error']}")), soft_wrap=True)
    console.print()
    console.print(
        suites_table(
            record["test"],
            record["settings"]["scorer"],
            tuned="chosen point, test items",
            width=console.width,
        )
    )
    show_cut_off(record["test"], console, tuned="chosen point")
    console.print(Text(bound_in_words(record["test_gate"])), soft_wrap=True)
    for told in seen_in_words(record, record["test"].get("task", {}).get("items", 0)):
        console.print(Text(f"! {told}", "bold yellow"), soft_wrap=True)
    console.print(
        Text(printable(f"run:    {output / record['best']}\nkept:   {output / 'record.json'}")),
        soft_wrap=True,
    )
    for told in _next(output / record["best"]):
        console.print(Text(printable(told)), soft_wrap=True)


def _next(run: Path) -> list[str]:
    """The chosen point is a run like any other."""
    ask, export = (
        shlex.join(["selfaug", *words])
        for words in (
            ["serve", str(run)],
            ["export", str(run), "--to", f"models/{run.absolute().parent.name}"],
        )
    )
    return [f"next:   {ask}", f"  or:   {export}"]


def _points(record: Mapping[str, Any], between: str) -> Table:
    """The dial on development items; what is on the front is marked."""
    table = Table(caption="In brackets: 95 % intervals.", caption_justify="left")
    # Folded, not cut off, on a narrow terminal: runs differ by the ends of their names.
    table.add_column("run", overflow="fold")
    for name in ("adapter", "task", "forgetting, points", "drift, nats"):
        table.add_column(name, justify="right")
    table.add_column("", max_width=7)
    for number, point in enumerate(record["points"]):
        marks = [word for word, found in (
            ("chosen", number == record["chosen"]),
            ("knee", number == record["knee"]),
            ("front", number in record["front"]),
        ) if found]  # fmt: skip
        table.add_row(
            Text(point["run"]),
            f"{point['scale']:g}",
            f"{percent(point['task'])}{between}{task_span(point)}",
            f"{points(point['forgetting']).removesuffix(' points')}{between}{forgetting_span(point)}",
            f"{point['drift']:.3f}",
            ", ".join(marks),
            style="bold" if number == record["chosen"] else "",
        )
    return table
