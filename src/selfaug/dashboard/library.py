"""What is in a directory of runs: which folders, of what kind, how far they are, and what is said of them first."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfaug.core.printable import printable
from selfaug.errors import PathError, SelfAugError
from selfaug.records import read_record
from selfaug.report.document import Summary
from selfaug.report.open_report import KINDS, kind_of, summary_of
from selfaug.report.run_report import steps_done
from selfaug.rundir import RunDir, is_held

__all__ = ["DAMAGED", "Entry", "Library", "Progress", "outer_command", "progress_of"]

DAMAGED = "damaged"
"""Kind of a record that can't be read so far that it says what it is of."""

# Below this many folders nothing is looked for.
_DEEPEST = 6
_SECONDS_BETWEEN_SCANS = 1.0

# Looking takes no more than this share of the time: a directory may hold much else.
_SHARE_OF_SCANS = 0.2

# Parts of what a command wrote: there is no run in them.
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

# Of what is written into a folder at its beginning, and the command that goes on with it.
_COMMANDS = {"comparison": "compare", "balance": "balance", "assessment": "assess", "demo": "demo"}

# A run that nobody holds is taken to go on for this long after its last step: another machine's locks may not be seen
# here. With a lock that can't be tried, it may well be held: then for longer, as a step or an evaluation can take.
_STILL_GOING = 120.0
_MAYBE_GOING = 3600.0

# Who looks whether a run is held holds it for a moment: two at once would take each other for its training.
_LOOKING = threading.Lock()

# What a file leads to that is not as its name says.
_ODD = (
    SelfAugError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
)


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
        path: below the directory, with slashes; empty for the directory itself. What can't be shown is escaped in it.
        folder: where it is.
        kind: of its record; `DAMAGED` where it doesn't say.
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
        # Not Path's, which fails below a folder that can't be entered.
        return os.path.isfile(self.folder / "monitor" / "monitor.sqlite")

    @property
    def is_evaluated(self) -> bool:
        """Whether it has an evaluation."""
        return os.path.isfile(self.folder / "evaluation.json")


_Signature = tuple[tuple[int, int] | None, ...]
_Known = dict[str, tuple[tuple[_Signature, str | None], Entry | None]]


class Library:
    """Entries of a directory. What was read is kept as long as its files stay as they are.

    Args:
        root: the directory.

    Raises:
        PathError: if it is no directory.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise PathError(
                f"{self.root} is not a folder.", hint="give the folder that your runs are in, such as runs."
            )
        self._lock = threading.Lock()
        self._known: _Known = {}
        self._seen: _Known = {}
        self._entries: list[Entry] = []
        self._next_scan = float("-inf")

    def entries(self) -> list[Entry]:
        """All of them, the newest first."""
        with self._lock:
            began = time.monotonic()
            if began > self._next_scan:
                found: list[Entry] = []
                self._seen = {}
                self._scan(self.root, "", None, 0, found)
                self._known = self._seen
                self._entries = sorted(found, key=lambda entry: -entry.time)
                ended = time.monotonic()
                self._next_scan = ended + max(_SECONDS_BETWEEN_SCANS, (ended - began) / _SHARE_OF_SCANS)
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
        parts: frozenset[str] = frozenset()
        if "record.json" in names or "config.yaml" in names:
            entry = self._read(folder, path, inside)
            if entry is not None:
                found.append(entry)
                if entry.kind == "train":
                    return
                inside, parts = path, _PARTS
        if depth >= _DEEPEST:
            return
        for child in children:
            if child.name not in parts and not child.name.startswith(".") and _is_folder(child):
                below = f"{path}/{_shown(child.name)}".lstrip("/")
                self._scan(Path(child.path), below, inside, depth + 1, found)

    def _read(self, folder: Path, path: str, inside: str | None) -> Entry | None:
        signature = _signature(folder)
        if signature is None:
            return None
        known = self._known.get(path)
        # What a folder is a part of can change without it: a comparison's record is written after its runs.
        if known is None or known[0] != (signature, inside):
            known = (signature, inside), _entry(folder, path, inside, signature)
        self._seen[path] = known
        return known[1]


def _entry(folder: Path, path: str, inside: str | None, signature: _Signature) -> Entry | None:
    complete = signature[0] is not None
    kind: str | None = None
    summary, problem = None, ""
    try:
        kind = kind_of(folder)
        if kind is None and complete and RunDir(folder).is_run():
            kind = "train"
        if kind in KINDS or (kind is None and complete):
            summary = summary_of(folder)
    except SelfAugError as error:
        problem = str(error)
    except Exception as error:  # whatever is in one folder, the others are shown
        problem = f"can't be read: {type(error).__name__}: {error}"
    if kind is None and complete:
        kind = DAMAGED
    if kind is None or kind not in (*KINDS, DAMAGED):
        return None
    newest = max((one[0] for one in signature if one is not None), default=0) / 1e9
    return Entry(path, folder, kind, inside, newest, complete, summary, problem)


def _is_folder(child: os.DirEntry[str]) -> bool:
    """Whether it is one itself: a link could lead anywhere, and round in a circle."""
    try:
        return child.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _shown(name: str) -> str:
    """A folder's name in a page and in an address, where not every character can stand that a file system takes."""
    return printable(name).replace("\n", "\\n").replace("\t", "\\t")


def _signature(folder: Path) -> _Signature | None:
    """Changes with what an entry is made of: the record first. None where one of these names is not of a file: to read
    a pipe would be to wait for whoever writes into it."""
    stamps: list[tuple[int, int] | None] = []
    for name in (
        "record.json", "evaluation.json", "realignment.json", "metrics.jsonl", "config.yaml", "plan.json",
    ):  # fmt: skip
        try:
            found = (folder / name).stat()
        except OSError:
            stamps.append(None)
            continue
        if not stat.S_ISREG(found.st_mode):
            return None
        stamps.append((found.st_mtime_ns, found.st_size))
    return tuple(stamps)


def progress_of(entry: Entry, now: float | None = None) -> Progress | None:
    """How far a run is; None for one that is finished, and for what is not a run.

    Args:
        entry: the run.
        now: seconds since 1970; None for the clock's.
    """
    if entry.complete or entry.kind != "train":
        return None
    run = RunDir(entry.folder)
    now = time.time() if now is None else now
    since = now - entry.time
    recent = since < _STILL_GOING
    running = recent or _is_held(run, since)
    step = 0
    try:
        step = steps_done(run)
        plan: dict[str, Any] = read_record(run.plan, "plan")
        steps, done, began = int(plan["steps"]), step - int(plan["from_step"]), float(plan["began"])
    except _ODD:
        return Progress(step, None, running, None)
    # From when it began to its last step: time since then belongs to the step that is being made.
    spent = entry.time - began
    pace = spent / done if done > 0 and spent > 0 else None
    left = None if pace is None or not running else (steps - step) * pace - since
    if left is not None and left < 0:
        # At its end, or a step takes much longer than those before.
        left = 0.0 if recent else None
    return Progress(step, steps, running, left)


def outer_command(entry: Entry) -> str | None:
    """The command that trains a run as a part of its work, such as "compare"; None for one that stands alone."""
    above = entry.folder.parents[: len(Path(entry.path).parts)]
    for folder in above:
        for what, command in _COMMANDS.items():
            with contextlib.suppress(*_ODD):
                read_record(folder / f"{what}.json", f"{what}-started")
                return command
    return None


def _is_held(run: RunDir, since: float) -> bool:
    """Whether a process has the run for itself to train it: rows, texts and anchors take long before the first step.

    Args:
        run: the run.
        since: seconds since it was heard of; by them, where its lock can't be tried.
    """
    with _LOOKING:
        held = is_held(run.path)
    return since < _MAYBE_GOING if held is None else held
