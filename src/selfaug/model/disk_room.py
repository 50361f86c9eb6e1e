"""Room on the disk for a reference cache: how much there is, and how a file takes it before anything is computed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import tempfile
from pathlib import Path

from selfaug.core.printable import printable_size
from selfaug.errors import StorageError
from selfaug.file_lock import FileLock
from selfaug.records import is_failed_write
from selfaug.user_cache import cache_dir

__all__ = [
    "TRIED",
    "bytes_on_disk",
    "free_bytes",
    "has_room",
    "require_free",
    "reserve",
    "take_space",
    "users_caches",
]

TRIED = ".writable."
"""How the name of a folder begins that `has_room` makes for a moment, to try whether it can."""

_OTHER_PLACE = (
    "give a folder on a larger disk as reference_cache_dir, or use another reference: 'adapter_off' with an adapter, "
    "'frozen_copy' without."
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


def reserve(path: Path, size: int) -> None:
    """Take the space of a file now, so that a full disk is an error here and not a crash in the middle.

    Args:
        path: in a cache's folder; one of this size that is there stays as it is, another is made anew, of zeros.
        size: bytes.

    Raises:
        StorageError: if the disk has no room for it, or a quota doesn't allow it.
        OSError: if it can't be written for another reason.
    """
    is_there = path.exists() and path.stat().st_size == size
    # Of one that is there, too, where no space could be reserved.
    free = require_free(size - bytes_on_disk(path) if is_there else size, path.parent)
    if is_there:
        return
    try:
        with open(path, "wb") as file:
            if not (size and take_space(file.fileno(), size)):
                file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if not is_failed_write(error):
            raise
        raise StorageError(
            f"the reference cache needs {printable_size(size)} in {path.parent}, and can't have it: the disk is full "
            f"or a quota is reached ({printable_size(free)} free).",
            hint=_OTHER_PLACE,
        ) from error


def take_space(file: int, size: int) -> bool:
    """Give an open file so many bytes of the disk.

    On Linux by the system's own call: where a file system has none, `os.posix_fallocate` writes into every block, which
    takes hours over a network.

    Args:
        file: its descriptor.
        size: bytes, more than 0.

    Returns:
        False where the system or the file system can't (NFS before 4.2); the file is as it was then.

    Raises:
        OSError: if it can't have them.
    """
    if sys.platform != "linux":
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
            return True
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    # glibc's other one has 32 bits for the size on some machines; musl has the other one alone.
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while fallocate(file, 0, 0, size):
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def bytes_on_disk(path: Path) -> int:
    """Bytes that a file has of the disk; it may have been made longer than the disk has given it room for."""
    found = path.stat()
    return min(found.st_size, 512 * getattr(found, "st_blocks", found.st_size))
