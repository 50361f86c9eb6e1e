"""Work that would keep the event loop from everything else, done in a thread instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from selfaug.serving.generation import OverloadedError

__all__ = ["OneAtATime"]

_T = TypeVar("_T")


class OneAtATime:
    """Does what it is given in a thread of its own, in the order in which it came.

    One at a time, because what it is used for need not bear more: a tokeniser, or a search of the user's.

    Args:
        name: of the thread.
        most: that may be there at once; more are refused.
    """

    def __init__(self, name: str, most: int) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._most, self._there = most, 0

    async def do(self, work: Callable[[], _T]) -> _T:
        """The work's result. Cancelled before its turn, it is not done at all.

        Raises:
            OverloadedError: at once, if too much is waiting. What the work raises is raised here.
        """
        if self._there >= self._most:
            raise OverloadedError(1.0)
        self._there += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._there -= 1
