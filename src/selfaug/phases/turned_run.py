"""A run whose adapter is another's turned down: the chosen point of a balance, as a run like any other."""

from __future__ import annotations

import hashlib
import shutil

import torch
import yaml

from selfaug.config import TrainConfig, dump_config
from selfaug.errors import StorageError
from selfaug.model.adapters import write_scaled_adapter
from selfaug.model.memory import release_memory
from selfaug.phases.canary import write_canary_anew
from selfaug.phases.model_card import model_card
from selfaug.phases.run_models import hashes_of_weights, load_run_models
from selfaug.records import read_record, write_record, write_text
from selfaug.rundir import RunDir

__all__ = ["write_turned_run"]


def write_turned_run(trained: RunDir, config: TrainConfig, scale: float, device: torch.device) -> None:
    """Write the run in `config.run.output`, or keep it if it is there: the same training, its adapter at a scale.

    It appears under its name only when it is whole. The run of an earlier choice is replaced, unless something else is
    kept in its folder by now, such as its evaluation.

    Args:
        trained: a complete run with a LoRA adapter.
        config: settings of the new run, by which it is asked later; those of the training are `trained`'s.
        scale: of the adapter's change; 1 leaves it as it is.
        device: where what its canary set does is recorded.

    Raises:
        StorageError: if something else is kept in its folder, or it can't be written.
        ModelError: if the base model can't be loaded.
    """
    run = RunDir(config.run.output)
    dial = {"run": trained.path.name, "scale": scale}
    if run.is_complete() and read_record(run.record, "train").get("dial") == dial:
        return
    _require_nothing_else(run)
    fresh = RunDir(run.path.with_name(f".{run.path.name}.new"))
    shutil.rmtree(fresh.path, ignore_errors=True)
    fresh.path.mkdir()
    write_text(fresh.config, run.config_text(dump_config(config)))
    for file in (trained.started, trained.metrics, trained.anchors):
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
    _write_canary(fresh, trained, config, device)
    write_record(fresh.record, "train", record)
    shutil.rmtree(run.path, ignore_errors=True)
    fresh.path.rename(run.path)


def _write_canary(run: RunDir, trained: RunDir, config: TrainConfig, device: torch.device) -> None:
    """Of the adapter as it is loaded from the folder."""
    _, model = load_run_models(run, config, run.adapter, device=device, offline=config.run.offline)
    write_canary_anew(run, trained, model)
    del model
    release_memory()


def _require_nothing_else(run: RunDir) -> None:
    """Refuse to replace a run that has been evaluated or served: the user may still want what is in there.

    Raises:
        StorageError: if there is more than `write_turned_run` has written, and the page that is made of it.
    """
    if not run.path.is_dir():
        return
    ours = {
        run.config,
        run.started,
        run.metrics,
        run.anchors,
        run.adapter,
        run.record,
        run.canary,
        run.report,
    }
    others = sorted(entry.name for entry in run.path.iterdir() if entry not in ours)
    if others:
        raise StorageError(
            f"another point is the best now, and {run.path} still has the {', '.join(others[:5])} of the earlier one.",
            hint=f"move {run.path.absolute()} elsewhere, and give the same command again: nothing is trained or "
            "asked anew.",
        )
