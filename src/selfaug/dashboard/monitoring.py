"""What is shown of a run's monitor: its last words, the course of its detectors, and every change of state."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfaug.core.alert_state import holds
from selfaug.monitoring.standing import standing_state
from selfaug.monitoring.store import read_changes, read_kept
from selfaug.registry import DEFAULT_REGISTRY
from selfaug.report.charts import lines_svg, states_svg
from selfaug.report.document import Cell, Chart, Section, Table, Text, Tile
from selfaug.wording.monitor_words import ago, four_digits, standing_in_words, webhook_in_words

__all__ = ["monitor_view"]

_MOST_CHANGES = 200
_MOST_POINTS = 190
_TABLE_ROWS = 20
_DAY = 86_400.0

_Traced = tuple[Mapping[str, Any], float, float | None]
"""A moment, a detector's statistic then, and its limit."""

_OUTCOMES = {"ok": "good", "watch": "mixed", "drift": "bad", "realign": "bad"}


def monitor_view(
    folder: Path, *, registry: str | os.PathLike[str] = DEFAULT_REGISTRY, now: float | None = None
) -> dict[str, Any]:
    """Everything about a run's monitor, as sections.

    Args:
        folder: of the run.
        registry: the file that says whether another run has taken its place.
        now: seconds since 1970; None for the clock's.

    Raises:
        StorageError: if nothing has been watched yet, or it can't be read.
    """
    place = folder / "monitor"
    kept, _ = read_kept(place, ["status", "trace"])
    now = time.time() if now is None else now
    status = kept.get("status")
    if status is None:
        return {"outcome": "open", "verdict": "No request has been watched yet.", "tiles": [], "sections": []}
    seconds = now - status["time"]
    state = standing_state(status["state"], seconds, folder, registry)
    meaning = standing_in_words(state, status, seconds)
    known = holds(state, seconds)
    outcome = _OUTCOMES.get(state, "open") if known else "open"
    verdict = f"{meaning[:1].upper()}{meaning[1:]}."
    counts, canary = status["counts"], status["canary"]
    requests = counts["processed"] - counts["votes"] - counts["canaries"]
    drift = next((one for one in status["signals"] if one["name"] == "drift"), None)
    tiles = [
        Tile("State", state.replace("_", " ") if known else "not watched", [ago(seconds)]),
        Tile("Requests watched", f"{requests:,}", [f"drift measured on {status['coverage']:.2%}"]),
        Tile(
            "Drift of live prompts",
            "–" if drift is None or drift["value"] is None else f"{drift['value']:.4f}",
            [] if drift is None else [f"training: {four_digits(drift['reference'])} nats per token"],
        ),
        Tile(
            "Canary set",
            {True: "as recorded", False: "changed"}.get(canary["passed"], "not replayed"),
            [canary["why"]] if canary["why"] else [],
        ),
    ]
    notes = [
        Text(f"{one['name'].replace('_', ' ')}: {one['note']}") for one in status["signals"] if one["note"]
    ]
    if told := webhook_in_words(status.get("webhook")):
        notes.append(Text(f"{told[:1].upper()}{told[1:]}."))
    if status["last_error"]:
        notes.append(Text(f"Last error of the monitor: {status['last_error']}"))
    trace = kept.get("trace") or []
    changes = read_changes(place, _MOST_CHANGES)
    return {
        "outcome": outcome,
        "verdict": verdict,
        "tiles": tiles,
        "sections": [
            Section(
                "Signals",
                "Each detector's statistic against its limit; beyond it, the state changes.",
                [_signals(status), *notes],
            ),
            Section(
                "Course",
                f"A point every fifteen minutes, times in UTC; {len(trace):,} points.",
                _course(trace, now),
            ),
            Section("Changes of state", "", [_changes(changes)] if changes else [Text("None yet.")]),
            Section("What was not looked at", "", [_lost(counts)]),
        ],
    }


def _signals(status: Mapping[str, Any]) -> Table:
    return Table(
        "Signals",
        ["signal", "value", "reference", "statistic", "limit", "PSI", "state"],
        [
            [
                Cell(one["name"].replace("_", " "), one["unit"]),
                *(
                    Cell(four_digits(one[name]))
                    for name in ("value", "reference", "statistic", "threshold", "psi")
                ),
                Cell(one["state"].replace("_", " "), f"{one['values']:,} values"),
            ]
            for one in status["signals"]
        ],
    )


def _course(trace: Sequence[Mapping[str, Any]], now: float) -> list[Chart | Text]:
    if len(trace) < 2:
        return [Text("There is nothing to draw yet.")]
    # A state lasts until the next one.
    turns = [
        point
        for number, point in enumerate(trace)
        if number in (0, len(trace) - 1) or point["state"] != trace[number - 1]["state"]
    ]
    states = [{"x": _days(point, now), "state": point["state"].replace("_", " ")} for point in turns]
    charts: list[Chart | Text] = [
        Chart(
            "State over time",
            "Left is earlier; 0 is now.",
            states_svg(states, "days"),
            ["time", "state"],
            [[_moment(point["time"]), point["state"].replace("_", " ")] for point in turns[-_MOST_CHANGES:]],
        )
    ]
    for name in dict.fromkeys(name for point in trace for name in point["signals"]):
        traced = [(point, *point["signals"][name]) for point in trace if name in point["signals"]]
        values = _highest(traced, _MOST_POINTS)
        if len(values) < 2:
            continue
        rows = [{"step": _days(point, now), "value": statistic} for point, statistic, _ in values]
        title = (
            f"{'CUSUM of drift' if name == 'drift' else name.replace('_', ' ').capitalize()} with its limit"
        )
        charts.append(
            Chart(
                title,
                "The detector's statistic; the dashed line is the limit beyond which the state changes.",
                lines_svg(rows, "statistic", limit=values[-1][2], x="days"),
                ["time", "statistic", "limit"],
                [
                    [_moment(point["time"]), four_digits(at), four_digits(limit)]
                    for point, at, limit in _highest(values, _TABLE_ROWS)
                ],
            )
        )
    return charts


def _highest(values: Sequence[_Traced], most: int) -> list[_Traced]:
    """Of more points than so many the highest of each stretch, so that none that was beyond its limit is lost; and the
    last."""
    every = max(1, -(-len(values) // most))
    kept = [
        max(values[first : first + every], key=lambda one: one[1]) for first in range(0, len(values), every)
    ]
    return kept if not kept or kept[-1] is values[-1] else [*kept, values[-1]]


def _days(point: Mapping[str, Any], now: float) -> float:
    return float((point["time"] - now) / _DAY)


def _changes(changes: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        "Every change",
        ["time (UTC)", "signal", "from", "to", "statistic", "limit"],
        [
            [
                Cell(_moment(one["time"])),
                Cell(one["signal"].replace("_", " ")),
                Cell(one["before"].replace("_", " ")),
                Cell(one["after"].replace("_", " ")),
                Cell(four_digits(one["statistic"])),
                Cell(four_digits(one["threshold"])),
            ]
            for one in reversed(changes)
        ],
    )


def _lost(counts: Mapping[str, int]) -> Table:
    names = {
        "over_hour": "drift not measured: limit of an hour",
        "over_compute": "drift not measured: limit of compute",
        "score_failed": "drift not measured: an error",
        "thinned": "beyond what is looked at in an hour",
        "dropped": "dropped: the monitor was behind",
        "lost": "lost with a process that was killed",
    }
    rows = [[Cell(told), Cell(f"{counts.get(name, 0):,}")] for name, told in names.items()]
    return Table(
        "Counts", ["what", "requests"], [*rows, [Cell("offered in all"), Cell(f"{counts['offered']:,}")]]
    )


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
