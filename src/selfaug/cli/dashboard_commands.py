"""`selfaug dashboard`: a directory of runs in a browser."""

from __future__ import annotations

import errno
import secrets
from functools import partial
from typing import Annotated, Any

import typer

from selfaug.cli.app import Debug, app
from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.terminal import say
from selfaug.errors import ConfigError, SelfAugError
from selfaug.loopback import is_loopback

__all__ = ["dashboard"]

# That pages which are being made have at the end.
_DRAIN_SECONDS = 5


@app.command(epilog="Example: selfaug dashboard runs")
def dashboard(
    directory: Annotated[
        str, typer.Argument(metavar="[DIR]", help="Directory with runs; what is below it is found.")
    ] = "runs",
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="NUMBER", min=0, max=65535, help="0 takes a free one.")
    ] = 8321,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let everyone on this machine look, without a token.")
    ] = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Show runs, comparisons, live trainings, answers, live traffic and the business case in a browser.

    It only reads what the other commands wrote, and only this machine can reach it unless --host says otherwise.
    """
    loopback = is_loopback(host)
    if no_token and not loopback:
        raise ConfigError(
            f"--no-token with --host {host}: anyone who reaches this machine could read your runs.",
            hint="leave --no-token out, or listen on 127.0.0.1.",
        )
    try:
        import uvicorn

        from selfaug.dashboard.app import dashboard_app
        from selfaug.dashboard.library import Library
        from selfaug.serving.connections import ConnectionLimits, LimitedConnection
        from selfaug.serving.http_server import ALL_ADDRESSES, EndedBySignals, address, listening_socket
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "selfaug":
            raise SelfAugError(
                "this installation has no dashboard.", hint="install selfaug whole."
            ) from error
        raise SelfAugError(
            f"the dashboard needs {missing}, which is not installed.",
            hint='run `pip install "selfaug[serve]"`.',
        ) from error
    library = Library(directory)
    say(f"reading {directory} ...")
    found = len(library.entries())
    try:
        listening = listening_socket(host, port)
    except OSError as error:
        raise SelfAugError(
            f"can't listen on {host}, port {port}: {error.strerror or error}.",
            hint="something else listens there; --port 0 takes a free one."
            if error.errno == errno.EADDRINUSE
            else "--host takes an address of this machine; ports below 1024 may want an administrator.",
        ) from error
    port = listening.getsockname()[1]
    token = None if no_token else secrets.token_urlsafe(24)
    url = f"{address(host, port)}/"
    served = dashboard_app(library, token=token, port=port, loopback=loopback)
    say(f"{found} {'entry' if found == 1 else 'entries'} in {directory}. Ctrl-C ends it.")
    if host in ALL_ADDRESSES:
        say("From other machines, put this one's name or address in the place of the number:")
    typer.echo(url if token is None else f"{url}?token={token}")
    # uvicorn wants a class and calls it.
    connection: Any = partial(LimitedConnection, ConnectionLimits())
    server = EndedBySignals(
        uvicorn.Config(
            served,
            http=connection,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )
    server.run(sockets=[listening])
    say("stopped.")
