"""Runs in the registry: entering them, and making one of them the champion that a server follows."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from selfaug.config import load_config
from selfaug.errors import ConfigError, PathError, StorageError
from selfaug.phases.resuming import WENT_ON_FROM
from selfaug.phases.run_files import load_run_config
from selfaug.phases.run_models import hash_of_weights, trained_weights
from selfaug.records import read_record
from selfaug.registry import CANDIDATE, CHAMPION, Registry, Version
from selfaug.rundir import RunDir

__all__ = [
    "add_run",
    "champion_move",
    "champion_run",
    "entered_weights",
    "finished_run",
    "followed_run",
    "promote",
    "registry_status",
    "require_addable",
    "roll_back",
]

# No version has a number with more.
_MOST_DIGITS = 18


def add_run(
    registry: str | os.PathLike[str],
    run: str | os.PathLike[str],
    *,
    parent: int | None = None,
    note: str = "",
) -> Version:
    """Enter a finished run as a version.

    Args:
        registry: the file; made if it does not exist.
        run: folder of the run. One that is a version gets the parent and the note that it has none of.
        parent: the version that it was made from; None for that of the run that its training went on from, if that is
            one.
        note: for whoever reads the list. One that a version has stays, unless a re-alignment has written it.

    Raises:
        StorageError: if the run is not complete, or the registry can't be written.
        ConfigError: if the folder is a version with other weights or another parent, or there is no such parent, or its
            weights are not those that the training went on from.
    """
    folder = finished_run(run)
    config = load_config(folder.config)
    data = ", ".join(config.data.train) or str(config.data.prepared or "")
    opened, weights, base = Registry(registry), _weights(folder), config.model.name
    if parent is not None:
        _require_made_from(opened, folder, parent)
    version = opened.add(folder.path, weights=weights, base=base, parent=parent, data=data, note=note)
    if version.parent is None and (made_from := _parent_by_weights(opened, folder, version)) is not None:
        version = opened.add(folder.path, weights=weights, base=base, parent=made_from)
    return version


def _parent_by_weights(registry: Registry, run: RunDir, own: Version) -> int | None:
    """The version whose adapter a run's training went on from; None if that is none, as far as is known."""
    before = load_run_config(run).lora.start_from
    if before is None:
        return None
    weights, folder = _weights_before(run), os.path.realpath(before)
    found = [
        version
        for version in registry.versions()
        if (
            version.run == folder and _ended_before(RunDir(folder), run)
            if weights is None
            else version.weights == weights
        )
        # The run may stand there itself by now, or one that was made from it.
        and own.number not in {version.number, *(one.number for one in registry.made_from(version.number))}
    ]
    # Of several with the same weights, the one that has its folder still.
    return min(found, key=lambda version: version.run != folder).number if found else None


def _weights_before(run: RunDir) -> str | None:
    """Hash of the adapter that a run's training went on from; None where it went on from none.

    Nor is it known of runs of earlier versions of selfaug.
    """
    known = read_record(run.record, "train").get(WENT_ON_FROM)
    return None if known is None else str(known["weights"])


def _ended_before(run: RunDir, other: RunDir) -> bool:
    """Whether a run was complete before another one was: what has been trained anew since is not what that is of."""
    return run.is_complete() and run.record.stat().st_mtime <= other.record.stat().st_mtime


def _require_made_from(registry: Registry, run: RunDir, parent: int) -> None:
    """Refuse a parent that a run's record contradicts.

    Raises:
        ConfigError: if it does, or there is no such version.
    """
    weights = _weights_before(run)
    if weights is None:
        return
    with contextlib.suppress(PathError):  # without a registry there is no such version, which `add` says
        version = registry.version(parent)
        if version.weights != weights:
            raise ConfigError(
                f"{run.path} was not made from version {parent} ({version.run}): its training went on from other "
                "weights.",
                hint="leave --parent out: the version that it went on from is found by its weights.",
            )


def require_addable(
    registry: str | os.PathLike[str], run: str | os.PathLike[str], *, planned: str | os.PathLike[str]
) -> None:
    """Refuse what `add_run` would refuse later, before a run is trained; the registry is not changed.

    Args:
        registry: the file; it may not exist yet.
        run: folder of a finished run.
        planned: folder of the run that is trained next, or gone on with.

    Raises:
        StorageError: if the finished run did not finish, or the registry can't be read.
        ConfigError: if one of the folders is a version with other weights.
    """
    folder, next_one = finished_run(run), RunDir(planned)
    opened = Registry(registry)
    opened.require_addable(folder.path, _weights(folder))
    opened.require_addable(next_one.path, _weights(next_one) if next_one.is_complete() else None)


def finished_run(run: str | os.PathLike[str]) -> RunDir:
    """A run that exists and is complete.

    Raises:
        PathError: if there is none.
        StorageError: if it is not complete.
    """
    folder = RunDir.open(run)
    if not folder.is_complete():
        raise StorageError(f"{folder.path} did not finish.", hint=f"go on with it: {folder.resume_command}")
    return folder


def promote(registry: str | os.PathLike[str], what: str) -> Version:
    """Make a version the champion: servers that follow the registry switch to it.

    Args:
        registry: the file.
        what: number of a version, or a run folder, which is entered first if it is not there yet.

    Raises:
        ConfigError: if there is no such version, or it is as well the name of another run's folder.
        StorageError: if its run is gone, or has other weights than it was entered with.
    """
    is_number = what.isdecimal() and len(what) <= _MOST_DIGITS
    found = _numbered(registry, what) if is_number else add_run(registry, what)
    _require_unchanged(found)
    return Registry(registry).point(CHAMPION, found.number)


def _numbered(registry: str | os.PathLike[str], number: str) -> Version:
    """The version of that number, unless the folder of another run is called so, too."""
    version, run = Registry(registry).version(int(number)), RunDir(number)
    if run.is_run() and str(run.path.resolve()) != version.run:
        raise ConfigError(
            f"{number} is version {number}, whose run is {version.run}, and the name of another run's folder here.",
            hint=f"give ./{number} for the folder, or {version.run} for the version.",
        )
    return version


def roll_back(registry: str | os.PathLike[str]) -> Version:
    """Make the version before the champion again.

    Raises:
        ConfigError: if there is none before.
        StorageError: if its run is gone, or has other weights than it was entered with, or the champion has changed
            while that was looked at; nothing is changed then.
    """
    opened = Registry(registry)
    current = opened.current()  # before what it came after is: so nothing is missed that comes between
    _require_unchanged(opened.before(CHAMPION))
    return opened.roll_back(expected=None if current is None else current[1].number)


def followed_run(registry: str | os.PathLike[str]) -> str:
    """Folder of the champion.

    Raises:
        ConfigError: if nothing is champion yet.
        StorageError: if the registry can't be read, or the run has other weights than it was entered with.
    """
    version, _ = _champion(registry)
    _require_unchanged(version)
    return version.run


def entered_weights(registry: str | os.PathLike[str], run: RunDir) -> str | None:
    """The hash of the weights that a run was entered with; None if it was not entered.

    Raises:
        StorageError: if the registry can't be read.
    """
    folder = str(run.path.resolve())
    return next((version.weights for version in Registry(registry).versions() if version.run == folder), None)


def champion_run(registry: str | os.PathLike[str]) -> str:
    """Folder of the champion, without a look at its weights, which takes longer.

    Raises:
        ConfigError: if nothing is champion yet.
        StorageError: if the registry can't be read.
    """
    return _champion(registry)[0].run


def champion_move(registry: str | os.PathLike[str]) -> int:
    """The number of the move that made the champion so, without a look at its weights, which takes longer.

    Raises:
        ConfigError: if nothing is champion yet.
        StorageError: if the registry can't be read.
    """
    return _champion(registry)[1]


def _champion(registry: str | os.PathLike[str]) -> tuple[Version, int]:
    current = Registry(registry).current()
    if current is None:
        raise ConfigError(
            f"no version in {os.fspath(registry)} is the champion yet.",
            hint="`selfaug registry promote RUN` makes one.",
        )
    version, move = current
    return version, move.number


def registry_status(registry: str | os.PathLike[str]) -> dict[str, Any]:
    """All versions with the aliases that point to them, and what the champion was.

    A candidate that was made the champion is none any more, also after a rollback: nothing waits to be promoted.
    """
    opened = Registry(registry)
    versions, champions = opened.versions(), opened.moves(CHAMPION)
    aliases = {alias: found[0].number for alias in (CHAMPION, CANDIDATE) if (found := opened.current(alias))}
    if aliases.get(CANDIDATE) in {move.version for move in champions}:
        del aliases[CANDIDATE]
    return {
        "registry": str(registry),
        "aliases": aliases,
        "versions": [
            {
                **vars(version),
                "aliases": [alias for alias, number in aliases.items() if number == version.number],
                "is_there": os.path.isdir(version.run),
            }
            for version in versions
        ],
        "champions": [vars(move) for move in champions],
    }


def _require_unchanged(version: Version) -> None:
    try:
        run = RunDir.open(version.run)
    except PathError as error:
        raise StorageError(
            f"version {version.number}'s folder {version.run} "
            f"{'holds no run any more' if os.path.isdir(version.run) else 'is gone'}.",
            hint="restore it there, or put the registry's file back if that was moved without its runs, or promote "
            "another version by its number: `selfaug registry` shows which versions there are.",
        ) from error
    if _weights(run) != version.weights:
        raise StorageError(
            f"{version.run} has other weights than when it became version {version.number}.",
            hint="put those weights back, promote another version, or enter what is there as a run of its own: "
            "`selfaug registry` shows which versions there are.",
        )


def _weights(run: RunDir) -> str:
    return hash_of_weights(trained_weights(run, load_config(run.config))[0])
