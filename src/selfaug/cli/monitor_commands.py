"""`selfaug monitor`: the state of a deployed run."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from selfaug.cli.app import (
    DRIFT_ALERT,
    Debug,
    Device,
    Json,
    Offline,
    RunOrChampion,
    app,
    debugging,
    quiet_libraries,
)
from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.terminal import RunProgress, print_json, say
from selfaug.cli.whose_code import say_code_of_run
from selfaug.core.printable import counted
from selfaug.errors import ConfigError, StorageError

__all__ = ["monitor"]


@app.command(epilog="Example: selfaug monitor runs/first --watch")
def monitor(
    ctx: typer.Context,
    run: RunOrChampion = None,
    registry: Annotated[
        str | None,
        typer.Option(
            "--registry",
            metavar="FILE",
            help="Look at the champion of this registry, whichever run that is; with --watch, each time.",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again, until drift or Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.1, help="With --watch: how often.")
    ] = 10.0,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference", help="Measure the reference window, which live prompts are compared with."
        ),
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="SOURCE", help="With --reference: more held-out rows; may be repeated."
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            "--prompts", metavar="NUMBER", min=20, help="With --reference: how many; 1,000 unless given."
        ),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules", metavar="FOLDER", help="Write alert rules for Prometheus and a dashboard for Grafana."
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts", metavar="FILE", help="Write kept requests as JSONL: rows to be reviewed and answered."
        ),
    ] = None,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge", help="Delete what was kept of requests: rows, texts, votes, evidence, the key."
        ),
    ] = False,
    older_than: Annotated[
        float,
        typer.Option("--older-than", metavar="DAYS", min=0, help="With --purge: what is younger stays."),
    ] = 0.0,
    acknowledge: Annotated[
        str | None,
        typer.Option(
            "--acknowledge",
            metavar="SIGNAL",
            help="End the alert of a signal that is dealt with (all: of each), instead of waiting for quiet.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --reference and --rules: replace what is there.")
    ] = False,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Show whether live traffic is like training's; exit code 4 if it has drifted."""
    different = (
        ("--purge", purge),
        ("--rules", rules),
        ("--texts", texts),
        ("--reference", reference),
        ("--acknowledge", acknowledge),
    )
    chosen = [name for name, on in different if on]
    if len(chosen) > 1 or (chosen and watch):
        raise ConfigError(
            f"{' and '.join([*chosen, *(['--watch'] if watch else [])])} are different things.",
            hint="give one of them.",
        )
    alone = [
        f"{name} has a meaning with {other} only"
        for name, given, other, there in (
            ("--data", bool(data), "--reference", reference),
            ("--prompts", prompts is not None, "--reference", reference),
            ("--older-than", older_than > 0, "--purge", purge),
            ("--overwrite", overwrite, "--reference or --rules", reference or rules is not None),
        )
        if given and not there
    ]
    if alone:
        raise ConfigError(f"{'; '.join(alone)}.", hint="give that too, or leave it out.")
    if (run is None) == (registry is None):
        raise ConfigError(
            "both a run and a registry were given." if run else "there is nothing to look at.",
            hint="selfaug monitor RUN, or selfaug monitor --registry FILE.",
        )
    quiet_libraries(offline=offline, debug=debugging(ctx))
    if not chosen:
        _show(run, registry, watch, every, as_json)
        return
    if run is None:
        run = _champion(registry)
    if purge:
        from selfaug.phases.monitor import purge_monitor

        deleted = purge_monitor(run, older_than_days=older_than)
        if as_json:
            print_json({"deleted": deleted})
        else:
            typer.echo(f"deleted what was kept of {counted(deleted, 'request')}.")
    elif rules is not None:
        from selfaug.phases.monitor import write_rules

        written = [str(file) for file in write_rules(rules, overwrite=overwrite)]
        if as_json:
            print_json({"files": written})
        else:
            typer.echo("\n".join(written))
    elif texts is not None:
        from selfaug.phases.monitor import export_texts

        count = export_texts(run, texts)
        if as_json:
            print_json({"texts": count, "file": texts})
        else:
            typer.echo(
                f"{texts}: {counted(count, 'text')}, redacted; people may still be named. With answers, they are rows."
            )
    elif acknowledge is not None:
        _acknowledge(run, acknowledge, as_json)
    else:
        _measure_reference(run, data or [], prompts, device, offline, overwrite, as_json)


def _champion(registry: str | None) -> str:
    from selfaug.phases.registry import champion_run

    assert registry is not None
    return champion_run(registry)


def _acknowledge(run: str, signal: str, as_json: bool) -> None:
    from selfaug.phases.monitor import acknowledge_alerts

    signals, watched = acknowledge_alerts(run, signal)
    if as_json:
        print_json({"acknowledged": signals, "watched": watched})
        return
    when = "within a minute" if watched else "when the run is served again: nobody watches it now"
    typer.echo(f"acknowledged: {', '.join(signals)}. That alert ends {when}.")


def _measure_reference(
    run: str, data: list[str], prompts: int | None, device: str, offline: bool, overwrite: bool, as_json: bool
) -> None:
    say_code_of_run(run)
    from selfaug.phases.monitor import record_reference_window

    with RunProgress() as progress:
        window = record_reference_window(
            run,
            data=data,
            prompts=prompts,
            device=device,
            offline=offline,
            overwrite=overwrite,
            on_progress=progress.show,
        )
    if as_json:
        print_json(window.summary())
    else:
        from selfaug.cli.monitor_view import reference_in_words

        typer.echo(reference_in_words(window.summary()))


def _show(run: str | None, registry: str | None, watch: bool, every: float, as_json: bool) -> None:
    from selfaug.registry import DEFAULT_REGISTRY, champion_instead_of

    if run is not None and (champion := champion_instead_of(run)) is not None:
        say(f"{run} is not the champion of {DEFAULT_REGISTRY} any more, or not yet: that is {champion}.")
        say(f"Hint: `selfaug monitor --registry {DEFAULT_REGISTRY}` follows the champion.")
    shown = run
    while True:
        try:
            now = _champion(registry) if run is None else run
            if now != shown:
                say(f"the champion is {now}.")
                shown = now
            _show_once(now, registry or DEFAULT_REGISTRY, as_json)
        except StorageError as error:
            if run is not None or not watch:
                raise
            # A server that has just switched may still be measuring the new run's reference window.
            say(str(error))
        if not watch:
            return
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            say("stopped watching; the server goes on.")
            return


def _show_once(run: str, registry: str, as_json: bool) -> None:
    from selfaug.cli.monitor_view import show_monitor
    from selfaug.phases.monitor import is_alert, monitor_status

    status = monitor_status(run, registry=registry)
    if as_json:
        print_json(status)
    else:
        show_monitor(status)
    if is_alert(status):
        raise typer.Exit(DRIFT_ALERT)
