"""`selfaug roi`: the business case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfaug.cli.app import Debug, Json, app
from selfaug.cli.terminal import print_json, say
from selfaug.errors import PathError, StorageError

__all__ = ["roi"]


@app.command(epilog="Example: selfaug roi runs/comparison --set inputs.workers=500")
def roi(
    comparison: Annotated[
        str | None,
        typer.Argument(metavar="[COMPARISON]", help="Folder of a comparison, whose scores are used."),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="YAML file with what is assumed.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Folder of a run that is served and watched: its requests are counted.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any assumption; may be repeated."),
    ] = None,
    draws: Annotated[
        int, typer.Option("--draws", metavar="NUMBER", min=100, max=1_000_000, help="Of the simulation.")
    ] = 10_000,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", min=0, help="Of the simulation.")] = 0,
    spreadsheet: Annotated[
        str | None,
        typer.Option(
            "--csv", metavar="FILE", help="Write a spreadsheet with formulae, where inputs can be changed."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --csv: replace what is there.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Work out what a model is worth: against no tuning, plain fine-tuning, and that behind a router."""
    from selfaug.cli.roi_view import show_roi
    from selfaug.phases.roi import business_case
    from selfaug.roi_config import load_roi_config

    settings = load_roi_config(None if config is None else Path(config), sets=sets or [])
    file = None if spreadsheet is None else Path(spreadsheet)
    if file is not None:
        _require_free(file, overwrite=overwrite)
    case = business_case(settings, comparison, run=run, draws=draws, seed=seed)
    if file is not None:
        from selfaug.records import write_text
        from selfaug.wording.roi_csv import roi_csv

        write_text(file, roi_csv(case))
        say(f"{file}: inputs, formulae and all months.")
    if as_json:
        print_json(case)
    else:
        show_roi(case)


def _require_free(file: Path, *, overwrite: bool) -> None:
    """Before anything is computed.

    Raises:
        StorageError: if the file may not be written.
    """
    if file.is_dir():
        raise PathError(f"{file} is a folder, not a file.", hint="give --csv a file, such as case.csv.")
    if file.exists() and not overwrite:
        raise StorageError(f"{file} is there already.", hint="name another file, or use --overwrite.")
    if not file.parent.is_dir():
        raise StorageError(
            f"there is no folder {file.parent}.", hint="make it, or name another file for --csv."
        )
