"""What one connection may take before any request of it is looked at: time and room that nobody has a key for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["ConnectionLimits", "LimitedConnection", "most_connections"]


def most_connections() -> int:
    """How many connections a process should have open: half of the descriptors that it may have, 4,096 at most.

    The other half is for its own files, and for connections to servers behind it.
    """
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return _MOST
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if descriptors == resource.RLIM_INFINITY else min(_MOST, max(1, descriptors // 2))


_MOST = 4096


@dataclass(frozen=True)
class ConnectionLimits:
    """What a connection may take.

    Attributes:
        head_seconds: from a connection's beginning, or the first byte of a further request, to the end of the
            request's headers.
        idle_seconds: between the end of an answer and the first byte of the next request. It has to be longer than a
            load balancer keeps a connection (that of AWS, and nginx, 60 seconds): one that sends a request into the
            closing gets nothing for it, and tells its client 502. From half of the most connections on it is
            `head_seconds` at most.
        unread_seconds: in which a client reads nothing of what waits for it.
        most: connections at once; None for `most_connections()`. Further ones are closed at once.
    """

    head_seconds: float = 15.0
    idle_seconds: float = 75.0
    unread_seconds: float = 30.0
    most: int | None = None


class LimitedConnection(H11Protocol):
    """uvicorn's connection, which ends where the client sends no request, or doesn't read the answer.

    uvicorn's own timer is for connections between two requests only, and ends with the first byte that comes then.

    Args:
        limits: of a connection.
        arguments: of uvicorn's connection.
    """

    def __init__(self, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._most = most_connections() if limits.most is None else limits.most
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        # `pause_writing` is called as soon as the system takes no more, and `resume_writing` when it has taken all:
        # so the timer between them runs for the last bytes of an answer too.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self._most:
            transport.abort()
            return
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """Something of a request is here."""
        super().data_received(data)
        if self._is_between_requests():
            self._stop_head_timer()
            self._time_idleness()
        else:
            self._time_head()

    def on_response_complete(self) -> None:
        """An answer has ended: uvicorn's timer for connections between two requests begins."""
        self._set_idle_seconds()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        super().pause_writing()
        self._time_reading()

    def resume_writing(self) -> None:
        """All is on its way."""
        super().resume_writing()
        self._stop_unread_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        super().connection_lost(exc)
        self._stop_head_timer()
        self._stop_unread_timer()

    def _is_between_requests(self) -> bool:
        """Whether what has come was the rest of a request that was answered before all of it was here."""
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _set_idle_seconds(self) -> None:
        """Have connections between two requests make room before there is none left for others."""
        limits = self._limits
        is_crowded = 2 * len(self.connections) >= self._most
        seconds = min(limits.idle_seconds, limits.head_seconds) if is_crowded else limits.idle_seconds
        self.timeout_keep_alive = seconds  # type: ignore[assignment]  # any number of seconds will do

    def _time_idleness(self) -> None:
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._set_idle_seconds()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _time_head(self) -> None:
        """Let the timer run while no request is being answered. What is sent in between does not set it back."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self.transport.abort)

    def _time_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(
            self._limits.unread_seconds, partial(self._end_if_nothing_was_read, unread)
        )

    def _end_if_nothing_was_read(self, before: int) -> None:
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._time_reading()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
