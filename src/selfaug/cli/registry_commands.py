"""`selfaug registry`: versions of a model, and which of them is served."""

from __future__ import annotations

import shlex
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from selfaug.cli.app import Debug, Json, app
from selfaug.cli.terminal import print_json, printable, say
from selfaug.errors import ConfigError, DataError
from selfaug.relative_path import relative_path

if TYPE_CHECKING:
    from pathlib import Path

    from selfaug.registry import Version

__all__ = ["RegistryFile", "registry"]

RegistryFile = Annotated[
    str, typer.Option("--registry", metavar="FILE", help="The registry, an SQLite file.")
]
_DEFAULT = "runs/registry.sqlite"


@app.command(epilog="Example: selfaug registry promote runs/first")
def registry(
    action: Annotated[
        Literal["list", "add", "promote", "rollback"],
        typer.Argument(
            metavar="[list|add|promote|rollback]",
            help="add takes a run in; promote makes a version the champion; rollback takes the one before.",
        ),
    ] = "list",
    what: Annotated[
        str | None, typer.Argument(metavar="[RUN|NUMBER]", help="A run folder, or a version's number.")
    ] = None,
    file: RegistryFile = _DEFAULT,
    parent: Annotated[
        int | None,
        typer.Option(
            "--parent", metavar="NUMBER", min=1, help="With add: the version that it was made from."
        ),
    ] = None,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="With add: for the list.")] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Keep versions of a model; a server that follows the registry serves its champion."""
    if (what is None) != (action in ("list", "rollback")):
        raise ConfigError(
            f"{action} takes no further word, got {what}."
            if what
            else f"{action} needs a run folder or a number.",
            hint="selfaug registry promote runs/first",
        )
    if action != "add" and (note or parent is not None):
        raise ConfigError(
            f"{'--note' if note else '--parent'} has no meaning with {action}: it is of a version that is added.",
            hint="selfaug registry add RUN takes it; promote the version afterwards, by its number.",
        )
    from selfaug.phases.registry import add_run, promote, registry_status, roll_back

    if action == "list":
        status = registry_status(file)
        if as_json:
            print_json(status)
        else:
            for version in status["versions"]:
                typer.echo(_line(version))
        return
    if action == "add":
        version = add_run(file, str(what), parent=parent, note=note)
        text = f"version {version.number}: {version.run}"
        if note not in ("", version.note):
            say(f"note: version {version.number} has a note already, which stays: {version.note}")
    elif action == "promote":
        version = promote(file, str(what))
        text = f"version {version.number} is the champion: {version.run}"
        _say_if_its_gate_did_not_pass(version.run)
        _say_if_compared_with_another(file, version)
        _say_if_it_has_no_reference_window(version.run)
    else:
        version = roll_back(file)
        text = f"rolled back to version {version.number}: {version.run}"
    if as_json:
        print_json(vars(version))
    else:
        typer.echo(printable(text))


def _say_if_its_gate_did_not_pass(run: str) -> None:
    """That a re-aligned run may have lost something decides nothing here: it is the user who promotes."""
    from selfaug.config import load_config
    from selfaug.rundir import RunDir

    record = RunDir(run).realignment
    if not record.exists():
        before = load_config(RunDir(run).config).lora.start_from
        if before is not None:
            say(
                f"note: it goes on from {before}, and was not compared with it: nobody knows what it may have lost. "
                "Where `selfaug realign` made it, the same command again compares both."
            )
        return
    found = _readable_realignment(record)
    if found is not None and (outcome := found["gate"]["outcome"]) != "pass":
        say(f"note: its re-alignment did not pass the gate ({outcome}): {record}")


def _readable_realignment(record: Path) -> dict[str, Any] | None:
    """Data of a re-alignment's record; None if that is damaged: its run is the champion whatever is in there."""
    from selfaug.phases.realign_comparison import RECORD_KIND
    from selfaug.records import read_record

    with suppress(DataError):
        return read_record(record, RECORD_KIND)
    return None


def _say_if_compared_with_another(file: str, version: Version) -> None:
    """Two re-alignments of one champion: whichever is promoted second knows nothing of what the first has learnt."""
    from selfaug.phases.realign_comparison import DEPLOYED_WEIGHTS
    from selfaug.registry import CHAMPION, Registry
    from selfaug.rundir import RunDir

    record, opened = RunDir(version.run).realignment, Registry(file)
    *earlier, now = opened.moves(CHAMPION)
    was_champion = version.number in {move.version for move in earlier}  # going back is meant so
    if now.previous is None or was_champion or not record.exists():
        return
    if (found := _readable_realignment(record)) is None:
        return
    weights = found["settings"].get(DEPLOYED_WEIGHTS)
    if weights is None and version.parent is not None:  # compared by an earlier version of selfaug
        weights = opened.version(version.parent).weights
    replaced = opened.version(next(move.version for move in earlier if move.number == now.previous))
    # The same weights in another folder, as in one that was renamed, know as much.
    if weights is not None and replaced.weights not in (weights, version.weights):
        say(
            f"note: it was compared with {found['deployed']}, and not with version {replaced.number}, the champion "
            "that it replaces"
            + (
                ", from which it goes on by way of others: losses may add up."
                if opened.goes_on_from(version.number, replaced.weights)
                else ": what that one has learnt, it does not know."
            )
        )


def _say_if_it_has_no_reference_window(run: str) -> None:
    """A server that follows needs it to watch the run, and begins at once to measure what is missing."""
    from selfaug.rundir import RunDir

    if not (RunDir(run).monitor / "reference.json").exists():
        measure = f"selfaug monitor {shlex.quote(relative_path(run))} --reference"
        say(
            "note: its reference window is not measured. A server does that in its pauses, and watches the run only "
            f"then; a gateway waits for `{measure}`. Given before `promote`, that does it for both."
        )


def _line(version: dict[str, object]) -> str:
    added = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(str(version["added"]))))
    names = version["aliases"]
    parts = [
        f"{version['number']:>4}",
        added,
        f"{', '.join(names) if isinstance(names, list) else '':<20}",
        relative_path(str(version["run"])),
        f"from {version['parent']}" if version["parent"] else "",
        str(version["note"]),
        "" if version["is_there"] else "(the folder is gone)",
    ]
    return printable("  ".join(part for part in parts if part).rstrip())
