"""A folder with a record of each kind that there are reports on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from demo_records import EXECUTIVE, record
from report_records import (
    EVALUATION,
    REALIGNMENT,
    comparison_record,
    write_assessment,
    write_balance,
    write_comparison,
    write_run,
)
from selfaug.records import write_record


def demo(folder: Path) -> Path:
    folder.mkdir()
    write_record(folder / "record.json", "demo", record([EXECUTIVE], steps=12))
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "evaluated": lambda folder: write_run(folder, evaluation=EVALUATION).path,
    "trained": lambda folder: write_run(folder).path,
    "unfinished": lambda folder: write_run(folder, training=None, steps=7).path,
    "realigned": lambda folder: write_run(folder, realignment=REALIGNMENT, steps=0).path,
    "comparison": lambda folder: write_comparison(folder, comparison_record()),
    "comparison-real": lambda folder: write_comparison(folder, comparison_record("comparison-real-text")),
    "balance": write_balance,
    "assessment": write_assessment,
    "demo": demo,
}
