"""What the command line shows: results on stdout, everything else on stderr."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from selfaug.core.printable import printable
from selfaug.launcher import is_first_process

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from selfaug.phases.progress import Progress

__all__ = [
    "RunProgress",
    "outlive_readers",
    "print_json",
    "printable",
    "say",
    "say_error",
    "take_any_character",
    "takes_unicode",
]

_PLAIN = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{DOUBLE VERTICAL LINE}": "||",
    "\N{NO-BREAK SPACE}": " ",
    "\N{HORIZONTAL ELLIPSIS}": "...",
}
"""Signs in and around numbers where an encoding doesn't have them; those of East Asia have no space of that kind."""


def takes_unicode() -> bool:
    """Whether stdout can be written every character."""
    return codecs.lookup(sys.stdout.encoding or "utf-8").name.startswith("utf")


def take_any_character() -> None:
    """Have no character fail on stdout: results would be lost, and the exit code would be another.

    Outside of Linux, and in old locales, stdout may have an encoding with few characters, above all in a pipe.
    """
    codecs.register_error("selfaug-plain", _in_plain)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="selfaug-plain")


def _in_plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = "".join(
        _PLAIN.get(one, one.encode("ascii", "backslashreplace").decode("ascii"))
        for one in error.object[error.start : error.end]
    )
    return shown, error.end


def outlive_readers() -> None:
    """Have nothing fail because nobody reads stderr any more: `2>&1 | tee log` dies of Ctrl-C before we do.

    Neither a line of progress, nor what libraries say, nor the last flush is worth a training.
    """
    if os.name != "posix" or not isinstance(sys.stderr, io.TextIOWrapper):
        return
    try:
        beneath = _Unread(sys.stderr.fileno(), "w", closefd=False)
    except OSError:  # it is kept in memory
        return
    at_once = sys.stderr.write_through  # PYTHONUNBUFFERED, as in many containers
    sys.stderr = io.TextIOWrapper(
        cast("io.BufferedWriter", beneath) if at_once else io.BufferedWriter(beneath),
        encoding=sys.stderr.encoding,
        errors=sys.stderr.errors,
        line_buffering=True,
        write_through=at_once,
    )


class _Unread(io.FileIO):
    """A stream whose reader may be gone: a pipe that is closed, a terminal that is hung up."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not takes_unicode(), default=str) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for the user, on stderr."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def say_error(text: str) -> None:
    """An error, on stderr; red on a terminal."""
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        sys.stderr.write("\x1b[1;31merror:\x1b[0m ")
    else:
        sys.stderr.write("error: ")
    say(text)


_STAGES = {"data": "reading the rows", "model": "loading the model", "saving": "evaluating and saving"}
_SECONDS_BETWEEN_LINES = 10.0

# A terminal shows no more bars than it has lines, and leaves out the newest: so only the last ones stay bars.
_MOST_BARS = 8


class RunProgress:
    """Shows a run: a bar with estimate on a terminal, else a line every ten seconds."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        # Under a launcher, one process speaks.
        self._silent = not is_first_process()

    def __enter__(self) -> RunProgress:
        if sys.stderr.isatty() and not self._silent:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),  # a suite's file may be called "faq[en]"
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Show where the run is."""
        if self._silent:
            return
        if progress.stage == "warning":
            self._line(f"note: {progress.message}")
        elif progress.message:
            self._line(progress.message)
        elif progress.stage in _STAGES:
            self._line(f"{_STAGES[progress.stage]} ...")
        elif self._bar is not None:
            task = self._tasks.get(progress.stage)
            if task is None:
                self._make_room(self._bar)
                task = self._bar.add_task(progress.stage, total=progress.total, metrics="")
                self._tasks[progress.stage] = task
            self._bar.update(task, completed=progress.done)
            if shown := _metrics(progress.metrics):
                self._bar.update(task, metrics=shown)
        elif progress.done == progress.total or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._line(
                f"{progress.stage} {progress.done}/{progress.total} {_metrics(progress.metrics)}".rstrip()
            )

    def _make_room(self, bar: Bar) -> None:
        """The oldest bars of what is finished become lines above the others."""
        shown = {task.id: task for task in bar.tasks}
        for stage, task in list(self._tasks.items()):
            if len(self._tasks) < _MOST_BARS:
                return
            # `finished` stays as it is when a stage of the same name begins again.
            if shown[task].completed >= (shown[task].total or 0):
                bar.console.print(bar.make_tasks_table([shown[task]]))
                bar.remove_task(task)
                del self._tasks[stage]

    def _line(self, text: str) -> None:
        if self._bar is not None:
            from rich.text import Text

            # Not in lines of its own: a command in it would be pasted as several.
            self._bar.console.print(Text(printable(text)), soft_wrap=True)
        else:
            say(text)


def _metrics(metrics: Mapping[str, Any]) -> str:
    names = {"nll": "nll", "alignment_loss": "alignment", "alpha": "alpha"}
    names |= {f"eval_{name}": f"eval {shown}" for name, shown in names.items()}
    return "  ".join(f"{shown} {metrics[name]:.4g}" for name, shown in names.items() if name in metrics)
