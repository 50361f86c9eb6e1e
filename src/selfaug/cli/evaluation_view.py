"""What `selfaug evaluate` prints: a table with intervals, and the gate's decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfaug.core.printable import printable
from selfaug.report.demo_results import percent, points

__all__ = ["bound_in_words", "drift_table", "forecast_in_words", "show_evaluation", "suites_table"]


def show_evaluation(record: Mapping[str, Any], console: Console | None = None) -> None:
    """Print an evaluation on stdout.

    Args:
        record: data of the evaluation's record.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    sides = {f"task: {name}": side for name, side in record.get("sides", {}).items()}
    console.print(suites_table(record["suites"] | sides, record["settings"]["scorer"]))
    console.print(drift_table(record["drift"]))
    if record["forecast"] is not None:
        console.print(forecast_in_words(record["forecast"]), soft_wrap=True)
    level = record["level"]
    if level["scores"]:
        scores = ", ".join(f"{percent(score)} at level {name}" for name, score in level["scores"].items())
        console.print(
            f"general requests of level {level['level']}: the base model passes {scores}", soft_wrap=True
        )
    for name, suite in record["suites"].items():
        seen = suite["detectable_difference"]
        unseen = "any change" if seen is None else f"a change under {points(seen, sign=False)}"
        console.print(f"{name}: {suite['items']} items are too few to see {unseen}", soft_wrap=True)
    if record["gate"] is not None:
        for bound in record["gate"]["bounds"]:
            console.print(Text(bound_in_words(bound)), soft_wrap=True)
        styles = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
        outcome = record["gate"]["outcome"]
        console.print(Text(f"gate: {outcome}", styles[outcome]))


def suites_table(suites: Mapping[str, Any], scorer: str, *, tuned: str = "tuned model") -> Table:
    """Scores of base and tuned model on each suite, and their difference.

    Args:
        suites: of an evaluation's record.
        scorer: name of the task's scorer.
        tuned: what the tuned model is called.
    """
    table = Table(caption="In brackets: 95 % intervals.", caption_justify="left")
    for name in ("", "items", "base model", tuned, "difference, item by item"):
        table.add_column(name, justify="left" if name == "" else "right")
    for name, suite in suites.items():
        table.add_row(
            Text(printable(f"task ({scorer})" if name == "task" else name)),
            f"{suite['items']}",
            _share(suite["base"]),
            _share(suite["tuned"]),
            _difference(suite["difference"]["difference"]),
        )
    return table


def drift_table(drifts: Mapping[str, Any], name: str = "Drift") -> Table:
    """How far the model has moved, on each kind of text."""
    table = Table(caption=f"{name}: KL(base ‖ tuned).", caption_justify="left")
    for column in ("", "tokens", "drift, nats per token", "same first choice", "most of it"):
        table.add_column(column, justify="left" if column in ("", "most of it") else "right")
    for kind, drift in drifts.items():
        nats = drift["nats"]
        tenths = {place: value for place, value in enumerate(drift["by_tenth"]) if value is not None}
        most = max(tenths, key=lambda place: tenths[place])
        table.add_row(
            Text(kind),
            f"{drift['tokens']:,}",
            f"{nats['value']:.4f} ({nats['low']:.4f} to {nats['high']:.4f})",
            percent(drift["top1_agreement"]),
            f"{10 * most} to {10 * most + 10} % of the text: {tenths[most]:.4f}",
        )
    return table


def forecast_in_words(forecast: Mapping[str, Any]) -> str:
    """What other runs forgot at this drift."""
    text = (
        f"forecast: at a drift of {forecast['drift']:.3f}, {points(forecast['value'], sign=False)} are forgotten "
        f"({_span(forecast)} for four runs in five), from {forecast['runs']} runs; made from the other runs, it held "
        f"{percent(forecast['coverage'])} of these"
    )
    return text + ("; this drift is beyond theirs, so expect more" if forecast["beyond"] else "")


def bound_in_words(bound: Mapping[str, Any]) -> str:
    """One bound of a gate, what was measured, and the decision."""
    value = bound["value"]
    text = (
        f"{bound['name']}: {points(value['value'])} ({_span(value)}), "
        f"{bound['sense']} {points(bound['bound'], sign=False)} wanted: {bound['outcome']}"
    )
    if bound["outcome"] == "inconclusive":
        needed = bound["items_needed"]
        text += f"; some {needed:,} items would decide, {bound['items']:,} were measured" if needed else ""
    return text


def _share(interval: Mapping[str, float]) -> str:
    return f"{percent(interval['value'])} ({100 * interval['low']:.0f} to {100 * interval['high']:.0f})"


def _difference(interval: Mapping[str, float]) -> str:
    return f"{points(interval['value'])} ({_span(interval)})"


def _span(interval: Mapping[str, float]) -> str:
    # + 0.0: no minus before a zero
    return f"{round(100 * interval['low'], 1) + 0.0:+.1f} to {round(100 * interval['high'], 1) + 0.0:+.1f}"
