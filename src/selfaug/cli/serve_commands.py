"""`selfaug serve`: both models of a run behind one endpoint."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from selfaug.cli.app import (
    Debug,
    Device,
    Offline,
    RunOrChampion,
    app,
    debugging,
    quiet_libraries,
)
from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.terminal import say
from selfaug.cli.whose_code import say_code_of_run
from selfaug.errors import ConfigError, SelfAugError
from selfaug.loopback import is_loopback

__all__ = ["serve"]

_RARELY = "Rarely changed"


@app.command(epilog="Example: selfaug serve runs/first")
def serve(
    ctx: typer.Context,
    run: RunOrChampion = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="NUMBER", min=0, max=65535, help="0 takes a free one.")
    ] = 8000,
    prepared: Annotated[
        str | None,
        typer.Option(
            "--prepared", metavar="FOLDER", help="Documents; else those that the run was trained on."
        ),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens",
            metavar="TOKENS",
            min=1,
            help="Longest answer in a chat, where a request doesn't say; from documents it is 256 at most, of "
            "completions 16.",
        ),
    ] = 1024,
    window: Annotated[
        int | None,
        typer.Option(
            "--max-model-len", metavar="TOKENS", min=16, help="Prompt and answer. Default: the model's own."
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", metavar="NUMBER", min=1, help="Answers made at once.")
    ] = 16,
    max_waiting: Annotated[
        int,
        typer.Option(
            "--max-waiting", metavar="NUMBER", min=0, help="Requests that may wait; others get 429."
        ),
    ] = 64,
    rate_limit: Annotated[
        float,
        typer.Option(
            "--rate-limit",
            metavar="NUMBER",
            min=0,
            help="Requests a minute, of all clients together; 0 for any number.",
        ),
    ] = 600,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, help="After which an answer is given up.")
    ] = 300,
    new_key: Annotated[
        bool,
        typer.Option(
            "--new-key", help="Make another API key; the one before is void, unless --keep-old-key is given."
        ),
    ] = False,
    keep_old_key: Annotated[
        float,
        typer.Option(
            "--keep-old-key",
            metavar="HOURS",
            min=0,
            max=8760,
            help="With --new-key: for how long the one before is taken as well.",
        ),
    ] = 0,
    no_key: Annotated[
        bool, typer.Option("--no-key", help="Take requests without a key, from this machine only.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Don't replay the canary set before answering.")
    ] = False,
    no_monitor: Annotated[bool, typer.Option("--no-monitor", help="Don't watch what is answered.")] = False,
    sample: Annotated[
        float,
        typer.Option(
            "--sample", metavar="SHARE", min=0, max=1, help="Of the requests, whose drift is measured."
        ),
    ] = 0.01,
    keep_texts: Annotated[
        bool,
        typer.Option(
            "--keep-texts", help="Keep prompts and answers, redacted, for --keep-days; else no text is kept."
        ),
    ] = False,
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="URL", help="Told when the monitor's state changes.")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(
            "--registry",
            metavar="FILE",
            help="Serve the champion of this registry, and switch when it changes.",
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream",
            metavar="URL",
            help="Have another server answer, such as vLLM: its address, with /v1. Only --score-drift loads models "
            "here.",
        ),
    ] = None,
    upstream_base: Annotated[
        str | None, typer.Option("--upstream-base", metavar="NAME", help="What it calls the base model.")
    ] = None,
    upstream_tuned: Annotated[
        str | None, typer.Option("--upstream-tuned", metavar="NAME", help="What it calls the tuned model.")
    ] = None,
    upstream_no_base: Annotated[
        bool,
        typer.Option("--upstream-no-base", help="It has the tuned model alone, as merged weights."),
    ] = False,
    score_drift: Annotated[
        bool,
        typer.Option(
            "--score-drift",
            help="With --upstream: load base and tuned model here too, on --device, in the background, and measure "
            "drift with them. Else it is not measured there.",
        ),
    ] = False,
    scored_per_hour: Annotated[
        float,
        typer.Option(
            "--scored-per-hour",
            metavar="NUMBER",
            min=0,
            help="Prompts whose drift is measured, at most.",
            rich_help_panel=_RARELY,
        ),
    ] = 200,
    compute_share: Annotated[
        float,
        typer.Option(
            "--compute-share",
            metavar="SHARE",
            min=0,
            max=1,
            help="Of the time that measuring may take.",
            rich_help_panel=_RARELY,
        ),
    ] = 0.01,
    keep_days: Annotated[
        float,
        typer.Option(
            "--keep-days",
            metavar="DAYS",
            min=0,
            help="After which what the monitor has kept is deleted.",
            rich_help_panel=_RARELY,
        ),
    ] = 30,
    canary_hours: Annotated[
        float,
        typer.Option(
            "--canary-hours",
            metavar="HOURS",
            min=0.01,
            help="Between two replays of the canary set.",
            rich_help_panel=_RARELY,
        ),
    ] = 24,
    drain: Annotated[
        float,
        typer.Option(
            "--drain",
            metavar="SECONDS",
            min=0,
            help="That running answers have when the server is to end.",
            rich_help_panel=_RARELY,
        ),
    ] = 30,
    keep_alive: Annotated[
        float,
        typer.Option(
            "--keep-alive",
            metavar="SECONDS",
            min=1,
            help="That a connection may stay between two requests: more than the load balancer before it keeps one.",
            rich_help_panel=_RARELY,
        ),
    ] = 75,
    max_body: Annotated[
        int,
        typer.Option(
            "--max-body",
            metavar="BYTES",
            min=1000,
            help="Largest body of a request.",
            rich_help_panel=_RARELY,
        ),
    ] = 1_000_000,
    device: Device = "auto",
    offline: Offline = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Serve base and tuned model of a run by OpenAI's API, at one address.

    The key is made at the first start, shown once, and stored as a hash; SELFAUG_API_KEY sets one of yours,
    and SELFAUG_OLD_API_KEY is taken beside it.
    SELFAUG_UPSTREAM_KEY is the key for --upstream.
    """
    if no_key and not is_loopback(host):
        raise ConfigError(
            f"--no-key with --host {host}: anyone who reaches this machine could use the models.",
            hint="leave --no-key out, or listen on 127.0.0.1.",
        )
    if new_key and no_key:
        raise ConfigError(
            "--new-key and --no-key exclude each other: without keys none is asked for.",
            hint="leave out one of them.",
        )
    if new_key and "SELFAUG_API_KEY" in os.environ:
        raise ConfigError(
            "--new-key with SELFAUG_API_KEY set: that one is the key, so that another one would not be taken.",
            hint="unset it to have a key made, or leave --new-key out.",
        )
    if keep_old_key and not new_key:
        raise ConfigError(
            "--keep-old-key without --new-key: no key takes the place of the one before.",
            hint="add --new-key, once; later starts take the old key for as long as was said then.",
        )
    if (run is None) == (registry is None):
        raise ConfigError(
            "both a run and a registry were given." if run else "there is nothing to serve.",
            hint="selfaug serve RUN, or selfaug serve --registry FILE.",
        )
    if upstream_no_base and (upstream is None or upstream_base is not None):
        raise ConfigError(
            "--upstream-no-base says that the other server has no base model.",
            hint="it needs --upstream, and no --upstream-base.",
        )
    if upstream is None and (upstream_base is not None or upstream_tuned is not None):
        raise ConfigError(
            "--upstream-base and --upstream-tuned are what another server calls the models.",
            hint="they need --upstream; models that answer here have names of their own.",
        )
    if score_drift and (upstream is None or no_monitor):
        raise ConfigError(
            "--score-drift measures drift behind --upstream, for the monitor.",
            hint="it needs --upstream, and no --no-monitor; models that answer here need no flag for it.",
        )
    if no_monitor and (keep_texts or webhook is not None):
        raise ConfigError(
            "--keep-texts and --webhook are for the monitor: with --no-monitor no text is kept, and nobody is told.",
            hint="leave out --no-monitor, or these.",
        )
    quiet_libraries(offline=offline, debug=debugging(ctx))
    _require_packages()
    from selfaug.monitoring.monitor import MonitorSettings
    from selfaug.phases.live_run import ALIAS
    from selfaug.phases.serve import ServeSettings, open_server, server_keys
    from selfaug.phases.watching import WatchSettings
    from selfaug.serving.connections import ConnectionLimits
    from selfaug.serving.guard import Limits
    from selfaug.serving.served import Readiness

    if registry is not None:
        from selfaug.phases.registry import followed_run

        run = followed_run(registry)
    assert run is not None
    settings = ServeSettings(
        host=host,
        port=port,
        device=device,
        prepared=prepared,
        max_batch=max_batch,
        max_waiting=max_waiting,
        max_tokens=max_tokens,
        window=window,
        request_seconds=timeout,
        drain_seconds=drain,
        limits=Limits(body_bytes=max_body, requests_per_minute=rate_limit),
        connections=ConnectionLimits(idle_seconds=keep_alive),
        check=not no_check,
        registry=registry,
        watch=None
        if no_monitor
        else WatchSettings(
            MonitorSettings(
                sample=sample,
                scored_per_hour=scored_per_hour,
                compute_share=compute_share,
                keep_texts=keep_texts,
                keep_days=keep_days,
            ),
            webhook,
            canary_seconds=3600 * canary_hours,
        ),
        offline=offline,
    )
    say_code_of_run(run, searches=True, prepared=prepared)
    if upstream is None:
        server = open_server(run, settings)
    else:
        from selfaug.phases.gateway import UpstreamSettings, open_gateway

        key = os.environ.get("SELFAUG_UPSTREAM_KEY")
        server = open_gateway(
            run,
            settings,
            UpstreamSettings(
                upstream,
                upstream_base,
                upstream_tuned,
                key,
                has_base=not upstream_no_base,
                score_drift=score_drift,
            ),
        )
    # When all else is well: a key that is made is shown, and takes the place of the one before.
    server.listen()
    keys = None
    if not no_key:
        keys, key = server_keys(run, registry=registry, new=new_key, keep_hours=keep_old_key)
        _say_key(key, keys.until)

    if not no_check:
        say("replaying the canary set ...")

    def told(readiness: Readiness) -> None:
        if readiness.ready:
            say(f"ready: {readiness.reason}.")
            say(f"models: {', '.join(server.served.names)}; {ALIAS} is the tuned model.")
            say(f"listening: {server.url}/v1; Ctrl-C lets running answers end.")
        else:
            say(f"NOT ready: {readiness.reason}.")
            say("Hint: requests are refused. Serve what was trained, or look at it with --no-check.")

    server.run(keys, on_ready=told, on_watching=say)
    say("stopped: what ran has ended.")


def _say_key(key: str | None, until: float | None) -> None:
    """Show a key that was made now, or say which one is taken; and until when, in seconds since 1970, an older one."""
    if key is not None:
        # Results go to stdout: this is the one thing that is nowhere else.
        say("the API key of this server, shown this once:")
        typer.echo(key)
    elif "SELFAUG_OLD_API_KEY" in os.environ:
        say("the API key is SELFAUG_API_KEY; SELFAUG_OLD_API_KEY is taken beside it.")
    elif "SELFAUG_API_KEY" in os.environ:
        say("the API key is SELFAUG_API_KEY.")
    else:
        say("the API key was shown at the first start; --new-key makes another.")
    if until is not None:
        end = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(until))
        say(f"the key before is taken as well, until {end}.")


def _require_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise SelfAugError(
            f"serving needs {error.name}, which is not installed.", hint='run `pip install "selfaug[serve]"`.'
        ) from error
