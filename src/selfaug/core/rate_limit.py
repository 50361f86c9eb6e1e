"""How often something may be done: a token bucket."""

from __future__ import annotations

import math

__all__ = ["RateLimit"]


class RateLimit:
    """Allows so many a second, and a burst of them after a quiet time.

    Args:
        per_second: how many, on average.
        burst: how many at once, at most and at the beginning.
    """

    def __init__(self, per_second: float, burst: float) -> None:
        self._rate, self._most = per_second, burst
        self._left, self._at = burst, math.inf

    def wait(self, now: float) -> float:
        """Take one: 0 if it may go, else the seconds until one may.

        Args:
            now: seconds, of whichever clock.
        """
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now  # also where the clock was set back: else nothing came in until it is where it was
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate if self._rate > 0 else math.inf
