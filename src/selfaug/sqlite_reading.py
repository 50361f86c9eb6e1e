"""Reading an SQLite file in WAL mode, also where nothing can be written beside it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

__all__ = ["open_for_reading"]


def open_for_reading(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """A connection that changes nothing, while others may be writing.

    Args:
        path: of the file.
        busy_seconds: how long it waits for a lock.

    Raises:
        sqlite3.Error: if the file can't be read.
    """
    connection = _connected(path, "mode=ro", busy_seconds)
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.OperationalError as error:
        connection.close()
        # In WAL mode SQLite makes a file beside it even to read. Where that can't be, nobody of this user's writes, and
        # without a log all is in the file.
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if primary not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or os.path.exists(f"{path}-wal"):
            raise
        return _connected(path, "immutable=1", busy_seconds)
    except BaseException:
        connection.close()
        raise
    return connection


def _connected(path: Path, how: str, busy_seconds: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, timeout=busy_seconds, isolation_level=None
    )
