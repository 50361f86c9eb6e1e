"""The report on a folder, whatever command wrote it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfaug.errors import DataError
from selfaug.records import read_record
from selfaug.report.assessment_report import assessment_report
from selfaug.report.balance_report import balance_report
from selfaug.report.comparison_report import comparison_report
from selfaug.report.demo_page import demo_page
from selfaug.report.demo_report import demo_report
from selfaug.report.document import Report
from selfaug.report.page import document_page
from selfaug.report.run_report import run_report
from selfaug.rundir import RunDir

__all__ = ["KINDS", "kind_of", "page_of", "report_on"]

_BY_KIND: dict[str, Callable[[dict[str, Any], Path], Report]] = {
    "comparison": comparison_report,
    "balance": lambda record, _: balance_report(record),
    "assessment": assessment_report,
    "demo": lambda record, _: demo_report(record),
}

KINDS = ("train", *_BY_KIND)
"""Kinds of records that there are reports on."""


def kind_of(folder: str | os.PathLike[str]) -> str | None:
    """Of the record in a folder, or `train` for a run that is not finished; None where there is neither."""
    folder = Path(folder)
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "train" if RunDir(folder).is_run() else None
    except (OSError, ValueError):
        return None
    return str(record.get("kind")) if isinstance(record, dict) else None


def report_on(folder: str | os.PathLike[str]) -> Report:
    """The report on what a command wrote.

    Args:
        folder: its output.

    Raises:
        DataError: if there is nothing in it that a report could be made of, or it can't be read.
    """
    folder = Path(folder)
    kind = kind_of(folder)
    if kind not in KINDS:
        found = (
            "there is no such folder"
            if not folder.is_dir()
            else ("it has no record" if kind is None else f"its record is of kind {kind!r}")
        )
        raise DataError(
            f"no report can be made of {folder}: {found}.",
            hint="give the --output of train, assess, compare, balance or demo; a record is written last, so one that "
            "is missing means that the command did not finish.",
        )
    try:
        if kind == "train":
            return run_report(RunDir(folder))
        return _BY_KIND[kind](read_record(folder / "record.json", kind), folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the records in {folder} lack what a report needs ({type(error).__name__}: {error}).",
            hint="they were written by another version of selfaug, or changed: run the command again.",
        ) from error


def page_of(folder: str | os.PathLike[str]) -> str:
    """The same as a page; a demo has one of its own.

    Raises:
        DataError: as for `report_on`.
    """
    if kind_of(folder) == "demo":
        return demo_page(read_record(Path(folder) / "record.json", "demo"))
    return document_page(report_on(folder))
