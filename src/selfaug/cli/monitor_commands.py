"""`selfaug monitor`: the state of a deployed run."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from selfaug.cli.app import DRIFT_ALERT, Debug, Device, Json, Offline, Run, app, debugging, quiet_libraries
from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.terminal import RunProgress, print_json, say
from selfaug.errors import ConfigError

__all__ = ["monitor"]


@app.command(epilog="Example: selfaug monitor runs/first --watch")
def monitor(
    ctx: typer.Context,
    run: Run,
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
        int, typer.Option("--prompts", metavar="NUMBER", min=20, help="With --reference: how many.")
    ] = 1000,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules", metavar="FOLDER", help="Write alert rules for Prometheus and a dashboard for Grafana."
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts", metavar="FILE", help="Write what was kept of users' texts as JSONL, to be reviewed."
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
    different = (("--purge", purge), ("--rules", rules), ("--texts", texts), ("--reference", reference))
    chosen = [name for name, on in different if on]
    if len(chosen) > 1 or (chosen and watch):
        raise ConfigError(
            f"{' and '.join([*chosen, *(['--watch'] if watch else [])])} are different things.",
            hint="give one of them.",
        )
    quiet_libraries(offline=offline, debug=debugging(ctx))
    if purge:
        from selfaug.phases.monitor import purge_monitor

        deleted = purge_monitor(run, older_than_days=older_than)
        if as_json:
            print_json({"deleted": deleted})
        else:
            typer.echo(f"deleted what was kept of {deleted:,} requests.")
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
            typer.echo(f"{texts}: {count:,} texts, redacted; they may still name people.")
    elif reference:
        _measure_reference(run, data or [], prompts, device, offline, overwrite, as_json)
    else:
        _show(run, watch, every, as_json)


def _measure_reference(
    run: str, data: list[str], prompts: int, device: str, offline: bool, overwrite: bool, as_json: bool
) -> None:
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


def _show(run: str, watch: bool, every: float, as_json: bool) -> None:
    from selfaug.cli.monitor_view import show_monitor
    from selfaug.phases.monitor import is_alert, monitor_status

    while True:
        status = monitor_status(run)
        if as_json:
            print_json(status)
        else:
            show_monitor(status)
        if is_alert(status):
            raise typer.Exit(DRIFT_ALERT)
        if not watch:
            return
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            say("stopped watching; the server goes on.")
            return
