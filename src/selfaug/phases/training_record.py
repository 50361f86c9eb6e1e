"""The record of a complete run: what was trained, on what, how it ended, and in which environment."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from typing import Any

import torch
import yaml

from selfaug.config import dump_config, load_config
from selfaug.model.memory import peak_memory
from selfaug.phases.resuming import WENT_ON_FROM
from selfaug.phases.run_models import hashes_of_weights
from selfaug.phases.trainer_setup import Training
from selfaug.phases.versions import for_record
from selfaug.records import read_lines
from selfaug.train import SelfAugTrainer

__all__ = ["final_evaluation", "training_record"]


def final_evaluation(trainer: SelfAugTrainer) -> dict[str, float]:
    """Metrics of the final weights: those of the last step's evaluation, if there was one."""
    for logs in reversed(trainer.state.log_history):
        if "eval_nll" in logs and logs["step"] == trainer.state.global_step:
            return dict(logs)
    metrics: dict[str, float] = trainer.evaluate()
    return metrics


def training_record(
    training: Training, trainer: SelfAugTrainer, trainable: int, evaluation: Mapping[str, float]
) -> dict[str, Any]:
    """The data of a run's record.

    Args:
        training: what was trained.
        trainer: that has trained it.
        trainable: how many weights were trained.
        evaluation: metrics of the final weights; empty without.
    """
    run, device, settings = training.run, training.device, dump_config(training.config)
    rows = [row for row in read_lines(run.metrics) if "nll" in row] if run.metrics.exists() else []
    last = rows[-max(1, len(rows) // 4) :]
    return {
        # As it was given: resumed in another folder, the run has found it elsewhere.
        "model": {"name": load_config(run.config).model.name, "trainable": trainable, **training.identity},
        "data": training.data.report,
        WENT_ON_FROM: training.begun.went_on_from,
        "settings": yaml.safe_load(settings),
        "settings_sha256": hashlib.sha256(settings.encode()).hexdigest(),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": trainer.seconds,
        "anchor_seconds": trainer.anchor_seconds,
        "noise_floor": trainer.noise_floor,
        "final": {name: _mean(last, name) for name in ("nll", "alignment_loss", "alpha")},
        "evaluation": {name: value for name, value in evaluation.items() if name.startswith("eval_")},
        "reference": trainer.reference_kind,
        "reference_cache_bytes": trainer.reference_bytes,
        "anchors": len(trainer.anchors),
        "peak_memory_bytes": peak_memory(device),
        "weights": hashes_of_weights(run),
        "environment": {
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"CPU ({platform.machine()})",
            "processes": trainer.accelerator.num_processes,
            "python": platform.python_version(),
            **for_record(training.begun.versions),
        },
    }


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None
