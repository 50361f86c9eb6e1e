"""`selfaug realign`: a deployed run learns from new rows, and must not lose what it could."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from selfaug.cli.app import (
    GATE_FAILED,
    Debug,
    Json,
    Level,
    MaxNewTokens,
    Offline,
    Run,
    Scorer,
    Sets,
    app,
    debugging,
    going_on,
    level_name,
    quiet_libraries,
)
from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.terminal import RunProgress, print_json, say
from selfaug.cli.whose_code import say_code_of_run

if TYPE_CHECKING:
    from selfaug.phases.realign import Realignment

__all__ = ["realign"]


@app.command(epilog="Example: selfaug realign runs/first --data new.jsonl --eval-data new-held-out.jsonl")
def realign(
    ctx: typer.Context,
    run: Run,
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="SOURCE", help="New rows to learn from; may be repeated."),
    ],
    eval_data: Annotated[
        list[str] | None,
        typer.Option(
            "--eval-data",
            metavar="SOURCE",
            help="Held-out new rows; may be repeated. Default: some of --data are set apart.",
        ),
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            "--hold-out",
            metavar="SHARE",
            min=0.0,
            max=0.5,
            help="Of the new rows, where there is no --eval-data; 0 for none.",
        ),
    ] = 0.1,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FOLDER", help="Of the new run. Default: RUN-realigned."),
    ] = None,
    rehearsal: Annotated[
        float,
        typer.Option(
            "--rehearsal", metavar="SHARE", min=0.0, max=0.999, help="Old rows among all; 0 for none."
        ),
    ] = 0.1,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="NUMBER", min=1, help="Optimizer steps. Default: as before."),
    ] = None,
    scorer: Scorer = "exact",
    old_scorer: Annotated[
        str | None,
        typer.Option(
            "--old-scorer",
            metavar="NAME",
            help="Scorer of all old rows. Default: what each source was judged by before, else --scorer.",
        ),
    ] = None,
    level: Level = "auto",
    general_items: Annotated[
        int | None,
        typer.Option("--general-items", metavar="NUMBER", min=1, help="So many general requests."),
    ] = None,
    task_items: Annotated[
        int | None,
        typer.Option(
            "--task-items", metavar="NUMBER", min=1, help="So many new rows, and of each old source."
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 128,
    max_task_loss: Annotated[
        float,
        typer.Option("--max-task-loss", metavar="SHARE", min=-1, max=1, help="What the old task may lose."),
    ] = 0.03,
    max_general_loss: Annotated[
        float,
        typer.Option(
            "--max-general-loss", metavar="SHARE", min=-1, max=1, help="What general requests may lose."
        ),
    ] = 0.03,
    min_new_gain: Annotated[
        float,
        typer.Option("--min-new-gain", metavar="SHARE", min=-1, max=1, help="What the new task must gain."),
    ] = 0.0,
    allow_unmeasured: Annotated[
        bool,
        typer.Option(
            "--allow-unmeasured", help="Pass though the old or the new task has no held-out rows to tell."
        ),
    ] = False,
    registry: Annotated[
        str | None,
        typer.Option("--registry", metavar="FILE", help="Where a run that passes becomes the candidate."),
    ] = None,
    sets: Sets = None,
    offline: Offline = False,
    as_json: Json = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Train on from a deployed run with new rows, and compare the result with it; exit code 3 if it loses too much.

    The reference stays the original base model. The old validation rows stay what the old task is judged by.
    """
    quiet_libraries(offline=offline, debug=debugging(ctx))
    from selfaug.cli.pages import show_page, write_page
    from selfaug.phases.realign import RealignSettings
    from selfaug.phases.realign import realign as run_realign

    settings = RealignSettings(
        data=data,
        eval_data=eval_data or [],
        output=output,
        rehearsal=rehearsal,
        scorer=scorer,
        old_scorer=old_scorer,
        level=level_name(level),
        general_items=general_items,
        task_items=task_items,
        max_new_tokens=max_new_tokens,
        max_task_loss=max_task_loss,
        max_general_loss=max_general_loss,
        min_new_gain=min_new_gain,
        hold_out=hold_out,
        allow_unmeasured=allow_unmeasured,
        registry=registry,
    )
    changed = [
        *([f"train.steps={steps}"] if steps else []),
        *(["run.offline=true"] if offline else []),
        *(sets or []),  # the later ones win
    ]
    say_code_of_run(run)
    try:
        with RunProgress() as progress:
            found = run_realign(run, settings, sets=changed, on_progress=progress.show)
    except KeyboardInterrupt as interrupt:
        # Training says how to go on with one run; that would be neither compared nor judged.
        raise going_on() from interrupt
    # Shown first: a page that can't be written hides nothing.
    if as_json:
        print_json(found.record)
    else:
        _show(found, registry)
    page = write_page(found.run)
    if not as_json:
        show_page(page)
    if found.outcome != "pass":
        raise typer.Exit(GATE_FAILED)


def _show(found: Realignment, registry: str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    from selfaug.cli.evaluation_view import bound_in_words, show_cut_off, suites_table
    from selfaug.core.gate import named_old_sources
    from selfaug.core.printable import counted, printable
    from selfaug.rundir import RunDir

    console = Console(highlight=False)
    names = {"base": "deployed", "tuned": "re-aligned"}
    record = found.record
    scorer = record["settings"]["scorer"]
    sources = named_old_sources(record.get("old_sources", {}))
    console.print(suites_table(record["suites"] | sources, scorer, width=console.width, **names))
    show_cut_off(record["suites"], console, **names)
    if judged := record.get("judged"):
        console.print(Text(printable(f"judged: {judged}")), soft_wrap=True)
    left_out = record.get("left_out", {})
    kinds = {"train": "new row", "replay": "old row"}
    if counts := [counted(left_out[part], kind) for part, kind in kinds.items() if left_out.get(part)]:
        console.print(Text(f"not trained on, because held-out rows ask the same: {', '.join(counts)}"))
    for bound in record["gate"]["bounds"]:
        console.print(Text(bound_in_words(bound, before="deployed model")), soft_wrap=True)
    if unmeasured := record["gate"].get("unmeasured"):
        console.print(Text(f"not measured, for want of held-out rows: {', '.join(unmeasured)}"))
    console.print(Text(f"gate: {found.outcome}"))
    say(f"the new run is {found.run}, the decision {RunDir(found.run).realignment}")
    if champion := record.get("champion_instead"):
        say(f"note: it goes on from {record['deployed']}, and not from the champion: that is {champion}.")
    if found.version is not None:
        named = ["selfaug", "registry", "promote", str(found.version), "--registry", str(registry)]
        say(f"version {found.version} is the candidate. To serve it: {shlex.join(named)}")
    elif found.outcome == "pass" and registry is None:
        say(f"to serve it: {shlex.join(['selfaug', 'registry', 'promote', str(found.run)])}")
