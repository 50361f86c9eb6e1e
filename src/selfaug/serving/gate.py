"""The gate before the engine: closed while another run takes the place of the one that is served.

Between its arrival and its place in the engine a request is made into token ids, with the names, the template and the
documents of one run. That run has to answer it, so no run is exchanged while a request is in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from selfaug.serving.generation import OverloadedError

__all__ = ["Admission", "Gate"]


class Gate:
    """Lets requests of an event loop in, but for the time that another thread has it closed.

    Args:
        most_waiting: requests that may wait for it to open; more are refused.

    Attributes:
        closings: times that it has been closed.
    """

    def __init__(self, most_waiting: int = 64) -> None:
        self._most = most_waiting
        self._changed = threading.Condition()
        self._closed = False
        self.closings = 0
        self._inside = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def waiting(self) -> int:
        """Requests that wait for it to open."""
        return len(self._waiting)

    def let_in(self) -> bool:
        """Whether a request may go in; it has to `leave` then."""
        with self._changed:
            if self._closed:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        """The engine has the request, or it was refused."""
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    async def opened(self) -> None:
        """Wait until it is open.

        Raises:
            OverloadedError: if too many wait already.
        """
        with self._changed:
            if not self._closed:
                return
            if len(self._waiting) >= self._most:
                raise OverloadedError(1.0)
            opened = asyncio.get_running_loop().create_future()
            self._waiting.append(opened)
        try:
            await opened
        finally:
            with self._changed:
                self._waiting.remove(opened)

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Nobody goes in meanwhile; it begins when the engine has all that were let in. Not for the loop's thread."""
        with self._changed:
            self._closed = True
            self.closings += 1
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                waiting = list(self._waiting)
            for one in waiting:
                with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
                    one.get_loop().call_soon_threadsafe(_wake, one)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Admission:
    """A request that was let in, and leaves once.

    Args:
        gate: that it came through.
        arrived: when it came to it, by the clock of `time.monotonic`.

    Attributes:
        arrived: as given.
    """

    def __init__(self, gate: Gate, arrived: float) -> None:
        self.arrived = arrived
        self._gate: Gate | None = gate

    def leave(self) -> None:
        """The engine has the request; if it is said again, nothing happens."""
        if self._gate is not None:
            gate, self._gate = self._gate, None
            gate.leave()
