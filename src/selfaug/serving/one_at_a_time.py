"""Work that would keep the event loop from everything else, done in a thread instead."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from selfaug.serving.generation import OverloadedError

__all__ = ["OneAtATime"]

_T = TypeVar("_T")


class OneAtATime:
    """Does what it is given in a thread of its own, in the order in which it came.

    One at a time, because what it is used for need not bear more: a tokeniser, or a search of the user's. The thread is
    a daemon: a search that never comes back doesn't keep the process from ending.

    Args:
        name: of the thread.
        most: that may be there at once; more are refused.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most, self._there = name, most, 0
        self._given: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def do(self, work: Callable[[], _T]) -> _T:
        """The work's result. Cancelled before its turn, it is not done at all.

        Raises:
            OverloadedError: at once, if too much is waiting. What the work raises is raised here.
        """
        if self._there >= self._most:
            raise OverloadedError(1.0)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._there += 1
        result: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._given.put((work, result))
        try:
            return await result
        finally:
            self._there -= 1

    def _work(self) -> None:
        while True:
            work, result = self._given.get()
            if result.cancelled():
                continue
            made: Any = None
            error: BaseException | None = None
            try:
                made = work()
            except StopIteration as raised:  # a future takes any exception but this one
                error = RuntimeError("StopIteration")
                error.__cause__ = raised
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                result.get_loop().call_soon_threadsafe(_tell, result, made, error)
            del work, result, made, error  # the last prompt, until the next one comes


def _tell(result: asyncio.Future[Any], made: Any, error: BaseException | None) -> None:
    if result.done():
        return
    if error is None:
        result.set_result(made)
    else:
        result.set_exception(error)
