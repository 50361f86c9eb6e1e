"""The run folder: names of its files, and the promise that nothing is ever overwritten by accident."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from filelock import Timeout

from selfaug.core.printable import printable
from selfaug.errors import PathError, StorageError
from selfaug.file_lock import FileLock, NoLocksError
from selfaug.records import writing_into
from selfaug.replaced import HIDDEN, Replaced, delete

__all__ = [
    "CHECKPOINT_STATE",
    "RunDir",
    "alone_in",
    "entries_of",
    "holder_of",
    "is_held",
    "latest_complete_checkpoint",
    "require_no_foreign",
    "without_lock",
]

# First line of a run's config.yaml. Only a folder that has it is ever deleted.
_MARKER = "# A selfaug run."

CHECKPOINT_STATE = "selfaug_state.json"
"""Written last into a checkpoint: where it is, the checkpoint is complete."""


# In a folder that a process has for itself, with its PID; it goes with the lock.
_LOCK = ".lock"
# The PID is after the file's first byte: on Windows, nobody reads or writes that one while it is locked.
_PID_AT = 1

# Another process that only looks whether the folder is held is done by then.
_SECONDS_TO_WAIT = 1.0

# What a Mac leaves in folders that are looked at or copied: nobody's, and nothing to refuse a folder for.
_OF_MACOS = (".DS_Store", "._")

_ANOTHER_FOLDER = "choose another folder with --output, or change its permissions."


@contextlib.contextmanager
def alone_in(folder: Path, doing: str, *, hint: str) -> Iterator[None]:
    """Have a folder for this process alone until the block ends; the system takes it back from one that is killed.

    A folder that can't be written is not held: whoever writes into it next says why that can't be. Nor is one on a file
    system without locks, where one who trains alone loses nothing by that.

    Args:
        folder: made if it isn't there, and gone again at the end if nothing has come into it.
        doing: what another process does there, such as "is being trained".
        hint: what to do then.

    Raises:
        StorageError: if another process has it.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = FileLock(folder / _LOCK)
    held = without_locks = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holder = _told_in(folder)
        lock.acquire(timeout=_SECONDS_TO_WAIT)
        held = True
        with (folder / _LOCK).open("r+b", buffering=0) as file:
            file.seek(_PID_AT)
            file.write(f"{os.getpid()}\n".encode())
    except Timeout as error:
        raise StorageError(f"{folder} {doing} by {holder}.", hint=hint) from error
    except NoLocksError:
        without_locks = True
    except OSError:
        pass
    try:
        yield
    finally:
        if held or without_locks:
            with contextlib.suppress(OSError):
                os.unlink(folder / _LOCK)
        if held:
            lock.release()
        with contextlib.suppress(OSError):  # the first that holds something
            for place in made:
                place.rmdir()


def holder_of(folder: Path) -> str | None:
    """Who has the folder by `alone_in`, in words; None if nobody has, or if that can't be seen."""
    holder = _told_in(folder)
    return holder if is_held(folder) else None


def is_held(folder: Path) -> bool | None:
    """Whether anybody has the folder by `alone_in`; None if that can't be seen: another user's lock, or no locks."""
    if not (folder / _LOCK).exists():
        return False
    try:
        with FileLock(folder / _LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NoLocksError):
        return None


def without_lock(folder: Path) -> list[Path]:
    """What is in a folder, but for the lock of `alone_in`."""
    return [entry for entry in folder.iterdir() if entry.name != _LOCK]


def entries_of(folder: Path, names: Collection[str]) -> list[Path]:
    """What is in a folder of these names, with what a crash leaves behind: ".record.json.x7f2", "adapter.partial"."""
    return [
        entry
        for entry in folder.iterdir()
        if entry.name in names
        or entry.name.removesuffix(".partial") in names
        or any(entry.name.startswith(f".{name}.") for name in names)
    ]


def require_no_foreign(folder: Path, names: Collection[str], holds: str, *, hint: str) -> None:
    """Refuse to replace what selfaug did not write.

    Args:
        folder: that is to be replaced.
        names: of all that may be in there.
        holds: what it holds, such as "a run".
        hint: what to do with the rest.

    Raises:
        StorageError: if there is anything else.
    """
    ours = {entry.name for entry in entries_of(folder, names)}
    foreign = sorted(
        entry.name
        for entry in without_lock(folder)
        if entry.name not in ours and not entry.name.startswith((HIDDEN, *_OF_MACOS))
    )
    if foreign:
        raise StorageError(
            f"{folder} holds {holds}, and files that selfaug did not write: {', '.join(foreign[:5])}.",
            hint=hint,
        )


def _told_in(folder: Path) -> str:
    """Read before the lock is tried: some versions of it empty the file."""
    with contextlib.suppress(OSError), (folder / _LOCK).open("rb", buffering=0) as file:
        file.seek(_PID_AT)
        found = re.match(rb"\d+", file.read(20))
        if found:
            return f"another process (PID {found[0].decode()})"
    return "another process"


def latest_complete_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint with the most steps in a folder of checkpoints that was written to its end, or None."""
    steps: dict[int, Path] = {}
    for state in Path(folder).glob(f"checkpoint-*/{CHECKPOINT_STATE}"):
        match = re.fullmatch(r"checkpoint-(\d+)", state.parent.name)
        if match:
            steps[int(match[1])] = state.parent
    return steps[max(steps)] if steps else None


class RunDir:
    """Names of the files of one run. Makes nothing by itself; see `create`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.started = self.path / "started.json"
        self.learnt = self.path / "learnt.json"
        self.plan = self.path / "plan.json"
        self.record = self.path / "record.json"
        self.metrics = self.path / "metrics.jsonl"
        self.adapter = self.path / "adapter"
        self.model = self.path / "model"
        self.checkpoints = self.path / "checkpoints"
        self.evaluation = self.path / "evaluation.json"
        self.anchors = self.path / "anchors.jsonl"
        self.general_answers = self.path / "general_answers.jsonl"
        self.canary = self.path / "canary.json"
        self.realignment = self.path / "realignment.json"
        self.serving = self.path / "serving"
        self.samples = self.path / "samples"
        self.report = self.path / "report.html"
        self.monitor = self.path / "monitor"
        self.replaced = Replaced(
            self.path, "run", entries=self._entries, is_usable=self.is_usable, has_begun=self.is_usable
        )

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, overwrite: bool = False) -> RunDir:
        """Make the folder of a new run.

        Args:
            path: the folder; may exist if it is empty.
            overwrite: move the selfaug run that is there aside; `replaced.settle` deletes it, or brings it back.
                Anything else is never touched.

        Raises:
            StorageError: if something is there already, or the folder can't be written.
        """
        run = cls.require_free(path, overwrite=overwrite)
        if run.path.is_dir() and run.replaced.entries():
            run.replaced.move()
        with writing_into(run.path, hint=_ANOTHER_FOLDER):
            run.path.mkdir(parents=True, exist_ok=True)
            probe = run.path / f".{os.getpid()}.writable"
            probe.touch()
            probe.unlink()
        return run

    @classmethod
    def require_free(cls, path: str | os.PathLike[str], *, overwrite: bool = False) -> RunDir:
        """Check that `create` would succeed, and leave everything as it is: for before the long work.

        Raises:
            StorageError: if something is there already that `overwrite` doesn't cover, or it can't be written.
        """
        run = cls(path)
        run.replaced.recover()
        if run.path.is_dir() and without_lock(run.path):
            run._require_replaceable(overwrite)
        run.require_writable()
        return run

    def require_writable(self) -> None:
        """Check that the folder can be made and written into, whatever is in there; nothing stays of the check.

        Raises:
            PathError: if a file is in the way.
            StorageError: if it can't be written.
        """
        existing = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        if not existing.is_dir():
            raise PathError(f"{existing} is a file, not a folder.", hint="choose another output folder.")
        with writing_into(existing, hint=_ANOTHER_FOLDER):
            if not os.access(existing, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            # What may be written need not take anything: root may write everywhere, into /proc too.
            with tempfile.TemporaryDirectory(dir=existing, prefix=f".{os.getpid()}.writable"):
                pass

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDir:
        """A run that exists.

        Raises:
            PathError: if there is none.
        """
        run = cls(path)
        run.replaced.recover()
        if not run.is_run():
            raise PathError(
                f"{run.path} is not a selfaug run: {run._why_no_run()}",
                hint="give the folder that `selfaug train` wrote (its --output).",
            )
        return run

    def _why_no_run(self) -> str:
        if self.path.is_dir():
            return "it has no config.yaml of one."
        return "it is a file, not a folder." if self.path.is_file() else "there is no such folder."

    def is_run(self) -> bool:
        """Whether the folder holds a selfaug run, complete or not."""
        try:
            with self.config.open(encoding="utf-8") as file:
                return file.readline().startswith(_MARKER)
        except (OSError, UnicodeDecodeError):
            return False

    def training(self) -> contextlib.AbstractContextManager[None]:
        """Of one process at a time: two would write over each other's steps and checkpoints.

        Raises:
            StorageError: if another process trains the run.
        """
        return alone_in(
            self.path,
            "is being trained",
            hint="wait for it; or stop it (Ctrl-C, or `kill` with its PID: it saves a checkpoint), and then go on: "
            f"{self.resume_command}; or choose another --output.",
        )

    def trainer(self) -> str | None:
        """Which process trains the run now, in words; None if none does."""
        return holder_of(self.path)

    def is_complete(self) -> bool:
        """Whether training has finished: the record is written last."""
        return self.record.is_file()

    def config_text(self, settings: str) -> str:
        """Text for config.yaml: the settings under the line that marks the folder as a run."""
        # A folder's name may hold anything, a comment only what stands in one line.
        command = printable(self.resume_command).replace("\n", "\\n")
        return f"{_MARKER} To go on with it: {command}\n{settings}"

    @property
    def resume_command(self) -> str:
        """What goes on with the run; for a shell, whatever is in the folder's name."""
        return f"selfaug train --resume --output {shlex.quote(str(self.path))}"

    def has_begun(self) -> bool:
        """Whether there is something to go on from, or to look at: a step that was logged, or a checkpoint."""
        return self.metrics.exists() or self.latest_complete_checkpoint() is not None

    def latest_complete_checkpoint(self) -> Path | None:
        """The last checkpoint that was written to its end, or None."""
        return latest_complete_checkpoint(self.checkpoints)

    def is_usable(self) -> bool:
        """Whether it has weights that can be loaded: those of its end, or a checkpoint's."""
        return self.is_complete() or self.latest_complete_checkpoint() is not None

    def is_worth_keeping(self) -> bool:
        """Whether a run that ends with an error should stay: a run that it would replace has to be outdone."""
        return self.is_usable() if self.replaced.exists() else self.has_begun()

    def discard(self) -> None:
        """Delete a run that came to nothing, its folder included; a run that it would have replaced comes back."""
        if self.replaced.settle():
            return
        if without_lock(self.path):
            self._require_replaceable(True)
        self._clear()
        with contextlib.suppress(OSError):  # a folder that something is mounted on stays
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    def discard_unstarted(self) -> None:
        """Delete a run whose process was killed while it made the folder: there is nothing to go on with."""
        if self.is_run() and not self.started.exists():
            self.discard()

    def _require_replaceable(self, overwrite: bool) -> None:
        """Refuse if replacing was not asked for, or if the folder holds anything but a run."""
        if not self.is_run():
            raise StorageError(
                f"{self.path} is not empty and not a selfaug run.",
                hint="choose another output folder; --overwrite only replaces a selfaug run.",
            )
        if not overwrite:
            raise StorageError(
                f"{self.path} already holds a run{'' if self.is_complete() else ' that did not finish'}.",
                hint="--overwrite replaces it"
                + ("" if self.is_complete() else ", --resume goes on with it")
                + ", or choose another --output.",
            )
        require_no_foreign(
            self.path,
            self._names(),
            "a run",
            hint="move them away first: --overwrite never deletes what is not part of a run.",
        )

    def _names(self) -> set[str]:
        """Of all that is part of a run."""
        return {path.name for path in vars(self).values() if isinstance(path, Path) and path != self.path}

    def _entries(self) -> list[Path]:
        """What is there of the run."""
        return entries_of(self.path, self._names())

    def _clear(self) -> None:
        """Delete what `_require_replaceable` has let pass."""
        try:
            # config.yaml goes last: if this is cut off, what is left is still known as a run.
            for entry in sorted(self._entries(), key=lambda entry: entry == self.config):
                delete(entry)
        except OSError as error:
            raise StorageError(
                f"can't clear {self.path}: {error.strerror or error}",
                hint="delete what is left of it by hand.",
            ) from error
