"""The models of a run: its base model, checked to be the one that it was trained on, and its tuned model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from selfaug.config import TrainConfig
from selfaug.errors import ModelError, StorageError
from selfaug.model.fingerprint import fingerprint
from selfaug.model.loading import load_adapter, load_model
from selfaug.model.stored_weights import stored_tokenizer_hash, stored_weights_hash
from selfaug.phases.inputs import compute_dtype, load_base_model
from selfaug.records import read_record
from selfaug.rundir import RunDir

logger = logging.getLogger(__name__)

__all__ = [
    "TOKENIZER",
    "alike_where_known",
    "base_identity",
    "hash_of_weights",
    "hashed_weights",
    "hashes_of_weights",
    "load_run_models",
    "require_same_base",
    "same_weights",
    "step_of",
    "trained_alike",
    "trained_base",
    "trained_otherwise",
    "trained_weights",
    "weights_folder",
]

TOKENIZER = "tokenizer_and_template"
"""Of settings that have to be the same for kept answers: with another one, prompts are others under the same texts."""


def load_run_models(
    run: RunDir, config: TrainConfig, weights: Path, *, device: torch.device
) -> tuple[PreTrainedModel | None, PreTrainedModel | PeftModel]:
    """Base and tuned model; None for the base if it is the tuned model with its adapter off.

    Args:
        run, config: of the run.
        weights: from `trained_weights`.
        device: where both go.

    What was trained in float16 is loaded in float32 on a CPU, and that is logged.

    Raises:
        ModelError: if one can't be loaded, or the base model is another than the run's.
    """
    base = load_base_model(config, dtype=_dtype_to_answer_in(run, config, device), device=device)
    require_same_base(run, config, base)
    if config.lora.method == "full":
        tuned = load_model(
            weights,
            dtype=base.dtype,
            device=device,
            trust_remote_code=config.model.trust_remote_code,
            offline=True,
        )
        return base, tuned
    return None, load_adapter(base, weights)


def _dtype_to_answer_in(run: RunDir, config: TrainConfig, device: torch.device) -> torch.dtype:
    """That of the training, where the device has it: nothing is trained, so what training needs is not asked for."""
    if config.model.dtype != "float16" or device.type == "cuda":
        return compute_dtype(config, device)
    logger.warning("%s was trained in float16, which is for GPUs: here it is loaded in float32.", run.path)
    return torch.float32


def trained_weights(run: RunDir, config: TrainConfig) -> tuple[Path, int | None]:
    """Folder of the adapter (or of all weights), and the checkpoint's step if the run is not complete.

    Raises:
        StorageError: if there is neither.
    """
    folder = weights_folder(run, config)
    if run.is_complete() and folder.is_dir():
        return folder, None
    checkpoint = run.latest_complete_checkpoint()
    if checkpoint is None:
        raise StorageError(
            f"{run.path} has no trained weights yet: it did not finish and has no complete checkpoint.",
            hint=f"go on with it: {run.resume_command}",
        )
    return checkpoint, step_of(checkpoint)


def weights_folder(run: RunDir, config: TrainConfig) -> Path:
    """Where a run keeps what was trained: the adapter, or all weights."""
    return run.model if config.lora.method == "full" else run.adapter


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def hash_of_weights(weights: Path) -> str:
    """SHA-256 of trained weights: what was measured with other weights must not be taken for theirs."""
    digest = hashlib.sha256()
    for file in _weight_files(weights):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def hashes_of_weights(run: RunDir) -> list[dict[str, str]]:
    """For a run's record: its files of trained weights, and the SHA-256 of each."""
    return [
        {**one, "file": f"{folder.name}/{one['file']}"}
        for folder in (run.adapter, run.model)
        for one in hashed_weights(folder)
    ]


def hashed_weights(folder: Path) -> list[dict[str, str]]:
    """The files of weights in a folder, and the SHA-256 of each."""
    found = []
    for file in _weight_files(folder):
        with file.open("rb") as stream:
            found.append({"file": file.name, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()})
    return found


def _weight_files(folder: Path) -> list[Path]:
    """Files of weights, without what a Mac puts beside each of them into an archive: `._adapter_model.safetensors`."""
    return sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("."))


def base_identity(model: PreTrainedModel, name: str) -> dict[str, Any]:
    """What a run's records say of its base model, to know it again.

    Args:
        model: the base model, without an adapter.
        name: that it was loaded by.
    """
    described = fingerprint(model)
    return {
        "parameters": model.num_parameters(),  # of 4-bit weights too, which are packed
        "weights_hash": described["weights"],
        "stored_weights_hash": stored_weights_hash(name),
        "stored_tokenizer_hash": stored_tokenizer_hash(name),
        "class": described["class"],
        "dtype": described["compute_dtype"],
    }


def trained_base(run: RunDir) -> dict[str, Any]:
    """What identifies the base model that a run was trained on, as `base_identity` has it."""
    record, kind = (run.record, "train") if run.is_complete() else (run.started, "train-started")
    identity: dict[str, Any] = read_record(record, kind)["model"]
    return identity


def trained_alike(one: RunDir, other: RunDir) -> bool:
    """Whether two runs were trained on base models with the same weights, as far as their records tell."""
    return same_weights(trained_base(one), trained_base(other))


def same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two base models have the same weights, by what `base_identity` says of them.

    As they are stored, whatever they were loaded as. Those without safetensors don't have that hash.
    """
    stored = {one.get("stored_weights_hash"), other.get("stored_weights_hash")}
    return len(stored) == 1 if None not in stored else bool(one["weights_hash"] == other["weights_hash"])


def trained_otherwise(
    one: tuple[Mapping[str, Any], TrainConfig], other: tuple[Mapping[str, Any], TrainConfig]
) -> bool:
    """Whether records show that two runs' base models have other weights; where they can't, that is not known.

    Args:
        one, other: `trained_base` of a run, and its settings. Number formats may differ.
    """
    bases = [base for base, _ in (one, other)]
    if not alike_where_known(*(base.get("stored_weights_hash") for base in bases)):
        return True
    if None not in {base.get("stored_weights_hash") for base in bases}:
        return False
    # As they were loaded: in another number format, or quantised on another device, the same weights are others.
    is_comparable = bases[0]["dtype"] == bases[1]["dtype"] and all(
        config.model.quantization == "none" for _, config in (one, other)
    )
    return is_comparable and bases[0]["weights_hash"] != bases[1]["weights_hash"]


def alike_where_known(one: str | None, other: str | None) -> bool:
    """Whether two hashes are the same; what is not on this machine has none."""
    return one is None or other is None or one == other


def require_same_base(run: RunDir, config: TrainConfig, base: PreTrainedModel) -> None:
    """Refuse a base model with other weights than the run was trained on: the answers would be wrong without a word.

    Args:
        run, config: of the run.
        base: the model that its name stands for now, without an adapter.

    Raises:
        ModelError: if it is another one.
    """
    trained = trained_base(run)
    stored = trained.get("stored_weights_hash")
    if stored is not None and stored == stored_weights_hash(config.model.name):
        return
    if config.model.quantization == "none":
        # They may be stored otherwise than at training: then all weights are compared, as they were loaded for it.
        if str(base.dtype) != trained["dtype"]:
            base = load_model(
                config.model.name,
                dtype=trained["dtype"].removeprefix("torch."),
                device="cpu",
                trust_remote_code=config.model.trust_remote_code,
                offline=config.run.offline,
            )
        same = fingerprint(base)["weights"] == trained["weights_hash"]
    else:
        same = stored is None  # quantised weights are others on another device: there is nothing to compare
    if not same:
        raise ModelError(
            f"{config.model.name} has other weights than the base model that {run.path} was trained on.",
            hint=f"put those weights back, or say in {run.config}, at model.name, where they are now; or train anew.",
        )
