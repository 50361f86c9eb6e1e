"""What `selfaug evaluate` prints: a table with intervals, and the gate's decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfaug.core.printable import printable
from selfaug.core.trained_on import trained_on_in_words
from selfaug.wording.evaluation_words import (
    bound_in_words,
    cut_off_in_words,
    cut_off_warnings,
    forecast_in_words,
    gates_before_in_words,
    half_in_words,
    level_in_words,
    step_in_words,
    unknown_no_answers_in_words,
    unseen_in_words,
)
from selfaug.wording.numbers import nats, nats_span, percent, points, span

__all__ = [
    "bound_in_words",
    "drift_table",
    "forecast_in_words",
    "show_cut_off",
    "show_evaluation",
    "suites_table",
]

# Narrower than this, intervals go under their numbers.
_BESIDE_FROM = 100


def show_evaluation(record: Mapping[str, Any], console: Console | None = None) -> None:
    """Print an evaluation on stdout.

    Args:
        record: data of the evaluation's record.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    for told in (step_in_words(record["settings"]), half_in_words(record["settings"])):
        if told is not None:
            console.print(Text(f"! {told}", "bold yellow"), soft_wrap=True)
    also = {f"task ({name})": one for name, one in record["also"].items()}
    sides = {f"task: {name}": side for name, side in record["sides"].items()}
    suites = {"task": record["suites"]["task"]} | also | sides if also or sides else {}
    console.print(suites_table(suites | record["suites"], record["settings"]["scorer"], width=console.width))
    if (unknown := unknown_no_answers_in_words(record)) is not None:
        console.print(Text(printable(f"! {unknown}"), "bold yellow"), soft_wrap=True)
    console.print(drift_table(record["drift"], width=console.width))
    if record["forecast"] is not None:
        console.print(forecast_in_words(record["forecast"]), soft_wrap=True)
    level = record["level"]
    if level["scores"]:
        console.print(
            f"general requests of level {level['level']}, by what the base model passes: {level_in_words(level)}",
            soft_wrap=True,
        )
    show_cut_off(record["suites"], console)
    for name, suite in record["suites"].items():
        console.print(Text(printable(f"{name}: {unseen_in_words(suite)}")), soft_wrap=True)
    if (worth := trained_on_in_words(record.get("trained_on"))) is not None:
        console.print(Text(f"! {worth}", "bold yellow"), soft_wrap=True)
    if record["gate"] is not None:
        for bound in record["gate"]["bounds"]:
            console.print(Text(bound_in_words(bound)), soft_wrap=True)
        styles = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
        outcome = record["gate"]["outcome"]
        console.print(Text(f"gate: {outcome}", styles[outcome]))
        if (before := gates_before_in_words(record.get("gates_before", []))) is not None:
            console.print(Text(f"gate: {before}"), soft_wrap=True)


def show_cut_off(
    suites: Mapping[str, Any], console: Console, *, base: str = "base model", tuned: str = "tuned model"
) -> None:
    """Print how many answers were cut off at their limit, and what to do where they are many.

    Args:
        suites: of a record; nothing is printed of one that doesn't have it.
        console: where to.
        base, tuned: what the models are called.
    """
    if (told := cut_off_in_words(suites, base=base, tuned=tuned)) is not None:
        console.print(Text(printable(told)), soft_wrap=True)
    for warning in cut_off_warnings(suites):
        console.print(Text(printable(f"! {warning}"), "bold yellow"), soft_wrap=True)


def suites_table(
    suites: Mapping[str, Any],
    scorer: str,
    *,
    base: str = "base model",
    tuned: str = "tuned model",
    width: int = _BESIDE_FROM,
) -> Table:
    """Scores of base and tuned model on each suite, and their difference.

    Args:
        suites: of an evaluation's record.
        scorer: name of the task's scorer.
        base: what the model that it is compared with is called.
        tuned: what the tuned model is called.
        width: of the terminal.
    """
    between = " " if width >= _BESIDE_FROM else "\n"
    table = Table(caption="In brackets: 95 % intervals.", caption_justify="left")
    for name in ("", "items", base, tuned, "difference, item by item"):
        # Names are folded, not cut off, on a narrow terminal.
        table.add_column(name, justify="left" if name == "" else "right", overflow="fold")
    for name, suite in suites.items():
        table.add_row(
            Text(printable(f"task ({scorer})" if name == "task" else name)),
            f"{suite['items']}",
            _share(suite["base"], between),
            _share(suite["tuned"], between),
            _difference(suite["difference"]["difference"], between),
        )
    return table


def drift_table(drifts: Mapping[str, Any], name: str = "Drift", *, width: int = _BESIDE_FROM) -> Table:
    """How far the model has moved, on each kind of text."""
    between = " " if width >= _BESIDE_FROM else "\n"
    table = Table(caption=f"{name}: KL(base ‖ tuned).", caption_justify="left")
    for column in ("", "tokens", "drift, nats per token", "same first choice", "highest tenth of the text"):
        table.add_column(column, justify="left" if column == "" else "right")
    for kind, drift in drifts.items():
        moved, interval = nats(drift["nats"]["value"], 4), nats_span(drift["nats"], 4)
        tenths = {place: value for place, value in enumerate(drift["by_tenth"]) if value is not None}
        most = max(tenths, key=lambda place: tenths[place], default=None)
        table.add_row(
            Text(printable(kind)),
            f"{drift['tokens']:,}",
            f"{moved}{between}({interval})" if interval else moved,
            percent(drift["top1_agreement"]),
            # A model that is broken drifts by no number.
            "–" if most is None else f"{10 * most}–{10 * most + 10}\N{NO-BREAK SPACE}%: {tenths[most]:.4f}",
        )
    return table


def _share(interval: Mapping[str, float], between: str) -> str:
    return (
        f"{percent(interval['value'])}{between}({100 * interval['low']:.0f} to {100 * interval['high']:.0f})"
    )


def _difference(interval: Mapping[str, float], between: str) -> str:
    return f"{points(interval['value'])}{between}({span(interval)})"
