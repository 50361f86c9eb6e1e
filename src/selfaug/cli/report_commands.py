"""`selfaug report`: what a command found, as a page, a text or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from selfaug.cli.app import Debug, app
from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.terminal import printable, takes_unicode

__all__ = ["report"]

_FORMATS = ("html", "md", "json")

# By this a page of ours is known.
_MARK = b'<meta name="generator" content="selfaug">'
_BEGINNING = 4_000


@app.command(epilog="Example: selfaug report runs/first runs/comparison")
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Folders of runs, assessments, comparisons, balances, demos."),
    ],
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="html, md or json; the last two go to stdout.")
    ] = "html",
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE", help="For one folder. Default of html: its report.html."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file in --output that is not a report.")
    ] = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Write the report of each folder: verdict, numbers with intervals, pictures, answers, and where they come from."""
    from selfaug.cli.pages import PAGE
    from selfaug.records import write_text

    _check(runs, form, output)
    _require_reports()
    from selfaug.report.document_text import document_json, document_markdown
    from selfaug.report.open_report import page_of, report_on

    # All are read before one is written, so that a bad folder leaves nothing half done.
    if form == "html":
        targets = [Path(output) if output else Path(run) / PAGE for run in runs]
        for target in targets:
            _require_replaceable(target, overwrite)
        for target, page in zip(targets, [page_of(run) for run in runs], strict=True):
            write_text(target, page)
            typer.echo(printable(str(target)))
        return
    reports = [report_on(run) for run in runs]
    if form == "md":
        text = "\n".join(document_markdown(one) for one in reports)
    else:
        values: list[dict[str, Any]] = [
            {"folder": run, **document_json(one)} for run, one in zip(runs, reports, strict=True)
        ]
        text = _safe_json(values[0] if len(values) == 1 else values)
    if output is None:
        typer.echo(text if form == "md" or takes_unicode() else _in_ascii(text), nl=False)
        return
    _require_replaceable(Path(output), overwrite)
    write_text(output, text)
    typer.echo(printable(output))


def _check(runs: list[str], form: str, output: str | None) -> None:
    """Raise for flags that don't fit.

    Raises:
        ConfigError: with everything that is wrong.
    """
    from selfaug.errors import ConfigError

    problems = []
    if form not in _FORMATS:
        problems.append(f"there is no format {form!r}; formats are {', '.join(_FORMATS)}")
    if output is not None and len(runs) > 1:
        problems.append(
            f"--output is one file, but {len(runs)} folders are given: leave it out, or give one folder"
        )
    if output is not None and Path(output).is_dir():
        problems.append(f"--output {output} is a folder: name a file in it")
    if problems:
        raise ConfigError(
            "the report can't be written:",
            problems=problems,
            hint="`selfaug report --help` shows the flags and an example.",
        )


def _require_reports() -> None:
    """Raise where the package that makes reports was left out.

    Raises:
        ConfigError: then.
    """
    from selfaug.errors import ConfigError

    try:
        import selfaug.report.open_report  # noqa: F401
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("selfaug.report"):
            raise
        raise ConfigError(
            "this installation makes no reports: the package selfaug.report is not in it.",
            hint="records are plain JSON, and the commands that wrote them show them too.",
        ) from error


def _require_replaceable(target: Path, overwrite: bool) -> None:
    """Raise if a file is there that is not a report.

    Raises:
        StorageError: then.
    """
    from selfaug.errors import StorageError

    if target.is_dir():
        raise StorageError(f"{target} is a folder.", hint="name a file with --output.")
    if overwrite or not target.exists():
        return
    with target.open("rb") as file:
        ours = _MARK in file.read(_BEGINNING)
    if not ours:
        raise StorageError(
            f"{target} is there already, and is not a page of selfaug.",
            hint="--overwrite replaces it; or choose another --output.",
        )


def _in_ascii(text: str) -> str:
    """A JSON document in which other characters are escaped as JSON does."""
    import json

    return "".join(one if one.isascii() else json.dumps(one)[1:-1] for one in text)


def _safe_json(value: Any) -> str:
    """A JSON document in which no character is more than a character, to a terminal or to what reads UTF-8."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(one if printable(one) == one else json.dumps(one)[1:-1] for one in text) + "\n"
