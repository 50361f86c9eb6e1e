"""A lock on a file that ends with the process that has it, however that ends."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import filelock

from selfaug.errors import StorageError

__all__ = ["FileLock", "NoLocksError"]

# What a file system says that has none: Lustre without the mount option `flock`, NFS without its lock service.
_NONE_THERE = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class NoLocksError(StorageError):
    """The file system that a lock would be on has none."""


class FileLock(filelock.FileLock):
    """filelock's, but never a marker in the place of a lock: one that a killed process leaves would be waited for.

    Args:
        lock_file: made if it isn't there.
        options: filelock's.

    Raises:
        NoLocksError: when it is acquired, on a file system without locks.
    """

    def __init__(self, lock_file: str | Path, **options: Any) -> None:
        super().__init__(lock_file, **{**options, "fallback_to_soft": False})

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        """filelock's."""
        try:
            return super().acquire(*args, **kwargs)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NONE_THERE:
                raise
            folder = Path(self.lock_file).parent
            raise NoLocksError(
                f"the file system of {folder} has no file locks: {getattr(error, 'strerror', None) or error}.",
                hint="choose a folder on another file system; Lustre has locks where it is mounted with `flock`.",
            ) from error
