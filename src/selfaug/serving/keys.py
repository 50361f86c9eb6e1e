"""API keys: made once, shown once, stored as hashes."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfaug.errors import StorageError
from selfaug.records import read_record, write_record

__all__ = ["ApiKeys"]

_KIND = "api-keys"
_PREFIX = "sk-selfaug-"


class ApiKeys:
    """Keys that a server takes.

    A key is 256 random bits, so that its SHA-256 can't be searched for: a slow hash is for passwords.

    Args:
        ends: hexadecimal SHA-256 of each key, and until when it is taken, in seconds since 1970; infinity for always.
    """

    def __init__(self, ends: Mapping[str, float]) -> None:
        self._ends = dict(ends)

    @classmethod
    def of(cls, *keys: str) -> ApiKeys:
        """Keys of the user's own."""
        return cls({_hash(key): math.inf for key in keys})

    @classmethod
    def load(cls, file: Path) -> ApiKeys:
        """Keys that were made before.

        Raises:
            StorageError: if the file can't be read or isn't one of keys.
        """
        return cls({one["sha256"]: _end_of(one) for one in read_record(file, _KIND)["keys"]})

    @classmethod
    def make(cls, file: Path, *, keep_hours: float = 0.0) -> tuple[ApiKeys, str]:
        """A new key, which takes the place of those before; it is nowhere but in what is returned.

        Args:
            file: where the hashes are kept.
            keep_hours: for which the keys before are taken as well, unless they end earlier.

        Raises:
            StorageError: if the file can't be written.
            DataError: if keys are to be kept, and the file can't be read or isn't one of keys.
        """
        key = _PREFIX + secrets.token_urlsafe(32)
        now = time.time()
        kept = _still_taken(file, now, now + 3600 * keep_hours) if keep_hours and file.exists() else []
        entry = {"sha256": _hash(key), "made": _iso(now)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_record(file, _KIND, {"keys": [entry, *kept]})
            os.chmod(file, 0o600)
        except OSError as error:
            raise StorageError(
                f"can't write {file}: {error.strerror or error}",
                hint="free space, or change the folder's permissions.",
            ) from error
        return cls.load(file), key

    @property
    def until(self) -> float | None:
        """When the last of the earlier keys ends, in seconds since 1970; None if none of them is taken."""
        now = time.time()
        return max((end for end in self._ends.values() if now < end < math.inf), default=None)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        digest, now = _hash(key), time.time()
        # All are compared, each in constant time: how long it takes says nothing.
        return sum(hmac.compare_digest(digest, one) & (now < end) for one, end in self._ends.items()) > 0


def _still_taken(file: Path, now: float, latest: float) -> list[dict[str, Any]]:
    """Entries of the keys that are taken now, with their end: no later than the one given."""
    entries = [one for one in read_record(file, _KIND)["keys"] if _end_of(one) > now]
    return [{**one, "until": _iso(min(_end_of(one), latest))} for one in entries]


def _end_of(entry: Mapping[str, Any]) -> float:
    """Seconds since 1970; infinity, if it says none."""
    return datetime.fromisoformat(entry["until"]).timestamp() if "until" in entry else math.inf


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).hexdigest()
