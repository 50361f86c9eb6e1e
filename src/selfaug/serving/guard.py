"""What every request passes first: key, rate, size and time of its body; and what every response has."""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfaug.core.rate_limit import RateLimit
from selfaug.errors import SelfAugError
from selfaug.loopback import names_this_machine
from selfaug.serving.generation import SHUTDOWN_WAIT
from selfaug.serving.keys import ApiKeys
from selfaug.serving.openai_responses import error_body, event

__all__ = ["OPEN_PATHS", "Guard", "Limits", "log_line", "without_write_errors"]

_P = ParamSpec("_P")

OPEN_PATHS = frozenset({"/health", "/ready"})
"""All that answers without a key; `/ready` says more with one."""

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)

# Browsers look for all names below localhost here (RFC 6761): windows of apps and servers of developers have such.
_BELOW_LOCALHOST = re.compile(r"[a-z0-9.-]+\.localhost(:[0-9]*)?", re.IGNORECASE)

_CALLS = 8


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    Attributes:
        body_bytes: largest body.
        body_seconds: in which a body must be here.
        requests_per_minute: 0 for any number.
    """

    body_bytes: int = 1_000_000
    body_seconds: float = 30.0
    requests_per_minute: float = 600.0


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.wait = status, code, wait


class Guard:
    """Lets requests through to the application, or answers them itself.

    Args:
        app: the application.
        keys: that are taken; None takes requests without a key.
        limits: of a request.
        only_here: whether requests that name another host than this machine, or come from a page of one, are refused,
            as a page elsewhere could make a browser send: where no key is asked for.
        known: what a path is called in metrics and log; paths of others are not told, whatever is in them.
        on_done: called with path, status and seconds of every request. `facts["failed"]` is the status, where the
            application puts it: of an answer that failed after the client was told another.
        log: called with a line of JSON for every request, and for every unexpected error. They have no text of the
            request or the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: ApiKeys | None,
        limits: Limits,
        only_here: bool = False,
        known: Callable[[str], str],
        on_done: Callable[[str, int, float], None],
        log: Callable[[str], None],
    ) -> None:
        self._app, self._keys, self._limits, self._known = app, keys, limits, known
        self._on_done, self._log = on_done, without_write_errors(log)
        self._only_here = only_here
        count = limits.requests_per_minute
        self._rate = RateLimit(count / 60, burst=max(count, 1.0)) if count > 0 else None  # 0: any number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began = time.monotonic()
        identifier = secrets.token_hex(8)
        facts: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=identifier, facts=facts)
        status, streams = 0, False

        async def answer(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status, streams = message["status"], _is_stream(message)
                own = [*_HEADERS, (b"x-request-id", identifier.encode())]
                message = {**message, "headers": [*message["headers"], *own]}
            else:
                streams = streams and message.get("more_body", False)
            await send(message)

        try:
            try:
                self._admit(scope)
                # What these paths answer hangs on no body, and they ask for no key: none is read.
                body = b"" if scope["path"] in OPEN_PATHS else await self._body(receive)
                if body is not None:
                    await self._app(scope, _replayed(body, receive), answer)
            except _RefusedError as refusal:
                if status == 0:
                    await _answer_refusal(refusal, answer)
            except asyncio.CancelledError:  # the server ends, and the time of running answers is over
                if status == 0:
                    await _answer_refusal(_cut_off(), answer)
                elif streams:
                    facts.update(error=_SHUTDOWN, failed=503)  # the client was told 200 before
                    await _end_stream(_cut_off(), answer)
            except Exception as error:
                # Let through, the HTTP server would log it with its message, which may have text of the request.
                # An answer that had begun ends where it is: the connection is closed.
                self._log(log_line("failure", id=identifier, **_where(error)))
                if 0 < status < 400:
                    facts.update(error=type(error).__name__, failed=500)
        finally:
            seconds = time.monotonic() - began
            path = self._known(scope["path"])
            # An answer that begins with 200 and then fails counts as what it would have been from the beginning.
            self._on_done(path, facts.get("failed", status), seconds)
            self._log(
                log_line(
                    "request",
                    id=identifier,
                    method=scope["method"],
                    path=path,
                    # What the client never got: it went away before.
                    status=status or 499,
                    seconds=round(seconds, 4),
                    **facts,
                )
            )

    def _admit(self, scope: Scope) -> None:
        refusal = self._refusal_of_who_asks(scope)
        scope["state"]["trusted"] = refusal is None
        if scope["path"] in OPEN_PATHS:
            return
        if refusal is not None:
            raise refusal
        limit = self._rate if scope["method"] == "POST" else None
        if limit is not None and (wait := limit.wait(time.monotonic())) > 0:
            raise _RefusedError(
                429,
                f"more than {self._limits.requests_per_minute:g} requests a minute.",
                "rate_limit_exceeded",
                wait,
            )
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            raise self._too_large()

    def _refusal_of_who_asks(self, scope: Scope) -> _RefusedError | None:
        if self._only_here and not names_this_machine(_header(scope, b"host")):
            return _RefusedError(
                421,
                "without a key, this server answers to localhost and 127.0.0.1 only: ask it by such a name.",
                "wrong_host",
            )
        for origin in _headers(scope, b"origin") if self._only_here else ():
            if not _is_of_this_machine(origin):
                return _RefusedError(
                    403,
                    f"without a key, this server answers no page of {origin[:100]!r}: start the server with a key.",
                    "wrong_origin",
                )
        if self._keys is not None and _key(scope) not in self._keys:
            return _RefusedError(
                401,
                "this server needs its API key: send `Authorization: Bearer KEY`.",
                "invalid_api_key",
            )
        return None

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body, as far as it is allowed to be large and slow; None if the client went away."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._limits.body_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise _RefusedError(
                408, f"the body was not here after {self._limits.body_seconds:g} seconds.", "slow_body"
            ) from None

    def _too_large(self) -> _RefusedError:
        return _RefusedError(
            413, f"the body is larger than {self._limits.body_bytes:,} bytes.", "body_too_large"
        )


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, and then what else comes: that the client goes away."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _header(scope: Scope, name: bytes) -> str:
    values = _headers(scope, name)
    return values[0] if len(values) == 1 else ""


def _is_of_this_machine(origin: str) -> bool:
    """Whether a page with this `Origin` is this machine's; "null", as of a file, is nobody's."""
    host = origin.partition("://")[2]
    return names_this_machine(host) or _BELOW_LOCALHOST.fullmatch(host) is not None


def _key(scope: Scope) -> str:
    scheme, _, key = _header(scope, b"authorization").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


_SHUTDOWN = "shutting_down"


def _cut_off() -> _RefusedError:
    return _RefusedError(503, "the server is shutting down.", _SHUTDOWN, SHUTDOWN_WAIT)


def _is_stream(start: Message) -> bool:
    """Whether a response is one of events."""
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"]
    )


async def _end_stream(refusal: _RefusedError, send: Send) -> None:
    last = event(error_body(refusal.status, str(refusal), code=refusal.code))
    await send({"type": "http.response.body", "body": last})


async def _answer_refusal(refusal: _RefusedError, send: Send) -> None:
    body = json.dumps(error_body(refusal.status, str(refusal), code=refusal.code)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.wait is not None:
        headers.append((b"retry-after", str(math.ceil(refusal.wait)).encode()))
    if refusal.status in (408, 413):  # the rest of the body is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _where(error: Exception) -> dict[str, Any]:
    """What went wrong where, for who mends it: the kind of error and the last calls, without any message or value.

    Of an error that was raised to explain another, such as one of a user's retriever, what the other says.
    """
    if isinstance(error, SelfAugError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)[-_CALLS:]
    calls = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "calls": calls}


def log_line(event: str, **facts: Any) -> str:
    """A line of a structured log."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"time": now, "event": event, **facts})


def without_write_errors(call: Callable[_P, None]) -> Callable[_P, None]:
    """The same, for what tells somebody something: that a disk is full, or nobody reads any more, stops no server."""

    def called(*arguments: _P.args, **named: _P.kwargs) -> None:
        with suppress(OSError, ValueError):  # ValueError is that of a file which is closed
            call(*arguments, **named)

    return called


def write_to_stderr(line: str) -> None:
    """The log's default place."""
    print(line, file=sys.stderr, flush=True)
