"""The report of a demo, as text, JSON and in the dashboard; its own page is made by `demo_page`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from selfaug.report.demo_charts import demo_charts
from selfaug.report.document import (
    Answer,
    Answers,
    Cell,
    Outcome,
    Report,
    Section,
    Summary,
    Table,
    Tile,
)
from selfaug.report.evaluation_report import answer_badges
from selfaug.wording.demo_results import MODELS, demo_rows, demo_verdict
from selfaug.wording.numbers import duration

__all__ = ["demo_report", "demo_summary", "demo_telling_request"]

_OUTCOMES: dict[str, Outcome] = {"kept": "good", "partly": "mixed", "not shown": "bad", "not learned": "bad"}

_TILES = {
    "Exact answers": "Job: exact answers",
    "Checks against base": "General checks against base",
    "House style leaks": "Job's style in general answers",
    "Training time": "Cost of a training",
}


def demo_report(record: Mapping[str, Any]) -> Report:
    """Base model, plain LoRA and SelfAug beside each other.

    Args:
        record: data of a demo's record.
    """
    labels = {model: record["results"][model]["label"] for model in MODELS}
    rows = {row.name: row for row in demo_rows(record)}
    asked = [replace(one, opened=number == 0) for number, one in enumerate(_asked(record))]
    results = Table(
        "Results",
        ["measure", *labels.values()],
        [
            [Cell(row.name, row.meaning), *(Cell(cell.value, cell.interval) for cell in row.cells)]
            for row in rows.values()
        ],
    )
    environment = record.get("environment")
    machine = [] if environment is None else [("machine", environment["device"])]
    return Report(
        **vars(demo_summary(record)),
        sections=[
            Section("The same request, answered by each", "Neither training had requests like these.", asked),
            Section("Results", "In small print: 95 % intervals.", [results]),
            Section("Pictures", "", demo_charts(record)),
        ],
        provenance=[
            ("model", record["model"]),
            *(
                (name.replace("_", " "), "all" if value is None else str(value))
                for name, value in record["settings"].items()
            ),
            *machine,
            ("time", duration(record["seconds"])),
        ],
        made_by="selfaug demo",
    )


def demo_summary(record: Mapping[str, Any]) -> Summary:
    """What is said first of a demo."""
    verdict = demo_verdict(record)
    rows = {row.name: row for row in demo_rows(record)}
    tiles = []
    for name, title in _TILES.items():
        _, plain, ours = rows[name].cells
        interval = [f"95 %: {ours.interval}"] if ours.interval else []
        tiles.append(Tile(title, ours.value, [*interval, f"plain LoRA: {plain.value}"]))
    return Summary(
        kind="demo",
        name=f"SelfAug demo on {record['model']}",
        outcome=_OUTCOMES[verdict.outcome],
        verdict=verdict.text,
        tiles=tiles,
    )


def demo_telling_request(record: Mapping[str, Any]) -> Answers | None:
    """The first request, an executive's; None where none was asked."""
    found = _asked(record)
    return found[0] if found else None


def _asked(record: Mapping[str, Any]) -> list[Answers]:
    labels = {model: record["results"][model]["label"] for model in MODELS}
    return [
        Answers(
            f"{entry['kind']}: {entry['id']}",
            entry["prompt"],
            [
                Answer(
                    model,
                    labels[model],
                    entry["answers"][model],
                    answer_badges(entry["passed"][model], leaks=entry.get("leaks", {}).get(model, False)),
                )
                for model in MODELS
            ],
        )
        for entry in record["side_by_side"]
    ]
