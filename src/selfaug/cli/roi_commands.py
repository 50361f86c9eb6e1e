"""`selfaug roi`: the business case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfaug.cli.app import Debug, Json, app
from selfaug.cli.terminal import print_json

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
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any assumption; may be repeated."),
    ] = None,
    draws: Annotated[
        int, typer.Option("--draws", metavar="NUMBER", min=100, max=1_000_000, help="Of the simulation.")
    ] = 10_000,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", min=0, help="Of the simulation.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Work out what a model is worth: against no tuning, plain fine-tuning, and that behind a router."""
    from selfaug.cli.roi_view import show_roi
    from selfaug.phases.roi import business_case
    from selfaug.roi_config import load_roi_config

    settings = load_roi_config(None if config is None else Path(config), sets=sets or [])
    case = business_case(settings, comparison, draws=draws, seed=seed)
    if as_json:
        print_json(case)
    else:
        show_roi(case)
