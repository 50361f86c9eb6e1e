"""What `selfaug assess` prints: the data's checks, the scores, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfaug.cli.evaluation_view import drift_table, suites_table
from selfaug.core.printable import printable

__all__ = ["show_assessment"]

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "bold yellow")}


def show_assessment(record: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """Print an assessment on stdout.

    Args:
        record: data of the assessment's record.
        output: the assessment's folder.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    checks = Table(box=None, show_header=False, pad_edge=False)
    for finding in record["findings"]:
        sign, style = _SIGNS[finding["status"]]
        checks.add_row(Text(sign, style), finding["name"], Text(printable(finding["found"])))
    surprise = record["surprise"]
    checks.add_row(
        "",
        "base model",
        f"{surprise['prompt_nll']:.2f} nats per prompt token, {surprise['completion_nll']:.2f} per completion token",
    )
    console.print(checks)
    console.print(suites_table(record["suites"], record["settings"]["scorer"], tuned="probe"))
    console.print(drift_table(record["drift"], f"Drift of the probe after {record['probe']['steps']} steps"))
    console.print(Text.assemble("\n", (printable(record["verdict"]), "bold"), "\n"))
    budget = record["budget"]
    if budget is None:
        console.print("budget: too few general requests to propose one", soft_wrap=True)
    else:
        console.print(
            f"budget: {100 * budget:.1f} points of forgetting; less than that these requests can't show",
            soft_wrap=True,
        )
    model, rows = (
        record["settings"]["config"]["model"]["name"],
        record["settings"]["config"]["data"]["train"][0],
    )
    console.print(
        Text(
            printable(
                f"next:   selfaug train --model {model} --train {rows} --anchors self --output runs/first"
            )
        ),
        soft_wrap=True,
    )
    console.print(Text(printable(f"kept:   {output / 'record.json'}")), soft_wrap=True)
    console.print(Text(printable(f"page:   {output / 'report.html'}")), soft_wrap=True)
