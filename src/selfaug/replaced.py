"""What --overwrite replaces: moved aside, and deleted only when there is something usable in its place."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import Timeout

from selfaug.errors import StorageError
from selfaug.file_lock import FileLock, NoLocksError

__all__ = ["HIDDEN", "Replaced", "delete"]

logger = logging.getLogger(__name__)

HIDDEN = ".replaced"
"""Where it is, inside of its own folder: on the same disk, also where that folder is a mount point or a link."""

# Another process that settles the same folder is done by then; one that is replacing it is not.
_SECONDS_TO_WAIT = 1.0


class Replaced:
    """Entries of a folder that make room for new ones of the same names.

    They come back if nothing came of the new ones, and are deleted when these are usable; between, both are kept. The
    process that moved them decides when it ends (`settle`). If it was killed, whoever opens the folder next does
    (`recover`): a lock, which ends with the process, tells whether it still lives.

    Args:
        folder: where it is hidden.
        what: the entries, as a word ("run").
        entries: finds those that are there now, old or new.
        is_usable: whether what is there now takes the place of what was replaced.
        has_begun: whether what is there now is worth going on with.
        homes: where entries of these names belong, if not directly in the folder.
    """

    def __init__(
        self,
        folder: Path,
        what: str,
        *,
        entries: Callable[[], Sequence[Path]],
        is_usable: Callable[[], bool],
        has_begun: Callable[[], bool],
        homes: Mapping[str, Path] | None = None,
    ) -> None:
        self.folder, self.path = folder, folder / HIDDEN
        self._what, self._homes = what, dict(homes or {})
        self.entries, self._is_usable, self._has_begun = entries, is_usable, has_begun
        # While entries are moved it has this name: then there is nothing new, and all that is in it belongs back.
        self._moving = folder / f"{HIDDEN}.moving"
        self._lock_file = folder / f"{HIDDEN}.lock"
        self._lock: FileLock | None = None

    def exists(self) -> bool:
        """Whether something has been moved aside and neither deleted nor brought back."""
        return self.path.exists() or self._moving.exists()

    def size(self) -> int:
        """Bytes that deleting it will free."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def move(self) -> None:
        """Move the entries aside. Where older ones are aside already, these stay, and the entries are deleted.

        Raises:
            StorageError: if that can't be done, or another process is replacing them; all is as it was then.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._take():
            raise StorageError(
                f"another process is replacing the {self._what} in {self.folder}.",
                hint="wait for it, stop it, or choose another --output.",
            )
        try:
            if self.path.exists():
                if self._is_usable():  # then what is aside should be gone, and what is there is what counts
                    shutil.rmtree(self.path)
                else:
                    _delete_all(self.entries())
                    return
            self._moving.mkdir(exist_ok=True)
            for entry in self.entries():
                entry.rename(self._moving / entry.name)
            self._moving.rename(self.path)
        except OSError as error:
            self._bring_back()
            self._give()
            raise StorageError(
                f"can't move the {self._what} in {self.folder} aside: {error.strerror or error}",
                hint="choose another --output, or change the folder's permissions.",
            ) from error

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Settle at the end, however it comes."""
        try:
            yield
        finally:
            self.settle()

    def settle(self) -> bool:
        """Decide what becomes of it; returns whether it came back. Nothing happens while another process has it.

        Raises:
            StorageError: if it can't be brought back; says where it is.
        """
        if self._lock is None and not (self.exists() and self._take()):
            return False
        try:
            return self._settle()
        finally:
            self._give()

    def recover(self) -> None:
        """Settle what a process that was killed has left."""
        if self._lock is None:
            self.settle()

    def _settle(self) -> bool:
        if self.path.exists() and self._is_usable():
            # What can't be deleted does no harm to the new one.
            shutil.rmtree(self.path, ignore_errors=True)
            return False
        if self.path.exists() and self._has_begun():
            logger.warning(
                "the earlier %s is kept in %s until the new one is finished.", self._what, self.path
            )
            return False
        if not self.exists():
            return False
        try:
            if self.path.exists():
                _delete_all(self.entries())
                self.path.rename(self._moving)
            self._bring_back()
        except OSError as error:
            raise StorageError(
                f"can't bring back the {self._what} that was replaced: {error.strerror or error}",
                hint=f"it is whole in {self.path if self.path.exists() else self._moving}; move it to {self.folder}.",
            ) from error
        logger.warning("the earlier %s is back in %s: nothing came of the new one.", self._what, self.folder)
        return True

    def _bring_back(self) -> None:
        if not self._moving.exists():
            return
        for entry in self._moving.iterdir():
            home = self._homes.get(entry.name, self.folder / entry.name)
            home.parent.mkdir(parents=True, exist_ok=True)
            entry.rename(home)
        self._moving.rmdir()

    def _take(self) -> bool:
        """Whether this process has it now."""
        lock = FileLock(self._lock_file)
        try:
            lock.acquire(timeout=_SECONDS_TO_WAIT)
        except Timeout:
            return False
        except NoLocksError as error:  # then nothing would tell whether who replaces it still lives
            raise StorageError(
                f"the {self._what} in {self.folder} can't be replaced: {error.message}",
                hint="choose another --output, or delete what is there yourself.",
            ) from error
        except OSError as error:  # a folder that can only be read
            raise StorageError(
                f"the {self._what} that --overwrite has replaced is in {self.path}, and {self.folder} can't be "
                f"written: {error.strerror or error}",
                hint="change the folder's permissions, and give the same command again.",
            ) from error
        self._lock = lock
        return True

    def _give(self) -> None:
        assert self._lock is not None
        with contextlib.suppress(OSError):
            os.unlink(self._lock_file)
        self._lock.release()
        self._lock = None


def delete(entry: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _delete_all(entries: Sequence[Path]) -> None:
    for entry in entries:
        delete(entry)
