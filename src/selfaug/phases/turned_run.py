"""A run whose adapter is another's turned down: the chosen point of a balance, as a run like any other."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from selfaug.config import TrainConfig, dump_config
from selfaug.errors import DataError
from selfaug.model.adapters import write_scaled_adapter
from selfaug.model.memory import release_memory
from selfaug.phases.canary import write_canary_anew
from selfaug.phases.manifest import write_manifest
from selfaug.phases.model_card import model_card
from selfaug.phases.run_models import hashes_of_weights, load_run_models
from selfaug.records import read_record, write_record, write_text
from selfaug.rundir import RunDir

__all__ = ["later_runs", "write_turned_run"]


def write_turned_run(trained: RunDir, config: TrainConfig, scale: float, device: torch.device) -> RunDir:
    """Write the run in `config.run.output`, or keep it if it is there: the same training, its adapter at a scale.

    It appears under its name only when it is whole. The run of an earlier choice stays as it is, and this one is
    written beside it, as `best-2`: the earlier one may have been evaluated, entered into a registry, or be served, of
    which its folder need not show anything.

    Args:
        trained: a complete run with a LoRA adapter.
        config: settings of the new run, by which it is asked later; those of the training are `trained`'s.
        scale: of the adapter's change; 1 leaves it as it is.
        device: where what its canary set does is recorded.

    Returns:
        The run.

    Raises:
        StorageError: if it can't be written.
        ModelError: if the base model can't be loaded.
    """
    dial = {"run": trained.path.name, "scale": scale}
    run = _place_of(dial, Path(config.run.output))
    if run.is_complete():
        return run
    # One name for all: that of `best-2` would be nobody's, if this process were killed.
    fresh = RunDir(run.path.with_name(f".{Path(config.run.output).name}.new"))
    config = config.model_copy(update={"run": config.run.model_copy(update={"output": str(run.path)})})
    shutil.rmtree(fresh.path, ignore_errors=True)
    fresh.path.mkdir()
    write_text(fresh.config, run.config_text(dump_config(config)))
    for file in (trained.started, trained.learnt, trained.metrics, trained.anchors):
        if file.exists():
            shutil.copyfile(file, fresh.path / file.name)
    write_scaled_adapter(trained.adapter, scale, fresh.adapter)
    record = {
        **read_record(trained.record, "train"),
        "settings": yaml.safe_load(dump_config(config)),
        "settings_sha256": hashlib.sha256(dump_config(config).encode()).hexdigest(),
        "weights": hashes_of_weights(fresh),
        "dial": dial,
    }
    write_text(fresh.adapter / "README.md", model_card(config, record))
    write_manifest(fresh.adapter, config, record)
    _write_canary(fresh, trained, config, device)
    write_record(fresh.record, "train", record)
    fresh.path.rename(run.path)
    return run


def _place_of(dial: dict[str, Any], first: Path) -> RunDir:
    """Where the run of this dial is, or, where there is none, the first place that is free."""
    run, number = RunDir(first), 1
    while run.path.exists() and _dial_of(run) != dial:
        number += 1
        run = RunDir(first.with_name(f"{first.name}-{number}"))
    return run


def later_runs(first: Path) -> list[Path]:
    """Runs of later choices, beside that of the first one.

    Args:
        first: its folder. What a user has put beside it under a name of that kind is not among them.
    """
    return [
        path
        for path in first.parent.glob(f"{first.name}-*")
        if re.fullmatch("[2-9]|[1-9][0-9]+", path.name.removeprefix(f"{first.name}-"))
        and _dial_of(RunDir(path)) is not None
    ]


def _dial_of(run: RunDir) -> dict[str, Any] | None:
    """Which run it was made of, and at which scale; None where `write_turned_run` didn't make it."""
    try:
        dial: dict[str, Any] | None = read_record(run.record, "train").get("dial")
    except DataError:
        return None
    return dial


def _write_canary(run: RunDir, trained: RunDir, config: TrainConfig, device: torch.device) -> None:
    """Of the adapter as it is loaded from the folder."""
    _, model = load_run_models(run, config, run.adapter, device=device)
    write_canary_anew(run, trained, model)
    del model
    release_memory()
