"""How long a command has worked, over all its processes: a record doesn't lose what was stopped and gone on with."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from selfaug.errors import StorageError
from selfaug.records import append_line, read_lines

__all__ = ["WORKED", "WorkTime"]

WORKED = "worked.jsonl"
"""Name of the file with the seconds of each process."""


class WorkTime:
    """Seconds of this process since it was made, and of those before it; only what was killed is not counted.

    Args:
        file: with a line for each earlier process; need not exist.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._began = file, time.monotonic()

    @property
    def seconds(self) -> float:
        """Of all processes that have ended, and of this one so far."""
        earlier = read_lines(self._file) if self._file.exists() else []
        return sum(float(line["seconds"]) for line in earlier) + time.monotonic() - self._began

    def keep(self) -> None:
        """Write this process's seconds down, once, when it ends; where that can't be, nothing else is lost."""
        with contextlib.suppress(StorageError):
            append_line(self._file, {"seconds": time.monotonic() - self._began})
