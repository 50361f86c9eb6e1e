"""How often one may ask: a token bucket."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["RateLimit"]


class RateLimit:
    """Allows so many requests a minute, and as many at once after a quiet minute.

    Args:
        per_minute: requests; 0 allows all.
        clock: seconds.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most = per_minute / 60, max(per_minute, 1.0)
        self._clock = clock
        self._left, self._last = self._most, clock()

    def wait(self) -> float:
        """Take a request: 0 if it may go, else the seconds until one may."""
        if self._rate == 0:
            return 0.0
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._last) * self._rate)
        self._last = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate
