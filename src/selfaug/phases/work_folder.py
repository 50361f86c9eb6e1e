"""The folder of a command that goes on where it was cut off, and never deletes what is not its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from selfaug.errors import StorageError
from selfaug.records import read_record, write_record

__all__ = ["WorkFolder"]


class WorkFolder:
    """A folder that is known by its marker, which holds the settings that it was begun with.

    Args:
        path: the folder.
        what: what it holds, as a word ("demo").
        contents: names of everything that the command writes into it.
        last: names of what is written last: where they all are, it is finished.
    """

    def __init__(self, path: Path, what: str, contents: Collection[str], last: Collection[str]) -> None:
        self.path, self.what, self.last = path, what, last
        self.marker = path / f"{what}.json"
        self.contents = {self.marker.name, *contents}

    def begun_with(self) -> dict[str, Any] | None:
        """The settings that the folder was begun with; None where nothing was begun.

        Raises:
            DataError: if its marker can't be read.
        """
        if not self.marker.is_file():
            return None
        settings: dict[str, Any] = read_record(self.marker, f"{self.what}-started")["settings"]
        return settings

    def open(self, settings: dict[str, Any], *, overwrite: bool, more: bool = False) -> bool:
        """Make the folder, or go on with a cut-off one; returns whether there was one.

        Args:
            settings: what has to be the same to go on.
            overwrite: delete what is there and begin anew.
            more: what is finished lacks something that is asked for now.

        Raises:
            StorageError: if it holds something else, is finished, was begun with other settings, or can't be written.
        """
        settings = json.loads(json.dumps(settings))  # as the marker has them: tuples are lists there
        path = self.path
        if path.exists() and not path.is_dir():
            raise StorageError(f"{path} is a file, not a folder.", hint="give another --output.")
        if path.exists() and any(path.iterdir()):
            before = self.begun_with()
            if before is None:
                raise StorageError(
                    f"{path} is not empty and not {self._article} {self.what}.", hint="give another --output."
                )
            if overwrite:
                self._clear()
            elif not more and all((path / name).exists() for name in self.last):
                raise StorageError(
                    f"{path} already holds a finished {self.what}.",
                    hint=f"look at {path / next(iter(self.last))}, give another --output, or --overwrite.",
                )
            elif before != settings:
                changed = ", ".join(_changed(before, settings))
                raise StorageError(
                    f"{path} holds {self._article} {self.what} with other settings: {changed}.",
                    hint="give another --output, or --overwrite.",
                )
        cut_off = self.marker.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not cut_off:
                write_record(self.marker, f"{self.what}-started", {"settings": settings})
        except OSError as error:
            raise StorageError(
                f"can't write into {path}: {error.strerror or error}", hint="give another --output."
            ) from error
        return cut_off

    @property
    def _article(self) -> str:
        return "an" if self.what[0] in "aeiou" else "a"

    def _clear(self) -> None:
        """Delete what the command wrote. The marker goes last: what is left is still known by it."""
        foreign = sorted(
            entry.name
            for entry in self.path.iterdir()
            if entry.name not in self.contents
            and not any(entry.name.startswith(f".{name}.") for name in self.contents)
        )
        if foreign:
            raise StorageError(
                f"{self.path} holds {self._article} {self.what}, and files that selfaug did not write: "
                f"{', '.join(foreign[:5])}.",
                hint="move them away first, or give another --output.",
            )
        try:
            for entry in sorted(self.path.iterdir(), key=lambda entry: entry == self.marker):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise StorageError(
                f"can't clear {self.path}: {error.strerror or error}", hint="give another --output."
            ) from error


def _changed(before: Any, now: Any, name: str = "") -> list[str]:
    """Dotted names of the settings that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [name] if before != now else []
    return [
        found
        for key in sorted(before.keys() | now.keys())
        for found in _changed(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    ]
