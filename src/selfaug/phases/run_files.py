"""Files that a run's settings name, found from another working folder than the one it was started in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfaug.config import TrainConfig, load_config
from selfaug.data.sources import describe_sources, is_hub_id
from selfaug.errors import DataError, ModelError
from selfaug.records import read_record
from selfaug.rundir import RunDir

__all__ = [
    "BASE_FOLDER",
    "FOLDER",
    "load_run_config",
    "place_of",
    "require_named_base",
    "require_named_files",
    "runs_before",
    "sources_when_trained",
    "tell_of_changes",
    "with_found_files",
    "with_places",
]

FOLDER = "folder"
"""In a run's started.json: the working folder of its training."""

BASE_FOLDER = "base_folder"
"""In a run's started.json: the name of its base model, if that was a folder."""

_NAMED = {
    "model": ["name"],
    "data": ["prepared", "train", "eval", "template", "replay"],
    "lora": ["start_from"],
    "selfaug": ["anchors"],
    "evaluation": ["data", "suites"],
}
"""Settings that may name a file or a folder, by section."""

_WORDS = ("none", "self", "embedded")
"""Settings may have these where others have a file: they are none, whatever lies in a folder."""

_FROM_HUB = ("train", "eval", "replay")


def load_run_config(
    run: RunDir,
    tell: Callable[[str], None] = lambda _: None,
    *,
    sets: Sequence[str] = (),
    offline: bool = False,
) -> TrainConfig:
    """Settings of a run, with the files that they name as they are found from here.

    Args:
        run: whose settings.
        tell: called with what the user should know: that files are read where the run was started.
        sets: others in the place of the run's own, as `section.key=value`. Files that they name are not looked for.
            Another `data.prepared` leaves the run's rows and template as they are.
        offline: use only what is on this machine, whatever the settings say.

    Raises:
        ConfigError: if they can't be read.
    """
    if offline:
        sets = [*sets, "run.offline=true"]
    named = load_config(run.config)
    found = with_found_files(run, named, tell)
    if not sets:
        return found
    own = [
        f"{section}.{name}={json.dumps(getattr(getattr(found, section), name), ensure_ascii=False)}"
        for section, names in _NAMED.items()
        for name in names
        if getattr(getattr(found, section), name) != getattr(getattr(named, section), name)
    ]
    return load_config(run.config, sets=[*own, *sets], rows_stay=True)


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

    def found(name: str) -> str:
        # A name of the hub is no file there either; nor is there any for who may not enter that folder.
        if Path(name).is_absolute() or os.path.exists(name) or not os.path.exists(begun_in / name):
            return name
        elsewhere.append(name)
        return str(begun_in / name)

    changed = _with_names(config, found)
    if elsewhere:
        tell(f"{', '.join(dict.fromkeys(elsewhere))}: read in {begun_in}, where {run.path} was started.")
    return changed


def with_places(run: RunDir, config: TrainConfig) -> TrainConfig:
    """Settings in which each file that is there has its whole path, so that those of two folders can be compared.

    Args:
        run: as for `with_found_files`.
        config: its settings.
    """
    return _with_names(with_found_files(run, config), place_of)


def place_of(name: str) -> str:
    """The whole path of a file or a folder, however it is spelled; another name as it is."""
    return os.path.realpath(name) if os.path.exists(name) else name


def _with_names(config: TrainConfig, change: Callable[[str], str]) -> TrainConfig:
    """Settings in which each name that may be a file's is changed."""

    def changed(name: Any) -> Any:
        if isinstance(name, list):
            return [changed(one) for one in name]
        return change(name) if name and name not in _WORDS else name

    sections = {}
    for section, names in _NAMED.items():
        before = getattr(config, section)
        sections[section] = before.model_copy(update={name: changed(getattr(before, name)) for name in names})
    return config.model_copy(update=sections)


def _begun_in(run: RunDir) -> Path | None:
    """The working folder of the training; None where it has not begun."""
    return Path(read_record(run.started, "train-started")[FOLDER]) if run.started.exists() else None


def tell_of_changes(run: RunDir, config: TrainConfig, *names: str, tell: Callable[[str], None]) -> None:
    """Tell of files with rows of the run's own that are not what they were when it was trained.

    Of those that are new in a folder, as next month's, only where they are held out: the run is judged by them.

    Args:
        run: a run.
        config: its settings, from `load_run_config`.
        names: which settings of `data`.
        tell: called with each of them.
    """
    for name in names:
        before = sources_when_trained(run, name)
        known = {one.get("sha256") for one in before} - {None}
        files = {Path(one["source"]).name for one in before}
        now: list[dict[str, Any]] = []
        for source in getattr(config.data, name) if known else []:
            with suppress(OSError):  # who may not read them may still do without
                now += describe_sources([source])
        for one in now:
            if "sha256" not in one or one["sha256"] in known:
                continue
            if Path(one["source"]).name in files:
                tell(f"{one['source']} is not what it was when {run.path} was trained.")
            elif name == "eval":
                tell(f"{one['source']} is new since {run.path} was trained.")


def runs_before(config: TrainConfig) -> Iterator[tuple[RunDir, TrainConfig]]:
    """The runs that training went on from, the latest first, with their settings; as far as they are there, each once.

    Args:
        config: settings of a run, from `load_run_config`.

    Raises:
        ConfigError, DataError: if the settings of one can't be read.
    """
    met: set[str] = set()
    while config.lora.start_from is not None:
        run = RunDir(config.lora.start_from)
        place = os.path.realpath(run.path)
        if place in met or not run.is_run():  # one that was trained anew may go on from a later one
            return
        met.add(place)
        config = load_run_config(run)
        yield run, config


def sources_when_trained(run: RunDir, name: str) -> list[dict[str, Any]]:
    """What the sources of a setting of `data` were, as `describe_sources`; none where that isn't known.

    Args:
        run: a run.
        name: of the setting.
    """
    if not run.started.exists():
        return []
    begun = read_record(run.started, "train-started").get("data", {})
    found: list[dict[str, Any]] = begun.get(name, {}).get("sources", [])
    return found


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
            if one not in (None, "embedded") and not from_hub and not os.path.exists(one):
                relative = "" if Path(one).is_absolute() else ", relative to the working folder"
                gone.append(f"{one} does not exist: it is named by the run's data.{name}{relative}")
    if gone:
        there = _on_its_machine(run)
        raise DataError(
            f"{gone[0]}." if len(gone) == 1 else "files that the run's settings name are not there:",
            problems=gone if len(gone) > 1 else (),
            hint=f"start in the folder where the run was started{there}, or one that has the same files; or {instead}.",
        )


def require_named_base(run: RunDir, config: TrainConfig) -> None:
    """Refuse where the base model's folder, which the run's own settings name, is not there, before it is loaded.

    A hub would be asked for a model of that name else: `models/qwen` may be either. One that is on this machine under
    that name is taken: its weights are compared with those of the training where it is loaded.

    Args:
        run: a run.
        config: its settings, from `load_run_config`. A model that was set in the place of the run's is not looked at.

    Raises:
        ModelError: if it is not there.
    """
    name = config.model.name
    if os.path.exists(name) or name != load_config(run.config).model.name:
        return
    begun = read_record(run.started, "train-started") if run.started.exists() else {}
    if is_hub_id(name) and (name != begun.get(BASE_FOLDER) or _is_on_this_machine(name)):
        return
    relative, where = "", f"copy it to {name}"
    if not Path(name).is_absolute():
        relative = ", relative to the working folder"
        where = f"start in the folder where the run was started{_on_its_machine(run)}, or one that has it"
    if is_hub_id(name):
        where += f"; or, if it is the hub's model of that name, download it first: `hf download {name}`"
    raise ModelError(
        f"the base model's folder {name} does not exist: it is named by the run's model.name{relative}.",
        hint=f"{where}; or say in {run.config}, at model.name, where the model is now: a folder or a hub id.",
    )


def _is_on_this_machine(name: str) -> bool:
    """Whether a model that is no folder is the demo's, or in the hub's cache; the hub is not asked."""
    # These load torch and transformers, which commands that only look at files do without.
    from selfaug.model.loading import DEMO_MODEL
    from selfaug.model.stored_weights import stored_weights_hash

    return name == DEMO_MODEL or stored_weights_hash(name) is not None


def _on_its_machine(run: RunDir) -> str:
    begun_in = _begun_in(run)
    return "" if begun_in is None else f" ({begun_in}, on the machine that trained it)"
