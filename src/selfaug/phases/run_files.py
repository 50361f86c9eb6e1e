"""Files that a run's settings name, found from another working folder than the one it was started in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfaug.config import TrainConfig, load_config
from selfaug.data.sources import is_hub_id
from selfaug.errors import DataError
from selfaug.records import read_record
from selfaug.rundir import RunDir

__all__ = ["FOLDER", "load_run_config", "require_named_files", "with_found_files"]

FOLDER = "folder"
"""In a run's started.json: the working folder of its training."""

_NAMED = {
    "model": ["name"],
    "data": ["prepared", "train", "eval", "template", "replay"],
    "lora": ["start_from"],
    "selfaug": ["anchors"],
    "evaluation": ["data", "suites"],
}
"""Settings that may name a file or a folder, by section."""

_FROM_HUB = ("train", "eval", "replay")


def load_run_config(run: RunDir, tell: Callable[[str], None] = lambda _: None) -> TrainConfig:
    """Settings of a run, with the files that they name as they are found from here.

    Args:
        run: whose settings.
        tell: called with what the user should know: that files are read where the run was started.

    Raises:
        ConfigError: if they can't be read.
    """
    return with_found_files(run, load_config(run.config), tell)


def with_found_files(
    run: RunDir, config: TrainConfig, tell: Callable[[str], None] = lambda _: None
) -> TrainConfig:
    """Settings in which a relative name that leads to nothing here leads to where the run was started.

    Args:
        run: that was started with them.
        config: its settings.
        tell: as for `load_run_config`.
    """
    begun_in = _begun_in(run)
    if begun_in is None:
        return config
    elsewhere: list[str] = []

    def found(name: Any) -> Any:
        if isinstance(name, list):
            return [found(one) for one in name]
        # A name of the hub, or a word such as "self", is no file there either.
        if name is None or Path(name).is_absolute() or Path(name).exists() or not (begun_in / name).exists():
            return name
        elsewhere.append(name)
        return str(begun_in / name)

    sections = {}
    for section, names in _NAMED.items():
        before = getattr(config, section)
        sections[section] = before.model_copy(update={name: found(getattr(before, name)) for name in names})
    if elsewhere:
        tell(f"{', '.join(dict.fromkeys(elsewhere))}: read in {begun_in}, where {run.path} was started.")
    return config.model_copy(update=sections)


def _begun_in(run: RunDir) -> Path | None:
    """The working folder of the training; None where that is not known, as of earlier versions' runs."""
    if not run.started.exists():
        return None
    folder = read_record(run.started, "train-started").get(FOLDER)
    return None if folder is None else Path(folder)


def require_named_files(run: RunDir, config: TrainConfig, *names: str, instead: str) -> None:
    """Refuse where files that the run's own settings name are not there, before they are read.

    Args:
        run: a run.
        config: its settings, from `load_run_config`.
        names: which settings of `data`.
        instead: what can be done but for starting where the run was started.

    Raises:
        DataError: with all of them.
    """
    gone = []
    for name in names:
        given = getattr(config.data, name)
        for one in given if isinstance(given, list) else [given]:
            from_hub = name in _FROM_HUB and is_hub_id(one)
            if one not in (None, "embedded") and not from_hub and not Path(one).exists():
                relative = "" if Path(one).is_absolute() else ", relative to the working folder"
                gone.append(f"{one} does not exist: it is named by the run's data.{name}{relative}")
    if gone:
        begun_in = _begun_in(run)
        there = "" if begun_in is None else f" ({begun_in}, on the machine that trained it)"
        raise DataError(
            f"{gone[0]}." if len(gone) == 1 else "files that the run's settings name are not there:",
            problems=gone if len(gone) > 1 else (),
            hint=f"start in the folder where the run was started{there}, or one that has the same files; or {instead}.",
        )
