"""What the monitor keeps: an SQLite file in WAL mode. One process writes, any number read.

Everything that one batch of requests changes is committed at once: its rows, the counts, and the detectors' state.
After a kill there is all of a batch or nothing of it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfaug.errors import StorageError
from selfaug.sqlite_reading import open_for_reading

__all__ = [
    "ACKNOWLEDGED",
    "Batch",
    "Row",
    "Store",
    "acknowledge",
    "add_vote",
    "has_older",
    "has_request",
    "purge",
    "read_changes",
    "read_kept",
    "read_texts",
]

FILE = "monitor.sqlite"
ACKNOWLEDGED = "acknowledged"
"""What is kept of signals whose alerts someone has dealt with: when, in seconds since 1970."""
_VERSION = 1
_DAY = 86_400.0
_BUSY_SECONDS = 5.0
_PURGED_AT_ONCE = 2000
_PURGE_PAUSE = 0.15
"""Seconds: who waits for the file asks for it every tenth of a second."""
_MOST_BESIDE_TEXTS = 4 << 20
"""Bytes that a batch needs for all but its texts: its rows, and the course of the detectors."""

_SCHEMA = """
CREATE TABLE rows (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    request_id TEXT NOT NULL UNIQUE,
    adapter TEXT NOT NULL,
    key_id INTEGER NOT NULL,
    prompt_hash BLOB NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    novelty REAL NOT NULL,
    refused INTEGER,
    format_violation INTEGER,
    empty_retrieval INTEGER,
    drift REAL
);
CREATE INDEX rows_by_time ON rows (time);
CREATE TABLE texts (row_id INTEGER PRIMARY KEY, time REAL NOT NULL, text TEXT NOT NULL);
CREATE TABLE votes (request_id TEXT PRIMARY KEY, time REAL NOT NULL, adapter TEXT NOT NULL, up INTEGER NOT NULL);
CREATE TABLE changes (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, adapter TEXT NOT NULL, signal TEXT NOT NULL, before TEXT NOT NULL,
    after TEXT NOT NULL, statistic REAL, threshold REAL
);
CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

_COLUMNS = {
    "drift": "drift",
    "novelty": "novelty",
    "prompt_length": "prompt_tokens",
    "completion_length": "completion_tokens",
    "refusals": "refused",
    "format_violations": "format_violation",
    "empty_retrieval": "empty_retrieval",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One request as it is kept. `text`, from `kept_text`, is None unless texts are kept; one without prompt tokens was
    not answered."""

    time: float
    request_id: str
    adapter: str
    key_id: int
    prompt_hash: bytes
    prompt_tokens: int
    completion_tokens: int
    novelty: float
    refused: bool | None
    format_violation: bool | None
    empty_retrieval: bool | None
    drift: float | None
    text: dict[str, Any] | None = None


@dataclass
class Batch:
    """What is committed at once.

    Attributes:
        rows: requests that are kept.
        votes: request, time, adapter, whether it was a thumb up.
        changes: time, adapter, signal, state before and after, statistic, threshold.
        counts: what is added to each count.
        kept: JSON values by name, which replace those before.
    """

    rows: list[Row] = field(default_factory=list)
    votes: list[tuple[str, float, str, bool]] = field(default_factory=list)
    changes: list[tuple[Any, ...]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)


class Store:
    """The file of one run's monitor, opened for writing.

    Args:
        folder: where the file is, or is made.
        most_bytes: the file grows no larger; None for no bound. Beyond it, writing fails as on a full disk.

    Raises:
        StorageError: if it can't be opened, is damaged, or was written by a newer selfaug.
    """

    def __init__(self, folder: str | os.PathLike[str], *, most_bytes: int | None = None) -> None:
        self._path = Path(folder) / FILE
        with _said(self._path):
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            # In WAL mode this loses nothing when the process dies, and at most the last batches when the power does.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA secure_delete = ON")
            found = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                self._connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;")
            if most_bytes is not None:
                page = self._connection.execute("PRAGMA page_size").fetchone()[0]
                self._connection.execute(f"PRAGMA max_page_count = {max(1, most_bytes // page)}")
        if found > _VERSION:
            self._connection.close()
            raise StorageError(
                f"{self._path} has version {found}; this selfaug reads up to version {_VERSION}.",
                hint="update selfaug.",
            )
        # The log too: it has texts before the file has them, and its mode is the one that a new file had at first.
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.chmod(f"{self._path}{ending}", 0o600)

    def commit(self, batch: Batch) -> int:
        """Write a batch, all of it or nothing.

        Returns:
            How many of its votes were the first for their request; others change nothing.

        Raises:
            sqlite3.Error: if it can't be written; nothing is changed then.
        """
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for row in batch.rows:
                cursor = connection.execute(
                    "INSERT INTO rows (time, request_id, adapter, key_id, prompt_hash, prompt_tokens, "
                    "completion_tokens, novelty, refused, format_violation, empty_retrieval, drift) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request_id) DO NOTHING",
                    (
                        row.time,
                        row.request_id,
                        row.adapter,
                        row.key_id,
                        row.prompt_hash,
                        row.prompt_tokens,
                        row.completion_tokens,
                        row.novelty,
                        row.refused,
                        row.format_violation,
                        row.empty_retrieval,
                        row.drift,
                    ),
                )
                if row.text is not None and cursor.rowcount:
                    connection.execute(
                        "INSERT INTO texts VALUES (?, ?, ?)",
                        (cursor.lastrowid, row.time, _text_json(row.text)),
                    )
            before = connection.total_changes
            connection.executemany(
                "INSERT INTO votes VALUES (?, ?, ?, ?) ON CONFLICT (request_id) DO NOTHING", batch.votes
            )
            first = connection.total_changes - before
            connection.executemany(
                "INSERT INTO changes (time, adapter, signal, before, after, statistic, threshold) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                batch.changes,
            )
            connection.executemany(
                "INSERT INTO counts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
                batch.counts.items(),
            )
            connection.executemany(
                "INSERT INTO kept VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                [(name, json.dumps(value)) for name, value in batch.kept.items()],
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return first

    def counts(self) -> dict[str, int]:
        """All counts.

        Raises:
            StorageError: if they can't be read.
        """
        with _said(self._path):
            return dict(self._connection.execute("SELECT name, value FROM counts"))

    def kept(self, name: str) -> Any:
        """A JSON value, or None.

        Raises:
            StorageError: if it can't be read.
        """
        with _said(self._path):
            found = self._connection.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def has_voted(self, request_id: str) -> bool:
        """Whether there is a vote on a request.

        Raises:
            sqlite3.Error: if that can't be read.
        """
        query = "SELECT 1 FROM votes WHERE request_id = ?"
        return self._connection.execute(query, (request_id,)).fetchone() is not None

    def history(self, signal: str, adapter: str, count: int | None) -> tuple[NDArray[np.float64], ...]:
        """Times, values and prompt lengths of a signal's last so many values (all for None), in order.

        Raises:
            StorageError: if they can't be read.
        """
        limit = -1 if count is None else count
        if signal == "thumbs_down":
            query = (
                "SELECT time, 1 - up, 0 FROM votes WHERE adapter = ? ORDER BY time DESC, rowid DESC LIMIT ?"
            )
        else:
            column = _COLUMNS[signal]
            # A question that was not answered has a value of one signal only, whatever its columns say.
            which = "" if signal == "empty_retrieval" else " AND prompt_tokens > 0"
            query = (
                f"SELECT time, {column}, prompt_tokens FROM rows WHERE adapter = ? AND {column} IS NOT NULL{which} "
                "ORDER BY id DESC LIMIT ?"
            )
        with _said(self._path):
            found = self._connection.execute(query, (adapter, limit)).fetchall()
        columns = np.asarray(found[::-1], dtype=np.float64).reshape(-1, 3)
        return columns[:, 0], columns[:, 1], columns[:, 2]

    def recent(self, adapter: str, count: int) -> list[dict[str, Any]]:
        """The last requests whose drift was measured, without texts, the oldest first.

        Raises:
            sqlite3.Error: if they can't be read.
        """
        cursor = self._connection.execute(
            "SELECT time, key_id, lower(hex(prompt_hash)) AS prompt_hash, prompt_tokens, completion_tokens, novelty, "
            "refused, format_violation, empty_retrieval, drift FROM rows WHERE adapter = ? AND drift IS NOT NULL "
            "ORDER BY id DESC LIMIT ?",
            (adapter, count),
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()[::-1]]

    def purging(self, before: float, *, pause: float = 0.0) -> Iterator[int]:
        """Delete rows, texts and votes from before a time, so that they can't be read from the file any more.

        In pieces, one for each value, as it may take long: who asks for the next one may write before.

        Args:
            before: seconds since 1970.
            pause: seconds between two pieces, in which another process may write.

        Yields:
            How many requests the piece has deleted.

        Raises:
            sqlite3.Error: if that fails; some may be deleted then.
        """
        deleted = 0
        for table in ("texts", "votes", "rows"):
            while found := self._older(table, before):
                gone = self._delete(table, found, before)
                deleted += gone if table == "rows" else 0
                if len(found) < _PURGED_AT_ONCE:
                    break
                yield deleted
                deleted = 0
                sleep(pause)
        # Old pages are in the log until it is written back and cut.
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield deleted

    def _older(self, table: str, before: float) -> list[int]:
        """What is to be deleted next: looked for before the file is taken, as that may mean reading all of it."""
        query = f"SELECT rowid FROM {table} WHERE time < ? LIMIT ?"
        return [int(row[0]) for row in self._connection.execute(query, (before, _PURGED_AT_ONCE))]

    def _delete(self, table: str, rows: Sequence[int], before: float) -> int:
        """Delete rows of a table, all of them or none; a number may be another row's by now."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            deleted = connection.executemany(
                f"DELETE FROM {table} WHERE rowid = ? AND time < ?", [(row, before) for row in rows]
            ).rowcount
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return int(deleted)

    def is_full_for(self, batch: Batch) -> bool:
        """Whether a batch finds no room in the file because of the file's own bound, and not because the disk is full.

        Raises:
            sqlite3.Error: if that can't be read.
        """
        most, pages, free, page = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("max_page_count", "page_count", "freelist_count", "page_size")
        )
        texts = sum(len(_text_json(row.text).encode()) for row in batch.rows if row.text is not None)
        # A text a little longer than a page takes two.
        return bool((most - pages + free) * page < 2 * texts + _MOST_BESIDE_TEXTS)

    def delete_oldest_texts(self, count: int) -> None:
        """Delete so many texts, the oldest first, so that the file has room again; their requests stay.

        Raises:
            sqlite3.Error: if that fails.
        """
        query = "DELETE FROM texts WHERE row_id IN (SELECT row_id FROM texts ORDER BY row_id LIMIT ?)"
        self._connection.execute(query, (count,))
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def purge(folder: str | os.PathLike[str], before: float) -> int:
    """Delete what was kept before a time; also while a server is writing.

    Returns:
        How many requests were deleted.

    Raises:
        StorageError: if there is no such file, or it can't be written.
    """
    path = Path(folder) / FILE
    _require(path)
    store = Store(folder)
    try:
        with _said(path):
            return sum(store.purging(before, pause=_PURGE_PAUSE))
    finally:
        store.close()


def has_older(folder: str | os.PathLike[str], before: float) -> bool:
    """Whether there is something that `purge` would delete.

    Raises:
        StorageError: if there is no such file, or it can't be read.
    """
    path = Path(folder) / FILE
    _require(path)
    older = " OR ".join(
        f"EXISTS (SELECT 1 FROM {table} WHERE time < :before)" for table in ("rows", "texts", "votes")
    )
    with _reading(path) as connection:
        return bool(connection.execute(f"SELECT {older}", {"before": before}).fetchone()[0])


def has_request(folder: str | os.PathLike[str], request_id: str) -> bool:
    """Whether a request is among those that are kept.

    Raises:
        StorageError: if the file can't be read.
    """
    return _adapter_of(Path(folder) / FILE, request_id) is not None


def add_vote(folder: str | os.PathLike[str], request_id: str, up: bool, *, time: float) -> bool:
    """Write a vote on a request that is kept, where no monitor takes it; the monitor that opens next does.

    Args:
        folder: of the monitor.
        request_id: of the request.
        up: a thumb up, or down; only the first for a request counts.
        time: seconds since 1970.

    Returns:
        False if no such request is kept.

    Raises:
        StorageError: if the file can't be read or written.
    """
    path = Path(folder) / FILE
    adapter = _adapter_of(path, request_id)
    if adapter is None:
        return False
    with closing(Store(folder)) as store, _said(path):
        store.commit(Batch(votes=[(request_id, time, adapter, up)]))
    return True


def acknowledge(folder: str | os.PathLike[str], signals: Sequence[str], *, time: float) -> None:
    """Write down that someone has dealt with alerts; the monitor that has the file, or opens it next, ends them.

    Args:
        folder: of the monitor.
        signals: whose alerts.
        time: seconds since 1970.

    Raises:
        StorageError: if there is no such file, or it can't be written.
    """
    path = Path(folder) / FILE
    _require(path)
    with closing(Store(folder)) as store, _said(path):
        before = store.kept(ACKNOWLEDGED) or {}
        store.commit(Batch(kept={ACKNOWLEDGED: {**before, **dict.fromkeys(signals, time)}}))


def _adapter_of(path: Path, request_id: str) -> str | None:
    """Whose answer a request got; None if it is not kept."""
    if not path.is_file():
        return None
    with _reading(path) as connection:
        found = connection.execute("SELECT adapter FROM rows WHERE request_id = ?", (request_id,)).fetchone()
    return None if found is None else str(found[0])


def read_texts(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Texts that were kept, oldest first: `request_id`, `time` in seconds since 1970, `drift` in nats, `vote` ("up" or
    "down"), both None if there is none, and the fields of `kept_text`.

    Raises:
        StorageError: if there is no such file, or it can't be read.
    """
    path = Path(folder) / FILE
    _require(path)
    with _reading(path) as connection:
        found = connection.execute(
            "SELECT request_id, rows.time, drift, up, text FROM texts JOIN rows ON rows.id = row_id "
            "LEFT JOIN votes USING (request_id) ORDER BY rows.time, row_id"
        ).fetchall()
    return [
        {"request_id": name, "time": at, "drift": drift, "vote": _VOTES[up], **json.loads(text)}
        for name, at, drift, up, text in found
    ]


_VOTES = {None: None, 0: "down", 1: "up"}


def _text_json(fields: dict[str, Any]) -> str:
    """The fields of a text as they are kept."""
    return json.dumps(fields, ensure_ascii=False)


def read_kept(folder: str | os.PathLike[str], names: Sequence[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """JSON values by name, and all counts, of a file that a server may be writing at this moment.

    Raises:
        StorageError: if there is no such file, or it can't be read.
    """
    path = Path(folder) / FILE
    _require(path)
    with _reading(path) as connection:
        connection.execute("BEGIN")  # both as of one moment
        found = dict(connection.execute("SELECT name, value FROM kept"))
        counts = dict(connection.execute("SELECT name, value FROM counts"))
    return {name: json.loads(found[name]) for name in names if name in found}, counts


def read_changes(folder: str | os.PathLike[str], most: int) -> list[dict[str, Any]]:
    """The last changes of state, oldest first: `time` in seconds since 1970, `signal`, `before`, `after`, and the
    detector's `statistic` and `threshold`.

    Raises:
        StorageError: if there is no such file, or it can't be read.
    """
    path = Path(folder) / FILE
    _require(path)
    names = ("time", "signal", "before", "after", "statistic", "threshold")
    with _reading(path) as connection:
        found = connection.execute(
            f"SELECT {', '.join(names)} FROM changes ORDER BY id DESC LIMIT ?", (most,)
        ).fetchall()
    return [dict(zip(names, row, strict=True)) for row in found[::-1]]


def _require(path: Path) -> None:
    if not path.is_file():
        raise StorageError(
            f"{path.parent} holds nothing from a monitor: no request has been watched yet.",
            hint="`selfaug serve` watches what it answers; for another server, docs/how-to/monitor.md has the lines.",
        )


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into one for the user."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(
            f"{path} can't be used: {error}.",
            hint="check free space and permissions; a damaged file can be moved away, and the monitor begins anew.",
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, while a server may be writing."""
    with _said(path):
        connection = open_for_reading(path, busy_seconds=_BUSY_SECONDS)
        try:
            yield connection
        finally:
            connection.close()
