"""Connections that send no request, or don't read the answer, take neither the server's descriptors nor its memory."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from serving_fixtures import Running, soon
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from selfaug.serving.connections import ConnectionLimits, most_connections
from selfaug.serving.served import Readiness

CHUNK = bytes(65_536)
GET = b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /small HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n"


class Endless:
    """An application whose answer never ends."""

    def __init__(self) -> None:
        self.chunks, self.ended = 0, threading.Event()
        routes = [
            Route("/small", self._small, methods=["GET", "POST"]),
            Route("/large", self._large),
            Route("/endless", self._endless),
        ]
        self.app = Starlette(routes=routes)

    async def _small(self, _: Request) -> Response:
        return PlainTextResponse("here")

    async def _large(self, _: Request) -> Response:
        return Response(CHUNK * 4)

    async def _endless(self, _: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    self.chunks += 1
                    yield CHUNK
                    await asyncio.sleep(0)
            finally:
                self.ended.set()

        return StreamingResponse(chunks())


@pytest.fixture
def endless() -> Endless:
    return Endless()


Begin = Callable[..., Running]


@pytest.fixture
def begin(endless: Endless) -> Iterator[Begin]:
    running: list[Running] = []

    def make(**limits: Any) -> Running:
        running.append(Running(endless.app, Readiness(), limits=ConnectionLimits(**limits)))
        return running[-1]

    yield make
    for one in running:
        one.stop()


def connected(server: Running, room: int | None = None) -> socket.socket:
    """A connection, with so much room for what comes."""
    address = urlsplit(server.url)
    connection = socket.socket()
    if room is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    connection.settimeout(10)
    connection.connect((address.hostname, address.port))
    return connection


def ended(connection: socket.socket) -> bool:
    """Whether the server has closed it, after whatever it has said."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


def open_ones(server: Running) -> int:
    return len(server.server.server_state.connections)


def answers(server: Running) -> bool:
    with connected(server) as connection:
        connection.sendall(GET)
        return connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_half_of_the_headers_do_not_stay(begin: Begin) -> None:
    server = begin(head_seconds=0.3)
    halves = [connected(server) for _ in range(20)]
    for one in halves[:10]:
        one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
    assert all(ended(one) for one in halves)  # those that say nothing, too
    for one in halves:
        one.close()
    assert soon(lambda: open_ones(server) == 0)
    assert answers(server)


def test_neither_do_headers_that_come_a_byte_at_a_time_behind_an_answer(begin: Begin) -> None:
    server = begin(head_seconds=0.4)
    with connected(server) as connection:
        connection.sendall(GET)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")

        def drip() -> None:
            for _ in range(100):
                connection.sendall(b"G")
                time.sleep(0.05)

        with pytest.raises(ConnectionError):
            drip()


def test_a_connection_between_two_requests_stays_for_longer_than_headers_may_take(begin: Begin) -> None:
    assert ConnectionLimits().idle_seconds > 60  # what AWS's load balancer keeps one for
    server = begin(head_seconds=0.5, idle_seconds=30)
    with connected(server) as connection:
        # Of the second one the body comes behind its answer: that is no beginning of another request.
        for sent, rest in (GET, b""), (POST, b"abc"), (GET, b""):
            connection.sendall(sent)
            answer = b""
            while not answer.endswith(b"here"):
                part = connection.recv(4096)
                assert part
                answer += part
            connection.sendall(rest)
            time.sleep(0.7)


@pytest.mark.parametrize(
    "limits", [{"idle_seconds": 0.3}, {"most": 2, "head_seconds": 0.5}], ids=["idle", "crowded"]
)
def test_but_not_for_ever_and_for_less_where_room_is_short(begin: Begin, limits: dict[str, Any]) -> None:
    with connected(begin(**limits)) as connection:
        connection.sendall(GET)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert ended(connection)  # within the ten seconds that reading takes at most


def test_a_request_that_is_answered_slowly_has_its_time(begin: Begin, endless: Endless) -> None:
    server = begin(head_seconds=0.2)
    with connected(server) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        ends = time.monotonic() + 0.6
        while time.monotonic() < ends:
            assert connection.recv(65_536)


def test_no_more_connections_than_there_is_room_for(begin: Begin) -> None:
    server = begin(most=3)
    kept = [connected(server) for _ in range(3)]
    assert soon(lambda: open_ones(server) == 3)
    with connected(server) as further:
        assert ended(further)
    assert open_ones(server) == 3
    kept.pop().close()
    assert soon(lambda: open_ones(server) == 2)
    assert answers(server)
    for one in kept:
        one.close()


def test_room_is_half_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for limits, most in (
        ((256, 256), 128),
        ((1 << 20, 1 << 20), 4096),
        ((resource.RLIM_INFINITY,) * 2, 4096),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, found=limits: found)
        assert most_connections() == most


def test_a_stream_that_nobody_reads_is_not_made_and_ends(begin: Begin, endless: Endless) -> None:
    server = begin(unread_seconds=0.5)
    with connected(server, room=4096) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        assert endless.ended.wait(10)
    # What the system takes for the connection, and little more: not what half a second could make.
    assert endless.chunks * len(CHUNK) < 16_000_000
    assert soon(lambda: open_ones(server) == 0)


def test_the_end_of_an_answer_that_nobody_reads_does_not_stay(begin: Begin) -> None:
    server = begin(unread_seconds=0.5)
    with connected(server, room=4096) as connection:
        # Some of these are in the server's own memory, and all are complete.
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n" * 40)
        assert soon(lambda: open_ones(server) == 1)
        assert soon(lambda: open_ones(server) == 0)


def test_a_client_that_reads_slowly_gets_all(begin: Begin) -> None:
    server = begin(unread_seconds=0.4)
    with connected(server, room=4096) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        read = 0
        while piece := connection.recv(4096):
            read += len(piece)
            time.sleep(0.01)
    assert read > len(CHUNK) * 4
