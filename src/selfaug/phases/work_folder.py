"""The folder of a command that goes on where it was cut off, and never deletes what is not its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from selfaug.errors import PathError, StorageError
from selfaug.phases.work_time import WORKED, WorkTime
from selfaug.records import read_record, write_record, writing_into
from selfaug.replaced import Replaced
from selfaug.rundir import CHECKPOINT_STATE, alone_in, entries_of, require_no_foreign, without_lock

__all__ = ["WorkFolder"]

# Answers, records of what was trained, and checkpoints: what took time, and is not made again.
_WORTH_KEEPING = ("*.jsonl", "record.json", CHECKPOINT_STATE)


class WorkFolder:
    """A folder that is known by its marker, which holds the settings that it was begun with, and what it was made of.

    Args:
        path: the folder.
        what: what it holds, as a word ("demo").
        contents: names of everything that the command writes into it.
        last: names of what is written last: where they all are, it is finished.
        at_once: names of what is written before anything long, and so not worth keeping.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        contents: Collection[str],
        last: Collection[str],
        at_once: Collection[str] = (),
    ) -> None:
        self.path, self.what, self.last, self.at_once = path, what, last, {*at_once, WORKED}
        self.marker = path / f"{what}.json"
        self.contents = {self.marker.name, WORKED, *contents}
        self._time, self._opened = WorkTime(path / WORKED), False
        self._replaced = Replaced(
            path,
            what,
            entries=lambda: entries_of(path, self.contents),
            is_usable=self._is_finished,
            has_begun=self._has_begun,
        )

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """At its end, what `open` has replaced is deleted if the command has finished, and comes back if nothing was
        made; between, it is kept beside what was made. If the folder was opened, the time is written down.
        """
        with self._replaced.settled():
            try:
                yield
            finally:
                if self._opened:
                    self._time.keep()

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """For commands that can't share the folder with another process.

        Raises:
            StorageError: if another process has it.
        """
        return alone_in(
            self.path,
            "is being written",
            hint="wait for it, or stop it (Ctrl-C, or `kill` with its PID: what is done is kept), and give the same "
            "command again; or give another --output.",
        )

    @property
    def seconds(self) -> float:
        """Of work in the folder so far, that of processes which were stopped included."""
        return self._time.seconds

    def begun_with(self) -> dict[str, Any] | None:
        """The settings that the folder was begun with; None where nothing was begun.

        Raises:
            DataError: if its marker can't be read.
        """
        self._replaced.recover()
        if not self.marker.is_file():
            return None
        settings: dict[str, Any] = read_record(self.marker, f"{self.what}-started")["settings"]
        return settings

    def open(
        self,
        settings: dict[str, Any],
        *,
        overwrite: bool,
        more: bool = False,
        sources: Mapping[str, Any] | None = None,
        finished_hint: str | None = None,
    ) -> bool:
        """Make the folder, or go on with a cut-off one; returns whether there was one. Call it within `settled`.

        Args:
            settings: what has to be the same to go on.
            overwrite: move what is there aside and begin anew.
            more: what is finished lacks something that is asked for now.
            sources: what identifies the content of each source by its name, for files that change under their names;
                None where it isn't known. What was begun without it is gone on with.
            finished_hint: what else can be done where it is finished; a sentence without its full stop.

        Raises:
            StorageError: if it holds something else, is finished, was begun with other settings or sources, or can't be
                written.
        """
        # As the marker has them: tuples are lists there.
        settings, sources = json.loads(json.dumps((settings, sources or {})))
        path = self.path
        self._replaced.recover()
        if path.exists() and not path.is_dir():
            raise PathError(f"{path} is a file, not a folder.", hint="give another --output.")
        if path.exists() and without_lock(path):
            before = self.begun_with()
            if before is None:
                raise StorageError(
                    f"{path} is not empty and not {self._article} {self.what}.", hint="give another --output."
                )
            if overwrite:
                require_no_foreign(
                    path,
                    self.contents,
                    f"{self._article} {self.what}",
                    hint="move them away first, or give another --output.",
                )
                self._replaced.move()
            elif not more and all((path / name).exists() for name in self.last):
                hint = f"look at {path / next(iter(self.last))}, give another --output, or --overwrite."
                if finished_hint is not None:
                    hint = f"{finished_hint}; or {hint}"
                raise StorageError(f"{path} already holds a finished {self.what}.", hint=hint)
            elif before != settings:
                changed = ", ".join(_changed(before, settings))
                raise StorageError(
                    f"{path} holds {self._article} {self.what} with other settings: {changed}.",
                    hint="give another --output, or --overwrite.",
                )
            else:
                self._require_same_sources(sources)
        cut_off = self.marker.exists()
        with writing_into(path, hint="give another --output."):
            path.mkdir(parents=True, exist_ok=True)
        if not cut_off:
            write_record(self.marker, f"{self.what}-started", {"settings": settings, "sources": sources})
        self._opened = True
        return cut_off

    def sources(self) -> dict[str, Any]:
        """What identifies the content of each source, as far as it is known; nothing where it was begun without."""
        found: dict[str, Any] = read_record(self.marker, f"{self.what}-started").get("sources", {})
        return found

    def complete_sources(self, sources: Mapping[str, Any]) -> None:
        """Write down what identifies those sources of which that wasn't known when the folder was begun."""
        begun = read_record(self.marker, f"{self.what}-started")
        known = begun.get("sources", {})
        found = {
            name: content
            for name, content in sources.items()
            if content is not None and name in known and known[name] is None
        }
        if found:
            write_record(self.marker, f"{self.what}-started", {**begun, "sources": {**known, **found}})

    def _require_same_sources(self, sources: Mapping[str, Any]) -> None:
        """Refuse to go on with other content under the same names: old and new results would be mixed.

        Raises:
            StorageError: with all that have changed.
        """
        before = self.sources()
        changed = [
            name
            for name, content in sources.items()
            if None not in (content, before.get(name)) and content != before[name]
        ]
        if changed:
            raise StorageError(
                f"{self.path} holds {self._article} {self.what} that was begun with other content of:",
                problems=changed,
                hint="--overwrite begins anew with what is there now; or give another --output, or put back what was "
                "there then.",
            )

    @property
    def _article(self) -> str:
        return "an" if self.what[0] in "aeiou" else "a"

    def _is_finished(self) -> bool:
        return (self.path / "record.json").exists()

    def _has_begun(self) -> bool:
        return any(
            file.name != self.marker.name
            for name in self.contents.difference(self.at_once)
            for pattern in _WORTH_KEEPING
            for file in (self.path / name).rglob(pattern)
        )


def _changed(before: Any, now: Any, name: str = "") -> list[str]:
    """Dotted names of the settings that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [name] if before != now else []
    return [
        found
        for key in sorted(before.keys() | now.keys())
        for found in _changed(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    ]
