"""API keys: made once, shown once, stored as hashes."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from selfaug.errors import StorageError
from selfaug.records import read_record, write_record

__all__ = ["ApiKeys"]

_KIND = "api-keys"
_PREFIX = "sk-selfaug-"


class ApiKeys:
    """Keys that a server takes.

    A key is 256 random bits, so that its SHA-256 can't be searched for: a slow hash is for passwords.

    Args:
        hashes: hexadecimal SHA-256 of each key.
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes = list(hashes)

    @classmethod
    def of(cls, key: str) -> ApiKeys:
        """One key, of the user's own."""
        return cls([_hash(key)])

    @classmethod
    def load(cls, file: Path) -> ApiKeys:
        """Keys that were made before.

        Raises:
            StorageError: if the file can't be read or isn't one of keys.
        """
        return cls([one["sha256"] for one in read_record(file, _KIND)["keys"]])

    @classmethod
    def make(cls, file: Path) -> tuple[ApiKeys, str]:
        """A new key, which takes the place of those before; it is nowhere but in what is returned.

        Raises:
            StorageError: if the file can't be written.
        """
        key = _PREFIX + secrets.token_urlsafe(32)
        entry = {"sha256": _hash(key), "made": datetime.now(UTC).isoformat(timespec="seconds")}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_record(file, _KIND, {"keys": [entry]})
            os.chmod(file, 0o600)
        except OSError as error:
            raise StorageError(
                f"can't write {file}: {error.strerror or error}",
                hint="free space, or change the folder's permissions.",
            ) from error
        return cls.load(file), key

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        digest = _hash(key)
        # All are compared, each in constant time: how long it takes says nothing.
        return sum(hmac.compare_digest(digest, one) for one in self._hashes) > 0


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).hexdigest()
