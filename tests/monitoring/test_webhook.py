from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from simulated import Clock, Prompts, run, simulated

from selfaug.cli.monitor_view import show_monitor
from selfaug.errors import ConfigError
from selfaug.monitoring.webhook import Webhook


class Listener(HTTPServer):
    """Keeps what it is sent, and answers with the next of its statuses, the last one again and again."""

    def __init__(self, statuses: list[int], wait: float = 0.0) -> None:
        received: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(wait)
                received.append(json.loads(body))
                self.send_response(statuses[min(len(received), len(statuses)) - 1])
                self.send_header("Location", "http://127.0.0.1:9/")
                self.end_headers()

            def do_GET(self) -> None:
                received.append("followed")

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.received = received
        self.url = f"http://127.0.0.1:{self.server_port}/hook"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """A client that went away is part of the test."""


@pytest.fixture
def listeners() -> Iterator[list[Listener]]:
    made: list[Listener] = []
    yield made
    for listener in made:
        listener.shutdown()
        listener.server_close()


def until(condition: Any, seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_it_tries_again_until_it_is_taken(listeners: list[Listener]) -> None:
    listeners.append(listener := Listener([500, 503, 200]))
    told: list[str] = []
    webhook = Webhook(listener.url, pauses=(0.01, 0.01, 0.01), tell=told.append)
    webhook.send({"number": 1})
    webhook.send({"number": 2})
    until(lambda: webhook.sent == 2)
    assert [message["number"] for message in listener.received] == [1, 1, 1, 2]
    assert told == []
    webhook.close()


def test_one_that_is_not_told_says_so_when_that_changes(listeners: list[Listener]) -> None:
    listeners.append(listener := Listener([400, 400, 200]))
    told: list[str] = []
    webhook = Webhook(listener.url, pauses=(), tell=told.append)
    for number in range(3):
        webhook.send({"number": number})
    until(lambda: webhook.sent == 1)
    assert webhook.status() == {"sent": 1, "failed": 2, "last_failure": "HTTP 400"}
    assert [tuple(one) for one in webhook.metrics()] == [
        ("selfaug_webhook_messages_total", {"outcome": "sent"}, 1),
        ("selfaug_webhook_messages_total", {"outcome": "failed"}, 2),
    ]
    webhook.close()
    assert told == ["webhook NOT told: HTTP 400", "webhook told again."]


@pytest.mark.parametrize("status", [404, 302])
def test_it_gives_up_and_follows_no_redirect(listeners: list[Listener], status: int) -> None:
    listeners.append(listener := Listener([status]))
    webhook = Webhook(listener.url, pauses=(0.01,))
    webhook.send({"number": 1})
    until(lambda: webhook.failed == 1)
    assert listener.received == [{"number": 1}] * 2
    webhook.close()


def test_nobody_waits_for_one_that_hangs(listeners: list[Listener]) -> None:
    listeners.append(listener := Listener([200], wait=2.0))
    webhook = Webhook(listener.url, timeout=0.2, pauses=(30.0,))
    began = time.perf_counter()
    for number in range(100):
        webhook.send({"number": number})
    assert webhook.failed > 0  # the queue has its bound
    webhook.close(timeout=0.5)
    assert time.perf_counter() - began < 2


def test_a_port_where_nobody_listens_is_a_failure_and_no_error() -> None:
    webhook = Webhook("http://127.0.0.1:9/a-secret", timeout=1, pauses=())
    webhook.send({})
    until(lambda: webhook.failed == 1)
    assert webhook.last_failure == "ConnectionRefusedError: Connection refused"
    webhook.close()


@pytest.mark.parametrize("url", ["ftp://example.org/x", "example.org/hook", "http://", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        Webhook(url)


def test_an_alert_that_no_webhook_took_is_told_of_by_the_monitor(
    listeners: list[Listener], tmp_path: Path
) -> None:
    listeners.append(listener := Listener([400]))
    clock = Clock()
    told: list[str] = []
    monitor = simulated(tmp_path, clock, webhook=listener.url, tell=told.append)
    assert monitor._webhook is not None
    monitor._webhook._pauses = ()
    monitor.canary(False, "another template")
    monitor.work()
    until(lambda: told == ["webhook NOT told: HTTP 400"])
    assert monitor.metrics()[-1] == ("selfaug_webhook_messages_total", {"outcome": "failed"}, 1)
    status = {**monitor.status(), "seconds_ago": 0.0, "report": None}
    monitor.close()
    shown = io.StringIO()
    show_monitor(status, Console(file=shown, width=200))
    assert "the webhook was NOT told 1 of 1 message; last failure: HTTP 400" in shown.getvalue()


def test_the_monitor_tells_of_each_change(listeners: list[Listener], tmp_path: Path) -> None:
    listeners.append(listener := Listener([200]))
    clock = Clock()
    monitor = simulated(tmp_path, clock, webhook=listener.url)
    run(monitor, clock, (Prompts(number).draw() for number in range(5)))
    monitor.canary(False, "another template")
    monitor.work()
    monitor.close()
    told = [(one["signal"], one["before"], one["after"]) for one in listener.received]
    assert told == [("monitor", "no_data", "learning"), ("monitor", "learning", "drift")]
    assert (Path(listener.received[1]["report"]) / "report.md").is_file()
    assert listener.received[1]["run"] == "runs/first"
