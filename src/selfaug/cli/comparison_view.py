"""What `selfaug compare` prints: the table of methods, and SelfAug against each of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfaug.core.printable import printable

__all__ = ["show_comparison"]


def show_comparison(record: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """Print a comparison on stdout.

    Args:
        record: data of the comparison's record.
        output: its folder.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    console.print(_methods(record))
    if record["subject"] is not None:
        console.print(_against(record))
    if record["forecast"] is not None:
        console.print(_forecast(record["forecast"]))
    items, seeds = record["items"], record["settings"]["seeds"]
    seen = record["detectable_difference"]
    console.print(
        f"Test items: {', '.join(f'{name} {count}' for name, count in items.items())}; {len(seeds)} seeds. "
        "In brackets: 95 % intervals over items and seeds."
        + (
            ""
            if seen is None
            else f" A general difference under {100 * seen:.0f} points can't be seen with these."
        ),
        soft_wrap=True,
    )
    console.print(Text(printable(f"kept:   {output / 'record.json'}")), soft_wrap=True)


def _methods(record: Mapping[str, Any]) -> Table:
    table = Table()
    for name in ("method", "task", "general − base", "leaks", "drift", "data", "min", "GB", "models"):
        table.add_column(name, justify="left" if name in ("method", "data") else "right")
    base = record["base"]
    table.add_row(
        "base model", _share(base["suites"]["task"]["score"]),
        f"({100 * base['suites']['general']['score']['value']:.0f} %)",
        _leaks(base), "0", "", "", "", "1",
    )  # fmt: skip
    for method in record["methods"].values():
        drift, peak = method["drift"], method["peak_memory_bytes"]
        table.add_row(
            Text(f"{method['label']}, {method['knob']} {method['value']:g}"),
            _share(method["suites"]["task"]["score"]),
            _points(method["suites"]["general"]["difference"]["difference"]),
            _leaks(method),
            "–" if drift is None else f"{drift['nats']['value']:.3f}",
            _data(method),
            f"{(method['train_seconds'] + method['write_seconds']) / 60:.1f}",
            f"{peak / 1e9:.1f}",
            f"{method['models']}",
        )
    for name in record["not_run"]:
        table.add_row(Text(name), *["not run"] + [""] * 7)
    return table


def _against(record: Mapping[str, Any]) -> Table:
    """The difference of each score, in points, with its p-value."""
    subject = record["methods"][record["subject"]]["label"]
    table = Table(title=f"{subject} minus each method, in points", title_justify="left")
    suites = list(record["items"])
    table.add_column("method")
    for suite in suites:
        table.add_column(suite, justify="right")
    for method in record["methods"].values():
        if method["against_subject"] is not None:
            cells = [method["against_subject"][suite] for suite in suites]
            table.add_row(
                Text(method["label"]),
                *(f"{_points(cell['difference'])} p {cell['p_value']:.2g}" for cell in cells),
            )
    return table


def _forecast(forecast: Mapping[str, Any]) -> Table:
    """What drift lets expect."""
    found, count = forecast["correlation"], len(forecast["drifts"])
    table = Table(
        title=f"Forgetting by drift, from {count} runs: rank correlation {found['value']:.2f} "
        f"({found['low']:.2f} to {found['high']:.2f})",
        caption="Expected forgetting in points, with the interval for four runs in five; from the other runs, it held "
        f"{100 * forecast['coverage']:.0f} % of these.",
        title_justify="left",
        caption_justify="left",
    )
    largest = max(forecast["drifts"])
    drifts = [drift for drift in forecast["at"] if float(drift) <= largest]
    table.add_column("drift, nats")
    for drift in drifts:
        table.add_column(drift, justify="right")
    table.add_row(
        "forgetting",
        *(
            f"{100 * at['value']:.1f} ({100 * at['low']:.1f} to {100 * at['high']:.1f})"
            for at in (forecast["at"][drift] for drift in drifts)
        ),
    )
    return table


def _data(method: Mapping[str, Any]) -> str:
    parts = []
    if method["general_rows"]:
        parts.append(f"{method['general_rows']} general")
    if method["written_rows"]:
        parts.append(f"{method['written_rows']} written")
    return ", ".join(parts) or "none"


def _leaks(row: Mapping[str, Any]) -> str:
    return "–" if row["leaks"] is None else f"{100 * row['leaks']['value']:.0f} %"


def _share(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['value']:.0f} % ({100 * interval['low']:.0f}–{100 * interval['high']:.0f})"


def _points(interval: Mapping[str, float]) -> str:
    low, high = (round(100 * interval[end], 1) + 0.0 for end in ("low", "high"))
    return f"{round(100 * interval['value'], 1) + 0.0:+.1f} ({low:+.1f} to {high:+.1f})"
