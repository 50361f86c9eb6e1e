"""A folder of documents, read in processes of their own; a bad file is a line of the report, and the rest goes on."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from selfaug.errors import DataError
from selfaug.retrieval.document import Document, UnreadableDocument
from selfaug.retrieval.folder_files import folder_files
from selfaug.retrieval.read_document import ENDINGS, MAX_BYTES, read_document, too_large
from selfaug.retrieval.reading_processes import Reader, ReadingProcesses

__all__ = ["MEMORY_BYTES", "FolderReport", "KnownUnreadable", "Read", "digest_of", "read_folder"]

MEMORY_BYTES = 750_000_000
"""Of a reading process, unless the caller says otherwise.

Two of them, and the process that indexes some ten thousand pages, stay within 2 GB together.

The largest documents that are read (50 million characters, tables of 2 million cells) take some 0.3 GB.
"""

_AHEAD = 16
"""Files a process that may be finished before an earlier one is: more would only fill memory."""

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Read:
    """A document of the folder.

    Attributes:
        path: relative to the folder, with forward slashes.
        digest: SHA-256 of the file, in hexadecimal.
        document: None if the file is unchanged and was not read again.
        size: of the file before it was read, in bytes.
        modified: when it was last changed before it was read, in nanoseconds since 1970.
    """

    path: str
    digest: str
    document: Document | None
    size: int
    modified: int


class KnownUnreadable(NamedTuple):
    """What is known of a file that could not be read.

    Attributes:
        digest: SHA-256 of the file, in hexadecimal.
        reason: in one line.
    """

    digest: str
    reason: str


@dataclass
class FolderReport:
    """What became of the files of a folder; complete when all of them have been read.

    Attributes:
        read: number of files read.
        unchanged: number of files not read again.
        unreadable: reasons by path.
        incomplete: what is missing of documents that were read, by path.
        unsupported: paths by ending, of files that no reader is for.
        left_out: reasons by path, of links that leave the folder, folders that can't be opened, and own files.
        gone: paths that were listed, and are there no more.
        lost: those of them whose file is under no other path either.
    """

    read: int = 0
    unchanged: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, str] = field(default_factory=dict)
    unsupported: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; of unsupported files their number, and the first of them."""
        return {
            "read": self.read,
            "unchanged": self.unchanged,
            "unreadable": dict(sorted(self.unreadable.items())),
            "incomplete": dict(sorted(self.incomplete.items())),
            "unsupported": {
                ending: {"files": len(paths), "first": sorted(paths)[:_NAMED]}
                for ending, paths in sorted(self.unsupported.items())
            },
            "left_out": dict(sorted(self.left_out.items())),
            "gone": sorted(self.gone),
            "lost": sorted(self.lost),
        }


def read_folder(
    folder: Path,
    known: Mapping[str, str],
    report: FolderReport,
    *,
    processes: int = 2,
    seconds_per_file: float = 120.0,
    memory_bytes: int = MEMORY_BYTES,
    max_bytes: int = MAX_BYTES,
    encoding: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    reader: Reader | None = None,
    own: Collection[Path] = (),
    listed: Mapping[str, str] | None = None,
    unreadable: Mapping[str, KnownUnreadable] | None = None,
    on_unreadable: Callable[[str, KnownUnreadable], None] = lambda path, why: None,
) -> Iterator[Read]:
    """Documents of a folder and its subfolders, in the order of their paths.

    Hidden files are passed over. Ending the iteration early, by Ctrl-C too, ends the processes at once.

    Args:
        folder: the folder.
        known: digests by path of files that need not be read again if they are unchanged.
        report: filled in on the way.
        processes: files read at the same time; they are started only if there is something to read.
        seconds_per_file: after this long a file is given up.
        memory_bytes: what a process may take to read a file, on top of its libraries; kept to on Linux only.
        max_bytes: a larger file is not read.
        encoding: as `read_document` takes it.
        on_progress: called with the number of files finished and of all of them.
        reader: what reads a file, instead of `read_document`; importable by another process.
        own: files and folders that are no documents, wherever they are.
        listed: digests by path of all files that were there before; default: `known`.
        unreadable: what `on_unreadable` was told before with the same limits: unchanged ones are not read again.
        on_unreadable: called, in any order, with the path of each file that can't be read for a reason that will last
            as long as the file and the limits stay the same.

    Raises:
        DataError: if there is no such folder.
        SelfAugError: if processes can't be started.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}.", hint="check the path.")
    files = _supported(folder_files(folder, report.left_out.__setitem__, own), report)
    listed = known if listed is None else listed
    report.gone += sorted(listed.keys() - files.keys())
    found: set[str] = set()
    reading = _Reading(files, known, unreadable or {}, on_unreadable, max_bytes)
    on_progress(0, len(files))
    with ReadingProcesses(
        reader or partial(read_document, max_bytes=max_bytes, encoding=encoding),
        processes,
        seconds_per_file,
        memory_bytes,
    ) as pool:
        for done, (path, outcome) in enumerate(reading.in_order(pool, _AHEAD * processes), start=1):
            on_progress(done, len(files))
            if isinstance(outcome, Read):
                report.read += outcome.document is not None
                report.unchanged += outcome.document is None
                if outcome.document is not None and outcome.document.missing:
                    report.incomplete[path] = outcome.document.missing
                found.add(outcome.digest)
                yield outcome
            else:
                report.unreadable[path] = outcome
    report.lost += [path for path in report.gone if listed[path] not in found]


def _supported(files: Mapping[str, Path], report: FolderReport) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, file in files.items():
        ending = PurePosixPath(name).suffix.lower()
        if ending in ENDINGS:
            found[name] = file
        else:
            report.unsupported.setdefault(ending or "no ending", []).append(name)
    return found


class _Reading:
    """What is to be read, what is being read, and what is finished but not yet its turn."""

    def __init__(
        self,
        files: Mapping[str, Path],
        known: Mapping[str, str],
        unreadable: Mapping[str, KnownUnreadable],
        on_unreadable: Callable[[str, KnownUnreadable], None],
        max_bytes: int,
    ) -> None:
        self._files = files
        self._left = iter(files.items())
        self._known = known
        self._unreadable = unreadable
        self._on_unreadable = on_unreadable
        self._max_bytes = max_bytes
        self._order: deque[str] = deque()
        self._outcomes: dict[str, Read | str] = {}
        self._found: dict[str, os.stat_result] = {}

    def in_order(self, pool: ReadingProcesses, ahead: int) -> Iterator[tuple[str, Read | str]]:
        """Paths, and what was read or why nothing was."""
        while True:
            # First what is finished: where all that is ahead is, nothing is being read, and there may be more files.
            yield from self._finished()
            while pool.has_room and len(self._order) < ahead and self._take_next(pool):
                yield from self._finished()
            if not pool.is_busy:
                return
            for name, outcome in pool.finished():
                if isinstance(outcome, Document):
                    self._outcomes[name] = self._read(name, outcome.digest, outcome)
                else:
                    self._outcomes[name] = outcome.reason
                    if not outcome.may_pass:
                        self._tell_unreadable(name, outcome.reason)

    def _finished(self) -> Iterator[tuple[str, Read | str]]:
        while self._order and self._order[0] in self._outcomes:
            name = self._order.popleft()
            yield name, self._outcomes.pop(name)

    def _read(self, name: str, digest: str, document: Document | None) -> Read:
        found = self._found.pop(name)
        return Read(name, digest, document, found.st_size, found.st_mtime_ns)

    def _tell_unreadable(self, name: str, reason: str) -> None:
        """Unless the file was changed, or went, while it was read: then the reason may be one of before."""
        file, before = self._files[name], self._found.pop(name)
        with suppress(UnreadableDocument):
            digest = digest_of(file, self._max_bytes)
            now = _stat(file)
            if (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
                self._on_unreadable(name, KnownUnreadable(digest, reason))

    def _take_next(self, pool: ReadingProcesses) -> bool:
        """Take up the next file; False if there is none."""
        name, file = next(self._left, ("", None))
        if file is None:
            return False
        self._order.append(name)
        try:
            # Before the file is read: one that is changed meanwhile is not taken for what was read.
            self._found[name] = _stat(file)
            was_there = name in self._known or name in self._unreadable
            digest = digest_of(file, self._max_bytes) if was_there else None
        except UnreadableDocument as error:
            self._outcomes[name] = str(error)
            return True
        if digest is not None and digest == self._known.get(name):
            self._outcomes[name] = self._read(name, digest, None)
        elif (before := self._unreadable.get(name)) is not None and digest == before.digest:
            self._outcomes[name] = before.reason
            self._on_unreadable(name, before)
        else:
            pool.read(file, name)
        return True


def digest_of(file: Path, max_bytes: int = MAX_BYTES) -> str:
    """SHA-256 of a file, in hexadecimal.

    Args:
        file: any file.
        max_bytes: a larger one is not read.

    Raises:
        UnreadableDocument: if it can't be read, or is too large.
    """
    size = _stat(file).st_size
    if size > max_bytes:
        raise UnreadableDocument(too_large(size, max_bytes))
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise _not_opened(error) from error


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise _not_opened(error) from error


def _not_opened(error: OSError) -> UnreadableDocument:
    return UnreadableDocument(f"can't be opened: {(error.strerror or str(error)).lower()}", may_pass=True)
