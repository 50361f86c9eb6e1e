"""How many things were offered to the monitor, in a file that outlives the process.

The numbers are written into mapped memory, which costs the request path nothing and which the operating system keeps
when the process is killed: what was offered, and neither dropped nor committed, was lost.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["OfferCount"]

_BYTES = 16


class OfferCount:
    """Two numbers that only grow: offered and dropped. One process writes them.

    Args:
        path: the file; made if it does not exist.

    Raises:
        OSError: if it can't be made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(handle).st_size < _BYTES:
                os.write(handle, bytes(_BYTES))  # written, so that the space is there before it is mapped
            self._memory = mmap.mmap(handle, _BYTES)
        finally:
            os.close(handle)
        # Each number is stored at once. `struct` sets the bytes to 0 first: a process that was killed there had
        # offered nothing.
        self._numbers = memoryview(self._memory).cast("Q")
        self.offered, self.dropped = self._numbers

    def add(self, *, dropped: bool) -> None:
        """Count one thing that was offered."""
        self.offered += 1
        self._numbers[0] = self.offered
        if dropped:
            self.dropped += 1
            self._numbers[1] = self.dropped

    def close(self) -> None:
        """Give the memory back; the numbers stay in the file."""
        self._numbers.release()
        self._memory.close()
