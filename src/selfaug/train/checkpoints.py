"""Checkpoints on the disk: the state that makes one complete, written and read, and old ones deleted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import sort_checkpoints

from selfaug.core.printable import counted
from selfaug.errors import ConfigError, StorageError
from selfaug.rundir import CHECKPOINT_STATE, latest_complete_checkpoint

__all__ = [
    "delete_old_checkpoints",
    "latest_checkpoint",
    "read_checkpoint_state",
    "require_processes",
    "write_checkpoint_state",
]


def write_checkpoint_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint's last file: with it, the checkpoint is complete."""
    partial = folder / f".{CHECKPOINT_STATE}"
    partial.write_text(json.dumps(state), encoding="utf-8")
    os.replace(partial, folder / CHECKPOINT_STATE)


def read_checkpoint_state(folder: Path, settings: Mapping[str, float | None]) -> dict[str, Any]:
    """What `write_checkpoint_state` has written.

    Args:
        folder: the checkpoint.
        settings: given for the training that goes on from it; they must be those under "settings" in its state.

    Raises:
        StorageError: if it is not complete.
        ConfigError: if it was trained with other settings.
    """
    try:
        state: dict[str, Any] = json.loads((folder / CHECKPOINT_STATE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(
            f"checkpoint {folder} does not exist or was not written to its end (no {CHECKPOINT_STATE}).",
            hint="resume_from_checkpoint=True takes the latest complete one.",
        ) from error
    trained = state["settings"]
    if trained != settings:
        raise ConfigError(
            f"checkpoint {folder} was trained with {_listed(trained)}, and {_listed(settings)} is given.",
            hint="resume with the checkpoint's; for others, start a training of its own from its weights.",
        )
    return state


def latest_checkpoint(folder: str) -> str:
    """The latest checkpoint in a folder that was written to its end.

    Raises:
        StorageError: if there is none.
    """
    latest = latest_complete_checkpoint(folder)
    if latest is None:
        raise StorageError(f"no complete checkpoint in {folder}.", hint="start without resuming.")
    return str(latest)


def require_processes(what: str, before: int, now: int) -> None:
    """Refuse to go on with another number of processes: a step would see other rows, and epochs other steps.

    Args:
        what: is gone on with.
        before: processes that have trained it.
        now: processes that are to go on.

    Raises:
        ConfigError: if they are others.
    """
    if before != now:
        raise ConfigError(
            f"{what} was trained by {counted(before, 'process', 'processes')}, and {now} would go on with it: each "
            "step would see other rows, and the end come at another step.",
            hint=f"start {before} again (--nproc-per-node of torchrun, --num_processes of `accelerate launch`); for "
            "another number, begin anew.",
        )


def delete_old_checkpoints(latest: Path, limit: int | None, best: str | None) -> None:
    """As the Trainer does, the oldest, but neither the latest nor the best; first what a kill left incomplete.

    Args:
        latest: the checkpoint that was written last, beside the others.
        limit: how many are kept, or more if these two are; None or 0 for all.
        best: the folder of the best.
    """
    if limit is None or limit <= 0:
        return
    there = sort_checkpoints(str(latest.parent), use_mtime=True)
    there.sort(key=lambda one: (Path(one) / CHECKPOINT_STATE).exists())
    kept = {str(latest), *([] if best is None else [str(Path(best))])}
    surplus = max(0, len(there) - max(limit, len(kept)))
    for checkpoint in [one for one in there if one not in kept][:surplus]:
        # First, so that one of which a kill leaves a part doesn't pass for complete.
        (Path(checkpoint) / CHECKPOINT_STATE).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)


def _listed(values: Mapping[str, float | None]) -> str:
    return " and ".join(f"{name}={value}" for name, value in values.items())
