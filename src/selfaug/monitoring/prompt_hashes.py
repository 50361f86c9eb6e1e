"""Keyed hashes of prompts: equal prompts can be told for a week, and nobody can look one up afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selfaug.errors import StorageError

__all__ = ["KEY_FILE", "ROTATE_AFTER", "PromptHashes", "forget_key"]

KEY_FILE = "prompt-key.json"
ROTATE_AFTER = 7 * 86_400.0
"""Seconds that a key is used."""


def forget_key(path: str | os.PathLike[str], before: float) -> None:
    """Delete the file of a key that was made before a time, or is damaged. A server that runs still has it in memory.

    Raises:
        StorageError: if it can't be deleted.
    """
    try:
        if _read(Path(path))[2] < before:
            Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"can't delete {os.fspath(path)}: {error.strerror or error}",
            hint="change the permissions of its folder, or delete it yourself.",
        ) from error


def _read(path: Path) -> tuple[int, bytes, float]:
    """Number of the key, the key, and when it was made: never, if there is none, or it was cut off while written."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["id"], bytes.fromhex(found["key"]), found["made"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0, b"", float("-inf")


class PromptHashes:
    """HMAC-SHA-256 of prompts' token ids, under a key that is replaced every week; the old one is deleted.

    Args:
        path: file of the key, which only its owner can read.

    Raises:
        StorageError: if the file can't be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            self.key_id, self._key, self._made = _read(self._path)
        except OSError as error:
            raise StorageError(
                f"can't read {self._path}: {error.strerror or error}",
                hint="change the file's permissions; if it is damaged, delete it, and a new key is made.",
            ) from error

    def hash(self, prompt: Sequence[int], now: float) -> tuple[int, bytes]:
        """Number of the key, and 16 bytes."""
        if not 0 <= now - self._made < ROTATE_AFTER:
            self._rotate(now)
        ids = np.asarray(prompt, dtype="<i8").tobytes()
        return self.key_id, hmac.new(self._key, ids, hashlib.sha256).digest()[:16]

    def _rotate(self, now: float) -> None:
        # Where the file was deleted nobody knows the numbers before: so it is that of the second.
        self.key_id = max(self.key_id + 1, int(now))
        self._key, self._made = secrets.token_bytes(32), now
        text = json.dumps({"id": self.key_id, "key": self._key.hex(), "made": now})
        # On a full disk the key lives in memory only; hashes of before and after a restart then differ.
        with contextlib.suppress(OSError):
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
