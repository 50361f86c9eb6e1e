"""Tells a URL of changes of state, in the background: nothing waits for it, and its failure is only told."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from http.client import HTTPException
from typing import Any

from selfaug.core import metric_names
from selfaug.core.metric_names import Sample
from selfaug.errors import ConfigError
from selfaug.monitoring.signals import StateChange

__all__ = ["Webhook", "check_address"]

_WAITING = 32
"""Messages that wait at most; the newest is dropped then."""

_NO_ROOM = f"{_WAITING} messages wait already"


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
        tell: called with what the user should know, in whichever thread: that a message was given up and why, unless
            that was said of the one before; and that one was taken after that.

    Attributes:
        sent: messages that were taken.
        failed: messages that were given up, or had no room.
        last_failure: why the last one of these was, without the URL, which may have a secret in it; empty if none was.

    Raises:
        ConfigError: if the URL is none of http or https.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        pauses: Sequence[float] = (1.0, 5.0, 25.0),
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        check_address(url)
        self._url, self._timeout, self._pauses, self._tell = url, timeout, pauses, tell
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._stop = threading.Event()
        self.sent = self.failed = 0
        self.last_failure = self._told = ""
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="selfaug-webhook", daemon=True)
        self._thread.start()

    def send_change(self, change: StateChange, *, run: str, adapter: str | None, report: str | None) -> None:
        """Tell of a change of state: of which run, with which weights, and where its report is, if there is one."""
        told = {"event": "selfaug.state_change", "run": run, "adapter": adapter, "report": report}
        self.send({**told, **asdict(change)})

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand a message over; returns at once."""
        try:
            self._waiting.put_nowait(json.dumps(message).encode())
        except queue.Full:
            self._count(_NO_ROOM)

    def metrics(self) -> list[Sample]:
        """Its messages for Prometheus, by what became of them."""
        counts = (("sent", self.sent), ("failed", self.failed))
        return [Sample(metric_names.WEBHOOK_MESSAGES, {"outcome": name}, count) for name, count in counts]

    def status(self) -> dict[str, Any]:
        """The same, and why the last one that failed did, as JSON."""
        return {"sent": self.sent, "failed": self.failed, "last_failure": self.last_failure}

    def close(self, timeout: float = 5.0) -> None:
        """Send what waits, one attempt each, for so many seconds at most."""
        self._stop.set()
        with contextlib.suppress(queue.Full):  # the thread sees the flag after the message it is at
            self._waiting.put_nowait(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            self._count(self._failure(message))
            if self._stop.is_set() and self._waiting.empty():
                return

    def _count(self, failure: str) -> None:
        """A message was taken, or was not for this reason."""
        with self._counting:
            if failure:
                self.failed, self.last_failure = self.failed + 1, failure
            else:
                self.sent += 1
            changed, self._told = failure != self._told, failure
        if changed:
            self._tell(f"webhook NOT told: {failure}" if failure else "webhook told again.")

    def _failure(self, message: bytes) -> str:
        """Why a message was not taken after all attempts; empty if it was."""
        for pause in self._pauses:
            failure = self._attempt(message)
            if not failure or self._stop.is_set():
                return failure
            self._stop.wait(pause)
        return self._attempt(message)

    def _attempt(self, message: bytes) -> str:
        request = urllib.request.Request(
            self._url,
            data=message,
            headers={"Content-Type": "application/json", "User-Agent": "selfaug-monitor"},
        )
        try:
            with self._opener.open(request, timeout=self._timeout):
                return ""
        except urllib.error.HTTPError as error:  # from 300 on
            error.close()
            return f"HTTP {error.code}"
        except (OSError, HTTPException, ValueError) as error:  # the network, a reply that is no HTTP
            return _in_words(error)


def _in_words(error: Exception) -> str:
    """What went wrong, without the URL: only what the system says of it, and otherwise the kind of error alone."""
    cause = getattr(error, "reason", error)  # urllib's own error is around that of the network
    said = getattr(cause, "strerror", None)
    return f"{type(cause).__name__}: {said}" if said else type(cause).__name__
