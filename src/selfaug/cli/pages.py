"""Pages beside records: written where the package that makes them is there, and missed by nothing where it isn't."""

from __future__ import annotations

import os
import shlex
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
        Where it is; None without the package `selfaug.report`, or where it can't be made: that is told, and fails
        nothing, because results that took hours are there and shown, and `selfaug report` makes the page later.
    """
    page = Path(folder) / PAGE
    try:
        from selfaug.report.open_report import page_of

        write_text(page, page_of(folder))
    except SelfAugError as error:
        say(f"note: the page could not be written: {error}")
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("selfaug.report"):
            say("note: this installation makes no pages; the record is there.")
        else:
            again = shlex.join(["selfaug", "report", str(folder)])
            say(f"note: the page could not be made ({type(error).__name__}: {error}); to try again: {again}")
    else:
        return page
    return None


def show_page(page: Path | None) -> None:
    """Say where a page is; on one line, for copying."""
    if page is not None:
        sys.stdout.write(printable(f"page:   {page}") + "\n")
