"""What `selfaug monitor` prints: the state, a table of signals, coverage, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfaug.core.alert_state import holds
from selfaug.core.printable import printable
from selfaug.wording.monitor_words import ago, four_digits, standing_in_words, webhook_in_words

__all__ = ["reference_in_words", "show_monitor", "signals_table"]

_STYLES = {
    "ok": "green",
    "learning": "cyan",
    "no_data": "dim",
    "watch": "yellow",
    "drift": "bold red",
    "realign": "bold red",
}
_WANTED = 1000


def show_monitor(status: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a monitor's status on stdout.

    Args:
        status: as `selfaug monitor --json` gives it.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    state = status["state"]
    at = datetime.fromtimestamp(status["time"], UTC)
    seconds = status["seconds_ago"]
    head = Text(f"{state}: ", _STYLES[state]) if holds(state, seconds) else Text("not watched: ", "yellow")
    head.append(standing_in_words(state, status, seconds), "default")
    console.print(head, soft_wrap=True)
    console.print(
        f"as of {at:%Y-%m-%d %H:%M:%S} UTC, {ago(seconds)}; adapter {printable(status['adapter'][:12])}",
        soft_wrap=True,
    )
    console.print(signals_table(status["signals"]))
    for signal in status["signals"]:
        if signal["note"]:
            console.print(f"{signal['name']}: {signal['note']}", soft_wrap=True)
    counts = status["counts"]
    console.print(
        f"drift measured on {status['coverage']:.2%} of "
        f"{counts['processed'] - counts['votes'] - counts['canaries']:,} requests "
        f"({counts['scored']:,}); not measured for the limit of an hour {counts['over_hour']:,}, of compute "
        f"{counts['over_compute']:,}, for errors {counts['score_failed']:,}",
        soft_wrap=True,
    )
    console.print(
        f"dropped {counts['dropped']:,}, lost {counts['lost']:,} of {counts['offered']:,} requests and votes",
        soft_wrap=True,
    )
    console.print(reference_in_words(status["reference"]), soft_wrap=True)
    if status["canary"]["passed"] is False:
        told = f"the canary set did not come back: {printable(status['canary']['why'])}"
        console.print(Text(told, "bold red"), soft_wrap=True)
    if told := webhook_in_words(status.get("webhook")):
        console.print(Text(printable(told), "bold red"), soft_wrap=True)
    if status["last_error"]:
        console.print(f"last error of the monitor: {printable(status['last_error'])}", soft_wrap=True)
    if status["report"] is not None:
        console.print(Text(f"last drift report: {printable(status['report'])}"), soft_wrap=True)


def signals_table(signals: list[Mapping[str, Any]]) -> Table:
    """One line a signal: value, reference, the detector's statistic and threshold, and state."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("signal")
    for name in ("value", "reference", "statistic", "threshold", "PSI"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for signal in signals:
        state: str = signal["state"]
        shown = state.replace("_", " ")
        if state == "learning" and signal["values"] < signal["needed"]:
            shown += f" {signal['values']}/{signal['needed']}"
        table.add_row(
            signal["name"].replace("_", " "),
            four_digits(signal["value"]),
            four_digits(signal["reference"]),
            four_digits(signal["statistic"]),
            four_digits(signal["threshold"]),
            four_digits(signal["psi"]),
            Text(shown, _STYLES[state]),
        )
    return table


def reference_in_words(reference: Mapping[str, Any]) -> str:
    """What live prompts are compared with, and whether that is enough."""
    told = (
        f"reference window: {reference['prompts']:,} prompts, {reference['held out']:,} held out and "
        f"{reference['training']:,} of training"
    )
    if reference["prompts"] < _WANTED:
        told += f"; with fewer than {_WANTED:,}, false alarms come more often than 5 % a month"
    return told
