"""What is in a directory of runs: which folders, of what kind, how far they are, and what is said of them first."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfaug.errors import SelfAugError, StorageError
from selfaug.records import read_record
from selfaug.report.document import Summary
from selfaug.report.open_report import KINDS, kind_of, summary_of
from selfaug.report.run_report import steps_done
from selfaug.rundir import RunDir

__all__ = ["Entry", "Library", "Progress", "progress_of"]

# Below this many folders nothing is looked for.
_DEEPEST = 6
_SECONDS_BETWEEN_SCANS = 1.0

# Parts of a run: there is no other run in them.
_PARTS = frozenset(
    {
        "adapter",
        "model",
        "checkpoints",
        "samples",
        "monitor",
        "serving",
        "answers",
        "drift",
        "locks",
        "trials",
        "index",
    }
)

# A run whose process can't be seen from here is taken to go on for this long after its last step.
_STILL_GOING = 120.0


@dataclass(frozen=True)
class Progress:
    """Of a run that is not finished.

    Attributes:
        step: the last that was logged.
        steps: that are planned; None where that is not known.
        running: whether it goes on at this moment, as far as that can be seen.
        seconds_left: at the pace so far; None where that is not known.
    """

    step: int
    steps: int | None
    running: bool
    seconds_left: float | None


@dataclass(frozen=True)
class Entry:
    """A folder that a command wrote.

    Attributes:
        path: below the directory, with slashes; empty for the directory itself.
        folder: where it is.
        kind: of its record.
        inside: path of the comparison, balance, assessment or demo that it is a part of; None for what stands alone.
        time: when its record was written, or its last step; seconds since 1970.
        complete: whether it has a record.
        summary: None where it can't be read.
        problem: why, or empty.
    """

    path: str
    folder: Path
    kind: str
    inside: str | None
    time: float
    complete: bool
    summary: Summary | None
    problem: str

    @property
    def is_watched(self) -> bool:
        """Whether a server has watched it."""
        return (self.folder / "monitor" / "monitor.sqlite").is_file()

    @property
    def is_evaluated(self) -> bool:
        """Whether it has an evaluation."""
        return (self.folder / "evaluation.json").is_file()


_Signature = tuple[tuple[int, int] | None, ...]


class Library:
    """Entries of a directory. What was read is kept as long as its files stay as they are.

    Args:
        root: the directory.

    Raises:
        StorageError: if it is no directory.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise StorageError(
                f"{self.root} is not a folder.", hint="give the folder that your runs are in, such as runs."
            )
        self._lock = threading.Lock()
        self._known: dict[str, tuple[_Signature, Entry]] = {}
        self._entries: list[Entry] = []
        self._scanned = float("-inf")

    def entries(self) -> list[Entry]:
        """All of them, the newest first."""
        with self._lock:
            if time.monotonic() > self._scanned + _SECONDS_BETWEEN_SCANS:
                found: list[Entry] = []
                self._scan(self.root, "", None, 0, found)
                self._known = {entry.path: self._known[entry.path] for entry in found}
                self._entries = sorted(found, key=lambda entry: -entry.time)
                self._scanned = time.monotonic()
            return self._entries

    def entry(self, path: str) -> Entry | None:
        """The one of that path: only what a scan has found is ever read."""
        return next((entry for entry in self.entries() if entry.path == path), None)

    def _scan(self, folder: Path, path: str, inside: str | None, depth: int, found: list[Entry]) -> None:
        try:
            children = sorted(os.scandir(folder), key=lambda child: child.name)
        except OSError:
            return
        names = {child.name for child in children}
        if "record.json" in names or "config.yaml" in names:
            entry = self._read(folder, path, inside)
            if entry is not None:
                found.append(entry)
                inside = path if entry.kind != "train" else inside
                if entry.kind == "train":
                    return
        if depth >= _DEEPEST:
            return
        for child in children:
            if child.name in _PARTS or child.name.startswith(".") or not child.is_dir(follow_symlinks=False):
                continue
            self._scan(Path(child.path), f"{path}/{child.name}".lstrip("/"), inside, depth + 1, found)

    def _read(self, folder: Path, path: str, inside: str | None) -> Entry | None:
        signature = _signature(folder)
        known = self._known.get(path)
        if known is not None and known[0] == signature:
            return known[1]
        kind = kind_of(folder)
        if kind not in KINDS:
            return None
        summary, problem = None, ""
        try:
            summary = summary_of(folder)
        except SelfAugError as error:
            problem = str(error)
        except (OSError, ValueError) as error:
            problem = f"can't be read: {error}"
        complete = signature[0] is not None
        newest = max((one[0] for one in signature if one is not None), default=0) / 1e9
        entry = Entry(path, folder, kind, inside, newest, complete, summary, problem)
        self._known[path] = signature, entry
        return entry


def _signature(folder: Path) -> _Signature:
    """Changes with what an entry is made of: the record first."""
    return tuple(
        _stamp(folder / name)
        for name in ("record.json", "evaluation.json", "realignment.json", "metrics.jsonl", "config.yaml")
    )


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def progress_of(entry: Entry, now: float | None = None) -> Progress | None:
    """How far a run is; None for one that is finished, and for what is not a run.

    Args:
        entry: the run.
        now: seconds since 1970; None for the clock's.
    """
    if entry.complete or entry.kind != "train":
        return None
    run = RunDir(entry.folder)
    step, now = steps_done(run), time.time() if now is None else now
    try:
        plan: dict[str, Any] = read_record(run.plan, "plan")
    except SelfAugError:
        return Progress(step, None, now - entry.time < _STILL_GOING, None)
    steps, done = int(plan["steps"]), step - int(plan["from_step"])
    alive = _is_alive(plan)
    running = now - entry.time < _STILL_GOING if alive is None else alive
    # From when it began to its last step: time since then belongs to the step that is being made.
    pace = (entry.time - float(plan["began"])) / done if done > 0 else None
    left = None if pace is None or not running else max(0.0, (steps - step) * pace - (now - entry.time))
    return Progress(step, steps, running, left)


def _is_alive(plan: dict[str, Any]) -> bool | None:
    """Whether the run's process is there; None where that can't be seen."""
    if plan["machine"] != socket.gethostname() or os.name != "posix":
        return None
    try:
        os.kill(int(plan["process"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
