"""Room on the disk for a reference cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from selfaug.core.printable import printable_size
from selfaug.errors import StorageError
from selfaug.file_lock import FileLock
from selfaug.user_cache import cache_dir

__all__ = [
    "TRIED",
    "free_bytes",
    "has_room",
    "require_free",
    "users_caches",
]

TRIED = ".writable."
"""How the name of a folder begins that `has_room` makes for a moment, to try whether it can."""

_OTHER_PLACE = (
    "make room and run again (what has been computed is kept), give a folder on a larger disk as reference_cache_dir, "
    "or use another reference: 'adapter_off' with an adapter, 'frozen_copy' without."
)


def users_caches() -> Path:
    """Folder that holds the caches that were given no folder of their own, in the user's cache.

    Raises:
        StorageError: if the user has no home folder, and `$SELFAUG_CACHE` is not set.
    """
    return cache_dir() / "reference"


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which is there."""
    return shutil.disk_usage(folder).free


def has_room(size: int, folder: str | os.PathLike[str] | None) -> bool:
    """Whether a cache can be kept there that leaves, grown by so many bytes, half of what is free.

    Not where nothing can be written, or no file locked. That is tried: root may write everywhere, for all that one is
    told.

    Args:
        size: bytes.
        folder: as for `ReferenceCache.open`.
    """
    try:
        existing = _nearest(Path(folder) if folder else users_caches())
        with (
            tempfile.TemporaryDirectory(dir=existing, prefix=TRIED) as tried,
            FileLock(Path(tried) / ".lock"),
        ):
            return size <= free_bytes(existing) // 2
    except (OSError, StorageError):
        return False


def _nearest(path: Path) -> Path:
    """A folder, or of those above it the first that is there, as far as this user can see."""
    return next(place for place in (path, *path.absolute().parents) if os.path.exists(place))


def require_free(size: int, folder: Path) -> int:
    """Refuse what the disk has no room for.

    Args:
        size: bytes that a cache needs there.
        folder: the cache's.

    Returns:
        Bytes that are free.

    Raises:
        StorageError: if there are fewer than it needs.
    """
    free = free_bytes(folder)
    if size > free:
        raise StorageError(
            f"the reference cache needs {printable_size(size)} in {folder}, {printable_size(free)} free.",
            hint=_OTHER_PLACE,
        )
    return free
