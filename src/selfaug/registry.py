"""The registry: which runs there are to be served, which of them is the champion, and how it came to that.

An SQLite file. Every change is one transaction: after a kill there is all of it or nothing. Any number of processes may
read and write. A version is a number that is never given twice; what an alias pointed to is never forgotten, so that a
rollback knows where to go. One that was withdrawn points to nothing until it is given again.

A run is kept as its path from the registry's folder: both may be moved together, or be mounted in a container.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfaug.errors import ConfigError, PathError, SelfAugError, StorageError
from selfaug.relative_path import relative_path

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "DEFAULT_REGISTRY",
    "RE_ALIGNED",
    "Move",
    "Registry",
    "Version",
    "champion_instead_of",
]

DEFAULT_REGISTRY = "runs/registry.sqlite"

CHAMPION, CANDIDATE = "champion", "candidate"
"""The version that is served, and the one that has passed its gate and may be."""

RE_ALIGNED = "re-aligned"
"""The note of a version that a re-alignment has entered; any other note replaces it."""

_VERSION = 1
_BUSY_SECONDS = 10.0
_SCHEMA = """
CREATE TABLE versions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL UNIQUE, weights TEXT NOT NULL, base TEXT NOT NULL,
    parent INTEGER REFERENCES versions, data TEXT NOT NULL, note TEXT NOT NULL, added REAL NOT NULL
);
CREATE TABLE moves (
    number INTEGER PRIMARY KEY AUTOINCREMENT, alias TEXT NOT NULL, version INTEGER NOT NULL REFERENCES versions,
    previous INTEGER REFERENCES moves, why TEXT NOT NULL, time REAL NOT NULL, withdrawn REAL
);
CREATE INDEX moves_of_alias ON moves (alias, number);
"""


@dataclass(frozen=True)
class Version:
    """A run that may be served.

    Attributes:
        number: its name here.
        run: folder, absolute and without links.
        weights: SHA-256 of the trained weights.
        base: name of the base model.
        parent: the version that it was made from, or None.
        data: what it was trained on, in words.
        note: of whoever added it.
        added: seconds since 1970.
    """

    number: int
    run: str
    weights: str
    base: str
    parent: int | None
    data: str
    note: str
    added: float


@dataclass(frozen=True)
class Move:
    """An alias that began to point to a version.

    Attributes:
        number: grows with every move of any alias.
        alias: its name.
        version: number of the version.
        previous: the move that a rollback goes back to, or None.
        why: in words.
        time: seconds since 1970.
        withdrawn: when it was withdrawn, in the same seconds, or None.
    """

    number: int
    alias: str
    version: int
    previous: int | None
    why: str
    time: float
    withdrawn: float | None


class Registry:
    """A registry file.

    Args:
        path: the file; made by the first change.

    Raises:
        PathError: from every method, if the file is none, or not one of a registry.
        StorageError: from every method, if the file is damaged, of a newer selfaug, or can't be read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def add(
        self,
        run: str | os.PathLike[str],
        *,
        weights: str,
        base: str,
        parent: int | None = None,
        data: str = "",
        note: str = "",
    ) -> Version:
        """Enter a run; one that is there with the same weights gets the parent and the note that it has none of.

        A note that it has stays, unless a re-alignment has written it.

        Raises:
            ConfigError: if the folder is there with other weights or another parent, or the parent is not.
        """
        folder = str(Path(run).resolve())
        with self._writing() as connection:
            if parent is not None:
                self._version(connection, parent)
            found = _entered(self._versions(connection), folder, weights)
            if found is None:
                row = connection.execute(
                    "INSERT INTO versions (run, weights, base, parent, data, note, added) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING *",
                    [self._place(folder), weights, base, parent, data, note, time.time()],
                ).fetchone()
                return self._made(row)
            return self._completed(connection, found, parent, note)

    def _completed(
        self, connection: sqlite3.Connection, version: Version, parent: int | None, note: str
    ) -> Version:
        """A version that was entered before, with a parent and a note where it has none of its own."""
        if parent is not None and version.parent not in (None, parent):
            raise ConfigError(
                f"version {version.number} ({version.run}) has another parent already: {version.parent}.",
                hint="what was entered stays: leave that out.",
            )
        if parent is not None and version.number in (
            parent,
            *(before.number for before in self._made_from(connection, parent)),
        ):
            raise ConfigError(
                f"version {version.number} can't be made from version {parent}, which was made from it.",
                hint="`selfaug registry` shows which versions there are.",
            )
        completed = replace(
            version,
            parent=version.parent if parent is None else parent,
            note=note if note and version.note in ("", RE_ALIGNED) else version.note,
        )
        connection.execute(
            "UPDATE versions SET parent = ?, note = ? WHERE number = ?",
            [completed.parent, completed.note, version.number],
        )
        return completed

    def require_addable(self, run: str | os.PathLike[str], weights: str | None) -> None:
        """Refuse what `add` would refuse, without a change.

        Args:
            run: the folder.
            weights: of the run; None if it has none yet, so that any that were entered are others.

        Raises:
            ConfigError: if the folder is there with other weights.
        """
        folder = str(Path(run).resolve())
        try:
            known = self.versions() if self.path.exists() else []
        except _EmptyError:
            known = []
        _entered(known, folder, weights)

    def versions(self) -> list[Version]:
        """All of them, oldest first."""
        with self._reading() as connection:
            return self._versions(connection)

    def version(self, number: int) -> Version:
        """One of them.

        Raises:
            ConfigError: if there is no such version.
        """
        with self._reading() as connection:
            return self._version(connection, number)

    def made_from(self, number: int) -> list[Version]:
        """The versions that one was made from, as far as is known: its parent, the parent of that, and so on.

        Raises:
            ConfigError: if there is no such version.
        """
        with self._reading() as connection:
            return list(self._made_from(connection, number))

    def goes_on_from(self, number: int, weights: str) -> bool:
        """Whether one of the versions that one was made from has these weights, in whatever folder: it may have been
        renamed, or copied.

        Args:
            number: of the version that was made from others.
            weights: SHA-256, as of a version.

        Raises:
            ConfigError: if there is no such version.
        """
        return weights in {version.weights for version in self.made_from(number)}

    def moves(self, alias: str) -> list[Move]:
        """What an alias has pointed to, oldest first."""
        with self._reading() as connection:
            rows = connection.execute("SELECT * FROM moves WHERE alias = ? ORDER BY number", [alias])
            return [Move(*row) for row in rows]

    def current(self, alias: str = CHAMPION) -> tuple[Version, Move] | None:
        """What an alias points to, and the move that made it so; None if it was never given, or was withdrawn."""
        with self._reading() as connection:
            move = _current(connection, alias)
            return None if move is None else (self._version(connection, move.version), move)

    def point(self, alias: str, number: int, why: str = "") -> Version:
        """Let an alias point to a version; nothing happens if it does.

        Raises:
            ConfigError: if there is no such version.
        """
        with self._writing() as connection:
            version, now = self._version(connection, number), _current(connection, alias)
            if now is None or now.version != number:
                _move(connection, alias, number, None if now is None else now.number, why)
        return version

    def before(self, alias: str = CHAMPION) -> Version:
        """What `roll_back` would let an alias point to.

        Raises:
            ConfigError: if there is nothing before.
        """
        with self._reading() as connection:
            return self._version(connection, _before(connection, alias).version)

    def roll_back(
        self, alias: str = CHAMPION, why: str = "rolled back", *, expected: int | None = None
    ) -> Version:
        """Let an alias point to what it pointed to before; again, and it goes back one more.

        Args:
            alias: which one.
            why: in words.
            expected: number of the alias's move that is gone back from, where `before` was looked at; None for any.

        Raises:
            ConfigError: if there is nothing before.
            StorageError: if the alias has moved since.
        """
        with self._writing() as connection:
            now = _current(connection, alias)
            if expected is not None and now is not None and now.number != expected:
                raise StorageError(
                    f"the {alias} has changed meanwhile: it is version {now.version}.",
                    hint="the same command goes back from that.",
                )
            before = _before(connection, alias)
            _move(connection, alias, before.version, before.previous, why)
            return self._version(connection, before.version)

    def withdraw(self, alias: str, number: int) -> None:
        """Let an alias that points to a version point to nothing; nothing happens if it points to another one.

        Not to the one before, which that version has taken the place of, or which was withdrawn itself.
        """
        with self._writing() as connection:
            now = _current(connection, alias)
            if now is not None and now.version == number:
                connection.execute(
                    "UPDATE moves SET withdrawn = ? WHERE number = ?", [time.time(), now.number]
                )

    def _versions(self, connection: sqlite3.Connection) -> list[Version]:
        rows = connection.execute("SELECT * FROM versions ORDER BY number").fetchall()
        return [self._made(row) for row in rows]

    def _version(self, connection: sqlite3.Connection, number: int) -> Version:
        row = connection.execute("SELECT * FROM versions WHERE number = ?", [number]).fetchone()
        if row is None:
            raise ConfigError(
                f"there is no version {number}.", hint="`selfaug registry` shows which versions there are."
            )
        return self._made(row)

    def _made_from(self, connection: sqlite3.Connection, number: int) -> Iterator[Version]:
        version = self._version(connection, number)
        while version.parent is not None:
            version = self._version(connection, version.parent)
            yield version

    def _made(self, row: Sequence[Any]) -> Version:
        number, place, *rest = row
        return Version(number, os.path.realpath(self._folder() / place), *rest)

    def _place(self, run: str) -> str:
        """What a run is kept as."""
        return relative_path(run, self._folder())

    def _folder(self) -> Path:
        return self.path.resolve().parent

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, or nothing."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"can't write into {self.path.parent}: {error.strerror or error}.", hint="name another file."
            ) from error
        with self._said():
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                # A switch that was told of must outlive the power.
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("BEGIN IMMEDIATE")
                if not self._is_made(connection):
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()  # rolls back what was not committed

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if not self.path.is_file():
            raise PathError(_nothing_at(self.path), hint=_MAKE_ONE)
        with self._said():
            # Not as "ro": who reads it first after a kill undoes what was not committed.
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
            )
            try:
                connection.execute("BEGIN")  # all as of one moment
                if not self._is_made(connection):
                    raise _EmptyError(_nothing_at(self.path), hint=_MAKE_ONE)
                yield connection
            finally:
                connection.close()

    def _is_made(self, connection: sqlite3.Connection) -> bool:
        """Whether the file has a registry in it; one that is empty, as after a kill, may still get one.

        Raises:
            PathError: if it is of another program.
            StorageError: if it is of a newer selfaug.
        """
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if names and not names >= {"versions", "moves"}:
            raise _no_registry(self.path)
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found > _VERSION:
            raise StorageError(
                f"{self.path} has version {found}; this selfaug reads up to version {_VERSION}.",
                hint="update selfaug.",
            )
        if bool(found) != bool(names):
            raise _no_registry(self.path)
        return bool(names)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn errors of SQLite into one for the user."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise _no_registry(self.path) from error
            raise StorageError(
                f"{self.path} can't be used: {error}.", hint="check free space and permissions of its folder."
            ) from error


def champion_instead_of(
    run: str | os.PathLike[str], registry: str | os.PathLike[str] = DEFAULT_REGISTRY
) -> str | None:
    """Folder of the champion, if a run is in the registry and is not the champion.

    Args:
        run: folder of the run.
        registry: the file; where there is none, or it can't be read, nothing is known.
    """
    opened = Registry(registry)
    try:
        champion, entered = opened.current(), {version.run for version in opened.versions()}
    except SelfAugError:
        return None
    folder = str(Path(run).resolve())
    return champion[0].run if champion and folder in entered and folder != champion[0].run else None


_MAKE_ONE = "`selfaug registry add RUN` makes one."


class _EmptyError(PathError):
    """There is a database with nothing in it."""


def _nothing_at(path: Path) -> str:
    return f"there is no registry {path}."


def _no_registry(path: Path) -> PathError:
    return PathError(f"{path} is no registry.", hint="name another file.")


def _entered(versions: Sequence[Version], folder: str, weights: str | None) -> Version | None:
    """The version that a folder is, with these weights; None where the folder is none.

    Raises:
        ConfigError: if it has other weights.
    """
    found = next((one for one in versions if one.run == folder), None)
    if found is not None and found.weights != weights:
        raise ConfigError(
            f"{folder} is version {found.number} already, with other weights: it was trained anew since.",
            hint="train into a folder of its own, so that a rollback finds what was served.",
        )
    return found


def _current(connection: sqlite3.Connection, alias: str) -> Move | None:
    """The last move of an alias, unless it was withdrawn."""
    row = connection.execute(
        "SELECT * FROM moves WHERE alias = ? ORDER BY number DESC LIMIT 1", [alias]
    ).fetchone()
    move = None if row is None else Move(*row)
    return None if move is None or move.withdrawn is not None else move


def _before(connection: sqlite3.Connection, alias: str) -> Move:
    """The move that a rollback goes back to."""
    now = _current(connection, alias)
    if now is None or now.previous is None:
        raise ConfigError(
            f"{alias} has pointed to nothing else before." if now else f"nothing is {alias} yet.",
            hint="`selfaug registry` shows the versions, `selfaug registry promote NUMBER` chooses one.",
        )
    return Move(*connection.execute("SELECT * FROM moves WHERE number = ?", [now.previous]).fetchone())


def _move(connection: sqlite3.Connection, alias: str, version: int, previous: int | None, why: str) -> None:
    connection.execute(
        "INSERT INTO moves (alias, version, previous, why, time) VALUES (?, ?, ?, ?, ?)",
        [alias, version, previous, why, time.time()],
    )
