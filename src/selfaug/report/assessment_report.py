"""The report of a baseline assessment: verdict, the data, and what the probe forgot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfaug.records import read_record
from selfaug.report.document import Block, Cell, Report, Section, Summary, Table, Text, Tile
from selfaug.report.evaluation_report import evaluation_provenance, evaluation_sections, evaluation_tiles
from selfaug.report.provenance import machine_in_words, made_of_provenance
from selfaug.rundir import RunDir
from selfaug.wording.evaluation_words import budget_items_in_words, found_in_words
from selfaug.wording.numbers import duration, points

__all__ = ["assessment_report", "assessment_summary"]


def assessment_report(record: Mapping[str, Any], folder: Path) -> Report:
    """What the base model can do, and what plain fine-tuning makes it forget.

    Args:
        record: data of the assessment's record.
        folder: of the assessment, with its probe.
    """
    probe = RunDir(folder / "probe")
    evaluation = read_record(probe.evaluation, "evaluation")
    findings = [
        [
            Cell(one["name"]),
            Cell(("✓ " if one["status"] == "ok" else "! ") + one["status"]),
            Cell(one["found"]),
        ]
        for one in record["findings"]
    ]
    surprise, budget, config = record["surprise"], record["budget"], record["settings"]["config"]
    data: list[Block] = [
        Table("Checks of the data", ["check", "result", "found"], findings),
        Text(
            f"The base model expects the prompts at {surprise['prompt_nll']:.2f} and the completions at "
            f"{surprise['completion_nll']:.2f} nats per token: completions that cost more than their prompts are new "
            "to it in their form."
        ),
    ]
    took = f"trained for {record['probe']['steps']} steps ({duration(record['probe']['seconds'])})"
    proposed = (
        "No budget of forgetting is proposed: the base model passes too few of the general requests to show a loss."
        if budget is None
        else f"Proposed budget of forgetting: {points(budget, sign=False)}. With {budget_items_in_words(record)}, a "
        f"loss of so much {found_in_words(None)}."
    )
    return Report(
        **vars(assessment_summary(record)),
        sections=[
            Section("The data", "", data),
            Section(
                "What plain fine-tuning does",
                f"A probe, plain LoRA without alignment, was {took} and compared with the base model.",
                [Text(proposed)],
            ),
            *evaluation_sections(
                evaluation,
                probe.samples / "evaluation",
                tuned="probe",
                samples_folder="probe/samples/evaluation",
            ),
        ],
        provenance=[
            ("model", config["model"]["name"]),
            ("rows", ", ".join(map(str, config["data"].get("train") or [config["data"].get("prepared")]))),
            *made_of_provenance(record),
            *_probe_provenance(record),
            *evaluation_provenance(evaluation),
        ],
        made_by="selfaug assess",
    )


def _probe_provenance(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "environment" not in record:  # earlier records
        return []
    return [
        ("seed of the probe", str(record["settings"]["config"]["train"]["seed"])),
        ("probe trained on", machine_in_words(record["environment"])),
    ]


def assessment_summary(record: Mapping[str, Any]) -> Summary:
    """What is said first of an assessment."""
    budget = record["budget"]
    return Summary(
        kind="assessment",
        name=f"Baseline assessment of {record['settings']['config']['model']['name']}",
        outcome="open",
        verdict=record["verdict"],
        tiles=[
            *evaluation_tiles(record, tuned="probe"),
            Tile(
                "Proposed budget", "none" if budget is None else points(budget, sign=False), ["of forgetting"]
            ),
        ],
    )
