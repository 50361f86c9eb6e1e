"""The report on a folder, whatever command wrote it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jinja2 import UndefinedError

from selfaug.errors import DataError
from selfaug.records import read_record
from selfaug.report.assessment_report import assessment_report, assessment_summary
from selfaug.report.balance_report import balance_report, balance_summary
from selfaug.report.comparison_report import comparison_report, comparison_summary, comparison_telling_request
from selfaug.report.demo_report import demo_report, demo_summary, demo_telling_request
from selfaug.report.document import Answers, Report, Summary
from selfaug.report.page import document_page
from selfaug.report.run_report import run_report, run_summary
from selfaug.rundir import RunDir

__all__ = ["KINDS", "explained", "kind_of", "page_of", "report_on", "summary_of", "telling_request"]

_Made = TypeVar("_Made")

_LONGEST_REASON = 200

_REPORTS: dict[str, Callable[[dict[str, Any], Path], Report]] = {
    "comparison": comparison_report,
    "balance": lambda record, _: balance_report(record),
    "assessment": assessment_report,
    "demo": lambda record, _: demo_report(record),
}
_SUMMARIES: dict[str, Callable[[dict[str, Any], Path], Summary]] = {
    "comparison": lambda record, _: comparison_summary(record),
    "balance": lambda record, _: balance_summary(record),
    "assessment": lambda record, _: assessment_summary(record),
    "demo": lambda record, _: demo_summary(record),
}

_TELLING: dict[str, Callable[[dict[str, Any], Path], Answers | None]] = {
    "comparison": comparison_telling_request,
    "balance": lambda record, _: None,
    "assessment": lambda record, _: None,
    "demo": lambda record, _: demo_telling_request(record),
}

KINDS = ("train", *_REPORTS)
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
    return _made(Path(folder), run_report, _REPORTS)


def summary_of(folder: str | os.PathLike[str]) -> Summary:
    """What the report says first; quick, since no picture is drawn.

    Raises:
        DataError: as for `report_on`.
    """
    return _made(Path(folder), run_summary, _SUMMARIES)


def telling_request(folder: str | os.PathLike[str]) -> Answers | None:
    """One general request with the answers of base model, plain LoRA and SelfAug, of a comparison or a demo.

    Returns:
        None where there is none, as in a run.

    Raises:
        DataError: as for `report_on`.
    """
    return _made(Path(folder), lambda _: None, _TELLING)


def _made(
    folder: Path,
    of_run: Callable[[RunDir], _Made],
    by_kind: Mapping[str, Callable[[dict[str, Any], Path], _Made]],
) -> _Made:
    kind = kind_of(folder)
    if kind not in KINDS:
        if kind is None and (folder / "record.json").exists():
            read_record(folder / "record.json", KINDS[0])  # says what is wrong with it
        found = (
            ("it is a file, not a folder" if folder.exists() else "there is no such folder")
            if not folder.is_dir()
            else ("it has no record" if kind is None else f"its record is of kind {kind!r}")
        )
        raise DataError(
            f"no report can be made of {folder}: {found}.",
            hint="give the --output of train, assess, compare, balance or demo; a record is written last, so one that "
            "is missing means that the command did not finish.",
        )
    with explained(folder):
        if kind == "train":
            return of_run(RunDir(folder))
        return by_kind[kind](read_record(folder / "record.json", kind), folder)


# What it takes to make a report of a record that lacks something, or has something else in its place.
_LACKING = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    UndefinedError,
    ValueError,
    yaml.YAMLError,
)


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what a record of another shape leads to into one clear error.

    Args:
        folder: with the record.

    Raises:
        DataError: if the block fails for want of something in it.
    """
    try:
        yield
    except _LACKING as error:
        what = (str(error).strip().splitlines() or ["no message"])[0][:_LONGEST_REASON]
        raise DataError(
            f"the records in {folder} lack what a report needs ({type(error).__name__}: {what}).",
            hint="they were written by another version of selfaug, or changed: run the command again.",
        ) from error


def page_of(folder: str | os.PathLike[str]) -> str:
    """The same as a page.

    Raises:
        DataError: as for `report_on`.
    """
    with explained(Path(folder)):
        return document_page(report_on(folder))
