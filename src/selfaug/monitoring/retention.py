"""Deleting what the monitor has kept of requests: on demand, and when its time is over, whoever looks at it first."""

from __future__ import annotations

import os
from pathlib import Path

from selfaug.errors import DataError
from selfaug.monitoring.prompt_hashes import KEY_FILE, ROTATE_AFTER, forget_key
from selfaug.monitoring.store import has_older, purge, read_kept
from selfaug.records import read_lines, write_lines

__all__ = ["delete_before", "delete_expired", "delete_files_before"]

_DAY = 86_400.0


def delete_before(folder: str | os.PathLike[str], before: float, *, now: float) -> int:
    """Delete rows, texts, votes and evidence from before a time, and a key that was made before it.

    Counts, states and reports stay.

    Args:
        folder: where the monitor keeps everything; a server may be writing at this moment.
        before: seconds since 1970.
        now: seconds since 1970.

    Returns:
        How many requests were deleted.

    Raises:
        StorageError: if there is nothing from a monitor, or it can't be written.
        DataError: if evidence is damaged.
    """
    deleted = purge(folder, before)
    delete_files_before(folder, before, now=now)
    return deleted


def delete_files_before(folder: str | os.PathLike[str], before: float, *, now: float) -> None:
    """The same for what is not in the store: a key, which is of no use after its week either, and evidence.

    Raises:
        StorageError: if it can't be written.
        DataError: if evidence is damaged.
    """
    forget_key(Path(folder) / KEY_FILE, max(before, now - ROTATE_AFTER))
    damaged: DataError | None = None
    for file in sorted((Path(folder) / "alerts").glob("*/evidence.jsonl")):
        try:
            rows = read_lines(file)
        except DataError as error:  # the others are over their time all the same
            damaged = error
            continue
        kept = [row for row in rows if row["time"] >= before]
        if not kept:
            file.unlink(missing_ok=True)
        elif len(kept) < len(rows):
            write_lines(file, kept, private=True)
    if damaged is not None:
        raise damaged


def delete_expired(folder: str | os.PathLike[str], *, now: float) -> None:
    """Delete what is older than the monitor's own settings said: no process may be there that does.

    Args:
        folder: where a monitor keeps everything.
        now: seconds since 1970.

    Raises:
        StorageError: if there is nothing from a monitor, or it can't be written.
        DataError: if evidence is damaged.
    """
    kept, _ = read_kept(folder, ["status"])
    if "status" not in kept:
        return
    before = now - kept["status"]["settings"]["keep_days"] * _DAY
    if has_older(folder, before):
        purge(folder, before)
    delete_files_before(folder, before, now=now)
