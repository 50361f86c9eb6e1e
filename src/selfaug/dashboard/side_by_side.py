"""Chosen runs beside each other: what is said of each first, and their curves in one picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfaug.dashboard.library import Entry
from selfaug.errors import DataError
from selfaug.report.charts import COLORS, lines_svg, short_name
from selfaug.report.document import Cell, Chart, Table
from selfaug.report.open_report import explained
from selfaug.report.run_report import curve_rows, logged
from selfaug.rundir import RunDir

__all__ = ["chosen_charts", "chosen_table"]

_LONGEST_END = 40
_CURVES = {
    "nll": ("Learning the job (nll)", "nats per completion token"),
    "alignment_loss": ("Alignment loss", "nats per prompt token"),
    "general_drift": ("Drift on general prompts", "nats per token"),
}


def chosen_table(entries: Sequence[Entry]) -> Table:
    """A column a run: its tiles and verdict."""
    names: list[str] = []
    for entry in entries:
        assert entry.summary is not None
        names += [tile.name for tile in entry.summary.tiles if tile.name not in names]
    rows = [[Cell(name), *(_tile(entry, name) for entry in entries)] for name in names]
    verdicts = [
        Cell("Verdict"),
        *(Cell("" if one.summary is None else one.summary.verdict) for one in entries),
    ]
    return Table("", ["measure", *(entry.path or "." for entry in entries)], [verdicts, *rows])


def chosen_charts(entries: Sequence[Entry]) -> tuple[list[Chart], dict[str, str]]:
    """nll, alignment loss and drift of the runs among them.

    Returns:
        The charts; and by path, why the curves of a run are in none of them.
    """
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    problems: dict[str, str] = {}
    for entry in entries:
        if entry.kind != "train":
            continue
        try:
            curves[entry.path or "."] = _curves(entry.folder)
        except DataError as error:
            problems[entry.path] = str(error)
    names = _short_names(list(curves))
    charts = []
    for key, (name, unit) in _CURVES.items():
        # By the place in this picture, as dashes are: so twelve lines differ.
        drawn = [path for path, found in curves.items() if found[key]]
        keys = dict(zip(drawn, itertools.cycle(COLORS), strict=False))
        lines: dict[str, list[dict[str, Any]]] = {
            path: [
                {"name": names[path], "key": keys[path], "step": step, "value": value}
                for step, value in curves[path][key]
            ]
            for path in drawn
        }
        if not drawn:
            continue
        charts.append(
            Chart(
                name,
                "Each line is a run; lines differ by dashes, too.",
                lines_svg(list(itertools.chain(*lines.values())), unit),
                ["run", "step", unit],
                [[names[path], *row] for path, line in lines.items() for row in curve_rows(line)],
            )
        )
    return charts, problems


def _curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of a run, by what was logged.

    Raises:
        DataError: if its metrics can't be read.
    """
    with explained(folder):
        rows = logged(RunDir(folder))
        return {
            key: [(int(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
            for key in _CURVES
        }


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Paths as the picture can tell them apart: it cuts them at their end, where they differ."""
    names: dict[str, str] = {}
    for path in paths:
        name = path if short_name(path) == path else f"…{path[-_LONGEST_END:]}"
        while short_name(name) in map(short_name, names.values()):
            name = f"{len(names) + 1}: {name}"
        names[path] = name
    return names


def _tile(entry: Entry, name: str) -> Cell:
    assert entry.summary is not None
    tile = next((one for one in entry.summary.tiles if one.name == name), None)
    return Cell("–") if tile is None else Cell(tile.value, "; ".join(tile.notes))
