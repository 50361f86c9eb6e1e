"""Tells a URL of changes of state, in the background: nothing waits for it, and its failure changes nothing."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any

from selfaug.errors import ConfigError

__all__ = ["Webhook", "check_address"]

_WAITING = 32
"""Messages that wait at most; the newest is dropped then."""


def check_address(url: str) -> None:
    """Refuse what no message can be sent to.

    Raises:
        ConfigError: if the URL is none of http or https.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"the webhook {url!r} is no address.", hint="give one that begins with http:// or https://."
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What was meant for one place is not carried to another."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Webhook:
    """Posts JSON to a URL, one message after the other.

    Args:
        url: http or https.
        timeout: seconds for one attempt.
        pauses: seconds before each further attempt.

    Attributes:
        sent: messages that were taken.
        failed: messages that were given up, or had no room.

    Raises:
        ConfigError: if the URL is none of http or https.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, pauses: Sequence[float] = (1.0, 5.0, 25.0)) -> None:
        check_address(url)
        self._url, self._timeout, self._pauses = url, timeout, pauses
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._stop = threading.Event()
        self.sent = self.failed = 0
        self._thread = threading.Thread(target=self._run, name="selfaug-webhook", daemon=True)
        self._thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand a message over; returns at once."""
        try:
            self._waiting.put_nowait(json.dumps(message).encode())
        except queue.Full:
            self.failed += 1

    def close(self, timeout: float = 5.0) -> None:
        """Send what waits, one attempt each, for so many seconds at most."""
        self._stop.set()
        with contextlib.suppress(queue.Full):  # the thread sees the flag after the message it is at
            self._waiting.put_nowait(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            if self._delivered(message):
                self.sent += 1
            else:
                self.failed += 1
            if self._stop.is_set() and self._waiting.empty():
                return

    def _delivered(self, message: bytes) -> bool:
        for pause in (*self._pauses, None):
            if self._attempt(message):
                return True
            if pause is None or self._stop.is_set():
                return False
            self._stop.wait(pause)
        return False

    def _attempt(self, message: bytes) -> bool:
        request = urllib.request.Request(
            self._url,
            data=message,
            headers={"Content-Type": "application/json", "User-Agent": "selfaug-monitor"},
        )
        try:
            with self._opener.open(request, timeout=self._timeout):
                return True
        except (
            OSError,
            HTTPException,
            ValueError,
        ):  # the network, a status from 300 on, a reply that is no HTTP
            return False
