"""The HTTP server: what it tells about itself, how long it waits, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from selfaug.serving.connections import ConnectionLimits, LimitedConnection
from selfaug.serving.served import SHUTTING_DOWN, Readiness

__all__ = ["ALL_ADDRESSES", "EndedBySignals", "HttpServer", "address", "listening_socket"]

ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""What a server listens on to be reached by every address of its machine; and this machine's own of the kind."""


_LAST_SECONDS = 1.0
"""That requests have to tell their clients, when the time of running answers is over."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: address.
        port: 0 takes a free one.

    Raises:
        OSError: if it can't be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends every piece at once. `socket.create_server` doesn't name it, and answers
    # wait forty milliseconds for the client's acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except BaseException:
        listening.close()
        raise
    return listening


def address(host: str, port: int) -> str:
    """The URL, without a slash at its end, at which this machine reaches what listens there.

    No browser is sure to know what to do with those that stand for all addresses.
    """
    host = ALL_ADDRESSES.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class EndedBySignals(uvicorn.Server):
    """A server for which SIGTERM and SIGINT are a good end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end it, and are done with: uvicorn would raise them again when all is over."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


class HttpServer(EndedBySignals):
    """Serves an application; at SIGTERM and SIGINT it is not ready any more, and running answers end.

    Args:
        app: the application.
        readiness: of what it serves.
        host: address to listen on.
        port: 0 takes a free one.
        drain_seconds: that running answers have.
        limits: of a connection; by default those of `ConnectionLimits`.
        on_exit: called when a signal has come, by its handler: nothing that waits.
    """

    def __init__(
        self,
        app: ASGIApp,
        readiness: Readiness,
        *,
        host: str,
        port: int,
        drain_seconds: float = 30.0,
        limits: ConnectionLimits | None = None,
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self._readiness, self._on_exit = readiness, on_exit
        # uvicorn wants a class and calls it.
        connection: Any = partial(LimitedConnection, limits or ConnectionLimits())
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=connection,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=max(1, round(drain_seconds)),
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._readiness.become(False, SHUTTING_DOWN)
        self._on_exit()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running answers end, or cancel them when their time is over."""
        await super().shutdown(sockets)
        if tasks := list(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=_LAST_SECONDS)
