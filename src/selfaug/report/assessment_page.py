"""The page of a baseline assessment: verdict, the data, and what the probe forgot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfaug.records import read_record
from selfaug.report.evaluation_page import MOST_BYTES_OF_ONE, evaluation_values
from selfaug.report.page import render
from selfaug.rundir import RunDir
from selfaug.wording.evaluation_words import discordance_in_words
from selfaug.wording.numbers import duration

__all__ = ["assessment_page"]


def assessment_page(record: Mapping[str, Any], folder: Path) -> str:
    """One HTML file on an assessment.

    Args:
        record: data of the assessment's record.
        folder: of the assessment, with its probe.
    """
    probe = RunDir(folder / "probe")
    return render(
        "assessment_page.html.j2",
        MOST_BYTES_OF_ONE,
        assessment=record,
        assumed=discordance_in_words(None),
        model=record["settings"]["config"]["model"]["name"],
        probe_duration=duration(record["probe"]["seconds"]),
        **evaluation_values(
            read_record(probe.evaluation, "evaluation"),
            probe.samples / "evaluation",
            tuned="probe",
            samples_folder="probe/samples/evaluation",
        ),
    )
