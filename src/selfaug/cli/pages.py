"""Pages beside records: written where the package that makes them is there, and missed by nothing where it isn't."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from selfaug.cli.terminal import printable, say
from selfaug.errors import SelfAugError
from selfaug.records import write_text

__all__ = ["PAGE", "show_page", "write_page"]

PAGE = "report.html"
"""In the folder that it is about."""


def write_page(folder: str | os.PathLike[str]) -> Path | None:
    """Write the report of a folder as a page into it.

    Args:
        folder: with the record of a run, an assessment, a comparison, a balance or a demo.

    Returns:
        Where it is; None without the package `selfaug.report`, or where it can't be written.
    """
    try:
        from selfaug.report.open_report import page_of
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("selfaug.report"):
            raise
        say("note: this installation makes no pages; the record is there.")
        return None
    page = Path(folder) / PAGE
    try:
        write_text(page, page_of(folder))
    except (
        SelfAugError
    ) as error:  # the results are there and are shown: a page is made again by `selfaug report`
        say(f"note: the page could not be written: {error}")
        return None
    return page


def show_page(page: Path | None) -> None:
    """Say where a page is; on one line, for copying."""
    if page is not None:
        sys.stdout.write(printable(f"page:   {page}") + "\n")
