"""`--config FILE` of the commands whose settings are flags: a YAML file that gives them by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from selfaug.errors import ConfigError
from selfaug.settings_file import nearest_name, read_yaml

__all__ = ["FlagsFile"]

_NOT_IN_FILES = {"config", "help", "debug"}


def _take_flags(ctx: typer.Context, file: str | None) -> str | None:
    """Has click take from the file what the command line doesn't give.

    Raises:
        ConfigError: with every name that is no flag of the command, and every value of the wrong form.
    """
    if file is None:
        return None
    problems: list[str] = []
    places: dict[tuple[str, ...], str] = {}
    values = read_yaml(
        Path(file), places, problems, "it should give flags by their names, as in `max-batch: 8`."
    )
    known = _names(ctx.command)
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).removeprefix("--").replace("_", "-")
        place = places.get((str(key),), file)
        parameter = known.get(name)
        if parameter is None:
            problems.append(f"{place}: {key} is no flag of this command{nearest_name(name, known)}")
        elif isinstance(value, dict) or (isinstance(value, list) and not _takes_several(parameter)):
            problems.append(f"{place}: {key} should be one value")
        elif value is not None:
            given[parameter.name] = (
                [value] if _takes_several(parameter) and not isinstance(value, list) else value
            )
    if problems:
        raise ConfigError(
            f"{file} can't be used:",
            problems=problems,
            hint=f"`{ctx.command_path} --help` shows the flags.",
        )
    ctx.default_map = given
    return file


def _takes_several(parameter: Any) -> bool:
    return bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1


def _names(command: Any) -> dict[str, Any]:
    """Parameters of a command by what they are called on the command line, without dashes; arguments too."""
    names: dict[str, Any] = {}
    for parameter in command.params:
        spelled = [name for name in parameter.opts if name.startswith("--")] or [parameter.name]
        names |= {name.removeprefix("--").replace("_", "-"): parameter for name in spelled}
    return {name: parameter for name, parameter in names.items() if name not in _NOT_IN_FILES}


FlagsFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_take_flags,
        help="YAML file with flags by their names; those given here win.",
    ),
]
