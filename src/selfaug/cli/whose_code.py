"""Says whose code a command runs because a folder says so, before it does."""

from __future__ import annotations

from selfaug.cli.terminal import say
from selfaug.launcher import is_first_process

__all__ = ["say_code_of_prepared", "say_code_of_run"]


def say_code_of_run(run: str, *, searches: bool = False, prepared: str | None = None) -> None:
    """A note for each that is not selfaug's own; arguments and errors as of `phases.whose_code.code_of_run`."""
    from selfaug.phases.whose_code import code_of_run

    _say(code_of_run(run, searches=searches, prepared=prepared))


def say_code_of_prepared(folder: str) -> None:
    """The same, of prepared documents."""
    from selfaug.phases.whose_code import code_of_prepared

    _say(code_of_prepared(folder))


def _say(notes: list[str]) -> None:
    for note in notes if is_first_process() else ():  # under a launcher, one process speaks
        say(f"note: {note}.")
